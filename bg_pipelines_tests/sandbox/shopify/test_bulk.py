"""Bulk operations: started, polled, cancelled, read as lines, and all that may go wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Fault, Shop, edit
from bg_pipelines.sandbox.faults import BULK_KINDS
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import HandClock

RUN = """mutation Run($query: String!, $group: Boolean = false) {
  bulkOperationRunQuery(query: $query, groupObjects: $group) { bulkOperation { id status type query }
    userErrors { code field message } } }"""
POLL = """query Poll($id: ID!) { bulkOperation(id: $id) { id status errorCode objectCount rootObjectCount fileSize url
  partialDataUrl createdAt completedAt } }"""
CANCEL = """mutation($id: ID!) { bulkOperationCancel(id: $id) { bulkOperation { status } userErrors { field message } } }"""
CUSTOMERS = "{ customers { edges { node { id displayName updatedAt amountSpent { amount } } } } }"
ORDERS = """{ orders(query: "status:any") { edges { node { id name customer { id } retailLocation { name }
  lineItems { edges { node { id title quantity variant { id } } } } } } } }"""


def start(client: Client, query: str, **variables: Any) -> str:
    answer = client.ask(RUN, query=query, **variables)["bulkOperationRunQuery"]
    assert answer["userErrors"] == []
    assert answer["bulkOperation"] | {"id": ""} == {
        "id": "",
        "status": "CREATED",
        "type": "QUERY",
        "query": query,
    }
    return str(answer["bulkOperation"]["id"])


def poll(client: Client, operation: str) -> dict[str, Any]:
    return dict(client.ask(POLL, id=operation)["bulkOperation"])


def done(client: Client, clock: HandClock, query: str, **variables: Any) -> dict[str, Any]:
    operation = start(client, query, **variables)
    clock.seconds += 60
    return poll(client, operation)


def fetch(client: Client, url: str) -> list[dict[str, Any]]:
    answer = client.session.get(url, timeout=10)
    assert answer.status_code == 200
    assert answer.content.endswith(b"\n")
    return [json.loads(line) for line in answer.content.splitlines()]


def refused(client: Client, query: str) -> dict[str, Any]:
    answer = client.ask(RUN, query=query)["bulkOperationRunQuery"]
    assert answer["bulkOperation"] is None
    (error,) = answer["userErrors"]
    return dict(error)


def spoil(shop: Shop, kind: str, **settings: Any) -> None:
    shop.faults.append(Fault(kind, times=1, **settings))


def test_the_lines_are_what_paging_gives(client: Client, shop: Shop, clock: HandClock) -> None:
    operation = done(client, clock, CUSTOMERS)
    paged = client.pages(
        """query($after: String) { customers(first: 9, after: $after) {
        nodes { id displayName updatedAt amountSpent { amount } } pageInfo { hasNextPage endCursor } } }""",
        "customers",
    )
    assert fetch(client, operation["url"]) == paged
    assert operation["status"] == "COMPLETED"
    assert operation["objectCount"] == operation["rootObjectCount"] == str(len(paged))
    assert operation["fileSize"] == str(len(client.session.get(operation["url"]).content))
    assert (operation["errorCode"], operation["partialDataUrl"]) == (None, None)
    assert operation["completedAt"] > operation["createdAt"]


@pytest.mark.parametrize("group", [False, True])
def test_children_come_on_lines_of_their_own_behind_their_parents(
    client: Client, shop: Shop, clock: HandClock, group: bool
) -> None:
    operation = done(client, clock, ORDERS, group=group)
    lines = fetch(client, operation["url"])
    orders = shop.export()["orders"]
    assert [line["id"] for line in lines if "__parentId" not in line] == [order["id"] for order in orders]
    assert "lineItems" not in lines[0]
    assert operation["rootObjectCount"] == str(len(orders))
    assert operation["objectCount"] == str(len(lines))
    children: dict[str, list[dict[str, Any]]] = {order["id"]: [] for order in orders}
    seen: set[str] = set()
    for line in lines:
        if "__parentId" in line:
            assert line["__parentId"] in seen
            children[line.pop("__parentId")].append(line)
        seen.add(line["id"])
    # More than fits a page, too.
    assert max(len(rows) for rows in children.values()) == 300
    for order in orders:
        assert children[order["id"]] == [
            {name: line[name] for name in ("id", "title", "quantity", "variant")}
            for line in order["lineItems"]
        ]
    place = [line["id"] for line in lines]
    follows = all(
        place.index(order["lineItems"][0]["id"]) == place.index(order["id"]) + 1 for order in orders[:20]
    )
    assert follows == group


def test_connections_may_be_nested_twice_and_within_objects(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    query = """{ customers { nodes { key: displayName id orders(first: 1) { edges { cursor node { ...order } } } } } }
      fragment order on Order { id lineItems { nodes { id } } }"""
    lines = fetch(client, done(client, clock, query)["url"])
    assert {line["id"].split("/")[3] for line in lines} == {"Customer", "Order", "LineItem"}
    # `first` is not heeded.
    export = shop.export()["orders"]
    bought = [order for order in export if order["customer"]]
    assert len([line for line in lines if "/Order/" in line["id"]]) == len(bought)
    query = "{ productVariants { nodes { id inventoryItem { id inventoryLevels { nodes { id } } } } } }"
    lines = fetch(client, done(client, clock, query)["url"])
    variants = {row["id"] for row in shop.export()["product_variants"]}
    assert {line["__parentId"] for line in lines if "/InventoryLevel/" in line["id"]} <= variants
    assert all(line["inventoryItem"].keys() == {"id"} for line in lines if "inventoryItem" in line)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("{ customers { nodes { nonsense } } }", "Invalid bulk query"),
        ("{", "Invalid bulk query"),
        ("{ shop { id } }", "at least one connection"),
        ("mutation { customerUpdate(input: {}) { customer { id } } }", "exactly one query"),
        ("query($q: String) { customers(query: $q) { nodes { id } } }", "variables"),
        ("{ customers { nodes { id } } orders { nodes { id } } }", "one top-level field"),
        ("{ customers { pageInfo { hasNextPage } } }", "must select its nodes"),
        ("{ orders { nodes { name lineItems { nodes { id } } } } }", "must select the 'id' field"),
        (
            "{ orders { nodes { id refunds { id refundLineItems { nodes { quantity } } } } } }",
            "within a list field",
        ),
        (
            """{ customers { nodes { id a: orders { nodes { id } } b: orders { nodes { id } } c: orders { nodes { id } }
              d: orders { nodes { id } } e: orders { nodes { id } } } } }""",
            "more than 5 connections",
        ),
        (
            """{ products { nodes { id variants { nodes { id inventoryItem { inventoryLevels { nodes { id
              item { variants { nodes { id } } } } } } } } } } }""",
            "nesting depth",
        ),
    ],
)
def test_a_query_that_cannot_run_in_bulk_is_a_user_error(client: Client, query: str, message: str) -> None:
    error = refused(client, query)
    assert error["code"] == "INVALID"
    assert error["field"] == ["query"]
    assert message in error["message"]


def test_an_operation_goes_on_by_the_clock(client: Client, shop: Shop, clock: HandClock) -> None:
    edit(shop, "set_bulk_seconds", seconds=100)
    operation = start(client, CUSTOMERS)
    states = []
    for _ in range(4):
        states.append(poll(client, operation)["status"])
        clock.seconds += 40
    assert states == ["CREATED", "RUNNING", "RUNNING", "COMPLETED"]
    told = poll(client, operation)
    assert told["completedAt"] > told["createdAt"]
    clock.seconds += 7 * 86400
    told = poll(client, operation)
    assert (told["status"], told["url"]) == ("EXPIRED", None)


def test_an_operation_without_rows_has_no_file(client: Client, shop: Shop, clock: HandClock) -> None:
    told = done(client, clock, '{ customers(query: "id:1") { nodes { id } } }')
    assert (told["status"], told["objectCount"], told["url"]) == ("COMPLETED", "0", None)


def test_five_may_run_at_once_in_a_shop(client: Client, shop: Shop, clock: HandClock) -> None:
    for _ in range(5):
        start(client, CUSTOMERS)
    assert refused(client, CUSTOMERS)["code"] == "LIMIT_REACHED"
    client.shop = list(client.sandbox.world.shops.values())[1]
    start(client, CUSTOMERS)
    client.shop = shop
    clock.seconds += 60
    last = start(client, CUSTOMERS)
    listed = client.ask("{ bulkOperations(first: 10) { nodes { id status } } }")["bulkOperations"]["nodes"]
    assert listed[0] == {"id": last, "status": "CREATED"}
    assert [one["status"] for one in listed[1:]] == ["COMPLETED"] * 5


def test_an_operation_can_be_canceled(client: Client, clock: HandClock) -> None:
    operation = start(client, CUSTOMERS)
    answer = client.ask(CANCEL, id=operation)["bulkOperationCancel"]
    assert answer == {"bulkOperation": {"status": "CANCELING"}, "userErrors": []}
    clock.seconds += 1
    told = poll(client, operation)
    assert (told["status"], told["url"], told["completedAt"]) == ("CANCELED", None, None)
    (error,) = client.ask(CANCEL, id=operation)["bulkOperationCancel"]["userErrors"]
    assert "has ended" in error["message"]
    (error,) = client.ask(CANCEL, id="gid://shopify/BulkOperation/1")["bulkOperationCancel"]["userErrors"]
    assert error["field"] == ["id"]
    assert client.ask(POLL, id="gid://shopify/BulkOperation/1") == {"bulkOperation": None}


def test_without_its_scopes_an_operation_fails(client: Client, shop: Shop, clock: HandClock) -> None:
    edit(shop, "set_scopes", scopes=["read_orders"])
    told = done(client, clock, ORDERS)
    assert (told["status"], told["errorCode"], told["partialDataUrl"]) == ("FAILED", "ACCESS_DENIED", None)


def test_a_failed_operation_has_a_part_of_the_lines(client: Client, shop: Shop, clock: HandClock) -> None:
    spoil(shop, "bulk_failed", value="TIMEOUT", operation="customers")
    told = done(client, clock, CUSTOMERS)
    assert (told["status"], told["errorCode"], told["url"]) == ("FAILED", "TIMEOUT", None)
    assert told["completedAt"] is None
    lines = fetch(client, told["partialDataUrl"])
    assert len(lines) == int(told["objectCount"]) // 2
    assert done(client, clock, CUSTOMERS)["status"] == "COMPLETED"


def test_a_short_file_is_told_by_its_lines_alone(client: Client, shop: Shop, clock: HandClock) -> None:
    spoil(shop, "bulk_short_file", value=3)
    told = done(client, clock, CUSTOMERS)
    assert told["status"] == "COMPLETED"
    lines = fetch(client, told["url"])
    assert len(lines) == int(told["objectCount"]) - 3 == len(shop.ledger.customers) - 3
    assert int(told["fileSize"]) == len(client.session.get(told["url"]).content)


def test_a_slow_operation_takes_longer(client: Client, shop: Shop, clock: HandClock) -> None:
    spoil(shop, "bulk_slow", seconds=600)
    operation = start(client, CUSTOMERS)
    clock.seconds += 500
    assert poll(client, operation)["status"] == "RUNNING"
    clock.seconds += 200
    assert poll(client, operation)["status"] == "COMPLETED"


def test_the_vendor_may_cancel_an_operation(client: Client, shop: Shop, clock: HandClock) -> None:
    spoil(shop, "bulk_canceled")
    told = done(client, clock, CUSTOMERS)
    assert (told["status"], told["url"], told["partialDataUrl"]) == ("CANCELED", None, None)


def test_a_file_may_be_gone_before_its_time(client: Client, shop: Shop, clock: HandClock) -> None:
    told = done(client, clock, CUSTOMERS)
    spoil(shop, "bulk_expired_url")
    answer = client.session.get(told["url"], timeout=10)
    assert answer.status_code == 400
    assert "ExpiredToken" in answer.text
    assert len(fetch(client, told["url"])) == int(told["objectCount"])
    assert client.session.get(told["url"].replace(".jsonl", "x.jsonl"), timeout=10).status_code == 400
    clock.seconds += 8 * 86400
    assert client.session.get(told["url"], timeout=10).status_code == 400


def test_a_download_breaks_off_in_the_middle(client: Client, shop: Shop, clock: HandClock) -> None:
    told = done(client, clock, CUSTOMERS)
    shop.faults.append(Fault("half_page", times=1, operation="bulk_file"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        client.session.get(told["url"], timeout=10)
    shop.faults.append(Fault("half_json", times=1, operation="bulk_file"))
    text = client.session.get(told["url"], timeout=10).content
    assert len(text) == int(told["fileSize"]) // 2
    shop.faults.append(Fault("cut", times=1, operation="bulk_file"))
    with pytest.raises(requests.ConnectionError):
        client.session.get(told["url"], timeout=10)
    shop.faults.append(Fault("server_error", times=1, operation="bulk_file"))
    assert client.session.get(told["url"], timeout=10).status_code == 500
    assert len(fetch(client, told["url"])) == int(told["objectCount"])
    # A fault that names no operation leaves files alone, and one of bulk operations every other request.
    shop.faults.append(Fault("locked", times=1))
    assert client.session.get(told["url"], timeout=10).status_code == 200
    assert shop.requests[-1].operation == "bulk_file"


def test_every_kind_is_tried_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in BULK_KINDS if f'"{kind}"' not in here] == []
