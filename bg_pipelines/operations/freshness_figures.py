"""Figures of freshness, by resource and tier: how old what is known is, and how late changes come. Two notions, kept apart:

    age   since a store's table was last looked at to the end. It grows where nothing changes, too
    lag   from a change at the source to our commit of it. Only what has changed has one

The first says what we may rely on now, the second what we could rely on when something happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.orm import Session

from bg_pipelines.operations.reading import read
from bg_pipelines.records import Resource
from bg_pipelines.work import freshness, rollups
from bg_pipelines.work.rollups import LAGS, Rollup


class UnitStatus(NamedTuple):
    """One unit over all stores. `minutes_behind` is the longest that any store is overdue, `minutes_since_success` the
    longest ago that it last succeeded for any; None where it never did."""

    resource: str
    stores: int
    current: int
    due: int
    running: int
    failing: int
    minutes_behind: float
    minutes_since_success: float | None
    rejected_rows: int


class Freshness(NamedTuple):
    """Of a resource in the stores of a tier; None for all tiers together.

    `age_` are of the stores that were ever looked at to the end, `lag_` of the changes of the window; None where there is
    none. `ages` and `lags` are the histograms that they are read from, by `work.rollups.LAGS`, `lag_seconds` all lags together.
    """

    resource: str
    tier: int | None
    stores: int
    never: int
    age_p50_seconds: float | None
    age_p99_seconds: float | None
    changes: int
    lag_p50_seconds: float | None
    lag_p99_seconds: float | None
    ages: list[int]
    lags: list[int]
    lag_seconds: float


def read_units(
    session: Session, now: datetime, visits: Sequence[Rollup], rejected: Mapping[str, int]
) -> tuple[list[UnitStatus], list[Freshness]]:
    """Each unit over all stores, and the freshness of each resource, by tier and of all tiers. `rejected` rows by resource."""
    rows = read(session, _Row, _UNITS, now=now, bounds=list(reversed(LAGS)))
    by_unit: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_unit[row.resource].append(row)
    units = [_unit(name, own, now, rejected.get(name, 0)) for name, own in sorted(by_unit.items())]
    fresh = []
    for resource in Resource:
        own, seen = by_unit.get(resource, []), [one for one in visits if one.resource == resource]
        tiers = sorted({row.tier for row in own} | {one.tier for one in seen})
        fresh += [
            _fresh(
                resource,
                tier,
                [row for row in own if tier in (None, row.tier)],
                [one for one in seen if tier in (None, one.tier)],
            )
            for tier in (None, *tiers)
            if tiers
        ]
    return units, fresh


class _Row(NamedTuple):
    """The stores of a tier whose unit is of one age; `bucket` counts from the oldest, None: never looked at."""

    resource: str
    tier: int
    bucket: int | None
    stores: int
    current: int
    due: int
    running: int
    failing: int
    first_due_at: datetime | None
    succeeded_at: datetime | None


def _unit(name: str, rows: Sequence[_Row], now: datetime, rejected: int) -> UnitStatus:
    def minutes(times: Iterable[datetime | None]) -> float | None:
        known = [time for time in times if time is not None]
        return round(max(0.0, (now - min(known)).total_seconds() / 60), 1) if known else None

    return UnitStatus(
        name,
        stores=sum(row.stores for row in rows),
        current=sum(row.current for row in rows),
        due=sum(row.due for row in rows),
        running=sum(row.running for row in rows),
        failing=sum(row.failing for row in rows),
        minutes_behind=minutes(row.first_due_at for row in rows) or 0.0,
        minutes_since_success=minutes(row.succeeded_at for row in rows),
        rejected_rows=rejected,
    )


def _fresh(resource: str, tier: int | None, rows: Sequence[_Row], visits: Sequence[Rollup]) -> Freshness:
    ages = [0] * (len(LAGS) + 1)
    for row in rows:
        if row.bucket is not None:
            ages[len(LAGS) - row.bucket] += row.stores
    lags = rollups.added([one.lags for one in visits], LAGS)
    return Freshness(
        resource,
        tier,
        stores=sum(row.stores for row in rows),
        never=sum(row.stores for row in rows if row.bucket is None),
        age_p50_seconds=rollups.quantile(ages, LAGS, 0.5),
        age_p99_seconds=rollups.quantile(ages, LAGS, 0.99),
        changes=sum(lags),
        lag_p50_seconds=rollups.quantile(lags, LAGS, 0.5),
        lag_p99_seconds=rollups.quantile(lags, LAGS, 0.99),
        ages=ages,
        lags=lags,
        lag_seconds=sum(one.lag_seconds for one in visits),
    )


_UNITS = f"""
    SELECT y.resource, s.tier,
        width_bucket(y.last_succeeded_at, ARRAY(SELECT :now - make_interval(secs => b)
            FROM unnest(CAST(:bounds AS float[])) b)) AS bucket,
        count(*) AS stores, count(*) FILTER (WHERE {freshness.is_current_at_work(":now")}) AS current,
        count(*) FILTER (WHERE y.next_due_at <= :now AND (y.lease_expires_at > :now) IS NOT TRUE) AS due,
        count(*) FILTER (WHERE y.lease_expires_at > :now) AS running,
        count(*) FILTER (WHERE y.attempts > 0) AS failing,
        min(y.next_due_at) AS first_due_at, min(y.last_succeeded_at) AS succeeded_at
    FROM sync_states y JOIN {freshness.stores_at_work(":now")} ON s.id = y.store_id GROUP BY 1, 2, 3"""  # noqa: S608 (made of constants)
