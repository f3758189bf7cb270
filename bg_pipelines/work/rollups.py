"""Rollups: what visits came to and how late changes were, by hour, job, resource and tier, in `sync_rollups`.

    note_lags(connection, store_id, "orders", changes, job)  # with the rows that were just written
    roll_up(database)                                        # at the end of a run: attempts that ended since
    read(connection, since)                                  # all of them, and what is not rolled up yet

An attempt is history of one store; a million of them are read by nobody who is in a hurry. A visit that found nothing new is
counted here and leaves no attempt. Durations and lags are kept as histograms of fixed buckets, so that hours add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Changes
from bg_pipelines.queues import JOB_UNITS, JOBS

Connection = psycopg.Connection[Any]

DURATIONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Seconds: the upper bounds of the buckets of an attempt's duration; one more is for all that is longer."""
LAGS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0)
"""Seconds: of the time from a change at the source to our commit."""
SETTLED = timedelta(minutes=1)
"""An attempt's end is committed a moment after the time that it names; one that ended so long ago is there."""
WINDOW = timedelta(hours=24)
"""What no rollup holds is looked for among the attempts of this time, which a new installation or an upgrade has."""
_LOCK = 0x6267_7264


class Rollup(NamedTuple):
    """The visits of a job to a resource of a tier's stores, within the time that was asked for. Counts are of units.

    `durations` and `lags` have one number a bucket, not added up; `rows_written` were inserted, updated or deleted.
    """

    job: str
    resource: str
    tier: int
    succeeded: int
    failed: int
    idle: int
    rows_written: int
    durations: list[int]
    lags: list[int]
    lag_seconds: float


