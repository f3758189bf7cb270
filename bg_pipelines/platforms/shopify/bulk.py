"""Bulk exports: a whole resource of a large Shopify store as one file. A bulk operation is started, waited for, and
its file read.

    for page in export_pages(client, EXPORTS[Resource.ORDERS], resume=token): ...

The token says where the export is, so that the next attempt continues there:

    wanted    not requested yet; saved first, so that a start whose answer is lost is found again
    started   the operation is running, or its file is ready
    reading   the file is read up to a row's first byte

The file (bulk_file.py) has a line for each row and one for each row of a connection nested in it, in any order; these are
joined first (bulk_join.py). No more of it is held in memory than a page. https://shopify.dev/docs/api/usage/bulk-operations/queries
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.shopify.bulk_file import MAX_LINE_BYTES, lines_from
from bg_pipelines.platforms.shopify.bulk_join import ORPHANS_SHOWN, JoinedLines
from bg_pipelines.platforms.shopify.client import Answer, ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import Converted, Node, count_of
from bg_pipelines.platforms.shopify.sales import (
    ADDRESS_FIELDS,
    APP_SCOPES,
    CUSTOMER_FIELDS,
    LINE_FIELDS,
    ORDER_FIELDS,
    all_are_shown,
    customer,
    whole_order,
)
from bg_pipelines.platforms.shopify.stock import LEVEL, level_of_parent
from bg_pipelines.platforms.vendor_text import said
from bg_pipelines.records import Page, Record, Reject, Resource
from bg_pipelines.values import read_time
from bg_pipelines.wording import about

OPERATIONS_LOOKED_AT = 20
ORPHANS = "the row: Shopify's export has what is nested in it and not the row itself; it loads with the next full pass"

START = """
mutation StartExport($query: String!) {
  bulkOperationRunQuery(query: $query) {
    bulkOperation { id } userErrors { code field message }
  }
}"""

EXPORT = "query Export($id: ID!) { bulkOperation(id: $id) { id status errorCode createdAt objectCount rootObjectCount url } }"

# The newest come first.
RECENT_EXPORTS = """
query RecentExports($first: Int!) {
  bulkOperations(first: $first, sortKey: CREATED_AT) { nodes { id query } }
}"""

CUSTOMERS_COUNT = "query CustomersCount { count: customersCount(limit: null) { count precision } }"
LEVELS_AT_MOST = """
query LevelsAtMost {
  variants: productVariantsCount(limit: null) { count precision }
  locations: locationsCount(limit: null) { count precision }
}"""
ORDERS_COUNT = f"query OrdersCount {{ {APP_SCOPES} count: ordersCount(limit: null) {{ count precision }} }}"

DOCUMENTS = (START, EXPORT, RECENT_EXPORTS, CUSTOMERS_COUNT, ORDERS_COUNT, LEVELS_AT_MOST)


class ExportLimits(NamedTuple):
    """When a full pass is an export, how long its file is waited for, and how much of it is held."""

    from_rows: int = 20_000
    """From so many rows on a full pass is an export: see docs/jobs.md for the sum."""
    page_rows: int = 250
    page_lines: int = 5_000
    """Lines after which a page ends although it has fewer rows: an order may have hundreds."""
    line_bytes: int = MAX_LINE_BYTES
    looks_seconds: tuple[float, ...] = (1.0, 2.0)
    """A small export is ready quickly: wait so long before the work is released for later."""


EXPORT_LIMITS = ExportLimits()


class Rows(Enum):
    """What of an export's connection is a row."""

    FLAT = "each of its lines"
    WITH_NESTED = "each with what is nested in it"
    NESTED = "what is nested in each"


