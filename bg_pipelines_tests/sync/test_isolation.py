"""What one store's vendor, data or key does wrong stays with that store; what a person does meanwhile is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.platforms.shopify.client import classify_errors
from bg_pipelines.queues import Unit
from bg_pipelines.records import Page, StoreProfile
from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines.sync.units import UNITS
from bg_pipelines.work import attempts, store_units
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines_tests.support import Scripted, as_store, page, product, product_ids, query

MakeSandbox = Callable[..., Sandbox]
Run = Callable[..., Summary]


@pytest.fixture
def names(make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]]) -> list[str]:
    return add_shops(make_sandbox(shops=3, variants=30))


@pytest.fixture
def run_with(database: Database, cipher: Cipher, names: list[str]) -> Run:
    """Sync all stores; the first one's platform answers with what is given instead of its own methods."""

    def run(units: tuple[Unit, ...] = tuple(UNITS), **methods: Callable[..., Any]) -> Summary:
        def connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Any:
            platform = platforms.connect(access, api_version="2026-07", sleep=sleep)
            if access.name == names[0]:
                for name, method in methods.items():
                    setattr(platform, name, method)
            return platform

        request = SyncRequest(units, stores=tuple(names))
        return SyncRun(
            database, cipher, request, run_id="isolation", connect=connect, log=lambda _: None
        ).run()

    return run


@pytest.mark.parametrize("wrong", [{"shop_name": "Har\0bor"}, {"source_updated_at": "jane@example.com"}])
def test_a_profile_that_postgresql_refuses_fails_its_store_alone(
    run_with: Run, wrong: dict[str, str]
) -> None:
    profile = StoreProfile("gid", "Harbor", "EUR", "UTC", None, "2026-01-01T00:00:00Z")._replace(**wrong)
    summary = run_with(profile=lambda: profile)
    assert (summary.done, summary.complete) == (3, 2)
    assert all("jane" not in failure.error.message for failure in summary.failures)


@pytest.mark.parametrize(
    "errors",
    [
        [{"message": "bad \0 text"}],
        [{"message": "half \ud800 a pair"}],
        [{"message": "x", "extensions": {"code": "MAX_COST_EXCEEDED", "cost": float("inf")}}],
    ],
)
def test_an_error_text_that_postgresql_refuses_is_kept_all_the_same(run_with: Run, errors: list[Any]) -> None:
    def profile() -> None:
        raise classify_errors(errors, None, {})

    summary = run_with(profile=profile)
    assert (summary.done, summary.complete) == (3, 2)


def test_an_id_too_long_for_an_index_is_a_rejected_row(run_with: Run, database: Database) -> None:
    letters = "".join(f"{i * 7919 % 100_003:05x}" for i in range(3000))
    bad = product(1)._replace(external_id=letters)
    summary = run_with(
        (Unit.PRODUCTS,), pages=lambda resource, since, resume, bulk: iter([Page(2, [bad, product(2)])])
    )
    assert summary.failures == []
    assert summary.units[Unit.PRODUCTS].counts.rejected == 1
    assert query(database, "SELECT external_id FROM rejected_rows")[0]["external_id"].startswith("sha256:")


def test_one_store_s_credentials_under_a_lost_key_fail_that_store_alone(
    run_with: Run, database: Database, names: list[str]
) -> None:
    other = Cipher("1" * 43 + "=").encrypt({"access_token": "x"})
    query(database, "UPDATE stores SET credentials = %s WHERE name = %s", other, names[0])
    summary = run_with()
    assert (summary.done, summary.complete) == (3, 2)
    assert {failure.error.error_type for failure in summary.failures} == {ErrorType.CONFIGURATION}


def test_the_five_newest_stores_credentials_under_a_lost_key_stop_no_other_store(
    make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]], database: Database, sync: Run
) -> None:
    names = add_shops(make_sandbox(shops=7, variants=1))
    other = Cipher("1" * 43 + "=").encrypt({"access_token": "x"})
    query(database, "UPDATE stores SET credentials = %s WHERE id > (SELECT min(id) + 1 FROM stores)", other)
    summary = sync(units=(Unit.STORE,))
    assert (summary.done, summary.complete) == (7, 2)
    assert {failure.store for failure in summary.failures} == set(names[2:])
    assert {failure.error.error_type for failure in summary.failures} == {ErrorType.CONFIGURATION}


