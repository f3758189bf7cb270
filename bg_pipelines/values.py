"""Values of source rows: one reader for all, so that whatever is held can be read again, by PostgreSQL and by Python.

    kept, refused = read_rows(records)      refused: rows with column and fault, never with the value

The two read some texts differently (a time of seven decimals, `:60`, `infinity`, `1_000`), and hold different ranges. So
a value is loaded in one spelling that both read alike, or its row is refused. A column's kind stands with its record:
`Time`, `Amount`, `Whole`, texts, lists of texts and truths as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

Time = Annotated[str, "time"]
"""ISO 8601; without an offset it is UTC."""
Amount = Annotated[int | str, "amount"]
"""A decimal, mostly as text."""
Whole = Annotated[int | str, "whole"]
"""A whole number."""

UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""What no text of PostgreSQL can hold: NUL, and half of a surrogate pair."""

# With a day to spare, for it is shown in zones too.
FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def read_time(value: Any) -> datetime:
    """A source's time, to the microsecond (more is cut off). Raises ValueError, without the value.

    As RFC 3339 has it: lower case too, and a leap second, which is the next minute's first.
    """
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a time")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.group(*_PARTS))
    sign, *offset = found.group("sign", "off_hour", "off_minute", "off_second")
    hours, minutes, seconds = (int(part or 0) for part in offset)
    ahead = timedelta(hours=hours, minutes=minutes, seconds=seconds) * (-1 if sign == "-" else 1)
    midnight, leap = (hour, minute, second) == (24, 0, 0), second == 60
    micro = int((found["fraction"] or "")[:6].ljust(6, "0"))
    try:
        moment = datetime(year, month, day, 0 if midnight else hour, minute, second - leap, micro, tzinfo=UTC)
        moment += timedelta(days=midnight, seconds=leap) - ahead
    except (ValueError, OverflowError):
        raise ValueError("is not a time between the years 1 and 9999") from None
    if not FIRST <= moment <= LAST:
        raise ValueError("is not a time between the years 1 and 9999")
    return moment


def writable(text: Any) -> bool:
    """Whether a value is a text that PostgreSQL can hold, be asked for and compare."""
    return type(text) is str and not UNWRITABLE.search(text)


def time_text(moment: datetime) -> str:
    """A time in the spelling that everybody reads alike."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_PARTS = ("year", "month", "day", "hour", "minute", "second")
_TIME = re.compile(
    r"\s*(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,30}))?)?"
    r"(?:[Zz]|\s?(?P<sign>[+-])(?P<off_hour>\d\d)(?::?(?P<off_minute>[0-5]\d)(?::?(?P<off_second>[0-5]\d))?)?)?)?\s*",
    re.ASCII,
)


# Columns


class Column(NamedTuple):
    """A column of a record. `are_plain` tells of all its values at once whether they can be loaded as they are."""

    name: str
    optional: bool
    are_plain: Callable[[Sequence[Any]], bool]
    read: Callable[[Any], Any]

    def is_plain(self, values: Sequence[Any]) -> bool:
        if self.optional and None in values:
            values = [value for value in values if value is not None]
        return self.are_plain(values)

    def value(self, value: Any) -> Any:
        """Raises ValueError with the column's name."""
        if value is None and self.optional:
            return None
        try:
            return self.read(value)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


class Refused(NamedTuple):
    """A row that cannot be held; `reason` is its first column that is at fault, and how."""

    row: Any
    reason: str


def read_rows(rows: Sequence[Any]) -> tuple[Sequence[Any], list[Refused]]:
    """Rows of one record type as they can be loaded, and those that cannot."""
    if not rows:
        return rows, []
    columns = columns_of(rows[0].__class__)
    odd = [
        number
        for number, (column, values) in enumerate(zip(columns, zip(*rows, strict=True), strict=True))
        if not column.is_plain(values)
    ]
    if not odd:
        return rows, []
    kept: list[Any] = []
    refused: list[Refused] = []
    for row in rows:
        try:
            read = {columns[number].name: columns[number].value(row[number]) for number in odd}
        except ValueError as error:
            refused.append(Refused(row, str(error)))
        else:
            kept.append(row._replace(**read))
    return kept, refused


