"""The jobs as Dagster runs them: from Python, and as a process of its own that can be stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.definitions import defs
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.orchestration import resources
from bg_pipelines.orchestration import sync_job as sync_jobs
from bg_pipelines.orchestration.failures import (
    DATABASE_RETRIES,
    FAILURE_REASON_TAG,
    WILL_RETRY_TAG,
    report_dead_run,
    run_failures,
)
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import IsOver, Then, sync_job
from bg_pipelines.people import matching as people
from bg_pipelines.queues import JOB_UNITS, JOBS
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.settings import load_settings
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.support import (
    PATIENCE,
    PROJECT,
    assert_equal_to_source,
    expire_leases,
    query,
    wait_for,
)

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]


@pytest.mark.usefixtures("environment")
def test_every_job_has_the_tags_of_its_queue() -> None:
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert set(jobs) == set(JOBS)
    for name, job in jobs.items():
        assert job.tags["queue"] == JOBS[name].queue.name
        assert set(job.tags) - {"queue", "concurrency_group"} == {
            "dagster/priority",
            "dagster/retry_strategy",
        }, "few: what the list of runs shows is for people"
        assert job.tags["dagster/priority"] == str(JOBS[name].queue.priority)


@pytest.mark.usefixtures("environment")
def test_with_no_config_the_jobs_do_all_that_is_due(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_PUBLIC_URL", "https://hooks.example.com")
    sandbox = make_sandbox(shops=3, variants=60)
    add_shops(sandbox)
    for job in JOB_UNITS:
        result = execute(job)
        assert result.success
        assert metadata(result)["stores"] == 3
    assert_equal_to_source(database, sandbox)
    assert metadata(execute("store_sync"))["stores"] == 0


@pytest.mark.usefixtures("environment")
def test_webhooks_are_subscribed_to_and_without_a_public_url_that_is_said_and_no_failure(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make_sandbox(shops=1, variants=1)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    result = execute("create_shopify_webhook")
    assert result.success
    assert metadata(result)["idle"].startswith("BG_PUBLIC_URL is not set")
    assert sandbox.world.requests() == []
    monkeypatch.setenv("BG_PUBLIC_URL", "https://hooks.example.com/")
    assert metadata(execute("create_shopify_webhook"))["stores"] == 0, (
        "it was done; due again at the next hour"
    )
    shown = metadata(execute("create_shopify_webhook", stores=[shop.domain.split(".")[0]]))
    assert (shown["stores"], shown["stores_failed"]) == (1, 0)
    assert shown["rows_changed"] == len(shop.subscriptions.table) > 20
    assert {row["uri"] for row in shop.subscriptions.table} == {"https://hooks.example.com/webhooks/shopify"}
    assert query(database, "SELECT * FROM incidents") == []


@pytest.mark.usefixtures("environment")
def test_a_failed_store_does_not_fail_the_run_and_stands_in_its_metadata(
    make_sandbox: MakeSandbox, add_shops: AddShops, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make_sandbox(shops=3, variants=30)
    names = add_shops(sandbox)
    monkeypatch.setenv("BG_BOARD_URL", "https://board.example.com")
    next(iter(sandbox.world.shops.values())).faults.append(Fault("unauthorized"))
    result = execute("store_sync")
    assert result.success
    shown = metadata(result)
    assert (shown["stores"], shown["stores_failed"]) == (3, 1)
    assert shown["board"] == f"https://board.example.com/store?name={names[0]}"
    failed = [record.data for record in shown["failed"].records]
    assert {record["store"] for record in failed} == {names[0]}
    assert {record["error_type"] for record in failed} == {"credentials"}
    materialized = {
        e.materialization.asset_key.to_user_string() for e in result.all_events if e.is_step_materialization
    }
    assert materialized == {"stores", "locations", "products", "product_variants"}
    assert all(shop.token not in str(result.all_events) for shop in sandbox.world.shops.values())


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """What a failed run shows: its sentence and the facts beside it."""
    assert not result.success
    [event] = [e for e in result.all_events if e.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert told is not None
    return told.description or "", {key: value.value for key, value in told.metadata.items()}


def test_the_run_fails_with_one_sentence_when_the_job_itself_cannot_work(
    environment: None, add_shops: AddShops, make_sandbox: MakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_shops(make_sandbox(shops=1, variants=1))
    result = execute("store_sync", stores=["harbour-nowhere"])
    sentence, facts = failure(result)
    assert sentence == (
        "config `stores`: harbour-nowhere: no such store. Nothing was done: correct it and launch again"
    )
    assert (facts["error_type"], facts["severity"], facts["recoverable"]) == ("configuration", "high", False)
    [event] = [e for e in result.all_events if e.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    assert error.cause is None, "the cause's traceback would bury the sentence"
    assert len(error.to_string().splitlines()) < 35, error.to_string()
    monkeypatch.setenv("BG_ENCRYPTION_KEY", "1" * 43 + "=")
    sentence, _ = failure(execute("store_sync"))
    assert sentence.startswith("BG_ENCRYPTION_KEY is not the key that the stores' credentials")


@pytest.mark.usefixtures("environment")
def test_a_bug_fails_the_run_where_it_is_without_quoting_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: Any) -> None:
        raise RuntimeError("jane@example.com")

    monkeypatch.setattr(sync_jobs.SyncRun, "run", surprise)
    result = execute("store_sync")
    sentence, facts = failure(result)
    assert sentence.startswith("unexpected RuntimeError at test_jobs.py:")
    assert facts["error_type"] == "unknown"
    assert "jane" not in str(result.all_events)


@pytest.mark.usefixtures("environment")
def test_only_stores_of_the_given_tiers_are_synced(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    sandbox = make_sandbox(shops=6, variants=60)
    add_shops(sandbox)
    tiers = [shop.tier for shop in sandbox.world.shops.values()]
    assert metadata(execute("store_sync", tiers=[1, 3]))["stores"] == len(tiers) - tiers.count(2)
    done = query(
        database, "SELECT DISTINCT tier FROM stores JOIN sync_attempts ON store_id = stores.id ORDER BY 1"
    )
    assert [row["tier"] for row in done] == sorted(set(tiers) - {2})
    sentence, _ = failure(execute("store_sync", tiers=[1, 4]))
    assert sentence.startswith("config `tiers`: 4: there are 1, 2, 3. Nothing was done")


def test_a_backfill_of_an_unknown_kind_is_refused_before_anything_runs(environment: None) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="bulky"):
        execute("customer_sync", backfill="bulky")


def sync_without_delay(**options: Any) -> dg.ExecuteInProcessResult:
    """Run store_sync; while the database is away it is retried at once."""
    job, _, _ = sync_job("store_sync", op="sync_stores", description="", database_delay_seconds=0)
    return job.execute_in_process(
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        resources={"database": DatabaseResource(), "platforms": PlatformsResource()},
        raise_on_error=False,
        **options,
    )


def test_a_database_that_is_away_is_waited_for_in_the_op(
    environment: None, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/nothing")
    opened = []

    def open_later(settings: Any, **options: Any) -> Database:
        opened.append(1)
        if len(opened) == 3:
            monkeypatch.setenv("BG_DATABASE_URL", database_url)
        return open_database(load_settings(), **options)

    monkeypatch.setattr(resources, "open_database", open_later)
    result = sync_without_delay()
    assert result.success
    assert len(opened) == 3
    assert len([e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY]) == 2
    assert "hunter2" not in str(result.all_events)


@pytest.mark.usefixtures("environment")
def test_op_retries_and_run_retries_never_multiply(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def away(settings: Any, **options: Any) -> Database:
        opened.append(1)
        raise IntegrationError.of(ErrorType.DATABASE, "PostgreSQL is not available: gone", source="database")

    monkeypatch.setattr(resources, "open_database", away)
    assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
    result = sync_without_delay(instance=instance)
    sentence, facts = failure(result)
    assert (sentence, facts["error_type"]) == ("PostgreSQL is not available: gone", "database")
    assert len(opened) == 1 + DATABASE_RETRIES
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    # What the daemon goes by; without it there would be twelve tries.
    assert run.tags[FAILURE_REASON_TAG] == "STEP_FAILURE"
    assert run.tags[WILL_RETRY_TAG] == "false"

    opened.clear()
    monkeypatch.setattr(resources, "open_database", open_database)
    result = execute("store_sync", instance=instance, stores=["nowhere"])
    assert not result.success
    assert not [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY]


@pytest.mark.usefixtures("environment")
def test_a_failed_run_is_reported_once_and_cleared_by_one_that_works(
    database: Database, instance: dg.DagsterInstance
) -> None:
    result = execute("store_sync", instance=instance, tier="2", stores=["nowhere"])
    assert not result.success
    assert [e.event_type_value for e in result.all_events if e.is_hook_event] == ["HOOK_COMPLETED"]
    incidents = "SELECT error_type, status, message, occurrences FROM incidents WHERE job = 'store_sync'"
    expected = {
        "error_type": "configuration",
        "status": "open",
        "message": "config `stores`: nowhere: no such store. Nothing was done: correct it and launch again",
        "occurrences": 1,
    }
    assert query(database, incidents) == [expected]
    # The sensor sees the same run, and has nothing to add.
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    report_dead_run(instance, run, next(e for e in result.all_events if e.is_run_failure))
    assert query(database, incidents) == [expected]
    assert not execute("store_sync", instance=instance, tier="2", stores=["nowhere"]).success
    assert query(database, incidents) == [{**expected, "occurrences": 2}]
    assert execute("inventory_sync", instance=instance).success
    assert query(database, incidents) == [{**expected, "occurrences": 2}]
    assert execute("store_sync", instance=instance).success
    assert query(database, incidents) == [{**expected, "occurrences": 2, "status": "resolved"}]


TYPOS: list[tuple[str, dict[str, Any], str]] = [
    ("store_sync", {"stores": ["harbor-tools-1"]}, "no such store; did you mean 'harbor-tools-01'?"),
    ("store_sync", {"tiers": [4]}, "config `tiers`: 4: there are 1, 2, 3"),
    ("store_sync", {"max_workers": 999}, "`max_workers`: 999: input should be less than or equal to 64"),
    ("drift_audit", {"sample": 0}, "config `sample`: 0: input should be greater than or equal to 1"),
    ("clean_database", {"tasks": ["audit"]}, "has no task 'audit'; did you mean 'audits'?"),
]


@pytest.mark.usefixtures("environment")
def test_a_typo_in_a_run_s_config_is_told_to_the_hand_that_typed_it_and_pages_nobody(
    database: Database, instance: dg.DagsterInstance, make_sandbox: MakeSandbox, add_shops: AddShops
) -> None:
    add_shops(make_sandbox(shops=1, variants=1))
    for job, config, told in TYPOS:
        result = execute(job, instance=instance, **config)
        sentence, _ = failure(result)
        assert told in sentence
        assert "Nothing was done: correct it and launch again" in sentence
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        report_dead_run(instance, run, next(e for e in result.all_events if e.is_run_failure))
    assert query(database, "SELECT * FROM incidents") == []
    assert query(database, "SELECT * FROM alerts") == []


@pytest.mark.usefixtures("environment")
def test_a_run_that_died_is_reported_with_dagsters_reason(
    database: Database, instance: dg.DagsterInstance
) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("store_sync"))
    instance.report_engine_event(
        f"Run execution process for {run.run_id} was terminated by signal 9 (SIGKILL).", run
    )
    event = instance.report_run_failed(run)
    for _ in range(2):
        report_dead_run(instance, run, event)
    assert query(database, "SELECT error_type, message, occurrences FROM incidents") == [
        {
            "error_type": "run_died",
            "message": f"run {run.run_id} of store_sync died: Run execution process for {run.run_id} was terminated "
            "by signal 9 (SIGKILL).",
            "occurrences": 1,
        }
    ]
    # One that was stopped and starts again by itself is nothing to wake anybody for.
    run = instance.create_run_for_job(
        defs.resolve_job_def("inventory_sync"),
        tags={FAILURE_REASON_TAG: "UNEXPECTED_TERMINATION", WILL_RETRY_TAG: "true"},
    )
    report_dead_run(instance, run, event)
    assert len(query(database, "SELECT 1 FROM incidents")) == 1


@pytest.mark.usefixtures("environment")
def test_a_failed_run_whose_history_cannot_be_read_is_reported_all_the_same_and_once(
    database: Database, instance: dg.DagsterInstance, dagster_url: str
) -> None:
    told = instance.get_run_by_id(execute("store_sync", instance=instance, stores=["nowhere"]).run_id)
    died = instance.create_run_for_job(defs.resolve_job_def("inventory_sync"))
    foreign = died._replace(job_name="somebody_elses")
    event = instance.report_run_failed(died)
    with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP TABLE event_logs")
    assert told is not None
    for run in (told, died, died, foreign):
        run_failures(
            dg.build_run_status_sensor_context("run_failures", event, instance, run, None).for_run_failure()
        )
    own, unread = query(database, "SELECT job, message, occurrences FROM incidents ORDER BY id")
    assert (own["job"], own["occurrences"]) == ("store_sync", 1), "its own hook has told of it"
    assert (unread["job"], unread["occurrences"]) == ("inventory_sync", 1)
    assert unread["message"].startswith(
        f"run {died.run_id} of inventory_sync failed, and why cannot be read: unexpected "
    )


@pytest.mark.usefixtures("environment")
def test_while_customers_are_matched_to_people_the_run_is_at_work(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    add_shops(make_sandbox(shops=1, variants=10))
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    states: list[Any] = []

    def hold() -> None:
        with database.transaction() as connection:
            people.lock(connection)
            held.set()
            wait_for(lambda: query(database, waits) != [], PATIENCE)
            states.extend(query(database, "SELECT status FROM job_runs"))

    held = threading.Event()
    with ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        held.wait(PATIENCE)
        assert execute("customer_sync").success
        holding.result(PATIENCE)
    assert states == [{"status": "running"}]
    assert query(database, "SELECT status FROM job_runs") == [{"status": "succeeded"}]


@pytest.fixture
def run_then(environment: None, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Run customer_sync with something else to do when its stores are done."""

    def run(then: Then, **config: Any) -> dg.ExecuteInProcessResult:
        job, _, _ = sync_job("customer_sync", op="sync_customers", description="", then=then, then_seconds=0)
        return job.execute_in_process(
            run_config={"ops": {"sync_customers": {"config": config}}},
            resources={"database": DatabaseResource(), "platforms": PlatformsResource()},
            raise_on_error=False,
            instance=instance,
        )

    return run


