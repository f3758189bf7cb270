"""Which claimed store a free worker takes next, so that no platform ever has all the workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from bg_pipelines.work.store_units import Claim

ONE_PLATFORM_SHARE = 0.75
"""Of the workers, where stores live on several platforms: a vendor that is slow leaves the others some."""


class Turns:
    """Claimed stores that wait for a worker, and how many workers each platform has. Safe between threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.share = workers
        self._waiting: dict[str, deque[list[Claim]]] = {}
        self._at_work: dict[str, int] = {}
        self._change = threading.Condition()

    def share_among_platforms(self) -> None:
        self.share = max(1, int(self.workers * ONE_PLATFORM_SHARE))

    def add(self, stores: Iterable[list[Claim]]) -> None:
        with self._change:
            for works in stores:
                self._waiting.setdefault(works[0].platform, deque()).append(works)
            self._change.notify_all()

    def take(self, seconds: float) -> list[Claim] | None:
        """The next store, of the platform with the fewest workers; None if none may be taken within `seconds`."""
        with self._change:
            names = self._open()
            if not names:
                self._change.wait(seconds)
                names = self._open()
            if not names:
                return None
            platform = min(names, key=lambda name: self._at_work.get(name, 0))
            self._at_work[platform] = self._at_work.get(platform, 0) + 1
            return self._waiting[platform].popleft()

    def end(self, works: list[Claim]) -> None:
        with self._change:
            self._at_work[works[0].platform] -= 1
            self._change.notify_all()

    def anyone_waits(self) -> bool:
        with self._change:
            return any(self._waiting.values())

    def a_worker_is_free(self) -> bool:
        """Whether there are more workers with nothing to do than stores they may take."""
        with self._change:
            free = self.workers - sum(self._at_work.values())
            ready = sum(
                min(len(works), self.share - self._at_work.get(name, 0))
                for name, works in self._waiting.items()
            )
            return free > ready

    def crowded(self) -> list[str]:
        """Platforms that have their share already, where there are others."""
        if self.share == self.workers:
            return []
        with self._change:
            names = {*self._waiting, *self._at_work}
            return [
                name
                for name in names
                if self._at_work.get(name, 0) + len(self._waiting.get(name, ())) >= self.share
            ]

    def _open(self) -> list[str]:
        return [
            name for name, works in self._waiting.items() if works and self._at_work.get(name, 0) < self.share
        ]
