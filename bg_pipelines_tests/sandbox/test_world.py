"""What the seed makes."""

from __future__ import annotations

import time

from bg_pipelines.sandbox import World
from bg_pipelines_tests.support import START


def test_two_hundred_shops_are_made_in_a_moment() -> None:
    start = time.monotonic()
    world = World(shops=200, variants=2000)
    assert time.monotonic() - start < 10
    assert len(world.shops) == 200
    assert len({shop.store.shop["name"] for shop in world.shops.values()}) == 200
    assert sum(len(shop.store.variants) for shop in world.shops.values()) == 2000
    assert {shop.tier for shop in world.shops.values()} == {1, 2, 3}
    assert sum(shop.sales_seed.customers for shop in world.shops.values()) == 666


def test_the_seed_holds_the_rows_that_break_naive_code() -> None:
    shops = World(clock=lambda: START).shops
    assert next(iter(shops)) == "harbor-tools-01.myshopify.example"
    exports = [shop.export() for shop in shops.values()]
    assert {"USD", "EUR", "JPY", "BHD"} <= {export["shop"]["currencyCode"] for export in exports}
    assert all(2 <= sum(row["isActive"] for row in export["locations"]) <= 4 for export in exports)
    assert any(not row["isActive"] for export in exports for row in export["locations"])
    assert any(not row["isActive"] for export in exports for row in export["inventory_levels"])
    assert any(not row["title"].isascii() for export in exports for row in export["products"])
    skus = [row["sku"] for export in exports for row in export["product_variants"]]
    assert {None, ""} <= set(skus)
    assert max(len(product["_variants"]) for shop in shops.values() for product in shop.store.products) == 300
    for export in exports:
        decimals = {"JPY": 0, "BHD": 3}.get(export["shop"]["currencyCode"], 2)
        prices = [row["price"] for row in export["product_variants"]]
        assert {len(price.partition(".")[2]) for price in prices} == {decimals}


def test_another_seed_makes_other_rows() -> None:
    first, second = (World(shops=1, variants=20, seed=seed, clock=lambda: START) for seed in (1, 2))
    domain = next(iter(first.shops))
    assert first.shops[domain].export() != second.shops[domain].export()
    assert first.shops[domain].token != second.shops[domain].token


def test_no_two_rows_of_any_kind_or_shop_share_a_number() -> None:
    shops = World(shops=3, variants=60, clock=lambda: START).shops.values()
    numbers = [
        row["_key"][0]
        for shop in shops
        for table in (
            shop.store.products,
            shop.store.variants,
            shop.store.items,
            shop.store.locations,
            shop.ledger.customers,
            shop.ledger.orders,
        )
        for row in table
    ]
    assert len(numbers) == len(set(numbers))
    assert min(numbers) > 2**32
