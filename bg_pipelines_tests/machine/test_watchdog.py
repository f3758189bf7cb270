"""The watchdog: what Dagster cannot tell is told, once, and so is its end; a monitor hears that all is well."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from bg_pipelines.machine.processes import any_free_port, is_free
from bg_pipelines.machine.watchdog import HEARTBEAT_SECONDS, PATIENCE, Watchdog
from bg_pipelines.operations.daemon_figures import SILENT_SECONDS
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.settings import load_settings
from bg_pipelines_tests.operations.test_daemon_figures import tick
from bg_pipelines_tests.orchestration.daemons import make_home
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.support import KEY, PROJECT, wait_for

PATIENCE_SECONDS = 120  # within which people are told


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    sandbox = make_sandbox(shops=1, variants=1)
    monkeypatch.setenv("BG_ALERT_URLS", f"json://127.0.0.1:{sandbox.port}/hooks/ops")
    return sandbox


def told(sandbox: Sandbox, hook: str = "ops") -> list[str]:
    return [notice.body["title"] for notice in sandbox.world.hooks[hook].received]


@pytest.fixture
def now() -> list[float]:
    """The watchdog's clock, in seconds."""
    return [0.0]


@pytest.fixture
def monitor() -> Iterator[ScriptedServer]:
    with ScriptedServer(Reply()) as server:
        yield server


@pytest.fixture
def watchdog(
    environment: None,
    dagster_url: str,
    sandbox: Sandbox,
    monitor: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    now: list[float],
) -> Iterator[Watchdog]:
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", dagster_url)
    monkeypatch.setenv("BG_HEARTBEAT_URL", f"{monitor.url}/alive")
    watchdog = Watchdog(load_settings(), clock=lambda: now[0])
    yield watchdog
    watchdog.close()


def daemon_lives(dagster_url: str, ago_seconds: float) -> None:
    with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DELETE FROM daemon_heartbeats")
        connection.execute(
            "INSERT INTO daemon_heartbeats (daemon_type, daemon_id, timestamp, body) "
            "VALUES ('SENSOR', 'x', (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(secs => %s), '{}')",
            (ago_seconds,),
        )


def test_a_daemon_that_says_nothing_is_told_once_and_that_it_is_back(
    watchdog: Watchdog, sandbox: Sandbox, dagster_url: str
) -> None:
    assert watchdog.look() == [], "one that was never started is none that died"
    daemon_lives(dagster_url, 10)
    assert watchdog.look() == []
    daemon_lives(dagster_url, SILENT_SECONDS + 10)
    for _ in range(PATIENCE + 2):
        assert [fault.subject for fault in watchdog.look()] == ["Dagster's daemon"]
    assert told(sandbox) == ["[critical] Dagster's daemon: run_died"]
    daemon_lives(dagster_url, 1)
    assert watchdog.look() == []
    assert told(sandbox)[1:] == ["[all clear] Dagster's daemon: run_died"]


def test_a_schedule_that_has_stopped_is_told_unless_the_daemon_has_just_been_started(
    watchdog: Watchdog, sandbox: Sandbox, dagster_url: str, instance: dg.DagsterInstance, now: list[float]
) -> None:
    daemon_lives(dagster_url, 1)
    tick(instance, "store_sync_tier_1", timedelta(minutes=7))
    assert watchdog.look() == []
    now[0] = SILENT_SECONDS
    for _ in range(PATIENCE):
        assert told(sandbox) == []
        assert [fault.subject for fault in watchdog.look()] == ["Dagster's schedules"]
    assert told(sandbox) == ["[high] Dagster's schedules: run_died"]
    tick(instance, "store_sync_tier_1", timedelta(0))
    assert watchdog.look() == []
    assert told(sandbox)[1:] == ["[all clear] Dagster's schedules: run_died"]


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("watchdog")
def test_a_daemon_that_is_killed_is_told_within_two_minutes(
    sandbox: Sandbox, tmp_path: Path, dagster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "dagster", monkeypatch)
    command = [sys.executable, "-m", "bg_pipelines.cli"]
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    log = (tmp_path / "log").open("wb")
    started = {"env": environment, "cwd": home, "stdout": log, "stderr": log}
    daemon = subprocess.Popen([*command, "daemon", "-m", "bg_pipelines.definitions"], **started)  # type: ignore[call-overload]
    watching = subprocess.Popen([*command, "watch"], **started)  # type: ignore[call-overload]
    try:
        wait_for(lambda: heartbeats(dagster_url) >= 3)
        assert told(sandbox) == []
        daemon.kill()
        killed = time.monotonic()
        wait_for(lambda: told(sandbox) != [], 150)
        print(f"told {time.monotonic() - killed:.0f} s after the daemon was killed")
        assert told(sandbox) == ["[critical] Dagster's daemon: run_died"]
        assert time.monotonic() - killed <= 120
    finally:
        for process in (daemon, watching):
            process.kill()
            process.wait()
        print((tmp_path / "log").read_text(errors="replace")[-6000:])


