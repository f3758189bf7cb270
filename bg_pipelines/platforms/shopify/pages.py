"""Shopify's connections, page by page, and their nodes sorted into records, deleted ones and rejects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.paging import Cursors, may_be_of_size
from bg_pipelines.platforms.rejects import NONSENSE, key_of, rejected
from bg_pipelines.platforms.shopify.client import Answer, ShopifyClient
from bg_pipelines.platforms.shopify.failures import malformed
from bg_pipelines.platforms.shopify.unanswered import UNANSWERED, Held, Sizes, Unanswered
from bg_pipelines.records import Page, Part, Record, Reject, Resource

PAGE_INFO = "pageInfo { hasNextPage endCursor }"

Node = dict[str, Any]

NESTED_ROWS = 10_000
"""No row has more nested in it, be they lines or addresses: such a list has no end."""


class PageSizes(NamedTuple):
    """How many rows a call asks for, so that each document stays under the 1000 points that a call may be asked for.

    A list of N rows is asked for 2 + floor(2 ln N) times the points of one, so it costs as much for 55 as for 90: each
    size is the last of its price. What was not there is given back, so long lists that are mostly short cost little. The
    plan has no say in the sizes (the limit of a call is the same for all), but in the pace: see `ShopifyClient`.
    """

    rows: int = 244
    """250 are the vendor's most; these cost a tenth less."""
    rows_by_ids: int = 25
    """Each costs as much as a row of its own."""
    orders_by_ids: int = 15
    """With their first `lines_by_ids` lines."""
    products_with_variants: int = 15
    """With up to `rows` variants each."""
    locations: int = 20
    """With their first `levels` of stock."""
    levels: int = 244
    addresses: int = 54
    """The first of each customer."""
    lines: int = 90
    """The first of each order of a page, which is asked for 905 points with them."""
    lines_by_ids: int = 20
    cut: int = 8
    """Rows that have more nested in them than came with their page: fetched together, with `nested` each."""
    nested: int = 244
    quantities: int = 250
    """Stock corrections: the vendor's most."""


PAGE_SIZES = PageSizes()
POINTS_A_ROW = {
    Resource.LOCATIONS: 0.1,
    Resource.PRODUCTS: 0.06,
    Resource.PRODUCT_VARIANTS: 0.15,
    Resource.INVENTORY_LEVELS: 0.14,
    Resource.CUSTOMERS: 0.45,
    Resource.ORDERS: 1.9,
}
"""What a row costs in pages of these sizes, as a rule: orders with the lines of a grocer's baskets, customers with an
address each."""


IDS = """
query Ids($ids: [ID!]!) { rows: nodes(ids: $ids) { id } }"""


def ids_only(name: str, connection: str, *, searched: bool = True, beside: str = "") -> str:
    """The document that asks for nothing but the ids of a connection's rows, which Shopify manages where it fails at one."""
    query, argument = (", $query: String", ", query: $query") if searched else ("", "")
    return f"""
query {name}Ids($first: Int!, $after: String{query}) {{
  {beside}
  rows: {connection}(first: $first, after: $after, sortKey: ID{argument}) {{ nodes {{ id }} {PAGE_INFO} }}
}}"""


