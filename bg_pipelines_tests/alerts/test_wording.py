"""What an alert says, and what of it fits a text message."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.alerts.wording import Facts, Message, compose, sms
from bg_pipelines.sandbox.twilio.account import segments

FACTS = Facts(
    severity="high",
    subject="store harbor",
    error_type="credentials",
    message="Shopify does not accept the access token (401)",
    needs_attention=True,
    since=datetime(2026, 11, 23, 12, tzinfo=UTC),
    times=3,
    units=["products", "product_variants"],
    incident_id=12,
)


def test_an_alert_says_what_since_when_how_often_and_what_to_do() -> None:
    assert compose("opened", FACTS) == (
        "[high] store harbor: credentials",
        "Shopify does not accept the access token (401)\n"
        "Requires attention.\n"
        "Since 2026-11-23 12:00 UTC, seen 3 times: products, product_variants.\n"
        "bg-pipelines incidents show 12",
    )


def test_what_mends_itself_says_so() -> None:
    _, body = compose("opened", FACTS._replace(needs_attention=False, times=1, units=[], incident_id=None))
    assert body.splitlines()[1:] == [
        "Retrying automatically.",
        "Since 2026-11-23 12:00 UTC, seen once.",
        "bg-pipelines incidents list",
    ]


def test_each_kind_is_told_by_its_title() -> None:
    assert compose("escalated", FACTS)[0] == "[high] store harbor: credentials, still"
    title, body = compose("all_clear", FACTS._replace(resolution="the work succeeded"))
    assert title == "[all clear] store harbor: credentials"
    assert body.startswith(
        "It is over: the work succeeded.\nIt began 2026-11-23 12:00 UTC and was seen 3 times"
    )


@given(st.text(), st.text(max_size=2000))
def test_a_text_message_takes_two_segments_at_most_and_ends_with_its_reference(title: str, body: str) -> None:
    text = sms(Message("opened", "high", title, body, "3f9a2c71b0", 12))
    assert segments(text) <= 2
    assert text.endswith("\n#12 3f9a2c71b0")


@pytest.mark.parametrize("name", ["Łódź", "Café Señor façade", "tienda 🎉™ [x]", "Đorđe’s œuvre", "東京"])
def test_a_letter_outside_the_alphabet_costs_no_third_segment(name: str) -> None:
    facts = FACTS._replace(subject=f"store {name}", units=["products"] * 20)
    assert segments(sms(Message("opened", "high", *compose("opened", facts), "3f9a2c71b0", 12))) <= 2


def test_typographic_characters_don_t_double_the_price() -> None:
    body = "run `bg-pipelines migrate` – “now” … it’s\u00a0late → soon"
    text = sms(Message("opened", "high", "[high] a", body, "3f9a2c71b0"))
    assert segments(text) == 1
    assert "'bg-pipelines migrate' - \"now\" ... it's late -> soon" in text


@pytest.mark.parametrize(
    ("name", "written"),
    [("Zürich", "Zürich"), ("Łódź", "Lodz"), ("Ben & Çelik 🎉", "Ben & Çelik"), ("東京", "東京")],
)
def test_names_are_left_as_they_are_as_far_as_the_alphabet_goes(name: str, written: str) -> None:
    assert sms(Message("opened", "high", name, "", "3f9a2c71b0")).startswith(f"{written}\n")
