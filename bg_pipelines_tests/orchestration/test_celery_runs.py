"""Runs in a warm worker are stopped like any other: by a worker that is told to end, and by a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.orchestration.celery_runs import _place
from bg_pipelines.queues import JOBS
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines_tests.jobs.test_jobs import rows_held
from bg_pipelines_tests.orchestration.daemons import STORE_JOBS, Broker, Daemon, Worker
from bg_pipelines_tests.orchestration.test_crashes import large_shop, run_at_work
from bg_pipelines_tests.support import PATIENCE, query, wait_for


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def worker(home: Path, broker: Broker, environment: None) -> Iterator[Worker]:
    worker = Worker("worker", home)
    yield worker
    worker.kill()
    print(worker.log.read_text()[-8000:])


@pytest.fixture
def daemon(home: Path, broker: Broker, environment: None) -> Iterator[Daemon]:
    daemon = Daemon(home, STORE_JOBS, broker)
    yield daemon
    daemon.kill()


def test_a_run_has_the_place_in_the_broker_that_it_has_in_the_daemons_queue() -> None:
    def place(job: str, tier: int | None = None) -> tuple[str, str]:
        tags = _place(dg.DagsterRun(job_name=job, run_id="r", tags=JOBS[job].tags(job, tier)))
        return tags["dagster-celery/queue"], tags["dagster-celery/run_priority"]

    # There the lowest number goes first.
    assert [place("store_sync", tier) for tier in (1, 2, 3, None)] == [("stores_sync", n) for n in "0363"]
    assert [place("customer_sync", tier) for tier in (1, 2, 3)] == [("default", n) for n in "036"]
    assert place("clean_database") == ("default", "3")
    by_button = _place(dg.DagsterRun(job_name="__ASSET_JOB", run_id="r", tags={}))
    assert by_button["dagster-celery/queue"] == "default"


@pytest.mark.timeout(400)
def test_a_worker_that_ends_and_a_person_who_stops_a_run_leave_nothing_claimed(
    make_sandbox: Callable[..., Sandbox],
    database: Database,
    home: Path,
    broker: Broker,
    worker: Worker,
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = large_shop(make_sandbox, database)
    [shop] = sandbox.world.shops.values()
    worker.start(broker, 2)
    daemon.start()
    monkeypatch.setenv("BG_BROKER_URL", broker.url)

    def claims() -> int:
        [row] = query(database, "SELECT count(*) AS n FROM sync_states WHERE lease_owner IS NOT NULL")
        return int(row["n"])

    with dg.DagsterInstance.from_config(str(home)) as instance:
        wait_for(lambda: rows_held(database) >= 1)
        first = run_at_work(instance, database)
        assert worker.process is not None
        worker.process.terminate()
        assert worker.process.wait(PATIENCE) == 0, "it waits for no run of a quarter of an hour"
        ended = instance.get_run_by_id(first.run_id)
        assert ended is not None
        assert ended.status is dg.DagsterRunStatus.FAILURE
        assert claims() == 0

        # Another worker: the run that follows goes on from where that one was.
        shop.faults.append(Fault("slow", seconds=30, operation="LocationInventoryLevels", times=1))
        held = rows_held(database)
        worker.log.unlink()
        worker.start(broker, 2)
        wait_for(lambda: any(run.parent_run_id == first.run_id for run in instance.get_runs()))
        wait_for(lambda: claims() > 0)
        [second] = [run for run in instance.get_runs() if run.parent_run_id == first.run_id]
        wait_for(lambda: run_at_work(instance, database).run_id == second.run_id)
        assert rows_held(database) >= held
        assert instance.run_launcher.terminate(second.run_id)
        wait_for(lambda: instance.get_run_by_id(second.run_id).is_finished)  # type: ignore[union-attr]
        stopped = instance.get_run_by_id(second.run_id)
        assert stopped is not None
        assert stopped.status is dg.DagsterRunStatus.CANCELED
        assert not instance.run_launcher.terminate(second.run_id), "there is nothing left to stop"
