"""A year of use, its clock turned: what is kept for a time takes the room of that time, and no more.

The suite turns a year in steps of eight weeks, keeps for 180 days at most what is kept for longer, and compares rows.
`BG_TEST_FULL=1 pytest -s bg_pipelines_tests/cleaning/test_year.py` turns 120 weeks one by one, with ten times as much in each, under
the rules as they are and with all upkeep, and compares bytes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from bg_pipelines.cleaning import files
from bg_pipelines.cleaning.retention import RULES
from bg_pipelines.database.engine import Database
from bg_pipelines.orchestration import run_history
from bg_pipelines_tests.cleaning import test_carts, test_database
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.support import DatabaseClock, query

IS_FULL = os.environ.get("BG_TEST_FULL") == "1"
STEP, LAST, MUCH = (1, 120, 10) if IS_FULL else (8, 56, 1)
"""Weeks from one cleaning to the next, how many weeks there are, and how much there is in each step."""
LONGEST = timedelta(days=9_999 if IS_FULL else 180)
NAME = "now() || '/' || n"

EACH: dict[str, tuple[int, dict[str, str]]] = {
    "carts": (150, {"source_updated_at": "now() - n * interval '1 hour'", "customer_external_id": "CASE WHEN n % 3 = 0 THEN 'c' END"}),
    "cart_items": (150, {"cart_external_id": NAME}),
    "inventory_reservations": (150, {"cart_external_id": NAME}),
    "sessions": (150, {"expires_at": "now() + interval '2 weeks'"}),
    "sync_attempts": (200, {"status": "CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END"}),
    "sync_rollups": (10, {}),
    "figure_samples": (10, {"minutes": "n"}),
    "activity": (10, {"via": "'board'"}),
    "board_sessions": (5, {"digest": "(now() || '/' || n)::bytea", "user_name": "'ada'", "expires_at": "now()"}),
    "board_login_failures": (5, {}),
    "job_runs": (50, {"finished_at": "now()", "status": "'succeeded'"}),
    "audits": (20, {}),
    "webhook_events": (200, {
        "status": "(ARRAY['handled', 'ignored', 'not_understood', 'pending'])[1 + n % 4]", "next_due_at": "NULL"}),
    "webhook_coverage": (5, {}),
    "incidents": (10, {"status": "'resolved'", "resolved_at": "now()"}),
    "rejected_rows": (10, {}),
    "customer_changes": (20, {"status": "'applied'"}),
    "inventory_corrections": (20, {"status": "'applied'"}),
    "text_messages": (20, {"status": "'delivered'", "kind": "'service'"}),
    "text_replies": (5, {"reading": "'other'", "settled_at": "now()"}),
    "text_subscriptions": (5, {"alert": "'price_drop'", "variant_external_id": "'v'", "ended_at": "now()"}),
    **{
        table: (5, {"deleted_at": "now()"})
        for table in ("locations", "products", "product_variants", "inventory_levels", "customers", "orders", "order_lines",
                      "refunds", "webhook_subscriptions")
    },
}  # fmt: skip
"""How many rows of each table are written in a step, and what of them is not as their columns have it."""
OF_TYPE = {
    "text": NAME,
    "bigint": "1",
    "integer": "1",
    "smallint": "1",
    "numeric": "1",
    "boolean": "false",
    "timestamp with time zone": "now()",
    "text[]": "'{}'",
    "jsonb": "'{}'",
    "bytea": "''",
}
ALERTS = """
    INSERT INTO alerts (incident_id, kind, severity, title, body) SELECT id, 'opened', 'low', 't', 'b' FROM incidents
        WHERE resolved_at = now();
    INSERT INTO alert_deliveries (alert_id, target, status) SELECT id, 'sms:1', 'sent' FROM alerts WHERE created_at = now()"""
RUNS = """
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, create_timestamp, update_timestamp)
        SELECT %(at)s || '/' || n, snapshot_id, pipeline_name, mode, CASE WHEN n % 5 = 0 THEN 'FAILURE' ELSE status END, run_body,
        %(at)s, %(at)s FROM model_runs CROSS JOIN generate_series(1, %(runs)s) n;
    INSERT INTO run_tags (run_id, key, value) SELECT %(at)s || '/' || n, key, value FROM model_tags
        CROSS JOIN generate_series(1, %(runs)s) n;
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
        SELECT %(at)s || '/' || n, event, dagster_event_type, %(at)s, step_key, asset_key, partition
        FROM model_events CROSS JOIN generate_series(1, %(runs)s) n"""


def use(database: Database) -> None:
    with database.transaction() as connection:
        for table, (number, given) in EACH.items():
            needed = connection.execute(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
                "AND attnotnull AND NOT atthasdef AND attidentity = ''",
                (table,),
            ).fetchall()
            values = {name: OF_TYPE[type_] for name, type_ in needed} | given
            connection.execute(
                f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} "
                f"FROM generate_series(1, {number * MUCH}) n"
            )
        for statement in ALERTS.split(";"):
            connection.execute(statement)
        connection.execute("DELETE FROM people_queue")  # which each sync of customers empties


class Dagster:
    """Dagster's storage: the runs of each step are copies of one that really ran."""

    def __init__(self, instance: dg.DagsterInstance, url: str, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        execute("clean_active_carts", instance, tasks=["sessions"])
        for name, table in (("runs", "runs"), ("tags", "run_tags"), ("events", "event_logs")):
            self.connection.execute(f"CREATE TABLE model_{name} AS SELECT * FROM {table}")
            self.connection.execute(f"DELETE FROM {table}")

    def use(self, at: datetime) -> None:
        at = at.replace(tzinfo=None)
        for statement in RUNS.split(";"):
            self.connection.execute(
                statement.replace("%(at)s", f"'{at}'::timestamp").replace("%(runs)s", str(8 * MUCH))
            )
        for number in range(1, 8 * MUCH + 1):
            log = self.folder / f"{at}" / str(number) / "compute_logs" / "op.out"
            log.parent.mkdir(parents=True)
            log.write_text("a line\n" * 100)

    def clean(self, now: datetime) -> tuple[int, int]:
        """Runs and events that are left, and the bytes of the storage."""
        run_history.prune(self.instance, now=lambda: now, sleep=lambda _: None)
        size = run_history.vacuum(self.instance) if IS_FULL else 0
        row = self.connection.execute(
            "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM event_logs)"
        ).fetchone()
        assert row is not None
        return row[0], size


def write_logs(folder: Path, now: datetime) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "receiver.log").open("a") as log:
        log.writelines(f"{now} delivery {number * 7919 % 65537}\n" for number in range(3_000 * MUCH))
    files.rotate(folder, now=now, largest=50_000)


