"""What a shop's app is subscribed to."""

from __future__ import annotations

from collections import defaultdict

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.store import gid
from bg_pipelines.sandbox.shopify.table import Table

API_VERSION = "2026-07"
FIRST_NUMBER = 1_300_000_000_000
STEP = 32
# A topic needs a scope as its rows do; by the topic's part before the slash.
TOPIC_SCOPES = {
    "carts": "read_orders",
    "checkouts": "read_orders",
    "customers": "read_customers",
    "customers_email_marketing_consent": "read_customers",
    "customers_marketing_consent": "read_customers",
    "inventory_items": "read_inventory",
    "inventory_levels": "read_inventory",
    "locations": "read_locations",
    "orders": "read_orders",
    "products": "read_products",
    "refunds": "read_orders",
}


def topic_name(topic: str) -> str:
    """A topic as deliveries name it: ORDERS_CREATE is orders/create."""
    return "/".join(topic.lower().rsplit("_", 1))


def required_scope(topic: str) -> str | None:
    return TOPIC_SCOPES.get(topic_name(topic).partition("/")[0])


class Subscriptions:
    """Rows with the vendor's names; `of` has them by the topic's name, and a topic without any is not in it."""

    def __init__(self, index: int, clock: Clock) -> None:
        self.clock = clock
        self.table = Table()
        self.of: dict[str, list[Node]] = {}
        self._first_number = FIRST_NUMBER + index * 1_000_000_000
        self._made = 0

    def add(self, topic: str, fields: Node) -> Node:
        """Subscribe to a topic of the vendor's enum; `fields` are the vendor's too."""
        self._made += 1
        number, at = self._first_number + self._made * STEP, self.clock.stamp()
        row: Node = {
            "id": gid("WebhookSubscription", number),
            "_key": (number,),
            "legacyResourceId": str(number),
            "topic": topic,
            "format": "JSON",
            "includeFields": [],
            "metafieldNamespaces": [],
            "filter": None,
            "name": None,
            "apiVersion": {"displayName": API_VERSION, "handle": API_VERSION, "supported": True},
            "createdAt": at,
            "updatedAt": at,
            **fields,
        }
        row["callbackUrl"] = row["uri"]
        self.table.put(row)
        self._sort()
        return row

    def update(self, row: Node, fields: Node) -> None:
        row.update(fields, updatedAt=self.clock.stamp())
        row["callbackUrl"] = row["uri"]
        self.table.touched()

    def remove(self, row: Node) -> None:
        """Take it away; one that is gone already stays so."""
        if row["id"] in self.table:
            self.table.remove(row["id"])
            self._sort()

    def clear(self) -> int:
        """Take all away; returns how many there were."""
        count = len(self.table)
        self.table = Table()
        self._sort()
        return count

    def _sort(self) -> None:
        by_topic: dict[str, list[Node]] = defaultdict(list)
        for row in self.table:
            by_topic[topic_name(row["topic"])].append(row)
        self.of = dict(by_topic)
