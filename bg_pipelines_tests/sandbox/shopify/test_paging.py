"""Pages, cursors and searches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.sandbox import Fault, Shop, World, edit
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import START, HandClock

VARIANTS = """query Variants($first: Int, $after: String, $query: String) {
  productVariants(first: $first, after: $after, query: $query) {
    nodes { id title sku barcode price compareAtPrice position inventoryQuantity createdAt updatedAt
      inventoryItem { id sku tracked createdAt updatedAt } product { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}"""
PRODUCTS = """query Products($first: Int, $after: String, $query: String, $sort: ProductSortKeys, $reverse: Boolean) {
  products(first: $first, after: $after, query: $query, sortKey: $sort, reverse: $reverse) {
    nodes { id title handle status vendor productType tags createdAt updatedAt }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}"""
LOCATIONS = """query Locations($first: Int, $after: String) {
  locations(first: $first, after: $after, includeInactive: true, sortKey: ID) {
    nodes { id name isActive fulfillsOnlineOrders address { address1 city provinceCode countryCode zip } createdAt updatedAt }
    pageInfo { hasNextPage endCursor }
  }
}"""
LEVELS = """query Levels($location: ID!, $after: String) {
  location(id: $location) {
    inventoryLevels(first: 40, after: $after, includeInactive: true) {
      nodes { id isActive createdAt updatedAt item { id } location { id }
        quantities(names: ["available", "on_hand", "committed", "incoming"]) { name quantity updatedAt } }
      pageInfo { hasNextPage endCursor }
    }
  }
}"""


def ids(rows: list[Any]) -> list[str]:
    return [row["id"] for row in rows]


def test_paging_to_the_end_gives_the_export(client: Client, shop: Shop) -> None:
    export = client.admin("GET", f"shops/{shop.domain}/export").json()
    assert client.pages(VARIANTS, "productVariants", first=7) == export["product_variants"]
    assert client.pages(PRODUCTS, "products", first=4) == export["products"]
    assert client.pages(LOCATIONS, "locations", first=1) == export["locations"]
    levels = []
    for location in export["locations"]:
        after = None
        while True:
            page = client.ask(LEVELS, location=location["id"], after=after)["location"]["inventoryLevels"]
            levels += page["nodes"]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
    assert levels == export["inventory_levels"]
    assert shop.export() == export


def test_a_page_after_a_deleted_row_goes_on_where_it_should(client: Client, shop: Shop) -> None:
    before = ids(shop.export()["product_variants"])
    page = client.ask(VARIANTS, first=5)["productVariants"]
    edit(shop, "delete_variant", id=before[4])
    after = client.ask(VARIANTS, first=250, after=page["pageInfo"]["endCursor"])["productVariants"]
    assert ids(after["nodes"]) == before[5:]


def test_products_come_in_the_order_of_their_last_change(client: Client, shop: Shop) -> None:
    first = client.ask(PRODUCTS, first=1, sort="UPDATED_AT")["products"]["nodes"][0]
    edit(shop, "update_product", id=first["id"], fields={"title": "Newest"})
    rows = client.pages(PRODUCTS, "products", first=3, sort="UPDATED_AT")
    assert rows[-1]["title"] == "Newest"
    assert [row["updatedAt"] for row in rows] == sorted(row["updatedAt"] for row in rows)
    assert client.pages(PRODUCTS, "products", first=3, sort="UPDATED_AT", reverse=True) == rows[::-1]


def test_the_last_rows_can_be_read_backwards(client: Client, shop: Shop) -> None:
    query = """query($before: String) { products(last: 3, before: $before) {
      edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor } } }"""
    read: list[str] = []
    before, more = None, True
    while more:
        page = client.ask(query, before=before)["products"]
        read = [edge["node"]["id"] for edge in page["edges"]] + read
        assert page["edges"][0]["cursor"] == page["pageInfo"]["startCursor"]
        before, more = page["pageInfo"]["startCursor"], page["pageInfo"]["hasPreviousPage"]
    assert read == ids(shop.export()["products"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "you must provide one of first or last"),
        ("(first: 1, last: 1)", "providing both first and last is not supported"),
        ("(first: 251)", "first must be between 0 and 250, but 251 was given"),
        ('(first: 1, after: "bm9uZQ==")', "Invalid cursor for current pagination sort."),
        ('(first: 1, after: "é")', "Invalid cursor for current pagination sort."),
    ],
)
def test_bad_paging_is_refused(client: Client, arguments: str, message: str) -> None:
    body = client.post(f"{{ products{arguments} {{ nodes {{ id }} }} }}").json()
    assert body["data"] is None
    assert body["errors"][0]["message"] == message
    assert body["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


def test_a_cursor_of_another_order_is_refused(client: Client) -> None:
    cursor = client.ask(PRODUCTS, first=1, sort="UPDATED_AT")["products"]["pageInfo"]["endCursor"]
    body = client.post(PRODUCTS, {"first": 1, "sort": "ID", "after": cursor}).json()
    assert body["errors"][0]["message"] == "Invalid cursor for current pagination sort."


def test_only_what_changed_since_is_found(client: Client, shop: Shop, clock: HandClock) -> None:
    since = f"updated_at:>'{shop.clock.stamp()}'"
    clock.seconds = START + 60
    variant = shop.export()["product_variants"][3]
    assert client.pages(VARIANTS, "productVariants", first=9, query=since) == []
    edit(shop, "update_variant", id=variant["id"], fields={"price": "9.99"})
    assert ids(
        client.pages(VARIANTS, "productVariants", first=9, query=f"{since} AND updated_at:<=2027-01-01")
    ) == [variant["id"]]
    assert ids(client.pages(PRODUCTS, "products", first=9, query=since)) == [variant["product"]["id"]]


def test_searches_combine_and_ignore_what_they_do_not_know(client: Client, shop: Shop) -> None:
    products = shop.export()["products"]
    drafts = {row["id"] for row in products if row["status"] == "DRAFT"}
    first, second = ids(products)[:2]

    def found(query: str) -> set[str]:
        return set(ids(client.pages(PRODUCTS, "products", first=50, query=query)))

    edit(shop, "update_product", id=first, fields={"status": "DRAFT"})
    assert found("status:draft") == drafts | {first}
    assert found(f"id:{first.rsplit('/', 1)[1]} OR id:{second.rsplit('/', 1)[1]}") == {first, second}
    assert found(f"(id:{first.rsplit('/', 1)[1]} status:DRAFT) unheard_of:5") == {first}
    assert found("-status:draft") == set(ids(products)) - drafts - {first}
    assert found("updated_at:>whenever") == set(ids(products))
    assert found(") ((") == set(ids(products))


def test_search_lags_behind_but_reading_does_not(client: Client, shop: Shop, clock: HandClock) -> None:
    edit(shop, "set_search_lag", seconds=30)
    clock.seconds = START + 100
    product = shop.export()["products"][0]
    edit(shop, "update_product", id=product["id"], fields={"title": "Hidden at first"})
    query = f"updated_at:>={shop.clock.stamp(100)}"
    assert client.pages(PRODUCTS, "products", first=50, query=query) == []
    assert "Hidden at first" in {row["title"] for row in client.pages(PRODUCTS, "products", first=50)}
    clock.seconds += 31
    assert ids(client.pages(PRODUCTS, "products", first=50, query=query)) == [product["id"]]


def test_counts_say_when_they_stop_counting(client: Client, shop: Shop) -> None:
    total = len(shop.export()["product_variants"])
    counts = client.ask(
        "{ all: productVariantsCount { count precision } few: productVariantsCount(limit: 2) { count precision } }"
    )
    assert counts == {
        "all": {"count": total, "precision": "EXACT"},
        "few": {"count": 2, "precision": "AT_LEAST"},
    }


STANDING = World(shops=1, variants=60, seed=3, clock=lambda: START).shops["harbor-tools-01.myshopify.example"]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    sort_key=st.sampled_from(["ID", "TITLE", "SKU", "POSITION", "UPDATED_AT", "INVENTORY_QUANTITY"]),
    reverse=st.booleans(),
    backward=st.booleans(),
    odd=st.booleans(),
)
def test_pages_of_any_size_and_order_hold_every_row_once(
    sizes: list[int], sort_key: str, reverse: bool, backward: bool, odd: bool
) -> None:
    table = STANDING.store.variants
    matches = (lambda row: row["_key"][0] % 64 == 0) if odd else None
    size_name, cursor_name, cursor_end, more = (
        ("last", "before", "startCursor", "hasPreviousPage")
        if backward
        else ("first", "after", "endCursor", "hasNextPage")
    )
    read: list[str] = []
    cursor = None
    for turn in range(100):
        args = {size_name: sizes[turn % len(sizes)], cursor_name: cursor, "reverse": reverse}
        page = connect(table, args, sort_key=sort_key, matches=matches)
        read = ids(page["nodes"]) + read if backward else read + ids(page["nodes"])
        cursor = page["pageInfo"][cursor_end]
        if not page["pageInfo"][more]:
            break
    rows = [row["id"] for row in table.ordered(sort_key)[1] if matches is None or matches(row)]
    assert read == (rows[::-1] if reverse else rows)


def test_a_fault_does_not_touch_the_rows_themselves(client: Client, shop: Shop) -> None:
    before = shop.export()
    shop.faults.append(Fault("bad_value", field="title", value=5))
    assert client.post(PRODUCTS, {"first": 5}).json()["data"]["products"]["nodes"][0]["title"] == 5
    assert shop.export() == before
