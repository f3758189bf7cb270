"""A first sync of one big store: 50,000 variants and 200,000 stock levels, beside the limit of the same rows.

Ours is the product's whole path: HTTP, parsing, records, COPY, merge, cursor, commit. The limit has the rows ready
as COPY text and does only what cannot be left out: for each table one COPY into a temporary table, one merge, one
commit, into the same tables with the same indexes. Both take turns, each beginning with empty tables and after a
checkpoint, on a PostgreSQL with its durable defaults.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

import orjson
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.harness import catalogue_pages, page_server
from benchmarks.harness.machine import description, own_postgres, processor_seconds, spread
from benchmarks.harness.shapes import require_shape
from benchmarks.harness.store import add_stores, forget, make_due, sync
from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import load
from bg_pipelines.platforms.shopify import platform, stock
from bg_pipelines.platforms.shopify.client import Answer, ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Record, Reject, Resource
from bg_pipelines.settings import SHOPIFY_API_VERSION
from bg_pipelines.sync import Limits
from bg_pipelines.work.queue import clock as database_clock

RESOURCES = (Resource.PRODUCT_VARIANTS, Resource.INVENTORY_LEVELS)
UNITS = (Unit.PRODUCT_VARIANTS, Unit.INVENTORY_LEVELS)
BLOCK_ROWS = 2_000
LOAD_ROWS = Limits().load_rows


@dataclass(frozen=True)
class Size:
    variants: int
    levels: int
    rounds: int
    memory_levels: tuple[int, int]


FULL = Size(variants=50_000, levels=200_000, rounds=5, memory_levels=(50_000, 500_000))
SMALL = Size(variants=2_500, levels=10_000, rounds=3, memory_levels=(10_000, 50_000))


@dataclass(frozen=True)
class Ready:
    """A table's rows as the limit gets them: COPY text in blocks."""

    resource: Resource
    columns: tuple[str, ...]
    blocks: list[bytes]


def run(console: Console, *, small: bool) -> dict[str, Any]:
    size = SMALL if small else FULL
    # What others do on the machine costs ours more than the limit: ours keeps two processors busy, the limit one.
    busy_before = os.getloadavg()[0]
    with ExitStack() as stack:
        with console.status("starting PostgreSQL and the page server"):
            url = stack.enter_context(own_postgres())
            server = stack.enter_context(
                page_server.serve(catalogue_pages, variants=size.variants, levels=size.levels)
            )
            database = Database(url)
            stack.callback(database.close)
            _require_shapes(server.url)
            [store_id] = add_stores(database, server.url)
            ready = [_ready(server.url, resource) for resource in RESOURCES]
        limit, ours, processor = _rounds(console, database, store_id, size, ready, server.process_id)
        with console.status("an incremental sync of which nothing changed"):
            incremental = _incremental(database, server)
        stages = _stages(console, database, store_id, server.url, size)
        memory = [_memory(console, database, levels) for levels in size.memory_levels]
    rows = size.variants + size.levels
    ratios = [a / b for a, b in zip(limit, ours, strict=True)]
    figures: dict[str, Any] = {
        "ratio_to_limit": round(statistics.median(ratios), 3),
        "ratios": spread(ratios, 3),
        "rows": rows,
        "rows_per_second": round(rows / statistics.median(ours)),
        "seconds": spread(ours),
        "limit_seconds": spread(limit),
        "rounds": size.rounds,
        "processor_seconds": processor,
        "stage_seconds": stages,
        **{
            f"peak_rss_mb_{levels // 1000}k": round(peak, 1)
            for levels, peak in zip(size.memory_levels, memory, strict=True)
        },
        "rss_growth_mb": round(memory[1] - memory[0], 1),
        "incremental_requests": incremental,
        "machine": description(),
        "load_average_before": round(busy_before, 2),
    }
    _show(console, size, figures)
    return figures


def _rounds(
    console: Console, database: Database, store_id: int, size: Size, ready: list[Ready], server_process: int
) -> tuple[list[float], list[float], dict[str, float]]:
    """Limit and ours in turns, seconds of each round, and the median processor seconds of ours."""
    limit: list[float] = []
    ours: list[float] = []
    processor: dict[str, list[float]] = {"python": [], "page_server": []}

    def run_limit() -> None:
        _begin_afresh(database)
        limit.append(_limit(database, store_id, ready))

    def run_ours() -> None:
        _begin_afresh(database)
        before = (time.process_time(), processor_seconds(server_process))
        summary = sync(database, UNITS, by_pages=True)
        after = (time.process_time(), processor_seconds(server_process))
        for name, a, b in zip(processor, before, after, strict=True):
            processor[name].append(b - a)
        if summary.rows != size.variants + size.levels:
            raise RuntimeError(f"{summary.rows} rows were read")
        ours.append(summary.seconds)

    turns = (run_limit, run_ours)
    with console.status("warming up") as status:
        digests = []
        for turn in turns:
            turn()
            digests.append(_digest(database))
        if digests[0] != digests[1]:
            raise RuntimeError("limit and product did not load the same rows")
        limit.clear()
        ours.clear()
        for figures in processor.values():
            figures.clear()
        for i in range(size.rounds):
            status.update(f"round {i + 1} of {size.rounds}")
            for turn in turns[:: 1 if i % 2 else -1]:
                turn()
    return limit, ours, {name: round(statistics.median(seconds), 2) for name, seconds in processor.items()}


