"""Inventory Sync: write pending stock corrections, then read the stock of each store that is due.

    dagster job execute -m bg_pipelines.definitions -j inventory_sync

A correction is a row of `inventory_corrections`: it is written by compare-and-swap under its own idempotency key,
so it is applied at most once, and never over a quantity other than the one that was counted.
"""

import dagster as dg

from bg_pipelines.orchestration.failures import report_op_failure
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import SyncConfig, sync
from bg_pipelines.orchestration.ticks import retries_sensor, tier_schedules
from bg_pipelines.queues import JOB_RESOURCES, JOBS

RESOURCES = JOB_RESOURCES["inventory_sync"]


@dg.op(out=dg.Out(dg.Nothing))
def sync_inventory(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    """Write pending corrections and sync what is due of every store's stock."""
    sync(context, config, database, platforms, RESOURCES)


@dg.job(tags=JOBS["inventory_sync"].tags("inventory_sync"), hooks={report_op_failure})
def inventory_sync() -> None:
    """Stock levels per store and location, and our corrections of them."""
    sync_inventory()


schedules = tier_schedules(inventory_sync, RESOURCES)
sensors = [retries_sensor(inventory_sync, RESOURCES)]
