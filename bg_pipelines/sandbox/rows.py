"""Rows of any vendor: plain dicts with the vendor's field names. What begins with an underscore is never shown."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]


def shown(row: Node) -> Node:
    return {name: value for name, value in row.items() if not name.startswith("_")}
