"""Whether a page holds the very fields that a document of the product asks for, no fewer and no more."""

from __future__ import annotations

from typing import Any

import graphql


def require_shape(document: str, data: dict[str, Any]) -> None:
    """Raises RuntimeError, naming the place, where the page server is to be brought up to date."""
    (operation,) = graphql.parse(document).definitions
    assert isinstance(operation, graphql.OperationDefinitionNode)
    _require_fields(operation.selection_set, data, operation.name.value if operation.name else "")


def _require_fields(selection: graphql.SelectionSetNode, value: Any, place: str) -> None:
    for element in value if isinstance(value, list) else [value]:
        if element is None:
            continue
        fields = {
            (field.alias or field.name).value: field
            for field in selection.selections
            if isinstance(field, graphql.FieldNode)
        }
        if fields.keys() != element.keys():
            raise RuntimeError(
                f"{place}: asked for {sorted(fields)}, the page server has {sorted(element)}: bring it up to date"
            )
        for name, field in fields.items():
            if field.selection_set is not None:
                _require_fields(field.selection_set, element[name], f"{place}.{name}")
