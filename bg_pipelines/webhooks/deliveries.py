"""What a delivery says: rows of the inbox, made of headers and a body whose signature is right.

Topic and shop stand in headers that no signature covers, so each is held against what we know and against the body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms.http import parse_json
from bg_pipelines.values import read_time
from bg_pipelines.webhooks.topics import EVENTS, TOPICS, Kind, Topic, subjects

SUBJECTS_A_DELIVERY = 1_000
ID_CHARACTERS = 500
DEPTH = 100
"""Objects within objects of a payload that is kept: whoever reads it later has a stack as well."""
KEPT_BYTES = 64 * 1024
"""Of a body that is not understood."""
NOT_UNDERSTOOD = "not_understood"
_ID = re.compile(r"[!-~]{1,200}")
_TOPIC = re.compile(r"[A-Za-z0-9_./-]{1,100}")
# By topic: fields that a command's body must have, and those that would make it another command's.
_SHAPES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shop/update": (("myshopify_domain",), ()),
    "app/uninstalled": (("myshopify_domain",), ()),
    "bulk_operations/finish": (("admin_graphql_api_id",), ()),
    "customers/data_request": (("shop_domain", "customer"), ("orders_to_redact",)),
    "customers/redact": (("shop_domain", "customer"), ("orders_requested", "data_request")),
    "shop/redact": (("shop_domain",), ("customer", "orders_to_redact", "orders_requested", "data_request")),
}


class NotUnderstoodError(Exception):
    """A delivery with a good signature that cannot be read. The text is the reason, without anybody's data."""


@dataclass(slots=True)
class Delivery:
    """A row of `webhook_events` that is to be stored, by its columns. `payload` is encrypted."""

    store_id: int | None
    source: str
    topic: str
    webhook_id: str
    event_id: str | None = None
    resource: str | None = None
    object_id: str | None = None
    source_updated_at: datetime | None = None
    triggered_at: datetime | None = None
    payload: str | None = None
    status: str = "pending"
    reason: str | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        return self.store_id or 0, self.topic, self.webhook_id


@dataclass(slots=True)
class Heading:
    """What Shopify's headers say, which nothing signs."""

    domain: str
    topic: str
    webhook_id: str
    event_id: str
    triggered_at: str
    signature: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Heading:
        """Of both spellings, X-Shopify-Topic and, for Events, shopify-topic. The names are in lower case."""

        def value(name: str) -> str:
            return headers.get(f"x-shopify-{name}") or headers.get(f"shopify-{name}") or ""

        return cls(
            value("shop-domain").strip().lower(),
            value("topic"),
            value("webhook-id"),
            value("event-id"),
            value("triggered-at"),
            value("hmac-sha256"),
        )


def of_shopify(heading: Heading, body: bytes, store_id: int | None, cipher: Cipher) -> list[Delivery]:
    """The rows of a classic webhook or an Event. Raises NotUnderstoodError; an unknown store (None) is refused, too."""
    payload = _object(body)
    name = heading.topic
    if "action" in payload and "query_variables" in payload:
        name, payload = _of_event(payload)
    topic = TOPICS["shopify"].get(name)
    if topic is None:
        raise NotUnderstoodError("its topic is not one that is subscribed to")
    if store_id is None:
        raise NotUnderstoodError("its shop is no store of ours")
    if not _ID.fullmatch(heading.webhook_id):
        raise NotUnderstoodError("its header X-Shopify-Webhook-Id is missing or unreadable")
    _require_shape(topic, payload, heading.domain)
    head = Delivery(
        store_id,
        "shopify",
        topic.name,
        heading.webhook_id,
        event_id=heading.event_id if _ID.fullmatch(heading.event_id) else None,
        triggered_at=_time(heading.triggered_at),
    )
    return _rows(topic, head, payload, cipher)


def merchant_of_square(body: bytes) -> str:
    """Whose delivery a body says it is, before its signature is known to be good; "" where it does not say."""
    try:
        merchant = _object(body).get("merchant_id")
    except NotUnderstoodError:
        return ""
    return merchant if isinstance(merchant, str) else ""


def of_square(body: bytes, store_id: int | None, cipher: Cipher) -> list[Delivery]:
    """The rows of an event notification. Raises NotUnderstoodError."""
    payload = _object(body)
    name, event_id = payload.get("type"), payload.get("event_id")
    topic = TOPICS["square"].get(name) if isinstance(name, str) else None
    if topic is None:
        raise NotUnderstoodError("its type is not one that is subscribed to")
    if store_id is None:
        raise NotUnderstoodError("its merchant is no store of ours")
    if not isinstance(event_id, str) or not _ID.fullmatch(event_id):
        raise NotUnderstoodError("event_id: must be an id and is not")
    head = Delivery(
        store_id,
        "square",
        topic.name,
        event_id,
        event_id=event_id,
        triggered_at=_time(payload.get("created_at")),
    )
    return _rows(topic, head, payload, cipher)


