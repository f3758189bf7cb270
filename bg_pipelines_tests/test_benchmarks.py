"""Benchmarks: each one runs to its end. What they measure is for people, with nothing beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from benchmarks.__main__ import NAMES

PROJECT = Path(__file__).parents[1]

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_ends_with_its_figures(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--small"], cwd=PROJECT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    figures = orjson.loads(ended.stdout.splitlines()[-1])
    assert figures.pop("benchmark") == name
    assert [key for key, value in figures.items() if isinstance(value, int | float)]
