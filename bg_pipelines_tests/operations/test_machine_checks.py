"""Hints about the machine: what is no fault, and lets somebody see what he should not."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import psycopg
import pytest

from bg_pipelines.database import embedded
from bg_pipelines.operations.machine_checks import hints
from bg_pipelines.settings import SHOPIFY_API_VERSION, Settings
from bg_pipelines_tests.support import PROJECT

TODAY = date(2026, 11, 29)


def test_a_home_that_everybody_may_enter_is_a_hint(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(home_dir=home)
    assert list(hints(settings, TODAY)) == []
    home.mkdir(mode=0o755)
    [hint] = hints(settings, TODAY)
    assert f"chmod o-rwx {home}" in hint


def test_a_server_that_logs_customers_data_is_a_hint_with_its_remedy(
    server_home: Path, database_url: str, tmp_path: Path
) -> None:
    def found() -> list[str]:
        url = database_url.replace("postgres:@", "clerk:@")
        return list(hints(Settings(home_dir=tmp_path / "home", database_url=url), TODAY))

    with psycopg.connect(embedded.ensure(server_home).url("postgres", driver=None), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS clerk")
        admin.execute("CREATE ROLE clerk LOGIN")
        try:
            assert found() == []
            admin.execute("ALTER ROLE clerk SET log_min_messages = 'warning'")
            [hint] = found()
            remedy = hint.partition("as a superuser, ")[2].partition(" (docs")[0]
            admin.execute(remedy)
            assert found() == []
        finally:
            admin.execute("REVOKE SET ON PARAMETER log_min_messages, log_parameter_max_length FROM clerk")
            admin.execute("DROP ROLE clerk")


@pytest.mark.parametrize(
    ("version", "today", "warned"),
    [
        ("2026-10", date(2027, 7, 3), False),
        ("2026-10", date(2027, 7, 4), True),
        ("2026-04", TODAY, False),
        ("2026-04", date(2027, 1, 2), True),
        ("unstable", TODAY, True),
    ],
)
def test_a_version_that_ends_within_ninety_days_is_a_hint(
    tmp_path: Path, version: str, today: date, warned: bool
) -> None:
    found = list(hints(Settings(home_dir=tmp_path / "home", shopify_api_version=version), today))
    assert bool(found) is warned
    assert all("BG_SHOPIFY_API_VERSION" in hint for hint in found)


def test_limits_of_an_earlier_version_are_a_hint_and_ours_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    settings = Settings(home_dir=tmp_path / "home")
    config = tmp_path / "dagster.yaml"
    shutil.copy(PROJECT / "dagster.yaml", config)
    assert list(hints(settings, TODAY)) == []
    config.write_text(
        'tag_concurrency_limits:\n  - { key: hurry, value: "no", limit: 4 }\n  - key: "job"\n    limit: 1\n'
    )
    [hint] = hints(settings, TODAY)
    assert hint.startswith(f"{config} limits runs by hurry, job: ")
    assert "docs/upgrade.md" in hint


def test_the_default_version_is_none_that_ends_soon(tmp_path: Path) -> None:
    assert (
        list(hints(Settings(home_dir=tmp_path / "home", shopify_api_version=SHOPIFY_API_VERSION), TODAY))
        == []
    )
