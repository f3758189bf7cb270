"""Leases: rows of `sync_states` are claimed in batches, kept by a heartbeat, settled one by one.

A row says when its (store, resource) is due and who has it until when. Several runs, on several machines, share
the table without talking to each other. A killed worker's rows come back when their lease ends. All times are
the database's (one clock for all machines); `now` replaces it in tests.
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

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Work:
    """One claimed unit: a resource of a store, with where its last pass ended."""

    store_id: int
    resource: str
    tier: int
    owner: str
    claimed_at: datetime
    cursor: dict[str, Any]
    attempts: int
    last_full_at: datetime | None


# MATERIALIZED: picked once, whatever plan the join gets, so LIMIT is kept.
_CLAIM = """
    WITH picked AS MATERIALIZED (
        SELECT s.store_id, s.resource, stores.tier FROM sync_states s JOIN stores ON stores.id = s.store_id
        WHERE s.resource = ANY(%(resources)s) AND s.next_due_at <= %(due_before)s
          AND (s.lease_expires_at IS NULL OR s.lease_expires_at <= %(now)s)
          AND stores.paused_at IS NULL AND stores.deleted_at IS NULL
          AND (%(stores)s::bigint[] IS NULL OR s.store_id = ANY(%(stores)s))
          AND (%(tier)s::int IS NULL OR stores.tier = %(tier)s)
        ORDER BY s.next_due_at, s.store_id
        LIMIT %(limit)s
        FOR UPDATE OF s SKIP LOCKED
    )
    UPDATE sync_states s SET lease_owner = %(owner)s, lease_expires_at = %(now)s + %(lease)s
    FROM picked WHERE s.store_id = picked.store_id AND s.resource = picked.resource
    RETURNING s.store_id, s.resource, picked.tier, s.lease_owner AS owner, %(now)s AS claimed_at,
        s.cursor, s.attempts, s.last_full_at"""


def claim(
    connection: Connection,
    resources: Sequence[str],
    *,
    owner: str,
    limit: int,
    lease: timedelta,
    due_before: datetime,
    stores: Collection[int] | None = None,
    tiers: Sequence[int] = (1, 2, 3),
    now: datetime | None = None,
) -> list[Work]:
    """Take up to `limit` due rows, and with each the other due rows of its store, for `lease` from now.

    Fair: each tier has its share of the batch first, within it the longest due goes first, and what one tier
    leaves the others take. So a crowd in one tier never holds up another, and no row waits for ever. Rows that
    somebody else is claiming at this moment are passed over, never waited for.
    """
    now = now or clock(connection)
    parameters = {
        "resources": list(resources),
        "owner": owner,
        "lease": lease,
        "due_before": due_before,
        "now": now,
    }

    def pick(limit: int, tier: int | None, stores: Collection[int] | None) -> list[Work]:
        chosen = None if stores is None else list(stores)
        with connection.cursor(row_factory=class_row(Work)) as cursor:
            cursor.execute(_CLAIM, {**parameters, "limit": limit, "tier": tier, "stores": chosen})
            return cursor.fetchall()

    share = -(-limit // len(tiers))
    claimed: list[Work] = []
    for tier in (*tiers, None):
        wanted = limit - len(claimed)
        if wanted > 0:
            claimed += pick(wanted if tier is None else min(share, wanted), tier, stores)
    if claimed:
        claimed += pick(len(claimed) * len(resources), None, {work.store_id for work in claimed})
    return claimed


def clock(connection: Connection) -> datetime:
    """The database's clock."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def make_due(connection: Connection, resources: Sequence[str], stores: Collection[int] | None) -> int:
    """Make rows due now (of all stores where `stores` is None); returns how many. Order among them is kept."""
    return connection.execute(
        "UPDATE sync_states SET next_due_at = least(next_due_at, clock_timestamp()) "
        "WHERE resource = ANY(%s) AND (%s::bigint[] IS NULL OR store_id = ANY(%s))",
        (list(resources), None if stores is None else list(stores), list(stores or ())),
    ).rowcount


def count_due(
    connection: Connection, resources: Sequence[str], due_before: datetime, stores: Collection[int] | None
) -> int:
    """How many stores have something due that nobody is at work on."""
    return _count(connection, "coalesce(s.lease_expires_at, '-infinity') <= ", resources, due_before, stores)


def count_busy(
    connection: Connection, resources: Sequence[str], due_before: datetime, stores: Collection[int] | None
) -> int:
    """How many stores have something due that somebody is at work on."""
    return _count(connection, "s.lease_expires_at > ", resources, due_before, stores)


def _count(
    connection: Connection,
    lease: str,
    resources: Sequence[str],
    due_before: datetime,
    stores: Collection[int] | None,
) -> int:
    row = connection.execute(
        "SELECT count(DISTINCT s.store_id) FROM sync_states s JOIN stores ON stores.id = s.store_id "  # noqa: S608
        f"WHERE s.resource = ANY(%s) AND s.next_due_at <= %s AND {lease} clock_timestamp() "
        "AND stores.paused_at IS NULL AND stores.deleted_at IS NULL AND (%s::bigint[] IS NULL OR s.store_id = ANY(%s))",
        (list(resources), due_before, None if stores is None else list(stores), list(stores or ())),
    ).fetchone()
    return int(row[0]) if row else 0


def heartbeat(
    connection: Connection, owners: Collection[str], lease: timedelta, now: datetime | None = None
) -> int:
    """Keep everything these owners hold for `lease` from now; returns how many rows they still hold."""
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
        "last_succeeded_at = coalesce(%(now)s, clock_timestamp()), "
        "last_full_at = CASE WHEN %(full)s THEN coalesce(%(now)s, clock_timestamp()) ELSE last_full_at END, "
        "lease_owner = NULL, lease_expires_at = NULL",
        {"cursor": Jsonb(cursor), "next_due_at": next_due_at, "full": full_pass, "now": now},
    )


def settle_failed(
    connection: Connection, work: Work, error: IntegrationError, *, next_due_at: datetime
) -> None:
    """Failed: count it, keep the error and the cursor, give the row back, due at `next_due_at`. Raises like `save`."""
    _update_owned(
        connection,
        work,
        "attempts = attempts + 1, last_error = %(error)s, next_due_at = %(next_due_at)s, "
        "lease_owner = NULL, lease_expires_at = NULL",
        {"error": Jsonb(error.as_dict()), "next_due_at": next_due_at},
    )


def release(connection: Connection, owners: Collection[str]) -> int:
    """Give back unfinished rows, still due, with the cursor they have reached; returns how many."""
    return connection.execute(
        "UPDATE sync_states SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner = ANY(%s)",
        (list(owners),),
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