def test_credentials_given_while_a_token_is_renewed_are_not_overwritten(
    make_sandbox: MakeSandbox, database: Database, cipher: Cipher
) -> None:
    [shop] = make_sandbox(shops=1, variants=1).world.shops.values()
    app = as_store(shop, token=None, client_id=shop.access.client_id, client_secret=shop.access.client_secret)
    save_stores(database, cipher, [app])

    def connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Any:
        save_stores(database, cipher, [as_store(shop)])
        return platforms.connect(access, api_version="2026-07", sleep=sleep)

    request = SyncRequest((Unit.STORE,))
    SyncRun(database, cipher, request, run_id="r", connect=connect, log=lambda _: None).run()
    held = cipher.decrypt(query(database, "SELECT credentials FROM stores")[0]["credentials"])
    assert held == {"access_token": shop.token}


def test_a_store_that_is_the_same_there_as_an_earlier_one_is_not_taken_for_another(
    run_with: Run, database: Database
) -> None:
    run_with((Unit.STORE,))
    first, second, _ = (row["name"] for row in query(database, "SELECT name FROM stores ORDER BY id"))
    query(
        database,
        "UPDATE stores SET source_updated_at = now() + interval '5 minutes', external_id = (SELECT external_id FROM stores WHERE name = %s) "
        "WHERE name = %s",
        second,
        first,
    )
    [failure] = run_with((Unit.STORE,)).failures
    assert (failure.store, failure.error.error_type) == (second, ErrorType.CONFIGURATION)
    assert f"the same store there as {first}" in failure.error.message


def test_an_incomplete_listing_of_one_resource_keeps_no_other_from_being_synced(
    run_with: Run, database: Database
) -> None:
    [shop] = query(database, "SELECT name FROM stores ORDER BY id LIMIT 1")
    summary = run_with(
        (Unit.STORE, Unit.PRODUCTS),
        pages=lambda resource, since, resume, bulk: iter([page(1, source_count=100)]),
    )
    assert [(f.store, f.units) for f in summary.failures] == [(shop["name"], ["products"])]
    assert summary.units[Unit.STORE].synced == 3


def test_an_empty_listing_of_stock_marks_nothing_deleted_while_there_are_variants(
    run_with: Run, database: Database
) -> None:
    run_with()
    held = query(database, "SELECT count(*) AS n FROM inventory_levels WHERE deleted_at IS NULL")
    query(database, "UPDATE sync_states SET last_full_at = NULL")
    summary = run_with(
        (Unit.INVENTORY_LEVELS,), pages=lambda resource, since, resume, bulk: iter([Page(0, [])])
    )
    assert [failure.error.error_type for failure in summary.failures] == [ErrorType.COUNT_MISMATCH]
    assert query(database, "SELECT count(*) AS n FROM inventory_levels WHERE deleted_at IS NULL") == held


def test_a_row_created_while_all_are_read_hides_no_later_deletion(
    database: Database, cipher: Cipher, names: list[str]
) -> None:
    def run(*pages: Page) -> Summary:
        request = SyncRequest((Unit.PRODUCTS,), stores=(names[0],))
        return SyncRun(
            database,
            cipher,
            request,
            run_id="s",
            connect=lambda *_: Scripted(list(pages)),
            log=lambda _: None,
        ).run()

    run(page(0, 1, 2, resume="x", source_count=5), page(3, 4, 5, source_count=6))
    assert run(page(source_count=6)).units[Unit.PRODUCTS].pages == 1
    assert run(page(source_count=6)).units[Unit.PRODUCTS].pages == 1
    run(page(source_count=5), page(0, 1, 2, 3, 4, source_count=5))
    assert product_ids(database) == {"0", "1", "2", "3", "4"}


