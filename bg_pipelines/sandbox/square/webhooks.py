"""The Webhook Subscriptions API: list, read and write subscriptions, and give one another key."""

from __future__ import annotations

import orjson

from bg_pipelines.sandbox.deliveries import is_allowed, split_address
from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.customers import reused_key
from bg_pipelines.sandbox.square.events import EVENT_TYPES
from bg_pipelines.sandbox.square.refusals import RefusalError, not_found

LARGEST_PAGE = 100
VERSION = "2025-08-20"


def list_subscriptions(call: Call) -> Node:
    """Oldest first unless asked otherwise, without those that are disabled unless asked for, never with their keys."""
    given = dict(call.query)
    order = shapes.read_value("SortOrder", given.get("sort_order", "ASC"), "sort_order")
    limit = given.get("limit", str(LARGEST_PAGE))
    if not limit.lstrip("-").isdigit():
        raise RefusalError("EXPECTED_INTEGER", "Expected an integer.", field="limit")
    size = shapes.page_size({"limit": int(limit)}, LARGEST_PAGE, LARGEST_PAGE)
    disabled = given.get("include_disabled", "false").lower() == "true"
    body, _ = call.page(
        "subscriptions",
        call.merchant.subscriptions.shelf.ordered("CREATED_AT"),
        {"cursor": given.get("cursor"), "order": order, "disabled": disabled},
        without_key,
        limit=size,
        descending=order == "DESC",
        matches=lambda row: disabled or row["enabled"],
    )
    return body


def create_subscription(call: Call) -> Node:
    query = call.content("CreateWebhookSubscriptionRequest")
    key, given = query.get("idempotency_key"), query["subscription"]
    told = orjson.dumps(given, option=orjson.OPT_SORT_KEYS)
    if key is not None and f"subscription:{key}" in call.merchant.idempotent:
        before, answer = call.merchant.idempotent[f"subscription:{key}"]
        if before != told:
            raise reused_key()
        return answer
    for field in ("event_types", "notification_url"):
        if field not in given:
            raise shapes.missing(f"subscription.{field}")
    check(given)
    row = call.merchant.subscriptions.add({"api_version": VERSION, **given})
    call.merchant.applied += 1
    answer = {"subscription": shown(row)}
    if key is not None:
        call.merchant.idempotent[f"subscription:{key}"] = (told, answer)
    return answer


def retrieve_subscription(call: Call) -> Node:
    return {"subscription": shown(find(call))}


def update_subscription(call: Call) -> Node:
    row, given = find(call), call.content("UpdateWebhookSubscriptionRequest").get("subscription") or {}
    check(given)
    call.merchant.subscriptions.update(row, given)
    call.merchant.applied += 1
    return {"subscription": without_key(row)}


def delete_subscription(call: Call) -> Node:
    call.merchant.subscriptions.remove(find(call))
    call.merchant.applied += 1
    return {}


def update_signature_key(call: Call) -> Node:
    row = find(call)
    call.content("UpdateWebhookSubscriptionSignatureKeyRequest")
    return {"signature_key": call.merchant.subscriptions.rotate_key(row)}


def find(call: Call) -> Node:
    row = call.merchant.subscriptions.shelf.get(call.id)
    if row is None:
        raise not_found("Webhook subscription", call.id, "subscription_id")
    return row


def without_key(row: Node) -> Node:
    return {name: value for name, value in shown(row).items() if name != "signature_key"}


def check(given: Node) -> None:
    types = given.get("event_types")
    if types is not None and not types:
        raise RefusalError(
            "ARRAY_EMPTY", "`event_types` must not be empty.", field="subscription.event_types"
        )
    for event_type in types or ():
        if event_type not in EVENT_TYPES:
            # The vendor has many more; nothing here would ever send them.
            raise RefusalError(
                "INVALID_ARRAY_VALUE",
                f"The sandbox sends no `{event_type}`.",
                field="subscription.event_types",
            )
    url = given.get("notification_url")
    parts = None if url is None else split_address(url)
    if url is not None and (parts is None or not is_allowed(parts)):
        raise RefusalError("INVALID_VALUE", "URL is not valid.", field="subscription.notification_url")
