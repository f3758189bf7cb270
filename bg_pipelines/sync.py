"""Syncing stores: claim what is due, work on stores side by side, settle each by itself.

    summary = SyncRun(database, cipher, request, run_id="…", connect=connect, log=print).run()

What an interruption costs: a page's cursor is committed with its rows, so a run that is killed leaves each store
as far as its last commit, and the next run goes on there. Stopping (Ctrl-C, SIGTERM) gives unfinished stores
back at once; after a SIGKILL they come back when their lease ends. Nothing here knows of Dagster.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database import leases
from bg_pipelines.database.engine import Database, is_conflict
from bg_pipelines.database.leases import Work
from bg_pipelines.database.load import (
    Counts,
    Reject,
    keep_rejects,
    load,
    mark_deleted,
    mark_unconfirmed_deleted,
)
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.base import Correction, Page, Platform, Resource
from bg_pipelines.queues import TIERS

LEASE = timedelta(minutes=2)
PROGRESS_SECONDS = 5.0
LOAD_ROWS = 5_000
"""Rows in a commit: enough to make COPY worth it, few enough to lose little and hold little in memory."""
OVERLAP = timedelta(minutes=10)
"""How far an incremental pass reaches back behind the last one's start: a vendor's search lags by minutes."""
FULL_PASS_EVERY = timedelta(days=1)
"""How often everything is read again, so that what was deleted at the source is noticed whatever happened."""
COLLECT_AFTER = (50_000, 20, 100)
"""When Python looks for garbage cycles while a run is at work. A page is thousands of objects and not one cycle
among them; with Python's own thresholds a fifth of a run's processor time goes into looking at them."""

Log = Callable[[str], None]
Connect = Callable[[StoreAccess, Callable[[float], object]], Platform]


@dataclass(frozen=True)
class SyncRequest:
    """What a run is asked for.

    `stores` are names; empty means all that are due, and a store that is named is due now. `force` makes all of
    them due and reads them whole, not only what changed. `batch_size` is how many rows of work a claim takes,
    `max_workers` how many stores are worked on at once.
    """

    resources: tuple[Resource, ...]
    stores: tuple[str, ...] = ()
    force: bool = False
    batch_size: int = 50
    max_workers: int = 8


@dataclass
class ResourceSummary:
    """What a run did for one resource, over all stores."""

    synced: int = 0
    failed: int = 0
    pages: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass
class Failure:
    """Resources of a store that could not be synced for one reason; they are kept for retry."""

    store: str
    resources: list[str]
    error: IntegrationError


@dataclass
class CorrectionReport:
    """A stock correction that was not applied."""

    store: str
    correction_id: int
    status: str
    message: str


@dataclass
class Summary:
    """What a run did. `total` and `done` count stores; `interrupted` ones were given back unfinished."""

    total: int = 0
    done: int = 0
    complete: int = 0
    resources: dict[Resource, ResourceSummary] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    corrections_applied: int = 0
    corrections_left: list[CorrectionReport] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(summary.counts.read for summary in self.resources.values())

    @property
    def changed(self) -> int:
        """Rows inserted, updated or marked deleted."""
        return sum(s.counts.inserted + s.counts.updated + s.counts.deleted for s in self.resources.values())


class Stopped(Exception):  # noqa: N818 (not an error: the work was asked to stop)
    """The run is being stopped; what is unfinished is given back."""


class SyncRun:
    """One run: claims until nothing is left that was due when it began. Used once.

    `connect` makes a platform out of a store's access and a sleep; `log` takes progress lines; `clock` counts
    seconds. Raises IntegrationError only if the run itself cannot work (the database, the key, an unknown store):
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
        clock: Callable[[], float] = time.monotonic,
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
        self.clock = clock
        self.summary = Summary(resources={resource: ResourceSummary() for resource in request.resources})
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._owners: set[str] = set()
        self._waiting = 0
        self._todo: queue.SimpleQueue[list[Work]] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> Summary:
        usual = gc.get_threshold()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            return self._run()
        finally:
            gc.set_threshold(*usual)

    def _run(self) -> Summary:
        began = self.clock()
        with self.database.transaction() as connection:
            stores = self._named_stores(connection)
            if stores is not None or self.request.force:
                leases.make_due(connection, self.request.resources, stores)
            due_before = leases.clock(connection)
            self.summary.total = leases.count_due(connection, self.request.resources, due_before, stores)
            busy = leases.count_busy(connection, self.request.resources, due_before, stores)
            any_store = connection.execute("SELECT FROM stores LIMIT 1").rowcount
        if busy:
            self.log(
                f"stores that are due but in the hands of another run, and left to it: {busy}; if it was killed, they "
                f"are free again within {self.lease.total_seconds():.0f} s"
            )
        if not any_store:
            self.log("this database has no stores: add some with `bg-pipelines stores add`")
        self._start(self._beat)
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
        failures = self.summary.failures
        if (
            failures
            and not self.summary.complete
            and all(f.error.error_type is ErrorType.CONFIGURATION for f in failures)
        ):
            raise failures[0].error  # wrong for every store: a wrong key, most likely
        return self.summary

    def _work_through(self, due_before: datetime, stores: set[int] | None, began: float) -> None:
        for _ in range(self.request.max_workers):
            self._start(self._worker)
        pending = 0
        more = True
        last_report = began
        while True:
            if more and pending < self.request.max_workers:
                claimed = self._claim(due_before, stores)
                more = bool(claimed)
                for works in claimed:
                    self._todo.put(works)
                pending += len(claimed)
            if not pending:
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

    def _claim(self, due_before: datetime, stores: set[int] | None) -> list[list[Work]]:
        """Claimed rows, those of one store together, in the order of the request's resources."""
        owner = f"{self.run_id}/{uuid.uuid4()}"
        with self._lock:
            self._owners.add(owner)
        with self.database.transaction() as connection:
            claimed = leases.claim(
                connection,
                self.request.resources,
                owner=owner,
                limit=self.request.batch_size,
                lease=self.lease,
                due_before=due_before,
                stores=stores,
                tiers=tuple(TIERS),
            )
        by_store: dict[int, list[Work]] = {}
        for work in claimed:
            by_store.setdefault(work.store_id, []).append(work)
        order = {resource.value: i for i, resource in enumerate(self.request.resources)}
        return [sorted(works, key=lambda work: order[work.resource]) for works in by_store.values()]

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
                ErrorType.CONFIGURATION, "config `stores`: " + "; ".join(faults), source="settings"
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
            try:
                works = self._todo.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                StoreSync(self, works).run()
                self._finished.put(None)
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 (handed to the main thread, which raises it)
                self._finished.put(error)

    def _beat(self) -> None:
        while not self._stop.wait(self.lease.total_seconds() / 4):
            with self._lock:
                owners = list(self._owners)
            # What is wrong with the database is met, and reported, by those who work; this must go on trying.
            with suppress(Exception), self.database.transaction() as connection:
                leases.heartbeat(connection, owners, self.lease)

    def _give_back(self) -> None:
        with suppress(IntegrationError), self.database.transaction() as connection:
            leases.release(connection, self._owners)
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
        self._messages.put(f"{failure.store}: {resource} failed ({error.error_type}): {error.message}")

    def note_store(self, complete: bool) -> None:
        with self._lock:
            self.summary.done += 1
            self.summary.complete += complete

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


