"""The price of a query and the budget of a shop, by the law that the vendor's answers follow.

A scalar costs 0, an object 1, a connection of N rows 2 + floor(2 ln N) x the cost of one row (of 1 and 2 rows: 1 and 2
times that), a mutation 10, and `nodes` as much as an object for each id. The requested cost assumes that every page is
full and every object there; the actual cost counts the answer, a row at the mean of its page, and the difference is given
back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    value_from_ast_untyped,
)

OBJECT_COST = 1
CONNECTION_COST = 2
MUTATION_COST = 10
MAX_QUERY_COST = 1000


@dataclass(slots=True)
class Part:
    """One field of a query that costs something."""

    name: str
    key: str
    kind: str
    rows: int = 0
    after: str | None = None
    parts: list[Part] = field(default_factory=list)

    def requested(self) -> int:
        if self.kind == "mutation":
            return MUTATION_COST
        if self.kind == "connection":
            return CONNECTION_COST + times(self.rows) * self.row_cost()
        if self.kind == "nodes":
            return self.rows * self.row_cost()
        return OBJECT_COST + sum(part.requested() for part in self.parts)

    def row_cost(self) -> int:
        return OBJECT_COST + sum(part.requested() for part in self.parts)

    def actual(self, value: Any) -> tuple[int, int]:
        """The cost of the answer that came, and the number of rows in its connections."""
        if self.kind == "mutation":
            return MUTATION_COST, 0
        if value is None or value == []:
            return 0, 0
        if self.kind == "object":
            # A list of objects costs as one: it comes with its parent.
            cost, count = self.below(value[0] if isinstance(value, list) else value)
            return OBJECT_COST + cost, count
        rows = [row for row in (value if self.kind == "nodes" else rows_of(value)) if row is not None]
        count, total = len(rows), len(rows) * OBJECT_COST
        if self.parts:
            for row in rows:
                cost, below = self.below(row)
                total += cost
                count += below
        if self.kind == "nodes":
            return total, count
        return CONNECTION_COST + (math.ceil(times(len(rows)) * total / len(rows)) if rows else 0), count

    def below(self, value: Any) -> tuple[int, int]:
        cost = count = 0
        if isinstance(value, dict):
            for part in self.parts:
                part_cost, part_count = part.actual(value.get(part.key))
                cost += part_cost
                count += part_count
        return cost, count


def times(rows: int) -> int:
    """How many times the cost of one row a page of so many costs."""
    return rows if rows <= 2 else math.floor(2 * math.log(rows))


def rows_of(connection: dict[str, Any]) -> list[Any]:
    rows = connection.get("nodes")
    if rows is None:
        rows = [edge.get("node") for edge in connection.get("edges") or []]
    return list(rows)


class Pricing:
    """Break one operation into the parts that cost."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: dict[str, Any]) -> None:
        self.schema = schema
        self.variables = variables
        self.fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }

    def parts(self, operation: OperationDefinitionNode) -> list[Part]:
        for definition in operation.variable_definitions or ():
            name = definition.variable.name.value
            if definition.default_value is not None and name not in self.variables:
                self.variables = {**self.variables, name: value_from_ast_untyped(definition.default_value)}
        root = self.schema.get_root_type(operation.operation)
        if root is None:
            return []
        parts = self.below(root, operation.selection_set)
        if operation.operation is OperationType.MUTATION:
            for part in parts:
                part.kind = "mutation"
        return parts

    def below(self, parent: GraphQLObjectType, selections: SelectionSetNode | None) -> list[Part]:
        parts: list[Part] = []
        for selected in self.fields(selections):
            definition = parent.fields.get(selected.name.value)
            kind = get_named_type(definition.type) if definition else None
            if isinstance(kind, GraphQLInterfaceType) and selected.name.value == "nodes":
                parts.append(self.by_ids(selected))
            if not isinstance(kind, GraphQLObjectType):
                continue
            key = selected.alias.value if selected.alias else selected.name.value
            part = Part(name=selected.name.value, key=key, kind="object")
            if kind.name.endswith("Connection"):
                arguments = {
                    argument.name.value: self.value(argument.value) for argument in selected.arguments
                }
                part.kind = "connection"
                part.rows = whole(arguments.get("first")) or whole(arguments.get("last"))
                part.after = arguments.get("after")
                part.parts = self.of_rows(kind, selected.selection_set)
            else:
                part.parts = self.below(kind, selected.selection_set)
            parts.append(part)
        return parts

    def by_ids(self, selected: FieldNode) -> Part:
        """The rows of several kinds that are asked for by their ids: what is asked of any kind counts."""
        ids = [self.value(one.value) for one in selected.arguments if one.name.value == "ids"]
        part = Part(
            selected.name.value, selected.alias.value if selected.alias else selected.name.value, "nodes"
        )
        part.rows = len(ids[0]) if ids and isinstance(ids[0], list) else 1
        for inner in selected.selection_set.selections if selected.selection_set else ():
            if isinstance(inner, InlineFragmentNode) and inner.type_condition is not None:
                kind = self.schema.type_map[inner.type_condition.name.value]
                if isinstance(kind, GraphQLObjectType):
                    part.parts += self.below(kind, inner.selection_set)
        return part

    def of_rows(self, connection: GraphQLObjectType, selections: SelectionSetNode | None) -> list[Part]:
        row = get_named_type(connection.fields["nodes"].type)
        assert isinstance(row, GraphQLObjectType)
        parts: list[Part] = []
        for selected in self.fields(selections):
            if selected.name.value == "nodes":
                parts += self.below(row, selected.selection_set)
            elif selected.name.value == "edges":
                for inner in self.fields(selected.selection_set):
                    if inner.name.value == "node":
                        parts += self.below(row, inner.selection_set)
        return parts

    def fields(self, selections: SelectionSetNode | None) -> Iterator[FieldNode]:
        for selection in selections.selections if selections else ():
            if isinstance(selection, FieldNode):
                yield selection
            elif isinstance(selection, InlineFragmentNode):
                yield from self.fields(selection.selection_set)
            else:
                fragment = self.fragments.get(getattr(selection, "name").value)  # noqa: B009
                yield from self.fields(fragment.selection_set if fragment else None)

    def value(self, node: ValueNode) -> Any:
        if isinstance(node, VariableNode):
            return self.variables.get(node.name.value)
        return value_from_ast_untyped(node)


def whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


class Bucket:
    """A leaky bucket: `maximum` points, `restore` of them come back every second."""

    def __init__(self, maximum: float, restore: float, now: float) -> None:
        self.maximum = maximum
        self.restore = restore
        self.available = maximum
        self.at = now

    def resize(self, maximum: float, restore: float) -> None:
        self.maximum, self.restore, self.available = maximum, restore, maximum

    def refill(self, now: float) -> None:
        self.available = min(self.maximum, self.available + max(0.0, now - self.at) * self.restore)
        self.at = now

    def take(self, points: float, now: float) -> bool:
        self.refill(now)
        if points > self.available:
            return False
        self.available -= points
        return True

    def give_back(self, points: float) -> None:
        self.available = min(self.maximum, self.available + points)

    def report(self, requested: int, actual: int | None) -> dict[str, Any]:
        return {
            "requestedQueryCost": requested,
            "actualQueryCost": actual,
            "throttleStatus": {
                "maximumAvailable": float(self.maximum),
                "currentlyAvailable": int(self.available),
                "restoreRate": float(self.restore),
            },
        }
