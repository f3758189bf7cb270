"""Consent to text messages: the ledger, what follows from it, and what the platforms say.

    record(connection, Event(phone, "product_share", "granted", source="web form", channel="web", wording="…"))
    opt_in(connection, Event(phone, "all", "confirmed", source="reply", channel="sms", wording="START"))
    opt_out(connection, phone, "all", source="staff", channel="phone", wording="called us", by="jane")
    verdict(kind, events, double_opt_in=False)      may this number be sent messages of this kind?

`sms_consents` is append-only; a trigger keeps `sms_opt_outs` in line with it, whoever writes. What a platform says of a
customer with the number counts as an event of its time, and is copied into the ledger when a message relies on it. What
is given or revoked here is passed on to the platforms as an edit of the customer (`customers.changes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.customers import changes
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.store_units import make_carrier_due

Connection = psycopg.Connection[Any]

ALL = "all"
CART_REMINDER = "cart_reminder"
KINDS = ("product_share", "customer_alert", CART_REMINDER)
SCOPES = (*KINDS, ALL)
CONFIRMED_BY_NAME = frozenset({CART_REMINDER})
"""Kinds of which carriers want a double opt-in that names them: https://www.twilio.com/docs/api/errors/30517. Consent to
all, or a platform's, is none to these."""
OPTED_OUT_CODE = 21610
"""Twilio's, of a number that has opted out: https://www.twilio.com/docs/api/errors/21610"""
UNREACHABLE_CODES = frozenset({21211, 21614, 21635, 30005, 30006})
"""Twilio's, of a number that takes no messages from anybody, ever."""
GIVEN = ("granted", "confirmed")
TAKEN = ("revoked", "unreachable")


class Event(NamedTuple):
    """An event of the ledger. `kind` is one of SCOPES; `occurred_at` is now where it is None."""

    phone: str
    kind: str
    event: str
    source: str
    channel: str
    wording: str | None = None
    evidence: str | None = None
    store_id: int | None = None
    recorded_by: str | None = None
    occurred_at: datetime | None = None


class Entry(NamedTuple):
    """A row of the ledger, or what a platform says (`id` is None)."""

    id: int | None
    kind: str
    event: str
    source: str
    channel: str
    wording: str | None
    evidence: str | None
    store: str | None
    recorded_by: str | None
    occurred_at: datetime
    recorded_at: datetime | None


class Said(NamedTuple):
    """What of an event decides."""

    kind: str
    event: str
    occurred_at: datetime


class Verdict(NamedTuple):
    """`why_not` is None where messages of the kind may be sent; `relies_on` is the event that allows them."""

    why_not: str | None
    relies_on: Said | None = None


def record(connection: Connection, event: Event) -> int:
    """Add an event to the ledger; returns its id. Whether the number gets messages changes with it, at once.

    Raises IntegrationError (bad_data) for a kind that is none.
    """
    if event.kind not in SCOPES:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"kind is none of {', '.join(SCOPES)}{did_you_mean(event.kind, SCOPES)}",
            source="texts",
        )
    row = connection.execute(
        "INSERT INTO sms_consents (phone, kind, event, source, channel, wording, evidence, store_id, recorded_by, "
        "occurred_at, recorded_at) VALUES (%(phone)s, %(kind)s, %(event)s, %(source)s, %(channel)s, %(wording)s, "
        "%(evidence)s, %(store_id)s, %(recorded_by)s, coalesce(%(occurred_at)s, clock_timestamp()), clock_timestamp()) "
        "RETURNING id",
        event._asdict(),
    ).fetchone()
    assert row is not None
    return int(row[0])


def opt_out(
    connection: Connection,
    phone: str,
    kind: str,
    *,
    source: str,
    channel: str,
    wording: str | None = None,
    evidence: str | None = None,
    by: str | None = None,
) -> None:
    """Revoke a number's consent to messages of a kind, or to all, which is passed on to its customers' platforms."""
    record(
        connection,
        Event(phone, kind, "revoked", source, channel, wording, evidence, recorded_by=by),
    )
    if kind == ALL:
        _pass_on(connection, phone, "unsubscribed", ("subscribed", "pending"), f"opt-out ({source})")


def opt_in(connection: Connection, event: Event) -> None:
    """Record that consent is given, which is passed on to the customers' platforms where it is to all.

    Raises IntegrationError (bad_data) for a kind that is none.
    """
    record(connection, event)
    if event.kind == ALL:
        of_these = ("unsubscribed", "not_subscribed", "pending")
        _pass_on(connection, event.phone, "subscribed", of_these, f"opt-in ({event.source})")


