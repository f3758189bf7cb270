"""Shopify as a platform: the documents it is asked with, and its answers as records.

Every connection is read in pages of 250 by id, to the end. With ids as the order a row that changes while the
pages are read keeps its place, so that none is passed over; `updated_at` narrows an incremental pass. Products
and variants are two flat connections, because a product's own `variants` would need one more call for each
product that has more of them than a page can afford (cost: see docs/decisions.md). Stock levels are nested in
their location: one call shows the first few of every location, and each that has more is drained by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from bg_pipelines.database.load import Reject
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.base import (
    Correction,
    CorrectionOutcome,
    InventoryLevel,
    Location,
    Page,
    Product,
    ProductVariant,
    Record,
    Resource,
    StoreProfile,
)
from bg_pipelines.platforms.shopify_api import SOURCE, Answer, ShopifyClient

PAGE_ROWS = 250
# Small, because this document multiplies: locations times levels stay under the limit of 1000 cost points.
LOCATIONS_AT_ONCE = 20
LEVELS_AT_FIRST = 15
SCOPES = ("read_locations", "read_products", "write_inventory")

_PAGE_INFO = "pageInfo { hasNextPage endCursor }"
_LEVEL = 'id isActive updatedAt item { id } quantities(names: ["available", "on_hand", "committed", "incoming"]) { name quantity }'

SHOP = "query Shop { shop { id name currencyCode ianaTimezone updatedAt plan { publicDisplayName } } }"

LOCATIONS = f"""
query Locations($first: Int!, $after: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ id name isActive fulfillsOnlineOrders updatedAt address {{ address1 city provinceCode countryCode zip }} }}
    {_PAGE_INFO}
  }}
}}"""

PRODUCTS = f"""
query Products($first: Int!, $after: String, $query: String) {{
  count: productsCount(limit: null) {{ count precision }}
  rows: products(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ id title handle status vendor productType tags createdAt updatedAt }}
    {_PAGE_INFO}
  }}
}}"""

PRODUCT_VARIANTS = f"""
query ProductVariants($first: Int!, $after: String, $query: String) {{
  shop {{ currencyCode }}
  count: productVariantsCount(limit: null) {{ count precision }}
  rows: productVariants(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ id title sku barcode position price compareAtPrice updatedAt product {{ id }} inventoryItem {{ id }} }}
    {_PAGE_INFO}
  }}
}}"""

INVENTORY_LEVELS = f"""
query InventoryLevels($first: Int!, $after: String, $levels: Int!, $query: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ id inventoryLevels(first: $levels, query: $query, includeInactive: true) {{ nodes {{ {_LEVEL} }} {_PAGE_INFO} }} }}
    {_PAGE_INFO}
  }}
}}"""

LOCATION_INVENTORY_LEVELS = f"""
query LocationInventoryLevels($location: ID!, $first: Int!, $after: String, $query: String) {{
  location(id: $location) {{
    rows: inventoryLevels(first: $first, after: $after, query: $query, includeInactive: true) {{
      nodes {{ {_LEVEL} }} {_PAGE_INFO}
    }}
  }}
}}"""

AVAILABLE = """
query Available($location: ID!, $item: ID!) {
  location(id: $location) {
    inventoryLevel(inventoryItemId: $item) { quantities(names: ["available"]) { name quantity } }
  }
}"""

SET_QUANTITIES = """
mutation SetQuantities($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) { userErrors { code field message } }
}"""

GRANTED_SCOPES = "query GrantedScopes { currentAppInstallation { accessScopes { handle } } }"

DOCUMENTS = (
    SHOP,
    LOCATIONS,
    PRODUCTS,
    PRODUCT_VARIANTS,
    INVENTORY_LEVELS,
    LOCATION_INVENTORY_LEVELS,
    AVAILABLE,
    SET_QUANTITIES,
    GRANTED_SCOPES,
)

_STALE = {"CHANGE_FROM_QUANTITY_STALE", "COMPARE_QUANTITY_STALE"}
_TRY_AGAIN = {"IDEMPOTENCY_CONCURRENT_REQUEST"}


class ShopifyPlatform:
    """One Shopify store. See `Platform` for what each method promises."""

    def __init__(self, client: ShopifyClient) -> None:
        self._client = client
        self._page_rows: dict[str, int] = {}

    def close(self) -> None:
        self._client.close()

    def profile(self) -> StoreProfile:
        answer = self._client.execute(SHOP, {})
        try:
            shop = answer.data["shop"]
            return StoreProfile(
                external_id=shop["id"],
                shop_name=shop["name"],
                currency=shop["currencyCode"],
                timezone=shop["ianaTimezone"],
                plan=shop["plan"]["publicDisplayName"],
                source_updated_at=shop["updatedAt"],
            )
        except (KeyError, TypeError):
            raise _malformed("Shopify's answer lacks the shop") from None

    def pages(self, resource: Resource, *, since: datetime | None, resume: str | None) -> Iterator[Page]:
        if resource is Resource.INVENTORY_LEVELS:
            return self._level_pages(since, resume)
        document, convert = _CONNECTIONS[resource]
        variables: dict[str, Any] = {"query": _changed_since(since)}
        if resource is Resource.LOCATIONS:
            variables = {}  # few, and without a search by time: always all of them
        return self._connection(document, variables, resume, convert)

    def correct_stock(self, correction: Correction) -> CorrectionOutcome:
        quantity = {
            "inventoryItemId": correction.inventory_item_external_id,
            "locationId": correction.location_external_id,
            "quantity": correction.quantity,
            "changeFromQuantity": correction.change_from_quantity,
        }
        variables = {
            "key": correction.idempotency_key,
            "input": {"name": "available", "reason": correction.reason, "quantities": [quantity]},
        }
        try:
            answer = self._client.execute(SET_QUANTITIES, variables)
        except IntegrationError as error:
            if error.details.get("code") != "INVALID_VARIABLE":
                raise
            return CorrectionOutcome("rejected", reason="INVALID_VARIABLE: an id is not one of Shopify's")
        try:
            faults = answer.data["inventorySetQuantities"]["userErrors"]
            codes = [fault["code"] for fault in faults]
        except (KeyError, TypeError):
            # The key makes it safe to ask again: what was applied is then answered, not applied once more.
            raise _malformed("Shopify's answer to a stock correction lacks its outcome") from None
        if not codes:
            return CorrectionOutcome("applied", found_quantity=correction.quantity)
        if _TRY_AGAIN.intersection(codes):
            raise IntegrationError.of(
                ErrorType.SERVER_ERROR, "Shopify is still at work on this correction", source=SOURCE
            )
        if _STALE.intersection(codes):
            return CorrectionOutcome("stale", found_quantity=self._available(correction))
        reasons = [str(fault["code"] or fault.get("message")) for fault in faults]
        return CorrectionOutcome("rejected", reason=", ".join(reasons))

    def faults(self) -> list[str]:
        try:
            answer = self._client.execute(GRANTED_SCOPES, {})
            granted = {scope["handle"] for scope in answer.data["currentAppInstallation"]["accessScopes"]}
        except IntegrationError as error:
            return [error.message]
        except (KeyError, TypeError):
            return ["Shopify's answer lacks the app's scopes"]
        # The right to write includes the right to read.
        missing = [s for s in SCOPES if s not in granted and s.replace("read_", "write_") not in granted]
        return [f"the app lacks the scope {scope}: grant it in the app's settings" for scope in missing]

    def _available(self, correction: Correction) -> int | None:
        answer = self._client.execute(
            AVAILABLE,
            {
                "location": correction.location_external_id,
                "item": correction.inventory_item_external_id,
            },
        )
        try:
            level = answer.data["location"]["inventoryLevel"]
            return int(next(q["quantity"] for q in level["quantities"] if q["name"] == "available"))
        except (KeyError, TypeError, StopIteration):
            return None

    def _level_pages(self, since: datetime | None, resume: str | None) -> Iterator[Page]:
        """Levels, location by location: the first few of a page of locations, then each that has more.

        The token names the page of locations and, where the first few are kept, the location and the page in it
        that come next. So each page that is kept brings a pass nearer to its end, however often it is stopped.
        """
        at: dict[str, str | None] = json.loads(resume) if resume else {}
        query = _changed_since(since)
        locations_after = at.get("locations_after")
        seen = {locations_after}
        while True:
            variables = {"levels": LEVELS_AT_FIRST, "query": query}
            answer = self._page(INVENTORY_LEVELS, variables, locations_after, LOCATIONS_AT_ONCE)
            rows = _rows(answer.data)
            _note_cursor(rows.next_cursor, seen)
            first = _Converted()
            to_drain: list[tuple[str, str]] = []
            try:
                for location in rows.nodes:
                    levels = _connection_rows(location["inventoryLevels"])
                    first.add(levels.nodes, partial(_level, location["id"]))
                    if levels.next_cursor is not None:
                        to_drain.append((location["id"], levels.next_cursor))
            except (KeyError, TypeError):
                raise _malformed("Shopify's answer lacks a location's stock levels") from None
            # Where each part of this page of locations goes on: behind the last, with the next page of them.
            parts: list[str | None] = [
                _token(locations_after, location, after) for location, after in to_drain
            ]
            parts.append(_token(rows.next_cursor) if rows.next_cursor is not None else None)
            started = [i for i, (location, _) in enumerate(to_drain) if location == at.get("location")]
            begin = started[0] if started else 0
            if started:
                to_drain[begin] = (to_drain[begin][0], at["after"] or to_drain[begin][1])
            else:
                yield first.page(answer, resume=parts[0])
            for i, (location, after) in enumerate(to_drain[begin:], begin):
                yield from self._drain_location(location, after, query, locations_after, parts[i + 1])
            at = {}
            if rows.next_cursor is None:
                return
            locations_after = rows.next_cursor

    def _drain_location(
        self, location: str, after: str, query: str | None, locations_after: str | None, behind: str | None
    ) -> Iterator[Page]:
        """The other pages of a location's levels; `behind` is the token of what follows them."""
        pages = self._connection(
            LOCATION_INVENTORY_LEVELS,
            {"location": location, "query": query},
            after,
            lambda _, node: _level(location, node),
            within="location",
        )
        for page in pages:
            page.resume = behind if page.resume is None else _token(locations_after, location, page.resume)
            yield page

    def _connection(
        self,
        document: str,
        variables: dict[str, Any],
        after: str | None,
        convert: Callable[[dict[str, Any], dict[str, Any]], Record | str],
        within: str | None = None,
    ) -> Iterator[Page]:
        seen = {after}
        while True:
            answer = self._page(document, variables, after, PAGE_ROWS)
            data = answer.data if within is None else answer.data.get(within)
            if data is None:
                # The location went away while its levels were read; the next pass finds them gone.
                yield _Converted().page(answer, resume=None)
                return
            rows = _rows(data)
            _note_cursor(rows.next_cursor, seen)
            converted = _Converted()
            converted.add(rows.nodes, partial(convert, data))
            yield converted.page(answer, resume=rows.next_cursor, source_count=_count(data))
            if rows.next_cursor is None:
                return
            after = rows.next_cursor

    def _page(self, document: str, variables: dict[str, Any], after: str | None, rows: int) -> Answer:
        """One page, of fewer rows where this shop's cost limit does not allow so many."""
        while True:
            first = self._page_rows.get(document, rows)
            try:
                return self._client.execute(document, {**variables, "first": first, "after": after})
            except IntegrationError as error:
                if error.error_type is not ErrorType.QUERY_TOO_COSTLY or first == 1:
                    raise
                self._page_rows[document] = max(1, first // 2)


class _Rows(NamedTuple):
    nodes: list[Any]
    next_cursor: str | None


class _Converted:
    """Nodes of an answer, sorted into records, those gone, and those that make no sense."""

    def __init__(self) -> None:
        self.read = 0
        self.records: list[Record] = []
        self.gone: list[str] = []
        self.rejects: list[Reject] = []

    def add(self, nodes: list[Any], convert: Callable[[dict[str, Any]], Record | str]) -> None:
        self.read += len(nodes)
        append = self.records.append
        for node in nodes:
            try:
                converted = convert(node)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                self.rejects.append(_reject(node, error))
                continue
            if type(converted) is str:
                self.gone.append(converted)
            else:
                append(converted)  # type: ignore[arg-type]

    def page(self, answer: Answer, *, resume: str | None, source_count: int | None = None) -> Page:
        return Page(
            read=self.read,
            records=self.records,
            gone=self.gone,
            rejects=self.rejects,
            resume=resume,
            source_count=source_count,
            vendor_time=answer.vendor_time,
        )


def _rows(data: dict[str, Any]) -> _Rows:
    return _connection_rows(data.get("rows"))


def _connection_rows(connection: Any) -> _Rows:
    try:
        nodes, page_info = connection["nodes"], connection["pageInfo"]
        more, cursor = page_info["hasNextPage"], page_info["endCursor"]
    except (KeyError, TypeError):
        raise _malformed("Shopify's answer lacks rows or its page information") from None
    if not isinstance(nodes, list) or (more and not isinstance(cursor, str)):
        raise _malformed("Shopify's answer says that there are more rows, but not where")
    return _Rows(nodes, cursor if more else None)


def _note_cursor(cursor: str | None, seen: set[str | None]) -> None:
    if cursor is not None and cursor in seen:
        raise _malformed("Shopify repeats a page's cursor: the end would never be reached")
    seen.add(cursor)


def _count(data: dict[str, Any]) -> int | None:
    count = data.get("count")
    if isinstance(count, dict) and count.get("precision") == "EXACT" and type(count.get("count")) is int:
        return int(count["count"])
    return None


def _changed_since(since: datetime | None) -> str | None:
    return None if since is None else f"updated_at:>='{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"


def _token(locations_after: str | None, location: str | None = None, after: str | None = None) -> str:
    return json.dumps({"locations_after": locations_after, "location": location, "after": after})


def _reject(node: Any, error: Exception) -> Reject:
    external_id = node.get("id") if isinstance(node, dict) else None
    if not isinstance(external_id, str):
        external_id = None
    if isinstance(error, KeyError):
        reason = f"{error.args[0]}: missing from the answer"
    elif isinstance(error, ValueError):
        reason = str(error)
    else:
        reason = "a field that holds further fields is null"
    return Reject(
        external_id, f"{reason}; correct it at the source, it loads once it has changed there", node
    )


def _key(node: dict[str, Any]) -> tuple[str, str]:
    """Id and time of change: a row without either can be neither kept apart nor kept current."""
    external_id, updated_at = node["id"], node["updatedAt"]
    if type(external_id) is str and type(updated_at) is str and external_id and updated_at:
        return external_id, updated_at
    name = "updatedAt" if isinstance(external_id, str) and external_id else "id"
    raise ValueError(f"{name}: must be a text and is not")


def _location(_: dict[str, Any], node: dict[str, Any]) -> Location:
    address = node["address"]
    return Location(
        *_key(node),
        node["name"],
        node["isActive"],
        node["fulfillsOnlineOrders"],
        address["address1"],
        address["city"],
        address["provinceCode"],
        address["countryCode"],
        address["zip"],
    )


def _product(_: dict[str, Any], node: dict[str, Any]) -> Product:
    return Product(
        *_key(node),
        node["title"],
        node["handle"],
        node["status"],
        node["vendor"],
        node["productType"],
        node["tags"],
        node["createdAt"],
    )


def _variant(data: dict[str, Any], node: dict[str, Any]) -> ProductVariant:
    try:
        currency = data["shop"]["currencyCode"]
    except (KeyError, TypeError):
        raise _malformed("Shopify's answer lacks the shop's currency") from None  # no fault of the row's
    return ProductVariant(
        *_key(node),
        node["product"]["id"],
        node["inventoryItem"]["id"],
        node["title"],
        node["sku"],
        node["barcode"],
        node["position"],
        node["price"],
        node["compareAtPrice"],
        currency,
    )


def _level(location: str, node: dict[str, Any]) -> InventoryLevel | str:
    external_id, updated_at = _key(node)
    if not node["isActive"]:
        return external_id  # no longer stocked there
    quantities = {q["name"]: q["quantity"] for q in node["quantities"]}
    return InventoryLevel(
        external_id,
        updated_at,
        node["item"]["id"],
        location,
        quantities["available"],
        quantities["on_hand"],
        quantities["committed"],
        quantities["incoming"],
    )


_CONNECTIONS: dict[Resource, tuple[str, Callable[[dict[str, Any], dict[str, Any]], Record | str]]] = {
    Resource.LOCATIONS: (LOCATIONS, _location),
    Resource.PRODUCTS: (PRODUCTS, _product),
    Resource.PRODUCT_VARIANTS: (PRODUCT_VARIANTS, _variant),
}


def _malformed(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.MALFORMED_RESPONSE, f"{message}; it is tried again", source=SOURCE)
