"""Edits of a merchant as its staff would make them: customers, orders, catalogue, stock, tokens, the search index."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from bg_pipelines.sandbox.fields import Edits, RejectedError, amount, count, is_number, is_whole, text, texts
from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square.merchant import Merchant
from bg_pipelines.sandbox.square.people import invent
from bg_pipelines.sandbox.square.sales import Order, return_of
from bg_pipelines.sandbox.square.seed import add_item, item_fields, order_id
from bg_pipelines.sandbox.square.stock import COUNTED
from bg_pipelines.sandbox.square.values import HOUR_MS, now_ms

CUSTOMER_FIELDS = (
    "given_name",
    "family_name",
    "company_name",
    "nickname",
    "email_address",
    "phone_number",
    "address",
    "birthday",
    "note",
    "reference_id",
)
ITEM_FIELDS = ("name", "description", "is_archived")
VARIATION_FIELDS = ("name", "sku", "upc", "price")
STATES = ("OPEN", "COMPLETED", "CANCELED")
LATEST_HOURS = 72


# Customers


def add_customer(merchant: Merchant, fields: Node) -> Node:
    store = merchant.store
    given = changes(fields, CUSTOMER_FIELDS) if "fields" in fields else {}
    place = next(iter(store.locations.values()))
    row = invent(
        merchant.random,
        store.number("customer"),
        merchant_id=merchant.id,
        region=(store.merchant["country"], (place["address"]["locality"],)),
        at=now_ms(merchant.clock),
    )
    row = {name: value for name, value in (row | given).items() if value is not None}
    store.put_customer(row)
    return shown(row)


def update_customer(merchant: Merchant, fields: Node) -> Node:
    row = find_customer(merchant, fields)
    return shown(merchant.store.update_customer(row, changes(fields, CUSTOMER_FIELDS)))


def delete_customer(merchant: Merchant, fields: Node) -> Node:
    row = find_customer(merchant, fields)
    merchant.store.delete_customer(row)
    return {"id": row["id"]}


def someone(merchant: Merchant) -> str | None:
    """The id of a customer picked at random; None if there is none."""
    rows = list(merchant.store.customers)
    return str(merchant.random.choice(rows)["id"]) if rows else None


def find_customer(merchant: Merchant, fields: Node) -> Node:
    row = merchant.store.customers.get(str(fields.get("id")))
    if row is None:
        raise RejectedError("id", f"there is no customer {fields.get('id')!r}")
    return row


# Orders


def add_order(merchant: Merchant, fields: Node) -> Node:
    return made_order(merchant, fields, created=now_ms(merchant.clock))


def add_late_order(merchant: Merchant, fields: Node) -> Node:
    """One that was made offline `hours` ago and comes only now; `updated_hours` ago is what its updated_at says."""
    now = now_ms(merchant.clock)
    hours, updated = fields.get("hours", LATEST_HOURS - 1), fields.get("updated_hours", 0)
    for name, value in (("hours", hours), ("updated_hours", updated)):
        if not is_number(value) or not 0 <= value <= LATEST_HOURS:
            raise RejectedError(name, f"must be a number from 0 to {LATEST_HOURS}")
    if updated > hours:
        raise RejectedError("updated_hours", "must not be more than hours")
    created = now - int(hours * HOUR_MS)
    return made_order(merchant, fields, created=created, updated=now - int(updated * HOUR_MS))


def made_order(merchant: Merchant, fields: Node, *, created: int, updated: int | None = None) -> Node:
    store, random = merchant.store, merchant.random
    place = fields.get("location_id", random.choice(list(store.locations)))
    if place not in store.locations:
        raise RejectedError("location_id", f"there is no location {place!r}")
    # A null says that nobody knows the buyer; otherwise it is somebody.
    buyer = fields.get("customer_id", someone(merchant))
    if buyer is not None and buyer not in store.customers:
        raise RejectedError("customer_id", f"there is no customer {buyer!r}")
    state, lines = fields.get("state", "COMPLETED"), fields.get("lines")
    if state not in STATES:
        raise RejectedError("state", f"{state!r} is none of {', '.join(STATES)}")
    if lines is not None and not is_whole(lines):
        raise RejectedError("lines", "must be a whole number, 0 or more")
    number = store.number("order")
    order = Order(
        id=order_id(store, number),
        number=number,
        location_id=place,
        customer_id=buyer,
        state=state,
        created=created,
        updated=created if updated is None else updated,
        closed=None if state == "OPEN" else created,
        source="Square Point of Sale",
        lines=lines,
    )
    store.put_order(order)
    return store.show_order(order)


def complete_order(merchant: Merchant, fields: Node) -> Node:
    return close_order(merchant, fields, "COMPLETED")


def cancel_order(merchant: Merchant, fields: Node) -> Node:
    return close_order(merchant, fields, "CANCELED")


def close_order(merchant: Merchant, fields: Node, state: str) -> Node:
    order = find_order(merchant, fields)
    if order.state != "OPEN":
        raise RejectedError("id", f"the order {order.id} is {order.state}, not OPEN")
    order.state = state
    order.updated = order.closed = now_ms(merchant.clock)
    order.version = None if order.version is None else order.version + 1
    merchant.store.put_order(order)
    return merchant.store.show_order(order)


def refund_order(merchant: Merchant, fields: Node) -> Node:
    """Take all or the first `lines` lines back; the answer is the return, an order of its own as at the vendor."""
    store, order, lines = merchant.store, find_order(merchant, fields), fields.get("lines")
    if lines is not None and not (is_whole(lines) and lines > 0):
        raise RejectedError("lines", "must be a whole number, 1 or more")
    if order.state != "COMPLETED" or order.refunded or order.returned is not None:
        raise RejectedError("id", f"the order {order.id} is no sale that can be refunded")
    number, now = store.number("order"), now_ms(merchant.clock)
    made = Order(
        id=order_id(store, number),
        number=number,
        location_id=order.location_id,
        customer_id=order.customer_id,
        state="COMPLETED",
        created=now,
        updated=now,
        closed=now,
        source=order.source,
    )
    made.returned = return_of(store.till, order, made.id, now, lines)
    order.refunded = True
    store.put_order(made)
    return store.show_order(made)


def find_order(merchant: Merchant, fields: Node) -> Order:
    order = merchant.store.orders.get(str(fields.get("id")))
    if order is None:
        raise RejectedError("id", f"there is no order {fields.get('id')!r}")
    return order


# Catalogue and stock


def add_new_item(merchant: Merchant, fields: Node) -> Node:
    variations = count(fields, "variations", 1)
    given = changes(fields, ITEM_FIELDS) if "fields" in fields else {}
    store, random = merchant.store, merchant.random
    now = now_ms(merchant.clock)
    row = add_item(store, random, item_fields(random) | given, variations, now)
    for stock in [one for one in store.counts if one["catalog_object_id"] in row["_variations"]]:
        place = (stock["catalog_object_id"], stock["location_id"], stock["state"])
        store.put_count(*place, stock["_quantity"], at=now, counted=now)
    return store.show_object(row)


def update_item(merchant: Merchant, fields: Node) -> Node:
    row = find_object(merchant, fields, "ITEM")
    merge(row["item_data"], changes(fields, ITEM_FIELDS))
    merchant.store.touch(row)
    return merchant.store.show_object(row)


def update_variation(merchant: Merchant, fields: Node) -> Node:
    row = find_object(merchant, fields, "ITEM_VARIATION")
    given = changes(fields, VARIATION_FIELDS)
    if "price" in given:
        price = given.pop("price")
        if price is not None and not is_whole(price):
            raise RejectedError("price", "must be a whole number of the smallest unit, or null")
        given |= {
            "price_money": None if price is None else merchant.store.till.money(price),
            "pricing_type": "VARIABLE_PRICING" if price is None else "FIXED_PRICING",
        }
    merge(row["item_variation_data"], given)
    merchant.store.touch(row)
    return merchant.store.show_object(row)


def delete_item(merchant: Merchant, fields: Node) -> Node:
    row = find_object(merchant, fields, "ITEM")
    merchant.store.delete_object(row)
    return merchant.store.show_object(row)


def delete_variation(merchant: Merchant, fields: Node) -> Node:
    row = find_object(merchant, fields, "ITEM_VARIATION")
    merchant.store.delete_object(row)
    return merchant.store.show_object(row)


def find_object(merchant: Merchant, fields: Node, kind: str, name: str = "id") -> Node:
    row = merchant.store.objects.get(str(fields.get(name)))
    if row is None or row["type"] != kind or row["is_deleted"]:
        raise RejectedError(name, f"there is no {kind} {fields.get(name)!r}")
    return row


def set_count(merchant: Merchant, fields: Node) -> Node:
    variation = find_object(merchant, fields, "ITEM_VARIATION", "catalog_object_id")
    place, state = fields.get("location_id"), fields.get("state", "IN_STOCK")
    if not isinstance(place, str) or place not in merchant.store.locations:
        raise RejectedError("location_id", f"there is no location {place!r}")
    if state not in COUNTED:
        raise RejectedError("state", f"{state!r} is none of {', '.join(sorted(COUNTED))}")
    try:
        quantity = Decimal(str(fields.get("quantity")))
    except InvalidOperation:
        quantity = Decimal("NaN")
    if not quantity.is_finite() or isinstance(fields.get("quantity"), bool):
        raise RejectedError("quantity", "must be a number, or the text of one")
    now = now_ms(merchant.clock)
    return shown(merchant.store.put_count(variation["id"], place, state, quantity, at=now, counted=now))


def rename_location(merchant: Merchant, fields: Node) -> Node:
    row = merchant.store.locations.get(str(fields.get("id")))
    if row is None:
        raise RejectedError("id", f"there is no location {fields.get('id')!r}")
    merchant.store.rename_location(row, text(fields, "name"))
    return row


def add_location(merchant: Merchant, fields: Node) -> Node:
    return merchant.store.add_location(text(fields, "name"))


# Webhooks


def drop_subscriptions(merchant: Merchant, _fields: Node) -> Node:
    return {"dropped": merchant.subscriptions.clear()}


def set_webhook_pace(merchant: Merchant, fields: Node) -> Node:
    merchant.outbox.hour_seconds = amount(fields, "seconds_per_hour")
    return {"seconds_per_hour": merchant.outbox.hour_seconds}


# Tokens and the search index


def set_token(merchant: Merchant, fields: Node) -> Node:
    merchant.set_token(text(fields, "token"))
    return {"token": merchant.token}


def expire_tokens(merchant: Merchant, fields: Node) -> Node:
    code = fields.get("code", "ACCESS_TOKEN_EXPIRED")
    if code not in {"ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_REVOKED", "UNAUTHORIZED"}:
        raise RejectedError("code", "must be ACCESS_TOKEN_EXPIRED, ACCESS_TOKEN_REVOKED or UNAUTHORIZED")
    merchant.void[merchant.token] = code
    return {"code": code}


def set_scopes(merchant: Merchant, fields: Node) -> Node:
    merchant.scopes = texts(fields, "scopes")
    return {"scopes": merchant.scopes}


def set_search_lag(merchant: Merchant, fields: Node) -> Node:
    merchant.search_lag_seconds = amount(fields, "seconds")
    return {"seconds": merchant.search_lag_seconds}


EDITS: Edits[Merchant] = {
    "add_customer": (add_customer, ("fields",)),
    "update_customer": (update_customer, ("id", "fields")),
    "delete_customer": (delete_customer, ("id",)),
    "add_order": (add_order, ("location_id", "customer_id", "state", "lines")),
    "add_late_order": (
        add_late_order,
        ("hours", "updated_hours", "location_id", "customer_id", "state", "lines"),
    ),
    "complete_order": (complete_order, ("id",)),
    "cancel_order": (cancel_order, ("id",)),
    "refund_order": (refund_order, ("id", "lines")),
    "add_item": (add_new_item, ("variations", "fields")),
    "update_item": (update_item, ("id", "fields")),
    "update_variation": (update_variation, ("id", "fields")),
    "delete_item": (delete_item, ("id",)),
    "delete_variation": (delete_variation, ("id",)),
    "set_count": (set_count, ("catalog_object_id", "location_id", "quantity", "state")),
    "rename_location": (rename_location, ("id", "name")),
    "add_location": (add_location, ("name",)),
    "drop_subscriptions": (drop_subscriptions, ()),
    "set_webhook_pace": (set_webhook_pace, ("seconds_per_hour",)),
    "set_token": (set_token, ("token",)),
    "expire_tokens": (expire_tokens, ("code",)),
    "set_scopes": (set_scopes, ("scopes",)),
    "set_search_lag": (set_search_lag, ("seconds",)),
}


def changes(fields: Node, allowed: tuple[str, ...]) -> Node:
    given = fields.get("fields")
    if not isinstance(given, dict) or not given:
        raise RejectedError("fields", f"must be an object with some of {', '.join(allowed)}")
    for name in given:
        if name not in allowed:
            raise RejectedError(f"fields.{name}", f"is none of {', '.join(allowed)}")
    return dict(given)


def merge(row: Node, given: Node) -> None:
    """A null takes a field away."""
    row.update(given)
    for name in [name for name, value in given.items() if value is None]:
        del row[name]
