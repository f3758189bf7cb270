"""What happens in a shop is told to its subscriptions: collected during a change, sent when it is complete."""

from __future__ import annotations

import threading
import uuid

from bg_pipelines.sandbox.changes import Changes
from bg_pipelines.sandbox.clock import Clock, stamp
from bg_pipelines.sandbox.deliveries import Delivery, Outbox
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.access import Access
from bg_pipelines.sandbox.shopify.envelopes import EVENT_TOPICS, Envelope, passes
from bg_pipelines.sandbox.shopify.payloads import PAYLOADS
from bg_pipelines.sandbox.shopify.rest import Rest
from bg_pipelines.sandbox.shopify.subscriptions import API_VERSION, Subscriptions

RETRIES, RETRY_HOURS_IN_ALL = 8, 4.0
RETRY_HOURS = tuple(RETRY_HOURS_IN_ALL * 2**retry / (2**RETRIES - 1) for retry in range(RETRIES))
"""Eight retries in four hours, each after twice as long as the one before."""
SHAPES = ("classic", "events")


class Notifier:
    """Of one shop. `shape` is the form in which the topics that Events has are sent; `compliance_uri` is where the
    app wants the compliance topics, which are no subscriptions. Everything but `tell` holds the shop's `lock`."""

    def __init__(
        self,
        rest: Rest,
        access: Access,
        subscriptions: Subscriptions,
        outbox: Outbox,
        clock: Clock,
        lock: threading.RLock,
    ) -> None:
        self.shape = SHAPES[0]
        self.compliance_uri: str | None = None
        self.rest = rest
        self.access = access
        self.subscriptions = subscriptions
        self.outbox = outbox
        self.clock = clock
        self.lock = lock
        self._changes = Changes("/")

    def tell(self, topic: str, row: Node) -> None:
        """Note what happened, if anybody wants to know of anything."""
        if self.subscriptions.of:
            self._changes.note(topic, row["id"], row)

    def flush(self, delay_seconds: float = 0.0) -> None:
        """Send what was told: the change is complete."""
        for topic, _, row in self._changes.take():
            subscribed = self.subscriptions.of.get(topic)
            if subscribed:
                self._send(topic, row, subscribed, delay_seconds)

    def send_compliance(self, topic: str, payload: Node) -> Node:
        """Send a request that the law demands; the answer shows it."""
        if self.compliance_uri is None:
            raise RejectedError("edit", "the app has told no address for it: see set_compliance_uri")
        envelope = self._envelope(topic)
        webhook_id = str(uuid.uuid4())
        headers, body = envelope.classic(payload, {}, webhook_id)
        customer = payload.get("customer") or {}
        self.outbox.post(
            Delivery(
                topic=topic,
                id=webhook_id,
                event_id=envelope.event_id,
                object_id=str(customer.get("id", payload["shop_id"])),
                subscription_id=None,
                uri=self.compliance_uri,
                created_at=self.clock.stamp(),
                headers=headers,
                body=body,
            ),
            RETRY_HOURS,
        )
        return payload

    def _send(self, topic: str, row: Node, subscribed: list[Node], delay_seconds: float) -> None:
        envelope = self._envelope(topic)
        payload = PAYLOADS[topic](self.rest, row)
        as_event = self.shape == "events" and topic.partition("/")[0] in EVENT_TOPICS
        for subscription in subscribed:
            if not passes(payload, subscription["filter"]):
                continue
            webhook_id = str(uuid.uuid4())
            if as_event:
                headers, body = envelope.event(row, subscription, webhook_id)
            else:
                headers, body = envelope.classic(payload, subscription, webhook_id)
            self.outbox.post(
                Delivery(
                    topic=topic,
                    id=webhook_id,
                    event_id=envelope.event_id,
                    object_id=row["id"],
                    subscription_id=subscription["id"],
                    uri=subscription["uri"],
                    created_at=self.clock.stamp(),
                    headers=headers,
                    body=body,
                    give_up=lambda subscription=subscription: self._give_up(subscription),  # type: ignore[misc]
                ),
                RETRY_HOURS,
                delay_seconds,
            )

    def _give_up(self, subscription: Node) -> None:
        with self.lock:
            self.subscriptions.remove(subscription)

    def _envelope(self, topic: str) -> Envelope:
        now = self.clock.seconds()
        return Envelope(
            topic=topic,
            domain=self.rest.store.shop["myshopifyDomain"],
            version=API_VERSION,
            event_id=str(uuid.uuid4()),
            triggered_at=f"{stamp(now)[:-1]}.{int(now % 1 * 10**9):09d}Z",
            secret=self.access.signing_secret(),
        )
