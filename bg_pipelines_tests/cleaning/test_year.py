"""A year of use, its clock turned: what is kept for a time stays at the size of that time."""

from __future__ import annotations

import pytest

from bg_pipelines.cleaning.retention import RULES
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning import test_carts, test_database
from bg_pipelines_tests.support import DatabaseClock, query

WEEK = """
    INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at, customer_external_id)
        SELECT 1, at || '/' || n, at - n * interval '1 hour', at, CASE WHEN n % 3 = 0 THEN 'c' END FROM generate_series(1, 150) n;
    INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity)
        SELECT 1, at || '/' || n, at, at || '/' || n, 't', 1 FROM generate_series(1, 150) n;
    INSERT INTO inventory_reservations (store_id, cart_external_id, inventory_item_external_id, location_external_id, quantity)
        SELECT 1, at || '/' || n, 'i', 'l', 1 FROM generate_series(1, 150) n;
    INSERT INTO sessions (id, store_id, expires_at) SELECT at || '/' || n, 1, at + interval '2 weeks' FROM generate_series(1, 150) n;
    INSERT INTO sync_attempts (run_id, store_id, resource, status) SELECT 'r', 1, 'orders', 'succeeded' FROM generate_series(1, 200);
    INSERT INTO sync_attempts (run_id, store_id, resource, status) SELECT 'r', 1, 'orders', 'failed' FROM generate_series(1, 20);
    INSERT INTO job_runs (run_id, job, queue, finished_at) SELECT at || '/' || n, 'j', 'q', at FROM generate_series(1, 50) n;
    INSERT INTO audits (store_id, resource, run_id, sampled, different, missing, ahead, gone, lag, short, repaired)
        SELECT 1, 'orders', 'r', 1, 0, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 20);
    INSERT INTO webhook_events (store_id, source, topic, webhook_id, status) SELECT 1, 'shopify', 't', at || '/' || n, 'handled'
        FROM generate_series(1, 200) n;
    INSERT INTO webhook_coverage (store_id, resource, hour) VALUES (1, 'orders', at);
    INSERT INTO incidents (fingerprint, status, needs_attention, error_type, severity, source, subject, message, resolved_at)
        SELECT 'job:j:' || at || n, 'resolved', true, 'unknown', 'low', 's', 's', 'm', at FROM generate_series(1, 10) n;
    INSERT INTO alerts (incident_id, kind, severity, title, body) SELECT id, 'opened', 'low', 't', 'b' FROM incidents
        WHERE resolved_at = at;
    INSERT INTO alert_deliveries (alert_id, target, status) SELECT id, 'sms:1', 'sent' FROM alerts WHERE created_at = at;
    INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) SELECT 1, 'orders', at || '/' || n, 'r', ''
        FROM generate_series(1, 10) n;
    INSERT INTO orders (store_id, external_id, source_updated_at, deleted_at, name, status, is_return, is_test, currency, total,
        tags, ordered_at, source_created_at) SELECT 1, at || '/' || n, at, at, 'n', 'open', false, false, 'EUR', 1, '{}', at, at
        FROM generate_series(1, 20) n"""
TABLES = (
    *(
        "carts",
        "cart_items",
        "inventory_reservations",
        "sessions",
        "cart_events",
        "sync_attempts",
        "job_runs",
        "audits",
    ),
    *(
        "webhook_events",
        "webhook_coverage",
        "incidents",
        "alerts",
        "alert_deliveries",
        "rejected_rows",
        "orders",
    ),
    *("cleaning_tasks", "cleaning_results", "cleaning_set_aside"),
)


def rows(database: Database) -> dict[str, int]:
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
    return query(database, f"SELECT {counts}")[0]


@pytest.mark.timeout(170)
def test_after_a_year_every_table_is_as_large_as_after_eight_months(
    clock: DatabaseClock, database: Database
) -> None:
    query(
        database,
        "INSERT INTO stores (name, platform, domain, credentials) VALUES ('h', 'shopify', 'h.example', '')",
    )
    rules = [rule for rule in RULES if rule.table in TABLES]
    sizes = []
    for week in range(0, 52, 2):
        with database.transaction() as connection:
            for statement in WEEK.split(";"):
                connection.execute(
                    statement.replace("at ||", "now() ||").replace(" at", " now()").replace("(at", "(now()")
                )
        clock.advance(days=7)
        test_carts.clean(database, run_id=f"carts {week}")
        if week % 4 == 2:
            test_database.clean(database, rules, run_id=f"database {week}", upkeep=False)
            sizes.append(rows(database))
        clock.advance(days=7)
    eight_months, year = sizes[8], sizes[-1]
    for table in TABLES:
        print(f"{table}: {eight_months[table]:,} rows after 36 weeks, {year[table]:,} after 52")
        assert year[table] <= eight_months[table] * 1.15 + 1, table
