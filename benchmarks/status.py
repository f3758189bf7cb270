"""`bg-pipelines status` and `metrics` with 10,000 stores and a million attempts: who looks at night does not wait.

    query      the figures alone, in a process that is warm
    command    the whole command, its start included; `start` is what `bg-pipelines --help` takes

1 % of the stores fail, and a hundredth of these are parked under an incident; the attempts are those of a day.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.machine import description, own_postgres, spread
from benchmarks.harness.store import KEY
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.metrics import read_metrics
from bg_pipelines.operations.prometheus import prometheus_text
from bg_pipelines.operations.status import read_status
from bg_pipelines.queues import Unit
from bg_pipelines.work import rollups

STORES, ATTEMPTS = 10_000, 1_000_000
SMALL = 50
"""So many times less, with --small."""
ROUNDS = 7

_MAKE = (
    "INSERT INTO stores (name, platform, domain, credentials, tier) SELECT 'shop-' || n, 'shopify', 'shop-' || n, '', 1 + n %% 3 "
    "FROM generate_series(1, %(stores)s) n",
    "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, store_id, job, "
    "resources) SELECT 'i' || id, true, 'scopes', 'high', 'shopify', 'store ' || name, 'grant the scope', id, 'store_sync', "
    "'{products}' FROM stores WHERE id %% 10000 = 100",
    "INSERT INTO sync_states (store_id, resource, next_due_at, last_succeeded_at, attempts, last_error, incident_id) "
    "SELECT s.id, unit, CASE WHEN i.id IS NULL THEN now() + random() * interval '5 minutes' END, "
    "now() - random() * interval '5 minutes', CASE WHEN s.id %% 100 = 0 THEN 2 ELSE 0 END, CASE WHEN s.id %% 100 = 0 THEN "
    "jsonb_build_object('error_type', 'timeout', 'severity', 'medium', 'recoverable', true, 'message', 'no answer') END, i.id "
    "FROM stores s LEFT JOIN incidents i ON i.store_id = s.id, unnest(%(units)s::text[]) unit",
    "INSERT INTO job_runs (run_id, job, queue, status, started_at, seen_at, finished_at, peak_rss_mb) SELECT 'run-' || n, "
    "(ARRAY['store_sync', 'inventory_sync', 'customer_sync'])[1 + n %% 3], 'stores_sync', 'succeeded', t, t, t + interval '1 minute', "
    "120 FROM generate_series(1, 864) n, LATERAL (SELECT now() - n * interval '100 s') at(t)",
    "INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at, finished_at, pages, rows_read, updated) "
    "SELECT 'run-' || 1 + n %% 864, 1 + n %% %(stores)s, (%(units)s::text[])[1 + n %% 9], "
    "CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'succeeded' END, t, t + random() * interval '4 s', 1, 3, 1 "
    "FROM generate_series(1, %(attempts)s) n, LATERAL (SELECT now() - random() * interval '1 day') at(t)",
)


def run(console: Console, *, small: bool) -> dict[str, Any]:
    stores, attempts = (STORES // SMALL, ATTEMPTS // SMALL) if small else (STORES, ATTEMPTS)
    with own_postgres() as url:
        database = Database(url)
        with console.status(f"making {stores:,} stores and {attempts:,} attempts"):
            make_stores(database, stores, attempts)
        environment = {**os.environ, "BG_DATABASE_URL": url, "BG_ENCRYPTION_KEY": KEY}

        def command(*words: str) -> Callable[[], int]:
            def call() -> int:
                done = subprocess.run(
                    [sys.executable, "-m", "bg_pipelines.cli", *words],
                    env=environment,
                    stdout=subprocess.PIPE,
                    check=True,
                )
                return len(done.stdout)

            return call

        calls: dict[str, Callable[[], int]] = {
            "status: query": lambda: read_status(database, most_stores=5) and 0,
            "metrics: query and text": lambda: len(
                prometheus_text(read_metrics(database, most_stores=5), stores=False)
            ),
            "status": command("status"),
            "status --json": command("status", "--json"),
            "metrics --no-per-store": command("metrics", "--no-per-store"),
            "start": command("--help"),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        sizes = {}
        with console.status("asking"):
            for name, call in calls.items():
                call()
                for _ in range(3 if small else ROUNDS):
                    began = time.perf_counter()
                    sizes[name] = call()
                    times[name].append(1000 * (time.perf_counter() - began))
        database.close()
    _show(console, stores, attempts, times, sizes)
    medians = {name: spread(values, 1)["median"] for name, values in times.items()}
    return {
        "status_query_ms": medians["status: query"],
        "metrics_query_ms": medians["metrics: query and text"],
        "status_ms": medians["status"],
        "metrics_ms": medians["metrics --no-per-store"],
        "start_ms": medians["start"],
        "status_json_bytes": sizes["status --json"],
        "stores": stores,
        "attempts": attempts,
        "machine": description(),
    }


def make_stores(database: Database, stores: int, attempts: int) -> None:
    """So many stores, with so many attempts of the last day."""
    parameters = {"stores": stores, "attempts": attempts, "units": [unit.value for unit in Unit]}
    with database.transaction() as connection:
        for statement in _MAKE:
            connection.execute(statement, parameters)
    rollups.roll_up(database)  # as runs do at their end
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _show(
    console: Console,
    stores: int,
    attempts: int,
    times: dict[str, list[float]],
    sizes: dict[str, int],
) -> None:
    table = Table(title=f"{stores:,} stores, {attempts:,} attempts")
    for name in ("", "min ms", "median ms", "max ms", "bytes"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in times.items():
        table.add_row(name, *(f"{value:,.0f}" for value in spread(values).values()), f"{sizes[name]:,}")
    console.print(table)
