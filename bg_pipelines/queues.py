"""Queue and tier of every job: one table, from which run tags and due times follow."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

TIERS: dict[int, timedelta] = {
    1: timedelta(minutes=5),
    2: timedelta(minutes=15),
    3: timedelta(minutes=60),
}
"""How often a store of each tier is due."""


class Queue(NamedTuple):
    """A queue's name and the `dagster/priority` of its runs (higher goes first)."""

    name: str
    priority: int

    @property
    def tags(self) -> dict[str, str]:
        return {"queue": self.name, "dagster/priority": str(self.priority)}


STORES_SYNC = Queue("stores_sync", 10)
DEFAULT = Queue("default", 0)

JOBS: dict[str, Queue] = {
    "store_sync": STORES_SYNC,
    "inventory_sync": STORES_SYNC,
}
