"""Repeatable chance, and the names and places that every vendor's rows are made of.

The same seed makes the same shops, merchants and account, whatever else there is in the world.
"""

from __future__ import annotations

import hashlib
from random import Random

PLACES = (
    "Harbor",
    "Cedar",
    "Summit",
    "Juniper",
    "Prairie",
    "Canyon",
    "Lakeside",
    "Maple",
    "Granite",
    "Orchard",
)
TRADES = (
    "Tools",
    "Books",
    "Outdoor",
    "Kitchen",
    "Garden",
    "Toys",
    "Cycles",
    "Linen",
    "Coffee",
    "Paper",
    "Audio",
)
# Currency, its decimals, a usual zone, and where the locations stand.
REGIONS: tuple[tuple[str, int, str, str, str | None, tuple[str, ...]], ...] = (
    ("USD", 2, "America/New_York", "US", "NY", ("New York", "Albany", "Buffalo", "Rochester")),
    ("EUR", 2, "Europe/Berlin", "DE", "BE", ("Berlin", "München", "Köln", "Leipzig")),
    ("JPY", 0, "Asia/Tokyo", "JP", "JP-13", ("東京", "大阪", "京都", "札幌")),
    ("BHD", 3, "Asia/Bahrain", "BH", None, ("Manama", "Riffa", "Muharraq", "Isa Town")),
    ("GBP", 2, "Europe/London", "GB", "ENG", ("London", "Leeds", "Bristol", "York")),
    ("CAD", 2, "America/Toronto", "CA", "ON", ("Toronto", "Ottawa", "Hamilton", "Kingston")),
    ("USD", 2, "America/Los_Angeles", "US", "CA", ("San Diego", "Oakland", "Fresno", "Sacramento")),
    ("AUD", 2, "Australia/Sydney", "AU", "NSW", ("Sydney", "Newcastle", "Orange", "Albury")),
)
SITES = ("Main Street", "Warehouse", "Market Hall", "Outlet")
THINGS = (
    "Hammer",
    "Teapot",
    "Lantern",
    "Rucksack",
    "Notebook",
    "Chisel",
    "Blanket",
    "Kettle",
    "Lamp",
    "Stool",
)
KINDS = ("Blue", "Folding", "Heavy", "Classic", "Travel", "Oak", "Enamel", "Woollen", "Little", "Brass")
UNICODE_TITLES = (
    "Café-Kanne „Größe L“",
    "急須 南部鉄器",
    "Čajník ☕ modrý",
    "إبريق شاي",
    "Crème brûlée torch 🔥",
)
SIZES = ("XS", "S", "M", "L", "XL")
COLOURS = ("Red", "Green", "Blue", "Grün", "Black", "Natural")
WEIGHTS = {1: 6, 2: 3, 3: 1}
# When all was last touched: a fixed day, so that a sandbox started again is the same to the second.
SEEDED_AT = 1_782_864_000.0  # 2026-07-01
DAY_SECONDS = 86400


def dice(seed: int, *words: object) -> Random:
    """Chance of its own for what the words name."""
    return Random(":".join(str(word) for word in (seed, *words)))  # noqa: S311  # It must repeat, not surprise.


def trade_name(place: int, index: int) -> str:
    """Like Harbor Tools; no two are the same: where all have been used they are numbered."""
    again = index // (len(PLACES) * len(TRADES))
    return f"{PLACES[place % len(PLACES)]} {TRADES[index % len(TRADES)]}" + (f" {again + 1}" if again else "")


def tier_of(index: int) -> int:
    return index % 3 + 1


def shares(places: int, rows: int) -> list[int]:
    """Deal rows out to shops or merchants: one of tier 1 gets six times as many as one of tier 3."""
    total = sum(WEIGHTS[tier_of(index)] for index in range(places))
    dealt = [rows * WEIGHTS[tier_of(index)] // total for index in range(places)]
    for index in range(rows - sum(dealt)):
        dealt[index % places] += 1
    return dealt


def digest(*words: object) -> str:
    """A secret or an id that the words always give."""
    return hashlib.sha256(":".join(str(word) for word in words).encode()).hexdigest()[:32]
