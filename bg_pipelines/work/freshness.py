"""Freshness: how long ago a store's unit last succeeded, and whether that is too long.

Due times and attempts do not tell: a pass that never comes to its end, or an export that never does, is always due or
in hand and has never failed. What counts is the last success, for whoever shows or tells what is current.

SQL for a unit `y` of `sync_states` and its store `s`; `now` is the name of the time in the statement.
"""

from __future__ import annotations

from bg_pipelines.queues import HEALTHY_FACTOR, OWN_INTERVALS, TIERS

TURNS = 2.5
"""A unit is due within one and a half intervals after its last success, and may be one interval late."""


def _seconds(seconds: float) -> str:
    return f"interval '{seconds:.0f} s'"


_OWN = {unit: _seconds(every.total_seconds()) for unit, every in OWN_INTERVALS.items()}
_TIERS = ", ".join(_seconds(TIERS[tier].total_seconds()) for tier in sorted(TIERS))
_OF_STORE = f"coalesce(make_interval(mins => s.interval_minutes), (ARRAY[{_TIERS}])[s.tier])"


def _by_unit(own: str, of_store: str) -> str:
    """SQL of what units with an interval of their own have, `own` with that for `{every}`, and what the others have."""
    cases = " ".join(f"WHEN '{unit}' THEN {own.format(every=every)}" for unit, every in _OWN.items())
    return f"(CASE y.resource {cases} ELSE {of_store} END)"


EVERY = _by_unit("{every}", _OF_STORE)
"""How often it is due."""

_AGES = TURNS * HEALTHY_FACTOR
MOST_AGE = f"({_AGES} * {EVERY})"
"""How old its last success may be."""


def is_current(now: str) -> str:
    """Whether it is current: it succeeded lately, its last attempt did, and it is not overdue by more than its interval."""
    return _current(f"{now} - {EVERY}", f"{now} - {MOST_AGE}")


# For all units of thousands of stores: what follows from a store's interval is computed once for each store.


def stores_at_work(now: str) -> str:
    """The stores that are at work, as `s`, for `is_current_at_work`."""
    return (
        f"(SELECT s.id, s.tier, {now} - {_OF_STORE} AS due_after, {now} - {_AGES} * {_OF_STORE} AS succeeded_after "  # noqa: S608 (constants)
        "FROM stores s WHERE s.paused_at IS NULL AND s.deleted_at IS NULL OFFSET 0) s"
    )


def is_current_at_work(now: str) -> str:
    """The same as `is_current`."""
    return _current(
        _by_unit(f"{now} - {{every}}", "s.due_after"),
        _by_unit(f"{now} - {_AGES} * {{every}}", "s.succeeded_after"),
    )


def _current(due_after: str, succeeded_after: str) -> str:
    return (
        f"(y.attempts = 0 AND y.next_due_at IS NOT NULL AND y.next_due_at > {due_after} "
        f"AND coalesce(y.last_succeeded_at > {succeeded_after}, false))"
    )
