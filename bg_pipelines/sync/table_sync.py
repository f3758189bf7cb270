"""The sync of one table of one store: a pass over its pages, and the end of the pass.

An incremental pass reads what changed since the last one, a full pass everything: then rows that it did not list are
requested by id, those that no longer exist are marked deleted, and what was read is proved to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import scalar_row

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import next_turn
from bg_pipelines.records import PARTS, Page, Resource
from bg_pipelines.sync import confirmed
from bg_pipelines.sync.completeness import Completeness, count_held
from bg_pipelines.sync.context import Context, NotReady, StoreRef, TurnOver
from bg_pipelines.sync.deletions import (
    levels_of_no_variant,
    mark_not_listed_deleted,
    mark_orphans_deleted,
    not_among,
)
from bg_pipelines.sync.loader import FullPass, Loader, Rows
from bg_pipelines.sync.prefetch import prefetch
from bg_pipelines.sync.progress import Progress
from bg_pipelines.sync.proof import NOTHING
from bg_pipelines.sync.state import (
    Comparison,
    CursorState,
    PassState,
    compare_counts,
    digest,
    full_pass_due,
    is_worth_counting,
)
from bg_pipelines.sync.summary import BACKFILLS
from bg_pipelines.values import writable
from bg_pipelines.work import attempts, store_units
from bg_pipelines.work.queue import clock, transaction_time

Connection = psycopg.Connection[Any]

FULL_PASS_PAUSE = timedelta(hours=1)
"""A large table is not fully read more often because counts differ (see `Limits`): deletions can wait for so long."""
ASKED_TOGETHER = 100
ENDLESS_FROM = 10_000
"""A pass that has read more than so many rows, and twice as many as there are, is reading a list without an end."""
EXPORTS_TRIED = 2
"""An export fails as a whole at the one row that the platform fails at; in pages it is found."""
PARTS_A_ROW = 4
"""Orders have a few lines each; those of a commit's worth of orders with hundreds would fill the memory."""

VOID = {ErrorType.COUNT_MISMATCH, ErrorType.OPERATION_FAILED, ErrorType.SCOPES}
"""After these errors a pass starts again: its pages were incomplete, or may show less than the next ones."""


