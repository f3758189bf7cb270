"""What happens at a merchant is told to its subscriptions: collected during a change, sent when it is complete."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from bg_pipelines.sandbox.changes import Changes
from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.deliveries import Delivery, Outbox
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.events import EVENT_TYPES
from bg_pipelines.sandbox.square.subscriptions import Subscriptions
from bg_pipelines.sandbox.square.values import now_ms, show_time

RETRY_MINUTES = (1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 480)
RETRY_HOURS = tuple(minutes / 60 for minutes in RETRY_MINUTES)
"""Eleven retries within a day; then the event is lost, and the subscription stays."""


def signature(key: str, url: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(key.encode(), url.encode() + body, hashlib.sha256).digest()).decode()


class Notifier:
    """Of one merchant. `has_scope` says whether the token's application may know of an event."""

    def __init__(
        self,
        merchant_id: str,
        subscriptions: Subscriptions,
        outbox: Outbox,
        clock: Clock,
        has_scope: Callable[[str], bool],
    ) -> None:
        self.merchant_id = merchant_id
        self.subscriptions = subscriptions
        self.outbox = outbox
        self.clock = clock
        self.has_scope = has_scope
        self._changes = Changes(".")

    def tell(self, event_type: str, row_id: str, row: Any) -> None:
        """Note what happened, if anybody wants to know of anything."""
        if self.subscriptions.of:
            self._changes.note(event_type, row_id, row)

    def flush(self) -> None:
        """Send what was told: the change is complete."""
        for event_type, row_id, row in self._changes.take():
            subscribed = self.subscriptions.of.get(event_type)
            if subscribed and self.has_scope(EVENT_TYPES[event_type].scope):
                self._send(event_type, row_id, row, subscribed)

    def _send(self, event_type: str, row_id: str, row: Any, subscribed: list[Node]) -> None:
        at, event_id = show_time(now_ms(self.clock)), str(uuid.uuid4())
        data = EVENT_TYPES[event_type].data(row)
        place = {"location_id": row_id} if data["type"] == "location" else {}
        told = {"merchant_id": self.merchant_id, **place, "type": event_type, "event_id": event_id}
        body = orjson.dumps({**told, "created_at": at, "data": data})
        for subscription in subscribed:
            url = subscription["notification_url"]
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "Square Connect v2",
                "square-environment": "Sandbox",
                "square-initial-delivery-timestamp": at,
                "x-square-hmacsha256-signature": signature(subscription["signature_key"], url, body),
            }
            self.outbox.post(
                Delivery(
                    topic=event_type,
                    id=event_id,
                    event_id=event_id,
                    object_id=row_id,
                    subscription_id=subscription["id"],
                    uri=url,
                    created_at=at,
                    headers=headers,
                    body=body,
                    retry_headers=retry_headers,
                ),
                RETRY_HOURS,
            )


def retry_headers(delivery: Delivery) -> Mapping[str, str]:
    last = delivery.answers[-1]
    reason = "http_error" if isinstance(last, int) else "http_timeout" if last == "timeout" else "other_error"
    return {"square-retry-number": str(delivery.tries - 1), "square-retry-reason": reason}
