"""Table of contents: every job, resource and table that Dagster knows of."""

from __future__ import annotations

import dagster as dg

from bg_pipelines.jobs.inventory_sync import inventory_sync
from bg_pipelines.jobs.store_sync import store_sync
from bg_pipelines.platforms.base import Resource
from bg_pipelines.resources import DatabaseResource, PlatformsResource
from bg_pipelines.sync_op import asset_key

_PARENTS = {
    Resource.LOCATIONS: Resource.STORE,
    Resource.PRODUCTS: Resource.STORE,
    Resource.PRODUCT_VARIANTS: Resource.PRODUCTS,
    Resource.INVENTORY_LEVELS: Resource.PRODUCT_VARIANTS,
}

defs = dg.Definitions(
    jobs=[store_sync, inventory_sync],
    assets=[
        dg.AssetSpec(
            asset_key(resource),
            deps=[asset_key(_PARENTS[resource])] if resource in _PARENTS else [],
            group_name="synced",
            description=f"table {asset_key(resource).to_user_string()}",
        )
        for resource in Resource
    ],
    resources={"database": DatabaseResource(), "platforms": PlatformsResource()},
    # A step in a process of its own costs a second and gains nothing: the work is in threads.
    executor=dg.in_process_executor,
)
