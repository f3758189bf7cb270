"""One run: claims what is due in batches, hands stores to its workers, keeps the leases, tells how far it is."""

from __future__ import annotations

import gc
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher, verify_key
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.records import Resource
from bg_pipelines.retries import Policies
from bg_pipelines.sync.prefetch import LOAD_ROWS
from bg_pipelines.sync.summary import (
    ChangeReport,
    CorrectionReport,
    Failure,
    ResourceAudit,
    ResourceSummary,
    Summary,
    SyncRequest,
)
from bg_pipelines.sync.visit import Stopped, StoreSync
from bg_pipelines.work import store_units
from bg_pipelines.work.pulse import RunRecord
from bg_pipelines.work.queue import clock
from bg_pipelines.work.store_units import Claim
from bg_pipelines.work.turns import Turns

LEASE = timedelta(minutes=2)
PROGRESS_SECONDS = 5.0
COLLECT_AFTER = (50_000, 20, 100)
"""When Python looks for garbage cycles while a run is at work. A page is thousands of objects and not one cycle
among them; with Python's own thresholds a fifth of a run's processor time goes into looking at them."""

TURN_SECONDS = 60.0
"""After so long a store is put back, at the page reached, if others wait for a worker."""
OVER_SECONDS = 30.0
"""How long a run whose time is over waits for its workers' next page."""
REFRESH_SECONDS = 600.0
"""For so long a run that is still busy with a slow store also takes what comes due meanwhile."""

Log = Callable[[str], None]
Connect = Callable[[StoreAccess, Callable[[float], object]], Platform]


