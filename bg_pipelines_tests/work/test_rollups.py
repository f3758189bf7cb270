"""Rollups: attempts added up once, visits without an attempt counted, changes timed from their source to our commit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.operations.metrics import read_metrics
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sync import Summary
from bg_pipelines.work import attempts, rollups
from bg_pipelines.work.attempts import Attempt
from bg_pipelines.work.rollups import Rollup

BOUNDS = (1.0, 5.0, 10.0)
DAY_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def read(database: Database) -> list[Rollup]:
    with database.transaction() as connection:
        return rollups.read(connection, DAY_AGO)


def end_attempts(database: Database, *statuses: str, ago: str = "5 minutes") -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at, finished_at, updated) "
            "SELECT 'r', s.id, 'orders', status, t - interval '3 s', t, 2 FROM stores s, unnest(%s::text[]) status, "
            "(SELECT clock_timestamp() - %s::interval) ended(t)",
            (list(statuses), ago),
        )


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Sandbox:
    sandbox = make_sandbox(shops=1, variants=10)
    add_shops(sandbox)
    return sandbox


def test_a_quantile_is_spread_within_its_bucket_and_never_beyond_the_last_bound() -> None:
    assert rollups.buckets([0.5, 1.0, 1.1, 5.0, 99.0], BOUNDS) == [2, 2, 0, 1]
    assert rollups.quantile([0, 0, 0, 0], BOUNDS, 0.5) is None
    assert rollups.quantile([0, 4, 0, 0], BOUNDS, 0.5) == 3.0
    assert rollups.quantile([1, 0, 1, 0], BOUNDS, 0.5) == 1.0
    assert rollups.quantile([1, 0, 0, 9], BOUNDS, 0.99) == 10.0


def test_an_attempt_counts_once_whether_it_is_rolled_up_or_not(database: Database, shops: Sandbox) -> None:
    end_attempts(database, "succeeded", "succeeded", "failed", "abandoned", "released", "running")
    before = read(database)
    [line] = before
    assert (line.job, line.resource, line.succeeded, line.failed) == ("customer_sync", "orders", 2, 2)
    assert (line.rows_written, sum(line.durations), line.durations[rollups.DURATIONS.index(5.0)]) == (8, 2, 2)
    for _ in range(2):
        rollups.roll_up(database)
        assert read(database) == before
    # One that has just ended is left to the next time, for another may be committed late.
    end_attempts(database, "succeeded", "failed", ago="0 s")
    for minutes in (0, 10, 0):
        with database.transaction() as connection:
            # As if so much time had passed.
            for change in ("sync_attempts SET finished_at = finished_at", "sync_rollups SET until = until"):
                connection.execute(f"UPDATE {change} - interval '{minutes} minutes'")
        [line] = read(database)
        assert (line.succeeded, line.failed) == (3, 3)
        rollups.roll_up(database)
        [line] = read(database)
        assert (line.succeeded, line.failed) == (3, 3)


def test_a_visit_that_found_nothing_new_succeeded_and_has_no_duration(
    database: Database, shops: Sandbox
) -> None:
    with database.transaction() as connection:
        ((store_id,),) = connection.execute("SELECT id FROM stores").fetchall()
        for _ in range(2):
            rollups.note_idle(connection, "customer_sync", [(store_id, "orders"), (store_id, "customers")])
    assert [(line.resource, line.idle, line.succeeded) for line in read(database)] == [
        ("customers", 2, 0),
        ("orders", 2, 0),
    ]
    [job] = [job for job in read_metrics(database).jobs if job.job == "customer_sync"]
    assert (job.success_rate, job.p50_seconds) == (1, None)


def test_a_change_is_timed_from_its_source_to_our_commit_and_a_first_pass_is_not(
    database: Database, shops: Sandbox, sync: Callable[..., Summary]
) -> None:
    (shop,) = shops.world.shops.values()
    sync(units=(Unit.PRODUCT_VARIANTS,), job="store_sync", run_id="first")
    assert sum(read(database)[0].lags) == 0
    variant = next(iter(shop.store.variants))
    shop.clock.offset_seconds = -40  # it changed so long ago
    edit(shop, "update_variant", id=variant["id"], fields={"price": "77.00"})
    shop.clock.offset_seconds = 0
    for run_id in ("second", "third"):  # the third reads it again, and writes nothing
        sync(
            units=(Unit.PRODUCT_VARIANTS,),
            stores=tuple(store_names(database)),
            job="store_sync",
            run_id=run_id,
        )
        [line] = read(database)
        assert sum(line.lags) == line.lags[rollups.LAGS.index(60.0)] == 1
        assert line.lag_seconds == pytest.approx(50, abs=10)
    with database.transaction() as connection:
        ((at, lag),) = connection.execute(
            "SELECT last_change_at, last_change_lag FROM sync_states WHERE resource = 'product_variants'"
        ).fetchall()
    assert at.strftime("%Y-%m-%dT%H:%M:%SZ") == variant["updatedAt"]
    assert timedelta(seconds=40) <= lag < timedelta(seconds=60)
    [all_tiers, _] = [
        line for line in read_metrics(database).freshness if line.resource == Resource.PRODUCT_VARIANTS
    ]
    assert (all_tiers.tier, all_tiers.stores, all_tiers.changes, all_tiers.never) == (None, 1, 1, 0)
    assert 30 < (all_tiers.lag_p50_seconds or 0) < 60
    assert 0 < (all_tiers.age_p99_seconds or 0) < 60


def test_the_lags_of_an_attempt_add_up_over_its_commits_and_one_without_any_has_none(
    database: Database, shops: Sandbox
) -> None:
    with database.transaction() as connection:
        ((store_id,),) = connection.execute("SELECT id FROM stores").fetchall()
        for number, commits in enumerate([[], [()], [(2.0,), (), (2.0, 70.0)], [(), (3.0,)]]):
            attempt = Attempt(number + 1, "run", store_id, "orders", DAY_AGO)
            for lags in commits:
                attempts.count(connection, attempt, 1, Counts(), lags)
        kept = connection.execute("SELECT id, lags, lag_seconds FROM sync_attempts ORDER BY id").fetchall()
    assert kept == [
        (2, None, None),
        (3, rollups.buckets([2.0, 2.0, 70.0], rollups.LAGS), 74.0),
        (4, rollups.buckets([3.0], rollups.LAGS), 3.0),
    ]


def store_names(database: Database) -> list[Any]:
    with database.transaction() as connection:
        return [name for (name,) in connection.execute("SELECT name FROM stores")]
