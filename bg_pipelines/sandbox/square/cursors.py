"""The opaque cursors of pages, each valid only for the query and the merchant that it was made for."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.refusals import RefusalError
from bg_pipelines.sandbox.square.shelf import Key

# How a page is asked for, which may differ from page to page.
OF_THE_PAGE = frozenset(["cursor", "limit", "count"])
SEAL_LENGTH = 16


def make_cursor(merchant_id: str, operation: str, query: Node, last: Key, **more: Any) -> str:
    """`last` is the key of the last row of the page; `more` is kept beside it."""
    payload = orjson.dumps({"last": last, **more})
    return (
        base64.urlsafe_b64encode(seal(merchant_id, operation, query, payload) + payload).decode().rstrip("=")
    )


def read_cursor(merchant_id: str, operation: str, query: Node, cursor: str) -> Node:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    sealed, payload = raw[:SEAL_LENGTH], raw[SEAL_LENGTH:]
    if not payload or sealed != seal(merchant_id, operation, query, payload):
        raise RefusalError("INVALID_CURSOR", "The cursor is not valid for this query.", field="cursor")
    content: Node = orjson.loads(payload)
    content["last"] = tuple(content["last"])
    return content


def seal(merchant_id: str, operation: str, query: Node, payload: bytes) -> bytes:
    asked = {name: value for name, value in query.items() if name not in OF_THE_PAGE}
    text = orjson.dumps([merchant_id, operation, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text + payload).digest()[:SEAL_LENGTH]
