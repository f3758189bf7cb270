"""The runner: one run claims batches, hands them to its workers, renews their leases and reports progress.

It claims what was due when it began, then what has come due meanwhile, until nothing is; ends in time and releases
what is unfinished, and can be stopped (Ctrl-C, SIGTERM) at any moment. One that stays warm goes on looking for a while
after that. A `Workload` defines what is claimed and how it is processed.
"""

from __future__ import annotations

import gc
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import IntegrationError
from bg_pipelines.work.fair_share import FairShare
from bg_pipelines.work.pulse import BEAT_SECONDS, RunRecord
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.queue import owner_of

Connection = psycopg.Connection[Any]
B = TypeVar("B")
Log = Callable[[str], None]

LEASE = timedelta(minutes=2)
PROGRESS_SECONDS = 5.0
COLLECT_AFTER = (50_000, 20, 100)
"""When Python looks for garbage cycles while a run is at work. A page is thousands of objects and not one cycle
among them; with Python's own thresholds a fifth of a run's processor time goes into looking at them."""

TURN_SECONDS = 60.0
"""After so long a batch yields, at the point reached, if others wait for a worker."""
OVER_SECONDS = 30.0
"""How long a run whose time is over waits for its workers' next page."""
LOOK_SECONDS = 1.0
"""How often a run with a free worker looks for what has come due meanwhile."""
CLAIM_TRIES = 5
CLAIM_PAUSE_SECONDS = 1.0


class Stopped(Exception):  # noqa: N818 (not an error: the work was asked to stop)
    """The run is being stopped; unfinished work is released."""


class Workload(Protocol[B]):
    """What a run works on. A batch is what one worker takes at a time."""

    def owners(self, owner: str) -> set[str]:
        """The names under which one claim of `owner` takes rows."""

    def claim(self, owner: str, due_before: datetime | None, crowded: Sequence[str]) -> list[B]:
        """Batches that were due then (None: now), but for `crowded` groups."""

    def group(self, batch: B) -> str:
        """Who answers for it: a platform."""

    def work_on(self, batch: B) -> None:
        """Called by a worker. Raises Stopped, or what keeps the run itself from working."""

    def renew(self, connection: Connection, owners: Sequence[str], lease: timedelta) -> None: ...

    def give_back(self, owners: Sequence[str]) -> None:
        """Release what these owners still have, unfinished."""

    def progress(self, seconds: float) -> str:
        """How far the run is, in one line; nothing where that is as before."""

    def counts(self) -> tuple[int, int]:
        """How many batches are done, and how many of them failed."""

    def claimed(self, batches: int) -> None:
        """So many batches have been claimed so far."""


class Warmth(NamedTuple):
    """How a run stays warm: for `seconds` after it had something to do, looking every `look_seconds`.

    `is_wanted` tells whether somebody else needs its place: then it ends as soon as it has nothing to do.
    """

    seconds: float = 0.0
    look_seconds: float = LOOK_SECONDS
    is_wanted: Callable[[], bool] = lambda: False


COLD = Warmth()


