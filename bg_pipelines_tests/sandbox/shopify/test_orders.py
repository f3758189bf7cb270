"""Orders with their lines and refunds: read, searched and edited."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from bg_pipelines.sandbox import RejectedError, Shop, World, change, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import START, HandClock

MONEY = "{ shopMoney { amount currencyCode } presentmentMoney { amount currencyCode } }"
LINE = f"""id title variantTitle name sku vendor quantity currentQuantity refundableQuantity requiresShipping taxable
  isGiftCard product {{ id }} variant {{ id }} originalUnitPriceSet {MONEY} originalTotalSet {MONEY}
  discountedUnitPriceSet {MONEY} discountedTotalSet {MONEY} totalDiscountSet {MONEY}"""
ORDERS = f"""query Orders($first: Int, $after: String, $query: String, $sort: OrderSortKeys = ID) {{
  orders(first: $first, after: $after, query: $query, sortKey: $sort) {{
    nodes {{ id name number createdAt updatedAt processedAt cancelledAt cancelReason closedAt currencyCode
      presentmentCurrencyCode displayFinancialStatus displayFulfillmentStatus email phone note sourceName tags test
      customer {{ id }} retailLocation {{ id }}
      totalPriceSet {MONEY} subtotalPriceSet {MONEY} totalTaxSet {MONEY} totalDiscountsSet {MONEY}
      totalRefundedSet {MONEY} currentTotalPriceSet {MONEY}
      lineItems(first: 20) {{ nodes {{ {LINE} }} }}
      refunds(first: 20) {{ id createdAt updatedAt processedAt order {{ id }} totalRefundedSet {MONEY}
        refundLineItems(first: 20) {{ nodes {{ id quantity restockType restocked lineItem {{ id }}
          priceSet {MONEY} subtotalSet {MONEY} totalTaxSet {MONEY} }} }} }} }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}"""
LINES = """query Lines($id: ID!, $after: String) { order(id: $id) { lineItems(first: 70, after: $after) {
  nodes { id quantity } pageInfo { hasNextPage endCursor } } } }"""


def as_exported(node: dict[str, Any]) -> dict[str, Any]:
    refunds = [refund | {"refundLineItems": refund["refundLineItems"]["nodes"]} for refund in node["refunds"]]
    return node | {"lineItems": node["lineItems"]["nodes"], "refunds": refunds}


def amount(bag: dict[str, Any], side: str = "shopMoney") -> Decimal:
    return Decimal(bag[side]["amount"])


def order_now(shop: Shop, order_id: str) -> dict[str, Any]:
    return next(order for order in shop.export()["orders"] if order["id"] == order_id)


def buyer_of(shop: Shop, order: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in shop.export()["customers"] if row["id"] == order["customer"]["id"])


def paid(shop: Shop) -> dict[str, Any]:
    """An order that was paid, by a customer we know, with several lines."""
    return next(
        order
        for order in shop.export()["orders"]
        if order["displayFinancialStatus"] == "PAID"
        and order["customer"]
        and len(order["lineItems"]) > 1
        and not order["test"]
    )


def test_paging_to_the_end_gives_the_export(client: Client, shop: Shop) -> None:
    edit(shop, "set_budget", maximum=100_000, restore=100_000)
    export = client.admin("GET", f"shops/{shop.domain}/export").json()["orders"]
    read = [as_exported(node) for node in client.pages(ORDERS, "orders", first=9)]
    short = [order for order in export if len(order["lineItems"]) <= 20]
    assert [order for order in read if len(order["lineItems"]) < 20] == short
    assert [order["id"] for order in read] == [order["id"] for order in export]
    assert client.ask("{ ordersCount { count } }")["ordersCount"] == {"count": len(export)}
    (long,) = [order for order in export if len(order["lineItems"]) > 20]
    lines, after, more = [], None, True
    while more:
        page = client.ask(LINES, id=long["id"], after=after)["order"]["lineItems"]
        lines += page["nodes"]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert len(lines) == 300
    assert lines == [{"id": line["id"], "quantity": line["quantity"]} for line in long["lineItems"]]


def test_every_orders_sums_are_right_in_every_currency() -> None:
    shops = World(shops=4, variants=80, customers=400, clock=lambda: START).shops.values()
    seen: set[str] = set()
    for shop in shops:
        export = shop.export()
        spent = dict.fromkeys((row["id"] for row in export["customers"]), Decimal(0))
        for order in export["orders"]:
            seen |= {order["displayFinancialStatus"], order["sourceName"], order["cancelReason"] or "kept"}
            assert amount(order["totalPriceSet"]) == amount(order["subtotalPriceSet"]) + amount(
                order["totalTaxSet"]
            )
            lines = order["lineItems"]
            assert amount(order["subtotalPriceSet"]) == sum(
                amount(line["discountedTotalSet"]) for line in lines
            )
            assert amount(order["totalDiscountsSet"]) == sum(
                amount(line["totalDiscountSet"]) for line in lines
            )
            refunded = sum(amount(refund["totalRefundedSet"]) for refund in order["refunds"])
            assert amount(order["totalRefundedSet"]) == refunded
            left = amount(order["totalPriceSet"]) - refunded
            if order["displayFinancialStatus"] != "VOIDED":
                assert amount(order["currentTotalPriceSet"]) == left
            given_back = sum(
                line["quantity"] for refund in order["refunds"] for line in refund["refundLineItems"]
            )
            assert sum(line["quantity"] - line["currentQuantity"] for line in lines) == given_back
            assert (order["retailLocation"] is not None) == (order["sourceName"] == "pos")
            if (
                order["displayFinancialStatus"] in {"PAID", "PARTIALLY_REFUNDED"}
                and order["customer"]
                and not order["test"]
            ):
                spent[order["customer"]["id"]] += left
        assert spent == {row["id"]: Decimal(row["amountSpent"]["amount"]) for row in export["customers"]}
        currency = export["shop"]["currencyCode"]
        amounts = [order["totalPriceSet"]["shopMoney"]["amount"] for order in export["orders"]]
        assert max(len(one.partition(".")[2]) for one in amounts) == {"JPY": 1, "BHD": 3}.get(currency, 2)
        assert any(order["presentmentCurrencyCode"] != currency for order in export["orders"])
        assert any(order["customer"] is None for order in export["orders"])
    assert {
        "PAID",
        "PENDING",
        "PARTIALLY_REFUNDED",
        "REFUNDED",
        "VOIDED",
        "pos",
        "web",
        "CUSTOMER",
        "kept",
    } <= seen


def test_orders_come_in_the_order_that_is_wanted(client: Client, shop: Shop) -> None:
    for sort, name in (
        ("PROCESSED_AT", "processedAt"),
        ("UPDATED_AT", "updatedAt"),
        ("ORDER_NUMBER", "number"),
    ):
        nodes = client.pages(
            "query($after: String, $sort: OrderSortKeys) { orders(first: 50, after: $after, sortKey: $sort) {"
            f" nodes {{ id {name} }} pageInfo {{ hasNextPage endCursor }} }} }}",
            "orders",
            sort=sort,
        )
        assert len(nodes) == len(shop.ledger.orders)
        assert [node[name] for node in nodes] == sorted(node[name] for node in nodes)


def test_orders_are_found_by_what_they_are(client: Client, shop: Shop) -> None:
    orders = shop.export()["orders"]

    def found(query: str) -> set[str]:
        text = "query($q: String, $after: String) { orders(first: 99, query: $q, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }"
        return {node["id"] for node in client.pages(text, "orders", q=query)}

    def those(test: Any) -> set[str]:
        return {order["id"] for order in orders if test(order)}

    buyer = next(order["customer"]["id"] for order in orders if order["customer"])
    assert found(f"customer_id:{buyer.rsplit('/')[-1]}") == those(
        lambda order: order["customer"] == {"id": buyer}
    )
    assert found("status:cancelled") == those(lambda order: order["cancelledAt"])
    assert found("status:open") == those(lambda order: not order["cancelledAt"] and not order["closedAt"])
    assert found("status:any") == those(lambda order: True)
    assert found("financial_status:pending") == those(lambda o: o["displayFinancialStatus"] == "PENDING")
    assert found("source_name:pos fulfillment_status:fulfilled") == those(
        lambda o: o["sourceName"] == "pos" and o["displayFulfillmentStatus"] == "FULFILLED"
    )
    assert found(f"name:'{orders[4]['name']}'") == {orders[4]["id"]}
    since = orders[len(orders) // 2]["createdAt"]
    assert found(f"created_at:>='{since}'") == those(lambda order: order["createdAt"] >= since)
    of_one = client.ask(
        "query($id: ID!) { customer(id: $id) { orders(first: 250) { nodes { id } } } }", id=buyer
    )["customer"]["orders"]["nodes"]
    assert {node["id"] for node in of_one} == those(lambda order: order["customer"] == {"id": buyer})


def test_old_orders_are_shown_only_to_those_who_may_see_all(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    clock.seconds = START
    everything = client.ask("{ ordersCount { count } }")["ordersCount"]["count"]
    new = edit(shop, "add_order")
    old = shop.export()["orders"][0]
    edit(shop, "set_scopes", scopes=["read_orders", "read_customers"])
    recent = client.pages(ORDERS, "orders", first=9)
    assert {"id": new["id"]} in [{"id": node["id"]} for node in recent]
    assert len(recent) < everything
    assert min(node["createdAt"] for node in recent) >= shop.clock.stamp(60 * 86400)
    ask = "query($id: ID!) { order(id: $id) { id } }"
    assert client.ask(ask, id=old["id"]) == {"order": None}
    assert client.ask(ask, id=new["id"]) == {"order": {"id": new["id"]}}


def test_a_new_order_makes_its_customer_newer(client: Client, shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    customer = shop.export()["customers"][2]
    fields = {"tags": ["rush"], "displayFinancialStatus": "PAID"}
    wish = {"edit": "add_order", "customer_id": customer["id"], "lines": 3, "fields": fields}
    order = client.admin("POST", f"shops/{shop.domain}/edits", wish).json()
    assert (len(order["lineItems"]), order["tags"], order["customer"]) == (
        3,
        ["rush"],
        {"id": customer["id"]},
    )
    buyer = buyer_of(shop, order)
    assert buyer["updatedAt"] == order["createdAt"] == shop.clock.stamp()
    assert buyer["lastOrder"] == {"id": order["id"]}
    if not order["test"]:
        assert int(buyer["numberOfOrders"]) == int(customer["numberOfOrders"]) + 1
    assert order == order_now(shop, order["id"])


def test_an_orders_tags_make_it_newer_but_not_its_customer(shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    order = paid(shop)
    before = buyer_of(shop, order)
    edited = edit(shop, "update_order", id=order["id"], fields={"tags": ["x"], "email": None})
    assert (edited["tags"], edited["email"], edited["updatedAt"]) == (["x"], None, shop.clock.stamp())
    assert buyer_of(shop, order) == before


def test_a_refund_is_taken_from_what_was_spent(shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    order = paid(shop)
    before, line = buyer_of(shop, order), order["lineItems"][1]
    edited = edit(shop, "refund_order", id=order["id"], lines={line["id"]: line["quantity"]})
    (refund,) = edited["refunds"]
    assert [(one["lineItem"]["id"], one["quantity"]) for one in refund["refundLineItems"]] == [
        (line["id"], line["quantity"])
    ]
    assert edited["displayFinancialStatus"] == "PARTIALLY_REFUNDED"
    assert edited["lineItems"][1]["currentQuantity"] == 0
    after = buyer_of(shop, order)
    assert Decimal(before["amountSpent"]["amount"]) - Decimal(after["amountSpent"]["amount"]) == amount(
        refund["totalRefundedSet"]
    )
    assert after["updatedAt"] == shop.clock.stamp()
    rest = {one["id"]: one["currentQuantity"] for one in edited["lineItems"] if one["currentQuantity"]}
    edited = edit(shop, "refund_order", id=order["id"], lines=rest)
    assert edited["displayFinancialStatus"] == "REFUNDED"
    assert amount(edited["totalRefundedSet"]) == amount(edited["totalPriceSet"])
    with pytest.raises(RejectedError, match="nothing of it"):
        edit(shop, "refund_order", id=order["id"])


def test_pieces_that_staff_take_off_are_owed_no_more_and_nothing_is_paid_back(
    shop: Shop, clock: HandClock
) -> None:
    clock.seconds += 60
    order = edit(shop, "add_order", lines=2, fields={"displayFinancialStatus": "PENDING"})
    line = order["lineItems"][0]
    edited = edit(shop, "edit_order", id=order["id"], lines={line["id"]: line["quantity"]})
    assert edited["lineItems"][0]["currentQuantity"] == 0
    assert edited["lineItems"][0]["quantity"] == line["quantity"]
    assert edited["totalPriceSet"] == order["totalPriceSet"]
    assert 0 < amount(edited["currentTotalPriceSet"]) < amount(order["currentTotalPriceSet"])
    assert edited["displayFinancialStatus"] == "PENDING"
    assert [amount(refund["totalRefundedSet"]) for refund in edited["refunds"]] == [0]
    assert amount(edited["totalRefundedSet"]) == 0
    rest = {one["id"]: one["currentQuantity"] for one in edited["lineItems"] if one["currentQuantity"]}
    edited = edit(shop, "edit_order", id=order["id"], lines=rest)
    assert amount(edited["currentTotalPriceSet"]) == 0
    with pytest.raises(RejectedError, match="nothing of it"):
        edit(shop, "edit_order", id=order["id"])


def test_a_cancelled_order_is_given_back_whole(shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    order = paid(shop)
    edited = edit(shop, "cancel_order", id=order["id"], reason="FRAUD")
    assert (edited["cancelReason"], edited["cancelledAt"]) == ("FRAUD", shop.clock.stamp())
    assert edited["displayFinancialStatus"] == "REFUNDED"
    assert amount(edited["currentTotalPriceSet"]) == 0
    with pytest.raises(RejectedError, match="already"):
        edit(shop, "cancel_order", id=order["id"])
    with pytest.raises(RejectedError, match="reason"):
        edit(shop, "cancel_order", id=order["id"], reason="WHIM")
    unpaid = next(one for one in shop.export()["orders"] if one["displayFinancialStatus"] == "PENDING")
    assert edit(shop, "cancel_order", id=unpaid["id"])["displayFinancialStatus"] == "VOIDED"


def test_random_changes_reach_customers_and_orders_and_repeat(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    twin = World(shops=2, variants=90, seed=7, clock=clock).shops[shop.domain]
    clock.seconds += 60
    made = change(shop, 400)
    assert {one["edit"] for one in made} >= {
        "add_customer",
        "update_customer",
        "redact_customer",
        "add_order",
        "update_order",
        "cancel_order",
        "refund_order",
    }
    assert change(twin, 400) == made
    assert twin.export() == shop.export()
    edit(shop, "set_budget", maximum=100_000, restore=100_000)
    export = shop.export()
    read = {node["id"]: as_exported(node) for node in client.pages(ORDERS, "orders", first=9)}
    assert [read[order["id"]] for order in export["orders"] if len(order["lineItems"]) < 20] == [
        order for order in export["orders"] if len(order["lineItems"]) < 20
    ]
    known = {row["id"] for row in export["customers"]}
    assert all(order["customer"] is None or order["customer"]["id"] in known for order in export["orders"])


def test_a_world_without_customers_has_none_and_keeps_none(clock: HandClock) -> None:
    shop = next(iter(World(shops=1, variants=30, customers=0, clock=clock).shops.values()))
    assert {"add_customer", "add_order"}.isdisjoint(one["edit"] for one in change(shop, 200))
    assert shop.export()["customers"] == shop.export()["orders"] == []
    for wrong in ({"customers": -1}, {"orders_per_customer": -1.0}):
        with pytest.raises(RejectedError, match=next(iter(wrong))):
            World(shops=1, **wrong)  # type: ignore[arg-type]
