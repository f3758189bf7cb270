"""Partitions by time: those whose time is over go whole, and new ones are there before rows come for them.

    why = Upkeep(database, task, "page_views", "month", keep).run(stop)

A partition goes in two steps, each beside the table's use: it is detached and then dropped. Before the first it is marked by
a comment; so one that a killed run left detached is found and dropped by the next. A new one is made by itself and then
attached, which keeps no reader or writer waiting either; where a lock is not to be had in short time, the next run goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from bg_pipelines.cleaning.aside import reason_of, set_aside
from bg_pipelines.cleaning.relations import Connection, autocommit, require_expected
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.work.queue import clock

AHEAD = {"day": 7, "week": 4, "month": 3}
"""The widths that partitions have, and how many of them there are beyond the current one."""
LOCK_TIMEOUT_MS = 100
DETACH_TIMEOUT_MS = 1_000
"""So long a detaching waits for transactions under way. Nobody waits for it meanwhile but who reads that partition."""
_MARK = "bg-pipelines: its time is over, it is being dropped"


class Partition(NamedTuple):
    """`low` is None for a partition without a beginning, `high` for one without an end or the default one. `half_detached`:
    somebody's detaching was interrupted; `marked`: it was ours."""

    schema: str
    name: str
    low: datetime | None
    high: datetime | None
    is_default: bool
    half_detached: bool = False
    marked: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


_PARTITIONS = """
    SELECT n.nspname AS schema, c.relname AS name,
        -- A bound without an end is a word and no text in quotes.
        (regexp_match(b.bound, $$FROM \\('([^']+)'\\)$$))[1]::timestamptz AS low,
        (regexp_match(b.bound, $$TO \\('([^']+)'\\)$$))[1]::timestamptz AS high,
        b.bound = 'DEFAULT' AS is_default, i.inhdetachpending AS half_detached,
        coalesce(obj_description(c.oid, 'pg_class') = %(mark)s, false) AS marked
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT coalesce(pg_get_expr(c.relpartbound, c.oid), '') AS bound) b
    WHERE i.inhparent = to_regclass(%(table)s) ORDER BY high NULLS LAST"""


def list_partitions(connection: Connection, table: str) -> list[Partition]:
    """The partitions of a table, by time."""
    with connection.cursor(row_factory=class_row(Partition)) as cursor:
        cursor.execute(_PARTITIONS, {"table": table, "mark": _mark(table)})
        return cursor.fetchall()


def is_over(partition: Partition, before: datetime) -> bool:
    """Whether all that is in it is older than this, and no person is detaching it."""
    if partition.is_default or (partition.half_detached and not partition.marked):
        return False
    return partition.high is not None and partition.high <= before


def _mark(table: str) -> str:
    return f"{_MARK} ({table})"


_FAULTS = """
    SELECT c.relkind = 'p' AND p.partstrat = 'r' AND p.partnatts = 1 AND p.partattrs[0] = a.attnum,
        pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(c.relnamespace, 'CREATE')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %s
    LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid WHERE c.oid = to_regclass(%s)"""


def find_faults(connection: Connection, table: str, age: str) -> Iterator[str]:
    """Why partitions of this table cannot be kept up; a sentence each."""
    row = connection.execute(_FAULTS, (age, table)).fetchone()
    if row is None or not row[0]:
        yield f"{table} is not partitioned by ranges of {age}"
    elif not row[1]:
        yield f"this role does not own {table}, and cannot drop its partitions"
    elif not row[2]:
        yield f"this role may not create tables in the schema of {table}"


def missing(partitions: Sequence[Partition], now: datetime, width: str) -> list[tuple[datetime, datetime]]:
    """The ranges of the current period, and of as many beyond it as there should be, that no partition has."""
    taken = [(p.low, p.high) for p in partitions if not p.is_default]
    at, end = period(now, width), now
    for _ in range(AHEAD[width] + 1):
        end = _next(end, width)
    found: list[tuple[datetime, datetime]] = []
    while at < end:
        holding = [high for low, high in taken if (low is None or low <= at) and (high is None or high > at)]
        if None in holding:
            return found  # one without an end takes all that comes
        if holding:
            at = max(high for high in holding if high is not None)
            continue
        high = min([_next(at, width), *(low for low, _ in taken if low is not None and low > at)])
        found.append((at, high))
        at = high
    return found


def period(time: datetime, width: str) -> datetime:
    """The beginning of the day, the week (a Monday) or the month."""
    day = time.replace(hour=0, minute=0, second=0, microsecond=0)
    if width == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if width == "month" else day


def _next(time: datetime, width: str) -> datetime:
    days = {"day": 1, "week": 7, "month": 32}[width]
    return period(period(time, width) + timedelta(days=days), width)


