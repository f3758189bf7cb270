"""Phone numbers: in E.164 where they can be read, and never lost where they cannot."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.platforms.phones import normalise


@pytest.mark.parametrize(
    ("text", "region", "number", "kept"),
    [
        ("+12125550001", None, "+12125550001", None),
        ("+12125550001", "DE", "+12125550001", None),
        ("(212) 555-0001", "US", "+12125550001", "(212) 555-0001"),
        ("0044 20 7946 0958", "DE", "+442079460958", "0044 20 7946 0958"),
        ("020 7946 0958", "GB", "+442079460958", "020 7946 0958"),
        ("+1 212 555 0001 ext. 12", None, "+12125550001", "+1 212 555 0001 ext. 12"),
        ("212-555-0001 x7", "US", "+12125550001", "212-555-0001 x7"),
        ("+१२१२५५५०००१", None, "+12125550001", "+१२१२५५५०००१"),
        ("020 7946 0958", None, None, "020 7946 0958"),
        ("212 555 0001", "ZZ", None, "212 555 0001"),
        ("1234", "US", None, "1234"),
        ("+4402079460958", None, "+442079460958", "+4402079460958"),
        ("+44 (0)20 7946 0958", None, "+442079460958", "+44 (0)20 7946 0958"),
        ("+4903023125000", "US", "+493023125000", "+4903023125000"),
        ("+390612345678", None, "+390612345678", None),  # a nought that belongs to the number
        ("+999123456789", None, None, "+999123456789"),
        ("+5215512345679", None, None, "+5215512345679"),
        ("+15551234567", "US", None, "+15551234567"),
        ("call my sister", "US", None, "call my sister"),
        ("+0", None, None, "+0"),
        ("", "US", None, None),
        (None, "US", None, None),
    ],
)
def test_a_number_is_read_as_in_its_region(
    text: str | None, region: str | None, number: str | None, kept: str | None
) -> None:
    assert normalise(text, region) == (number, kept)


@pytest.mark.parametrize("number", ["+4402079460958", "+4903023125000", "+999123456789", "+12125550001"])
def test_a_number_is_the_same_however_it_is_spaced(number: str) -> None:
    spaced = f"{number[:3]} {number[3:6]} {number[6:]}"
    assert normalise(number, None)[0] == normalise(spaced, None)[0]


@given(
    st.text(st.characters() | st.sampled_from("+0123456789 -()x"), max_size=40), st.sampled_from(["US", None])
)
def test_no_text_is_lost_and_no_number_is_of_another_form(text: str, region: str | None) -> None:
    number, kept = normalise(text, region)
    assert number is None or re.fullmatch(r"\+[1-9][0-9]{6,14}", number)
    assert text in (number, kept) or not text
