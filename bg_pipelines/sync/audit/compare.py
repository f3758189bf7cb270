"""Comparison of stored rows with the source's, field by field, as DataFrames of the same types.

A record's values are as the vendor writes them. Both sides are converted to the types of the table's columns, so that
"9.50" equals 9.5 and two spellings of one time are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from bg_pipelines import records
from bg_pipelines.database.load import newest
from bg_pipelines.database.models import Base
from bg_pipelines.values import read_time

RECORDS: dict[str, Any] = {
    "locations": records.Location,
    "products": records.Product,
    "product_variants": records.ProductVariant,
    "inventory_levels": records.InventoryLevel,
    "customers": records.Customer,
    "orders": records.Order,
    "order_lines": records.OrderLine,
    "refunds": records.Refund,
}


@dataclass
class Side:
    """One side: the rows, and their parts by table, as DataFrames by id; a deleted row is among the held ones.

    `moments` are the rows' `source_updated_at`; of what is held, `synced` is when they were written here, and
    `deleted` are the ids of those that are marked so. Values are in the columns' types, text where they
    are no such thing.
    """

    table: str
    rows: pd.DataFrame
    parts: dict[str, pd.DataFrame]
    moments: dict[str, datetime]
    synced: dict[str, datetime] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    @classmethod
    def of_held(cls, table: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Side:
        """Of what was selected from the table and from those of its parts."""
        own = rows[table]
        return cls(
            table,
            _frame(table, own, deleted=True),
            {
                part: _frame(part, [row for row in held if row["deleted_at"] is None])
                for part, held in rows.items()
                if part != table
            },
            {row["external_id"]: row["source_updated_at"] for row in own},
            {row["external_id"]: row["synced_at"] for row in own},
            {row["external_id"] for row in own if row["deleted_at"] is not None},
        )

    @classmethod
    def of_records(cls, table: str, records: Sequence[Any], parts: Mapping[str, Sequence[Any]]) -> Side:
        """Of what the platform answered."""
        own = [record for record in newest(records) if isinstance(record.external_id, str)]
        return cls(
            table,
            _frame(table, [{**record._asdict(), "deleted_at": None} for record in own], deleted=True),
            {part: _frame(part, [row._asdict() for row in newest(rows)]) for part, rows in parts.items()},
            {record.external_id: moment(record.source_updated_at) for record in own},
        )

    def leave_out(self, ids: Mapping[str, set[str]]) -> None:
        """Take rows and parts out, by table."""
        self.rows = self.rows[~self.rows.index.isin(list(ids.get(self.table, ())))]
        for part, frame in self.parts.items():
            self.parts[part] = frame[~frame.index.isin(list(ids.get(part, ())))]


class Comparison:
    """What differs between two sides. A part's difference is one of its row: `order_lines.quantity`.

    `let_go` are the rows that refer, or whose parts do, to something the source has deleted: it then forgets which it
    was, and says nothing of a change. That is no difference.
    """

    def __init__(self, held: Side, source: Side) -> None:
        self.compared: list[str] = list(source.rows.index)
        self.let_go: set[str] = set()
        self._fields: dict[str, list[str]] = {}
        for external_id in source.rows.index.difference(held.rows.index):
            self._note(external_id, "external_id")
        self._note_cells(held.rows, source.rows)
        for table, there in source.parts.items():
            here = held.parts.get(table, there.iloc[:0])
            self._parts(table, here, there)
        for table in held.parts.keys() - source.parts.keys():
            here = held.parts[table]
            self._parts(table, here, here.iloc[:0])

    def fields(self, external_id: str) -> list[str]:
        """The columns in which a row differs, parts' columns behind their table's name; `external_id`: not held."""
        return self._fields.get(external_id, [])

    def differs(self, external_id: str) -> bool:
        return external_id in self._fields or external_id not in self.compared

    def _parts(self, table: str, here: pd.DataFrame, there: pd.DataFrame) -> None:
        # Of rows that were asked for and answered only.
        here, there = (side[side["order_external_id"].isin(self.compared)] for side in (here, there))
        owners = pd.concat([there["order_external_id"], here["order_external_id"]])
        for part in there.index.difference(here.index):
            self._note(str(there.at[part, "order_external_id"]), f"{table}.missing")
        for part in here.index.difference(there.index):
            self._note(str(here.at[part, "order_external_id"]), f"{table}.extra")
        self._note_cells(here, there, table, owners[~owners.index.duplicated()])

    def _note_cells(
        self, here: pd.DataFrame, there: pd.DataFrame, table: str = "", owners: pd.Series | None = None
    ) -> None:
        cells = unequal(here, there)
        for column in cells.columns:
            for key in cells.index[cells[column].to_numpy(dtype=bool)]:
                owner = key if owners is None else owners[key]
                if column.endswith("_external_id") and there.at[key, column] is None:
                    self.let_go.add(owner)
                else:
                    self._note(owner, f"{table}.{column}" if table else column)

    def _note(self, external_id: str, name: str) -> None:
        names = self._fields.setdefault(external_id, [])
        if name not in names:
            names.append(name)


def compare(held: Side, source: Side) -> Comparison:
    """Field by field, what the source answered with what is held of it."""
    return Comparison(held, source)


def unequal(held: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """For the rows on both sides, whether each field differs; two nulls do not."""
    both = held.index.intersection(source.index)
    here, there = held.loc[both], source.loc[both, held.columns]
    return here.ne(there) & ~(here.isna() & there.isna())


def moment(value: Any) -> datetime:
    """A source's time in whichever spelling; what is none is older than all."""
    try:
        return read_time(value)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _frame(table: str, rows: Sequence[Mapping[str, Any]], *, deleted: bool = False) -> pd.DataFrame:
    """Rows by id, with the columns of the table's record; `deleted`: and whether they are marked so."""
    columns = [name for name in RECORDS[table]._fields if name != "external_id"]
    kinds = _kinds(table)
    content = [[_typed(kinds[name], row[name]) for name in columns] for row in rows]
    frame = pd.DataFrame(content, columns=columns, index=[row["external_id"] for row in rows], dtype=object)
    if deleted:
        frame["deleted_at"] = pd.Series(
            [row["deleted_at"] is not None for row in rows], index=frame.index, dtype=object
        )
    return frame


@lru_cache
def _kinds(table: str) -> dict[str, sa.types.TypeEngine[Any]]:
    return {column.name: column.type for column in Base.metadata.tables[table].columns}


def _typed(kind: sa.types.TypeEngine[Any], value: Any) -> Any:
    """The value as its column has it, in a form that can be compared; as its text where it is no such thing."""
    if value is None:
        return None
    try:
        if isinstance(kind, sa.DateTime):
            return value.astimezone(UTC) if isinstance(value, datetime) else read_time(value)
        if isinstance(kind, sa.Numeric):
            return Decimal(str(value)).quantize(Decimal(1).scaleb(-(kind.scale or 0)), ROUND_HALF_UP)
        if isinstance(kind, sa.Boolean):
            return bool(value) if isinstance(value, bool) else str(value)
        if isinstance(kind, sa.Integer):
            return int(value)
        if isinstance(kind, ARRAY):
            return json.dumps(list(value))
        if isinstance(kind, JSONB):
            return json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True)
        return str(value)
    except (TypeError, ValueError, InvalidOperation):
        return str(value)