class Upkeep:
    """The partitions of one table of a user's. `width` is one of `AHEAD`; `keep` how long rows are kept."""

    def __init__(self, database: Database, task: str, table: str, width: str, keep: timedelta) -> None:
        self.database = database
        self.task = task
        self.table = table
        self.width = width
        self.keep = keep
        self.figures: Counter[str] = Counter()
        self.set_aside = 0

    def run(self, stop: Callable[[], str | None]) -> str | None:
        """Make what is missing and drop what is over; why it stopped before its end, or None. Figures are in `figures`.

        New ones come first: without them rows cannot be written. Raises IntegrationError (configuration) where a person
        has to do something, once the rest is done: rows of the default partition are in the way of a new one, or somebody
        else's detaching was interrupted.
        """
        in_the_way: IntegrationError | None = None
        with autocommit(self.database, LOCK_TIMEOUT_MS) as connection:
            now = clock(connection)
            for low, high in missing(list_partitions(connection, self.table), now, self.width):
                if (why := stop()) is not None:
                    return why
                in_the_way = self._add(connection, low, high) or in_the_way
            partitions = list_partitions(connection, self.table)
            has_default = any(partition.is_default for partition in partitions)
            over = [partition for partition in partitions if is_over(partition, now - self.keep)]
            theirs = [
                partition for partition in partitions if partition.half_detached and not partition.marked
            ]
            if over and theirs:
                # Beside one that is half detached PostgreSQL detaches no other.
                in_the_way = IntegrationError.of(
                    ErrorType.CONFIGURATION,
                    f"the detaching of the partition {theirs[0].name} of {self.table} was interrupted, and until it is finished "
                    f"none can go: ALTER TABLE {self.table} DETACH PARTITION {theirs[0].name} FINALIZE",
                    source="database",
                )
                over = []
            for partition in sorted(over, key=lambda partition: not partition.half_detached):
                if (why := stop()) is not None:
                    return why
                if not self._detach(connection, partition, has_default=has_default):
                    break
            self._drop_detached(connection)
        if in_the_way is not None:
            raise in_the_way
        return None

    def _add(self, connection: Connection, low: datetime, high: datetime) -> IntegrationError | None:
        schema, parent = self._name(connection)
        name = sql.Identifier(schema, f"{parent[:50]}_p{low:%Y%m%d}")
        table = sql.Identifier(schema, parent)
        # Made by itself: as a partition at once it would lock the whole table from everybody.
        create = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING IDENTITY)").format(name, table)
        attach = sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            table, name, sql.Literal(low.isoformat()), sql.Literal(high.isoformat())
        )
        try:
            with connection.transaction():
                connection.execute(create)
                connection.execute(attach)
        except psycopg.errors.CheckViolation:
            return IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"rows of {low:%Y-%m-%d} to {high:%Y-%m-%d} are in the default partition of {self.table}; no partition can "
                "be made for that time until they are moved out of it",
                source="database",
            )
        except psycopg.Error as error:
            self._unless_busy(error)
        else:
            self.figures[f"{self.table}.partitions_made"] += 1
        return None

    def _detach(self, connection: Connection, partition: Partition, *, has_default: bool) -> bool:
        """Whether it is detached now."""
        # Where there is a default partition, PostgreSQL detaches only under a lock of the whole table, a short one.
        how = " FINALIZE" if partition.half_detached else "" if has_default else " CONCURRENTLY"
        detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {}" + how).format(
            sql.Identifier(*self._name(connection)), partition.identifier
        )
        try:
            self._comment(connection, partition, _mark(self.table))
            if how:
                connection.execute(f"SET lock_timeout = {DETACH_TIMEOUT_MS}")
            connection.execute(detach)
        except psycopg.errors.ForeignKeyViolation as error:
            set_aside(connection, self.task, (partition.name,), reason_of(error))
            self._comment(connection, partition, None)
            self.set_aside += 1
        except psycopg.Error as error:
            self._unless_busy(error)
            # Not begun, it must not look as if it were: a person may detach it, to keep it.
            now = {other.name: other for other in list_partitions(connection, self.table)}
            if partition.name in now and not now[partition.name].half_detached:
                with suppress(psycopg.OperationalError):
                    self._comment(connection, partition, None)
            return False
        finally:
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        return True

    def _comment(self, connection: Connection, partition: Partition, comment: str | None) -> None:
        connection.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(partition.identifier, sql.Literal(comment))
        )

    def _drop_detached(self, connection: Connection) -> None:
        rows = connection.execute(
            "SELECT n.nspname, c.relname, pg_total_relation_size(c.oid), "
            "greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE obj_description(c.oid, 'pg_class') = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
            (_mark(self.table),),
        ).fetchall()
        for schema, name, size, count in rows:
            try:
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, name)))
            except psycopg.Error as error:
                self._unless_busy(error)
            else:
                self.figures[f"{self.table}.partitions_dropped"] += 1
                self.figures[f"{self.table}.rows"] += count
                self.figures[f"{self.table}.bytes"] += size

    def _unless_busy(self, error: psycopg.Error) -> None:
        """What PostgreSQL ends as is normal under load is left to the next run; anything else is raised."""
        require_expected(error)
        self.figures[f"{self.table}.partitions_locked"] += 1

    def _name(self, connection: Connection) -> tuple[str, str]:
        row = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = to_regclass(%s)",
            (self.table,),
        ).fetchone()
        if row is None:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION, f"there is no table {self.table}", source="database"
            )
        return row[0], row[1]


def count(connection: Connection, table: str, keep: timedelta) -> Counter[str]:
    """What would be dropped now, exactly."""
    before = clock(connection) - keep
    figures: Counter[str] = Counter()
    for partition in list_partitions(connection, table):
        if is_over(partition, before):
            row = connection.execute(
                sql.SQL("SELECT count(*), pg_total_relation_size({}::regclass) FROM {}").format(
                    sql.Literal(partition.identifier.as_string(connection)), partition.identifier
                )
            ).fetchone()
            assert row is not None
            figures.update(
                {f"{table}.rows": row[0], f"{table}.bytes": row[1], f"{table}.partitions_dropped": 1}
            )
    return figures
