"""The demo as a new user meets it: one command, a table, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from bg_pipelines_tests.conftest import PROJECT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what the demo needs of the project's, and no state."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_demo(project: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bg_pipelines.cli", "demo", "--sandbox-port", str(free_port()), *options]
    return subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind(project: Path) -> list[str]:
    """Processes that were started by a demo in this folder."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if Path(process.cwd()).is_relative_to(project) or str(project) in " ".join(process.cmdline()):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until_nothing_is_left(project: Path) -> None:
    deadline = time.monotonic() + 20
    while left := left_behind(project):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_demo_loads_what_the_sandbox_holds_and_a_second_one_changes_nothing(project: Path) -> None:
    first = start_demo(project, "--once")
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    assert "the database equals the sandbox" in output
    assert re.search(r"stock levels +9,947 +9,947 +9,947", output), output
    assert re.search(r"people were told: \[high\] store .+: credentials\n", output), output
    assert re.search(r"people were told: \[all clear\] store .+: credentials\n", output), output
    second = start_demo(project, "--once")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert "nothing changed since the last run" in output
    wait_until_nothing_is_left(project)


def test_the_demo_serves_the_runs_in_the_ui_and_ctrl_c_leaves_no_process_behind(project: Path) -> None:
    port = free_port()
    demo = start_demo(project, "--port", str(port))
    deadline = time.monotonic() + 90
    jobs: set[str] = set()
    query = {"query": "{ runsOrError { ... on Runs { results { jobName status } } } }"}
    while jobs != {"store_sync", "inventory_sync"}:
        assert time.monotonic() < deadline
        assert demo.poll() is None, demo.communicate()[0]
        time.sleep(0.5)
        try:
            answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=query, timeout=10).json()
            jobs = {
                run["jobName"]
                for run in answer["data"]["runsOrError"]["results"]
                if run["status"] == "SUCCESS"
            }
        except (requests.ConnectionError, ValueError):
            continue
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    wait_until_nothing_is_left(project)


@pytest.mark.parametrize("seconds", [0.7, 2.0, 4.0])
def test_ctrl_c_at_any_moment_leaves_no_process_behind(project: Path, seconds: float) -> None:
    demo = start_demo(project, "--port", str(free_port()))
    time.sleep(seconds)
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode != 0
    assert "Traceback" not in output or seconds < 1, output
    wait_until_nothing_is_left(project)


def test_of_two_demos_in_one_home_the_second_is_refused_and_a_killed_one_takes_its_children_along(
    project: Path,
) -> None:
    first = start_demo(project, "--port", str(free_port()))
    deadline = time.monotonic() + 60
    while not (project / ".bg" / "demo.lock").exists() or len(left_behind(project)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = start_demo(project, "--once")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "a demo is running already" in output
    first.kill()
    first.wait()
    wait_until_nothing_is_left(project)


def test_a_port_that_is_taken_is_said_before_anything_starts(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        demo = start_demo(project, "--port", str(taken.getsockname()[1]))
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "is taken" in output
    assert not (project / ".bg").exists()
