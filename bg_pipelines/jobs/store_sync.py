"""Store Sync: profile, locations, products and variants of each store that is due.

    dagster job execute -m bg_pipelines.definitions -j store_sync

What an interruption costs: nothing that was committed; the next run goes on at the page reached.
"""

import dagster as dg

from bg_pipelines.platforms.base import Resource
from bg_pipelines.queues import JOBS
from bg_pipelines.resources import DatabaseResource, PlatformsResource
from bg_pipelines.sync_op import SyncConfig, sync

# The profile first: a store that cannot be reached shows in the cheapest call.
RESOURCES = (Resource.STORE, Resource.LOCATIONS, Resource.PRODUCTS, Resource.PRODUCT_VARIANTS)


@dg.op(out=dg.Out(dg.Nothing))
def sync_stores(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    """Sync what is due of every store's profile, locations and catalogue."""
    sync(context, config, database, platforms, RESOURCES)


@dg.job(tags=JOBS["store_sync"].tags)
def store_sync() -> None:
    """Store profile, locations and catalogue, from each store's platform."""
    sync_stores()
