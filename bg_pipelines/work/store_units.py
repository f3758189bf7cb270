"""Leases: rows of `sync_states` are claimed in batches, kept by a heartbeat, settled one by one.

A row says when its (store, resource) is due and who has it until when. Several runs, on several machines, share
the table without talking to each other. A killed worker's rows come back when their lease ends. What an open
circuit covers (`circuits`) is left alone, but for a probe. All times are the database's: one clock for all machines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import TIERS
from bg_pipelines.retries import Decision

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Work:
    """One claimed unit: a resource of a store, with where its last pass ended."""

    store_id: int
    platform: str
    resource: str
    interval: timedelta
    owner: str
    claimed_at: datetime
    cursor: dict[str, Any]
    attempts: int
    last_full_at: datetime | None


# Due, in nobody's hands, of a store that is at work. statement_timestamp, for clock_timestamp, which may change
# from row to row, is never looked up in an index.
_FREE = """
    s.resource = ANY(%(resources)s) AND s.next_due_at <= coalesce(%(due_before)s, statement_timestamp())
    AND (s.lease_expires_at IS NULL OR s.lease_expires_at <= coalesce(%(now)s, statement_timestamp()))
    AND stores.paused_at IS NULL AND stores.deleted_at IS NULL
    AND (%(stores)s::bigint[] IS NULL OR s.store_id = ANY(%(stores)s)) AND NOT s.store_id = ANY(%(not_stores)s)
    AND stores.tier = ANY(%(tiers)s)"""
_CLOSED = """
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.store_id = s.store_id)
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.platform = stores.platform)"""
_CLOSED_OR_PROBED = """
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.store_id = s.store_id
        AND c.probe_at > statement_timestamp())
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.platform = stores.platform
        AND c.probe_at > statement_timestamp())"""

# MATERIALIZED: picked once, whatever plan the join gets, so LIMIT is kept.
_CLAIM = """
    WITH picked AS MATERIALIZED (
        SELECT s.store_id, s.resource, stores.platform, stores.tier, stores.interval_minutes
        FROM sync_states s JOIN stores ON stores.id = s.store_id
        WHERE {free} AND NOT stores.platform = ANY(%(not_platforms)s)
        ORDER BY s.next_due_at, s.store_id
        LIMIT %(limit)s
        FOR UPDATE OF s SKIP LOCKED
    )
    UPDATE sync_states s SET lease_owner = %(owner)s, lease_expires_at = coalesce(%(now)s, statement_timestamp()) + %(lease)s
    FROM picked WHERE s.store_id = picked.store_id AND s.resource = picked.resource
    RETURNING s.store_id, picked.platform, s.resource,
        coalesce(make_interval(mins => picked.interval_minutes), (%(intervals)s::interval[])[picked.tier]) AS interval,
        s.lease_owner AS owner, coalesce(%(now)s, statement_timestamp()) AS claimed_at, s.cursor, s.attempts, s.last_full_at"""


def claim(
    connection: Connection,
    resources: Sequence[str],
    *,
    owner: str,
    limit: int,
    lease: timedelta,
    due_before: datetime | None = None,
    stores: Collection[int] | None = None,
    tiers: Sequence[int] = tuple(TIERS),
    not_stores: Collection[int] = (),
    not_platforms: Collection[str] = (),
    now: datetime | None = None,
) -> list[Work]:
    """Take up to `limit` due rows, and with each the other due rows of its store, for `lease` from now.

    Only of stores of these `tiers`. Fair: each tier has its share of the batch first,
    within it the longest due goes first, and what one tier leaves the others take. So a crowd in one tier never
    holds up another, and no row waits for ever. Rows that somebody else is claiming at this moment are passed over,
    never waited for.
    """

    def pick(limit: int, tiers: Sequence[int], stores: Collection[int] | None) -> list[Work]:
        among = _among(resources, due_before, stores, tiers, not_stores, now)
        return _take(connection, _FREE + _CLOSED, among, owner, lease, limit, not_platforms)

    share = -(-limit // len(tiers))
    claimed: list[Work] = []
    for one in (*([tier] for tier in tiers), tiers):
        wanted = limit - len(claimed)
        if wanted > 0:
            claimed += pick(wanted if one is tiers else min(share, wanted), one, stores)
    if claimed:
        claimed += pick(len(claimed) * len(resources), tiers, {work.store_id for work in claimed})
    return claimed


_PROBE = """
    SELECT s.store_id, s.resource, c.key FROM sync_states s JOIN stores ON stores.id = s.store_id
    JOIN circuits c ON c.opened_at IS NOT NULL AND (c.store_id = s.store_id OR c.platform = stores.platform)
    WHERE {free} ORDER BY c.platform IS NULL, s.attempts > 0, s.next_due_at, s.store_id LIMIT 1
    FOR UPDATE OF c, s SKIP LOCKED"""


def claim_probe(
    connection: Connection,
    resources: Sequence[str],
    *,
    owner: str,
    lease: timedelta,
    due_before: datetime | None = None,
    stores: Collection[int] | None = None,
    tiers: Sequence[int] = tuple(TIERS),
    not_stores: Collection[int] = (),
) -> list[Work]:
    """Take one row that an open circuit covers and that may go now as its probe; none if there is none.

    One that has not failed goes first: what is wrong with a single store says little of its platform.
    """
    among = _among(resources, due_before, stores, tiers, not_stores)
    row = connection.execute(_PROBE.format(free=_FREE + _CLOSED_OR_PROBED), among).fetchone()
    if row is None:
        return []
    store_id, resource, circuit = row
    # Until then nobody else probes it; should this worker be killed, somebody does.
    connection.execute(
        "UPDATE circuits SET probe_at = clock_timestamp() + %s, probe_owner = %s WHERE key = %s",
        (lease, owner, circuit),
    )
    among |= {"stores": [store_id], "resources": [resource]}
    return _take(connection, _FREE, among, owner, lease, limit=1)


def _among(
    resources: Sequence[str],
    due_before: datetime | None = None,
    stores: Collection[int] | None = None,
    tiers: Sequence[int] = tuple(TIERS),
    not_stores: Collection[int] = (),
    now: datetime | None = None,
) -> dict[str, Any]:
    """The parameters of `_FREE`."""
    return {
        "resources": list(resources),
        "due_before": due_before,
        "stores": None if stores is None else list(stores),
        "tiers": list(tiers),
        "not_stores": list(not_stores),
        "now": now,
    }


def _take(
    connection: Connection,
    free: str,
    among: dict[str, Any],
    owner: str,
    lease: timedelta,
    limit: int,
    not_platforms: Collection[str] = (),
) -> list[Work]:
    parameters = {
        **among,
        "owner": owner,
        "lease": lease,
        "limit": limit,
        "not_platforms": list(not_platforms),
        "intervals": [TIERS.get(tier) for tier in range(1, max(TIERS) + 1)],
    }
    with connection.cursor(row_factory=class_row(Work)) as cursor:
        cursor.execute(_CLAIM.format(free=free), parameters)
        return cursor.fetchall()


def is_due(
    connection: Connection,
    resources: Sequence[str],
    *,
    tiers: Sequence[int] = tuple(TIERS),
    retries: bool = False,
) -> bool:
    """Whether a run of these resources would find work: one query, by index, however many stores there are.

    With `retries` only work that is due outside of its tier's ticks counts: what failed before and what is new.
    """
    off_tick = "AND (s.retry_strategy IS NOT NULL OR s.last_succeeded_at IS NULL)" if retries else ""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM sync_states s JOIN stores ON stores.id = s.store_id "  # noqa: S608
        f"WHERE {_FREE} {off_tick} {_CLOSED_OR_PROBED})",
        _among(resources, tiers=tiers),
    ).fetchone()
    return bool(row and row[0])


def clock(connection: Connection) -> datetime:
    """The database's clock."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def make_due(
    connection: Connection,
    resources: Sequence[str],
    stores: Collection[int] | None,
    tiers: Sequence[int] = tuple(TIERS),
) -> int:
    """Make rows due now (of all stores of these tiers where `stores` is None), parked ones too; returns how many.

    Their order is kept; paused stores are left as they are.
    """
    return connection.execute(
        "UPDATE sync_states s SET next_due_at = least(s.next_due_at, clock_timestamp()) "
        # In one order, the same as whoever else takes many at once: else two of them may wait for each other.
        "FROM (SELECT y.store_id, y.resource FROM sync_states y JOIN stores ON stores.id = y.store_id "
        "WHERE y.resource = ANY(%s) AND stores.tier = ANY(%s) AND paused_at IS NULL AND deleted_at IS NULL "
        "AND (%s::bigint[] IS NULL OR y.store_id = ANY(%s)) ORDER BY y.store_id, y.resource FOR UPDATE OF y) held "
        "WHERE s.store_id = held.store_id AND s.resource = held.resource",
        (list(resources), list(tiers), None if stores is None else list(stores), list(stores or ())),
    ).rowcount


