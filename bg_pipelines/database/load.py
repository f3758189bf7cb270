"""Load: records of a page or more into their table, by one merge: a few as arrays, many by COPY into a temporary table.

    with database.transaction() as connection:
        counts = load(connection, "inventory_levels", store_id, records, seen_at=fetched_at, reject=keep)
        queue.save(...) # the cursor commits with the rows it covers

Generic over the synced tables: a record is a named tuple whose fields are columns of the table. It can be repeated,
and a row older than the stored one changes nothing. Rows that PostgreSQL rejects are set aside one by one, with column
and reason, and the rest loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from bg_pipelines.database.arrays import array_of, arrays_of, rows_of_arrays
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.records import Reject, remedied
from bg_pipelines.values import UNWRITABLE
from bg_pipelines.wording import counted

VALUES_AS_ARRAYS = 8_000
"""Rows of so many values, 300 orders or 570 lines, come with the merge itself, as arrays: to stage them costs as much as all the
rest, and tables that every run makes anew bloat PostgreSQL's catalogue. From about so many on COPY is faster (measured)."""

AHEAD = timedelta(minutes=10)
"""A row held with a time so far ahead of our clock is no newer version that arrived first: no change will ever be later.
A vendor's clock may differ by less."""


@dataclass
class Counts:
    """What became of the rows that were read: read = inserted + updated + unchanged + deleted + rejected.

    Rows that a full pass finds deleted were never read; they are added afterwards.
    """

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def require_complete(self, what: str) -> None:
        """Raises IntegrationError (count_mismatch) unless every row that was read is accounted for."""
        accounted = self.inserted + self.updated + self.unchanged + self.deleted + self.rejected
        if self.read != accounted:
            raise IntegrationError.of(
                ErrorType.COUNT_MISMATCH,
                f"{what}: {counted(self.read, 'row')} read but {accounted} accounted for; nothing of this batch was kept. "
                "This is a bug in bg-pipelines: please report it with the details",
                source="database",
                details={field.name: getattr(self, field.name) for field in fields(self)},
            )


class Changes(NamedTuple):
    """Rows that a transaction wrote: its time, and the source's times of the rows."""

    written_at: datetime
    changed_at: Sequence[datetime]

    @classmethod
    def of(cls, changes: Sequence[Changes]) -> Changes | None:
        """All of one transaction; None where there are none."""
        times = [at for some in changes for at in some.changed_at]
        return cls(changes[0].written_at, times) if times else None

    @property
    def newest(self) -> datetime:
        return max(self.changed_at)

    @property
    def lags(self) -> list[float]:
        """How late each was, in seconds. A source's clock may be ahead of ours."""
        return [max(0.0, (self.written_at - at).total_seconds()) for at in self.changed_at]


def load(
    connection: psycopg.Connection[Any],
    table: str,
    store_id: int,
    records: Sequence[Any],
    *,
    seen_at: datetime,
    confirm_before: datetime | None = None,
    right_before: datetime | None = None,
    into_empty: bool = False,
    reject: Callable[[Reject], None],
    met_again: Callable[[Sequence[str]], None] = lambda _: None,
    wrote: Callable[[Changes], None] | None = None,
    values_as_arrays: int = VALUES_AS_ARRAYS,
) -> Counts:
    """Merge records of one type into `table`, in the caller's transaction.

    `seen_at` is when the source was asked (our database's clock): a row that was marked deleted before that, and
    stands at the source now, lives again; one that was marked since stays as it is. `confirm_before`, in a full pass,
    is when the pass began: a row whose `synced_at` is older is noted in `confirmed_rows`, so that what is neither written
    nor noted at the end is gone. `right_before`: a row stored with a later time than the source has, but before this
    time, is not a newer version that arrived first: it is reset to the source's, and so is one that is `AHEAD`.
    `into_empty` says that the store probably has no row in the table yet: then there is nothing to merge with, and rows
    are copied into the table itself, in half the time; if one is there after all, they are merged. `reject` is called with each row that cannot
    be loaded; `met_again`, in a full pass, with the ids of rows that are as they were and were noted or written since it
    began: it has listed them before, or somebody else wrote them; `wrote`, where changes are timed, with those that were
    merged: what is copied into an empty table is no change.

    Raises IntegrationError (count_mismatch) if rows are not accounted for.
    """
    counts = Counts(read=len(records))
    unique = newest(records)
    counts.unchanged = len(records) - len(unique)
    if unique:
        columns = records[0]._fields
        merge = _Merge(
            connection,
            table,
            store_id,
            columns,
            seen_at,
            confirm_before,
            right_before,
            into_empty,
            reject,
            met_again,
            wrote,
            values_as_arrays,
        )
        counts += merge(unique)
    counts.require_complete(table)
    return counts


