"""The sandbox as a separate program."""

from __future__ import annotations

import ast
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import bg_pipelines.sandbox
from bg_pipelines.sandbox import RejectedError, Sandbox, World, serve
from bg_pipelines_tests.support import PATIENCE

FOLDER = Path(bg_pipelines.sandbox.__file__).parent


@pytest.fixture
def program() -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "bg_pipelines.sandbox",
        "--port",
        "0",
        "--shops",
        "3",
        "--variants",
        "30",
    ]
    command += ["--change-every", "0.05"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=FOLDER.parents[1]
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_cleanly(
    program: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert program.stdout is not None
    assert program.stderr is not None
    line = program.stdout.readline()
    found = re.fullmatch(r"sandbox listening on (http://127\.0\.0\.1:\d+) \(3 shops\)\n", line)
    assert found is not None, line
    with requests.Session() as session:
        shops = session.get(f"{found[1]}/sandbox/shops", timeout=PATIENCE).json()
        assert len(shops) == 3
        # A slow answer under way does not keep it from ending.
        faults = f"{found[1]}/sandbox/shops/{shops[0]['domain']}/faults"
        session.post(faults, json={"kind": "slow", "seconds": 10 * PATIENCE}, timeout=PATIENCE)
        with pytest.raises(requests.Timeout):
            session.post(
                f"{shops[0]['api_url']}/admin/api/2026-07/graphql.json",
                json={"query": "{ shop { id } }"},
                headers={"X-Shopify-Access-Token": shops[0]["token"]},
                timeout=0.2,
            )
        for _ in range(3):  # Impatient people press Ctrl-C more than once.
            program.send_signal(number)
        assert program.wait(PATIENCE) == 0
    assert program.stdout.read() == ""
    assert program.stderr.read() == ""


def test_it_plays_a_scenario_and_tells_its_steps_as_they_happen() -> None:
    command = [
        sys.executable,
        "-m",
        "bg_pipelines.sandbox",
        "--port",
        "0",
        "--shops",
        "8",
        "--variants",
        "40",
    ]
    command += ["--scenario", "afternoon", "--speed", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER.parents[1]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("14:00 the afternoon is over"):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert lines[0].endswith("(8 shops)\n")
    assert lines[1] == "12:00 the afternoon begins: 8 shops, and all is well\n"
    assert "12:20 outage: every Shopify shop answers 503 or 502\n" in lines


@pytest.mark.parametrize(
    "wish", [{"scenario": "evening"}, {"scenario": "afternoon", "speed": 0.0}, {"speed": -1.0}]
)
def test_a_wrong_wish_on_the_command_line_is_rejected(wish: dict[str, Any]) -> None:
    with pytest.raises(RejectedError, match=r"scenario|speed"):
        serve(port=0, **wish)


def test_a_port_in_use_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(port=port, shops=1, variants=1) == 1
    captured = capsys.readouterr()
    assert captured.err == f"sandbox cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert captured.out == ""


def test_it_imports_nothing_of_the_product() -> None:
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith("bg_pipelines") or name.startswith("bg_pipelines.sandbox"), (
                    path,
                    name,
                )


def test_a_sandbox_that_was_never_started_can_be_stopped_and_one_that_ended_refuses() -> None:
    Sandbox(World(shops=1, variants=1)).stop()
    with Sandbox(World(shops=1, variants=1)) as sandbox:
        session = requests.Session()
        assert session.get(f"{sandbox.url}/sandbox/shops", timeout=PATIENCE).ok
    with pytest.raises(requests.ConnectionError):
        session.get(f"{sandbox.url}/sandbox/shops", timeout=PATIENCE)


def test_a_page_of_250_variants_is_quick() -> None:
    query = """{ productVariants(first: 250) { nodes { id title sku barcode price compareAtPrice position
      inventoryQuantity createdAt updatedAt inventoryItem { id sku tracked } product { id title } } } }"""
    with Sandbox(World(shops=1, variants=400)) as sandbox, requests.Session() as session:
        (shop,) = sandbox.world.shops.values()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            answer = session.post(
                f"{shop.api_url}/admin/api/2026-07/graphql.json",
                json={"query": query},
                headers={"X-Shopify-Access-Token": shop.token},
                timeout=PATIENCE,
            )
            times.append(time.perf_counter() - start)
            assert len(answer.json()["data"]["productVariants"]["nodes"]) == 250
        assert min(times) < 0.5
