"""From an edit at a sandbox's shop to its row: delivered, received, fetched over an API with latency, committed.

The receiver is a process of its own; the shop and the run that handles its events, which is warm as in a busy hour, share
this one. Edits come one by one, each at a random moment after the row of the last one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.store import CIPHER
from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, World, edit
from bg_pipelines.settings import SHOPIFY_API_VERSION
from bg_pipelines.sync import SyncRequest, SyncRun
from bg_pipelines.webhooks.handling import LOOK_SECONDS, HandlingRequest, HandlingRun
from bg_pipelines.webhooks.topics import TOPICS, Kind
from bg_pipelines.work.runner import Warmth

STORE = "shop"
LATENCY_SECONDS = 0.1
PATIENCE_SECONDS = 30.0
UNITS = (Unit.PRODUCTS, Unit.PRODUCT_VARIANTS, Unit.INVENTORY_LEVELS, Unit.CUSTOMERS, Unit.ORDERS)


def event_to_row(database: Database, receiver_port: int, edits: int) -> dict[str, Any]:
    """Milliseconds from an edit to its committed row, at p50 and p99. Raises RuntimeError if one never came."""
    with Sandbox(World(shops=1, variants=60, customers=20), port=0) as sandbox:
        [shop] = sandbox.world.shops.values()
        _add(database, shop)
        for topic in TOPICS["shopify"].values():
            if topic.kind is Kind.CHANGED and topic.fields:
                wanted = {"uri": f"http://127.0.0.1:{receiver_port}/webhooks/shopify"}
                shop.subscriptions.add(
                    topic.name.upper().replace("/", "_"), {**wanted, "includeFields": list(topic.fields)}
                )
        shop.faults.append(Fault("slow", seconds=LATENCY_SECONDS))
        handled = threading.Event()
        run = threading.Thread(target=_handle, args=(database, handled), daemon=True)
        run.start()
        rng = random.Random(1)
        seconds = []
        try:
            for number in range(edits + 3):
                time.sleep(rng.uniform(0, 2 * LOOK_SECONDS))
                took = _edit(database, shop, number)
                if number >= 3:  # its connections are open by now
                    seconds.append(took)
        finally:
            handled.set()
            run.join(PATIENCE_SECONDS)
    seconds.sort()
    return {
        "event_to_row_p50_ms": round(seconds[len(seconds) // 2] * 1000),
        "event_to_row_p99_ms": round(seconds[int(len(seconds) * 0.99)] * 1000),
        "event_to_row_edits": edits,
    }


def _add(database: Database, shop: Shop) -> None:
    with database.transaction() as connection:
        connection.execute("TRUNCATE webhook_events")
        connection.execute("UPDATE stores SET paused_at = now()")
    access = shop.access
    store = NewStore(
        STORE,
        "shopify",
        shop.domain,
        api_url=shop.api_url,
        client_id=access.client_id,
        client_secret=access.client_secret,
    )
    save_stores(database, CIPHER, [store])
    SyncRun(database, CIPHER, SyncRequest(UNITS), run_id="first", connect=_connect, log=lambda _: None).run()


def _connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Any:
    return platforms.connect(access, api_version=SHOPIFY_API_VERSION, sleep=sleep)


def _handle(database: Database, ended: threading.Event) -> None:
    HandlingRun(
        database,
        CIPHER,
        HandlingRequest(),
        run_id="handling",
        home=Path(),
        connect=_connect,
        log=lambda _: None,
        warmth=Warmth(3600, LOOK_SECONDS, ended.is_set),
    ).run()


def _edit(database: Database, shop: Shop, number: int) -> float:
    """Make one edit, of a table after the other; returns how long it took until its row was committed, in seconds."""
    word = f"edit {number}"
    began = time.perf_counter()
    if number % 3 == 0:
        row = next(iter(shop.ledger.orders))
        edit(shop, "update_order", id=row["id"], fields={"note": word})
        query = "SELECT note = %s FROM orders WHERE external_id = %s"
    elif number % 3 == 1:
        row = next(iter(shop.store.products))
        edit(shop, "update_product", id=row["id"], fields={"title": word})
        query = "SELECT title = %s FROM products WHERE external_id = %s"
    else:
        row = next(level for level in shop.store.levels if level["isActive"])
        where = {"inventory_item_id": row["item"]["id"], "location_id": row["location"]["id"]}
        edit(shop, "set_quantity", **where, quantity=1000 + number)
        word = str(1000 + number)
        query = "SELECT available::text = %s FROM inventory_levels WHERE external_id = %s"
    while time.perf_counter() - began < PATIENCE_SECONDS:
        with database.transaction() as connection:
            found = connection.execute(query, (word, row["id"])).fetchone()
        if found and found[0]:
            return time.perf_counter() - began
        time.sleep(0.004)
    raise RuntimeError(f"edit {number} never became a row")
