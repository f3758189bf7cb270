"""Store Sync: profile, locations, products and variants of each store that is due.

    dagster job execute -m bg_pipelines.definitions -j store_sync

What an interruption costs: nothing that was committed; the next run goes on at the page reached.
"""

import dagster as dg

from bg_pipelines.orchestration.failures import report_op_failure
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import SyncConfig, sync
from bg_pipelines.orchestration.ticks import retries_sensor, tier_schedules
from bg_pipelines.queues import JOB_RESOURCES, JOBS

RESOURCES = JOB_RESOURCES["store_sync"]


@dg.op(out=dg.Out(dg.Nothing))
def sync_stores(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    """Sync what is due of every store's profile, locations and catalogue."""
    sync(context, config, database, platforms, RESOURCES)


@dg.job(tags=JOBS["store_sync"].tags("store_sync"), hooks={report_op_failure})
def store_sync() -> None:
    """Store profile, locations and catalogue, from each store's platform."""
    sync_stores()


schedules = tier_schedules(store_sync, RESOURCES)
sensors = [retries_sensor(store_sync, RESOURCES)]
