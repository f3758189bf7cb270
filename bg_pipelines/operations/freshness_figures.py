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

from bg_pipelines.operations.units import Flag, Group, Units, count, seconds_since
from bg_pipelines.records import Resource
from bg_pipelines.work import rollups
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


def read_freshness(
    now: datetime, units: Units, visits: Sequence[Rollup], rejected: Mapping[str, int]
) -> tuple[list[UnitStatus], list[Freshness]]:
    """Each unit over all stores, and the freshness of each resource, by tier and of all tiers. `rejected` rows by resource."""
    by_unit: dict[str, list[Group]] = defaultdict(list)
    for group in units.groups:
        by_unit[group.resource].append(group)
    lines = [_unit(name, own, now, rejected.get(name, 0)) for name, own in sorted(by_unit.items())]
    fresh = []
    for resource in Resource:
        own, seen = by_unit.get(resource, []), [one for one in visits if one.resource == resource]
        tiers = sorted({group.tier for group in own} | {one.tier for one in seen})
        fresh += [
            _fresh(
                resource,
                tier,
                [group for group in own if tier in (None, group.tier)],
                [one for one in seen if tier in (None, one.tier)],
            )
            for tier in (None, *tiers)
            if tiers
        ]
    return lines, fresh


def _unit(name: str, groups: Sequence[Group], now: datetime, rejected: int) -> UnitStatus:
    def minutes(times: Iterable[datetime | None]) -> float | None:
        seconds = seconds_since(now, times)
        return None if seconds is None else round(seconds / 60, 1)

    stores = count(groups, Flag.PRESENT)
    return UnitStatus(
        name,
        stores=stores,
        current=stores - count(groups, Flag.NOT_CURRENT),
        due=count(groups, Flag.DUE),
        running=count(groups, Flag.CLAIMED),
        failing=count(groups, Flag.FAILING),
        minutes_behind=minutes(group.first_due_at for group in groups) or 0.0,
        minutes_since_success=minutes(group.succeeded_at for group in groups),
        rejected_rows=rejected,
    )


def _fresh(resource: str, tier: int | None, groups: Sequence[Group], visits: Sequence[Rollup]) -> Freshness:
    ages = [0] * (len(LAGS) + 1)
    for group in groups:
        if group.bucket is not None:
            ages[len(LAGS) - group.bucket] += group.units
    lags = rollups.added([one.lags for one in visits], LAGS)
    return Freshness(
        resource,
        tier,
        stores=sum(group.units for group in groups),
        never=sum(group.units for group in groups if group.bucket is None),
        age_p50_seconds=rollups.quantile(ages, LAGS, 0.5),
        age_p99_seconds=rollups.quantile(ages, LAGS, 0.99),
        changes=sum(lags),
        lag_p50_seconds=rollups.quantile(lags, LAGS, 0.5),
        lag_p99_seconds=rollups.quantile(lags, LAGS, 0.99),
        ages=ages,
        lags=lags,
        lag_seconds=sum(one.lag_seconds for one in visits),
    )