OUT_OF_REACH = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.THROTTLED,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.CONFIGURATION,
}
"""A store out of reach for one resource is so for the next; anything else is the one resource's own."""


class StoreSync:
    """The claimed resources of one store, one after the other, each settled by itself."""

    def __init__(self, run: SyncRun, works: Sequence[Work]) -> None:
        self.run_ = run
        self.database = run.database
        self.works = works
        self.store_id = works[0].store_id

    def run(self) -> None:
        row = self._row()
        self.name = row["name"]
        platform: Platform | None = None
        failure: Failure | None = None
        complete = True
        try:
            for work in self.works:
                self.run_.check_stopped()
                attempt = self._begin(work)
                if failure is not None and failure.error.error_type in OUT_OF_REACH:
                    self._settle_failed(work, attempt, failure)
                    continue
                try:
                    if platform is None:
                        platform = self._connect(row)
                    ResourceSync(self, platform, work, attempt).run()
                    self.run_.note_synced(Resource(work.resource))
                    continue
                except IntegrationError as error:
                    failure = Failure(self.name, [], error)
                except Stopped:
                    raise
                except Exception as error:  # noqa: BLE001 (one store's surprise must not stop the others)
                    failure = Failure(self.name, [], _unexpected(error))
                complete = False
                self._settle_failed(work, attempt, failure)
        finally:
            if platform is not None:
                platform.close()
        self.run_.note_store(complete)

    def _connect(self, row: dict[str, Any]) -> Platform:
        self.held = row["credentials"]
        credentials = self.run_.cipher.decrypt(self.held)
        access = StoreAccess(**{**row, "credentials": credentials}, save_credentials=self._save_credentials)
        return self.run_.connect(access, self.run_.sleep)

    def _row(self) -> dict[str, Any]:
        with self.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "SELECT name, platform, domain, api_url, credentials FROM stores WHERE id = %s",
                (self.store_id,),
            )
            row = cursor.fetchone()
        assert row is not None
        return row

    def _save_credentials(self, credentials: Any) -> None:
        renewed = self.run_.cipher.encrypt(credentials)
        with self.database.transaction() as connection:
            # Only over what was read: a person, or another run, may have given others meanwhile.
            kept = connection.execute(
                "UPDATE stores SET credentials = %s WHERE id = %s AND credentials = %s",
                (renewed, self.store_id, self.held),
            ).rowcount
        if kept:
            self.held = renewed

    def _begin(self, work: Work) -> int:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'abandoned', finished_at = clock_timestamp() "
                "WHERE store_id = %s AND resource = %s AND status = 'running'",
                (work.store_id, work.resource),
            )
            with connection.cursor(row_factory=scalar_row) as cursor:
                cursor.execute(
                    "INSERT INTO sync_attempts (run_id, store_id, resource) VALUES (%s, %s, %s) RETURNING id",
                    (self.run_.run_id, work.store_id, work.resource),
                )
                return int(cursor.fetchone() or 0)

    def _settle_failed(self, work: Work, attempt: int, failure: Failure) -> None:
        error = failure.error
        if error.error_type is ErrorType.DATABASE and not is_conflict(error):
            raise error  # nothing can be settled, for any store: the run itself cannot work
        self.run_.check_stopped()
        self.run_.note_failed(Resource(work.resource), failure)
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'failed', finished_at = clock_timestamp(), error = %s WHERE id = %s",
                (Jsonb(error.as_dict()), attempt),
            )
        if error.error_type is ErrorType.LEASE_LOST:
            return  # whoever has the row now settles it
        try:
            with self.database.transaction() as connection:
                due = leases.clock(connection) + TIERS[work.tier]
                leases.settle_failed(connection, work, error, next_due_at=due)
        except IntegrationError as lost:
            if lost.error_type is not ErrorType.LEASE_LOST:
                raise


