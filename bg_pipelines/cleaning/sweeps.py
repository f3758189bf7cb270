"""A sweep: which rows of a relation go, and what goes with them, as one statement for any span of its rows.

The rows are locked and looked at once more by the statement that deletes them, and rows that somebody else has locked
are left: whatever is changed meanwhile stays. Figures are `TABLE.rows`, `TABLE.bytes` and, by kind, `TABLE.KIND`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bg_pipelines.cleaning import archive, aside
from bg_pipelines.cleaning.relations import Axis, Connection, Relation, Span
from bg_pipelines.database.secrets import Cipher


@dataclass(frozen=True)
class Child:
    """Rows of another table that go with a row: its columns, and those of the row that they are equal to."""

    table: str
    columns: tuple[str, ...]
    of_row: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Which rows go, in SQL on the table `t`.

    `key` are the columns that name a row. `joins` are tables that `condition`, `kind` and `archive` may use. `archive`
    is how long the row is kept archived (an interval, or NULL), as the object `archived`.
    """

    task: str
    table: str
    key: tuple[str, ...]
    condition: str
    joins: str = ""
    kind: str = "NULL::text"
    children: tuple[Child, ...] = ()
    archive: str | None = None
    archived: str = "to_jsonb(t)"
    parameters: Mapping[str, Any] = field(default_factory=dict)


