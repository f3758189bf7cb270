"""The benchmark's stores: known to the database, synced by the product's own path with its default settings.

python -m benchmarks.harness.store DATABASE_URL UNITS MODULE...

The latter is one sync in a process of its own, with figures as JSON; modules are what else that process imports.
"""

from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson

from benchmarks.harness.machine import peak_rss_mb
from benchmarks.harness.page_server import TOKEN
from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.settings import SHOPIFY_API_VERSION
from bg_pipelines.sync import Summary, SyncRequest, SyncRun

# What it guards is the token of a shop that does not exist.
KEY = "0" * 43 + "="
CIPHER = Cipher(KEY)


def connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Platform:
    return platforms.connect(access, api_version=SHOPIFY_API_VERSION, sleep=sleep)


def add_stores(database: Database, api_url: str, number: int = 1) -> list[int]:
    """Add so many stores with one address, or give it to those that are there; returns their ids."""
    stores = [
        NewStore(f"store-{i}", "shopify", f"store-{i}.myshopify.com", api_url=api_url, token=TOKEN)
        for i in range(number)
    ]
    save_stores(database, CIPHER, stores)
    with database.transaction() as connection:
        return [store_id for (store_id,) in connection.execute("SELECT id FROM stores ORDER BY id")]


def sync(database: Database, units: tuple[Unit, ...], *, by_pages: bool = False, stores: int = 1) -> Summary:
    """Sync what is due at so many stores, all of it page by page rather than as a file the platform exports, if asked to.

    Raises RuntimeError if anything of it failed.
    """
    summary = SyncRun(
        database,
        CIPHER,
        SyncRequest(units, backfill="pages" if by_pages else "auto"),
        run_id=str(uuid.uuid4()),
        connect=connect,
        log=lambda _: None,
    ).run()
    if summary.failures or summary.complete != stores:
        raise RuntimeError(f"the sync failed: {summary.failures}")
    return summary


def visit(database_url: str, job: str, name: str) -> None:
    """One visit of one store, for which a process keeps its database open. Raises RuntimeError if it failed."""
    summary = SyncRun(
        _kept(database_url),
        CIPHER,
        SyncRequest(JOB_UNITS[job], job=job, stores=(name,), max_workers=1),
        run_id=str(uuid.uuid4()),
        connect=connect,
        log=lambda _: None,
    ).run()
    if summary.failures or summary.complete != 1:
        raise RuntimeError(f"the visit failed: {summary.failures}")


@cache
def _kept(database_url: str) -> Database:
    return Database(database_url)


def forget(database: Database) -> None:
    """As if the store had been added just now: no rows, no cursors, everything due."""
    with database.transaction() as connection:
        connection.execute(
            "TRUNCATE product_variants, inventory_levels, customers, orders, order_lines, refunds, sync_attempts"
        )
        connection.execute("UPDATE sync_states SET cursor = '{}', last_full_at = NULL, next_due_at = now()")


def make_due(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("UPDATE sync_states SET next_due_at = now()")


def main() -> None:
    url, units, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    imported = peak_rss_mb()
    database = Database(url)
    summary = sync(database, tuple(map(Unit, units.split(","))), by_pages=True)
    figures: dict[str, Any] = {
        "rows": summary.rows,
        "seconds": summary.seconds,
        "peak_rss_mb": peak_rss_mb(),
        "imported_rss_mb": imported,
    }
    print(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main()
