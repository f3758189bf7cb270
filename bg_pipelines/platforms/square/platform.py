"""Square as a platform: its requests, and its answers as pages.

Every list is read page by page, behind the cursor of the page before. Customers and orders come in the order in which
they were made, or last changed, so that a row which changes meanwhile is not passed over. Counts of stock come newest
first, so one that changes meanwhile is passed over, and asked for afterwards. A search for orders takes ten locations at
most.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import (
    Backfill,
    Correction,
    CorrectionOutcome,
    Look,
    ProductPages,
    StoreAccess,
    UpdateOutcome,
)
from bg_pipelines.platforms.rejects import NONSENSE, id_of, rejected
from bg_pipelines.platforms.square import converters as records
from bg_pipelines.platforms.square import writes
from bg_pipelines.platforms.square.client import (
    THROTTLE_WAIT_SECONDS,
    Answer,
    SquareClient,
    malformed,
    time_text,
)
from bg_pipelines.platforms.square.converters import Converted, Node, Sale
from bg_pipelines.platforms.square.subscriptions import Subscriptions
from bg_pipelines.platforms.square.writes import CHANGE, COUNTS, EDITABLE
from bg_pipelines.records import OrderLine, Page, Part, Record, Refund, Resource, StoreProfile

LOCATIONS_A_CALL = 10
LOOKBACK = timedelta(minutes=10)
# An order of a till without a connection comes up to 72 hours late, and may have the time at which it was made as that of
# its change. To look so far back at every pass would read each order hundreds of times.
LATE_ORDERS = timedelta(hours=73)
LATE_ORDERS_EVERY = timedelta(hours=3)
# So far behind the beginning of a full pass of counts is looked for those that changed meanwhile: an answer is a little
# older than the time it carries, and a change may show late.
COUNTS_LOOKBACK = timedelta(minutes=1)
MOST_CATCH_UPS = 5
OBJECTS = "catalog/batch-retrieve"
_OBJECTS = {Resource.PRODUCTS: "ITEM", Resource.PRODUCT_VARIANTS: "ITEM_VARIATION"}


class PageSizes(NamedTuple):
    """How many rows a call asks for: of customers the vendor's most; of orders and objects fewer than its thousand, which
    would be megabytes: an item comes with its variations, of which it may have 250."""

    customers: int = 100
    orders: int = 500
    objects: int = 200
    counts: int = 1000
    changes: int = 100
    """Stock corrections: the vendor's most."""


PAGE_SIZES = PageSizes()


def connect(
    access: StoreAccess,
    *,
    api_version: str,  # noqa: ARG001
    sleep: Callable[[float], object],
    sizes: PageSizes = PAGE_SIZES,
) -> SquarePlatform:
    """The API version is Shopify's; Square's is that of its client."""
    token = str(access.credentials.get("access_token") or "")
    client = SquareClient(
        token,
        access.api_url,
        sleep=sleep,
        # Square tells of its limits only when one is reached.
        throttle_wait_seconds=0.0 if access.reserve else THROTTLE_WAIT_SECONDS,
    )
    return SquarePlatform(client, sizes, name=access.name)


