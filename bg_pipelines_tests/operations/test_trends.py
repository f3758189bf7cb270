"""Trends are of what was seen: nothing is made up where nobody looked, and no peak is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.trends import DAY_POINTS, HOUR_POINTS, read_trends, sample
from bg_pipelines_tests.support import query

NOON = datetime(2026, 11, 23, 12, 0, 20, tzinfo=UTC)
SIZE = "queue.stores_sync.size"


def add_stores(database: Database, number: int) -> None:
    """Stores that are due now."""
    query(
        database,
        "INSERT INTO stores (name, platform, domain, credentials) SELECT 'd' || now() || n, 'shopify', 'd' || now() || n, '' "
        f"FROM generate_series(1, {number}) n",
    )
    query(
        database,
        "INSERT INTO sync_states (store_id, resource) SELECT id, 'store' FROM stores ON CONFLICT DO NOTHING",
    )


def test_a_trend_has_a_value_for_each_time_that_was_looked_at_and_none_for_the_others(
    database: Database,
) -> None:
    query(database, "TRUNCATE figure_samples")
    assert read_trends(database) == {}
    add_stores(database, 3)
    assert sample(database, NOON - timedelta(hours=20))
    assert sample(database, NOON - timedelta(minutes=30))
    assert sample(database, NOON)
    trend = read_trends(database, NOON)[SIZE]
    assert (len(trend.hour), len(trend.day)) == (HOUR_POINTS, DAY_POINTS)
    assert {n: value for n, value in enumerate(trend.hour) if value is not None} == {29: 3, 59: 3}
    assert {n: value for n, value in enumerate(trend.day) if value is not None} == {15: 3, 93: 3, 95: 3}
    assert read_trends(database, NOON + timedelta(days=1, minutes=20)) == {}


def test_a_minute_is_looked_at_once_and_a_quarter_of_an_hour_keeps_its_peak(database: Database) -> None:
    query(database, "TRUNCATE figure_samples")
    add_stores(database, 5)
    assert sample(database, NOON)
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour'")
    assert not sample(database, NOON + timedelta(seconds=30)), "another has looked in this minute"
    assert sample(database, NOON + timedelta(minutes=1))
    trend = read_trends(database, NOON + timedelta(minutes=1))[SIZE]
    assert (trend.hour[-2:], trend.day[-1]) == ([5, 0], 5)
