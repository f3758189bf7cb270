"""Spans of time as people write them: `90 days`, `6 hours`, `2 weeks`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

A_SPAN = "must be a span like '90 days' (hours, days or weeks)"
_SPAN = re.compile(r"(\d{1,5}) (hour|day|week)s?")


def read_span(text: Any) -> timedelta | None:
    """The span; None where this is none."""
    match = _SPAN.fullmatch(text.strip()) if isinstance(text, str) else None
    return timedelta(**{f"{match[2]}s": int(match[1])}) if match else None


def write_span(span: timedelta | None) -> str:
    """In the largest unit that it is a whole number of; nothing for none."""
    if span is None:
        return ""
    hours = span.total_seconds() / 3600
    for unit, length in (("week", 168), ("day", 24)):
        if hours and not hours % length:
            return _counted(hours / length, unit)
    return _counted(hours, "hour")


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
