"""A backfill by export as its users rely on it: chosen by size, waited for without a fault, and nothing lost or revived."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents.handling import retry
from bg_pipelines.operations import backfills
from bg_pipelines.operations.backfills import expected_backfill, running_backfills
from bg_pipelines.platforms.protocol import Backfill
from bg_pipelines.platforms.shopify.bulk import ExportLimits
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PageSizes
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Page, Resource
from bg_pipelines.retries import Policies
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.settings import load_settings
from bg_pipelines.sync import Summary
from bg_pipelines.sync.deletions import mark_deleted
from bg_pipelines.sync.progress import Progress
from bg_pipelines.sync.state import CursorState, PassState
from bg_pipelines.work import store_units
from bg_pipelines_tests.support import (
    CATALOGUE,
    Connect,
    DatabaseClock,
    assert_equal_to_source,
    assert_sales_equal_to_source,
    connect_by,
    query,
)

Sync = Callable[..., Summary]
Check = Callable[[], None]
SALES = (Unit.CUSTOMERS, Unit.ORDERS)
HOUR = 3600


@pytest.fixture
def sandbox(
    clock: DatabaseClock, make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]
) -> Sandbox:
    """One shop of 120 customers and 240 orders, a store of ours; its time is the database's."""
    made = make_sandbox(
        shops=1, variants=10, customers=120, orders_per_customer=2, clock=lambda: clock.now.timestamp()
    )
    add_shops(made)
    return made


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    edit(shop, "set_bulk_seconds", seconds=0)
    return shop


def connect_from(rows: int = ExportLimits().from_rows) -> Connect:
    """With exports from so many rows on, in small pages; who starts one looks after it at once."""
    limits = ExportLimits(from_rows=rows, page_rows=20, looks_seconds=(0.01,))
    return connect_by(shopify={"exports": limits, "sizes": PageSizes(rows=120)})


@pytest.fixture
def connect_stores() -> Connect:
    return connect_from()


@pytest.fixture
def equal(database: Database, sandbox: Sandbox, shop: Shop) -> Check:
    return lambda: assert_sales_equal_to_source(database, sandbox, shop.domain)


def states(database: Database) -> dict[str, dict[str, Any]]:
    rows = query(database, "SELECT * FROM sync_states WHERE resource = ANY(%s)", list(SALES))
    return {row["resource"]: row for row in rows}


def attempts(database: Database) -> list[tuple[str, str]]:
    rows = query(database, "SELECT resource, status FROM sync_attempts ORDER BY id")
    return [(row["resource"], row["status"]) for row in rows]


def incidents(database: Database) -> list[dict[str, Any]]:
    return query(database, "SELECT * FROM incidents WHERE status = 'open' ORDER BY id")


def asked(shop: Shop, operation: str) -> int:
    return sum(request.operation == operation for request in shop.requests)


def spoil(shop: Shop, kind: str, **settings: Any) -> None:
    shop.faults.append(Fault(kind, **settings))


# How long it takes


def test_a_backfill_says_before_and_while_it_runs_how_long_it_takes(
    shop: Shop, sync: Sync, database: Database, equal: Check
) -> None:
    edit(shop, "set_budget", maximum=5_000, restore=1)  # so that a page is minutes of it
    name, said = shop.domain.split(".")[0], list[str]()
    small = connect_by(shopify={"sizes": PageSizes(rows=100)})
    sync(units=(Unit.ORDERS,), connect=small, log=said.append, load_rows=100)
    [told] = [line for line in said if "to read" in line]
    assert re.fullmatch(
        rf".*orders of {name}: 240 to read, about \d+ min at the pace that the platform allows", told
    )
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    sync(units=SALES, backfill="bulk", log=said.append, run_id="second")
    assert any(f"customers of {name}: 120 to read, as an export" in line for line in said)
    with database.session() as session:
        [one] = running_backfills(session, datetime.now(UTC))
    assert (one.resource, one.read, one.rows, one.seconds_left) == ("customers", 0, 120, None)
    assert "Shopify is at work on the export" in one.sentence


