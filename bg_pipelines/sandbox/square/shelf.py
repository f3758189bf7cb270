"""A shelf: rows of one kind by their id, in every order that a search asks for, cut into pages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")
Key = tuple[Any, ...]
Orders = Mapping[str, Callable[[Row], Key]]


@dataclass
class View(Generic[Row]):
    """Rows in ascending order, with the key of each."""

    keys: list[Key]
    rows: list[Row]

    @classmethod
    def of(cls, rows: list[Row], key: Callable[[Row], Key]) -> View[Row]:
        ordered = sorted(rows, key=key)
        return cls([key(row) for row in ordered], ordered)

    def page(
        self,
        *,
        limit: int,
        after: Key | None = None,
        descending: bool = False,
        matches: Callable[[Row], bool] = lambda _: True,
    ) -> Page[Row]:
        """The next rows that match, from behind the key `after`; its row need not be there any more."""
        if descending:
            places = range((len(self.keys) if after is None else bisect_left(self.keys, after)) - 1, -1, -1)
        else:
            places = range(0 if after is None else bisect_right(self.keys, after), len(self.keys))
        found: list[Row] = []
        last: Key | None = None
        for place in places:
            if matches(self.rows[place]):
                if len(found) == limit:
                    return Page(found, last, more=True)
                found.append(self.rows[place])
                last = self.keys[place]
        return Page(found, last, more=False)


@dataclass
class Page(Generic[Row]):
    """Some rows, the key of the last of them, and whether others follow."""

    rows: list[Row]
    last: Key | None
    more: bool


class Shelf(Generic[Row]):
    """Rows by id. `orders` names the orders; a view of each is kept until a row changes."""

    def __init__(self, orders: Orders[Row]) -> None:
        self.orders = orders
        self._rows: dict[str, Row] = {}
        self._views: dict[str, View[Row]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._rows

    def __getitem__(self, row_id: str) -> Row:
        return self._rows[row_id]

    def get(self, row_id: str) -> Row | None:
        return self._rows.get(row_id)

    def items(self) -> Iterator[tuple[str, Row]]:
        return iter(self._rows.items())

    def put(self, row_id: str, row: Row) -> None:
        self._rows[row_id] = row
        self._views.clear()

    def remove(self, row_id: str) -> None:
        del self._rows[row_id]
        self._views.clear()

    def ordered(self, name: str) -> View[Row]:
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = View.of(list(self._rows.values()), self.orders[name])
        return view
