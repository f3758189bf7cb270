"""Reminders of abandoned carts: from `cart_events` into the outbox, where consent allows it, once a cart.

    put_due(connection, countries)      what clean_active_carts has found abandoned since the last time

They are marketing: off unless BG_TEXT_CART_REMINDERS is on, and only for numbers that have answered YES to the question
whether they want shopping cart reminders. Carriers want that, one message a cart, and that within 48 hours
(https://www.twilio.com/docs/api/errors/30517). Whether the cart is still there, and left, is looked at again when the
message is sent (`checks`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import psycopg

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging import consent
from bg_pipelines.messaging.outbox import NewText, put

Connection = psycopg.Connection[Any]

WITHIN = timedelta(hours=48)
AT_ONCE = 500

_NEW = (
    "considered_at IS NULL AND kind = 'cart.abandoned' AND happened_at > statement_timestamp() - %(within)s"
)
_ANY = f"SELECT EXISTS (SELECT FROM cart_events WHERE {_NEW})"  # noqa: S608 (a constant)
# `carts` may be a view of an application's own tables (docs/cleaning.md), without a phone.
_CONSIDER = f"""
WITH new AS MATERIALIZED (
    SELECT id, store_id, cart_external_id, happened_at FROM cart_events WHERE {_NEW}
    ORDER BY happened_at, id LIMIT %(at_once)s FOR UPDATE SKIP LOCKED
), considered AS (
    UPDATE cart_events e SET considered_at = clock_timestamp() FROM new WHERE e.id = new.id RETURNING e.id
), wanted AS (
    SELECT new.store_id, new.cart_external_id, new.happened_at, k.customer_external_id::text AS customer, p.phone
    FROM new JOIN stores s ON s.id = new.store_id AND s.deleted_at IS NULL
    JOIN carts k ON k.store_id = new.store_id AND k.external_id::text = new.cart_external_id
    LEFT JOIN customers c ON c.store_id = k.store_id AND c.external_id = k.customer_external_id::text
        AND c.deleted_at IS NULL
    CROSS JOIN LATERAL (SELECT phone FROM (VALUES (1, to_jsonb(k) ->> 'phone'), (2, c.phone)) of (place, phone)
        WHERE EXISTS (SELECT FROM sms_consents l WHERE l.phone = of.phone AND l.kind = %(kind)s
            AND l.event = 'confirmed') ORDER BY place LIMIT 1) p
)
SELECT (SELECT count(*) FROM considered),
    (SELECT coalesce(jsonb_agg(w ORDER BY happened_at), '[]') FROM wanted w)"""  # noqa: S608 (made of constants)


def put_due(connection: Connection, countries: Collection[str]) -> int:
    """Put reminders of up to `AT_ONCE` carts in the outbox; returns how many carts were considered."""
    row = connection.execute(
        _CONSIDER, {"within": WITHIN, "at_once": AT_ONCE, "kind": consent.CART_REMINDER}
    ).fetchone()
    assert row is not None
    count, wanted = row
    for cart in wanted:
        said = consent.said(consent.history(connection, cart["phone"]))
        if consent.verdict(consent.CART_REMINDER, said, double_opt_in=True).why_not is not None:
            continue
        reminder = NewText(
            "cart_reminder",
            cart["store_id"],
            cart["phone"],
            key=f"cart_reminder/{cart['store_id']}/{cart['cart_external_id']}",
            customer=cart["customer"],
            cart=cart["cart_external_id"],
            created_by="cart.abandoned",
            expires_at=datetime.fromisoformat(cart["happened_at"]) + WITHIN,
        )
        try:
            put(connection, reminder, countries)
        except IntegrationError:
            continue  # opted out, or a number that can take none
    return int(count)


def is_due(connection: Connection) -> bool:
    """Whether there are carts to consider: one query, by index."""
    row = connection.execute(_ANY, {"within": WITHIN}).fetchone()
    return bool(row and row[0])
