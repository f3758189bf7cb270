"""Square's pages: each row once, whatever fails on the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.platforms.square.platform import COUNTS_LOOKBACK, MOST_CATCH_UPS, PageSizes
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Fault, Merchant, Sandbox, World, edit
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import TABLES, Connect, assert_accounted, ids, read, source
from bg_pipelines_tests.support import START, HandClock

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
    merchants: list[Merchant], connect: Connect, small_pages: PageSizes
) -> None:
    for merchant in merchants:
        expected = source(merchant)
        for resource in TABLES:
            pages = read(connect(merchant), resource)
            assert_accounted(pages)
            assert sorted(ids(pages)) == sorted(row[0] for row in expected[resource])
            assert pages[-1].resume is None
            back = COUNTS_LOOKBACK if resource is Resource.INVENTORY_LEVELS else timedelta(0)
            assert all(page.vendor_time == datetime.fromtimestamp(START, UTC) - back for page in pages)


def test_items_come_with_the_variations_that_they_have_now(merchant: Merchant, connect: Connect) -> None:
    items = {row[0] for row in source(merchant)["products"]}
    expected = {row[0] for row in source(merchant)["product_variants"]}
    found = connect(merchant).products_with_variants([*sorted(items), "NOSUCHITEM"])
    assert (set(ids([found.products])), found.products.gone) == (items, ["NOSUCHITEM"])
    assert sorted(ids([found.variants])) == sorted(expected)
    assert_accounted([found.products, found.variants])


@pytest.mark.parametrize("resource", OPERATIONS)
def test_each_page_in_turn_may_fail_and_what_is_kept_goes_on_behind_it(
    merchant: Merchant, connect: Connect, small_pages: PageSizes, resource: Resource
) -> None:
    whole = read(connect(merchant), resource)
    assert len(whole) >= len(FAILURES)
    kinds = itertools.cycle(FAILURES.items())
    for number, (kind, error_type) in zip(range(len(whole)), kinds, strict=False):
        # Twice: a page that fails alone is asked for with fewer rows.
        merchant.faults[:] = [Fault(kind, after=number, times=2, operation=OPERATIONS[resource])]
        pages = connect(merchant).pages(resource, since=None, resume=None)
        kept = [next(pages) for _ in range(number)]
        failure = failure_of(lambda pages=pages: next(pages))
        assert (failure.error_type, failure.recoverable) == (error_type, True)
        rest = read(connect(merchant), resource, resume=kept[-1].resume if kept else None)
        assert ids(kept + rest) == ids(whole)


def sell_oldest(merchant: Merchant, pieces: int) -> str:
    """Change the count that comes last; returns the id of its level."""
    counts = [row for row in merchant.export()["counts"] if row["state"] == "IN_STOCK"]
    row = min(counts, key=lambda row: row["calculated_at"])
    where = {name: row[name] for name in ("catalog_object_id", "location_id")}
    edit(merchant, "set_count", **where, quantity=pieces)
    return "@".join(where.values())


@pytest.fixture
def stock(make_sandbox: MakeSandbox) -> Merchant:
    """A merchant of this test's own, by the real clock."""
    sandbox = make_sandbox(
        shops=1, variants=0, merchants=1, square_variants=150, square_customers=0, square_orders=0
    )
    [merchant] = sandbox.world.square_merchants.values()
    return merchant


def test_a_count_that_changes_before_it_was_read_is_met_wherever_the_pass_goes_on(
    stock: Merchant, connect: Connect, small_pages: PageSizes
) -> None:
    everything = sorted(row[0] for row in source(stock)["inventory_levels"])
    plain = read(connect(stock), Resource.INVENTORY_LEVELS)
    assert len(plain) > 4
    for number in range(1, len(plain)):
        pages = connect(stock).pages(Resource.INVENTORY_LEVELS, since=None, resume=None)
        kept = [next(pages) for _ in range(number)]
        sold = sell_oldest(stock, 1000 + number)
        whole = kept + read(connect(stock), Resource.INVENTORY_LEVELS, resume=kept[-1].resume)
        assert sorted(set(ids(whole))) == everything
        [last] = [record for record in whole[-1].records if record.external_id == sold]
        assert last.available == 1000 + number
        # What is met twice has changed since the time that the first page tells.
        again = [record for record in whole[-1].records if ids(whole).count(record.external_id) > 1]
        assert whole[0].vendor_time is not None
        assert all(
            datetime.fromisoformat(record.source_updated_at) > whole[0].vendor_time for record in again
        )


