"""Ids, times and money as the vendor writes them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
DAY_MS = 24 * 3600 * 1000
HOUR_MS = 3600 * 1000
MINOR_UNITS = {"JPY": 0, "BHD": 3}


def now_ms(clock: Clock) -> int:
    return int(clock.seconds() * 1000)


def show_time(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, e.g. 2016-09-04T23:59:33.123Z."""
    second, rest = divmod(ms, 1000)
    return f"{show_second(second)}.{rest:03d}Z"


@cache
def show_day(day: int) -> str:
    return (EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


def show_second(second: int) -> str:
    day, rest = divmod(second, 86400)
    return f"{show_day(day)}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def read_time(text: str) -> float:
    """Milliseconds since 1970 of an RFC 3339 time; a ValueError without a zone, as the vendor wants one."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("it names no zone")
    return (time - EPOCH) / MILLISECOND


def opaque_id(length: int, *words: object) -> str:
    """An id of upper-case letters and digits; the same words always make the same one."""
    return hashlib.sha256(":".join(map(str, words)).encode()).hexdigest()[:length].upper()


def money(amount: int, currency: str) -> Node:
    """In the currency's smallest unit: 100 is 1.00 USD, 100 JPY and 0.100 BHD."""
    return {"amount": amount, "currency": currency}


def minor_units(currency: str) -> int:
    return MINOR_UNITS.get(currency, 2)