class SquarePlatform:
    """One merchant's Square account. See `Platform` for what each method promises."""

    undated = frozenset({Resource.LOCATIONS})
    late_arrivals: Mapping[Resource, timedelta] = {Resource.ORDERS: LATE_ORDERS}
    editable = frozenset(EDITABLE)

    def __init__(self, client: SquareClient, sizes: PageSizes = PAGE_SIZES, *, name: str = "") -> None:
        """`name` spreads the stores' reads of late orders over time."""
        self._client = client
        self._sizes = sizes
        self._phase = zlib.crc32(name.encode()) % LATE_ORDERS_EVERY.total_seconds()
        self.corrections_a_call = sizes.changes
        self._held_merchant: Node | None = None
        self.webhooks = Subscriptions(client)

    def close(self) -> None:
        self._client.close()

    def profile(self) -> StoreProfile:
        answer = self._client.get("locations", "main")
        try:
            return records.profile(self._merchant(), answer.data["location"])
        except (KeyError, TypeError, AttributeError):
            raise malformed("Square's answer lacks the merchant or the main location") from None

    def look(self, since: Mapping[Resource, datetime], *, profile: bool) -> Look:
        """Square has no call for several resources: the first pages of each, up to the first row."""
        changed = set[Resource]()
        counts: dict[Resource, int] = {}
        listed: dict[Resource, Page] = {}
        found = self.profile() if profile else None
        for resource, moment in since.items():
            for page in self.pages(resource, since=moment, resume=None):
                if page.lists_all:
                    listed[resource] = page
                elif page.read:
                    changed.add(resource)
                    break
                if page.source_count is not None:
                    counts[resource] = page.source_count
        return Look(frozenset(changed), counts, listed, found)

    def backfills(self) -> list[Backfill]:
        return []  # Square counts no rows and publishes no limits

    def lookback(self, resource: Resource) -> timedelta:  # noqa: ARG002
        return LOOKBACK

    # Pages

    def pages(
        self,
        resource: Resource,
        *,
        since: datetime | None,
        resume: str | None,
        bulk: bool | None = None,  # noqa: ARG002 (Square exports nothing as a file)
    ) -> Iterator[Page]:
        if resource is Resource.LOCATIONS:
            return iter([replace(self._locations(), lists_all=True)])
        if resource is Resource.CUSTOMERS:
            return self._customers(since, resume)
        if resource is Resource.ORDERS:
            return self._orders(since, resume)
        if resource is Resource.INVENTORY_LEVELS:
            return self._counts(since, resume)
        return self._objects(resource, since, resume)

    def _locations(self, only: Sequence[str] | None = None) -> Page:
        """All of them: they are few, and Square has no change time of them."""
        answer, rows = self._location_rows()
        if only is not None:
            rows = [row for row in rows if isinstance(row, dict) and row.get("id") in only]
        return _page(answer, rows, records.location, source_count=len(rows))

    def _objects(self, resource: Resource, since: datetime | None, resume: str | None) -> Iterator[Page]:
        query: Node = {
            "object_types": [_OBJECTS[resource]],
            "limit": self._sizes.objects,
            # The categories of items, which only have their ids.
            "include_related_objects": resource is Resource.PRODUCTS,
            "include_deleted_objects": since is not None,
        }
        if since is not None:
            query["begin_time"] = _just_before(since)
        for answer, cursor in self._client.answers("catalog/search", query, resume):
            convert = self._converter(resource, answer)
            yield _page(answer, answer.rows("objects"), convert, resume=cursor)

    def _customers(self, since: datetime | None, resume: str | None) -> Iterator[Page]:
        query: Node = {"sort": {"field": "CREATED_AT", "order": "ASC"}}
        if since is not None:
            query["filter"] = {"updated_at": {"start_at": time_text(since)}}
        arguments = {"limit": self._sizes.customers, "count": since is None, "query": query}
        first = resume is None
        for answer, cursor in self._client.answers("customers/search", arguments, resume):
            counted = answer if since is None else None
            if since is not None and (first or cursor is None):
                # A search counts what it finds; what was deleted shows in how many there are in all. Asked after the
                # rows, or one that came between the two would be more than were read.
                counted = self._client.post("customers/search", limit=1, count=True)
            first = False
            convert = self._converter(Resource.CUSTOMERS, answer)
            rows = answer.rows("customers")
            source_count = None if counted is None else _count(counted)
            yield _page(answer, rows, convert, resume=cursor, source_count=source_count)

    def _orders(self, since: datetime | None, resume: str | None) -> Iterator[Page]:
        """Those of each range of times, ten locations after ten, by their ids.

        The token holds the ranges that are not read yet, the locations of the first that are being read, and the cursor
        there.
        """
        answer, places = self._location_ids()
        began = answer.vendor_time or datetime.now(UTC)
        at: Node = json.loads(resume) if resume else {"locations": places[:LOCATIONS_A_CALL], "cursor": None}
        at.setdefault("ranges", self._order_ranges(since, began))
        while True:
            query = _order_query(*at["ranges"][0])
            following = [place for place in places if place > at["locations"][-1]][:LOCATIONS_A_CALL]
            behind: Node | None = None
            if following:
                behind = {**at, "locations": following, "cursor": None}
            elif more := at["ranges"][1:]:
                behind = {"ranges": more, "locations": places[:LOCATIONS_A_CALL], "cursor": None}
            arguments = {"location_ids": at["locations"], "query": query, "limit": self._sizes.orders}
            for answer, cursor in self._client.answers("orders/search", arguments, at["cursor"]):
                token = {**at, "cursor": cursor} if cursor else behind
                page = _page(answer, answer.rows("orders"), records.sale)
                page.resume = json.dumps(token) if token else None
                # The time by which the ranges were chosen: the next pass goes by it.
                page.vendor_time = began
                yield page
            if behind is None:
                return
            at = behind

    def _order_ranges(self, since: datetime | None, began: datetime) -> list[tuple[str | None, str | None]]:
        """What a pass that begins now reads, by time of change: all; or what changed since; and every three hours also what
        lies before that and may be late.

        No memory is needed for that: the last pass began a lookback after `since`, and if it began in the same three
        hours as this one, it or one before it has looked. What came after that look began is not older than the
        beginning of those hours, less the longest delay.
        """
        if since is None:
            return [(None, None)]
        changed = time_text(since)
        hours = self._three_hours(since + LOOKBACK)
        if self._three_hours(began) == hours:
            return [(changed, None)]
        return [(changed, None), (time_text(hours - LATE_ORDERS), changed)]

    def _three_hours(self, moment: datetime) -> datetime:
        """When the hours began that a moment lies in."""
        passed = (moment.timestamp() - self._phase) % LATE_ORDERS_EVERY.total_seconds()
        return moment - timedelta(seconds=passed)

    def _counts(self, since: datetime | None, resume: str | None) -> Iterator[Page]:
        # One state alone: an answer has the states that have changed, which of several would be some.
        query: Node = {"states": ["IN_STOCK"], "limit": self._sizes.counts}
        if since is None:
            yield from self._all_counts(query, resume)
            return
        query["updated_after"] = _just_before(since)
        for answer, cursor in self._client.answers(COUNTS, query, resume):
            yield _page(answer, answer.rows("counts"), records.level, key=_level_id, resume=cursor)

    def _all_counts(self, query: Node, resume: str | None) -> Iterator[Page]:
        """All counts, and then those that changed while they were read.

        A count that changes moves to the head. If it was not read before, the pages behind the cursor do not have it, and
        it would be taken for deleted. So what changed since the pages began is asked for, until it comes in one answer:
        nothing moves within one. Where counts change faster than that, the next pass brings what is left.

        The token holds since when is asked (everything: null), when these pages began, the cursor among them and how
        often was caught up. The pages tell that beginning as the vendor's time: what changed since may be met twice.
        """
        begin: Node = {"after": None, "began": None, "cursor": None, "catch_ups": 0}
        at: Node = json.loads(resume) if resume else begin
        while True:
            asked = query if at["after"] is None else {**query, "updated_after": at["after"]}
            answers = self._client.answers(COUNTS, asked, at["cursor"])
            for answer, cursor in answers:
                page = _page(answer, answer.rows("counts"), records.level, key=_level_id)
                page.vendor_time = (answer.vendor_time or datetime.now(UTC)) - COUNTS_LOOKBACK
                began = at["began"] or time_text(page.vendor_time)
                if cursor is not None:
                    at = {**at, "began": began, "cursor": cursor}
                elif at["began"] is None or at["catch_ups"] == MOST_CATCH_UPS:
                    yield page
                    return
                else:
                    at = {**begin, "after": began, "catch_ups": at["catch_ups"] + 1}
                page.resume = json.dumps(at)
                yield page

    def _location_rows(self) -> tuple[Answer, list[Any]]:
        answer = self._client.get("locations")
        rows = answer.rows("locations")
        if not rows:
            raise malformed("Square's answer lacks the merchant's locations, and every merchant has one")
        return answer, rows

    def _location_ids(self) -> tuple[Answer, list[str]]:
        """In their order."""
        answer, rows = self._location_rows()
        places = [row.get("id") if isinstance(row, dict) else None for row in rows]
        if not all(isinstance(place, str) and place for place in places):
            # Its orders would be passed over.
            raise malformed("Square's answer has a location without an id")
        return answer, sorted(str(place) for place in places)

    def _merchant(self) -> Node:
        if self._held_merchant is None:
            merchant = self._client.get("merchants", "me").data.get("merchant")
            if not isinstance(merchant, dict) or not isinstance(merchant.get("currency"), str):
                raise malformed("Square's answer lacks the merchant or its currency")
            self._held_merchant = merchant
        return self._held_merchant

    def _converter(self, resource: Resource, answer: Answer) -> Callable[[Node], Converted]:
        """What makes records of an answer's rows, with what it needs beside them."""
        if resource is Resource.CUSTOMERS:
            return partial(records.customer, self._merchant().get("country"))
        if resource is Resource.PRODUCT_VARIANTS:
            return partial(records.variant, self._merchant()["currency"])
        return partial(records.product, _category_names(answer))

    # Single rows

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        wanted = list(dict.fromkeys(external_ids))
        if resource is Resource.LOCATIONS:
            page = self._locations(only=wanted)
        elif resource is Resource.CUSTOMERS:
            page = self._customers_by_id(wanted)
        elif resource is Resource.ORDERS:
            answer = self._client.post("orders/batch-retrieve", order_ids=wanted)
            page = _page(answer, answer.rows("orders"), records.sale)
        elif resource is Resource.INVENTORY_LEVELS:
            page = self._counts_by_id(wanted)
        else:
            related = resource is Resource.PRODUCTS
            answer = self._client.post(OBJECTS, object_ids=wanted, include_related_objects=related)
            page = _page(answer, answer.rows("objects"), self._converter(resource, answer))
        return _with_gone(page, wanted)

    def products_with_variants(self, external_ids: Sequence[str]) -> ProductPages:
        wanted = list(dict.fromkeys(external_ids))
        answer = self._client.post(OBJECTS, object_ids=wanted, include_related_objects=True)
        items = answer.rows("objects")
        variations: list[Any] = []
        for item in items:
            # One that is no object, or has none, is rejected as a product.
            data = item.get("item_data") if isinstance(item, dict) else None
            variations += (data.get("variations") or []) if isinstance(data, dict) else []
        products = _page(answer, items, self._converter(Resource.PRODUCTS, answer))
        variants = _page(answer, variations, self._converter(Resource.PRODUCT_VARIANTS, answer))
        return ProductPages(_with_gone(products, wanted), variants, [])

    def _customers_by_id(self, wanted: list[str]) -> Page:
        answer = self._client.post("customers/bulk-retrieve", customer_ids=wanted)
        responses = answer.data.get("responses")
        if not isinstance(responses, dict):
            raise malformed("Square's answer lacks the customers that were asked for")
        rows = []
        for one in responses.values():
            found = one.get("customer") if isinstance(one, dict) else None
            codes = [error.get("code") for error in one.get("errors", [])] if isinstance(one, dict) else []
            if found is not None:
                rows.append(found)
            elif codes != ["NOT_FOUND"]:
                raise malformed("Square's answer lacks a customer that was asked for")
        return _page(answer, rows, self._converter(Resource.CUSTOMERS, answer))

    def _counts_by_id(self, wanted: list[str]) -> Page:
        pairs = [one.partition("@")[::2] for one in wanted]
        query: Node = {"states": ["IN_STOCK"], "limit": self._sizes.counts}
        query["catalog_object_ids"] = sorted({item for item, _ in pairs})
        query["location_ids"] = sorted({place for _, place in pairs})
        found: list[Any] = []
        for answer, _ in self._client.answers(COUNTS, query, None):
            # The search is for each item at each place.
            found += [row for row in answer.rows("counts") if _level_id(row) in wanted]
        return _page(answer, found, records.level, key=_level_id)

    # What we write

    def update_customer(
        self, external_id: str, values: Mapping[str, Any], if_still: Callable[[Any], bool] | None = None
    ) -> UpdateOutcome:
        def page(answer: Answer) -> Page:
            rows = [answer.data.get("customer")]
            return _page(answer, rows, self._converter(Resource.CUSTOMERS, answer))

        return writes.update_customer(self._client, external_id, values, page, if_still)

    def correct_stock(self, corrections: Sequence[Correction]) -> list[CorrectionOutcome]:
        return writes.correct_stock(self._client, corrections, self._sizes.changes)

    # What is wrong

    def faults(self) -> list[str]:
        """Square tells an app's permissions to the app alone, so each is found out by a call that needs it.

        The two that would write ask for what cannot be done: no changes, and no such customer.
        """
        client = self._client
        try:
            merchant = self._merchant()
        except IntegrationError as error:
            if error.error_type is ErrorType.SCOPES:
                return [_lacks("MERCHANT_PROFILE_READ")]
            return [error.message]
        faults = []
        if merchant.get("status") == "INACTIVE":
            faults.append("Square says that the merchant is INACTIVE: its owner has to contact Square")
        probes: dict[str, Callable[[], object]] = {
            "ITEMS_READ": lambda: client.post("catalog/search", object_types=["ITEM"], limit=1),
            "INVENTORY_READ": lambda: client.post(COUNTS, states=["IN_STOCK"], limit=1),
            "INVENTORY_WRITE": lambda: client.post(CHANGE, idempotency_key="check", changes=[]),
            "CUSTOMERS_READ": lambda: client.post("customers/search", limit=1),
            "CUSTOMERS_WRITE": lambda: client.put("customers", "check", content={"note": None}),
            "ORDERS_READ": lambda: client.post(
                "orders/search", location_ids=self._location_ids()[1][:1], limit=1
            ),
        }
        for scope, probe in probes.items():
            try:
                probe()
            except IntegrationError as error:
                if error.error_type is ErrorType.SCOPES:
                    faults.append(_lacks(scope))
                elif error.error_type is not ErrorType.QUERY_REJECTED:
                    return [*faults, error.message]
        return faults


