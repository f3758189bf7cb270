"""Templates, replies and numbers: what a text costs, what a reply says, and which numbers take none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging.numbers import masked, read_number
from bg_pipelines.messaging.pace import BY_KIND, Pace, kind_of
from bg_pipelines.messaging.templates import TEMPLATES, load_templates, render, segments, tagged_link
from bg_pipelines.messaging.words import LANGUAGES, Reading, is_twilios, reading
from bg_pipelines.sandbox.twilio.account import segments as segments_at_twilio
from bg_pipelines_tests.support import HandClock

FIELDS = {
    "store": "Harbor",
    "title": "Shirt",
    "price": "$49.00",
    "was": "$59.00",
    "link": "https://h.example/s?m=ab",
    "order": "#1001",
    "reference": "ab",
    "about": "products",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_of_ours_is_one_segment_and_holds_its_reference(template: str) -> None:
    text = render(template, FIELDS)
    assert (text.segments, text.encoding) == (1, "GSM-7")
    assert "m=ab" in text.body or "Ref ab" in text.body


def test_a_letter_that_makes_a_text_dear_is_named_and_typographic_signs_are_made_plain() -> None:
    text = render("product_share", {**FIELDS, "title": "“Crème” – l’été …"})
    assert text.body.startswith('Harbor: "Crème" - l\'été ..., $49.00.')
    assert not text.costly
    text = render("product_share", {**FIELDS, "title": "Forêt noire"})
    assert str(text) == f"{len(text.body)} characters of UCS-2, 2 segments instead of 1, because of ê"


@pytest.mark.parametrize("body", ["a" * 160, "a" * 161, "€" * 81, "ê" * 70, "ê" * 71, "😀" * 36, "a" * 460])
def test_segments_are_counted_as_twilio_counts_them(body: str) -> None:
    assert segments(body) == segments_at_twilio(body)


def test_a_long_title_is_cut() -> None:
    assert "x" * 57 + "..., $49.00" in render("product_share", {**FIELDS, "title": "x" * 255}).body


def test_a_field_that_is_missing_is_said() -> None:
    with pytest.raises(IntegrationError, match="nothing is known for price"):
        render("product_share", {**FIELDS, "price": None})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('product_shar = "x"', "there is no such template; did you mean 'product_share'"),
        ('product_share = "{titel} {link}"', "there is no field titel; did you mean 'title'"),
        ('product_share = "{title}"', "must hold {link} or {reference}"),
        ('product_share = "{title"', "must be a text with fields in braces"),
        ("product_share = 7", "must be a text with fields in braces"),
        ("product_share", "cannot be read"),
    ],
)
def test_templates_of_one_s_own_are_checked(tmp_path: Path, content: str, fault: str) -> None:
    file = tmp_path / "texts.toml"
    file.write_text(content)
    with pytest.raises(IntegrationError) as raised:
        load_templates(file)
    assert fault in raised.value.message
    file = tmp_path / "good.toml"
    file.write_text('product_share = "{title}: {link}"')
    assert render("product_share", FIELDS, load_templates(file)).body == "Shirt: https://h.example/s?m=ab"


def test_a_link_keeps_its_query_and_its_fragment() -> None:
    assert tagged_link("https://h.example/p?a=1#top", "ab") == "https://h.example/p?a=1&m=ab#top"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("STOP", Reading.STOP),
        (" stop! ", Reading.STOP),
        ("Unsubscribe", Reading.STOP),
        ("OptOut", Reading.STOP),
        ("¡Alto!", Reading.STOP),
        ("ARRÊT", Reading.STOP),
        ("Please stop texting me", Reading.REFUSAL),
        ("don’t text me again", Reading.REFUSAL),
        ("take me off your list", Reading.REFUSAL),
        ("Wrong number", Reading.REFUSAL),
        ("no me manden más mensajes", Reading.REFUSAL),
        ("Start", Reading.START),
        ("HELP", Reading.HELP),
        ("yes", Reading.YES),
        ("Do you have it in red?", Reading.OTHER),
        ("Thanks, see you at the bus stop", Reading.OTHER),
        ("", Reading.OTHER),
        ("Stopp", Reading.OTHER),  # German is not configured
    ],
)
def test_a_reply_is_read_in_the_configured_languages(text: str, meaning: Reading) -> None:
    assert reading(text, ("en", "es", "fr")) is meaning


def test_every_stop_word_of_twilio_s_stops_in_every_configuration_with_english() -> None:
    for word in ("STOP", "UNSUBSCRIBE", "END", "QUIT", "STOPALL", "REVOKE", "OPTOUT", "CANCEL"):
        assert is_twilios(word)
        for language in LANGUAGES:
            assert reading(word, ("en", language)) is Reading.STOP


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("+1212555", "there is no such number"),
        ("hello", "cannot be read"),
        ("+442079460123", "it is a landline"),
        ("+18005550125", "it is a toll-free number"),
        ("+33612345678", "its country, FR, is not in BG_TEXT_COUNTRIES (GB, US)"),
    ],
)
def test_a_number_that_takes_no_texts_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(IntegrationError) as raised:
        read_number(text, {"US", "GB"})
    assert why in raised.value.message
    assert text.lstrip("+") not in raised.value.message
    assert read_number("(212) 555-0123", {"US"}, region="US") == ("+12125550123", "US")
    assert masked("+12125550123") == "+12…123"


def test_the_kind_of_sender_says_its_rate_and_turns_come_one_after_the_other() -> None:
    senders = ("+12125550100", "+18335550100", "12345", "Harbor", None)
    assert [kind_of(sender) for sender in senders] == list(BY_KIND)
    clock = HandClock()
    pace = Pace(2, clock)
    assert [pace.reserve(), pace.reserve(3), pace.reserve()] == [0, 0.5, 2]
    clock.seconds += 10
    pace.slow_down(4)
    assert pace.reserve() == 4


def test_a_sender_that_is_asked_to_slow_down_without_end_waits_longer_each_time() -> None:
    clock = HandClock()
    pace = Pace(1000, clock)
    waits = []
    for _ in range(8):
        pace.slow_down(None)
        pace.slow_down(None)  # of another worker, at the same time
        waits.append(round(pace.reserve()))
        clock.seconds += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    pace.went_through()
    pace.slow_down(None)
    assert round(pace.reserve()) == 1