class SyncRun:
    """One run: claims until nothing is left that was due when it began. Used once.

    `connect` makes a platform out of a store's access and a sleep; `log` takes progress lines; `clock` counts
    seconds; `policies` and `rng` decide about retries. Raises IntegrationError only if the run itself cannot work (the database, the key, an unknown store):
    a store that fails is in the summary.
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
        load_rows: int = LOAD_ROWS,
        turn_seconds: float = TURN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        policies: Policies | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.database = database
        self.cipher = cipher
        self.request = request
        self.run_id = run_id
        self.connect = connect
        self.log = log
        self.lease = lease
        self.progress_seconds = progress_seconds
        self.load_rows = load_rows
        self.turn_seconds = turn_seconds
        self.clock = clock
        self.policies = policies or Policies()
        self.rng = rng or random.Random()  # noqa: S311 (jitter, not a secret)
        self.summary = Summary(resources={resource: ResourceSummary() for resource in request.resources})
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._over = threading.Event()
        self._look_again = threading.Event()
        self._owners: set[str] = set()
        self._failed_stores: set[int] = set()
        self._waiting = 0
        self._turns = Turns(request.max_workers)
        self._record = RunRecord(database, run_id, request.job)
        self._finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, then: Callable[[Summary], object] = lambda _: None) -> Summary:
        """`then` is what the run does when its stores are done; until it has returned, the run is at work."""
        usual = gc.get_threshold()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            return self._run(then)
        finally:
            gc.set_threshold(*usual)

    def _run(self, then: Callable[[Summary], object]) -> Summary:
        began = self.clock()
        with self.database.transaction() as connection:
            stores = self._named_stores(connection)
            verify_key(connection, self.cipher)
            if stores is not None or self.request.force:
                store_units.make_due(
                    connection,
                    self.request.resources,
                    stores,
                    self.request.tiers,
                    full_pass=self.request.force,
                )
            if self.request.backfill != "auto":
                store_units.set_backfill(
                    connection, self.request.resources, stores, self.request.tiers, self.request.backfill
                )
            due_before = clock(connection)
            self.summary.total, busy = store_units.count_due(
                connection, self.request.resources, due_before, stores, self.request.tiers
            )
            platforms = connection.execute("SELECT DISTINCT platform FROM stores").rowcount
            self._record.begin(connection)
            covered = self._covered(connection, stores)
        for line in covered:
            self.log(line)
        if busy:
            self.log(
                f"stores that are due but in the hands of another run, and left to it: {busy}; if it was killed, they "
                f"are free again within {self.lease.total_seconds():.0f} s"
            )
        if not platforms:
            self.log("this database has no stores: add some with `bg-pipelines stores add`")
        if platforms > 1:
            self._turns.share_among_platforms()
        self._start(self._beat)
        status = "stopped"
        try:
            try:
                self._work_through(due_before, stores, began)
            finally:
                # Workers are daemons and are not waited for: one may be in the middle of a slow answer. What they
                # hold is given back here, and a lease that is lost keeps them from writing anything more.
                self._stop.set()
                self._give_back()
                self.summary.seconds = self.clock() - began
            self._tell()
            self.log(self._progress(began))
            then(self.summary)
            status = "succeeded"
        except Exception:
            status = "failed"
            raise
        finally:
            self._ended.set()
            with suppress(IntegrationError), self.database.transaction() as connection:
                self._save_record(connection, status)
        return self.summary

    def _work_through(self, due_before: datetime, stores: set[int] | None, began: float) -> None:
        for _ in range(self.request.max_workers):
            self._start(self._worker)
        pending = visits = 0
        last_report = looked_at = began
        until: datetime | None = due_before
        while True:
            now = self.clock()
            # Once everything that was due is taken, a run that a slow store keeps busy also takes what comes due
            # meanwhile: its tier's next tick finds this run at work and starts no other.
            if self._look_again.is_set() and not self._over.is_set():
                self._look_again.clear()
                with self.database.transaction() as connection:
                    until = clock(connection)  # who was put back, or left alone, has had no other turn yet
            look = until is not None or (now - looked_at >= 1 and now - began < REFRESH_SECONDS)
            if look and self._turns.a_worker_is_free():
                looked_at = now
                crowded = self._turns.crowded()
                claimed = self._claim(until, stores, crowded)
                if not claimed and not crowded:
                    until = None
                pending += len(claimed)
                visits += len(claimed)
                self.summary.total = max(self.summary.total, visits - self.summary.given_back)
            if not pending:
                return
            if now - began >= self.request.max_minutes * 60:
                self._time_is_over(pending)
                return
            # A short wait: Python runs a signal's handler only between two of the main thread's steps.
            with suppress(queue.Empty):
                failure = self._finished.get(timeout=min(0.5, self.progress_seconds))
                pending -= 1
                if failure is not None:
                    raise failure
            self._tell()
            if self.clock() - last_report >= self.progress_seconds:
                last_report = self.clock()
                self.log(self._progress(began))

    def _time_is_over(self, pending: int) -> None:
        """Let the workers keep the pages they have and give their stores back, then do so for the rest."""
        self._over.set()
        deadline = self.clock() + OVER_SECONDS
        while pending and self.clock() < deadline:
            with suppress(queue.Empty):
                failure = self._finished.get(timeout=0.5)
                pending -= 1
                if failure is not None:
                    raise failure
        self.log(
            f"the run's {self.request.max_minutes:g} minutes are over: what is unfinished is given back, and the next "
            "run goes on where it is"
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
            f"{name}: {key} failed too often and is left alone, the next probe goes at {probe_at:%H:%M:%S} UTC; "
            "`bg-pipelines incidents retry` sends it now"
            for name, key, probe_at in rows
        ]

    def _claim(
        self, due_before: datetime | None, stores: set[int] | None, crowded: Sequence[str] = ()
    ) -> list[list[Claim]]:
        """Claimed rows for the workers, those of one store together, in the order of the request's resources."""
        owner = f"{self.run_id}/{uuid.uuid4()}"
        probe = f"{owner}/probe"
        with self._lock:
            self._owners |= {owner, probe}
            failed = list(self._failed_stores)  # a run tries them once
        with self.database.transaction() as connection:
            claimed = store_units.claim(
                connection,
                self.request.resources,
                owner=owner,
                limit=self.request.batch_size,
                lease=self.lease,
                due_before=due_before,
                stores=stores,
                tiers=self.request.tiers,
                not_stores=failed,
                not_platforms=crowded,
            )
            claimed += store_units.claim_probe(
                connection,
                self.request.resources,
                owner=probe,
                lease=self.lease,
                due_before=due_before,
                stores=stores,
                tiers=self.request.tiers,
                not_stores=failed,
            )
        with self._lock:
            self._owners -= {owner, probe} - {work.owner for work in claimed}
        by_store: dict[int, list[Claim]] = {}
        for work in claimed:
            by_store.setdefault(work.store_id, []).append(work)
        order = {resource.value: i for i, resource in enumerate(self.request.resources)}
        batches = [sorted(works, key=lambda work: order[work.resource]) for works in by_store.values()]
        self._turns.add(batches)
        return batches

    def _named_stores(self, connection: psycopg.Connection[Any]) -> set[int] | None:
        if not self.request.stores:
            return None
        rows = connection.execute(
            "SELECT name, id, paused_at IS NOT NULL FROM stores WHERE name = ANY(%s)",
            (list(self.request.stores),),
        ).fetchall()
        faults = [
            f"{name}: no such store" for name in self.request.stores if name not in {r[0] for r in rows}
        ]
        faults += [
            f"{name}: paused, resume it with `bg-pipelines stores resume`"
            for name, _, paused in rows
            if paused
        ]
        if faults:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION, "config `stores`: " + "; ".join(faults), source="run config"
            )
        return {row[1] for row in rows}

    def _progress(self, began: float) -> str:
        with self._lock:
            done, total, rows = (
                self.summary.done,
                max(self.summary.total, self.summary.done),
                self.summary.rows,
            )
            failed = len({failure.store for failure in self.summary.failures})
            waiting = f", {self._waiting} waiting for a rate limit" if self._waiting else ""
        elapsed = self.clock() - began
        left = f", about {elapsed / done * (total - done):.0f} s left" if 0 < done < total else ""
        return (
            f"{done} of {total} stores done, {failed} failed, {rows:,} rows in {elapsed:.0f} s{waiting}{left}"
        )

    def _tell(self) -> None:
        """Pass on what the workers have to say: `log` is only ever called from the thread of `run`."""
        while not self._messages.empty():
            self.log(self._messages.get())

    # Threads

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True, name=f"sync-{target.__name__.strip('_')}").start()

    def _worker(self) -> None:
        while not self._stop.is_set():
            works = self._turns.take(0.2)
            if works is None:
                continue
            try:
                StoreSync(self, works).run()
                outcome: BaseException | None = None
            except Stopped:
                return
            except IntegrationError as error:
                # A row that could not even be settled is given back at the end of the run, and is still due.
                outcome = None if is_expected(error) else error
                if is_expected(error):
                    self._messages.put(f"store {works[0].store_id} is left to the next run: {error.message}")
                    self.note_store(works[0].store_id, complete=False)
            except BaseException as error:  # noqa: BLE001 (handed to the main thread, which raises it)
                outcome = error
            self._turns.end(works)
            self._finished.put(outcome)

    def _beat(self) -> None:
        due = self.clock() + self.lease.total_seconds() / 4
        while not self._ended.wait(min(1.0, self.lease.total_seconds() / 4)):
            self._record.look()
            if self.clock() < due:
                continue
            due = self.clock() + self.lease.total_seconds() / 4
            with self._lock:
                owners = list(self._owners)
            # What is wrong with the database is met, and reported, by those who work; this must go on trying.
            with suppress(Exception), self.database.transaction() as connection:
                store_units.heartbeat(connection, owners, self.lease)
                self._save_record(connection, "running")

    def _save_record(self, connection: psycopg.Connection[Any], status: str) -> None:
        with self._lock:
            done, failed = self.summary.done, self.summary.done - self.summary.complete
        self._record.save(connection, status, stores=done, stores_failed=failed)

    def _give_back(self) -> None:
        with suppress(IntegrationError), self.database.transaction() as connection:
            store_units.QUEUE.release(connection, self._owners)
        # Apart: a worker in the middle of a commit has its attempt's row and waits for its lease's.
        with suppress(IntegrationError), self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'released', finished_at = clock_timestamp() "
                "WHERE run_id = %s AND status = 'running'",
                (self.run_id,),
            )

    # What a store's work reports

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

    def note_rows(self, resource: Resource, pages: int, counts: Counts) -> None:
        with self._lock:
            self.summary.resources[resource].pages += pages
            self.summary.resources[resource].counts += counts

    def note_synced(self, resource: Resource) -> None:
        with self._lock:
            self.summary.resources[resource].synced += 1

    def note_failed(self, resource: Resource, failure: Failure) -> None:
        """A failure is told once, however many of its store's resources it reaches."""
        with self._lock:
            self.summary.resources[resource].failed += 1
            failure.resources.append(resource)
            if len(failure.resources) > 1:
                return
            self.summary.failures.append(failure)
        error = failure.error
        self._messages.put(
            f"{failure.store}: {resource} failed ({error.error_type}): {error.message}; {failure.next}"
        )

    def note_waiting(self, resource: Resource, message: str) -> None:
        with self._lock:
            self.summary.resources[resource].waiting += 1
        self._messages.put(message)

    def note_message(self, message: str) -> None:
        self._messages.put(message)

    @property
    def is_over(self) -> bool:
        """Whether the run's time is over: no more visits."""
        return self._over.is_set()

    def turn_is_over(self, began: float) -> bool:
        """Whether a store that a worker has been at since `began` should be put back at the page reached."""
        if self._over.is_set():
            return True
        return self.clock() - began >= self.turn_seconds and self._turns.anyone_waits()

    def note_store(self, store_id: int, complete: bool) -> None:
        with self._lock:
            self.summary.done += 1
            self.summary.complete += complete
            if not complete:
                self._failed_stores.add(store_id)

    def note_given_back(self, *, turn_is_over: bool) -> None:
        with self._lock:
            self.summary.given_back += 1
        if turn_is_over:
            self.look_again()

    def look_again(self) -> None:
        """There is more to claim than there was at the last look."""
        self._look_again.set()

    def note_change(self, left: ChangeReport | None) -> None:
        with self._lock:
            if left is None:
                self.summary.changes_applied += 1
            else:
                self.summary.changes_left.append(left)
        if left is not None:
            self._messages.put(
                f"{left.store}: edit {left.change_id}, {left.field} of customer {left.customer_external_id}, "
                f"is {left.status}: {left.message}"
            )

    def note_audit(self, found: ResourceAudit) -> None:
        with self._lock:
            self.summary.audits.append(found)
        if found.drifted or found.short:
            self._messages.put(f"{found.store}: {found.sentence()}")

    def note_correction(self, left: CorrectionReport | None) -> None:
        with self._lock:
            if left is None:
                self.summary.corrections_applied += 1
            else:
                self.summary.corrections_left.append(left)
        if left is not None:
            self._messages.put(
                f"{left.store}: stock correction {left.correction_id} is {left.status}: {left.message}"
            )
