"""Square stores in the jobs' own sync: all of the source, then what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.square.client import Answer, SquareClient
from bg_pipelines.platforms.square.platform import PageSizes, SquarePlatform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Page, Resource
from bg_pipelines.sandbox import Fault, Sandbox, change, edit
from bg_pipelines.sync import Summary
from bg_pipelines_tests.platforms.square.conftest import (
    TABLES,
    AddMerchants,
    assert_equal_to_merchant,
    of_type,
    shown,
    source,
)
from bg_pipelines_tests.support import CATALOGUE, SALES

Sync = Callable[..., Summary]
MakeSandbox = Callable[..., Sandbox]


def test_a_sync_holds_what_the_merchants_hold_and_the_next_one_what_changed(
    make_sandbox: MakeSandbox, add_merchants: AddMerchants, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=4, square_variants=500, square_customers=300, square_orders=700
    )
    merchants = add_merchants(sandbox)
    for merchant in merchants:
        change(merchant, 40)
    summary = sync(units=(*CATALOGUE, *SALES))
    assert (summary.total, summary.complete, summary.failures) == (4, 4, [])
    for merchant in merchants:
        assert_equal_to_merchant(database, merchant)
        merchant.requests.clear()
        change(merchant, 60)
        sold = edit(merchant, "add_order", lines=3)
        edit(merchant, "refund_order", id=sold["id"], lines=2)
        # Made and last changed three days ago by its own clock, and here only now: it is looked for every three hours.
        edit(merchant, "add_late_order", hours=72, updated_hours=71)
        gone = of_type(merchant.export(), "ITEM")[0]
        edit(merchant, "delete_item", id=gone["id"])
        edit(merchant, "delete_customer", id=merchant.export()["customers"][0]["id"])
    names = tuple(merchant.id.lower() for merchant in merchants)
    sandbox.world.clock.offset_seconds = 3 * 3600
    summary = sync(units=(*CATALOGUE, *SALES), stores=names)
    assert (summary.complete, summary.failures) == (4, [])
    for merchant in merchants:
        assert_equal_to_merchant(database, merchant)
        assert not [request for request in merchant.requests if request.status != 200]
    # The audit reads rows by their ids and compares them field by field.
    assert sync(units=(Unit.AUDIT,), stores=names).failures == []
    with database.transaction() as connection:
        audits = connection.execute("SELECT sampled, different, gone, fields FROM audits").fetchall()
    assert len(audits) == len(merchants) * len(TABLES)
    assert sum(sampled for sampled, *_ in audits) > 200
    assert {tuple(found) for _, *found, _ in audits} == {(0, 0)}, audits


def test_profile_and_currency_come_from_the_merchant_and_its_main_location(
    make_sandbox: MakeSandbox, add_merchants: AddMerchants, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=4, square_variants=0, square_customers=0, square_orders=0
    )
    merchants = add_merchants(sandbox)
    sync(units=(Unit.STORE,))
    with database.transaction() as connection:
        held = connection.execute("SELECT external_id, shop_name, currency, timezone FROM stores").fetchall()
    assert set(held) == {
        (merchant.id, merchant.name, export["merchant"]["currency"], export["locations"][0]["timezone"])
        for merchant in merchants
        for export in [merchant.export()]
    }


def test_a_changed_or_new_customer_that_the_search_shows_late_is_found_by_the_next_pass(
    make_sandbox: MakeSandbox, add_merchants: AddMerchants, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_customers=40, square_orders=0)
    [merchant] = add_merchants(sandbox)
    sync(units=(Unit.CUSTOMERS,))
    edit(merchant, "set_search_lag", seconds=45)
    edit(merchant, "update_customer", id=merchant.export()["customers"][3]["id"], fields={"note": "changed"})
    edit(merchant, "add_customer")
    names = (merchant.id.lower(),)
    before = source(merchant)["customers"]
    sync(units=(Unit.CUSTOMERS,), stores=names)
    with database.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM customers").fetchone() == (40,)
    edit(merchant, "set_search_lag", seconds=0)  # as if the time had passed
    sync(units=(Unit.CUSTOMERS,), stores=names)
    assert source(merchant)["customers"] == before
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT external_id, source_updated_at, first_name, email, note FROM customers"
        )
        assert {tuple(shown(value) for value in row) for row in rows} == before


def test_a_location_that_was_renamed_since_the_last_pass_is_no_drift(
    make_sandbox: MakeSandbox, add_merchants: AddMerchants, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=0, square_customers=0, square_orders=0
    )
    [merchant] = add_merchants(sandbox)
    sync(units=(Unit.LOCATIONS,))
    edit(merchant, "rename_location", id=merchant.export()["locations"][0]["id"], name="Renamed")
    sync(units=(Unit.AUDIT,), stores=(merchant.id.lower(),))
    with database.transaction() as connection:
        [found] = connection.execute("SELECT different, lag FROM audits").fetchall()
        assert connection.execute("SELECT count(*) FROM incidents").fetchone() == (0,)
    assert found == (0, 1)
    sync(units=(Unit.LOCATIONS,), stores=(merchant.id.lower(),))
    assert_equal_to_merchant(database, merchant)


def test_a_count_that_changes_while_all_are_read_is_not_marked_deleted(
    make_sandbox: MakeSandbox,
    add_merchants: AddMerchants,
    sync: Sync,
    database: Database,
    small_pages: PageSizes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=400, square_customers=0, square_orders=0
    )
    [merchant] = add_merchants(sandbox)
    sync(units=(*CATALOGUE, *SALES))
    counts = [row for row in merchant.export()["counts"] if row["state"] == "IN_STOCK"]
    counts.sort(key=lambda row: row["calculated_at"])
    pages = SquarePlatform._all_counts

    def and_sell(*asked: Any) -> Iterator[Page]:
        for number, page in enumerate(pages(*asked)):
            if number == 1:
                for row in (counts[0], counts[-1]):  # not read yet, and read before
                    where = {name: row[name] for name in ("catalog_object_id", "location_id")}
                    edit(merchant, "set_count", **where, quantity=1)
            yield page

    monkeypatch.setattr(SquarePlatform, "_all_counts", and_sell)
    again = sync(units=(Unit.INVENTORY_LEVELS,), stores=(merchant.id.lower(),), force=True)
    assert again.failures == []
    assert_equal_to_merchant(database, merchant)


def test_an_answer_without_customers_and_without_their_count_deletes_nobody(
    make_sandbox: MakeSandbox,
    add_merchants: AddMerchants,
    sync: Sync,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_customers=40, square_orders=0)
    [merchant] = add_merchants(sandbox)
    sync(units=(Unit.CUSTOMERS,))
    post = SquareClient.post

    def without_customers(self: SquareClient, *asked: Any, **content: Any) -> Answer:
        return post(self, *asked, **content)._replace(data={})

    monkeypatch.setattr(SquareClient, "post", without_customers)
    for force in (False, True):
        sync(units=(Unit.CUSTOMERS,), stores=(merchant.id.lower(),), force=force)
        with database.transaction() as connection:
            held = connection.execute("SELECT count(*), count(deleted_at) FROM customers").fetchone()
        assert held == (40, 0)


@pytest.mark.parametrize(
    ("resource", "operation"), [(Resource.CUSTOMERS, "SearchCustomers"), (Resource.ORDERS, "SearchOrders")]
)
def test_a_pass_that_fails_goes_on_behind_the_last_page_that_was_kept(
    make_sandbox: MakeSandbox,
    add_merchants: AddMerchants,
    sync: Sync,
    database: Database,
    small_pages: PageSizes,
    resource: Resource,
    operation: str,
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=9, square_customers=130, square_orders=200
    )
    [merchant] = add_merchants(sandbox)
    merchant.faults.append(Fault("half_page", after=4, times=2, operation=operation))

    def held() -> set[str]:
        with database.transaction() as connection:
            return {row[0] for row in connection.execute(f"SELECT external_id FROM {resource.value}")}

    [failure] = sync(units=(Unit(resource),), load_rows=20).failures
    assert failure.error.error_type is ErrorType.CONNECTION
    kept = held()
    whole = {row[0] for row in source(merchant)[resource]}
    assert set() < kept < whole
    merchant.requests.clear()
    assert sync(units=(Unit(resource),), stores=(merchant.id.lower(),), load_rows=20).failures == []
    assert held() == whole
    asked = [request for request in merchant.requests if request.operation == operation]
    assert sum(request.rows for request in asked) == len(whole - kept)


def test_an_order_that_comes_late_and_is_not_looked_for_yet_is_no_drift(
    make_sandbox: MakeSandbox, add_merchants: AddMerchants, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=9, square_customers=5, square_orders=20
    )
    [merchant] = add_merchants(sandbox)
    sync(units=(Unit.ORDERS,))
    edit(merchant, "add_late_order", hours=20, updated_hours=20)
    sync(units=(Unit.AUDIT,), stores=(merchant.id.lower(),))
    with database.transaction() as connection:
        assert connection.execute("SELECT missing, lag FROM audits").fetchall() == [(0, 1)]
        assert connection.execute("SELECT count(*) FROM incidents").fetchone() == (0,)
