"""The SDL is a true part of the vendor's schema."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import (
    GraphQLSchema,
    build_schema,
    is_specified_directive,
    is_specified_scalar_type,
)

from bg_pipelines.sandbox.shopify.schema import PARTS, admin_schema, sdl


def arguments(field: Any) -> dict[str, tuple[str, Any]]:
    return {name: (str(argument.type), argument.default_value) for name, argument in field.args.items()}


DIFFERENCES: dict[str, list[str]] = {
    "vendor": [],
    # The sandbox answers it in either version, and it is understood in either.
    "next_vendor": ["InventorySetQuantitiesUserErrorCode has no ITEM_NOT_STOCKED_AT_LOCATION at the vendor"],
}


@pytest.mark.parametrize("schema", DIFFERENCES)
def test_every_type_field_and_argument_is_the_vendors(schema: str, request: pytest.FixtureRequest) -> None:
    vendor: GraphQLSchema = request.getfixturevalue(schema)
    differences = []
    for name, ours in build_schema(sdl()).type_map.items():
        if name.startswith("__") or is_specified_scalar_type(ours):
            continue
        theirs = vendor.type_map.get(name)
        if type(theirs) is not type(ours):
            differences.append(f"{name} is no such type at the vendor")
            continue
        for field_name, field in getattr(ours, "fields", {}).items():
            at_vendor = getattr(theirs, "fields", {}).get(field_name)
            if at_vendor is None or str(at_vendor.type) != str(field.type):
                differences.append(f"{name}.{field_name}: {field.type}, at the vendor {at_vendor}")
            elif hasattr(field, "args") and arguments(field) != arguments(at_vendor):
                differences.append(
                    f"{name}.{field_name}: {arguments(field)}, at the vendor {arguments(at_vendor)}"
                )
        values = set(getattr(ours, "values", {})) - set(getattr(theirs, "values", {}))
        interfaces = {one.name for one in getattr(ours, "interfaces", ())}
        interfaces -= {one.name for one in getattr(theirs, "interfaces", ())}
        differences += [f"{name} has no {one} at the vendor" for one in sorted(values | interfaces)]
    assert differences == DIFFERENCES[schema]


def test_the_roots_and_directives_are_the_vendors(vendor: GraphQLSchema) -> None:
    ours = build_schema(sdl())
    assert (str(ours.query_type), str(ours.mutation_type)) == (
        str(vendor.query_type),
        str(vendor.mutation_type),
    )
    for directive in ours.directives:
        if not is_specified_directive(directive):
            theirs = vendor.get_directive(directive.name)
            assert theirs is not None
            assert directive.locations == theirs.locations
            assert arguments(directive) == arguments(theirs)


def test_every_field_with_arguments_has_a_resolver() -> None:
    resolved = {place for part in PARTS for place in part.RESOLVERS}
    for name, kind in admin_schema().type_map.items():
        if not name.startswith("__"):
            for field_name, field in getattr(kind, "fields", {}).items():
                if getattr(field, "args", None):
                    assert f"{name}.{field_name}" in resolved
