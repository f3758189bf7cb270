"""The outbox: `text_messages`, put there once by an idempotency key, claimed and sent by `share_product_text_message`.

    put(connection, NewText("product_share", store_id, "+12125550123", product="gid://…", requested_by="jane"), COUNTRIES)

An application puts one with an INSERT of its own, in its own transaction (docs/text-messages.md).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.models import TextMessage
from bg_pipelines.incidents.fingerprints import TextsStopped
from bg_pipelines.messaging import consent
from bg_pipelines.messaging.numbers import read_number
from bg_pipelines.messaging.templates import KINDS
from bg_pipelines.work.queue import DUE, Queue

Connection = psycopg.Connection[Any]

JOB = "share_product_text_message"
UNREAD = timedelta(minutes=2)
"""Replies that wait longer than this to be read stop sending: a STOP may be among them."""


class NewText(NamedTuple):
    """A message to be put in the outbox.

    `key` is its idempotency key: put twice, it is sent once; None: one of its own. `requested_by` is who says that the
    recipient asked for this one message; without, consent to its kind is needed. `expires_at`: refused if not sent by then.
    """

    template: str
    store_id: int
    phone: str
    key: str | None = None
    customer: str | None = None
    product: str | None = None
    variant: str | None = None
    order: str | None = None
    cart: str | None = None
    link: str | None = None
    fields: Mapping[str, Any] = {}
    requested_by: str | None = None
    created_by: str | None = None
    expires_at: datetime | None = None


class TextClaim(NamedTuple):
    """A claimed message. `called_at` is when a call began whose outcome is not known."""

    id: int
    owner: str
    attempts: int
    kind: str
    template: str
    store_id: int
    phone: str
    reference: str
    body: str | None
    calls: int
    called_at: datetime | None
    expires_at: datetime
    incident_id: int | None
    fields: dict[str, Any]


QUEUE = Queue(TextMessage, TextClaim)

_STOPPED = f"""EXISTS (SELECT FROM incidents i WHERE i.status = 'open' AND i.kind = '{TextsStopped.kind}'
    AND i.fingerprint NOT LIKE '{TextsStopped.kind}:prefix-%%')"""
_UNREAD = """EXISTS (SELECT FROM webhook_events e WHERE e.status = 'pending' AND e.store_id IS NULL
    AND e.source = 'twilio' AND e.topic = 'inbound' AND e.received_at < statement_timestamp() - %(unread)s)"""
SENDABLE = f"(t.incident_id IS NOT NULL OR NOT ({_STOPPED} OR {_UNREAD}))"
"""Of a due message: sending is not stopped. One that was parked and is retried is tried all the same: it is the probe."""


def put(connection: Connection, text: NewText, countries: Collection[str]) -> tuple[int, bool]:
    """Put a message in the outbox; returns its id, and whether it is new.

    Raises IntegrationError (bad_data) for a number that can take none, or that has opted out of its kind.
    """
    number = read_number(text.phone, countries)
    kind = KINDS[text.template]
    for of, since, how in consent.opted_out_of(connection, number.phone):
        if kind != "service" and of in (kind, consent.ALL):
            raise consent.refused(of, since, how)
    row = connection.execute(
        "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, customer_external_id, "
        "product_external_id, variant_external_id, order_external_id, cart_external_id, link, fields, requested_by, "
        "created_by, expires_at) VALUES (%(key)s, %(kind)s, %(template)s, %(store)s, %(phone)s, %(customer)s, "
        "%(product)s, %(variant)s, %(order)s, %(cart)s, %(link)s, %(fields)s, %(requested_by)s, %(created_by)s, "
        "coalesce(%(expires_at)s, now() + interval '2 days')) ON CONFLICT (idempotency_key) DO NOTHING RETURNING id",
        {
            "key": text.key or str(uuid.uuid4()),
            "kind": kind,
            "template": text.template,
            "store": text.store_id,
            "phone": number.phone,
            "customer": text.customer,
            "product": text.product,
            "variant": text.variant,
            "order": text.order,
            "cart": text.cart,
            "link": text.link,
            "fields": Jsonb(dict(text.fields)),
            "requested_by": text.requested_by,
            "created_by": text.created_by,
            "expires_at": text.expires_at,
        },
    ).fetchone()
    if row is None:
        held = connection.execute(
            "SELECT id FROM text_messages WHERE idempotency_key = %s", (text.key,)
        ).fetchone()
        assert held is not None
        return int(held[0]), False
    if text.requested_by is not None and kind != "service":
        consent.record(
            connection,
            consent.Event(
                number.phone,
                kind,
                "requested",
                source="staff" if text.created_by else "application",
                channel="in person",
                wording="asked for this one message",
                evidence=f"text message {row[0]}",
                store_id=text.store_id,
                recorded_by=text.requested_by,
            ),
        )
    return int(row[0]), True


def is_due(connection: Connection) -> bool:
    """Whether a run would find something to send: one query, by index."""
    row = connection.execute(
        f"SELECT EXISTS (SELECT FROM text_messages t WHERE {QUEUE.open} AND {DUE} AND {SENDABLE})",  # noqa: S608 (constants)
        {"due_before": None, "now": None, "unread": UNREAD},
    ).fetchone()
    return bool(row and row[0])
