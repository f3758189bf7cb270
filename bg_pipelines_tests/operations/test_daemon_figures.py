"""What is told of Dagster's daemon: read from its own storage, as its daemon and its storage classes write it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.daemon_figures import Daemon, Tick, read_daemon
from bg_pipelines_tests.typed import Run, ok


@pytest.fixture
def dagster(dagster_url: str) -> Iterator[Database]:
    database = Database(dagster_url, pool_size=1)
    yield database
    database.close()


def beat(instance: dg.DagsterInstance, seconds_ago: float) -> None:
    for kind in ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR"):
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, kind, "me", []))


def tick(
    instance: dg.DagsterInstance,
    name: str,
    ago: timedelta,
    *,
    error: str | None = None,
    status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
    sensor: bool = False,
) -> None:
    """As the daemon keeps it: the state of a schedule or a sensor, and a tick of it."""
    place = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="bg_pipelines.definitions"), "place")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(place, "__repository__"), name)
    at = (datetime.now(UTC) - ago).timestamp()
    kind = InstigatorType.SENSOR if sensor else InstigatorType.SCHEDULE
    data = SensorInstigatorData(at, min_interval=30) if sensor else ScheduleInstigatorData("*/5 * * * *", at)
    state = InstigatorState(origin, kind, status, data)
    if instance.get_instigator_state(state.instigator_origin_id, state.selector_id) is None:
        instance.add_instigator_state(state)
    instance.create_tick(
        TickData(
            state.instigator_origin_id,
            name,
            kind,
            TickStatus.FAILURE if error else TickStatus.SUCCESS,
            at,
            run_ids=None if error else [],
            selector_id=state.selector_id,
            error=SerializableErrorInfo(error, [], None) if error else None,
        )
    )


def of(daemon: Daemon, name: str) -> Tick:
    [found] = [one for one in daemon.ticks if one.name == name]
    return found


def test_the_daemon_lives_while_it_says_so_and_each_schedule_has_its_next_tick(
    instance: dg.DagsterInstance, dagster: Database
) -> None:
    daemon = read_daemon(dagster)
    assert (daemon.is_alive, daemon.silent_seconds, daemon.stopped) == (False, None, [])
    assert of(daemon, "store_sync_tier_1").last_at is None
    assert of(daemon, "clean_database_cron").next_at is not None

    beat(instance, 30)
    tick(instance, "store_sync_tier_1", timedelta(minutes=1))
    tick(instance, "store_sync_retries", timedelta(seconds=10), sensor=True)
    daemon = read_daemon(dagster)
    assert daemon.is_alive
    assert daemon.silent_seconds == pytest.approx(30, abs=5)
    schedule, sensor = of(daemon, "store_sync_tier_1"), of(daemon, "store_sync_retries")
    assert schedule.last_at is not None
    assert schedule.next_at is not None
    assert timedelta(0) < schedule.next_at - schedule.last_at <= timedelta(minutes=5)
    assert (sensor.kind, schedule.kind) == ("sensor", "schedule")
    assert sensor.next_at is not None
    assert sensor.last_at is not None
    assert sensor.next_at - sensor.last_at == timedelta(seconds=30)

    beat(instance, 500)
    daemon = read_daemon(dagster)
    assert not daemon.is_alive
    assert daemon.silent_seconds == pytest.approx(500, abs=5)


def test_a_schedule_that_does_not_tick_has_stopped_unless_a_person_turned_it_off(
    instance: dg.DagsterInstance, dagster: Database
) -> None:
    beat(instance, 1)
    # Whenever that is, between 14 and 19 minutes ago it should have ticked again.
    tick(instance, "store_sync_tier_1", timedelta(minutes=19))
    tick(instance, "store_sync_tier_2", timedelta(minutes=20), status=InstigatorStatus.STOPPED)
    tick(instance, "store_sync_tier_3", timedelta(seconds=20), error="no answer\nfrom the database")
    tick(instance, "of_an_earlier_version", timedelta(days=30), sensor=True)
    daemon = read_daemon(dagster)
    assert [one.name for one in daemon.stopped] == ["store_sync_tier_1"]
    stopped, off, failed = (of(daemon, f"store_sync_tier_{n}") for n in (1, 2, 3))
    assert stopped.seconds_late > 14 * 60
    assert (off.is_on, off.next_at, off.seconds_late) == (False, None, 0)
    assert failed.error == "no answer"
    assert daemon.trouble is not None
    assert daemon.trouble.startswith(
        "Not everything is running: the schedule store_sync_tier_1 should have ticked 1"
    )
    assert daemon.turned_off == ["store_sync_tier_2"]
    assert "of_an_earlier_version" not in {one.name for one in daemon.ticks}


def test_that_nothing_runs_is_the_first_line_of_status_and_of_check(
    instance: dg.DagsterInstance,
    dagster_url: str,
    database: Database,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", dagster_url)
    beat(instance, 20)
    assert "Nothing is running" not in ok(run("status"))
    beat(instance, 480)
    first = "Nothing is running: no heartbeat of the daemon for 8 minutes. Start it: `bg-pipelines up`"
    assert ok(run("status")).splitlines()[0] == first
    assert json.loads(ok(run("status", "--json")))["trouble"] == first
    assert run("check").output.splitlines()[0] == f"- {first}"


def test_a_storage_that_is_away_is_an_answer() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    daemon = read_daemon(away)
    away.close()
    assert (daemon.is_alive, daemon.ticks) == (False, [])
    assert daemon.error
