"""Proof that what a full pass read is what is held: counts, and a checksum that does not depend on the order.

A row's part of the checksum is the CRC-32 of its id and its `source_updated_at`, a part's (an order's line) that of its
id; the checksum is their sum. Both sides are computed apart: over the records as they came from the source, before
anything is written, and over the table after the last page was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import psycopg
from psycopg import sql

CRC32_SINCE = 180_000
"""PostgreSQL 18 has crc32() itself; with an older one the rows are streamed here to be summed."""


class Sum(NamedTuple):
    """How many rows, and the sum of their checksums."""

    rows: int
    checksum: int

    def __add__(self, other: Any) -> Sum:
        return Sum(self.rows + other.rows, self.checksum + other.checksum)

    def __sub__(self, other: Sum) -> Sum:
        return Sum(self.rows - other.rows, self.checksum - other.checksum)


NOTHING = Sum(0, 0)


def of_records(records: Sequence[Any]) -> Sum:
    """Of rows as they were read: named tuples that begin with `external_id` and `source_updated_at`.

    One whose id is none is left out: it is rejected.
    """
    texts = [
        # To the second and in UTC is how most write it, and is left as it is.
        f"{r[0]} {r[1] if type(r[1]) is str and len(r[1]) == 20 else _moment(r[1])}"
        for r in records
        if type(r[0]) is str
    ]
    return Sum(len(texts), _sum(texts))


def of_parts(parts: Sequence[Any]) -> Sum:
    """Of parts of rows as they were read."""
    ids = [part.external_id for part in parts if type(part.external_id) is str]
    return Sum(len(ids), _sum(ids))


def held(
    connection: psycopg.Connection[Any], table: str, store_id: int, created_since: datetime | None = None
) -> Sum:
    """Of the rows that stand in a table, but for those whose newer version could not be loaded.

    `created_since`: only rows that were created since then.
    """
    return _of_query(
        connection,
        sql.SQL(
            "SELECT external_id || ' ' || rtrim(rtrim(to_char(source_updated_at AT TIME ZONE 'UTC', "
            "'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '0'), '.') || 'Z' "
            "FROM {table} t WHERE store_id = {store} AND deleted_at IS NULL {created} AND {loadable}"
        ).format(
            table=sql.Identifier(table),
            store=sql.Literal(store_id),
            created=sql.SQL("AND source_created_at >= {}").format(sql.Literal(created_since))
            if created_since
            else sql.SQL(""),
            loadable=_loadable(table, store_id, "external_id"),
        ),
    )


def held_parts(
    connection: psycopg.Connection[Any],
    table: str,
    store_id: int,
    whole: str,
    created_since: datetime | None = None,
) -> Sum:
    """Of the parts that stand in a table and belong to a row of `whole` that could be loaded."""
    created: sql.Composable = sql.SQL("")
    if created_since:
        created = sql.SQL(
            "AND EXISTS (SELECT FROM {whole} w WHERE w.store_id = t.store_id AND w.external_id = t.order_external_id "
            "AND w.source_created_at >= {since})"
        ).format(whole=sql.Identifier(whole), since=sql.Literal(created_since))
    return _of_query(
        connection,
        sql.SQL(
            "SELECT external_id FROM {table} t WHERE store_id = {store} AND deleted_at IS NULL {created} "
            "AND {loadable} AND {whole_loadable}"
        ).format(
            table=sql.Identifier(table),
            store=sql.Literal(store_id),
            created=created,
            loadable=_loadable(table, store_id, "external_id"),
            whole_loadable=_loadable(whole, store_id, "order_external_id"),
        ),
    )


def _loadable(table: str, store_id: int, column: str) -> sql.Composed:
    return sql.SQL(
        "{column} NOT IN (SELECT external_id FROM rejected_rows WHERE store_id = {store} AND resource = {table})"
    ).format(column=sql.Identifier("t", column), store=sql.Literal(store_id), table=sql.Literal(table))


def _of_query(connection: psycopg.Connection[Any], texts: sql.Composed) -> Sum:
    if connection.info.server_version >= CRC32_SINCE:
        summed = sql.SQL(
            "SELECT count(*), coalesce(sum(crc32(convert_to(text, 'UTF8'))), 0)::bigint FROM ({texts}) AS r (text)"
        ).format(texts=texts)
        row = connection.execute(summed).fetchone()
        assert row is not None
        return Sum(int(row[0]), int(row[1]))
    total = NOTHING
    with connection.cursor() as cursor, cursor.copy(sql.SQL("COPY ({}) TO STDOUT").format(texts)) as copy:
        copy.set_types(["text"])
        for (text,) in copy.rows():
            total += Sum(1, crc32(text.encode()))
    return total


def _sum(texts: list[str]) -> int:
    try:
        return sum(map(crc32, map(str.encode, texts)))
    except UnicodeEncodeError:
        # A surrogate is in no text that PostgreSQL takes: such a row is rejected, and taken off again.
        return sum(crc32(text.encode("utf-8", "surrogatepass")) for text in texts)


def _moment(text: Any) -> str:
    """A source's time in one spelling, whichever it came in."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return ""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"
