"""Proof that what a full pass read is what is stored: counts, and a checksum that does not depend on the order.

A row's part of the checksum is the CRC-32 of its id and its `source_updated_at`, a part's (an order's line) that of its
id; the checksum is their sum. The two sides are computed independently: over the records as they came from the source,
before anything is written, and over the table after the last page.

`cutoff` divides the rows into those that did not change at the source since then, which are summed, and those that did
(`volatile`), which are only counted: such a row may be read in one version and stored in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import psycopg
from psycopg import sql

from bg_pipelines.sync.confirmed import IS_CONFIRMED
from bg_pipelines.values import read_time

CRC32_SINCE = 180_000
"""PostgreSQL 18 has crc32() itself; with an older one the rows are streamed here to be summed."""


class Sum(NamedTuple):
    """How many rows and the sum of their checksums; and how many that changed since the cutoff."""

    rows: int
    checksum: int
    volatile: int = 0

    def __add__(self, other: Any) -> Sum:
        return Sum(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Sum) -> Sum:
        return Sum(*(a - b for a, b in zip(self, other, strict=True)))


NOTHING = Sum(0, 0)


def of_records(records: Sequence[Any], cutoff: datetime | None = None) -> Sum:
    """Of rows as they were read: named tuples that begin with `external_id` and `source_updated_at`.

    One whose id is none is left out: it is rejected.
    """
    settled, volatile, plain = _parted(records, cutoff)
    # To the second and in UTC is how most write it, and is left as it is.
    texts = [f'{r[0]} "{r[1][:19] if plain else _moment(r[1])}"' for r in settled if type(r[0]) is str]
    return Sum(len(texts), _sum(texts), len(volatile))


def of_parts(parts: Sequence[Any], cutoff: datetime | None = None) -> Sum:
    """Of parts of rows as they were read."""
    settled, volatile, _ = _parted(parts, cutoff)
    ids = [part[0] for part in settled if type(part[0]) is str]
    return Sum(len(ids), _sum(ids), len(volatile))


def volatile_ids(records: Sequence[Any], cutoff: datetime) -> list[str]:
    """The ids of those that changed since the cutoff."""
    return [r[0] for r in _parted(records, cutoff)[1]]


def _parted(records: Sequence[Any], cutoff: datetime | None) -> tuple[Sequence[Any], Sequence[Any], bool]:
    """What did not change since the cutoff, what did, and whether all times are written like 2026-01-01T00:00:00Z."""
    times = [r[1] for r in records]
    plain = _are_plain(times)
    if cutoff is None or not records:
        return records, (), plain
    # A whole second: what is before it is so by its first 19 characters.
    limit = cutoff.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    # Most often nothing did, and all times are written alike.
    if plain and max(times) < limit:
        return records, (), plain
    settled: list[Any] = []
    volatile: list[Any] = []
    for record in records:
        (settled if _moment(record[1])[:19] < limit else volatile).append(record)
    return settled, [r for r in volatile if type(r[0]) is str], plain


def _are_plain(times: list[Any]) -> bool:
    """Whether all are written like 2026-01-01T00:00:00Z."""
    try:
        joined = "".join(times)
    except TypeError:
        return False
    alike = {len(time) for time in times} == {20}
    return alike and joined[10::20] == "T" * len(times) and joined[19::20] == "Z" * len(times)


def held(
    connection: psycopg.Connection[Any],
    table: str,
    store_id: int,
    *,
    created_since: datetime | None = None,
    listed_since: datetime | None = None,
    cutoff: datetime | None = None,
    only: Sequence[str] | None = None,
    rejected_too: bool = False,
    crc32_since: int = CRC32_SINCE,
) -> Sum:
    """Of the rows that stand in a table, but for those whose newer version could not be loaded.

    `created_since`: only rows that were created since then, or listed since `listed_since`; `only`: of these ids;
    `rejected_too`: and those others.
    """
    return _of_query(
        connection,
        sql.SQL(
            # As JSON it is written like nothing but ISO 8601, and in less time than by to_char().
            "SELECT external_id || ' ' || to_json(source_updated_at AT TIME ZONE 'UTC'), {volatile} "
            "FROM {table} t WHERE store_id = {store} AND deleted_at IS NULL {created} {only} AND {loadable}"
        ).format(
            volatile=_volatile(cutoff),
            table=sql.Identifier(table),
            store=sql.Literal(store_id),
            created=_created("t", table, created_since, listed_since),
            only=_only("external_id", only),
            loadable=sql.SQL("true") if rejected_too else _loadable(table, store_id, "external_id"),
        ),
        crc32_since,
    )


def held_parts(
    connection: psycopg.Connection[Any],
    table: str,
    store_id: int,
    whole: str,
    *,
    created_since: datetime | None = None,
    listed_since: datetime | None = None,
    cutoff: datetime | None = None,
    only: Sequence[str] | None = None,
    rejected_too: bool = False,
    crc32_since: int = CRC32_SINCE,
) -> Sum:
    """Of the parts that stand in a table and belong to a row of `whole` that could be loaded; `only`: to one of these."""
    created: sql.Composable = sql.SQL("")
    if created_since:
        created = sql.SQL(
            "AND EXISTS (SELECT FROM {whole} w WHERE w.store_id = t.store_id AND w.external_id = t.order_external_id "
            "{created})"
        ).format(whole=sql.Identifier(whole), created=_created("w", whole, created_since, listed_since))
    return _of_query(
        connection,
        sql.SQL(
            "SELECT external_id, {volatile} FROM {table} t WHERE store_id = {store} AND deleted_at IS NULL {created} {only} "
            "AND {loadable} AND {whole_loadable}"
        ).format(
            volatile=_volatile(cutoff),
            table=sql.Identifier(table),
            store=sql.Literal(store_id),
            created=created,
            only=_only("order_external_id", only),
            loadable=_loadable(table, store_id, "external_id"),
            whole_loadable=sql.SQL("true")
            if rejected_too
            else _loadable(whole, store_id, "order_external_id"),
        ),
        crc32_since,
    )


def _created(alias: str, table: str, since: datetime | None, listed_since: datetime | None) -> sql.Composable:
    if since is None:
        return sql.SQL("")
    listed = "{alias}.synced_at >= {listed_since} OR " + IS_CONFIRMED.format("{alias}", "{table}")
    return sql.SQL(f"AND ({{alias}}.source_created_at >= {{since}} OR {listed})").format(
        alias=sql.Identifier(alias),
        table=sql.Literal(table),
        since=sql.Literal(since),
        listed_since=sql.Literal(listed_since),
    )


def _volatile(cutoff: datetime | None) -> sql.Composable:
    if cutoff is None:
        return sql.SQL("false")
    return sql.SQL("source_updated_at >= {}").format(sql.Literal(cutoff))


def _only(column: str, ids: Sequence[str] | None) -> sql.Composable:
    if ids is None:
        return sql.SQL("")
    return sql.SQL("AND {} = ANY ({})").format(sql.Identifier("t", column), sql.Literal(list(ids)))


def _loadable(table: str, store_id: int, column: str) -> sql.Composed:
    return sql.SQL(
        "{column} NOT IN (SELECT external_id FROM rejected_rows WHERE store_id = {store} AND resource = {table})"
    ).format(column=sql.Identifier("t", column), store=sql.Literal(store_id), table=sql.Literal(table))


def _of_query(connection: psycopg.Connection[Any], texts: sql.Composed, crc32_since: int) -> Sum:
    if connection.info.server_version >= crc32_since:
        summed = sql.SQL(
            "SELECT count(*) FILTER (WHERE NOT volatile), "
            "coalesce(sum(crc32(convert_to(text, 'UTF8'))) FILTER (WHERE NOT volatile), 0)::bigint, "
            "count(*) FILTER (WHERE volatile) FROM ({texts}) AS r (text, volatile)"
        ).format(texts=texts)
        row = connection.execute(summed).fetchone()
        assert row is not None
        return Sum(*map(int, row))
    total = NOTHING
    with connection.cursor() as cursor, cursor.copy(sql.SQL("COPY ({}) TO STDOUT").format(texts)) as copy:
        copy.set_types(["text", "bool"])
        for text, is_volatile in copy.rows():
            total += Sum(0, 0, 1) if is_volatile else Sum(1, crc32(text.encode()))
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
        moment = read_time(text).replace(tzinfo=None).isoformat()
    except ValueError:
        return ""
    return moment.rstrip("0") if "." in moment else moment
