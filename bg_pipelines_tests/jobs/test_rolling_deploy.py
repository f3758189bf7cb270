"""A rolling deploy: the old program, the next one and the next tables meet, each in processes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines_tests.jobs.test_jobs import job_process, pause_after_a_commit, rows_held
from bg_pipelines_tests.support import PATIENCE, PROJECT, assert_equal_to_source, query, wait_for

NEXT_TABLES = '''
"""What a release may do to tables that an older program uses: it adds."""

from alembic import op

revision = "{number:04}"
down_revision = "{before:04}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sync_states ADD COLUMN of_the_next text NOT NULL DEFAULT 'next'")
    op.execute("ALTER TABLE inventory_levels ADD COLUMN of_the_next text")
    op.execute("CREATE TABLE of_the_next (store_id bigint PRIMARY KEY REFERENCES stores (id))")


def downgrade() -> None:
    raise NotImplementedError
'''


@pytest.fixture
def next_program(tmp_path: Path) -> Path:
    """The next release: this one, with one migration more."""
    shutil.copytree(
        PROJECT / "bg_pipelines", tmp_path / "bg_pipelines", ignore=shutil.ignore_patterns("__pycache__")
    )
    versions = tmp_path / "bg_pipelines" / "database" / "migrations" / "versions"
    last = max(int(path.name[:4]) for path in versions.glob("[0-9]*.py"))
    (versions / f"{last + 1:04}_next.py").write_text(NEXT_TABLES.format(number=last + 1, before=last))
    return tmp_path


@pytest.mark.usefixtures("environment")
def test_a_run_of_the_old_program_a_migration_and_a_run_of_the_next_meet_and_nothing_is_lost_or_done_twice(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    next_program: Path,
) -> None:
    sandbox = make_sandbox(shops=1, variants=3000)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=100_000, restore=10_000)
    pause_after_a_commit(shop, seconds=PATIENCE)
    with job_process("inventory_sync") as old:
        wait_for(lambda: rows_held(database) > 0 or old.poll() is not None)
        with job_process("store_sync", next_program) as too_early:
            assert too_early.wait(PATIENCE) != 0, "its tables are not there yet"
        assert query(database, "SELECT 1 FROM products") == []
        migrate = [sys.executable, "-m", "bg_pipelines.cli", "migrate"]
        environment = {**os.environ, "PYTHONPATH": str(next_program)}
        subprocess.run(migrate, cwd=next_program, env=environment, check=True, timeout=PATIENCE)
        assert old.poll() is None, "it was done before its tables changed: this test shows nothing"
        with job_process("store_sync", next_program) as beside_it:
            assert beside_it.wait(PATIENCE) == 0
        assert old.poll() is None
        old.send_signal(signal.SIGTERM)
        old.wait(PATIENCE)
    shop.faults.clear()
    held = rows_held(database)
    with job_process("inventory_sync", next_program) as successor:
        assert successor.wait(PATIENCE) == 0
    assert_equal_to_source(database, sandbox)
    tries = query(
        database,
        "SELECT status, rows_read FROM sync_attempts WHERE resource = 'inventory_levels' ORDER BY id",
    )
    assert [one["status"] for one in tries] == ["released", "succeeded"]
    again = sum(one["rows_read"] for one in tries) - rows_held(database)
    assert again < held / 10, "it began where the other ended"
    # The step back: the tables may stay.
    query(database, "UPDATE sync_states SET next_due_at = now()")
    with job_process("inventory_sync") as old:
        assert old.wait(PATIENCE) == 0
    assert_equal_to_source(database, sandbox)
