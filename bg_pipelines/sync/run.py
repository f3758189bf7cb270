"""The run of a sync: which stores, how they are claimed, and the summary.

summary = SyncRun(database, cipher, request, run_id="…", connect=connect, log=print).run()
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher, verify_key
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import RUN_CONFIG, ErrorType, IntegrationError
from bg_pipelines.queues import Unit
from bg_pipelines.retries import Policies
from bg_pipelines.sync.context import Coverage, NoCoverage
from bg_pipelines.sync.settling import IdleVisit, settle_idle
from bg_pipelines.sync.stores import Connect, read_stores
from bg_pipelines.sync.summary import (
    ChangeReport,
    CorrectionReport,
    Failure,
    Limits,
    ResourceAudit,
    Summary,
    SyncRequest,
    UnitSummary,
)
from bg_pipelines.sync.units import UNITS, Process
from bg_pipelines.sync.visit import Batch, Visit
from bg_pipelines.wording import ADD_A_STORE, command, counted, did_you_mean
from bg_pipelines.work import attempts, store_units, visits
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.runner import LEASE, PROGRESS_SECONDS, TURN_SECONDS, Log, Runner
from bg_pipelines.work.store_units import Claim

SETTLED_TOGETHER = 50
"""Visits that have ended."""
SETTLED_AFTER_SECONDS = 1.0
READ_AGAIN_SECONDS = 5.0
"""A store that was claimed so long ago is read again before it is visited."""


class SyncRun:
    """One run: claims until nothing is left that was due when it began. Used once.

    `connect` makes a platform out of a store's access and a sleep; `log` takes progress lines; `clock` counts
    seconds; `policies` and `rng` decide about retries; `coverage` is told what passes find; `processes` are what each
    unit does. Raises IntegrationError only if the run itself cannot work (the database, the key, an unknown store): a store
    that fails is in the summary.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        request: SyncRequest,
        *,
        run_id: str,
        connect: Connect,
        log: Log,
        lease: timedelta = LEASE,
        progress_seconds: float = PROGRESS_SECONDS,
        limits: Limits | None = None,
        turn_seconds: float = TURN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        policies: Policies | None = None,
        rng: random.Random | None = None,
        coverage: Coverage | None = None,
        processes: Mapping[Unit, Process] = UNITS,
    ) -> None:
        self.database = database
        self.cipher = cipher
        self.request = request
        self.run_id = run_id
        self.connect = connect
        self.log = log
        self.lease = lease
        self.limits = limits or Limits()
        self.clock = clock
        self.policies = policies or Policies()
        self.processes = processes
        self.rng = rng or random.Random()  # noqa: S311 (jitter, not a secret)
        self.coverage = coverage or NoCoverage()
        self.summary = Summary(units={unit: UnitSummary() for unit in request.units})
        self.runner: Runner[Batch] = Runner(
            database,
            self,
            run_id=run_id,
            job=request.job,
            workers=request.max_workers,
            max_minutes=request.max_minutes,
            log=log,
            lease=lease,
            progress_seconds=progress_seconds,
            turn_seconds=turn_seconds,
            settle=self.settle,
            clock=clock,
        )
        self._lock = threading.Lock()
        self._idle: list[IdleVisit] = []
        self._ended: list[tuple[str, int]] = []
        """Owners and stores of visits that have ended, and are still to be told so."""
        self._settled_at = self.clock()
        self._failed_at = -math.inf
        self._stores: set[int] | None = None
        self._failed_stores: set[int] = set()
        self._locked_stores: set[int] = set()

    def run(self, then: Callable[[Summary], object] = lambda _: None) -> Summary:
        """`then` is what the run does when its stores are done; until it returns, the run is running."""
        began = self.clock()
        due_before = self._prepare()

        def end() -> None:
            self.summary.seconds = self.clock() - began
            self._tell_of_left(due_before)
            then(self.summary)

        self.runner.run(due_before, began, end)
        return self.summary

    def _prepare(self) -> datetime:
        """Make due what is requested, and log what is skipped; returns until when rows must have been due."""
        request = self.request
        with self.database.transaction() as connection:
            stores = self._stores = self._named_stores(connection)
            verify_key(connection, self.cipher)
            if stores is not None or request.force:
                store_units.make_due(
                    connection, request.units, stores, request.tiers, full_pass=request.force
                )
            if request.backfill != "auto":
                store_units.set_backfill(connection, request.units, stores, request.tiers, request.backfill)
            due_before = database_clock(connection)
            self.summary.total, busy = store_units.count_due(
                connection, request.units, due_before, stores, request.tiers
            )
            platforms = connection.execute("SELECT DISTINCT platform FROM stores").rowcount
            self.runner.record.begin(connection)
            covered = self._covered(connection, stores)
        for line in covered:
            self.log(line)
        if busy:
            self.log(
                f"{busy} due {'store is' if busy == 1 else 'stores are'} claimed by another run and skipped; if that run was "
                f"killed, they are free within {self.lease.total_seconds():.0f} s"
            )
        if not platforms:
            self.log(f"this database has no stores: add some with {ADD_A_STORE}")
        if platforms > 1:
            self.runner.shares.share_among_groups()
        return due_before

    def _tell_of_left(self, due_before: datetime) -> None:
        """A run that passed over locked rows has not done all that was due, and says so."""
        if self.runner.is_over:
            return  # that was said
        with self.database.transaction() as connection:
            left, _ = store_units.count_due(
                connection, self.request.units, due_before, self._stores, self.request.tiers
            )
        if left:
            self.log(
                f"{left} due {'store was' if left == 1 else 'stores were'} not taken: another transaction holds their rows, or "
                "a circuit is open; a later run takes them"
            )

    def _covered(self, connection: psycopg.Connection[Any], stores: set[int] | None) -> list[str]:
        """A line for each named store that an open circuit keeps this run from, but for a probe."""
        if stores is None:
            return []
        rows = connection.execute(
            "SELECT DISTINCT ON (s.name) s.name, c.key, c.probe_at FROM stores s "
            "JOIN circuits c ON c.store_id = s.id OR c.platform = s.platform "
            "WHERE c.opened_at IS NOT NULL AND s.id = ANY(%s) ORDER BY s.name, c.key",
            (list(stores),),
        )
        return [
            f"{name}: {key} failed too often, its circuit is open; the next probe is at {probe_at:%H:%M:%S} UTC; "
            f"a retry of its incident sends it now ({command('incidents', 'list')})"
            for name, key, probe_at in rows
        ]

    def _named_stores(self, connection: psycopg.Connection[Any]) -> set[int] | None:
        if not self.request.stores:
            return None
        rows = connection.execute(
            "SELECT name, id, paused_at IS NOT NULL FROM stores WHERE name = ANY(%s)",
            (list(self.request.stores),),
        ).fetchall()
        known = {row[0] for row in rows}
        unknown = [name for name in self.request.stores if name not in known]
        names = (
            [name for (name,) in connection.execute("SELECT name FROM stores WHERE deleted_at IS NULL")]
            if unknown
            else []
        )
        faults = [f"{name}: no such store{did_you_mean(name, names)}" for name in unknown]
        faults += [
            f"{name}: paused, resume it with {command('stores', 'resume', name)}"
            for name, _, paused in rows
            if paused
        ]
        if faults:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"config `stores`: {'; '.join(faults)}. Nothing was done: correct it and launch again",
                source=RUN_CONFIG,
            )
        return {row[1] for row in rows}

    # The workload

    def owners(self, owner: str) -> set[str]:
        return {owner, f"{owner}/probe"}

    def claim(self, owner: str, due_before: datetime | None, crowded: Sequence[str]) -> list[Batch]:
        """Due units for the workers, those of one store together, in the order of the request."""
        request = self.request
        with self._lock:
            tried = [*self._failed_stores, *self._locked_stores]  # a run tries them once
        with self.database.transaction() as connection:
            due = visits.take(
                connection,
                request.units,
                owner=owner,
                limit=request.batch_size,
                lease=self.lease,
                due_before=due_before,
                stores=self._stores,
                tiers=request.tiers,
                not_stores=tried,
                not_platforms=crowded,
            )
            due += store_units.claim_probe(
                connection,
                request.units,
                owner=f"{owner}/probe",
                lease=self.lease,
                due_before=due_before,
                stores=self._stores,
                tiers=request.tiers,
                not_stores=tried,
            )
            by_store: dict[int, list[Claim]] = {}
            for unit in due:
                by_store.setdefault(unit.store_id, []).append(unit)
            stores = read_stores(connection, by_store) if by_store else {}
        claimed_at = self.clock()
        order = {unit.value: i for i, unit in enumerate(request.units)}
        return [
            Batch(sorted(units, key=lambda unit: order[unit.unit]), stores[store_id], claimed_at)
            for store_id, units in by_store.items()
        ]

    def group(self, batch: Batch) -> str:
        return batch.store.platform

    def work_on(self, batch: Batch) -> None:
        try:
            Visit(self, batch).run()
        except IntegrationError as error:
            if not is_expected(error):
                raise
            self._say_not_settled(batch.store.name, error)
            self.note_store(batch.store.id, complete=False)
        with self._lock:
            self._ended.append((batch.due[0].owner, batch.store.id))

    def is_fresh(self, batch: Batch) -> bool:
        """Whether its store is as it was read: it was a moment ago, and nothing has failed since."""
        return self.clock() - batch.claimed_at < READ_AGAIN_SECONDS and self._failed_at < batch.claimed_at

    def settle_later(self, visit: IdleVisit) -> None:
        with self._lock:
            self._idle.append(visit)

    def settle(self, all_of_them: bool) -> None:
        """Settle stores at which nothing has changed and end visits, many in one transaction. Raises IntegrationError (database)."""
        now = self.clock()
        with self._lock:
            wanted = all_of_them or len(self._ended) >= SETTLED_TOGETHER
            if not self._ended or not (wanted or now - self._settled_at >= SETTLED_AFTER_SECONDS):
                return
            idle, ended = self._idle, self._ended
            self._idle, self._ended, self._settled_at = [], [], now
        try:
            if idle:
                settle_idle(self.database, self.coverage, idle)
        except IntegrationError as error:
            if not is_expected(error):
                raise
            # Somebody holds a row of one of them: it alone is left, and still due.
            for visit in idle:
                self.settle_alone(visit)
        self.database.transact(lambda connection: visits.end(connection, ended), again_if=is_expected)

    def settle_alone(self, visit: IdleVisit) -> None:
        """Settle one visit's idle units at once, or leave them if somebody holds their rows. Raises IntegrationError (database)."""
        try:
            settle_idle(self.database, self.coverage, [visit])
        except IntegrationError as error:
            if not is_expected(error):
                raise
            self._say_not_settled(visit.settling.store.name, error)
            self.note_locked(visit.settling.store.id)

    def _say_not_settled(self, store: str, error: IntegrationError) -> None:
        # A row that was claimed and could not even be settled is released at the end of the run, still due.
        self.say(f"store {store} could not be settled; the next run continues: {error.message}")

    def renew(self, connection: psycopg.Connection[Any], owners: Sequence[str], lease: timedelta) -> None:
        store_units.heartbeat(connection, owners, lease)
        visits.renew(connection, owners, lease)

    def give_back(self, owners: Sequence[str]) -> None:
        with suppress(IntegrationError), self.database.transaction() as connection:
            store_units.QUEUE.release(connection, owners)
            visits.release(connection, owners)
        # Apart: a worker in the middle of a commit has its attempt's row and waits for its lease's.
        with suppress(IntegrationError), self.database.transaction() as connection:
            attempts.release(connection, self.run_id)

    def claimed(self, batches: int) -> None:
        self.summary.total = max(self.summary.total, batches - self.summary.given_back)

    def counts(self) -> tuple[int, int]:
        with self._lock:
            return self.summary.done, self.summary.done - self.summary.complete

    def progress(self, seconds: float) -> str:
        with self._lock:
            done, rows = self.summary.done, self.summary.rows
            total = max(self.summary.total, done)
            failed = len({failure.store for failure in self.summary.failures})
        left = f", about {seconds / done * (total - done):.0f} s left" if 0 < done < total else ""
        return f"{done} of {counted(total, 'store')} done, {failed} failed, {counted(rows, 'row')} in {seconds:.0f} s{left}"

    # What visits ask for, and report

    @property
    def is_over(self) -> bool:
        return self.runner.is_over

    def turn_is_over(self, began: float) -> bool:
        return self.runner.turn_is_over(began)

    def sleep(self, seconds: float) -> None:
        self.runner.sleep(seconds)

    def check_stopped(self) -> None:
        self.runner.check_stopped()

    def look_again(self) -> None:
        self.runner.look_again()

    def say(self, message: str) -> None:
        self.runner.say(message)

    def note_rows(self, unit: Unit, pages: int, counts: Counts) -> None:
        with self._lock:
            self.summary.units[unit].pages += pages
            self.summary.units[unit].counts += counts

    def note_synced(self, unit: Unit) -> None:
        with self._lock:
            self.summary.units[unit].synced += 1

    def note_failed(self, unit: Unit, failure: Failure) -> None:
        """A failure is logged once, however many of its store's units it affects."""
        with self._lock:
            self._failed_at = self.clock()
            self.summary.units[unit].failed += 1
            failure.units.append(unit)
            if len(failure.units) > 1:
                return
            self.summary.failures.append(failure)
        error = failure.error
        self.say(f"{failure.store}: {unit} failed ({error.error_type}): {error.message}; {failure.next}")

    def note_waiting(self, unit: Unit) -> None:
        with self._lock:
            self.summary.units[unit].waiting += 1

    def note_store(self, store_id: int, complete: bool) -> None:
        with self._lock:
            self.summary.done += 1
            self.summary.complete += complete
            if not complete:
                self._failed_stores.add(store_id)

    def note_locked(self, store_id: int) -> None:
        with self._lock:
            self._locked_stores.add(store_id)

    def note_given_back(self, *, turn_is_over: bool) -> None:
        with self._lock:
            self.summary.given_back += 1
        if turn_is_over:
            self.look_again()

    def note_change(self, left: ChangeReport | None) -> None:
        with self._lock:
            if left is None:
                self.summary.changes_applied += 1
            else:
                self.summary.changes_left.append(left)
        if left is not None:
            self.say(
                f"{left.store}: edit {left.change_id}, {left.field} of customer {left.customer_external_id}, "
                f"is {left.status}: {left.message}"
            )

    def note_audit(self, found: ResourceAudit) -> None:
        with self._lock:
            self.summary.audits.append(found)
        if found.drifted or found.short:
            self.say(f"{found.store}: {found.sentence()}")

    def note_correction(self, left: CorrectionReport | None) -> None:
        with self._lock:
            if left is None:
                self.summary.corrections_applied += 1
            else:
                self.summary.corrections_left.append(left)
        if left is not None:
            self.say(f"{left.store}: stock correction {left.correction_id} is {left.status}: {left.message}")
