"""Records: the typed rows that platforms deliver, and the rows that could not be loaded.

A record is a named tuple whose fields are the columns of its table (`database/models.py`). Values are as the vendor
writes them, until they are read (`values.py`): times are ISO 8601 text, money is decimal text with a currency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from bg_pipelines.values import UNWRITABLE, Amount, Time, Whole


class Resource(StrEnum):
    """What a platform delivers as rows, each for the table of that name."""

    LOCATIONS = "locations"
    PRODUCTS = "products"
    PRODUCT_VARIANTS = "product_variants"
    INVENTORY_LEVELS = "inventory_levels"
    CUSTOMERS = "customers"
    ORDERS = "orders"


PARTS: dict[Resource, tuple[str, ...]] = {Resource.ORDERS: ("order_lines", "refunds")}
"""The tables of a row's parts: their `order_external_id` is the row's id. A row comes with all of its parts, and they
carry its `source_updated_at`; a stored part that does not come with it was deleted."""


class StoreProfile(NamedTuple):
    """The platform's profile of a shop."""

    external_id: str
    shop_name: str
    currency: str
    timezone: str
    plan: str | None
    source_updated_at: Time


class Location(NamedTuple):
    external_id: str
    source_updated_at: Time
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
    source_updated_at: Time
    title: str
    handle: str
    status: str
    vendor: str
    product_type: str
    tags: list[str]
    source_created_at: Time


class ProductVariant(NamedTuple):
    external_id: str
    source_updated_at: Time
    product_external_id: str
    inventory_item_external_id: str
    title: str
    sku: str | None
    barcode: str | None
    position: Whole
    price: Amount | None
    compare_at_price: Amount | None
    currency: str


class InventoryLevel(NamedTuple):
    external_id: str
    source_updated_at: Time
    inventory_item_external_id: str
    location_external_id: str
    available: Whole
    on_hand: Whole
    committed: Whole
    incoming: Whole


ADDRESS = (
    "first_name", "last_name", "company", "address_1", "address_2", "city", "province_code", "postal_code",
    "country_code", "phone",
)  # fmt: skip
"""The fields of an address of a customer; those that are null are left out."""


class Customer(NamedTuple):
    external_id: str
    source_updated_at: Time
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
    email_consent_at: Time | None
    email_consent_source: str | None
    sms_consent: str | None
    sms_consent_at: Time | None
    sms_consent_source: str | None
    orders_count: Whole | None
    total_spent: Amount | None
    currency: str | None
    source_created_at: Time


class Order(NamedTuple):
    external_id: str
    source_updated_at: Time
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
    subtotal: Amount | None
    discount: Amount | None
    tax: Amount | None
    total: Amount
    current_total: Amount | None
    email: str | None
    phone: str | None
    note: str | None
    tags: list[str]
    ordered_at: Time
    cancelled_at: Time | None
    cancel_reason: str | None
    closed_at: Time | None
    source_created_at: Time


class OrderLine(NamedTuple):
    external_id: str
    source_updated_at: Time
    order_external_id: str
    product_external_id: str | None
    variant_external_id: str | None
    title: str
    variant_title: str | None
    sku: str | None
    quantity: Amount
    current_quantity: Amount
    unit_price: Amount
    discount: Amount
    total: Amount
    currency: str


class Refund(NamedTuple):
    external_id: str
    source_updated_at: Time
    order_external_id: str
    sale_external_id: str | None
    amount: Amount
    currency: str
    note: str | None
    refunded_at: Time


Record = Location | Product | ProductVariant | InventoryLevel | Customer | Order


Part = OrderLine | Refund


@dataclass
class Page:
    """One answer of the platform.

    `resume` is an opaque token: given to `pages` again it continues after this page. `read` is how many rows the
    answer held: records, deleted ones and rejects together. `source_count`, where the platform reports it, is how many
    rows of this resource it has in all. `vendor_time` is the vendor's clock when it answered, or earlier where rows
    that have changed since then may come again with a later page. `parts` are those of the records, by their table;
    they are no rows of the answer. `listed_since`: rows that were created before it are not listed although they are
    there, so their absence means nothing. A page without rows but with a token is saved before the next is requested:
    it records that an export is about to be started, or was. `lists_all`: this page and those behind it are of all rows
    there are, whatever changes were asked for. `seconds_a_row`, where the platform tells its rate limit: how long a row
    takes at the pace that it allows, as the pages so far did. `readable`: its values have been read (`values.py`).
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
    lists_all: bool = False
    seconds_a_row: float | None = None
    readable: bool = False

    @property
    def parts_read(self) -> int:
        """How many parts its rows came with."""
        return sum(map(len, self.parts.values()))


def remedied(fault: str) -> str:
    """The fault of a rejected row, with what to do."""
    return f"{fault}; correct it at the source, it loads once it has changed there"


class Reject(NamedTuple):
    """A source row that cannot be loaded: why, and what it was; `table` where it is not the resource's own."""

    external_id: str | None
    reason: str
    payload: Any
    table: str | None = None

    def key(self) -> str:
        """The vendor's id, or a digest of the row where it has none, so that a repeat is the same row."""
        if (
            self.external_id
            and isinstance(self.external_id, str)
            and len(self.external_id) <= 500
            and not UNWRITABLE.search(self.external_id)
        ):
            return self.external_id
        return "sha256:" + hashlib.sha256(repr(self.payload).encode()).hexdigest()
