"""Many stores, each due every five minutes for all three sync jobs, and almost all of them with nothing new.

    python -m benchmarks fleet --direct --stores 1000     # the costs of a visit, in a minute or two
    python -m benchmarks fleet --stores 10000 --minutes 60 # a daemon with its schedules: who is on time

A visit is one store in one job. In 1 % of the stores one variant, stock level, customer and order changes before each turn.
The vendor (harness/fleet_vendor.py) speaks TLS and gzip, each store has an address of its own, and an answer comes after
100 ms; its processor time is apart, for it shares the machine.

    cpu_ms_a_visit          of the processes that run jobs, their start included, and of PostgreSQL
    transactions_a_visit    of the application's database, all of them: the claiming, the reports, the vacuum
    wal_bytes_a_visit       of the whole server, Dagster's database included, the machine's checkpoints as they come
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.fleet import JOBS, Costs, Fleet, fleet
from benchmarks.harness.machine import description

STORES = 10_000
SMALL = 100
CHANGED = 0.01


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stores", type=int, help=f"how many: {STORES:,}, or {SMALL} with --small")
    parser.add_argument("--direct", action="store_true", help="no daemon: one run after another")


def run(
    console: Console,
    *,
    small: bool,
    stores: int | None = None,
    direct: bool = False,  # noqa: ARG001 (the other way follows)
) -> dict[str, Any]:
    number = stores or (SMALL if small else STORES)
    with ExitStack() as stack:
        with console.status(f"making {number:,} stores"):
            made = stack.enter_context(fleet(number))
        return {"stores": number, **_direct(console, made), "machine": description()}


def _direct(console: Console, made: Fleet) -> dict[str, Any]:
    """The runs of two turns, one after another: the first only brings pages into memory and into the WAL."""
    costs: dict[str, Costs] = {}
    for turn in ("a turn to warm up", "the turn that is measured"):
        began = time.time()
        made.vendor.change(made.some(CHANGED))
        made.make_due()
        before = made.vendor.figures()
        for job in JOBS:
            with console.status(f"{turn}: {job} for {made.stores:,} stores"):
                costs[job] = made.run_job(job)
        made.require_visited(began)
    asked = made.vendor.figures()
    with console.status("a run that finds nothing due"):
        start = made.run_job(JOBS[0])
    whole = sum(costs.values(), Costs())
    visits = len(JOBS) * made.stores
    figures = {
        "stores_on_time": None,
        "freshness_p50_s": None,
        "freshness_p99_s": None,
        **_a_visit(whole, visits),
        "naive_ratio": None,
        "run_start_cpu_s": round(start.run_seconds, 2),
        "run_cpu_ms_a_visit": round(1000 * whole.run_seconds / visits, 2),
        "postgres_cpu_ms_a_visit": round(1000 * whole.postgres_seconds / visits, 2),
        "vendor_cpu_ms_a_visit": round(1000 * whole.vendor_seconds / visits, 2),
        "requests_a_visit": round(_requests(asked, before) / visits, 2),
        "connections_a_visit": round((asked["connections"] - before["connections"]) / visits, 2),
        "visits_a_second": round(visits / whole.seconds, 1),
    }
    _show_direct(console, made, costs, whole, start, figures)
    return figures


def _requests(after: dict[str, Any], before: dict[str, Any]) -> int:
    return sum(after["requests"].values()) - sum(before["requests"].values())


def _a_visit(costs: Costs, visits: int) -> dict[str, Any]:
    return {
        "cpu_ms_a_visit": round(1000 * (costs.run_seconds + costs.postgres_seconds) / visits, 2),
        "transactions_a_visit": round(costs.transactions / visits, 2),
        "wal_bytes_a_visit": round(costs.wal_bytes / visits),
    }


def _show_direct(
    console: Console,
    made: Fleet,
    costs: dict[str, Costs],
    whole: Costs,
    start: Costs,
    figures: dict[str, Any],
) -> None:
    table = Table(
        title=f"{made.stores:,} stores, {CHANGED:.0%} changed, one run of each job: a visit of a store costs"
    )
    for name in ("", *JOBS, "all", "a run's start"):
        table.add_column(name, justify="right" if name else "left")
    columns = [(one, made.stores) for one in costs.values()] + [(whole, len(JOBS) * made.stores)]

    def row(name: str, value: Any, digits: int, of_start: Any) -> None:
        table.add_row(name, *(f"{value(one) / n:,.{digits}f}" for one, n in columns), of_start)

    row("processor ms, the run's process", lambda c: 1000 * c.run_seconds, 2, f"{start.run_seconds:.2f} s")
    row("processor ms, PostgreSQL", lambda c: 1000 * c.postgres_seconds, 2, f"{start.postgres_seconds:.2f} s")
    row("processor ms, the vendor (apart)", lambda c: 1000 * c.vendor_seconds, 2, "")
    row("transactions, application", lambda c: c.transactions, 2, f"{start.transactions:,}")
    row("transactions, Dagster", lambda c: c.dagster_transactions, 2, f"{start.dagster_transactions:,}")
    row("WAL bytes", lambda c: c.wal_bytes, 0, f"{start.wal_bytes:,}")
    row("full pages in it", lambda c: c.wal_full_pages, 2, f"{start.wal_full_pages:,}")
    row("ms", lambda c: 1000 * c.seconds, 1, f"{start.seconds:.1f} s")
    console.print(table)
    console.print(
        f"requests a visit {figures['requests_a_visit']}, connections {figures['connections_a_visit']}; {description()}",
        style="dim",
    )