def test_progress_is_said_once_a_minute_at_the_pace_so_far() -> None:
    now, said = [0.0], list[str]()
    progress = Progress("orders of harbor", said.append, lambda: now[0])
    progress.begin(Page(250, [], source_count=800_000, resume="a", seconds_a_row=0.02), 0)
    progress.begin(Page(250, [], source_count=800_000, resume="b", seconds_a_row=0.02), 250)
    for second in range(0, 241, 10):
        now[0] = float(second)
        progress.note(second * 500, 800_000)
    assert said == [
        "orders of harbor: 800,000 to read, about 4.4 h at the pace that the platform allows",
        "orders of harbor: 30,000 of 800,000, about 26 min left",
        "orders of harbor: 60,000 of 800,000, about 25 min left",
        "orders of harbor: 90,000 of 800,000, about 24 min left",
        "orders of harbor: 120,000 of 800,000, about 23 min left",
    ]


def test_status_shows_how_far_a_backfill_is(database: Database, sandbox: Sandbox) -> None:
    began = datetime(2026, 11, 23, 12, tzinfo=UTC)
    current = PassState(full=True, began_at=began, read=120_000, source_count=800_000)
    query(
        database,
        "UPDATE sync_states SET cursor = %s WHERE resource = 'orders'",
        Jsonb(CursorState(current=current).dump()),
    )
    with database.session() as session:
        [one] = running_backfills(session, began + timedelta(minutes=7))
    assert one.sentence == f"orders of {one.store}: 120,000 of 800,000, about 40 min left"
    query(database, "UPDATE sync_states SET last_full_at = now() WHERE resource = 'orders'")
    with database.session() as session:
        assert running_backfills(session, began) == []