def _begin_afresh(database: Database) -> None:
    forget(database)
    with database.transaction() as connection:
        connection.execute("CHECKPOINT")


def _limit(database: Database, store_id: int, ready: list[Ready]) -> float:
    began = time.perf_counter()
    for table in ready:
        names = ", ".join(table.columns)
        assignments = ", ".join(f"{c} = excluded.{c}" for c in table.columns if c != "external_id")
        with database.transaction() as connection:
            connection.execute(
                f"CREATE TEMPORARY TABLE stage ON COMMIT DROP AS SELECT {names} FROM {table.resource} WITH NO DATA"
            )
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY stage ({names}) FROM STDIN") as copy,
            ):
                for block in table.blocks:
                    copy.write(block)
            connection.execute(
                f"INSERT INTO {table.resource} (store_id, {names}) SELECT %s, {names} FROM stage "
                f"ON CONFLICT (store_id, external_id) DO UPDATE SET {assignments}, synced_at = now()",
                (store_id,),
            )
    return time.perf_counter() - began


def _digest(database: Database) -> list[Any]:
    """What the tables hold, but for when it was written."""
    with database.transaction() as connection:
        return [
            connection.execute(
                f"SELECT count(*), sum(hashtextextended((to_jsonb(t) - 'synced_at')::text, 0)) FROM {resource} t"
            ).fetchone()
            for resource in RESOURCES
        ]


def _incremental(database: Database, server: page_server.PageServer) -> dict[str, int]:
    _begin_afresh(database)
    sync(database, UNITS, by_pages=True)
    server.requests()
    make_due(database)
    summary = sync(database, UNITS, by_pages=True)
    if summary.changed:
        raise RuntimeError(f"nothing changed at the source, but {summary.changed} rows here")
    counts = server.requests()
    return {
        "product_variants": counts.get("ProductVariants", 0),
        "inventory_levels": counts.get("InventoryLevels", 0) + counts.get("LocationInventoryLevels", 0),
    }


