"""What Twilio tells us: the states of messages that were sent, and what people answered.

    handle(connection, "inbound", fields, rules)     in one transaction; the same delivery twice does nothing more

States only move forward. A STOP, in whatever words, counts from this transaction's commit on: whoever sends takes the
number's lock and looks at it last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.fingerprints import TextReplies, TextsStopped
from bg_pipelines.incidents.reporting import Fault, report_fault
from bg_pipelines.messaging import consent, spikes, words
from bg_pipelines.messaging.outbox import NewText, put
from bg_pipelines.messaging.words import Reading
from bg_pipelines.values import UNWRITABLE
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]

CONFIRM_WITHIN = timedelta(minutes=5)
"""An opt-out may be confirmed once, without any marketing, within this time: 47 CFR 64.1200(a)(12)."""
_RANK = {
    "accepted": 1,
    "scheduled": 1,
    "queued": 1,
    "sending": 2,
    "sent": 3,
    "delivered": 4,
    "read": 4,
    "undelivered": 4,
    "failed": 4,
    "canceled": 4,
    "partially_delivered": 4,
}
_OURS = {"accepted": "queued", "scheduled": "queued", "read": "delivered", "partially_delivered": "delivered"}
_ACCOUNT_CODES = {
    30002: "the Twilio account is suspended: see Twilio's console",
    30010: "a message costs more than the account allows: see Twilio's console",
    30032: "the toll-free number is not verified: verify it in Twilio's console",
    30034: "the number is not registered for A2P 10DLC: register it in Twilio's console",
}
"""Failures of the account or its sender that are told only after a message was taken."""
LONGEST = 1_600
"""Characters of a message, at Twilio; no other field of a delivery has so many."""
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_CODE = re.compile("[0-9]{1,9}")


class Outcome(StrEnum):
    HANDLED = "handled"
    IGNORED = "ignored"
    LATER = "later"
    """It is of a message whose call is not settled yet: to be handled again in a minute."""


class AnswerRules(NamedTuple):
    stop_scope: str = consent.ALL
    languages: Sequence[str] = ("en", "es", "fr")
    countries: Collection[str] = ("US", "CA")


def handle(connection: Connection, topic: str, fields: Mapping[str, str], rules: AnswerRules) -> Outcome:
    """A delivery of Twilio's, `status` or `inbound`, whose signature was right; `fields` are those of its form."""
    # What no column can hold must not keep a STOP from counting.
    fields = {
        name: UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value[:LONGEST]) for name, value in fields.items()
    }
    if topic == "status":
        return _take_status(connection, fields)
    return _take_reply(connection, fields, rules)


def _take_status(connection: Connection, fields: Mapping[str, str]) -> Outcome:
    sid = fields.get("MessageSid") or fields.get("SmsSid") or ""
    status = (fields.get("MessageStatus") or fields.get("SmsStatus") or "").lower()
    code = int(fields["ErrorCode"]) if _CODE.fullmatch(fields.get("ErrorCode", "")) else None
    if status not in _RANK:
        return Outcome.IGNORED
    # The number's lock before the row's, as whoever sends takes them.
    found = connection.execute("SELECT id, phone FROM text_messages WHERE sid = %s", (sid,)).fetchone()
    if found is None:
        under_way = connection.execute(
            "SELECT FROM text_messages WHERE phone = %s AND status = 'pending' AND called_at IS NOT NULL LIMIT 1",
            (fields.get("To"),),
        ).rowcount
        return Outcome.LATER if under_way else Outcome.IGNORED
    message_id, phone = found
    consent.lock(connection, phone)
    earlier = [name for name, rank in _RANK.items() if rank < _RANK[status]]
    moved = connection.execute(
        "UPDATE text_messages SET status = %(status)s, status_at = clock_timestamp(), "
        "error_code = coalesce(%(code)s, error_code), reason = coalesce(%(reason)s, reason) "
        "WHERE id = %(id)s AND status = ANY(%(earlier)s)",
        {
            "status": _OURS.get(status, status),
            "code": code,
            "reason": f"Twilio: {status}, code {code}" if code is not None else None,
            "id": message_id,
            "earlier": earlier,
        },
    ).rowcount
    if moved and code is not None:
        _take_code(connection, phone, code, sid)
    return Outcome.HANDLED


def _take_code(connection: Connection, phone: str, code: int, sid: str) -> None:
    consent.note_code(connection, phone, code, sid)
    if code == consent.OPTED_OUT_CODE:
        spikes.watch_stops(connection)
    elif code == spikes.FILTERED_CODE:
        spikes.watch_filtered(connection)
    elif code in _ACCOUNT_CODES:
        error = IntegrationError.of(
            ErrorType.SENDING_PAUSED,
            f"{_ACCOUNT_CODES[code]} (code {code}). No text messages are sent until a person says that it is done.",
            source="twilio",
            details={"code": code},
        )
        fault = Fault(TextsStopped(f"account-{code}"), "text messages", error, needs_attention=True)
        report_fault(connection, fault, occurrence=sid)


class _Last(NamedTuple):
    """The last message that was sent to a number."""

    id: int
    kind: str
    store_id: int


