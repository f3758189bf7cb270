"""The GraphQL schema: the SDL with each part's resolvers. A new part is a module with RESOLVERS, named here."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    parse,
    validate,
)

from bg_pipelines.sandbox.shopify import (
    account,
    bulk,
    catalogue,
    customers,
    inventory,
    nodes,
    orders,
    webhooks,
)
from bg_pipelines.sandbox.shopify.connections import edges

PARTS = (account, bulk, catalogue, customers, inventory, nodes, orders, webhooks)
SDL = ("schema", "customers", "orders", "bulk", "webhooks")


def sdl() -> str:
    folder = files("bg_pipelines.sandbox.shopify")
    return "\n".join(folder.joinpath(f"{name}.graphql").read_text(encoding="utf-8") for name in SDL)


@cache
def admin_schema() -> GraphQLSchema:
    schema = build_schema(sdl())
    for part in PARTS:
        for place, resolve in part.RESOLVERS.items():
            type_name, field_name = place.split(".")
            object_type(schema, type_name).fields[field_name].resolve = resolve
    anything = schema.type_map["Node"]
    assert isinstance(anything, GraphQLInterfaceType)
    anything.resolve_type = nodes.resolve_kind
    for name in schema.type_map:
        if name.endswith("Connection"):
            object_type(schema, name).fields["edges"].resolve = edges
    return schema


@lru_cache(maxsize=512)
def read(text: str) -> tuple[DocumentNode | None, tuple[GraphQLError, ...]]:
    """Parse and validate a document, once per text."""
    try:
        document = parse(text)
    except GraphQLError as error:
        return None, (error,)
    errors = validate(admin_schema(), document)
    return (None, tuple(errors)) if errors else (document, ())


def object_type(schema: GraphQLSchema, name: str) -> GraphQLObjectType:
    kind = schema.type_map[name]
    assert isinstance(kind, GraphQLObjectType)
    return kind