def count_due(
    connection: Connection,
    resources: Sequence[str],
    due_before: datetime,
    stores: Collection[int] | None,
    tiers: Sequence[int] = tuple(TIERS),
) -> tuple[int, int]:
    """How many stores have something due: that nobody is at work on, and that somebody is."""
    row = connection.execute(
        "SELECT count(DISTINCT s.store_id) FILTER (WHERE coalesce(s.lease_expires_at, '-infinity') <= clock_timestamp()), "
        "count(DISTINCT s.store_id) FILTER (WHERE s.lease_expires_at > clock_timestamp()) "
        "FROM sync_states s JOIN stores ON stores.id = s.store_id "
        "WHERE s.resource = ANY(%s) AND s.next_due_at <= %s AND stores.tier = ANY(%s) "
        "AND stores.paused_at IS NULL AND stores.deleted_at IS NULL AND (%s::bigint[] IS NULL OR s.store_id = ANY(%s))",
        (
            list(resources),
            due_before,
            list(tiers),
            None if stores is None else list(stores),
            list(stores or ()),
        ),
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def heartbeat(
    connection: Connection, owners: Collection[str], lease: timedelta, now: datetime | None = None
) -> int:
    """Keep everything these owners hold for `lease` from now, probes too; returns how many rows they still hold."""
    connection.execute(
        "UPDATE circuits SET probe_at = coalesce(%s, clock_timestamp()) + %s WHERE probe_owner = ANY(%s)",
        (now, lease, list(owners)),
    )
    return connection.execute(
        "UPDATE sync_states SET lease_expires_at = coalesce(%s, clock_timestamp()) + %s WHERE lease_owner = ANY(%s)",
        (now, lease, list(owners)),
    ).rowcount


def save(connection: Connection, work: Work, cursor: dict[str, Any]) -> None:
    """Keep how far the work has come, in the transaction of the rows it covers.

    Raises IntegrationError (lease_lost) if somebody else has claimed the row meanwhile: then nothing of this
    transaction may be kept.
    """
    _update_owned(connection, work, "cursor = %(cursor)s", {"cursor": Jsonb(cursor)})


def settle_succeeded(
    connection: Connection,
    work: Work,
    cursor: dict[str, Any],
    *,
    next_due_at: datetime,
    full_pass: bool = False,
    now: datetime | None = None,
) -> None:
    """Done: forget the failures, give the row back, due again at `next_due_at`. Raises like `save`."""
    _update_owned(
        connection,
        work,
        "cursor = %(cursor)s, next_due_at = %(next_due_at)s, attempts = 0, last_error = NULL, "
        "retry_strategy = NULL, retry_reason = NULL, incident_id = NULL, "
        "last_succeeded_at = coalesce(%(now)s, clock_timestamp()), "
        "last_full_at = CASE WHEN %(full)s THEN coalesce(%(now)s, clock_timestamp()) ELSE last_full_at END, "
        "lease_owner = NULL, lease_expires_at = NULL",
        {"cursor": Jsonb(cursor), "next_due_at": next_due_at, "full": full_pass, "now": now},
    )


def settle_failed(
    connection: Connection,
    work: Work,
    error: IntegrationError,
    decision: Decision,
    *,
    attempts: int,
    incident_id: int | None = None,
) -> None:
    """Failed for the `attempts`-th time: keep the error, the decision and the cursor, give the row back.

    It is due when the decision says; where that is never, it is parked under its incident. One it has been under
    stays with it until it succeeds. Raises like `save`.
    """
    _update_owned(
        connection,
        work,
        "attempts = %(attempts)s, last_error = %(error)s, next_due_at = %(retry_at)s, retry_strategy = %(strategy)s, "
        "retry_reason = %(reason)s, incident_id = coalesce(%(incident)s, incident_id), lease_owner = NULL, lease_expires_at = NULL",
        {
            "attempts": attempts,
            "error": Jsonb(error.as_dict()),
            "retry_at": decision.retry_at,
            "strategy": decision.strategy.value,
            "reason": decision.reason,
            "incident": incident_id,
        },
    )


def put_back(connection: Connection, work: Work, *, behind_others: bool = True) -> None:
    """Unfinished: give the row back with the cursor it has reached, in its place or behind all that are due.

    Raises like `save`.
    """
    place = "next_due_at = clock_timestamp(), " if behind_others else ""
    _update_owned(connection, work, f"{place}lease_owner = NULL, lease_expires_at = NULL", {})


def release(connection: Connection, owners: Collection[str]) -> int:
    """Give back unfinished rows, still due, with the cursor they have reached; returns how many."""
    return connection.execute(
        "UPDATE sync_states SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner = ANY(%s)",
        (list(owners),),
    ).rowcount


def release_runs(connection: Connection, runs: Collection[str]) -> int:
    """Give back all that runs which have died hold, before their leases end; returns how many rows.

    Should one of them live after all, it notices that it has lost them, and writes nothing more.
    """
    return connection.execute(
        "UPDATE sync_states SET lease_owner = NULL, lease_expires_at = NULL "
        "WHERE lease_owner IS NOT NULL AND split_part(lease_owner, '/', 1) = ANY(%s)",
        (list(runs),),
    ).rowcount


def _update_owned(connection: Connection, work: Work, assignments: str, parameters: dict[str, Any]) -> None:
    row = {"store": work.store_id, "resource": work.resource, "owner": work.owner}
    updated = connection.execute(
        f"UPDATE sync_states SET {assignments} "  # noqa: S608 (assignments are constants of this module)
        "WHERE store_id = %(store)s AND resource = %(resource)s AND lease_owner = %(owner)s",
        {**parameters, **row},
    ).rowcount
    if updated != 1:
        raise IntegrationError.of(
            ErrorType.LEASE_LOST,
            f"{work.resource} of store {work.store_id} was claimed by another worker after this one had not been "
            "heard of for the length of a lease; the other one finishes it",
            source="database",
        )
