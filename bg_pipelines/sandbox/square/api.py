"""Square's Connect v2 API over HTTP: tokens, scopes, versions, operations and faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import orjson

from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import (
    STATUSES,
    WEBHOOK_KINDS,
    Fault,
    delivered,
    first_match,
    html_page,
    spoil_rows,
)
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square import catalog, customers, locations, orders, stock, webhooks
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.merchant import Merchant, Merchants, SquareRequest
from bg_pipelines.sandbox.square.refusals import CODES_BY_STATUS, RefusalError

REQUEST_KINDS = (
    "unauthorized",
    "forbidden",
    "not_found",
    "too_many_requests",
    "server_error",
    "bad_gateway",
    "service_unavailable",
    "html",
    "slow",
    "drip",
    "cut",
    "half_page",
    "half_json",
    "null_field",
    "bad_value",
    "repeat_cursor",
    "apply_then_cut",
)
KINDS = (*REQUEST_KINDS, *WEBHOOK_KINDS)
SPOILING = frozenset(["null_field", "bad_value", "repeat_cursor"])
VERSION = "2025-08-20"
VERSION_SHAPE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
# By which of its fields a row of an answer is known.
ID_FIELDS = ("id", "order_id", "catalog_object_id", "uid")


class Operation(NamedTuple):
    """`name` is the vendor's operationId; {} in the path is a row's id; some operations need no scope."""

    method: str
    path: str
    name: str
    scope: str | None
    act: Callable[[Call], Node]


OPERATIONS = (
    Operation(
        "GET", "merchants/{}", "RetrieveMerchant", "MERCHANT_PROFILE_READ", locations.retrieve_merchant
    ),
    Operation("GET", "locations", "ListLocations", "MERCHANT_PROFILE_READ", locations.list_locations),
    Operation(
        "GET", "locations/{}", "RetrieveLocation", "MERCHANT_PROFILE_READ", locations.retrieve_location
    ),
    Operation("POST", "customers/search", "SearchCustomers", "CUSTOMERS_READ", customers.search_customers),
    Operation(
        "POST",
        "customers/bulk-retrieve",
        "BulkRetrieveCustomers",
        "CUSTOMERS_READ",
        customers.bulk_retrieve_customers,
    ),
    Operation("POST", "customers", "CreateCustomer", "CUSTOMERS_WRITE", customers.create_customer),
    Operation("GET", "customers/{}", "RetrieveCustomer", "CUSTOMERS_READ", customers.retrieve_customer),
    Operation("PUT", "customers/{}", "UpdateCustomer", "CUSTOMERS_WRITE", customers.update_customer),
    Operation("DELETE", "customers/{}", "DeleteCustomer", "CUSTOMERS_WRITE", customers.delete_customer),
    Operation("POST", "orders/search", "SearchOrders", "ORDERS_READ", orders.search_orders),
    Operation(
        "POST", "orders/batch-retrieve", "BatchRetrieveOrders", "ORDERS_READ", orders.batch_retrieve_orders
    ),
    Operation("GET", "orders/{}", "RetrieveOrder", "ORDERS_READ", orders.retrieve_order),
    Operation("GET", "catalog/list", "ListCatalog", "ITEMS_READ", catalog.list_catalog),
    Operation("POST", "catalog/search", "SearchCatalogObjects", "ITEMS_READ", catalog.search_catalog_objects),
    Operation(
        "POST",
        "catalog/batch-retrieve",
        "BatchRetrieveCatalogObjects",
        "ITEMS_READ",
        catalog.batch_retrieve_catalog_objects,
    ),
    Operation(
        "POST",
        "inventory/counts/batch-retrieve",
        "BatchRetrieveInventoryCounts",
        "INVENTORY_READ",
        stock.batch_retrieve_counts,
    ),
    Operation(
        "POST",
        "inventory/changes/batch-retrieve",
        "BatchRetrieveInventoryChanges",
        "INVENTORY_READ",
        stock.batch_retrieve_changes,
    ),
    Operation(
        "POST",
        "inventory/changes/batch-create",
        "BatchChangeInventory",
        "INVENTORY_WRITE",
        stock.batch_change_inventory,
    ),
    Operation("GET", "webhooks/subscriptions", "ListWebhookSubscriptions", None, webhooks.list_subscriptions),
    Operation(
        "POST", "webhooks/subscriptions", "CreateWebhookSubscription", None, webhooks.create_subscription
    ),
    Operation(
        "GET",
        "webhooks/subscriptions/{}",
        "RetrieveWebhookSubscription",
        None,
        webhooks.retrieve_subscription,
    ),
    Operation(
        "PUT", "webhooks/subscriptions/{}", "UpdateWebhookSubscription", None, webhooks.update_subscription
    ),
    Operation(
        "DELETE", "webhooks/subscriptions/{}", "DeleteWebhookSubscription", None, webhooks.delete_subscription
    ),
    Operation(
        "POST",
        "webhooks/subscriptions/{}/signature-key",
        "UpdateWebhookSubscriptionSignatureKey",
        None,
        webhooks.update_signature_key,
    ),
)


class Square:
    """The vendor's side of merchants, of whom the token says which is meant; `next_number` counts the requests of the whole sandbox."""

    def __init__(self, merchants: Merchants, next_number: Callable[[], int]) -> None:
        self.merchants = merchants
        self.next_number = next_number

    def answer(self, incoming: Incoming) -> Answer:
        version = incoming.headers.get("Square-Version") or VERSION
        scheme, _, token = (incoming.headers.get("Authorization") or "").partition(" ")
        merchant = self.merchants.owners.get(token.strip()) if scheme.lower() == "bearer" else None
        if merchant is None:
            answer = RefusalError("UNAUTHORIZED", status=401).answer()
        elif not VERSION_SHAPE.fullmatch(version):
            answer = RefusalError(
                "INVALID_SQUARE_VERSION_FORMAT", f"`{version}` is not a version such as {VERSION}."
            ).answer()
        else:
            with merchant.lock:
                answer = self.of_merchant(merchant, token.strip(), incoming)
        answer.headers["Square-Version"] = version if VERSION_SHAPE.fullmatch(version) else VERSION
        return answer

    def of_merchant(self, merchant: Merchant, token: str, incoming: Incoming) -> Answer:
        place = incoming.path.strip("/").split("/")[1:]
        known = [(operation, row_id) for operation in OPERATIONS for row_id in named(operation, place)]
        operation, row_id = next(
            ((one, row_id) for one, row_id in known if one.method == incoming.method), (None, "")
        )
        fault: Fault | None = None
        rows = 0
        if token in merchant.void:
            answer = RefusalError(merchant.void[token], status=401).answer()
        elif operation is None:
            answer = no_such_endpoint(incoming, exists=bool(known)).answer()
        else:
            call = Call(merchant, operation.name, row_id, incoming.query, incoming.body)
            answer, fault = spoiled(
                operation, call, first_match(merchant.faults, operation.name, kinds=REQUEST_KINDS)
            )
            rows = call.rows
        merchant.notifier.flush()
        merchant.requests.append(
            SquareRequest(
                number=self.next_number(),
                at=merchant.clock.stamp(),
                merchant_id=merchant.id,
                operation=operation.name if operation is not None else "",
                status=None if answer.delivery == "cut" else answer.status,
                fault=fault.kind if fault is not None else None,
                rows=rows,
            )
        )
        return answer