@cache
def columns_of(record: Any) -> tuple[Column, ...]:
    """The columns of a named tuple, by its annotations."""
    return tuple(_column(name, hint) for name, hint in get_type_hints(record, include_extras=True).items())


def _column(name: str, hint: Any) -> Column:
    parts = list(get_args(hint)) if get_origin(hint) not in (Annotated, list) else [hint]
    optional = NoneType in parts
    [kind] = [part for part in parts if part is not NoneType] or [hint]
    word = kind.__metadata__[0] if get_origin(kind) is Annotated else kind
    return Column(name, optional, *_KINDS[word])


# Kinds. A page's values are looked at together: one by one would cost more than loading them.


def _of_type(wanted: type) -> Callable[[Sequence[Any]], bool]:
    return lambda values: set(map(type, values)) <= {wanted}


_ALL_TEXTS, _ALL_LISTS, _ALL_INTEGERS = _of_type(str), _of_type(list), _of_type(int)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
# What Python reads of these alone PostgreSQL reads as well, and alike.
_OF_AMOUNTS, _OF_WHOLES = re.compile(r"[0-9.-]*"), re.compile(r"[0-9]*")
_SEPARATORS = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":"}


def _texts(values: Sequence[Any]) -> bool:
    if not _ALL_TEXTS(values):
        return False
    joined = "".join(values)
    # ASCII has but one of them, which is found much faster alone.
    return "\0" not in joined if joined.isascii() else not UNWRITABLE.search(joined)


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("must be a text and is not")
    if UNWRITABLE.search(value):
        raise ValueError("holds a character that no text can hold")
    return value


def _times(values: Sequence[Any]) -> bool:
    """Written as most do, 2026-01-01T00:00:00Z or with milliseconds, and there is such a day and hour."""
    if not _ALL_TEXTS(values):
        return False
    count, [width, *others] = len(values), {*map(len, values)} or {20}
    joined = "".join(values)
    separators = _SEPARATORS | ({19: "Z"} if width == 20 else {19: ".", 23: "Z"})
    if others or width not in (20, 24):
        return False
    if not all(joined[at::width] == mark * count for at, mark in separators.items()):
        return False
    try:
        moments = [datetime.fromisoformat(value) for value in values]
    except ValueError:
        return False
    return not moments or ("T24" not in joined and min(moments) >= FIRST and max(moments) <= LAST)


def _numbers(characters: re.Pattern[str], read: Callable[[str], Any]) -> Callable[[Sequence[Any]], bool]:
    def are_plain(values: Sequence[Any]) -> bool:
        if _ALL_INTEGERS(values):
            return True
        if not _ALL_TEXTS(values) or not characters.fullmatch("".join(values)):
            return False
        try:
            return all(True for _ in map(read, values))
        except ValueError:
            return False

    return are_plain


def _read_amount(value: Any) -> str:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return value
    raise ValueError("must be a number and is not")


def _read_whole(value: Any) -> int | str:
    if type(value) is int or (isinstance(value, str) and _WHOLE.fullmatch(value)):
        return value
    raise ValueError("must be a whole number and is not")


def _lists(values: Sequence[Any]) -> bool:
    return _ALL_LISTS(values) and _texts(list(chain.from_iterable(values)))


def _read_list(value: Any) -> list[str]:
    if type(value) is not list or not _ALL_TEXTS(value):
        raise ValueError("must be a list of texts and is not")
    return [_read_text(one) for one in value]


def _read_truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false and is not")
    return value


_KINDS: dict[Any, tuple[Callable[[Sequence[Any]], bool], Callable[[Any], Any]]] = {
    "time": (_times, lambda value: time_text(read_time(value))),
    "amount": (_numbers(_OF_AMOUNTS, float), _read_amount),
    "whole": (_numbers(_OF_WHOLES, int), _read_whole),
    str: (_texts, _read_text),
    bool: (_of_type(bool), _read_truth),
    list[str]: (_lists, _read_list),
}