class RowSweep:
    """Deletes rows and their children. `cipher` is needed where rows are archived."""

    def __init__(self, rows: Rows, relation: Relation, axis: Axis, cipher: Cipher | None = None) -> None:
        self.rows = rows
        self.relation = relation
        self.axis = axis
        self.cipher = cipher
        self._any_set_aside: bool | None = None
        # A row's place names it only where one table has all rows, and they are visited by their blocks.
        by_place = relation.has_blocks and len(relation.tables) == 1
        self.place = "t.ctid AS place" if by_place else "NULL AS place"
        self.same = (
            "t.ctid = c.place" if by_place else " AND ".join(f"t.{name} = c.{name}" for name in rows.key)
        )

    def clean(self, connection: Connection, span: Span) -> Counter[str]:
        self._look_for_set_aside(connection)
        row = connection.execute(self._delete(span), self._values(span)).fetchone()
        assert row is not None
        figures, archived = row
        for entry in archived or []:
            assert self.cipher is not None
            archive.keep(
                connection, self.cipher, self.rows.task, entry["rows"], timedelta(seconds=entry["keep"])
            )
        return Counter({name: int(number) for name, number in figures.items() if number})

    def count(self, connection: Connection, span: Span) -> Counter[str]:
        """What `clean` would delete, without deleting it."""
        self._look_for_set_aside(connection)
        parts = self._figures("(SELECT count(*) FROM chosen)", "(SELECT sum(bytes) FROM chosen)", "chosen")
        for child in self.rows.children:
            matched = f"(SELECT {{}} FROM {child.table} i JOIN chosen c ON {self._of(child, 'i')})"
            parts.append(f"'{child.table}.rows', {matched.format('count(*)')}")
            parts.append(f"'{child.table}.bytes', {matched.format('sum(pg_column_size(i.*))')}")
        statement = f"WITH chosen AS MATERIALIZED ({self._chosen(span)}) SELECT {self._object(parts)}"
        row = connection.execute(statement, self._values(span), prepare=False).fetchone()
        assert row is not None
        return Counter({name: int(number) for name, number in row[0].items() if number})

    def chosen(self, connection: Connection, span: Span) -> Sequence[tuple[str, ...]]:
        self._look_for_set_aside(connection)
        return connection.execute(
            f"SELECT {', '.join(f'{name}::text' for name in self.rows.key)} FROM ({self._chosen(span)}) chosen",
            self._values(span),
            prepare=False,
        ).fetchall()

    def row(self, key: tuple[str, ...]) -> Span:
        names = {f"key_{number}": value for number, value in enumerate(key)}
        return Span(
            " AND ".join(
                f"t.{column} = %({name})s" for column, name in zip(self.rows.key, names, strict=True)
            ),
            names,
        )

    def set_aside(self, connection: Connection, key: tuple[str, ...], reason: str) -> None:
        aside.set_aside(connection, self.rows.task, key, reason)
        self._any_set_aside = True

    def values(self) -> dict[str, Any]:
        """Parameters of the statement that are the same for every span."""
        return {"task": self.rows.task, **self.rows.parameters}

    def not_set_aside(self) -> str:
        if not self._any_set_aside:
            return "true"
        key = f"concat_ws('/', {', '.join(f't.{name}' for name in self.rows.key)})"
        return (
            "NOT EXISTS (SELECT FROM cleaning_set_aside a WHERE a.task = %(task)s "
            f"AND a.last_at > statement_timestamp() - {aside.TRIED_AGAIN} AND a.key = {key})"
        )

    def _look_for_set_aside(self, connection: Connection) -> None:
        if self._any_set_aside is None:
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM cleaning_set_aside WHERE task = %s)", (self.rows.task,)
            ).fetchone()
            self._any_set_aside = bool(row and row[0])

    def _values(self, span: Span) -> dict[str, Any]:
        return {**self.values(), **span.parameters}

    def _chosen(self, span: Span, *, also: str = "") -> str:
        names = {*self.rows.key, *(name for child in self.rows.children for name in child.of_row)}
        columns = ", ".join(f"t.{name}" for name in sorted(names))
        return (
            f"SELECT {columns}, {self.place}, {self.rows.kind} AS kind, pg_column_size(t.*) AS bytes{also} "
            f"FROM {self.rows.table} t {self.rows.joins} "
            f"WHERE {span.condition} AND ({self.rows.condition}) AND {self.not_set_aside()}"
        )

    def _delete(self, span: Span) -> str:
        rows = self.rows
        also = "" if rows.archive is None else f", {rows.archive} AS keep, {rows.archived} AS archived"
        parts = [f"chosen AS MATERIALIZED ({self._chosen(span, also=also)} FOR UPDATE OF t SKIP LOCKED)"]
        figures = self._figures("(SELECT count(*) FROM gone)", "(SELECT sum(bytes) FROM gone)", "gone")
        for number, child in enumerate(rows.children):
            columns = (
                f", {', '.join(f'i.{name}' for name in child.columns)}, to_jsonb(i) AS item" if also else ""
            )
            parts.append(
                f"child_{number} AS (DELETE FROM {child.table} i USING chosen c WHERE {self._of(child, 'i')} "
                f"RETURNING pg_column_size(i.*) AS bytes{columns})"
            )
            figures.append(f"'{child.table}.rows', (SELECT count(*) FROM child_{number})")
            figures.append(f"'{child.table}.bytes', (SELECT sum(bytes) FROM child_{number})")
        parts.append(
            f"gone AS (DELETE FROM {rows.table} t USING chosen c WHERE {self.same} RETURNING c.kind, c.bytes)"
        )
        archived = "NULL"
        if also:
            whole = "c.archived" + "".join(
                f" || jsonb_build_object('{child.table}', coalesce((SELECT jsonb_agg(i.item) FROM child_{number} i "
                f"WHERE {self._of(child, 'i')}), '[]'))"
                for number, child in enumerate(rows.children)
            )
            archived = (
                "(SELECT jsonb_agg(jsonb_build_object('keep', keep, 'rows', rows)) FROM ("
                f"SELECT extract(epoch FROM c.keep)::bigint AS keep, jsonb_agg({whole}) AS rows "
                "FROM chosen c WHERE c.keep IS NOT NULL GROUP BY c.keep) kept)"
            )
        return f"WITH {', '.join(parts)} SELECT {self._object(figures)}, {archived}"

    def _figures(self, rows: str, size: str, source: str) -> list[str]:
        table = self.rows.table
        figures = [f"'{table}.rows', {rows}", f"'{table}.bytes', {size}"]
        if self.rows.kind != Rows.kind:
            figures.append(
                f"'kinds', (SELECT jsonb_object_agg('{table}.' || kind, n) "
                f"FROM (SELECT kind, count(*) AS n FROM {source} GROUP BY kind) kinds)"
            )
        return figures

    def _object(self, figures: Sequence[str]) -> str:
        plain = ", ".join(figure for figure in figures if not figure.startswith("'kinds'"))
        kinds = [figure.removeprefix("'kinds', ") for figure in figures if figure.startswith("'kinds'")]
        return f"jsonb_build_object({plain})" + "".join(f" || coalesce({kind}, '{{}}')" for kind in kinds)

    @staticmethod
    def _of(child: Child, alias: str) -> str:
        pairs = zip(child.columns, child.of_row, strict=True)
        return " AND ".join(f"{alias}.{column} = c.{of_row}" for column, of_row in pairs)