@pytest.mark.parametrize(("max_minutes", "over"), [(0.0001, True), (15, False)])
def test_what_a_job_does_when_its_stores_are_done_lies_within_the_run_s_time(
    run_then: Callable[..., dg.ExecuteInProcessResult], database: Database, max_minutes: float, over: bool
) -> None:
    seen: list[Any] = []

    def look(context: dg.OpExecutionContext, database: Database, is_over: IsOver) -> None:
        [row] = query(database, "SELECT status, finished_at FROM job_runs")
        seen.append((is_over(), row["status"], row["finished_at"]))

    assert run_then(look, max_minutes=max_minutes).success
    assert seen == [(over, "running", None)]
    [row] = query(database, "SELECT status, finished_at FROM job_runs")
    assert row["status"] == "succeeded"
    assert row["finished_at"] is not None


def test_a_job_whose_last_op_fails_has_not_worked_and_its_incident_stays(
    run_then: Callable[..., dg.ExecuteInProcessResult], database: Database
) -> None:
    def fail(context: dg.OpExecutionContext, database: Database, is_over: IsOver) -> None:
        raise ValueError("jane@example.com")

    incidents = "SELECT message, status, occurrences, notified FROM incidents"
    for times in (1, 2):
        sentence, _ = failure(run_then(fail))
        assert sentence.startswith("unexpected ValueError at test_jobs.py:")
        [incident] = query(database, incidents)
        assert (incident["status"], incident["occurrences"]) == ("open", times)
    assert query(database, "SELECT DISTINCT status FROM job_runs") == [{"status": "failed"}]
    assert execute("customer_sync").success
    assert query(database, incidents)[0]["status"] == "resolved"