def _pass_on(connection: Connection, phone: str, value: str, instead_of: Sequence[str], by: str) -> None:
    """Edit the customers with this number: a platform knows one consent, to everything.

    What is still to be sent there counts as what it has, or a START would be overtaken by the STOP before it.
    """
    for store_id, customer, held in connection.execute(
        "SELECT c.store_id, c.external_id, e.held FROM customers c JOIN stores s ON s.id = c.store_id "
        "CROSS JOIN LATERAL (SELECT coalesce((SELECT to_value FROM customer_changes WHERE store_id = c.store_id "
        "AND customer_external_id = c.external_id AND field = 'sms_consent' AND status = 'pending' ORDER BY id DESC "
        "LIMIT 1), to_jsonb(c.sms_consent)) #>> '{}' AS held) e WHERE c.phone = %s AND c.deleted_at IS NULL "
        "AND s.deleted_at IS NULL AND e.held = ANY(%s) ORDER BY c.store_id, c.external_id FOR NO KEY UPDATE OF c",
        (phone, list(instead_of)),
    ).fetchall():
        changes.add(connection, store_id, customer, "sms_consent", held, value, by=by)
        make_carrier_due(connection, changes.QUEUE, [store_id])


def note_code(connection: Connection, phone: str, code: int, evidence: str) -> None:
    """Record what a code of Twilio's says of the number: it has opted out, or takes no messages at all."""
    if code == OPTED_OUT_CODE:
        opt_out(
            connection,
            phone,
            ALL,
            source="twilio",
            channel="sms",
            wording="Twilio: 21610, the recipient has opted out",
            evidence=evidence,
        )
    elif code in UNREACHABLE_CODES:
        said_so = Event(phone, ALL, "unreachable", "twilio", "sms", f"Twilio: code {code}", evidence)
        record(connection, said_so)


def verdict(kind: str, events: Iterable[Said], *, double_opt_in: bool) -> Verdict:
    """Whether messages of a kind may be sent, by all that was said of it; what was said last decides, and of two things
    said at the same moment the one that stops."""
    concerned = sorted(
        (event for event in events if event.kind in (kind, ALL) and event.event in GIVEN + TAKEN),
        key=lambda event: (event.occurred_at, event.event in TAKEN),
    )
    if not concerned:
        return Verdict(f"no consent to messages of the kind {kind} is recorded")
    latest = concerned[-1]
    if latest.event in TAKEN:
        return Verdict("consent was revoked" if latest.event == "revoked" else "the number cannot be reached")
    if double_opt_in or kind in CONFIRMED_BY_NAME:
        # Since it was last revoked.
        since = max((event.occurred_at for event in concerned if event.event in TAKEN), default=None)
        confirmed = [
            event
            for event in concerned
            if event.event == "confirmed"
            and (since is None or event.occurred_at > since)
            and (event.kind == kind or kind not in CONFIRMED_BY_NAME)
        ]
        if not confirmed:
            return Verdict(
                "consent is not confirmed: the number was not asked by text, or has not answered YES"
            )
        return Verdict(None, confirmed[-1])
    return Verdict(None, latest)


def lock(connection: Connection, phone: str) -> None:
    """Hold the number until the transaction ends: no consent of it changes meanwhile."""
    connection.execute("SELECT lock_text_number(%s)", (phone,))


def history(connection: Connection, phone: str) -> list[Entry]:
    """Everything that is known of a number's consent, the oldest first: the evidence."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        cursor.execute(
            "SELECT l.id, kind, event, source, channel, wording, evidence, s.name AS store, recorded_by, occurred_at, "
            "recorded_at FROM sms_consents l LEFT JOIN stores s ON s.id = l.store_id WHERE l.phone = %(phone)s "
            "UNION ALL SELECT NULL, 'all', CASE c.sms_consent WHEN 'subscribed' THEN 'granted' ELSE 'revoked' END, "
            "s.platform, coalesce(c.sms_consent_source, 'platform'), NULL, c.external_id, s.name, NULL, "
            "least(coalesce(c.sms_consent_at, c.source_updated_at), c.synced_at), NULL FROM customers c JOIN stores s ON s.id = c.store_id "
            "WHERE c.phone = %(phone)s AND c.sms_consent IN ('subscribed', 'unsubscribed') AND c.deleted_at IS NULL "
            "ORDER BY occurred_at, id NULLS FIRST",
            {"phone": phone},
        )
        return cursor.fetchall()


def opted_out_of(connection: Connection, phone: str) -> list[tuple[str, datetime, str]]:
    """Kinds that the number gets no messages of, since when, and how that came."""
    return connection.execute(
        "SELECT kind, since, how FROM sms_opt_outs WHERE phone = %s ORDER BY kind", (phone,)
    ).fetchall()


def refused(kind: str, since: datetime, how: str) -> IntegrationError:
    """Why a number that has opted out is not put in the outbox."""
    return IntegrationError.of(
        ErrorType.BAD_DATA,
        f"the recipient's number gets no messages ({kind}) since {since:%Y-%m-%d %H:%M} UTC: {how}. START from that phone, "
        "or new consent, changes that",
        source="texts",
    )


def said(entries: Sequence[Entry]) -> list[Said]:
    return [Said(entry.kind, entry.event, entry.occurred_at) for entry in entries]
