"""How many large answers one process reads at a time: a limit for each alone would be as many times that as it has
workers."""

from __future__ import annotations

import threading

from bg_pipelines.platforms.connections import OverdueError

LARGE_BYTES = 8 * 1024 * 1024
AT_ONCE = 2
_places = threading.BoundedSemaphore(AT_ONCE)


class Place:
    """One of the places; given back when nobody has it any more. Who has one asks for nothing else meanwhile."""

    def __init__(self, places: threading.BoundedSemaphore) -> None:
        self._places = places

    def __del__(self) -> None:
        self._places.release()


def take_place(seconds: float, places: threading.BoundedSemaphore = _places) -> Place:
    """Wait for a place. Raises OverdueError where none becomes free in time."""
    if not places.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX))):
        raise OverdueError
    return Place(places)
