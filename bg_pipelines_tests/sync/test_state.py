"""The state of a table's sync: what it is kept as, and what comparing counts makes of it, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.sync.proof import Sum
from bg_pipelines.sync.state import Comparison, CursorState, PassState, compare_counts, is_worth_counting

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def full(first: int | None, last: int | None, **state: int | None) -> CursorState:
    """At the end of a full pass, which began and ended with these counts of the source."""
    return CursorState(
        current=PassState(full=True, began_at=NOON, source_count=first, last_count=last),
        **state,  # type: ignore[arg-type]
    )


def changes(last: int | None, *, moved: bool = True, **state: int | None) -> CursorState:
    """At the end of an incremental pass."""
    return CursorState(
        current=PassState(full=False, began_at=NOON, moved=moved, source_count=last, last_count=last),
        **state,  # type: ignore[arg-type]
    )


# (the state, rows held) -> (unlisted, awaited, agreed, searched_for), whether all is read, how many are newly unlisted
CASES: list[tuple[str, CursorState, int, tuple[int, int | None, int | None, int], bool, int]] = [
    ("as many there as here", changes(10), 10, (0, None, 10, 0), False, 0),
    ("fewer there than here: something was deleted", changes(9), 10, (0, None, None, 0), True, 0),
    ("more there than here may not be found yet", changes(12), 10, (0, 12, None, 0), False, 0),
    (
        "the awaited ones have come, and more are counted",
        changes(14, awaited=12),
        12,
        (0, 14, None, 0),
        False,
        0,
    ),
    ("the awaited ones have not come", changes(12, awaited=12), 10, (0, 12, None, 2), True, 0),
    (
        "more are held than were awaited, fewer than counted",
        changes(15, awaited=12),
        13,
        (0, 15, None, 0),
        False,
        0,
    ),
    ("what is never listed is expected", changes(11, unlisted=1), 10, (1, None, 11, 0), False, 0),
    ("what was never listed was deleted", changes(10, unlisted=1), 10, (1, None, None, 0), True, 0),
    ("a full pass that agrees", full(10, 10), 10, (0, None, None, 0), False, 0),
    ("a full pass finds fewer, for the first time", full(12, 12), 10, (0, 12, None, 0), False, 0),
    (
        "and for the second time: they are never listed",
        full(12, 12, awaited=12),
        10,
        (2, None, None, 0),
        False,
        2,
    ),
    (
        "a full pass that was made for them",
        full(12, 12, awaited=12, searched_for=2),
        10,
        (2, None, None, 0),
        False,
        2,
    ),
    (
        "what comes while all is read is awaited by the next pass",
        full(10, 12),
        10,
        (0, None, None, 0),
        False,
        0,
    ),
    ("never listed, and now there is less of it", full(11, 11, unlisted=3), 10, (1, None, None, 0), False, 0),
    (
        "never listed, and now there is nothing of it",
        full(10, 10, unlisted=3),
        10,
        (0, None, None, 0),
        False,
        0,
    ),
]


@pytest.mark.parametrize(
    ("state", "held", "expected", "needs_full", "newly"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_counts_are_compared(
    state: CursorState,
    held: int,
    expected: tuple[int, int | None, int | None, int],
    needs_full: bool,
    newly: int,
) -> None:
    compared = compare_counts(state, held)
    found = compared.state
    assert (found.unlisted, found.awaited, found.agreed, found.searched_for) == expected
    assert (compared.needs_full, compared.newly_unlisted) == (needs_full, newly)
    assert found.current == state.current, "the pass is the caller's to end"


def test_a_large_table_is_not_read_whole_again_so_soon() -> None:
    assert compare_counts(changes(9), 10, may_read_whole=False).needs_full is False


@pytest.mark.parametrize(
    ("state", "worth"),
    [
        (changes(None), False),
        (changes(10, moved=False), True),
        (changes(10, moved=False, agreed=10), False),
        (changes(10, moved=True, agreed=10), True),
        (changes(11, moved=False, agreed=10), True),
        (full(10, 10, agreed=10), True),
    ],
)
def test_rows_are_counted_only_where_something_may_have_moved(state: CursorState, worth: bool) -> None:
    assert is_worth_counting(state) is worth


FIRST_VERSION = {
    "since": "2030-01-01T11:55:00+00:00",
    "gap": 1,
    "missing": 12,
    "even": 11,
    "sought": 2,
    "pass": {
        "full": True,
        "run_id": "r",
        "began_at": "2030-01-01T12:00:00+00:00",
        "vendor_began_at": "2030-01-01T11:59:58+00:00",
        "resume": "page 7",
        "into_empty": False,
        "listed": False,
        "read": 1750,
        "gone": 3,
        "moved": True,
        "source_count": 4000,
        "last_count": 4001,
        "listed_since": "2029-11-01T00:00:00+00:00",
        "waits": 2,
        "sums": {"orders": [1700, 12345, 50], "order_lines": [0, 0, 0]},
    },
}


NOW = {**FIRST_VERSION, "version": 2, "full_pass": FIRST_VERSION["pass"]}
NOW |= {"unlisted": 1, "awaited": 12, "agreed": 11, "searched_for": 2}


@pytest.mark.parametrize(
    "older", [FIRST_VERSION, {**NOW, "full_pass": None, "current": FIRST_VERSION["pass"]}]
)
def test_a_full_pass_of_an_older_program_begins_anew_for_it_has_noted_otherwise_what_it_listed(
    older: dict[str, Any],
) -> None:
    state = CursorState.parse({key: value for key, value in older.items() if value is not None})
    assert (state.unlisted, state.awaited, state.agreed, state.searched_for) == (1, 12, 11, 2)
    assert (state.current, state.since) == (None, None)


def test_an_older_program_does_not_go_on_with_a_full_pass_of_this_one() -> None:
    """It reads a pass from there."""
    assert "current" not in CursorState.parse(NOW).dump()
    incremental = CursorState(current=PassState(full=False, began_at=NOON))
    assert incremental.dump()["current"]["full"] is False


def test_a_full_pass_goes_on_where_it_was() -> None:
    state = CursorState.parse(NOW)
    assert state.current is not None
    assert (state.current.resume, state.current.read, state.current.waits) == ("page 7", 1750, 2)
    assert state.current.sums == {"orders": Sum(1700, 12345, 50), "order_lines": Sum(0, 0, 0)}


def test_a_state_survives_its_row() -> None:
    state = CursorState.parse(NOW)
    assert CursorState.parse(state.dump()) == state
    assert CursorState.parse({}) == CursorState()
    assert CursorState().dump() == {}


def test_a_state_that_a_newer_program_wrote_is_left_alone() -> None:
    with pytest.raises(IntegrationError, match="a newer bg-pipelines has synced this") as refused:
        CursorState.parse({"version": 3})
    assert refused.value.error_type is ErrorType.CONFIGURATION


def test_a_pass_that_begins_anew_is_as_whole_as_it_was() -> None:
    state = CursorState.parse(NOW)
    assert (state.without_pass().current, state.without_pass().since) == (None, None)
    assert state.current is not None
    incremental = replace(state, current=replace(state.current, full=False))
    assert incremental.without_pass().since == state.since
    assert isinstance(compare_counts(state, 4000), Comparison)
