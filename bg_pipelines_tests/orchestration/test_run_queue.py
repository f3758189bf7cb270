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
from bg_pipelines.orchestration.failures import TIER_TAG
from bg_pipelines.queues import DEFAULT, JOBS, STORES_SYNC
from bg_pipelines_tests.orchestration.daemons import Daemon
from bg_pipelines_tests.orchestration.queue_jobs import defs
from bg_pipelines_tests.support import PATIENCE, query, wait_for

Enqueue = Callable[..., None]


@pytest.fixture
def daemon(home: Path, environment: None) -> Iterator[Daemon]:
    daemon = Daemon(home, "bg_pipelines_tests.orchestration.queue_jobs")
    yield daemon
    daemon.kill()
    print(daemon.log.read_text() if daemon.log.exists() else "the daemon was never started")


@pytest.fixture
def enqueue(instance: dg.DagsterInstance, daemon: Daemon) -> Iterator[Enqueue]:
    """Put runs of these jobs into the queue, in this order."""
    daemon.start_code()
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(daemon.workspace)])) as process:
        request = process.create_request_context()
        [location] = request.code_locations
        [repository] = location.get_repositories().values()

        def enqueue(*names: str, tier: int | None = None) -> None:
            for name in names:
                job = repository.get_full_job(name)
                definition = defs.resolve_job_def(name)
                run = instance.create_run_for_job(
                    definition,
                    tags={**definition.tags, **JOBS[name].tags(name, tier), TIER_TAG: str(tier)}
                    if tier
                    else definition.tags,
                    remote_job_origin=job.get_remote_origin(),
                    job_code_origin=job.get_python_origin(),
                )
                instance.submit_run(run.run_id, request)

        yield enqueue


@pytest.mark.timeout(600)
def test_the_first_tier_never_waits_and_neither_queue_waits_for_the_other(
    enqueue: Enqueue, daemon: Daemon, instance: dg.DagsterInstance, database: Database
) -> None:
    query(
        database,
        "CREATE TABLE held (run_id text PRIMARY KEY, job text, queue text, tier text, let_go bool DEFAULT false, "
        "at timestamptz DEFAULT clock_timestamp())",
    )

    def held() -> Counter[str]:
        """The runs that have a slot at this moment, queue and tier."""
        rows = query(database, "SELECT queue, tier FROM held WHERE NOT let_go")
        return Counter(kind(row["queue"], row["tier"]) for row in rows)

    def waiting() -> Counter[str]:
        queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        return Counter(kind(run.tags["queue"], run.tags.get(TIER_TAG)) for run in queued)

    def kind(queue: str, tier: str | None) -> str:
        return f"{queue} {tier}" if tier else queue

    def let_go(name: str, runs: int = 1) -> None:
        query(
            database,
            "UPDATE held SET let_go = true WHERE run_id IN (SELECT run_id FROM held WHERE NOT let_go "
            "AND concat_ws(' ', queue, tier) = %s ORDER BY at LIMIT %s)",
            name,
            runs,
        )

    def wait_until(held_now: dict[str, int], waiting_now: dict[str, int]) -> None:
        try:
            wait_for(lambda: (held(), waiting()) == (held_now, waiting_now), PATIENCE)
        except AssertionError:
            raise AssertionError((held(), waiting())) from None

    stores, default = STORES_SYNC.name, DEFAULT.name
    first, second, third = (f"{stores} {tier}" for tier in (1, 2, 3))

    # Those of `default` came first, then those of the lower tiers, the third before the second.
    enqueue("errand", "chore", "errand", "chore", "errand")
    enqueue("store_sync", "inventory_sync", tier=3)
    enqueue("store_sync", "inventory_sync", tier=2)
    daemon.start()

    # Each queue fills its own slots; of `stores_sync` by tier, and two are left for the first.
    wait_until({second: 2, default: 3}, {third: 2, default: 2})

    # Whatever holds the others, the first tier's runs begin at once, each job its own.
    enqueue("inventory_sync", "store_sync", tier=1)
    wait_until({first: 2, second: 2, default: 3}, {third: 2, default: 2})

    # A slot of the first tier is nobody else's; one of the lower tiers is theirs, though others have waited for longer.
    let_go(first)
    let_go(second)
    wait_until({first: 1, second: 1, third: 1, default: 3}, {third: 1, default: 2})
    enqueue("inventory_sync", tier=1)
    wait_until({first: 2, second: 1, third: 1, default: 3}, {third: 1, default: 2})

    # While stores have all they may have, and more of them wait, the others go on one after the other.
    let_go(default)
    wait_until({first: 2, second: 1, third: 1, default: 3}, {third: 1, default: 1})

    # With no store left in line the others take nothing of theirs: whenever one comes, it begins at once.
    let_go(first, 2)
    let_go(second)
    wait_until({third: 2, default: 3}, {default: 1})
    let_go(third, 2)
    wait_until({default: 3}, {default: 1})
    enqueue("store_sync", tier=3)
    enqueue("store_sync", "inventory_sync", tier=1)
    wait_until({first: 2, third: 1, default: 3}, {default: 1})
