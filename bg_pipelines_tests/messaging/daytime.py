"""Numbers of a place where it is day now: tests that go by the real clock need recipients who may be sent to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bg_pipelines.messaging.quiet_hours import is_allowed, places_of

PREFIXES = {"US": "+1212555", "GB": "+4474000", "IN": "+919812", "JP": "+819012", "NZ": "+6421123"}
DIGITS = {"US": 4, "GB": 5, "IN": 6, "JP": 6, "NZ": 4}
COUNTRIES = tuple(PREFIXES)
FOR = timedelta(hours=1)


def daytime_numbers(count: int) -> list[str]:
    """So many numbers of one place that may be sent to now and for an hour."""
    now = datetime.now(UTC)
    for country, prefix in PREFIXES.items():
        numbers = [f"{prefix}{number:0{DIGITS[country]}}" for number in range(1000, 1000 + count)]
        places = places_of(numbers[0])
        if is_allowed(now, places) and is_allowed(now + FOR, places):
            return numbers
    raise AssertionError("it is night everywhere")
