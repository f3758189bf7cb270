"""Square's rows as records: money, phones, states, returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from bg_pipelines.platforms.square.converters import decimal_text
from bg_pipelines.records import Page, Resource
from bg_pipelines.sandbox import Fault, Merchant, Sandbox, edit
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import (
    Connect,
    Node,
    assert_accounted,
    ids,
    money,
    of_type,
    read,
)

MakeSandbox = Callable[..., Sandbox]


def the(pages: list[Page], external_id: str) -> Any:
    [record] = [record for page in pages for record in page.records if record.external_id == external_id]
    return record


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1250, "USD", "12.50"),
        (-5, "USD", "-0.05"),
        (0, "EUR", "0.00"),
        (1250, "JPY", "1250"),
        (-7, "JPY", "-7"),
        (1250, "BHD", "1.250"),
        (5, "KWD", "0.005"),
        (12345, "CLF", "1.2345"),
    ],
)
def test_money_is_in_the_currencys_smallest_unit(amount: int, currency: str, text: str) -> None:
    assert decimal_text(amount, currency) == text


def test_prices_and_sums_are_right_in_yen_and_dinars(merchants: list[Merchant], connect: Connect) -> None:
    for merchant, currency, digits in ((merchants[2], "JPY", 0), (merchants[3], "BHD", 3)):
        platform = connect(merchant)
        variants = read(platform, Resource.PRODUCT_VARIANTS)
        for row in of_type(merchant.export(), "ITEM_VARIATION"):
            price = row["item_variation_data"].get("price_money")
            held = the(variants, row["id"])
            assert held.currency == currency
            assert held.price == (None if price is None else f"{money(price):.{digits}f}")
        for page in read(platform, Resource.ORDERS):
            for record in page.records:
                assert (record.currency, len(record.total.partition(".")[2])) == (currency, digits)


def test_the_lines_of_an_order_add_up_to_what_was_paid(merchants: list[Merchant], connect: Connect) -> None:
    for merchant in merchants:
        export = {row["id"]: row for row in merchant.export()["orders"]}
        for page in read(connect(merchant), Resource.ORDERS):
            for order in page.records:
                lines = [
                    line
                    for line in page.parts.get("order_lines", [])
                    if line.order_external_id == order.external_id
                ]
                row = export[order.external_id]
                assert len(lines) == len(row.get("line_items", []))
                assert Decimal(order.subtotal) == sum(Decimal(line.total) for line in lines)
                # In Japan Square takes tax out of what was sold even where it is in the price.
                without_tax = order.currency == "JPY" or any(
                    tax["type"] == "ADDITIVE" for tax in row.get("taxes", [])
                )
                added = Decimal(order.tax) if without_tax else 0
                tip = money(row["total_tip_money"])
                assert Decimal(order.total) == Decimal(order.subtotal) + added + tip


@pytest.mark.parametrize(
    ("phone", "address", "expected"),
    [
        ("020 7946 0002", {"country": "GB"}, ("+442079460002", "020 7946 0002")),
        ("030 / 23120002", None, ("+493023120002", "030 / 23120002")),
        ("+493023120002", None, ("+493023120002", None)),
        ("030 23120002 ext. 12", None, ("+493023120002", "030 23120002 ext. 12")),
        ("call the shop", None, (None, "call the shop")),
        ("030 23120002", {"country": "ZZ"}, ("+493023120002", "030 23120002")),
        (None, None, (None, None)),
    ],
)
def test_phones_are_read_as_of_the_customers_country_or_the_merchants(
    merchant: Merchant, connect: Connect, phone: str | None, address: Node | None, expected: tuple[str, str]
) -> None:
    edit(merchant, "add_customer", fields={"phone_number": phone, "address": address, "given_name": "Phone"})
    row = merchant.export()["customers"][-1]
    held = the([connect(merchant).rows(Resource.CUSTOMERS, [row["id"]])], row["id"])
    assert (held.phone, held.phone_given) == expected
    edit(merchant, "delete_customer", id=row["id"])


def test_a_customer_is_held_with_address_and_consent_as_square_tells_them(
    merchant: Merchant, connect: Connect
) -> None:
    rows = merchant.export()["customers"]
    pages = read(connect(merchant), Resource.CUSTOMERS)
    for row in rows:
        held = the(pages, row["id"])
        unsubscribed = row["preferences"]["email_unsubscribed"]
        assert held.email_consent == ("unsubscribed" if unsubscribed else None)
        assert (held.email_verified, held.sms_consent, held.tags) == (False, None, [])
        assert (held.last_name, held.company) == (row.get("family_name"), row.get("company_name"))
        address = row.get("address")
        assert json.loads(held.addresses) == (
            []
            if address is None
            else [
                {
                    "address_1": address["address_line_1"],
                    "city": address["locality"],
                    "postal_code": address["postal_code"],
                    "country_code": address["country"],
                }
            ]
        )


def test_what_was_deleted_from_the_catalogue_is_gone(make_sandbox: MakeSandbox, connect: Connect) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_variants=30, square_orders=0)
    [merchant] = sandbox.world.square_merchants.values()
    platform = connect(merchant)
    [item, other] = of_type(merchant.export(), "ITEM")[:2]
    inside = [row["id"] for row in item["item_data"]["variations"]]
    since = datetime.now(UTC)
    edit(merchant, "delete_item", id=item["id"])
    edit(merchant, "update_item", id=other["id"], fields={"is_archived": True})
    [page] = read(platform, Resource.PRODUCTS, since)
    assert (page.gone, the([page], other["id"]).status) == ([item["id"]], "ARCHIVED")
    [page] = read(platform, Resource.PRODUCT_VARIANTS, since)
    assert sorted(page.gone) == sorted(inside)
    assert item["id"] not in ids(read(platform, Resource.PRODUCTS))


def test_a_return_is_an_order_of_its_own_that_names_the_sale(
    make_sandbox: MakeSandbox, connect: Connect
) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=2, square_variants=40, square_orders=0)
    merchant = list(sandbox.world.square_merchants.values())[1]
    sale = edit(merchant, "add_order", lines=3)
    back = edit(merchant, "refund_order", id=sale["id"], lines=1)
    pages = read(connect(merchant), Resource.ORDERS)
    [refund] = [refund for page in pages for refund in page.parts.get("refunds", [])]
    assert (refund.order_external_id, refund.sale_external_id) == (back["id"], sale["id"])
    assert Decimal(refund.amount) == money(sale["line_items"][0]["total_money"])
    assert (refund.note, refund.refunded_at) == ("Returned goods", back["created_at"])
    assert (the(pages, sale["id"]).is_return, the(pages, back["id"]).is_return) == (False, True)
    assert Decimal(the(pages, sale["id"]).total) == money(sale["total_money"])
    [line] = [
        line
        for page in pages
        for line in page.parts.get("order_lines", [])
        if line.external_id == f"{sale['id']}/{sale['line_items'][0]['uid']}"
    ]
    assert line.quantity == line.current_quantity == sale["line_items"][0]["quantity"]


def test_states_are_told_in_our_words(merchant: Merchant, connect: Connect) -> None:
    words = {"OPEN": "open", "COMPLETED": "closed", "CANCELED": "cancelled"}
    pages = read(connect(merchant), Resource.ORDERS)
    states = {row["id"]: (row["state"], row.get("closed_at")) for row in merchant.export()["orders"]}
    assert {state for state, _ in states.values()} == set(words)
    for order_id, (state, closed_at) in states.items():
        held = the(pages, order_id)
        assert (held.status, held.closed_at) == (words[state], closed_at)
        assert held.cancelled_at == (closed_at if state == "CANCELED" else None)


# What the sandbox never sends

AT = "2026-01-02T03:04:05Z"
USD = {"amount": 500, "currency": "USD"}


def order(**changes: Any) -> Node:
    line = {
        "uid": "a",
        "name": "Rice",
        "quantity": "1.25",
        "catalog_object_id": "V",
        "base_price_money": {"amount": 400, "currency": "USD"},
        "gross_sales_money": USD,
        "total_money": USD,
    }
    times = {"created_at": AT, "updated_at": AT}
    return {
        "id": "ORDER",
        "location_id": "L",
        "state": "OPEN",
        "line_items": [line],
        "total_money": USD,
        **times,
        **changes,
    }


Reading = Callable[..., Page]


@pytest.fixture
def page_of(connect: Connect, serve: Callable[..., ScriptedServer]) -> Reading:
    """The page that a platform makes of these rows of the vendor's."""

    def make(resource: Resource, name: str, *rows: Any, **more: Any) -> Page:
        merchant = {"merchant": {"id": "M", "country": "US", "currency": "USD"}}
        server = serve(
            Reply.of(
                {
                    "locations": [{"id": "L", "created_at": AT, "name": "x", "status": "ACTIVE"}],
                    name: list(rows),
                    **merchant,
                    **more,
                }
            )
        )
        [page] = connect(token="EAAA", base_url=server.url).pages(resource, since=None, resume=None)
        assert_accounted([page])
        return page

    return make


