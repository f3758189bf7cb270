"""Random edits of a shop, repeatable: the same seed and history make the same edits."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.edits import add_product, decimals
from bg_pipelines.sandbox.shopify.sales_edits import (
    CANCEL_REASONS,
    add_customer,
    add_order,
    cancel_order,
    delete_customer,
    redact_customer,
    update_customer,
    update_order,
)
from bg_pipelines.sandbox.shopify.sales_seed import LAST_NAMES, ORDER_TAGS, TAGS, some_pieces
from bg_pipelines.sandbox.shopify.seed import money, product_fields
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table

Made = dict[str, str]


def change_at_random(shop: Shop, count: int) -> list[Made]:
    """Make `count` edits; the answer names what was touched."""
    edits = (*CATALOGUE_EDITS, *(SALES_EDITS if shop.has_sales else ()))
    kinds = [edit for edit, _ in edits]
    weights = [weight for _, weight in edits]
    changes = []
    for _ in range(count):
        changes.append(shop.random.choices(kinds, weights)[0](shop, shop.random))
        shop.notifier.flush()
    return changes


def pick(table: Table, random: Random) -> Node | None:
    rows = table.ordered("ID")[1]
    return random.choice(rows) if rows else None


def made(edit: str, row: Node) -> Made:
    return {"edit": edit, "id": str(row["id"])}


# Catalogue and stock


def change_stock(shop: Shop, random: Random) -> Made:
    level = pick(shop.store.levels, random)
    if level is None or not level["isActive"]:
        return change_price(shop, random)
    shop.store.set_quantity(
        level, "available", max(0, level["_quantities"]["available"] + random.choice((-3, -1, 5)))
    )
    return made("set_quantity", level)


def change_price(shop: Shop, random: Random) -> Made:
    variant = pick(shop.store.variants, random)
    if variant is None:
        return add_one(shop, random)
    shop.store.update_variant(variant, {"price": money(random.randint(500, 25000) / 100, decimals(shop))})
    return made("update_variant", variant)


def change_title(shop: Shop, random: Random) -> Made:
    product = pick(shop.store.products, random)
    if product is None:
        return add_one(shop, random)
    shop.store.update_product(product, {"title": product_fields(random)["title"]})
    return made("update_product", product)


def add_one(shop: Shop, random: Random) -> Made:
    return made("add_product", add_product(shop, {"variants": random.randint(1, 3)}))


def drop_variant(shop: Shop, random: Random) -> Made:
    variant = pick(shop.store.variants, random)
    if variant is None:
        return add_one(shop, random)
    if len(variant["product"]["_variants"]) == 1:
        # At the vendor a product keeps at least one variant.
        shop.store.delete_product(variant["product"])
        return made("delete_product", variant["product"])
    shop.store.delete_variant(variant)
    return made("delete_variant", variant)


def drop_product(shop: Shop, random: Random) -> Made:
    product = pick(shop.store.products, random)
    if product is None:
        return add_one(shop, random)
    shop.store.delete_product(product)
    return made("delete_product", product)


def close_level(shop: Shop, random: Random) -> Made:
    level = pick(shop.store.levels, random)
    if level is None:
        return add_one(shop, random)
    shop.store.deactivate_level(level)
    return made("deactivate_level", level)


def rename_one(shop: Shop, random: Random) -> Made:
    location = pick(shop.store.locations, random)
    assert location is not None  # Every shop has two at least, and nothing deletes one.
    shop.store.rename_location(location, f"{location['address']['city']} {random.randint(1, 99)}")
    return made("rename_location", location)


# Customers and orders


def change_customer(shop: Shop, random: Random) -> Made:
    customer = pick(shop.ledger.customers, random)
    if customer is None:
        return join(shop, random)
    wish: dict[str, Any] = random.choice(
        (
            {"lastName": random.choice(LAST_NAMES)},
            {"tags": sorted(random.sample(TAGS, 2))},
            {"note": None},
            {"emailMarketingState": "UNSUBSCRIBED"},
            {"smsMarketingState": "SUBSCRIBED"},
        )
    )
    return made("update_customer", update_customer(shop, {"id": customer["id"], "fields": wish}))


def join(shop: Shop, _random: Random) -> Made:
    return made("add_customer", add_customer(shop, {}))


def leave(shop: Shop, random: Random) -> Made:
    customer = pick(shop.ledger.customers, random)
    if customer is None:
        return join(shop, random)
    if customer["_orders"]:
        return made("redact_customer", redact_customer(shop, customer))
    return made("delete_customer", delete_customer(shop, customer))


def buy(shop: Shop, random: Random) -> Made:
    customer = pick(shop.ledger.customers, random)
    wish = {"customer_id": customer["id"] if customer else None, "lines": random.randint(1, 4)}
    return made("add_order", add_order(shop, wish))


def tag_order(shop: Shop, random: Random) -> Made:
    order = pick(shop.ledger.orders, random)
    if order is None:
        return buy(shop, random)
    fields: dict[str, Any] = {"tags": sorted(random.sample(ORDER_TAGS, 2))}
    if order["displayFulfillmentStatus"] == "UNFULFILLED":
        fields["displayFulfillmentStatus"] = "FULFILLED"
    return made("update_order", update_order(shop, {"id": order["id"], "fields": fields}))


def call_off(shop: Shop, random: Random) -> Made:
    order = pick(shop.ledger.orders, random)
    if order is None or order.get("cancelledAt") is not None:
        return buy(shop, random)
    return made(
        "cancel_order", cancel_order(shop, {"id": order["id"], "reason": random.choice(CANCEL_REASONS)})
    )


def give_back(shop: Shop, random: Random) -> Made:
    order = pick(shop.ledger.orders, random)
    paid = order is not None and order["displayFinancialStatus"] in {"PAID", "PARTIALLY_REFUNDED"}
    if order is None or not paid or not shop.ledger.refundable(order):
        return buy(shop, random)
    shop.ledger.refund_order(order, some_pieces(random, shop.ledger, order))
    return made("refund_order", order)


RandomEdits = tuple[tuple[Callable[[Shop, Random], Made], int], ...]

CATALOGUE_EDITS: RandomEdits = (
    (change_stock, 40),
    (change_price, 25),
    (change_title, 10),
    (add_one, 8),
    (drop_variant, 8),
    (drop_product, 3),
    (close_level, 4),
    (rename_one, 2),
)
SALES_EDITS: RandomEdits = (
    (change_customer, 20),
    (join, 4),
    (leave, 2),
    (buy, 14),
    (tag_order, 6),
    (call_off, 2),
    (give_back, 2),
)
