"""A run's row: others see that it lives while it works, and how it ended."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.work.pulse import RunRecord, pulse
from bg_pipelines_tests.support import query, wait_for


def row(database: Database) -> dict[str, Any]:
    [row] = query(
        database, "SELECT status, seen_at, finished_at, started_at, stores, stores_failed FROM job_runs"
    )
    return row


def test_while_a_run_works_it_is_heard_of_again_and_again(database: Database) -> None:
    with pulse(RunRecord(database, "run", "customer_sync"), beat_seconds=0.01):
        first = row(database)["seen_at"]
        wait_for(lambda: row(database)["seen_at"] > first)
        assert (row(database)["status"], row(database)["finished_at"]) == ("running", None)
    assert row(database)["status"] == "succeeded"
    assert row(database)["finished_at"] is not None


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_how_it_ended_stands_in_its_row(database: Database, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), pulse(RunRecord(database, "run", "customer_sync")):
        raise error
    assert row(database)["status"] == status


def test_a_later_part_of_a_run_keeps_its_beginning_and_its_counts(database: Database) -> None:
    record = RunRecord(database, "run", "customer_sync")
    with database.transaction() as connection:
        record.begin(connection)
        record.save(connection, "succeeded", stores=7, stores_failed=2)
        connection.execute("UPDATE job_runs SET started_at = started_at - interval '1 minute'")
    began = row(database)["started_at"]
    with pulse(record) as elapsed:
        assert 60 <= elapsed.total_seconds() < 120
    after = row(database)
    assert (after["started_at"], after["stores"], after["stores_failed"]) == (began, 7, 2)