def test_a_quantity_may_be_a_part_and_a_line_may_have_no_name(page_of: Reading) -> None:
    plain = order()
    nameless = {**plain["line_items"][0], "uid": "b", "item_type": "CUSTOM_AMOUNT"}
    del nameless["name"]
    page = page_of(Resource.ORDERS, "orders", {**plain, "line_items": [*plain["line_items"], nameless]})
    [first, second] = page.parts["order_lines"]
    assert (first.external_id, first.quantity, first.total) == ("ORDER/a", "1.25", "5.00")
    assert (second.title, second.variant_external_id) == ("Custom amount", "V")


def test_a_draft_is_no_order_yet_and_an_unknown_state_is_told(page_of: Reading) -> None:
    page = page_of(Resource.ORDERS, "orders", order(state="DRAFT"), order(id="NEW", state="PAUSED"))
    assert page.gone == ["ORDER"]
    [reject] = page.rejects
    assert (reject.external_id, reject.payload) == ("NEW", order(id="NEW", state="PAUSED"))
    assert reject.reason.startswith("state: ")
    assert "PAUSED" not in reject.reason


def test_an_exchange_is_a_sale_with_a_refund(page_of: Reading) -> None:
    back = {"uid": "r", "source_order_id": "SALE", "return_line_items": []}
    page = page_of(Resource.ORDERS, "orders", order(returns=[back], return_amounts={"total_money": USD}))
    [refund] = page.parts["refunds"]
    assert (refund.amount, refund.sale_external_id, refund.refunded_at) == ("5.00", "SALE", AT)
    assert page.records[0].is_return is False


