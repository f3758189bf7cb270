"""One resource of one store: its pages into its table, and what is gone at the end of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.customers import changes
from bg_pipelines.database.load import (
    Counts,
    drop_unmet_part_rejects,
    keep_rejects,
    load,
    mark_deleted,
    mark_left_parts_deleted,
    mark_unconfirmed_deleted,
    newest,
)
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Correction, Platform
from bg_pipelines.queues import next_turn
from bg_pipelines.records import PARTS, Page, Part, Record, Reject, Resource
from bg_pipelines.sync.completeness import PutBack, Whole
from bg_pipelines.sync.customer_edits import ProfilePush
from bg_pipelines.sync.prefetch import CHANGED_LOAD_ROWS, prefetch
from bg_pipelines.sync.summary import BACKFILLS, CorrectionReport
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import clock
from bg_pipelines.work.store_units import Claim

if TYPE_CHECKING:
    from bg_pipelines.sync.visit import StoreSync

FULL_PASS_EVERY = timedelta(days=1)
"""How often everything is read again, so that what was deleted at the source is noticed whatever happened."""


PARTS_A_ROW = 4
"""Orders have a few lines each; those of a commit's worth of orders with hundreds would fill the memory."""

VOID = {ErrorType.COUNT_MISMATCH, ErrorType.OPERATION_FAILED, ErrorType.SCOPES}
"""After these a pass begins anew: its pages were not the whole, or may show less than the next ones will."""


def _until_failure(pages: Iterator[Page], failures: list[IntegrationError]) -> Iterator[Page]:
    """The pages up to where the platform failed; then that is in `failures`."""
    try:
        yield from pages
    except IntegrationError as failure:
        failures.append(failure)


