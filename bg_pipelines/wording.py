"""Wording of counts, amounts, commands, times, durations and suggestions for mistyped words; texts of strangers, made harmless."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any


def counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def grouped(facts: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Facts, each of whom and what, in their order: all of whom the same is to be said together."""
    found: dict[str, list[str]] = {}
    for who, what in facts:
        found.setdefault(what, []).append(who)
    return [(names, what) for what, names in found.items()]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names as a sentence has them: a, b, c and 182 others."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 2])} and {len(names) - most + 2:,} others"


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


def spelled(seconds: float) -> str:
    """A duration in whole words, as a sentence has it: 40 seconds, 8 minutes, 3 hours, 2 days."""
    for noun, length, most in (("second", 1, 90), ("minute", 60, 120), ("hour", 3600, 48)):
        if round(seconds / length) < most:
            return counted(round(seconds / length), noun)
    return counted(round(seconds / 86_400), "day")


def about(seconds: float) -> str:
    """A long duration as one says it: minutes, hours or days."""
    if seconds < 90 * 60:
        return f"about {max(1, round(seconds / 60))} min"
    if seconds < 48 * 3600:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 86_400:.1f} days"


ADD_A_STORE = "`bg-pipelines stores add NAME --domain DOMAIN --token -`"


def command(*words: object) -> str:
    """A command of ours as a text shows it, to be pasted into a shell: a name with a blank or a quote in it is one word."""
    return f"`bg-pipelines {shlex.join(map(str, words))}`"


_COMMAND = re.compile(r"`bg-pipelines [^`]*`")


def filled(text: str, **names: object) -> str:
    """The text with the names of what it is about in its commands: `bg-pipelines stores set STORE --tier 3` for STORE='Cedar
    Tools'. One that is None stays as it is written."""

    def fill(command: re.Match[str]) -> str:
        words = "|".join(names)
        return re.sub(rf"\b(?:{words})\b", lambda word: _shell_word(names[word[0]], word[0]), command[0])

    return _COMMAND.sub(fill, text)


def _shell_word(value: object, otherwise: str) -> str:
    return otherwise if value is None else shlex.quote(str(value))


def flat(text: str) -> str:
    return " ".join(text.split())


# Controls but for tab and line feed, what is invisible, what turns the direction of writing, halves of surrogates, tags.
# The joiners of emoji and of Persian are not among them: they are part of how a word is written.
_UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """The text with what cannot be seen, or would steer a terminal, written out: `\\x1b[2J`."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def unseen(text: str) -> str | None:
    """The first character of a name, a key or the like that cannot be seen or typed, as U+200B; None without one."""
    if found := _UNSEEN.search(text) or re.search(r"[\t\n]", text):
        return f"U+{ord(found[0]):04X}"
    return None


def storable(text: str) -> str:
    """What a person typed, as PostgreSQL can hold it."""
    return text.replace("\0", "").encode(errors="replace").decode()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the most similar known one, if any."""
    close = difflib.get_close_matches(word, list(known), n=1) if len(word) < 200 else []
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


# ISO 4217: how many digits the smallest unit of a currency is behind the point, where it is not two.
_WITHOUT_CENTS = (
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF",
)  # fmt: skip
_IN_THOUSANDTHS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
_DIGITS = {
    **dict.fromkeys(_WITHOUT_CENTS, 0),
    **dict.fromkeys(_IN_THOUSANDTHS, 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


def currency_digits(currency: str) -> int:
    """How many digits the smallest unit of a currency (ISO 4217) is behind the point."""
    return _DIGITS.get(currency, 2)


def money(amount: Decimal, currency: str) -> str:
    """An amount as it is read: 1,234.50 USD, 7,190 JPY and 1.234 KWD without the code; a digit more where it has one."""
    exact = -int(amount.normalize().as_tuple().exponent) if amount.is_finite() else 0
    return f"{amount:,.{max(currency_digits(currency), exact)}f}"
