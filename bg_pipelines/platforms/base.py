"""What a platform (where stores live) is to the rest: a protocol, and the typed records it delivers.

A new platform is one file, with a `Platform` and a `connect` that makes one of a `StoreAccess`, and one line in
`platforms/__init__.py`. Records are named
tuples whose fields are the columns of their table (`database/models.py`); values are as the vendor writes them,
PostgreSQL checks them. Times are ISO 8601 texts, money is decimal text with a currency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from bg_pipelines.database.load import Reject


class Resource(StrEnum):
    """What is done for a store. `STORE` is its profile and `AUDIT` the look for drift; the others are tables of that name."""

    STORE = "store"
    LOCATIONS = "locations"
    PRODUCTS = "products"
    PRODUCT_VARIANTS = "product_variants"
    INVENTORY_LEVELS = "inventory_levels"
    CUSTOMERS = "customers"
    ORDERS = "orders"
    AUDIT = "audit"


JOB_RESOURCES: dict[str, tuple[Resource, ...]] = {
    # The profile first: a store that cannot be reached shows in the cheapest call.
    "store_sync": (Resource.STORE, Resource.LOCATIONS, Resource.PRODUCTS, Resource.PRODUCT_VARIANTS),
    "inventory_sync": (Resource.INVENTORY_LEVELS,),
    "customer_sync": (Resource.CUSTOMERS, Resource.ORDERS),
    "drift_audit": (Resource.AUDIT,),
}
"""What each sync job syncs of a store, in this order."""

PARTS: dict[Resource, tuple[str, ...]] = {Resource.ORDERS: ("order_lines", "refunds")}
"""The tables of what a row consists of and comes with: their `order_external_id` is the row's id. A row comes with
all of its parts, and they carry its `source_updated_at`; a part that is held and does not come with it is gone."""


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
    price: str | None
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


ADDRESS = (
    "first_name", "last_name", "company", "address_1", "address_2", "city", "province_code", "postal_code",
    "country_code", "phone",
)  # fmt: skip
"""The fields of an address of a customer; those that are null are left out."""


class Customer(NamedTuple):
    external_id: str
    source_updated_at: str
    first_name: str | None
    last_name: str | None
    company: str | None
    email: str | None
    email_verified: bool
    phone: str | None
    phone_given: str | None
    addresses: str
    """A JSON list of objects, see `ADDRESS`; the default one first."""
    tags: list[str]
    locale: str | None
    note: str | None
    email_consent: str | None
    email_consent_at: str | None
    email_consent_source: str | None
    sms_consent: str | None
    sms_consent_at: str | None
    sms_consent_source: str | None
    orders_count: int | str | None
    total_spent: str | None
    currency: str | None
    source_created_at: str


class Order(NamedTuple):
    external_id: str
    source_updated_at: str
    name: str
    customer_external_id: str | None
    location_external_id: str | None
    channel: str | None
    status: str
    financial_status: str | None
    fulfillment_status: str | None
    is_return: bool
    is_test: bool
    currency: str
    subtotal: str | None
    discount: str | None
    tax: str | None
    total: str
    email: str | None
    phone: str | None
    note: str | None
    tags: list[str]
    ordered_at: str
    cancelled_at: str | None
    cancel_reason: str | None
    closed_at: str | None
    source_created_at: str


class OrderLine(NamedTuple):
    external_id: str
    source_updated_at: str
    order_external_id: str
    product_external_id: str | None
    variant_external_id: str | None
    title: str
    variant_title: str | None
    sku: str | None
    quantity: int | str
    current_quantity: int | str
    unit_price: str
    discount: str
    total: str
    currency: str


class Refund(NamedTuple):
    external_id: str
    source_updated_at: str
    order_external_id: str
    sale_external_id: str | None
    amount: str
    currency: str
    note: str | None
    refunded_at: str


Record = Location | Product | ProductVariant | InventoryLevel | Customer | Order
Part = OrderLine | Refund


@dataclass(frozen=True)
class StoreAccess:
    """How to reach a store. `credentials` are decrypted; `save_credentials` keeps them when they were renewed."""

    name: str
    platform: str
    domain: str
    api_url: str | None
    credentials: Mapping[str, Any] = field(repr=False)
    save_credentials: Callable[[Mapping[str, Any]], None] = field(repr=False, default=lambda _: None)

    @property
    def base_url(self) -> str:
        return self.api_url or f"https://{self.domain}"


@dataclass
class Page:
    """One answer of the platform.

    `resume` is an opaque token: given to `pages` again it goes on behind this page. `read` is how many rows the
    answer held: records, those gone, and rejects together. `source_count`, where the platform tells it, is how
    many rows of this resource it has in all. `vendor_time` is the vendor's clock when it answered, or earlier where
    rows that have changed since then may come again with a later page. `parts` are those of the records, by their
    table; they are no rows of the answer. `listed_since`: rows that were created before it are not listed although
    they are there, so their absence means nothing. A page without rows but with a token is kept before the next is
    asked for: it says that something is about to be begun, or was.
    """

    read: int
    records: Sequence[Record]
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    resume: str | None = None
    source_count: int | None = None
    vendor_time: datetime | None = None
    parts: dict[str, list[Part]] = field(default_factory=dict)
    listed_since: datetime | None = None

    @property
    def parts_read(self) -> int:
        """How many parts its rows came with."""
        return sum(map(len, self.parts.values()))


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


class UpdateOutcome(NamedTuple):
    """`applied`, with the row as the platform has it now; or `rejected` with the platform's reason, without values."""

    status: str
    page: Page | None = None
    reason: str | None = None


class Platform(Protocol):
    """One store on its platform. Every method raises IntegrationError, classified, and nothing else.

    An instance serves one worker at a time.
    """

    def profile(self) -> StoreProfile: ...

    def pages(
        self, resource: Resource, *, since: datetime | None, resume: str | None, bulk: bool | None = None
    ) -> Iterator[Page]:
        """The rows of a resource: those changed at or after `since`, all where it is None, in a stable order.

        `resume` is the token of the last page that was kept. Always yields at least one page. `bulk` says whether
        all rows are to be exported as one file rather than listed, on a platform that can; None: as their number
        suggests. Raises IntegrationError (operation_running) while such an export is not ready: the work is to be
        tried again later, with the token of the last page; (operation_failed) if it came to nothing, or (count_mismatch)
        if it was not the whole: then the tokens are void.
        """
        ...

    def overlap(self, resource: Resource) -> timedelta:
        """How late a change may show in `pages(since=)`: so far back a pass begins behind the last one's start."""
        ...

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        """These rows, 100 at most, as they are now; those that are not there any more are in `gone`."""
        ...

    undated: frozenset[Resource]
    """Resources whose rows do not tell when they were changed."""

    editable: frozenset[str]
    """The columns of `customers` that can be changed there; none: it takes no edits."""

    def update_customer(self, external_id: str, values: Mapping[str, Any]) -> UpdateOutcome:
        """Set columns of `customers` (from `editable`) to these values; None takes a value away.

        Doing it again changes nothing.
        """
        ...

    def correct_stock(self, correction: Correction) -> CorrectionOutcome:
        """Write one correction by compare-and-swap, under its idempotency key: doing it again does nothing."""
        ...

    def faults(self) -> list[str]:
        """What keeps this store from being synced (credentials, missing scopes), one sentence each."""
        ...

    def close(self) -> None: ...
