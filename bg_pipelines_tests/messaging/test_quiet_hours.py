"""Quiet hours: by every place where a recipient may be, by its own clock, over the changes of daylight saving."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bg_pipelines.messaging.quiet_hours import (
    Address,
    allowed_until,
    is_allowed,
    next_allowed,
    places_of,
    zones_of,
)

NEW_YORK = "+12125550123"
FLORIDA = "+13055550124"
TOLL_FREE = "+18005550125"


def local(zone: str, *when: int) -> datetime:
    return datetime(*when, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("phone", "addresses", "zone", "opens", "closes"),
    [
        (NEW_YORK, [], "America/New_York", 8, 21),
        (FLORIDA, [], "America/New_York", 8, 20),
        ("+12145550126", [], "America/Chicago", 9, 21),  # Texas
        ("+15025550127", [], "America/New_York", 10, 21),  # Kentucky
        ("+12035550128", [], "America/New_York", 9, 20),  # Connecticut
        (NEW_YORK, [Address("US", "CT")], "America/New_York", 9, 20),
        (NEW_YORK, [Address("US", "CA")], "America/New_York", 11, 21),
        ("+442071838750", [], "Europe/London", 8, 21),
    ],
)
def test_the_stricter_of_the_number_s_area_and_the_address_counts(
    phone: str, addresses: list[Address], zone: str, opens: int, closes: int
) -> None:
    places = places_of(phone, addresses)
    for hour in range(24):
        at = local(zone, 2026, 11, 24, hour, 30)
        assert is_allowed(at, places) is (opens <= hour < closes), hour
    assert is_allowed(local(zone, 2026, 11, 24, opens), places)
    assert not is_allowed(local(zone, 2026, 11, 24, closes), places)


def test_a_sunday_in_texas_and_a_weekend_in_rhode_island_have_their_own_hours() -> None:
    texas, rhode_island = places_of("+12145550126"), places_of("+14015550129")
    sunday = local("America/Chicago", 2026, 11, 29, 11, 59)
    assert next_allowed(sunday, texas) == sunday + timedelta(minutes=1)
    saturday = local("America/New_York", 2026, 11, 28, 17)
    assert next_allowed(saturday, rhode_island) == local("America/New_York", 2026, 11, 29, 10)


def test_a_number_without_an_area_may_be_anywhere_in_its_country() -> None:
    places = places_of(TOLL_FREE)
    # Eight in Honolulu is one in the afternoon in New York; nine in New York is four in Honolulu.
    assert not is_allowed(local("Pacific/Honolulu", 2026, 11, 24, 7, 59), places)
    assert is_allowed(local("Pacific/Honolulu", 2026, 11, 24, 8), places)
    assert not is_allowed(local("America/New_York", 2026, 11, 24, 21), places)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 7), 10), ((2026, 10, 31), 12), ((2026, 11, 23), 11)])
def test_a_night_in_which_the_clocks_change_is_an_hour_shorter_or_longer(
    day: tuple[int, int, int], hours: int
) -> None:
    evening = local("America/New_York", *day, 21)
    assert next_allowed(evening, places_of(NEW_YORK)) == evening + timedelta(hours=hours)


def test_what_may_be_sent_may_wait_until_the_hours_end_anywhere() -> None:
    noon = local("America/New_York", 2026, 11, 24, 12)
    places = places_of(NEW_YORK, [Address("US", "FL")])
    assert allowed_until(noon, places) == local("America/New_York", 2026, 11, 24, 20)


NUMBERS = st.sampled_from([NEW_YORK, FLORIDA, TOLL_FREE, "+14015550129", "+61491570006", "+442071838750"])
ADDRESSES = st.lists(
    st.sampled_from([Address("US", "TX"), Address("US", "HI"), Address("DE"), Address("AU", "WA")]),
    max_size=2,
)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, ADDRESSES, st.integers(0, 2 * 365 * 24 * 60))
def test_the_next_allowed_moment_is_allowed_and_none_before_it_is(
    phone: str, addresses: list[Address], minutes: int
) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    places = places_of(phone, addresses)
    found = next_allowed(moment, places)
    if found is None:
        return
    assert is_allowed(found, places)
    steps = int((found - moment) / timedelta(minutes=30))
    for step in range(steps):
        assert not is_allowed(moment + step * timedelta(minutes=30), places)


def test_the_table_names_only_zones_of_their_country_and_area_codes_of_their_state() -> None:
    table = tomllib.loads((files("bg_pipelines.messaging") / "quiet_hours.toml").read_text())
    for country, states in table["zones"].items():
        for zones in states.values():
            assert set(zones) <= {*zones_of(country), "America/Moncton", "America/Goose_Bay"}
    codes = [
        code for state in table["US"].values() if isinstance(state, dict) for code in state["area_codes"]
    ]
    assert len(codes) == len(set(codes))
    assert all(state["source"] for state in table["US"].values() if isinstance(state, dict))
