"""Resolvers of customers and of their updates."""

from __future__ import annotations

import re
from typing import Any

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.catalogue import count, search
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines.sandbox.shopify.ledger import Ledger
from bg_pipelines.sandbox.shopify.orders import readable
from bg_pipelines.sandbox.shopify.search import every
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.table import Table

LONGEST_TEXT = 255
EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
PHONE = re.compile(r"\+[1-9]\d{6,14}")
# What a consent may be set to; the other states are the vendor's own to set.
ALLOWED_STATES = {
    "defaultEmailAddress": {"SUBSCRIBED", "UNSUBSCRIBED", "PENDING"},
    "defaultPhoneNumber": {"SUBSCRIBED", "UNSUBSCRIBED", "PENDING"},
}


def customers(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    table = info.context.ledger.customers
    return connect(table, args, sort_key=args["sortKey"], matches=search(info, args.get("query")))


def customer(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.ledger.customers.get(args["id"])  # type: ignore[no-any-return]


def customers_count(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return count(info.context.ledger.customers, args, search(info, args.get("query")))


def addresses_of_customer(source: Node, _info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(Table(source["_addresses"]), args)


def orders_of_customer(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node:
    matches = every([readable(info), search(info, args.get("query"))])
    return connect(Table(source["_orders"]), args, sort_key=args["sortKey"], matches=matches)


def can_delete(source: Node, _info: GraphQLResolveInfo) -> bool:
    return not source["_orders"]


def legacy_id(source: Node, _info: GraphQLResolveInfo) -> str:
    return str(source["_key"][0])


def customer_update(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    shop: Shop = info.context
    given: dict[str, Any] = dict(args["input"])
    row = shop.ledger.customers.get(given.pop("id", None))
    if row is None:
        return {"customer": None, "userErrors": [user_error("Customer does not exist", "id")]}
    for name in ("email", "phone"):
        # An empty text takes it away.
        if name in given:
            given[name] = (given[name] or "").strip() or None
    errors = refusals(shop.ledger, row, given)
    if errors:
        return {"customer": None, "userErrors": errors}
    if given:
        # The vendor keeps tags sorted and once each, and takes null for the texts that it always has as no change.
        if "tags" in given:
            given["tags"] = sorted({tag.strip() for tag in given["tags"] or [] if tag.strip()})
        for name in ("locale", "taxExempt"):
            if name in given and given[name] is None:
                del given[name]
        shop.ledger.update_customer(row, given)
        shop.applied += 1
    return {"customer": row, "userErrors": []}


def refusals(ledger: Ledger, row: Node, given: dict[str, Any]) -> list[Node]:
    errors = [
        user_error(f"{label} is too long (maximum is {LONGEST_TEXT} characters)", name)
        for name, label in (("firstName", "First name"), ("lastName", "Last name"))
        if len(given.get(name) or "") > LONGEST_TEXT
    ]
    email, phone = given.get("email"), given.get("phone")
    if email is not None:
        if not EMAIL.fullmatch(email):
            errors.append(user_error("Email is invalid", "email"))
        elif taken(ledger, row, "defaultEmailAddress", "emailAddress", email):
            errors.append(user_error("Email has already been taken", "email"))
    if phone is not None:
        if not PHONE.fullmatch(phone):
            errors.append(user_error("Phone is invalid", "phone"))
        elif taken(ledger, row, "defaultPhoneNumber", "phoneNumber", phone):
            errors.append(user_error("Phone has already been taken", "phone"))
    names = {"firstName": "firstName", "lastName": "lastName", "email": "defaultEmailAddress"}
    names["phone"] = "defaultPhoneNumber"
    if not any(given[name] if name in given else row.get(kept) for name, kept in names.items()):
        errors.append(user_error("A name, phone number, or email address must be present"))
    return errors


def taken(ledger: Ledger, row: Node, kind: str, name: str, value: str) -> bool:
    wanted = value.lower()
    if (row.get(kind) or {}).get(name, "").lower() == wanted:
        return False
    return any((other.get(kind) or {}).get(name, "").lower() == wanted for other in ledger.customers)


def update_email_consent(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return set_consent(info.context, "defaultEmailAddress", "emailMarketingConsent", args["input"])


def update_sms_consent(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return set_consent(info.context, "defaultPhoneNumber", "smsMarketingConsent", args["input"])


def set_consent(shop: Shop, kind: str, field: str, given: Node) -> Node:
    """Record what a customer agreed to or took back."""
    consent = given[field]
    row = shop.ledger.customers.get(given["customerId"])
    if row is None:
        return refused_consent("Customer not found", "INVALID", "customerId")
    if row.get(kind) is None:
        missing = "an email address" if kind == "defaultEmailAddress" else "a phone number"
        return refused_consent(f"The customer must have {missing} to update consent", "INVALID", field)
    if consent["marketingState"] not in ALLOWED_STATES[kind]:
        message = f"Cannot specify {consent['marketingState']} as a marketing state input"
        return refused_consent(message, "INVALID", field, "marketingState")
    place = consent.get("sourceLocationId")
    location = shop.store.locations.get(place)
    if place is not None and location is None:
        return refused_consent("The source location could not be found", "INVALID", field, "sourceLocationId")
    shop.ledger.set_consent(
        row,
        kind,
        {
            "marketingState": consent["marketingState"],
            "marketingOptInLevel": consent.get("marketingOptInLevel") or "SINGLE_OPT_IN",
            "marketingUpdatedAt": consent.get("consentUpdatedAt") or shop.clock.stamp(),
            "sourceLocation": location,
        },
    )
    shop.applied += 1
    return {"customer": row, "userErrors": []}


def refused_consent(message: str, code: str, *path: str) -> Node:
    return {"customer": None, "userErrors": [user_error(message, "input", *path) | {"code": code}]}


def user_error(message: str, *path: str) -> Node:
    return {"field": list(path) or None, "message": message}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.customers": customers,
    "QueryRoot.customer": customer,
    "QueryRoot.customersCount": customers_count,
    "Mutation.customerUpdate": customer_update,
    "Mutation.customerEmailMarketingConsentUpdate": update_email_consent,
    "Mutation.customerSmsMarketingConsentUpdate": update_sms_consent,
    "Customer.addressesV2": addresses_of_customer,
    "Customer.canDelete": can_delete,
    "Customer.legacyResourceId": legacy_id,
    "Customer.orders": orders_of_customer,
}
