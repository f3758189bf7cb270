"""Table of contents: every job, schedule, sensor, resource and table that Dagster knows of."""

from __future__ import annotations

import warnings

import dagster as dg

from bg_pipelines.jobs import (
    clean_active_carts,
    clean_database,
    create_shopify_webhook,
    customer_sync,
    drift_audit,
    handle_webhooks,
    inventory_sync,
    share_product_text_message,
    store_sync,
)
from bg_pipelines.orchestration.assets import ASSETS
from bg_pipelines.orchestration.failures import deliver_alerts, run_failures, stale_stores
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.table_checks import check_tables, table_checks

# Dagster warns, whenever it loads a sensor, of a parameter that it sets itself.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

defs = dg.Definitions(
    jobs=[
        store_sync.store_sync,
        inventory_sync.inventory_sync,
        customer_sync.customer_sync,
        drift_audit.drift_audit,
        create_shopify_webhook.create_shopify_webhook,
        handle_webhooks.handle_webhooks,
        share_product_text_message.share_product_text_message,
        clean_active_carts.clean_active_carts,
        clean_database.clean_database,
    ],
    schedules=[
        *store_sync.schedules,
        *inventory_sync.schedules,
        *customer_sync.schedules,
        *drift_audit.schedules,
        *clean_active_carts.schedules,
        *clean_database.schedules,
        *create_shopify_webhook.schedules,
    ],
    sensors=[
        *store_sync.sensors,
        *inventory_sync.sensors,
        *customer_sync.sensors,
        *drift_audit.sensors,
        *create_shopify_webhook.sensors,
        *handle_webhooks.sensors,
        *share_product_text_message.sensors,
        run_failures,
        deliver_alerts,
        stale_stores,
        table_checks,
    ],
    assets=ASSETS,
    asset_checks=[check_tables],
    resources={"database": DatabaseResource(), "platforms": PlatformsResource()},
    # A step in a process of its own costs a second and gains nothing: the work is in threads.
    executor=dg.in_process_executor,
)