def _memory(console: Console, database: Database, levels: int) -> float:
    """Peak memory, in MB, of a process that syncs this many levels and does nothing else."""
    with (
        console.status(f"memory of a sync of {levels:,} levels"),
        page_server.serve(catalogue_pages, variants=0, levels=levels) as server,
    ):
        add_stores(database, server.url)
        _begin_afresh(database)
        url = database.engine.url.render_as_string(hide_password=False)
        command = [
            sys.executable,
            "-m",
            "benchmarks.harness.store",
            url,
            Resource.INVENTORY_LEVELS.value,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures = orjson.loads(done.stdout)
    if figures["rows"] != levels:
        raise RuntimeError(f"{figures['rows']} of {levels} levels were read")
    return float(figures["peak_rss_mb"])


# Where the time goes: the same rows, one stage after the other instead of side by side


def _stages(
    console: Console, database: Database, store_id: int, api_url: str, size: Size
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    with console.status("where the time goes"):
        for _ in range(min(3, size.rounds)):
            _begin_afresh(database)
            for name, spent in _one_after_the_other(database, store_id, api_url).items():
                seconds.setdefault(name, []).append(spent)
    return {name: round(statistics.median(spent), 2) for name, spent in seconds.items()}


def _one_after_the_other(database: Database, store_id: int, api_url: str) -> dict[str, float]:
    spent = dict.fromkeys(("fetch_and_parse", "convert", "prepare", "copy", "merge", "commit"), 0.0)
    with database.transaction() as connection:
        began_at = database_clock(connection)
    for resource in RESOURCES:
        client = _TimedClient(api_url, StaticToken(page_server.TOKEN), api_version=SHOPIFY_API_VERSION)
        began = time.perf_counter()
        pages = ShopifyPlatform(client).pages(resource, since=None, resume=None, bulk=False)
        records = [record for page in pages for record in page.records]
        spent["convert"] += time.perf_counter() - began - client.seconds
        spent["fetch_and_parse"] += client.seconds
        client.close()
        for first in range(0, len(records), Limits().load_rows):
            _load_timed(
                database, resource, store_id, records[first : first + Limits().load_rows], began_at, spent
            )
    return spent


def _load_timed(
    database: Database,
    resource: Resource,
    store_id: int,
    records: list[Record],
    began_at: datetime,
    spent: dict[str, float],
) -> None:
    with database.transaction() as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.cursor_factory = _TimedCursor
        _TimedCursor.spent = dict.fromkeys(("copy", "merge"), 0.0)
        began = time.perf_counter()
        load(
            connection,
            resource.value,
            store_id,
            records,
            seen_at=began_at,
            confirm_before=began_at,
            reject=_refuse,
        )
        whole = time.perf_counter() - began
        connection.cursor_factory = psycopg.Cursor
        for name, seconds in _TimedCursor.spent.items():
            spent[name] += seconds
        spent["prepare"] += whole - sum(_TimedCursor.spent.values())
        began = time.perf_counter()
    spent["commit"] += time.perf_counter() - began


class _TimedClient(ShopifyClient):
    """Counts the seconds from a request to its parsed answer."""

    seconds = 0.0

    def execute(self, document: str, variables: Mapping[str, Any]) -> Answer:
        began = time.perf_counter()
        try:
            return super().execute(document, variables)
        finally:
            self.seconds += time.perf_counter() - began


class _TimedCursor(psycopg.Cursor[Any]):
    """Counts the seconds in COPY, client side included, and in all other statements."""

    spent: ClassVar[dict[str, float]]

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        began = time.perf_counter()
        try:
            return super().execute(*args, **kwargs)
        finally:
            self.spent["merge"] += time.perf_counter() - began

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Copy]:
        began = time.perf_counter()
        with super().copy(*args, **kwargs) as copy:
            yield copy
        self.spent["copy"] += time.perf_counter() - began


def _refuse(reject: Reject) -> None:
    raise RuntimeError(f"a row was rejected: {reject.reason}")


# Before anything is measured


def _ready(api_url: str, resource: Resource) -> Ready:
    """A resource's rows as COPY text: the product's own records, written out."""
    client = ShopifyClient(api_url, StaticToken(page_server.TOKEN), api_version=SHOPIFY_API_VERSION)
    lines: list[str] = []
    blocks: list[bytes] = []
    columns: tuple[str, ...] = ()
    for page in ShopifyPlatform(client).pages(resource, since=None, resume=None, bulk=False):
        for record in page.records:
            columns = record._fields
            lines.append("\t".join("\\N" if value is None else str(value) for value in record) + "\n")
        if len(lines) >= BLOCK_ROWS:
            blocks.append("".join(lines).encode())
            lines.clear()
    blocks.append("".join(lines).encode())
    client.close()
    return Ready(resource, columns, blocks)


def _require_shapes(api_url: str) -> None:
    """The pages must hold the very fields that the product's documents ask for, no fewer and no more."""
    client = ShopifyClient(api_url, StaticToken(page_server.TOKEN), api_version=SHOPIFY_API_VERSION)
    first = {"first": catalogue_pages.PAGE_ROWS, "after": None, "query": None}
    levels = {"first": PAGE_SIZES.locations, "levels": PAGE_SIZES.levels}
    answers = {
        platform.PRODUCT_VARIANTS: client.execute(platform.PRODUCT_VARIANTS, first).data,
        stock.INVENTORY_LEVELS: client.execute(stock.INVENTORY_LEVELS, {**first, **levels}).data,
    }
    location = answers[stock.INVENTORY_LEVELS]["rows"]["nodes"][0]
    after = location["inventoryLevels"]["pageInfo"]["endCursor"]
    rest = client.execute(
        stock.LOCATION_INVENTORY_LEVELS, {**first, "location": location["id"], "after": after}
    )
    answers[stock.LOCATION_INVENTORY_LEVELS] = rest.data
    client.close()
    for document, data in answers.items():
        require_shape(document, data)


# What is shown


def _show(console: Console, size: Size, figures: dict[str, Any]) -> None:
    table = Table(
        title=f"load: {size.variants:,} variants and {size.levels:,} stock levels, {size.rounds} rounds in turns"
    )
    for name in ("", "min", "median", "max"):
        table.add_column(name, justify="right" if name else "left")
    for label, key in (
        ("our time, s", "seconds"),
        ("limit (COPY and merge alone), s", "limit_seconds"),
        ("limit / ours, round by round", "ratios"),
    ):
        table.add_row(label, *(str(figures[key][name]) for name in ("min", "median", "max")))
    table.add_section()
    table.add_row("rows a second", "", f"{figures['rows_per_second']:,}", "")
    for name, seconds in figures["processor_seconds"].items():
        table.add_row(f"processor seconds: {name.replace('_', ' ')}", "", str(seconds), "")
    table.add_section()
    for name, seconds in figures["stage_seconds"].items():
        table.add_row(f"one after the other: {name.replace('_', ' ')}, s", "", str(seconds), "")
    table.add_section()
    for levels in size.memory_levels:
        table.add_row(
            f"peak memory, {levels:,} levels, MB", "", str(figures[f"peak_rss_mb_{levels // 1000}k"]), ""
        )
    for name, count in figures["incremental_requests"].items():
        table.add_row(f"requests where nothing changed: {name.replace('_', ' ')}", "", str(count), "")
    console.print(table)
    console.print(f"{figures['machine']}, load average before: {figures['load_average_before']}", style="dim")
