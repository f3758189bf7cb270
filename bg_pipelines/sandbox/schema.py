"""Join the SDL with the resolvers of every part of the API. A new part is a module with RESOLVERS, named here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from graphql import GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema, build_schema

from bg_pipelines.sandbox import account, bulk, catalogue, customers, inventory, nodes, orders
from bg_pipelines.sandbox.connections import edges

PARTS = (account, bulk, catalogue, customers, inventory, nodes, orders)
SDL = ("schema", "customers", "orders", "bulk")


def sdl() -> str:
    folder = files("bg_pipelines.sandbox")
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


def object_type(schema: GraphQLSchema, name: str) -> GraphQLObjectType:
    kind = schema.type_map[name]
    assert isinstance(kind, GraphQLObjectType)
    return kind
