"""Parked work, in every queue: rows under an incident, also those that are being retried and have not succeeded yet.

A row is under an incident from the failure that parked it until it succeeds (`Queue.park`, `Queue.complete`). Locks
are taken table by table in the order of `all_queues()`, and by key within each: two of these functions at once, or one
beside a running job, wait for each other and never in a circle.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.work.queue import FREE, Queue, all_queues
from bg_pipelines.work.store_units import make_carrier_due

Connection = psycopg.Connection[Any]

QUEUES = tuple(all_queues())
_LEASED = "coalesce(t.lease_expires_at > clock_timestamp(), false)"


def _store_of(queue: Queue[Any]) -> str:
    return "t.store_id" if queue.has_stores else "NULL::bigint"


def _each(select: str, where: str = "") -> str:
    """The rows of every queue that are under an incident, as one query of a table `t`; `{name}` is of the queue."""
    return " UNION ALL ".join(
        select.format(label=queue.label, table=queue.table, store=_store_of(queue))
        + f" FROM {queue.table} t WHERE t.incident_id IS NOT NULL AND {queue.open} {where}"
        for queue in QUEUES
    )


NOTHING_UNDER = " AND ".join(
    f"NOT EXISTS (SELECT FROM {queue.table} t WHERE t.incident_id = incidents.id AND {queue.open})"
    for queue in QUEUES
)
"""Of the table `incidents`: nothing waits under it."""

PARKED = (
    f"SELECT incident_id, count(*) AS parked FROM ({_each('SELECT t.incident_id', 'AND t.next_due_at IS NULL')}) held "  # noqa: S608
    "GROUP BY incident_id"
)
"""A query: how many rows are parked under each incident."""

WAITING = (
    "SELECT incident_id, count(*) AS waiting, count(DISTINCT store_id) AS stores "  # noqa: S608
    f"FROM ({_each('SELECT t.incident_id, {store} AS store_id')}) held GROUP BY incident_id"
)
"""A query: how many rows are under each incident, parked or to be retried, and of how many stores."""

OF_STORE = " UNION ALL ".join(
    f"SELECT FROM {queue.table} t WHERE t.incident_id = i.id AND t.store_id = %(store)s AND {queue.open}"
    for queue in QUEUES
    if queue.has_stores
)
"""A query: what of a store is under the incident `i`."""

_ROWS = (
    "SELECT held.queue, s.name AS store, held.label, held.next_due_at, held.in_hand, held.attempts, held.retry_strategy, "  # noqa: S608
    "held.retry_reason, held.error FROM ("
    + _each(
        "SELECT '{table}' AS queue, {store} AS store_id, {label} AS label, t.next_due_at, "
        + _LEASED
        + " AS in_hand, "
        "t.attempts, t.retry_strategy, t.retry_reason, t.last_error AS error",
        "AND t.incident_id = %(incident)s",
    )
    + ") held LEFT JOIN stores s ON s.id = held.store_id ORDER BY s.name, held.queue, held.label LIMIT %(limit)s"
)
_COUNTS = (
    "SELECT count(*), count(DISTINCT store_id) FROM ("  # noqa: S608
    + _each("SELECT {store} AS store_id", "AND t.incident_id = ANY(%(incidents)s)")
    + ") held"
)


class Held(NamedTuple):
    """A row under an incident: parked, or (`next_due_at`) started again and not yet through.

    `queue` is its table, `label` what people know it by.
    """

    queue: str
    store: str | None
    label: str
    next_due_at: datetime | None
    in_hand: bool
    attempts: int
    retry_strategy: str | None
    retry_reason: str | None
    error: dict[str, Any] | None


class Started(NamedTuple):
    """How many rows are due, in which stores, of which incidents; and the incidents with rows that a run has
    claimed."""

    rows: int
    stores: set[int]
    incidents: set[int]
    in_hand: set[int]


def held(connection: Connection, incident_id: int, limit: int) -> list[Held]:
    """The first rows under an incident, store by store."""
    with connection.cursor(row_factory=class_row(Held)) as cursor:
        cursor.execute(_ROWS, {"incident": incident_id, "limit": limit})
        return cursor.fetchall()


def count(connection: Connection, incident_ids: Collection[int]) -> tuple[int, int]:
    """How many rows are under these incidents, and of how many stores."""
    row = connection.execute(_COUNTS, {"incidents": list(incident_ids)}).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def is_under(connection: Connection, incident_id: int, store_id: int) -> bool:
    """Whether work of this store is under the incident."""
    return any(
        connection.execute(
            f"SELECT FROM {queue.table} t WHERE t.incident_id = %s AND t.store_id = %s AND {queue.open} LIMIT 1",
            (incident_id, store_id),
        ).rowcount
        for queue in QUEUES
        if queue.has_stores
    )


def start_again(
    connection: Connection, incident_ids: Collection[int], reason: str, *, release: bool = False
) -> Started:
    """Make what is under these incidents due now, with all its attempts; `release` also detaches it from them.

    Rows that a run has claimed are settled by it and left alone; a run whose lease is over has lost them for good. The
    units that carry the started work are due as well.
    """
    started = Started(0, set(), set(), set())
    for queue in QUEUES:
        in_hand = {row.incident_id for row in _lock(connection, queue, incident_ids) if row.in_hand}
        free = connection.execute(
            f"UPDATE {queue.table} t SET next_due_at = least(t.next_due_at, clock_timestamp()), attempts = 0, "  # noqa: S608
            f"retry_reason = %s, {FREE} WHERE t.incident_id = ANY(%s) AND {queue.open} AND NOT {_LEASED} "
            f"RETURNING t.incident_id, {_store_of(queue)}",
            (reason, list(incident_ids)),
        ).fetchall()
        make_carrier_due(connection, queue, {store_id for _, store_id in free}, failing=True)
        if release:
            connection.execute(
                f"UPDATE {queue.table} SET incident_id = NULL WHERE incident_id = ANY(%s)",  # noqa: S608
                (list(incident_ids),),
            )
        started = Started(
            started.rows + len(free),
            started.stores | {store_id for _, store_id in free if store_id is not None},
            started.incidents | {incident_id for incident_id, _ in free},
            started.in_hand | in_hand,
        )
    return started


def move(connection: Connection, incident_ids: Collection[int], into: int) -> int:
    """Move what is under these incidents to another one; returns how many rows."""
    moved = 0
    for queue in QUEUES:
        if _lock(connection, queue, incident_ids):
            moved += connection.execute(
                f"UPDATE {queue.table} t SET incident_id = %s WHERE t.incident_id = ANY(%s) AND {queue.open}",  # noqa: S608
                (into, list(incident_ids)),
            ).rowcount
    return moved


class _Locked(NamedTuple):
    incident_id: int
    in_hand: bool


def _lock(connection: Connection, queue: Queue[Any], incident_ids: Collection[int]) -> list[_Locked]:
    keys = ", ".join(f"t.{name}" for name in queue.key)
    with connection.cursor(row_factory=class_row(_Locked)) as cursor:
        cursor.execute(
            f"SELECT t.incident_id, {_LEASED} AS in_hand FROM {queue.table} t "  # noqa: S608
            f"WHERE t.incident_id = ANY(%s) AND {queue.open} ORDER BY {keys} FOR NO KEY UPDATE",
            (list(incident_ids),),
        )
        return cursor.fetchall()
