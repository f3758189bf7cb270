"""A merchant made from a seed: the same seed always makes the same one, whatever else there is in the world.

Among the rows are the ones that break naive code: more than ten locations, a closed one, currencies without or with
three decimals, variations without a SKU or a price, stock below zero, orders without a customer, a source or a line's
name.
"""

from __future__ import annotations

from decimal import Decimal
from random import Random

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import (
    COLOURS,
    KINDS,
    REGIONS,
    SEEDED_AT,
    SITES,
    SIZES,
    THINGS,
    UNICODE_TITLES,
    dice,
    trade_name,
)
from bg_pipelines.sandbox.square.people import PHONES, invent
from bg_pipelines.sandbox.square.sales import Order, Till, Ware
from bg_pipelines.sandbox.square.store import Store
from bg_pipelines.sandbox.square.values import (
    DAY_MS,
    HOUR_MS,
    minor_units,
    money,
    opaque_id,
    show_second,
    show_time,
)

# How many locations merchant after merchant has: some search calls hold no more than ten.
LOCATIONS = (3, 12, 1, 14, 5, 2, 11, 7)
SOURCES = ("Square Point of Sale", "Square Point of Sale", "Square Online", "Acme Kiosk", None)
API_SOURCES = ("Square Online", "Acme Kiosk")
LANGUAGES = {"DE": "de-DE", "JP": "ja-JP", "BH": "ar-BH", "GB": "en-GB", "CA": "en-CA", "AU": "en-AU"}


def merchant_id_of(seed: int, index: int) -> str:
    return f"ML{opaque_id(11, seed, 'square', index)}"


def name_of(index: int) -> str:
    return f"{trade_name(index * 3 + 1, index)} POS"


def make_store(seed: int, index: int, clock: Clock, *, variants: int, customers: int, orders: int) -> Store:
    random = dice(seed, "square", index)
    now = int(min(clock.seconds(), SEEDED_AT) * 1000)
    merchant_id = merchant_id_of(seed, index)
    currency, _, zone, country, province, cities = REGIONS[index % len(REGIONS)]
    wares: list[Ware] = []
    till = Till(
        merchant_id, country, currency, wares, lambda number: dice(seed, merchant_id, "order", number)
    )
    language = LANGUAGES.get(country, "en-US")
    merchant = {
        "id": merchant_id,
        "business_name": name_of(index),
        "country": country,
        "language_code": language,
        "currency": currency,
        "status": "ACTIVE",
        "created_at": show_time(now - (800 + index) * DAY_MS),
    }
    store = Store(merchant, clock, till)
    count = LOCATIONS[index % len(LOCATIONS)]
    for place in range(count):
        add_location(store, random, place, zone, province, cities, closed=place == 2 and count > 2)
    merchant["main_location_id"] = next(iter(store.locations))
    fill_catalogue(store, random, variants, now)
    wares += wares_of(store)
    for _ in range(customers):
        # Not in the last two hours: a sync right after the start finds no news.
        row = invent(
            random,
            store.number("customer"),
            merchant_id=merchant_id,
            region=(country, cities),
            before=now - 2 * HOUR_MS,
        )
        store.customers.put(row["id"], row)
    add_orders(store, random, orders, now - 2 * HOUR_MS)
    return store


def add_location(
    store: Store,
    random: Random,
    place: int,
    zone: str,
    province: str | None,
    cities: tuple[str, ...],
    *,
    closed: bool,
) -> None:
    merchant = store.merchant
    city = cities[place % len(cities)]
    address: Node = {
        "address_line_1": f"{random.randint(1, 200)} Main Street",
        "locality": city,
        "postal_code": f"{random.randint(10000, 99999)}",
        "country": merchant["country"],
    }
    if province is not None:
        address["administrative_district_level_1"] = province
    row = {
        "id": f"L{opaque_id(12, merchant['id'], 'location', place)}",
        "name": f"{city} {SITES[place // len(cities) % len(SITES)]}",
        "address": address,
        "timezone": zone,
        "capabilities": ["CREDIT_CARD_PROCESSING", "AUTOMATIC_TRANSFERS"],
        "status": "INACTIVE" if closed else "ACTIVE",
        "created_at": f"{show_second(1_600_000_000 + place * 86400)}Z",
        "merchant_id": merchant["id"],
        "country": merchant["country"],
        "language_code": merchant["language_code"],
        "currency": merchant["currency"],
        "business_name": merchant["business_name"],
        "type": "MOBILE" if place % 5 == 4 else "PHYSICAL",
        "mcc": "5999",
    }
    if place % 3:
        row["phone_number"] = PHONES[merchant["country"]][0].format(9000 + place)
    store.locations[row["id"]] = row


def fill_catalogue(store: Store, random: Random, variants: int, now: int) -> None:
    left = variants
    while left:
        size = min(left, random.choices((1, 2, 3, 5, 8), (8, 4, 3, 2, 1))[0])
        at = now - random.randint(2 * HOUR_MS, 364 * DAY_MS)
        add_item(store, random, item_fields(random), size, at)
        left -= size


