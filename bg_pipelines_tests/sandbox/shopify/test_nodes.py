"""Rows of any kind by their ids."""

from __future__ import annotations

import pytest

from bg_pipelines.sandbox import Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client

NODES = "query Nodes($ids: [ID!]!) { nodes(ids: $ids) { id ... on Order { name } ... on Product { title } } }"


def test_nodes_are_given_in_the_order_of_their_ids_with_null_for_what_is_not_there(
    client: Client, shop: Shop
) -> None:
    export = shop.export()
    order, product, location = export["orders"][3], export["products"][5], export["locations"][0]
    ids = [product["id"], "gid://shopify/Order/1", order["id"], "no id", location["id"], order["id"]]
    assert client.ask(NODES, ids=ids)["nodes"] == [
        {"id": product["id"], "title": product["title"]},
        None,
        {"id": order["id"], "name": order["name"]},
        None,
        {"id": location["id"]},
        {"id": order["id"], "name": order["name"]},
    ]


@pytest.mark.parametrize(
    "table", ["customers", "inventory_levels", "locations", "orders", "product_variants", "products"]
)
def test_every_kind_has_nodes_that_need_its_scope(client: Client, shop: Shop, table: str) -> None:
    ids = [row["id"] for row in shop.export([table])[table]][:2]
    assert client.ask(NODES, ids=ids)["nodes"][0]["id"] == ids[0]
    edit(shop, "set_scopes", scopes=[])
    (error,) = client.post(NODES, {"ids": ids}).json()["errors"][:1]
    assert error["extensions"]["code"] == "ACCESS_DENIED"


def test_a_node_is_never_late_and_an_old_order_needs_its_scope(client: Client, shop: Shop) -> None:
    edit(shop, "set_search_lag", seconds=60)
    old, new = shop.export(["orders"])["orders"][0]["id"], edit(shop, "add_order")["id"]
    assert [node["id"] for node in client.ask(NODES, ids=[old, new])["nodes"]] == [old, new]
    edit(shop, "set_scopes", scopes=["read_orders"])
    assert [node and node["id"] for node in client.ask(NODES, ids=[old, new])["nodes"]] == [None, new]


def test_nodes_cost_as_much_as_an_object_for_each_id(client: Client, shop: Shop) -> None:
    order = shop.export(["orders"])["orders"][0]["id"]
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Order { refunds { order { id } } } } }"
    cost = client.post(query, {"ids": [order, "gid://shopify/Order/1"]}).json()["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (6, 1)


def test_more_than_250_ids_are_refused(client: Client) -> None:
    (error,) = client.post(NODES, {"ids": ["gid://shopify/Order/1"] * 251}).json()["errors"]
    assert error["extensions"]["code"] == "MAX_INPUT_SIZE_EXCEEDED"
    assert len(client.ask(NODES, ids=["gid://shopify/Order/1"] * 250)["nodes"]) == 250


def test_a_variable_of_another_kind_is_refused_as_such(client: Client) -> None:
    (error,) = client.post(NODES, {"ids": {"one": 1}}).json()["errors"]
    assert error["extensions"]["code"] == "INVALID_VARIABLE"