def newest(records: Sequence[Any]) -> Sequence[Any]:
    """Of two rows of one id the one with the newer source clock, the later one where they are equal."""
    if len({record.external_id for record in records if type(record.external_id) is str}) == len(records):
        return records
    newest: dict[Any, Any] = {}
    for position, record in enumerate(records):
        # Rows without a proper id are not one another; each is rejected.
        key = record.external_id if isinstance(record.external_id, str) else position
        held = newest.setdefault(key, record)
        if held is not record and _moment(record) >= _moment(held):
            newest[key] = record
    return list(newest.values())


class _Merge:
    """One table's staging and merge; called with a batch, calls itself with its halves when it is refused."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        table: str,
        store_id: int,
        columns: Sequence[str],
        seen_at: datetime,
        confirm_before: datetime | None,
        right_before: datetime | None,
        into_empty: bool,
        reject: Callable[[Reject], None],
        met_again: Callable[[Sequence[str]], None],
        wrote: Callable[[Changes], None] | None,
        values_as_arrays: int,
    ) -> None:
        self.connection = connection
        self.table = table
        self.into_empty = into_empty
        self.reject = reject
        self.met_again = met_again
        self.wrote = wrote
        self.parameters = {
            "store": store_id,
            "resource": table,
            "seen_at": seen_at,
            "confirm_before": confirm_before,
            "right_before": right_before,
            "timed": wrote is not None,
        }
        self.columns = tuple(columns)
        self.statements = _statements(table, self.columns)
        self.rows_as_arrays = values_as_arrays // len(columns)

    def __call__(self, records: Sequence[Any]) -> Counts:
        try:
            with self.connection.transaction():
                return self._insert(records) if self.into_empty else self._merge(records)
        except psycopg.errors.UniqueViolation:
            if not self.into_empty:
                raise
            self.into_empty = False
            return self(records)
        except (
            psycopg.DataError,
            psycopg.IntegrityError,
            psycopg.ProgrammingError,
            psycopg.errors.ProgramLimitExceeded,  # too long for an index
            UnicodeEncodeError,
        ) as error:
            if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is not None:
                raise  # the statement is wrong, not a row; without a code it is a value psycopg cannot write
            if self.rows_as_arrays and not self.into_empty:
                self.rows_as_arrays = 0  # COPY tells which column it is
                return self(records)
            if len(records) == 1:
                record = records[0]
                self.reject(Reject(record.external_id, _reason(error, record), record._asdict()))
                return Counts(rejected=1)
        middle = len(records) // 2
        counts = self(records[:middle])
        counts += self(records[middle:])
        return counts

    @contextmanager
    def _copy(self, statement: str) -> Iterator[psycopg.Copy]:
        with self.connection.cursor() as cursor, cursor.copy(self.statements[statement]) as copy:
            yield copy

    def _insert(self, records: Sequence[Any]) -> Counts:
        store_id = self.parameters["store"]
        with self._copy("insert") as copy:
            for record in records:
                copy.write_row((store_id, *record))
        self.connection.execute(self.statements["clear_inserted_rejects"], self.parameters)
        return Counts(inserted=len(records))

    def _merge(self, records: Sequence[Any]) -> Counts:
        execute, statements, parameters = self.connection.execute, self.statements, self.parameters
        arrays = arrays_of(records) if len(records) <= self.rows_as_arrays else None
        if arrays is not None:
            statements = _statements(self.table, self.columns, as_arrays=True)
            parameters = parameters | arrays
        else:
            # Made once a connection, emptied at each commit: one a page would bloat PostgreSQL's catalogue.
            execute(statements["stage"])
            with self._copy("copy") as copy:
                for record in records:
                    copy.write_row(record)
        merged = execute(statements["merge"], parameters).fetchone()
        assert merged is not None
        written, inserted, changed_at, now = merged
        if self.wrote is not None and changed_at:
            self.wrote(Changes(now, changed_at))
        # What was written has a newer `synced_at`, and of a first pass that is all.
        if self.parameters["confirm_before"] is not None and written < len(records):
            confirmed = execute(statements["confirm"], parameters).rowcount
            if written + confirmed < len(records):
                self.met_again([external_id for (external_id,) in execute(statements["again"], parameters)])
        return Counts(inserted=inserted, updated=written - inserted, unchanged=len(records) - written)


@lru_cache
def _statements(table: str, columns: tuple[str, ...], *, as_arrays: bool = False) -> dict[str, bytes]:
    """The rows that were read are in the stage, or `as_arrays` in the merge's own parameters."""
    stage = sql.Identifier(f"stage_{table}")
    content = [c for c in columns if c not in {"external_id", "source_updated_at"}]
    names = {
        "differs": _differs("h", "s", content),
        "differs_still": _differs("t", "excluded", content),
        "staged": sql.SQL(", ").join(sql.Identifier("s", c) for c in columns),
        "table": sql.Identifier(table),
        "stage": stage,
        "with": rows_of_arrays(table, columns) if as_arrays else sql.SQL("WITH "),
        "read": sql.Identifier("read") if as_arrays else stage,
        "ids": array_of("external_id")
        if as_arrays
        else sql.SQL("ARRAY(SELECT external_id FROM {})").format(stage),
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
        "assignments": sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(c), sql.Identifier("excluded", c))
            for c in (*content, "source_updated_at")
        ),
    }
    statements = {
        "stage": "CREATE TEMPORARY TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS "
        "AS SELECT {columns} FROM {table} WITH NO DATA; DELETE FROM {stage}",
        "insert": "COPY {table} (store_id, {columns}) FROM STDIN",
        # now() is this transaction's: the rows that it has just inserted.
        "clear_inserted_rejects": """
            DELETE FROM rejected_rows r USING {table} t WHERE r.store_id = %(store)s AND r.resource = %(resource)s
            AND t.store_id = r.store_id AND t.external_id = r.external_id AND t.synced_at = now()""",
        "copy": "COPY {stage} ({columns}) FROM STDIN",
        # xmax is 0 in a row version that this statement made from nothing. Most rows are held as they are read: they are left
        # out by looking them up first, for ON CONFLICT locks whatever it meets, and that is written to the log. OFFSET 0:
        # looked up by their key, whatever the planner believes of these tables.
        "merge": """
            {with} written AS (
                INSERT INTO {table} AS t (store_id, {columns})
                SELECT %(store)s, {staged} FROM {read} s LEFT JOIN LATERAL (
                    SELECT * FROM {table} WHERE store_id = %(store)s AND external_id = s.external_id OFFSET 0
                ) h ON true
                WHERE h.external_id IS NULL OR {differs}
                ON CONFLICT (store_id, external_id) DO UPDATE
                SET {assignments}, synced_at = now(), deleted_at = NULL
                WHERE {differs_still}
                RETURNING t.xmax = 0 AS inserted, t.source_updated_at
            ), cleared AS (
                DELETE FROM rejected_rows r WHERE r.store_id = %(store)s AND r.resource = %(resource)s
                AND EXISTS (SELECT FROM {read} s WHERE s.external_id = r.external_id)
            )
            SELECT count(*), count(*) FILTER (WHERE inserted), array_agg(source_updated_at) FILTER (WHERE %(timed)s), now()
            FROM written""",
        # An array and no join: whatever the planner believes of these tables, it looks the rows up by their key,
        # where a join would read all rows of the store for each batch.
        "confirm": """
            INSERT INTO confirmed_rows (store_id, resource, external_id)
            SELECT store_id, %(resource)s, external_id FROM {table}
            WHERE store_id = %(store)s AND external_id = ANY ({ids})
            AND synced_at < %(confirm_before)s ON CONFLICT DO NOTHING""",
        # What was written or noted just now has this transaction's time.
        "again": """
            SELECT external_id FROM {table} t
            WHERE store_id = %(store)s AND external_id = ANY ({ids}) AND deleted_at IS NULL
            AND ((synced_at >= %(confirm_before)s AND synced_at <> now()) OR EXISTS (SELECT FROM confirmed_rows c
                WHERE c.store_id = t.store_id AND c.resource = %(resource)s AND c.external_id = t.external_id
                AND c.confirmed_at <> now()))""",
    }
    return {name: sql.SQL(text).format(**names).as_bytes() for name, text in statements.items()}