def _page(
    answer: Answer,
    rows: list[Any],
    convert: Callable[[Node], Converted],
    *,
    key: Callable[[Any], Any] = id_of,
    resume: str | None = None,
    source_count: int | None = None,
) -> Page:
    """Rows of an answer, sorted into records with their parts, deleted ones and rejects."""
    made: list[Record] = []
    lines: list[OrderLine] = []
    refunds: list[Refund] = []
    page = Page(len(rows), made, resume=resume, source_count=source_count, vendor_time=answer.vendor_time)
    for row in rows:
        try:
            converted = convert(row)
        except NONSENSE as error:
            page.rejects.append(rejected(row, error, convert, external_id=key(row)))
            continue
        if type(converted) is str:
            page.gone.append(converted)
        elif type(converted) is Sale:
            made.append(converted.order)
            lines += converted.lines
            refunds += converted.refunds
        else:
            made.append(converted)  # type: ignore[arg-type]
    parts: dict[str, list[Part]] = {"order_lines": [*lines], "refunds": [*refunds]}
    page.parts = {table: part for table, part in parts.items() if part}
    return page


def _with_gone(page: Page, wanted: Sequence[str]) -> Page:
    """The page with what was asked for and is not in it: it no longer exists."""
    returned = {record.external_id for record in page.records} | {one.external_id for one in page.rejects}
    missing = [one for one in wanted if one not in returned and one not in page.gone]
    page.gone += missing
    page.read += len(missing)
    return page


