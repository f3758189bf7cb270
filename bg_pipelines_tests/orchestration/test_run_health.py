"""Whether a run lives is told by what it says of itself, whatever launcher started it; what cannot be known is taken for
alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._serdes import ConfigurableClassData

from bg_pipelines.database.engine import Database
from bg_pipelines.definitions import defs
from bg_pipelines.errors import IntegrationError
from bg_pipelines.orchestration import celery_runs, launcher
from bg_pipelines.orchestration.launcher import WatchedRunLauncher
from bg_pipelines.orchestration.run_health import (
    DEAD_AFTER_SECONDS,
    GAP_SECONDS,
    QUIET_SECONDS,
    SLOW_SECONDS,
    RunHealth,
    Watched,
)
from bg_pipelines_tests.support import query

pytestmark = pytest.mark.usefixtures("environment")

# Of a cluster that is not there.
KUBECONFIG = """
{clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: none, user: {token: none}}],
 contexts: [{name: none, context: {cluster: none, user: none}}], current-context: none}
"""
BROKER = "redis://127.0.0.1:1/0"
QUIET, DEAD = int(QUIET_SECONDS) + 3, DEAD_AFTER_SECONDS + 5


@pytest.fixture
def dagster_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    job = defs.resolve_job_def("store_sync")
    return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)


def be_silent(database: Database, run: dg.DagsterRun, seconds: float) -> None:
    query(
        database,
        "INSERT INTO job_runs (run_id, job, queue, seen_at) VALUES (%s, 'store_sync', 'stores_sync', "
        "now() - %s * interval '1 second') ON CONFLICT (run_id) DO UPDATE SET seen_at = excluded.seen_at",
        run.run_id,
        seconds,
    )


class Told(DefaultRunLauncher):
    """A launcher with a check of its own, which a test scripts."""

    says: Callable[[], CheckRunHealthResult]

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return self.says()


class WatchedTold(Watched, Told):
    pass


def make(of: type[Watched], instance: dg.DagsterInstance, **config: Any) -> Watched:
    made = of.from_config_value(
        ConfigurableClassData(of.__module__, of.__name__, "{}"), {"dead_after_seconds": 35, **config}
    )
    made.register_instance(instance)
    return made


NEEDED: dict[str, dict[str, Any]] = {
    "WatchedRunLauncher": {},
    "WatchedDockerRunLauncher": {"image": "bg-pipelines"},
    "WatchedK8sRunLauncher": {
        "instance_config_map": "dagster-instance",
        "service_account_name": "dagster",
        "dagster_home": "/opt/dagster",
        "job_image": "bg-pipelines",
        "load_incluster_config": False,
    },
    "WatchedEcsRunLauncher": {"use_current_ecs_task_config": False},
}


HERE = [
    name
    for name in (*NEEDED, "WatchedCeleryRunLauncher")
    if name not in launcher.ELSEWHERE or find_spec(launcher.ELSEWHERE[name][0].split(".")[0])
]
"""Those whose package is installed."""


@pytest.fixture(params=HERE)
def watched(
    request: pytest.FixtureRequest,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[RunLauncher]:
    """Each launcher whose package is here; none of their servers is."""
    name = request.param
    if name == "WatchedCeleryRunLauncher":
        monkeypatch.setenv("BG_BROKER_URL", BROKER)
        made: Any = celery_runs.WatchedCeleryRunLauncher.of_settings(
            ConfigurableClassData(launcher.__name__, "WatchedRunLauncher", "{}"), {"dead_after_seconds": 35}
        )
        made.register_instance(instance)
    else:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        config = NEEDED[name]
        if name == "WatchedK8sRunLauncher":
            (tmp_path / "kubeconfig").write_text(KUBECONFIG)
            config = {**config, "kubeconfig_file": str(tmp_path / "kubeconfig")}
        made = make(getattr(launcher, name), instance, **config)
    yield made
    made.dispose()


def test_a_silent_run_is_found_dead_and_a_beating_one_alive_whoever_started_it(
    database: Database, dagster_run: dg.DagsterRun, watched: RunLauncher
) -> None:
    def status() -> str:
        return watched.check_run_worker_health(dagster_run).status.value

    assert watched.supports_check_run_worker_health
    assert status() == "RUNNING", "it has only just begun"
    be_silent(database, dagster_run, 0)
    assert status() == "RUNNING"
    be_silent(database, dagster_run, DEAD)
    health = watched.check_run_worker_health(dagster_run)
    assert health.status.value == "FAILED"
    assert str(health.msg).startswith("no heartbeat of the run's process for 4")


def test_a_quiet_run_is_dead_at_once_if_its_launcher_says_so_and_nothing_else_that_it_says_counts(
    database: Database, instance: dg.DagsterInstance, dagster_run: dg.DagsterRun
) -> None:
    told = make(WatchedTold, instance)
    assert isinstance(told, WatchedTold)

    def status(seconds: float, says: WorkerStatus | Exception) -> str:
        def tell() -> CheckRunHealthResult:
            if isinstance(says, Exception):
                raise says
            return CheckRunHealthResult(says, "told")

        told.says = tell
        be_silent(database, dagster_run, seconds)
        return told.check_run_worker_health(dagster_run).status.value

    assert status(0, WorkerStatus.FAILED) == "RUNNING", "it is heard of: what the launcher says is old"
    assert status(QUIET, WorkerStatus.FAILED) == "FAILED"
    for says in (WorkerStatus.UNKNOWN, WorkerStatus.NOT_FOUND, WorkerStatus.SUCCESS, KeyError("task id")):
        assert status(QUIET, says) == "RUNNING", says
    for says in (WorkerStatus.RUNNING, WorkerStatus.SUCCESS, OSError()):
        assert status(DEAD, says) == "FAILED", says
    told.dispose()


def test_the_launcher_of_dagster_yaml_sends_runs_to_celery_where_a_broker_is_set(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert type(instance.run_launcher) is WatchedRunLauncher
    monkeypatch.setenv("BG_BROKER_URL", BROKER)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        found: Any = instance.run_launcher
        assert type(found) is celery_runs.WatchedCeleryRunLauncher
        assert found.health.dead_after_seconds == DEAD_AFTER_SECONDS
        assert found.celery.conf.broker_url == BROKER
        assert [queue.name for queue in found.celery.conf.task_queues] == ["stores_sync", "default"]
    monkeypatch.setenv("BG_BROKER_URL", "amqp://guest@localhost")
    with pytest.raises(IntegrationError, match="BG_BROKER_URL: must be the address of a Valkey or Redis"):
        dg.DagsterInstance.from_config(str(home))


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

    be_silent(database, dagster_run, DEAD)
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert status() == "RUNNING"
    health.close()
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    now[0] += DEAD_AFTER_SECONDS
    assert status() == "RUNNING"
    now[0] += 1
    assert status() == "FAILED"
    health.close()


def test_who_was_away_himself_or_waited_long_for_the_database_gives_each_run_the_full_time_again(
    database: Database, instance: dg.DagsterInstance, dagster_run: dg.DagsterRun
) -> None:
    now, wall, slow = [1000.0], [5000.0], [0.0]

    def monotonic() -> float:
        now[0] += slow[0]
        return now[0]

    def status() -> str:
        return health.check(instance, dagster_run).status.value

    health = RunHealth(monotonic=monotonic, wall=lambda: wall[0])
    be_silent(database, dagster_run, 3600)
    assert status() == "FAILED", "one that has just begun to listen knows only what it sees"
    wall[0] += GAP_SECONDS + 1  # suspended: its own clock stood
    assert status() == "RUNNING"
    now[0] += DEAD_AFTER_SECONDS + 1
    wall[0] += DEAD_AFTER_SECONDS + 1
    assert status() == "FAILED"
    slow[0] = SLOW_SECONDS + 1
    assert status() == "RUNNING"
    slow[0] = 0.0
    now[0] += DEAD_AFTER_SECONDS + 1
    assert status() == "FAILED"
    health.close()
