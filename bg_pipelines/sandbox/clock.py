"""The sandbox's clock, which an operator may shift."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """`read` gives seconds since 1970; `offset_seconds` is added to it."""

    def __init__(self, read: Callable[[], float] = time.time) -> None:
        self.read = read
        self.offset_seconds = 0.0

    def seconds(self) -> float:
        return self.read() + self.offset_seconds

    def stamp(self, seconds_ago: float = 0.0) -> str:
        return stamp(self.seconds() - seconds_ago)


def stamp(seconds: float) -> str:
    """The vendor's DateTime: UTC, whole seconds. Computed from 1970 because fromtimestamp refuses far years."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")
