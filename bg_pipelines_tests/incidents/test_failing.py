"""A failed row of any queue is retried or parked, and what is parked is shown, started again and released the same way."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import AlertDelivery, Claimed, CustomerChange, InventoryCorrection
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.failing import Failed, fail
from bg_pipelines.incidents.fingerprints import StoreUnit
from bg_pipelines.incidents.handling import resolve, retry
from bg_pipelines.incidents.reading import list_incidents, show
from bg_pipelines.incidents.reporting import Fault, clear_recovered
from bg_pipelines.retries import Policies
from bg_pipelines.work.queue import Queue
from bg_pipelines_tests.support import query

REFUSED = IntegrationError.of(ErrorType.BAD_DATA, "the platform refuses it (400)", source="shopify")
CUT = IntegrationError.of(ErrorType.CONNECTION, "the connection was cut", source="shopify")


class Row(NamedTuple):
    id: int
    store_id: int
    owner: str
    attempts: int


class Delivery(NamedTuple):
    alert_id: int
    target: str
    owner: str
    attempts: int


CORRECTIONS, EDITS = Queue(InventoryCorrection, Row), Queue(CustomerChange, Row)
DELIVERIES = Queue(AlertDelivery, Delivery)


class Work:
    """A store with a stock correction, an edit and an alert on its way, each claimed by a run that fails at it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        query(
            database,
            "INSERT INTO stores (name, platform, domain, credentials) VALUES ('harbor', 'shopify', 'harbor.example', '')",
        )
        [row] = query(database, "SELECT id FROM stores")
        self.store: int = row["id"]
        query(
            database,
            "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
            "change_from_quantity, quantity) VALUES (%s, 'i', 'l', 1, 2)",
            self.store,
        )
        query(
            database,
            "INSERT INTO customer_changes (store_id, customer_external_id, field, changed_by) "
            "VALUES (%s, 'c', 'note', 'jane')",
            self.store,
        )

    def fail(
        self, queue: Queue[Any], error: IntegrationError = REFUSED, attempts: int = 1, **options: Any
    ) -> Failed:
        with self.database.transaction() as connection:
            [claim] = queue.claim(connection, owner="a run", limit=1, lease=timedelta(minutes=1))
            fault = Fault(
                StoreUnit(self.store, queue.table, error.error_type),
                "store harbor",
                error,
                needs_attention=True,
                platform="shopify",
                store_id=self.store,
            )
            return fail(
                connection, queue, claim, fault, attempts=attempts, rng=random.Random(1), job="j", **options
            )

    def row(self, queue: Queue[Any]) -> dict[str, Any]:
        [row] = query(self.database, f"SELECT *, next_due_at <= clock_timestamp() AS due FROM {queue.table}")
        return row


@pytest.fixture
def work(database: Database) -> Work:
    return Work(database)


def test_what_may_pass_is_due_again_later_and_is_no_incident(database: Database, work: Work) -> None:
    failed = work.fail(CORRECTIONS, CUT)
    assert failed.incident_id is None
    assert str(failed).startswith("retrying at ")
    row = work.row(CORRECTIONS)
    assert (row["next_due_at"], row["attempts"], row["lease_owner"]) == (failed.decision.retry_at, 1, None)
    assert row["last_error"] == CUT.as_dict()
    assert list_incidents(database) == []


def test_what_does_not_mend_itself_is_parked_under_an_incident(database: Database, work: Work) -> None:
    failed = work.fail(CORRECTIONS)
    [incident] = list_incidents(database)
    assert (failed.incident_id, incident.parked, incident.store) == (incident.id, 1, "harbor")
    assert str(failed).startswith(f"requires attention: incident {incident.id} ")
    row = work.row(CORRECTIONS)
    assert (row["next_due_at"], row["incident_id"], row["status"]) == (None, incident.id, "pending")


def test_tries_are_used_up_by_the_policy_of_the_job(work: Work) -> None:
    policies = Policies({"j.connection": {"max_attempts": 2}}, jobs=("j",))
    assert work.fail(CORRECTIONS, CUT, attempts=1, policies=policies).incident_id is None
    query(work.database, "UPDATE inventory_corrections SET next_due_at = now()")
    assert work.fail(CORRECTIONS, CUT, attempts=2, policies=policies).incident_id is not None


