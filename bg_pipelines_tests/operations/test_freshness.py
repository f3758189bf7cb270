"""Stores that are not read to the end any more, although nothing fails: told once, and when it is over."""

from __future__ import annotations

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.freshness import report_stale
from bg_pipelines.queues import Unit
from bg_pipelines_tests.support import query

ENDS = "last_succeeded_at = clock_timestamp() - interval '10 minutes', next_due_at = clock_timestamp()"
NEVER_ENDS = "last_succeeded_at = clock_timestamp() - interval '5 hours', next_due_at = clock_timestamp()"


@pytest.fixture(autouse=True)
def stores(database: Database) -> None:
    """Three stores of tier 1 that are well."""
    query(
        database,
        "INSERT INTO stores (name, platform, domain, tier, credentials, created_at) SELECT 'shop-' || n, 'shopify', "
        "n || '.example', 1, '', clock_timestamp() - interval '3 days' FROM generate_series(1, 3) n",
    )
    query(
        database,
        "INSERT INTO sync_states (store_id, resource, next_due_at, last_succeeded_at) SELECT id, unnest(%s::text[]), "
        "clock_timestamp() + interval '3 minutes', clock_timestamp() - interval '2 minutes' FROM stores",
        list(Unit),
    )


def change(database: Database, assignments: str, unit: Unit = Unit.ORDERS, store: str = "%") -> None:
    query(
        database,
        f"UPDATE sync_states SET {assignments} WHERE resource = %s "
        "AND store_id IN (SELECT id FROM stores WHERE name LIKE %s)",
        unit,
        store,
    )


def open_ones(database: Database) -> list[str]:
    return [row["message"] for row in query(database, "SELECT message FROM incidents WHERE status = 'open'")]


def test_passes_that_never_end_are_one_incident_by_resource_and_it_ends_with_them(database: Database) -> None:
    assert report_stale(database) == 0
    change(database, NEVER_ENDS)
    change(database, NEVER_ENDS, Unit.CUSTOMERS, "shop-2")
    assert report_stale(database) == report_stale(database) == 4
    [message] = open_ones(database)
    assert "orders of 3 stores" in message
    assert "customers of 1 store;" in message
    [row] = query(database, "SELECT occurrences, severity, error_type FROM incidents")
    assert row == {"occurrences": 1, "severity": "high", "error_type": "stale"}
    change(database, ENDS)
    change(database, ENDS, Unit.CUSTOMERS)
    assert report_stale(database) == 0
    assert open_ones(database) == []


@pytest.mark.parametrize(
    "other",
    [
        "attempts = 2",  # it fails, and that is told
        "next_due_at = NULL",  # parked under an incident of its own
        "last_succeeded_at = NULL",  # of a store that is three days old: its first pass should have ended
    ],
)
def test_what_has_failed_says_so_itself_and_a_first_pass_may_take_a_day(
    database: Database, other: str
) -> None:
    change(database, NEVER_ENDS)
    change(database, other, store="shop-1")
    assert report_stale(database) == (3 if "last" in other else 2)
    query(database, "UPDATE stores SET created_at = clock_timestamp()")
    assert report_stale(database) == 2


def test_stores_that_nobody_calls_are_not_stale(database: Database) -> None:
    change(database, NEVER_ENDS)
    query(database, "UPDATE stores SET paused_at = clock_timestamp() WHERE name = 'shop-1'")
    query(
        database,
        "INSERT INTO circuits (key, store_id, failures, opened_at) SELECT 'store:' || id, id, 5, clock_timestamp() "
        "FROM stores WHERE name = 'shop-2'",
    )
    assert report_stale(database) == 1


def test_what_is_due_once_a_day_may_be_as_old(database: Database) -> None:
    change(database, "last_succeeded_at = clock_timestamp() - interval '30 hours'", Unit.AUDIT)
    assert report_stale(database) == 0
