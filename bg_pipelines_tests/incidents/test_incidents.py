"""Incidents as a person deals with them: what failed is parked, counted, shown, started again, and nothing is lost."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import fingerprints
from bg_pipelines.incidents import reporting as faults
from bg_pipelines.incidents.handling import assign, resolve, retry
from bg_pipelines.incidents.reading import IncidentRow, list_incidents, show
from bg_pipelines.incidents.runbooks import RUNBOOKS, runbook
from bg_pipelines.operations.stores import save_stores, set_paused
from bg_pipelines.queues import Unit
from bg_pipelines.retries import POLICIES, Strategy
from bg_pipelines.sandbox import Fault, Sandbox, Shop
from bg_pipelines.sync import Summary
from bg_pipelines.sync.state import CursorState, PassState
from bg_pipelines.work import circuits, store_units
from bg_pipelines_tests.support import CATALOGUE, PROJECT, as_store, claim_due

Sync = Callable[..., Summary]


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> list[Shop]:
    sandbox = make_sandbox(shops=3, variants=30)
    add_shops(sandbox)
    return list(sandbox.world.shops.values())


def name_of(shop: Shop) -> str:
    return shop.domain.split(".")[0]


def query(database: Database, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    with database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def rows_of(database: Database, shop: Shop) -> dict[str, dict[str, Any]]:
    rows = query(
        database,
        "SELECT y.*, y.next_due_at <= clock_timestamp() AS due FROM sync_states y JOIN stores ON stores.id = store_id "
        "WHERE domain = %s",
        shop.domain,
    )
    return {row["resource"]: row for row in rows if row["resource"] in CATALOGUE}


def only(database: Database, **filters: Any) -> IncidentRow:
    [incident] = list_incidents(database, **filters)
    return incident


def open_incident(
    database: Database, fingerprint: str, error_type: ErrorType = ErrorType.UNKNOWN, **values: Any
) -> int:
    error = IntegrationError.of(error_type, values.pop("message", "it failed"), source="test")
    fault = faults.Fault(
        fingerprints.parse(fingerprint),
        **{"subject": "somebody", "error": error, "needs_attention": True, **values},
    )
    with database.transaction() as connection:
        return faults.report_fault(connection, fault)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(IntegrationError) as raised:
        act()
    assert (raised.value.error_type, raised.value.source) == ("bad_data", "incidents")
    return raised.value.message


def open_circuit(database: Database, shop: Shop, *, failed: bool = True) -> int:
    """Open the store's circuit as failed visits do, with its profile waiting for the next try; returns its incident."""
    [store] = query(database, "SELECT id FROM stores WHERE domain = %s", shop.domain)
    with database.transaction() as connection:
        for visit in range(circuits.STORE_FAILURES):
            circuits.note_failure(
                connection, store["id"], "shopify", ErrorType.THROTTLED, owner=f"visit {visit}"
            )
        if failed:
            connection.execute(
                "UPDATE sync_states SET next_due_at = clock_timestamp() + interval '30 minutes', attempts = 5, "
                "retry_strategy = 'exponential_backoff', last_error = '{\"error_type\": \"throttled\"}' "
                "WHERE store_id = %s",
                (store["id"],),
            )
    return open_incident(
        database,
        f"circuit:store:{store['id']}",
        ErrorType.THROTTLED,
        subject=f"store {name_of(shop)}",
        needs_attention=False,
        store_id=store["id"],
        platform="shopify",
    )


# What is parked, and how it starts again


