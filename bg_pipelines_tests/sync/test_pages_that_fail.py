"""A page that the vendor fails at costs at most the row it fails at, and a list without an end is told of.

Through a go-between that answers in the vendor's place where a page is too large, or holds a certain row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.platforms.shopify.pages import PageSizes
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox, Shop, edit
from bg_pipelines.sync import Summary, table_sync
from bg_pipelines_tests.go_between import Answer, GoBetween
from bg_pipelines_tests.platforms.square.conftest import as_store as as_merchant_store
from bg_pipelines_tests.platforms.square.conftest import assert_equal_to_merchant
from bg_pipelines_tests.support import Connect, as_store, connect_by, loaded_rows, query, source_rows
from bg_pipelines_tests.sync.test_nasty_values import rows_in

Sync = Callable[..., Summary]
FAILURE = {
    "an internal error": Answer(200, b'{"data":{"rows":null},"errors":[{"message":"Internal error","path":["rows","nodes",0,"note"]}]}'),
    "a code": Answer(200, b'{"errors":[{"message":"Internal error","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}'),
    "a bad gateway": Answer(502, b"<html>Bad Gateway</html>"),
    "half a page": Answer(200, b'{"data":{"rows":{"nodes":[{"id":"gid:'),
}  # fmt: skip


@pytest.fixture
def connect_stores() -> Connect:
    return connect_by(shopify={"sizes": PageSizes(rows=25, locations=20, levels=5)})


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    made = make_sandbox(
        shops=1, variants=60, customers=60, orders_per_customer=1, merchants=1, square_customers=150
    )
    edit(shop_of(made), "set_budget", maximum=1_000_000, restore=1_000_000)
    return made


def shop_of(sandbox: Sandbox) -> Shop:
    [shop] = sandbox.world.shops.values()
    return shop


@pytest.fixture
def between(sandbox: Sandbox, database: Database, cipher: Cipher) -> Iterator[GoBetween]:
    """Before a shop that is a store."""
    with GoBetween(sandbox) as between:
        shop = shop_of(sandbox)
        save_stores(database, cipher, [as_store(shop, api_url=between.address(shop.api_url))])
        yield between


def fails_at(external_id: str, answer: Answer) -> Callable[[Any, str, bytes], Any]:
    """Fails at each answer that holds more than the id of a row."""

    def change(content: Any, _path: str, _asked: bytes) -> Any:
        holds = any(node["id"] == external_id and len(node) > 1 for node in rows_in(content))
        return answer if holds else content

    return change


RESOURCES = [one for one in Resource if one is not Resource.LOCATIONS]


@pytest.mark.parametrize(("resource", "how"), list(zip(RESOURCES, [*FAILURE, *FAILURE], strict=False)))
def test_a_row_that_the_vendor_fails_at_is_rejected_and_the_rest_loads(
    sandbox: Sandbox, between: GoBetween, sync: Sync, database: Database, resource: Resource, how: str
) -> None:
    rows = source_rows(shop_of(sandbox), resource)
    bad = sorted(external_id for external_id, _ in rows)[len(rows) // 2]
    between.change = fails_at(bad, FAILURE[how])
    units = (Unit(resource.value),)
    assert sync(units=units).failures == []
    [rejected] = query(database, "SELECT external_id, reason FROM rejected_rows")
    assert rejected["external_id"] == bad
    assert "Shopify fails" in rejected["reason"]
    held = loaded_rows(database, shop_of(sandbox).domain, resource)
    assert held == {row for row in rows if row[0] != bad}
    # Held before, it stays and is no deletion, though it is asked for by its id.
    between.change = lambda content, _path, _asked: content
    assert sync(units=units, force=True).failures == []
    assert query(database, "SELECT FROM rejected_rows") == []
    between.change = fails_at(bad, FAILURE[how])
    assert sync(units=units, force=True).failures == []
    assert loaded_rows(database, shop_of(sandbox).domain, resource) == rows


def test_a_vendor_that_manages_small_pages_alone_is_read_in_small_pages(
    sandbox: Sandbox, between: GoBetween, sync: Sync, database: Database
) -> None:
    def change(content: Any, _path: str, asked: bytes) -> Any:
        document = orjson.loads(asked)
        is_large = (document["variables"].get("first") or 0) > 5 and "Ids(" not in document["query"]
        return Answer(502) if is_large else content

    between.change = change
    assert sync(units=(Unit.CUSTOMERS, Unit.ORDERS)).failures == []
    for resource in (Resource.CUSTOMERS, Resource.ORDERS):
        shop = shop_of(sandbox)
        assert loaded_rows(database, shop.domain, resource) == source_rows(shop, resource)
    assert query(database, "SELECT FROM rejected_rows") == []


def test_a_vendor_that_is_down_is_asked_once_more_and_left_alone(between: GoBetween, sync: Sync) -> None:
    between.change = lambda _content, _path, _asked: Answer(502)
    failures = sync(units=(Unit.CUSTOMERS,)).failures
    assert [failure.error.error_type for failure in failures] == [ErrorType.SERVER_ERROR]
    assert len(between.asked) == 2


def test_a_vendor_that_fails_at_every_row_and_still_tells_ids_rejects_none(
    between: GoBetween, sync: Sync, database: Database
) -> None:
    between.change = lambda content, _path, asked: Answer(502) if b"query Customers" in asked else content
    for _ in range(2):
        [failure] = sync(units=(Unit.CUSTOMERS,), force=True).failures
        assert failure.error.error_type is ErrorType.SERVER_ERROR
    assert query(database, "SELECT FROM rejected_rows") == []
    [state] = query(database, "SELECT attempts FROM sync_states WHERE resource = 'customers'")
    assert state["attempts"] == 2, "nothing of it is progress"


def test_the_only_row_that_changed_is_rejected_where_the_vendor_answers_others(
    sandbox: Sandbox, between: GoBetween, sync: Sync, database: Database
) -> None:
    shop, units = shop_of(sandbox), (Unit.PRODUCTS,)
    assert sync(units=units).failures == []
    changed = shop.export(["products"])["products"][5]["id"]
    edit(shop, "update_product", id=changed, fields={"title": "new"})
    query(
        database,
        "UPDATE sync_states SET cursor = jsonb_set(cursor, '{since}', to_jsonb((now() - '2 s'::interval)::text))",
    )
    between.change = fails_at(changed, Answer(502))
    assert sync(units=units, force=True).failures == []
    assert [row["external_id"] for row in query(database, "SELECT external_id FROM rejected_rows")] == [
        changed
    ]


def test_square_is_asked_for_fewer_rows_where_it_fails_at_many(
    sandbox: Sandbox, sync: Sync, database: Database, cipher: Cipher
) -> None:
    def change(content: Any, _path: str, asked: bytes) -> Any:
        limit = orjson.loads(asked).get("limit", 0) if asked else 0
        return Answer(500) if limit > 30 else content

    [merchant] = sandbox.world.square_merchants.values()
    with GoBetween(sandbox, change) as between:
        save_stores(
            database, cipher, [as_merchant_store(merchant, api_url=between.address(merchant.api_url))]
        )
        units = tuple(Unit(resource.value) for resource in Resource)
        assert sync(units=units).failures == []
    assert_equal_to_merchant(database, merchant)


class Endless:
    """Says of each page that there is another, with a cursor that was never there, and begins anew."""

    def __init__(self, operation: bytes) -> None:
        self.operation = operation
        self.pages = 0
        self.page: Any = None

    def __call__(self, content: Any, _path: str, asked: bytes) -> Any:
        if self.operation not in asked:
            return content
        self.page = self.page or content
        self.pages += 1
        page = orjson.loads(orjson.dumps(self.page))
        holder = page["data"]
        while "rows" not in holder:
            holder = next(iter(holder.values()))
        holder["rows"]["pageInfo"] = {"hasNextPage": True, "endCursor": f"cursor-{self.pages}"}
        return page


@pytest.mark.parametrize("operation", ["query Customers(", "query Products("])
def test_a_list_without_an_end_is_told_of_and_its_last_pages_are_not_kept(
    between: GoBetween, sync: Sync, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr(table_sync, "ENDLESS_FROM", 200)
    between.change = endless = Endless(operation.encode())
    unit = Unit.CUSTOMERS if "Customers" in operation else Unit.PRODUCTS
    [failure] = sync(units=(unit,), load_rows=50, progress_seconds=0).failures
    assert failure.error.error_type is ErrorType.COUNT_MISMATCH
    assert "without an end" in failure.error.message
    assert endless.pages < 50


def test_lines_without_an_end_cost_their_order(
    sandbox: Sandbox, between: GoBetween, sync: Sync, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipelines.platforms.shopify.sales.NESTED_ROWS", 100)
    shop = shop_of(sandbox)
    order = max(shop.export(["orders"])["orders"], key=lambda one: len(one["lineItems"]))
    assert len(order["lineItems"]) > 20
    between.change = Endless(b"query OrderLines(")
    assert sync(units=(Unit.ORDERS,)).failures == []
    [rejected] = query(database, "SELECT external_id, reason FROM rejected_rows")
    assert rejected["external_id"] == order["id"]
    assert rejected["reason"].startswith("lineItems: more than 100")
