"""The figures of `status`, computed once for all who look at the same time.

Of 10,000 stores they take a fifth of a second, so a page does not wait for them: it shows those of a moment ago, says of which,
and has them computed anew. Only whoever comes after a pause waits, and whoever has just changed something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.daemon_figures import read_daemon
from bg_pipelines.operations.status import Status, read_status
from bg_pipelines.operations.trends import Trend, read_trends

FRESH_SECONDS, USABLE_SECONDS = 5.0, 30.0
"""Younger than the first, figures are shown as they are; younger than the second, while they are computed anew."""
WORST = 10
"""Stores that are late, by name."""


class Figures(NamedTuple):
    status: Status
    trends: dict[str, Trend]


class Cache:
    """`clock` is in seconds and only ever compared with itself."""

    def __init__(
        self, database: Database, dagster: Database, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._dagster = dagster
        self._clock = clock
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "board figures")
        self._held: Figures | None = None
        self._read_at = float("-inf")
        self._coming: Future[Figures] | None = None
        self._changes = 0
        """How often what was computed before was forgotten."""

    def read(self) -> Figures:
        """Raises IntegrationError (database)."""
        with self._lock:
            age = self._clock() - self._read_at
            if self._held is not None and age < FRESH_SECONDS:
                return self._held
            if self._coming is None:
                self._coming = self._pool.submit(self._compute, self._changes)
            coming, held = self._coming, self._held
        return held if held is not None and age < USABLE_SECONDS else coming.result()

    def forget(self) -> None:
        """Something was changed: what was computed before, or began to be, is not shown any more."""
        with self._lock:
            self._held = self._coming = None
            self._changes += 1
            self._read_at = float("-inf")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _compute(self, changes: int) -> Figures:
        began = self._clock()
        figures = None
        try:
            figures = Figures(
                read_status(self._database, most_stores=WORST, daemon=read_daemon(self._dagster)),
                read_trends(self._database),
            )
            return figures
        finally:
            with self._lock:
                if changes == self._changes:
                    self._coming = None
                    if figures is not None:
                        self._held, self._read_at = figures, began