def test_what_changed_meanwhile_may_be_many_pages_and_every_token_goes_on_there(
    stock: Merchant, connect: Connect, small_pages: PageSizes
) -> None:
    pages = connect(stock).pages(Resource.INVENTORY_LEVELS, since=None, resume=None)
    whole = [next(pages)]
    sold = {sell_oldest(stock, number) for number in range(90)}
    whole += pages
    tokens = [json.loads(page.resume) for page in whole if page.resume is not None]
    assert [token for token in tokens if token["after"] and token["cursor"]]
    assert sold <= set(ids(whole))
    for number, page in enumerate(whole[:-1]):
        again = read(connect(stock), Resource.INVENTORY_LEVELS, resume=page.resume)
        if tokens[number]["after"]:
            assert ids(again) == ids(whole[number + 1 :])
        assert set(ids(again)) == set(ids(whole[number + 1 :]))


def test_counts_that_change_faster_than_they_are_read_are_left_to_the_next_pass(
    stock: Merchant, connect: Connect
) -> None:
    platform = connect(stock, sizes=PageSizes(counts=2))
    asked = set()
    for number, page in enumerate(platform.pages(Resource.INVENTORY_LEVELS, since=None, resume=None)):
        if page.resume is None:
            break
        token = json.loads(page.resume)
        asked.add(token["catch_ups"])
        if token["cursor"] is None:
            for more in range(3):
                sell_oldest(stock, 10 * number + more)
    assert asked == set(range(MOST_CATCH_UPS + 1))


def test_a_rate_limit_is_waited_out_and_nothing_is_lost(
    merchant: Merchant, connect: Connect, small_pages: PageSizes, clock: HandClock
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
    merchant: Merchant, connect: Connect, small_pages: PageSizes
) -> None:
    platform = connect(merchant)
    pages = read(platform, Resource.ORDERS)
    tokens = [json.loads(page.resume) for page in pages if page.resume is not None]
    assert {len(token["locations"]) for token in tokens} == {10, 2}
    assert [token for token in tokens if token["cursor"] is None]
    for number, page in enumerate(pages[:-1]):
        assert ids(read(platform, Resource.ORDERS, resume=page.resume)) == ids(pages[number + 1 :])


@pytest.fixture
def till(clock: HandClock) -> Iterator[Merchant]:
    """A merchant who has sold something every two hours for 60 hours, and nothing in the last two."""
    world = World(
        shops=1, variants=0, clock=clock, merchants=1, square_variants=9, square_customers=5, square_orders=0
    )
    with Sandbox(world, port=0) as running:
        [merchant] = running.world.square_merchants.values()
        for _ in range(30):
            edit(merchant, "add_order", lines=1)
            clock.seconds += 2 * 3600
        yield merchant


