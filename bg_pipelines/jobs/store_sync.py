"""Store Sync: profile, locations, products and variants of each due store.

    dagster job execute -m bg_pipelines.definitions -j store_sync

What an interruption costs: nothing committed; the next run continues at the page reached.
"""

from bg_pipelines.orchestration.sync_job import BackfillConfig, sync_job

store_sync, schedules, sensors = sync_job(
    "store_sync",
    op="sync_stores",
    description="Store profile, locations and catalogue, from each store's platform.",
    config=BackfillConfig,
)
