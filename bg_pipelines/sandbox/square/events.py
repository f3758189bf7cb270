"""What Square's events tell: by their type the scope that they need, and the data that they carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square.sales import Order
from bg_pipelines.sandbox.square.values import opaque_id, show_time


class EventType(NamedTuple):
    scope: str
    data: Callable[[Any], Node]


def customer(row: Node) -> Node:
    return {"type": "customer", "id": row["id"], "object": {"customer": shown(row)}}


def order_created(order: Order) -> Node:
    return {"type": "order_created", "id": order.id, "object": {"order_created": summary(order)}}


def order_updated(order: Order) -> Node:
    told = {**summary(order), "updated_at": show_time(order.updated)}
    return {"type": "order_updated", "id": order.id, "object": {"order_updated": told}}


def summary(order: Order) -> Node:
    """Not the order itself: that is to be read by its id. Tills make orders without a version."""
    told: Node = {"order_id": order.id, "location_id": order.location_id, "state": order.state}
    told["created_at"] = show_time(order.created)
    return told if order.version is None else {**told, "version": order.version}


def count(row: Node) -> Node:
    event_id = opaque_id(32, row["_id"], row["_at"]).lower()
    return {"type": "inventory_counts", "id": event_id, "object": {"inventory_counts": [shown(row)]}}


def catalog_version(row: Node) -> Node:
    return {"type": "catalog", "object": {"catalog_version": {"updated_at": row["updated_at"]}}}


def location(row: Node) -> Node:
    return {"type": "location", "id": row["id"]}


EVENT_TYPES = {
    "catalog.version.updated": EventType("ITEMS_READ", catalog_version),
    "customer.created": EventType("CUSTOMERS_READ", customer),
    "customer.deleted": EventType("CUSTOMERS_READ", customer),
    "customer.updated": EventType("CUSTOMERS_READ", customer),
    "inventory.count.updated": EventType("INVENTORY_READ", count),
    "location.created": EventType("MERCHANT_PROFILE_READ", location),
    "location.updated": EventType("MERCHANT_PROFILE_READ", location),
    "order.created": EventType("ORDERS_READ", order_created),
    "order.updated": EventType("ORDERS_READ", order_updated),
}
