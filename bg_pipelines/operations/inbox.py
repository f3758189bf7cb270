"""The inbox as people see it: events listed by store, topic, status, time or incident, and handled once more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.webhooks.events import SOURCES
from bg_pipelines.webhooks.topics import TOPICS, Kind
from bg_pipelines.wording import did_you_mean, plain
from bg_pipelines.work.queue import FREE, clock

Connection = psycopg.Connection[Any]

STATUSES = ("pending", "parked", "handled", "passed_on", "ignored", "not_understood")
"""`parked` is a pending one that waits under an incident."""
LATEST = 50
_SPANS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_WITH_PAYLOAD = [
    topic.name
    for topics in TOPICS.values()
    for topic in topics.values()
    if topic.kind in (Kind.DOCUMENT, Kind.COMMAND)
]


@dataclass(frozen=True)
class Choice:
    """Which events; what is not given does not matter. `since` is when they were received."""

    ids: Sequence[int] = ()
    store: str | None = None
    topic: str | None = None
    status: str | None = None
    since: datetime | None = None
    incident: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == Choice()


class EventRow(NamedTuple):
    """An event; `note` says why it was not handled, or what went wrong."""

    id: int
    received_at: datetime
    store: str | None
    source: str
    topic: str
    object_id: str | None
    status: str
    seconds: float | None
    attempts: int
    next_due_at: datetime | None
    incident_id: int | None
    webhook_id: str
    note: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        return plain(self)  # type: ignore[no-any-return]


class Replayed(NamedTuple):
    """How many events are due once more, by topic, and how many are not, by reason."""

    topics: dict[str, int]
    left: dict[str, int]

    @property
    def events(self) -> int:
        return sum(self.topics.values())


def moment(text: str, now: datetime) -> datetime:
    """A time as a person types it: `30m`, `2h` or `3d` ago, or ISO 8601, in UTC if it names no zone.

    Raises IntegrationError (bad_data).
    """
    ago = re.fullmatch(r"(\d{1,5})([mhd])", text.strip())
    if ago:
        return now - int(ago[1]) * _SPANS[ago[2]]
    try:
        given = datetime.fromisoformat(text.strip())
        return given if given.tzinfo else given.replace(tzinfo=UTC)
    except ValueError:
        raise _bad_data(f"{text!r} is no time: give it like 30m, 2h, 3d or 2026-11-23T12:00") from None


_CHOSEN = """
    (%(ids)s::bigint[] IS NULL OR t.id = ANY(%(ids)s)) AND (%(store)s::bigint IS NULL OR t.store_id = %(store)s)
    AND (%(topic)s::text IS NULL OR t.topic = %(topic)s) AND (%(since)s::timestamptz IS NULL OR t.received_at >= %(since)s)
    AND (%(incident)s::bigint IS NULL OR t.incident_id = %(incident)s)
    AND (%(status)s::text IS NULL OR t.status = %(kept)s AND (%(status)s <> 'parked' OR t.next_due_at IS NULL))"""
_LIST = f"""
    SELECT t.id, t.received_at, s.name AS store, t.source, t.topic, t.object_id,
        CASE WHEN t.status = 'pending' AND t.next_due_at IS NULL THEN 'parked' ELSE t.status END AS status,
        extract(epoch FROM t.settled_at - t.received_at)::float8 AS seconds, t.attempts, t.next_due_at, t.incident_id,
        t.webhook_id, coalesce(t.reason, t.last_error ->> 'message', t.retry_reason) AS note
    FROM webhook_events t LEFT JOIN stores s ON s.id = t.store_id WHERE {_CHOSEN} ORDER BY t.id DESC LIMIT %(limit)s"""  # noqa: S608 (of constants)
_REPLAY = f"""
    WITH chosen AS (
        SELECT t.id, CASE
            WHEN NOT t.source = ANY(%(sources)s) THEN 'they are of text messages'
            WHEN t.status = 'not_understood' THEN 'they were not understood'
            WHEN t.store_id IS NULL THEN 'they are of no store'
            WHEN t.lease_expires_at > clock_timestamp() THEN 'a run is at work on them'
            WHEN t.payload IS NULL AND t.topic = ANY(%(with_payload)s) THEN 'their content was erased'
        END AS why
        FROM webhook_events t WHERE {_CHOSEN} ORDER BY t.id FOR UPDATE OF t
    ), replayed AS (
        UPDATE webhook_events t SET status = 'pending', reason = NULL, settled_at = NULL, next_due_at = clock_timestamp(),
            attempts = 0, last_error = NULL, retry_strategy = NULL, retry_reason = %(why)s, {FREE}
        FROM chosen WHERE chosen.id = t.id AND chosen.why IS NULL RETURNING t.topic
    )
    SELECT true, topic, count(*) FROM replayed GROUP BY topic
    UNION ALL SELECT false, why, count(*) FROM chosen WHERE why IS NOT NULL GROUP BY why ORDER BY 1 DESC, 2"""  # noqa: S608 (of constants)


def list_events(database: Database, choice: Choice, *, limit: int = LATEST) -> list[EventRow]:
    """The latest of these events, newest first. Raises IntegrationError (bad_data) for a name that is none."""
    with (
        database.transaction() as connection,
        connection.cursor(row_factory=class_row(EventRow)) as cursor,
    ):
        cursor.execute(_LIST, {**_parameters(connection, choice), "limit": limit})
        return cursor.fetchall()


def replay(database: Database, choice: Choice, *, by: str) -> Replayed:
    """Make these events due once more, whatever became of them; what is parked stays under its incident until it succeeds.

    Raises IntegrationError (bad_data) for a name that is none, an id that does not exist, and where nothing is chosen.
    """
    if choice.is_empty:
        raise _bad_data("say which events: by their ids, store, topic, status, time or incident")
    with database.transaction() as connection:
        known = connection.execute(
            "SELECT id FROM webhook_events WHERE id = ANY(%s)", (list(choice.ids),)
        ).fetchall()
        if missing := sorted(set(choice.ids) - {row[0] for row in known}):
            raise _bad_data(f"no such event: {', '.join(map(str, missing))}")
        rows = connection.execute(
            _REPLAY,
            {
                **_parameters(connection, choice),
                "sources": list(SOURCES),
                "with_payload": _WITH_PAYLOAD,
                "why": f"replayed by {by.strip()}",
            },
        ).fetchall()
    return Replayed(
        {name: number for is_due, name, number in rows if is_due},
        {name: number for is_due, name, number in rows if not is_due},
    )


def now(database: Database) -> datetime:
    """The database's clock, by which events are received."""
    with database.transaction() as connection:
        return clock(connection)


def _parameters(connection: Connection, choice: Choice) -> dict[str, Any]:
    if choice.status is not None and choice.status not in STATUSES:
        raise _bad_data(
            f"status {choice.status!r} is none of: {', '.join(STATUSES)}{did_you_mean(choice.status, STATUSES)}"
        )
    known = sorted({name for topics in TOPICS.values() for name in topics})
    if choice.topic is not None and choice.topic not in known:
        found = connection.execute("SELECT FROM webhook_events WHERE topic = %s LIMIT 1", (choice.topic,))
        if not found.rowcount:
            raise _bad_data(f"no topic {choice.topic!r}{did_you_mean(choice.topic, known)}")
    return {
        "ids": list(choice.ids) or None,
        "store": None if choice.store is None else find_store(connection, choice.store),
        "topic": choice.topic,
        "since": choice.since,
        "incident": choice.incident,
        "status": choice.status,
        "kept": "pending" if choice.status == "parked" else choice.status,
    }


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="webhooks")
