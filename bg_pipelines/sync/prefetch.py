"""Pages fetched while the ones before them are loaded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from bg_pipelines.platforms.base import Page

LOAD_ROWS = 5_000
"""Rows in a commit: enough to make COPY worth it, few enough to lose little and hold little in memory."""
CHANGED_LOAD_ROWS = 1_000
"""Rows in a commit of what has changed: mostly so few that they would all be fetched before the first was loaded."""


def prefetch(pages: Iterator[Page], check_stopped: Callable[[], None]) -> Iterator[Page]:
    """The same pages, the next ones fetched by a thread while the caller loads these: one commit's worth ahead."""
    first = next(pages)
    yield first
    if first.resume is None:
        yield from pages
        return
    ready: queue.Queue[Page | BaseException | None] = queue.Queue(maxsize=LOAD_ROWS // 250)
    abandoned = threading.Event()

    def put(item: Page | BaseException | None) -> None:
        while not abandoned.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def fetch() -> None:
        try:
            for page in pages:
                put(page)
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 (raised again where the pages are used)
            put(error)

    thread = threading.Thread(target=fetch, daemon=True, name="sync-fetch")
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=0.5)
            except queue.Empty:
                check_stopped()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
