"""Shopify as a platform: its GraphQL documents, and its answers as records.

Every connection is read in pages of 250 by id, to the end. With ids as the order a row that changes while the
pages are read keeps its place, so that none is passed over; `updated_at` narrows an incremental pass. Products
and variants are two flat connections, because a product's own `variants` would need one more call for each
product that has more of them than a page can afford (cost: see docs/decisions.md).
Customers and orders are in sales.py, stock in stock.py, edits of customers in customer_edits.py, webhook subscriptions
in subscriptions.py, exports in bulk.py, paging in pages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.protocol import (
    Backfill,
    Correction,
    CorrectionOutcome,
    Look,
    ProductPages,
    StoreAccess,
    UpdateOutcome,
)
from bg_pipelines.platforms.shopify import bulk, customer_edits, look, sales, shop, stock, subscriptions
from bg_pipelines.platforms.shopify.bulk import EXPORT_LIMITS, ExportLimits, edges, export_pages
from bg_pipelines.platforms.shopify.bulk_operation import Export, is_export
from bg_pipelines.platforms.shopify.client import (
    ClientCredentials,
    ShopifyClient,
    credentials,
)
from bg_pipelines.platforms.shopify.customer_edits import EDITABLE, CustomerEdits
from bg_pipelines.platforms.shopify.failures import malformed
from bg_pipelines.platforms.shopify.pages import (
    PAGE_INFO,
    PAGE_SIZES,
    POINTS_A_ROW,
    Convert,
    Converted,
    Node,
    PageReader,
    PageSizes,
    count_of,
    ids_only,
    key,
    nested_rows,
)
from bg_pipelines.platforms.shopify.sales import ALL_ORDERS, Sales
from bg_pipelines.platforms.shopify.stock import LOCATION_IDS, Stock
from bg_pipelines.platforms.shopify.subscriptions import Subscriptions
from bg_pipelines.records import (
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
LOOKBACK = timedelta(minutes=10)

_PRODUCT = "id title handle status vendor productType tags createdAt updatedAt"
_VARIANT = "id title sku barcode position price compareAtPrice updatedAt inventoryItem { id }"
SHOP = f"query Shop {{ {shop.PROFILE} }}"

LOCATIONS = f"""
query Locations($first: Int!, $after: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ {shop.LOCATION} }}
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
    nodes {{ {_VARIANT} product {{ id }} }}
    {PAGE_INFO}
  }}
}}"""

LOCATIONS_BY_IDS = f"""
query LocationsByIds($ids: [ID!]!) {{ rows: nodes(ids: $ids) {{ ... on Location {{ {shop.LOCATION} }} }} }}"""

PRODUCTS_BY_IDS = f"""
query ProductsByIds($ids: [ID!]!) {{ rows: nodes(ids: $ids) {{ ... on Product {{ {_PRODUCT} }} }} }}"""

PRODUCT_VARIANTS_BY_IDS = f"""
query ProductVariantsByIds($ids: [ID!]!) {{
  shop {{ currencyCode }}
  rows: nodes(ids: $ids) {{ ... on ProductVariant {{ {_VARIANT} product {{ id }} }} }}
}}"""

PRODUCTS_WITH_VARIANTS = f"""
query ProductsWithVariants($ids: [ID!]!, $variants: Int!) {{
  shop {{ currencyCode }}
  rows: nodes(ids: $ids) {{
    ... on Product {{ {_PRODUCT} variants(first: $variants) {{ nodes {{ {_VARIANT} }} {PAGE_INFO} }} }}
  }}
}}"""

ALL_COUNTS = """
query AllCounts {
  locations: locationsCount(limit: null) { count precision }
  products: productsCount(limit: null) { count precision }
  product_variants: productVariantsCount(limit: null) { count precision }
  customers: customersCount(limit: null) { count precision }
  orders: ordersCount(limit: null) { count precision }
}"""

PRODUCT_VARIANTS_COUNT = """
query ProductVariantsCount {
  shop { currencyCode }
  count: productVariantsCount(limit: null) { count precision }
}"""

PRODUCT_IDS = ids_only("Product", "products")
PRODUCT_VARIANT_IDS = ids_only("ProductVariant", "productVariants")

GRANTED_SCOPES = "query GrantedScopes { currentAppInstallation { accessScopes { handle } } }"

DOCUMENTS = (
    *sales.DOCUMENTS,
    *customer_edits.DOCUMENTS,
    *bulk.DOCUMENTS,
    *stock.DOCUMENTS,
    *subscriptions.DOCUMENTS,
    *look.DOCUMENTS,
    SHOP,
    LOCATIONS,
    PRODUCTS,
    PRODUCT_VARIANTS,
    LOCATIONS_BY_IDS,
    PRODUCTS_BY_IDS,
    PRODUCT_VARIANTS_BY_IDS,
    PRODUCTS_WITH_VARIANTS,
    PRODUCT_VARIANTS_COUNT,
    ALL_COUNTS,
    PRODUCT_IDS,
    PRODUCT_VARIANT_IDS,
    GRANTED_SCOPES,
)


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
        reserve=access.reserve,
        on_budget=access.note_budget,
    )
    return ShopifyPlatform(client, sizes, exports)


class ShopifyPlatform:
    """One Shopify store. See `Platform` for what each method promises."""

    def __init__(
        self, client: ShopifyClient, sizes: PageSizes = PAGE_SIZES, exports: ExportLimits = EXPORT_LIMITS
    ) -> None:
        self._client = client
        self.corrections_a_call = sizes.quantities
        self._exports = exports
        self._reader = PageReader(client, sizes)
        self._sales = Sales(self._reader)
        self._stock = Stock(client, self._reader)
        self._edits = CustomerEdits(client, self._sales)
        self.webhooks = Subscriptions(client, self._reader)

    def close(self) -> None:
        self._client.close()

    def profile(self) -> StoreProfile:
        return shop.profile(self._client.execute(SHOP, {}).data)

    def look(self, since: Mapping[Resource, datetime], *, profile: bool) -> Look:
        resources = frozenset(since)
        asked = {resource: _changed_since(moment) for resource, moment in since.items()}
        answer = self._client.execute(look.document(resources, profile=profile), look.variables(asked))
        return look.read(answer, resources, profile=profile)

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
        return self._paced(self._listed(resource, since, resume))

    def _paced(self, pages: Iterator[Page]) -> Iterator[Page]:
        """The same pages, and how long a row of them takes at what the plan gives a second."""
        before, rows = self._client.points_spent, 0
        for page in pages:
            rows += page.read
            rate = self._client.restore_rate
            if rows and rate:
                page.seconds_a_row = (self._client.points_spent - before) / rows / rate
            yield page

    def _all_pages(self, resource: Resource, *, at_once: bool) -> Iterator[Page]:
        """A resource from its beginning: by an export if it is wanted, or if the first page tells of so many rows."""
        if not at_once:
            listed = self._paced(self._listed(resource, None, None))
            first = next(listed)
            if first.resume is None or self._count(resource, first) < self._exports.from_rows:
                yield first
                yield from listed
                return
        yield from export_pages(self._client, EXPORTS[resource], None, self._exports)

    def _count(self, resource: Resource, first: Page) -> int:
        """How many rows there are, or may be, as the first page tells or Shopify is asked."""
        if first.source_count is not None:
            return first.source_count
        export = EXPORTS[resource]
        return export.at_most(self._client.execute(export.count_query, {}).data) or 0

    def _listed(self, resource: Resource, since: datetime | None, resume: str | None) -> Iterator[Page]:
        if resource is Resource.CUSTOMERS:
            return self._sales.customers(_changed_since(since), resume)
        if resource is Resource.ORDERS:
            return self._sales.orders(_changed_since(since), resume)
        if resource is Resource.INVENTORY_LEVELS:
            return self._stock.pages(_changed_since(since), resume)
        document, ids, convert = _CONNECTIONS[resource]
        variables: Node = {"query": _changed_since(since)}
        if resource is Resource.LOCATIONS:
            variables = {}  # few, and without a search by time: always all of them
        pages = self._reader.connection(document, variables, resume, convert, ids=ids)
        return map(_all_of_them, pages) if resource is Resource.LOCATIONS else pages

    def backfills(self) -> list[Backfill]:
        data = self._client.execute(ALL_COUNTS, {}).data
        rows = {resource: count_of({"count": data.get(resource.value)}) for resource in Resource}
        rows[Resource.INVENTORY_LEVELS] = (rows[Resource.PRODUCT_VARIANTS] or 0) * (
            rows[Resource.LOCATIONS] or 0
        )
        rate = self._client.restore_rate or 1.0
        found = [
            Backfill(
                resource,
                number,
                resource in EXPORTS and number >= self._exports.from_rows,
                number * POINTS_A_ROW[resource] / rate,
            )
            for resource, number in rows.items()
            if number
        ]
        return sorted(found, key=lambda one: -one.seconds)

    def lookback(self, resource: Resource) -> timedelta:  # noqa: ARG002
        return LOOKBACK

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        if resource is Resource.CUSTOMERS:
            return self._sales.customers_by_ids(external_ids)
        if resource is Resource.ORDERS:
            return self._sales.orders_by_ids(external_ids)
        if resource is Resource.INVENTORY_LEVELS:
            return self._stock.by_ids(external_ids)
        document, convert = _BY_IDS[resource]
        return self._reader.by_ids(document, {}, external_ids, convert)

    def products_with_variants(self, external_ids: Sequence[str]) -> ProductPages:
        variants, cut = Converted(), []

        def convert(page: Converted, node: Node) -> Product:
            product = _product(page, node)
            listed = nested_rows(node, "variants")
            variants.data = page.data
            parent = {"product": {"id": product.external_id}}
            nodes = [{**one, **parent} if isinstance(one, dict) else one for one in listed.nodes]
            variants.add(nodes, _variant)
            if listed.next_cursor is not None:
                cut.append(product.external_id)
            return product

        products = self._reader.by_ids(
            PRODUCTS_WITH_VARIANTS,
            {"variants": self._reader.sizes.rows},
            external_ids,
            convert,
            most=self._reader.sizes.products_with_variants,
        )
        return ProductPages(products, variants.page(products.vendor_time, resume=None), cut)

    late_arrivals: Mapping[Resource, timedelta] = {}
    undated: frozenset[Resource] = frozenset()
    editable = EDITABLE

    def update_customer(
        self, external_id: str, values: Mapping[str, Any], if_still: Callable[[Any], bool] | None = None
    ) -> UpdateOutcome:
        return self._edits.update(external_id, values, if_still)

    def correct_stock(self, corrections: Sequence[Correction]) -> list[CorrectionOutcome]:
        return self._stock.correct(corrections)

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
        if answer.version not in (None, self._client.api_version):
            # Shopify answers for a version that has ended with the oldest that has not.
            faults.append(
                f"Shopify answers with API {answer.version}, not {self._client.api_version}: "
                "set BG_SHOPIFY_API_VERSION to a version that it still has"
            )
        if ALL_ORDERS not in granted:
            faults.append(
                f"the app lacks the scope {ALL_ORDERS}: orders of more than 60 days ago are not read, and those that "
                "grow so old are not followed any more; ask Shopify for it in the app's settings"
            )
        return faults


def _all_of_them(page: Page) -> Page:
    return replace(page, lists_all=True)


def _changed_since(since: datetime | None) -> str | None:
    return None if since is None else f"updated_at:>='{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"


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


EXPORTS: dict[Resource, Export] = {
    **bulk.EXPORTS,
    Resource.PRODUCT_VARIANTS: Export(
        f"{{ productVariants {edges(f'{_VARIANT} product {{ id }}')} }}", PRODUCT_VARIANTS_COUNT, _variant
    ),
}
_CONNECTIONS: dict[Resource, tuple[str, str, Convert]] = {
    Resource.LOCATIONS: (LOCATIONS, LOCATION_IDS, shop.location),
    Resource.PRODUCTS: (PRODUCTS, PRODUCT_IDS, _product),
    Resource.PRODUCT_VARIANTS: (PRODUCT_VARIANTS, PRODUCT_VARIANT_IDS, _variant),
}
_BY_IDS: dict[Resource, tuple[str, Convert]] = {
    Resource.LOCATIONS: (LOCATIONS_BY_IDS, shop.location),
    Resource.PRODUCTS: (PRODUCTS_BY_IDS, _product),
    Resource.PRODUCT_VARIANTS: (PRODUCT_VARIANTS_BY_IDS, _variant),
}
