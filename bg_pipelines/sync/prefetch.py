"""Pages fetched while the ones before them are loaded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from bg_pipelines.records import Page

PAGES_AHEAD = 20
ROWS_A_PAGE = 1_000
"""With their parts; a page of orders with hundreds of lines each counts as several."""


def prefetch(pages: Iterator[Page], check_stopped: Callable[[], None]) -> Iterator[Page]:
    """The same pages, the next ones fetched by a thread while the caller loads these: one commit's worth ahead."""
    first = next(pages, None)
    if first is None:
        return
    yield first
    if first.resume is None:
        yield from pages
        return
    ready: queue.Queue[Page | BaseException | None] = queue.Queue()
    room = threading.Semaphore(PAGES_AHEAD)
    abandoned = threading.Event()

    def put(item: Page | BaseException | None) -> None:
        for _ in range(_size(item)):
            while not room.acquire(timeout=0.2):
                if abandoned.is_set():
                    return
        ready.put(item)

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
            room.release(_size(item))
            yield item
    finally:
        abandoned.set()


def _size(item: Page | BaseException | None) -> int:
    """How many pages it counts for."""
    rows = item.read + item.parts_read if isinstance(item, Page) else 0
    return min(PAGES_AHEAD, max(1, rows // ROWS_A_PAGE))