def _level_id(row: Any) -> str | None:
    """The id of an inventory level: Square has none for a count."""
    if not isinstance(row, dict):
        return None
    item, place = row.get("catalog_object_id"), row.get("location_id")
    return f"{item}@{place}" if isinstance(item, str) and isinstance(place, str) else None


def _category_names(answer: Answer) -> dict[str, str]:
    names = {}
    for row in answer.rows("related_objects"):
        data = row.get("category_data") if isinstance(row, dict) else None
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            names[row.get("id")] = data["name"]
    return names


def _count(answer: Answer) -> int | None:
    """How many rows a search finds in all; None where Square does not say, which is not none."""
    count = answer.data.get("count")
    return count if type(count) is int else None


def _order_query(start: str | None, end: str | None) -> Node:
    if start is None:
        return {"sort": {"sort_field": "CREATED_AT", "sort_order": "ASC"}}
    changed = {"start_at": start} | ({"end_at": end} if end else {})
    # The order of the pages must be by the time that is searched by.
    return {
        "sort": {"sort_field": "UPDATED_AT", "sort_order": "ASC"},
        "filter": {"date_time_filter": {"updated_at": changed}},
    }


def _just_before(moment: datetime) -> str:
    """For searches that leave out the time they begin at; Square's times are of milliseconds."""
    return time_text(moment - timedelta(milliseconds=1))


def _lacks(scope: str) -> str:
    return f"the token lacks the permission {scope}: grant it to the app, and authorise the app again"
