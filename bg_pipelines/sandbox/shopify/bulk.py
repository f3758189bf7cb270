"""Resolvers of bulk operations: start, poll, cancel."""

from __future__ import annotations

import threading
import time
from typing import Any

from graphql import GraphQLResolveInfo, GraphQLSchema

from bg_pipelines.sandbox.faults import BULK_KINDS, first_match
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.bulk_operations import AT_ONCE, ENDED, BulkOperation
from bg_pipelines.sandbox.shopify.bulk_query import BulkQuery, InvalidQueryError, lines_of, read_bulk_query
from bg_pipelines.sandbox.shopify.catalogue import search
from bg_pipelines.sandbox.shopify.connections import connect, without_pages
from bg_pipelines.sandbox.shopify.execution import execute
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table

STARTING_KINDS = BULK_KINDS - {"bulk_expired_url"}
# Between two pages others get their turn at the shop.
PAUSE_SECONDS = 0.001


def bulk_operation(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    shop: Shop = info.context
    operation = shop.bulk.all.get(args["id"])
    return None if operation is None else shown(shop, operation)


def bulk_operations(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    rows = Table([shown(shop, operation) for operation in shop.bulk.all.values()])
    # The newest come first, at the vendor too.
    newest_first = args | {"reverse": not args["reverse"]}
    return connect(rows, newest_first, sort_key=args["sortKey"], matches=search(info, args.get("query")))


def run_query(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    now = shop.clock.seconds()
    try:
        query = read_bulk_query(args["query"], info.schema)
    except InvalidQueryError as error:
        return refused(str(error), "INVALID", "query")
    if shop.bulk.under_way(now) >= AT_ONCE:
        return refused(f"{AT_ONCE} bulk operations of this app are under way in this shop", "LIMIT_REACHED")
    fault = first_match(shop.faults, "bulkOperationRunQuery", args["query"], STARTING_KINDS)
    operation = shop.bulk.start(shop.ledger.number("BulkOperation"), args["query"], now, fault)
    if shop.access.denied_names(query.root, query.names):
        operation.error_code, operation.worked_at = "ACCESS_DENIED", now
        tell_end(shop, operation)
    else:
        work = threading.Thread(
            target=run,
            args=(info.schema, shop, operation, query, args["groupObjects"]),
            name="sandbox-bulk",
            daemon=True,
        )
        work.start()
    return {"bulkOperation": operation.to_node(now, shop.api_url), "userErrors": []}


def run(schema: GraphQLSchema, shop: Shop, operation: BulkOperation, query: BulkQuery, grouped: bool) -> None:
    """Ask page by page, as any client would, and write the lines down."""
    after: str | None = None
    more, failed = True, True
    try:
        while more and operation.canceled_at is None:
            with shop.lock, without_pages():
                result = execute(schema, shop, query.document, {"after": after}, None)
                if result.data is None or result.errors:
                    return
                page = result.data[query.key]
                after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
                operation.write(lines_of(page["nodes"], query.below, grouped=grouped))
            time.sleep(PAUSE_SECONDS)
        failed = False
    finally:
        with shop.bulk.changed:
            if failed:
                operation.error_code = operation.error_code or "INTERNAL_SERVER_ERROR"
            operation.worked_at = shop.clock.seconds()
            tell_end(shop, operation)
            shop.bulk.changed.notify_all()


def tell_end(shop: Shop, operation: BulkOperation) -> None:
    """Tell the subscriptions to bulk_operations/finish, when the operation's time is over."""
    ended_at = operation.ended_at()
    assert ended_at is not None  # It has worked.
    shop.notifier.tell("bulk_operations/finish", operation.to_node(ended_at, shop.api_url))
    shop.notifier.flush(max(0.0, ended_at - shop.clock.seconds()))


def cancel(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    now = shop.clock.seconds()
    operation = shop.bulk.all.get(args["id"])
    if operation is None:
        return {
            "bulkOperation": None,
            "userErrors": [{"field": ["id"], "message": "Bulk operation does not exist"}],
        }
    if operation.status(now) in ENDED:
        error: Node = {"field": None, "message": "A bulk operation cannot be canceled when it has ended"}
        return {"bulkOperation": shown(shop, operation), "userErrors": [error]}
    if operation.canceled_at is None:
        operation.canceled_at = now
    return {"bulkOperation": shown(shop, operation), "userErrors": []}


def shown(shop: Shop, operation: BulkOperation) -> Node:
    now = shop.clock.seconds()
    shop.bulk.settle(operation, now)
    return operation.to_node(max(now, shop.clock.seconds()), shop.api_url)


def refused(message: str, code: str, *path: str) -> Node:
    error = {"code": code, "field": list(path) or None, "message": message}
    return {"bulkOperation": None, "userErrors": [error]}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.bulkOperation": bulk_operation,
    "QueryRoot.bulkOperations": bulk_operations,
    "Mutation.bulkOperationRunQuery": run_query,
    "Mutation.bulkOperationCancel": cancel,
}
