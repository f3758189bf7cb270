"""Upkeep: vacuum, statistics and indexes, where a table needs it and the server has room; everything else is advice.

Done here: `VACUUM (ANALYZE)` of tables with many dead or changed rows, `REINDEX CONCURRENTLY` of large bloated indexes,
removal of what an interrupted `REINDEX CONCURRENTLY` left behind. A person decides about all else (`advice`, `repack`). Only
tables that this role owns are touched.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row

from bg_pipelines.cleaning.relations import Connection, autocommit, require_expected
from bg_pipelines.database.engine import Database

LOCK_TIMEOUT_MS = 1_000
DEAD_SHARE = 0.1
DEAD_ROWS = 1_000
BLOATED_BYTES = 64 * 1024 * 1024
BLOATED_SHARE = 0.5
LARGEST_REBUILD_BYTES = 10 * 1024**3


class Kept(NamedTuple):
    """What upkeep did, and why it stopped before its end."""

    figures: Counter[str]
    why: str | None = None


StopAsked = Callable[[], str | None]

_TABLES = """
    SELECT format('%%I.%%I', n.nspname, c.relname) AS name, s.n_dead_tup AS dead, s.n_live_tup AS live,
        s.n_mod_since_analyze AS changed, c.relhasindex
    FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_has_role(c.relowner, 'USAGE') AND c.relkind IN ('r', 'm')
        AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum p WHERE p.relid = c.oid)
    ORDER BY s.n_dead_tup DESC"""


def vacuum(database: Database, stop: StopAsked, *, dead_rows: int = DEAD_ROWS) -> Kept:
    """Vacuum tables of which a tenth is dead, and refresh the statistics of those of which a tenth has changed."""
    figures: Counter[str] = Counter()
    with autocommit(database, LOCK_TIMEOUT_MS) as connection:
        for table in _rows(connection, _TABLES):
            if (why := stop()) is not None:
                return Kept(figures, why)
            enough = dead_rows + DEAD_SHARE * table.live
            if table.dead > enough:
                done = run_statement(connection, f"VACUUM (ANALYZE, SKIP_LOCKED) {table.name}")
                figures["upkeep.vacuumed"] += done
            elif table.changed > enough:
                figures["upkeep.analyzed"] += run_statement(connection, f"ANALYZE (SKIP_LOCKED) {table.name}")
    return Kept(figures)


# A b-tree's size if its pages were nine tenths full, from the rows and the width of its columns; of expressions and
# partial indexes the width or the rows are not known, and they are left alone.
_BLOATED = """
    SELECT format('%%I.%%I', n.nspname, c.relname) AS name, pg_relation_size(c.oid) AS size,
        (c.reltuples * (16 + w.width) / (current_setting('block_size')::int - 24) / 0.9
            * current_setting('block_size')::int)::bigint AS expected
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    CROSS JOIN LATERAL (SELECT sum(s.avg_width) AS width, count(s.avg_width) AS columns FROM unnest(i.indkey) key
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = key
        JOIN pg_namespace tn ON tn.oid = t.relnamespace
        LEFT JOIN pg_stats s ON s.schemaname = tn.nspname AND s.tablename = t.relname AND s.attname = a.attname) w
    WHERE pg_has_role(t.relowner, 'USAGE') AND i.indisvalid AND i.indpred IS NULL AND w.columns = i.indnatts
        AND c.reltuples > 0 AND n.nspname NOT LIKE 'pg\\_%%' AND pg_relation_size(c.oid) > %s
    ORDER BY 2 DESC"""


def reindex(
    database: Database,
    stop: StopAsked,
    *,
    data: Path | None,
    bloated_bytes: int = BLOATED_BYTES,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Kept:
    """Rebuild large indexes that are more than half empty, beside their use, while there is room for another of each.

    `data` is the server's folder where it is on this machine. Elsewhere nobody knows how much is free: then indexes of
    more than 10 GB are left to advice.
    """
    figures: Counter[str] = Counter()
    with autocommit(database, LOCK_TIMEOUT_MS) as connection:
        for index in _rows(connection, _BLOATED, bloated_bytes):
            if (why := stop()) is not None:
                return Kept(figures, why)
            if index.expected > index.size * (1 - BLOATED_SHARE):
                continue
            if index.size > room(data, free):
                figures["upkeep.no_room"] += 1
                continue
            if run_statement(connection, f"REINDEX INDEX CONCURRENTLY {index.name}"):
                [after] = _rows(connection, "SELECT pg_relation_size(to_regclass(%s)) AS size", index.name)
                figures["upkeep.reindexed"] += 1
                figures["upkeep.bytes"] += max(0, index.size - after.size)
    return Kept(figures)


_LEFT_OVER = """
    SELECT format('%%I.%%I', n.nspname, c.relname) AS name, pg_relation_size(c.oid) AS size
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class t ON t.oid = i.indrelid
    WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND pg_has_role(t.relowner, 'USAGE')
        AND n.nspname <> 'pg_toast' AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = t.oid)"""


def remove_left_over(database: Database) -> Kept:
    """Drop the invalid indexes that an interrupted `REINDEX CONCURRENTLY` leaves behind: only writes pay for them."""
    figures: Counter[str] = Counter()
    with autocommit(database, LOCK_TIMEOUT_MS) as connection:
        for index in _rows(connection, _LEFT_OVER):
            if run_statement(connection, f"DROP INDEX CONCURRENTLY {index.name}"):
                figures["upkeep.left_over_indexes"] += 1
                figures["upkeep.bytes"] += index.size
    return Kept(figures)


def room(data: Path | None, free: Callable[[Path], int]) -> float:
    """How large a copy may be: half of what is free, or where nobody knows that, not very large."""
    return LARGEST_REBUILD_BYTES if data is None else free(data) / 2


def _rows(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def run_statement(connection: Connection, statement: str) -> bool:
    """Whether the statement was done; a lock that is not to be had leaves it to the next run."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        require_expected(error)
        return False
    return True