def _take_reply(connection: Connection, fields: Mapping[str, str], rules: AnswerRules) -> Outcome:
    phone, body = fields.get("From", ""), fields.get("Body", "")
    sid = fields.get("MessageSid") or fields.get("SmsSid") or ""
    if not _E164.fullmatch(phone) or not sid:
        return Outcome.IGNORED
    consent.lock(connection, phone)
    row = connection.execute(
        "SELECT id, kind, store_id FROM text_messages WHERE phone = %s AND sent_at IS NOT NULL "
        "AND kind <> 'service' ORDER BY sent_at DESC, id DESC LIMIT 1",
        (phone,),
    ).fetchone()
    last = _Last(*row) if row else None
    reading = _reading(connection, phone, fields, rules)
    answered_by_twilio = bool(fields.get("OptOutType")) or words.is_twilios(body)
    # Nobody else answers a call for help in another language.
    waits = reading in (Reading.REFUSAL, Reading.OTHER) or (
        reading is Reading.HELP and not answered_by_twilio
    )
    is_new = connection.execute(
        "INSERT INTO text_replies (sid, phone, body, reading, message_id, received_at, settled_at, settled_by) "
        "VALUES (%(sid)s, %(phone)s, %(body)s, %(reading)s, %(message)s, clock_timestamp(), "
        "CASE WHEN %(settled)s THEN clock_timestamp() END, CASE WHEN %(settled)s THEN 'bg-pipelines' END) "
        "ON CONFLICT (sid) DO NOTHING",
        {
            "sid": sid,
            "phone": phone,
            "body": body,
            "reading": reading.value,
            "message": last.id if last else None,
            "settled": not waits,
        },
    ).rowcount
    if not is_new:
        return Outcome.HANDLED
    match reading:
        case Reading.STOP | Reading.REFUSAL:
            _opt_out(connection, phone, body, sid, last, fields, rules)
        case Reading.START:
            _opt_in(connection, phone, consent.ALL, body, sid)
        case Reading.YES:
            for kind in asked(connection, phone):
                _opt_in(connection, phone, kind, body, sid)
        case _:
            pass
    if waits:
        report_open_replies(connection, sid)
    return Outcome.HANDLED


def _reading(connection: Connection, phone: str, fields: Mapping[str, str], rules: AnswerRules) -> Reading:
    # What Twilio itself took it for, where its Advanced Opt-Out is in use.
    told = fields.get("OptOutType", "").lower()
    if told in (Reading.STOP, Reading.START, Reading.HELP):
        reading = Reading(told)
    else:
        reading = words.reading(fields.get("Body", ""), rules.languages)
    if reading is Reading.YES and not asked(connection, phone):
        return Reading.OTHER
    if reading is Reading.START and not consent.opted_out_of(connection, phone):
        return Reading.YES if asked(connection, phone) else Reading.OTHER
    return reading


def asked(connection: Connection, phone: str) -> list[str]:
    """Kinds of which the number was asked (double opt-in) and has not answered since."""
    return [
        kind
        for (kind,) in connection.execute(
            "SELECT DISTINCT a.kind FROM sms_consents a WHERE a.phone = %s AND a.event = 'asked' AND NOT EXISTS ("
            "SELECT FROM sms_consents b WHERE b.phone = a.phone AND b.event IN ('confirmed', 'revoked') "
            "AND b.kind IN (a.kind, 'all') AND b.occurred_at >= a.occurred_at)",
            (phone,),
        )
    ]


def _opt_out(
    connection: Connection,
    phone: str,
    body: str,
    sid: str,
    last: _Last | None,
    fields: Mapping[str, str],
    rules: AnswerRules,
) -> None:
    scope = last.kind if last and rules.stop_scope == "kind" else consent.ALL
    before = {kind for kind, _, _ in consent.opted_out_of(connection, phone)}
    had = before >= set(consent.KINDS) or scope in before or consent.ALL in before
    consent.opt_out(connection, phone, scope, source="reply", channel="sms", wording=body, evidence=sid)
    spikes.watch_stops(connection)
    # Twilio confirms its own keywords, and lets no message through after them.
    if last is None or had or fields.get("OptOutType") or words.is_twilios(body):
        return
    try:
        text = NewText(
            "opt_out",
            last.store_id,
            phone,
            key=f"opt_out/{sid}",
            created_by="reply",
            expires_at=clock(connection) + CONFIRM_WITHIN,
        )
        put(connection, text, rules.countries)
    except IntegrationError:
        return  # no country that is sent to: nothing is confirmed


def _opt_in(connection: Connection, phone: str, kind: str, body: str, sid: str) -> None:
    event = consent.Event(phone, kind, "confirmed", "reply", "sms", wording=body, evidence=sid)
    consent.opt_in(connection, event)


def report_open_replies(connection: Connection, occurrence: str | None = None) -> int:
    """Tell people that replies wait for them; returns how many. What was written is not told."""
    row = connection.execute("SELECT count(*) FROM text_replies WHERE settled_at IS NULL").fetchone()
    count = int(row[0]) if row else 0
    if count:
        error = IntegrationError.of(
            ErrorType.REPLY_WAITING,
            f"{count} {'reply' if count == 1 else 'replies'} to text messages in people's own words. What reads like a "
            "refusal has stopped messages already. Read them with `bg-pipelines texts replies`.",
            source="texts",
        )
        fault = Fault(TextReplies(), "replies to text messages", error, needs_attention=True)
        report_fault(connection, fault, occurrence=occurrence)
    return count
