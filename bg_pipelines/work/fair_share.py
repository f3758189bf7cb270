"""Fair share: which claimed batch a free worker takes next, so that no group (a platform) has all the workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

B = TypeVar("B")

ONE_GROUPS_SHARE = 0.75
"""A group's largest share of the workers, if there are several: a slow vendor leaves some to the others."""


class FairShare(Generic[B]):
    """Claimed batches waiting for a worker, and the number of workers per group. Thread-safe."""

    def __init__(self, workers: int, group: Callable[[B], str]) -> None:
        self.workers = workers
        self.share = workers
        self.group = group
        self._waiting: dict[str, deque[B]] = {}
        self._at_work: dict[str, int] = {}
        self._change = threading.Condition()

    def share_among_groups(self) -> None:
        """There are several groups: none may have more than its share."""
        self.share = max(1, int(self.workers * ONE_GROUPS_SHARE))

    def add(self, batches: Iterable[B]) -> None:
        with self._change:
            for batch in batches:
                self._waiting.setdefault(self.group(batch), deque()).append(batch)
            self._change.notify_all()

    def take(self, seconds: float) -> B | None:
        """The next batch, of the group with the fewest workers; None if none may be taken within `seconds`."""
        with self._change:
            names = self._open()
            if not names:
                self._change.wait(seconds)
                names = self._open()
            if not names:
                return None
            name = min(names, key=lambda name: self._at_work.get(name, 0))
            self._at_work[name] = self._at_work.get(name, 0) + 1
            return self._waiting[name].popleft()

    def end(self, batch: B) -> None:
        with self._change:
            self._at_work[self.group(batch)] -= 1
            self._change.notify_all()

    def anyone_waits(self) -> bool:
        with self._change:
            return any(self._waiting.values())

    def a_worker_is_free(self) -> bool:
        """Whether there are more workers with nothing to do than batches they may take."""
        with self._change:
            free = self.workers - sum(self._at_work.values())
            ready = sum(
                min(len(batches), self.share - self._at_work.get(name, 0))
                for name, batches in self._waiting.items()
            )
            return free > ready

    def crowded(self) -> list[str]:
        """Groups that have their share already, where there are others."""
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
            name
            for name, batches in self._waiting.items()
            if batches and self._at_work.get(name, 0) < self.share
        ]
