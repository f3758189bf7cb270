"""What units of stores' work are in, read once for all figures: those of jobs, of queues, of resources, of freshness.

Each unit is in some of `Flag`. One statement reads all of them, and counts them twice: by what they are, and by store, for a job
counts stores. What comes back is a line for each way of being in some of them, not one for each store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntFlag
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bg_pipelines.operations.reading import read
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.work import freshness, rollups
from bg_pipelines.work.rollups import LAGS

LATE_SECONDS = 60
"""A store that is overdue by less is in time, as ticks go."""
SERVED_MINUTES = 5
"""Over which is counted how many stores were served: a tick, within which none is served twice."""


class Flag(IntFlag):
    """`DUE` is due and unclaimed, `WAITING` failed and waits for its retry, `PARKED` due at no time, `SERVED` succeeded
    lately, `OVERDUE` by more than a tick's tolerance."""

    NOT_CURRENT = 1
    DUE = 2
    CLAIMED = 4
    WAITING = 8
    FAILING = 16
    PARKED = 32
    NEVER_SUCCEEDED = 64
    SERVED = 128
    OVERDUE = 256
    PRESENT = 512
    """Every unit."""


class Group(NamedTuple):
    """Units that are in the same. `bucket` is their age's by `work.rollups.LAGS`, counted from the oldest; None: never read.

    `first_due_at` and `succeeded_at` are the earliest of any.
    """

    resource: str
    tier: int
    bucket: int | None
    flags: int
    units: int
    first_due_at: datetime | None
    succeeded_at: datetime | None


class Line(NamedTuple):
    """A store in a job: what its units there are in, together. `oldest_at` is the earliest due time of those that are due."""

    store_id: int
    store: str
    platform: str
    job: str
    flags: int
    first_due_at: datetime | None
    oldest_at: datetime | None
    succeeded_at: datetime | None


def count(groups: Iterable[Group], flag: Flag) -> int:
    """Units of these that are in it."""
    return sum(group.units for group in groups if group.flags & flag)


