"""Tables that are mostly empty space: rewritten beside their use on PostgreSQL 19, where a person allows it; else advice.

`REPACK (CONCURRENTLY)` is not safe for snapshots: a transaction with one snapshot for all of it (a `pg_dump`, or isolation
REPEATABLE READ) that took it before the repack's end, and comes to the table after, sees it empty (the command's reference
page). So it is never done unasked (`BG_REPACK`), and not while a long transaction is under way.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from psycopg.rows import class_row

from bg_pipelines.cleaning.advice import Advice
from bg_pipelines.cleaning.relations import Connection, autocommit
from bg_pipelines.cleaning.upkeep import BLOATED_SHARE, Kept, StopAsked, room, run_statement
from bg_pipelines.database.engine import Database

REPACK_FROM = 190_000
"""`server_version_num` of the first server that has the command."""
BLOATED_BYTES = 256 * 1024 * 1024
SWAP_TIMEOUT_MS = 100
"""The new table takes the old one's place under a short lock of the whole table; so long others wait for it at most."""


class Server(NamedTuple):
    """What the command asks of a server. `slots` are what it has for it, None before 19."""

    version: int
    wal_level: str
    slots: int | None
    long_transaction: bool


class Bloated(NamedTuple):
    """A table whose rows would fit into `expected` bytes. `keyed`: it has what the command knows rows by."""

    name: str
    size: int
    expected: int
    keyed: bool


def why_not(server: Server, *, allowed: bool) -> str | None:
    """Why no table is repacked on this server; None: it can be."""
    if server.version < REPACK_FROM:
        return "PostgreSQL 19 is the first that can do it beside the table's use"
    if not allowed:
        return "BG_REPACK is not set"
    if server.wal_level == "minimal" or not server.slots:
        return "it needs wal_level replica and max_repack_replication_slots above 0"
    return "a long transaction is under way" if server.long_transaction else None


def statement(server: Server, table: Bloated) -> str:
    """What rewrites this table on this server."""
    if server.version < REPACK_FROM:
        return f"VACUUM (FULL, ANALYZE) {table.name}"
    return f"REPACK (CONCURRENTLY, ANALYZE) {table.name}" if table.keyed else f"REPACK {table.name}"


_SERVER = """
    SELECT current_setting('server_version_num')::int AS version, current_setting('wal_level') AS wal_level,
        current_setting('max_repack_replication_slots', true)::int AS slots,
        EXISTS (SELECT FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
            AND backend_type = 'client backend' AND xact_start < clock_timestamp() - interval '1 minute') AS long_transaction"""
# A row's header and line pointer, and what alignment takes; columns without statistics make a table's size unknown.
_BLOATED = """
    SELECT format('%%I.%%I', n.nspname, c.relname) AS name, pg_relation_size(c.oid) AS size,
        (c.reltuples * (32 + w.width) / (current_setting('block_size')::int - 24)
            * current_setting('block_size')::int)::bigint AS expected,
        EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid) AS keyed
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT sum(s.avg_width) AS width, count(*) = count(s.avg_width) AS known FROM pg_attribute a
        LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) w
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND pg_has_role(c.relowner, 'USAGE') AND w.known AND c.reltuples > 0
        AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema' AND pg_relation_size(c.oid) > %s
    ORDER BY 2 DESC"""


def find_bloated(connection: Connection, bloated_bytes: int = BLOATED_BYTES) -> list[Bloated]:
    """Large tables that are more than half empty by estimate, the largest first."""
    with connection.cursor(row_factory=class_row(Bloated)) as cursor:
        tables = cursor.execute(_BLOATED, (bloated_bytes,)).fetchall()
    return [table for table in tables if table.expected <= table.size * (1 - BLOATED_SHARE)]


def repack(
    database: Database,
    stop: StopAsked,
    *,
    allowed: bool,
    data: Path | None,
    bloated_bytes: int = BLOATED_BYTES,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> tuple[Kept, list[Advice]]:
    """Rewrite what is mostly empty, where that can be done beside its use and there is room; else the advice to."""
    figures: Counter[str] = Counter()
    advice: list[Advice] = []
    with autocommit(database, SWAP_TIMEOUT_MS) as connection:
        with connection.cursor(row_factory=class_row(Server)) as cursor:
            [server] = cursor.execute(_SERVER).fetchall()
        refused = why_not(server, allowed=allowed)
        for table in find_bloated(connection, bloated_bytes):
            if (why := stop()) is not None:
                return Kept(figures, why), advice
            reason = refused
            if reason is None and not table.keyed:
                reason = "without a primary key it locks the table"
            if reason is None and table.size > room(data, free):
                reason = "there is no room for another of it"
            if reason is not None:
                advice.append(
                    Advice(
                        "bloated table",
                        table.name,
                        f"{table.size / 1e6:,.0f} MB for rows of about {table.expected / 1e6:,.0f} MB; not done: {reason}",
                        statement(server, table),
                    )
                )
            elif run_statement(connection, statement(server, table)):
                row = connection.execute("SELECT pg_relation_size(to_regclass(%s))", (table.name,)).fetchone()
                figures["upkeep.repacked"] += 1
                figures["upkeep.bytes"] += max(0, table.size - (row[0] if row else 0))
    return Kept(figures), advice
