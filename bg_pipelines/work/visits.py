"""Visits: which run is at which units of stores, so that others take other ones.

    due = take(connection, units, owner="run/1", limit=100, lease=LEASE)    # these are now in this run's hands
    claimed = store_units.claim(connection, due_of_one_store, lease=LEASE)  # where there is something to do
    end(connection, [("run/1", store_id)])

A visit looks before it claims: nearly every one finds nothing new, and then nothing was written to a row of `sync_states` but
when it is due again. The table of visits is unlogged: they cost no WAL, and PostgreSQL forgets them when it recovers from a
crash. Then, or once a lease has ended, two runs may look at the same store, which costs a call; only who has claimed a unit
writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row

from bg_pipelines.queues import TIERS
from bg_pipelines.work.queue import DUE, NOW, owner_of
from bg_pipelines.work.store_units import AMONG, CLOSED, INTERVAL, NOT_VISITED, Claim, among_units

Connection = psycopg.Connection[Any]

_DUE = f"FROM sync_states t JOIN stores ON stores.id = t.store_id WHERE {DUE} AND {NOT_VISITED}"
_ALLOWED = f"AND {AMONG}{CLOSED} AND NOT stores.platform = ANY(%(not_platforms)s)"
_ORDER = "ORDER BY t.next_due_at, t.store_id"
_COLUMNS = {
    "unit": "t.resource",
    "platform": "stores.platform",
    "interval": INTERVAL.format("stores"),
    "owner": "%(owner)s::text",
    "claimed_at": NOW,
    "due_at": "t.next_due_at",
    "attempt_id": "0",
}
# With each row that is picked come the other due rows of its store.
_TAKE = f"""
    WITH picked AS MATERIALIZED (
        SELECT store_id FROM (
            SELECT d.*, 0 AS turn FROM unnest(%(tiers)s::int[]) one(tier), LATERAL (
                SELECT t.store_id, t.resource, t.next_due_at {_DUE} {_ALLOWED} AND stores.tier = one.tier
                {_ORDER} LIMIT %(share)s) d
            UNION ALL SELECT d.*, 1 FROM (
                SELECT t.store_id, t.resource, t.next_due_at {_DUE} {_ALLOWED} {_ORDER} LIMIT %(others)s) d
        ) candidates GROUP BY store_id, resource ORDER BY min(turn), min(next_due_at), store_id LIMIT %(limit)s
    ), due AS MATERIALIZED (
        SELECT {", ".join(f"{_COLUMNS.get(name, f't.{name}')} AS {name}" for name in Claim.__annotations__)}
        {_DUE} AND t.resource = ANY(%(units)s) AND t.store_id IN (SELECT store_id FROM picked)
    ), taken AS (
        INSERT INTO visited_units AS v (store_id, resource, owner, expires_at)
        SELECT store_id, unit, owner, {NOW} + %(lease)s FROM due ON CONFLICT (store_id, resource)
        DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at WHERE v.expires_at <= {NOW}
        RETURNING store_id, resource
    )
    SELECT due.* FROM due JOIN taken ON taken.store_id = due.store_id AND taken.resource = due.unit
    ORDER BY due.due_at, due.store_id"""  # noqa: S608 (made of constants)


def take(
    connection: Connection,
    units: Sequence[str],
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
) -> list[Claim]:
    """Begin visits to up to `limit` due units, and with each to the other due ones of its store, for `lease` from now.

    None of them is claimed. Only of stores of these `tiers`. Fair: each tier has its share of the batch first, the longest
    due first, and what one tier leaves the others take. So a backlog in one tier never delays another, and no row starves.
    """
    # One after another: else two at once would pick the same stores, and one of them be left with none.
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"visits {','.join(units)}",)
    )
    several = len(tiers) > 1
    with connection.cursor(row_factory=class_row(Claim)) as cursor:
        cursor.execute(
            _TAKE,
            {
                **among_units(units, stores, tiers, not_stores),
                "not_platforms": list(not_platforms),
                "owner": owner,
                "lease": lease,
                "limit": limit,
                "share": -(-limit // len(tiers)),
                "others": limit if several else 0,
                "due_before": due_before,
                "now": now,
            },
        )
        return cursor.fetchall()


def renew(connection: Connection, owners: Collection[str], lease: timedelta) -> None:
    """Extend the leases of these owners' visits."""
    connection.execute(
        "UPDATE visited_units SET expires_at = clock_timestamp() + %s WHERE owner = ANY(%s)",
        (lease, list(owners)),
    )


def end(connection: Connection, visits: Sequence[tuple[str, int]]) -> None:
    """The visits of these owners to these stores are over."""
    connection.execute(
        "DELETE FROM visited_units v USING unnest(%s::text[], %s::bigint[]) ended(owner, store_id) "
        "WHERE v.store_id = ended.store_id AND v.owner = ended.owner",
        ([owner for owner, _ in visits], [store for _, store in visits]),
    )


def release(connection: Connection, owners: Collection[str]) -> None:
    """All visits of these owners are over."""
    connection.execute("DELETE FROM visited_units WHERE owner = ANY(%s)", (list(owners),))


def release_runs(connection: Connection, runs: Collection[str]) -> None:
    """All visits of these runs, which are dead, are over."""
    connection.execute(
        "DELETE FROM visited_units WHERE split_part(owner, '/', 1) = ANY(%s)", (list(map(owner_of, runs)),)
    )
