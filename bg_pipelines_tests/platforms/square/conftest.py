"""Merchants of a running sandbox, platforms that talk to them, and what must be held of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.platforms.square.client import SquareClient
from bg_pipelines.platforms.square.platform import PAGE_SIZES, PageSizes, SquarePlatform
from bg_pipelines.records import Page, Resource
from bg_pipelines.sandbox import Merchant, Sandbox, World, edit
from bg_pipelines_tests.support import START, HandClock, connect_by
from bg_pipelines_tests.support import Connect as ConnectStores

Node = dict[str, Any]
Connect = Callable[..., SquarePlatform]
AddMerchants = Callable[[Sandbox], list[Merchant]]
TABLES = tuple(Resource)
MINOR_UNITS = {"JPY": 0, "BHD": 3}


def of_type(export: Node, kind: str) -> list[Node]:
    return [row for row in export["objects"] if row["type"] == kind and not row["is_deleted"]]


def money(value: Node) -> Decimal:
    return Decimal(value["amount"]).scaleb(-MINOR_UNITS.get(value["currency"], 2))


def source(merchant: Merchant) -> dict[str, set[Any]]:
    """By table: each row's id, its time of change and what tells it from what it was."""
    export = merchant.export()
    orders = export["orders"]
    return {
        "locations": {(row["id"], row["name"], row["status"] == "ACTIVE") for row in export["locations"]},
        "products": {
            (row["id"], row["updated_at"], row["item_data"]["name"]) for row in of_type(export, "ITEM")
        },
        "product_variants": {
            (row["id"], row["updated_at"], data["item_id"], money(price) if price else None)
            for row in of_type(export, "ITEM_VARIATION")
            for data in [row["item_variation_data"]]
            for price in [data.get("price_money")]
        },
        "inventory_levels": {
            (f"{row['catalog_object_id']}@{row['location_id']}", row["calculated_at"], int(row["quantity"]))
            for row in export["counts"]
            if row["state"] == "IN_STOCK"
        },
        "customers": {
            (row["id"], row["updated_at"], row.get("given_name"), row.get("email_address"), row.get("note"))
            for row in export["customers"]
        },
        "orders": {
            (row["id"], row["updated_at"], row["location_id"], money(row["total_money"])) for row in orders
        },
        "order_lines": {
            (f"{row['id']}/{line['uid']}", row["updated_at"], row["id"], Decimal(line["quantity"]))
            for row in orders
            for line in row.get("line_items", [])
        },
        "refunds": {
            (
                row["id"],
                row["updated_at"],
                one["source_order_id"],
                money(one["return_amounts"]["total_money"]),
            )
            for row in orders
            for one in row.get("returns", [])
        },
    }


HELD = {
    "locations": "external_id, name, active",
    "products": "external_id, source_updated_at, title",
    "product_variants": "external_id, source_updated_at, product_external_id, price",
    "inventory_levels": "external_id, source_updated_at, available",
    "customers": "external_id, source_updated_at, first_name, email, note",
    "orders": "external_id, source_updated_at, location_external_id, total",
    "order_lines": "external_id, source_updated_at, order_external_id, quantity",
    "refunds": "order_external_id, source_updated_at, sale_external_id, amount",
}


def assert_equal_to_merchant(database: Database, merchant: Merchant) -> None:
    expected = source(merchant)
    with database.transaction() as connection:
        for table, columns in HELD.items():
            rows = connection.execute(
                f"SELECT {columns} FROM {table} WHERE deleted_at IS NULL "
                "AND store_id = (SELECT id FROM stores WHERE domain = %s)",
                (merchant.id.lower(),),
            )
            held = {tuple(shown(value) for value in row) for row in rows}
            assert held == expected[table], table


def shown(value: Any) -> Any:
    """A time as Square writes it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def as_store(merchant: Merchant, **changes: Any) -> NewStore:
    values = {"name": merchant.id.lower(), "platform": "square", "domain": merchant.id.lower()}
    return NewStore(**{**values, "api_url": merchant.api_url, "token": merchant.token, **changes})


@pytest.fixture
def add_merchants(database: Database, cipher: Cipher) -> AddMerchants:
    """Add all merchants of a sandbox as stores."""

    def add(sandbox: Sandbox) -> list[Merchant]:
        merchants = list(sandbox.world.square_merchants.values())
        save_stores(database, cipher, [as_store(merchant) for merchant in merchants])
        return merchants

    return add


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    world = World(
        shops=1,
        variants=0,
        clock=lambda: START,
        merchants=4,
        square_variants=240,
        square_customers=600,
        square_orders=700,
    )
    with Sandbox(world, port=0) as running:
        yield running


@pytest.fixture
def merchants(sandbox: Sandbox) -> Iterator[list[Merchant]]:
    """In dollars with 3 locations, in euros with 12, in yen with 1, in dinars with 14."""
    merchants = list(sandbox.world.square_merchants.values())
    yield merchants
    for merchant in merchants:
        merchant.faults.clear()
        merchant.requests.clear()
        merchant.void.clear()
        edit(merchant, "set_search_lag", seconds=0)


@pytest.fixture
def merchant(merchants: list[Merchant]) -> Merchant:
    """The one with more locations than one call may name."""
    return merchants[1]


@pytest.fixture
def connect(clock: HandClock, sizes: PageSizes) -> Iterator[Connect]:
    """Make a platform that waits by the hand clock: `connect(merchant)`."""
    made: list[SquarePlatform] = []

    def make(merchant: Merchant | None = None, **options: Any) -> SquarePlatform:
        of_platform = {"sizes": options.pop("sizes", sizes), "name": options.pop("name", "harbor")}
        given = {"token": merchant.token, "base_url": merchant.api_url} if merchant is not None else {}
        by_hand = {"sleep": clock.sleep, "clock": clock, "timeouts": Timeouts(2.0, 5.0, 10.0)}
        made.append(SquarePlatform(SquareClient(**{**given, **by_hand, **options}), **of_platform))
        return made[-1]

    yield make
    for platform in made:
        platform.close()


@pytest.fixture
def small_pages() -> PageSizes:
    return PageSizes(customers=20, orders=30, objects=4, counts=80)


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> PageSizes:
    """Small, where a test asks for `small_pages`."""
    small = "small_pages" in request.fixturenames
    return request.getfixturevalue("small_pages") if small else PAGE_SIZES


@pytest.fixture
def connect_stores(sizes: PageSizes) -> ConnectStores:
    return connect_by(square={"sizes": sizes})


def read(
    platform: Platform, resource: Resource, since: datetime | None = None, resume: str | None = None
) -> list[Page]:
    return list(platform.pages(resource, since=since, resume=resume))


def ids(pages: list[Page]) -> list[str]:
    return [record.external_id for page in pages for record in page.records]


def assert_accounted(pages: list[Page]) -> None:
    for page in pages:
        assert page.read == len(page.records) + len(page.gone) + len(page.rejects)
