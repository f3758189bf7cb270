"""How counts, amounts and times read."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bg_pipelines.wording import money


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
