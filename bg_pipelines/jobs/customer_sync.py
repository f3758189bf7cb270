"""Customer Sync: customers and their orders, with lines and refunds, of each due store.

    dagster job execute -m bg_pipelines.definitions -j customer_sync

Our profile edits are sent first; at the end customers are matched to people. What an interruption costs: nothing
committed; the next run continues at the page reached, and matches the rest.
"""

import dagster as dg

from bg_pipelines import people
from bg_pipelines.database.engine import Database
from bg_pipelines.orchestration.sync_job import BackfillConfig, IsOver, sync_job


def match_people(context: dg.OpExecutionContext, database: Database, is_over: IsOver) -> None:
    """Customers that have changed are matched to people, in batches, within the run's time."""
    matched = people.match(database, log=context.log.info, is_over=is_over)
    context.log_event(dg.AssetMaterialization("people", metadata=matched.as_dict()))
    context.add_output_metadata(matched.as_dict())


customer_sync, schedules, sensors = sync_job(
    "customer_sync",
    op="sync_customers",
    description="Customers, profile updates and order history, from each store's platform.",
    config=BackfillConfig,
    then=match_people,
)
