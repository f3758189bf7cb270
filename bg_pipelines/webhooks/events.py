"""Events of the inbox as claimed work: found store by store, those of a store claimed together, settled at once.

    handled     what it told of is done
    passed_on   left to the next pass of its table, which is due at once
    ignored     it asks for nothing that can be done; `reason` says why
    failed      due again, or parked under an incident, as its error's policy says

A store's events that change nothing but rows are one ask of its platform, so they are claimed together; stores are
found by the index alone, however many events the others have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.models import WebhookEvent
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import Unit
from bg_pipelines.webhooks.topics import TOPICS, Kind, Topic
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import FREE, NOW, RESET, UNCLAIMED, Queue

Connection = psycopg.Connection[Any]

HANDLED, PASSED_ON, IGNORED, NOT_UNDERSTOOD = "handled", "passed_on", "ignored", "not_understood"
SOURCES = tuple(TOPICS)
"""Whose events are a store's; Twilio's are of none, see `text_batch`."""

PASSED_ON_AT_ONCE = 10_000


class Event(NamedTuple):
    """A claimed event. `payload` is encrypted, and only there where it is the sole source, or a command."""

    id: int
    owner: str
    attempts: int
    store_id: int
    source: str
    topic: str
    resource: str | None
    object_id: str | None
    source_updated_at: datetime | None
    triggered_at: datetime | None
    received_at: datetime
    payload: bytes | None
    incident_id: int | None

    @property
    def declared(self) -> Topic | None:
        """Its topic as `topics` has it; None for one that this program does not know."""
        return TOPICS.get(self.source, {}).get(self.topic)


class Waiting(NamedTuple):
    """A store with events that are due, the first of them since then."""

    store_id: int
    platform: str
    since: datetime


QUEUE = Queue(WebhookEvent, Event)

# A loose scan: from each store's first pending event, which is its longest due one, straight to the next store.
_FIRST = (
    "SELECT t.store_id, t.next_due_at FROM webhook_events t WHERE t.status = 'pending' AND t.source = ANY(%(sources)s) "
    "AND {behind} ORDER BY t.store_id, t.next_due_at, t.id LIMIT 1"
)
_STORE_BY_STORE = f"""
    WITH RECURSIVE waiting AS (
        ({_FIRST.format(behind="t.store_id IS NOT NULL")})
        UNION ALL SELECT n.* FROM waiting CROSS JOIN LATERAL ({_FIRST.format(behind="t.store_id > waiting.store_id")}) n
    )"""  # noqa: S608 (made of constants)
_WAITING = f"""{_STORE_BY_STORE}
    SELECT w.store_id, s.platform, w.next_due_at AS since FROM waiting w JOIN stores s ON s.id = w.store_id
    WHERE w.next_due_at <= coalesce(%(due_before)s::timestamptz, {NOW})
        AND NOT w.store_id = ANY(%(not_stores)s) AND NOT s.platform = ANY(%(not_platforms)s)
    ORDER BY w.next_due_at, w.store_id"""  # noqa: S608 (made of constants)


def waiting_stores(
    connection: Connection,
    *,
    due_before: datetime | None = None,
    not_stores: Collection[int] = (),
    not_platforms: Collection[str] = (),
) -> list[Waiting]:
    """Stores with events that are due, those first that have waited for longest. Some may be another run's."""
    with connection.cursor(row_factory=class_row(Waiting)) as cursor:
        cursor.execute(
            _WAITING,
            {
                "sources": list(SOURCES),
                "due_before": due_before,
                "now": None,
                "not_stores": list(not_stores),
                "not_platforms": list(not_platforms),
            },
        )
        return cursor.fetchall()


_DUE = f"t.next_due_at <= {NOW} AND {UNCLAIMED}"
# Store by store as well: a condition on the time alone would be looked for in the whole table.
_IS_DUE = f"""{_STORE_BY_STORE}
    SELECT EXISTS (SELECT FROM waiting w CROSS JOIN LATERAL (SELECT FROM webhook_events t WHERE t.status = 'pending'
            AND t.source = ANY(%(sources)s) AND t.store_id = w.store_id AND {_DUE} ORDER BY t.next_due_at, t.id LIMIT 1) one
            WHERE w.next_due_at <= {NOW})
        OR EXISTS (SELECT FROM (SELECT t.source FROM webhook_events t WHERE t.status = 'pending' AND t.store_id IS NULL
            AND {_DUE} ORDER BY t.next_due_at, t.id) texts WHERE source = 'twilio')"""  # noqa: S608 (made of constants)


