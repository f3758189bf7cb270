"""Shops with a catalogue made from a seed: the same seed always makes the same shops.

A shop's content depends on the seed, its place and its size alone. Among the rows are the ones that break naive
code: titles in other scripts, missing and repeated SKUs, currencies without or with three decimals, a closed
location, inactive levels, a product with more variants than fit a page.
"""

from __future__ import annotations

from random import Random
from typing import Any

from bg_pipelines.sandbox.clock import Clock, stamp
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import (
    COLOURS,
    DAY_SECONDS,
    KINDS,
    PLACES,
    REGIONS,
    SEEDED_AT,
    SITES,
    SIZES,
    THINGS,
    TRADES,
    UNICODE_TITLES,
    dice,
    tier_of,
    trade_name,
)
from bg_pipelines.sandbox.shopify.store import Store, gid

PLANS = (("Basic", False), ("Grow", False), ("Advanced", False), ("Shopify Plus", True))


MAKES = ("Alder", "Nordlicht", "Acme", "Kobo & Sons", "Fennel", "Öland", "Tsubame", "Brightwater")
LONG_PRODUCT_FROM = 400


LONG_PRODUCT_VARIANTS = 300


def domain_of(index: int) -> str:
    place, trade = PLACES[index % len(PLACES)], TRADES[index % len(TRADES)]
    return f"{place.lower()}-{trade.lower()}-{index + 1:02d}.myshopify.example"


def make_store(index: int, variants: int, seed: int, clock: Clock) -> Store:
    random = dice(seed, "shop", index)
    now = min(clock.seconds(), SEEDED_AT)
    currency, decimals, zone, country, province, cities = REGIONS[index % len(REGIONS)]
    plan, plus = PLANS[index % len(PLANS)]
    born = stamp(now - (400 + index) * DAY_SECONDS)
    shop = {
        "id": gid("Shop", 7_000_000_000 + index),
        "name": trade_name(index, index),
        "myshopifyDomain": domain_of(index),
        "currencyCode": currency,
        "ianaTimezone": zone,
        "plan": {"publicDisplayName": plan, "shopifyPlus": plus},
        "createdAt": born,
        "updatedAt": stamp(now - random.randint(1, 300) * DAY_SECONDS),
    }
    store = Store(shop, clock, first_number=8_000_000_000_000 + index * 1_000_000_000)
    for place in range(random.randint(2, 4)):
        city = cities[place]
        address = place_address(random, city, country, province)
        store.add_location(f"{city} {SITES[place]}", address, at=past(random, now))
    if tier_of(index) == 1:
        address = place_address(random, cities[-1], country, province)
        store.add_location("Old warehouse", address, at=past(random, now), active=False)
    fill(store, random, variants, decimals, now)
    return store


def fill(store: Store, random: Random, variants: int, decimals: int, now: float) -> None:
    left = variants
    while left:
        # One product longer than a page, where there is room for it.
        long = left == variants >= LONG_PRODUCT_FROM
        size = (
            LONG_PRODUCT_VARIANTS if long else min(left, random.choices((1, 2, 3, 5, 8), (8, 4, 3, 2, 1))[0])
        )
        at = past(random, now)
        product = store.add_product(product_fields(random), at=at)
        for place in range(size):
            title = "Default Title" if size == 1 else f"{SIZES[place % 5]} / {COLOURS[place // 5 % 6]}"
            title += f" {place // 30 + 1}" if place >= 30 else ""
            # A variant is never newer than its product: editing one makes the other newer.
            since = min(at, past(random, now)) if random.random() < 0.7 else at
            add_variant_with_stock(store, random, product, title, decimals, since)
        for variant in product["_variants"]:
            for level in variant["inventoryItem"]["_levels"]:
                level["updatedAt"] = past(random, now)
        left -= size


def add_variant_with_stock(
    store: Store, random: Random, product: Node, title: str, decimals: int, at: str
) -> Node:
    price = random.randint(500, 25000) / 100
    roll = random.random()
    variant = store.add_variant(
        product,
        {
            "title": title,
            # At the vendor a SKU may be missing, empty or used twice.
            "sku": None if roll < 0.02 else "" if roll < 0.03 else f"SKU-{random.randint(1000, 99999):05d}",
            "barcode": f"{random.randint(10**12, 10**13 - 1)}" if random.random() < 0.7 else None,
            "price": money(price, decimals),
            "compareAtPrice": money(price * 1.25, decimals) if random.random() < 0.2 else None,
            "tracked": random.random() >= 0.01,
        },
        at=at,
    )
    for location in store.locations:
        if not location["isActive"]:
            continue
        active = random.random() >= 0.01
        available = (
            random.choices((0, random.randint(1, 40), random.randint(41, 900)), (2, 7, 1))[0] if active else 0
        )
        committed = random.randint(0, 5) if active else 0
        quantities = {
            "available": available,
            "committed": committed,
            "on_hand": available + committed,
            "incoming": random.choice((0, 0, 0, 12, 48)) if active else 0,
        }
        store.add_level(variant["inventoryItem"], location, quantities, at=at, active=active)
    return variant


def product_fields(random: Random) -> dict[str, Any]:
    title = f"{random.choice(KINDS)} {random.choice(THINGS)}"
    return {
        "title": random.choice(UNICODE_TITLES) if random.random() < 0.05 else title,
        "status": random.choices(("ACTIVE", "DRAFT", "ARCHIVED"), (90, 6, 4))[0],
        "vendor": random.choice(MAKES),
        "productType": random.choice(("Home", "Workshop", "Outdoor", "")),
        "tags": sorted(random.sample(("gift", "new", "sale", "été", "bulk"), random.randint(0, 3))),
    }


def place_address(random: Random, city: str, country: str, province: str | None) -> Node:
    return {
        "address1": f"{random.randint(1, 200)} {random.choice(SITES)}",
        "city": city,
        "provinceCode": province,
        "countryCode": country,
        "zip": f"{random.randint(10000, 99999)}",
    }


def past(random: Random, now: float) -> str:
    """Some time in the last year, but not in the last two hours: a sync right after the start finds no news."""
    return stamp(now - random.randint(2 * 3600, 364 * DAY_SECONDS))


def money(amount: float, decimals: int) -> str:
    return f"{amount:.{decimals}f}"
