"""Quiet hours: whether a text message may be sent to a recipient at a moment, and if not, when.

    places = places_of("+13055550123", [Address("US", "CT")])
    next_allowed(now, places)        # `now`, or when the window next opens at all of these places

Where somebody is, nobody knows: by the number's area they may be in one place, by their address in another, and a number
without an area may be anywhere in its country. A message is sent only while it is allowed at every one of these.
`quiet_hours.toml` is the table.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TABLE = "quiet_hours.toml"
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SEARCHED_DAYS = 14
_NORTH_AMERICA = 1

Window = tuple[time, time] | None
"""From and until when on one day, by the clock of the place; None: not at all."""
Week = tuple[Window, ...]


class Address(NamedTuple):
    """Of a customer's address what matters: ISO 3166 country, and the state or province in it."""

    country: str
    state: str | None = None


class Place(NamedTuple):
    """A clock and the hours that go by it."""

    zone: ZoneInfo
    week: Week

    def window(self, local: datetime) -> Window:
        return self.week[local.weekday()]

    def allows(self, moment: datetime) -> bool:
        local = moment.astimezone(self.zone)
        window = self.window(local)
        return window is not None and window[0] <= local.time() < window[1]

    def closes(self, moment: datetime) -> datetime:
        """Until when its window stays open that is open at `moment`."""
        local = moment.astimezone(self.zone)
        window = self.window(local)
        return datetime.combine(local.date(), window[1], self.zone).astimezone(UTC) if window else moment

    def opens(self, moment: datetime) -> datetime | None:
        """When its window is open next, from `moment` on; None: not within two weeks."""
        local = moment.astimezone(self.zone)
        for days in range(SEARCHED_DAYS):
            day = local.date() + timedelta(days=days)
            window = self.week[day.weekday()]
            if window is None:
                continue
            begin, end = (datetime.combine(day, edge, self.zone).astimezone(UTC) for edge in window)
            if moment < end:
                return max(begin, moment)
        return None


def places_of(phone: str, addresses: Iterable[Address] = ()) -> frozenset[Place]:
    """Where a recipient may be: by the number's area, and by each address."""
    # Here, for they take 40 ms that a start has no use for.
    import phonenumbers
    from phonenumbers import timezone

    table = _table()
    number = phonenumbers.parse(phone)
    country = phonenumbers.region_code_for_number(number) or ""
    state = None
    if number.country_code == _NORTH_AMERICA:
        state = table.by_area_code.get((number.national_number or 0) // 10_000_000)
    zones = [name for name in timezone.time_zones_for_number(number) if name != timezone.UNKNOWN_TIMEZONE]
    # Numbers without an area: everywhere in their country, and not in every country of their code.
    of_country = zones_of(country)
    if of_country and len(zones) > 1:
        zones = [zone for zone in zones if zone in of_country] or list(of_country)
    places = _places(table, country, state, zones or of_country)
    for address in addresses:
        region = address.country.upper()
        state = (address.state or "").upper().removeprefix(f"{region}-") or None
        places |= _places(table, region, state, table.zones.get((region, state or "")) or zones_of(region))
    return places


def is_allowed(moment: datetime, places: Iterable[Place]) -> bool:
    return all(place.allows(moment) for place in places)


def allowed_until(moment: datetime, places: Iterable[Place]) -> datetime | None:
    """Until when it stays allowed that is allowed at `moment`; None: no place is known."""
    return min((place.closes(moment) for place in places), default=None)


def next_allowed(moment: datetime, places: Iterable[Place]) -> datetime | None:
    """The first moment, from `moment` on, that is allowed at all of these places; None: there is none in two weeks."""
    places = frozenset(places)
    last = moment + timedelta(days=SEARCHED_DAYS)
    while moment <= last:
        later = moment
        for place in places:
            opens = place.opens(later)
            if opens is None:
                return None
            later = max(later, opens)
        if later == moment:
            return moment
        moment = later
    return None


class _Table(NamedTuple):
    weeks: Mapping[tuple[str, str], Week]
    zones: Mapping[tuple[str, str], list[str]]
    by_area_code: Mapping[int, str]


@lru_cache(maxsize=1)
def _table() -> _Table:
    content = tomllib.loads((files(__package__) / TABLE).read_text(encoding="utf-8"))
    weeks: dict[tuple[str, str], Week] = {}
    by_area_code: dict[int, str] = {}
    zones = {
        (country, state): names for country, of in content.pop("zones").items() for state, names in of.items()
    }
    for country, entry in content.items():
        if not isinstance(entry, dict):
            continue
        weeks[country, ""] = _week(entry)
        for state, narrower in entry.items():
            if isinstance(narrower, dict):
                weeks[country, state] = _week(narrower)
                by_area_code.update(dict.fromkeys(narrower["area_codes"], state))
    return _Table(weeks, zones, by_area_code)


def _week(entry: Mapping[str, Any]) -> Week:
    def window(edges: list[str]) -> Window:
        return (time.fromisoformat(edges[0]), time.fromisoformat(edges[1])) if edges else None

    return tuple(window(entry.get(day, entry["hours"])) for day in DAYS)


def _places(table: _Table, country: str, state: str | None, zones: Iterable[str]) -> frozenset[Place]:
    week = (
        table.weeks.get((country, state or ""))
        or table.weeks.get((country, ""))
        or table.weeks["default", ""]
    )
    return frozenset(Place(zone, week) for name in zones if (zone := _zone(name)) is not None)


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


@lru_cache(maxsize=1)
def _zones_by_country() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for line in (files("tzdata.zoneinfo") / "zone1970.tab").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            countries, _, name = line.split("\t")[:3]
            for country in countries.split(","):
                found.setdefault(country, []).append(name)
    return {country: tuple(names) for country, names in found.items()}


def zones_of(country: str) -> tuple[str, ...]:
    """Every time zone of a country, by its ISO 3166 code; none for one that is not known."""
    return _zones_by_country().get(country, ())
