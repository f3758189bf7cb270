"""The query of a bulk operation: what the vendor allows, how it is asked page by page, and its lines.

A connection needs no `first` and is read whole. Every row of every connection is a line; a row of a nested
connection is told with `__parentId`, after its parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    NameNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    get_named_type,
    parse,
    validate,
)

MOST_CONNECTIONS = 5
DEEPEST = 2
ROWS_AT_ONCE = 250
PAGING = frozenset({"first", "last", "after", "before"})
Row = dict[str, Any]
# A frame for the rewritten field: how the rows of the root are asked for, a page at a time.
FRAME = f"query($after: String) {{ rows(first: {ROWS_AT_ONCE}, after: $after) {{ pageInfo {{ hasNextPage endCursor }} }} }}"


class InvalidQueryError(Exception):
    """The vendor would not run this query in bulk."""


@dataclass
class Below:
    """A nested connection: where it is in its row, and what is nested in its own rows."""

    path: tuple[str, ...]
    below: list[Below] = field(default_factory=list)


@dataclass
class BulkQuery:
    """`root` is the root field's name; `names` are all fields asked for, for the scopes they need."""

    root: str
    key: str
    document: DocumentNode
    below: list[Below]
    names: set[str]


def read_bulk_query(text: str, schema: GraphQLSchema) -> BulkQuery:
    try:
        document = parse(text)
    except GraphQLError as error:
        raise InvalidQueryError(f"Invalid bulk query: {error.message}") from None
    errors = validate(schema, document)
    if errors:
        raise InvalidQueryError(f"Invalid bulk query: {errors[0].message}")
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation is not OperationType.QUERY:
        raise InvalidQueryError("Bulk queries must contain exactly one query.")
    if operations[0].variable_definitions:
        raise InvalidQueryError("Bulk queries cannot use variables.")
    reader = Reader(document)
    roots = list(reader.flat(operations[0].selection_set))
    assert schema.query_type is not None
    if len(roots) != 1 or not reader.is_connection(schema.query_type, roots[0]):
        raise InvalidQueryError("Bulk queries must contain at least one connection, and one top-level field.")
    frame = parse(FRAME)
    operation = frame.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    framed = operation.selection_set.selections[0]
    assert isinstance(framed, FieldNode)
    assert framed.selection_set is not None
    below: list[Below] = []
    rewritten = reader.connection(schema.query_type, roots[0], 0, below)
    assert rewritten.selection_set is not None
    root = with_parts(
        rewritten,
        arguments=(*rewritten.arguments, *framed.arguments),
        selections=(*rewritten.selection_set.selections, *framed.selection_set.selections),
    )
    operation.selection_set = SelectionSetNode(selections=(root,))
    return BulkQuery(roots[0].name.value, key_of(roots[0]), frame, below, reader.names)


