"""Edits of a shop's customers and orders as its staff and its buyers would make them."""

from __future__ import annotations

from typing import Any

from bg_pipelines.sandbox.fields import (
    TEXT,
    TEXT_OR_NULL,
    TEXTS,
    YES_OR_NO,
    Edits,
    Kinds,
    RejectedError,
    changes,
    count,
    is_whole,
    text,
)
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.baskets import BasketLine, line_of, show_basket
from bg_pipelines.sandbox.shopify.ledger import Ledger
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.views import order_lines, show_customer, show_order

EMAIL_STATES = ("INVALID", "NOT_SUBSCRIBED", "PENDING", "SUBSCRIBED", "UNSUBSCRIBED")
SMS_STATES = ("NOT_SUBSCRIBED", "PENDING", "REDACTED", "SUBSCRIBED", "UNSUBSCRIBED")
CANCEL_REASONS = ("CUSTOMER", "DECLINED", "FRAUD", "INVENTORY", "OTHER", "STAFF")
CUSTOMER_FIELDS: Kinds = {
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
ORDER_FIELDS: Kinds = {
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
CART_FIELDS: Kinds = {"note": TEXT_OR_NULL}
CHECKOUT_FIELDS: Kinds = {
    "email": TEXT_OR_NULL,
    "phone": TEXT_OR_NULL,
    "note": TEXT_OR_NULL,
    "completed": YES_OR_NO,
}


def add_customer(shop: Shop, fields: Node) -> Node:
    given = changes(fields, CUSTOMER_FIELDS) if "fields" in fields else {}
    made = shop.sales_seed.customer_fields(shop.random, len(shop.ledger.customers), shop.sales_seed.now)
    row = shop.ledger.add_customer(made | given, at=shop.clock.stamp())
    shop.ledger.add_address(row, shop.sales_seed.address(shop.random, row))
    return show_customer(row)


def update_customer(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.customers.named(fields)
    shop.ledger.update_customer(row, changes(fields, CUSTOMER_FIELDS))
    return show_customer(row)


def delete_customer(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.customers.named(fields)
    if row["_orders"]:
        # At the vendor too.
        raise RejectedError("id", "a customer with orders cannot be deleted; redact or merge it")
    shop.ledger.delete_customer(row)
    return {"id": row["id"]}


def redact_customer(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.customers.named(fields)
    shop.ledger.redact_customer(row)
    return show_customer(row)


def merge_customers(shop: Shop, fields: Node) -> Node:
    row, into = shop.ledger.customers.named(fields), shop.ledger.customers.named(fields, "into")
    if row is into:
        raise RejectedError("into", "must be another customer")
    shop.ledger.merge_customers(row, into)
    return show_customer(into)


def add_order(shop: Shop, fields: Node) -> Node:
    lines = count(fields, "lines", 1)
    given = changes(fields, ORDER_FIELDS) if "fields" in fields else {}
    has_buyer = fields.get("customer_id") is not None
    buyer = shop.ledger.customers.named(fields, "customer_id") if has_buyer else None
    return show_order(shop.ledger, shop.sales_seed.new_order(shop.ledger, shop.random, buyer, given, lines))


def update_order(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.orders.named(fields)
    shop.ledger.update_order(row, changes(fields, ORDER_FIELDS))
    return show_order(shop.ledger, row)


def delete_order(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.orders.named(fields)
    shop.ledger.delete_order(row)
    return {"id": row["id"]}


def cancel_order(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.orders.named(fields)
    reason = fields.get("reason", "CUSTOMER")
    if reason not in CANCEL_REASONS:
        raise RejectedError("reason", f"{reason!r} is none of {', '.join(CANCEL_REASONS)}")
    if row.get("cancelledAt") is not None:
        raise RejectedError("id", "it is cancelled already")
    shop.ledger.cancel_order(row, reason)
    return show_order(shop.ledger, row)


def refund_order(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.orders.named(fields)
    left = shop.ledger.refundable(row)
    if not left or row["displayFinancialStatus"] not in {"PAID", "PARTIALLY_REFUNDED"}:
        raise RejectedError("id", "nothing of it can be refunded")
    shop.ledger.refund_order(row, pieces(shop.ledger, row, left, fields.get("lines")))
    return show_order(shop.ledger, row)


def edit_order(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.orders.named(fields)
    left = shop.ledger.refundable(row)
    if not left or row.get("cancelledAt") is not None:
        raise RejectedError("id", "nothing of it is left")
    shop.ledger.edit_order(row, pieces(shop.ledger, row, left, fields.get("lines")))
    return show_order(shop.ledger, row)


def pieces(ledger: Ledger, order: Node, left: dict[int, int], given: Any) -> dict[int, int]:
    """How many pieces of which line: what was given, or else one of the first that is left."""
    if given is None:
        return {next(iter(left)): 1}
    if not isinstance(given, dict) or not given:
        raise RejectedError("lines", "must be a JSON object of quantities by the line's id")
    places = {line["id"]: index for index, line in enumerate(order_lines(ledger, order))}
    wanted = {}
    for line_id, quantity in given.items():
        index = places.get(line_id, -1)
        if not is_whole(quantity) or not 1 <= quantity <= left.get(index, 0):
            raise RejectedError("lines", f"{line_id!r} has no {quantity!r} pieces left")
        wanted[index] = quantity
    return wanted


# Carts and checkouts


def put_cart(shop: Shop, fields: Node) -> Node:
    token = text(fields, "token") if "token" in fields else shop.baskets.new_token("cart")
    given = changes(fields, CART_FIELDS) if "fields" in fields else {}
    lines = basket_lines(shop, fields, known=token in shop.baskets.carts)
    return show_basket(shop.baskets.put_cart(token, lines, given))


def put_checkout(shop: Shop, fields: Node) -> Node:
    """Of a cart, of a customer, of both or of nobody."""
    token = text(fields, "token") if "token" in fields else shop.baskets.new_token("checkout")
    known = token in shop.baskets.checkouts
    given = dict(changes(fields, CHECKOUT_FIELDS)) if "fields" in fields else {}
    lines = basket_lines(shop, fields, known=known or "cart_token" in fields)
    if "cart_token" in fields:
        cart = shop.baskets.carts.named(fields, "cart_token")
        given["cartToken"] = cart["id"]
        lines = cart["_lines"] if lines is None and not known else lines
    if fields.get("customer_id") is not None:
        customer = shop.ledger.customers.named(fields, "customer_id")
        given["customer"] = customer
        email, phone = customer.get("defaultEmailAddress"), customer.get("defaultPhoneNumber")
        given.setdefault("email", email and email["emailAddress"])
        given.setdefault("phone", phone and phone["phoneNumber"])
    if "completed" in given:
        given["completedAt"] = shop.clock.stamp() if given.pop("completed") else None
    return show_basket(shop.baskets.put_checkout(token, lines, given))


def delete_checkout(shop: Shop, fields: Node) -> Node:
    row = shop.baskets.checkouts.named(fields, "token")
    shop.baskets.delete_checkout(row)
    return {"token": row["id"]}


def basket_lines(shop: Shop, fields: Node, *, known: bool) -> list[BasketLine] | None:
    """What was given: quantities by variant; else one piece of some variant, or nothing new where there is something."""
    given, currency = fields.get("lines"), shop.store.shop["currencyCode"]
    if given is None:
        variants = shop.store.variants.ordered("ID")[1]
        return None if known else [line_of(shop.random.choice(variants), 1, currency)] if variants else []
    if not isinstance(given, dict):
        raise RejectedError("lines", "must be a JSON object of quantities by the variant's id")
    lines = []
    for variant_id, quantity in given.items():
        variant = shop.store.variants.get(variant_id)
        if variant is None or not is_whole(quantity) or not quantity:
            raise RejectedError(
                "lines", f"{variant_id!r} is no variant of this shop, or {quantity!r} no quantity"
            )
        lines.append(line_of(variant, quantity, currency))
    return lines


EDITS: Edits[Shop] = {
    "add_customer": (add_customer, ("fields",)),
    "update_customer": (update_customer, ("id", "fields")),
    "delete_customer": (delete_customer, ("id",)),
    "redact_customer": (redact_customer, ("id",)),
    "merge_customers": (merge_customers, ("id", "into")),
    "add_order": (add_order, ("customer_id", "lines", "fields")),
    "update_order": (update_order, ("id", "fields")),
    "delete_order": (delete_order, ("id",)),
    "cancel_order": (cancel_order, ("id", "reason")),
    "refund_order": (refund_order, ("id", "lines")),
    "edit_order": (edit_order, ("id", "lines")),
    "put_cart": (put_cart, ("token", "lines", "fields")),
    "put_checkout": (put_checkout, ("token", "cart_token", "customer_id", "lines", "fields")),
    "delete_checkout": (delete_checkout, ("token",)),
}
