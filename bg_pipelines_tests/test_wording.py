"""How counts, amounts and times read."""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from itertools import pairwise

import pytest

from bg_pipelines.wording import command, filled, money, spelled
from bg_pipelines_tests.support import PROJECT


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("1.2340", "KWD", "1.234"),
        ("1.0000", "BHD", "1.000"),
        ("7190.0000", "JPY", "7,190"),
        ("1234.5000", "USD", "1,234.50"),
        ("-0.1000", "EUR", "-0.10"),
        ("0", "EUR", "0.00"),
        ("1E+3", "JPY", "1,000"),
        ("12.50", "no code", "12.50"),
        # A fuel's price has a digit more, and what is held is shown.
        ("1.2345", "USD", "1.2345"),
        ("7190.5", "JPY", "7,190.5"),
    ],
)
def test_an_amount_has_the_digits_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert money(Decimal(amount), currency) == text


NOUNS = (
    "minutes|hours|days|seconds|stores|rows|pieces|events|messages|runs|faults|lines|customers|orders|units|changes|"
    "files|tables|incidents|attempts|recipients|products|carts|retries|alerts|subscriptions|requests|people"
)
NEVER_ONE = {
    "START_SECONDS", "MAX_CONCURRENT_RUNS", "LOOKED_THROUGH", "ORPHANS_SHOWN", "SUBMISSION_SECONDS",
    "len(names)", "lines", "operation.lines", "operation.rows", "holders", "place.expected", "total", "number", "seconds / 86400", "incident.job", "verb",
}  # fmt: skip
"""Constants, what is said of many alone, figures of a fault that are told as they are, and what is no number."""


def test_no_text_says_a_number_of_things_but_through_counted() -> None:
    """One minute, two minutes: `counted`, `spelled` and `times` know."""
    found = []
    for path in sorted((PROJECT / "bg_pipelines").rglob("*.py")):
        if "sandbox" in path.parts or "migrations" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for number, text in pairwise(node.values):
                if not (isinstance(number, ast.FormattedValue) and isinstance(text, ast.Constant)):
                    continue
                said = re.match(rf" ({NOUNS})\b", str(text.value))
                value = ast.unparse(number.value)
                if said and "(" not in value.removeprefix("len(") and value not in NEVER_ONE:
                    found.append(f"{path.relative_to(PROJECT)}:{node.lineno} {{{value}}} {said[1]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second"), (60, "60 seconds"), (95, "2 minutes"), (480, "8 minutes"), (7200, "2 hours"), (200_000, "2 days")],
)  # fmt: skip
def test_a_duration_is_spelled_with_its_noun(seconds: float, text: str) -> None:
    assert spelled(seconds) == text


def test_a_command_is_one_that_a_shell_takes_whatever_the_name() -> None:
    assert command("stores", "set", "Söhne's $HOME", "--tier", 1) == (
        "`bg-pipelines stores set 'Söhne'\"'\"'s $HOME' --tier 1`"
    )
    assert filled("of STORE: `bg-pipelines audit STORE`, N", STORE="a b", N=None) == (
        "of STORE: `bg-pipelines audit 'a b'`, N"
    )