def heartbeats(dagster_url: str) -> int:
    with psycopg.connect(dagster_url.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT count(*) FROM daemon_heartbeats WHERE daemon_type IN ('SENSOR', 'SCHEDULER', 'QUEUED_RUN_COORDINATOR')"
        ).fetchone()
    assert row
    return int(row[0])


def test_dagster_s_storage_that_is_away_is_told_though_the_application_s_database_is_there(
    watchdog: Watchdog, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", "postgresql://bg:hunter2@127.0.0.1:1/dagster")
    blind = Watchdog(load_settings())
    for _ in range(PATIENCE):
        assert told(sandbox) == []
        blind.look()
    blind.close()
    assert told(sandbox) == ["[critical] Dagster's storage: database"]
    watchdog.look()  # another one, started with an address that is right
    assert told(sandbox)[1:] == ["[all clear] Dagster's storage: database"]


def test_a_database_that_is_away_for_longer_is_told_once_though_nothing_can_be_recorded(
    watchdog: Watchdog, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://bg:hunter2@127.0.0.1:1/nothing")
    blind = Watchdog(load_settings())
    for _ in range(PATIENCE - 1):
        blind.look()
    assert told(sandbox) == [], "a server that is started again is nobody's business"
    for _ in range(3):
        blind.look()
    blind.close()
    assert told(sandbox) == ["[critical] the database: database"]
    watchdog.look()
    assert told(sandbox)[1:] == ["[all clear] the database: database"]


def test_a_monitor_is_called_once_a_minute_while_all_is_well_and_only_then(
    watchdog: Watchdog, monitor: ScriptedServer, dagster_url: str, now: list[float]
) -> None:
    for at in (0.0, 10.0, HEARTBEAT_SECONDS - 1):
        now[0] = at
        watchdog.look()
    assert [asked.path for asked in monitor.asked] == ["/alive"]
    daemon_lives(dagster_url, SILENT_SECONDS + 10)
    now[0] = 5 * HEARTBEAT_SECONDS
    watchdog.look()
    assert len(monitor.asked) == 1
    daemon_lives(dagster_url, 0)
    watchdog.look()
    assert len(monitor.asked) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a few seconds fill."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m,mode=0755", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 2**20)
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return filler


@pytest.mark.full
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
@pytest.mark.timeout(400)
def test_a_disk_that_is_full_under_a_running_daemon_is_told_and_so_is_its_end(
    small_disk: Path, tmp_path: Path, sandbox: Sandbox
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    port = any_free_port()
    command = [
        sys.executable,
        "-m",
        "bg_pipelines.cli",
        "up",
        "--no-webhooks",
        "--no-board",
        "--port",
        str(port),
    ]
    environment = {
        **os.environ,
        "BG_HOME_DIR": str(small_disk / "home"),
        "BG_ENCRYPTION_KEY": KEY,
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(PROJECT),
    }
    log = (tmp_path / "up.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: not is_free(port) or process.poll() is not None, PATIENCE_SECONDS)
            assert told(sandbox) == []
            filler = fill(small_disk)
            filled = time.monotonic()
            wait_for(lambda: told(sandbox) != [], PATIENCE_SECONDS)
            print(f"told {time.monotonic() - filled:.0f} s after the disk was full")
            assert told(sandbox) == ["[critical] the database: database"]
            filler.unlink()
            freed = time.monotonic()
            wait_for(lambda: "[all clear] the database: database" in told(sandbox), PATIENCE_SECONDS)
            print(f"its end was told {time.monotonic() - freed:.0f} s after there was space again")
            assert len(told(sandbox)) == 2, told(sandbox)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            print((tmp_path / "up.log").read_text(errors="replace")[-6000:])