def test_a_stop_gives_stores_back_even_while_a_worker_commits(
    database: Database, cipher: Cipher, names: list[str]
) -> None:
    request = SyncRequest((Unit.PRODUCTS,), stores=tuple(names))
    run = SyncRun(database, cipher, request, run_id="g", connect=lambda *_: Scripted([]), log=lambda _: None)
    with database.transaction() as connection:
        before = database_clock(connection)
    [batch, *_] = run.claim("g/1", before, ())
    with database.transaction() as connection:
        [work] = store_units.claim(connection, batch.due, lease=run.lease)
        attempt = work.attempt_id
        begun = attempts.Attempt(attempt, "g", work.store_id, work.unit, work.claimed_at)
        attempts.count(connection, begun, 1, Counts())
    reached = threading.Event()

    def commit() -> None:
        with pytest.raises(IntegrationError), database.transaction() as connection:  # noqa: PT012
            connection.execute("UPDATE sync_attempts SET pages = pages + 1 WHERE id = %s", (attempt,))
            reached.set()
            time.sleep(0.4)
            store_units.save(connection, work, {})

    worker = threading.Thread(target=commit)
    worker.start()
    reached.wait()
    run.give_back(["g/1"])
    worker.join()
    assert query(database, "SELECT 1 FROM sync_states WHERE lease_owner IS NOT NULL") == []
    assert query(database, "SELECT 1 FROM visited_units") == []
    assert query(database, "SELECT status FROM sync_attempts") == [{"status": "released"}]


@pytest.mark.parametrize("kind", ["refused", "unauthorized", "forbidden", "not_found", "payment_required"])
def test_a_refusal_for_a_moment_at_a_store_that_worked_lately_calls_no_person(
    make_sandbox: MakeSandbox,
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    sync: Run,
    kind: str,
) -> None:
    sandbox = make_sandbox(shops=3, variants=5)
    add_shops(sandbox)
    assert sync(units=(Unit.PRODUCTS, Unit.PRODUCT_VARIANTS)).failures == []
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault(kind, times=1, operation="query Products("))
    make_due(database)
    refused = sync(units=(Unit.PRODUCTS, Unit.PRODUCT_VARIANTS))
    assert len({failure.store for failure in refused.failures}) == 3
    soon = "SELECT next_due_at - clock_timestamp() < interval '3 minutes' AS soon FROM sync_states WHERE attempts > 0"
    rows = query(database, soon)
    assert len(rows) == (3 if kind == "forbidden" else 6), (
        "a scope is of one unit, anything else of the store"
    )
    assert all(row["soon"] for row in rows)
    assert query(database, "SELECT id FROM incidents WHERE needs_attention") == []
    query(database, "UPDATE circuits SET probe_at = clock_timestamp()")
    make_due(database)
    assert sync(units=(Unit.PRODUCTS, Unit.PRODUCT_VARIANTS)).failures == []
    assert query(database, "SELECT id FROM incidents WHERE status = 'open'") == []


def test_a_refusal_that_stays_is_one_incident_of_its_store_at_the_second_try(
    make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]], database: Database, sync: Run
) -> None:
    sandbox = make_sandbox(shops=1, variants=5)
    add_shops(sandbox)
    sync(units=(Unit.PRODUCTS, Unit.PRODUCT_VARIANTS))
    for shop in sandbox.world.shops.values():
        shop.access.expire_all()
    for incidents in (0, 1):
        make_due(database)
        sync(units=(Unit.PRODUCTS, Unit.PRODUCT_VARIANTS))
        assert len(query(database, "SELECT id FROM incidents WHERE needs_attention")) == incidents


def test_refusals_of_many_stores_in_a_moment_are_one_incident_of_their_platform(
    make_sandbox: MakeSandbox, add_shops: Callable[[Sandbox], list[str]], database: Database, sync: Run
) -> None:
    sandbox = make_sandbox(shops=6, variants=1)
    add_shops(sandbox)
    sync(units=(Unit.PRODUCTS,))
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("refused"))
    make_due(database)
    sync(units=(Unit.PRODUCTS,))
    [incident] = query(database, "SELECT subject, error_type, needs_attention FROM incidents")
    assert incident == {"subject": "platform shopify", "error_type": "refused", "needs_attention": False}


def make_due(database: Database) -> None:
    query(database, "UPDATE sync_states SET next_due_at = clock_timestamp()")
