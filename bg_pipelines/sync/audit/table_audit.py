"""The audit of one table of a store: a sample is compared with the source field by field, repaired and reported.

What is merely not synced yet is `lag` and no drift: it changed within the next pass's lookback (also within the second
of the change that is held), or another pass wrote it during the audit. Rows without a change time at the source may have
changed too; the next pass reads all of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import Drift
from bg_pipelines.records import PARTS, Page, Resource
from bg_pipelines.sync.audit.compare import Comparison, Side, compare
from bg_pipelines.sync.audit.sample import random_ids
from bg_pipelines.sync.audit.state import AuditState
from bg_pipelines.sync.completeness import count_held
from bg_pipelines.sync.context import Context, fault_of
from bg_pipelines.sync.loader import Loader
from bg_pipelines.sync.state import CursorState
from bg_pipelines.sync.summary import ResourceAudit
from bg_pipelines.work import attempts, store_units
from bg_pipelines.work.queue import clock

RECENT = timedelta(days=1)
"""Half of a sample changed at the source within this time, as far as so many did."""
ROWS_AT_ONCE = 100
IDS_KEPT = 20


class TableAudit:
    """The audit of one table of a store: pick, ask, then compare and repair in one transaction."""

    def __init__(
        self,
        context: Context,
        resource: Resource,
        state: CursorState,
        last_succeeded_at: datetime,
        audit: AuditState,
    ) -> None:
        self.context = context
        self.platform = context.platform
        self.database = context.database
        self.store_id = context.claim.store_id
        self.resource = resource
        self.since = state.since
        self.unlisted = state.unlisted
        self.last_succeeded_at = last_succeeded_at
        self.audit = audit
        self.loader = Loader(self.store_id, resource, context.cipher)
        self.tables = (resource.value, *PARTS.get(resource, ()))
        self.found = ResourceAudit(context.store_name, resource.value)

    def run(self) -> AuditState:
        """Returns the state of the store's audit behind this table, which is saved with what was repaired."""
        sample, rng = self.context.sample, self.context.rng
        with self.database.transaction() as connection:
            self.seen_at = clock(connection)
        recent = self._changed_lately()
        lately = sorted(
            record.external_id for record in recent.records if isinstance(record.external_id, str)
        )
        wanted = set(rng.sample(lately, min(len(lately), sample // 2)))
        with self.database.transaction() as connection:
            wanted |= set(
                random_ids(connection, self.resource.value, self.store_id, sample - len(wanted), rng)
            )
            unloadable = self._rejected(connection, list(wanted))
        short, short_since = self._short(recent.source_count)
        ids = sorted(wanted - unloadable[self.resource.value])
        answer = self._ask(ids)
        with self.database.transaction() as connection:
            counts = self._compare_and_repair(connection, ids, answer)
            if short:
                self._mend_short(connection, short)
            self._note(connection)
            behind = self.audit.behind(self.resource, short_since, self.found.alarming)
            # Last, as in a pass: rows are locked first, then the unit of work.
            store_units.save(connection, self.context.claim, behind.dump())
        self.context.note_progress()
        self.context.note_rows(1, counts)
        self.context.note_audit(self.found)
        return behind

    # What is looked at

    def _changed_lately(self) -> Page:
        """The first page of what changed at the source of late, with the source's count of all rows."""
        page = next(self.platform.pages(self.resource, since=self.seen_at - RECENT, resume=None))
        return self.loader.readable([page])[0]

    def _ask(self, ids: Sequence[str]) -> Page:
        """These rows as the source has them, as one page."""
        whole = Page(read=0, records=[])
        records: list[Any] = []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            self.context.check_stopped()
            page = self.platform.rows(self.resource, ids[start : start + ROWS_AT_ONCE])
            records += page.records
            whole.gone += page.gone
            whole.rejects += page.rejects
            for table, parts in page.parts.items():
                whole.parts.setdefault(table, []).extend(parts)
        whole.records = records
        return whole

    def _rejected(self, connection: psycopg.Connection[Any], ids: list[str]) -> dict[str, set[str]]:
        """Rows and parts that could not be loaded: they have an incident of their own."""
        rejected: dict[str, set[str]] = {table: set() for table in self.tables}
        for table, external_id in connection.execute(
            "SELECT resource, external_id FROM rejected_rows WHERE store_id = %s AND (resource = ANY(%s) "
            "OR resource = %s AND external_id = ANY(%s))",
            (self.store_id, list(self.tables[1:]), self.resource.value, ids),
        ):
            rejected[table].add(external_id)
        return rejected

    # Counts

    def _short(self, source_count: int | None) -> tuple[int, datetime | None]:
        """How many rows the source has that are not stored, if that has outlasted a pass; and since when.

        Rows that came since the time from which the next pass reads are that pass's. Fewer rows there than here is what
        every pass looks for itself.
        """
        if source_count is None:
            return 0, None
        with self.database.transaction() as connection:
            short = source_count - count_held(connection, self.resource.value, self.store_id) - self.unlisted
        if short > 0:
            new = self._new_rows()
            short = 0 if new is None else short - new
        if short <= 0:
            return 0, None
        first_seen = self.audit.short.get(self.resource)
        outlasted = first_seen is not None and first_seen < self.last_succeeded_at
        return short if outlasted else 0, first_seen or self.seen_at

    def _new_rows(self) -> int | None:
        """How many rows the next pass will find that are not held; None if they are more than a page."""
        if self.since is None:
            return None
        page = next(self.platform.pages(self.resource, since=self.since, resume=None))
        if page.resume is not None:
            return None
        ids = [record.external_id for record in self.loader.readable([page])[0].records]
        with self.database.transaction() as connection, connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                sql.SQL(
                    "SELECT count(*) FROM {} WHERE store_id = %s AND external_id = ANY(%s) AND deleted_at IS NULL"
                ).format(sql.Identifier(self.resource.value)),
                (self.store_id, ids),
            )
            return len(ids) - int(cursor.fetchone() or 0)

    def _mend_short(self, connection: psycopg.Connection[Any], short: int) -> None:
        """Rows that no pass has delivered: a full pass is due at once."""
        self.found.short = short
        connection.execute(
            "UPDATE sync_states SET last_full_at = NULL, next_due_at = least(next_due_at, clock_timestamp()) "
            # What is parked stays parked.
            "WHERE store_id = %s AND resource = %s AND next_due_at IS NOT NULL",
            (self.store_id, self.resource.value),
        )

    # Comparing and repairing

    def _compare_and_repair(
        self, connection: psycopg.Connection[Any], ids: Sequence[str], answer: Page
    ) -> Counts:
        found = self.found
        [answer] = self.loader.without_erased(connection, self.loader.readable([answer]))
        held = self._held(connection, ids)
        unloadable = self._rejected(connection, list(ids))
        for reject in answer.rejects:
            unloadable.setdefault(reject.table or self.resource.value, set()).add(reject.key())
        source = Side.of_records(self.resource.value, answer.records, answer.parts)
        source.leave_out(unloadable)
        held.leave_out(unloadable)
        comparison = compare(held, source)
        drift = self._judge(comparison, held, source, answer)
        counts = Counts()
        if drift or answer.rejects:
            counts = self._repair(connection, drift, source, answer)
            after = self._held(connection, ids)
            after.leave_out(self._rejected(connection, list(ids)))
            still = compare(after, source)
            found.repaired = sum(
                (external_id in after.deleted or external_id not in after.rows.index)
                if kind == "gone"
                else not still.differs(external_id)
                for external_id, kind in drift.items()
            )
        found.external_ids = sorted(drift)[:IDS_KEPT]
        fine = Counts(read=len(ids) - counts.read, unchanged=len(ids) - counts.read)
        attempts.count(connection, self.context.attempt, 1, fine)
        counts += fine
        return counts

    def _judge(self, comparison: Comparison, held: Side, source: Side, answer: Page) -> dict[str, str]:
        """What has drifted, by id, and how; the others are equal or lag. Counted in `found`."""
        found = self.found
        drift: dict[str, str] = {}
        moved = {external_id for external_id, at in held.synced.items() if at > self.seen_at}
        for external_id in comparison.compared:
            found.sampled += 1
            fields = comparison.fields(external_id)
            if not fields:
                found.lag += external_id in comparison.let_go
                continue
            there, here = source.moments[external_id], held.moments.get(external_id)
            # With equal times it may have changed twice within a second, of which a pass has brought the first.
            late = self._is_late(external_id, here, there, held) or (
                here == there and self.resource in self.platform.undated
            )
            if late or external_id in moved:
                found.lag += 1
                continue
            if here is None:
                kind = "missing"
            else:
                kind = "ahead" if here > there else "different"
                for field in fields:
                    found.fields[field] = found.fields.get(field, 0) + 1
            drift[external_id] = kind
            setattr(found, kind, getattr(found, kind) + 1)
        for external_id in answer.gone:
            if external_id not in held.moments:
                continue
            found.sampled += 1
            if external_id in held.deleted:
                continue
            if external_id in moved:
                found.lag += 1
            else:
                drift[external_id] = "gone"
                found.gone += 1
        return drift

    def _is_late(self, external_id: str, here: datetime | None, there: datetime, held: Side) -> bool:
        """Whether a pass has yet to bring this, or has brought more than the source's by-id answer shows yet."""
        if here is not None and here > there:
            return held.synced[external_id] > self.seen_at - self.platform.lookback(self.resource)
        delay = self.platform.late_arrivals.get(self.resource, timedelta(0)) if here is None else timedelta(0)
        return self.since is None or there >= self.since - delay

    def _repair(
        self,
        connection: psycopg.Connection[Any],
        drift: dict[str, str],
        source: Side,
        answer: Page,
    ) -> Counts:
        """Load what has drifted like a page of a pass, after what keeps the loader from it is put right."""
        ahead = {
            external_id: source.moments[external_id] for external_id, kind in drift.items() if kind == "ahead"
        }
        for table, key in self._keys():
            for external_id, at in ahead.items():
                # The loader never goes back in the source's time; here the time itself is what is wrong.
                connection.execute(
                    sql.SQL(
                        "UPDATE {} SET source_updated_at = %s WHERE store_id = %s AND {} = %s AND source_updated_at > %s"
                    ).format(sql.Identifier(table), sql.Identifier(key)),
                    (at, self.store_id, external_id, at),
                )
        gone = [external_id for external_id, kind in drift.items() if kind == "gone"]
        records = [record for record in answer.records if record.external_id in drift]
        parts = {
            table: [part for part in rows if part.order_external_id in drift]
            for table, rows in answer.parts.items()
        }
        own_rejects = [reject for reject in answer.rejects if not reject.table]
        page = Page(
            read=len(records) + len(gone) + len(own_rejects),
            records=records,
            gone=gone,
            rejects=answer.rejects,
            parts=parts,
        )
        loaded = self.loader.load(connection, [page], seen_at=self.seen_at)
        attempts.count(connection, self.context.attempt, 1, loaded.counts)
        return loaded.counts

    def _keys(self) -> list[tuple[str, str]]:
        """The tables of a row and its parts, and the column that has the row's id in each."""
        return [(table, "order_external_id" if i else "external_id") for i, table in enumerate(self.tables)]

    def _held(self, connection: psycopg.Connection[Any], ids: Sequence[str]) -> Side:
        """These rows and their parts as they are held, kept from changing until the transaction's end."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for table, key in self._keys():
            with connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(
                    sql.SQL(
                        "SELECT * FROM {} WHERE store_id = %s AND {} = ANY(%s) ORDER BY external_id FOR NO KEY UPDATE"
                    ).format(sql.Identifier(table), sql.Identifier(key)),
                    (self.store_id, list(ids)),
                )
                rows[table] = cursor.fetchall()
        return Side.of_held(self.resource.value, rows)

    def _note(self, connection: psycopg.Connection[Any]) -> None:
        """Keep what was found, and open or close its incident, in the transaction of the repair."""
        found, context = self.found, self.context
        connection.execute(
            "INSERT INTO audits (store_id, resource, run_id, audited_at, sampled, different, missing, ahead, gone, lag, "
            "short, repaired, fields, external_ids) VALUES (%(store_id)s, %(resource)s, %(run_id)s, clock_timestamp(), "
            "%(sampled)s, %(different)s, %(missing)s, %(ahead)s, %(gone)s, %(lag)s, %(short)s, %(repaired)s, %(fields)s, "
            "%(external_ids)s)",
            {
                **vars(found),
                "store_id": self.store_id,
                "run_id": context.run_id,
                "fields": Jsonb(found.fields),
            },
        )
        fingerprint = Drift(self.store_id, found.resource)
        if not found.alarming:
            reporting.clear(connection, [fingerprint], "the next audit found no drift")
            return
        error = IntegrationError(
            f"{found.sentence()}; the first: {', '.join(found.external_ids[:3]) or 'not known by id'}",
            error_type=ErrorType.DRIFT,
            severity="medium" if found.left == 0 else "high",
            recoverable=found.left == 0,
            source=context.claim.platform,
            details={"fields": found.fields, "external_ids": found.external_ids},
        )
        fault = fault_of(
            context,
            fingerprint,
            error,
            payload=f"audits of store {self.store_id}, {found.resource}",
            needs_attention=found.left > 0,
            unit=found.resource,
        )
        reporting.report_fault(connection, fault, occurrence=context.run_id)
