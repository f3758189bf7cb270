"""Pruning Dagster's storage of old runs while its web UI is in use, and the size of the storage before and after.

One real run of `clean_active_carts` is copied, with its events, tags and asset events, as often as asked: most ended long ago
and go, the others stay. A dagster-webserver on the same storage answers what the UI asks for its list of runs, a run's log
and an asset's plot, one after the other without a pause between.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import psycopg
import requests
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine

RUNS = 20_000
SMALL = 400
STAY = 500
QUIET_SECONDS = 10.0
KEY = "0" * 43 + "="
PROJECT = Path(__file__).parent.parent

_COPY = """
    CREATE TEMPORARY TABLE made AS SELECT 'run-' || n AS run_id, now() at time zone 'UTC'
        - CASE WHEN n > %(old)s THEN interval '1 day' ELSE interval '20 days' + n * interval '1 minute' END AS at
        FROM generate_series(1, %(old)s + %(stay)s) n;
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, create_timestamp, update_timestamp, start_time,
        end_time) SELECT m.run_id, r.snapshot_id, r.pipeline_name, r.mode, r.status, replace(r.run_body, r.run_id, m.run_id), m.at,
        m.at, extract(epoch FROM m.at), extract(epoch FROM m.at) FROM runs r CROSS JOIN made m;
    INSERT INTO run_tags (run_id, key, value) SELECT m.run_id, t.key, t.value FROM run_tags t CROSS JOIN made m;
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
        SELECT m.run_id, replace(e.event, e.run_id, m.run_id), e.dagster_event_type, m.at, e.step_key, e.asset_key, e.partition
        FROM made m CROSS JOIN event_logs e ORDER BY m.at, m.run_id, e.id;
    VACUUM ANALYZE"""
_RUNS = """{ runsOrError(limit: 25) { ... on Runs { results { runId status jobName startTime endTime tags { key value } } } } }"""
_LOG = """query Log($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events { ... on MessageEvent
    { runId message timestamp } } } } }"""
_PLOT = """{ assetOrError(assetKey: {path: ["clean_active_carts"]}) { ... on Asset { assetMaterializations(limit: 100)
    { runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""


def run(console: Console, *, small: bool) -> dict[str, Any]:
    """Runs pruned a second, what the UI felt, and bytes of the storage."""
    # Dagster's parts are imported once its settings are there.
    number = SMALL if small else RUNS
    with machine.own_postgres() as url, TemporaryDirectory(prefix="bg-benchmark-") as home:
        storage = sa.make_url(url).set(database="dagster").render_as_string(hide_password=False)
        with _connect(url) as connection:
            connection.execute("CREATE DATABASE dagster")
        environment = {
            "BG_DATABASE_URL": url,
            "BG_DAGSTER_DATABASE_URL": storage,
            "BG_ENCRYPTION_KEY": KEY,
            "BG_HOME_DIR": home,
            "DAGSTER_HOME": home,
        }
        shutil.copy(PROJECT / "dagster.yaml", home)
        with _in_environment(environment), dg.DagsterInstance.from_config(home) as instance:
            with console.status(f"making {number + STAY:,} runs"):
                _make(instance, storage, number)
            with _web_server() as address:
                return _measure(console, instance, storage, address, number, 3.0 if small else QUIET_SECONDS)


@contextmanager
def _in_environment(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _make(instance: dg.DagsterInstance, storage: str, number: int) -> None:
    from bg_pipelines.definitions import defs

    result = defs.resolve_job_def("clean_active_carts").execute_in_process(
        instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    )
    assert result.success
    with _connect(storage) as connection:
        for statement in _COPY.split(";"):
            connection.execute(statement.replace("%(old)s", str(number)).replace("%(stay)s", str(STAY)))


def _measure(
    console: Console,
    instance: dg.DagsterInstance,
    storage: str,
    address: str,
    number: int,
    quiet_seconds: float,
) -> dict[str, Any]:
    from bg_pipelines.orchestration import run_history

    before = _bytes(storage)
    with _reader(address, number) as quiet:
        time.sleep(quiet_seconds)
    began = time.perf_counter()
    with console.status(f"pruning {number:,} runs"), _reader(address, number) as busy:
        pruned = run_history.prune(instance)
        seconds = time.perf_counter() - began
        run_history.vacuum(instance)
    after = _bytes(storage)
    with _connect(storage) as connection:  # what the rows that stay would take by themselves
        connection.execute("VACUUM (FULL)")
    in_use = _bytes(storage)
    if pruned.figures["dagster_runs.rows"] != number:
        raise RuntimeError(f"pruned {pruned.figures['dagster_runs.rows']} of {number} runs")
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        left = connection.execute(sa.text("SELECT count(*) FROM runs")).scalar_one()
    table = Table(
        box=None,
        header_style="bold",
        title=f"{number:,} old runs, {machine.description()}",
        title_justify="left",
    )
    for column in ("", "answers", "p50 ms", "p99 ms", "longest ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in (("UI, nothing pruned", quiet), ("UI, while pruning", busy)):
        table.add_row(
            name, str(len(times)), f"{_p(times, 50):.0f}", f"{_p(times, 99):.0f}", f"{max(times):.0f}"
        )
    console.print(table)
    console.print(
        f"{number:,} runs and {pruned.figures['dagster_events.rows']:,} events in {seconds:.1f} s, {left} runs stay; "
        f"storage {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after VACUUM, "
        f"of which {(after - in_use) / 1e6:.0f} MB are free for new runs"
    )
    return {
        "runs": number,
        "runs_per_second": round(number / seconds, 1),
        "events": pruned.figures["dagster_events.rows"],
        "ui_p50_ms": round(_p(busy, 50)),
        "ui_p99_ms": round(_p(busy, 99)),
        "ui_p99_ms_before": round(_p(quiet, 99)),
        "bytes_before": before,
        "bytes_after_vacuum": after,
        "bytes_in_use": in_use,
    }


def _p(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1]


@contextmanager
def _reader(address: str, number: int) -> Iterator[list[float]]:
    """Milliseconds that each answer of the UI's server took, while this is open."""
    times: list[float] = []
    ended = threading.Event()
    failures: list[Exception] = []
    questions = ((_RUNS, {}), (_LOG, {"run": f"run-{number + 1}"}), (_PLOT, {}))

    def read() -> None:
        with requests.Session() as session:
            for query, variables in itertools.cycle(questions):
                if ended.is_set():
                    return
                began = time.perf_counter()
                try:
                    answer = session.post(address, json={"query": query, "variables": variables}, timeout=60)
                    answer.raise_for_status()
                    if "errors" in answer.json():
                        raise RuntimeError(answer.text[:500])
                except Exception as error:  # noqa: BLE001 (raised below, in the thread that waits)
                    failures.append(error)
                    return
                times.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join(70)
    if failures:
        raise failures[0]


@contextmanager
def _web_server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dagster_webserver",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "--empty-workspace",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                with suppress(requests.RequestException):
                    requests.get(f"http://127.0.0.1:{port}/server_info", timeout=5)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("dagster-webserver did not start")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/graphql"
        finally:
            process.terminate()


def _bytes(storage: str) -> int:
    with _connect(storage) as connection:
        [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or ()
    return int(size)


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
