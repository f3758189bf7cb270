"""The queue of a real daemon with the limits of dagster.yaml: who goes first, and that nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import DEFAULT, JOBS, STORES_SYNC, UNHURRIED_RUNS
from bg_pipelines_tests.orchestration.daemons import Daemon
from bg_pipelines_tests.orchestration.queue_jobs import defs
from bg_pipelines_tests.support import PATIENCE, query, wait_for

Enqueue = Callable[..., None]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.yaml"
    path.write_text("load_from:\n  - python_module: bg_pipelines_tests.orchestration.queue_jobs\n")
    return path


@pytest.fixture
def daemon(home: Path, workspace: Path, environment: None) -> Iterator[Daemon]:
    daemon = Daemon(home, workspace)
    yield daemon
    daemon.kill()
    print(daemon.log.read_text() if daemon.log.exists() else "the daemon was never started")


@pytest.fixture
def enqueue(instance: dg.DagsterInstance, workspace: Path, environment: None) -> Iterator[Enqueue]:
    """Put runs of these jobs into the queue, in this order."""
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)])) as process:
        request = process.create_request_context()
        [location] = request.code_locations
        [repository] = location.get_repositories().values()

        def enqueue(*names: str, tier: int | None = None) -> None:
            for name in names:
                job = repository.get_full_job(name)
                definition = defs.resolve_job_def(name)
                run = instance.create_run_for_job(
                    definition,
                    tags={**definition.tags, **JOBS[name].tags(name, tier)} if tier else definition.tags,
                    remote_job_origin=job.get_remote_origin(),
                    job_code_origin=job.get_python_origin(),
                )
                instance.submit_run(run.run_id, request)

        yield enqueue


@pytest.mark.timeout(600)
def test_stores_go_first_and_neither_queue_waits_for_the_other(
    enqueue: Enqueue, daemon: Daemon, instance: dg.DagsterInstance, database: Database
) -> None:
    query(
        database,
        "CREATE TABLE held (run_id text PRIMARY KEY, job text, queue text, let_go bool DEFAULT false, "
        "at timestamptz DEFAULT clock_timestamp())",
    )

    def held(column: str) -> Counter[str]:
        """The runs that have a slot at this moment."""
        rows = query(database, f"SELECT {column} AS name FROM held WHERE NOT let_go")
        return Counter(row["name"] for row in rows)

    def waiting() -> Counter[str]:
        queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        return Counter(run.tags["queue"] for run in queued)

    def let_go(name: str, runs: int = 1) -> None:
        query(
            database,
            "UPDATE held SET let_go = true WHERE run_id IN "
            "(SELECT run_id FROM held WHERE NOT let_go AND name = %s ORDER BY at LIMIT %s)".replace(
                "name =", "job =" if name in JOBS else "queue ="
            ),
            name,
            runs,
        )

    def wait_until(held_now: dict[str, int], waiting_now: dict[str, int]) -> None:
        wait_for(lambda: (held("queue"), waiting()) == (held_now, waiting_now), PATIENCE)

    stores, default = STORES_SYNC.name, DEFAULT.name

    # Those of `default` came first.
    enqueue("errand", "chore", "errand", "chore", "errand")
    enqueue("store_sync", "store_sync", "store_sync", "inventory_sync")
    enqueue("inventory_sync", tier=1)
    assert waiting() == {stores: 5, default: 5}
    daemon.start()

    # Stores go first, up to their limit, and among them one slot is the first tier's; the last is for the others.
    wait_until({stores: 3, default: 1}, {stores: 2, default: 4})
    assert (held("job")["store_sync"], held("job")["inventory_sync"]) == (UNHURRIED_RUNS, 1)

    # While stores have all they may have, and more of them wait, the others go on one after the other.
    let_go(default)
    wait_until({stores: 3, default: 1}, {stores: 2, default: 3})

    # A slot of theirs that becomes free is theirs again, although others have waited for longer.
    let_go("store_sync")
    wait_until({stores: 3, default: 1}, {stores: 1, default: 3})

    # With no store left in line the others take what is free, but never the last slot.
    let_go(stores, runs=3)
    wait_until({stores: 1, default: 3}, {default: 1})
    let_go(stores)
    wait_until({default: 3}, {default: 1})
    enqueue("store_sync")
    wait_until({stores: 1, default: 3}, {default: 1})