class Reader:
    """Write a query anew: fragments in place, `edges { node }` as `nodes`, no paging. Counts what the vendor limits."""

    def __init__(self, document: DocumentNode) -> None:
        self.fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self.connections = 0
        self.names: set[str] = set()

    def is_connection(self, parent: GraphQLObjectType, node: FieldNode) -> bool:
        definition = parent.fields.get(node.name.value)
        return definition is not None and get_named_type(definition.type).name.endswith("Connection")

    def flat(self, selections: SelectionSetNode | None) -> Iterator[FieldNode]:
        for selection in selections.selections if selections else ():
            if isinstance(selection, FieldNode):
                yield selection
            elif isinstance(selection, InlineFragmentNode):
                yield from self.flat(selection.selection_set)
            else:
                fragment = self.fragments.get(getattr(selection, "name").value)  # noqa: B009
                yield from self.flat(fragment.selection_set if fragment else None)

    def connection(
        self, parent: GraphQLObjectType, node: FieldNode, depth: int, below: list[Below]
    ) -> FieldNode:
        self.connections += 1
        if self.connections > MOST_CONNECTIONS:
            raise InvalidQueryError(f"Bulk queries cannot contain more than {MOST_CONNECTIONS} connections.")
        if depth > DEEPEST:
            raise InvalidQueryError(
                f"Bulk queries cannot contain connections with a nesting depth greater than {DEEPEST}."
            )
        self.names.add(node.name.value)
        kind = get_named_type(parent.fields[node.name.value].type)
        assert isinstance(kind, GraphQLObjectType)
        row = get_named_type(kind.fields["nodes"].type)
        assert isinstance(row, GraphQLObjectType)
        selected: list[FieldNode] = []
        for part in self.flat(node.selection_set):
            if part.name.value == "nodes":
                selected += self.flat(part.selection_set)
            elif part.name.value == "edges":
                for inner in self.flat(part.selection_set):
                    if inner.name.value == "node":
                        selected += self.flat(inner.selection_set)
        if not selected:
            raise InvalidQueryError(f"The connection '{node.name.value}' must select its nodes.")
        fields = self.object(row, selected, depth, (), below)
        if below and not any(one.name.value == "id" and one.alias is None for one in selected):
            raise InvalidQueryError(
                "The parent 'node' field for a nested connection must select the 'id' field."
            )
        rows = FieldNode(
            name=NameNode(value="nodes"),
            arguments=(),
            directives=(),
            selection_set=SelectionSetNode(selections=fields),
        )
        kept = tuple(argument for argument in node.arguments if argument.name.value not in PAGING)
        return with_parts(node, arguments=kept, selections=(rows,))

    def object(
        self,
        parent: GraphQLObjectType,
        nodes: list[FieldNode],
        depth: int,
        path: tuple[str, ...],
        below: list[Below],
        *,
        in_list: bool = False,
    ) -> tuple[FieldNode, ...]:
        """The fields of a row, or of an object in it; the connections among them are noted in `below`."""
        written: list[FieldNode] = []
        for node in nodes:
            self.names.add(node.name.value)
            definition = parent.fields.get(node.name.value)
            kind = get_named_type(definition.type) if definition is not None else None
            if definition is None or not isinstance(kind, GraphQLObjectType):
                written.append(node)
                continue
            here = (*path, key_of(node))
            if kind.name.endswith("Connection"):
                if in_list:
                    raise InvalidQueryError(
                        "Queries that contain a connection field within a list field are not currently supported."
                    )
                nested = Below(here)
                below.append(nested)
                written.append(self.connection(parent, node, depth + 1, nested.below))
                continue
            fields = self.object(
                kind,
                list(self.flat(node.selection_set)),
                depth,
                here,
                below,
                in_list=in_list or is_list(definition.type),
            )
            written.append(with_parts(node, arguments=node.arguments, selections=fields))
        return tuple(written)


def with_parts(
    node: FieldNode, *, arguments: tuple[ArgumentNode, ...], selections: tuple[Any, ...]
) -> FieldNode:
    return FieldNode(
        alias=node.alias,
        name=node.name,
        arguments=arguments,
        directives=node.directives,
        selection_set=SelectionSetNode(selections=selections),
    )


def key_of(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def is_list(kind: Any) -> bool:
    return isinstance(kind.of_type if isinstance(kind, GraphQLNonNull) else kind, GraphQLList)


def lines_of(
    rows: list[Row], below: list[Below], *, grouped: bool, parent: str | None = None
) -> Iterator[Row]:
    """The lines of rows. Grouped, a row's children follow it; else they come after all of its siblings."""
    later: list[tuple[list[Row], list[Below], str]] = []
    for row in rows:
        children = [(rows_in(row, nested.path), nested.below, row.get("id", "")) for nested in below]
        if parent is not None:
            row["__parentId"] = parent
        yield row
        if grouped:
            for nodes, deeper, parent_id in children:
                yield from lines_of(nodes, deeper, grouped=True, parent=parent_id)
        else:
            later += children
    for nodes, deeper, parent_id in later:
        yield from lines_of(nodes, deeper, grouped=False, parent=parent_id)


def rows_in(row: Row, path: tuple[str, ...]) -> list[Row]:
    """Take a nested connection out of its row."""
    holder: Any = row
    for name in path[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    connection = holder.pop(path[-1], None) if isinstance(holder, dict) else None
    return connection["nodes"] if connection else []
