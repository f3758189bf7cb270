"""Freshness: how long ago a store's unit last succeeded, and whether that is too long.

Due times and attempts do not tell: a pass that never comes to its end, or an export that never does, is always due or
in hand and has never failed. What counts is the last success, for whoever shows or tells what is current.

SQL for a unit `y` of `sync_states` and its store `s`; `now` is the name of the time in the statement.
"""

from __future__ import annotations

from bg_pipelines.queues import HEALTHY_FACTOR, OWN_INTERVALS, TIERS

TURNS = 2.5
"""A unit is due between half an interval and one and a half after its last success, and may be one interval late."""


def _seconds(seconds: float) -> str:
    return f"interval '{seconds:.0f} s'"


_OWN = " ".join(
    f"WHEN '{unit}' THEN {_seconds(every.total_seconds())}" for unit, every in OWN_INTERVALS.items()
)
_TIERS = ", ".join(_seconds(TIERS[tier].total_seconds()) for tier in sorted(TIERS))
EVERY = f"(CASE y.resource {_OWN} ELSE coalesce(make_interval(mins => s.interval_minutes), (ARRAY[{_TIERS}])[s.tier]) END)"
"""How often it is due."""

MOST_AGE = f"({TURNS * HEALTHY_FACTOR} * {EVERY})"
"""How old its last success may be."""


def is_current(now: str) -> str:
    """Whether it is current: it succeeded lately, its last attempt did, and it is not overdue by more than its interval."""
    return (
        f"(y.attempts = 0 AND y.next_due_at IS NOT NULL AND y.next_due_at > {now} - {EVERY} "
        f"AND coalesce(y.last_succeeded_at > {now} - {MOST_AGE}, false))"
    )
