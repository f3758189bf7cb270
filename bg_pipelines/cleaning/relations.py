"""What is cleaned: a table, or a view of the application over tables of its own.

Rows of a table are visited by the blocks that they lie in. A view shows these only where it has a column `ctid`; any
other is visited by its rows' keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import classified, is_expected
from bg_pipelines.errors import ErrorType, IntegrationError

Connection = psycopg.Connection[Any]


@contextmanager
def autocommit(database: Database, lock_timeout_ms: int) -> Iterator[Connection]:
    """A connection on which each statement is its own transaction and waits only so long for a lock. For what PostgreSQL
    does in no transaction, such as `VACUUM` and `... CONCURRENTLY`."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as pooled:
        connection = cast("Connection", pooled.connection.driver_connection)
        connection.execute(f"SET lock_timeout = {lock_timeout_ms}")
        try:
            yield connection
        finally:
            if not connection.broken:
                connection.execute("RESET lock_timeout")


def require_expected(error: psycopg.Error) -> None:
    """Raise what is not normal in a database under load; the rest is for the next run."""
    found = classified(error)
    if found is None or not is_expected(found):
        raise found or error from error


class Relation(NamedTuple):
    """`tables` are the oids of the tables that hold its rows: itself, its partitions, or those that a view is over."""

    name: str
    oid: int
    has_blocks: bool
    tables: Sequence[int]

    def blocks(self, connection: Connection) -> int:
        """So many blocks the largest of its tables has now."""
        row = connection.execute(
            "SELECT coalesce(max(pg_relation_size(oid)) / current_setting('block_size')::int, 0)::bigint "
            "FROM unnest(%s::oid[]) oid",
            (list(self.tables),),
        ).fetchone()
        assert row is not None
        return int(row[0])


_FOUND = """
    WITH RECURSIVE below (oid) AS (
        SELECT to_regclass(%(name)s)::oid
        UNION
        SELECT next.oid FROM below b CROSS JOIN LATERAL (
            SELECT d.refobjid AS oid FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass
                AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass WHERE w.ev_class = b.oid
            UNION ALL SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = b.oid
        ) next
    )
    SELECT c.oid::bigint,
        c.relkind <> 'v' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'ctid'
            AND a.atttypid = 'tid'::regtype),
        ARRAY(SELECT t.oid::bigint FROM below b JOIN pg_class t ON t.oid = b.oid WHERE t.relkind IN ('r', 'm'))
    FROM pg_class c WHERE c.oid = to_regclass(%(name)s)"""


def find(connection: Connection, name: str) -> Relation:
    """The table or view of this name, as the search path has it. Raises IntegrationError (configuration) for none."""
    row = connection.execute(_FOUND, {"name": name}).fetchone()
    if row is None:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"there is no table or view {name}, or this role may not see it; see docs/cleaning.md",
            source="database",
        )
    return Relation(name, *row)


class Span(NamedTuple):
    """Some rows of the table `t`: a condition, and its parameters."""

    condition: str
    parameters: Mapping[str, Any]


Place = Any
"""Where a pass has got to, as JSON: a block's number, or a row's key; None: its beginning."""


class Blocks:
    """A relation's blocks, from the first to what was the last one when the pass began."""

    first_size = 64
    plans = "force_generic_plan"
    """`plan_cache_mode`: wherever its blocks lie a batch has the same plan, and planning takes a millisecond or two of its ten."""

    def __init__(self, relation: Relation) -> None:
        self.relation = relation

    def end(self, connection: Connection) -> int:
        """How much there is to visit, in the unit of a batch's size."""
        return self.relation.blocks(connection)

    def next(self, connection: Connection, place: Place, size: int, end: int) -> Place:  # noqa: ARG002
        """The end of `size` more from `place` on; None where that is the end of the pass."""
        reached = (place or 0) + size
        return reached if reached < end else None

    def span(self, place: Place, reached: Place, end: int) -> Span:
        """What lies between two places; None: the beginning, and the end of the pass."""
        last = end if reached is None else reached
        return Span(
            "t.ctid >= %(low)s::tid AND t.ctid < %(high)s::tid",
            {"low": f"({place or 0},0)", "high": f"({last},0)"},
        )


class Keys:
    """A relation's rows in the order of some columns, which an index should have. `among` limits them."""

    first_size = 500
    plans = "auto"

    def __init__(self, relation: Relation, columns: Sequence[str], among: Span | None = None) -> None:
        self.relation = relation
        self.columns = columns
        self.among = among or Span("true", {})
        self._key = f"({', '.join(f't.{column}' for column in columns)})"

    def end(self, connection: Connection) -> int:
        """The planner's estimate: to count them would be to read them."""
        row = connection.execute(
            f"EXPLAIN (FORMAT JSON) SELECT FROM {self.relation.name} t WHERE {self.among.condition}",
            self.among.parameters,
            prepare=False,
        ).fetchone()
        assert row is not None
        return int(row[0][0]["Plan"]["Plan Rows"])

    def next(self, connection: Connection, place: Place, size: int, end: int) -> Place:
        span = self.span(place, None, end)
        as_text = ", ".join(f"t.{column}::text" for column in self.columns)
        order = ", ".join(f"t.{column}" for column in self.columns)
        row = connection.execute(
            f"SELECT {as_text} FROM {self.relation.name} t WHERE {span.condition} "
            f"ORDER BY {order} OFFSET %(size)s LIMIT 1",
            {**span.parameters, "size": size},
            prepare=False,
        ).fetchone()
        if row is None:
            return None
        # More rows than `size` may have one and the same value: the span then is all of these, and more.
        return self.next(connection, place, size * 2, end) if list(row) == place else list(row)

    def span(self, place: Place, reached: Place, end: int) -> Span:  # noqa: ARG002
        conditions, parameters = [f"({self.among.condition})"], dict(self.among.parameters)
        for sign, side, at in ((">=", "low", place), ("<", "high", reached)):
            if at is not None:
                names = [f"{side}_{number}" for number in range(len(at))]
                conditions.append(f"{self._key} {sign} ({', '.join(f'%({name})s' for name in names)})")
                parameters |= dict(zip(names, at, strict=True))
        return Span(" AND ".join(conditions), parameters)


Axis = Blocks | Keys
"""In which order the rows of a relation are visited."""