def test_a_revoked_token_parks_all_of_its_store_under_one_incident(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    incident = only(database)
    assert (incident.error_type, incident.severity, incident.needs_attention) == ("credentials", "high", True)
    assert (incident.store, incident.parked, incident.occurrences) == (name_of(shops[0]), len(CATALOGUE), 1)
    assert incident.resources == sorted(CATALOGUE)
    held = show(database, incident.id).held
    assert [row.label for row in held] == sorted(CATALOGUE)
    assert {(row.next_due_at, row.retry_strategy, row.attempts) for row in held} == {
        (None, "manual_intervention", 1)
    }
    assert all("is not retried automatically" in (row.retry_reason or "") for row in held)


def test_parked_work_is_left_alone_until_it_is_retried(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    shops[0].requests.clear()
    sync()
    assert not shops[0].requests


def test_the_same_fault_again_is_counted_and_opens_no_second_incident(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync(run_id="first")
    number = only(database).id
    assert retry(database, [number], by="jane") == (1, 5, [])
    sync(run_id="second")
    again = only(database, status=None)
    assert (again.id, again.occurrences, again.parked) == (number, 2, 5)


def test_after_the_token_is_right_a_retry_makes_the_store_current_and_closes_the_incident(
    database: Database, shops: list[Shop], sync: Sync, make_sandbox: Callable[..., Sandbox]
) -> None:
    token = shops[0].token
    shops[0].access.expire_all()
    sync()
    shops[0].access.set_token(token)
    number = only(database).id
    assert retry(database, [number], by="jane") == (1, 5, [])
    waiting = rows_of(database, shops[0]).values()
    assert {(row["due"], row["attempts"], row["incident_id"]) for row in waiting} == {(True, 0, number)}
    assert {row["retry_reason"] for row in waiting} == {"retried by jane"}
    assert only(database).parked == 0
    assert sync().failures == []
    done = only(database, status="resolved")
    assert (done.id, done.resolved_by, done.parked) == (number, "bg-pipelines", 0)
    assert {row["incident_id"] for row in rows_of(database, shops[0]).values()} == {None}
    assert list_incidents(database) == []


def test_a_new_token_alone_starts_what_was_parked(
    database: Database, cipher: Cipher, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    shops[0].access.set_token("sandbox-token-new")
    save_stores(database, cipher, [as_store(shops[0])])
    assert sync().failures == []
    assert only(database, status=None).status == "resolved"


def test_resolving_without_mending_opens_the_incident_again_at_the_next_sync(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync(run_id="first")
    number = only(database).id
    assert resolve(database, [number], by="jane", note="token renewed, I think") == (1, 5, [])
    closed = only(database, status="resolved")
    assert (closed.resolved_by, closed.resolution, closed.parked) == ("jane", "token renewed, I think", 0)
    waiting = rows_of(database, shops[0]).values()
    assert {(row["due"], row["attempts"], row["incident_id"]) for row in waiting} == {(True, 0, None)}
    sync(run_id="second")
    again = only(database)
    assert (again.error_type, again.parked, again.resolved_by) == ("credentials", 5, None)


def test_a_fault_that_comes_back_long_after_it_was_resolved_is_another_incident(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync(run_id="first")
    number = only(database).id
    resolve(database, [number], by="jane", note="over")
    query(database, "UPDATE incidents SET resolved_at = clock_timestamp() - interval '1 hour'")
    sync(run_id="second")
    assert [(row.id == number, row.status) for row in list_incidents(database, status=None)] == [
        (False, "open"),
        (True, "resolved"),
    ]


def test_what_a_run_has_in_hand_is_left_to_it(database: Database, shops: list[Shop], sync: Sync) -> None:
    shops[0].access.expire_all()
    sync()
    number = only(database).id
    retry(database, [number], by="jane")
    with database.transaction() as connection:
        claim_due(connection, [Unit.PRODUCTS], owner="a run", limit=1, lease=timedelta(minutes=2))
    before = rows_of(database, shops[0])["products"]
    assert retry(database, [number], by="joe") == (1, 4, [f"{number}: a run has claimed it"])
    assert rows_of(database, shops[0])["products"] == before
    assert resolve(database, [number], by="joe", note="x") == (1, 4, [])
    held = rows_of(database, shops[0])["products"]
    assert (held["lease_owner"], held["incident_id"]) == ("a run", None)


def test_a_lease_that_has_ended_is_nobody_s(database: Database, shops: list[Shop], sync: Sync) -> None:
    shops[0].access.expire_all()
    sync()
    query(
        database,
        "UPDATE sync_states SET lease_owner = 'killed', lease_expires_at = clock_timestamp() - interval '1 second'",
    )
    assert retry(database, [only(database).id], by="jane") == (1, 5, [])


def test_of_a_paused_store_it_is_said_that_it_waits(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    set_paused(database, [name_of(shops[0])], True)
    note = f"store {name_of(shops[0])} is paused: its work waits for `bg-pipelines stores resume {name_of(shops[0])}`"
    number = only(database).id
    assert retry(database, [number], by="jane") == (1, 5, [note])
    assert resolve(database, [number], by="jane", note="x") == (1, 5, [note])


# In bulk


def test_many_are_retried_and_resolved_at_once(database: Database, shops: list[Shop], sync: Sync) -> None:
    for shop in shops[:2]:
        shop.access.expire_all()
    shops[2].access.scopes.remove("read_locations")
    both = (Unit.STORE, Unit.LOCATIONS)
    sync(run_id="first", units=both)
    numbers = [row.id for row in list_incidents(database)]
    assert len(numbers) == 3
    assert retry(database, numbers, by="jane") == (3, 5, [])
    sync(run_id="second", units=both)
    assert [row.occurrences for row in list_incidents(database)] == [2, 2, 2]
    assert resolve(database, numbers[:2], by="jane", note="stores are closed").incidents == 2
    assert [row.id for row in list_incidents(database)] == numbers[2:]


def test_two_people_who_retry_and_resolve_at_once_get_in_no_one_s_way(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    for shop in shops:
        shop.access.expire_all()
    sync()
    numbers = [row.id for row in list_incidents(database)]
    together = threading.Barrier(6)
    outcomes: list[Any] = []

    def act(person: int) -> None:
        together.wait()
        outcomes.append(
            retry(database, numbers[:: (-1) ** person], by=str(person))
            if person < 5
            else assign(database, numbers, "jane")
        )

    people = [threading.Thread(target=act, args=(person,)) for person in range(6)]
    for person in people:
        person.start()
    for person in people:
        person.join(30)
    assert sorted(outcomes, key=str) == [3, *[(3, 15, [])] * 5]
    assert {row.owner for row in list_incidents(database)} == {"jane"}
    assert all(row["due"] for shop in shops for row in rows_of(database, shop).values())


def test_retries_and_syncs_at_once_lose_no_work(database: Database, shops: list[Shop], sync: Sync) -> None:
    for shop in shops:
        shop.access.expire_all()
    sync(run_id="first")
    stop = threading.Event()
    faults_met: list[BaseException] = []

    def keep_retrying() -> None:
        while not stop.is_set():
            numbers = [row.id for row in list_incidents(database)]
            try:
                retry(database, numbers, by="jane")
                resolve(database, numbers, by="jane", note="x")
            except IntegrationError as error:
                if "nothing to" not in error.message:
                    faults_met.append(error)

    person = threading.Thread(target=keep_retrying)
    person.start()
    for number in range(6):
        sync(run_id=f"run {number}", load_rows=5)
    stop.set()
    person.join(30)
    assert faults_met == []
    # Each row is due, or waits under an incident that is open.
    assert (
        query(
            database,
            "SELECT y.* FROM sync_states y LEFT JOIN incidents i ON i.id = incident_id "
            "WHERE next_due_at IS NULL AND i.status IS DISTINCT FROM 'open'",
        )
        == []
    )
    for shop in shops:
        shop.access.set_token(shop.token)
    if numbers := [row.id for row in list_incidents(database)]:
        retry(database, numbers, by="jane")
    assert sync(run_id="last").failures == []
    assert list_incidents(database) == []


def test_what_somebody_resolved_meanwhile_is_told_and_the_rest_is_done(database: Database) -> None:
    first, second = open_incident(database, "job:a:unknown"), open_incident(database, "job:b:unknown")
    resolve(database, [first], by="joe", note="x")
    done = resolve(database, [first, second], by="jane", note="y")
    assert done.incidents == 1
    assert re.fullmatch(
        rf"{first}: resolved already, by joe at \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", done.notes[0]
    )
    assert refused(lambda: retry(database, [first, second], by="jane")).startswith(
        "there is nothing to retry\n"
    )


def test_unknown_numbers_are_named_and_nothing_is_changed(database: Database) -> None:
    number = open_incident(database, "job:a:unknown")
    for act in (
        lambda: retry(database, [number, 98, 99], by="jane"),
        lambda: resolve(database, [number, 98, 99], by="jane", note="x"),
        lambda: assign(database, [number, 98, 99], "jane"),
    ):
        assert refused(act).startswith("no such incident: 98, 99; nothing was changed")
    assert refused(lambda: show(database, 10**30)).startswith(f"no such incident: {10**30}")
    assert only(database).owner is None


def test_nothing_is_closed_without_a_reason(database: Database) -> None:
    number = open_incident(database, "job:a:unknown")
    assert "note" in refused(lambda: resolve(database, [number], by="jane", note=" "))
    assert only(database).id == number


def test_incidents_are_assigned_and_given_back(database: Database) -> None:
    numbers = [open_incident(database, f"job:{name}:unknown") for name in "ab"]
    assert assign(database, numbers, " jane ") == 2
    assert [row.id for row in list_incidents(database, owner="jane")] == numbers
    assert assign(database, numbers[:1], "") == 1
    assert [row.id for row in list_incidents(database, owner="jane")] == numbers[1:]


# Rows that could not be loaded


@pytest.fixture
def rejected(database: Database, shops: list[Shop], sync: Sync) -> tuple[Shop, str]:
    """A shop of which one product cannot be loaded, and the product's id."""
    shop = shops[0]
    product = shop.export()["products"][0]["id"]
    shop.faults.append(Fault("null_field", field="title", id=product))
    assert sync().failures == []
    return shop, product


def test_rows_that_could_not_be_loaded_are_shown_by_id_and_reason_without_their_content(
    database: Database, rejected: tuple[Shop, str]
) -> None:
    shop, product = rejected
    incident = only(database, error_type="bad_data")
    details = show(database, incident.id)
    assert [(row.resource, row.external_id) for row in details.rejects] == [("products", product)]
    assert details.rejects_total == 1
    assert "title" in details.rejects[0].reason
    [store] = query(database, "SELECT id FROM stores WHERE domain = %s", shop.domain)
    assert details.payload == f"rejected_rows of store {store['id']}, products"
    handle = shop.export()["products"][0]["handle"]
    assert handle not in json.dumps(details.as_dict())


def test_rows_mended_at_the_source_load_at_the_full_pass_that_a_retry_asks_for(
    database: Database, rejected: tuple[Shop, str], sync: Sync
) -> None:
    shop, _ = rejected
    number = only(database).id
    shop.faults.clear()
    sync(run_id="nothing new")
    assert only(database).id == number
    assert retry(database, [number], by="jane") == (1, 1, [])
    row = rows_of(database, shop)["products"]
    assert (row["due"], row["last_full_at"]) == (True, None)
    assert sync(run_id="all of it").failures == []
    assert only(database, status=None).resolution == "every row loads again, or was deleted at the source"
    assert query(database, "SELECT count(*) FROM rejected_rows") == [{"count": 0}]


@pytest.mark.parametrize("full", [True, False])
def test_a_retry_of_rejected_rows_begins_an_unfinished_pass_again(
    database: Database, rejected: tuple[Shop, str], sync: Sync, full: bool
) -> None:
    """It may be past these rows already. Its page would be refused, were it asked for."""
    number = only(database).id
    since = datetime(2020, 1, 1, tzinfo=UTC)
    half = PassState(
        full=full, began_at=since, vendor_began_at=since, resume="a page that is no more", read=9
    )
    unfinished = CursorState(since=since, current=half).dump()
    query(
        database,
        "UPDATE sync_states SET cursor = %s WHERE resource = 'products'",
        Jsonb(unfinished),
    )
    assert retry(database, [number], by="jane") == (1, 1, [])
    assert sync(units=(Unit.PRODUCTS,), run_id="again").failures == []
    passes = "SELECT full_pass FROM sync_attempts WHERE run_id = 'again'"
    assert query(database, passes) == [{"full_pass": True}]


def test_a_retry_of_rejected_rows_starts_nothing_that_waits_for_a_person(
    database: Database, rejected: tuple[Shop, str]
) -> None:
    shop, _ = rejected
    query(database, "UPDATE sync_states SET next_due_at = NULL")
    retry(database, [only(database).id], by="jane")
    assert rows_of(database, shop)["products"]["next_due_at"] is None


def test_resolving_says_how_many_rows_are_still_missing(
    database: Database, rejected: tuple[Shop, str]
) -> None:
    number = only(database).id
    [note] = resolve(database, [number], by="jane", note="x").notes
    assert note.startswith(f"{number}: 1 row still not loaded: it opens again at the next pass")


# Circuits and jobs


def test_a_retry_of_an_open_circuit_probes_at_once_and_closes_it(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    sync()
    number = open_circuit(database, shops[0])
    details = show(database, number)
    assert [circuit.key for circuit in details.circuits] == [f"circuit:{details.circuits[0].key}"[8:]]
    assert details.circuits[0].probe_at is not None
    shops[0].requests.clear()
    sync()
    assert not shops[0].requests
    assert retry(database, [number], by="jane") == (1, len(Unit), [])
    assert sync().failures == []
    assert shops[0].requests
    assert only(database, status=None).status == "resolved"
    assert show(database, number).circuits == []


def test_a_probe_that_is_under_way_is_not_doubled(database: Database, shops: list[Shop], sync: Sync) -> None:
    sync()
    number = open_circuit(database, shops[0])
    retry(database, [number], by="jane")
    with database.transaction() as connection:
        [work] = store_units.claim_probe(
            connection, [Unit.STORE], owner="a run/probe", lease=timedelta(minutes=2)
        )
    before = query(database, "SELECT * FROM circuits")
    assert retry(database, [number], by="joe") == (1, 0, [f"{number}: a probe is under way"])
    assert query(database, "SELECT * FROM circuits") == before
    query(
        database,
        "UPDATE sync_states SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE lease_owner = %s",
        work.owner,
    )
    assert retry(database, [number], by="joe").notes == []


def test_resolving_the_incident_of_a_circuit_closes_it_so_that_calls_go_at_once(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    sync()
    number = open_circuit(database, shops[0])
    shops[0].requests.clear()
    assert resolve(database, [number], by="jane", note="their status page says so") == (1, len(Unit), [])
    assert query(
        database, "SELECT failures, opened_at, probe_at FROM circuits WHERE store_id IS NOT NULL"
    ) == [{"failures": 0, "opened_at": None, "probe_at": None}]
    sync()
    assert shops[0].requests


def test_a_platform_that_is_down_is_one_incident_whose_retry_brings_all_its_stores_back(
    database: Database, shops: list[Shop], sync: Sync, make_sandbox: Callable[..., Sandbox]
) -> None:
    for shop in shops:
        shop.faults.append(Fault("cut"))
    sync(units=(Unit.STORE,))
    incident = only(database)
    assert (incident.subject, incident.needs_attention, incident.store) == ("platform shopify", False, None)
    details = show(database, incident.id)
    assert [circuit.key for circuit in details.circuits] == ["platform:shopify"]
    assert {attempt.status for attempt in details.attempts} == {"failed"}
    assert len({attempt.store for attempt in details.attempts}) == 3
    for shop in shops:
        shop.faults.clear()
    done = retry(database, [incident.id], by="jane")
    assert (done.incidents, done.notes) == (1, [])
    assert sync().failures == []
    assert only(database, status=None).status == "resolved"


def test_what_an_open_circuit_holds_up_is_told_when_something_else_of_its_store_is_retried(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    parked = only(database).id
    [store] = query(database, "SELECT id FROM stores WHERE domain = %s", shops[0].domain)
    circuit = open_circuit(database, shops[0], failed=False)
    note = f"{name_of(shops[0])}: waits until the next probe of store:{store['id']} succeeds (incident {circuit})"
    assert retry(database, [parked], by="jane").notes == [note]
    assert retry(database, [parked, circuit], by="jane").notes == []


def test_a_job_that_fails_has_nothing_to_start_and_says_how_it_runs(database: Database) -> None:
    number = open_incident(database, "job:store_sync:database", ErrorType.DATABASE, job="store_sync")
    query(
        database,
        "INSERT INTO job_runs (run_id, job, queue) VALUES ('r1', 'store_sync', 'q') ON CONFLICT DO NOTHING",
    )
    done = retry(database, [number], by="jane")
    assert (done.incidents, done.rows) == (0, 0)
    assert "dagster job execute -m bg_pipelines.definitions -j store_sync" in done.notes[0]
    assert "r1" in [run.run_id for run in show(database, number).runs]
    assert show(database, number).attempts == []


def test_whose_runs_a_fault_keeps_from_working_is_shown(database: Database) -> None:
    error = IntegrationError.of(ErrorType.UNKNOWN, "run 1 of store_sync died: SIGKILL")
    with database.transaction() as connection:
        for tier in ("3", "2", "3"):
            number = faults.report_fault(connection, faults.run_fault("store_sync", tier, error))
    assert show(database, number).affected_runs == ["store_sync/2", "store_sync/3"]
    with database.transaction() as connection:
        assert faults.clear_job(connection, "store_sync", "2") == 0
    assert show(database, number).affected_runs == ["store_sync/3"]


def test_an_incident_that_parks_nothing_any_more_says_so(database: Database, shops: list[Shop]) -> None:
    [store, *_] = query(database, "SELECT id FROM stores")
    number = open_incident(database, f"store:{store['id']}:products:scopes", store_id=store["id"])
    done = retry(database, [number], by="jane")
    assert (done.incidents, done.rows) == (0, 0)
    assert "nothing waits under it" in done.notes[0]


# Looking


def test_the_most_severe_and_oldest_come_first_and_what_is_over_comes_last(database: Database) -> None:
    kinds = [
        ErrorType.THROTTLED,
        ErrorType.CREDENTIALS,
        ErrorType.DATABASE,
        ErrorType.SCOPES,
        ErrorType.UNKNOWN,
    ]
    numbers = [open_incident(database, f"job:{kind}:x", kind) for kind in kinds]
    over = [open_incident(database, f"job:{n}:over") for n in range(2)]
    for number in over:
        resolve(database, [number], by="jane", note="x")
    low, first_high, critical, second_high, medium = numbers
    in_order = [critical, first_high, second_high, medium, low]
    assert [row.id for row in list_incidents(database)] == in_order
    assert [row.id for row in list_incidents(database, status=None)] == in_order + over[::-1]
    assert [row.id for row in list_incidents(database, status="resolved")] == over[::-1]
    assert [row.id for row in list_incidents(database, error_type="scopes")] == [second_high]


def test_incidents_are_found_by_store_and_by_whether_they_need_a_person(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    circuit = open_circuit(database, shops[1])
    assert only(database, store=name_of(shops[0])).error_type == "credentials"
    assert only(database, needs_attention=False).id == circuit
    assert list_incidents(database, store=name_of(shops[2])) == []


def test_a_store_or_type_that_there_is_not_is_answered_with_the_nearest(
    database: Database, shops: list[Shop]
) -> None:
    name = name_of(shops[0])
    assert refused(lambda: list_incidents(database, store=name[:-1])).endswith(f"did you mean {name!r}?")
    assert refused(lambda: list_incidents(database, error_type="credential")).endswith(
        "did you mean 'credentials'?"
    )
    assert "there are: timeout, " in refused(lambda: list_incidents(database, error_type="zzzzzz"))


def test_an_incident_shows_its_attempts_error_alerts_and_what_to_do(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    shops[0].access.expire_all()
    sync()
    number = only(database).id
    query(
        database,
        "INSERT INTO alerts (incident_id, kind, severity, title, body) VALUES (%s, 'opened', 'high', 'title', 'body')",
        number,
    )
    query(
        database,
        "INSERT INTO alert_deliveries (alert_id, target, status, last_error) SELECT id, 'slack:1a2b', 'refused', '{\"message\": \"no_channel\"}'::jsonb "
        "FROM alerts",
    )
    details = show(database, number)
    assert (details.source, details.details["status"]) == ("shopify", 401)
    assert {attempt.error_type for attempt in details.attempts} == {"credentials"}
    assert len(details.attempts) == 5
    [alert] = details.alerts
    assert (alert.kind, alert.target, alert.status, alert.error) == (
        "opened",
        "slack:1a2b",
        "refused",
        "no_channel",
    )
    assert f"stores set {name_of(shops[0])} --token -" in details.runbook
    assert re.fullmatch(r"sync_attempts \d+", details.payload or "")


def test_json_is_complete_and_holds_no_token(
    database: Database, rejected: tuple[Shop, str], shops: list[Shop], sync: Sync
) -> None:
    shops[1].access.expire_all()
    for _ in range(2):  # a refusal is believed at the second time
        query(
            database, "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE next_due_at IS NOT NULL"
        )
        sync()
    open_circuit(database, shops[2])
    listed = list_incidents(database)
    assert len(listed) == 3
    text = json.dumps(
        [show(database, row.id).as_dict() for row in listed] + [row.as_dict() for row in listed]
    )
    for shop in shops:
        assert shop.token not in text
    shown = json.loads(text)[0]
    assert set(listed[0]._asdict()) < set(shown)
    assert {"details", "payload", "held", "circuits", "rejects", "attempts", "alerts", "runbook"} < set(shown)


# Runbooks


def test_every_error_type_has_a_runbook_of_one_to_three_sentences() -> None:
    assert set(RUNBOOKS) == set(ErrorType)
    for text in RUNBOOKS.values():
        assert 1 <= len(re.findall(r"[.:;](?= |$)", text)) <= 8
        assert len(re.findall(r"\.(?= [A-Z`]|$)", text)) <= 4
        assert len(text) < 400


@pytest.mark.parametrize("kind", ErrorType)
def test_a_runbook_can_be_typed_as_it_stands(kind: ErrorType) -> None:
    text = runbook(kind, 41, "Harbor, East")
    assert not re.search(r"\b(N|STORE)\b", text)
    assert "incidents retry N" not in RUNBOOKS[kind] or "incidents retry 41" in text
    assert "STORE" not in RUNBOOKS[kind] or "'Harbor, East'" in text


@pytest.mark.parametrize("kind", ["texts_stopped", "texts_refused", "target"])
@pytest.mark.parametrize(
    "error_type", ["credentials", "payment_required", "configuration", "scopes", "query_rejected"]
)
def test_what_is_twilio_s_or_a_target_s_sends_nobody_to_a_shop(kind: str, error_type: str) -> None:
    text = runbook(ErrorType(error_type), 41, kind=kind)
    assert "shop" not in text
    assert "stores" not in text
    assert "Twilio" in text or "BG_ALERT" in text
    assert len(text) < 400


def test_the_page_for_those_on_call_says_of_each_error_type_how_often_it_is_tried() -> None:
    page = (PROJECT / "docs" / "on-call.md").read_text()
    table = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    by_itself = {ErrorType(kind): cells[2] for cells in table for kind in re.findall(r"`(\w+)`", cells[0])}
    assert set(by_itself) == set(ErrorType)
    for kind, cell in by_itself.items():
        policy = POLICIES[kind]
        if policy.strategy is Strategy.MANUAL_INTERVENTION:
            assert cell.strip() == "parked at once", kind
        else:
            assert f"{policy.max_attempts} attempts" in cell, kind
