"""A first sync of 100,000 customers and 300,000 orders with 750,000 lines, and one after 1% changed, beside the limit.

Ours is the product's whole path: HTTP, parsing, records, COPY, merge, cursor, commit, and the proof at the end of a
full pass. The limit (harness/sales_limit.py) fetches the very same pages and writes the very same rows in the fewest
steps that Python can do it in, for this shop alone; where 1 % has changed a third does so with `executemany`. All take turns
on a PostgreSQL with its durable defaults; each begins with the same tables, after a checkpoint. Of several stores ours syncs
all in one run, and the others one after the other.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.harness import page_server, sales_limit, sales_pages
from benchmarks.harness.machine import description, own_postgres, postgres_seconds, processor_seconds, spread
from benchmarks.harness.shapes import require_shape
from benchmarks.harness.store import add_stores, forget, make_due, sync
from bg_pipelines.database.engine import Database
from bg_pipelines.platforms.shopify import sales
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.settings import SHOPIFY_API_VERSION

UNITS = JOB_UNITS["customer_sync"]
TABLES = tuple(sales_limit.TABLES)
JOB_IMPORTS = ("dagster", "pandas")
"""What the process of a job has in memory beside the sync."""


@dataclass(frozen=True)
class Size:
    """Of one store, and how many there are."""

    customers: int
    rounds: int
    stores: int = 1

    @property
    def orders(self) -> int:
        return self.customers * sales_pages.ORDERS_PER_CUSTOMER


FULL = Size(customers=100_000, rounds=5)
SMALL = Size(customers=2_000, rounds=3)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--customers", type=int, help=f"how many: {FULL.customers:,}, or {SMALL.customers:,} with --small"
    )
    parser.add_argument(
        "--stores", type=int, default=1, help="so many stores of that size: only what changed, s a store"
    )


def run(console: Console, *, small: bool, customers: int | None = None, stores: int = 1) -> dict[str, Any]:
    size = SMALL if small else FULL
    if customers:
        size = Size(customers, rounds=9)
    size = replace(size, stores=stores)
    # What others do on the machine costs ours more than the limit, see docs/benchmarks.md.
    busy_before = os.getloadavg()[0]
    with ExitStack() as stack:
        with console.status("starting PostgreSQL and the page server"):
            url = stack.enter_context(own_postgres())
            server = stack.enter_context(page_server.serve(sales_pages, customers=size.customers))
            database = Database(url, pool_size=34)  # as in a run of the product
            stack.callback(database.close)
            _require_shapes(server.url)
            store_ids = add_stores(database, server.url, stores)
        bench = _Bench(console, database, store_ids, server, size)
        full = bench.full_rounds() if stores == 1 else None
        incremental = bench.incremental_rounds()
        rows = bench.rows()
        memory = {size.customers: _memory(console, database, size.customers)} if full else {}
    figures: dict[str, Any] = {
        "incremental_ratio_to_limit": round(statistics.median(incremental.ratios()), 3),
        "incremental_ratio_to_executemany": round(statistics.median(incremental.ratios("executemany")), 3),
        "incremental_processor_ratio_to_executemany": round(
            statistics.median(incremental.ratios("executemany", incremental.processor)), 3
        ),
        "rows": rows,
        "incremental": incremental.figures(),
        "rounds": size.rounds,
        "stores": stores,
        "machine": description(),
        "load_average_before": round(busy_before, 2),
    }
    if full:
        quarter = size.customers // 4
        memory[quarter] = _memory_of_a_smaller_shop(console, quarter)
        figures |= {
            "full_ratio_to_limit": round(statistics.median(full.ratios()), 3),
            "rows_per_second": round(sum(rows.values()) / statistics.median(full.seconds["ours"])),
            "full": full.figures(),
            "peak_rss_mb": round(memory[size.customers]["peak_rss_mb"], 1),
            "rss_growth_mb": round(memory[size.customers]["peak_rss_mb"] - memory[quarter]["peak_rss_mb"], 1),
            "imported_rss_mb": round(memory[size.customers]["imported_rss_mb"], 1),
        }
    _show(console, size, figures)
    return figures


class _Turns:
    """Seconds a store of limit and ours, turn by turn; of `executemany` where that is tried. And how much of the processors each
    used of this process and of PostgreSQL."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"ours": [], "limit": [], "executemany": []}
        self.processor: dict[str, list[float]] = {name: [] for name in (*self.seconds, "page_server")}

    def ratios(self, other: str = "limit", of: dict[str, list[float]] | None = None) -> list[float]:
        taken = of or self.seconds
        return [a / b for a, b in zip(taken[other], taken["ours"], strict=True)]

    def figures(self) -> dict[str, Any]:
        digits = 2 if min(self.seconds["limit"]) > 1 else 4
        names = {"seconds": "ours", "limit_seconds": "limit", "executemany_seconds": "executemany"}
        return {
            "ratios": spread(self.ratios(), 3),
            **{key: spread(self.seconds[name], digits) for key, name in names.items() if self.seconds[name]},
            "processor_seconds": {
                name: round(statistics.median(spent), digits)
                for name, spent in self.processor.items()
                if spent
            },
        }