def _differs(held: str, read: str, content: Sequence[str]) -> sql.Composed:
    """Whether a row that is held, by the first alias, is to be overwritten with what was read, by the second: see `load`."""
    return sql.SQL("""(({held}.deleted_at >= %(seen_at)s) IS NOT TRUE
        AND ({read}.source_updated_at > {held}.source_updated_at
            OR ({read}.source_updated_at < {held}.source_updated_at
                AND ({held}.source_updated_at < %(right_before)s OR {held}.source_updated_at > now() + {ahead}))
            OR ({read}.source_updated_at = {held}.source_updated_at
                AND (({held_content}) IS DISTINCT FROM ({read_content}) OR {held}.deleted_at IS NOT NULL))))""").format(
        held=sql.Identifier(held),
        read=sql.Identifier(read),
        ahead=sql.Literal(AHEAD),
        held_content=sql.SQL(", ").join(sql.Identifier(held, c) for c in content),
        read_content=sql.SQL(", ").join(sql.Identifier(read, c) for c in content),
    )


def _moment(record: Any) -> datetime:
    """The source's clock, whatever its spelling; a time that is none is older than all."""
    try:
        moment = datetime.fromisoformat(record.source_updated_at)
    except (TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _unwritable_column(record: Any) -> str | None:
    """The column whose value cannot even be sent to PostgreSQL."""
    for column, value in record._asdict().items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict | list) or (isinstance(part, str) and UNWRITABLE.search(part)):
                return str(column)
    return None


def _reason(error: Exception, record: Any) -> str:
    """Column, fault and remedy, without the value, which may be personal."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        unwritable = _unwritable_column(record) or "a value"
        return remedied(f"{unwritable}: not a text or a number that PostgreSQL can hold")
    diagnostic = error.diag
    column = diagnostic.column_name or diagnostic.constraint_name
    place = re.search(r"column (\w+)", diagnostic.context or "")
    if place:
        column = place[1]
    elif isinstance(error, psycopg.errors.ProgramLimitExceeded):
        # Too long for an index, of which PostgreSQL names neither.
        lengths = {len(value): name for name, value in record._asdict().items() if isinstance(value, str)}
        column = lengths[max(lengths)]
    # PostgreSQL quotes the value as it is: what begins with a quotation mark may go on behind the next one. Where
    # a constraint is broken it quotes names only.
    quoted = r'(?s):? ".*"' if isinstance(error, psycopg.DataError) else r':? "[^"]*"'
    fault = re.sub(quoted, "", diagnostic.message_primary or "")
    return remedied(f"{column or 'a value'}: {fault}")
