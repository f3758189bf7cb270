"""`bg-pipelines up` with workers, as a person on a server has it: real processes, killed one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
import requests

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.machine.daemon import DaemonLock
from bg_pipelines.machine.processes import any_free_port, is_free
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.settings import load_settings
from bg_pipelines_tests.jobs.test_jobs import pause_after_a_commit, rows_held
from bg_pipelines_tests.orchestration.daemons import make_home
from bg_pipelines_tests.support import KEY, PATIENCE, as_store, assert_equal_to_source, query, wait_for


class Up:
    """`bg-pipelines up --workers 2`, and its lines."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.board_port = any_free_port(), any_free_port()
        self.log = home / "up.log"
        command = [sys.executable, "-m", "bg_pipelines.cli", "up", "--workers", "2", "--port", str(self.port)]
        command += ["--board-port", str(self.board_port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=home, env={**os.environ, "DAGSTER_HOME": str(home)}
            )

    def said(self, text: str) -> bool:
        assert self.process.poll() is None
        return text in self.log.read_text()

    def of(self, part: str, but: int = 0) -> psutil.Process | None:
        """The process of its table whose command has this in it."""
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it has just ended
                if process.pid != but and part in " ".join(process.cmdline()):
                    return process
        return None


@pytest.fixture
def home(tmp_path: Path, dagster_url: str, environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", dagster_url)
    monkeypatch.setenv("BG_HOME_DIR", str(tmp_path / "bg"))
    return make_home(tmp_path / "dagster", monkeypatch)


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    up = Up(home)
    yield up
    up.process.kill()
    up.process.wait()
    print(up.log.read_text()[-20_000:])


def kill(process: psutil.Process | None) -> int:
    assert process is not None
    process.kill()
    return int(process.pid)


def synced_at(database: Database) -> object:
    [row] = query(
        database, "SELECT last_succeeded_at AS at FROM sync_states WHERE resource = 'inventory_levels'"
    )
    return row["at"]


@pytest.mark.full
@pytest.mark.timeout(400)
def test_what_dies_under_up_is_started_again_a_second_is_refused_and_all_of_it_ends_together(
    make_sandbox: Callable[..., Sandbox], database: Database, home: Path, up: Up
) -> None:
    sandbox = make_sandbox(shops=1, variants=2000)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=100_000, restore=10_000)
    pause_after_a_commit(shop)
    wait_for(lambda: up.said(" ready.") and not is_free(up.port))
    save_stores(database, Cipher(KEY), [as_store(shop, tier=3)])

    # A run is carried out by a process of the worker. That is killed in the middle of it.
    wait_for(lambda: rows_held(database) >= 1)
    worker = up.of("worker --slots 2")
    assert worker is not None
    [held] = query(
        database,
        "SELECT r.run_id AS run FROM sync_states y JOIN job_runs r ON starts_with(r.run_id, split_part(y.lease_owner, '/', 1)) "
        "WHERE y.resource = 'inventory_levels'",
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.get_run_by_id(held["run"])
        assert run is not None
        assert run.tags["queue"] == "stores_sync"
        [process] = [
            child for child in worker.children() if f"{child.pid} - sync_inventory" in up.log.read_text()
        ]
        kill(process)
        killed = time.monotonic()
        wait_for(lambda: synced_at(database) is not None)
        print(f"a killed run was made good {time.monotonic() - killed:.0f} s after the kill")
        assert_equal_to_source(database, sandbox)
        again = [found for found in instance.get_runs() if found.parent_run_id == run.run_id]
        assert len(again) == 1
        assert worker.is_running(), "it has another process now"

    # Another machine, or this one again: no second daemon.
    daemon = up.of("bg_pipelines.cli daemon")
    assert daemon is not None
    second = subprocess.run(
        [sys.executable, "-m", "bg_pipelines.cli", "up", "--no-board", "--port", str(any_free_port())],
        cwd=home,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert f"is at work on this instance already: process {daemon.pid} on " in second.stderr

    # Whatever dies has a successor, and work goes on: the broker with all it held, the code server, the daemon.
    for part in ("valkey", "machine.code_server", "bg_pipelines.cli board", "bg_pipelines.cli daemon"):
        dead = kill(up.of(part))
        wait_for(lambda part=part, dead=dead: up.of(part, but=dead) is not None)  # type: ignore[misc]
    wait_for(lambda: not is_free(up.board_port))
    assert requests.get(f"http://127.0.0.1:{up.board_port}/", timeout=PATIENCE).url.endswith("/login")
    before = synced_at(database)
    query(database, "UPDATE sync_states SET next_due_at = now(), hinted_at = now()")
    wait_for(lambda: synced_at(database) != before)

    # Told to end, all of it ends, in order, and nothing is left.
    family = psutil.Process(up.process.pid).children(recursive=True)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(PATIENCE) == 130
    assert [process for process in family if process.is_running()] == []
    lines = up.log.read_text().splitlines()
    names = {line.partition("|")[0].strip() for line in lines if " | " in line}
    assert {"worker", "code", "ui", "board", "daemon"} <= names
    ended = [
        line.partition(" | ")[0].strip() for line in lines if " | ended (-9); it is started again" in line
    ]
    assert ended == ["broker", "code", "board", "daemon"]


def test_a_lock_whose_connection_was_lost_is_taken_again_unless_another_has_it(home: Path) -> None:
    settings = load_settings()
    mine, yours = DaemonLock(settings, "bg-daemon here 1"), DaemonLock(settings, "bg-daemon there 2")
    mine.take()
    assert mine.keep()
    assert mine._connection is not None
    mine._connection.close()  # as after a restart of the server
    assert mine.keep()
    # A cut network: the server still has the old session, and who comes back ends it.
    ghost, mine._connection = mine._connection, None
    assert ghost is not None
    wait_for(mine.keep)
    assert not yours.keep()
    mine.close()
    wait_for(yours.keep)
    assert not mine.keep(), "another took over meanwhile: this daemon ends"
    for lock in (mine, yours):
        lock.close()
    ghost.close()