def test_what_else_belongs_to_a_failure_is_written_with_it(work: Work) -> None:
    work.fail(CORRECTIONS, assignments="error = %(told)s", parameters={"told": None})
    assert work.row(CORRECTIONS)["error"] is None
    assert work.row(CORRECTIONS)["incident_id"] is not None


@pytest.mark.parametrize(
    ("queue", "label"),
    [(CORRECTIONS, "stock correction {id}"), (EDITS, "edit {id} of note")],
    ids=lambda value: value.table if isinstance(value, Queue) else "",
)
def test_parked_work_is_shown_by_its_name_started_by_retry_and_released_by_resolve(
    database: Database, work: Work, queue: Queue[Any], label: str
) -> None:
    incident = work.fail(queue).incident_id
    assert incident is not None
    [held] = show(database, incident).held
    assert (held.queue, held.store, held.label) == (
        queue.table,
        "harbor",
        label.format(id=work.row(queue)["id"]),
    )
    assert (held.next_due_at, held.error) == (None, REFUSED.as_dict())
    assert retry(database, [incident], by="jane") == (1, 1, [])
    row = work.row(queue)
    assert (row["due"], row["attempts"], row["incident_id"]) == (True, 0, incident)
    assert [one.parked for one in list_incidents(database)] == [0]
    work.fail(queue)
    assert resolve(database, [incident], by="jane", note="gone") == (1, 1, [])
    row = work.row(queue)
    assert (row["due"], row["attempts"], row["incident_id"]) == (True, 0, None)
    assert list_incidents(database) == []


def test_an_alert_that_is_parked_is_shown_and_started_like_any_other_work(
    database: Database, work: Work
) -> None:
    incident = work.fail(CORRECTIONS).incident_id
    query(
        database,
        "INSERT INTO alerts (incident_id, kind, severity, title, body) VALUES (%s, 'opened', 'low', 'x', 'x')",
        incident,
    )
    query(database, "INSERT INTO alert_deliveries (alert_id, target) SELECT id, 'sms:3fa9c1d2' FROM alerts")
    work.fail(DELIVERIES)
    other = next(one for one in list_incidents(database) if one.id != incident)
    [held] = show(database, other.id).held
    assert (held.store, held.label) == (
        None,
        f"alert {work.row(DELIVERIES)['alert_id']} to sms:3fa9c1d2",
    )
    assert retry(database, [other.id], by="jane") == (1, 1, [])
    assert work.row(DELIVERIES)["due"]


def test_an_incident_stays_open_while_another_of_its_rows_waits_and_ends_with_the_last(
    database: Database, work: Work
) -> None:
    query(
        database,
        "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
        "change_from_quantity, quantity) VALUES (%s, 'i2', 'l', 1, 2)",
        work.store,
    )
    incidents = {work.fail(CORRECTIONS).incident_id, work.fail(CORRECTIONS).incident_id}
    assert len(incidents) == 1
    retry(database, [incident for incident in incidents if incident], by="jane")
    for left in (1, 0):
        with database.transaction() as connection:
            [claim] = CORRECTIONS.claim(connection, owner="a run", limit=1, lease=timedelta(minutes=1))
            CORRECTIONS.complete(connection, claim, "status = 'applied'")
        with database.transaction() as connection:
            clear_recovered(connection, work.store, [CORRECTIONS.table])
        assert len(list_incidents(database)) == left


def test_a_row_that_somebody_else_has_claimed_is_neither_parked_nor_reported(
    database: Database, work: Work
) -> None:
    with database.transaction() as connection:
        [claim] = CORRECTIONS.claim(connection, owner="first", limit=1, lease=timedelta(minutes=1))
    query(database, "UPDATE inventory_corrections SET lease_owner = 'second'")
    fault = Fault(StoreUnit(work.store, CORRECTIONS.table, ErrorType.BAD_DATA), "store harbor", REFUSED, True)

    def settle() -> None:
        with database.transaction() as connection:
            fail(connection, CORRECTIONS, claim, fault, attempts=1, rng=random.Random(1))

    assert lost(settle)
    assert list_incidents(database) == []


def lost(act: Callable[[], object]) -> bool:
    with pytest.raises(IntegrationError) as raised:
        act()
    return raised.value.error_type is ErrorType.LEASE_LOST


def test_every_queue_has_a_name_for_its_rows() -> None:
    assert all(model.label for model in Claimed.__subclasses__())
