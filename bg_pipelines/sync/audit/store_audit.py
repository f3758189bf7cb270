"""Drift audit: a sample of a store's rows is asked for by id, compared field by field, repaired and reported.

Every pass proves that what it read is what is held (`database/proof.py`). The audit is for what no pass would notice:
a row that was changed here by other hands, one that a pass never met, a field that came out otherwise. Half of a
sample are rows that changed at the source lately, half are taken from anywhere among those that are held.

What is merely not synced yet is `lag` and no drift: it changed at the source since the time from which the next pass
reads on, or another pass wrote it while the audit asked. Where the source does not tell when a row was changed, it may
have been since: that is for the next pass, which reads all of those, to put right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import fingerprints, reporting
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import AUDIT_EVERY, next_turn
from bg_pipelines.records import PARTS, Page, Resource
from bg_pipelines.sync.audit.compare import Comparison, Side, compare
from bg_pipelines.sync.summary import ResourceAudit
from bg_pipelines.sync.table_sync import ResourceSync
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import clock
from bg_pipelines.work.store_units import Claim

if TYPE_CHECKING:
    from bg_pipelines.sync.visit import StoreSync

AUDITED = tuple(resource for resource in Resource if resource not in (Resource.STORE, Resource.AUDIT))
RECENT = timedelta(days=1)
"""Half of a sample changed at the source within this time, as far as so many did."""
LOOK_AGAIN = timedelta(hours=1)
"""How soon a store is audited again that had drift, or of which nothing was synced yet."""
ROWS_AT_ONCE = 100
NEIGHBOURS = 5
"""So many rows are taken from each random place: more would be more alike, fewer cost more looks into the index."""
IDS_KEPT = 20


class StoreAudit:
    """The audit of one store: each of its resources that was ever synced, one after the other.

    The cursor of the unit is JSON: `short`, by resource: when the source was first seen to have more rows than are
    held.
    """

    def __init__(self, store: StoreSync, platform: Platform, work: Claim, attempt: int) -> None:
        self.store = store
        self.run_ = store.run_
        self.database = store.database
        self.platform = platform
        self.work = work
        self.attempt = attempt
        self.cursor: dict[str, Any] = {"short": {}} | work.cursor
        self.short: dict[str, str] = self.cursor["short"]
        self.progressed = False
        self.alarming = False

    def run(self) -> None:
        """Raises IntegrationError, classified, where the platform or the database fails: the audit is tried again."""
        with self.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "SELECT resource, cursor, last_succeeded_at FROM sync_states WHERE store_id = %s",
                (self.work.store_id,),
            )
            states = {row["resource"]: row for row in cursor.fetchall()}
        audited = [r for r in AUDITED if states.get(r, {}).get("last_succeeded_at") is not None]
        for resource in audited:
            self.run_.check_stopped()
            self._audit(resource, states[resource])
        if not audited:
            self.run_.note_message(f"{self.store.name}: not audited, nothing of it was ever synced")
        # Else it is looked at again soon: after its first syncs, or to see whether the fault is over.
        is_well = audited and not self.alarming and not self.short
        every = AUDIT_EVERY if is_well else LOOK_AGAIN
        with self.database.transaction() as connection:
            due = next_turn(self.work.claimed_at, every, self.work.store_id)
            store_units.complete(
                connection, self.work, self.cursor, next_due_at=due, full_pass_since=self.work.claimed_at
            )
            connection.execute(
                "UPDATE sync_attempts SET status = 'succeeded', finished_at = clock_timestamp() WHERE id = %s",
                (self.attempt,),
            )

    def _audit(self, resource: Resource, state: dict[str, Any]) -> None:
        since = state["cursor"].get("since")
        _ResourceAudit(self, resource, datetime.fromisoformat(since) if since else None, state).run()

    def note(self, connection: psycopg.Connection[Any], found: ResourceAudit) -> None:
        """Keep what was found, and open or close its incident, in the transaction of the repair."""
        connection.execute(
            "INSERT INTO audits (store_id, resource, run_id, audited_at, sampled, different, missing, ahead, gone, lag, "
            "short, repaired, fields, external_ids) VALUES (%(store_id)s, %(resource)s, %(run_id)s, clock_timestamp(), "
            "%(sampled)s, %(different)s, %(missing)s, %(ahead)s, %(gone)s, %(lag)s, %(short)s, %(repaired)s, %(fields)s, "
            "%(external_ids)s)",
            {
                **vars(found),
                "store_id": self.work.store_id,
                "run_id": self.run_.run_id,
                "fields": Jsonb(found.fields),
            },
        )
        fingerprint = fingerprints.Drift(self.work.store_id, found.resource)
        if not found.alarming:
            reporting.clear(connection, [fingerprint], "the next audit found no drift")
            return
        self.alarming = True
        error = IntegrationError(
            f"{found.sentence()}; the first: {', '.join(found.external_ids[:3]) or 'not known by id'}",
            error_type=ErrorType.DRIFT,
            severity="medium" if found.left == 0 else "high",
            recoverable=found.left == 0,
            source=self.work.platform,
            details={"fields": found.fields, "external_ids": found.external_ids},
        )
        fault = reporting.Fault(
            fingerprint,
            subject=f"store {self.store.name}",
            error=error,
            needs_attention=found.left > 0,
            job=self.run_.request.job,
            platform=self.work.platform,
            store_id=self.work.store_id,
            resources=[found.resource],
            payload=f"audits of store {self.work.store_id}, {found.resource}",
        )
        reporting.report(connection, fault, occurrence=self.run_.run_id)


class _ResourceAudit:
    """The audit of one resource: pick, ask, then compare and repair in one transaction."""

    def __init__(
        self, audit: StoreAudit, resource: Resource, since: datetime | None, state: dict[str, Any]
    ) -> None:
        self.audit = audit
        self.platform = audit.platform
        self.database = audit.database
        self.store_id = audit.work.store_id
        self.resource = resource
        self.since = since
        self.gap: int = state["cursor"].get("gap", 0)
        self.last_succeeded_at: datetime = state["last_succeeded_at"]
        self.tables = (resource.value, *PARTS.get(resource, ()))
        self.found = ResourceAudit(audit.store.name, resource.value)

    def run(self) -> None:
        sample = self.audit.run_.request.sample
        with self.database.transaction() as connection:
            self.seen_at = clock(connection)
        recent = self._changed_lately()
        rng = self.audit.run_.rng
        lately = sorted(
            record.external_id for record in recent.records if isinstance(record.external_id, str)
        )
        wanted = set(rng.sample(lately, min(len(lately), sample // 2)))
        with self.database.transaction() as connection:
            wanted |= set(
                random_ids(connection, self.resource.value, self.store_id, sample - len(wanted), rng)
            )
            unloadable = self._rejected(connection, list(wanted))
        short = self._short(recent.source_count)
        ids = sorted(wanted - unloadable[self.resource.value])
        answer = self._ask(ids)
        with self.database.transaction() as connection:
            store_units.save(connection, self.audit.work, self.audit.cursor)
            counts = self._compare_and_repair(connection, ids, answer)
            if short:
                self._mend_short(connection, short)
            self.audit.note(connection, self.found)
        self.audit.progressed = True
        self.audit.run_.note_rows(Resource.AUDIT, 1, counts)
        self.audit.run_.note_audit(self.found)

    # What is looked at

    def _changed_lately(self) -> Page:
        """The first page of what changed at the source of late, with the source's count of all rows."""
        return next(self.platform.pages(self.resource, since=self.seen_at - RECENT, resume=None))

    def _ask(self, ids: Sequence[str]) -> Page:
        """These rows as the source has them, as one page."""
        whole = Page(read=0, records=[])
        records: list[Any] = []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            self.audit.run_.check_stopped()
            page = self.platform.rows(self.resource, ids[start : start + ROWS_AT_ONCE])
            records += page.records
            whole.gone += page.gone
            whole.rejects += page.rejects
            for table, parts in page.parts.items():
                whole.parts.setdefault(table, []).extend(parts)
        whole.records = records
        return whole

    def _rejected(self, connection: psycopg.Connection[Any], ids: list[str]) -> dict[str, set[str]]:
        """Rows and parts that could not be loaded: that they differ is known, and is an incident of its own."""
        rejected: dict[str, set[str]] = {table: set() for table in self.tables}
        for table, external_id in connection.execute(
            "SELECT resource, external_id FROM rejected_rows WHERE store_id = %s AND (resource = ANY(%s) "
            "OR resource = %s AND external_id = ANY(%s))",
            (self.store_id, list(self.tables[1:]), self.resource.value, ids),
        ):
            rejected[table].add(external_id)
        return rejected

    # Counts

    def _short(self, source_count: int | None) -> int:
        """How many rows the source has that are not held, where that has outlasted a pass; else it is remembered.

        Rows that came since the time from which the next pass reads are that pass's. Fewer rows there than here is what every pass
        looks for by itself.
        """
        first_seen = self.audit.short.pop(self.resource, None)
        if source_count is None:
            return 0
        with self.database.transaction() as connection:
            short = source_count - self._sync().whole.count_held(connection) - self.gap
        if short > 0:
            new = self._new_rows()
            short = 0 if new is None else short - new
        if short <= 0:
            return 0
        now = self.seen_at.isoformat()
        self.audit.short[self.resource] = first_seen or now
        if first_seen and datetime.fromisoformat(first_seen) < self.last_succeeded_at:
            return short
        return 0

    def _new_rows(self) -> int | None:
        """How many rows the next pass will find that are not held; None if they are more than a page."""
        if self.since is None:
            return None
        page = next(self.platform.pages(self.resource, since=self.since, resume=None))
        if page.resume is not None:
            return None
        ids = [record.external_id for record in page.records]
        with self.database.transaction() as connection, connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                sql.SQL(
                    "SELECT count(*) FROM {} WHERE store_id = %s AND external_id = ANY(%s) AND deleted_at IS NULL"
                ).format(sql.Identifier(self.resource.value)),
                (self.store_id, ids),
            )
            return len(ids) - int(cursor.fetchone() or 0)

    def _mend_short(self, connection: psycopg.Connection[Any], short: int) -> None:
        """Rows that no pass has brought: everything is read again, at once."""
        self.found.short = short
        connection.execute(
            "UPDATE sync_states SET last_full_at = NULL, next_due_at = least(next_due_at, clock_timestamp()) "
            # What is parked goes on waiting for a person.
            "WHERE store_id = %s AND resource = %s AND next_due_at IS NOT NULL",
            (self.store_id, self.resource.value),
        )

    # Comparing and repairing

    def _compare_and_repair(
        self, connection: psycopg.Connection[Any], ids: Sequence[str], answer: Page
    ) -> Counts:
        found = self.found
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
        self._sync().count_attempt(connection, 1, fine)
        counts += fine
        return counts

    def _judge(self, comparison: Comparison, held: Side, source: Side, answer: Page) -> dict[str, str]:
        """What has drifted, by id, and how; the others are equal or merely late. Counted in `found`."""
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
            if here == there:
                late = self.resource in self.platform.undated
            else:
                late = self._is_late(external_id, here, there, held)
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
        return self.since is None or there >= self.since

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
        return self._sync().load_asked(connection, page, self.seen_at)

    def _sync(self) -> ResourceSync:
        """The resource's own loading, in the name of this audit's attempt."""
        work = replace(self.audit.work, resource=self.resource.value, cursor={})
        return ResourceSync(self.audit.store, self.platform, work, self.audit.attempt)

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