class ResourceSync:
    """One resource of one store: a pass over its pages, and the end of the pass.

    The cursor of a unit is JSON: `since`, where the next incremental pass begins (the vendor's clock); `pass`,
    there while a pass is unfinished; `gap`, see `_gap`.
    """

    def __init__(self, store: StoreSync, platform: Platform, work: Work, attempt: int) -> None:
        self.store = store
        self.run_ = store.run_
        self.database = store.database
        self.platform = platform
        self.work = work
        self.attempt = attempt
        self.resource = Resource(work.resource)
        self.cursor = dict(work.cursor)

    def run(self) -> None:
        if self.resource is Resource.STORE:
            self._sync_profile()
            return
        if self.resource is Resource.INVENTORY_LEVELS:
            self._push_corrections()
        full = self._full_pass_due()
        if self._sync_pages(full) and not full:
            self._sync_pages(full=True)

    # A pass

    def _full_pass_due(self) -> bool:
        unfinished = self.cursor.get("pass")
        if self.run_.request.force and not (unfinished and unfinished["run_id"] == self.run_.run_id):
            self.cursor.pop("pass", None)
            return True
        if unfinished:
            return bool(unfinished["full"])
        last = self.work.last_full_at
        return "since" not in self.cursor or last is None or self.work.claimed_at - last >= FULL_PASS_EVERY

    def _sync_pages(self, full: bool) -> bool:
        """Read one pass to its end and settle the row; returns True instead if a full pass is needed first."""
        with self.database.transaction() as connection:
            self.seen_at = leases.clock(connection)
            into_empty = full and self._is_empty(connection)
        state = self.cursor.get("pass")
        if state is None or state["full"] != full:
            state = {
                "full": full,
                "run_id": self.run_.run_id,
                "began_at": self.seen_at.isoformat(),
                "vendor_began_at": None,
                "resume": None,
                "into_empty": into_empty,
                "read": 0,
                "source_count": None,
            }
            self.cursor["pass"] = state
        since = None if full else datetime.fromisoformat(self.cursor["since"])
        buffer: list[Page] = []
        pages = self.platform.pages(self.resource, since=since, resume=state["resume"])
        try:
            for page in _prefetch(pages, self.run_.check_stopped):
                self.run_.check_stopped()
                if sum(p.read for p in buffer) >= self.run_.load_rows:
                    self._keep(buffer)
                    buffer = []
                buffer.append(page)
                if state["vendor_began_at"] is None:
                    # The slower of the two clocks: reaching back too far only reads rows again.
                    began = min(self.seen_at, page.vendor_time or self.seen_at)
                    state["vendor_began_at"] = began.isoformat()
                    state["source_count"] = page.source_count
                state["last_count"] = page.source_count
            return self._finish(buffer)
        except IntegrationError as error:
            # The pages were not the whole, or a page's token may have expired: the next try begins the pass again.
            expired = error.error_type is ErrorType.QUERY_REJECTED and state["resume"] is not None
            if expired or error.error_type is ErrorType.COUNT_MISMATCH:
                self._forget_pass()
            raise

    def _is_empty(self, connection: psycopg.Connection[Any]) -> bool:
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT NOT EXISTS (SELECT FROM {self.resource.value} WHERE store_id = %s)",  # noqa: S608
                (self.work.store_id,),
            )
            return bool(cursor.fetchone())

    def _keep(self, pages: list[Page]) -> None:
        with self.database.transaction() as connection:
            counts = self._load(connection, pages)
            leases.save(connection, self.work, self.cursor)
        self.run_.note_rows(self.resource, len(pages), counts)

    def _finish(self, pages: list[Page]) -> bool:
        state = self.cursor["pass"]
        full: bool = state["full"]
        with self.database.transaction() as connection:
            counts = self._load(connection, pages)
            if full:
                self._require_whole(connection, state)
                began_at = datetime.fromisoformat(state["began_at"])
                deleted = mark_unconfirmed_deleted(connection, self.resource, self.work.store_id, began_at)
                deleted += self._delete_orphans(connection, began_at)
                self._count_attempt(connection, 0, Counts(deleted=deleted))
                counts.deleted += deleted
            needs_full = self._gap(connection, state)
            since = datetime.fromisoformat(state["vendor_began_at"]) - OVERLAP
            self.cursor = {key: value for key, value in self.cursor.items() if key in ("gap", "missing")} | {
                "since": since.isoformat()
            }
            if needs_full:
                leases.save(connection, self.work, self.cursor)
            else:
                self._settle(connection, full)
        self.run_.note_rows(self.resource, len(pages), counts)
        return needs_full

    def _settle(self, connection: psycopg.Connection[Any], full: bool) -> None:
        due = self.work.claimed_at + TIERS[self.work.tier]
        leases.settle_succeeded(connection, self.work, self.cursor, next_due_at=due, full_pass=full)
        connection.execute(
            "UPDATE sync_attempts SET status = 'succeeded', finished_at = clock_timestamp(), "
            "full_pass = full_pass OR %s WHERE id = %s",
            (full, self.attempt),
        )

    def _load(self, connection: psycopg.Connection[Any], pages: list[Page]) -> Counts:
        """Rows of these pages into their table, and the cursor (not yet saved) behind them."""
        # The cursor is committed with the rows, so losing the last commits of a crash only repeats work.
        connection.execute("SET LOCAL synchronous_commit = off")
        state = self.cursor["pass"]
        table, store_id = self.resource.value, self.work.store_id
        rejects: list[Reject] = [reject for page in pages for reject in page.rejects]
        counts = Counts(read=sum(page.read for page in pages), rejected=len(rejects))
        began_at = datetime.fromisoformat(state["began_at"])
        loaded = load(
            connection,
            table,
            store_id,
            [record for page in pages for record in page.records],
            seen_at=self.seen_at,
            confirm_before=began_at if state["full"] else None,
            into_empty=state["into_empty"],
            reject=rejects.append,
        )
        counts += Counts(0, loaded.inserted, loaded.updated, loaded.unchanged, 0, loaded.rejected)
        gone = [external_id for page in pages for external_id in page.gone]
        if gone:
            counts.deleted = mark_deleted(connection, table, store_id, gone)
            # A row that is gone and that we never had, or had marked before, changes nothing.
            counts.unchanged += len(gone) - counts.deleted
        counts.require_complete(table)
        if rejects:
            keep_rejects(connection, self.run_.cipher, table, store_id, rejects)
        state["read"] += counts.read
        if pages:
            state["resume"] = pages[-1].resume
        self._count_attempt(connection, len(pages), counts)
        return counts

    def _count_attempt(self, connection: psycopg.Connection[Any], pages: int, counts: Counts) -> None:
        connection.execute(
            "UPDATE sync_attempts SET pages = pages + %s, rows_read = rows_read + %s, inserted = inserted + %s, "
            "updated = updated + %s, unchanged = unchanged + %s, deleted = deleted + %s, rejected = rejected + %s "
            "WHERE id = %s",
            (
                pages,
                counts.read,
                counts.inserted,
                counts.updated,
                counts.unchanged,
                counts.deleted,
                counts.rejected,
                self.attempt,
            ),
        )

    def _forget_pass(self) -> None:
        self.cursor.pop("pass", None)
        with self.database.transaction() as connection:
            leases.save(connection, self.work, self.cursor)

    # What is gone

    def _require_whole(self, connection: psycopg.Connection[Any], state: dict[str, Any]) -> None:
        """Before anything is marked deleted: the pages must have held about what the source says it has.

        Where it does not say, they must have held something, unless the store has nothing to sell any more.
        """
        expected, read = state["source_count"], state["read"]
        if expected is not None and read >= expected - max(5, expected // 100):
            return
        if expected is None and (read > 0 or not self._expects_rows(connection)):
            return
        raise IntegrationError(
            f"the platform's pages held {read} {self.resource.value}, and it has "
            f"{'some' if expected is None else expected}: nothing was marked deleted, everything is read again at the next try",
            error_type=ErrorType.COUNT_MISMATCH,
            severity="high",
            source=self.resource.value,
            details={"source_count": expected, "read": read},
        )

    def _expects_rows(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether it would be odd if the source had no rows of this resource, which does not tell how many it has."""
        witness = Resource.PRODUCT_VARIANTS if self.resource is Resource.INVENTORY_LEVELS else self.resource
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT EXISTS (SELECT FROM {self.resource.value} WHERE store_id = %(store)s AND deleted_at IS NULL) "  # noqa: S608 (enum values)
                f"AND EXISTS (SELECT FROM {witness.value} WHERE store_id = %(store)s AND deleted_at IS NULL)",
                {"store": self.work.store_id},
            )
            return bool(cursor.fetchone())

    def _gap(self, connection: psycopg.Connection[Any], state: dict[str, Any]) -> bool:
        """Compare how many rows the source has with how many we have; returns whether a full pass is needed.

        Fewer there than here means that something was deleted. More there than here may be rows that the
        platform's search does not show yet: that is looked at again the next time. The difference that stands
        after a full pass is `gap` and is expected from then on (a platform may count what it does not list).
        """
        if state["source_count"] is None:
            return False
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT (SELECT count(*) FROM {self.resource.value} "  # noqa: S608 (an enum's value)
                "WHERE store_id = %(store)s AND deleted_at IS NULL) "
                "+ (SELECT count(*) FROM rejected_rows r WHERE store_id = %(store)s AND resource = %(resource)s "
                f"AND NOT EXISTS (SELECT FROM {self.resource.value} t WHERE t.store_id = r.store_id "
                "AND t.external_id = r.external_id AND t.deleted_at IS NULL))",
                {"store": self.work.store_id, "resource": self.resource.value},
            )
            difference = state["source_count"] - int(cursor.fetchone() or 0)
        missing = self.cursor.pop("missing", None)
        if state["full"]:
            # What came or went while it was read is no standing difference.
            if state.get("last_count") == state["source_count"]:
                self.cursor["gap"] = difference
            return False
        expected = self.cursor.get("gap", 0)
        if difference > expected and difference != missing:
            self.cursor["missing"] = difference
            return False
        return bool(difference != expected)

    def _delete_orphans(self, connection: psycopg.Connection[Any], began_at: datetime) -> int:
        """What goes with a deleted row at the source: a product's variants, a variant's stock levels."""
        deleted = 0
        if self.resource is Resource.PRODUCTS:
            deleted = self._delete_with_parent(
                connection, ("products", "external_id"), ("product_variants", "product_external_id")
            )
        if deleted or self.resource is Resource.PRODUCT_VARIANTS:
            item = "inventory_item_external_id"
            deleted += self._delete_with_parent(
                connection, ("product_variants", item), ("inventory_levels", item)
            )
        if self.resource is Resource.PRODUCT_VARIANTS:
            deleted += self._delete_levels_of_no_variant(connection, began_at)
        return deleted

    def _delete_levels_of_no_variant(self, connection: psycopg.Connection[Any], began_at: datetime) -> int:
        """Levels that were read before this full pass of the variants and belong to none that it met.

        Such a variant was deleted before we ever had it. A variant that could not be loaded still has its levels.
        """
        return connection.execute(
            "UPDATE inventory_levels l SET deleted_at = now() "
            "WHERE store_id = %(store)s AND deleted_at IS NULL AND synced_at < %(began)s "
            "AND NOT EXISTS (SELECT FROM product_variants v WHERE v.store_id = l.store_id AND v.deleted_at IS NULL "
            "AND v.inventory_item_external_id = l.inventory_item_external_id) "
            "AND NOT EXISTS (SELECT FROM rejected_rows WHERE store_id = %(store)s AND resource = 'product_variants')",
            {"store": self.work.store_id, "began": began_at},
        ).rowcount

    def _delete_with_parent(
        self, connection: psycopg.Connection[Any], parent: tuple[str, str], child: tuple[str, str]
    ) -> int:
        """Mark children deleted whose parent was marked in this transaction (now() is its time)."""
        return connection.execute(
            f"UPDATE {child[0]} child SET deleted_at = now() FROM {parent[0]} parent "  # noqa: S608 (names from above)
            f"WHERE child.{child[1]} = parent.{parent[1]} AND child.store_id = %(store)s "
            "AND parent.store_id = %(store)s AND parent.deleted_at = now() AND child.deleted_at IS NULL",
            {"store": self.work.store_id},
        ).rowcount

    # The shop itself, and what we write to it

    def _sync_profile(self) -> None:
        profile = self.platform.profile()
        with self.database.transaction() as connection:
            updated = connection.execute(
                "UPDATE stores SET external_id = %(external_id)s, shop_name = %(shop_name)s, currency = %(currency)s, "
                "timezone = %(timezone)s, plan = %(plan)s, source_updated_at = %(source_updated_at)s, synced_at = now() "
                "WHERE id = %(id)s AND (external_id, shop_name, currency, timezone, plan, source_updated_at) "
                "IS DISTINCT FROM (%(external_id)s, %(shop_name)s, %(currency)s, %(timezone)s, %(plan)s, "
                "%(source_updated_at)s::timestamptz) "
                "AND (source_updated_at IS NULL OR source_updated_at <= %(source_updated_at)s::timestamptz)",
                {**profile._asdict(), "id": self.work.store_id},
            ).rowcount
            counts = Counts(read=1, updated=updated, unchanged=1 - updated)
            self._count_attempt(connection, 1, counts)
            self._settle(connection, full=True)
        self.run_.note_rows(self.resource, 1, counts)

    def _push_corrections(self) -> None:
        """Write the store's pending stock corrections, oldest first, each settled before the next.

        The row and its idempotency key were there before anything is sent, so after a crash the same correction
        is sent under the same key, and the platform applies it once.
        """
        with self.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "SELECT id, inventory_item_external_id, location_external_id, change_from_quantity, quantity, reason, "
                "idempotency_key FROM inventory_corrections WHERE store_id = %s AND status = 'pending' ORDER BY id",
                (self.work.store_id,),
            )
            pending = cursor.fetchall()
        for row in pending:
            self.run_.check_stopped()
            correction_id = row.pop("id")
            try:
                outcome = self.platform.correct_stock(Correction(**row))
            except IntegrationError as error:
                if error.error_type not in (ErrorType.SCOPES, ErrorType.QUERY_REJECTED):
                    raise
                # Not allowed to write, or not so: the corrections wait, reading goes on.
                self._report_correction(correction_id, "pending", error.message)
                return
            with self.database.transaction() as connection:
                reason = None if outcome.reason is None else Jsonb({"code": outcome.reason})
                connection.execute(
                    "UPDATE inventory_corrections SET status = %s, found_quantity = %s, error = %s, settled_at = now() "
                    "WHERE id = %s AND status = 'pending'",
                    (outcome.status, outcome.found_quantity, reason, correction_id),
                )
            if outcome.status == "applied":
                self.run_.note_correction(None)
                continue
            counted, found = row["change_from_quantity"], outcome.found_quantity
            stale = f"counted as {counted}, the platform has {found}; count again"
            self._report_correction(correction_id, outcome.status, outcome.reason or stale)

    def _report_correction(self, correction_id: int, status: str, message: str) -> None:
        self.run_.note_correction(CorrectionReport(self.store.name, correction_id, status, message))


def _unexpected(error: Exception) -> IntegrationError:
    """A bug, as an error of the store it showed up in; its text is left out: it may quote anybody's data."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
    place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return IntegrationError.of(
        ErrorType.UNKNOWN,
        f"unexpected {type(error).__name__} at {place}: please report it",
        source="bg-pipelines",
    )


def _prefetch(pages: Iterator[Page], check_stopped: Callable[[], None]) -> Iterator[Page]:
    """The same pages, the next ones fetched by a thread while the caller loads these: one commit's worth ahead."""
    first = next(pages)
    yield first
    if first.resume is None:
        yield from pages
        return
    ready: queue.Queue[Page | BaseException | None] = queue.Queue(maxsize=LOAD_ROWS // 250)
    abandoned = threading.Event()

    def put(item: Page | BaseException | None) -> None:
        while not abandoned.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def fetch() -> None:
        try:
            for page in pages:
                put(page)
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 (raised again where the pages are used)
            put(error)

    thread = threading.Thread(target=fetch, daemon=True, name="sync-fetch")
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=0.5)
            except queue.Empty:
                check_stopped()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