class _Bench:
    """Both in turns on one database."""

    def __init__(
        self,
        console: Console,
        database: Database,
        store_ids: list[int],
        server: page_server.PageServer,
        size: Size,
    ) -> None:
        self.console = console
        self.database = database
        self.store_ids = store_ids
        self.server = server
        self.size = size
        self.postgres_seconds = postgres_seconds(database.engine.url.render_as_string(hide_password=False))

    def full_rounds(self) -> _Turns:
        def begin() -> None:
            forget(self.database)

        return self._rounds("full sync", begin, changed=False)

    def incremental_rounds(self) -> _Turns:
        """Each turn begins with what a full sync left, and the same 1% has changed since."""
        with self.console.status("a full sync to change from"):
            forget(self.database)
            sync(self.database, UNITS, by_pages=True, stores=self.size.stores)
            self._execute(*(f"CREATE TABLE before_{table} AS TABLE {table}" for table in TABLES))
            self._execute("VACUUM ANALYZE")

        def begin() -> None:
            self._execute("TRUNCATE customer_changes")
            for table in TABLES:
                self._execute(
                    f"DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM before_{table} b WHERE "
                    "b.store_id = t.store_id AND b.external_id = t.external_id AND b.synced_at = t.synced_at)",
                    f"INSERT INTO {table} SELECT * FROM before_{table} ON CONFLICT DO NOTHING",
                )
            self._execute(*(f"VACUUM {table}" for table in TABLES))
            make_due(self.database)

        return self._rounds("sync of 1% changed", begin, changed=True)

    def rows(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            return {
                table: (connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,))[0]
                for table in TABLES
            }

    def _rounds(self, what: str, begin: Callable[[], None], *, changed: bool) -> _Turns:
        turns = _Turns()
        stores = self.size.stores

        def one_by_one(*, executemany: bool) -> float:
            return sum(
                sales_limit.load(
                    self.database, store_id, self.server.url, changed=changed, executemany=executemany
                )
                for store_id in self.store_ids
            )

        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: sync(self.database, UNITS, by_pages=not changed, stores=stores).seconds,
            "limit": lambda: one_by_one(executemany=False),
        }
        if changed:
            ways["executemany"] = lambda: one_by_one(executemany=True)

        def spent() -> tuple[float, float]:
            return time.process_time() + self.postgres_seconds(), processor_seconds(self.server.process_id)

        def take(name: str) -> None:
            """A turn, whose seconds are a store's."""
            gc.collect()
            before = spent()
            turns.seconds[name].append(ways[name]() / stores)
            ours, vendors = (b - a for a, b in zip(before, spent(), strict=True))
            turns.processor[name].append(ours / stores)
            if name == "ours":
                turns.processor["page_server"].append(vendors / stores)

        with self.console.status(f"{what}: warming up") as status:
            digests = []
            for name in ways:
                begin()
                take(name)
                digests.append(self._digest())
            if any(digest != digests[0] for digest in digests):
                raise RuntimeError(f"limit and product did not write the same rows: {digests}")
            turns = _Turns()
            for i in range(self.size.rounds):
                status.update(f"{what}: round {i + 1} of {self.size.rounds}")
                for name in (*ways,)[:: 1 if i % 2 else -1]:
                    begin()
                    self._execute("CHECKPOINT")
                    take(name)
        return turns

    def _digest(self) -> list[Any]:
        """What the tables hold, but for when it was written."""
        with self.database.transaction() as connection:
            return [
                connection.execute(
                    f"SELECT count(*), sum(hashtextextended((to_jsonb(t) - 'synced_at')::text, 0)) FROM {table} t"
                ).fetchone()
                for table in TABLES
            ]

    def _execute(self, *statements: str) -> None:
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


