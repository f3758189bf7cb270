"""How a webhook is sent: which of its fields, whether at all, and in classic form or as one of Shopify's Events."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import orjson

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.search import COMPARATORS, Matches, Parser, Search, unquoted

# By the classic topic's part before the slash: the Event's topic, and the field of a query that gives its row.
EVENT_TOPICS = {
    "customers": ("Customer", "customer"),
    "inventory_levels": ("InventoryItem", "inventoryItem"),
    "orders": ("Order", "order"),
    "products": ("Product", "product"),
}
CHANGED = {
    "create": "added",
    "connect": "added",
    "delete": "removed",
    "disconnect": "removed",
} | dict.fromkeys(("update", "updated"), "updated")
EVENTS_VERSION = "2026-10"


def signature(secret: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def cut_down(payload: Node, paths: Iterable[str]) -> Node:
    """Only these fields, in the payload's order: `variants.id` names a field of each row of a list."""
    below: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        below.setdefault(name, []).append(rest)
    return {
        name: value if "" in below[name] else cut_value(value, below[name])
        for name, value in payload.items()
        if name in below
    }


def cut_value(value: Any, paths: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [cut_value(one, paths) for one in value]
    return cut_down(value, paths) if isinstance(value, dict) else value


class Filter(Parser):
    """A subscription's filter: `status:active AND variants.price:>=10` is held against the payload."""

    def term(self, token: str) -> Matches | None:
        field, _, wanted = token.partition(":")
        comparator = next((one for one in (">=", "<=", ">", "<") if wanted.startswith(one)), "")
        wanted = unquoted(wanted.removeprefix(comparator))
        path = field.split(".")
        return lambda payload: any(holds(value, comparator, wanted) for value in values_at(payload, path))


def values_at(value: Any, path: Sequence[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for one in value for found in values_at(one, path)]
    if not path:
        return [value]
    return values_at(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else []


def holds(value: Any, comparator: str, wanted: str) -> bool:
    if wanted == "*":
        return value is not None
    if comparator:
        try:
            return COMPARATORS[comparator](float(value), float(wanted))
        except (TypeError, ValueError):
            return value is not None and COMPARATORS[comparator](str(value), wanted)
    text = str(value).lower()
    return text == wanted.lower() or (value is None and not wanted)


def passes(payload: Node, wanted: str | None) -> bool:
    """Whether a filter lets a payload through; one that holds nothing back is none."""
    matches = Filter(Search(UTC), wanted).parse() if wanted else None
    return matches is None or matches(payload)


@dataclass(frozen=True)
class Envelope:
    """What one event has in common, to whomever it is sent."""

    topic: str
    domain: str
    version: str
    event_id: str
    triggered_at: str
    secret: str

    def classic(self, payload: Node, subscription: Node, webhook_id: str) -> tuple[dict[str, str], bytes]:
        """The headers and the body of a classic webhook."""
        fields = subscription.get("includeFields")
        body = orjson.dumps(cut_down(payload, fields) if fields else payload)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Shopify-Captain-Hook",
            "X-Shopify-Topic": self.topic,
            "X-Shopify-Hmac-Sha256": signature(self.secret, body),
            "X-Shopify-Shop-Domain": self.domain,
            "X-Shopify-API-Version": self.version,
            "X-Shopify-Webhook-Id": webhook_id,
            "X-Shopify-Event-Id": self.event_id,
            "X-Shopify-Triggered-At": self.triggered_at,
        }
        name = subscription.get("name")
        return (headers if name is None else {**headers, "X-Shopify-Name": name}), body

    def event(self, row: Node, subscription: Node, webhook_id: str) -> tuple[dict[str, str], bytes]:
        """The headers and the body of an Event: its data is what a query for the id and the time would return."""
        kind, _, action = self.topic.partition("/")
        topic, field = EVENT_TOPICS[kind]
        source = row["item"] if topic == "InventoryItem" else row
        action = action if action in {"create", "delete"} and source is row else "update"
        handle = subscription.get("name") or f"{kind}_{action}"
        place = f"{field}[id: '{source['id']}']"
        changed: dict[str, list[str]] = {"added": [], "updated": [], "removed": []}
        part = f".inventoryLevels[id: '{row['id']}']" if source is not row else ""
        changed[CHANGED[self.topic.partition("/")[2]]].append(place + part)
        data = None if action == "delete" else {field: {"id": source["id"], "updatedAt": source["updatedAt"]}}
        body = orjson.dumps(
            {
                "topic": topic,
                "action": action,
                "handle": handle,
                "data": data,
                "fields_changed": changed,
                "query_variables": {f"{field}Id": source["id"]},
            }
        )
        headers = {
            "content-type": "application/json",
            "user-agent": "Shopify-Captain-Hook",
            "shopify-topic": topic,
            "shopify-action": action,
            "shopify-handle": handle,
            "shopify-hmac-sha256": signature(self.secret, body),
            "shopify-shop-domain": self.domain,
            "shopify-api-version": EVENTS_VERSION,
            "shopify-webhook-id": webhook_id,
            "shopify-triggered-at": self.triggered_at,
        }
        return headers, body
