"""Rows as the API shows them: what is kept short is spelt out, and a row of another table appears as its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.shopify.ledger import CUSTOMER_NULLABLE, ORDER_NULLABLE, STEP, Ledger, Line
from bg_pipelines.sandbox.shopify.store import Store, gid

# Catalogue and stock


def catalogue_tables(store: Store) -> dict[str, Callable[[], Any]]:
    """Every row by its table; each table is made when it is called for."""
    return {
        "shop": lambda: shown(store.shop),
        "locations": lambda: [shown(row) for row in store.locations.ordered("ID")[1]],
        "products": lambda: [shown(row) for row in store.products.ordered("ID")[1]],
        "product_variants": lambda: [show_variant(row) for row in store.variants.ordered("ID")[1]],
        "inventory_levels": lambda: [show_level(row) for row in store.levels.ordered("ID")[1]],
    }


def show_variant(variant: Node) -> Node:
    return shown(variant) | {
        "inventoryItem": shown(variant["inventoryItem"]),
        "product": {"id": variant["product"]["id"]},
    }


def show_level(row: Node) -> Node:
    return shown(row) | {
        "item": {"id": row["item"]["id"]},
        "location": {"id": row["location"]["id"]},
        "quantities": show_quantities(row, row["_quantities"]),
    }


def show_quantities(level: Node, names: Iterable[str]) -> list[Node]:
    quantities = level["_quantities"]
    return [
        {"name": name, "quantity": quantities[name], "updatedAt": level["updatedAt"]}
        for name in names
        if name in quantities
    ]


# Customers and orders


def show_customers(ledger: Ledger) -> list[Node]:
    return [show_customer(row) for row in ledger.customers.ordered("ID")[1]]


def show_orders(ledger: Ledger) -> list[Node]:
    return [show_order(ledger, row) for row in ledger.orders.ordered("ID")[1]]


def show_customer(row: Node) -> Node:
    return dict.fromkeys(CUSTOMER_NULLABLE) | {
        **shown(row),
        "lastOrder": reference(row.get("lastOrder")),
        "defaultAddress": None if row.get("defaultAddress") is None else shown(row["defaultAddress"]),
        "addressesV2": [shown(address) for address in row["_addresses"]],
    }


def show_order(ledger: Ledger, row: Node) -> Node:
    """With its lines and refunds in full."""
    return dict.fromkeys(ORDER_NULLABLE) | {
        **shown(row),
        "customer": reference(row.get("customer")),
        "retailLocation": reference(row.get("retailLocation")),
        "lineItems": [
            shown(line) | {name: reference(line[name]) for name in ("product", "variant")}
            for line in order_lines(ledger, row)
        ],
        "refunds": [
            {
                **shown(refund),
                "order": {"id": row["id"]},
                "refundLineItems": [
                    shown(line) | {"lineItem": {"id": line["lineItem"]["id"]}}
                    for line in refund_lines(ledger, refund)
                ],
            }
            for refund in row["_refunds"]
        ],
    }


def order_lines(ledger: Ledger, order: Node) -> list[Node]:
    left = ledger.refundable(order) if order["_refunds"] else None
    return [order_line(ledger, order, index, left) for index in range(len(order["_lines"]))]


def order_line(ledger: Ledger, order: Node, index: int, left: dict[int, int] | None) -> Node:
    """`left` is what can still be refunded, by the line's place; None if nothing was."""
    line: Line = order["_lines"][index]
    good = line.good
    number = order["_first_line"] + index * STEP
    current = line.quantity if left is None else left.get(index, 0)
    presentment, bag = order["presentmentCurrencyCode"], ledger.money.bag
    return {
        "id": gid("LineItem", number),
        "_key": (number,),
        "title": good.title,
        "variantTitle": good.variant_title,
        "name": good.title if good.variant_title is None else f"{good.title} - {good.variant_title}",
        "sku": good.sku,
        "vendor": good.vendor,
        "quantity": line.quantity,
        "currentQuantity": current,
        "refundableQuantity": current,
        "requiresShipping": True,
        "taxable": True,
        "isGiftCard": False,
        "originalUnitPriceSet": bag(good.units, presentment),
        "originalTotalSet": bag(good.units * line.quantity, presentment),
        "discountedUnitPriceSet": bag(line.price, presentment),
        "discountedTotalSet": bag(line.price * line.quantity, presentment),
        "totalDiscountSet": bag(line.discount * line.quantity, presentment),
        "product": ledger.store.products.get(good.product_id),
        "variant": ledger.store.variants.get(good.variant_id),
    }


def refund_lines(ledger: Ledger, refund: Node) -> list[Node]:
    order = refund["order"]
    left = ledger.refundable(order)
    presentment, bag = order["presentmentCurrencyCode"], ledger.money.bag
    return [
        {
            "id": gid("RefundLineItem", entry.number),
            "_key": (entry.number,),
            "lineItem": order_line(ledger, order, entry.line, left),
            "quantity": entry.quantity,
            "restockType": "NO_RESTOCK",
            "restocked": False,
            "priceSet": bag(order["_lines"][entry.line].price, presentment),
            "subtotalSet": bag(entry.subtotal, presentment),
            "totalTaxSet": bag(entry.tax, presentment),
        }
        for entry in refund["_lines"]
    ]


def reference(row: Node | None) -> Node | None:
    return None if row is None else {"id": row["id"]}
