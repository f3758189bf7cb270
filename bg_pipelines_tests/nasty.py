"""Nasty values: what has been seen where something plain was expected, in answers of vendors, files and arguments.

One list for all: columns of synced tables, payloads of deliveries, messages, rules, arguments and CSV files. Every text
holds `TRACE`, so that a log, a report or a file that quotes one is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

TRACE = "Quendolin"
"""A name that is nowhere in the product. Times and numbers carry `DIGITS` instead, where they have room for digits."""
DIGITS = "8675309"

TIMES: Mapping[str, str] = {
    "seven decimals": f"2026-11-01T10:00:00.{DIGITS}Z",
    "nine decimals": f"2026-11-01T10:00:00.{DIGITS}47Z",
    "half of a microsecond": "2026-11-01T10:00:00.9999995Z",
    "lower case": "2026-11-01t10:00:00z",
    "a leap second": "2016-12-31T23:59:60Z",
    "the hour 24": "2026-11-01T24:00:00Z",
    "an offset of hours": "2026-11-01T10:00:00+14",
    "an offset without a colon": "2026-11-01 10:00:00-0530",
    "an offset of seconds": "2026-11-01T10:00:00+01:02:03",
    "no offset": "2026-11-01T10:00:00",
    "a date": "2026-11-01",
    "no separators": "20261101T100000Z",
    "a week": "2026-W45-1T10:00:00Z",
    "a year of five digits": "20222-03-01T10:00:00Z",
    "a year of two digits": "0022-03-01T10:00:00Z",
    "the year nought": "0000-01-01T00:00:00Z",
    "before Christ": "2026-11-01T10:00:00Z BC",
    "the last moment": "9999-12-31T23:59:59.999999Z",
    "an offset behind the last year": "9999-12-31T23:30:00-01:00",
    "an offset before the first year": "0001-01-01T00:30:00+02:00",
    "far ahead": "2222-03-01T10:00:00Z",
    "infinity": "infinity",
    "minus infinity": "-infinity",
    "now": "now",
    "tomorrow": "tomorrow",
    "epoch": "epoch",
    "a name of a zone": "2026-11-01 10:00:00 Europe/Berlin",
    "American": "11/01/2026 10:00 PM",
    "the 30th of February": "2026-02-30T10:00:00Z",
    "a month of none": "2026-00-01T10:00:00Z",
    "white space": "  2026-11-01T10:00:00Z\n",
    "seconds since 1970": "1793527200",
    "other digits": "٢٠٢٦-11-01T10:00:00Z",
    "no time": TRACE,
    "empty": "",
}

TEXTS: Mapping[str, str] = {
    "NUL": f"{TRACE}\0",
    "half a surrogate": f"{TRACE}\ud83d",
    "an escape sequence": f"\x1b[2J\x1b]0;{TRACE}\x07",
    "a bell": f"{TRACE}\a",
    "two lines": f"{TRACE}\r\n{TRACE}",
    "line separators": f"{TRACE}\u2028\u0085\v\f",
    "zero width": f"\u200b{TRACE}\ufeff",
    "right to left": f"\u202e{TRACE}",
    "decomposed": f"{TRACE} Zoe\u0308",
    "beyond the first plane": f"{TRACE} \U0001f9d1\u200d\U0001f373\U000e0041",
    "no character": f"{TRACE}\uffff\ufdd0",
    "quotes": f"'{TRACE}' \"{TRACE}\" `{TRACE}` \\",
    "typographic quotes": f"\u201c{TRACE}\u2019",
    "a backslash at the end": f"{TRACE}\\",
    "COPY's end": "\\.",
    "COPY's null": "\\N",
    "tabs": f"{TRACE}\t\t",
    "SQL": f"'; DROP TABLE stores; -- {TRACE}",
    "placeholders": f"%s %(x)s {{}} {{0}} $1 {TRACE}",
    "markup": f"[red]{TRACE}[/red] <script>{TRACE}</script>",
    "a formula": f'=HYPERLINK("http://x","{TRACE}")',
    "an array": f'{{"{TRACE}",NULL}}',
    "JSON": json.dumps({TRACE: [None]}),
    "an option": f"--{TRACE}",
    "a path": f"../../{TRACE}",
    "long": TRACE * 2_000,
    "longer than an index takes": "".join(f"{TRACE}{number}" for number in range(100_000)),
    "white space": " \t\u00a0",
    "empty": "",
}

NUMBERS: Mapping[str, Any] = {
    "5,000 digits": int(DIGITS) * 10**4_993,
    "a text of 5,000 digits": DIGITS + "0" * 4_993,
    "beyond 64 bits": 2**64,
    "beyond 32 bits": 2**31,
    "the least of 32 bits": -(2**31),
    "the least of 64 bits": -(2**63),
    "minus one": -1,
    "nought": 0,
    "minus nought": "-0.0",
    "many decimals": f"1.{DIGITS}",
    "a float": 9.5,
    "a float that is rounded": 0.1 + 0.2,
    "a large float": 1e300,
    "a text with an exponent": "1e5",
    "a huge exponent": "1e99999",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "a comma": "1,50",
    "an underscore": "1_000",
    "hexadecimal": "0x10",
    "a currency": f"{DIGITS} USD",
    "white space": " 12 ",
    "other digits": "١٢",
    "a plus": "+12",
    "a full stop": ".",
}

OTHERS: Mapping[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "a list": [TRACE],
    "a list of null": [None],
    "a list of lists": [[TRACE]],
    "an empty list": [],
    "an object": {TRACE: TRACE},
    "an empty object": {},
    "an object of what was expected": {"id": TRACE, "value": {"value": TRACE}},
}

PHONES: Mapping[str, str] = {
    "a nought of the trunk": "+4903012345678",
    "no country": "+9998675309",
    "too short": "+1212",
    "too long": "+12125550123456789",
    "a landline's extension": f"+1 212 555 0177 x{DIGITS}",
    "letters": "1-800-QUENDOLIN",
    "other digits": "+٤٩٣٠١٢٣٤٥٦٧",
    "two numbers": f"212 555 0177 / 212 {DIGITS}",
}

ALL: Mapping[str, Any] = {
    f"{kind}: {name}": value
    for kind, values in (
        ("time", TIMES),
        ("text", TEXTS),
        ("number", NUMBERS),
        ("phone", PHONES),
        ("type", OTHERS),
    )
    for name, value in values.items()
}
"""Every value by its name; all can stand in JSON, see `as_json`."""

ARGUMENTS: Mapping[str, str] = {
    **{name: value for name, value in ALL.items() if isinstance(value, str) and "\0" not in value and len(value) < 30_000},
    "text: not UTF-8": f"{TRACE}\udce9",
}  # fmt: skip
"""Those that can be an argument of a command; what is not UTF-8 as Python has it."""


def named(values: Mapping[str, Any] = ALL) -> st.SearchStrategy[tuple[str, Any]]:
    """One of the values, with its name."""
    return st.sampled_from(sorted(values)).map(lambda name: (name, values[name]))


def as_json(content: Any) -> bytes:
    """Content that holds nasty values, as a vendor sends it. Python itself refuses to write so many digits."""
    text = json.dumps(_writable(content))
    return text.replace('"5,000 digits"', DIGITS + "0" * 4_993).encode()


def _writable(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _writable(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_writable(value) for value in content]
    return "5,000 digits" if isinstance(content, int) and content.bit_length() > 10_000 else content


def traces(text: str) -> list[str]:
    """What of the values stands in a log, a report or a file, which should be nothing."""
    return [trace for trace in (TRACE, DIGITS) if trace in text]
