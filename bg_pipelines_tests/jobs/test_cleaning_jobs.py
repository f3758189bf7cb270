"""The cleaning jobs as Dagster runs them."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning.test_carts import add_cart, ids
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.support import query


@pytest.mark.usefixtures("environment")
def test_clean_active_carts_shows_what_it_freed_and_a_dry_run_what_it_would(database: Database) -> None:
    add_cart(database, "old", idle=timedelta(days=31), items=2)
    add_cart(database, "paid", idle=timedelta(days=99), payment_state="paid", total=12)
    dry = execute("clean_active_carts", dry_run=True)
    assert dry.success
    assert metadata(dry)["rows_to_free"] == 3
    assert ids(database) == ["old", "paid"]
    result = execute("clean_active_carts")
    assert result.success
    shown = metadata(result)
    assert (shown["rows_freed"], shown["old_carts_with_money"]) == (3, 1)
    assert ids(database) == ["paid"]
    [materialized] = [
        event for event in result.all_node_events if event.event_type_value == "ASSET_MATERIALIZATION"
    ]
    assert materialized.asset_key == dg.AssetKey("clean_active_carts")
    assert metadata(execute("clean_active_carts", tasks=["carts"]))["rows_freed"] == 0


@pytest.mark.usefixtures("environment")
def test_clean_database_does_all_of_its_tasks(database: Database, instance: dg.DagsterInstance) -> None:
    query(database, "INSERT INTO cart_events (store_id, cart_external_id, kind, happened_at) "
          "VALUES (1, 'c', 'cart.abandoned', now() - interval '91 days')")  # fmt: skip
    dry = execute("clean_database", instance, dry_run=True)
    assert metadata(dry)["rows_to_free"] == 1
    result = execute("clean_database", instance)
    assert result.success
    shown = metadata(result)
    assert (shown["rows_freed"], "failed" in shown, "skipped" in shown) == (1, False, False)
    assert {row["task"] for row in query(database, "SELECT task FROM cleaning_results")} >= {
        "cart_events",
        "dagster_history",
        "vacuum",
        "advice",
    }
