"""Resolvers of products and their variants."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines.sandbox.shopify.search import Matches, Search
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table


def search(info: GraphQLResolveInfo, query: str | None) -> Matches | None:
    """Read a `query` argument as this shop does: in its zone, and no newer than its search index."""
    shop: Shop = info.context
    lag = shop.search_lag_seconds
    visible_until = shop.clock.stamp(lag) if lag else None
    return Search(ZoneInfo(shop.store.shop["ianaTimezone"]), visible_until).compile(query)


def products(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    table = info.context.store.products
    return connect(table, args, sort_key=args["sortKey"], matches=search(info, args.get("query")))


def product(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.store.products.get(args["id"])  # type: ignore[no-any-return]


def product_variants(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    table = info.context.store.variants
    return connect(table, args, sort_key=args["sortKey"], matches=search(info, args.get("query")))


def product_variant(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.store.variants.get(args["id"])  # type: ignore[no-any-return]


def variants_of_product(source: Node, _info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(source["_variants"], args, sort_key=args["sortKey"])


def products_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return count(info.context.store.products, args, search(info, args.get("query")))


def product_variants_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return count(info.context.store.variants, args, search(info, args.get("query")))


def locations_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return count(info.context.store.locations, args, search(info, args.get("query")))


def count(table: Table, args: dict[str, Any], matches: Matches | None) -> Node:
    total = len(table) if matches is None else sum(1 for row in table if matches(row))
    limit = args.get("limit")
    if limit is not None and total > limit:
        return {"count": limit, "precision": "AT_LEAST"}
    return {"count": total, "precision": "EXACT"}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.products": products,
    "QueryRoot.product": product,
    "QueryRoot.productVariants": product_variants,
    "QueryRoot.productVariant": product_variant,
    "QueryRoot.locationsCount": locations_count,
    "QueryRoot.productsCount": products_count,
    "QueryRoot.productVariantsCount": product_variants_count,
    "Product.variants": variants_of_product,
}
