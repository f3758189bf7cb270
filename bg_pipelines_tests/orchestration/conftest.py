"""The home of a daemon, and the instance that it and the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from bg_pipelines_tests.orchestration.daemons import make_home


@pytest.fixture
def home(tmp_path: Path, dagster_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", dagster_url)
    return make_home(tmp_path / "dagster", monkeypatch)


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance
