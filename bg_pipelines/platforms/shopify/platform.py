"""Shopify as a platform: the documents it is asked with, and its answers as records.

Every connection is read in pages of 250 by id, to the end. With ids as the order a row that changes while the
pages are read keeps its place, so that none is passed over; `updated_at` narrows an incremental pass. Products
and variants are two flat connections, because a product's own `variants` would need one more call for each
product that has more of them than a page can afford (cost: see docs/decisions.md). Stock levels are nested in
their location: one call shows the first few of every location, and each that has more is drained by itself.

Customers and orders are in sales.py, edits of customers in customer_edits.py, paging in pages.py, exports in bulk.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome, StoreAccess, UpdateOutcome
from bg_pipelines.platforms.shopify import bulk, customer_edits, sales
from bg_pipelines.platforms.shopify.bulk import EXPORT_LIMITS, EXPORTS, ExportLimits, export_pages, is_export
from bg_pipelines.platforms.shopify.client import (
    ClientCredentials,
    ShopifyClient,
    credentials,
)
from bg_pipelines.platforms.shopify.customer_edits import EDITABLE, CustomerEdits
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import (
    PAGE_INFO,
    PAGE_SIZES,
    Convert,
    Converted,
    Node,
    PageReader,
    PageSizes,
    key,
    note_cursor,
    rows_of,
)
from bg_pipelines.platforms.shopify.sales import ALL_ORDERS, Sales
from bg_pipelines.records import (
    InventoryLevel,
    Location,
    Page,
    Product,
    ProductVariant,
    Resource,
    StoreProfile,
)

SCOPES = (
    "read_customers",
    "read_locations",
    "read_orders",
    "read_products",
    "write_customers",
    "write_inventory",
)
# A search shows a change seconds to minutes late.
OVERLAP = timedelta(minutes=10)

_LOCATION = (
    "id name isActive fulfillsOnlineOrders updatedAt address { address1 city provinceCode countryCode zip }"
)
_PRODUCT = "id title handle status vendor productType tags createdAt updatedAt"
_VARIANT = "id title sku barcode position price compareAtPrice updatedAt product { id } inventoryItem { id }"
_LEVEL = 'id isActive updatedAt item { id } quantities(names: ["available", "on_hand", "committed", "incoming"]) { name quantity }'

SHOP = "query Shop { shop { id name currencyCode ianaTimezone updatedAt plan { publicDisplayName } } }"

LOCATIONS = f"""
query Locations($first: Int!, $after: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ {_LOCATION} }}
    {PAGE_INFO}
  }}
}}"""

PRODUCTS = f"""
query Products($first: Int!, $after: String, $query: String) {{
  count: productsCount(limit: null) {{ count precision }}
  rows: products(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ {_PRODUCT} }}
    {PAGE_INFO}
  }}
}}"""

PRODUCT_VARIANTS = f"""
query ProductVariants($first: Int!, $after: String, $query: String) {{
  shop {{ currencyCode }}
  count: productVariantsCount(limit: null) {{ count precision }}
  rows: productVariants(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ {_VARIANT} }}
    {PAGE_INFO}
  }}
}}"""

INVENTORY_LEVELS = f"""
query InventoryLevels($first: Int!, $after: String, $levels: Int!, $query: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ id inventoryLevels(first: $levels, query: $query, includeInactive: true) {{ nodes {{ {_LEVEL} }} {PAGE_INFO} }} }}
    {PAGE_INFO}
  }}
}}"""

LOCATION_INVENTORY_LEVELS = f"""
query LocationInventoryLevels($location: ID!, $first: Int!, $after: String, $query: String) {{
  location(id: $location) {{
    rows: inventoryLevels(first: $first, after: $after, query: $query, includeInactive: true) {{
      nodes {{ {_LEVEL} }} {PAGE_INFO}
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

LOCATIONS_BY_IDS = f"""
query LocationsByIds($ids: [ID!]!) {{ rows: nodes(ids: $ids) {{ ... on Location {{ {_LOCATION} }} }} }}"""

PRODUCTS_BY_IDS = f"""
query ProductsByIds($ids: [ID!]!) {{ rows: nodes(ids: $ids) {{ ... on Product {{ {_PRODUCT} }} }} }}"""

PRODUCT_VARIANTS_BY_IDS = f"""
query ProductVariantsByIds($ids: [ID!]!) {{
  shop {{ currencyCode }}
  rows: nodes(ids: $ids) {{ ... on ProductVariant {{ {_VARIANT} }} }}
}}"""

INVENTORY_LEVELS_BY_IDS = f"""
query InventoryLevelsByIds($ids: [ID!]!) {{
  rows: nodes(ids: $ids) {{ ... on InventoryLevel {{ location {{ id }} {_LEVEL} }} }}
}}"""

GRANTED_SCOPES = "query GrantedScopes { currentAppInstallation { accessScopes { handle } } }"

DOCUMENTS = (
    *sales.DOCUMENTS,
    *customer_edits.DOCUMENTS,
    *bulk.DOCUMENTS,
    SHOP,
    LOCATIONS,
    PRODUCTS,
    PRODUCT_VARIANTS,
    INVENTORY_LEVELS,
    LOCATION_INVENTORY_LEVELS,
    LOCATIONS_BY_IDS,
    PRODUCTS_BY_IDS,
    PRODUCT_VARIANTS_BY_IDS,
    INVENTORY_LEVELS_BY_IDS,
    AVAILABLE,
    SET_QUANTITIES,
    GRANTED_SCOPES,
)

_STALE = {"CHANGE_FROM_QUANTITY_STALE", "COMPARE_QUANTITY_STALE"}
_TRY_AGAIN = {"IDEMPOTENCY_CONCURRENT_REQUEST"}


def connect(
    access: StoreAccess,
    *,
    api_version: str,
    sleep: Callable[[float], object],
    sizes: PageSizes = PAGE_SIZES,
    exports: ExportLimits = EXPORT_LIMITS,
) -> ShopifyPlatform:
    def keep(renewed: ClientCredentials) -> None:
        expires_at = renewed.expires_at.isoformat() if renewed.expires_at else None
        access.save_credentials({**renewed._asdict(), "expires_at": expires_at})

    client = ShopifyClient(
        access.base_url,
        credentials(access.credentials),
        api_version=api_version,
        on_token=keep,
        sleep=sleep,
    )
    return ShopifyPlatform(client, sizes, exports)


class ShopifyPlatform:
    """One Shopify store. See `Platform` for what each method promises."""

    def __init__(
        self, client: ShopifyClient, sizes: PageSizes = PAGE_SIZES, exports: ExportLimits = EXPORT_LIMITS
    ) -> None:
        self._client = client
        self._sizes = sizes
        self._exports = exports
        self._reader = PageReader(client, sizes)
        self._sales = Sales(self._reader)
        self._edits = CustomerEdits(client, self._sales)

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
            raise malformed("Shopify's answer lacks the shop") from None

    def pages(
        self,
        resource: Resource,
        *,
        since: datetime | None,
        resume: str | None,
        bulk: bool | None = None,
    ) -> Iterator[Page]:
        if is_export(resume):
            return export_pages(self._client, EXPORTS[resource], resume, self._exports)
        if resource in EXPORTS and since is None and resume is None and bulk is not False:
            return self._all_pages(resource, at_once=bool(bulk))
        return self._listed(resource, since, resume)

    def _all_pages(self, resource: Resource, *, at_once: bool) -> Iterator[Page]:
        """A resource from its beginning: by an export if it is wanted, or if the first page tells of so many rows."""
        if not at_once:
            listed = self._listed(resource, None, None)
            first = next(listed)
            if (first.source_count or 0) < self._exports.from_rows:
                yield first
                yield from listed
                return
        yield from export_pages(self._client, EXPORTS[resource], None, self._exports)

    def _listed(self, resource: Resource, since: datetime | None, resume: str | None) -> Iterator[Page]:
        if resource is Resource.CUSTOMERS:
            return self._sales.customers(_changed_since(since), resume)
        if resource is Resource.ORDERS:
            return self._sales.orders(_changed_since(since), resume)
        if resource is Resource.INVENTORY_LEVELS:
            return self._level_pages(since, resume)
        document, convert = _CONNECTIONS[resource]
        variables: Node = {"query": _changed_since(since)}
        if resource is Resource.LOCATIONS:
            variables = {}  # few, and without a search by time: always all of them
        return self._reader.connection(document, variables, resume, convert)

    def overlap(self, resource: Resource) -> timedelta:  # noqa: ARG002
        return OVERLAP

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        if resource is Resource.CUSTOMERS:
            return self._sales.customers_by_ids(external_ids)
        if resource is Resource.ORDERS:
            return self._sales.orders_by_ids(external_ids)
        document, convert = _BY_IDS[resource]
        return self._reader.by_ids(document, {}, external_ids, convert)

    undated: frozenset[Resource] = frozenset()
    editable = EDITABLE

    def update_customer(self, external_id: str, values: Mapping[str, Any]) -> UpdateOutcome:
        return self._edits.update(external_id, values)

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
            raise malformed("Shopify's answer to a stock correction lacks its outcome") from None
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
        faults = [f"the app lacks the scope {scope}: grant it in the app's settings" for scope in missing]
        if ALL_ORDERS not in granted:
            faults.append(
                f"the app lacks the scope {ALL_ORDERS}: orders of more than 60 days ago are not read, and those that "
                "grow so old are not followed any more; ask Shopify for it in the app's settings"
            )
        return faults

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
            variables = {"levels": self._sizes.levels, "query": query}
            answer = self._reader.page(INVENTORY_LEVELS, variables, locations_after, self._sizes.locations)
            rows = rows_of(answer.data.get("rows"))
            note_cursor(rows.next_cursor, seen)
            first = Converted()
            to_drain: list[tuple[str, str]] = []
            try:
                for location in rows.nodes:
                    levels = rows_of(location["inventoryLevels"])
                    first.add(levels.nodes, partial(_level, location["id"]))
                    if levels.next_cursor is not None:
                        to_drain.append((location["id"], levels.next_cursor))
            except (KeyError, TypeError):
                raise malformed("Shopify's answer lacks a location's stock levels") from None
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
                yield first.page(answer.vendor_time, resume=parts[0])
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
        pages = self._reader.connection(
            LOCATION_INVENTORY_LEVELS,
            {"location": location, "query": query},
            after,
            partial(_level, location),
            within="location",
        )
        for page in pages:
            page.resume = behind if page.resume is None else _token(locations_after, location, page.resume)
            yield page


def _changed_since(since: datetime | None) -> str | None:
    return None if since is None else f"updated_at:>='{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"


def _token(locations_after: str | None, location: str | None = None, after: str | None = None) -> str:
    return json.dumps({"locations_after": locations_after, "location": location, "after": after})


def _location(_: Converted, node: Node) -> Location:
    address = node["address"]
    return Location(
        *key(node),
        node["name"],
        node["isActive"],
        node["fulfillsOnlineOrders"],
        address["address1"],
        address["city"],
        address["provinceCode"],
        address["countryCode"],
        address["zip"],
    )


def _product(_: Converted, node: Node) -> Product:
    return Product(
        *key(node),
        node["title"],
        node["handle"],
        node["status"],
        node["vendor"],
        node["productType"],
        node["tags"],
        node["createdAt"],
    )


def _variant(page: Converted, node: Node) -> ProductVariant:
    try:
        currency = page.data["shop"]["currencyCode"]
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks the shop's currency") from None  # no fault of the row's
    return ProductVariant(
        *key(node),
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


def _level(location: str, _: Converted, node: Node) -> InventoryLevel | str:
    external_id, updated_at = key(node)
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


_CONNECTIONS: dict[Resource, tuple[str, Convert]] = {
    Resource.LOCATIONS: (LOCATIONS, _location),
    Resource.PRODUCTS: (PRODUCTS, _product),
    Resource.PRODUCT_VARIANTS: (PRODUCT_VARIANTS, _variant),
}
_BY_IDS: dict[Resource, tuple[str, Convert]] = {
    Resource.LOCATIONS: (LOCATIONS_BY_IDS, _location),
    Resource.PRODUCTS: (PRODUCTS_BY_IDS, _product),
    Resource.PRODUCT_VARIANTS: (PRODUCT_VARIANTS_BY_IDS, _variant),
    Resource.INVENTORY_LEVELS: (
        INVENTORY_LEVELS_BY_IDS,
        lambda page, node: _level(node["location"]["id"], page, node),
    ),
}
