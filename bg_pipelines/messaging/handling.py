"""What people look at and settle: messages, those of which nobody knows whether they were sent, and replies.

Numbers that are returned are whole: whoever shows them masks them (`numbers.masked`).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import TextReplies, TextsRefused, TextsUnclear, parse
from bg_pipelines.wording import did_you_mean

LATEST = 50
STATUSES = (
    "pending",
    "refused",
    "queued",
    "sending",
    "sent",
    "delivered",
    "undelivered",
    "failed",
    "canceled",
)
SETTLED_AS = ("sent", "again", "dropped")


class TextRow(NamedTuple):
    """A message as it is listed. `phone` is personal."""

    id: int
    created_at: datetime
    store: str
    template: str
    phone: str
    status: str
    reason: str | None
    segments: int | None
    sent_at: datetime | None
    next_due_at: datetime | None
    incident_id: int | None
    created_by: str | None


class ReplyRow(NamedTuple):
    """A reply that waits for a person. `phone` and `body` are personal."""

    id: int
    received_at: datetime
    phone: str
    reading: str
    body: str | None
    store: str | None
    answers: str | None


def list_texts(
    database: Database, *, store: str | None = None, status: str | None = None, limit: int = LATEST
) -> list[TextRow]:
    """The latest messages, newest first. Raises IntegrationError (bad_data) for a store or a status that is none."""
    if status is not None and status not in STATUSES:
        raise _bad_data(f"status is none of {', '.join(STATUSES)}{did_you_mean(status, STATUSES)}")
    with database.transaction() as connection, connection.cursor(row_factory=class_row(TextRow)) as cursor:
        store_id = None if store is None else find_store(connection, store)
        cursor.execute(
            "SELECT t.id, t.created_at, s.name AS store, template, phone, t.status, "
            "coalesce(reason, CASE t.status WHEN 'pending' THEN coalesce(last_error ->> 'message', retry_reason) END) "
            "AS reason, segments, sent_at, next_due_at, incident_id, created_by "
            "FROM text_messages t JOIN stores s ON s.id = t.store_id WHERE (%(store)s::bigint IS NULL OR store_id = %(store)s) "
            "AND (%(status)s::text IS NULL OR t.status = %(status)s) ORDER BY t.id DESC LIMIT %(limit)s",
            {"store": store_id, "status": status, "limit": limit},
        )
        return cursor.fetchall()


def settle_unclear(database: Database, id_: int, how: str, *, by: str) -> None:
    """A person has looked at Twilio: a message that is parked was `sent`, is to be sent `again`, or `dropped`.

    With the last one that is parked as unclear, or for a code, its incident ends. Raises IntegrationError (bad_data) for a
    message that is not parked.
    """
    if how not in SETTLED_AS:
        raise _bad_data(f"--as is none of {', '.join(SETTLED_AS)}{did_you_mean(how, SETTLED_AS)}")
    assignments = {
        "sent": "status = 'sent', sent_at = called_at, status_at = clock_timestamp(), next_due_at = NULL, ",
        "again": "next_due_at = clock_timestamp(), attempts = 0, ",
        "dropped": "status = 'refused', status_at = clock_timestamp(), next_due_at = NULL, ",
    }[how]
    with database.transaction() as connection:
        # The incident's lock before the row's, as by whoever parks or retries.
        incident = connection.execute(
            "SELECT i.id, i.fingerprint FROM incidents i JOIN text_messages t ON t.incident_id = i.id WHERE t.id = %s "
            "FOR NO KEY UPDATE OF i",
            (id_,),
        ).fetchone()
        done = connection.execute(
            f"UPDATE text_messages SET {assignments} called_at = NULL, incident_id = NULL, reason = %s "  # noqa: S608
            "WHERE id = %s AND status = 'pending' AND next_due_at IS NULL AND incident_id IS NOT NULL",
            (f"{how}, says {by}" if how != "again" else None, id_),
        ).rowcount
        if not done or incident is None:
            raise _bad_data(
                f"text message {id_}: is not parked; `bg-pipelines texts list --status pending` has those"
            )
        incident_id, text = incident
        fingerprint = parse(text)
        left = connection.execute(
            "SELECT FROM text_messages WHERE incident_id = %s AND status = 'pending' LIMIT 1", (incident_id,)
        ).rowcount
        if isinstance(fingerprint, TextsUnclear | TextsRefused) and not left:
            reporting.clear(connection, [fingerprint], f"each was settled by {by}")


def open_replies(database: Database, limit: int = LATEST) -> list[ReplyRow]:
    """Replies in people's own words that nobody has dealt with, the oldest first."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(ReplyRow)) as cursor:
        cursor.execute(
            "SELECT r.id, r.received_at, r.phone, r.reading, r.body, s.name AS store, t.body AS answers "
            "FROM text_replies r LEFT JOIN text_messages t ON t.id = r.message_id LEFT JOIN stores s ON s.id = t.store_id "
            "WHERE r.settled_at IS NULL ORDER BY r.id LIMIT %s",
            (limit,),
        )
        return cursor.fetchall()


def settle_reply(database: Database, id_: int, *, by: str) -> int:
    """A person has dealt with a reply; returns how many still wait. Raises IntegrationError (bad_data)."""
    with database.transaction() as connection:
        done = connection.execute(
            "UPDATE text_replies SET settled_at = clock_timestamp(), settled_by = %s "
            "WHERE id = %s AND settled_at IS NULL",
            (by, id_),
        ).rowcount
        if not done:
            raise _bad_data(f"reply {id_}: there is none that waits")
        row = connection.execute("SELECT count(*) FROM text_replies WHERE settled_at IS NULL").fetchone()
        assert row is not None
        if row[0] == 0:
            reporting.clear(connection, [TextReplies()], f"the last one was dealt with by {by}")
        return int(row[0])


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="texts")
