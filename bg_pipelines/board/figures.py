"""The figures of `status`, computed once for all who look at the same time.

Of 10,000 stores they take a fifth of a second, so a page does not wait for them: it shows those of a moment ago, says of which,
and has them computed anew. They are kept warm for who comes after a pause. After a change all of them are waited for, but not
for long: then what a person acts on (incidents, circuits, what fails, what is paused) is read anew, and beside it stand the sums
of a moment ago.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.daemon_figures import read_daemon
from bg_pipelines.operations.status import Status, read_beside, read_status
from bg_pipelines.operations.trends import Trend, read_trends

FRESH_SECONDS, USABLE_SECONDS = 5.0, 60.0
"""Younger than the first, figures are shown as they are; younger than the second, while they are computed anew."""
CHANGED_SECONDS = 0.025
"""So long whoever has changed something waits for all figures."""
WARM_SECONDS = 20.0
"""How often they are computed when nobody looks: of 10,000 stores, for a hundredth of a processor's time."""
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
        self._closed = threading.Event()
        self._warm: threading.Thread | None = None
        self._held: Figures | None = None
        self._read_at = float("-inf")
        self._coming: Future[Figures] | None = None
        self._changes = 0
        """How often something was changed."""
        self._held_of = 0
        """The change that was the last before `_held` was begun."""

    def read(self) -> Figures:
        """Raises IntegrationError (database)."""
        with self._lock:
            age = self._clock() - self._read_at
            held, changed = self._held, self._held_of != self._changes
            if held is not None and age < FRESH_SECONDS and not changed:
                return held
            if self._coming is None:
                self._coming = self._pool.submit(self._compute, self._changes)
            coming = self._coming
        if held is None or age >= USABLE_SECONDS:
            return coming.result()
        if changed:
            with suppress(TimeoutError):
                return coming.result(CHANGED_SECONDS)
            status = held.status
            return held._replace(status=read_beside(self._database, status.metrics, daemon=status.daemon))
        return held

    def changed(self) -> None:
        """Somebody has changed something: what began to be computed before does not know of it."""
        with self._lock:
            self._changes += 1
            self._coming = None

    def keep_warm(self) -> None:
        """From now until `close`, in a thread of its own."""
        self._warm = threading.Thread(target=self._stay_warm, name="board figures, warm", daemon=True)
        self._warm.start()

    def close(self) -> None:
        self._closed.set()
        if self._warm is not None:
            self._warm.join()
        self._pool.shutdown(cancel_futures=True)

    def _stay_warm(self) -> None:
        while True:
            with suppress(IntegrationError):  # who looks is told
                self.read()
            if self._closed.wait(WARM_SECONDS):
                return

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
                        self._held, self._held_of, self._read_at = figures, changes, began