def item_fields(random: Random) -> Node:
    name = f"{random.choice(KINDS)} {random.choice(THINGS)}"
    fields: Node = {"name": random.choice(UNICODE_TITLES) if random.random() < 0.05 else name}
    if random.random() < 0.6:
        fields["description"] = "Made to last."
    return fields


def add_item(store: Store, random: Random, fields: Node, variations: int, at: int) -> Node:
    merchant_id = store.merchant["id"]
    row: Node = {
        "type": "ITEM",
        "id": opaque_id(24, merchant_id, "item", store.number("item")),
        "is_deleted": False,
        **presence(store, random),
        "item_data": {"is_taxable": True, "product_type": "REGULAR", **fields, "is_archived": False},
        "_variations": [],
    }
    store.objects.put(row["id"], row)
    store.touch(row, at)
    for place in range(variations):
        name = "Regular" if variations == 1 else f"{SIZES[place % 5]} / {COLOURS[place // 5 % 6]}"
        add_variation(store, random, row, name, place, at)
    return row


def presence(store: Store, random: Random) -> Node:
    """Most things are sold everywhere; some not in one place, some in one alone."""
    places, roll = list(store.locations), random.random()
    if roll < 0.1:
        return {"present_at_all_locations": True, "absent_at_location_ids": [random.choice(places)]}
    if roll < 0.2:
        return {"present_at_all_locations": False, "present_at_location_ids": [random.choice(places)]}
    return {"present_at_all_locations": True}


def add_variation(store: Store, random: Random, item: Node, name: str, ordinal: int, at: int) -> Node:
    currency = store.merchant["currency"]
    price = random.randint(500, 25000) * 10 ** minor_units(currency) // 100
    data: Node = {"item_id": item["id"], "name": name, "ordinal": ordinal}
    roll = random.random()
    if roll >= 0.02:
        # At the vendor a SKU may be missing, empty or used twice.
        data["sku"] = "" if roll < 0.03 else f"SKU-{random.randint(1000, 99999):05d}"
    if random.random() < 0.5:
        data["upc"] = f"{random.randint(10**11, 10**12 - 1)}"
    if random.random() < 0.03:
        # The price is typed at the till.
        data["pricing_type"] = "VARIABLE_PRICING"
    else:
        data |= {"pricing_type": "FIXED_PRICING", "price_money": money(price, currency)}
    data |= {"track_inventory": random.random() >= 0.02, "sellable": True, "stockable": True}
    row: Node = {
        "type": "ITEM_VARIATION",
        "id": opaque_id(24, store.merchant["id"], "variation", store.number("variation")),
        "is_deleted": False,
        **{name: value for name, value in item.items() if name.startswith(("present_", "absent_"))},
        "item_variation_data": data,
    }
    places = store.present(row)
    if places and "price_money" in data and random.random() < 0.05:
        override = {"location_id": random.choice(places), "pricing_type": "FIXED_PRICING"}
        data["location_overrides"] = [override | {"price_money": money(price * 9 // 10, currency)}]
    store.objects.put(row["id"], row)
    item["_variations"].append(row["id"])
    store.touch(row, at)
    if data["track_inventory"]:
        for place in places:
            stock = random.choices((0, random.randint(1, 40), random.randint(41, 900), -2), (20, 65, 13, 2))[
                0
            ]
            # Its stock is as old as it is, or newer, but no news.
            since = min(at + random.randint(0, 90 * DAY_MS), max(at, int(SEEDED_AT * 1000) - 2 * HOUR_MS))
            store.put_count(row["id"], place, "IN_STOCK", Decimal(stock), at=since, counted=since)
            if random.random() < 0.02:
                store.put_count(row["id"], place, "WASTE", Decimal(1), at=since, counted=None)
    return row


def wares_of(store: Store) -> list[Ware]:
    made = []
    for row in store.objects:
        if row["type"] == "ITEM_VARIATION":
            data = row["item_variation_data"]
            item = store.objects[data["item_id"]]
            price = data["price_money"]["amount"] if "price_money" in data else 990
            made.append(Ware(row["id"], row["version"], item["item_data"]["name"], data["name"], price))
    return made


def add_orders(store: Store, random: Random, orders: int, before: int) -> None:
    places, people = list(store.locations), list(store.customers)
    for _ in range(orders):
        created = before - random.randint(0, 364 * DAY_MS)
        state = random.choices(("COMPLETED", "OPEN", "CANCELED"), (92, 5, 3))[0]
        closed = None if state == "OPEN" else min(before, created + random.randint(0, HOUR_MS))
        buyer = people[int(random.random() * len(people))] if people and random.random() < 0.7 else None
        source = random.choice(SOURCES)
        number = store.number("order")
        order = Order(
            id=order_id(store, number),
            number=number,
            location_id=places[int(random.random() * len(places))],
            customer_id=buyer["id"] if buyer is not None else None,
            state=state,
            created=created,
            updated=created if closed is None else closed,
            closed=closed,
            source=source,
            version=3 if source in API_SOURCES else None,
        )
        store.orders.put(order.id, order)


def order_id(store: Store, number: int) -> str:
    return f"{opaque_id(26, store.merchant['id'], 'order', number)}ZY"
