"""What a platform fails at when it is written: that alone is tried again, and holds up neither other writes nor reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.customers import editing
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents.handling import retry
from bg_pipelines.incidents.reading import list_incidents
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox, Shop, edit
from bg_pipelines.sync import Summary
from bg_pipelines_tests.go_between import Answer, GoBetween
from bg_pipelines_tests.support import as_store, loaded_rows, query, source_rows
from bg_pipelines_tests.sync.test_pages_that_fail import FAILURE
from bg_pipelines_tests.sync.test_stock_corrections import count_everything, statuses

Sync = Callable[..., Summary]
CUSTOMERS, LEVELS = (Unit.CUSTOMERS,), (Unit.INVENTORY_LEVELS,)


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(shops=1, variants=30, customers=20, orders_per_customer=1)


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    return shop


@pytest.fixture
def between(
    sandbox: Sandbox, shop: Shop, database: Database, cipher: Cipher, sync: Sync
) -> Iterator[GoBetween]:
    """Before a shop that is a store and all synced."""
    with GoBetween(sandbox) as between:
        save_stores(database, cipher, [as_store(shop, api_url=between.address(shop.api_url))])
        assert sync(units=(*CUSTOMERS, Unit.LOCATIONS, *LEVELS)).failures == []
        between.asked.clear()
        yield between


def fails_at_writes_of(external_id: str, answer: Answer) -> Callable[[str, bytes], Answer | None]:
    def instead(_path: str, asked: bytes) -> Answer | None:
        return answer if b"mutation" in asked and f'"{external_id}"'.encode() in asked else None

    return instead


def assert_equal(database: Database, shop: Shop, resource: Resource) -> None:
    assert loaded_rows(database, shop.domain, resource) == source_rows(shop, resource)


def is_down(_path: str, _asked: bytes) -> Answer:
    return Answer(502)


def made_due(database: Database, table: str, attempts: int) -> None:
    query(
        database,
        f"UPDATE {table} SET next_due_at = clock_timestamp(), attempts = %s WHERE status = 'pending'",
        attempts,
    )


@pytest.fixture
def edits(database: Database, between: GoBetween, shop: Shop) -> list[str]:
    """Three customers whose first names we have edited."""
    rows = query(
        database,
        "SELECT external_id FROM customers WHERE first_name IS NOT NULL AND deleted_at IS NULL ORDER BY external_id LIMIT 3",
    )
    ids = [row["external_id"] for row in rows]
    for customer in ids:
        assert editing.edit(database, shop.domain.split(".")[0], customer, {"first_name": "Grace"}, by="Ada")
    return ids


def pending(database: Database, table: str) -> list[dict[str, Any]]:
    return query(database, f"SELECT attempts, retry_strategy FROM {table} WHERE status = 'pending'")


@pytest.mark.parametrize("how", FAILURE)
def test_an_edit_that_the_platform_fails_at_is_tried_again_by_itself_and_then_waits_for_a_person(
    how: str,
    edits: list[str],
    between: GoBetween,
    sandbox: Sandbox,
    shop: Shop,
    sync: Sync,
    database: Database,
) -> None:
    between.instead = fails_at_writes_of(edits[0], FAILURE[how])
    edit(shop, "update_customer", id=edits[0], fields={"lastName": "Lin"})
    summary = sync(units=CUSTOMERS)
    assert (summary.failures, summary.changes_applied) == ([], 2)
    assert pending(database, "customer_changes") == [{"attempts": 1, "retry_strategy": "exponential_backoff"}]
    read = query(database, "SELECT last_name FROM customers WHERE external_id = %s", edits[0])
    assert read == [{"last_name": "Lin"}]
    between.asked.clear()
    assert sync(units=CUSTOMERS, force=True).failures == []
    assert not any(b"mutation" in asked for _, asked in between.asked), "it waits"
    made_due(database, "customer_changes", attempts=9)
    assert sync(units=CUSTOMERS, force=True).failures == []
    [incident] = list_incidents(database)
    assert (incident.needs_attention, incident.parked) == (True, 1)
    between.instead = lambda _path, _asked: None
    retry(database, [incident.id], by="Grace")
    assert sync(units=CUSTOMERS).changes_applied == 1
    assert_equal(database, shop, Resource.CUSTOMERS)


def test_a_platform_that_is_down_uses_up_no_edit_s_and_no_correction_s_tries(
    edits: list[str], between: GoBetween, sync: Sync, database: Database
) -> None:
    corrections = count_everything(database)
    between.instead = is_down
    failures = sync(units=(*CUSTOMERS, *LEVELS), force=True).failures
    assert {failure.error.error_type for failure in failures} == {ErrorType.SERVER_ERROR}
    for table, count in (("customer_changes", len(edits)), ("inventory_corrections", corrections)):
        assert pending(database, table) == [{"attempts": 0, "retry_strategy": None}] * count


@pytest.mark.parametrize("how", FAILURE)
def test_a_correction_that_the_platform_fails_at_is_tried_again_by_itself_and_the_others_are_applied(
    how: str, between: GoBetween, shop: Shop, sync: Sync, database: Database
) -> None:
    count = count_everything(database)
    [bad] = query(
        database,
        "SELECT inventory_item_external_id AS item FROM inventory_corrections ORDER BY id OFFSET %s LIMIT 1",
        count // 2,
    )
    of_item = "SELECT count(*) AS n FROM inventory_corrections WHERE inventory_item_external_id = %s"
    [held_up] = query(database, of_item, bad["item"])
    between.instead = fails_at_writes_of(bad["item"], FAILURE[how])
    assert sync(units=LEVELS, force=True).failures == []
    assert statuses(database) == {"applied": count - held_up["n"], "pending": held_up["n"]}
    between.instead = lambda _path, _asked: None
    made_due(database, "inventory_corrections", attempts=1)
    assert sync(units=LEVELS, force=True).failures == []
    assert statuses(database) == {"applied": count}
    assert_equal(database, shop, Resource.INVENTORY_LEVELS)


def test_a_platform_that_takes_no_correction_at_all_is_asked_a_few_times(
    between: GoBetween, sync: Sync, database: Database
) -> None:
    count = count_everything(database)
    between.instead = lambda _path, asked: Answer(502) if b"mutation" in asked else None
    assert sync(units=LEVELS, force=True).failures == []
    assert (
        pending(database, "inventory_corrections")
        == [{"attempts": 1, "retry_strategy": "exponential_backoff"}] * count
    )
    assert len([1 for _, asked in between.asked if b"mutation" in asked]) < 15