def test_what_a_new_store_takes_is_told_by_its_counts_and_its_plan(
    shop: Shop, database: Database, cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(shop, "set_budget", maximum=2_000, restore=1)
    name, settings = shop.domain.split(".")[0], load_settings()
    assert expected_backfill(database, cipher, settings, name) == [], "all is over before one has looked"
    monkeypatch.setattr(backfills, "SHOWN_FROM_ROWS", 100)
    assert expected_backfill(database, cipher, settings, name) == [
        "orders: 240 to read, about 8 min on this store's plan",
        "customers: 120 to read, about 1 min on this store's plan",
    ]
    edit(shop, "set_budget", maximum=2_000, restore=10)
    limits = ExportLimits(from_rows=200)
    client = ShopifyClient(shop.api_url, StaticToken(shop.token), api_version="2026-07")
    orders, *others = ShopifyPlatform(client, exports=limits).backfills()
    assert orders == Backfill(Resource.ORDERS, 240, True, pytest.approx(45.6))
    assert not any(one.by_export for one in others)
    spoil(shop, "unauthorized", times=1)
    [told] = expected_backfill(database, cipher, settings, name)
    assert told.startswith("how long its first sync takes is not known: ")


# Which way


def test_a_store_of_many_rows_is_exported_and_one_of_few_is_listed(
    shop: Shop, sync: Sync, database: Database, equal: Check
) -> None:
    summary = sync(units=SALES, connect=connect_from(rows=200))
    assert (summary.failures, [done.synced for done in summary.units.values()]) == ([], [1, 1])
    equal()
    # Of rows that one page shows none is exported.
    [operation] = shop.bulk.all.values()
    assert "orders" in operation.query
    assert (asked(shop, "Customers"), asked(shop, "Orders")) == (1, 1), "one page of orders, to see how many"
    edit(shop, "update_customer", id=shop.export()["customers"][7]["id"], fields={"note": "changed"})
    sync(units=SALES, stores=(shop.domain.split(".")[0],), connect=connect_from(rows=200))
    equal()
    assert len(shop.bulk.all) == 1, "what changed is always listed"


def test_a_catalogue_and_its_stock_are_exported_too(
    shop: Shop, sandbox: Sandbox, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    edit(shop, "add_product", variants=60)
    assert sync(units=CATALOGUE, backfill="bulk").failures == []
    assert_equal_to_source(database, sandbox)
    assert [operation.lines > operation.roots for operation in shop.bulk.all.values()] == [False, True]
    # A later full pass finds what came, went and changed since.
    clock.advance(days=1, minutes=5)
    [gone, *_] = shop.export(["products"])["products"]
    edit(shop, "delete_product", id=gone["id"])
    edit(shop, "add_product", variants=5)
    assert sync(units=CATALOGUE, backfill="bulk", run_id="next day").failures == []
    assert_equal_to_source(database, sandbox)
    assert len(shop.bulk.all) == 4


@pytest.mark.parametrize(("backfill", "exports"), [("bulk", 2), ("pages", 0)])
def test_by_hand_it_is_read_as_wished(
    shop: Shop, sync: Sync, equal: Check, backfill: str, exports: int
) -> None:
    connect = connect_from(rows=1 if backfill == "pages" else 10**6)
    assert sync(units=SALES, backfill=backfill, connect=connect).failures == []
    equal()
    assert len(shop.bulk.all) == exports
    sync(units=SALES, backfill=backfill, force=True, run_id="again", connect=connect)
    equal()
    assert len(shop.bulk.all) == 2 * exports


def test_what_a_person_wished_lasts_until_the_pass_has_ended(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    spoil(shop, "bulk_failed", operation="orders", times=1)
    sync(units=(Unit.ORDERS,), backfill="bulk")
    assert states(database)["orders"]["last_error"]["error_type"] == "operation_failed"
    clock.advance(hours=2)
    assert sync(units=(Unit.ORDERS,), run_id="later").failures == []
    assert len(shop.bulk.all) == 2, "exported again, though they are few"
    assert states(database)["orders"]["backfill"] is None


def test_whoever_is_tired_of_waiting_has_it_read_page_by_page(
    shop: Shop, sync: Sync, database: Database, equal: Check
) -> None:
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    sync(units=SALES, backfill="bulk")
    name = shop.domain.split(".")[0]
    assert sync(units=SALES, backfill="pages", stores=(name,), run_id="by hand").failures == []
    equal()
    assert {row["attempts"] for row in states(database).values()} == {0}


# Waiting


def test_an_export_under_way_is_waited_for_by_the_row_and_is_no_failure(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    edit(shop, "set_bulk_seconds", seconds=10 * 60)
    lines: list[str] = []
    summary = sync(units=(*SALES, Unit.PRODUCTS), backfill="bulk", log=lines.append)
    assert summary.failures == []
    assert {unit.value: (d.synced, d.failed, d.waiting) for unit, d in summary.units.items()} == {
        "customers": (0, 0, 1),
        "orders": (0, 0, 1),
        "products": (1, 0, 0),
    }
    assert any("orders waits: Shopify is at work on the export" in line for line in lines)
    for row in states(database).values():
        assert (row["attempts"], row["retry_strategy"], row["lease_owner"]) == (0, "scheduled_retry", None)
        assert (row["next_due_at"] - clock.now).total_seconds() == 60
    assert [found for found in attempts(database) if found[0] != "products"] == [
        ("customers", "released"),
        ("orders", "released"),
    ]
    clock.advance(seconds=59)
    with database.transaction() as connection:
        assert not store_units.is_due(connection, SALES, retries=True)
    for minute in range(1, 9):
        clock.advance(seconds=61)
        with database.transaction() as connection:
            assert store_units.is_due(connection, SALES, retries=True), "the retries sensor starts a run"
        assert sync(units=SALES, run_id=f"run {minute}").failures == []
    clock.advance(minutes=2)
    last = sync(units=SALES, run_id="last")
    assert [done.synced for done in last.units.values()] == [1, 1]
    equal()
    assert len(shop.bulk.all) == 2
    assert (incidents(database), query(database, "SELECT * FROM circuits WHERE failures > 0")) == ([], [])


def test_an_export_that_does_not_end_in_a_day_is_for_a_person_who_may_wait_for_another(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    edit(shop, "set_bulk_seconds", seconds=10 * HOUR)
    policies = Policies({"operation_running": {"max_attempts": 6, "delay_seconds": HOUR}})
    options: dict[str, Any] = {"units": (Unit.ORDERS,), "policies": policies}
    sync(**options, backfill="bulk")
    for hour in range(5):
        assert incidents(database) == []
        clock.advance(seconds=HOUR)
        sync(**options, run_id=f"hour {hour}")
    [incident] = incidents(database)
    assert (incident["error_type"], incident["needs_attention"]) == ("operation_running", True)
    assert states(database)["orders"]["next_due_at"] is None
    retry(database, [incident["id"]], by="a test")
    for hour in range(5):
        sync(**options, run_id=f"another {hour}")
        clock.advance(seconds=HOUR)
    sync(**options, run_id="last")
    assert query(database, "SELECT count(*) AS rows FROM orders")[0]["rows"] == 240
    assert len(shop.bulk.all) == 1
    assert incidents(database) == []


def test_a_store_that_waits_answers_so_its_circuit_closes(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    spoil(shop, "server_error", times=5)
    for number in range(5):
        sync(units=(Unit.ORDERS,), backfill="bulk", run_id=f"run {number}")
        clock.advance(hours=1)
    opened = "SELECT * FROM circuits WHERE opened_at IS NOT NULL"
    assert query(database, opened) != []
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    assert sync(units=(Unit.ORDERS,), backfill="bulk", run_id="probe").failures == []
    assert query(database, opened) == []
    assert states(database)["orders"]["retry_strategy"] == "scheduled_retry"


# What comes to nothing


def test_where_exports_fail_again_and_again_all_is_listed(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    assert sync(units=(Unit.CUSTOMERS,)).failures == []
    spoil(shop, "bulk_failed")
    for number in range(3):
        sync(units=(Unit.ORDERS,), connect=connect_from(rows=1), run_id=f"run {number}")
        clock.advance(hours=2)
    equal()
    [row] = query(database, "SELECT * FROM sync_states WHERE resource = 'orders'")
    assert (row["attempts"], "failed_exports" in row["cursor"], len(shop.bulk.all)) == (0, False, 2)


@pytest.mark.parametrize(
    ("kind", "error_type", "tries"),
    [("bulk_failed", "operation_failed", 5), ("bulk_short_file", "count_mismatch", 3)],
)
def test_an_export_that_is_of_no_use_begins_anew_so_often_and_then_waits_for_a_person(
    shop: Shop,
    sync: Sync,
    database: Database,
    clock: DatabaseClock,
    equal: Check,
    kind: str,
    error_type: str,
    tries: int,
) -> None:
    sync(units=SALES, backfill="bulk")
    spoil(shop, kind)
    for number in range(1, tries + 1):
        assert incidents(database) == []
        # Pages of it are kept each time, which brings it no nearer to its end.
        options = {"backfill": "bulk", "force": number == 1, "run_id": f"run {number}", "load_rows": 20}
        sync(units=(Unit.ORDERS,), **options)
        row = states(database)["orders"]
        assert (row["attempts"], row["last_error"]["error_type"]) == (number, error_type)
        assert not {"current", "full_pass"} & row["cursor"].keys()
        clock.advance(hours=2)
    [incident] = incidents(database)
    assert incident["error_type"] == error_type
    assert len(shop.bulk.all) == 2 + tries
    held = query(database, "SELECT count(*) AS rows FROM orders WHERE deleted_at IS NULL")
    assert held[0]["rows"] == 240, "nothing was marked deleted for not being in it"
    shop.faults.clear()
    retry(database, [incident["id"]], by="a test")
    assert sync(units=(Unit.ORDERS,), run_id="mended").failures == []
    equal()
    assert incidents(database) == []


def test_a_failed_export_leaves_the_stores_other_units_alone(
    shop: Shop, sync: Sync, database: Database
) -> None:
    spoil(shop, "bulk_failed", operation="customers", times=1)
    summary = sync(units=SALES, backfill="bulk")
    assert [failure.units for failure in summary.failures] == [["customers"]]
    assert summary.units[Unit.ORDERS].synced == 1
    assert query(database, "SELECT * FROM circuits WHERE failures > 0") == []


def test_a_lacking_scope_waits_for_a_person_and_then_another_export_is_made(
    shop: Shop, sync: Sync, database: Database, equal: Check
) -> None:
    spoil(shop, "bulk_failed", value="ACCESS_DENIED", times=1)
    sync(units=(Unit.CUSTOMERS,), backfill="bulk")
    [incident] = incidents(database)
    assert incident["error_type"] == "scopes"
    retry(database, [incident["id"]], by="a test")
    assert sync(units=SALES, run_id="granted").failures == []
    equal()


@pytest.mark.parametrize("kind", ["half_page", "half_json", "cut", "html", "server_error"])
def test_a_file_that_breaks_off_is_read_on_where_it_was_kept(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check, kind: str
) -> None:
    spoil(shop, kind, operation="bulk_file", times=2)
    for number in range(4):
        sync(units=SALES, backfill="bulk", run_id=f"run {number}", load_rows=20)
        clock.advance(hours=1)
    equal()
    assert len(shop.bulk.all) == 2
    counted = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_lines) + (SELECT count(*) FROM refunds)"
    read = "SELECT sum(rows_read) FROM sync_attempts WHERE resource = 'orders'"
    [compared] = query(database, f"SELECT ({counted}) AS held, ({read}) AS read")
    assert compared["held"] == compared["read"], "what was kept is not read again"


# What is older than it looks


def test_what_changes_while_an_export_is_made_and_waited_for_is_read_right_after_it(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    edit(shop, "set_bulk_seconds", seconds=2 * HOUR)
    sync(units=SALES, backfill="bulk")
    clock.advance(hours=1)
    export = shop.export()
    for row in export["customers"][:5]:
        edit(shop, "update_customer", id=row["id"], fields={"note": "changed meanwhile"})
    edit(shop, "add_order", customer_id=export["customers"][0]["id"], lines=3)
    edit(shop, "refund_order", id=export["orders"][0]["id"])
    clock.advance(hours=1, minutes=1)
    assert [d.synced for d in sync(units=SALES, run_id="export").units.values()] == [1, 1]
    clock.advance(hours=1)
    sync(units=SALES, run_id="next")
    equal()
    assert len(shop.bulk.all) == 2


def test_an_old_export_does_not_bring_back_what_was_marked_deleted_since(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    sync(units=(Unit.CUSTOMERS,), backfill="bulk")
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    clock.advance(hours=1)
    sync(units=(Unit.CUSTOMERS,), backfill="bulk", force=True, run_id="again")
    [gone] = query(database, "SELECT min(external_id) AS id FROM customers")
    clock.advance(minutes=1)
    # By another way than this pass: somebody looked the row up.
    with database.transaction() as connection:
        assert mark_deleted(connection, "customers", 1, [gone["id"]]) == 1
    clock.advance(hours=2)
    assert sync(units=(Unit.CUSTOMERS,), run_id="later").failures == []
    [row] = query(database, "SELECT deleted_at FROM customers WHERE external_id = %s", gone["id"])
    assert row["deleted_at"] is not None


def test_a_row_that_was_read_anew_by_another_way_meanwhile_does_not_make_an_export_wrong(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    sync(units=SALES, backfill="bulk")
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    clock.advance(hours=1)
    sync(units=SALES, backfill="bulk", force=True, run_id="again")
    clock.advance(minutes=5)
    customer = shop.export()["customers"][0]["id"]
    edit(shop, "update_customer", id=customer, fields={"note": "written from here"})
    # As an edit of ours, or a repair, has it: newer than what the export shows.
    query(
        database,
        "UPDATE customers SET note = 'written from here', source_updated_at = %s, synced_at = %s WHERE external_id = %s",
        clock.now,
        clock.now,
        customer,
    )
    clock.advance(hours=2)
    assert sync(units=SALES, run_id="later").failures == []
    equal()
    [state] = query(database, "SELECT proof FROM sync_states WHERE resource = 'customers'")
    assert state["proof"]["changed_meanwhile"] == 1


def test_an_error_of_the_vendor_while_waiting_is_a_failure_as_ever(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock, equal: Check
) -> None:
    edit(shop, "set_bulk_seconds", seconds=HOUR)
    sync(units=SALES, backfill="bulk")
    clock.advance(minutes=2)
    spoil(shop, "unauthorized", times=1)
    summary = sync(units=SALES, run_id="denied")
    assert {failure.error.error_type for failure in summary.failures} == {ErrorType.CREDENTIALS}
    retry(database, [incident["id"] for incident in incidents(database)], by="a test")
    clock.advance(hours=1)
    assert sync(units=SALES, run_id="mended").failures == []
    equal()
    assert len(shop.bulk.all) == 2
