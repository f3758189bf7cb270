"""When a store is due again: on its ticks, spread, and no later for having been late once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.queues import EARLY, TICK, TIERS, next_hour, next_turn

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
INTERVALS = [*TIERS.values(), timedelta(minutes=25), timedelta(days=1)]
MOMENTS = st.integers(0, 4 * 365 * 86_400).map(lambda seconds: NOON + timedelta(seconds=seconds))


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def tick_of(due: datetime) -> datetime:
    """The tick that takes what is due then."""
    return due - (due - EPOCH) % TICK + TICK


@given(MOMENTS, st.sampled_from(INTERVALS), st.integers(1, 10**9))
def test_a_turn_is_just_before_a_tick_the_next_or_where_that_is_near_the_one_after(
    after: datetime, interval: timedelta, store_id: int
) -> None:
    due = next_turn(after, interval, store_id)
    near = (interval - TICK) / 2
    assert near < due - after <= interval + near
    assert EARLY / 2 <= tick_of(due) - due <= EARLY


@given(MOMENTS, st.sampled_from(INTERVALS), st.integers(1, 10**9), st.integers(0, 100))
def test_a_store_that_is_served_a_little_late_keeps_its_turns(
    after: datetime, interval: timedelta, store_id: int, late: int
) -> None:
    """Of the shortest interval however late within it: the last of many stores is."""
    due = next_turn(after, interval, store_id)
    served = tick_of(due) - EARLY + 0.99 * (interval + TICK) / 2 * late / 100
    assert tick_of(next_turn(served, interval, store_id)) == tick_of(due) + interval


@given(MOMENTS, st.sampled_from(INTERVALS), st.integers(1, 10**9), st.integers(0, 3600))
def test_who_was_served_later_is_due_later_in_the_same_round_too(
    after: datetime, interval: timedelta, store_id: int, later: int
) -> None:
    first, second = (next_turn(at, interval, store_id) for at in (after, after + timedelta(seconds=later)))
    assert first < second or later == 0


@pytest.mark.parametrize(("tier", "ticks"), [(1, 1), (2, 3), (3, 12)])
@pytest.mark.parametrize("step", [1, 2, 3, 12, 60, 288, 1000])
def test_the_stores_of_a_tier_are_spread_over_its_ticks_whatever_ids_they_got(
    tier: int, ticks: int, step: int
) -> None:
    turns = Counter(
        tick_of(next_turn(NOON, TIERS[tier], store_id)) for store_id in range(1, 1200 * step, step)
    )
    assert len(turns) == ticks
    assert max(turns.values()) <= 1.5 * 1200 / ticks, "as even as chance, and no more on one tick"


@given(MOMENTS)
def test_what_is_done_hourly_is_due_just_before_the_next_hour(after: datetime) -> None:
    due = next_hour(after.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert timedelta(0) < due - after <= timedelta(hours=1)
    assert (due + EARLY - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(hours=1) == timedelta(0)
