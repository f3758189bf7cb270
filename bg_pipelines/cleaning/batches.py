"""Batches: a pass through a relation in short transactions, sized by the time that they take.

    passed = Pass(database, sweep, keep=task.keep, watch=watch, clock=time.monotonic, sleep=time.sleep)
    outcome = passed.run(place, is_over)

Each batch commits what it deleted together with the place reached, so that a pass that is killed goes on there and
nothing is ever half done. A batch never waits long for a lock: what PostgreSQL ends as is normal under load is tried
again smaller, and then left to the next pass. A row that a foreign key or a trigger refuses to let go is found by
halving the batch, and set aside with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import psycopg

from bg_pipelines.cleaning.aside import reason_of
from bg_pipelines.cleaning.pressure import REST_SECONDS, Watch
from bg_pipelines.cleaning.relations import Axis, Connection, Span
from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import ErrorType, IntegrationError

TRIES = 4
"""So often a batch of the smallest size is tried before its rows are left to the next pass."""
BACK_OFF_SECONDS = 0.1
LARGEST_FIGURE = 1 << 20


class Manners(NamedTuple):
    """How a pass behaves towards others.

    A batch aims at `batch_seconds`, and `rest` times as long as it took is left to others before the next; above
    `longest_wait_seconds` of waiting at once the pass yields. `first_size` is that of the first batch, in blocks or rows.
    """

    batch_seconds: float = 0.05
    rest: float = 0.5
    lock_timeout_ms: int = 100
    statement_timeout_ms: int = 5_000
    longest_wait_seconds: float = 60.0
    first_size: int | None = None


class Sweep(Protocol):
    """What is done to the rows of one relation. Its SQL calls the relation `t`."""

    @property
    def axis(self) -> Axis: ...

    def clean(self, connection: Connection, span: Span) -> Counter[str]:
        """Clean the rows of the span; returns figures such as `carts.rows`, `carts.bytes`."""

    def chosen(self, connection: Connection, span: Span) -> Sequence[tuple[str, ...]]:
        """The keys of the rows that `clean` would delete in the span, as text."""

    def row(self, key: tuple[str, ...]) -> Span:
        """The row of this key."""

    def set_aside(self, connection: Connection, key: tuple[str, ...], reason: str) -> None:
        """Remember that this row cannot be deleted; `clean` leaves it out from now on."""


class Outcome(NamedTuple):
    """What a pass did. `figures` are those of its sweep; `why` it is not completed."""

    completed: bool
    figures: Counter[str]
    batches: int
    set_aside: int
    left_over: int
    why: str | None = None
    advice: tuple[dict[str, Any], ...] = ()

    @property
    def rows(self) -> int:
        return sum(number for name, number in self.figures.items() if name.endswith(".rows"))

    @property
    def bytes(self) -> int:
        return sum(number for name, number in self.figures.items() if name.endswith(".bytes"))


class Pace:
    """How large the next batch is, so that it takes as long as it should."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.seconds = seconds

    def took(self, seconds: float) -> None:
        factor = self.seconds / max(seconds, 1e-6)
        self.size = min(max(1, round(self.size * min(max(factor, 0.25), 2.0))), LARGEST_FIGURE)

    def halve(self) -> bool:
        """Make the batch smaller; returns whether that was possible."""
        was, self.size = self.size, max(1, self.size // 2)
        return self.size < was


Keep = Callable[[Connection, dict[str, Any]], None]
"""Writes where the pass has got to, in the transaction of its batch; raises IntegrationError (lease_lost)."""
StopAsked = Callable[[], str | None]
"""Why the pass should yield now, if it should."""


class Pass:
    """One run's part of a pass through a relation."""

    def __init__(
        self,
        database: Database,
        sweep: Sweep,
        *,
        keep: Keep,
        watch: Watch,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        manners: Manners | None = None,
    ) -> None:
        self.database = database
        self.sweep = sweep
        self.keep = keep
        self.watch = watch
        self.clock = clock
        self.sleep = sleep
        self.manners = manners or Manners()
        self.figures: Counter[str] = Counter()
        self.batches = 0
        self.aside = 0
        self.left_over = 0

    def run(self, place: dict[str, Any] | None, stop: StopAsked) -> Outcome:
        """Go on from `place` (None: begin) to the end of the pass, or until `stop` says why not.

        Raises IntegrationError: lease_lost, or a database that is away.
        """
        axis = self.sweep.axis
        if place is None:
            with self.transaction() as connection:
                place = {"at": None, "end": axis.end(connection), "seen": 0}
                self.keep(connection, place)
        at, end, seen = place["at"], place["end"], place["seen"]
        # Of the whole pass so far, without the time between its runs.
        start = self.clock() - place.get("seconds", 0.0)
        pace = Pace(place.get("size", self.manners.first_size or axis.first_size), self.manners.batch_seconds)
        tries = 0
        row_by_row = False
        while True:
            if (why := stop() or self._wait(stop)) is not None:
                return self._outcome(why)
            began = self.clock()
            give_up = tries >= TRIES
            refused = 0
            try:
                with self.transaction() as connection:
                    reached = axis.next(connection, at, pace.size, end)
                    span = axis.span(at, reached, end)
                    if give_up:
                        done: Counter[str] = Counter()
                    elif row_by_row:
                        done, refused = self._row_by_row(connection, span)
                    else:
                        done = self.sweep.clean(connection, span)
                    seconds = self.clock() - start
                    kept = {"at": reached, "size": pace.size, "seen": seen + pace.size, "seconds": seconds}
                    self.keep(connection, {"end": end, **kept})
            except IntegrationError as error:
                if not is_expected(error):
                    raise
                if not pace.halve():
                    tries += 1
                self.sleep(BACK_OFF_SECONDS * 2**tries)
                continue
            except psycopg.Error as error:
                if _is_ours(error) or row_by_row:
                    raise _explained(error) from error
                row_by_row = not pace.halve()
                continue
            took = self.clock() - began
            self.batches += 1
            self.aside += refused
            self.left_over += give_up
            self.figures.update(done)
            if reached is None:
                return self._outcome(None)
            at, seen, tries, row_by_row = reached, seen + pace.size, 0, False
            pace.took(took)
            self.sleep(took * self.manners.rest)

    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction with the manners of a batch."""
        return polite_transaction(self.database, self.manners, self.sweep.axis.plans)

    def _wait(self, stop: StopAsked) -> str | None:
        """Wait while the database is busy; returns why the pass should yield instead."""
        waited = 0.0
        while (reason := self.watch.look()) is not None:
            if waited >= self.manners.longest_wait_seconds:
                return f"waited {waited:.0f} s because of {reason}"
            if (why := stop()) is not None:
                return why
            began = self.clock()
            self.sleep(REST_SECONDS)
            self.watch.waited(reason, self.clock() - began)
            waited += self.clock() - began
        return None

    def _row_by_row(self, connection: Connection, span: Span) -> tuple[Counter[str], int]:
        """The rows of the smallest batch, each by itself; returns the figures, and how many were set aside."""
        done: Counter[str] = Counter()
        refused = 0
        for key in self.sweep.chosen(connection, span):
            try:
                with connection.transaction():
                    done.update(self.sweep.clean(connection, self.sweep.row(key)))
            except psycopg.Error as error:
                if isinstance(error, psycopg.OperationalError) or _is_ours(error):
                    raise
                self.sweep.set_aside(connection, key, reason_of(error))
                refused += 1
        if not refused:
            # It is no row that fails: whatever else is done for the span is.
            done.update(self.sweep.clean(connection, span))
        return done, refused

    def _outcome(self, why: str | None) -> Outcome:
        return Outcome(why is None, self.figures, self.batches, self.aside, self.left_over, why)


_SET = (
    "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true), "
    "set_config('synchronous_commit', 'off', true), set_config('jit', 'off', true), "
    "set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', %s, true)"
)


@contextmanager
def polite_transaction(database: Database, manners: Manners, plans: str = "auto") -> Iterator[Connection]:
    """`Database.transaction` with timeouts, without plans that read a whole table, and without waiting for the disk.

    A crash of the server may undo the last batches, whole and with the place that they had reached.
    """
    with database.transaction() as connection:
        connection.execute(_SET, (str(manners.lock_timeout_ms), str(manners.statement_timeout_ms), plans))
        yield connection


def _is_ours(error: psycopg.Error) -> bool:
    """Whether the statement is at fault, or what this role may do, and no row."""
    return (error.sqlstate or "").startswith(("42", "0A", "3D", "3F")) or error.sqlstate is None


def _explained(error: psycopg.Error) -> BaseException:
    if error.sqlstate != "42501":  # insufficient_privilege
        return error
    return IntegrationError.of(
        ErrorType.CONFIGURATION,
        f"cleaning lacks a right: {error.diag.message_primary}. Grant it; docs/cleaning.md has the list.",
        source="database",
    )