class Runner(Generic[B]):
    """The workers of one run. Used once.

    `clock` counts seconds; `log` takes lines. `settle` writes down what workers have left to be written together: it is called
    a few times a second, and with True once they have nothing to do. Both are only ever called from the thread of `run`.
    """

    def __init__(
        self,
        database: Database,
        workload: Workload[B],
        *,
        run_id: str,
        job: str,
        workers: int,
        max_minutes: float,
        log: Log,
        lease: timedelta = LEASE,
        progress_seconds: float = PROGRESS_SECONDS,
        turn_seconds: float = TURN_SECONDS,
        over_seconds: float = OVER_SECONDS,
        warmth: Warmth = COLD,
        settle: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settle = settle
        self.database = database
        self.workload = workload
        self.run_id = run_id
        self.workers = workers
        self.max_minutes = max_minutes
        self.log = log
        self.lease = lease
        self.progress_seconds = progress_seconds
        self.turn_seconds = turn_seconds
        self.over_seconds = over_seconds
        self.warmth = warmth
        self.clock = clock
        self.record = RunRecord(database, run_id, job)
        self.shares: FairShare[B] = FairShare(workers, workload.group)
        self._waiting = 0
        self._owners: dict[str, int] = {}
        """The names that batches are claimed under, and how many of each are unfinished."""
        self._names: dict[int, set[str]] = {}
        """Of each unfinished batch, by its identity."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._over = threading.Event()
        self._look_again = threading.Event()
        self._finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, due_before: datetime, began: float, then: Callable[[], object] = lambda: None) -> None:
        """Process all that was due; `then` is what the run does at its end, while it still counts as running.

        `began` is when the run did, by `clock`. Raises what keeps the run itself from working.
        """
        usual = gc.get_threshold()
        gc.set_threshold(*COLLECT_AFTER)
        self._start(self._beat)
        status = "stopped"
        try:
            try:
                self._work_through(due_before, began)
            finally:
                # Workers are daemons and are not waited for: one may be in the middle of a slow answer. What they
                # hold is given back here, and a lease that is lost keeps them from writing anything more.
                self._stop.set()
                with self._lock:
                    owners = list(self._owners)
                self.workload.give_back(owners)
            self._tell()
            self._report(began)
            then()
            status = "succeeded"
        except Exception:
            status = "failed"
            raise
        finally:
            self._ended.set()
            with suppress(IntegrationError), self.database.transaction() as connection:
                self._save_record(connection, status)
            gc.set_threshold(*usual)

    def _work_through(self, due_before: datetime, began: float) -> None:
        pending = batches = started = 0
        last_report = looked_at = worked_at = began
        until: datetime | None = due_before
        all_seen = True  # no batch has ended since the last look for what is due now
        while True:
            now = self.clock()
            # Once everything that was due is taken, a run also takes what comes due while a slow batch keeps it busy,
            # and looks a last time when nothing does: the ticks meanwhile found this run at work and started no other.
            if self._look_again.is_set() and not self._over.is_set():
                self._look_again.clear()
                with self.database.transaction() as connection:
                    until = database_clock(connection)  # what was given back has had no other turn yet
            self.settle(not pending)
            look = (
                until is not None or now - looked_at >= self.warmth.look_seconds or not (pending or all_seen)
            )
            if look and self.shares.a_worker_is_free():
                looked_at = now
                # What was due when it began is among what is due now: at the end one look finds both.
                before = until if pending or not batches else None
                all_seen |= before is None
                crowded = self.shares.crowded()
                claimed = self._claim(before, crowded)
                if not claimed and not crowded:
                    until = None
                pending += len(claimed)
                batches += len(claimed)
                self.workload.claimed(batches)
                while started < min(pending, self.workers):
                    started += 1
                    self._start(self._worker)
            if pending:
                worked_at = now
            elif all_seen and (now - worked_at >= self.warmth.seconds or self.warmth.is_wanted()):
                return
            if now - began >= self.max_minutes * 60:
                self._end_in_time(pending)
                return
            # A short wait: Python runs a signal's handler only between two of the main thread's steps.
            if pending or all_seen:
                ended = self._wait_for_one(min(0.5, self.progress_seconds, self.warmth.look_seconds))
                pending -= ended
                all_seen &= not ended
            self._tell()
            if self.clock() - last_report >= self.progress_seconds:
                last_report = self.clock()
                self._report(began)

    def _wait_for_one(self, seconds: float) -> int:
        """Wait for a batch to be finished; returns how many were. Raises what keeps the run from working."""
        try:
            failure = self._finished.get(timeout=seconds)
        except queue.Empty:
            return 0
        if failure is not None:
            raise failure
        return 1

    def _end_in_time(self, pending: int) -> None:
        """Let the workers commit the pages they have and release their batches, then release the rest."""
        self._over.set()
        if not pending:
            return
        deadline = self.clock() + self.over_seconds
        while pending and self.clock() < deadline:
            pending -= self._wait_for_one(0.5)
        self.settle(True)
        self.log(
            f"The run's time ({self.max_minutes:g} min) is over. Unfinished stores were released; the next run continues there."
        )

    def _claim(self, due_before: datetime | None, crowded: Sequence[str]) -> list[B]:
        owner = f"{owner_of(self.run_id)}/{secrets.token_urlsafe(4)}"
        names = self.workload.owners(owner)
        with self._lock:
            self._owners |= dict.fromkeys(names, 1)  # before: whatever interrupts the claim, it is given back
        batches = self._claimed(owner, due_before, crowded)
        with self._lock:
            for batch in batches:
                self._names[id(batch)] = names
                for name in names:
                    self._owners[name] += 1
            self._forget(names)
        self.shares.add(batches)
        return batches

    def _note_finished(self, batch: B) -> None:
        """A run that stays warm would else renew what it claimed hours ago; any other releases at its end what a batch
        could not settle."""
        with self._lock:
            names = self._names.pop(id(batch))
            if self.warmth.seconds:
                self._forget(names)

    def _forget(self, names: set[str]) -> None:
        """One thing less is unfinished under these names. With the lock held."""
        for name in names:
            self._owners[name] -= 1
            if not self._owners[name]:
                del self._owners[name]

    def _claimed(self, owner: str, due_before: datetime | None, crowded: Sequence[str]) -> list[B]:
        """What the workload claims; tried again where PostgreSQL ended the transaction as happens in a database in use."""
        for left in reversed(range(CLAIM_TRIES)):
            try:
                return self.workload.claim(owner, due_before, crowded)
            except IntegrationError as error:
                if not left or not is_expected(error):
                    raise
                self.log(error.message)
                self._stop.wait(CLAIM_PAUSE_SECONDS)
        raise AssertionError

    # Threads

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True, name=f"run-{target.__name__.strip('_')}").start()

    def _worker(self) -> None:
        while not self._stop.is_set():
            batch = self.shares.take(0.2)
            if batch is None:
                continue
            try:
                self.workload.work_on(batch)
                outcome: BaseException | None = None
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 (handed to the main thread, which raises it)
                outcome = error
            else:
                self._note_finished(batch)
            self.shares.end(batch)
            self._finished.put(outcome)

    def _beat(self) -> None:
        renew_seconds = self.lease.total_seconds() / 4
        beat_seconds = min(BEAT_SECONDS, renew_seconds)
        beat_at = self.clock() + beat_seconds
        renew_at = self.clock() + renew_seconds
        while not self._ended.wait(min(1.0, beat_seconds)):
            self.record.look()
            # A database failure is reported by the workers; the heartbeat must keep trying.
            if self.clock() >= beat_at:
                beat_at = self.clock() + beat_seconds
                # Apart from the leases: those of rows that a worker is committing are waited for.
                with suppress(Exception), self.database.transaction() as connection:
                    self._save_record(connection, "running")
            if self.clock() >= renew_at:
                renew_at = self.clock() + renew_seconds
                with self._lock:
                    owners = list(self._owners)
                with suppress(Exception), self.database.transaction() as connection:
                    self.workload.renew(connection, owners, self.lease)

    def _save_record(self, connection: Connection, status: str) -> None:
        done, failed = self.workload.counts()
        self.record.save(connection, status, stores=done, stores_failed=failed)

    def _tell(self) -> None:
        while not self._messages.empty():
            self.log(self._messages.get())

    def _report(self, began: float) -> None:
        with self._lock:
            waiting = f", {self._waiting} waiting for a rate limit" if self._waiting else ""
        if line := self.workload.progress(self.clock() - began):
            self.log(line + waiting)

    # What those who work ask for, from their threads

    def say(self, message: str) -> None:
        """Pass a line on to the log."""
        self._messages.put(message)

    def sleep(self, seconds: float) -> None:
        """Wait, as a platform asks for; raises Stopped as soon as the run is stopped."""
        with self._lock:
            self._waiting += 1
        stopped = self._stop.wait(seconds)
        with self._lock:
            self._waiting -= 1
        if stopped:
            raise Stopped

    def check_stopped(self) -> None:
        if self._stop.is_set():
            raise Stopped

    @property
    def is_over(self) -> bool:
        """Whether the run's time is over: no more batches are begun."""
        return self._over.is_set()

    def turn_is_over(self, began: float) -> bool:
        """Whether a batch that a worker started at `began` should yield at the point reached."""
        if self._over.is_set():
            return True
        return self.clock() - began >= self.turn_seconds and self.shares.anyone_waits()

    def look_again(self) -> None:
        """There is more to claim than there was at the last look."""
        self._look_again.set()
