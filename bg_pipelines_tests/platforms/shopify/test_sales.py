"""A Shopify store's customers and orders: each once and whole, by pages and by ids, and edits that are told in words."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import UpdateOutcome
from bg_pipelines.platforms.shopify import sales
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES, Converted, PageSizes
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.records import Customer, Order, OrderLine, Page, Refund, Resource
from bg_pipelines.sandbox import Fault, Sandbox, Shop, World, edit
from bg_pipelines.sandbox.shopify.views import show_customer
from bg_pipelines_tests.platforms.conftest import (
    expected_customer,
    expected_lines,
    expected_order,
    expected_refunds,
    failure_of,
)
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.support import HandClock

every_resource = pytest.mark.parametrize("resource", [Resource.CUSTOMERS, Resource.ORDERS])


@pytest.fixture
def platform(
    shop: Shop, connect: Callable[..., ShopifyClient], request: pytest.FixtureRequest
) -> ShopifyPlatform:
    """Of small pages, where a test asks for `small_pages`."""
    small = "small_pages" in request.fixturenames
    sizes = request.getfixturevalue("small_pages") if small else PAGE_SIZES
    return ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), sizes)


@pytest.fixture(scope="module")
def shops() -> Iterator[list[Shop]]:
    """Four shops, of which one sells in yen and one in Bahraini dinars, of thousandths; read only."""
    with Sandbox(World(shops=4, variants=120, customers=300), port=0) as sandbox:
        for shop in sandbox.world.shops.values():
            edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
        yield list(sandbox.world.shops.values())


@pytest.fixture
def small_pages(shop: Shop) -> PageSizes:
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    return PageSizes(rows=9, addresses=1, lines=8)


def read(platform: ShopifyPlatform, resource: Resource, since: datetime | None = None) -> list[Page]:
    return list(islice(platform.pages(resource, since=since, resume=None), 1000))


def records(pages: Iterable[Page]) -> list[Any]:
    return [record for page in pages for record in page.records]


def parts(pages: Iterable[Page], table: str) -> list[Any]:
    return [part for page in pages for part in page.parts.get(table, ())]


def exported(shop: Shop, resource: Resource) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shop.export([resource.value])[resource.value]
    return rows


def expected(shop: Shop, resource: Resource) -> list[Any]:
    make = expected_customer if resource is Resource.CUSTOMERS else expected_order
    return [make(row) for row in exported(shop, resource)]


def only_reject(pages: Iterable[Page]) -> Any:
    (reject,) = [reject for page in pages for reject in page.rejects]
    return reject


# All of it


def test_all_customers_and_orders_are_read_whole_and_in_the_amounts_they_were_written(
    shops: list[Shop], connect: Callable[..., ShopifyClient]
) -> None:
    for shop in shops:
        platform = ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)))
        assert records(read(platform, Resource.CUSTOMERS)) == expected(shop, Resource.CUSTOMERS)
        pages = read(platform, Resource.ORDERS)
        orders = exported(shop, Resource.ORDERS)
        assert records(pages) == [expected_order(row) for row in orders]
        assert sorted(parts(pages, "order_lines")) == sorted(
            line for row in orders for line in expected_lines(row)
        )
        assert parts(pages, "refunds") == [refund for row in orders for refund in expected_refunds(row)]
        assert [page.rejects or page.gone for page in pages] == [[]] * len(pages)
        assert (pages[0].source_count, pages[0].listed_since) == (len(orders), None)
        assert max(request.requested_cost for request in shop.requests) < 1000


def test_the_shops_have_what_breaks_naive_readers(shops: list[Shop]) -> None:
    orders = [row for shop in shops for row in exported(shop, Resource.ORDERS)]
    customers = [row for shop in shops for row in exported(shop, Resource.CUSTOMERS)]
    assert {"USD", "JPY", "BHD"} < {row["currencyCode"] for row in orders}
    assert any(expected_order(row).total.endswith("0.0") for row in orders if row["currencyCode"] == "JPY")
    assert any(
        len(expected_order(row).total.split(".")[1]) == 3 for row in orders if row["currencyCode"] == "BHD"
    )
    assert max(len(row["lineItems"]) for row in orders) == 300
    assert {expected_order(row).status for row in orders} == {"open", "closed", "cancelled"}
    assert {True, False} == {row["test"] for row in orders}
    for some in ("customer", "retailLocation", "email", "phone", "refunds"):
        assert {bool(row[some]) for row in orders} == {True, False}
    for some in ("firstName", "defaultEmailAddress", "defaultPhoneNumber", "defaultAddress", "addressesV2"):
        assert {bool(row[some]) for row in customers} == {True, False}


@every_resource
def test_a_page_costs_less_than_the_vendor_allows(
    shops: list[Shop], connect: Callable[..., ShopifyClient], resource: Resource
) -> None:
    shop = shops[0]
    shop.requests.clear()
    (first, *_) = read(ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token))), resource)
    assert first.read == min(244, len(exported(shop, resource)))
    assert shop.requests[0].requested_cost < 950


BASKETS = (
    (0, 1),
    (0.25, 1),
    (0.5, 5),
    (0.7, 10),
    (0.87, 21),
    (0.95, 35),
    (0.98, 49),
    (0.99, 59),
    (0.999, 90),
    (1, 161),
)
"""How many lines real baskets have: the share of those with fewer, and the lines (155,848 baskets of a grocer's, the
data set "The Complete Journey": 13 % have more than 20, one in a thousand more than 90)."""


def lines_of_a_basket(share: float) -> int:
    for (below, least), (above, most) in pairwise(BASKETS):
        if share <= above:
            return round(least + (most - least) * (share - below) / (above - below))
    raise AssertionError(share)


def test_real_baskets_cost_a_call_for_each_page_and_few_more(
    make_sandbox: Callable[..., Sandbox], connect: Callable[..., ShopifyClient]
) -> None:
    [shop] = make_sandbox(shops=1, variants=60, customers=1, orders_per_customer=0).world.shops.values()
    count = 1000
    lines = [lines_of_a_basket((number * 619 % count + 0.5) / count) for number in range(count)]
    for more in [*lines, *(95, 100, 120, 140, 160, 250, 300)]:  # a few long ones more than there are
        edit(shop, "add_order", lines=more)
    edit(shop, "set_budget", maximum=1_000_000, restore=0)
    shop.requests.clear()
    pages = read(ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token))), Resource.ORDERS)
    assert len(parts(pages, "order_lines")) == sum(lines) + 95 + 100 + 120 + 140 + 160 + 250 + 300
    assert 120 < sum(more > 20 for more in lines) < 140
    calls = Counter(request.operation for request in shop.requests)
    # The long ones are in the last page: those up to 244 lines come together, the others' rest one by one.
    assert calls == {"Orders": 5, "OrdersByIds": 1, "OrderLines": 2 + 1}
    # What was asked for and not there is given back: long lists that are mostly short cost little.
    spent = 1_000_000 - shop.bucket.available
    assert spent < 3.5 * len(lines), spent


def test_the_lines_of_an_order_are_whole_in_its_own_page(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes
) -> None:
    (long,) = [row for row in exported(shop, Resource.ORDERS) if len(row["lineItems"]) == 300]
    (page,) = [
        page
        for page in read(platform, Resource.ORDERS)
        if long["id"] in {row.external_id for row in page.records}
    ]
    lines = [line for line in page.parts["order_lines"] if line.order_external_id == long["id"]]
    assert lines == expected_lines(long)


def with_addresses(shop: Shop, count: int) -> dict[str, Any]:
    """A customer with so many addresses more, of which the last one is the default."""
    with shop.lock:
        row = next(row for row in shop.ledger.customers if row.get("defaultAddress"))
        for number in range(count):
            row["defaultAddress"] = shop.ledger.add_address(
                row,
                {
                    "address1": f"{number} Long Lane",
                    "company": "Acme ĿȚĐ",
                    "countryCodeV2": "GB",
                    "zip": "E1",
                },
            )
    return next(one for one in exported(shop, Resource.CUSTOMERS) if one["id"] == row["id"])


def test_a_customer_has_all_addresses_and_the_default_one_first(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    customer = with_addresses(shop, 260)
    found = {row.external_id: row for row in records(read(platform, Resource.CUSTOMERS))}[customer["id"]]
    addresses = json.loads(found.addresses)
    assert found == expected_customer(customer)
    assert len(addresses) == len(customer["addressesV2"])
    assert addresses[0] == {
        "company": "Acme ĿȚĐ",
        "address_1": "259 Long Lane",
        "postal_code": "E1",
        "country_code": "GB",
    }


@pytest.mark.parametrize(
    ("resource", "within"), [(Resource.CUSTOMERS, "customer"), (Resource.ORDERS, "order")]
)
def test_a_row_that_goes_while_what_is_nested_in_it_is_read_is_gone(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes, resource: Resource, within: str
) -> None:
    with_addresses(shop, 1)
    operation = {"customer": "CustomerAddresses", "order": "OrderLines"}[within]
    shop.faults.append(Fault("null_field", field=within, operation=f"query {operation}(", times=1))
    pages = read(platform, resource)
    (gone,) = [one for page in pages for one in page.gone]
    assert {row.external_id for row in records(pages)} == {row["id"] for row in exported(shop, resource)} - {
        gone
    }
    assert sum(page.read for page in pages) == len(exported(shop, resource))
    assert gone not in {line.order_external_id for line in parts(pages, "order_lines")}


@pytest.mark.parametrize("name", ["😀 Ünïcödé 🏳️‍🌈", "مرحبا بالعالم", "李 𠮷野家", "O'Brien; -- \\ \" \t"])
def test_any_script_comes_through(shop: Shop, platform: ShopifyPlatform, name: str) -> None:
    customer, order = exported(shop, Resource.CUSTOMERS)[0], exported(shop, Resource.ORDERS)[0]
    edit(shop, "update_customer", id=customer["id"], fields={"firstName": name, "note": name, "tags": [name]})
    edit(shop, "update_order", id=order["id"], fields={"note": name})
    found = platform.rows(Resource.CUSTOMERS, [customer["id"]]).records[0]
    assert isinstance(found, Customer)
    assert (found.first_name, found.note, found.tags) == (name, name, [name])
    ordered = platform.rows(Resource.ORDERS, [order["id"]]).records[0]
    assert isinstance(ordered, Order)
    assert ordered.note == name


def test_a_customer_without_anything_that_says_who_it_is(shop: Shop, platform: ShopifyPlatform) -> None:
    buyer = next(
        row for row in exported(shop, Resource.CUSTOMERS) if row["lastOrder"] and row["defaultEmailAddress"]
    )
    edit(shop, "redact_customer", id=buyer["id"])
    (found,) = platform.rows(Resource.CUSTOMERS, [buyer["id"]]).records
    assert isinstance(found, Customer)
    said = {name: value for name, value in found._asdict().items() if value not in (None, False, [], "[]")}
    assert said.keys() == {
        "external_id", "source_updated_at", "locale", "orders_count", "total_spent", "currency", "source_created_at",
    }  # fmt: skip
    assert records(read(platform, Resource.ORDERS)) == expected(shop, Resource.ORDERS)


@pytest.mark.parametrize(
    ("text", "country", "phone", "given"),
    [
        ("+1 212 555 0001 x12", None, "+12125550001", "+1 212 555 0001 x12"),
        ("020 7946 0958", "GB", "+442079460958", "020 7946 0958"),
        ("ask Ada", None, None, "ask Ada"),
        ("+442079460958", "US", "+442079460958", None),
    ],
)
def test_a_phone_is_read_as_in_the_country_of_the_default_address(
    shop: Shop,
    platform: ShopifyPlatform,
    text: str,
    country: str | None,
    phone: str | None,
    given: str | None,
) -> None:
    customer = with_addresses(shop, 1) if country == "GB" else exported(shop, Resource.CUSTOMERS)[0]
    edit(shop, "update_customer", id=customer["id"], fields={"phone": text})
    (found,) = platform.rows(Resource.CUSTOMERS, [customer["id"]]).records
    assert isinstance(found, Customer)
    assert (found.phone, found.phone_given) == (phone, given)


def test_a_consent_given_in_a_shop_names_the_place(shop: Shop, platform: ShopifyPlatform) -> None:
    location = shop.export(["locations"])["locations"][0]["id"]
    with shop.lock:
        row = next(
            row
            for row in shop.ledger.customers
            if row.get("defaultEmailAddress") and row.get("defaultPhoneNumber")
        )
        for kind in ("defaultEmailAddress", "defaultPhoneNumber"):
            place = {"sourceLocation": shop.store.locations[location], "marketingCollectedFrom": "OTHER"}
            shop.ledger.set_consent(row, kind, {"marketingState": "UNSUBSCRIBED", **place})
    (found,) = platform.rows(Resource.CUSTOMERS, [row["id"]]).records
    assert isinstance(found, Customer)
    assert (found.email_consent, found.email_consent_source) == ("unsubscribed", location)
    assert (found.sms_consent, found.sms_consent_source) == ("unsubscribed", location)


# Only the last 60 days


def sell(shop: Shop, clock: HandClock, count: int) -> list[Any]:
    """So many orders of today, as they should be read."""
    for _ in range(count):
        clock.seconds += 60
        edit(shop, "add_order")
    return expected(shop, Resource.ORDERS)[-count:]


def test_without_the_scope_for_all_orders_the_old_ones_are_told_to_be_unseen(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, small_pages: PageSizes
) -> None:
    recent = sell(shop, clock, 12)
    edit(shop, "set_scopes", scopes=["read_customers", "read_orders"])
    pages = read(platform, Resource.ORDERS)
    assert records(pages) == recent
    assert len(pages) == 2
    assert {page.source_count for page in pages} == {None}
    assert {page.listed_since for page in pages} == {datetime.fromisoformat(recent[0].source_created_at)}


def test_without_the_scope_for_all_orders_and_without_orders_nothing_is_seen(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    edit(shop, "set_scopes", scopes=["read_customers", "read_orders"])
    clock.seconds += 90 * 86400
    (page,) = read(platform, Resource.ORDERS)
    assert (page.read, page.listed_since) == (0, clock.now().replace(microsecond=0))


def test_an_old_order_that_may_not_be_seen_is_not_gone(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    recent = sell(shop, clock, 2)
    ids = [row["id"] for row in exported(shop, Resource.ORDERS)]
    edit(shop, "set_scopes", scopes=["read_customers", "read_orders"])
    page = platform.rows(Resource.ORDERS, ids)
    assert (page.records, page.gone, page.rejects) == (recent, [], [])
    assert page.read == 2


@pytest.mark.parametrize("field", ["app", "app.accessScopes"])
def test_orders_that_do_not_tell_whether_they_are_all_are_malformed(
    shop: Shop, platform: ShopifyPlatform, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field))
    for call in (
        lambda: read(platform, Resource.ORDERS),
        lambda: platform.rows(Resource.ORDERS, ["gid://a/b/1"]),
    ):
        assert failure_of(call).error_type is ErrorType.MALFORMED_RESPONSE


# Rows that make no sense


@every_resource
@pytest.mark.parametrize("field", ["updatedAt", "amount"])
def test_a_null_in_any_page_rejects_its_row_alone(
    shop: Shop, connect: Callable[..., ShopifyClient], resource: Resource, field: str
) -> None:
    at_once = 25
    platform = ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), PageSizes(rows=at_once))
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    rows = expected(shop, resource)
    field = {"amount": "amountSpent" if resource is Resource.CUSTOMERS else "totalPriceSet"}.get(field, field)
    operation = f"query {resource.value.capitalize()}("
    for number in range(-(-len(rows) // at_once)):
        shop.faults[:] = [Fault("null_field", field=field, row=1, after=number, times=1, operation=operation)]
        pages = read(platform, resource)
        spoiled = rows[at_once * number + 1]
        reject = only_reject(pages)
        assert (reject.external_id, reject.table) == (spoiled.external_id, None)
        assert "correct it at the source" in reject.reason
        assert records(pages) == [row for row in rows if row is not spoiled]
        assert spoiled.external_id not in {line.order_external_id for line in parts(pages, "order_lines")}


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("order_lines", "originalUnitPriceSet"),
        ("order_lines", "discountedTotalSet.shopMoney"),
        ("refunds", "totalRefundedSet"),
    ],
)
def test_a_part_that_makes_no_sense_is_rejected_alone(
    shop: Shop, platform: ShopifyPlatform, table: str, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field, row=1, operation="query Orders("))
    orders = exported(shop, Resource.ORDERS)
    whole = {"order_lines": expected_lines, "refunds": expected_refunds}
    pages = read(platform, Resource.ORDERS)
    reject = only_reject(pages)
    assert records(pages) == [expected_order(row) for row in orders]
    assert sum(page.read for page in pages) == len(orders)
    everything = [part for row in orders for part in whole[table](row)]
    assert (reject.external_id, reject.table) == (everything[1].external_id, table)
    for name, of_order in whole.items():
        should = [part for row in orders for part in of_order(row) if part.external_id != reject.external_id]
        assert sorted(parts(pages, name)) == sorted(should)


@pytest.mark.parametrize("value", [None, 17, [], {}])
def test_a_part_without_an_id_is_rejected(shop: Shop, platform: ShopifyPlatform, value: Any) -> None:
    order = next(row for row in exported(shop, Resource.ORDERS) if row["refunds"])
    for field, table in (("lineItems.nodes", "order_lines"), ("refunds", "refunds")):
        shop.faults[:] = [Fault("bad_value", field=field, id=order["id"], value=[{"id": value}])]
        (reject,) = platform.rows(Resource.ORDERS, [order["id"]]).rejects
        assert (reject.table, reject.external_id) == (table, None)


@every_resource
def test_a_nested_page_that_does_not_tell_of_the_next_costs_its_row(
    shop: Shop, platform: ShopifyPlatform, resource: Resource
) -> None:
    field = {Resource.CUSTOMERS: "addressesV2", Resource.ORDERS: "lineItems"}[resource]
    shop.faults.append(Fault("null_field", field=f"{field}.pageInfo", row=2))
    (reject,) = [reject for page in read(platform, resource) for reject in page.rejects]
    assert reject.reason.startswith(f"{field}: lacks rows or its page information")


def node(shop: Shop, resource: Resource, place: int = 0) -> dict[str, Any]:
    """A row as the API gives it, with all that is nested in it."""
    row = exported(shop, resource)[place]
    name = {Resource.CUSTOMERS: sales.CUSTOMERS_BY_IDS, Resource.ORDERS: sales.ORDERS_BY_IDS}
    body = {"query": name[resource], "variables": {"ids": [row["id"]], "addresses": 10, "lines": 250}}
    url = f"{shop.api_url}/admin/api/2026-07/graphql.json"
    answer = requests.post(url, json=body, headers={"X-Shopify-Access-Token": shop.token}, timeout=10).json()
    found: dict[str, Any] = answer["data"]["rows"][0]
    return found


def test_an_order_with_more_refunds_than_shopify_tells_of_is_rejected(shop: Shop) -> None:
    order = node(shop, Resource.ORDERS)
    order["refunds"] = [{}] * 249
    assert sales.order(order).external_id == order["id"]
    order["refunds"] *= 2
    with pytest.raises(ValueError, match="some may be missing"):
        sales.order(order)


def test_an_address_that_no_database_can_hold_says_so(shop: Shop) -> None:
    place = next(i for i, row in enumerate(exported(shop, Resource.CUSTOMERS)) if row["addressesV2"])
    customer = node(shop, Resource.CUSTOMERS, place)
    addresses = customer["addressesV2"]["nodes"]
    addresses[0]["city"] = "half a pair \ud83d"
    with pytest.raises(ValueError, match="addresses: a character") as caught:
        sales.customer(customer, addresses)
    assert "half a pair" not in str(caught.value)


@pytest.fixture(scope="module")
def nodes(shops: list[Shop]) -> dict[str, dict[str, Any]]:
    places = {Resource.CUSTOMERS: "defaultAddress", Resource.ORDERS: "refunds"}
    rows = {
        resource: next(i for i, row in enumerate(exported(shops[0], resource)) if row[some])
        for resource, some in places.items()
    }
    return {resource.value: node(shops[0], resource, place) for resource, place in rows.items()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_node_that_is_spoilt_anywhere_is_a_record_or_is_refused_in_a_way_that_rejects_it(
    nodes: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(nodes)))
    spoilt: dict[str, Any] = copy.deepcopy(nodes[kind])
    holder: Any = spoilt
    while True:
        at = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not (isinstance(holder[at], dict | list) and holder[at]) or data.draw(st.booleans()):
            break
        holder = holder[at]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[at]
    else:
        holder[at] = data.draw(JSON)

    converted = Converted()
    if kind == "customers":
        nested = spoilt.get("addressesV2")
        addresses = nested["nodes"] if isinstance(nested, dict) and nested.get("nodes") else []
        converted.add([spoilt], lambda _, one: sales.customer(one, addresses))
    else:
        nested = spoilt.get("lineItems")
        lines = nested["nodes"] if isinstance(nested, dict) and isinstance(nested.get("nodes"), list) else []
        converted.add([spoilt], lambda page, one: sales.whole_order(page, one, lines))
    whole = [one for one in converted.rejects if one.table is None]
    assert len(converted.records) + len(whole) == converted.read == 1
    for part in (one for parts in converted.parts.values() for one in parts):
        assert isinstance(part, OrderLine | Refund)


# By their ids


@pytest.mark.parametrize("resource", Resource)
def test_rows_are_read_by_their_ids_and_the_unknown_are_gone(
    shop: Shop, platform: ShopifyPlatform, resource: Resource
) -> None:
    wanted = {row.external_id: row for row in records(read(platform, resource))}
    ids = list(wanted)[:30]
    unknown = [f"{ids[0]}999", "gid://shopify/Nothing/1", "gid://shopify/AppInstallation/1"]
    page = platform.rows(resource, [*ids, unknown[0], *ids[:2], *unknown[1:]])
    assert list(page.records) == [wanted[one] for one in ids]
    assert page.gone == unknown
    assert page.read == len(ids) + len(unknown)
    assert page.vendor_time is not None


def test_no_ids_are_no_request(shop: Shop, platform: ShopifyPlatform) -> None:
    page = platform.rows(Resource.ORDERS, [])
    assert (page.read, page.records, len(shop.requests)) == (0, [], 0)


def test_rows_by_ids_are_as_new_as_can_be_and_whole(shop: Shop, platform: ShopifyPlatform) -> None:
    edit(shop, "set_search_lag", seconds=600)
    (long,) = [row for row in exported(shop, Resource.ORDERS) if len(row["lineItems"]) == 300]
    edit(shop, "update_order", id=long["id"], fields={"note": "now"})
    page = platform.rows(Resource.ORDERS, [long["id"]])
    assert [row.note for row in page.records if isinstance(row, Order)] == ["now"]
    assert len(page.parts["order_lines"]) == 300


def test_as_many_rows_are_asked_for_at_once_as_the_shop_allows(shop: Shop, platform: ShopifyPlatform) -> None:
    edit(shop, "set_budget", maximum=150, restore=10_000)
    orders = expected(shop, Resource.ORDERS)
    assert platform.rows(Resource.ORDERS, [row.external_id for row in orders]).records == orders


def test_an_answer_that_lacks_a_row_is_malformed(shop: Shop, platform: ShopifyPlatform) -> None:
    shop.faults.append(Fault("bad_value", field="rows", value=[]))
    error = failure_of(lambda: platform.rows(Resource.CUSTOMERS, ["gid://shopify/Customer/1"]))
    assert error.error_type is ErrorType.MALFORMED_RESPONSE


# Edits


@pytest.fixture
def customer(shop: Shop, platform: ShopifyPlatform) -> Customer:
    """A customer with an e-mail address and a phone, subscribed to neither."""
    with shop.lock:
        for row in shop.ledger.customers:
            if row.get("defaultEmailAddress") and row.get("defaultPhoneNumber"):
                for kind in ("defaultEmailAddress", "defaultPhoneNumber"):
                    shop.ledger.set_consent(row, kind, {"marketingState": "NOT_SUBSCRIBED"})
                return expected_customer(show_customer(row))
    pytest.fail("no such customer")


def held(shop: Shop, customer: Customer) -> Customer:
    (row,) = [row for row in exported(shop, Resource.CUSTOMERS) if row["id"] == customer.external_id]
    return expected_customer(row)


EDIT: dict[str, Any] = {
    "first_name": "Zoë 😀",
    "last_name": None,
    "email": "zoe.new@example.org",
    "phone": "+12125550199",
    "note": None,
    "tags": ["b", "a"],
    "locale": "fr",
    "email_consent": "subscribed",
    "sms_consent": "pending",
}


def test_every_editable_column_is_written_and_the_row_comes_back(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, clock: HandClock
) -> None:
    assert EDIT.keys() == platform.editable
    clock.seconds += 90
    outcome = platform.update_customer(customer.external_id, EDIT)
    now = held(shop, customer)
    assert outcome.status == "applied"
    assert outcome.page is not None
    assert list(outcome.page.records) == [now]
    shown = now._asdict()
    assert {name: shown[name] for name in EDIT} == EDIT | {"tags": ["a", "b"]}
    assert now.source_updated_at > customer.source_updated_at


@pytest.mark.parametrize("column", ["first_name", "last_name", "email", "phone", "note", "tags"])
def test_none_takes_a_value_away(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, column: str
) -> None:
    platform.update_customer(
        customer.external_id, {"first_name": "Ada", "last_name": "L", "note": "x", "tags": ["y"]}
    )
    assert platform.update_customer(customer.external_id, {column: None}).status == "applied"
    assert getattr(held(shop, customer), column) == ([] if column == "tags" else None)


@pytest.mark.parametrize("mutation", ["UpdateCustomer", "UpdateEmailConsent", "UpdateSmsConsent"])
def test_an_edit_whose_answer_was_lost_is_made_again_to_the_same_effect(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, clock: HandClock, mutation: str
) -> None:
    shop.faults.append(Fault("apply_then_cut", operation=f"mutation {mutation}(", times=1))
    assert failure_of(lambda: platform.update_customer(customer.external_id, EDIT)).recoverable
    after_the_cut = held(shop, customer)
    clock.seconds += 90
    assert platform.update_customer(customer.external_id, EDIT).status == "applied"
    now = held(shop, customer)
    assert {name: now._asdict()[name] for name in EDIT} == EDIT | {"tags": ["a", "b"]}
    if mutation == "UpdateSmsConsent":
        assert now.sms_consent_at == after_the_cut.sms_consent_at, "it was given then"
    assert platform.update_customer(customer.external_id, EDIT).page is not None
    assert held(shop, customer) == now, "done again, nothing changes, not even the time of a consent"


def test_a_consent_that_is_already_so_is_not_written(
    shop: Shop, platform: ShopifyPlatform, customer: Customer
) -> None:
    outcome = platform.update_customer(customer.external_id, {"email_consent": "not_subscribed"})
    assert (outcome.status, shop.applied) == ("applied", 0)


SECRET = "someone.else@example.org"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"email": SECRET}, "email: has already been taken"),
        ({"email": "secret but no address"}, "email: is invalid"),
        ({"phone": "secret"}, "phone: is invalid"),
        ({"first_name": "secret" * 60}, "first_name: is too long"),
        ({"first_name": None, "last_name": None, "email": None, "phone": None}, "customer: must be present"),
        ({"email_consent": "redacted"}, "email_consent: INVALID"),
        ({"sms_consent": "secret"}, "INVALID_VARIABLE: a value is not of the kind that Shopify takes"),
        ({"tags": {"secret": 1}}, "INVALID_VARIABLE: a value is not of the kind that Shopify takes"),
        ({"locale": None}, "locale: cannot be taken away"),
        ({"sms_consent": None}, "sms_consent: cannot be taken away"),
        (
            {"total_spent": "1", "company": "x"},
            "company, total_spent: cannot be changed at Shopify from here",
        ),
    ],
)
def test_an_edit_that_is_refused_says_why_and_changes_nothing(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, values: dict[str, Any], reason: str
) -> None:
    edit(shop, "add_customer", fields={"firstName": "Else", "email": SECRET})
    outcome = platform.update_customer(customer.external_id, values)
    assert (outcome.status, outcome.reason) == ("rejected", reason)
    assert held(shop, customer) == customer
    assert shop.applied == 0


def test_a_consent_that_is_refused_after_the_profile_was_written_shows_what_was_done(
    shop: Shop, platform: ShopifyPlatform, customer: Customer
) -> None:
    outcome = platform.update_customer(
        customer.external_id, {"phone": None, "note": "n", "sms_consent": "subscribed"}
    )
    assert (outcome.status, outcome.reason) == ("rejected", "sms_consent: must have a phone number")
    assert outcome.page is not None
    assert list(outcome.page.records) == [held(shop, customer)]
    assert held(shop, customer).note == "n"


@pytest.mark.parametrize("values", [{"note": "x"}, {"email_consent": "subscribed"}, {}])
def test_a_customer_that_is_gone_cannot_be_edited(platform: ShopifyPlatform, values: dict[str, Any]) -> None:
    outcome = platform.update_customer("gid://shopify/Customer/1", values)
    assert (outcome.status, outcome.reason) == ("rejected", "id: does not exist")


@pytest.mark.parametrize(
    "values", [{"note": "x"}, {"email_consent": "subscribed"}, {"sms_consent": "subscribed"}]
)
def test_an_edit_without_its_scope_is_told_so(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, values: dict[str, Any]
) -> None:
    edit(shop, "set_scopes", scopes=["read_customers", "read_orders"])
    error = failure_of(lambda: platform.update_customer(customer.external_id, values))
    assert error.error_type is ErrorType.SCOPES
    assert "write_customers" in error.message


def test_words_of_shopifys_that_nobody_knows_are_not_passed_on(
    serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    errors: list[Any] = [
        {"field": ["email"], "message": f"{SECRET} is a strange address"},
        {"field": ["input", SECRET], "message": SECRET},
        {"field": None, "message": f"{SECRET} is not liked", "code": "INCLUSION"},
    ]
    server = serve(Reply.of({"data": {"outcome": {"customer": None, "userErrors": errors}}}))
    outcome = ShopifyPlatform(connect(server.url)).update_customer(
        "gid://shopify/Customer/1", {"email": SECRET}
    )
    told = "email: refused by Shopify, customer: refused by Shopify, customer: INCLUSION"
    assert outcome == UpdateOutcome("rejected", None, told)


def test_a_query_that_is_refused_keeps_its_words_to_itself(
    serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    server = serve(
        Reply.of({"errors": [{"message": f"{SECRET} is no CustomerInput", "extensions": {"code": "x"}}]})
    )
    platform = ShopifyPlatform(connect(server.url))
    error = failure_of(lambda: platform.update_customer("gid://shopify/Customer/1", {"email": SECRET}))
    assert error.error_type is ErrorType.QUERY_REJECTED
    assert SECRET not in f"{error!r} {error.message} {error.details}"


def test_a_consent_at_which_shopify_fails_is_to_be_tried_again(
    shop: Shop, platform: ShopifyPlatform, customer: Customer
) -> None:
    failing = [{"field": None, "message": "Internal", "code": "INTERNAL_ERROR"}]
    shop.faults.append(Fault("bad_value", field="outcome.userErrors", value=failing))
    error = failure_of(lambda: platform.update_customer(customer.external_id, {"email_consent": "pending"}))
    assert (error.error_type, error.recoverable) == (ErrorType.SERVER_ERROR, True)


@pytest.mark.parametrize("field", ["outcome", "userErrors"])
def test_an_edit_without_an_outcome_is_malformed_and_never_taken_for_applied(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field))
    error = failure_of(lambda: platform.update_customer(customer.external_id, {"note": "x"}))
    assert error.error_type is ErrorType.MALFORMED_RESPONSE


def test_what_staff_write_while_the_rate_limit_makes_us_wait_is_not_replaced(
    shop: Shop, platform: ShopifyPlatform, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.faults.append(Fault("too_many_requests", seconds=30, times=1, operation="mutation UpdateCustomer("))

    def staff(_: float) -> None:
        edit(shop, "update_customer", id=customer.external_id, fields={"note": "theirs"})

    monkeypatch.setattr(platform._client, "sleep", staff)
    outcome = platform.update_customer(
        customer.external_id, {"note": "ours"}, lambda row: row.note == customer.note
    )
    assert outcome.status == "changed"
    assert outcome.page is not None
    assert [row.note for row in outcome.page.records] == [held(shop, customer).note] == ["theirs"]
    assert platform.update_customer(customer.external_id, {"note": "x"}, lambda _: True).status == "applied"