def test_each_job_takes_what_it_uses_and_nothing_else() -> None:
    fields = {
        job.name: set(next(iter(job.graph.node_dict.values())).definition.config_schema.config_type.fields)
        for job in defs.resolve_all_job_defs()
        if job.name in JOBS
    }
    common = {"stores", "tiers", "force", "batch_size", "max_workers", "max_minutes"}
    cleaning = {"tasks", "only_due", "dry_run", "max_minutes", "batch_milliseconds"}
    assert fields == {
        "store_sync": {*common, "backfill"},
        "inventory_sync": {*common, "backfill"},
        "customer_sync": {*common, "backfill"},
        "drift_audit": {*common, "sample"},
        "create_shopify_webhook": common,
        "handle_webhooks": {"max_workers", "max_minutes", "warm_seconds"},
        "share_product_text_message": {"batch_size", "max_workers", "max_minutes", "warm_seconds"},
        "clean_active_carts": cleaning,
        "clean_database": cleaning,
    }


def test_impossible_config_is_refused_before_anything_runs() -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="max_wrkers"):
        execute("store_sync", max_wrkers=1)


# As a process


@contextmanager
def job_process(job: str, program: Path = PROJECT) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, of the program that lies there."""
    environment = {**os.environ, "PYTHONPATH": str(program)}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "bg_pipelines.definitions", "-j", job]
    process = subprocess.Popen(
        command,
        cwd=program,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pause_after_a_commit(shop: Shop, seconds: float = 10) -> None:
    """Make the run that now comes wait between its first commit of stock, of 20 pages, and its next: time to kill it."""
    operation = "LocationInventoryLevels"
    shop.faults.append(Fault("slow", seconds=seconds, operation=operation, after=22, times=1))


def rows_held(database: Database) -> int:
    return int(query(database, "SELECT count(*) AS n FROM inventory_levels")[0]["n"])


@pytest.mark.usefixtures("environment")
def test_a_run_killed_in_the_middle_of_a_page_and_run_again_ends_with_exactly_the_source_s_rows(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=3000)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=100_000, restore=10_000)
    total = sum(level["isActive"] for level in shop.export()["inventory_levels"])
    kills = 0
    for at_least in (1, 5_001):
        pause_after_a_commit(shop)
        with job_process("inventory_sync") as process:
            # A commit holds 5,000 rows.
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
        shop.faults.append(Fault("slow", seconds=10 * PATIENCE))
    with job_process("store_sync") as process:
        wait_for(lambda: len(sandbox.world.requests()) == 2)
        process.send_signal(stop)
        process.wait(PATIENCE)
    assert query(database, "SELECT 1 FROM sync_states WHERE lease_owner IS NOT NULL") == []
    for shop in sandbox.world.shops.values():
        shop.faults.clear()
    assert execute("store_sync").success
    assert execute("inventory_sync").success
    assert_equal_to_source(database, sandbox)


@pytest.mark.usefixtures("environment")
def test_a_run_that_is_stopped_while_it_matches_people_ends_at_once_and_so_does_its_statement(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database
) -> None:
    add_shops(make_sandbox(shops=1, variants=10))
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with database.transaction() as connection:
        people.lock(connection)  # somebody else matches, and takes his time
        with job_process("customer_sync") as process:
            wait_for(lambda: query(database, waiting) != [])
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
        wait_for(lambda: query(database, waiting) == [])
    assert query(database, "SELECT status FROM job_runs") == [{"status": "stopped"}]
