"""Wording of counts, times, durations and suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from typing import Any


def counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M}" if now - moment < timedelta(hours=20) else f"{moment:%Y-%m-%d %H:%M}"


def span(seconds: float | None) -> str:
    """A duration in about four letters; nothing where there is none."""
    if seconds is None:
        return ""
    if not seconds:
        return "0"
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, length in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 120 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def flat(text: str) -> str:
    return " ".join(text.split())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the most similar known one, if any."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {str(close[0])!r}?" if close else ""


def plain(value: Any) -> Any:
    """The value for JSON: named tuples and dataclasses as objects, moments as ISO 8601."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value
