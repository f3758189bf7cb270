"""The pages of a shop's catalogue and stock: `answers(variants=, levels=)`."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.harness.page_server import Key, answer, cursor, rows
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES

PAGE_ROWS = PAGE_SIZES.rows
LEVELS_AT_FIRST = PAGE_SIZES.levels
LOCATIONS = 4
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = {
    "ProductVariants": {"first": PAGE_ROWS},
    "InventoryLevels": {"first": PAGE_SIZES.locations, "levels": LEVELS_AT_FIRST},
    "LocationInventoryLevels": {"first": PAGE_ROWS},
}


def answers(*, variants: int, levels: int) -> dict[Key, bytes]:
    """Every answer this shop can give."""
    random_ = random.Random(2026)
    ready: dict[Key, bytes] = {}
    _add_variants(ready, variants, random_)
    _add_levels(ready, levels // LOCATIONS, random_)
    return ready


def _add_variants(ready: dict[Key, bytes], count: int, random_: random.Random) -> None:
    def data(nodes: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
        return {
            "shop": {"currencyCode": "EUR"},
            "count": {"count": count, "precision": "EXACT"},
            "rows": rows(nodes, next_cursor),
        }

    for first in range(0, count, PAGE_ROWS):
        nodes = [_variant(i, random_) for i in range(first, min(first + PAGE_ROWS, count))]
        more = first + PAGE_ROWS < count
        key = Key("ProductVariants", cursor(first) if first else None)
        ready[key] = answer(data(nodes, cursor(first + PAGE_ROWS) if more else None))
    ready[Key("ProductVariants", changed=True)] = answer(data([], None))


def _add_levels(ready: dict[Key, bytes], items: int, random_: random.Random) -> None:
    """Levels of all items at each location: the first few in one answer, the rest location by location."""
    locations = [f"gid://shopify/Location/{61_000_000_000 + 7 * i}" for i in range(LOCATIONS)]
    first_nodes, changed_nodes = [], []
    for number, location in enumerate(locations):
        nodes = [_level(number, i, random_) for i in range(min(LEVELS_AT_FIRST, items))]
        more = items > LEVELS_AT_FIRST
        first_nodes.append(
            {"id": location, "inventoryLevels": rows(nodes, cursor(LEVELS_AT_FIRST) if more else None)}
        )
        changed_nodes.append({"id": location, "inventoryLevels": rows([], None)})
        for first in range(LEVELS_AT_FIRST, items, PAGE_ROWS):
            nodes = [_level(number, i, random_) for i in range(first, min(first + PAGE_ROWS, items))]
            more = first + PAGE_ROWS < items
            page = rows(nodes, cursor(first + PAGE_ROWS) if more else None)
            key = Key("LocationInventoryLevels", cursor(first), within=location)
            ready[key] = answer({"location": {"rows": page}})
    ready[Key("InventoryLevels")] = answer({"rows": rows(first_nodes, None)})
    ready[Key("InventoryLevels", changed=True)] = answer({"rows": rows(changed_nodes, None)})


def _variant(i: int, random_: random.Random) -> dict[str, Any]:
    cents = random_.randrange(500, 20_000)
    return {
        "id": f"gid://shopify/ProductVariant/{42_000_000_000_000 + 37 * i}",
        "title": f"{random_.choice(('Small', 'Medium', 'Large'))} / {random_.choice(('Ink', 'Oat', 'Moss'))}",
        "sku": f"SKU-{i:07d}",
        "barcode": f"40{i:011d}" if i % 3 else None,
        "position": i % 5 + 1,
        "price": f"{cents / 100:.2f}",
        "compareAtPrice": f"{cents / 50:.2f}" if i % 4 == 0 else None,
        "updatedAt": _time(random_),
        "product": {"id": f"gid://shopify/Product/{8_000_000_000_000 + 37 * (i // 5)}"},
        "inventoryItem": {"id": _item(i)},
    }


def _level(location: int, i: int, random_: random.Random) -> dict[str, Any]:
    on_hand, committed = random_.randrange(200), random_.randrange(5)
    quantities = {"available": on_hand - committed, "on_hand": on_hand, "committed": committed, "incoming": 0}
    return {
        "id": f"gid://shopify/InventoryLevel/{101_000_000_000 + location}?inventory_item_id={_item_number(i)}",
        "isActive": True,
        "updatedAt": _time(random_),
        "item": {"id": _item(i)},
        "quantities": [{"name": name, "quantity": quantity} for name, quantity in quantities.items()],
    }


def _item_number(i: int) -> int:
    return 44_000_000_000_000 + 37 * i


def _item(i: int) -> str:
    return f"gid://shopify/InventoryItem/{_item_number(i)}"


def _time(random_: random.Random) -> str:
    return f"{EPOCH + timedelta(seconds=random_.randrange(10_000_000)):%Y-%m-%dT%H:%M:%SZ}"
