"""One resource of one store: its pages into its table, and what is gone at the end of a pass."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database import leases
from bg_pipelines.database.leases import Work
from bg_pipelines.database.load import (
    Counts,
    Reject,
    keep_rejects,
    load,
    mark_deleted,
    mark_unconfirmed_deleted,
)
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.base import Correction, Page, Platform, Resource
from bg_pipelines.queues import next_turn
from bg_pipelines.sync.prefetch import prefetch
from bg_pipelines.sync.summary import CorrectionReport

if TYPE_CHECKING:
    from bg_pipelines.sync.store import StoreSync

OVERLAP = timedelta(minutes=10)
"""How far an incremental pass reaches back behind the last one's start: a vendor's search lags by minutes."""
FULL_PASS_EVERY = timedelta(days=1)
"""How often everything is read again, so that what was deleted at the source is noticed whatever happened."""


class PutBack(Exception):  # noqa: N818 (not an error: others wait)
    """The store has had its turn; what it has left waits for the next."""


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
        self.progressed = False

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
            for page in prefetch(pages, self.run_.check_stopped):
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
                if page.resume is not None and self.store.turn_is_over():
                    self._keep(buffer)
                    raise PutBack
            return self._finish(buffer)
        except IntegrationError as error:
            # The pages were not the whole, or a page's token may have expired: the next try begins the pass again.
            expired = error.error_type is ErrorType.QUERY_REJECTED and state["resume"] is not None
            if expired or error.error_type is ErrorType.COUNT_MISMATCH:
                self._forget_pass()
                error.recoverable = error.recoverable or expired
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
        self.progressed = True
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
        due = next_turn(self.work.claimed_at, self.work.interval, self.work.store_id)
        leases.settle_succeeded(connection, self.work, self.cursor, next_due_at=due, full_pass=full)
        connection.execute(
            "UPDATE sync_attempts SET status = 'succeeded', finished_at = clock_timestamp(), "
            "full_pass = full_pass OR %s WHERE id = %s",
            (full, self.attempt),
        )

    def _load(self, connection: psycopg.Connection[Any], pages: list[Page]) -> Counts:
        """Rows of these pages into their table, and the cursor (not yet saved) behind them."""
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