def random_ids(
    connection: psycopg.Connection[Any], table: str, store_id: int, wanted: int, rng: random.Random
) -> list[str]:
    """Ids of up to `wanted` rows of a store, from random places of the table's key: all of them, if they are no more.

    Of many rows, some are found by the index from made-up ids between the first and the last, so a large table is never
    read through; a row behind a gap between ids is a little more likely than another.
    """
    if wanted <= 0:
        return []
    listed = max(wanted, LISTED)
    statement = sql.SQL("SELECT external_id FROM {} WHERE store_id = %s ORDER BY external_id LIMIT %s")
    first = [
        row[0] for row in connection.execute(statement.format(sql.Identifier(table)), (store_id, listed + 1))
    ]
    if len(first) <= listed:
        return rng.sample(first, min(len(first), wanted))
    places = [_place(connection, table, store_id, first[0], rng) for _ in range(-(-wanted * 2 // NEIGHBOURS))]
    around = connection.execute(AROUND.format(table=sql.Identifier(table)), (places, store_id, NEIGHBOURS))
    found = sorted({row[0] for row in around} | set(places))
    return rng.sample(found, min(len(found), wanted))


def _place(
    connection: psycopg.Connection[Any], table: str, store_id: int, first: str, rng: random.Random
) -> str:
    """An id that is held, from anywhere. Of ids with several parts (a stock level's location and item) each is drawn."""

    def held(comparison: str, than: str) -> str | None:
        statement = sql.SQL(
            "SELECT external_id FROM {} WHERE store_id = %s AND external_id {} %s ORDER BY external_id {} LIMIT 1"
        )
        direction = "DESC" if comparison.startswith("<") else "ASC"
        row = connection.execute(
            statement.format(sql.Identifier(table), sql.SQL(comparison), sql.SQL(direction)), (store_id, than)
        ).fetchone()
        return row[0] if row else None

    low, high, near = first, held("<=", "\U0010ffff") or first, first
    while low < high:
        made = made_up_id(low, high, rng)
        # Upwards or downwards, else nothing would be drawn from behind the first of few beginnings.
        ways = rng.sample([">=", "<="], 2)
        near = held(ways[0], made) or held(ways[1], made) or near
        drawn = _common(low, high) + PLACES
        low, high = held(">=", near[:drawn]) or near, held("<=", near[:drawn] + "\U0010ffff") or near
        if drawn >= len(near):
            break
    return near


AROUND = sql.SQL(
    "SELECT near.external_id FROM unnest(%s::text[]) AS place CROSS JOIN LATERAL ("
    "SELECT external_id FROM {table} WHERE store_id = %s AND external_id >= place ORDER BY external_id LIMIT %s) near"
)


def made_up_id(first: str, last: str, rng: random.Random) -> str:
    """A text somewhere between these two ids: their common beginning, and then digits or letters."""
    common = _common(first, last)
    rest = [text[common : common + PLACES] for text in (first, last)]
    letters = _LETTERS[:10] if all(text[:1].isdigit() for text in rest) else _LETTERS
    low, high = sorted(_number(text, letters) for text in rest)
    number, made = rng.randint(low, high), ""
    for _ in range(PLACES):
        number, letter = divmod(number, len(letters))
        made = letters[letter] + made
    return first[:common] + made


def _common(one: str, other: str) -> int:
    """How many characters two ids begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def _number(text: str, letters: str) -> int:
    """The text as a number whose digits are these letters; what is none of them counts as the first."""
    number = 0
    for letter in text.ljust(PLACES, letters[0]):
        number = number * len(letters) + max(0, letters.find(letter))
    return number


PLACES = 12
LISTED = 5_000
"""So many ids are listed in a moment, and a sample of them is as random as can be."""
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