class TableSync:
    """One table of one store, synced by one visit. `then` is called in the transaction that settles it as done."""

    def __init__(self, context: Context, then: Callable[[Connection], None] = lambda _: None) -> None:
        self.context = context
        self.claim = context.claim
        self.database = context.database
        self.platform = context.platform
        assert context.unit.resource is not None
        self.resource = context.unit.resource
        self.table = self.resource.value
        self.then = then
        self.state = CursorState.parse(context.claim.cursor)
        self.store = StoreRef(context.claim.store_id, context.store_name, context.claim.platform)
        self.read_at_most = ENDLESS_FROM
        self.listed: list[str] | None = None
        self.seen: str | None = None
        self.loader = Loader(context.claim.store_id, self.resource, context.cipher)
        self.progress = Progress(f"{self.table} of {context.store_name}", context.say)

    def run(self) -> None:
        """Raises IntegrationError, NotReady, TurnOver or Stopped; what was kept until then is kept."""
        full = self._full_pass_due()
        if self._sync_pages(full) and not full:
            self._sync_pages(full=True)

    @property
    def current(self) -> PassState:
        assert self.state.current is not None
        return self.state.current

    # A pass

    def _full_pass_due(self) -> bool:
        unfinished, wanted = self.state.current, self.claim.full_pass_wanted_at
        if wanted is not None:
            if not (unfinished and unfinished.full and unfinished.began_at >= wanted):
                self.state = replace(self.state, current=None)
            return True
        if unfinished and unfinished.full and self.claim.backfill not in (None, unfinished.backfill):
            self.state = replace(self.state, current=None)  # a person wants it read in another way
            return True
        if unfinished:
            return unfinished.full
        return self.state.since is None or full_pass_due(self.claim.last_full_at, self.claim.claimed_at)

    def _sync_pages(self, full: bool) -> bool:
        """Read one pass to its end and settle the unit; returns True instead if a full pass is needed first."""
        try:
            self._begin_pass(full)
            buffer = [] if self.current.listed else self._read()
            of_variants = self.resource is Resource.PRODUCT_VARIANTS
            if full and (of_variants or not self.current.into_empty):
                # Kept first: what is held decides what is asked for, and no transaction waits for an answer.
                if not self.current.listed:
                    self.state = replace(self.state, current=replace(self.current, listed=True))
                    self._keep(buffer)
                buffer = []
                if not self.current.into_empty:
                    self._ask_for_not_listed()
                if of_variants:
                    self._ask_for_levels_of_no_variant()
            elif not full and self.listed is not None:
                buffer.append(self._not_among(self.listed))
            return self._finish(buffer)
        except IntegrationError as error:
            if error.error_type is ErrorType.OPERATION_RUNNING:
                raise NotReady(error, self.current.waits + 1, self._waiting) from error
            # The pages were not the whole, or a page's token may have expired: the next try begins the pass again.
            expired = error.error_type is ErrorType.QUERY_REJECTED and self.current.resume is not None
            if expired or error.error_type in VOID:
                error.recoverable = error.recoverable or expired
                if error.error_type is ErrorType.OPERATION_FAILED:
                    self.state = replace(self.state, failed_exports=self.state.failed_exports + 1)
                self._begin_anew()
            raise

    def _begin_pass(self, full: bool) -> None:
        """Continue the current pass, or begin one."""
        self.seen_at = self.context.now()
        if full:
            self._begin_full_pass()
        elif self.state.current is None or self.state.current.full:
            self.state = replace(self.state, current=PassState(full=False, began_at=self.seen_at))

    def _begin_full_pass(self) -> None:
        """Continue it; or begin it, also where PostgreSQL has forgotten what it has confirmed so far."""
        store_id, current = self.claim.store_id, self.state.current
        with self.database.transaction() as connection:
            if current is not None and not (
                current.full
                and (
                    current.into_empty
                    or confirmed.are_known(connection, store_id, self.table, current.began_at)
                )
            ):
                current = None
            if current is None:
                current = PassState(
                    full=True,
                    began_at=clock(connection),
                    into_empty=self._is_empty(connection),
                    backfill=self.claim.backfill,
                    sums=dict.fromkeys((self.table, *PARTS.get(self.resource, ())), NOTHING),
                )
                self.state = replace(self.state, current=current)
                confirmed.begin(connection, store_id, self.table, current.began_at)
        # An export may be as old as the pass: it says nothing of what was marked deleted since.
        self.seen_at = current.began_at

    def _is_empty(self, connection: Connection) -> bool:
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT NOT EXISTS (SELECT FROM {self.table} WHERE store_id = %s)",  # noqa: S608 (an enum's value)
                (self.claim.store_id,),
            )
            return bool(cursor.fetchone())

    def _read(self) -> list[Page]:
        """The pages of a pass, kept a commit's worth at a time; returns the last ones, not kept yet.

        What was read before the platform failed is kept. Raises IntegrationError, TurnOver.
        """
        full = self.current.full
        limits = self.context.limits
        most = limits.load_rows if full else min(limits.load_rows, limits.changed_load_rows)
        buffer: list[Page] = []
        failures: list[IntegrationError] = []
        self.listed = [] if self.current.resume is None else None
        is_first = self.current.resume is None
        pages = self.platform.pages(
            self.resource,
            since=None if full else self.state.since,
            resume=self.current.resume,
            bulk=self._bulk(),
        )
        for page in prefetch(_until_failure(pages, failures), self.context.check_stopped):
            self.context.check_stopped()
            if sum(p.read for p in buffer) >= most or sum(p.parts_read for p in buffer) >= PARTS_A_ROW * most:
                self._keep(buffer)
                buffer = []
            buffer.append(page)
            self.seen, is_first = digest(page) if is_first else None, False
            self._note_page(page)
            if not page.read and page.resume is not None:
                self._keep(buffer)  # it marks what is to be begun next, or was begun just now
                buffer = []
            if page.resume is not None and self.context.turn_is_over():
                self._keep(buffer)
                raise TurnOver
        for failure in failures:
            if buffer and failure.error_type not in VOID:
                self._keep(buffer)
            raise failure
        if self.current.vendor_began_at is None:
            raise IntegrationError.of(
                ErrorType.MALFORMED_RESPONSE,
                f"{self.claim.platform} returned no page of {self.resource}, not even an empty one",
                source=self.claim.platform,
            )
        return buffer

    def _bulk(self) -> bool | None:
        """Whether all is exported: as a person wants it; else as the platform chooses, until its exports fail."""
        wished = BACKFILLS[self.current.backfill or "auto"]
        return False if wished is None and self.state.failed_exports >= EXPORTS_TRIED else wished

    def _note_page(self, page: Page) -> None:
        """What a page says of the whole: the source's clock, its count of rows, and how old rows it lists."""
        current = replace(self.current, last_count=page.source_count)
        if current.vendor_began_at is None:
            # The slower of the two clocks: reaching back too far only reads rows again.
            began = min(self.seen_at, page.vendor_time or self.seen_at)
            current = replace(current, vendor_began_at=began, source_count=page.source_count)
        if page.listed_since is not None:
            oldest = min(current.listed_since or page.listed_since, page.listed_since)
            current = replace(current, listed_since=oldest)
        if current.full:
            self.progress.begin(page, current.read)
        self.state = replace(self.state, current=current)
        if not page.lists_all:
            self.listed = None
        elif self.listed is not None:
            self.listed += [record.external_id for record in page.records if writable(record.external_id)]
            self.listed += [reject.key() for reject in page.rejects]

    def _keep(self, pages: list[Page]) -> None:
        """Pages into the tables, with the cursor behind them."""
        with self.database.transaction() as connection:
            counts, state, changed_at = self._load(connection, pages)
            store_units.save(connection, self.claim, state.dump(), changed_at=changed_at)
        self.state = state
        if any(page.read for page in pages):
            self.context.note_progress()
        if self.current.full:
            self.progress.note(self.current.read, self.current.source_count)
        self.context.note_rows(len(pages), counts)

    def _load(self, connection: Connection, pages: list[Page]) -> tuple[Counts, CursorState, datetime | None]:
        """Pages into the tables; returns what became of their rows, the state behind them, and when the newest change was
        that was written."""
        current, full_pass = self.current, None
        pages = list(self.loader.readable(pages))
        sums, counted_off = dict(current.sums), set[str]()
        whole = Completeness(self.resource, self.claim.store_id, current)
        if current.full:
            records = [record for page in pages for record in page.records]
            sums, counted_off = whole.without_earlier_versions(connection, records)
            full_pass = FullPass(current.began_at, current.cutoff, current.into_empty)

        def kept(table: str, rows: Rows) -> None:
            nonlocal sums
            if current.full:
                sums = whole.summed(sums, table, rows)

        loaded = self.loader.load(connection, pages, seen_at=self.seen_at, full_pass=full_pass, kept=kept)
        commits = current.commits
        if current.full:
            again = [one for one in loaded.again if one not in counted_off]
            sums = whole.without_listed_twice(connection, sums, again)
            commits = (
                (*commits, transaction_time(connection)) if any(page.read for page in pages) else commits
            )
        changes = None if self.resource in self.platform.undated else loaded.changes
        lags = changes.lags if changes else ()
        attempts.count(connection, self.context.attempt, len(pages), loaded.counts, lags)
        if not current.full and loaded.counts.inserted + loaded.counts.updated:
            ids = [record.external_id for page in pages for record in page.records]
            self.context.coverage.note_changed(connection, self.store, self.resource, ids)
        behind = replace(
            current,
            read=current.read + loaded.rows_read,
            gone=current.gone + loaded.gone,
            moved=current.moved or loaded.moved,
            resume=pages[-1].resume if pages else current.resume,
            sums=sums,
            commits=commits,
        )
        self._require_end(connection, behind)
        return (
            loaded.counts,
            replace(self.state, current=behind),
            changes.newest if changes else None,
        )

    def _require_end(self, connection: Connection, behind: PassState) -> None:
        """Raises IntegrationError (count_mismatch) where far more rows were read than there are."""
        if behind.read <= self.read_at_most:
            return
        there = max(count_held(connection, self.table, self.claim.store_id), behind.last_count or 0)
        self.read_at_most = ENDLESS_FROM + 2 * there
        if behind.read > self.read_at_most:
            raise IntegrationError(
                f"{self.claim.platform} listed {behind.read:,} {self.table} without an end, and there are {there:,}. The "
                "last pages were not kept; the next attempt reads everything again",
                error_type=ErrorType.COUNT_MISMATCH,
                severity="high",
                source=self.table,
                details={"read": behind.read, "there": there},
            )

    # The end of a pass

    def _ask_for_not_listed(self) -> None:
        """Request by id the rows that a full pass did not list.

        Only those that no longer exist are then marked deleted; a row that the list left out is loaded. Many are not
        requested if the list held as many rows as the source counts: that was a bulk deletion. Raises TurnOver.
        """
        most = self.context.limits.asked_anyway
        whole = Completeness(self.resource, self.claim.store_id, self.current)
        with self.database.transaction() as connection:
            whole.require(connection, self.state.unlisted)
            first = whole.not_listed(connection, "", most + 1)
        count = self.current.least_count
        if len(first) > most and count is not None and self.current.read >= count:
            return
        ids = first[:ASKED_TOGETHER]
        while ids:
            self.context.check_stopped()
            if self.context.turn_is_over():
                raise TurnOver
            self._keep([self.platform.rows(self.resource, ids)])
            with self.database.transaction() as connection:
                ids = whole.not_listed(connection, ids[-1], ASKED_TOGETHER)

    def _not_among(self, listed: list[str]) -> Page:
        """Where changes are read and all rows are listed nevertheless: those that were not, by their ids."""
        with self.database.transaction() as connection:
            ids = not_among(connection, self.table, self.claim.store_id, listed, ASKED_TOGETHER)
        return self.platform.rows(self.resource, ids) if ids else Page(0, [])

    def _ask_for_levels_of_no_variant(self) -> None:
        """Stock whose variant is not listed: what is gone there goes, and what is there stays, whichever job reads it."""
        loader = Loader(self.claim.store_id, Resource.INVENTORY_LEVELS, self.context.cipher)
        with self.database.transaction() as connection:
            asked_at = clock(connection)
            most = self.context.limits.asked_anyway
            ids = levels_of_no_variant(connection, self.claim.store_id, self.current.began_at, most)
        for start in range(0, len(ids), ASKED_TOGETHER):
            self.context.check_stopped()
            page = self.platform.rows(Resource.INVENTORY_LEVELS, ids[start : start + ASKED_TOGETHER])
            with self.database.transaction() as connection:
                loader.load(connection, [page], seen_at=asked_at)

    def _finish(self, pages: list[Page]) -> bool:
        with self.database.transaction() as connection:
            counts, state, changed_at = self._load(connection, pages)
            current = state.current
            assert current is not None
            assert current.vendor_began_at is not None
            if current.full:
                counts.deleted += self._end_full_pass(connection, state, current)
            compared = self._compare_counts(connection, state)
            since = current.vendor_began_at - self.platform.lookback(self.resource)
            state = replace(compared.state.settled(since), seen=self.seen)
            if compared.needs_full:
                store_units.save(connection, self.claim, state.dump(), changed_at=changed_at)
            else:
                every = self.context.coverage.interval(
                    connection, self.store, self.resource, self.claim.interval
                )
                self.context.complete(
                    connection,
                    state.dump(),
                    next_due_at=next_turn(self.claim.claimed_at, every, self.claim.store_id),
                    full_pass_since=current.began_at if current.full else None,
                    changed_at=changed_at,
                )
                self.then(connection)
        self.state = state
        self.context.note_rows(len(pages), counts)
        if compared.newly_unlisted:
            self.context.say(
                f"{self.context.store_name}: {self.claim.platform} counts {compared.newly_unlisted} {self.table} that it "
                "does not list, not even after everything was read again. From now on that is expected."
            )
        return compared.needs_full

    def _end_full_pass(self, connection: Connection, state: CursorState, current: PassState) -> int:
        """Mark deletions, and prove that what was read is stored; returns how many rows were marked."""
        whole = Completeness(self.resource, self.claim.store_id, current)
        whole.require(connection, state.unlisted)
        deleted = mark_not_listed_deleted(
            connection, self.table, self.claim.store_id, current.began_at, current.listed_since
        )
        deleted += mark_orphans_deleted(
            connection,
            self.resource,
            self.claim.store_id,
            current.began_at,
            only_of_listed=current.listed_since is not None,
        )
        attempts.count(connection, self.context.attempt, 0, Counts(deleted=deleted))
        whole.prove(connection)
        confirmed.forget(connection, self.claim.store_id, self.table)
        return deleted

    def _compare_counts(self, connection: Connection, state: CursorState) -> Comparison:
        if not is_worth_counting(state):
            return Comparison(state)
        held = count_held(connection, self.table, self.claim.store_id)
        last = self.claim.last_full_at
        too_soon = (
            held > self.context.limits.large_rows
            and last is not None
            and self.claim.claimed_at - last < FULL_PASS_PAUSE
        )
        return compare_counts(state, held, may_read_whole=not too_soon)

    def _waiting(self, waits: int) -> dict[str, Any]:
        return replace(self.state, current=replace(self.current, waits=waits)).dump()

    def _begin_anew(self) -> None:
        """What was stored is read again: no progress."""
        self.state = self.state.without_pass()
        with self.database.transaction() as connection:
            store_units.save(connection, self.claim, self.state.dump())
        self.context.void_progress()


def _until_failure(pages: Iterator[Page], failures: list[IntegrationError]) -> Iterator[Page]:
    """The pages up to where the platform failed; then that is in `failures`."""
    try:
        yield from pages
    except IntegrationError as failure:
        failures.append(failure)
