"""Batches: short, resumable, polite, and stopped by no single row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import psycopg
import pytest

from bg_pipelines.cleaning import tasks
from bg_pipelines.cleaning.batches import Manners, Pace
from bg_pipelines.cleaning.carts import TABLES
from bg_pipelines.cleaning.pressure import Limits, measure
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning.test_carts import DAY, add_cart, clean, ids
from bg_pipelines_tests.support import KEY, PROJECT, HandClock, query, wait_for

MANY = """INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at)
    SELECT 1, 'cart ' || n, now() - interval '40 days', now() FROM generate_series(1, {0}) n;
    INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity)
    SELECT 1, 'item ' || n, now() - interval '40 days', 'cart ' || n, 't', 1 FROM generate_series(1, {0}) n"""


def add_many(database: Database, number: int) -> None:
    with database.transaction() as connection:
        for statement in MANY.format(number).split(";"):
            connection.execute(statement)
    with psycopg.connect(plain(database), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE carts, cart_items")


def plain(database: Database) -> str:
    return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def count(database: Database, table: str = "carts") -> int:
    return int(query(database, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def test_the_next_batch_is_as_large_as_the_time_allows() -> None:
    pace = Pace(100, seconds=0.05)
    pace.took(0.025)
    assert pace.size == 200
    pace.took(0.001)
    assert pace.size == 400, "it at most doubles"
    pace.took(10)
    assert pace.size == 100
    assert pace.halve()
    pace.size = 1
    assert not pace.halve()


def test_a_row_that_is_touched_or_locked_meanwhile_survives(database: Database) -> None:
    add_many(database, 200)
    with psycopg.connect(plain(database)) as shop:
        shop.execute("UPDATE carts SET source_updated_at = now() WHERE external_id = 'cart 7'")
        summary = clean(database)
        assert summary.figures["carts.rows"] == 199
        shop.commit()
    assert ids(database) == ["cart 7"]
    assert clean(database, run_id="again").rows == 0


@pytest.mark.parametrize("guard", ["foreign key", "trigger"])
def test_a_row_that_cannot_be_deleted_is_set_aside_with_its_reason_and_stops_nothing(
    database: Database, guard: str
) -> None:
    add_many(database, 500)
    if guard == "foreign key":
        query(
            database,
            "CREATE TABLE invoices (store_id bigint, cart text, FOREIGN KEY (store_id, cart) REFERENCES carts)",
        )
        query(database, "INSERT INTO invoices VALUES (1, 'cart 123')")
        reason = "the constraint invoices_store_id_cart_fkey of invoices (23503)"
    else:
        query(database, "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.external_id = 'cart 123' "
              "THEN RAISE 'jane@example.com wants it'; END IF; RETURN OLD; END $$")  # fmt: skip
        query(database, "CREATE TRIGGER guard BEFORE DELETE ON carts FOR EACH ROW EXECUTE FUNCTION guard()")
        reason = "PL/pgSQL function guard() line 1 at RAISE (P0001)"
    summary = clean(database)
    assert (summary.figures["carts.rows"], summary.done[0].outcome.set_aside) == (499, 1)
    assert ids(database) == ["cart 123"]
    assert ids(database, "cart_items", "cart_external_id") == ["cart 123"], "what it holds stays with it"
    [aside] = query(database, "SELECT task, key, reason FROM cleaning_set_aside")
    assert aside == {"task": "carts", "key": "1/cart 123", "reason": reason}
    # It is left out for a day, then tried again.
    assert clean(database, run_id="again").done[0].outcome.set_aside == 0
    query(database, "UPDATE cleaning_set_aside SET last_at = now() - interval '25 hours'")
    query(database, "DROP TABLE invoices" if guard == "foreign key" else "DROP TRIGGER guard ON carts")
    assert clean(database, run_id="later").figures["carts.rows"] == 1


def test_a_table_that_is_locked_ends_batches_and_never_the_run(database: Database) -> None:
    add_many(database, 100)
    with psycopg.connect(plain(database)) as shop:
        shop.execute("LOCK TABLE carts IN SHARE MODE")
        manners = Manners(lock_timeout_ms=10)
        summary = clean(database, manners=manners)
        first = summary.done[0].outcome
        assert first.completed
        assert (first.rows, first.left_over > 0) == (0, True)
    assert clean(database, run_id="again").figures["carts.rows"] == 100


def test_a_statement_that_takes_too_long_ends_its_batch_and_never_the_run(database: Database) -> None:
    add_many(database, 600)
    query(database, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.external_id = 'cart 123' "
          "THEN PERFORM pg_sleep(5); END IF; RETURN OLD; END $$")  # fmt: skip
    query(database, "CREATE TRIGGER slow BEFORE DELETE ON carts FOR EACH ROW EXECUTE FUNCTION slow()")
    first = clean(database, manners=Manners(statement_timeout_ms=60)).done[0].outcome
    assert first.completed
    assert first.left_over == 1
    left = ids(database)
    assert "cart 123" in left
    assert len(left) < 100, "the rows of one block"
    assert count(database, "cart_items") == len(left)


def test_a_run_that_is_out_of_time_yields_and_the_next_goes_on_at_the_place_reached(
    database: Database,
) -> None:
    add_many(database, 3_000)
    clock = HandClock()
    began = clock()

    def tick(seconds: float) -> None:
        clock.seconds += 20  # after each batch

    options: dict[str, Any] = {"clock": clock, "manners": Manners(first_size=1), "max_minutes": 1}
    summary = clean(database, **{**options, "sleep": tick})
    assert clock() - began >= 60
    [done] = summary.done
    assert done.outcome.why == "the run's time is over"
    assert 0 < done.outcome.figures["carts.rows"] < 3_000
    [task] = [task for task in list_tasks(database) if task.name == "carts"]
    assert task.state == "unfinished"
    assert task.share is not None
    assert 0 < task.share < 1
    assert task.seconds_left == pytest.approx((clock() - began - 20) * (1 / task.share - 1))
    left = count(database)
    summary = clean(database, run_id="next")
    assert summary.figures["carts.rows"] == left
    assert count(database) == 0
    results = query(
        database,
        "SELECT completed, rows_freed FROM cleaning_results WHERE task = 'carts' ORDER BY finished_at",
    )
    assert [row["completed"] for row in results] == [False, True]
    assert sum(row["rows_freed"] for row in results) == 6_000


def list_tasks(database: Database) -> list[tasks.TaskStatus]:
    with database.transaction() as connection:
        return tasks.list_tasks(connection)


def test_a_task_is_paused_and_resumed_by_command_while_a_run_is_at_work(database: Database) -> None:
    add_many(database, 2_000)
    clock = HandClock()

    def pause(seconds: float) -> None:
        clock.seconds += 2
        with database.transaction() as connection:
            tasks.set_paused(connection, ["carts"], "jane")

    summary = clean(database, clock=clock, sleep=pause, manners=Manners(first_size=1))
    assert summary.done[0].outcome.why == "paused by jane"
    assert count(database) > 0
    assert "carts" in clean(database, run_id="meanwhile").skipped
    with database.transaction() as connection:
        assert tasks.set_paused(connection, [], None) == ["carts"]
    clean(database, run_id="resumed")
    assert count(database) == 0


def test_it_waits_while_the_database_is_busy_and_yields_when_that_takes_long(database: Database) -> None:
    add_many(database, 50)
    clock = HandClock()
    with psycopg.connect(plain(database)) as shop:
        shop.execute("LOCK TABLE stores")
        waiting = threading.Thread(target=lambda: query(database, "SELECT * FROM stores"))
        waiting.start()
        try:
            wait_for(lambda: measure(database, []).lock_waits > 0)
            summary = clean(database, clock=clock, sleep=clock.sleep, limits=Limits(lock_waits=0))
        finally:
            shop.rollback()
            waiting.join()
    assert summary.done[0].outcome.why == "waited 60 s because of sessions waiting for locks"
    assert summary.done[0].pauses == {"sessions waiting for locks": pytest.approx(60)}
    assert count(database) == 50
    assert clean(database, run_id="calm").figures["carts.rows"] == 50


KILLED = """
import signal, sys
from bg_pipelines.cleaning.batches import Manners
from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.jobs import cart_tasks
from bg_pipelines.cleaning.run import CleaningRun
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begun", flush=True)
# With long rests it is never done before it is killed.
manners = Manners(batch_seconds=0.001, rest=50, first_size=1)
tasks = cart_tasks(CartKeep(), Cipher(sys.argv[2]))
CleaningRun(Database(sys.argv[1]), "clean_active_carts", tasks, run_id="killed", manners=manners).run()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_or_interrupted_leaves_nothing_half_done_and_another_finishes(
    database: Database, how: signal.Signals
) -> None:
    add_many(database, 8_000)
    url = database.engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, url, KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_for(lambda: count(database) < 8_000)
        os.kill(process.pid, how)
        process.wait()
    left = count(database)
    assert 0 < left < 8_000
    assert count(database, "cart_items") == left
    if how is signal.SIGKILL:
        query(database, "UPDATE cleaning_tasks SET lease_expires_at = now()")
    summary = clean(database, run_id="heir")
    assert summary.figures["carts.rows"] == left
    assert count(database, "cart_items") == 0