def buckets(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    """How many of these values are in each bucket; a value that is a bound is in the bucket that ends there."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """The value below which this share lies, evenly spread within a bucket; the last bound where it is beyond, None of none."""
    wanted, seen, below = share * sum(counts), 0, 0.0
    if not any(counts):
        return None
    for number, bound in zip(counts, bounds, strict=False):
        if number and seen + number >= wanted:
            return below + (bound - below) * max(0.0, wanted - seen) / number
        seen, below = seen + number, bound
    return bounds[-1]


def added(some: Sequence[Sequence[int]], bounds: Sequence[float]) -> list[int]:
    """Histograms together; one without buckets counts nothing."""
    return [sum(column) for column in zip([0] * (len(bounds) + 1), *filter(None, some), strict=True)]


# Writing


NEWEST_CHANGE = (
    "last_change_at = greatest(last_change_at, %(changed)s::timestamptz), last_change_lag = CASE "
    "WHEN %(changed)s::timestamptz IS NULL OR last_change_at > %(changed)s THEN last_change_lag "
    "ELSE greatest(now() - %(changed)s, '0') END"
)
"""What a transaction sets in its unit's row; `changed` is the source's time of the newest change that it wrote, if any."""


def note_lags(connection: Connection, store_id: int, table: str, changes: Changes, job: str) -> None:
    """Count how late these changes are, which an event has told of: a pass has an attempt for it, see `attempts.count`."""
    lags = changes.lags
    connection.execute(
        f"UPDATE sync_states SET {NEWEST_CHANGE} WHERE store_id = %(store)s AND resource = %(table)s "  # noqa: S608 (constants)
        "AND (last_change_at > %(changed)s) IS NOT TRUE",
        {"store": store_id, "table": table, "changed": changes.newest},
    )
    connection.execute(
        _UPSERT.format(
            names="lags, lag_seconds",
            rows="SELECT date_trunc('hour', now()), %(job)s, %(table)s, tier, %(lags)s::bigint[], %(seconds)s "
            "FROM stores WHERE id = %(store)s",
            also="",
        ),
        {
            "job": job,
            "table": table,
            "store": store_id,
            "lags": buckets(lags, LAGS),
            "seconds": sum(lags),
        },
    )


def note_idle(connection: Connection, job: str, units: Sequence[tuple[int, str]]) -> None:
    """Count these units (of a store's id and its resource), visited just now, at whose source nothing has changed."""
    connection.execute(
        _UPSERT.format(
            names="idle",
            rows="SELECT date_trunc('hour', now()), %(job)s, given.unit, s.tier, count(*) "
            "FROM unnest(%(stores)s::bigint[], %(units)s::text[]) given(store_id, unit) JOIN stores s ON s.id = given.store_id "
            "GROUP BY given.unit, s.tier ORDER BY given.unit, s.tier",
            also="",
        ),
        {"job": job, "stores": [store for store, _ in units], "units": [unit for _, unit in units]},
    )


def roll_up(database: Database) -> None:
    """Roll up the attempts that have ended since this was last done, by whichever run. Raises IntegrationError (database)."""
    with database.transaction() as connection:
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if row is None or not row[0]:
            return  # another run is doing it
        since, now = _until(connection)
        names = "succeeded, failed, rows_written, durations, lags, lag_seconds, until"
        connection.execute(
            _UPSERT.format(
                names=names,
                rows=f"SELECT *, %(until)s::timestamptz FROM ({_ATTEMPTS}) ended ORDER BY hour, job, resource, tier",  # noqa: S608 (constants)
                also=", until = excluded.until",
            ),
            {"since": since, "until": now - SETTLED, **PLACES},
        )


def _until(connection: Connection) -> tuple[datetime, datetime]:
    """Until when attempts are rolled up, at most a window ago, and the time."""
    row = connection.execute(
        "SELECT greatest(max(until), clock_timestamp() - %(window)s), clock_timestamp() FROM sync_rollups "
        "WHERE hour > now() - 2 * %(window)s",
        {"window": WINDOW},
    ).fetchone()
    assert row is not None
    return row[0], row[1]


# Reading


def read(connection: Connection, since: datetime) -> list[Rollup]:
    """All visits since then, from the beginning of that hour on."""
    until, _ = _until(connection)
    with connection.cursor(row_factory=class_row(Rollup)) as cursor:
        cursor.execute(_READ, {"from": since, "since": max(since, until), "until": "infinity", **PLACES})
        return cursor.fetchall()


PLACES = {
    "units": [unit.value for units in JOB_UNITS.values() for unit in units],
    "own_jobs": [job for job, units in JOB_UNITS.items() for _ in units],
    "jobs": list(JOBS),
}
"""By these a statement knows the job of a unit."""


def _histogram(seconds: str, bounds: Sequence[float], condition: str) -> str:
    """SQL of how many rows are in each bucket."""
    edges = ["'-infinity'", *map(str, bounds), "'infinity'"]
    counts = (
        f"count(*) FILTER (WHERE {condition} AND {seconds} > {below} AND {seconds} <= {bound})"
        for below, bound in pairwise(edges)
    )
    return f"ARRAY[{', '.join(counts)}]"


def _sums(histogram: str, bounds: Sequence[float]) -> str:
    """SQL of the histograms of all rows together."""
    sums = (f"coalesce(sum({histogram}[{n + 1}]), 0)" for n in range(len(bounds) + 1))
    return f"ARRAY[{', '.join(sums)}]::bigint[]"


def _added(one: str, other: str, bounds: Sequence[float]) -> str:
    """SQL of two histograms together, either of which may have no buckets yet."""
    sums = (
        f"coalesce(({one})[{n + 1}], 0) + coalesce(({other})[{n + 1}], 0)" for n in range(len(bounds) + 1)
    )
    return f"ARRAY[{', '.join(sums)}]"


def added_lags(one: str, other: str) -> str:
    """SQL of two histograms of lags together; null where neither is one."""
    return f"CASE WHEN coalesce({one}, {other}) IS NOT NULL THEN {_added(one, other, LAGS)} END"


# The job of an attempt is its run's; where that is none of ours, the one that its unit belongs to. Durations are of those
# that succeeded: a wrong token fails in no time. Stopped ones do not count.
_ATTEMPTS = f"""
    SELECT date_trunc('hour', a.finished_at) AS hour,
        CASE WHEN r.job = ANY(%(jobs)s) THEN r.job ELSE own.job END AS job, a.resource, s.tier,
        count(*) FILTER (WHERE a.status = 'succeeded') AS succeeded, count(*) FILTER (WHERE a.status <> 'succeeded') AS failed,
        sum(a.inserted + a.updated + a.deleted)::bigint AS rows_written,
        {_histogram("extract(epoch FROM a.finished_at - a.started_at)::float", DURATIONS, "a.status = 'succeeded'")} AS durations,
        {_sums("a.lags", LAGS)} AS lags, coalesce(sum(a.lag_seconds), 0)::float AS lag_seconds
    FROM sync_attempts a JOIN stores s ON s.id = a.store_id
    JOIN unnest(%(units)s::text[], %(own_jobs)s::text[]) own(unit, job) ON own.unit = a.resource
    LEFT JOIN job_runs r ON r.run_id = a.run_id
    WHERE a.finished_at > %(since)s AND a.finished_at <= %(until)s AND a.status IN ('succeeded', 'failed', 'abandoned')
    GROUP BY 1, 2, 3, 4"""  # noqa: S608 (made of constants)

_UPSERT = (
    "INSERT INTO sync_rollups AS r (hour, job, resource, tier, {names}) {rows} ON CONFLICT (hour, job, resource, tier) DO UPDATE "
    "SET succeeded = r.succeeded + excluded.succeeded, failed = r.failed + excluded.failed, idle = r.idle + excluded.idle, "
    "rows_written = r.rows_written + excluded.rows_written, "
    f"durations = {_added('r.durations', 'excluded.durations', DURATIONS)}, "
    f"lags = {_added('r.lags', 'excluded.lags', LAGS)}, "
    "lag_seconds = r.lag_seconds + excluded.lag_seconds{also}"
)

_READ = f"""
    SELECT job, resource, tier, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed, sum(idle)::bigint AS idle,
        sum(rows_written)::bigint AS rows_written, {_sums("durations", DURATIONS)} AS durations,
        {_sums("lags", LAGS)} AS lags, sum(lag_seconds)::float AS lag_seconds
    FROM (
        SELECT job, resource, tier, succeeded, failed, idle, rows_written, durations, lags, lag_seconds
        FROM sync_rollups WHERE hour >= date_trunc('hour', %(from)s::timestamptz)
        UNION ALL SELECT job, resource, tier, succeeded, failed, 0, rows_written, durations, lags, lag_seconds
        FROM ({_ATTEMPTS}) ended
    ) both_kinds GROUP BY job, resource, tier ORDER BY job, resource, tier"""  # noqa: S608 (made of constants)
