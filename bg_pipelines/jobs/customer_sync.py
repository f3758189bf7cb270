"""Customer Sync: customers and their orders, with lines and refunds, of each store that is due.

    dagster job execute -m bg_pipelines.definitions -j customer_sync

Profile edits made on our side are sent first; at the end customers are matched to people. What an interruption costs:
nothing that was committed; the next run goes on at the page reached, and matches who is left.
"""

import dagster as dg

from bg_pipelines import people
from bg_pipelines.orchestration.failures import report_op_failure
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import SyncConfig, sync
from bg_pipelines.orchestration.ticks import retries_sensor, tier_schedules
from bg_pipelines.queues import JOB_RESOURCES, JOBS

RESOURCES = JOB_RESOURCES["customer_sync"]


@dg.op(out=dg.Out(dg.Nothing))
def sync_customers(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    """Send pending profile edits, sync what is due of every store's customers and orders, match people."""

    def match() -> None:
        matched = people.match(database.database, log=context.log.info)
        context.log_event(dg.AssetMaterialization("people", metadata=matched.as_dict()))

    sync(context, config, database, platforms, RESOURCES, then=match)


@dg.job(tags=JOBS["customer_sync"].tags("customer_sync"), hooks={report_op_failure})
def customer_sync() -> None:
    """Customers, profile updates and order history, from each store's platform."""
    sync_customers()


schedules = tier_schedules(customer_sync, RESOURCES)
sensors = [retries_sensor(customer_sync, RESOURCES)]