Sizes = dict[str, tuple[int, int]]
"""Rows, or files, and bytes."""


def sizes(database: Database) -> Sizes:
    """Of each table, with its indexes."""
    tables = query(
        database,
        "SELECT relname AS name, pg_total_relation_size(oid) AS size FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
    )
    counts = ", ".join(f"(SELECT count(*) FROM {table['name']}) AS {table['name']}" for table in tables)
    [rows] = query(database, f"SELECT {counts}")
    return {table["name"]: (rows[table["name"]], table["size"]) for table in tables}


def size_of(folder: Path) -> tuple[int, int]:
    files_in_it = [path for path in folder.rglob("*") if path.is_file()]
    return len(files_in_it), sum(path.stat().st_size for path in files_in_it)


@pytest.mark.usefixtures("environment")
@pytest.mark.timeout(3_000 if IS_FULL else 170)
def test_what_is_kept_takes_no_more_room_at_the_end_of_a_year_than_before(
    clock: DatabaseClock, database: Database, instance: dg.DagsterInstance, dagster_url: str, tmp_path: Path
) -> None:
    query(database, "INSERT INTO stores (name, platform, domain, credentials) VALUES ('h', 'shopify', 'h.example', '')")  # fmt: skip
    query(database, "INSERT INTO board_users (name, role, password) VALUES ('ada', 'admin', '')")
    query(database, "INSERT INTO cart_rules (store_id, archive) VALUES (1, '12 weeks')")
    rules = [replace(rule, keep=min(rule.keep, LONGEST)) for rule in RULES]
    assert {rule.table for rule in rules} - EACH.keys() == {
        "alerts",
        "archived_rows",
        "cart_events",
        "cleaning_results",
    }
    dagster = Dagster(instance, dagster_url, tmp_path / ".bg" / "dagster")
    seen: list[Sizes] = []
    for week in range(STEP, LAST + 1, STEP):
        now = clock.advance(days=7 * STEP)
        use(database)
        dagster.use(now)
        write_logs(tmp_path / "home", now)
        test_carts.clean(database, run_id=f"carts {week}")
        query(
            database, "SELECT pg_stat_force_next_flush()"
        )  # which comes within seconds where weeks are as long as weeks
        test_database.clean(database, rules, run_id=f"database {week}", upkeep=IS_FULL)
        if IS_FULL:
            # As the server does by itself within minutes, which no week has here.
            clock.connection.execute("VACUUM")
        history = dagster.clean(now)
        if week > LAST / 2:
            seen.append(
                {
                    **sizes(database),
                    "Dagster's storage": history,
                    ".bg: logs": size_of(tmp_path / "home"),
                    ".bg: logs of runs": size_of(tmp_path / ".bg" / "dagster"),
                }
            )
    dagster.connection.close()
    earlier, later = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    print(f"\nat most, in weeks {LAST // 2 + 1} to {LAST * 3 // 4} and to {LAST}:")
    grown = []
    for name in seen[0]:
        (rows_before, size_before), (rows, size) = (
            tuple(max(sizes[name][part] for sizes in some) for part in (0, 1)) for some in (earlier, later)
        )
        print(
            f"{name}: {rows_before:,} and {rows:,} rows, {size_before / 1000:,.0f} and {size / 1000:,.0f} kB"
        )
        if rows > rows_before * 1.02 + 2 or (IS_FULL and size > size_before * 1.1 + 50_000):
            grown.append(name)
    assert grown == []