def is_due(connection: Connection) -> bool:
    """Whether a run would find something: one query, by index, however many events others have claimed."""
    row = connection.execute(_IS_DUE, {"sources": list(SOURCES), "now": None}).fetchone()
    return bool(row and row[0])


def claim(
    connection: Connection,
    store_id: int,
    *,
    owner: str,
    limit: int,
    lease: timedelta,
    due_before: datetime | None = None,
) -> list[Event]:
    """Take up to `limit` due events of a store."""
    return QUEUE.claim(
        connection,
        owner=owner,
        limit=limit,
        lease=lease,
        among="t.store_id = %(store)s AND t.source = ANY(%(sources)s)",
        parameters={"store": store_id, "sources": list(SOURCES)},
        due_before=due_before,
    )


_SETTLED = (
    "status = %(status)s, reason = %(reason)s, settled_at = clock_timestamp(), next_due_at = NULL, "
    f"{RESET}, {FREE}, "
    # Of an erased store nothing is kept, whatever its vendor still sends.
    "payload = CASE WHEN EXISTS (SELECT FROM stores WHERE id = webhook_events.store_id AND deleted_at IS NOT NULL) "
    "THEN NULL ELSE payload END"
)


def settle(
    connection: Connection, events: Sequence[Event], status: str, reason: str | None = None
) -> list[float]:
    """Settle events of one claim, in the transaction of what they caused; returns how old each was, in seconds.

    Raises IntegrationError (lease_lost) if another run has claimed one of them meanwhile.
    """
    if not events:
        return []
    rows = connection.execute(
        f"UPDATE webhook_events SET {_SETTLED} WHERE id = ANY(%(ids)s) AND lease_owner = %(owner)s "  # noqa: S608
        "RETURNING extract(epoch FROM settled_at - received_at)::float8",
        {
            "status": status,
            "reason": reason,
            "ids": [event.id for event in events],
            "owner": events[0].owner,
        },
    ).fetchall()
    if len(rows) < len(events):
        raise IntegrationError.of(
            ErrorType.LEASE_LOST,
            f"{len(events) - len(rows)} webhook events were claimed by another run, because this one had no heartbeat for "
            "a whole lease; the other one handles them",
            source="database",
        )
    return [age for (age,) in rows]


def pass_on(
    connection: Connection, events: Sequence[Event], units: Sequence[Unit], reason: str
) -> tuple[list[float], int]:
    """Leave these events of a store's table to its next passes, which are due at once, and with them others that wait: a
    pass finds every change, but not what was deleted.

    Returns like `settle`, and how many others.
    """
    ages = settle(connection, events, PASSED_ON, reason)
    store_id, resource = events[0].store_id, events[0].resource
    others = connection.execute(
        f"UPDATE webhook_events SET {_SETTLED} WHERE id IN (SELECT t.id FROM webhook_events t "  # noqa: S608
        "WHERE t.store_id = %(store)s AND t.status = 'pending' AND t.resource = %(resource)s AND t.source = %(source)s "
        f"AND t.topic = ANY(%(topics)s) AND {_DUE} LIMIT %(most)s FOR UPDATE SKIP LOCKED)",
        {
            "status": PASSED_ON,
            "reason": reason,
            "store": store_id,
            "resource": resource,
            "source": events[0].source,
            "topics": [t.name for t in TOPICS[events[0].source].values() if t.kind is Kind.CHANGED],
            "now": None,
            "most": PASSED_ON_AT_ONCE,
        },
    ).rowcount
    store_units.hint(connection, [(store_id, unit) for unit in units])
    return ages, others


def release(connection: Connection, events: Sequence[Event]) -> None:
    """These are for a later claim."""
    connection.execute(
        f"UPDATE webhook_events SET {FREE} WHERE id = ANY(%s) AND lease_owner = ANY(%s)",  # noqa: S608
        ([event.id for event in events], list({event.owner for event in events})),
    )
