"""Dagster's history is pruned: old runs that ended go, with their logs; the events of assets stay for a while."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.definitions import defs
from bg_pipelines.orchestration.run_history import HistoryKeep, prune, prunes_itself, vacuum
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.support import query

DAY = timedelta(days=1)


def later(days: int) -> Any:
    return lambda: datetime.now(UTC) + days * DAY


def events(dagster_url: str) -> dict[str, int]:
    database = Database(dagster_url)
    try:
        return {
            row["kind"]: row["n"]
            for row in query(
                database,
                "SELECT CASE WHEN asset_key IS NULL THEN 'other' ELSE 'asset' END AS kind, count(*) AS n FROM event_logs "
                "GROUP BY 1",
            )
        }
    finally:
        database.close()


@pytest.mark.usefixtures("environment")
def test_old_runs_go_failures_later_and_runs_that_are_not_finished_never(
    database: Database, instance: dg.DagsterInstance, dagster_url: str
) -> None:
    succeeded = execute("clean_active_carts", instance).dagster_run.run_id
    failed = execute("clean_active_carts", instance, tasks=["no such task"]).dagster_run.run_id
    job = defs.resolve_job_def("clean_active_carts")
    waiting = [
        instance.create_run_for_job(job, status=status).run_id
        for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED)
    ]
    assert prune(instance, rest=0).figures == {}
    pruned = prune(instance, now=later(15), rest=0)
    assert pruned.figures["dagster_runs.rows"] == 1
    assert {run.run_id for run in instance.get_runs()} == {failed, *waiting}
    assert events(dagster_url)["asset"] > 0, "the UI goes on drawing what was materialized"
    key = dg.AssetKey("clean_active_carts")
    assert instance.fetch_materializations(key, limit=5).records[0].run_id == succeeded
    assert prune(instance, now=later(61), rest=0).figures["dagster_runs.rows"] == 1
    assert {run.run_id for run in instance.get_runs()} == set(waiting)
    assert prune(instance, now=later(181), rest=0).figures["dagster_asset_runs.rows"] == 1
    assert "asset" not in events(dagster_url)
    assert vacuum(instance) > 0
    assert prune(instance, now=later(999), rest=0).figures == {}


@pytest.mark.usefixtures("environment")
def test_of_events_that_are_of_no_run_the_old_ones_go_and_the_new_ones_stay(
    instance: dg.DagsterInstance, dagster_url: str
) -> None:
    def evaluate(passed: bool) -> None:
        key = dg.AssetKey("orders")
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=key, check_name="drift", passed=passed)
        )
        instance.report_runless_asset_event(dg.AssetObservation(key))

    evaluate(False)
    database = Database(dagster_url)
    try:
        query(database, "UPDATE event_logs SET timestamp = timestamp - interval '181 days'")
        query(
            database,
            "UPDATE asset_check_executions SET create_timestamp = create_timestamp - interval '181 days'",
        )
        evaluate(True)
        pruned = prune(instance, rest=0).figures
        assert (pruned["dagster_events.rows"], pruned["dagster_checks.rows"]) == (2, 1)
        assert query(database, "SELECT execution_status FROM asset_check_executions") == [
            {"execution_status": "SUCCEEDED"}
        ]
        assert events(dagster_url) == {"asset": 1, "other": 1}
    finally:
        database.close()
    assert prune(instance, rest=0).figures == {}


def test_it_stops_when_it_is_told_to_and_by_itself_where_dagster_prunes(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute("clean_active_carts", instance, tasks=["no such task"])
    stopped = prune(instance, HistoryKeep(failed=timedelta(0)), now=later(1), stop=lambda: "paused by jane")
    assert (stopped.figures, stopped.why) == ({}, "paused by jane")
    assert not prunes_itself(instance)
    monkeypatch.setattr(instance, "_settings", {"retention": {"event_logs": {"purge_after_days": 7}}})
    assert prunes_itself(instance)
    assert prune(instance, HistoryKeep(failed=timedelta(0)), now=later(1)).figures == {}
