"""Customers and orders as their users rely on them: whole, with all of their parts, provably the source's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from bg_pipelines import people
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Order, OrderLine, Page, Refund, Reject
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sync import Summary, SyncRequest, SyncRun, proof
from bg_pipelines.sync.proof import Sum
from bg_pipelines_tests.support import SALES, Scripted, query, wait_for, with_limits

Sync = Callable[..., Summary]
MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]
Script = Callable[..., Summary]

# With a platform that follows a script


def at(minute: int) -> str:
    return f"2026-01-01T00:{minute:02d}:00Z"


def order(number: int, minute: int = 0, *, total: str = "10.0") -> Order:
    return Order(
        external_id=f"O{number}",
        source_updated_at=at(minute),
        name=f"#{number}",
        customer_external_id=None,
        location_external_id=None,
        channel="web",
        status="open",
        financial_status="paid",
        fulfillment_status=None,
        is_return=False,
        is_test=False,
        currency="EUR",
        subtotal=None,
        discount=None,
        tax=None,
        total=total,
        current_total=None,
        email=None,
        phone=None,
        note=None,
        tags=[],
        ordered_at=at(0),
        cancelled_at=None,
        cancel_reason=None,
        closed_at=None,
        source_created_at=at(0),
    )


def line(of: Order, number: int, *, quantity: int = 1) -> OrderLine:
    return OrderLine(
        external_id=f"{of.external_id}-{number}",
        source_updated_at=of.source_updated_at,
        order_external_id=of.external_id,
        product_external_id=None,
        variant_external_id=None,
        title="Cup",
        variant_title=None,
        sku=None,
        quantity=quantity,
        current_quantity=quantity,
        unit_price="5.0",
        discount="0",
        total="5.0",
        currency="EUR",
    )


def refund(of: Order, number: int) -> Refund:
    return Refund(
        f"{of.external_id}-R{number}",
        of.source_updated_at,
        of.external_id,
        of.external_id,
        "5.0",
        "EUR",
        None,
        at(9),
    )


def page(*orders: tuple[Order, list[OrderLine]], refunds: tuple[Refund, ...] = (), **options: Any) -> Page:
    parts: dict[str, list[Any]] = {
        "order_lines": [part for _, lines in orders for part in lines],
        "refunds": list(refunds),
    }
    return Page(
        len(orders) + len(options.get("gone", ())), [one for one, _ in orders], parts=parts, **options
    )


@pytest.fixture
def run_script(make_sandbox: MakeSandbox, add_shops: AddShops, database: Database, cipher: Cipher) -> Script:
    names = add_shops(make_sandbox(shops=1, variants=1))

    def run(*pages: Any, force: bool = False, **options: Any) -> Summary:
        platform: Platform = Scripted(list(pages))  # type: ignore[assignment]
        return SyncRun(
            database,
            cipher,
            SyncRequest((Unit.ORDERS,), stores=tuple(names), force=force),
            run_id="scripted",
            connect=lambda access, sleep: platform,
            **with_limits({"log": lambda _: None, **options}),
        ).run()

    return run


def alive(database: Database, table: str) -> set[str]:
    return {row["external_id"] for row in query(database, f"SELECT * FROM {table} WHERE deleted_at IS NULL")}


def the_proof(database: Database) -> dict[str, Any]:
    [row] = query(database, "SELECT proof FROM sync_states WHERE resource = 'orders'")
    return row["proof"]


def test_a_part_that_no_longer_comes_with_its_row_is_gone_and_others_stay(
    run_script: Script, database: Database
) -> None:
    first, other = order(1), order(2)
    run_script(
        page(
            (first, [line(first, 1), line(first, 2)]), (other, [line(other, 1)]), refunds=(refund(first, 1),)
        )
    )
    assert alive(database, "order_lines") == {"O1-1", "O1-2", "O2-1"}
    edited = order(1, 5)
    summary = run_script(page((edited, [line(edited, 2, quantity=3), line(edited, 3)])))
    assert summary.failures == []
    assert alive(database, "order_lines") == {"O1-2", "O1-3", "O2-1"}
    assert alive(database, "refunds") == set()
    [row] = query(database, "SELECT quantity FROM order_lines WHERE external_id = 'O1-2'")
    assert row["quantity"] == 3
    counts = summary.units[Unit.ORDERS].counts
    assert (counts.read, counts.inserted, counts.updated, counts.deleted) == (3, 1, 2, 2)


def test_a_row_that_is_listed_as_edited_and_told_to_be_gone_at_once_leaves_none_of_its_parts(
    run_script: Script, database: Database
) -> None:
    first, edited = order(1), order(1, 5)
    run_script(page((first, [line(first, 1)])))
    run_script(page((edited, [line(edited, 1), line(edited, 2)]), gone=["O1"]))
    assert alive(database, "orders") == alive(database, "order_lines") == set()


def test_an_older_version_of_a_row_brings_none_of_its_parts_back(
    run_script: Script, database: Database
) -> None:
    first, edited = order(1, 1), order(1, 5)
    run_script(page((edited, [line(edited, 2)])))
    run_script(page((first, [line(first, 1), line(first, 2, quantity=9)])))
    assert alive(database, "order_lines") == {"O1-2"}
    assert query(database, "SELECT quantity FROM order_lines WHERE external_id = 'O1-2'") == [{"quantity": 1}]


def test_with_a_row_go_its_parts_be_it_told_or_missed_and_both_come_back(
    run_script: Script, database: Database
) -> None:
    one, two, three = order(1), order(2), order(3)
    whole = page(*((o, [line(o, 1)]) for o in (one, two, three)), refunds=(refund(two, 1),))
    run_script(whole)
    run_script(page(gone=["O1"]))
    assert alive(database, "order_lines") == {"O2-1", "O3-1"}
    run_script(page((three, [line(three, 1)])), force=True)
    assert (alive(database, "orders"), alive(database, "order_lines"), alive(database, "refunds")) == (
        {"O3"},
        {"O3-1"},
        set(),
    )
    assert the_proof(database)["tables"]["orders"]["rows"] == 1
    run_script(whole, force=True)
    assert alive(database, "order_lines") == {"O1-1", "O2-1", "O3-1"}
    assert alive(database, "refunds") == {"O2-R1"}


def test_a_part_that_cannot_be_loaded_is_kept_with_its_reason_and_its_row_loads(
    run_script: Script, database: Database
) -> None:
    one = order(1)
    bad = line(one, 2)._replace(total="five")
    told = page((one, [line(one, 1), bad]))
    told.rejects.append(Reject("O1-3", "title: missing", {}, "order_lines"))
    summary = run_script(told)
    assert summary.failures == []
    assert (alive(database, "orders"), alive(database, "order_lines")) == ({"O1"}, {"O1-1"})
    kept = query(database, "SELECT resource, external_id, reason FROM rejected_rows ORDER BY external_id")
    assert [(row["resource"], row["external_id"]) for row in kept] == [
        ("order_lines", "O1-2"),
        ("order_lines", "O1-3"),
    ]
    assert kept[0]["reason"].startswith("total: must be a number")
    counts = summary.units[Unit.ORDERS].counts
    assert (counts.read, counts.inserted, counts.rejected) == (4, 2, 2)
    assert the_proof(database)["rejected"] == 2
    # It was right once, and is wrong now: the old version stays until the new one loads.
    newer = order(1, 5)
    run_script(page((newer, [line(newer, 1)._replace(total="five"), line(newer, 2)])))
    assert alive(database, "order_lines") == {"O1-1", "O1-2"}
    [row] = query(
        database,
        "SELECT external_id FROM rejected_rows WHERE resource = 'order_lines' AND external_id < 'O1-3'",
    )
    assert row["external_id"] == "O1-1"
    newest = order(1, 6)
    run_script(page((newest, [line(newest, 1)])), force=True)
    assert alive(database, "order_lines") == {"O1-1"}
    assert query(database, "SELECT * FROM rejected_rows") == []


def test_what_the_source_does_not_list_for_its_age_is_not_taken_for_gone(
    run_script: Script, database: Database
) -> None:
    old, new, gone = (order(n)._replace(source_created_at=at(n)) for n in (1, 20, 21))
    run_script(page(*((o, [line(o, 1)]) for o in (old, new, gone))))
    since = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    summary = run_script(page((new, [line(new, 1)]), listed_since=since), force=True)
    assert summary.failures == []
    assert alive(database, "orders") == {"O1", "O20"}
    assert alive(database, "order_lines") == {"O1-1", "O20-1"}


def test_a_full_pass_is_proven_by_counts_and_checksums_of_what_was_read(
    run_script: Script, database: Database
) -> None:
    orders = [order(number, number % 50) for number in range(120)]
    pages = [
        page(
            *((o, [line(o, 1), line(o, 2)]) for o in orders[start : start + 40]),
            resume=str(start),
            source_count=120,
        )
        for start in (0, 40)
    ]
    pages.append(page(*((o, [line(o, 1)]) for o in orders[80:]), source_count=120))
    run_script(*pages, load_rows=30)
    found = the_proof(database)
    assert found["tables"]["orders"] == {"rows": 120, "checksum": f"{proof.of_records(orders).checksum:x}"}
    assert found["tables"]["order_lines"]["rows"] == 200
    assert (found["tables"]["refunds"], found["source_count"], found["rejected"]) == (
        {"rows": 0, "checksum": "0"},
        120,
        0,
    )


@pytest.mark.parametrize("harm", ["a row too many", "a row too few", "another time", "a line too many"])
def test_a_full_pass_whose_rows_are_not_those_that_are_held_fails_and_the_next_one_is_whole(
    run_script: Script, database: Database, harm: str
) -> None:
    first, second, third = (
        page(*((o, [line(o, 1)]) for o in map(order, numbers)))
        for numbers in (range(10), range(10, 20), range(20, 30))
    )
    first.resume, second.resume = "1", "2"
    columns = ", ".join(column for column in Order._fields if column != "external_id")
    statement = {
        "a row too many": f"INSERT INTO orders (store_id, external_id, synced_at, {columns}) "
        f"SELECT store_id, 'X', clock_timestamp(), {columns} FROM orders WHERE external_id = 'O3'",
        "a row too few": "UPDATE orders SET deleted_at = clock_timestamp() WHERE external_id = 'O3'",
        "another time": "UPDATE orders SET source_updated_at = at + interval '1 s' FROM (SELECT min(source_updated_at) AS at "
        "FROM orders) first WHERE external_id = 'O3'",
        "a line too many": "UPDATE order_lines SET external_id = 'X' WHERE external_id = 'O3-1'",
    }[harm]

    def do_harm() -> None:
        wait_for(lambda: alive(database, "orders") >= {"O3"})
        query(database, statement)

    summary = run_script(first, second, do_harm, third, load_rows=5)
    [failure] = summary.failures
    assert (failure.error.error_type, failure.error.recoverable) == (ErrorType.COUNT_MISMATCH, True)
    assert query(database, "SELECT cursor FROM sync_states WHERE resource = 'orders'") == [{"cursor": {}}]
    query(database, "UPDATE orders SET source_updated_at = '2026-01-01T00:00:00Z'")
    assert run_script(first, second, third, load_rows=5).failures == []
    assert alive(database, "orders") == {f"O{n}" for n in range(30)}
    assert alive(database, "order_lines") == {f"O{n}-1" for n in range(30)}


def test_the_sum_of_what_is_held_is_the_same_computed_by_postgresql_and_here(
    run_script: Script, database: Database
) -> None:
    orders = [
        order(1)._replace(external_id="Größe 🛍", source_updated_at="2026-01-01T00:00:00.120Z"),
        order(2)._replace(source_updated_at="2026-01-01T01:00:00+01:00"),
        order(3)._replace(source_updated_at="2026-01-01T00:00:00.123456+00:00"),
        order(4),
    ]
    run_script(page(*((o, [line(o, 1)]) for o in orders)))
    [store] = query(database, "SELECT id FROM stores")
    since = datetime(2025, 1, 1, tzinfo=UTC)
    for newest in (proof.CRC32_SINCE, 10**9):
        held = partial(proof.held, crc32_since=newest)
        held_parts = partial(proof.held_parts, crc32_since=newest)
        with database.transaction() as connection:
            assert held(connection, "orders", store["id"]) == proof.of_records(orders)
            assert held(connection, "orders", store["id"], created_since=since) == proof.of_records(orders)
            later = since + timedelta(days=999)
            assert held(connection, "orders", store["id"], created_since=later) == Sum(0, 0)
            lines = [line(o, 1) for o in orders]
            assert held_parts(connection, "order_lines", store["id"], "orders") == proof.of_parts(lines)
            assert held_parts(
                connection, "order_lines", store["id"], "orders", created_since=since
            ) == proof.of_parts(lines)


def test_an_order_that_staff_edited_before_it_was_paid_counts_with_what_is_still_sold(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Callable[..., Summary], database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=10, customers=3)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    buyer = edit(shop, "add_customer", fields={"email": "norm@example.com", "verifiedEmail": True})["id"]
    made = edit(shop, "add_order", customer_id=buyer, lines=2, fields={"displayFinancialStatus": "PENDING"})
    taken = made["lineItems"][0]
    edited = edit(shop, "edit_order", id=made["id"], lines={taken["id"]: taken["quantity"]})
    assert sync(units=SALES).failures == []
    people.match(database)
    [held] = query(database, "SELECT * FROM person_orders WHERE order_external_id = %s", made["id"])
    left = Decimal(edited["currentTotalPriceSet"]["shopMoney"]["amount"])
    assert (held["refunded"], held["net"]) == (0, left)
    assert 0 < left < held["spent"] == Decimal(made["totalPriceSet"]["shopMoney"]["amount"])
    # As an earlier release has held it, the next full pass brings it.
    query(database, "UPDATE orders SET current_total = NULL")
    assert sync(units=SALES, force=True).failures == []
    assert query(database, "SELECT net FROM person_orders WHERE order_external_id = %s", made["id"]) == [
        {"net": left}
    ]
