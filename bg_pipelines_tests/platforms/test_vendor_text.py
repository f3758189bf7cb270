"""Vendors' own words, without what may be personal in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.platforms.shopify.failures import classify_errors
from bg_pipelines.platforms.vendor_text import LONGEST, said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Email ada.q@example.com has been taken", "Email (an address) has been taken"),
        ("phone +1 (212) 555-0177 is taken", "phone (a number) is taken"),
        ("Phone 2125550177 is invalid", "Phone (a number) is invalid"),
        (
            "Invalid API key or access token shpat_0123456789abcdef0123",
            "Invalid API key or access token (a token)",
        ),
        ("Bearer EAAAEFz5gqvZ8QmN3w: unauthorised", "Bearer (a token): unauthorised"),
        ('value "12 Main Street" is not a city', 'value "…" is not a city'),
        ("'Quendolin Ashford' is too long", "'…' is too long"),
        (
            "Field 'emailz' doesn't exist on type 'CustomerInput'",
            "Field 'emailz' doesn't exist on type 'CustomerInput'",
        ),
        ("Access denied for products field", "Access denied for products field"),
        ("Query cost is 1052, which exceeds 1000", "Query cost is 1052, which exceeds 1000"),
        ("gid://shopify/Product/9000000000001 is gone", "gid://shopify/Product/9000000000001 is gone"),
        ("two\nlines  of\twords", "two lines of words"),
        (None, "None"),
    ],
)
def test_what_looks_like_an_address_a_number_or_a_token_is_left_out(text: str | None, expected: str) -> None:
    assert said(text) == expected


@given(before=st.text(max_size=900), after=st.text(max_size=900))
def test_wherever_it_stands_and_however_long_the_rest_is(before: str, after: str) -> None:
    text = said(f"{before} quendolin@example.com +4930123456789 {after}")
    assert "quendolin" not in text
    assert "123456789" not in text
    assert len(text) <= LONGEST + 2


def test_an_error_has_none_of_it() -> None:
    errors = [{"message": "email ada@example.com is taken", "extensions": {"code": "ada@example.com"}}]
    error = classify_errors(errors, None, {})
    assert "ada@" not in str(error.as_dict())
