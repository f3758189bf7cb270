"""Advice about the database, with the SQL that a person may run; nothing of it is ever done unasked.

Unused, duplicate, missing and invalid indexes, wraparound, sequences near their end, tables that grow fast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg.rows import class_row

from bg_pipelines.cleaning.relations import Connection


class Advice(NamedTuple):
    """`about` is a table, an index or a sequence; `sql` is what a person may run after having thought about it."""

    what: str
    about: str
    why: str
    sql: str


class From(NamedTuple):
    """From which size on something is worth a person's time: bytes of an index, rows of a table, transactions since a table
    was frozen."""

    index_bytes: int = 10_000_000
    rows: int = 100_000
    transactions: int = 1_000_000_000


# A database whose counters were never reset counts since before the first cleaning.
_UNUSED = """
    SELECT 'unused index' AS what, s.indexrelid::regclass::text AS about,
        pg_size_pretty(pg_relation_size(s.indexrelid)) || ', not read since ' || to_char(d.since, 'YYYY-MM-DD') AS why,
        'DROP INDEX CONCURRENTLY ' || s.indexrelid::regclass AS sql
    FROM pg_stat_user_indexes s JOIN pg_index i ON i.indexrelid = s.indexrelid
    CROSS JOIN (SELECT coalesce(stats_reset, (SELECT min(started_at) FROM cleaning_results)) AS since FROM pg_stat_database
        WHERE datname = current_database()) d
    WHERE s.idx_scan = 0 AND NOT i.indisunique AND i.indisvalid AND pg_relation_size(s.indexrelid) > %(index_bytes)s
        AND d.since < statement_timestamp() - interval '30 days'"""
_DUPLICATE = """
    SELECT 'duplicate index', later.indexrelid::regclass::text, 'the same as ' || first.indexrelid::regclass,
        'DROP INDEX CONCURRENTLY ' || later.indexrelid::regclass
    FROM pg_index first JOIN pg_index later ON later.indrelid = first.indrelid AND later.indexrelid > first.indexrelid
        AND (later.indkey::text, later.indclass::text, later.indcollation::text, later.indoption::text)
            = (first.indkey::text, first.indclass::text, first.indcollation::text, first.indoption::text)
        AND coalesce(pg_get_expr(later.indexprs, later.indrelid), '') = coalesce(pg_get_expr(first.indexprs, first.indrelid), '')
        AND coalesce(pg_get_expr(later.indpred, later.indrelid), '') = coalesce(pg_get_expr(first.indpred, first.indrelid), '')
    JOIN pg_class c ON c.oid = first.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT later.indisunique AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'"""
_INVALID = """
    SELECT 'invalid index', i.indexrelid::regclass::text, 'it was never finished: writes pay for it and no query uses it',
        'REINDEX INDEX CONCURRENTLY ' || i.indexrelid::regclass
    FROM pg_index i WHERE NOT i.indisvalid
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)"""
_MISSING_FOR_KEY = """
    SELECT 'missing index', k.conrelid::regclass::text,
        'deleting a row of ' || k.confrelid::regclass || ' reads all of it (' || k.conname || ')',
        'CREATE INDEX CONCURRENTLY ON ' || k.conrelid::regclass || ' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY o)
            FROM unnest(k.conkey) WITH ORDINALITY key(n, o) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n) || ')'
    FROM pg_constraint k JOIN pg_stat_user_tables s ON s.relid = k.conrelid
    WHERE k.contype = 'f' AND s.n_live_tup > %(rows)s
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid
            AND (string_to_array(i.indkey::text, ' ')::int2[])[1:cardinality(k.conkey)] = k.conkey)"""
_READ_WHOLE = """
    SELECT 'read whole', relid::regclass::text, seq_scan || ' times all of its ' || n_live_tup || ' rows were read',
        'SELECT query, calls FROM pg_stat_statements WHERE query ILIKE ' || quote_literal('%%' || relname || '%%')
            || ' ORDER BY total_exec_time DESC LIMIT 5'
    FROM pg_stat_user_tables WHERE n_live_tup > %(rows)s AND seq_scan > 1000 AND seq_scan > coalesce(idx_scan, 0)"""
_WRAPAROUND = """
    SELECT 'wraparound', c.oid::regclass::text, age(c.relfrozenxid) || ' transactions since it was frozen, of 2 billion',
        'VACUUM (FREEZE, VERBOSE) ' || c.oid::regclass
    FROM pg_class c WHERE c.relkind IN ('r', 'm') AND age(c.relfrozenxid) > %(transactions)s"""
_SEQUENCE = """
    SELECT 'sequence near its end', schemaname || '.' || sequencename,
        round(100.0 * last_value / max_value) || ' %% of its numbers are used', 'ALTER SEQUENCE ' || quote_ident(schemaname) || '.'
            || quote_ident(sequencename) || ' AS bigint; ALTER TABLE ... ALTER COLUMN ... TYPE bigint'
    FROM pg_sequences WHERE NOT cycle AND increment_by > 0 AND last_value > max_value * 0.7"""
_NOT_VACUUMED = """
    SELECT 'many dead rows', relid::regclass::text, n_dead_tup || ' dead rows beside ' || n_live_tup || ' live ones, last vacuum '
        || coalesce(to_char(greatest(last_vacuum, last_autovacuum), 'YYYY-MM-DD'), 'never'),
        'VACUUM (ANALYZE, VERBOSE) ' || relid::regclass
    FROM pg_stat_user_tables WHERE n_dead_tup > %(rows)s AND n_dead_tup > n_live_tup"""
_ALL = " UNION ALL ".join(
    (_UNUSED, _DUPLICATE, _INVALID, _MISSING_FOR_KEY, _READ_WHOLE, _WRAPAROUND, _SEQUENCE, _NOT_VACUUMED)
)
_SIZES = """
    SELECT c.oid::regclass::text, pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    ORDER BY 2 DESC LIMIT 50"""
GROWN_BYTES = 100 * 1024 * 1024


def advise(connection: Connection, worth: From | None = None) -> list[Advice]:
    """What a person may want to look at now."""
    with connection.cursor(row_factory=class_row(Advice)) as cursor:
        cursor.execute(_ALL, (worth or From())._asdict())
        return cursor.fetchall()


def sizes(connection: Connection) -> dict[str, int]:
    """Bytes of the largest tables, with their indexes."""
    return dict(connection.execute(_SIZES, ()).fetchall())


def growth(before: dict[str, Any], now: dict[str, int]) -> list[Advice]:
    """Tables that have grown by more than half, and by much, since a week ago."""
    return [
        Advice(
            "table growth",
            table,
            f"{int(before[table]) / 1e6:,.0f} MB a week ago, {size / 1e6:,.0f} MB now",
            "",
        )
        for table, size in now.items()
        if table in before and size - int(before[table]) > GROWN_BYTES and size > int(before[table]) * 1.5
    ]
