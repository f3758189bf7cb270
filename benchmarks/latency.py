"""From request to running: a run started by hand (GraphQL), by a sensor and by a schedule; with a process a run, and with
warm Celery workers.

Real web server, daemon, code server and PostgreSQL on this machine, with the real dagster.yaml. A run is running when its
`RUN_START` is stored. Of a sensor the request is the moment from which it would find something to do, of a schedule the full
minute: both include the daemon's own pace, which looks at sensors every five seconds.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import urllib3
from rich.console import Console
from rich.table import Table

from bg_pipelines.machine import code_server
from bg_pipelines.machine.processes import any_free_port, child, is_free
from bg_pipelines.machine.up import broker_command, broker_url

MODULE = "benchmarks.harness.latency_jobs"
PROJECT = Path(__file__).parent.parent
SLOTS = 3
WAIT_SECONDS = 90.0
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def run(console: Console, *, small: bool) -> dict[str, Any]:
    by_hand, others, minutes = (6, 2, 1) if small else (60, 15, 4)
    table = Table(
        "launcher", "started by", "runs", "p50 ms", "p90 ms", "most ms", title="from request to running"
    )
    figures: dict[str, Any] = {}
    for launcher in ("process", "warm"):
        with _stack(warm=launcher == "warm") as stack:
            stack.warm_up(3 * SLOTS if launcher == "warm" else 1)
            samples = {
                "GraphQL": [stack.by_hand() for _ in range(by_hand)],
                "sensor": [stack.by_sensor() for _ in range(others)],
                "schedule": stack.by_schedule(minutes),
            }
        for source, seconds in samples.items():
            p50, p90, most = (
                value * 1000 for value in (statistics.median(seconds), _p90(seconds), max(seconds))
            )
            table.add_row(launcher, source, str(len(seconds)), f"{p50:,.0f}", f"{p90:,.0f}", f"{most:,.0f}")
            name = launcher if source == "GraphQL" else f"{launcher}_{source}"
            figures |= {f"{name}_p50_ms": round(p50), f"{name}_p90_ms": round(p90)}
    console.print(table)
    return figures


def _p90(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.9)] if len(values) > 1 else values[0]


class _Stack:
    """Dagster as it runs in production, with a job that does nothing."""

    def __init__(self, instance: dg.DagsterInstance, port: int, asked: Path) -> None:
        self.instance = instance
        self._address = f"http://127.0.0.1:{port}/graphql"
        self._asked = asked
        self._http = urllib3.PoolManager(timeout=WAIT_SECONDS)
        self._rng = random.Random(7)

    def warm_up(self, runs: int) -> None:
        """Every process of the worker has done a run."""
        _wait(lambda: self._launch() is not None)
        for _ in range(runs):
            self.by_hand()

    def by_hand(self) -> float:
        # Not in step with the daemon, which looks once a second.
        time.sleep(self._rng.uniform(0, 1))
        began = time.time()
        run_id = self._launch()
        assert run_id is not None
        return self._started_at(run_id) - began

    def by_sensor(self) -> float:
        began = time.time()
        self._asked.write_text(str(began))
        filters = dg.RunsFilter(tags={"asked": str(began)})
        _wait(lambda: self.instance.get_runs_count(filters) > 0)
        [run] = self.instance.get_runs(filters)
        return self._started_at(run.run_id) - began

    def by_schedule(self, minutes: int) -> list[float]:
        began = time.time()
        found: list[float] = []
        while len(found) < minutes:
            minute = (began // 60 + 1 + len(found)) * 60
            time.sleep(max(minute - time.time(), 0))

            def runs(minute: float = minute) -> list[dg.RunRecord]:
                records = self.instance.get_run_records(
                    dg.RunsFilter(tags={"dagster/schedule_name": "every_minute"}), limit=3
                )
                return [record for record in records if record.create_timestamp.timestamp() >= minute]

            _wait(lambda runs=runs: bool(runs()))  # type: ignore[misc]
            found.append(self._started_at(runs()[-1].dagster_run.run_id) - minute)
        return found

    def _started_at(self, run_id: str) -> float:
        def is_over() -> bool:
            run = self.instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        _wait(is_over)
        record = self.instance.get_run_record_by_id(run_id)
        assert record is not None
        assert record.start_time is not None, f"run {run_id} is {record.dagster_run.status}"
        return record.start_time

    def _launch(self) -> str | None:
        selector = {
            "repositoryLocationName": MODULE,
            "repositoryName": "__repository__",
            "jobName": "latency",
        }
        params = {"selector": selector, "mode": "default", "runConfigData": {}}
        body = orjson.dumps({"query": _LAUNCH, "variables": {"params": params}})
        try:
            answer = self._http.request(
                "POST", self._address, body=body, headers={"Content-Type": "application/json"}, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return None
        told = orjson.loads(answer.data)["data"]["launchRun"]
        return told["run"]["runId"] if told["__typename"] == "LaunchRunSuccess" else None


@contextmanager
def _stack(*, warm: bool) -> Iterator[_Stack]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-latency-")))
        code, asked, port = folder / "code.sock", folder / "asked", any_free_port()
        shutil.copy(PROJECT / "dagster.yaml", folder)
        workspace = folder / "workspace.yaml"
        workspace.write_text(code_server.workspace(code, MODULE))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BG_")},
            "BG_HOME_DIR": str(folder / "home"),
            "DAGSTER_HOME": str(folder),
            "BENCH_ASKED": str(asked),
            "PYTHONPATH": str(PROJECT),
        }
        log = stack.enter_context((folder / "log").open("wb"))

        def start(*command: str) -> None:
            words = [sys.executable, "-m", *command] if not command[0].startswith("/") else list(command)
            stack.enter_context(child(words, env=environment, stdout=log, stderr=log, cwd=folder))

        kept = {name: os.environ.get(name) for name in environment}
        stack.callback(_restore, kept)
        os.environ |= environment
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(folder)))
        if warm:
            start(*broker_command(folder))
            environment["BG_BROKER_URL"] = broker_url(folder)
            start("bg_pipelines.cli", "worker", "--slots", str(SLOTS))
        start(code_server.__name__, str(code), MODULE)
        _wait(code.exists)
        start("dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace))
        start("bg_pipelines.cli", "daemon", "-w", str(workspace))
        _wait(lambda: not is_free(port))
        yield _Stack(instance, port, asked)


def _restore(kept: dict[str, str | None]) -> None:
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("Dagster did not come to it")
        time.sleep(0.05)
