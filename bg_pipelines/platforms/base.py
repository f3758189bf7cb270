"""What a platform (where stores live) is to the rest: a protocol, and the typed records it delivers.

A new platform is one file that implements `Platform` and one line in `platforms/__init__.py`. Records are named
tuples whose fields are the columns of their table (`database/models.py`); values are as the vendor writes them,
PostgreSQL checks them. Times are ISO 8601 texts, money is decimal text with a currency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from bg_pipelines.database.load import Reject


class Resource(StrEnum):
    """What is synced of a store; but for `STORE`, each is a table of the same name."""

    STORE = "store"
    LOCATIONS = "locations"
    PRODUCTS = "products"
    PRODUCT_VARIANTS = "product_variants"
    INVENTORY_LEVELS = "inventory_levels"


JOB_RESOURCES: dict[str, tuple[Resource, ...]] = {
    # The profile first: a store that cannot be reached shows in the cheapest call.
    "store_sync": (Resource.STORE, Resource.LOCATIONS, Resource.PRODUCTS, Resource.PRODUCT_VARIANTS),
    "inventory_sync": (Resource.INVENTORY_LEVELS,),
}
"""What each sync job syncs of a store, in this order."""


class StoreProfile(NamedTuple):
    """What the platform says of a shop."""

    external_id: str
    shop_name: str
    currency: str
    timezone: str
    plan: str | None
    source_updated_at: str


class Location(NamedTuple):
    external_id: str
    source_updated_at: str
    name: str
    active: bool
    fulfills_online_orders: bool
    address: str | None
    city: str | None
    province_code: str | None
    country_code: str | None
    postal_code: str | None


class Product(NamedTuple):
    external_id: str
    source_updated_at: str
    title: str
    handle: str
    status: str
    vendor: str
    product_type: str
    tags: list[str]
    source_created_at: str


class ProductVariant(NamedTuple):
    external_id: str
    source_updated_at: str
    product_external_id: str
    inventory_item_external_id: str
    title: str
    sku: str | None
    barcode: str | None
    position: int
    price: str
    compare_at_price: str | None
    currency: str


class InventoryLevel(NamedTuple):
    external_id: str
    source_updated_at: str
    inventory_item_external_id: str
    location_external_id: str
    available: int
    on_hand: int
    committed: int
    incoming: int


Record = Location | Product | ProductVariant | InventoryLevel


@dataclass
class Page:
    """One answer of the platform.

    `resume` is an opaque token: given to `pages` again it goes on behind this page. `read` is how many rows the
    answer held: records, those gone, and rejects together. `source_count`, where the platform tells it, is how
    many rows of this resource it has in all. `vendor_time` is the vendor's clock when it answered.
    """

    read: int
    records: Sequence[Record]
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    resume: str | None = None
    source_count: int | None = None
    vendor_time: datetime | None = None


class Correction(NamedTuple):
    """A stock correction to be written: `available` of an item at a location, from what to what."""

    inventory_item_external_id: str
    location_external_id: str
    change_from_quantity: int
    quantity: int
    reason: str
    idempotency_key: str


class CorrectionOutcome(NamedTuple):
    """`applied`; `stale` with the quantity found there; or `rejected` with the platform's reason."""

    status: str
    found_quantity: int | None = None
    reason: str | None = None


class Platform(Protocol):
    """One store on its platform. Every method raises IntegrationError, classified, and nothing else.

    An instance serves one worker at a time.
    """

    def profile(self) -> StoreProfile: ...

    def pages(self, resource: Resource, *, since: datetime | None, resume: str | None) -> Iterator[Page]:
        """The rows of a resource: those changed at or after `since`, all where it is None, in a stable order.

        `resume` is the token of the last page that was kept. Always yields at least one page.
        """
        ...

    def correct_stock(self, correction: Correction) -> CorrectionOutcome:
        """Write one correction by compare-and-swap, under its idempotency key: doing it again does nothing."""
        ...

    def faults(self) -> list[str]:
        """What keeps this store from being synced (credentials, missing scopes), one sentence each."""
        ...

    def close(self) -> None: ...
