"""Resolvers of webhook subscriptions."""

from __future__ import annotations

import re
from typing import Any

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.deliveries import is_allowed, split_address
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.catalogue import count, search
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines.sandbox.shopify.errors import RefusedError
from bg_pipelines.sandbox.shopify.search import every
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.subscriptions import required_scope, topic_name

LONGEST_ADDRESS_BYTES = 65_535
LONGEST_NAME = 50
NAME = re.compile(r"[A-Za-z0-9_-]*")
# A filter names the field of each of its terms: `status:active AND vendor:acme`.
FILTER_TERM = re.compile(r"[\w.]+:.+")


def webhook_subscriptions(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    wanted = every([matching(args), search(info, args.get("query"))])
    return connect(info.context.subscriptions.table, args, sort_key=args["sortKey"], matches=wanted)


def matching(args: dict[str, Any]) -> Any:
    uri, topics, format_ = args.get("uri") or args.get("callbackUrl"), args.get("topics"), args.get("format")
    return lambda row: (
        (uri is None or row["uri"] == uri)
        and (not topics or row["topic"] in topics)
        and (format_ is None or row["format"] == format_)
    )


def webhook_subscription(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.subscriptions.table.get(args["id"])  # type: ignore[no-any-return]


def webhook_subscriptions_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return count(info.context.subscriptions.table, args, search(info, args.get("query")))


def create(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    require_scope(shop, args["topic"])
    fields = given(args)
    errors = refusals(shop, {"topic": args["topic"], **fields})
    if errors:
        return {"webhookSubscription": None, "userErrors": errors}
    return {"webhookSubscription": shop.subscriptions.add(args["topic"], fields), "userErrors": []}


def update(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    row = shop.subscriptions.table.get(args["id"])
    if row is None:
        return {"webhookSubscription": None, "userErrors": [missing()]}
    require_scope(shop, row["topic"])
    fields = given(args)
    errors = refusals(shop, row | fields)
    if errors:
        return {"webhookSubscription": None, "userErrors": errors}
    shop.subscriptions.update(row, fields)
    return {"webhookSubscription": row, "userErrors": []}


def delete(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    row = shop.subscriptions.table.get(args["id"])
    if row is None:
        return {"deletedWebhookSubscriptionId": None, "userErrors": [missing()]}
    shop.subscriptions.remove(row)
    return {"deletedWebhookSubscriptionId": row["id"], "userErrors": []}


def given(args: dict[str, Any]) -> Node:
    """The input as a row has it: the address in `uri`, null lists empty."""
    fields: Node = dict(args["webhookSubscription"])
    address = fields.pop("callbackUrl", None)
    if address and not fields.get("uri"):
        fields["uri"] = address
    if "uri" in fields:
        fields["uri"] = (fields["uri"] or "").strip()
    for name in ("includeFields", "metafieldNamespaces"):
        if name in fields:
            fields[name] = fields[name] or []
    if fields.get("format", "JSON") is None:
        del fields["format"]
    return fields


def require_scope(shop: Shop, topic: str) -> None:
    scope = required_scope(topic)
    if scope is not None and scope not in shop.access.scopes:
        raise RefusedError(
            f"You do not have permission to create or update webhooks with {topic_name(topic)} topic. "
            f"This topic requires the `{scope}` access scope.",
            code="ACCESS_DENIED",
        )


def refusals(shop: Shop, wanted: Node) -> list[Node]:
    """Every reason not to have this subscription; `wanted` has the id of the one that is changed."""
    others = [row for row in shop.subscriptions.table if row["id"] != wanted.get("id")]
    errors = [user_error(message, "callbackUrl") for message in address_problems(wanted.get("uri") or "")]
    same = ("topic", "uri", "format", "filter")
    defaults: Node = {"format": "JSON"}
    key = [wanted.get(name, defaults.get(name)) for name in same]
    if any([row[name] for name in same] == key for row in others):
        errors.append(user_error("Address for this topic has already been taken", "callbackUrl"))
    if wanted.get("format") == "XML":
        # The vendor says so of some topics; the sandbox writes no XML at all.
        errors.append(
            user_error("Format 'xml' is invalid for this webhook topic. Allowed formats: json", "format")
        )
    name = wanted.get("name")
    if name is not None:
        errors += [user_error(message, "name") for message in name_problems(name, others)]
    terms = [term for term in (wanted.get("filter") or "").split() if term not in {"AND", "OR", "NOT"}]
    if terms and not any(FILTER_TERM.fullmatch(term.strip("()-")) for term in terms):
        message = (
            "The specified filter is invalid, please ensure you specify the field(s) you wish to filter on."
        )
        errors.append(user_error(message))
    return errors


def address_problems(uri: str) -> list[str]:
    """What Shopify says of an address."""
    if not uri:
        return ["Address can't be blank"]
    if len(uri.encode()) > LONGEST_ADDRESS_BYTES:
        return ["Address is too big (maximum is 64 KB)"]
    parts = split_address(uri)
    if parts is None:
        return ["Address is invalid"]
    if not is_allowed(parts):
        return [f"Address protocol {parts.scheme}:// is not supported"]
    if (parts.hostname or "").endswith((".myshopify.com", ".shopify.com")):
        return ["Address cannot be a Shopify or an internal domain"]
    return []


def name_problems(name: str, others: list[Node]) -> list[str]:
    problems = []
    if not name:
        problems.append("Name is too short (minimum is 1 character)")
    if len(name) > LONGEST_NAME:
        problems.append(f"Name is too long (maximum is {LONGEST_NAME} characters)")
    if not NAME.fullmatch(name):
        problems.append("Name name field can only contain alphanumeric characters, underscores, and hyphens")
    if any((row["name"] or "").lower() == name.lower() for row in others):
        problems.append("Name already exists, no duplicate allowed")
    return problems


def user_error(message: str, *path: str) -> Node:
    return {"field": ["webhookSubscription", *path], "message": message}


def missing() -> Node:
    return {"field": ["id"], "message": "Webhook subscription does not exist"}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.webhookSubscription": webhook_subscription,
    "QueryRoot.webhookSubscriptions": webhook_subscriptions,
    "QueryRoot.webhookSubscriptionsCount": webhook_subscriptions_count,
    "Mutation.webhookSubscriptionCreate": create,
    "Mutation.webhookSubscriptionDelete": delete,
    "Mutation.webhookSubscriptionUpdate": update,
}
