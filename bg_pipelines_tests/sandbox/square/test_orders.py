"""Square's Orders API."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import Merchant, World, edit
from bg_pipelines_tests.sandbox.square.conftest import SquareClient, ids
from bg_pipelines_tests.support import HandClock

SEARCH = "orders/search"


def query_of(filters: dict[str, Any], field: str = "CREATED_AT", order: str = "ASC") -> dict[str, Any]:
    return {"filter": filters, "sort": {"sort_field": field, "sort_order": order}}


def everywhere(client: SquareClient, query: dict[str, Any], name: str = "orders", **more: Any) -> list[Any]:
    """All locations, ten a call, as a reader has to."""
    places = list(client.merchant.store.locations)
    found = []
    for start in range(0, len(places), 10):
        content = {"location_ids": places[start : start + 10], "query": query, **more}
        found += client.rows(SEARCH, name, content)
    return found


def test_all_orders_are_read_ten_locations_at_a_time(client: SquareClient, merchant: Merchant) -> None:
    expected = merchant.export()["orders"]
    assert len(merchant.store.locations) == 12
    found = everywhere(client, query_of({}), limit=13)
    assert sorted(ids(found)) == sorted(ids(expected))
    assert sorted(found, key=lambda row: (row["created_at"], row["id"])) == expected
    entries = everywhere(client, query_of({}), "order_entries", return_entries=True)
    assert sorted(entry["order_id"] for entry in entries) == sorted(ids(expected))


def test_a_page_comes_newest_first_unless_asked_otherwise(client: SquareClient, merchant: Merchant) -> None:
    places = list(merchant.store.locations)[:10]
    [times] = [
        [row["created_at"] for row in page]
        for page in client.pages(SEARCH, "orders", {"location_ids": places})
    ]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        ({"location_ids": []}, "MISSING_REQUIRED_PARAMETER", "location_ids"),
        ({"location_ids": ["L0"]}, "NOT_FOUND", "location_ids"),
        ({"limit": 1001}, "VALUE_TOO_HIGH", "limit"),
        (
            {"query": {"filter": {"date_time_filter": {"updated_at": {"start_at": "2026-01-01T00:00:00Z"}}}}},
            "BAD_REQUEST",
            "query.sort.sort_field",
        ),
        (
            {"query": query_of({"date_time_filter": {"created_at": {}, "updated_at": {}}})},
            "BAD_REQUEST",
            "query.filter.date_time_filter",
        ),
        ({"query": query_of({}, "CLOSED_AT")}, "BAD_REQUEST", "query.sort.sort_field"),
        (
            {"query": {"filter": {"state_filter": {}}}},
            "MISSING_REQUIRED_PARAMETER",
            "query.filter.state_filter.states",
        ),
        ({"query": {"sort": {}}}, "MISSING_REQUIRED_PARAMETER", "query.sort.sort_field"),
    ],
)
def test_a_search_that_the_vendor_refuses_is_refused(
    client: SquareClient, merchant: Merchant, content: dict[str, Any], code: str, field: str
) -> None:
    places = list(merchant.store.locations)
    assert client.refused("POST", SEARCH, {"location_ids": places[:10], **content})[1:] == (code, field)


def test_more_than_ten_locations_are_refused(client: SquareClient, merchant: Merchant) -> None:
    answer = client.refused("POST", SEARCH, {"location_ids": list(merchant.store.locations)[:11]})
    assert answer == (400, "ARRAY_LENGTH_TOO_LONG", "location_ids")


def test_orders_are_found_by_state_customer_and_source(client: SquareClient, merchant: Merchant) -> None:
    exported = merchant.export()["orders"]
    buyer = next(order["customer_id"] for order in exported if "customer_id" in order)
    for filters, wanted in (
        ({"state_filter": {"states": ["OPEN"]}}, lambda order: order["state"] == "OPEN"),
        (
            {"customer_filter": {"customer_ids": [buyer]}},
            lambda order: order.get("customer_id") == buyer,
        ),
        (
            {"source_filter": {"source_names": ["Acme Kiosk"]}},
            lambda order: order.get("source") == {"name": "Acme Kiosk"},
        ),
    ):
        expected = ids([order for order in exported if wanted(order)])
        assert expected
        assert sorted(ids(everywhere(client, query_of(filters)))) == sorted(expected)
    closed = query_of({"state_filter": {"states": ["COMPLETED", "CANCELED"]}}, "CLOSED_AT")
    assert len(everywhere(client, closed)) == sum("closed_at" in order for order in exported)


def test_an_order_changed_while_pages_are_read_is_not_in_them_but_in_the_next_search(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    """An open end is the time of the first page."""
    places = list(merchant.store.locations)[:1]
    made = [edit(merchant, "add_order", location_id=places[0], state="OPEN") for _ in range(3)]
    since = {"date_time_filter": {"updated_at": {"start_at": made[0]["updated_at"]}}}
    content = {"location_ids": places, "query": query_of(since, "UPDATED_AT"), "limit": 1}
    first = client.post(SEARCH, content)
    later = max(ids(made))
    clock.seconds += 5
    changed = edit(merchant, "complete_order", id=later)
    rest = client.rows(SEARCH, "orders", {**content, "cursor": first["cursor"]})
    assert sorted(ids(first["orders"]) + ids(rest)) == sorted(set(ids(made)) - {later})
    assert client.rows(SEARCH, "orders", content)[-1] == changed


def test_a_late_order_appears_behind_a_cursor_of_creation(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    now = "2026-11-18T11:06:40Z"
    late = edit(merchant, "add_late_order", hours=72)
    assert (late["created_at"], late["updated_at"]) == (
        "2026-11-15T11:06:40.000Z",
        "2026-11-18T11:06:40.000Z",
    )
    very_late = edit(merchant, "add_late_order", hours=50, updated_hours=50)
    assert very_late["created_at"] == very_late["updated_at"] == "2026-11-16T09:06:40.000Z"
    for field, expected in (("CREATED_AT", []), ("UPDATED_AT", [late["id"]])):
        since = {"date_time_filter": {field.lower(): {"start_at": now}}}
        assert ids(everywhere(client, query_of(since, field))) == expected
    overlapping = {"date_time_filter": {"updated_at": {"start_at": "2026-11-15T11:06:40Z"}}}
    assert len(everywhere(client, query_of(overlapping, "UPDATED_AT"))) == 2


def test_the_sums_of_an_order_are_those_of_its_lines() -> None:
    world = World(shops=1, variants=0, clock=lambda: 1.8e9, merchants=8, square_customers=400)
    currencies = set()
    for merchant in world.square_merchants.values():
        for order in merchant.export()["orders"]:
            lines = order.get("line_items", [])
            total = sum(line["total_money"]["amount"] for line in lines)
            tip = order["total_tip_money"]["amount"]
            assert order["total_money"]["amount"] == total + tip
            assert order["total_tax_money"]["amount"] == sum(
                line["total_tax_money"]["amount"] for line in lines
            )
            paid = sum(tender["amount_money"]["amount"] for tender in order.get("tenders", []))
            assert paid == (order["total_money"]["amount"] if order["state"] == "COMPLETED" else 0)
            assert ("closed_at" in order) == (order["state"] != "OPEN")
            currencies.add(order["total_money"]["currency"])
            for line in lines:
                price = line["base_price_money"]["amount"] * int(line["quantity"])
                # Yen prices are with tax, which Square takes out of gross sales in Japan alone of these countries.
                tax = line["total_tax_money"]["amount"] if line["total_money"]["currency"] == "JPY" else 0
                assert line["gross_sales_money"]["amount"] == price - tax
    assert {"USD", "JPY", "BHD"} <= currencies


def test_orders_are_read_by_their_ids(client: SquareClient, merchant: Merchant) -> None:
    first, second = merchant.export()["orders"][:2]
    wanted = {"order_ids": [second["id"], "nothing", first["id"]]}
    assert client.post("orders/batch-retrieve", wanted)["orders"] == [second, first]
    assert client.post("orders/batch-retrieve", {"order_ids": ["nothing"]}) == {}
    assert client.get(f"orders/{first['id']}")["order"] == first
    assert client.refused("GET", "orders/nothing") == (404, "NOT_FOUND", "order_id")
    too_many = {"order_ids": ["x"] * 101}
    assert client.refused("POST", "orders/batch-retrieve", too_many)[1] == "ARRAY_LENGTH_TOO_LONG"
    assert client.refused("POST", "orders/batch-retrieve", {})[1] == "MISSING_REQUIRED_PARAMETER"


def test_a_refund_is_an_order_of_its_own_that_names_the_sale(
    client: SquareClient, merchant: Merchant
) -> None:
    sale = edit(merchant, "add_order", lines=3)
    back = edit(merchant, "refund_order", id=sale["id"], lines=1)
    assert client.get(f"orders/{sale['id']}")["order"] == sale
    [returned] = back["returns"]
    [line] = returned["return_line_items"]
    assert returned["source_order_id"] == sale["id"]
    assert line["source_line_item_uid"] == sale["line_items"][0]["uid"]
    amount = sale["line_items"][0]["total_money"]["amount"]
    assert back["return_amounts"]["total_money"]["amount"] == amount
    assert back["net_amounts"]["total_money"]["amount"] == -amount
    assert back["refunds"][0]["tender_id"] == sale["tenders"][0]["id"]
    assert "line_items" not in back
    whole = edit(merchant, "add_order", lines=2)
    all_back = edit(merchant, "refund_order", id=whole["id"])
    assert all_back["return_amounts"]["total_money"] == whole["total_money"]


def test_an_order_that_no_api_made_has_no_version(client: SquareClient, merchant: Merchant) -> None:
    for order in merchant.export()["orders"]:
        made_by_api = order.get("source", {}).get("name") in {"Square Online", "Acme Kiosk"}
        assert ("version" in order) == made_by_api
