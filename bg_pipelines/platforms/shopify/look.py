"""The look: one document that tells whether anything of some resources has changed.

Of each it asks for the id of the first row that has, which is one cost point, and how many rows there are. Locations are
few and have no search by time: they are listed whole, and so is the shop's profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from bg_pipelines.platforms.protocol import Look
from bg_pipelines.platforms.shopify import shop
from bg_pipelines.platforms.shopify.client import Answer
from bg_pipelines.platforms.shopify.failures import malformed
from bg_pipelines.platforms.shopify.pages import PAGE_INFO, Converted, Node, count_of, rows_of
from bg_pipelines.platforms.shopify.sales import APP_SCOPES, all_are_shown
from bg_pipelines.records import Page, Resource

MOST_LOCATIONS = 50
"""A shop with more is read page by page."""


class _Asked(NamedTuple):
    """How a document asks for a resource: its connection, what counts its rows, and what is asked for beside."""

    connection: str
    counted_by: str
    beside: str = ""


_ASKED = {
    Resource.PRODUCTS: _Asked("products", "productsCount"),
    Resource.PRODUCT_VARIANTS: _Asked("productVariants", "productVariantsCount"),
    Resource.CUSTOMERS: _Asked("customers", "customersCount"),
    Resource.ORDERS: _Asked("orders", "ordersCount", APP_SCOPES),
}
_LOCATIONS = f"locations(first: {MOST_LOCATIONS}, sortKey: ID, includeInactive: true)"
_LISTED = f"locations: {_LOCATIONS} {{ nodes {{ {shop.LOCATION} }} {PAGE_INFO} }}"
_LEVELS = (
    f"inventory_levels: {_LOCATIONS} {{ nodes {{ inventoryLevels(first: 1, query: $inventory_levels, includeInactive: true) "
    f"{{ nodes {{ id }} }} }} {PAGE_INFO} }}"
)


@lru_cache
def document(resources: frozenset[Resource], *, profile: bool) -> str:
    """What asks whether anything of these has changed; each that can be searched is its own variable."""
    searched = sorted(resources - {Resource.LOCATIONS})
    fields = [shop.PROFILE] if profile else []
    for resource in sorted(resources):
        if resource is Resource.LOCATIONS:
            fields.append(_LISTED)
        elif resource is Resource.INVENTORY_LEVELS:
            fields.append(_LEVELS)
        else:
            asked = _ASKED[resource]
            fields += [
                f"{resource}: {asked.connection}(first: 1, sortKey: ID, query: ${resource}) {{ nodes {{ id }} }}",
                f"{resource}_count: {asked.counted_by}(limit: null) {{ count precision }}",
                asked.beside,
            ]
    variables = ", ".join(f"${resource}: String" for resource in searched)
    name = "LookAt" + "".join(resource.title().replace("_", "") for resource in sorted(resources))
    lines = "\n  ".join(filter(None, fields))
    return f"query {name}{f'({variables})' if variables else ''} {{\n  {lines}\n}}"


DOCUMENTS = (
    document(frozenset({Resource.LOCATIONS, Resource.PRODUCTS, Resource.PRODUCT_VARIANTS}), profile=True),
    document(frozenset({Resource.INVENTORY_LEVELS}), profile=False),
    document(frozenset({Resource.CUSTOMERS, Resource.ORDERS}), profile=False),
)
"""Those of the three sync jobs."""


def read(answer: Answer, resources: frozenset[Resource], *, profile: bool) -> Look:
    """What an answer to their document tells. Raises IntegrationError (malformed_response)."""
    data, changed = answer.data, set[Resource]()
    counts: dict[Resource, int] = {}
    listed: dict[Resource, Page] = {}
    for resource in resources:
        if resource is Resource.LOCATIONS:
            rows = rows_of(data.get("locations"))
            converted = Converted(data)
            converted.add(rows.nodes, shop.location)
            page = converted.page(answer.vendor_time, resume=rows.next_cursor)
            listed[resource] = replace(page, lists_all=True)
            continue
        if resource is Resource.INVENTORY_LEVELS:
            locations = rows_of(data.get(resource))
            if locations.next_cursor or any(_nodes(place, "inventoryLevels") for place in locations.nodes):
                changed.add(resource)
            continue
        if _nodes(data, resource):
            changed.add(resource)
        count = count_of({"count": data.get(f"{resource}_count")})
        # What is counted may not be what may be read: see `sales.Sales.orders`.
        if count is not None and (resource is not Resource.ORDERS or all_are_shown(data)):
            counts[resource] = count
    found = shop.profile(data) if profile else None
    return Look(frozenset(changed), counts, listed, found)


def variables(since: Mapping[Resource, str | None]) -> dict[str, str | None]:
    """The search of each resource."""
    return {resource.value: query for resource, query in since.items() if resource is not Resource.LOCATIONS}


def _nodes(holder: Node, name: str) -> bool:
    """Whether a connection has rows."""
    try:
        nodes = holder[name]["nodes"]
    except (KeyError, TypeError):
        nodes = None
    if not isinstance(nodes, list):
        raise malformed("Shopify's answer lacks rows")
    return bool(nodes)