def seconds_since(now: datetime, times: Iterable[datetime | None]) -> float | None:
    """Since the earliest; None where none is known."""
    known = [time for time in times if time is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else None


class Units(NamedTuple):
    """`stores` counts stores by what their units are in together, each job's at its place; `not_current` are the ids of
    those that are not, the most overdue first."""

    groups: list[Group]
    stores: dict[int, int]
    not_current: list[int]

    def stores_in(self, job: str, flags: int) -> int:
        """Stores some of whose units of the job are in each of these."""
        wanted = flags << _PLACES[job]
        return sum(number for mask, number in self.stores.items() if mask & wanted == wanted)

    @property
    def stores_total(self) -> int:
        return sum(self.stores.values())

    @property
    def stores_current(self) -> int:
        return sum(number for mask, number in self.stores.items() if not mask & _ANY_NOT_CURRENT)


_PLACES = {job: place * len(Flag) for place, job in enumerate(JOB_UNITS)}
OF_JOBS = {"units": rollups.PLACES["units"], "jobs": rollups.PLACES["own_jobs"]}
"""By these a statement knows the job of a unit."""
_OF_PLACES = {**OF_JOBS, "places": [_PLACES[job] for job in OF_JOBS["jobs"]]}
_ANY_NOT_CURRENT = sum(Flag.NOT_CURRENT << place for place in _PLACES.values())


def read_units(session: Session, now: datetime, *, most: int | None) -> Units:
    """All units of stores that are at work; at `most` so many ids of stores that are not current."""
    # Sorting what fits into memory on disk would take most of the time.
    session.connection().exec_driver_sql("SET LOCAL work_mem = '64MB'")
    groups, stores, not_current = [], {}, []
    for kind, mask, store_id, *group in session.execute(
        sa.text(_COUNTED),
        {"now": now, "bounds": list(reversed(LAGS)), "wrong": _ANY_NOT_CURRENT, "most": most, **_OF_PLACES},
    ):
        if kind == "units":
            groups.append(Group(*group))
        elif kind == "stores":
            stores[mask] = group[4]
        else:
            not_current.append(store_id)
    return Units(groups, stores, not_current)


def read_lines(
    session: Session, now: datetime, *, stores: Sequence[int] | None, most: int | None
) -> list[Line]:
    """A line for each job in which one of these stores is not current, the most overdue first; None: of all, each of them."""
    if stores is not None and not stores:
        return []
    return read(session, Line, _LINES, now=now, stores=stores, most=most, **_OF_PLACES)


# Claimed, or looked at before it is; see `work/visits.py`.
_HELD = "(y.lease_expires_at > :now OR v.owner IS NOT NULL)"
_FLAGS = f"""
    (CASE WHEN {freshness.is_current_at_work(":now")} THEN {Flag.PRESENT:d} ELSE {Flag.PRESENT | Flag.NOT_CURRENT:d} END
    + CASE WHEN {_HELD} THEN {Flag.CLAIMED:d} WHEN y.next_due_at <= :now THEN {Flag.DUE:d} ELSE 0 END
    + CASE WHEN y.attempts = 0 THEN 0 WHEN y.next_due_at IS NULL OR {_HELD} THEN {Flag.FAILING:d}
        ELSE {Flag.FAILING | Flag.WAITING:d} END
    + CASE WHEN y.next_due_at IS NULL THEN {Flag.PARKED:d}
        WHEN y.next_due_at <= :now - interval '{LATE_SECONDS} s' THEN {Flag.OVERDUE:d} ELSE 0 END
    + CASE WHEN y.last_succeeded_at IS NULL THEN {Flag.NEVER_SUCCEEDED:d}
        WHEN y.last_succeeded_at > :now - interval '{SERVED_MINUTES} min' THEN {Flag.SERVED:d} ELSE 0 END)::bigint"""
# By what is joined last a query knows the job of a unit.
_UNITS = f"""
    sync_states y JOIN {freshness.stores_at_work(":now")} ON s.id = y.store_id
    LEFT JOIN visited_units v ON v.store_id = y.store_id AND v.resource = y.resource AND v.expires_at > :now
    JOIN unnest(CAST(:units AS text[]), CAST(:jobs AS text[]), CAST(:places AS int[])) own(unit, job, place)
        ON own.unit = y.resource"""

# Both ways of counting in one look at the table, which takes most of the time.
_COUNTED = f"""
    WITH counted AS MATERIALIZED (
        SELECT GROUPING(store_id) > 0 AS by_units, store_id, resource, tier, bucket, flags, count(*) AS units,
            min(next_due_at) AS first_due_at, min(last_succeeded_at) AS succeeded_at, bit_or(flags << place) AS mask
        FROM (
            SELECT y.store_id, y.resource, s.tier, y.next_due_at, y.last_succeeded_at, own.place, {_FLAGS} AS flags,
                width_bucket(y.last_succeeded_at, ARRAY(SELECT :now - make_interval(secs => b)
                    FROM unnest(CAST(:bounds AS float[])) b)) AS bucket
            FROM {_UNITS} OFFSET 0
        ) units GROUP BY GROUPING SETS ((store_id), (resource, tier, bucket, flags))
    )
    SELECT 'units' AS kind, NULL::bigint AS mask, NULL::bigint AS store_id, resource, tier, bucket, flags, units, first_due_at,
        succeeded_at
    FROM counted WHERE by_units
    UNION ALL
    SELECT 'stores', mask, NULL, NULL, NULL, NULL, NULL, count(*), NULL, NULL FROM counted WHERE NOT by_units GROUP BY mask
    UNION ALL
    SELECT 'not current', NULL, store_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM (
        SELECT store_id FROM counted WHERE NOT by_units AND mask & :wrong > 0 ORDER BY first_due_at, store_id LIMIT :most) wrong"""  # noqa: S608 (made of constants)

_LINES = f"""
    SELECT l.store_id, s.name AS store, s.platform, l.job, l.flags, l.first_due_at, l.oldest_at, l.succeeded_at FROM (
        SELECT store_id, job, bit_or(flags) AS flags, min(next_due_at) AS first_due_at,
            min(next_due_at) FILTER (WHERE flags & {Flag.DUE:d} > 0) AS oldest_at, min(last_succeeded_at) AS succeeded_at
        FROM (
            SELECT y.store_id, own.job, y.next_due_at, y.last_succeeded_at, {_FLAGS} AS flags FROM {_UNITS}
            WHERE CAST(:stores AS bigint[]) IS NULL OR y.store_id = ANY(CAST(:stores AS bigint[]))
        ) units GROUP BY store_id, job
    ) l JOIN stores s ON s.id = l.store_id
    WHERE CAST(:stores AS bigint[]) IS NULL OR l.flags & {Flag.NOT_CURRENT:d} > 0
    ORDER BY l.first_due_at, s.name, l.job LIMIT :most"""  # noqa: S608 (made of constants)