def of_twilio(topic: str, form: Mapping[str, Sequence[str]], cipher: Cipher) -> list[Delivery]:
    """A message's new status or somebody's answer: one row, with everything that was posted. Raises NotUnderstoodError.

    A message has several statuses, each told under the same id.
    """
    values = {name: given[-1] for name, given in form.items()}
    id_ = values.get("MessageSid") or values.get("SmsSid") or ""
    if topic == "status":
        id_ = f"{id_}/{values.get('MessageStatus') or values.get('SmsStatus') or ''}"
    if not _ID.fullmatch(id_) or id_.startswith("/") or id_.endswith("/"):
        raise NotUnderstoodError("MessageSid or MessageStatus: must be an id and a status")
    return [Delivery(None, "twilio", topic, id_, payload=cipher.encrypt(values).decode())]


def not_understood(
    reason: str, source: str, topic: str, webhook_id: str, body: bytes, store_id: int | None, cipher: Cipher
) -> Delivery:
    """The row that keeps such a body for a day, so that a new shape at the vendor is seen.

    Its key is its own: once the body is understood, a repeated delivery of it is no duplicate.
    """
    id_ = webhook_id if _ID.fullmatch(webhook_id) else hashlib.sha256(body).hexdigest()
    return Delivery(
        store_id,
        source,
        topic if _TOPIC.fullmatch(topic) else "unreadable",
        f"{id_}#{NOT_UNDERSTOOD}",
        payload=cipher.encrypt(body[:KEPT_BYTES].decode("utf-8", "replace")).decode(),
        status=NOT_UNDERSTOOD,
        reason=reason,
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        payload = parse_json(body)
    except ValueError:
        raise NotUnderstoodError("its body is not JSON") from None
    if not isinstance(payload, dict):
        raise NotUnderstoodError("its body is not a JSON object")
    return payload


def _of_event(event: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An Event as the classic topic and payload that mean the same: `data` is what our own query asks for, or nothing.

    Its topic and action are taken from the body, which is signed. `fields_changed` has had two shapes and is not needed.
    https://shopify.dev/docs/apps/build/events/delivery-structure
    """
    kind, action = event.get("topic"), event.get("action")
    name = EVENTS.get((kind, action)) if isinstance(kind, str) and isinstance(action, str) else None
    if name is None:
        raise NotUnderstoodError("its topic and action are no Event that is subscribed to")
    prefix = f"gid://shopify/{TOPICS['shopify'][name].object_type}/"
    variables, data = event.get("query_variables"), event.get("data")
    objects = [one for one in _values(data) if isinstance(one, Mapping)]
    ids = [*_values(variables), *(one.get("id") for one in objects)]
    payload: dict[str, Any] = {
        "admin_graphql_api_id": next(
            (id_ for id_ in ids if isinstance(id_, str) and id_.startswith(prefix)), None
        )
    }
    for one in objects:
        if one.get("id") == payload["admin_graphql_api_id"]:
            payload["updated_at"] = one.get("updatedAt")
    return name, payload


def _values(value: Any) -> Iterator[Any]:
    return iter(value.values()) if isinstance(value, Mapping) else iter(())


def _require_shape(topic: Topic, payload: Mapping[str, Any], domain: str) -> None:
    """A command is refused unless its body is that command's, of that shop: its topic and shop are not signed."""
    if topic.kind is not Kind.COMMAND:
        return
    wanted, others = _SHAPES[topic.name]
    for name in wanted:
        if payload.get(name) is None:
            raise NotUnderstoodError(f"{name}: a body of this topic must have it")
    for name in others:
        if name in payload:
            raise NotUnderstoodError(f"{name}: no body of this topic has it")
    if topic.name == "bulk_operations/finish" and "/BulkOperation/" not in str(
        payload["admin_graphql_api_id"]
    ):
        raise NotUnderstoodError("admin_graphql_api_id: is no bulk operation's")
    for name in ("myshopify_domain", "shop_domain"):
        named = payload.get(name)
        if name in wanted and not (isinstance(named, str) and named.strip().lower() == domain):
            raise NotUnderstoodError(f"{name}: is not the shop that its header names")


def _rows(topic: Topic, head: Delivery, payload: Mapping[str, Any], cipher: Cipher) -> list[Delivery]:
    if topic.kind in (Kind.DOCUMENT, Kind.COMMAND):
        _require_depth(payload)
        head = replace(head, payload=cipher.encrypt(payload).decode())
    if topic.kind is Kind.COMMAND:
        return [head]
    try:
        found = list(subjects(head.source, topic, payload))
    except ValueError as error:
        raise NotUnderstoodError(str(error)) from None
    if len(found) > SUBJECTS_A_DELIVERY:
        raise NotUnderstoodError("it is about more rows than a delivery may be")
    rows = [head, *(replace(head, webhook_id=f"{head.webhook_id}#{n}") for n in range(2, len(found) + 1))]
    for row, (id_, updated_at) in zip(rows, found, strict=False):
        if id_ is not None and not (id_.isprintable() and len(id_) <= ID_CHARACTERS):
            raise NotUnderstoodError("the id of what it is about has characters that no id has, or too many")
        row.resource = topic.table
        row.object_id = id_
        row.source_updated_at = updated_at
    return rows[: len(found)]


def _require_depth(payload: Any) -> None:
    level = [payload]
    for _ in range(DEPTH):
        level = [
            part
            for value in level
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise NotUnderstoodError(f"its body has objects within objects, more than {DEPTH} deep")


def _time(text: Any) -> datetime | None:
    try:
        return read_time(text)
    except ValueError:
        return None