class ResourceSync:
    """One resource of one store: a pass over its pages, and the end of the pass.

    The cursor of a unit is JSON: `since`, where the next incremental pass begins (the vendor's clock); `pass`,
    there while a pass is unfinished; `gap` and `missing`, see `Whole`.
    """

    def __init__(self, store: StoreSync, platform: Platform, work: Claim, attempt: int) -> None:
        self.store = store
        self.run_ = store.run_
        self.database = store.database
        self.platform = platform
        self.work: Claim = work
        self.attempt = attempt
        self.resource: Resource = Resource(work.resource)
        self.cursor = dict(work.cursor)
        self.progressed = False
        self.newest_edit = 0
        self.whole = Whole(self)

    def run(self) -> None:
        if self.resource is Resource.STORE:
            self._sync_profile()
            return
        if self.resource is Resource.INVENTORY_LEVELS:
            self._push_corrections()
        # Not amid a full pass: rows that come from elsewhere would not be what it has read.
        if self.resource is Resource.CUSTOMERS and not self.cursor.get("pass", {}).get("full"):
            store = self.store
            push = ProfilePush(
                self.run_, self.platform, self.work, store.name, self.cursor, store.turn_is_over
            )
            self.newest_edit = push.run()
        full = self._full_pass_due()
        if self._sync_pages(full) and not full:
            self._sync_pages(full=True)

    # A pass

    def _full_pass_due(self) -> bool:
        unfinished, wanted = self.cursor.get("pass"), self.work.full_pass_wanted_at
        if wanted is not None:
            if not (
                unfinished and unfinished["full"] and datetime.fromisoformat(unfinished["began_at"]) >= wanted
            ):
                self.cursor.pop("pass", None)
            return True
        if unfinished and unfinished["full"] and self.work.backfill not in (None, unfinished.get("backfill")):
            self.cursor.pop("pass")  # a person wants it read in another way
            return True
        if unfinished:
            return bool(unfinished["full"])
        last = self.work.last_full_at
        return "since" not in self.cursor or last is None or self.work.claimed_at - last >= FULL_PASS_EVERY

    def _sync_pages(self, full: bool) -> bool:
        """Read one pass to its end and settle the row; returns True instead if a full pass is needed first."""
        state = self._pass(full)
        try:
            buffer = [] if state["listed"] else self._read(state)
            if full and not state["into_empty"]:
                # Kept first: what is held decides what is asked for, and no transaction waits for an answer.
                state["listed"] = True
                self.keep(buffer)
                buffer = []
                self.whole.ask_for_unmet()
            return self._finish(buffer)
        except IntegrationError as error:
            # The pages were not the whole, or a page's token may have expired: the next try begins the pass again.
            expired = error.error_type is ErrorType.QUERY_REJECTED and state["resume"] is not None
            if expired or error.error_type in VOID:
                self._forget_pass()
                error.recoverable = error.recoverable or expired
                self.progressed = (
                    False  # what was kept is read again: it brought the pass no nearer to its end
                )
            raise

    def _pass(self, full: bool) -> dict[str, Any]:
        """The pass that is under way, or a new one."""
        with self.database.transaction() as connection:
            self.seen_at = clock(connection)
            into_empty = full and self._is_empty(connection)
        state: dict[str, Any] | None = self.cursor.get("pass")
        if state is None or state["full"] != full:
            state = {
                "full": full,
                "backfill": self.work.backfill,
                "began_at": self.seen_at.isoformat(),
                "vendor_began_at": None,
                "resume": None,
                "into_empty": into_empty,
                "listed": False,  # whether all pages were kept
                "read": 0,
                "gone": 0,
                "moved": False,  # whether rows came or went, here
                "source_count": None,
                "last_count": None,
                "listed_since": None,
                # Of what was read, by table: see `proof.Sum`.
                "sums": {table: [0, 0, 0] for table in (self.resource.value, *PARTS.get(self.resource, ()))},
            }
            self.cursor["pass"] = state
        if full:
            # An export may be as old as the pass: it says nothing of what was marked deleted since.
            self.seen_at = datetime.fromisoformat(state["began_at"])
        return state

    def _read(self, state: dict[str, Any]) -> list[Page]:
        """The pages of a pass, kept a commit's worth at a time; returns the last ones, not kept yet.

        What was read before the platform failed is kept. Raises IntegrationError, PutBack.
        """
        full = state["full"]
        since = None if full else datetime.fromisoformat(self.cursor["since"])
        load_rows = self.run_.load_rows if full else min(self.run_.load_rows, CHANGED_LOAD_ROWS)
        buffer: list[Page] = []
        bulk = BACKFILLS[self.work.backfill or "auto"]
        failures: list[IntegrationError] = []
        pages = self.platform.pages(self.resource, since=since, resume=state["resume"], bulk=bulk)
        for page in prefetch(_until_failure(pages, failures), self.run_.check_stopped):
            self.run_.check_stopped()
            if (
                sum(p.read for p in buffer) >= load_rows
                or sum(p.parts_read for p in buffer) >= PARTS_A_ROW * load_rows
            ):
                self.keep(buffer)
                buffer = []
            buffer.append(page)
            if state["vendor_began_at"] is None:
                # The slower of the two clocks: reaching back too far only reads rows again.
                began = min(self.seen_at, page.vendor_time or self.seen_at)
                state["vendor_began_at"] = began.isoformat()
                state["source_count"] = page.source_count
            state["last_count"] = page.source_count
            if page.listed_since is not None:
                oldest = datetime.fromisoformat(state["listed_since"] or page.listed_since.isoformat())
                state["listed_since"] = min(oldest, page.listed_since).isoformat()
            if not page.read and page.resume is not None:
                self.keep(buffer)  # it marks what is to be begun next, or was begun just now
                buffer = []
            if page.resume is not None and self.store.turn_is_over():
                self.keep(buffer)
                raise PutBack
        for failure in failures:
            if buffer and failure.error_type not in VOID:
                self.keep(buffer)
            raise failure
        if state["vendor_began_at"] is None:
            raise IntegrationError.of(
                ErrorType.MALFORMED_RESPONSE,
                f"the platform came with no page of {self.resource}, not even an empty one; it is tried again",
                source=self.work.platform,
            )
        return buffer

    def _is_empty(self, connection: psycopg.Connection[Any]) -> bool:
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT NOT EXISTS (SELECT FROM {self.resource.value} WHERE store_id = %s)",  # noqa: S608
                (self.work.store_id,),
            )
            return bool(cursor.fetchone())

    def keep(self, pages: list[Page]) -> None:
        """Pages into the tables, with the cursor behind them."""
        with self.database.transaction() as connection:
            counts = self._load(connection, pages)
            store_units.save(connection, self.work, self.cursor)
        self.progressed = self.progressed or any(page.read for page in pages)
        if self.progressed:
            self.store.note_progress()
        self.run_.note_rows(self.resource, len(pages), counts)

    def _finish(self, pages: list[Page]) -> bool:
        state = self.cursor["pass"]
        full: bool = state["full"]
        with self.database.transaction() as connection:
            counts = self._load(connection, pages)
            if full:
                self.whole.require(connection)
                began_at, listed_since = self.whole.began_at, self.whole.listed_since
                deleted = mark_unconfirmed_deleted(
                    connection, self.resource, self.work.store_id, began_at, listed_since
                )
                deleted += self._delete_orphans(connection, began_at)
                self.count_attempt(connection, 0, Counts(deleted=deleted))
                counts.deleted += deleted
                self.whole.prove(connection)
            needs_full = self.whole.gap(connection)
            lookback = self.platform.lookback(self.resource)
            since = datetime.fromisoformat(state["vendor_began_at"]) - lookback
            kept = ("gap", "missing", "sought", "even")
            self.cursor = {key: value for key, value in self.cursor.items() if key in kept} | {
                "since": since.isoformat()
            }
            if needs_full:
                store_units.save(connection, self.work, self.cursor)
            else:
                self._settle(connection, full, datetime.fromisoformat(state["began_at"]))
        self.run_.note_rows(self.resource, len(pages), counts)
        return needs_full

    def _settle(self, connection: psycopg.Connection[Any], full: bool, began_at: datetime) -> None:
        due = next_turn(self.work.claimed_at, self.work.interval, self.work.store_id)
        store_units.complete(
            connection, self.work, self.cursor, next_due_at=due, full_pass_since=began_at if full else None
        )
        if self.resource is Resource.CUSTOMERS:
            changes.make_due(connection, self.work.store_id, after=self.newest_edit)
        connection.execute(
            "UPDATE sync_attempts SET status = 'succeeded', finished_at = clock_timestamp(), "
            "full_pass = full_pass OR %s WHERE id = %s",
            (full, self.attempt),
        )

    def load_asked(self, connection: psycopg.Connection[Any], page: Page, seen_at: datetime) -> Counts:
        """Load rows that were asked for by their ids at `seen_at`, apart from any pass."""
        self.seen_at = seen_at
        self.cursor = {"pass": {"full": False, "into_empty": False, "read": 0, "gone": 0, "resume": None}}
        return self._load(connection, [page])

    def _load(self, connection: psycopg.Connection[Any], pages: list[Page]) -> Counts:
        """Rows of these pages into their tables, and the cursor (not yet saved) behind them."""
        state = self.cursor["pass"]
        table, store_id = self.resource.value, self.work.store_id
        rejects = [reject for page in pages for reject in page.rejects if not reject.table]
        counts = Counts(read=sum(page.read for page in pages), rejected=len(rejects))
        began_at = datetime.fromisoformat(state["began_at"]) if state["full"] else None
        records = [record for page in pages for record in page.records]
        refused_rows: list[Reject] = []
        if began_at is not None:
            self.whole.take_back(connection, records)
        loaded, kept = self._load_table(connection, table, records, refused_rows, confirm_before=began_at)
        counts += Counts(0, loaded.inserted, loaded.updated, loaded.unchanged, 0, loaded.rejected)
        gone = [external_id for page in pages for external_id in page.gone]
        if gone:
            counts.deleted = mark_deleted(connection, table, store_id, gone)
            state["gone"] += counts.deleted
            # A row that is gone and that we never had, or had marked before, changes nothing.
            counts.unchanged += len(gone) - counts.deleted
        counts.require_complete(table)
        if gone:
            counts.deleted += self._delete_children(connection)
        state["read"] += counts.read
        state["moved"] = state.get("moved") or counts.inserted + counts.deleted + counts.rejected > 0
        without = {reject.external_id: reject.payload for reject in refused_rows}
        for name in PARTS.get(self.resource, ()):
            refused = [reject for page in pages for reject in page.rejects if reject.table == name]
            counts += Counts(read=len(refused), rejected=len(refused))
            parts = [part for page in pages for part in page.parts.get(name, ())]
            if without:
                # What belongs to a row that could not be loaded is kept with it.
                for part in parts:
                    if part.order_external_id in without:
                        without[part.order_external_id].setdefault(name, []).append(part._asdict())
                parts = [part for part in parts if part.order_external_id not in without]
            loaded_parts, kept_parts = self._load_table(connection, name, parts, refused)
            counts += loaded_parts
            # Kept now, so that what is held of them is not taken for left behind.
            keep_rejects(connection, self.run_.cipher, name, store_id, refused)
            if loaded.inserted < len(records):
                counts.deleted += mark_left_parts_deleted(connection, name, table, store_id, kept, kept_parts)
        keep_rejects(connection, self.run_.cipher, table, store_id, [*rejects, *refused_rows])
        if pages:
            state["resume"] = pages[-1].resume
        self.count_attempt(connection, len(pages), counts)
        return counts

    def _load_table(
        self,
        connection: psycopg.Connection[Any],
        table: str,
        rows: Sequence[Record] | Sequence[Part],
        rejects: list[Reject],
        confirm_before: datetime | None = None,
    ) -> tuple[Counts, Sequence[Any]]:
        """Rows into one table, and into the sums of a full pass; returns counts and what was not refused.

        What was refused is added to `rejects`.
        """
        state = self.cursor["pass"]
        refused: list[Reject] = []
        counts = load(
            connection,
            table,
            self.work.store_id,
            rows,
            seen_at=self.seen_at,
            confirm_before=confirm_before,
            # What a full pass reads is what is there, but for what may have changed since.
            right_before=self.whole.edge if state["full"] else None,
            into_empty=state["into_empty"],
            reject=refused.append,
        )
        kept = newest(rows)
        if refused:
            left_out = {reject.external_id for reject in refused}
            kept = [row for row in kept if row.external_id not in left_out]
            rejects += refused
        if state["full"]:
            self.whole.add(table, kept)
        return counts, kept

    def count_attempt(self, connection: psycopg.Connection[Any], pages: int, counts: Counts) -> None:
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
        forgotten = self.cursor.pop("pass", None)
        if forgotten and forgotten["full"]:
            self.cursor.pop("since", None)  # what was to be read whole is read whole the next time
        with self.database.transaction() as connection:
            store_units.save(connection, self.work, self.cursor)

    # What is held, and what is gone

    def _delete_orphans(self, connection: psycopg.Connection[Any], began_at: datetime) -> int:
        """At the end of a full pass: what went with the rows that it did not meet."""
        deleted = 0
        for part in PARTS.get(self.resource, ()):
            deleted += drop_unmet_part_rejects(
                connection,
                part,
                self.resource,
                self.work.store_id,
                began_at,
                only_of_met=self.whole.listed_since is not None,
            )
        deleted += self._delete_children(connection)
        if self.resource is Resource.PRODUCT_VARIANTS:
            deleted += self._delete_levels_of_no_variant(connection, began_at)
        return deleted

    def _delete_children(self, connection: psycopg.Connection[Any]) -> int:
        """What goes with the rows marked in this transaction: their parts, a product's variants, a variant's stock."""
        deleted = 0
        for part in PARTS.get(self.resource, ()):
            deleted += self._delete_with_parent(
                connection, (self.resource.value, "external_id"), (part, "order_external_id")
            )
        if self.resource is Resource.PRODUCTS:
            deleted = self._delete_with_parent(
                connection, ("products", "external_id"), ("product_variants", "product_external_id")
            )
        if deleted or self.resource is Resource.PRODUCT_VARIANTS:
            item = "inventory_item_external_id"
            deleted += self._delete_with_parent(
                connection, ("product_variants", item), ("inventory_levels", item)
            )
        return deleted

    def _delete_levels_of_no_variant(self, connection: psycopg.Connection[Any], began_at: datetime) -> int:
        """Levels that were read before this full pass of the variants and belong to none that it met.

        Such a variant was deleted before we ever had it. A variant that could not be loaded still has its levels.
        """
        return connection.execute(
            "UPDATE inventory_levels l SET deleted_at = now(), synced_at = now() "
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
            f"UPDATE {child[0]} child SET deleted_at = now(), synced_at = now() FROM {parent[0]} parent "  # noqa: S608 (names from above)
            f"WHERE child.{child[1]} = parent.{parent[1]} AND child.store_id = %(store)s "
            "AND parent.store_id = %(store)s AND parent.deleted_at = now() AND child.deleted_at IS NULL",
            {"store": self.work.store_id},
        ).rowcount

    # The shop itself, and what we write to it

    def _sync_profile(self) -> None:
        profile = self.platform.profile()
        with self.database.transaction() as connection:
            double = connection.execute(
                "SELECT name FROM stores WHERE platform = %s AND external_id = %s AND id < %s AND paused_at IS NULL "
                "AND deleted_at IS NULL ORDER BY id LIMIT 1",
                (self.work.platform, profile.external_id, self.work.store_id),
            ).fetchone()
            if double is not None:
                raise IntegrationError.of(
                    ErrorType.CONFIGURATION,
                    f"it is the same store there as {double[0]}, so all of it would count twice: pause one of them "
                    f"(`bg-pipelines stores pause`)",
                    source=self.work.platform,
                )
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
            self.count_attempt(connection, 1, counts)
            self._settle(connection, full=True, began_at=self.work.claimed_at)
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
                [outcome] = self.platform.correct_stock([Correction(**row)])
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