@pytest.mark.parametrize(
    ("state", "statuses", "came_back"),
    [
        ("COMPLETED", [], True),
        ("COMPLETED", ["FAILED", "APPROVED"], True),
        ("OPEN", ["PENDING"], True),
        ("COMPLETED", ["FAILED", "REJECTED"], False),
        ("CANCELED", [], False),
    ],
)
def test_a_return_that_came_to_nothing_makes_no_refund(
    page_of: Reading, state: str, statuses: list[str], came_back: bool
) -> None:
    back = {"uid": "r", "source_order_id": "SALE", "return_amounts": {"total_money": USD}}
    refunds = [
        {"id": str(number), "amount_money": USD, "status": status} for number, status in enumerate(statuses)
    ]
    page = page_of(
        Resource.ORDERS, "orders", order(state=state, line_items=[], returns=[back], refunds=refunds)
    )
    assert [refund.amount for refund in page.parts.get("refunds", [])] == ["5.00"] * came_back
    assert page.records[0].is_return is True


def test_money_that_was_paid_back_for_no_goods_is_a_refund_of_its_order(page_of: Reading) -> None:
    refunds = [
        {"id": "r1", "amount_money": USD, "status": "APPROVED", "reason": "sorry", "created_at": AT},
        {"id": "r2", "amount_money": USD, "status": "FAILED", "reason": "sorry", "created_at": AT},
    ]
    page = page_of(Resource.ORDERS, "orders", order(refunds=refunds))
    [refund] = page.parts["refunds"]
    assert (refund.external_id, refund.sale_external_id, refund.note) == ("ORDER/r1", "ORDER", "sorry")


def test_an_order_is_called_as_its_ticket_or_as_its_receipt(page_of: Reading) -> None:
    tender = {"id": "VnzFabc", "customer_id": "C"}
    page = page_of(Resource.ORDERS, "orders", order(ticket_name="Table 7"), order(id="B", tenders=[tender]))
    assert [(row.name, row.customer_external_id) for row in page.records] == [
        ("Table 7", None),
        ("#VnzF", "C"),
    ]


def test_an_item_is_of_the_category_that_it_is_reported_under(page_of: Reading) -> None:
    item = {"type": "ITEM", "id": "I", "updated_at": AT}
    item["item_data"] = {"name": "Rice", "reporting_category": {"id": "C"}}
    other = {**item, "id": "J", "item_data": {"name": "Tea"}}
    category = {"type": "CATEGORY", "id": "C", "category_data": {"name": "Grain"}}
    page = page_of(Resource.PRODUCTS, "objects", item, other, related_objects=[category, None, {"id": 1}])
    assert [row.product_type for row in page.records] == ["Grain", ""]


