"""Whatever the vendor's side does wrong, database and source end equal, or the difference stands in `rejected_rows`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.platforms.shopify.pages import PageSizes
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Fault, Sandbox, Shop, change, edit
from bg_pipelines.sync import Summary
from bg_pipelines_tests.support import (
    SALES,
    Connect,
    assert_sales_equal_to_source,
    connect_by,
    loaded_rows,
    query,
    source_rows,
)

Sync = Callable[..., Summary]
MakeSandbox = Callable[..., Sandbox]

PAGES = 2
ROWS = 30


@pytest.fixture
def connect_stores() -> Connect:
    """By pages of 30 rows, so that a small shop has several."""
    return connect_by(shopify={"sizes": PageSizes(rows=ROWS)})


@pytest.fixture
def sandbox(make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]]) -> Sandbox:
    """One shop with two pages of customers and two of orders, one of which has 300 lines."""
    sandbox = make_sandbox(shops=1, variants=20, customers=PAGES * ROWS - 5, orders_per_customer=1.0)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=100_000, restore=10_000)
    add_shops(sandbox)
    return sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    [shop] = sandbox.world.shops.values()
    return shop


SPOILED: dict[str, dict[str, Any]] = {
    "cut": {},
    "half_page": {},
    "half_json": {},
    "html": {},
    "throttled": {},
    "slow": {"seconds": 0.05},
    "drip": {"seconds": 0.1},
    "missing_page_info": {},
    "repeat_cursor": {},
}
OPERATIONS = {"query Customers(": PAGES, "query Orders(": PAGES, "query OrderLines(": 2}


@pytest.mark.parametrize("kind", SPOILED)
def test_with_any_page_spoiled_the_next_run_ends_equal_to_the_source(
    sandbox: Sandbox, shop: Shop, sync: Sync, database: Database, kind: str
) -> None:
    for operation, pages in OPERATIONS.items():
        # A first page's cursor repeats nothing.
        for number in range(kind == "repeat_cursor" and "OrderLines" not in operation, pages):
            fault = Fault(kind, times=1, after=number, operation=operation, **SPOILED[kind])
            shop.faults[:] = [fault]
            change(shop, 3)
            sync(units=SALES, force=True)
            assert fault.applied == 1, (operation, number)
            if query(
                database, "SELECT 1 FROM sync_states WHERE resource = ANY(%s) AND attempts > 0", list(SALES)
            ):
                query(database, "UPDATE sync_states SET next_due_at = now()")
                assert sync(units=SALES).failures == []
            assert_sales_equal_to_source(database, sandbox)
    assert query(database, "SELECT 1 FROM rejected_rows") == []


NULLS = {
    "a customer's id": ("query Customers(", "id", "customers", "id: must be a text"),
    "a customer's time": ("query Customers(", "updatedAt", "customers", "updatedAt: must be a text"),
    "the state of a consent": ("query Customers(", "defaultEmailAddress.marketingState", "customers", "null"),
    "a list of tags": ("query Customers(", "tags", "customers", "tags"),
    "an order's name": ("query Orders(", "name", "orders", "name"),
    "an order's total": ("query Orders(", "totalPriceSet.shopMoney.amount", "orders", "total"),
    "an order's currency": ("query Orders(", "currencyCode", "orders", "currency"),
}


@pytest.mark.parametrize("what", NULLS)
def test_a_null_where_a_text_belongs_keeps_one_row_of_each_page_out_with_its_reason(
    sandbox: Sandbox, shop: Shop, sync: Sync, database: Database, what: str
) -> None:
    operation, field, table, reason = NULLS[what]
    place = 0 if field == "id" else 7  # an id is nested in what is nested, too
    shop.faults.append(Fault("null_field", operation=operation, field=field, row=place))
    summary = sync(units=SALES)
    assert summary.failures == []
    kept = query(database, "SELECT resource, external_id, reason FROM rejected_rows")
    own = [row for row in kept if row["resource"] == table]
    assert 1 <= len(own) <= PAGES
    assert all(reason in row["reason"] for row in own)
    wrong = {row["external_id"] for row in own}
    resource = Resource(table)
    source, loaded = source_rows(shop, resource), loaded_rows(database, shop.domain, resource)
    assert loaded < source
    assert len(source - loaded) == len(own)
    if field != "id":
        assert {external_id for external_id, _ in source - loaded} == wrong
    shop.faults.clear()
    assert sync(units=SALES, force=True).failures == []
    assert_sales_equal_to_source(database, sandbox)
    assert query(database, "SELECT 1 FROM rejected_rows") == []


def test_a_line_that_makes_no_sense_is_kept_out_alone(
    sandbox: Sandbox, shop: Shop, sync: Sync, database: Database
) -> None:
    order = next(one for one in shop.export(["orders"])["orders"] if len(one["lineItems"]) == 3)
    wrong = order["lineItems"][1]["id"]
    shop.faults.append(Fault("bad_value", field="quantity", value="many", id=wrong))
    assert sync(units=SALES).failures == []
    [row] = query(database, "SELECT resource, external_id, reason FROM rejected_rows")
    assert (row["resource"], row["external_id"]) == ("order_lines", wrong)
    assert "many" not in row["reason"]
    held = query(database, "SELECT external_id FROM order_lines WHERE order_external_id = %s", order["id"])
    assert {line["external_id"] for line in held} == {one["id"] for one in order["lineItems"]} - {wrong}
    shop.faults.clear()
    edit(shop, "update_order", id=order["id"], fields={"note": "again"})
    query(database, "UPDATE sync_states SET next_due_at = now()")
    assert sync(units=SALES).failures == []
    assert_sales_equal_to_source(database, sandbox)
    assert query(database, "SELECT 1 FROM rejected_rows") == []


def test_customers_and_orders_that_change_while_the_pages_are_read_are_right_in_the_end(
    sandbox: Sandbox, shop: Shop, sync: Sync, database: Database
) -> None:
    shop.faults.append(Fault("slow", seconds=0.1, operation="query "))
    over = threading.Event()

    def staff() -> None:
        for _ in range(40):
            change(shop, 4)
            edit(shop, "add_customer")
            edit(shop, "add_order", lines=2)
            if over.wait(0.05):
                return

    editor = threading.Thread(target=staff)
    editor.start()
    try:
        for force in (False, True, False):
            query(database, "UPDATE sync_states SET next_due_at = now()")
            assert sync(units=SALES, force=force).failures == []
    finally:
        over.set()
        editor.join()
    shop.faults.clear()
    query(database, "UPDATE sync_states SET next_due_at = now()")
    assert sync(units=SALES).failures == []
    assert_sales_equal_to_source(database, sandbox)


@pytest.mark.parametrize("minutes", [-7, 45])
def test_a_vendor_whose_clock_is_wrong_loses_no_customer_and_no_order(
    make_sandbox: MakeSandbox,
    add_shops: Callable[[Sandbox], list[str]],
    sync: Sync,
    database: Database,
    minutes: int,
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=20, customers=60, orders_per_customer=1.0, clock=lambda: time.time() + minutes * 60
    )
    names = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    sync(units=SALES)
    for _ in range(3):
        change(shop, 10)
        assert sync(units=SALES, stores=names).failures == []
        assert_sales_equal_to_source(database, sandbox)


def test_odd_texts_amounts_of_any_currency_and_300_lines_arrive_as_they_are(
    make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]], sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(shops=12, variants=120, customers=600, orders_per_customer=1.0)
    add_shops(sandbox)
    shops = sandbox.world.shops.values()
    texts = ("👩‍👩‍👧 Zoë", "محمد الأحمد", "𝒜𝓃𝓃𝒶 𠜎", "Robert'); DROP TABLE customers;--", " \t\\N ")
    for shop in shops:
        for text in texts:
            edit(shop, "add_customer", fields={"firstName": text, "lastName": text[::-1], "note": text})
    assert sync(units=SALES).failures == []
    assert_sales_equal_to_source(database, sandbox)
    assert query(database, "SELECT 1 FROM rejected_rows") == []
    for text in texts:
        held = query(database, "SELECT first_name, last_name, note FROM customers WHERE note = %s", text)
        assert [tuple(row.values()) for row in held] == [(text, text[::-1], text)] * len(shops)
    currencies = set()
    for shop in shops:
        sold = {
            one["id"]: (Decimal(one["totalPriceSet"]["shopMoney"]["amount"]), one["currencyCode"])
            for one in shop.export(["orders"])["orders"]
        }
        held = query(
            database,
            "SELECT o.external_id, total, o.currency FROM orders o JOIN stores s ON s.id = store_id WHERE domain = %s",
            shop.domain,
        )
        assert {row["external_id"]: (row["total"], row["currency"]) for row in held} == sold
        currencies |= {row["currency"] for row in held}
    assert {"JPY", "BHD", "USD"} <= currencies
    [most] = query(
        database, "SELECT count(*) FROM order_lines GROUP BY order_external_id ORDER BY count(*) DESC LIMIT 1"
    )
    assert most["count"] == 300
    # A till takes any text for a phone.
    shop = next(iter(shops))
    customer = shop.export(["customers"])["customers"][0]["id"]
    edit(shop, "update_customer", id=customer, fields={"phone": "+1 212-555-0123 ext. 45"})
    query(database, "UPDATE sync_states SET next_due_at = now()")
    assert sync(units=SALES).failures == []
    [row] = query(database, "SELECT phone, phone_given FROM customers WHERE external_id = %s", customer)
    assert (row["phone"], row["phone_given"]) == ("+12125550123", "+1 212-555-0123 ext. 45")
