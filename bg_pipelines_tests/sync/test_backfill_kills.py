"""A backfill that is killed at any moment, again and again, ends equal to its source."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines_tests.support import PROJECT, as_store, assert_sales_equal_to_source, query

KILLS = 50 if os.environ.get("BG_TEST_FULL") == "1" else 8
STORES = 26
"""Twice as many as may be needed: each is killed four or five times. A world has one large shop in three."""
SALES = (Unit.CUSTOMERS, Unit.ORDERS)
EDITED = "edited while it was read"


class Runs:
    """A process that makes runs, and kills them when told to."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bg_pipelines_tests.sync.killed_runs", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )

    def run(self, store: str, units: list[str], kill_after: float | None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wish = {"store": store, "units": units, "kill_after": kill_after}
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture
def two_runs(database_url: str) -> Iterator[list[Runs]]:
    runs = [Runs(database_url) for _ in range(2)]
    yield runs
    for one in runs:
        one.end()


def left(database: Database, store: str) -> list[str]:
    """What of a store has not been backfilled yet."""
    rows = query(
        database,
        "SELECT resource FROM sync_states y JOIN stores s ON s.id = y.store_id "
        "WHERE s.name = %s AND resource = ANY(%s) AND last_succeeded_at IS NULL ORDER BY resource",
        store,
        list(SALES),
    )
    return [row["resource"] for row in rows]


def place(database: Database, store: str) -> str:
    """Where the backfill of a store stands, in words."""
    rows = query(
        database,
        "SELECT resource, last_succeeded_at IS NOT NULL AS done, cursor -> 'full_pass' ->> 'resume' AS token "
        "FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE s.name = %s AND resource = ANY(%s) ORDER BY resource",
        store,
        list(SALES),
    )
    for row in rows:
        if row["done"]:
            continue
        if row["token"] is None:
            return f"{row['resource']} not begun"
        at = json.loads(row["token"].removeprefix("bulk "))
        if at["operation"] is None:
            return f"{row['resource']} wanted"
        return f"{row['resource']} " + ("reading" if at["rows"] else "started")
    return "done"


def free(database: Database, store: str) -> None:
    """As if the lease of a run that was killed had ended."""
    query(
        database,
        "UPDATE sync_states SET lease_expires_at = now() FROM stores s WHERE s.id = store_id AND s.name = %s",
        store,
    )
    query(database, "DELETE FROM visited_units v USING stores s WHERE s.id = store_id AND s.name = %s", store)


class Backfills:
    """Stores that are backfilled one after the other, each killed again and again, until there were enough kills."""

    def __init__(self, database: Database, sandbox: Sandbox, seed: int) -> None:
        self.database = database
        self.sandbox = sandbox
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.waiting = [shop for shop in sandbox.world.shops.values() if shop.tier == 1]
        self.whole = 0.0
        self.kills: list[str] = []
        self.done: list[Shop] = []
        self.faults: list[BaseException] = []

    def work(self, runs: Runs) -> None:
        try:
            while shop := self.next_shop():
                self.backfill(runs, shop)
        except BaseException as error:  # noqa: BLE001 (raised by the test itself)
            self.faults.append(error)

    def next_shop(self) -> Shop | None:
        with self.lock:
            return self.waiting.pop() if self.waiting and len(self.kills) < KILLS else None

    def moment(self) -> float | None:
        """When to kill the next run: mostly soon, so that a backfill is killed often before it is done."""
        with self.lock:
            if len(self.kills) >= KILLS or not self.whole:
                return None
            return self.rng.uniform(0, self.whole / self.rng.choice((1, 4, 4, 4)))

    def backfill(self, runs: Runs, shop: Shop) -> float:
        """Runs until the store is done, and one more for what was edited meanwhile; returns their seconds."""
        store = as_store(shop).name
        customer = shop.export(["customers"])["customers"][0]["id"]
        seconds, killed = 0.0, 0
        while units := left(self.database, store):
            ended = runs.run(store, units, self.moment())
            seconds += ended["seconds"]
            if ended["status"] < 0:
                where = place(self.database, store)
                with self.lock:
                    self.kills.append(where)
                free(self.database, store)
                killed += 1
                if killed == 2:
                    edit(shop, "update_customer", id=customer, fields={"note": EDITED})
            else:
                assert ended["status"] == 0
        assert runs.run(store, list(SALES), None)["status"] == 0
        assert_sales_equal_to_source(self.database, self.sandbox, shop.domain)
        # However often it was killed: what was asked of the vendor was found again, and asked once.
        assert len(shop.bulk.all) == len(SALES)
        self.done.append(shop)
        return seconds


@pytest.mark.timeout(300)
def test_a_backfill_killed_at_random_moments_ends_equal_to_the_source_every_time(
    database: Database,
    cipher: Cipher,
    make_sandbox: Callable[..., Sandbox],
    two_runs: list[Runs],
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    began = time.monotonic()
    sandbox = make_sandbox(
        shops=3 * STORES, variants=3 * STORES, customers=1000 * STORES, orders_per_customer=2
    )
    backfills = Backfills(database, sandbox, seed)
    save_stores(database, cipher, [as_store(shop) for shop in backfills.waiting])
    for shop in backfills.waiting:
        edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
        edit(shop, "set_bulk_seconds", seconds=0.2)
        # The answer to a start is long on its way: now and then it is lost.
        shop.faults.append(Fault("slow", operation="StartExport", seconds=0.05))
        # Else a file that is ready is read in a moment, and few would be killed at it.
        shop.faults.append(Fault("drip", operation="bulk_file", seconds=2))
    # One that is left alone tells how long a backfill takes.
    first = backfills.waiting.pop()
    backfills.whole = backfills.backfill(two_runs[0], first)
    threads = [threading.Thread(target=backfills.work, args=(runs,)) for runs in two_runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fault in backfills.faults:
        raise fault
    kills, done = backfills.kills, backfills.done
    print(
        f"{len(kills)} kills in {len(done)} backfills of {backfills.whole:.1f} s each, in {time.monotonic() - began:.0f} s"
    )
    print("\n".join(f"  {number:3} {where}" for where, number in sorted(Counter(kills).items())))
    assert len(kills) >= KILLS
    assert not any(left(database, as_store(shop).name) for shop in done)
    edited = query(database, "SELECT count(*) AS rows FROM customers WHERE note = %s", EDITED)
    assert edited[0]["rows"] > 0
    assert query(database, "SELECT error FROM sync_attempts WHERE status = 'failed'") == []
    assert query(database, "SELECT * FROM incidents") == []
