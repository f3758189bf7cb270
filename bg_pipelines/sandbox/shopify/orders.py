"""Resolvers of orders, their lines and their refunds."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.catalogue import count, search
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines.sandbox.shopify.search import Matches, every
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table
from bg_pipelines.sandbox.shopify.views import order_lines, refund_lines

# Older orders are only shown to an app with the scope read_all_orders.
RECENT_SECONDS = 60 * 86400


def readable(info: GraphQLResolveInfo) -> Matches | None:
    """The test that an order must pass to be shown to this app."""
    shop: Shop = info.context
    if "read_all_orders" in shop.access.scopes:
        return None
    oldest = shop.clock.stamp(RECENT_SECONDS)
    return lambda order: order["createdAt"] >= oldest


def orders(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    matches = every([readable(info), search(info, args.get("query"))])
    return connect(info.context.ledger.orders, args, sort_key=args["sortKey"], matches=matches)


def order(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    row: Node | None = info.context.ledger.orders.get(args["id"])
    allowed = readable(info)
    return row if row is None or allowed is None or allowed(row) else None


def orders_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    matches = every([readable(info), search(info, args.get("query"))])
    return count(info.context.ledger.orders, args, matches)


def lines_of_order(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(Table(order_lines(info.context.ledger, source)), args)


def refunds_of_order(source: Node, _info: GraphQLResolveInfo, **args: Any) -> list[Node]:
    return list(source["_refunds"][: args.get("first")])


def lines_of_refund(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(Table(refund_lines(info.context.ledger, source)), args)


def discounted_total(source: Node, _info: GraphQLResolveInfo, **_args: Any) -> Node:
    return source["discountedTotalSet"]  # type: ignore[no-any-return]


def is_closed(source: Node, _info: GraphQLResolveInfo) -> bool:
    return source.get("closedAt") is not None


def quantity_of_lines(source: Node, _info: GraphQLResolveInfo) -> int:
    return sum(line.quantity for line in source["_lines"])


def legacy_id(source: Node, _info: GraphQLResolveInfo) -> str:
    return str(source["_key"][0])


RESOLVERS: dict[str, Any] = {
    "QueryRoot.orders": orders,
    "QueryRoot.order": order,
    "QueryRoot.ordersCount": orders_count,
    "Order.closed": is_closed,
    "Order.legacyResourceId": legacy_id,
    "Order.lineItems": lines_of_order,
    "Order.refunds": refunds_of_order,
    "Order.subtotalLineItemsQuantity": quantity_of_lines,
    "LineItem.discountedTotalSet": discounted_total,
    "Refund.refundLineItems": lines_of_refund,
}