def named(operation: Operation, place: list[str]) -> list[str]:
    """The row's id in the path, or "" if the path names none; nothing if the path is another one."""
    wanted = operation.path.split("/")
    if len(wanted) != len(place):
        return []
    pairs = list(zip(wanted, place, strict=True))
    if any(name not in {"{}", part} for name, part in pairs):
        return []
    return [next((part for name, part in pairs if name == "{}"), "")]


def no_such_endpoint(incoming: Incoming, *, exists: bool) -> RefusalError:
    if exists:
        return RefusalError("METHOD_NOT_ALLOWED", f"{incoming.method} is not allowed here.", status=405)
    return RefusalError(
        "NOT_FOUND",
        f"API endpoint for URL path `{incoming.path}` and HTTP method `{incoming.method}` is not found.",
        status=404,
    )


def spoiled(operation: Operation, call: Call, fault: Fault | None) -> tuple[Answer, Fault | None]:
    """The answer, and the fault if it was applied."""
    if fault is not None and fault.kind in STATUSES:
        return by_status(fault), fault
    if fault is not None and fault.kind == "cut":
        return Answer(200, delivery="cut"), fault
    body: Node = {}
    try:
        answer = as_json(200, body := act(operation, call))
    except RefusalError as error:
        answer = error.answer()
    if fault is not None and fault.kind in SPOILING:
        # What is shown must not be the merchant's own rows: those stay whole.
        body = orjson.loads(orjson.dumps(body))
        if not spoil(fault, call, body):
            fault.applied -= 1
            return answer, None
        answer = as_json(200, body)
    return delivered(answer, fault), fault


def act(operation: Operation, call: Call) -> Node:
    if operation.scope is not None and operation.scope not in call.merchant.scopes:
        raise RefusalError(
            "INSUFFICIENT_SCOPES",
            "The merchant has not given your application sufficient permissions to do that. The merchant must "
            f"authorize your application for the following scopes: {operation.scope}",
            status=403,
        )
    body = operation.act(call)
    # One row stands in an object of its own, several in a list.
    call.rows = sum(len(rows) if isinstance(rows, list) else isinstance(rows, dict) for rows in body.values())
    return body


def spoil(fault: Fault, call: Call, body: Node) -> bool:
    """Change the answer in place; False when it has nothing to spoil, which then does not count."""
    if fault.kind == "repeat_cursor":
        # A first page passes, but with a cursor, so that a second one is asked for.
        cursor = call.sent_cursor or call.following
        if cursor is not None:
            body["cursor"] = cursor
        return cursor is not None
    return spoil_rows(fault, body, ID_FIELDS)


def by_status(fault: Fault) -> Answer:
    """`value` may name another code of the same status, such as ACCESS_TOKEN_REVOKED."""
    status = STATUSES[fault.kind]
    if fault.kind in {"html", "bad_gateway"}:
        return html_page(status)
    code = fault.value if isinstance(fault.value, str) else CODES_BY_STATUS[status]
    return RefusalError(code, status=status).answer()
