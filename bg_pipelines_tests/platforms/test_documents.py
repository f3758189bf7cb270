"""What Shopify is asked is what Shopify's own schema allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from graphql import (
    FieldNode,
    GraphQLError,
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

from bg_pipelines.platforms import shopify
from bg_pipelines.platforms.base import Correction, Resource
from bg_pipelines.platforms.shopify import ShopifyPlatform
from bg_pipelines_tests.platforms.scripted import Asked, Reply

LARGEST_PAGE = 250
# What each variable that sizes a page is filled with.
PAGE_SIZES = {
    "first": max(shopify.PAGE_ROWS, shopify.LOCATIONS_AT_ONCE),
    "levels": shopify.LEVELS_AT_FIRST,
}


def operation(document: str) -> OperationDefinitionNode:
    (definition,) = parse(document).definitions
    assert isinstance(definition, OperationDefinitionNode)
    return definition


def name_of(document: str) -> str:
    name = operation(document).name
    assert name is not None, "an operation without a name cannot be found in anybody's log"
    return name.value


every_document = pytest.mark.parametrize("document", shopify.DOCUMENTS, ids=name_of)


@every_document
def test_a_document_is_valid_at_the_vendor(vendor: GraphQLSchema, document: str) -> None:
    assert validate(vendor, parse(document)) == []


@every_document
def test_a_document_uses_nothing_deprecated(vendor: GraphQLSchema, document: str) -> None:
    assert validate(vendor, parse(document), [NoDeprecatedCustomRule]) == []


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
    assert set(documents_of(shopify)) == set(shopify.DOCUMENTS)
    assert len({name_of(document) for document in shopify.DOCUMENTS}) == len(shopify.DOCUMENTS)


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
    platform = ShopifyPlatform(connect(server.url))
    correction = Correction(
        "gid://shopify/InventoryItem/1", "gid://shopify/Location/1", 3, 4, "correction", "key"
    )
    platform.profile()
    platform.faults()
    platform.correct_stock(correction)
    for resource in Resource:
        if resource is not Resource.STORE:
            for since in (None, clock.now()):
                list(islice(platform.pages(resource, since=since, resume=None), 5))

    sent = {name_of(asked.body["query"]) for asked in server.asked}
    assert sent == {name_of(document) for document in shopify.DOCUMENTS}
    for asked in server.asked:
        definitions = operation(asked.body["query"]).variable_definitions
        assert isinstance(get_variable_values(vendor, definitions, asked.body["variables"]), dict)
        unknown = set(asked.body["variables"]) - {one.variable.name.value for one in definitions}
        assert unknown == set()


def as_far_as_needed(asked: Asked) -> Reply:
    """Just enough of an answer that the platform asks its next question."""
    end = {"hasNextPage": False, "endCursor": None}
    more = {"hasNextPage": True, "endCursor": "c1"}
    match name_of(asked.body["query"]):
        case "Shop":
            plan = {"publicDisplayName": "Basic"}
            names = ("id", "name", "currencyCode", "ianaTimezone", "updatedAt")
            return Reply.of({"data": {"shop": {**dict.fromkeys(names, "x"), "plan": plan}}})
        case "SetQuantities":
            stale = {"code": "CHANGE_FROM_QUANTITY_STALE", "field": None, "message": "stale"}
            return Reply.of({"data": {"inventorySetQuantities": {"userErrors": [stale]}}})
        case "InventoryLevels":
            location = {"id": "gid://shopify/Location/1", "inventoryLevels": {"nodes": [], "pageInfo": more}}
            return Reply.of({"data": {"rows": {"nodes": [location], "pageInfo": end}}})
        case "LocationInventoryLevels":
            return Reply.of({"data": {"location": {"rows": {"nodes": [], "pageInfo": end}}}})
        case "Available":
            return Reply.of({"data": {"location": {"inventoryLevel": None}}})
        case "GrantedScopes":
            return Reply.of({"data": {"currentAppInstallation": {"accessScopes": []}}})
        case _:
            return Reply.of({"data": {"rows": {"nodes": [], "pageInfo": end}}})
