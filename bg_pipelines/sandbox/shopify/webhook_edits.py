"""Edits of how a shop's webhooks are sent, and of what only the vendor does: lose subscriptions, uninstall, ask for privacy."""

from __future__ import annotations

from bg_pipelines.sandbox.fields import Edits, RejectedError, amount, text
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.notifier import SHAPES
from bg_pipelines.sandbox.shopify.rest import number_of_gid
from bg_pipelines.sandbox.shopify.sales_payloads import compliance_request
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.webhooks import address_problems

OLD_SECRET_SECONDS = 3600


def drop_subscriptions(shop: Shop, _fields: Node) -> Node:
    return {"dropped": shop.subscriptions.clear()}


def set_webhook_shape(shop: Shop, fields: Node) -> Node:
    shape = fields.get("shape")
    if shape not in SHAPES:
        raise RejectedError("shape", f"{shape!r} is none of {', '.join(SHAPES)}")
    shop.notifier.shape = shape
    return {"shape": shape}


def set_webhook_pace(shop: Shop, fields: Node) -> Node:
    shop.outbox.hour_seconds = amount(fields, "seconds_per_hour")
    return {"seconds_per_hour": shop.outbox.hour_seconds}


def rotate_webhook_secret(shop: Shop, fields: Node) -> Node:
    secret = text(fields, "secret") if "secret" in fields else None
    shop.access.rotate_secret(secret, amount(fields, "seconds", OLD_SECRET_SECONDS))
    return {
        "client_secret": shop.access.client_secret,
        "old_client_secret": shop.access.old_client_secret,
    }


def uninstall(shop: Shop, _fields: Node) -> Node:
    shop.notifier.tell("app/uninstalled", shop.store.shop)
    shop.notifier.flush()
    shop.access.uninstall()
    return {"dropped": shop.subscriptions.clear()}


def set_compliance_uri(shop: Shop, fields: Node) -> Node:
    uri = fields.get("uri")
    if uri is not None:
        for problem in address_problems(text(fields, "uri")):
            raise RejectedError("uri", problem)
    shop.notifier.compliance_uri = uri
    return {"uri": uri}


def request_customer_data(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.customers.named(fields)
    payload = compliance_request(shop.notifier.rest, row, "orders_requested")
    shop.data_requests += 1
    return shop.notifier.send_compliance(
        "customers/data_request", payload | {"data_request": {"id": shop.data_requests}}
    )


def request_customer_redaction(shop: Shop, fields: Node) -> Node:
    row = shop.ledger.customers.named(fields)
    payload = compliance_request(shop.notifier.rest, row, "orders_to_redact")
    return shop.notifier.send_compliance("customers/redact", payload)


def request_shop_redaction(shop: Shop, _fields: Node) -> Node:
    payload = {"shop_id": number_of_gid(shop.store.shop["id"]), "shop_domain": shop.domain}
    return shop.notifier.send_compliance("shop/redact", payload)


EDITS: Edits[Shop] = {
    "drop_subscriptions": (drop_subscriptions, ()),
    "set_webhook_shape": (set_webhook_shape, ("shape",)),
    "set_webhook_pace": (set_webhook_pace, ("seconds_per_hour",)),
    "rotate_webhook_secret": (rotate_webhook_secret, ("secret", "seconds")),
    "uninstall": (uninstall, ()),
    "set_compliance_uri": (set_compliance_uri, ("uri",)),
    "request_customer_data": (request_customer_data, ("id",)),
    "request_customer_redaction": (request_customer_redaction, ("id",)),
    "request_shop_redaction": (request_shop_redaction, ()),
}
