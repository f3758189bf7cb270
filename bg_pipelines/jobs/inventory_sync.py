"""Inventory Sync: write pending stock corrections, then read the stock of each due store.

    dagster job execute -m bg_pipelines.definitions -j inventory_sync

A correction is a row of `inventory_corrections`, written by compare-and-swap under its own idempotency key: applied at
most once, and never over a quantity other than the one that was counted.
"""

from bg_pipelines.orchestration.sync_job import BackfillConfig, sync_job

inventory_sync, schedules, sensors = sync_job(
    "inventory_sync",
    op="sync_inventory",
    description="Stock levels per store and location, and our corrections of them.",
    config=BackfillConfig,
)