def test_two_runs_at_once_share_the_tasks(database: Database) -> None:
    add_many(database, 5_000)
    add_cart(database, "live")
    summaries = []
    threads = [
        threading.Thread(target=lambda run: summaries.append(clean(database, run_id=run)), args=(run,))
        for run in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.figures["carts.rows"] for summary in summaries) == 5_000
    assert {done.task for summary in summaries for done in summary.done} == set(TABLES)
    assert ids(database) == ["live"]


def test_a_task_that_fails_is_retried_and_parked_and_stops_no_other(database: Database) -> None:
    query(database, "ALTER TABLE sessions RENAME TO visits")
    add_cart(database, "old", idle=31 * DAY)
    summary = clean(database)
    assert count(database) == 0
    [failed] = [done for done in summary.done if done.failure]
    assert failed.task == "sessions"
    [incident] = query(database, "SELECT kind, subject, status FROM incidents")
    assert incident == {"kind": "cleaning", "subject": "cleaning sessions", "status": "open"}
    query(database, "ALTER TABLE visits RENAME TO sessions")
    query(database, "UPDATE cleaning_tasks SET next_due_at = now()")
    clean(database, run_id="mended")
    assert query(database, "SELECT status FROM incidents") == [{"status": "resolved"}]


VIEWS = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.baskets (shop_id bigint, number bigint, touched_at timestamptz, user_id bigint, paid boolean,
        left_at timestamptz, PRIMARY KEY (shop_id, number));
    CREATE TABLE shop.basket_lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop_id bigint, basket bigint,
        made_at timestamptz);
    CREATE INDEX ON shop.basket_lines (shop_id, basket);
    CREATE VIEW shop.carts AS SELECT {place} shop_id AS store_id, number AS external_id, touched_at AS source_updated_at,
        user_id AS customer_external_id, left_at AS abandoned_at, NULL::timestamptz AS deleted_at,
        NULL::timestamptz AS completed_at, CASE WHEN paid THEN 'paid' ELSE 'none' END AS payment_state, NULL::numeric AS total,
        NULL::text AS currency FROM shop.baskets;
    CREATE VIEW shop.cart_items AS SELECT {place} shop_id AS store_id, id AS external_id, basket AS cart_external_id,
        made_at AS synced_at, NULL::timestamptz AS deleted_at FROM shop.basket_lines;
    CREATE VIEW shop.inventory_reservations AS SELECT id, store_id, cart_external_id::bigint, quantity, created_at
        FROM public.inventory_reservations;
    CREATE VIEW shop.sessions AS SELECT id, store_id, customer_external_id, cart_external_id::bigint, seen_at, expires_at
        FROM public.sessions;
    INSERT INTO shop.baskets SELECT 1, n, now() - n * interval '1 hour', NULLIF(n % 2, 0), n % 100 = 0, NULL
        FROM generate_series(1, 3000) n;
    INSERT INTO shop.basket_lines (shop_id, basket, made_at) SELECT 1, n, now() - n * interval '1 hour'
        FROM generate_series(1, 3000) n, generate_series(1, 2)"""


@pytest.mark.parametrize("place", ["", "ctid,"])
def test_an_application_gives_views_over_tables_of_its_own_with_or_without_their_blocks(
    database: Database, place: str
) -> None:
    with database.transaction() as connection:
        for statement in VIEWS.replace("{place}", place).split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO inventory_reservations (store_id, cart_external_id, inventory_item_external_id, "
                           "location_external_id, quantity) VALUES (1, '3', 'i', 'l', 1), (1, '1', 'i', 'l', 1)")  # fmt: skip
        connection.execute("DROP ROLE IF EXISTS shop_cleaner")
        connection.execute("CREATE ROLE shop_cleaner LOGIN")
        for grant in GRANTS:
            connection.execute(grant.replace("ROLE", "shop_cleaner"))
    url = database.engine.url.update_query_dict(
        {"options": "-c role=shop_cleaner -c search_path=shop,public"}
    )
    cleaner = Database(url.render_as_string(hide_password=False))
    try:
        summary = clean(cleaner)
    finally:
        cleaner.close()
    assert [done.failure for done in summary.done] == [None] * 4
    # Anonymous ones (even numbers) are kept for 30 days, those of a user for 90; each hundredth is paid.
    kept = query(database, "SELECT number FROM shop.baskets WHERE number >= 720 AND mod(number, 2) = 0")
    assert {row["number"] for row in kept} == set(range(800, 3001, 100))
    assert query(database, "SELECT count(*) AS n FROM shop.basket_lines l WHERE NOT EXISTS (SELECT FROM shop.baskets b "
                 "WHERE b.number = l.basket)") == [{"n": 0}]  # fmt: skip
    marked = query(
        database,
        "SELECT count(*) AS n FROM shop.baskets WHERE left_at IS NOT NULL AND number > 2 AND NOT paid",
    )
    unmarked = query(
        database, "SELECT count(*) AS n FROM shop.baskets WHERE left_at IS NULL AND number > 2 AND NOT paid"
    )
    assert (marked[0]["n"] > 0, unmarked[0]["n"]) == (True, 0)
    assert [
        row["cart_external_id"]
        for row in query(database, "SELECT cart_external_id FROM inventory_reservations")
    ] == ["1"]
    query(database, "DROP OWNED BY shop_cleaner")
    query(database, "DROP ROLE shop_cleaner")


GRANTS = [
    "GRANT USAGE ON SCHEMA shop TO ROLE",
    "GRANT SELECT, UPDATE, DELETE ON shop.carts, shop.cart_items, shop.inventory_reservations, shop.sessions TO ROLE",
    "GRANT SELECT ON cart_rules, incidents, alembic_version TO ROLE",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON cleaning_tasks, cleaning_results, cleaning_set_aside TO ROLE",
    "GRANT SELECT, INSERT ON cart_events, archived_rows TO ROLE",
    "GRANT UPDATE ON incidents TO ROLE",
]
