"""What Shopify is asked is what Shopify's own schema allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    IntValueNode,
    NoDeprecatedCustomRule,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableNode,
    Visitor,
    get_named_type,
    parse,
    validate,
    visit,
)
from graphql.execution.values import get_variable_values

from bg_pipelines.platforms.protocol import Correction, Wanted
from bg_pipelines.platforms.shopify import bulk, customer_edits, look, platform, sales, stock, subscriptions
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.records import Resource
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.platforms.scripted import Asked, Reply

LARGEST_PAGE = 250
# What each variable that sizes a page is filled with.
PAGE_SIZES = {
    "first": max(PAGE_SIZES.rows, PAGE_SIZES.locations),
    "levels": PAGE_SIZES.levels,
    "addresses": PAGE_SIZES.addresses,
    "lines": PAGE_SIZES.lines,
    "variants": PAGE_SIZES.rows,
}


def operation(document: str) -> OperationDefinitionNode:
    (definition,) = parse(document).definitions
    assert isinstance(definition, OperationDefinitionNode)
    return definition


def name_of(document: str) -> str:
    name = operation(document).name
    assert name is not None, "an operation without a name cannot be found in anybody's log"
    return name.value


every_document = pytest.mark.parametrize("document", platform.DOCUMENTS, ids=name_of)


@every_document
def test_a_document_is_valid_at_the_vendor(
    vendor: GraphQLSchema, next_vendor: GraphQLSchema, document: str
) -> None:
    assert validate(vendor, parse(document)) == validate(next_vendor, parse(document)) == []


@every_document
def test_a_document_uses_nothing_deprecated(vendor: GraphQLSchema, document: str) -> None:
    found = [error.message for error in validate(vendor, parse(document), [NoDeprecatedCustomRule])]
    # Their successor, `smsMarketingConsent`, is named by the vendor and not yet there.
    unavoidable = (
        "The field CustomerPhoneNumber.marketing",
        "The field CustomerPhoneNumber.sourceLocation is deprecated",
    )
    assert [message for message in found if not message.startswith(unavoidable)] == []


@pytest.mark.parametrize("resource", platform.EXPORTS)
def test_an_export_asks_for_the_same_as_the_pages_and_is_valid_at_the_vendor(
    vendor: GraphQLSchema, next_vendor: GraphQLSchema, resource: Resource
) -> None:
    exported = parse(platform.EXPORTS[resource].query)
    listed = parse(
        {
            Resource.CUSTOMERS: sales.CUSTOMERS,
            Resource.ORDERS: sales.ORDERS,
            Resource.PRODUCT_VARIANTS: platform.PRODUCT_VARIANTS,
            Resource.INVENTORY_LEVELS: stock.INVENTORY_LEVELS,
        }[resource]
    )
    assert validate(vendor, exported) == validate(next_vendor, exported) == []
    assert not any(getattr(definition, "variable_definitions", ()) for definition in exported.definitions)
    assert fields_of(exported, vendor) == fields_of(listed, vendor)


def fields_of(document: DocumentNode, vendor: GraphQLSchema) -> set[tuple[str, str]]:
    """Type and name of every field of a document, but for those of pages, counts and the app."""
    types = TypeInfo(vendor)
    found: set[tuple[str, str]] = set()

    class Fields(Visitor):
        def enter_field(self, node: FieldNode, *_: Any) -> None:
            parent = types.get_parent_type()
            name = parent.name if parent is not None else ""
            if not name.endswith(
                ("Connection", "Edge", "Root", "PageInfo", "Count", "App", "Installation", "Scope", "Shop")
            ):
                found.add((name, node.name.value))

    visit(document, TypeInfoVisitor(types, Fields()))
    return found


def test_the_consent_of_a_phone_number_has_no_other_field_yet(vendor: GraphQLSchema) -> None:
    phone = vendor.type_map["CustomerPhoneNumber"]
    assert isinstance(phone, GraphQLObjectType)
    assert "smsMarketingConsent" not in phone.fields, "ask for it in place of the deprecated fields"


def test_the_check_for_deprecated_fields_finds_one(vendor: GraphQLSchema) -> None:
    (found,) = validate(vendor, parse("{ customer(id: 1) { email } }"), [NoDeprecatedCustomRule])
    assert "Customer.email is deprecated" in found.message


@every_document
def test_every_connection_asks_for_a_page_that_the_vendor_gives(vendor: GraphQLSchema, document: str) -> None:
    types = TypeInfo(vendor)
    sizes: dict[str, Any] = {}

    class Connections(Visitor):
        def enter_field(self, node: FieldNode, *_: Any) -> None:
            kind = get_named_type(types.get_type())
            if kind is not None and kind.name.endswith("Connection"):
                arguments = {argument.name.value: argument.value for argument in node.arguments}
                sizes[node.name.value] = arguments.get("first")

    visit(parse(document), TypeInfoVisitor(types, Connections()))
    for connection, first in sizes.items():
        assert isinstance(first, IntValueNode | VariableNode), f"{connection} is asked for without `first`"
        rows = int(first.value) if isinstance(first, IntValueNode) else PAGE_SIZES[first.name.value]
        assert 1 <= rows <= LARGEST_PAGE
    if "pageInfo" in document:
        assert sizes


def test_no_document_of_the_module_is_forgotten() -> None:
    modules = (platform, bulk, sales, stock, customer_edits, subscriptions, look)
    assert {document for module in modules for document in documents_of(module)} == set(platform.DOCUMENTS)
    assert len({name_of(document) for document in platform.DOCUMENTS}) == len(platform.DOCUMENTS)


def documents_of(module: Any) -> Iterator[str]:
    """Every constant of a module that is a GraphQL document, alone or in a tuple or dict of them."""
    for value in vars(module).values():
        inside = (
            value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        )
        for text in inside:
            if isinstance(text, str):
                try:
                    parse(text)
                except GraphQLError:
                    continue
                yield text


def test_every_document_is_sent_with_variables_that_the_vendor_takes(
    vendor: GraphQLSchema, serve: Callable[..., Any], connect: Callable[..., Any], clock: Any
) -> None:
    server = serve(as_far_as_needed)
    shop = ShopifyPlatform(connect(server.url))
    correction = Correction(
        "gid://shopify/InventoryItem/1", "gid://shopify/Location/1", 3, 4, "correction", "key"
    )
    shop.profile()
    shop.faults()
    shop.backfills()
    for job in ("store_sync", "inventory_sync", "customer_sync"):
        units = JOB_UNITS[job]
        resources = [unit.resource for unit in units if unit.resource is not None]
        shop.look(dict.fromkeys(resources, clock.now()), profile=Unit.STORE in units)
    shop.correct_stock([correction])[0]
    for resource in Resource:
        for since in (None, clock.now()):
            list(islice(shop.pages(resource, since=since, resume=None), 5))
        shop.rows(resource, ["gid://shopify/Anything/1"])
    shop.products_with_variants(["gid://shopify/Product/1"])
    for resource in platform.EXPORTS:
        wanted, *_ = shop.pages(resource, since=None, resume=None, bulk=True)
        list(shop.pages(resource, since=None, resume=wanted.resume))
    shop.update_customer("gid://shopify/Customer/1", {"first_name": "Ada", "note": None})
    for consent in ("email_consent", "sms_consent"):
        shop.update_customer("gid://shopify/Customer/1", {consent: "unsubscribed"})
    for topic in TOPICS["shopify"].values():
        if topic.by_api:
            wanted = Wanted((topic.name,), "https://hooks.example.com", topic.fields, topic.filter)
            made = shop.webhooks.subscribe(wanted)
            assert made.topics == wanted.topics
            shop.webhooks.update(made.external_id, wanted)
    shop.webhooks.subscriptions()
    shop.webhooks.unsubscribe("gid://shopify/WebhookSubscription/1")

    names = {name_of(document) for document in platform.DOCUMENTS}
    sent = {name_of(asked.body["query"]) for asked in server.asked}
    # Ids alone are asked for where Shopify fails at rows, see sync/test_pages_that_fail.py.
    assert sent == {name for name in names if not name.endswith("Ids") or name.endswith("ByIds")}
    for asked in server.asked:
        definitions = operation(asked.body["query"]).variable_definitions
        assert isinstance(get_variable_values(vendor, definitions, asked.body["variables"]), dict)
        unknown = set(asked.body["variables"]) - {one.variable.name.value for one in definitions}
        assert unknown == set()


CUSTOMER = {
    "id": "gid://shopify/Customer/1",
    **dict.fromkeys(("firstName", "lastName", "locale", "note", "createdAt", "updatedAt"), "x"),
    **dict.fromkeys(("defaultAddress", "defaultEmailAddress", "defaultPhoneNumber")),
    "verifiedEmail": False,
    "tags": [],
    "numberOfOrders": "0",
    "amountSpent": {"amount": "0.0", "currencyCode": "USD"},
    "addressesV2": {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}},
}


def as_far_as_needed(asked: Asked) -> Reply:
    """Just enough of an answer that the platform asks its next question."""
    end = {"hasNextPage": False, "endCursor": None}
    more = {"hasNextPage": True, "endCursor": "c1"}
    plan = {"publicDisplayName": "Basic"}
    the_shop = {
        **dict.fromkeys(("id", "name", "currencyCode", "ianaTimezone", "updatedAt"), "x"),
        "plan": plan,
    }
    match name_of(asked.body["query"]):
        case "Shop":
            return Reply.of({"data": {"shop": the_shop}})
        case name if name.startswith("LookAt"):
            nothing = {key: {"nodes": [], "pageInfo": end} for key in map(str, Resource)}
            return Reply.of({"data": {"shop": the_shop, "app": {"accessScopes": []}, **nothing}})
        case "SetQuantities":
            stale = {"code": "CHANGE_FROM_QUANTITY_STALE", "field": None, "message": "stale"}
            return Reply.of({"data": {"inventorySetQuantities": {"userErrors": [stale]}}})
        case "InventoryLevels":
            location = {"id": "gid://shopify/Location/1", "inventoryLevels": {"nodes": [], "pageInfo": more}}
            return Reply.of({"data": {"rows": {"nodes": [location], "pageInfo": end}}})
        case "LocationInventoryLevels":
            return Reply.of({"data": {"location": {"rows": {"nodes": [], "pageInfo": end}}}})
        case "Available":
            return Reply.of({"data": {"rows": [None]}})
        case "GrantedScopes":
            return Reply.of({"data": {"currentAppInstallation": {"accessScopes": []}}})
        case "StartExport":
            return Reply.of(
                {"data": {"bulkOperationRunQuery": {"bulkOperation": {"id": "1"}, "userErrors": []}}}
            )
        case "RecentExports":
            return Reply.of({"data": {"bulkOperations": {"nodes": []}}})
        case "Export":
            counts = {"objectCount": "0", "rootObjectCount": "0"}
            operation = {"status": "COMPLETED", "errorCode": None, "url": None, **counts}
            return Reply.of({"data": {"bulkOperation": operation}})
        case "CustomersCount" | "OrdersCount":
            return Reply.of({"data": {"app": {"accessScopes": []}}})
        case "Customers":
            customer = {**CUSTOMER, "addressesV2": {"nodes": [], "pageInfo": more}}
            return Reply.of({"data": {"rows": {"nodes": [customer], "pageInfo": end}}})
        case "Orders":
            order = {"id": "gid://shopify/Order/1", "updatedAt": "x"}
            order |= {"lineItems": {"nodes": [], "pageInfo": more}}
            rows = {"nodes": [order], "pageInfo": end}
            return Reply.of({"data": {"app": {"accessScopes": []}, "rows": rows}})
        case "CustomerAddresses":
            return Reply.of({"data": {"customer": {"rows": {"nodes": [], "pageInfo": end}}}})
        case "OrderLines":
            return Reply.of({"data": {"order": {"rows": {"nodes": [], "pageInfo": end}}}})
        case "CustomersByIds":
            return Reply.of({"data": {"rows": [CUSTOMER]}})
        case "Subscribe" | "UpdateSubscription":
            made = {"id": "1", "topic": asked.body["variables"].get("topic", "SHOP_UPDATE")}
            made |= {"updatedAt": "2026-01-01T00:00:00Z"}
            made |= {"format": "JSON", "includeFields": [], "uri": "x", "filter": None}
            return Reply.of({"data": {"outcome": {"webhookSubscription": made, "userErrors": []}}})
        case "Unsubscribe":
            return Reply.of({"data": {"outcome": {"deletedWebhookSubscriptionId": "1", "userErrors": []}}})
        case "UpdateCustomer" | "UpdateEmailConsent" | "UpdateSmsConsent":
            return Reply.of({"data": {"outcome": {"customer": CUSTOMER, "userErrors": []}}})
        case by_ids if by_ids.endswith(("ByIds", "WithVariants")):
            return Reply.of({"data": {"app": {"accessScopes": []}, "rows": [None]}})
        case _:
            return Reply.of({"data": {"rows": {"nodes": [], "pageInfo": end}}})