class Export(NamedTuple):
    """What is exported: a query of one connection, how many rows it should have, and what a row becomes.

    What is nested in a row is in its node, as `nested`; the answer to `count_query` is the page's `data`, and `counted` and
    `at_most` read from it how many rows there are, and may be. `shows_all` tells from it whether all rows are exported and
    counted, or only those of the last 60 days.
    """

    query: str
    count_query: str
    convert: Callable[[Converted, Node], Record | str]
    of: Rows = Rows.FLAT
    shows_all: Callable[[Node], bool] = lambda _: True
    counted: Callable[[Node], int | None] = count_of
    at_most: Callable[[Node], int | None] = count_of

    @property
    def digest(self) -> str:
        """Tells this query from that of another release."""
        return hashlib.sha256(self.query.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """Progress of an export; `offset`, `lines` and `rows` are those of the file that were read. Made into a token."""

    tag: str
    digest: str
    shows_all: bool
    operation: str | None = None
    offset: int = 0
    lines: int = 0
    rows: int = 0
    """Of those that are joined no more than this counts."""
    expected: int | None = None
    """How many rows there were at the start."""

    PREFIX = "bulk "

    def token(self) -> str:
        return self.PREFIX + json.dumps(asdict(self))

    @classmethod
    def of(cls, token: str) -> Place:
        return cls(**json.loads(token.removeprefix(cls.PREFIX)))


def is_export(token: str | None) -> bool:
    """Whether a page's token is one of an export."""
    return token is not None and token.startswith(Place.PREFIX)


def export_pages(
    client: ShopifyClient, export: Export, resume: str | None, limits: ExportLimits = EXPORT_LIMITS
) -> Iterator[Page]:
    """All rows of a resource, from the file of a bulk operation: see `Platform.pages`.

    Raises IntegrationError: operation_running while the file is not ready, operation_failed where there will be none,
    count_mismatch if it does not hold what Shopify says it wrote; and see `ShopifyClient.execute`.
    """
    if resume is None:
        answer = client.execute(export.count_query, {})
        expected = export.at_most(answer.data)
        place = Place(secrets.token_hex(8), export.digest, export.shows_all(answer.data), expected=expected)
        source_count = export.counted(answer.data) if place.shows_all else None
        yield Page(0, [], resume=place.token(), source_count=source_count, vendor_time=answer.vendor_time)
    else:
        place = Place.of(resume)
        if place.digest != export.digest:
            raise _failed("an earlier release of bg-pipelines asked for other fields", place)
    looks: tuple[float, ...] = (0.0,)
    if place.operation is None:
        found = None if resume is None else _find(client, place)
        place = replace(place, operation=found or _start(client, export, place))
        yield Page(0, [], resume=place.token())
        looks = limits.looks_seconds
    operation = _ended(client, export, place, looks)
    yield from _file_pages(client, export, operation, place, limits)


# The operation


class Operation(NamedTuple):
    """An operation that has ended well; it has no file where there were no rows."""

    lines: int
    rows: int
    url: str | None


def _start(client: ShopifyClient, export: Export, place: Place) -> str:
    """Start the operation under the export's tag, which stands in its query as a comment; returns its id."""
    answer = client.execute(START, {"query": f"# {place.tag}\n{export.query}"})
    try:
        payload = answer.data["bulkOperationRunQuery"]
        errors = payload["userErrors"]
        if not errors:
            return str(payload["bulkOperation"]["id"])
        code, text = errors[0]["code"], said(errors[0]["message"])
    except (KeyError, TypeError, IndexError):
        raise malformed("Shopify's answer to the start of a bulk operation lacks its outcome") from None
    if code in ("LIMIT_REACHED", "OPERATION_IN_PROGRESS"):
        raise IntegrationError.of(
            ErrorType.OPERATION_RUNNING,
            "Shopify takes no further bulk operation yet: as many as it allows are under way in this shop",
            source=SOURCE,
            details={"code": code},
        )
    raise IntegrationError.of(
        ErrorType.QUERY_REJECTED,
        f"Shopify does not take the bulk operation's query: {text}",
        source=SOURCE,
        details={"code": code},
    )


def _find(client: ShopifyClient, place: Place) -> str | None:
    """The operation that was started with this export's tag, if any: the answer to its start was lost."""
    answer = client.execute(RECENT_EXPORTS, {"first": OPERATIONS_LOOKED_AT})
    try:
        nodes = answer.data["bulkOperations"]["nodes"]
        return next((str(node["id"]) for node in nodes if place.tag in node["query"]), None)
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks the bulk operations") from None


def _ended(client: ShopifyClient, export: Export, place: Place, looks: tuple[float, ...]) -> Operation:
    """The operation when it has ended; raises IntegrationError (operation_running) if it has not after these looks."""
    found: Operation | IntegrationError | None = None
    for seconds in looks:
        if seconds:
            client.sleep(seconds)
        found = _look(client, export, place)
        if isinstance(found, Operation):
            return found
    assert isinstance(found, IntegrationError)
    raise found


def _look(client: ShopifyClient, export: Export, place: Place) -> Operation | IntegrationError:
    """The operation if it has ended, or what to raise while it has not."""
    answer = client.execute(EXPORT, {"id": place.operation})
    try:
        node = answer.data["bulkOperation"]
        if node is None:
            raise _failed("Shopify does not know it any more", place)
        status, code = node["status"], node["errorCode"]
        lines, rows, url = int(node["objectCount"]), int(node["rootObjectCount"]), node["url"]
    except (KeyError, TypeError, ValueError):
        raise malformed("Shopify's answer lacks how far a bulk operation is") from None
    if status in ("CREATED", "RUNNING", "CANCELING"):
        return IntegrationError.of(
            ErrorType.OPERATION_RUNNING,
            f"Shopify is at work on the export ({status.lower()}, {_so_far(answer, export, place)})",
            source=SOURCE,
            details={"operation": place.operation, "status": status, "rows": rows},
        )
    if status == "FAILED" and code == "ACCESS_DENIED":
        raise IntegrationError.of(
            ErrorType.SCOPES,
            "the app lacks a scope for what the bulk operation reads: grant it in the app's settings",
            source=SOURCE,
            details={"operation": place.operation, "code": code},
        )
    if status != "COMPLETED":
        raise _failed(f"it is {str(status).lower()}" + (f" ({code})" if code else ""), place)
    return Operation(lines, rows, url)


def _so_far(answer: Answer, export: Export, place: Place) -> str:
    """How far an operation is, and how long it takes at this pace; of a query with fewer rows than there may be, no more
    than how far."""
    node = answer.data["bulkOperation"]
    rows = int(node["objectCount" if export.of is Rows.NESTED else "rootObjectCount"])
    told = f"{rows:,} rows so far"
    with suppress(KeyError, TypeError, ValueError):
        if (
            rows
            and place.expected
            and place.shows_all
            and answer.vendor_time
            and export.of is not Rows.NESTED
        ):
            seconds = (answer.vendor_time - read_time(node["createdAt"])).total_seconds()
            left = max(0, place.expected - rows) / rows * seconds
            return f"{rows:,} of {place.expected:,} rows so far, {about(left)} left"
    return told


# Its rows


class _Reading:
    """A page while it is read, from `place` in the file on. `data` is the answer to the export's count."""

    def __init__(self, export: Export, place: Place, limits: ExportLimits, data: Node) -> None:
        self.export = export
        self.place = place
        self.limits = limits
        self.converted = Converted(data)
        self.lines = 0

    def add(self, node: Node) -> None:
        self.converted.add([node], self.export.convert)
        self.lines += 1 + len(node.get("nested", ()))

    def add_orphans(self, parent: str, nested: list[Node]) -> None:
        """The row that others are nested in, and that is not there itself."""
        self.converted.read += 1
        self.converted.rejects.append(Reject(parent, ORPHANS, {"id": parent, "nested": nested}))

    @property
    def is_full(self) -> bool:
        return self.converted.read >= self.limits.page_rows or self.lines >= self.limits.page_lines

    def end(self, offset: int = 0) -> Place:
        """Where the file is behind this page."""
        lines, rows = self.place.lines + self.lines, self.place.rows + self.converted.read
        return replace(self.place, offset=offset, lines=lines, rows=rows)

    def page(self, resume: str | None, source_count: int | None = None) -> Page:
        listed_since = None if self.place.shows_all else _oldest(self.converted.records)
        return self.converted.page(None, resume=resume, source_count=source_count, listed_since=listed_since)


def _file_pages(
    client: ShopifyClient, export: Export, operation: Operation, place: Place, limits: ExportLimits
) -> Iterator[Page]:
    """The rows of the file from `place` on; the last page only if the file held all that Shopify says it wrote."""
    data = client.execute(export.count_query, {}).data
    pages = _joined_pages if export.of is Rows.WITH_NESTED else _streamed_pages
    last = yield from pages(client, export, operation, place, limits, data)
    # Counted once more: what came or went meanwhile must not be taken for a standing difference.
    source_count = export.counted(client.execute(export.count_query, {}).data) if place.shows_all else None
    yield last.page(None, source_count)


def _streamed_pages(
    client: ShopifyClient,
    export: Export,
    operation: Operation,
    place: Place,
    limits: ExportLimits,
    data: Node,
) -> Generator[Page, None, _Reading]:
    """Pages of rows that are a line each, from the byte on where the last page ended; returns the last one."""
    reading = _Reading(export, place, limits, data)
    of_nested = export.of is Rows.NESTED
    for offset, _, node in (
        lines_from(client, operation.url, place.offset, limits.line_bytes) if operation.url else ()
    ):
        if reading.is_full:
            place = reading.end(offset)
            yield reading.page(place.token())
            reading = _Reading(export, place, limits, data)
        if of_nested and "__parentId" not in node:
            reading.lines += 1  # a row that says nothing of its own
        else:
            reading.add(node)
    place = reading.end()
    roots = place.lines - place.rows if of_nested else place.rows
    _require_whole(operation, place, place.lines, roots)
    return reading


def _joined_pages(
    client: ShopifyClient,
    export: Export,
    operation: Operation,
    place: Place,
    limits: ExportLimits,
    data: Node,
) -> Generator[Page, None, _Reading]:
    """Pages of rows with what is nested in them, behind those that were read already; returns the last one.

    The whole file is read first, and again where its pages are read on by another visit.
    """
    reading = _Reading(export, place, limits, data)
    with closing(JoinedLines()) as joined:
        if operation.url:
            _fetch(client, operation.url, joined, limits)
        _require_whole(operation, place, joined.lines, joined.rows)
        joined.end()
        for node in joined.rows_from(place.rows):
            if reading.is_full:
                place = reading.end()
                yield reading.page(place.token())
                reading = _Reading(export, place, limits, data)
            reading.add(node)
        orphans = joined.orphans()
        if len(orphans) > ORPHANS_SHOWN:
            raise _mismatch(
                f"the bulk operation's file has lines of more than {ORPHANS_SHOWN} rows that are not in it: nothing was "
                "marked deleted, another export follows automatically",
                place,
            )
        for parent, nested in orphans:
            reading.add_orphans(parent, nested)
    return reading


def _fetch(client: ShopifyClient, url: str, joined: JoinedLines, limits: ExportLimits) -> None:
    """The whole file into `joined`; where the download breaks off it goes on from there, as long as that brings more."""
    kept = 0
    while True:
        began = kept
        try:
            for kept in joined.add(lines_from(client, url, began, limits.line_bytes)):  # noqa: B007 (used below)
                pass
            return
        except IntegrationError as error:
            if kept == began or error.error_type not in (ErrorType.CONNECTION, ErrorType.TIMEOUT):
                raise


def _require_whole(operation: Operation, place: Place, lines: int, rows: int) -> None:
    if (lines, rows) != (operation.lines, operation.rows):
        raise _mismatch(
            f"the bulk operation wrote {operation.lines} lines with {operation.rows} rows, its file holds {lines} "
            f"with {rows}: nothing was marked deleted, another export follows automatically",
            place,
        )


# Rows as records


def _customer(_: Converted, node: Node) -> Record:
    return customer(node, node["nested"])


def _order(page: Converted, node: Node) -> Record:
    return whole_order(page, node, node["nested"])


def levels_at_most(data: Node) -> int | None:
    """How many stock levels there may be: one for each variant and place. Shopify does not count them."""
    variants, locations = (
        count_of({"count": data.get("variants")}),
        count_of({"count": data.get("locations")}),
    )
    return None if variants is None or locations is None else variants * locations


def _oldest(records: Sequence[Record]) -> datetime:
    """When the oldest of these orders was made; now, where there is none."""
    oldest = datetime.now(UTC)
    for record in records:
        # A time that is none belongs to a row that will be rejected.
        with suppress(TypeError, ValueError):
            oldest = min(oldest, read_time(record.source_created_at))  # type: ignore[union-attr]
    return oldest


def edges(fields: str) -> str:
    return f"{{ edges {{ node {{ {fields} }} }} }}"


EXPORTS: dict[Resource, Export] = {
    Resource.CUSTOMERS: Export(
        f"{{ customers {edges(f'{CUSTOMER_FIELDS} addressesV2 {edges(ADDRESS_FIELDS)}')} }}",
        CUSTOMERS_COUNT,
        _customer,
        Rows.WITH_NESTED,
    ),
    Resource.ORDERS: Export(
        f"{{ orders {edges(f'{ORDER_FIELDS} lineItems {edges(LINE_FIELDS)}')} }}",
        ORDERS_COUNT,
        _order,
        Rows.WITH_NESTED,
        all_are_shown,
    ),
    Resource.INVENTORY_LEVELS: Export(
        f"{{ locations(includeInactive: true) {edges(f'id inventoryLevels(includeInactive: true) {edges(LEVEL)}')} }}",
        LEVELS_AT_MOST,
        level_of_parent,
        Rows.NESTED,
        counted=lambda _: None,
        at_most=levels_at_most,
    ),
}
"""What can be exported of these; a catalogue's exports are with its documents."""


def _failed(why: str, place: Place | None = None) -> IntegrationError:
    return IntegrationError.of(
        ErrorType.OPERATION_FAILED,
        f"Shopify's bulk operation cannot be used: {why}. Another export follows automatically",
        source=SOURCE,
        details={"operation": place.operation} if place else {},
    )


def _mismatch(message: str, place: Place) -> IntegrationError:
    return IntegrationError(
        message,
        error_type=ErrorType.COUNT_MISMATCH,
        severity="high",
        source=SOURCE,
        details={"operation": place.operation},
    )
