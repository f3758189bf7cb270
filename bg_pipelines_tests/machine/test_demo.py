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

from bg_pipelines_tests.support import PATIENCE, PROJECT, wait_for

pytestmark = pytest.mark.timeout(600)


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
    command = [
        sys.executable,
        "-m",
        "bg_pipelines.cli",
        "demo",
        "--sandbox-port",
        str(free_port()),
        "--webhook-port",
        str(free_port()),
        "--board-port",
        str(free_port()),
        *options,
    ]
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
    wait_for(lambda: left_behind(project) == [])


def says(demo: subprocess.Popen[str], word: str) -> str:
    """What a demo says until `word` comes."""
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if word in line:
            return said
    raise AssertionError(f"it never said {word!r}: {said}")


def test_the_demo_loads_what_the_sandbox_holds_and_a_second_one_changes_nothing_and_serves_the_ui(
    project: Path,
) -> None:
    first = start_demo(project, "--once")
    output, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, output
    assert "the database equals the sandbox" in output
    assert re.search(r"stock levels +10,596 +10,596 +10,596", output), output
    assert re.search(r"with refunds +16,367 +16,367 +0 +0 +0 +0\n", output), output
    assert re.search(r"12 Shopify and 2 Square stores", output), output
    assert re.search(r"their lines +12,646 +12,646 *\n", output), output
    assert re.search(
        r"clean_active_carts freed: 400 cart_items, 250 carts found abandoned, 200 carts, ", output
    ), output
    assert re.search(r"clean_database freed: 400 cart_events", output), output
    assert re.search(r"a change: .+ told by its webhook, that is a row .+ \d+ ms later\n", output), output
    assert re.search(
        r"back_in_stock: delivered\n.+\n  product_share: delivered\n.+\n  product_share: refused", output
    ), output
    assert re.search(r"alert: \[high\] store .+: credentials\n", output), output
    assert re.search(r"alert: \[all clear\] store .+: credentials\n", output), output
    wait_until_nothing_is_left(project)
    port = free_port()
    second = start_demo(project, "--port", str(port))
    output = says(second, f"http://127.0.0.1:{port}/runs")
    assert "the database equals the sandbox; nothing changed since the last run" in output
    assert output.splitlines()[-1].startswith("the Dagster UI with these runs: "), "nothing scrolls it away"
    link = re.search(r"the board, logged in as demo: (http://\S+/login/link)\?token=(\S+)", output)
    assert link, output
    logged_in = {"Origin": link[1].removesuffix("/login/link")}
    board = requests.post(link[1], {"token": link[2]}, headers=logged_in, timeout=PATIENCE)
    assert "all 14 stores up to date" in board.text
    of_runs = "jobName status repositoryOrigin { repositoryLocationName }"
    query = {"query": f"{{ runsOrError {{ ... on Runs {{ results {{ {of_runs} }} }} }} }}"}
    answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=query, timeout=PATIENCE).json()
    results = answer["data"]["runsOrError"]["results"]
    runs = [(run["jobName"], run["status"]) for run in results]
    places = {(run["repositoryOrigin"] or {}).get("repositoryLocationName") for run in results}
    assert places == {"bg_pipelines.definitions"}, "the timeline shows runs of a code location alone"
    assert not (project / "storage").exists(), "what Dagster writes is in the home"
    assert {run for run in runs if run[1] == "SUCCESS"} == {
        ("store_sync", "SUCCESS"),
        ("inventory_sync", "SUCCESS"),
        ("customer_sync", "SUCCESS"),
        ("create_shopify_webhook", "SUCCESS"),
        ("handle_webhooks", "SUCCESS"),
        ("drift_audit", "SUCCESS"),
        ("clean_active_carts", "SUCCESS"),
        ("clean_database", "SUCCESS"),
        ("share_product_text_message", "SUCCESS"),
    }
    os.killpg(second.pid, signal.SIGINT)
    stopped = time.monotonic()
    output, _ = second.communicate(timeout=PATIENCE)
    print(f"Ctrl-C took {time.monotonic() - stopped:.1f} s")
    assert second.returncode == 130, output
    wait_until_nothing_is_left(project)


MOMENTS = {
    "it has just begun": lambda project: True,
    "PostgreSQL is started": lambda project: (project / ".bg" / "demo.lock").exists(),
    "stores are loaded": lambda project: any("bg_pipelines.sandbox" in one for one in left_behind(project)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_leaves_no_process_behind(project: Path, moment: str) -> None:
    demo = start_demo(project, "--port", str(free_port()))
    wait_for(lambda: MOMENTS[moment](project))
    time.sleep(0.7)
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode != 0
    # As long as Python is loading the program nothing of ours has a say in it.
    assert "Traceback" not in output or moment == "it has just begun", output
    wait_until_nothing_is_left(project)


def test_of_two_demos_in_one_home_the_second_is_refused_and_a_killed_one_takes_its_children_along(
    project: Path,
) -> None:
    first = start_demo(project, "--port", str(free_port()))
    wait_for(lambda: (project / ".bg" / "demo.lock").exists() and len(left_behind(project)) >= 3)
    second = start_demo(project, "--once")
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert "a demo is already running" in output
    first.kill()
    first.wait()
    wait_until_nothing_is_left(project)


def test_the_demo_touches_no_stores_but_its_own(project: Path) -> None:
    add = ["stores", "add", "harbor", "--domain", "harbor.example.com", "--token", "t"]
    for command in (["migrate"], add):
        subprocess.run([sys.executable, "-m", "bg_pipelines.cli", *command], cwd=project, check=True)
    demo = start_demo(project, "--once")
    output, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert "there are stores of your own in this database (harbor)" in output
    assert "Traceback" not in output
    wait_until_nothing_is_left(project)


def test_a_port_that_is_taken_is_said_before_anything_starts(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        demo = start_demo(project, "--port", str(taken.getsockname()[1]))
        output, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert "is taken" in output
    assert not (project / ".bg").exists()
