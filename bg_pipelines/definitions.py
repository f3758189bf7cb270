"""Table of contents: every job, schedule, sensor, resource and table that Dagster knows of."""

from __future__ import annotations

import warnings

import dagster as dg

from bg_pipelines.jobs import customer_sync, drift_audit, inventory_sync, store_sync
from bg_pipelines.orchestration.failures import deliver_alerts, run_failures
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import asset_key
from bg_pipelines.records import Resource

# Dagster warns, whenever it loads a sensor, of a parameter that it sets itself.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

_PARENTS = {
    Resource.LOCATIONS: Resource.STORE,
    Resource.PRODUCTS: Resource.STORE,
    Resource.PRODUCT_VARIANTS: Resource.PRODUCTS,
    Resource.INVENTORY_LEVELS: Resource.PRODUCT_VARIANTS,
    Resource.CUSTOMERS: Resource.STORE,
    Resource.ORDERS: Resource.CUSTOMERS,
}

defs = dg.Definitions(
    jobs=[
        store_sync.store_sync,
        inventory_sync.inventory_sync,
        customer_sync.customer_sync,
        drift_audit.drift_audit,
    ],
    schedules=[
        *store_sync.schedules,
        *inventory_sync.schedules,
        *customer_sync.schedules,
        *drift_audit.schedules,
    ],
    sensors=[
        *store_sync.sensors,
        *inventory_sync.sensors,
        *customer_sync.sensors,
        *drift_audit.sensors,
        run_failures,
        deliver_alerts,
    ],
    assets=[
        dg.AssetSpec(
            asset_key(resource),
            deps=[asset_key(_PARENTS[resource])] if resource in _PARENTS else [],
            group_name="synced",
            description=f"table {asset_key(resource).to_user_string()}",
        )
        for resource in Resource
        if resource is not Resource.AUDIT
    ]
    + [
        dg.AssetSpec(
            "people",
            deps=[asset_key(Resource.CUSTOMERS), asset_key(Resource.ORDERS)],
            group_name="matched",
            description="table people: one person across stores",
        )
    ],
    resources={"database": DatabaseResource(), "platforms": PlatformsResource()},
    # A step in a process of its own costs a second and gains nothing: the work is in threads.
    executor=dg.in_process_executor,
)
