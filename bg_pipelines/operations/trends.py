"""Trends: how figures went, in the last hour and the last day.

    sample(database)         # once a minute, by whoever watches: one row, whatever the numbers of stores
    read_trends(database)    # {"queue.stores_sync.size": Trend(hour=[...], day=[...]), ...}

A row is of one minute, another of a quarter of an hour; both hold the highest that was seen in their time, so that a peak
between two looks is not lost. Where nobody looked there is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.metrics import Metrics, read_metrics

EVERY_SECONDS = 60.0
MINUTE, QUARTER = 1, 15
HOUR_POINTS, DAY_POINTS = 60, 96

Connection = psycopg.Connection[Any]


class Trend(NamedTuple):
    """The oldest first: a value a minute for an hour, a value a quarter of an hour for a day; None where nobody looked."""

    hour: list[float | None]
    day: list[float | None]


NO_TREND = Trend([None] * HOUR_POINTS, [None] * DAY_POINTS)


def figures_of(metrics: Metrics) -> dict[str, float]:
    """What is kept of the figures, by name."""
    kept: dict[str, float] = {
        "incidents": sum(kind.open for kind in metrics.incidents),
        "stores.behind": metrics.stores_total - metrics.stores_current,
        "retries": sum(queue.retries_waiting for queue in metrics.queues),
    }
    for queue in metrics.queues:
        kept[f"queue.{queue.queue}.size"] = queue.size
        kept[f"queue.{queue.queue}.oldest"] = round(queue.oldest_seconds, 1)
    for table in metrics.tables:
        kept[f"table.{table.table}.due"] = table.due
        kept[f"table.{table.table}.oldest"] = round(table.oldest_seconds, 1)
    for line in metrics.freshness:
        if line.age_p99_seconds is not None:
            tier = "" if line.tier is None else f".{line.tier}"
            kept[f"age.{line.resource}{tier}"] = round(line.age_p99_seconds, 1)
    return kept


def sample(database: Database, at: datetime | None = None) -> bool:
    """Keep the figures of this minute (of `at`, for tests), unless another has; returns whether.

    Raises IntegrationError (database).
    """
    with database.transaction() as connection:
        if connection.execute(
            "SELECT FROM figure_samples WHERE minutes = %s AND at = date_trunc('minute', coalesce(%s, clock_timestamp()))",
            (MINUTE, at),
        ).rowcount:
            return False
    figures = figures_of(read_metrics(database, most_stores=0))
    with database.transaction() as connection:
        for minutes in (MINUTE, QUARTER):
            connection.execute(_KEEP, {"minutes": minutes, "at": at, "figures": Jsonb(figures)})
    return True


_KEEP = """
    INSERT INTO figure_samples AS f (minutes, at, figures)
    VALUES (%(minutes)s, date_bin(make_interval(mins => %(minutes)s), coalesce(%(at)s, clock_timestamp()), 'epoch'), %(figures)s)
    ON CONFLICT (minutes, at) DO UPDATE SET figures = (
        SELECT jsonb_object_agg(key, greatest((f.figures ->> key)::float, (excluded.figures ->> key)::float))
        FROM jsonb_object_keys(f.figures || excluded.figures) key)"""


def read_trends(database: Database, now: datetime | None = None) -> dict[str, Trend]:
    """All that were sampled, by name. Raises IntegrationError (database)."""
    with database.transaction() as connection:
        rows = connection.execute(_READ, {"now": now}).fetchall()
    last_minute, last_quarter = rows[0][:2]
    hours = {at: figures for _, _, minutes, at, figures in rows if minutes == MINUTE}
    days = {at: figures for _, _, minutes, at, figures in rows if minutes == QUARTER}
    names = {name for figures in (*hours.values(), *days.values()) for name in figures}
    return {
        name: Trend(
            _series(hours, name, last_minute, timedelta(minutes=MINUTE), HOUR_POINTS),
            _series(days, name, last_quarter, timedelta(minutes=QUARTER), DAY_POINTS),
        )
        for name in names
    }


# The minute and the quarter that have begun, with what is kept beside them, if anything is.
_READ = """
    SELECT n.minute, n.quarter, f.minutes, f.at, f.figures FROM (
        SELECT date_trunc('minute', now) AS minute, date_bin('15 minutes', now, 'epoch') AS quarter
        FROM (SELECT coalesce(%(now)s, clock_timestamp()) AS now) given
    ) n LEFT JOIN figure_samples f ON f.at > n.quarter - interval '1 day'
        AND (f.minutes = 15 OR f.minutes = 1 AND f.at > n.minute - interval '1 hour')"""


def _series(
    rows: Mapping[datetime, Mapping[str, float]], name: str, last: datetime, step: timedelta, points: int
) -> list[float | None]:
    times: Sequence[datetime] = [last - step * back for back in reversed(range(points))]
    return [rows[at].get(name) if at in rows else None for at in times]
