"""A table: the rows of one kind in a shop, in every order that the API can sort them by.

A field of a row resolves by a dict lookup. `_key` is the numeric id as a tuple: the last tie-breaker of every order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.rows import Node

Key = tuple[Any, ...]
Order = Callable[[Node], Key]


def by_field(name: str) -> Order:
    return lambda node: (node[name] or "", *node["_key"])


def by_number(name: str) -> Order:
    return lambda node: (node[name] or 0, *node["_key"])


def by_id(node: Node) -> Key:
    return tuple(node["_key"])


ORDERS: dict[str, Order] = {
    "ID": by_id,
    "RELEVANCE": by_id,
    "CREATED_AT": by_field("createdAt"),
    "ORDER_NUMBER": by_number("number"),
    "PROCESSED_AT": by_field("processedAt"),
    "UPDATED_AT": by_field("updatedAt"),
    "TITLE": by_field("title"),
    "NAME": by_field("name"),
    "VENDOR": by_field("vendor"),
    "PRODUCT_TYPE": by_field("productType"),
    "SKU": by_field("sku"),
    "POSITION": by_number("position"),
    "INVENTORY_QUANTITY": by_number("inventoryQuantity"),
}


class Table:
    """Rows by id; a sorted view is kept until a row changes."""

    def __init__(self, rows: Iterable[Node] = ()) -> None:
        self._rows: dict[str, Node] = {row["id"]: row for row in rows}
        self._sorted: dict[str, tuple[list[Key], list[Node]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._rows.values())

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._rows

    def __getitem__(self, node_id: str) -> Node:
        return self._rows[node_id]

    def get(self, node_id: str | None) -> Node | None:
        return None if node_id is None else self._rows.get(node_id)

    def named(self, fields: Node, field: str = "id") -> Node:
        """The row that an operator's field names by its id."""
        row = self.get(str(fields.get(field)))
        if row is None:
            raise RejectedError(field, f"there is no {fields.get(field)!r} in this shop")
        return row

    def put(self, row: Node) -> None:
        self._rows[row["id"]] = row
        self._sorted.clear()

    def remove(self, node_id: str) -> None:
        del self._rows[node_id]
        self._sorted.clear()

    def touched(self) -> None:
        """A row was edited in place: every order but that of the ids may be wrong now."""
        for sort_key in [key for key in self._sorted if key not in {"ID", "RELEVANCE"}]:
            del self._sorted[sort_key]

    def ordered(self, sort_key: str) -> tuple[list[Key], list[Node]]:
        view = self._sorted.get(sort_key)
        if view is None:
            order = ORDERS[sort_key]
            rows = sorted(self._rows.values(), key=order)
            view = self._sorted[sort_key] = ([order(row) for row in rows], rows)
        return view
