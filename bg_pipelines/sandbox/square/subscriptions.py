"""A merchant's webhook subscriptions, each with a key that signs what is sent to it."""

from __future__ import annotations

import base64
import hashlib

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import digest
from bg_pipelines.sandbox.square.shelf import Shelf
from bg_pipelines.sandbox.square.values import now_ms, show_time


class Subscriptions:
    """Rows with the vendor's names; `of` has those that are enabled by the type of event, and no type without any."""

    def __init__(self, merchant_id: str, clock: Clock) -> None:
        self.clock = clock
        self.shelf: Shelf[Node] = Shelf({"CREATED_AT": lambda row: (row["_created"], row["_number"])})
        self.of: dict[str, list[Node]] = {}
        self._merchant_id = merchant_id
        self._made = 0

    def add(self, fields: Node) -> Node:
        self._made += 1
        at = now_ms(self.clock)
        row = {
            "id": f"wbhk_{digest(self._merchant_id, 'subscription', self._made)}",
            "_created": at,
            "_number": self._made,
            "enabled": True,
            **fields,
            "created_at": show_time(at),
            "updated_at": show_time(at),
        }
        row["signature_key"] = self._key(row["id"], 1)
        row["_keys"] = 1
        self.shelf.put(row["id"], row)
        self._sort()
        return row

    def update(self, row: Node, fields: Node) -> None:
        row.update(fields, updated_at=show_time(now_ms(self.clock)))
        self._sort()

    def rotate_key(self, row: Node) -> str:
        """Give it a new key; from now on that one signs."""
        keys = row["_keys"] + 1
        self.update(row, {"_keys": keys, "signature_key": self._key(row["id"], keys)})
        return str(row["signature_key"])

    def remove(self, row: Node) -> None:
        self.shelf.remove(row["id"])
        self._sort()

    def clear(self) -> int:
        """Take all away; returns how many there were."""
        rows = list(self.shelf)
        for row in rows:
            self.remove(row)
        return len(rows)

    def _key(self, row_id: str, number: int) -> str:
        key = hashlib.sha256(f"{row_id}:{number}".encode()).digest()[:16]
        return base64.urlsafe_b64encode(key).decode().rstrip("=")

    def _sort(self) -> None:
        self.of = {}
        for row in self.shelf:
            for event_type in row["event_types"] if row["enabled"] else ():
                self.of.setdefault(event_type, []).append(row)
