"""The jobs as Dagster runs them: from Python, and as a process of its own that can be stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.definitions import defs
from bg_pipelines.queues import JOBS
from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines_tests.conftest import KEY, assert_equal_to_source
from bg_pipelines_tests.test_sync import expire_leases, query

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a process that works on this test's database."""
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)


def execute(job: str, **config: Any) -> dg.ExecuteInProcessResult:
    definition = defs.resolve_job_def(job)
    [op] = definition.graph.node_dict
    loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
    return definition.execute_in_process(
        run_config={"ops": {op: {"config": config}}, "loggers": loggers}, raise_on_error=False
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [e for e in result.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    return {key: value.value for key, value in event.step_output_data.metadata.items()}


@pytest.mark.usefixtures("environment")
def test_every_job_has_the_tags_of_its_queue() -> None:
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert set(jobs) == set(JOBS)
    for name, job in jobs.items():
        assert job.tags["queue"] == JOBS[name].name
        assert job.tags["dagster/priority"] == str(JOBS[name].priority)


@pytest.mark.usefixtures("environment")
def test_with_no_config_the_jobs_do_all_that_is_due(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    sandbox = make_sandbox(shops=3, variants=60)
    add_shops(sandbox)
    for job in JOBS:
        result = execute(job)
        assert result.success
        assert metadata(result)["stores"] == 3
    assert_equal_to_source(database, sandbox)
    assert metadata(execute("store_sync"))["stores"] == 0


@pytest.mark.usefixtures("environment")
def test_a_failed_store_does_not_fail_the_run_and_stands_in_its_metadata(
    make_sandbox: MakeSandbox, add_shops: AddShops
) -> None:
    sandbox = make_sandbox(shops=3, variants=30)
    names = add_shops(sandbox)
    next(iter(sandbox.world.shops.values())).faults.append(Fault("unauthorized"))
    result = execute("store_sync")
    assert result.success
    shown = metadata(result)
    assert (shown["stores"], shown["stores_failed"]) == (3, 1)
    failed = [record.data for record in shown["failed"].records]
    assert {record["store"] for record in failed} == {names[0]}
    assert {record["error_type"] for record in failed} == {"credentials"}
    materialized = {
        e.materialization.asset_key.to_user_string() for e in result.all_events if e.is_step_materialization
    }
    assert materialized == {"stores", "locations", "products", "product_variants"}
    assert all(shop.token not in str(result.all_events) for shop in sandbox.world.shops.values())


def test_the_run_fails_when_the_job_itself_cannot_work(
    environment: None, add_shops: AddShops, make_sandbox: MakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_shops(make_sandbox(shops=1, variants=1))
    assert not execute("store_sync", stores=["harbour-nowhere"]).success
    monkeypatch.setenv("BG_ENCRYPTION_KEY", "1" * 43 + "=")
    result = execute("store_sync")
    assert not result.success
    [failure] = [e for e in result.all_events if e.is_step_failure]
    assert "BG_ENCRYPTION_KEY is not the key this was encrypted with" in str(failure.step_failure_data.error)
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/nothing")
    result = execute("store_sync")
    assert not result.success
    assert "hunter2" not in str(result.all_events)


def test_impossible_config_is_refused_before_anything_runs() -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="max_wrkers"):
        execute("store_sync", max_wrkers=1)


# As a process


@contextmanager
def job_process(job: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "bg_pipelines.definitions", "-j", job]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def rows_held(database: Database) -> int:
    return int(query(database, "SELECT count(*) AS n FROM inventory_levels")[0]["n"])


@pytest.mark.usefixtures("environment")
def test_a_run_killed_in_the_middle_of_a_page_and_run_again_ends_with_exactly_the_source_s_rows(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=4000)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    shop.edit("set_budget", maximum=100_000, restore=10_000)
    total = sum(level["isActive"] for level in shop.export()["inventory_levels"])
    kills = 0
    for at_least in (1, 5_001):
        with job_process("inventory_sync") as process:
            # A commit holds 5,000 rows, so right behind one the next pages are on their way.
            wait_for(lambda least=at_least: rows_held(database) >= least or process.poll() is not None)
            kills += process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        assert rows_held(database) < total, "it was done before it was killed: this test shows nothing"
        # A killed worker's rows come back when its lease ends; here it ends now.
        expire_leases(database)
    assert kills == 2
    assert execute("inventory_sync").success
    assert execute("store_sync").success
    assert_equal_to_source(database, sandbox)
    statuses = {row["status"] for row in query(database, "SELECT status FROM sync_attempts")}
    assert statuses == {"abandoned", "succeeded"}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_gives_its_stores_back_at_once(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database, stop: signal.Signals
) -> None:
    sandbox = make_sandbox(shops=2, variants=60)
    add_shops(sandbox)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("slow", seconds=20))
    with job_process("store_sync") as process:
        wait_for(lambda: len(query(database, "SELECT 1 FROM sync_attempts")) == 2)
        process.send_signal(stop)
        began = time.monotonic()
        process.wait(timeout=15)
        assert time.monotonic() - began < 15
    assert query(database, "SELECT 1 FROM sync_states WHERE lease_owner IS NOT NULL") == []
    assert {row["status"] for row in query(database, "SELECT status FROM sync_attempts")} == {"released"}
    for shop in sandbox.world.shops.values():
        shop.faults.clear()
    assert execute("store_sync").success
    assert execute("inventory_sync").success
    assert_equal_to_source(database, sandbox)