class PageReader:
    """Asks for pages, of as many rows as the shop's cost limit allows and as Shopify manages."""

    def __init__(self, client: ShopifyClient, sizes: PageSizes = PAGE_SIZES) -> None:
        self.sizes = sizes
        self._client = client
        self._at_once = Sizes()
        self._answered: set[str] = set()

    def page(
        self,
        document: str,
        variables: Node,
        after: str | None,
        rows: int | None = None,
        *,
        within: str | None = None,
        ids: str | None = None,
    ) -> Answer:
        """One page, of fewer rows where Shopify does not take, or does not manage, so many.

        `ids` is the document of the rows' ids: where Shopify fails at a single row and still tells its id, the answer
        is that of `ids`, and its node an `Unanswered`.
        """
        while True:
            first = self._at_once.rows(document, rows or self.sizes.rows)
            asked = {**variables, "first": first, "after": after}
            try:
                answer = self._client.execute(document, asked)
            except IntegrationError as error:
                if self._is_smaller(document, first, error):
                    continue
                named = self._probe(
                    error, ids, {name: asked[name] for name in asked if f"${name}:" in (ids or "")}
                )
                holder = named.data if within is None else named.data.get(within)
                nodes = rows_of(holder.get("rows")).nodes if holder is not None else []
                if holder is None or not nodes:
                    raise  # no row is to blame
                if first > 1:
                    self._at_once.failed(document, first)
                    continue
                self._at_once.found(document)
                holder["rows"]["nodes"] = [
                    Unanswered(node, error) for node in nodes if isinstance(node, dict)
                ]
                return named
            self._at_once.passed(document)
            return answer

    def answers(
        self,
        document: str,
        variables: Node,
        after: str | None,
        within: str | None = None,
        ids: str | None = None,
    ) -> Iterator[tuple[Answer, Node, Rows]]:
        """All answers of a connection from `after` on, each with the data that its rows are in, and these.

        The connection is `rows` in the answer, or in its field `within`; where that is null it has gone, and there
        is no data. `ids`: see `page`.
        """
        cursors, held = cursors_from(after), Held(lambda: self._manages(document, variables))
        while True:
            answer = self.page(document, variables, after, within=within, ids=ids)
            data = answer.data if within is None else answer.data.get(within)
            if data is None:
                yield answer, {}, Rows([], None)
                return
            rows = rows_of(data.get("rows"))
            cursors.note(rows.next_cursor, is_empty=not rows.nodes)
            self._note_answered(document, rows.nodes)
            yield from held.then((answer, data, rows), rows.nodes)
            if rows.next_cursor is None:
                yield from held.end()
                return
            after = rows.next_cursor

    def connection(
        self,
        document: str,
        variables: Node,
        after: str | None,
        convert: Convert,
        within: str | None = None,
        ids: str | None = None,
        complete: Complete | None = None,
    ) -> Iterator[Page]:
        """All pages of a connection from `after` on. What is within something that went away has no rows: the next
        pass finds them gone. `complete`: see `whole`."""
        for answer, data, rows in self.answers(document, variables, after, within, ids):
            converted = Converted(data)
            converted.add(complete(rows.nodes) if complete else rows.nodes, convert)
            yield converted.page(answer.vendor_time, resume=rows.next_cursor, source_count=count_of(data))

    def by_ids(
        self,
        document: str,
        variables: Node,
        ids: Sequence[str],
        convert: Convert,
        shows_all: Callable[[Node], bool] = lambda _: True,
        most: int | None = None,
        complete: Complete | None = None,
    ) -> Page:
        """Rows by their ids, a few in a call, at `most` so many. Those that Shopify does not have are gone, if the answer
        `shows_all`. `complete`: see `whole`."""
        converted, vendor_time = Converted(), None
        for answer, asked, nodes in self.answers_by_ids(document, variables, ids, most):
            converted.data, vendor_time = answer.data, vendor_time or answer.vendor_time
            # A node of another kind than asked for has no fields.
            found = [node for node in nodes if node]
            converted.add(complete(found) if complete else found, convert)
            if not all(nodes) and shows_all(answer.data):
                converted.add([one for one, node in zip(asked, nodes, strict=True) if not node], _gone)
        return converted.page(vendor_time, resume=None)

    def whole(self, nodes: list[Any], name: str, document: str, variables: Node) -> list[Any]:
        """These nodes, and in place of those whose connection `name` goes on, the same fetched again by their ids: several
        in a call, each with many rows of it. `document` is that of the nodes by their ids.

        One alone is left as it is, for its rest costs no more; so is one that is gone, or that Shopify fails at.
        """
        cut = [node["id"] for node in nodes if _goes_on(node, name)]
        if len(cut) < 2:
            return nodes
        found: dict[str, Node] = {}
        try:
            for _, asked, rows in self.answers_by_ids(document, variables, cut, self.sizes.cut):
                found |= {one: row for one, row in zip(asked, rows, strict=True) if type(row) is dict and row}
        except IntegrationError as error:
            if error.error_type is not ErrorType.QUERY_TOO_COSTLY and not may_be_of_size(error):
                raise
        return [found.get(node["id"], node) if _goes_on(node, name) else node for node in nodes]

    def answers_by_ids(
        self, document: str, variables: Node, ids: Sequence[str], most: int | None = None
    ) -> Iterator[tuple[Answer, list[str], list[Any]]]:
        """Answers about these ids, a few in each, with those that it is about and what is there of them."""
        left, held = list(dict.fromkeys(ids)), Held(lambda: document in self._answered)
        while left:
            first = self._at_once.rows(document, most or self.sizes.rows_by_ids)
            asked = left[:first]
            try:
                answer = self._client.execute(document, {**variables, "ids": asked})
                nodes = answer.data.get("rows")
                if not isinstance(nodes, list) or len(nodes) != len(asked):
                    raise malformed("Shopify's answer lacks some of the rows that were asked for")
                self._at_once.passed(document)
            except IntegrationError as error:
                if self._is_smaller(document, first, error):
                    continue
                answer = self._probe(error, IDS, {"ids": asked})
                named = answer.data.get("rows")
                if not isinstance(named, list) or len(named) != len(asked):
                    raise
                if len(asked) > 1:
                    self._at_once.failed(document, len(asked))
                    continue
                self._at_once.found(document)
                nodes = [Unanswered(node, error) if isinstance(node, dict) else None for node in named]
            self._note_answered(document, nodes)
            yield from held.then((answer, asked, nodes), [node for node in nodes if node])
            left = left[first:]
        yield from held.end()

    def _note_answered(self, document: str, nodes: Sequence[Any]) -> None:
        if document not in self._answered and any(node and type(node) is not Unanswered for node in nodes):
            self._answered.add(document)

    def _manages(self, document: str, variables: Node) -> bool:
        """Whether Shopify answers any row of a document: one of these pages, or else the first of all that there are."""
        if document in self._answered:
            return True
        unsearched = {name: None if name == "query" else value for name, value in variables.items()}
        try:
            self._client.execute(document, {**unsearched, "first": 1, "after": None})
        except IntegrationError:
            return False
        return True

    def _is_smaller(self, document: str, rows: int, error: IntegrationError) -> bool:
        """Whether fewer rows are asked for, where so many cost too much."""
        if error.error_type is not ErrorType.QUERY_TOO_COSTLY or rows == 1:
            return False
        self._at_once.too_costly(document, rows)
        return True

    def _probe(self, error: IntegrationError, ids: str | None, variables: Node) -> Answer:
        """The ids of the rows that Shopify failed at; raises the error where it tells no more of them than of the rows.

        So a vendor that is down costs one more call, and a row that it fails at costs that row.
        """
        if ids is None or not may_be_of_size(error):
            raise error
        try:
            answer = self._client.execute(ids, variables)
        except IntegrationError:
            raise error from None
        return answer


