"""Whether a run lives is told by what it says of itself; what cannot be known is taken for alive."""

from __future__ import annotations

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.definitions import defs
from bg_pipelines.orchestration.launcher import WatchedRunLauncher
from bg_pipelines.orchestration.run_health import DEAD_AFTER_SECONDS, RunHealth
from bg_pipelines_tests.support import query

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def dagster_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    job = defs.resolve_job_def("store_sync")
    return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)


def be_silent(database: Database, run: dg.DagsterRun, seconds: int) -> None:
    query(
        database,
        "INSERT INTO job_runs (run_id, job, queue, seen_at) VALUES (%s, 'store_sync', 'stores_sync', "
        "now() - %s * interval '1 second') ON CONFLICT (run_id) DO UPDATE SET seen_at = excluded.seen_at",
        run.run_id,
        seconds,
    )


def test_a_run_that_has_been_silent_too_long_is_found_dead(
    database: Database, instance: dg.DagsterInstance, dagster_run: dg.DagsterRun
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)

    def status() -> str:
        return launcher.check_run_worker_health(dagster_run).status.value

    assert status() == "RUNNING", "it has only just begun"
    be_silent(database, dagster_run, 0)
    assert status() == "RUNNING"
    be_silent(database, dagster_run, DEAD_AFTER_SECONDS + 5)
    health = launcher.check_run_worker_health(dagster_run)
    assert health.status.value == "FAILED"
    assert str(health.msg).startswith("no heartbeat of the run's process for 15")


def test_while_the_database_is_away_no_run_is_dead_and_afterwards_each_has_the_full_time_again(
    database: Database,
    instance: dg.DagsterInstance,
    dagster_run: dg.DagsterRun,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
) -> None:
    now = [1000.0]
    health = RunHealth(monotonic=lambda: now[0])

    def status() -> str:
        return health.check(instance, dagster_run).status.value

    be_silent(database, dagster_run, DEAD_AFTER_SECONDS + 5)
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert status() == "RUNNING"
    health.close()
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    now[0] += DEAD_AFTER_SECONDS
    assert status() == "RUNNING"
    now[0] += 1
    assert status() == "FAILED"
    health.close()
