"""A backfill: what a row costs of a shop's rate limit, and what reading an export takes of this machine.

Pages are read from the sandbox, which prices as Shopify does, of a shop whose orders are as long as a grocer's real baskets;
beside ours stands the client that asks for 250 orders with 20 lines each and has a call for each longer one. The export's
file is one of ungrouped orders, served on this machine and read in a process of its own.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.harness import export_reader
from benchmarks.harness.machine import description
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES, PageSizes
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox, Shop, World, edit
from bg_pipelines.settings import SHOPIFY_API_VERSION

BASKETS = (
    (0, 1),
    (0.25, 1),
    (0.5, 5),
    (0.7, 10),
    (0.87, 21),
    (0.95, 35),
    (0.98, 49),
    (0.99, 59),
    (0.999, 90),
    (1, 161),
)
"""The share of baskets with fewer lines, and the lines: 155,848 real ones, of the data set "The Complete Journey"."""
PLAIN = PageSizes(rows=250, levels=15, addresses=10, lines=20)
RESTORE_RATE = 100
"""Points a second of a Standard plan."""
BUCKET = 10_000_000
MILLION = 1_000_000


class Size(NamedTuple):
    orders: int
    exported: int


FULL, SMALL = Size(orders=3_000, exported=300_000), Size(orders=600, exported=4_000)


class Cost(NamedTuple):
    """What reading all of a resource took."""

    rows: int
    calls: int
    points: float

    @property
    def hours_a_million(self) -> float:
        return self.points / self.rows * MILLION / RESTORE_RATE / 3600

    def figures(self) -> dict[str, float]:
        return {
            "rows": self.rows,
            "calls_per_1000": round(self.calls / self.rows * 1000, 2),
            "points_a_row": round(self.points / self.rows, 3),
            "hours_a_million": round(self.hours_a_million, 2),
        }


def run(console: Console, *, small: bool) -> dict[str, Any]:
    size = SMALL if small else FULL
    with console.status("pages of a shop"):
        pages = _pages(size)
    with console.status("the file of an export"):
        export = {orders: _export(orders) for orders in (size.exported // 4, size.exported)}
    quarter, whole = export.values()
    figures = {
        "pages": {
            name: {way: cost.figures() for way, cost in costs.items()} for name, costs in pages.items()
        },
        "points_ratio_to_plain": round(pages["orders"]["plain"].points / pages["orders"]["ours"].points, 2),
        "calls_ratio_to_plain": round(pages["orders"]["plain"].calls / pages["orders"]["ours"].calls, 2),
        "export": {
            "orders": whole["rows"],
            "lines": whole["parts"],
            "seconds": round(whole["seconds"], 1),
            "processor_seconds": round(whole["processor_seconds"], 1),
            "orders_per_second": round(whole["rows"] / whole["seconds"]),
            "peak_rss_mb": round(whole["peak_rss_mb"], 1),
            "imported_rss_mb": round(whole["imported_rss_mb"], 1),
            "rss_growth_mb": round(whole["peak_rss_mb"] - quarter["peak_rss_mb"], 1),
        },
        "machine": description(),
    }
    _show(console, pages, figures["export"])
    return figures


def _pages(size: Size) -> dict[str, dict[str, Cost]]:
    world = World(shops=1, variants=4 * size.orders, customers=2 * size.orders, orders_per_customer=0)
    with Sandbox(world, port=0) as sandbox:
        [shop] = sandbox.world.shops.values()
        for number in range(size.orders):
            edit(shop, "add_order", lines=_lines((number * 619 % size.orders + 0.5) / size.orders))
        resources = (
            Resource.ORDERS,
            Resource.CUSTOMERS,
            Resource.PRODUCT_VARIANTS,
            Resource.INVENTORY_LEVELS,
        )
        return {
            resource.value: {"plain": _cost(shop, resource, plain=True), "ours": _cost(shop, resource)}
            for resource in resources
        }


def _lines(share: float) -> int:
    [lines] = [
        round(least + (most - least) * (share - below) / (above - below))
        for (below, least), (above, most) in pairwise(BASKETS)
        if below < share <= above
    ]
    return lines


def _cost(shop: Shop, resource: Resource, *, plain: bool = False) -> Cost:
    edit(shop, "set_budget", maximum=BUCKET, restore=0)
    shop.requests.clear()
    client = ShopifyClient(shop.api_url, StaticToken(shop.token), api_version=SHOPIFY_API_VERSION)
    platform = ShopifyPlatform(client, PLAIN if plain else PAGE_SIZES)
    if plain:
        # A call of its own for each row that goes on.
        platform._reader.whole = lambda nodes, *_: nodes  # type: ignore[method-assign]
    rows = sum(page.read for page in platform.pages(resource, since=None, resume=None, bulk=False))
    return Cost(rows, len(shop.requests), BUCKET - shop.bucket.available)


def _export(orders: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bg-benchmark-") as folder:
        file = Path(folder) / "orders.jsonl"
        lines = export_reader.write_orders(file, orders)
        with export_reader.serving(file, orders, lines) as url:
            found = export_reader.read(url)
    if (found["rows"], found["rows"] + found["parts"] - found["refunds"]) != (orders, lines):
        raise RuntimeError(f"the export of {orders} orders in {lines} lines was read as {found}")
    return found


def _show(console: Console, pages: dict[str, dict[str, Cost]], export: dict[str, Any]) -> None:
    table = Table(
        "pages of", "client", "rows", "calls per 1,000", "points a row", "hours a million, Standard plan"
    )
    for name, costs in pages.items():
        for way, cost in costs.items():
            shown = cost.figures()
            table.add_row(
                name,
                way,
                f"{cost.rows:,}",
                f"{shown['calls_per_1000']:.1f}",
                f"{shown['points_a_row']:.3f}",
                f"{shown['hours_a_million']:.2f}",
            )
    console.print(table)
    console.print(
        f"an export of {export['orders']:,} orders with {export['lines']:,} lines and refunds: {export['seconds']} s, of "
        f"which {export['processor_seconds']} s of a processor, "
        f"{export['orders_per_second']:,} orders/s, {export['peak_rss_mb']} MB at most, {export['imported_rss_mb']} MB of it "
        f"the program, {export['rss_growth_mb']} MB more than a quarter of it takes"
    )
