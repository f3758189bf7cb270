"""One request of the API while it is answered, and the pages that it may be about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.cursors import make_cursor, read_cursor
from bg_pipelines.sandbox.square.merchant import Merchant
from bg_pipelines.sandbox.square.refusals import RefusalError
from bg_pipelines.sandbox.square.shelf import Page, Row, View
from bg_pipelines.sandbox.square.store import Store


@dataclass
class Call:
    """`id` is the part of the path that names a row. `sent_cursor` and `following` are what a fault needs to repeat a
    cursor: the one that was sent, and the one behind the page whether or not there is more."""

    merchant: Merchant
    operation: str
    id: str
    query: Mapping[str, str]
    body: bytes
    sent_cursor: str | None = None
    following: str | None = None
    rows: int = 0
    asked: Node = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.merchant.store

    def content(self, shape: str) -> Node:
        """The body, checked against the vendor's schema of this name."""
        try:
            given = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise RefusalError("EXPECTED_JSON_BODY", "Expected a JSON body.") from None
        self.asked = shapes.read(shape, given)
        return self.asked

    def cursor(self, query: Node) -> Node:
        """What the cursor that came with the query holds; nothing on a first page."""
        self.sent_cursor = query.get("cursor") or None
        if self.sent_cursor is None:
            return {}
        return read_cursor(self.merchant.id, self.operation, query, self.sent_cursor)

    def page(
        self,
        name: str,
        view: View[Row],
        query: Node,
        show: Callable[[Row], Node],
        *,
        limit: int,
        descending: bool = False,
        matches: Callable[[Row], bool] = lambda _: True,
        cursor: Node | None = None,
        **kept: Any,
    ) -> tuple[Node, list[Row]]:
        """A page's body and its rows. A list without rows is left out of the body, as at the vendor."""
        known = self.cursor(query) if cursor is None else cursor
        page: Page[Row] = view.page(
            limit=limit, after=known.get("last"), descending=descending, matches=matches
        )
        body: Node = {name: [show(row) for row in page.rows]} if page.rows else {}
        if page.last is not None:
            self.following = make_cursor(self.merchant.id, self.operation, query, page.last, **kept)
            if page.more:
                body["cursor"] = self.following
        return body, page.rows
