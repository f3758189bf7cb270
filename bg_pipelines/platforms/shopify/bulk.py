"""Bulk exports: a whole resource of a large Shopify store as one file, of a bulk operation (bulk_operation.py).

    for page in export_pages(client, EXPORTS[Resource.ORDERS], resume=token): ...

The token says where the export is, so that the next attempt continues there:

    wanted    not requested yet; saved first, so that a start whose answer is lost is found again
    started   the operation is running, or its file is ready
    reading   the file is read up to a row's first byte

The file (bulk_file.py) has a line for each row and one for each row of a connection nested in it, in any order; these are
joined first (bulk_join.py). No more of it is held in memory than a page.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.shopify import bulk_operation
from bg_pipelines.platforms.shopify.bulk_file import MAX_LINE_BYTES, lines_from
from bg_pipelines.platforms.shopify.bulk_join import ORPHANS_SHOWN, JoinedLines
from bg_pipelines.platforms.shopify.bulk_operation import Export, Operation, Place, Rows, failed
from bg_pipelines.platforms.shopify.client import ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE
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
from bg_pipelines.records import Page, Record, Reject, Resource
from bg_pipelines.values import read_time

ORPHANS = "the row: Shopify's export has what is nested in it and not the row itself; it loads with the next full pass"

CUSTOMERS_COUNT = "query CustomersCount { count: customersCount(limit: null) { count precision } }"
LEVELS_AT_MOST = """
query LevelsAtMost {
  variants: productVariantsCount(limit: null) { count precision }
  locations: locationsCount(limit: null) { count precision }
}"""
ORDERS_COUNT = f"query OrdersCount {{ {APP_SCOPES} count: ordersCount(limit: null) {{ count precision }} }}"

DOCUMENTS = (*bulk_operation.DOCUMENTS, CUSTOMERS_COUNT, ORDERS_COUNT, LEVELS_AT_MOST)


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
            raise failed("an earlier release of bg-pipelines asked for other fields", place)
    looks: tuple[float, ...] = (0.0,)
    if place.operation is None:
        found = None if resume is None else bulk_operation.find(client, place)
        place = replace(place, operation=found or bulk_operation.start(client, export, place))
        yield Page(0, [], resume=place.token())
        looks = limits.looks_seconds
    operation = bulk_operation.ended(client, export, place, looks)
    data = client.execute(export.count_query, {}).data
    yield from _File(client, export, operation, limits, data).pages(place)


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


class _File(NamedTuple):
    """The file of an operation; `data` is the answer to the export's count."""

    client: ShopifyClient
    export: Export
    operation: Operation
    limits: ExportLimits
    data: Node

    def pages(self, place: Place) -> Iterator[Page]:
        """Its rows from `place` on; the last page only if it held all that Shopify says it wrote."""
        pages = self._joined if self.export.of is Rows.WITH_NESTED else self._streamed
        last = yield from pages(place)
        # Counted once more: what came or went meanwhile must not be taken for a standing difference.
        query, counted = self.export.count_query, self.export.counted
        yield last.page(None, counted(self.client.execute(query, {}).data) if place.shows_all else None)

    def _streamed(self, place: Place) -> Generator[Page, None, _Reading]:
        """Pages of rows that are a line each, from the byte on where the last page ended; returns the last one."""
        reading = self._reading(place)
        of_nested = self.export.of is Rows.NESTED
        url = self.operation.url
        for offset, _, node in (
            lines_from(self.client, url, place.offset, self.limits.line_bytes) if url else ()
        ):
            if reading.is_full:
                place = reading.end(offset)
                yield reading.page(place.token())
                reading = self._reading(place)
            if of_nested and "__parentId" not in node:
                reading.lines += 1  # a row that says nothing of its own
            else:
                reading.add(node)
        place = reading.end()
        roots = place.lines - place.rows if of_nested else place.rows
        _require_whole(self.operation, place, place.lines, roots)
        return reading

    def _joined(self, place: Place) -> Generator[Page, None, _Reading]:
        """Pages of rows with what is nested in them, behind those that were read already; returns the last one.

        The whole file is read first, and again where its pages are read on by another visit.
        """
        reading = self._reading(place)
        with closing(JoinedLines()) as joined:
            if self.operation.url:
                _fetch(self.client, self.operation.url, joined, self.limits)
            _require_whole(self.operation, place, joined.lines, joined.rows)
            joined.end()
            for node in joined.rows_from(place.rows):
                if reading.is_full:
                    place = reading.end()
                    yield reading.page(place.token())
                    reading = self._reading(place)
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

    def _reading(self, place: Place) -> _Reading:
        return _Reading(self.export, place, self.limits, self.data)


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


def _mismatch(message: str, place: Place) -> IntegrationError:
    return IntegrationError(
        message,
        error_type=ErrorType.COUNT_MISMATCH,
        severity="high",
        source=SOURCE,
        details={"operation": place.operation},
    )
