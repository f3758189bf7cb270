"""Units of a store's work: each is a row of `sync_states`, claimed and settled by `work.queue`.

A row says when its (store, unit) is due, which claim has it and until when. What is due is found and shared out among runs by
visits (`work/visits.py`); of a visit those units are claimed that there is something to do for. What an open circuit covers
(`circuits`) is claimed only as a probe.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.models import SyncState
from bg_pipelines.queues import TIERS, next_hour
from bg_pipelines.work.attempts import NEXT_ID
from bg_pipelines.work.queue import DUE, FREE, NOW, RESET, UNCLAIMED, Queue, clock
from bg_pipelines.work.rollups import NEWEST_CHANGE

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Claim:
    """One due unit of a store, with the cursor of its last pass; claimed where `claim` has returned it.

    `due_at` is since when it was due. `full_pass_wanted_at` is when a person asked for everything to be read again, and
    `backfill` how. `attempt_id` is that of the attempt that it is for.
    """

    store_id: int
    platform: str
    unit: str
    interval: timedelta
    owner: str
    claimed_at: datetime
    due_at: datetime
    cursor: dict[str, Any]
    attempts: int
    last_full_at: datetime | None
    full_pass_wanted_at: datetime | None = None
    backfill: str | None = None
    attempt_id: int = 0


LATELY = timedelta(days=1)
"""Stores of the longest interval are visited so often."""

_INTERVALS = ", ".join(f"interval '{TIERS[tier].total_seconds():.0f} s'" for tier in sorted(TIERS))
INTERVAL = f"coalesce(make_interval(mins => {{0}}.interval_minutes), (ARRAY[{_INTERVALS}])[{{0}}.tier])"
"""How often a store is visited; {0} is the alias of `stores`."""
QUEUE = Queue(
    SyncState,
    Claim,
    joins="JOIN stores ON stores.id = t.store_id",
    joined="stores.platform, stores.tier, stores.interval_minutes",
    columns={
        "unit": "t.resource",
        "due_at": "t.next_due_at",
        "attempt_id": NEXT_ID,
        "platform": "picked.platform",
        "interval": INTERVAL.format("picked"),
    },
)

AMONG = """
    t.resource = ANY(%(units)s) AND stores.paused_at IS NULL AND stores.deleted_at IS NULL
    AND (%(stores)s::bigint[] IS NULL OR t.store_id = ANY(%(stores)s)) AND NOT t.store_id = ANY(%(not_stores)s)
    AND stores.tier = ANY(%(tiers)s)"""
NOT_VISITED = f"""NOT EXISTS (SELECT FROM visited_units v WHERE v.store_id = t.store_id AND v.resource = t.resource
    AND v.expires_at > {NOW})"""
"""A row `t` that no run is at; see `work/visits.py`."""
CLOSED = """
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.store_id = t.store_id)
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.platform = stores.platform)"""
_CLOSED_OR_PROBED = """
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.store_id = t.store_id
        AND c.probe_at > statement_timestamp())
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND c.platform = stores.platform
        AND c.probe_at > statement_timestamp())"""


def claim(
    connection: Connection, due: Sequence[Claim], *, lease: timedelta, now: datetime | None = None
) -> list[Claim]:
    """Claim these units of one store, which `visits.take` has found due, for `lease` from now.

    Returns those of them that still are due and unclaimed, as they are now. Rows that are locked at this moment are skipped.
    """
    return QUEUE.claim(
        connection,
        owner=due[0].owner,
        limit=len(due),
        lease=lease,
        among="t.store_id = %(store)s AND t.resource = ANY(%(units)s)",
        parameters={"store": due[0].store_id, "units": [one.unit for one in due]},
        now=now,
    )


_PROBE = f"""
    SELECT t.store_id, t.resource, c.key FROM sync_states t JOIN stores ON stores.id = t.store_id
    JOIN circuits c ON c.opened_at IS NOT NULL AND (c.store_id = t.store_id OR c.platform = stores.platform)
    WHERE {DUE} AND {AMONG}{_CLOSED_OR_PROBED}
    ORDER BY c.platform IS NULL, t.attempts > 0, t.next_due_at, t.store_id LIMIT 1
    FOR UPDATE OF c, t SKIP LOCKED"""  # noqa: S608 (made of constants)


def claim_probe(
    connection: Connection,
    units: Sequence[str],
    *,
    owner: str,
    lease: timedelta,
    due_before: datetime | None = None,
    stores: Collection[int] | None = None,
    tiers: Sequence[int] = tuple(TIERS),
    not_stores: Collection[int] = (),
) -> list[Claim]:
    """Claim one row that an open circuit covers and that may be its probe now; none if there is none.

    One that has not failed goes first: what is wrong with a single store says little of its platform.
    """
    if not connection.execute("SELECT FROM circuits WHERE opened_at IS NOT NULL LIMIT 1").rowcount:
        return []
    among = among_units(units, stores, tiers, not_stores)
    row = connection.execute(_PROBE, {**among, "due_before": due_before, "now": None}).fetchone()
    if row is None:
        return []
    store_id, unit, circuit = row
    # Until then nobody else probes it; should this worker be killed, somebody does.
    connection.execute(
        "UPDATE circuits SET probe_at = clock_timestamp() + %s, probe_owner = %s WHERE key = %s",
        (lease, owner, circuit),
    )
    among |= {"stores": [store_id], "units": [unit]}
    return QUEUE.claim(
        connection, owner=owner, limit=1, lease=lease, among=AMONG, parameters=among, due_before=due_before
    )


def among_units(
    units: Sequence[str],
    stores: Collection[int] | None,
    tiers: Sequence[int],
    not_stores: Collection[int] = (),
) -> dict[str, Any]:
    """The parameters of `AMONG`."""
    return {
        "units": list(units),
        "stores": None if stores is None else list(stores),
        "tiers": list(tiers),
        "not_stores": list(not_stores),
    }


_OFF_TICK = "(t.retry_strategy IS NOT NULL OR t.last_succeeded_at IS NULL OR t.hinted_at IS NOT NULL)"


def is_due(
    connection: Connection,
    units: Sequence[str],
    *,
    tiers: Sequence[int] = tuple(TIERS),
    retries: bool = False,
) -> bool:
    """Whether a run of these units would find work: one query, by index, however many stores there are.

    With `retries` only work that is due outside of its tier's ticks counts: what failed before, what is new, and what was
    hinted at (`hint`).
    """
    off_tick = f"AND {_OFF_TICK}" if retries else ""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM sync_states t JOIN stores ON stores.id = t.store_id "  # noqa: S608
        f"WHERE {DUE} AND {AMONG} {off_tick} {_CLOSED_OR_PROBED} AND {NOT_VISITED})",
        {**among_units(units, None, tiers), "due_before": None, "now": None},
    ).fetchone()
    return bool(row and row[0])


def make_due(
    connection: Connection,
    units: Sequence[str],
    stores: Collection[int] | None,
    tiers: Sequence[int] = tuple(TIERS),
    *,
    full_pass: bool = False,
) -> int:
    """Make rows due now (of all stores of these tiers where `stores` is None), parked ones too; returns how many.

    Their order is kept; paused stores are left as they are. With `full_pass` each is read whole at its next pass,
    however often that fails and whichever run makes it.
    """
    return connection.execute(
        "UPDATE sync_states s SET next_due_at = least(s.next_due_at, clock_timestamp()), "
        "full_pass_wanted_at = CASE WHEN %s THEN clock_timestamp() ELSE s.full_pass_wanted_at END "
        # In one order, the same as whoever else takes many at once: else two of them may wait for each other.
        "FROM (SELECT y.store_id, y.resource FROM sync_states y JOIN stores ON stores.id = y.store_id "
        "WHERE y.resource = ANY(%s) AND stores.tier = ANY(%s) AND paused_at IS NULL AND deleted_at IS NULL "
        "AND (%s::bigint[] IS NULL OR y.store_id = ANY(%s)) ORDER BY y.store_id, y.resource FOR UPDATE OF y) held "
        "WHERE s.store_id = held.store_id AND s.resource = held.resource",
        (
            full_pass,
            list(units),
            list(tiers),
            None if stores is None else list(stores),
            list(stores or ()),
        ),
    ).rowcount


def hint(connection: Connection, hinted: Collection[tuple[int, str]]) -> None:
    """Something changed at the source, or may have, that the next pass of these (store, unit) finds: they are due now,
    and started within half a minute instead of at their tier's tick.

    One that is parked, failing or waiting for its platform keeps its due time: the pass that ends that finds it as well. Where a run is just at
    work on it, it is due again when that has succeeded.
    """
    connection.execute(
        "UPDATE sync_states SET hinted_at = clock_timestamp(), next_due_at = "
        "CASE WHEN attempts = 0 AND retry_strategy IS NULL AND next_due_at IS NOT NULL "
        "THEN least(next_due_at, clock_timestamp()) ELSE next_due_at END "
        "WHERE (store_id, resource) IN (SELECT y.store_id, y.resource FROM sync_states y "
        "JOIN unnest(%s::bigint[], %s::text[]) AS h(store_id, unit) ON h.store_id = y.store_id AND h.unit = y.resource "
        "ORDER BY y.store_id, y.resource FOR NO KEY UPDATE OF y)",
        ([store_id for store_id, _ in hinted], [unit for _, unit in hinted]),
    )


def pass_over(connection: Connection, units: Sequence[str], tiers: Sequence[int] = tuple(TIERS)) -> int:
    """There is nothing to do for these units: all that are due and unclaimed are done, as if each had been visited, and
    due again at the next hour; returns how many."""
    return connection.execute(
        "UPDATE sync_states s SET next_due_at = %(next)s, last_succeeded_at = clock_timestamp(), hinted_at = NULL, "  # noqa: S608
        f"{RESET} FROM ("
        "SELECT t.store_id, t.resource FROM sync_states t JOIN stores ON stores.id = t.store_id "
        f"WHERE {DUE} AND {AMONG} ORDER BY t.store_id, t.resource FOR UPDATE OF t SKIP LOCKED) held "
        "WHERE s.store_id = held.store_id AND s.resource = held.resource",
        {
            **among_units(units, None, tiers),
            "due_before": None,
            "now": None,
            "next": next_hour(clock(connection)),
        },
    ).rowcount


def worked_lately(connection: Connection, store_id: int, unit: str | None = None) -> bool:
    """Whether the unit, or (None) any of the store, succeeded within the last day: what its platform refuses now it took
    then."""
    row = connection.execute(
        "SELECT coalesce(max(last_succeeded_at) > clock_timestamp() - %(lately)s, false) FROM sync_states "
        "WHERE store_id = %(store)s AND (%(unit)s::text IS NULL OR resource = %(unit)s)",
        {"lately": LATELY, "store": store_id, "unit": unit},
    ).fetchone()
    return bool(row and row[0])


def make_carrier_due(
    connection: Connection, queue: Queue[Any], stores: Collection[int], *, failing: bool = False
) -> None:
    """Make the unit that carries a queue's work due now, of each of these stores where some of that work is due.

    A unit that is parked keeps its due time; so does one that is failing, unless `failing`. Called when work was added
    or started again, and by a visit that ends: its own due time would hide what was added while it was running.
    """
    if queue.carrier is None or not stores:
        return
    connection.execute(
        "UPDATE sync_states SET next_due_at = least(next_due_at, clock_timestamp()) WHERE (store_id, resource) IN ("  # noqa: S608
        "SELECT y.store_id, y.resource FROM sync_states y WHERE y.store_id = ANY(%(stores)s) AND y.resource = %(unit)s "
        "AND y.next_due_at IS NOT NULL AND (y.attempts = 0 OR %(failing)s) AND EXISTS ("
        f"SELECT FROM {queue.table} t WHERE t.store_id = y.store_id AND {queue.open} AND t.next_due_at <= clock_timestamp()) "
        "ORDER BY y.store_id FOR NO KEY UPDATE)",
        {"stores": list(stores), "unit": queue.carrier, "failing": failing},
    )


def set_backfill(
    connection: Connection,
    units: Sequence[str],
    stores: Collection[int] | None,
    tiers: Sequence[int],
    backfill: str,
) -> None:
    """Have the next full pass of these units (of all stores where `stores` is None) read as asked: bulk or pages."""
    connection.execute(
        "UPDATE sync_states s SET backfill = %s FROM (SELECT t.store_id, t.resource FROM sync_states t "
        "JOIN stores ON stores.id = t.store_id WHERE t.resource = ANY(%s) AND stores.tier = ANY(%s) "
        "AND (%s::bigint[] IS NULL OR t.store_id = ANY(%s)) AND t.backfill IS DISTINCT FROM %s "
        "ORDER BY t.store_id, t.resource FOR UPDATE OF t) held "
        "WHERE s.store_id = held.store_id AND s.resource = held.resource",
        (
            backfill,
            list(units),
            list(tiers),
            None if stores is None else list(stores),
            list(stores or ()),
            backfill,
        ),
    )


def count_due(
    connection: Connection,
    units: Sequence[str],
    due_before: datetime,
    stores: Collection[int] | None,
    tiers: Sequence[int] = tuple(TIERS),
) -> tuple[int, int]:
    """How many stores have something due: that no run is at, and that one is."""
    row = connection.execute(
        "SELECT count(DISTINCT store_id) FILTER (WHERE NOT held), count(DISTINCT store_id) FILTER (WHERE held) FROM ("  # noqa: S608
        f"SELECT t.store_id, NOT ({UNCLAIMED} AND {NOT_VISITED}) AS held FROM sync_states t JOIN stores ON stores.id = t.store_id "
        f"WHERE t.next_due_at <= %(due_before)s AND {AMONG}) due",
        {**among_units(units, stores, tiers), "due_before": due_before, "now": None},
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def heartbeat(
    connection: Connection, owners: Collection[str], lease: timedelta, now: datetime | None = None
) -> int:
    """Extend the leases of everything these owners hold, probes too; returns how many rows they still hold."""
    connection.execute(
        "UPDATE circuits SET probe_at = coalesce(%s, clock_timestamp()) + %s WHERE probe_owner = ANY(%s)",
        (now, lease, list(owners)),
    )
    return QUEUE.renew(connection, owners, lease, now)


def save(
    connection: Connection, claim: Claim, cursor: dict[str, Any], *, changed_at: datetime | None = None
) -> None:
    """Keep how far the work has come, in the transaction of the rows it covers; `changed_at` is when the newest of them changed
    at the source, where changes are timed. Raises like `Queue.save`."""
    QUEUE.save(
        connection,
        claim,
        f"cursor = %(cursor)s, {NEWEST_CHANGE}",
        {"cursor": Jsonb(cursor), "changed": changed_at},
    )


def complete(
    connection: Connection,
    claim: Claim,
    cursor: dict[str, Any],
    *,
    next_due_at: datetime,
    full_pass_since: datetime | None = None,
    changed_at: datetime | None = None,
    now: datetime | None = None,
) -> None:
    """Done, and due again at `next_due_at`; at once if it was hinted at since it was claimed. `changed_at` as in `save`, which
    this raises like.

    `full_pass_since` is when a full pass began that has ended with this: it is what a person asked for before then.
    """
    QUEUE.complete(
        connection,
        claim,
        "cursor = %(cursor)s, last_succeeded_at = coalesce(%(now)s, clock_timestamp()), "
        "last_full_at = CASE WHEN %(full)s::timestamptz IS NULL THEN last_full_at ELSE coalesce(%(now)s, clock_timestamp()) END, "
        "full_pass_wanted_at = CASE WHEN full_pass_wanted_at <= %(full)s THEN NULL ELSE full_pass_wanted_at END, "
        "backfill = CASE WHEN %(full)s::timestamptz IS NULL THEN backfill END, "
        f"hinted_at = CASE WHEN hinted_at > %(claimed)s THEN hinted_at END, {NEWEST_CHANGE}",
        {
            "cursor": Jsonb(cursor),
            "full": full_pass_since,
            "now": now,
            "claimed": claim.claimed_at,
            "changed": changed_at,
        },
        next_due_at=next_due_at,
        due_now_if="hinted_at > %(claimed)s",
    )


# What `complete` writes, for many at once, but for the cursor, which stays as it is.
_COMPLETE_IDLE = f"""
    UPDATE sync_states t SET last_succeeded_at = clock_timestamp(),
        next_due_at = CASE WHEN t.hinted_at > v.looked_at THEN clock_timestamp() ELSE v.next_due_at END,
        hinted_at = CASE WHEN t.hinted_at > v.looked_at THEN t.hinted_at END,
        {RESET}, {FREE}
    FROM unnest(%(stores)s::bigint[], %(units)s::text[], %(due)s::timestamptz[], %(looked)s::timestamptz[],
        %(next)s::timestamptz[]) v (store_id, unit, due_at, looked_at, next_due_at)
    WHERE t.store_id = v.store_id AND t.resource = v.unit AND t.next_due_at = v.due_at AND {UNCLAIMED}"""  # noqa: S608 (made of constants)


def complete_idle(connection: Connection, idle: Sequence[tuple[Claim, datetime]]) -> int:
    """Settle these, which were not claimed, as done, for nothing has changed at their source, and say when each is due again;
    returns how many.

    What somebody has claimed or settled meanwhile is left to them.
    """
    units = [unit for unit, _ in idle]
    return connection.execute(
        _COMPLETE_IDLE,
        {
            "stores": [one.store_id for one in units],
            "units": [one.unit for one in units],
            "due": [one.due_at for one in units],
            "looked": [one.claimed_at for one in units],
            "next": [due for _, due in idle],
            "now": None,
        },
    ).rowcount