def cursors_from(first: str | None) -> Cursors:
    return Cursors("Shopify", malformed, first)


class Rows(NamedTuple):
    """The nodes of a page, and where the next one begins."""

    nodes: list[Any]
    next_cursor: str | None


class Converted:
    """Nodes of an answer, sorted into records, deleted ones and rejects; `data` is the answer's."""

    def __init__(self, data: Node | None = None) -> None:
        self.data = data or {}
        self.read = 0
        self.records: list[Record] = []
        self.gone: list[str] = []
        self.rejects: list[Reject] = []
        self.parts: dict[str, list[Part]] = {}

    def add(self, nodes: Sequence[Any], convert: Convert) -> None:
        self.read += len(nodes)
        append = self.records.append
        for node in nodes:
            if type(node) is Unanswered:
                self.rejects.append(_unanswered(node))
                continue
            try:
                converted = convert(self, node)
            except NONSENSE as error:
                self.rejects.append(rejected(node, error, partial(convert, Converted(self.data))))
                continue
            if type(converted) is str:
                self.gone.append(converted)
            else:
                append(converted)  # type: ignore[arg-type]

    def add_parts(
        self, table: str, whole: Node, nodes: Iterable[Any], convert: Callable[[Node, Node], Part]
    ) -> None:
        """Parts of a row, each separately: an invalid one does not affect the row and the others."""
        append = self.parts.setdefault(table, []).append
        for node in nodes:
            if type(node) is Unanswered:
                self.rejects.append(_unanswered(node, table))
                continue
            try:
                append(convert(whole, node))
            except NONSENSE as error:
                self.rejects.append(rejected(node, error, partial(convert, whole), table=table))

    def page(
        self,
        vendor_time: datetime | None,
        *,
        resume: str | None,
        source_count: int | None = None,
        listed_since: datetime | None = None,
    ) -> Page:
        return Page(
            read=self.read,
            records=self.records,
            gone=self.gone,
            rejects=self.rejects,
            resume=resume,
            source_count=source_count,
            vendor_time=vendor_time,
            parts=self.parts,
            listed_since=listed_since,
        )


Convert = Callable[[Converted, Node], Record | str]
"""Makes the record of a node, or tells the id of a row that is gone."""


Complete = Callable[[list[Any]], list[Any]]


def _goes_on(node: Any, name: str) -> bool:
    """Whether there is more of a row's connection; of an invalid row that is not known."""
    try:
        return nested_rows(node, name).next_cursor is not None and bool(key(node))
    except NONSENSE:
        return False


def rows_of(connection: Any) -> Rows:
    try:
        nodes, page_info = connection["nodes"], connection["pageInfo"]
        more, cursor = page_info["hasNextPage"], page_info["endCursor"]
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks rows or its page information") from None
    if not isinstance(nodes, list) or (more and not isinstance(cursor, str)):
        raise malformed("Shopify's answer says that there are more rows, but not where")
    return Rows(nodes, cursor if more else None)


def nested_rows(node: Node, name: str) -> Rows:
    """The rows of a connection that is nested in a row: if it is none, that is one row's fault."""
    try:
        return rows_of(node[name])
    except IntegrationError:
        raise ValueError(f"{name}: lacks rows or its page information") from None


def count_of(data: Node) -> int | None:
    count = data.get("count")
    if isinstance(count, dict) and count.get("precision") == "EXACT" and type(count.get("count")) is int:
        return int(count["count"])
    return None


def key(node: Node) -> tuple[str, str]:
    return key_of(node, "updatedAt")


def _unanswered(node: Unanswered, table: str | None = None) -> Reject:
    return Reject(node.get("id"), UNANSWERED, dict(node), table)


def _gone(_: Converted, external_id: Any) -> str:
    return str(external_id)