# Memory


def _memory_of_a_smaller_shop(console: Console, customers: int) -> dict[str, float]:
    with own_postgres() as url, page_server.serve(sales_pages, customers=customers) as server:
        database = Database(url)
        add_stores(database, server.url)
        try:
            return _memory(console, database, customers)
        finally:
            database.close()


def _memory(console: Console, database: Database, customers: int) -> dict[str, float]:
    """Peak memory, in MB, of a process that syncs this shop and does nothing else."""
    with console.status(f"memory of a sync of {customers:,} customers"):
        forget(database)
        url = database.engine.url.render_as_string(hide_password=False)
        units = ",".join(UNITS)
        command = [sys.executable, "-m", "benchmarks.harness.store", url, units, *JOB_IMPORTS]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = orjson.loads(done.stdout)
    return figures


# Before anything is measured


def _require_shapes(api_url: str) -> None:
    """The pages must hold the very fields that the product's documents ask for, no fewer and no more."""
    client = ShopifyClient(api_url, StaticToken(page_server.TOKEN), api_version=SHOPIFY_API_VERSION)
    for name, document in (("Customers", sales.CUSTOMERS), ("Orders", sales.ORDERS)):
        variables = {**sales_pages.SIZES[name], "after": None, "query": None}
        require_shape(document, client.execute(document, variables).data)
    client.close()


# What is shown


def _show(console: Console, size: Size, figures: dict[str, Any]) -> None:
    table = Table(
        title=f"customer_sync: {size.customers:,} customers, {size.orders:,} orders, "
        f"{figures['rows']['order_lines'] // size.stores:,} lines, {size.rounds} rounds in turns"
        f"{f', {size.stores} such stores, s a store' if size.stores > 1 else ''}"
    )
    for name in ("", "min", "median", "max"):
        table.add_column(name, justify="right" if name else "left")
    for what, title in (("full", "all"), ("incremental", "1% changed")):
        if what not in figures:
            continue
        for label, key in (
            (f"{title}: our time, s", "seconds"),
            (f"{title}: limit (fetch, parse, COPY, merge), s", "limit_seconds"),
            (f"{title}: executemany in place of COPY and merge, s", "executemany_seconds"),
            (f"{title}: limit / ours, round by round", "ratios"),
        ):
            if key not in figures[what]:
                continue
            table.add_row(label, *(str(figures[what][key][name]) for name in ("min", "median", "max")))
        for name, seconds in figures[what]["processor_seconds"].items():
            who = "the page server" if name == "page_server" else f"{name} and PostgreSQL"
            table.add_row(f"{title}: processor seconds, {who}", "", str(seconds), "")
        table.add_section()
    for label, key in (
        ("rows a second, all", "rows_per_second"),
        (f"peak memory, {size.customers:,} customers, MB", "peak_rss_mb"),
        (f"more than with {size.customers // 4:,} customers, MB", "rss_growth_mb"),
        ("of it once everything is imported, MB", "imported_rss_mb"),
    ):
        if key in figures:
            table.add_row(label, "", f"{figures[key]:,}", "")
    console.print(table)
    console.print(f"{figures['machine']}, load average before: {figures['load_average_before']}", style="dim")
