"""Square's pages: each row once, whatever fails on the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.base import Resource
from bg_pipelines.sandbox import Fault, Merchant, Sandbox
from bg_pipelines_tests.platforms.conftest import START, HandClock, failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import TABLES, Connect, assert_accounted, ids, read, source

MakeSandbox = Callable[..., Sandbox]
OPERATIONS = {
    Resource.PRODUCTS: "SearchCatalogObjects",
    Resource.PRODUCT_VARIANTS: "SearchCatalogObjects",
    Resource.INVENTORY_LEVELS: "BatchRetrieveInventoryCounts",
    Resource.CUSTOMERS: "SearchCustomers",
    Resource.ORDERS: "SearchOrders",
}
FAILURES = {
    "cut": ErrorType.CONNECTION,
    "half_page": ErrorType.CONNECTION,
    "html": ErrorType.MALFORMED_RESPONSE,
    "half_json": ErrorType.MALFORMED_RESPONSE,
    "bad_gateway": ErrorType.SERVER_ERROR,
}


def test_all_rows_of_every_merchant_are_read_once(
    merchants: list[Merchant], connect: Connect, small_pages: None
) -> None:
    for merchant in merchants:
        expected = source(merchant)
        for resource in TABLES:
            pages = read(connect(merchant), resource)
            assert_accounted(pages)
            assert sorted(ids(pages)) == sorted(row[0] for row in expected[resource])
            assert pages[-1].resume is None
            assert all(page.vendor_time == datetime.fromtimestamp(START, UTC) for page in pages)


@pytest.mark.parametrize("resource", OPERATIONS)
def test_each_page_in_turn_may_fail_and_what_is_kept_goes_on_behind_it(
    merchant: Merchant, connect: Connect, small_pages: None, resource: Resource
) -> None:
    whole = read(connect(merchant), resource)
    assert len(whole) >= len(FAILURES)
    kinds = itertools.cycle(FAILURES.items())
    for number, (kind, error_type) in zip(range(len(whole)), kinds, strict=False):
        merchant.faults[:] = [Fault(kind, after=number, times=1, operation=OPERATIONS[resource])]
        pages = connect(merchant).pages(resource, since=None, resume=None)
        kept = [next(pages) for _ in range(number)]
        failure = failure_of(lambda pages=pages: next(pages))
        assert (failure.error_type, failure.recoverable) == (error_type, True)
        rest = read(connect(merchant), resource, resume=kept[-1].resume if kept else None)
        assert ids(kept + rest) == ids(whole)


def test_a_rate_limit_is_waited_out_and_nothing_is_lost(
    merchant: Merchant, connect: Connect, small_pages: None, clock: HandClock
) -> None:
    platform = connect(merchant)
    whole = ids(read(platform, Resource.ORDERS))
    merchant.faults.append(Fault("too_many_requests", after=1, times=3, operation="SearchOrders"))
    assert ids(read(platform, Resource.ORDERS)) == whole
    assert clock.slept == [1, 2, 4]


def test_a_rate_limit_that_does_not_end_gives_the_store_back(
    merchant: Merchant, connect: Connect, clock: HandClock
) -> None:
    merchant.faults.append(Fault("too_many_requests"))
    failure = failure_of(connect(merchant).profile)
    assert failure.error_type is ErrorType.THROTTLED
    assert clock.slept == [1, 2, 4, 8, 16]  # with the next 32 it would be more than a minute
    assert "retry_after_seconds" not in failure.details


def test_a_pass_over_orders_takes_ten_locations_a_call_and_every_token_goes_on_there(
    merchant: Merchant, connect: Connect, small_pages: None
) -> None:
    platform = connect(merchant)
    pages = read(platform, Resource.ORDERS)
    tokens = [json.loads(page.resume) for page in pages if page.resume is not None]
    assert {len(token["locations"]) for token in tokens} == {10, 2}
    assert [token for token in tokens if token["cursor"] is None]
    for number, page in enumerate(pages[:-1]):
        assert ids(read(platform, Resource.ORDERS, resume=page.resume)) == ids(pages[number + 1 :])


def test_orders_that_come_late_with_an_older_time_are_within_the_overlap(
    make_sandbox: MakeSandbox, connect: Connect
) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_orders=20, square_customers=5)
    [merchant] = sandbox.world.square_merchants.values()
    platform = connect(merchant)
    began = min(page.vendor_time for page in read(platform, Resource.ORDERS) if page.vendor_time)
    late = merchant.edit("add_late_order", hours=72, updated_hours=72)
    since = began - platform.overlap(Resource.ORDERS)
    assert late["id"] in ids(read(platform, Resource.ORDERS, since=since))
    assert late["id"] not in ids(read(platform, Resource.ORDERS, since=began - timedelta(hours=71)))
    assert platform.overlap(Resource.CUSTOMERS) == timedelta(minutes=10)


@pytest.mark.parametrize(("resource", "operation"), OPERATIONS.items())
def test_a_repeated_cursor_is_malformed_and_no_circle(
    merchant: Merchant, connect: Connect, resource: Resource, operation: str
) -> None:
    merchant.faults.append(Fault("repeat_cursor", operation=operation))
    failure = failure_of(lambda: read(connect(merchant), resource))
    assert failure.error_type is ErrorType.MALFORMED_RESPONSE
    assert len(merchant.requests) < 9


def test_a_cursor_that_is_good_no_more_lets_the_pass_begin_again(
    merchant: Merchant, connect: Connect
) -> None:
    failure = failure_of(lambda: read(connect(merchant), Resource.CUSTOMERS, resume="of yesterday"))
    assert (failure.error_type, failure.recoverable) == (ErrorType.QUERY_REJECTED, True)


def test_a_merchant_without_anything_has_one_empty_page(make_sandbox: MakeSandbox, connect: Connect) -> None:
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=0, square_customers=0, square_orders=0
    )
    [merchant] = sandbox.world.square_merchants.values()
    for resource in OPERATIONS:
        [page] = read(connect(merchant), resource)
        assert (page.read, page.resume, page.rejects) == (0, None, [])


def test_customers_tell_how_many_there_are_in_all_whatever_changed(
    merchant: Merchant, connect: Connect, small_pages: None
) -> None:
    count = len(merchant.export()["customers"])
    assert {page.source_count for page in read(connect(merchant), Resource.CUSTOMERS)} == {count}
    since = datetime.fromtimestamp(START, UTC)
    assert [page.source_count for page in read(connect(merchant), Resource.CUSTOMERS, since)] == [count]
    assert {page.source_count for page in read(connect(merchant), Resource.ORDERS)} == {None}


@pytest.mark.parametrize("locations", [None, [], [{"name": "somewhere"}], ["L"]])
def test_locations_that_are_missing_never_pass_for_a_merchant_without_orders(
    connect: Connect, serve: Callable[..., ScriptedServer], locations: object
) -> None:
    platform = connect(token="EAAA", base_url=serve(Reply.of({"locations": locations})).url)
    failure = failure_of(lambda: read(platform, Resource.ORDERS))
    assert failure.error_type is ErrorType.MALFORMED_RESPONSE
