"""Arrays: lists of texts as PostgreSQL reads them, and a few rows as an array of each column's values.

arrays = arrays_of(records)                                     the parameters of a statement that begins with
statement = rows_of_arrays("orders", Order._fields) + ...       WITH read AS (...), which are these rows, typed
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any

import sqlalchemy as sa
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.types.array import ListDumper
from sqlalchemy.dialects import postgresql

_NAME = "read_{}"
"""Of a column's parameter: no other has such a name."""


def array_text(texts: Sequence[str | None]) -> str:
    """PostgreSQL's literal of an array of texts. Raises TypeError where anything else is among them."""
    try:
        joined = '","'.join(texts)  # type: ignore[arg-type]
    except TypeError:
        if not set(map(type, texts)) <= {str, NoneType}:
            raise
    else:
        if "\\" not in joined and joined.count('"') == 2 * (len(texts) - 1):
            return '{"' + joined + '"}'
    return "{" + ",".join("NULL" if text is None else _quoted(text) for text in texts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class TextsDumper(ListDumper):
    """Lists of texts (ids, tags), fifty times as fast as psycopg's own, which looks at each of them."""

    def dump(self, obj: list[Any]) -> Buffer | None:
        try:
            return self._dump_item(array_text(obj))
        except TypeError:
            return super().dump(obj)


def arrays_of(records: Sequence[Any]) -> dict[str, str] | None:
    """Each column's values as an array, by the names of their parameters; None where a column has values of several kinds, or of
    one that only COPY knows."""
    arrays: dict[str, str] = {}
    for column, values in zip(records[0]._fields, zip(*records, strict=True), strict=True):
        kinds = set(map(type, values)) - {NoneType}
        texts: Sequence[str | None] = values
        try:
            if kinds == {list}:
                texts = [None if value is None else array_text(value) for value in values]
            elif kinds == {bool}:
                texts = [None if value is None else "t" if value else "f" for value in values]
            elif kinds == {int}:
                texts = [None if value is None else str(value) for value in values]
            arrays[_NAME.format(column)] = array_text(texts)
        except TypeError:
            return None
    return arrays


def array_of(column: str) -> sql.Composed:
    """That parameter, as an array of texts."""
    return sql.SQL("{}::text[]").format(sql.Placeholder(_NAME.format(column)))


def rows_of_arrays(table: str, columns: Sequence[str]) -> sql.Composed:
    """The arrays of `arrays_of` as the rows `read`, with this table's types: the first part of a WITH.

    Lists of texts come as texts in them: in an array of arrays all would have to be of one length.
    """
    # Here, for every process that connects needs this module, and few the tables.
    from bg_pipelines.database.models import Base

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    kinds = {column: Base.metadata.tables[table].columns[column].type for column in columns}
    written = {column: sql.SQL(kind.compile(dialect)) for column, kind in kinds.items()}
    elements = {c: sql.SQL("text") if isinstance(kinds[c], sa.ARRAY) else written[c] for c in columns}
    return sql.SQL("WITH read AS MATERIALIZED (SELECT {rows} FROM unnest({arrays}) s ({columns})), ").format(
        rows=sql.SQL(", ").join(
            sql.SQL("{0}::{1} AS {2}").format(sql.Identifier("s", c), written[c], sql.Identifier(c))
            for c in columns
        ),
        arrays=sql.SQL(", ").join(
            sql.SQL("{}::{}[]").format(sql.Placeholder(_NAME.format(c)), elements[c]) for c in columns
        ),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
    )
