"""Resolver of rows of any kind by their ids. A read by id does not lag, as a search does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.errors import RefusedError
from bg_pipelines.sandbox.shopify.orders import readable
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table

LARGEST_INPUT = 250
KINDS: dict[str, tuple[str, Callable[[Shop], Table]]] = {
    "Customer": ("read_customers", lambda shop: shop.ledger.customers),
    "InventoryItem": ("read_inventory", lambda shop: shop.store.items),
    "InventoryLevel": ("read_inventory", lambda shop: shop.store.levels),
    "Location": ("read_locations", lambda shop: shop.store.locations),
    "Order": ("read_orders", lambda shop: shop.ledger.orders),
    "Product": ("read_products", lambda shop: shop.store.products),
    "ProductVariant": ("read_products", lambda shop: shop.store.variants),
}
"""The scope that a kind of row needs, and where its rows are."""


def nodes(_root: object, info: GraphQLResolveInfo, ids: list[str]) -> list[Node | None]:
    if len(ids) > LARGEST_INPUT:
        raise RefusedError(
            f"The input array size of {len(ids)} is greater than the maximum allowed of {LARGEST_INPUT}.",
            code="MAX_INPUT_SIZE_EXCEEDED",
        )
    return [node(info, node_id) for node_id in ids]


def node(info: GraphQLResolveInfo, node_id: str) -> Node | None:
    kind = kind_of(node_id)
    if kind not in KINDS:
        return None
    shop: Shop = info.context
    scope, table = KINDS[kind]
    if scope not in shop.access.scopes:
        raise RefusedError(
            f"Access denied for nodes field. Required access: `{scope}` access scope.", code="ACCESS_DENIED"
        )
    row = table(shop).get(node_id)
    allowed = readable(info) if kind == "Order" else None
    return row if row is None or allowed is None or allowed(row) else None


def kind_of(node_id: str) -> str:
    """The kind that a global id names: gid://shopify/Order/17 is an Order."""
    return node_id.removeprefix("gid://shopify/").partition("/")[0]


def resolve_kind(row: Node, _info: object, _interface: object) -> str:
    return kind_of(row["id"])


RESOLVERS: dict[str, Any] = {"QueryRoot.nodes": nodes}
