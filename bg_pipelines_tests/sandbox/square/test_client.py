"""The vendor's own client, with the sandbox in place of the vendor: what it takes care of, and what it does not."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from bg_pipelines.sandbox import Fault, Merchant, edit
from bg_pipelines_tests.sandbox.square.conftest import ids

square = pytest.importorskip("square", reason="the vendor's client (squareup) is not installed")
ApiError = pytest.importorskip("square.core.api_error").ApiError
ONCE = {"max_retries": 0}


@pytest.fixture
def vendors(merchant: Merchant) -> Any:
    return square.Square(token=merchant.token, base_url=merchant.api_url, timeout=5)


def test_it_reads_everything(vendors: Any, merchant: Merchant) -> None:
    exported = merchant.export()
    assert vendors.merchants.get(merchant_id="me").merchant.id == merchant.id
    places = [place.id for place in vendors.locations.list().locations]
    assert places == ids(exported["locations"])
    listed = list(vendors.catalog.list(types="ITEM,ITEM_VARIATION"))
    assert [row.id for row in listed] == ids(exported["objects"])
    counts = list(vendors.inventory.batch_get_counts(limit=500))
    assert [row.quantity for row in counts] == [row["quantity"] for row in exported["counts"][::-1]]
    people, cursor = [], None
    while True:
        page = vendors.customers.search(limit=25, **({"cursor": cursor} if cursor else {}))
        people += [row.id for row in page.customers]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(people) == sorted(ids(exported["customers"]))
    orders = vendors.orders.search(location_ids=places[:10]).orders
    orders += vendors.orders.search(location_ids=places[10:]).orders
    assert sorted(order.id for order in orders) == sorted(ids(exported["orders"]))
    # Times stay texts; money is an object with an int.
    assert isinstance(orders[0].created_at, str)
    assert isinstance(orders[0].total_money.amount, int)


def test_it_writes_a_customer_and_a_count(vendors: Any, merchant: Merchant) -> None:
    made = vendors.customers.create(given_name="Ann", idempotency_key="k").customer
    changed = vendors.customers.update(customer_id=made.id, version=made.version, note="new").customer
    assert (changed.version, merchant.store.customers[made.id]["note"]) == (1, "new")
    vendors.customers.delete(customer_id=made.id, version=1)
    assert made.id not in merchant.store.customers
    row = merchant.export()["counts"][0]
    count = {name: row[name] for name in ("catalog_object_id", "location_id", "state")}
    count |= {"quantity": "17", "occurred_at": merchant.clock.stamp()}
    change = {"type": "PHYSICAL_COUNT", "physical_count": count}
    answer = vendors.inventory.batch_create_changes(idempotency_key="k", changes=[change])
    assert answer.counts[0].quantity == "17"


def test_an_error_has_a_status_and_the_vendors_errors(vendors: Any, merchant: Merchant) -> None:
    edit(merchant, "expire_tokens")
    with pytest.raises(ApiError) as raised:
        vendors.locations.list()
    assert raised.value.status_code == 401
    assert [error.code for error in raised.value.errors] == ["ACCESS_TOKEN_EXPIRED"]


def test_it_tries_again_by_itself_what_failed_unless_told_not_to(vendors: Any, merchant: Merchant) -> None:
    merchant.faults.append(Fault("server_error", times=1))
    with pytest.raises(ApiError):
        vendors.locations.list(request_options=ONCE)
    assert [request.status for request in merchant.requests] == [500]
    merchant.faults.append(Fault("server_error", times=1))
    assert vendors.locations.list().locations
    assert [request.status for request in merchant.requests] == [500, 500, 200]


def test_html_with_200_and_truncated_json_are_api_errors_without_a_code(
    vendors: Any, merchant: Merchant
) -> None:
    for kind in ("html", "half_json"):
        merchant.faults.append(Fault(kind, times=1))
        with pytest.raises(ApiError) as raised:
            vendors.locations.list()
        assert (raised.value.status_code, raised.value.errors[0].code) == (200, "Unknown")


def test_it_checks_no_types_and_no_cursors(vendors: Any, merchant: Merchant) -> None:
    merchant.faults.append(Fault("bad_value", field="created_at", value=5, operation="SearchCustomers"))
    assert vendors.customers.search(limit=1).customers[0].created_at == 5
    merchant.faults.append(Fault("repeat_cursor", operation="ListCatalog"))
    # It would go on for ever.
    rows = list(islice(vendors.catalog.list(types="ITEM"), 1000))
    assert len({row.id for row in rows}) < 200
