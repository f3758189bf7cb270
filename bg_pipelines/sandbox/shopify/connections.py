"""Connections, the vendor's pages: keyset cursors, `first`/`last`, `reverse`, `query`."""

from __future__ import annotations

import base64
import binascii
import contextlib
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import orjson

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.errors import RefusedError
from bg_pipelines.sandbox.shopify.search import Matches
from bg_pipelines.sandbox.shopify.table import Key, Table

LARGEST_PAGE = 250
# A bulk operation reads connections whole.
_without_pages: ContextVar[bool] = ContextVar("without_pages", default=False)


@contextlib.contextmanager
def without_pages() -> Iterator[None]:
    """Connections asked for with neither `first` nor `last` answer all their rows."""
    token = _without_pages.set(True)
    try:
        yield
    finally:
        _without_pages.reset(token)


def encode_cursor(sort_key: str, key: Key) -> str:
    return base64.urlsafe_b64encode(orjson.dumps({"sort": sort_key, "last": key})).decode()


def decode_cursor(sort_key: str, cursor: str) -> Key:
    try:
        content = orjson.loads(base64.urlsafe_b64decode(cursor.encode()))
        if content["sort"] == sort_key and isinstance(content["last"], list):
            return tuple(content["last"])
    except (binascii.Error, ValueError, TypeError, KeyError):
        pass
    raise RefusedError("Invalid cursor for current pagination sort.")


def connect(
    table: Table, args: dict[str, Any], *, sort_key: str = "ID", matches: Matches | None = None
) -> Node:
    """Answer one page as a connection node.

    A cursor holds the last row's key, not its place, so a page after a deleted row goes on where it should.
    """
    size, backward = page_size(args)
    sort_key = "ID" if sort_key == "RELEVANCE" else sort_key
    keys, rows = table.ordered(sort_key)
    reverse = bool(args.get("reverse"))
    low, high = 0, len(rows)
    try:
        for bound, cursor in (("after", args.get("after")), ("before", args.get("before"))):
            if cursor is None:
                continue
            key = decode_cursor(sort_key, cursor)
            if (bound == "after") != reverse:
                low = max(low, bisect_right(keys, key))
            else:
                high = min(high, bisect_left(keys, key))
    except TypeError:
        raise RefusedError("Invalid cursor for current pagination sort.") from None

    indexes = range(low, high) if low < high else range(0)
    walk = indexes if backward == reverse else indexes[::-1]
    found: list[int] = []
    more = False
    for index in walk:
        if matches is not None and not matches(rows[index]):
            continue
        if len(found) == size:
            more = True
            break
        found.append(index)
    if backward:
        found.reverse()

    # What lies on the far side of the cursor that was given.
    outside = range(low) if (backward == reverse) else range(high, len(rows))
    behind = any(matches is None or matches(rows[index]) for index in outside)
    return {
        "nodes": [rows[index] for index in found],
        "pageInfo": {
            "hasNextPage": behind if backward else more,
            "hasPreviousPage": more if backward else behind,
            "startCursor": encode_cursor(sort_key, keys[found[0]]) if found else None,
            "endCursor": encode_cursor(sort_key, keys[found[-1]]) if found else None,
        },
        "_keys": [keys[index] for index in found],
        "_sort_key": sort_key,
    }


def edges(connection: Node, _info: object) -> list[Node]:
    """Resolve `edges` of any connection; cursors per row are only made for those who ask."""
    sort_key = connection["_sort_key"]
    return [
        {"cursor": encode_cursor(sort_key, key), "node": node}
        for key, node in zip(connection["_keys"], connection["nodes"], strict=True)
    ]


def page_size(args: dict[str, Any]) -> tuple[int, bool]:
    """How many rows are asked for, and whether from the end."""
    first, last = args.get("first"), args.get("last")
    if first is None and last is None:
        if _without_pages.get():
            return sys.maxsize, False
        raise RefusedError("you must provide one of first or last")
    if first is not None and last is not None:
        raise RefusedError("providing both first and last is not supported")
    if last is not None and args.get("after") is not None:
        raise RefusedError("using last with after is not supported")
    if first is not None and args.get("before") is not None:
        raise RefusedError("using first with before is not supported")
    name = "last" if first is None else "first"
    size = int(args[name])
    if not 0 <= size <= LARGEST_PAGE:
        raise RefusedError(f"{name} must be between 0 and {LARGEST_PAGE}, but {size} was given")
    return size, name == "last"
