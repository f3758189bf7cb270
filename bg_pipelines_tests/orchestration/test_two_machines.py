"""Workers on machines of their own (network namespaces): they share the work, and what happens to one is made good by
the other, within a stated time: nothing is lost, nothing is done twice.

`BG_TEST_FULL=1 pytest -s bg_pipelines_tests/orchestration/test_two_machines.py` runs all of it; the suite does not.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.jobs.test_jobs import pause_after_a_commit, rows_held
from bg_pipelines_tests.orchestration.daemons import STORE_JOBS, Broker, Daemon, Worker, make_home
from bg_pipelines_tests.orchestration.networks import (
    HERE,
    can_have_networks,
    cut,
    led_into,
    mend,
    networks,
    postgres,
)
from bg_pipelines_tests.orchestration.test_crashes import (
    assert_done_once,
    everything_is_synced,
    large_shop,
    run_at_work,
    run_pid,
)
from bg_pipelines_tests.support import KEY, PATIENCE, assert_equal_to_source, query, wait_for

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not can_have_networks(), reason="this system lets no process have a network of its own"
    ),
    pytest.mark.timeout(500),
]
NAMES = ("bgone", "bgtwo")
MINUTE = 60.0
"""Within it the work of a worker that was killed is done by the other: run monitoring looks every ten seconds."""


class Machines:
    """PostgreSQL, broker and daemon here, and a worker in each network."""

    def __init__(self, home: Path, database: Database, sandbox: Sandbox) -> None:
        self.database = database
        self.sandbox = sandbox
        self.broker = Broker(HERE, 6390)
        self.daemon = Daemon(home, STORE_JOBS, self.broker)
        self.workers = {name: Worker(name, home) for name in NAMES}

    def start(self, *names: str) -> None:
        self.broker.start()
        for name in names:
            self.workers[name].start(self.broker, 3, network=name)
        wait_for(lambda: all(self.workers[name].is_ready() for name in names))
        self.daemon.start()

    def kill(self) -> None:
        self.daemon.kill()
        self.broker.kill()
        for worker in self.workers.values():
            worker.kill()

    def who_has(self, pid: int) -> str:
        """The machine whose worker has this process."""
        for name, worker in self.workers.items():
            if pid in {process.pid for process in worker.members()}:
                return name
        raise AssertionError(f"process {pid} is of no worker")

    def at_work(self, instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, int, str]:
        """The run that has the stock in hand, its process and its machine, once it has committed a page."""
        wait_for(lambda: rows_held(self.database) >= 1)
        run = run_at_work(instance, self.database)
        pid = run_pid(instance, run.run_id)
        return run, pid, self.who_has(pid)

    def wait_until_synced(self, seconds: float) -> float:
        began = time.monotonic()
        wait_for(lambda: everything_is_synced(self.database), seconds)
        assert_equal_to_source(self.database, self.sandbox)
        return time.monotonic() - began


@pytest.fixture
def machines(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machines]:
    with ExitStack() as stack:
        stack.enter_context(networks(*NAMES))
        url = stack.enter_context(postgres())
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
            connection.execute("CREATE DATABASE dagster")
        monkeypatch.setenv("BG_DATABASE_URL", f"{url}/app")
        monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", f"{url}/dagster")
        monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
        database = Database(f"{url}/app")
        stack.callback(database.close)
        database.migrate()
        sandbox = large_shop(make_sandbox, database)
        home = make_home(tmp_path / "dagster", monkeypatch, poll_seconds=10)
        stack.enter_context(led_into(sandbox.port, *NAMES))
        machines = Machines(home, database, sandbox)
        stack.callback(machines.kill)
        yield machines
        machines.kill()
        for log in home.glob("*.log"):
            print(f"--- {log.name}", log.read_text()[-6000:], sep="\n")


@pytest.fixture
def instance(machines: Machines) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(machines.daemon.home)) as instance:
        yield instance


def successors(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[dg.DagsterRun]:
    return [found for found in instance.get_runs() if found.parent_run_id == run.run_id]


@pytest.mark.parametrize("what", ["a process", "a worker"])
def test_two_workers_share_the_work_and_what_is_killed_of_one_is_made_good_within_a_minute(
    what: str, machines: Machines, instance: dg.DagsterInstance
) -> None:
    machines.start(*NAMES)
    run, pid, name = machines.at_work(instance)
    # Both were asked, and have the same code: the jobs of this store are carried out by either.
    if what == "a process":
        psutil.Process(pid).kill()
    else:
        machines.workers[name].kill()
    seconds = machines.wait_until_synced(MINUTE)
    print(f"{what} killed: made good {seconds:.0f} s later")
    assert_done_once(machines.database)
    [again] = successors(instance, run)
    wait_for(lambda: instance.get_run_by_id(again.run_id).is_finished, PATIENCE)  # type: ignore[union-attr]
    if what == "a worker":
        log = machines.workers[next(other for other in NAMES if other != name)].log.read_text()
        assert again.run_id in log, "the other machine did it"


@pytest.mark.parametrize("what", ["frozen", "cut off"])
def test_a_worker_that_is_frozen_or_cut_off_in_a_run_and_comes_back_writes_nothing_more(
    what: str, machines: Machines, instance: dg.DagsterInstance
) -> None:
    machines.start(*NAMES)
    run, _, name = machines.at_work(instance)
    worker = machines.workers[name]
    if what == "frozen":
        worker.send(signal.SIGSTOP)
    else:
        cut(name)
    # A transaction that it was in, with what that has locked, is ended by the server first.
    seconds = machines.wait_until_synced(2 * MINUTE)
    print(f"{what}: made good {seconds:.0f} s later")
    held = rows(machines.database)
    if what == "frozen":
        worker.send(signal.SIGCONT)
    else:
        mend(name)
    wait_for(lambda: worker_is_done(instance, run.run_id, worker), PATIENCE)
    assert rows(machines.database) == held
    assert_equal_to_source(machines.database, machines.sandbox)
    tries = query(machines.database, "SELECT status FROM sync_attempts WHERE resource = 'inventory_levels'")
    assert [row["status"] for row in tries].count("succeeded") == 1
    # It is of use again.
    other = machines.workers[next(other for other in NAMES if other != name)]
    other.kill()
    query(machines.database, "UPDATE sync_states SET next_due_at = now(), hinted_at = now()")
    before = query(machines.database, "SELECT max(last_succeeded_at) AS at FROM sync_states")[0]["at"]
    wait_for(
        lambda: (
            query(
                machines.database,
                "SELECT min(last_succeeded_at) AS at FROM sync_states WHERE resource = 'inventory_levels'",
            )[0]["at"]
            > before
        ),
        3 * MINUTE,
    )


def rows(database: Database) -> list[dict[str, Any]]:
    return query(
        database, "SELECT external_id, synced_at, xmin::text FROM inventory_levels ORDER BY external_id"
    )


def worker_is_done(instance: dg.DagsterInstance, run_id: str, worker: Worker) -> bool:
    """Whether the worker has ended what it was about when it was away."""
    return f"execute_job[{run_id}] succeeded" in worker.log.read_text() or (
        f"execute_job[{run_id}] raised" in worker.log.read_text()
    )


def test_runs_that_a_broker_lost_are_found_and_those_at_work_go_on(
    machines: Machines, instance: dg.DagsterInstance
) -> None:
    machines.start(NAMES[0])
    run, _, _ = machines.at_work(instance)
    machines.broker.kill()
    machines.broker.start()  # empty
    machines.wait_until_synced(MINUTE)
    assert_done_once(machines.database)
    assert successors(instance, run) == [], "it did not need the broker"
    # One that was sent and not begun: no worker is there to take it, and then the broker forgets it.
    machines.workers[NAMES[0]].kill()
    query(machines.database, "UPDATE sync_states SET next_due_at = now(), hinted_at = now()")
    starting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])
    wait_for(lambda: instance.get_runs_count(starting) > 0)
    before = query(machines.database, "SELECT max(last_succeeded_at) AS at FROM sync_states")[0]["at"]
    machines.broker.kill()
    machines.broker.start()
    machines.workers[NAMES[1]].start(machines.broker, 3, network=NAMES[1])
    began = time.monotonic()
    due = "SELECT count(*) AS n FROM sync_states WHERE last_succeeded_at <= %s AND resource = 'inventory_levels'"
    wait_for(lambda: query(machines.database, due, before)[0]["n"] == 0, 4 * MINUTE)
    print(f"sent and forgotten: made good {time.monotonic() - began:.0f} s after the broker came back")
    assert_equal_to_source(machines.database, machines.sandbox)


def test_while_two_work_each_has_some_of_the_runs(machines: Machines, instance: dg.DagsterInstance) -> None:
    for shop in machines.sandbox.world.shops.values():
        pause_after_a_commit(shop)
    machines.start(*NAMES)
    machines.wait_until_synced(3 * MINUTE)
    for turn in range(8):
        done = query(
            machines.database,
            "SELECT min(last_succeeded_at) AS at FROM sync_states "
            "WHERE resource = ANY(ARRAY['products', 'inventory_levels'])",
        )[0]["at"]
        query(machines.database, "UPDATE sync_states SET next_due_at = now(), hinted_at = now()")
        wait_for(
            lambda done=done: (
                query(
                    machines.database,
                    "SELECT min(last_succeeded_at) AS at FROM sync_states "  # type: ignore[misc]
                    "WHERE resource = ANY(ARRAY['products', 'inventory_levels'])",
                )[0]["at"]
                > done
            ),
            MINUTE,
        )
        if all("succeeded" in worker.log.read_text() for worker in machines.workers.values()):
            print(f"both have worked after {turn + 1} turns")
            return
    raise AssertionError("one of them did all of it")
