"""What PostgreSQL does to one store's transaction, in a database in use, stays with that store, which is retried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines_tests.support import query, wait_for

MakeSandbox = Callable[..., Sandbox]
PRODUCTS = (Unit.PRODUCTS,)


@pytest.fixture
def names(
    make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]], sync: Callable[..., Summary]
) -> list[str]:
    """Three stores whose products are held, and have changed since."""
    sandbox = make_sandbox(shops=3, variants=30)
    names = add_shops(sandbox)
    assert sync(units=PRODUCTS).complete == 3
    for shop in sandbox.world.shops.values():
        edit(shop, "update_product", id=shop.export()["products"][0]["id"], fields={"title": "New"})
    return names


@pytest.fixture
def sync_with(
    database_url: str, cipher: Cipher, names: list[str]
) -> Callable[..., tuple[Summary, list[dict[str, Any]]]]:
    """Read all products again in a new run, with settings of each connection; returns its summary and each store's row."""

    def run(
        before: Callable[[str], object] = lambda _: None, **settings: str
    ) -> tuple[Summary, list[dict[str, Any]]]:
        """`before` is called with a store's name when its platform is connected."""

        def set_up(connection: psycopg.Connection[Any], _: object) -> None:
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            connection.commit()

        def connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Any:
            before(access.name)
            return platforms.connect(access, api_version="2026-07", sleep=sleep)

        request = SyncRequest(PRODUCTS, stores=tuple(names), force=True)
        database = Database(database_url)
        sa.event.listen(database.engine, "connect", set_up)
        try:
            summary = SyncRun(
                database, cipher, request, run_id="second", connect=connect, log=lambda _: None
            ).run()
            return summary, query(
                database,
                "SELECT s.name, attempts, next_due_at > clock_timestamp() AS is_later, retry_strategy, lease_owner, "
                "last_error #>> '{details,sqlstate}' AS sqlstate, last_error ->> 'severity' AS severity FROM sync_states "
                "JOIN stores s ON s.id = store_id WHERE resource = 'products' ORDER BY s.id",
            )
        finally:
            database.close()

    return run


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


@contextmanager
def locked(url: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Rows held by a transaction of somebody else's."""
    with psycopg.connect(plain(url)) as connection:
        connection.execute(statement)
        yield connection
        connection.rollback()


OF_THE_FIRST = "SELECT FROM products WHERE store_id = (SELECT min(id) FROM stores) FOR UPDATE"


def assert_the_first_is_retried(
    summary: Summary, rows: list[dict[str, Any]], names: list[str], sqlstate: str
) -> None:
    assert (summary.done, summary.complete) == (3, 2)
    [failure] = summary.failures
    assert (failure.store, failure.error.error_type) == (names[0], "database")
    assert "not available" not in failure.error.message
    first, *others = rows
    assert first == {
        "name": names[0],
        "attempts": 1,
        "is_later": True,
        "retry_strategy": "exponential_backoff",
        "lease_owner": None,
        "sqlstate": sqlstate,
        "severity": "medium",
    }
    assert [(row["attempts"], row["retry_strategy"]) for row in others] == [(0, None)] * 2


@pytest.mark.parametrize(("setting", "sqlstate"), [("lock_timeout", "55P03"), ("statement_timeout", "57014")])
def test_a_store_whose_rows_somebody_holds_is_retried_and_the_others_are_synced(
    sync_with: Any, database_url: str, names: list[str], setting: str, sqlstate: str
) -> None:
    with locked(database_url, OF_THE_FIRST):
        summary, rows = sync_with(**{setting: "700ms"})
    assert_the_first_is_retried(summary, rows, names, sqlstate)


def test_a_store_whose_query_a_person_cancels_is_retried_and_the_others_are_synced(
    sync_with: Any, database_url: str, names: list[str]
) -> None:
    def cancel() -> None:
        with psycopg.connect(plain(database_url), autocommit=True) as person:
            waits = (
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            )
            wait_for(lambda: person.execute(waits).fetchone() != (0,))

    with locked(database_url, OF_THE_FIRST):
        person = threading.Thread(target=cancel)
        person.start()
        summary, rows = sync_with()
        person.join()
    assert_the_first_is_retried(summary, rows, names, "57014")


def test_a_store_for_whose_rows_there_is_no_temporary_space_is_retried_and_the_others_are_synced(
    sync_with: Any, database: Database, names: list[str]
) -> None:
    # A sort of 100,000 numbers with each of the store's rows: no other store's transaction needs a temporary file.
    query(
        database,
        "CREATE FUNCTION sort() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM count(*) FROM (SELECT n FROM generate_series(1, 100000) n ORDER BY random()) sorted; RETURN NEW; END $$",
    )
    query(
        database,
        "DO $$ BEGIN EXECUTE format('CREATE TRIGGER sort BEFORE UPDATE ON products FOR EACH ROW WHEN (new.store_id = %%s) "
        "EXECUTE FUNCTION sort()', (SELECT min(id) FROM stores)); END $$",
    )
    summary, rows = sync_with(work_mem="64kB", temp_file_limit="64kB")
    assert_the_first_is_retried(summary, rows, names, "53400")


def test_a_store_that_cannot_be_settled_while_somebody_holds_its_row_ends_no_run(
    sync_with: Any, database_url: str, names: list[str]
) -> None:
    with psycopg.connect(plain(database_url)) as somebody:

        def hold(name: str) -> None:
            if name == names[0]:
                somebody.execute(
                    "SELECT FROM sync_states WHERE store_id = (SELECT min(id) FROM stores) FOR UPDATE"
                )

        summary, rows = sync_with(hold, lock_timeout="300ms")
        somebody.rollback()
    assert (summary.done, summary.complete) == (3, 2)
    assert [row["attempts"] for row in rows] == [0, 0, 0]
    assert [row["is_later"] for row in rows] == [False, True, True]
