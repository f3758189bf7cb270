"""Progress of a full pass that takes long: said when it begins, and then once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from bg_pipelines.records import Page
from bg_pipelines.wording import about

EVERY_SECONDS = 60.0
"""What is over sooner is not worth a line."""


class Progress:
    """Of one visit. `what` is like "orders of harbor"."""

    def __init__(
        self, what: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._say = say
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._said_at = clock()

    def begin(self, page: Page, read: int) -> None:
        """The first page, behind so many rows that earlier visits have read."""
        if self._began is not None:
            return
        self._began = (self._clock(), read)
        if page.source_count is None:
            return
        left = max(0, page.source_count - read)
        rows = f"{left:,} to read" if not read else f"{left:,} of {page.source_count:,} left to read"
        if not page.read and page.resume is not None and not read:
            self._say(f"{self._what}: {rows}, as an export, at the platform's own pace")
        elif page.seconds_a_row and (seconds := left * page.seconds_a_row) >= EVERY_SECONDS:
            self._say(f"{self._what}: {rows}, {about(seconds)} at the pace that the platform allows")

    def note(self, read: int, count: int | None) -> None:
        """So many rows are kept, of so many that there are."""
        now = self._clock()
        if self._began is None or count is None or now - self._said_at < EVERY_SECONDS:
            return
        began, before = self._began
        if read > before and read < count:
            left = (count - read) * (now - began) / (read - before)
            self._say(f"{self._what}: {read:,} of {count:,}, {about(left)} left")
            self._said_at = now
