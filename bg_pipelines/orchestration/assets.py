"""The tables that jobs fill, as Dagster's assets: with these the UI draws their lineage and how their rows changed."""

from __future__ import annotations

import dagster as dg

from bg_pipelines.orchestration.reports import ASSET_KEYS
from bg_pipelines.queues import Unit

_PARENTS = {
    Unit.LOCATIONS: Unit.STORE,
    Unit.PRODUCTS: Unit.STORE,
    Unit.PRODUCT_VARIANTS: Unit.PRODUCTS,
    Unit.INVENTORY_LEVELS: Unit.PRODUCT_VARIANTS,
    Unit.CUSTOMERS: Unit.STORE,
    Unit.ORDERS: Unit.CUSTOMERS,
    Unit.WEBHOOKS: Unit.STORE,
}

TABLES = (
    [
        dg.AssetSpec("carts", group_name="received", description="table carts: from webhooks alone"),
        dg.AssetSpec(
            "cart_items",
            deps=["carts"],
            group_name="received",
            description="table cart_items: what a cart holds",
        ),
    ]
    + [
        dg.AssetSpec(
            key,
            deps=[ASSET_KEYS[_PARENTS[unit]]] if unit in _PARENTS else [],
            group_name="synced",
            description=f"table {key.to_user_string()}",
        )
        for unit, key in ASSET_KEYS.items()
    ]
    + [
        dg.AssetSpec(
            "people",
            deps=[ASSET_KEYS[Unit.CUSTOMERS], ASSET_KEYS[Unit.ORDERS]],
            group_name="matched",
            description="table people: one person across stores",
        )
    ]
)
