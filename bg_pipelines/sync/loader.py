"""The loader: pages of one resource into its tables, in the caller's transaction, with rejects and deletions.

    loader = Loader(store_id, Resource.ORDERS, cipher)
    loaded = loader.load(connection, [page], seen_at=asked_at)

A pass, an audit's repair, an edit of ours and an event all load this way. It knows no run and no pass: `FullPass` says
what a full pass does differently, and sums are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.load import Changes, Counts, load, newest
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.privacy.tables import EMPTIED
from bg_pipelines.privacy.tombstones import standing
from bg_pipelines.records import PARTS, Page, Part, Record, Reject, Resource, remedied
from bg_pipelines.sync.deletions import mark_children_deleted, mark_deleted, mark_left_parts_deleted
from bg_pipelines.sync.rejects import keep_rejects
from bg_pipelines.values import Refused, read_rows, writable

Connection = psycopg.Connection[Any]
Rows = Sequence[Record] | Sequence[Part]


class FullPass(NamedTuple):
    """What a full pass wants of a load: see `database.load.load`."""

    began_at: datetime
    cutoff: datetime
    into_empty: bool


class Loaded(NamedTuple):
    """What a load did; `gone` counts the rows that the source said are deleted, of `counts.deleted`.

    `counts.read` are rows and parts, `rows_read` are rows alone; `moved` tells whether rows were added, deleted or
    rejected. `changes` are of the rows that were written, without parts; of a full pass there are none. `again` are ids of
    rows that a full pass may have listed before: they are as they were, or rejected now.
    """

    counts: Counts
    rows_read: int
    gone: int
    moved: bool
    changes: Changes | None
    again: list[str]


class Loader:
    """Loads pages of one resource of one store, and keeps what cannot be loaded."""

    def __init__(self, store_id: int, resource: Resource, cipher: Cipher) -> None:
        self.store_id = store_id
        self.resource = resource
        self.table = resource.value
        self.cipher = cipher

    def load(
        self,
        connection: Connection,
        pages: Sequence[Page],
        *,
        seen_at: datetime,
        full_pass: FullPass | None = None,
        kept: Callable[[str, Rows], None] = lambda _table, _rows: None,
    ) -> Loaded:
        """Load rows, parts, rejects and deletions of these pages, which were asked for at `seen_at` (our clock).

        `kept` is called, by table, with the rows that were not refused. Raises IntegrationError (count_mismatch) unless
        every row that was read is accounted for.
        """
        pages = self.without_erased(connection, self.readable(pages))
        rejects = [reject for page in pages for reject in page.rejects if not reject.table]
        counts = Counts(read=sum(page.read for page in pages), rejected=len(rejects))
        records = [record for page in pages for record in page.records]
        refused_rows: list[Reject] = []
        again: list[str] = []
        changes: list[Changes] = []
        loaded, kept_rows = self._load_table(
            connection,
            self.table,
            records,
            refused_rows,
            seen_at,
            full_pass,
            confirm=True,
            met_again=again.extend,
            wrote=None if full_pass else changes.append,
        )
        rejected = {reject.key() for reject in (*rejects, *refused_rows)}
        again += rejected
        # One that is listed twice, and once cannot be loaded, stands with the rejected ones.
        kept_rows = [row for row in kept_rows if row.external_id not in rejected] if rejects else kept_rows
        kept(self.table, kept_rows)
        counts += Counts(0, loaded.inserted, loaded.updated, loaded.unchanged, 0, loaded.rejected)
        gone = [external_id for page in pages for external_id in page.gone]
        if gone:
            # What no text can hold was never held.
            held = [external_id for external_id in gone if writable(external_id)]
            counts.deleted = mark_deleted(connection, self.table, self.store_id, held)
            # A deleted row that we never had, or had marked before, changes nothing.
            counts.unchanged += len(gone) - counts.deleted
        counts.require_complete(self.table)
        rows_read, marked = counts.read, counts.deleted
        if gone:
            counts.deleted += mark_children_deleted(connection, self.resource, self.store_id)
        moved = counts.inserted + counts.deleted + counts.rejected > 0
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
            loaded_parts, kept_parts = self._load_table(connection, name, parts, refused, seen_at, full_pass)
            left_out = {reject.key() for reject in refused}
            if left_out or rejected:
                kept_parts = [
                    part
                    for part in kept_parts
                    if part.external_id not in left_out and part.order_external_id not in rejected
                ]
            kept(name, kept_parts)
            counts += loaded_parts
            # Kept now, so that what is held of them is not taken for left behind.
            keep_rejects(connection, self.cipher, name, self.store_id, refused)
            if loaded.inserted < len(records):
                counts.deleted += mark_left_parts_deleted(
                    connection,
                    name,
                    self.table,
                    self.store_id,
                    kept_rows,
                    kept_parts,
                    # One that is gone as well has no parts.
                    written=not gone and loaded.inserted + loaded.updated == len(records),
                )
        keep_rejects(connection, self.cipher, self.table, self.store_id, [*rejects, *refused_rows])
        return Loaded(counts, rows_read, marked, moved, Changes.of(changes), again)

    def readable(self, pages: Sequence[Page]) -> Sequence[Page]:
        """The pages with values that can be read again; other rows are rejected, each with its column. Once for each page."""
        return [page if page.readable else self._readable(page) for page in pages]

    def _readable(self, page: Page) -> Page:
        records, refused = read_rows(page.records)
        rejects = [_reject(one) for one in refused]
        of = {reject.external_id: reject.payload for reject in rejects if isinstance(reject.external_id, str)}
        parts: dict[str, list[Part]] = {}
        for table, rows in page.parts.items():
            # What belongs to a row that is rejected is kept with it.
            for part in rows if of else ():
                if part.order_external_id in of:
                    of[part.order_external_id].setdefault(table, []).append(part._asdict())
            own = [part for part in rows if part.order_external_id not in of] if of else rows
            kept, refused = read_rows(own)
            parts[table] = list(kept)
            rejects += [_reject(one, table) for one in refused]
        return replace(page, records=records, parts=parts, rejects=[*page.rejects, *rejects], readable=True)

    def without_erased(self, connection: Connection, pages: Sequence[Page]) -> Sequence[Page]:
        """The pages without the personal data of rows that were erased here; until the transaction ends no more are.

        Before anything of the store is locked, whoever calls it.
        """
        if self.table not in EMPTIED or not any(page.records or page.rejects for page in pages):
            return pages
        tombstones = standing(connection, self.store_id)
        return [tombstones.strip(self.resource, page) for page in pages] if tombstones else pages

    def _load_table(
        self,
        connection: Connection,
        table: str,
        rows: Rows,
        rejects: list[Reject],
        seen_at: datetime,
        full_pass: FullPass | None,
        *,
        confirm: bool = False,
        met_again: Callable[[Sequence[str]], None] = lambda _: None,
        wrote: Callable[[Changes], None] | None = None,
    ) -> tuple[Counts, Sequence[Any]]:
        """Rows into one table; returns counts and the rows that were not refused. What was is added to `rejects`."""
        refused: list[Reject] = []
        counts = load(
            connection,
            table,
            self.store_id,
            rows,
            seen_at=seen_at,
            confirm_before=full_pass.began_at if full_pass and confirm else None,
            # What a full pass reads is what is there, but for what may have changed since.
            right_before=full_pass.cutoff if full_pass else None,
            into_empty=full_pass.into_empty if full_pass else False,
            reject=refused.append,
            met_again=met_again,
            wrote=wrote,
        )
        kept = newest(rows)
        if refused:
            left_out = {reject.external_id for reject in refused}
            kept = [row for row in kept if row.external_id not in left_out]
            rejects += refused
        return counts, kept


def _reject(refused: Refused, table: str | None = None) -> Reject:
    return Reject(refused.row.external_id, remedied(refused.reason), refused.row._asdict(), table)
