"""The sender's rate: so many segments a second, kept by all workers of a run together.

Carriers drop what a number sends faster than its kind may, and Twilio queues it where neither an opt-out nor quiet hours
reach it any more (https://www.twilio.com/docs/messaging/guides/how-to-use-twilio-rate-limits).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from bg_pipelines.settings import Settings

BY_KIND = {"long code": 1.0, "toll-free": 3.0, "short code": 100.0, "name": 10.0, "messaging service": 10.0}
"""Segments a second of each kind of sender, as far as the kind alone tells; registered senders may have more."""
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 1.0, 60.0
_TOLL_FREE = re.compile(r"\+1(800|833|844|855|866|877|888)")


def kind_of(sender: str | None) -> str:
    """The kind of a sender; None: a Messaging Service chooses it."""
    if sender is None:
        return "messaging service"
    if _TOLL_FREE.match(sender):
        return "toll-free"
    if sender.startswith("+"):
        return "long code"
    return "short code" if sender.isdigit() else "name"


def of_settings(settings: Settings) -> Pace:
    """The rate of the settings, or what the sender's kind is good for."""
    sender = None if settings.twilio_messaging_service_sid else settings.twilio_from
    return Pace(settings.text_segments_a_second or BY_KIND[kind_of(sender)])


class Pace:
    """Turns of one sender. `clock` is in seconds. Safe to share between threads."""

    def __init__(
        self,
        segments_a_second: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        self.segments_a_second = segments_a_second
        self.clock = clock
        self.first_backoff_seconds = first_backoff_seconds
        self._lock = threading.Lock()
        self._free_at = self._held_until = clock()
        self._backoff_seconds = 0.0

    def reserve(self, segments: int = 1) -> float:
        """Take a turn for so many segments; returns in how many seconds it comes."""
        with self._lock:
            now = self.clock()
            turn = max(self._free_at, now)
            self._free_at = turn + segments / self.segments_a_second
            return turn - now

    def slow_down(self, seconds: float | None) -> None:
        """Twilio asked to slow down: nobody has a turn for so long, or, where it did not say for how long, for twice as
        long as the last time."""
        with self._lock:
            now = self.clock()
            if seconds is None:
                if now < self._held_until:
                    return  # of those that were under way together
                self._backoff_seconds = min(
                    max(2 * self._backoff_seconds, self.first_backoff_seconds), LONGEST_BACKOFF_SECONDS
                )
                seconds = self._backoff_seconds
            self._held_until = max(self._held_until, now + seconds)
            self._free_at = max(self._free_at, self._held_until)

    def went_through(self) -> None:
        """A message was taken: the next time begins anew."""
        self._backoff_seconds = 0.0