class Passes:
    """Passes over a merchant's orders, each from where the last one says that the next begins."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.since: datetime | None = None

    def read(self) -> list[str]:
        pages = read(self.platform, Resource.ORDERS, since=self.since)
        began = pages[0].vendor_time
        assert began is not None
        self.since = began - self.platform.lookback(Resource.ORDERS)
        return ids(pages)


def test_an_idle_pass_over_orders_reads_none_but_every_three_hours_those_of_three_days(
    till: Merchant, connect: Connect, clock: HandClock
) -> None:
    passes = Passes(connect(till))
    assert len(passes.read()) == 30
    rows = []
    for _ in range(12 * 12):  # every five minutes for half a day
        clock.seconds += 300
        rows.append(len(passes.read()))
    assert rows.count(0) == len(rows) - 4
    assert {count for count in rows if count} == {30}
    sold = edit(till, "add_order", lines=1)["id"]
    clock.seconds += 60
    assert passes.read() == [sold]


@pytest.mark.parametrize("minutes", [5, 15, 60, 600])
@pytest.mark.parametrize("name", ["harbor", "pier"])
def test_an_order_that_comes_three_days_late_with_its_old_time_is_met_within_three_hours_and_a_pass(
    till: Merchant, connect: Connect, clock: HandClock, minutes: int, name: str
) -> None:
    passes = Passes(connect(till, name=name))
    passes.read()
    came: dict[str, float] = {}
    met: dict[str, float] = {}
    for five_minutes in range(12 * 15 + 2 * minutes // 5):
        clock.seconds += 300
        if five_minutes % 6 == 0 and five_minutes < 12 * 12:
            late = edit(till, "add_late_order", hours=72, updated_hours=72)
            came[late["id"]] = clock.seconds
        if five_minutes * 5 % minutes == 0:
            for one in passes.read():
                met.setdefault(one, clock.seconds)
    assert len(came) == 24
    assert max(met[one] - came[one] for one in came) <= 3 * 3600 + minutes * 60


def test_orders_of_the_last_minutes_come_before_those_that_may_be_late(
    till: Merchant, connect: Connect, clock: HandClock
) -> None:
    platform = connect(till, sizes=PageSizes(orders=4))
    passes = Passes(platform)
    passes.read()
    clock.seconds += 3 * 3600
    sold = edit(till, "add_order", lines=1)["id"]
    assert passes.since is not None
    pages = read(platform, Resource.ORDERS, since=passes.since)
    assert (ids(pages)[0], len(ids(pages))) == (sold, 31)
    for number, page in enumerate(pages[:-1]):
        rest = read(platform, Resource.ORDERS, since=passes.since, resume=page.resume)
        assert ids(rest) == ids(pages[number + 1 :])


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
    merchant: Merchant, connect: Connect, small_pages: PageSizes
) -> None:
    count = len(merchant.export()["customers"])
    assert {page.source_count for page in read(connect(merchant), Resource.CUSTOMERS)} == {count}
    since = datetime.fromtimestamp(START, UTC)
    assert [page.source_count for page in read(connect(merchant), Resource.CUSTOMERS, since)] == [count]
    assert {page.source_count for page in read(connect(merchant), Resource.ORDERS)} == {None}


def test_what_changed_is_counted_after_it_was_read(
    make_sandbox: MakeSandbox, connect: Connect, small_pages: PageSizes
) -> None:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_customers=50, square_orders=0)
    [merchant] = sandbox.world.square_merchants.values()
    since = datetime.fromtimestamp(0, UTC)
    counted = []
    for page in connect(merchant).pages(Resource.CUSTOMERS, since=since, resume=None):
        counted.append(page.source_count)
        edit(merchant, "add_customer")  # by creation, so the last page has it
    assert (counted[0], set(counted[1:-1]), counted[-1]) == (50, {None}, 50 + len(counted) - 1)
    token = read(connect(merchant), Resource.CUSTOMERS, since)[0].resume
    assert read(connect(merchant), Resource.CUSTOMERS, since, token)[-1].source_count == 50 + len(counted)


@pytest.mark.parametrize("since", [None, datetime.fromtimestamp(START, UTC)])
def test_an_answer_without_a_count_says_nothing_of_how_many_there_are(
    connect: Connect, serve: Callable[..., ScriptedServer], since: datetime | None
) -> None:
    platform = connect(token="EAAA", base_url=serve(Reply.of({"merchant": {"currency": "USD"}})).url)
    [page] = read(platform, Resource.CUSTOMERS, since)
    assert (page.read, page.source_count) == (0, None)


@pytest.mark.parametrize("locations", [None, [], [{"name": "somewhere"}], ["L"]])
def test_locations_that_are_missing_never_pass_for_a_merchant_without_orders(
    connect: Connect, serve: Callable[..., ScriptedServer], locations: object
) -> None:
    platform = connect(token="EAAA", base_url=serve(Reply.of({"locations": locations})).url)
    failure = failure_of(lambda: read(platform, Resource.ORDERS))
    assert failure.error_type is ErrorType.MALFORMED_RESPONSE
