"""Numbers of a place where it is day now: tests that go by the real clock need recipients who may be sent to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bg_pipelines.machine.demo_texts import DIGITS, PLACES
from bg_pipelines.messaging.quiet_hours import is_allowed, places_of

COUNTRIES = tuple(PLACES)
FOR = timedelta(hours=1)


def daytime_numbers(count: int) -> list[str]:
    """So many numbers of one place that may be sent to now and for an hour."""
    now = datetime.now(UTC)
    for country, prefix in PLACES.items():
        numbers = [f"{prefix}{number:0{DIGITS[country]}}" for number in range(1000, 1000 + count)]
        places = places_of(numbers[0])
        if is_allowed(now, places) and is_allowed(now + FOR, places):
            return numbers
    raise AssertionError("it is night everywhere")