def test_stock_that_is_weighed_is_rejected_by_name(page_of: Reading) -> None:
    count = {"catalog_object_id": "V", "location_id": "L", "state": "IN_STOCK", "calculated_at": AT}
    rows = [{**count, "quantity": "1.5"}, {**count, "location_id": "M", "quantity": "-2.00"}]
    page = page_of(Resource.INVENTORY_LEVELS, "counts", *rows)
    assert [(row.external_id, row.available, row.on_hand) for row in page.records] == [("V@M", -2, -2)]
    [reject] = page.rejects
    assert (reject.external_id, reject.reason.partition(":")[0]) == ("V@L", "quantity")


@pytest.mark.parametrize(
    "row", [None, 5, "row", [], {}, {"id": 5}, {"id": "x"}, {"id": "x", "updated_at": 5}]
)
@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (Resource.PRODUCTS, "objects"),
        (Resource.PRODUCT_VARIANTS, "objects"),
        (Resource.INVENTORY_LEVELS, "counts"),
        (Resource.CUSTOMERS, "customers"),
        (Resource.ORDERS, "orders"),
        (Resource.LOCATIONS, "locations"),
    ],
)
def test_a_row_that_is_none_is_a_reject_and_no_more(
    page_of: Reading, resource: Resource, name: str, row: Any
) -> None:
    rows = (
        [row, {"id": "L", "created_at": AT, "name": "x", "status": "ACTIVE"}]
        if name == "locations"
        else [row]
    )
    page = page_of(resource, name, *rows)
    [reject] = page.rejects
    assert (reject.payload, page.gone) == (row, [])
    assert "correct it at the source" in reject.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_price_money": None}, "line_items[0].base_price_money: "),
        ({"base_price_money": {"amount": "4.00", "currency": "USD"}}, "line_items[0].base_price_money: "),
        ({"base_price_money": {"amount": 400}}, "line_items[0].base_price_money: "),
        ({"gross_sales_money": {"amount": 4.5}}, "line_items[0].gross_sales_money: "),
        ({"total_discount_money": {"amount": True}}, "line_items[0].total_discount_money: "),
        ({"uid": None}, "line_items[0].uid: "),
    ],
)
def test_nonsense_in_a_line_rejects_its_order_whole_and_names_the_place(
    page_of: Reading, changes: Node, reason: str
) -> None:
    plain = order()
    spoiled = {**plain, "line_items": [{**plain["line_items"][0], **changes}]}
    page = page_of(Resource.ORDERS, "orders", spoiled, order(id="GOOD"))
    [reject] = page.rejects
    assert reject.external_id == "ORDER"
    assert reject.reason.startswith(reason)
    assert [row.external_id for row in page.records] == ["GOOD"]
    assert {line.order_external_id for line in page.parts["order_lines"]} == {"GOOD"}


@pytest.mark.parametrize(
    ("resource", "field", "operation"),
    [
        (Resource.ORDERS, "updated_at", "SearchOrders"),
        (Resource.CUSTOMERS, "updated_at", "SearchCustomers"),
        (Resource.CUSTOMERS, "id", "SearchCustomers"),
        (Resource.PRODUCTS, "item_data", "SearchCatalogObjects"),
        (Resource.PRODUCT_VARIANTS, "item_variation_data.price_money", "SearchCatalogObjects"),
        (Resource.INVENTORY_LEVELS, "quantity", "BatchRetrieveInventoryCounts"),
        (Resource.INVENTORY_LEVELS, "location_id", "BatchRetrieveInventoryCounts"),
    ],
)
def test_a_null_where_a_value_belongs_rejects_its_row_and_no_other(
    merchant: Merchant, connect: Connect, resource: Resource, field: str, operation: str
) -> None:
    whole = read(connect(merchant), resource)
    merchant.faults.append(Fault("null_field", field=field, row=1, times=1, operation=operation))
    pages = read(connect(merchant), resource)
    assert_accounted(pages)
    [reject] = [reject for page in pages for reject in page.rejects]
    assert field.rpartition(".")[2] in reject.reason or field == "item_data"
    assert len(ids(pages)) == len(ids(whole)) - 1
