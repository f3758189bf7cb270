"""Edit a shop's customers and orders as its staff and its buyers would: exactly, or at random but repeatably."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from bg_pipelines.sandbox.errors import RejectedError
from bg_pipelines.sandbox.faults import whole
from bg_pipelines.sandbox.ledger import Ledger
from bg_pipelines.sandbox.sales_seed import LAST_NAMES, ORDER_TAGS, TAGS, some_pieces
from bg_pipelines.sandbox.table import Node, Table

if TYPE_CHECKING:
    from bg_pipelines.sandbox.shop import Shop

EMAIL_STATES = ("INVALID", "NOT_SUBSCRIBED", "PENDING", "SUBSCRIBED", "UNSUBSCRIBED")
SMS_STATES = ("NOT_SUBSCRIBED", "PENDING", "REDACTED", "SUBSCRIBED", "UNSUBSCRIBED")
CANCEL_REASONS = ("CUSTOMER", "DECLINED", "FRAUD", "INVENTORY", "OTHER", "STAFF")
# What may be written: a text, a text or null, a list of texts, yes or no, or one of these.
TEXT, TEXT_OR_NULL, TEXTS, YES_OR_NO = "a text", "a text or null", "a list of texts", "true or false"
CUSTOMER_FIELDS: dict[str, str | tuple[str, ...]] = {
    "firstName": TEXT_OR_NULL,
    "lastName": TEXT_OR_NULL,
    "email": TEXT_OR_NULL,
    "phone": TEXT_OR_NULL,
    "note": TEXT_OR_NULL,
    "tags": TEXTS,
    "locale": TEXT,
    "state": ("DECLINED", "DISABLED", "ENABLED", "INVITED"),
    "taxExempt": YES_OR_NO,
    "verifiedEmail": YES_OR_NO,
    "emailMarketingState": EMAIL_STATES,
    "smsMarketingState": SMS_STATES,
}
ORDER_FIELDS: dict[str, str | tuple[str, ...]] = {
    "email": TEXT_OR_NULL,
    "phone": TEXT_OR_NULL,
    "note": TEXT_OR_NULL,
    "tags": TEXTS,
    "sourceName": TEXT,
    "processedAt": TEXT,
    "closedAt": TEXT_OR_NULL,
    "displayFinancialStatus": ("AUTHORIZED", "EXPIRED", "PAID", "PARTIALLY_PAID", "PENDING", "VOIDED"),
    "displayFulfillmentStatus": ("FULFILLED", "ON_HOLD", "PARTIALLY_FULFILLED", "UNFULFILLED"),
}


def add_customer(shop: Shop, fields: dict[str, Any]) -> Node:
    given = changes(fields, CUSTOMER_FIELDS) if "fields" in fields else {}
    made = shop.sales_seed.customer_fields(shop.random, len(shop.ledger.customers), shop.sales_seed.now)
    row = shop.ledger.add_customer(made | given, at=shop.clock.stamp())
    shop.ledger.add_address(row, shop.sales_seed.address(shop.random, row))
    return shop.ledger.show_customer(row)


def update_customer(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.customers, fields)
    shop.ledger.update_customer(row, changes(fields, CUSTOMER_FIELDS))
    return shop.ledger.show_customer(row)


def delete_customer(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.customers, fields)
    if row["_orders"]:
        # At the vendor too.
        raise RejectedError("id", "a customer with orders cannot be deleted; redact or merge it")
    shop.ledger.delete_customer(row)
    return {"id": row["id"]}


def redact_customer(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.customers, fields)
    shop.ledger.redact_customer(row)
    return shop.ledger.show_customer(row)


def merge_customers(shop: Shop, fields: dict[str, Any]) -> Node:
    row, into = find(shop.ledger.customers, fields), find(shop.ledger.customers, fields, "into")
    if row is into:
        raise RejectedError("into", "must be another customer")
    shop.ledger.merge_customers(row, into)
    return shop.ledger.show_customer(into)


def add_order(shop: Shop, fields: dict[str, Any]) -> Node:
    count = fields.get("lines", 1)
    if not whole(count):
        raise RejectedError("lines", "must be a whole number, 0 or more")
    given = changes(fields, ORDER_FIELDS) if "fields" in fields else {}
    has_buyer = fields.get("customer_id") is not None
    buyer = find(shop.ledger.customers, fields, "customer_id") if has_buyer else None
    return shop.ledger.show_order(shop.sales_seed.new_order(shop.ledger, shop.random, buyer, given, count))


def update_order(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.orders, fields)
    shop.ledger.update_order(row, changes(fields, ORDER_FIELDS))
    return shop.ledger.show_order(row)


def cancel_order(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.orders, fields)
    reason = fields.get("reason", "CUSTOMER")
    if reason not in CANCEL_REASONS:
        raise RejectedError("reason", f"{reason!r} is none of {', '.join(CANCEL_REASONS)}")
    if row.get("cancelledAt") is not None:
        raise RejectedError("id", "it is cancelled already")
    shop.ledger.cancel_order(row, reason)
    return shop.ledger.show_order(row)


def refund_order(shop: Shop, fields: dict[str, Any]) -> Node:
    row = find(shop.ledger.orders, fields)
    left = shop.ledger.refundable(row)
    if not left or row["displayFinancialStatus"] not in {"PAID", "PARTIALLY_REFUNDED"}:
        raise RejectedError("id", "nothing of it can be refunded")
    shop.ledger.refund_order(row, pieces(shop.ledger, row, left, fields.get("lines")))
    return shop.ledger.show_order(row)


def pieces(ledger: Ledger, order: Node, left: dict[int, int], given: Any) -> dict[int, int]:
    """How many pieces of which line: what was told, or else one of the first that is left."""
    if given is None:
        return {next(iter(left)): 1}
    if not isinstance(given, dict) or not given:
        raise RejectedError("lines", "must be a JSON object of quantities by the line's id")
    places = {line["id"]: index for index, line in enumerate(ledger.lines(order))}
    wanted = {}
    for line_id, quantity in given.items():
        index = places.get(line_id, -1)
        if not whole(quantity) or not 1 <= quantity <= left.get(index, 0):
            raise RejectedError("lines", f"{line_id!r} has no {quantity!r} pieces left")
        wanted[index] = quantity
    return wanted


EDITS = {
    "add_customer": (add_customer, ("fields",)),
    "update_customer": (update_customer, ("id", "fields")),
    "delete_customer": (delete_customer, ("id",)),
    "redact_customer": (redact_customer, ("id",)),
    "merge_customers": (merge_customers, ("id", "into")),
    "add_order": (add_order, ("customer_id", "lines", "fields")),
    "update_order": (update_order, ("id", "fields")),
    "cancel_order": (cancel_order, ("id", "reason")),
    "refund_order": (refund_order, ("id", "lines")),
}


def find(table: Table, fields: dict[str, Any], field: str = "id") -> Node:
    row = table.get(str(fields.get(field)))
    if row is None:
        raise RejectedError(field, f"there is no {fields.get(field)!r} in this shop")
    return row


def changes(fields: dict[str, Any], allowed: dict[str, str | tuple[str, ...]]) -> dict[str, Any]:
    given = fields.get("fields")
    if not isinstance(given, dict) or not given:
        raise RejectedError("fields", "must be a JSON object with at least one field")
    for name, value in given.items():
        wanted = allowed.get(name)
        if wanted is None:
            raise RejectedError(name, f"is none of {', '.join(allowed)}")
        if isinstance(wanted, tuple):
            if value not in wanted:
                raise RejectedError(name, f"{value!r} is none of {', '.join(wanted)}")
        elif not fits(value, wanted):
            raise RejectedError(name, f"must be {wanted}")
    return given


def fits(value: Any, wanted: str) -> bool:
    if wanted == TEXTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if wanted == YES_OR_NO:
        return isinstance(value, bool)
    return isinstance(value, str) or (value is None and wanted == TEXT_OR_NULL)


# At random


def change_customer(shop: Shop, random: Random) -> Node:
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


def join(shop: Shop, _random: Random) -> Node:
    return made("add_customer", add_customer(shop, {}))


def leave(shop: Shop, random: Random) -> Node:
    customer = pick(shop.ledger.customers, random)
    if customer is None:
        return join(shop, random)
    if customer["_orders"]:
        return made("redact_customer", redact_customer(shop, customer))
    return made("delete_customer", delete_customer(shop, customer))


def buy(shop: Shop, random: Random) -> Node:
    customer = pick(shop.ledger.customers, random)
    wish = {"customer_id": customer["id"] if customer else None, "lines": random.randint(1, 4)}
    return made("add_order", add_order(shop, wish))


def tag_order(shop: Shop, random: Random) -> Node:
    order = pick(shop.ledger.orders, random)
    if order is None:
        return buy(shop, random)
    fields: dict[str, Any] = {"tags": sorted(random.sample(ORDER_TAGS, 2))}
    if order["displayFulfillmentStatus"] == "UNFULFILLED":
        fields["displayFulfillmentStatus"] = "FULFILLED"
    return made("update_order", update_order(shop, {"id": order["id"], "fields": fields}))


def call_off(shop: Shop, random: Random) -> Node:
    order = pick(shop.ledger.orders, random)
    if order is None or order.get("cancelledAt") is not None:
        return buy(shop, random)
    return made(
        "cancel_order", cancel_order(shop, {"id": order["id"], "reason": random.choice(CANCEL_REASONS)})
    )


def give_back(shop: Shop, random: Random) -> Node:
    order = pick(shop.ledger.orders, random)
    paid = order is not None and order["displayFinancialStatus"] in {"PAID", "PARTIALLY_REFUNDED"}
    if order is None or not paid or not shop.ledger.refundable(order):
        return buy(shop, random)
    shop.ledger.refund_order(order, some_pieces(random, shop.ledger, order))
    return made("refund_order", order)


def pick(table: Table, random: Random) -> Node | None:
    rows = table.ordered("ID")[1]
    return random.choice(rows) if rows else None


def made(edit: str, row: Node) -> Node:
    return {"edit": edit, "id": str(row["id"])}


RANDOM_EDITS = (
    (change_customer, 20),
    (join, 4),
    (leave, 2),
    (buy, 14),
    (tag_order, 6),
    (call_off, 2),
    (give_back, 2),
)
