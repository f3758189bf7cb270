"""The tables that jobs fill, as Dagster's assets: with these the UI draws their lineage and how their rows changed."""

from __future__ import annotations

import dagster as dg

from bg_pipelines.orchestration.reports import asset_key
from bg_pipelines.records import Resource

_PARENTS = {
    Resource.LOCATIONS: Resource.STORE,
    Resource.PRODUCTS: Resource.STORE,
    Resource.PRODUCT_VARIANTS: Resource.PRODUCTS,
    Resource.INVENTORY_LEVELS: Resource.PRODUCT_VARIANTS,
    Resource.CUSTOMERS: Resource.STORE,
    Resource.ORDERS: Resource.CUSTOMERS,
}

TABLES = [
    dg.AssetSpec(
        asset_key(resource),
        deps=[asset_key(_PARENTS[resource])] if resource in _PARENTS else [],
        group_name="synced",
        description=f"table {asset_key(resource).to_user_string()}",
    )
    for resource in Resource
    if resource is not Resource.AUDIT
] + [
    dg.AssetSpec(
        "people",
        deps=[asset_key(Resource.CUSTOMERS), asset_key(Resource.ORDERS)],
        group_name="matched",
        description="table people: one person across stores",
    )
]
