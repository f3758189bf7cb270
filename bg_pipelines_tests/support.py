"""What tests of several rooms share: a scripted platform, waiting, and comparing the database with its source."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg.rows import dict_row

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.stores import NewStore
from bg_pipelines.platforms.protocol import Look, Platform, StoreAccess
from bg_pipelines.platforms.shopify import platform as shopify_platform
from bg_pipelines.platforms.square import platform as square_platform
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.records import Page, Product, Resource, StoreProfile
from bg_pipelines.sandbox import Sandbox, Shop
from bg_pipelines.settings import SHOPIFY_API_VERSION
from bg_pipelines.sync import Limits
from bg_pipelines.work import store_units, visits
from bg_pipelines.work.store_units import Claim

PROJECT = Path(__file__).parent.parent
START = 1_795_000_000.0  # 2026-11-18T11:06:40Z
KEY = "0" * 43 + "="
CATALOGUE = (*JOB_UNITS["store_sync"], *JOB_UNITS["inventory_sync"])
SALES = JOB_UNITS["customer_sync"]
PATIENCE = 120
"""Seconds a test waits for what should happen within a few, on a machine that has much else to do."""
TABLES = tuple(unit.resource for unit in CATALOGUE if unit.resource is not None)


def query(database: Database, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    with database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def expire_leases(database: Database) -> None:
    query(database, "UPDATE sync_states SET lease_expires_at = now() WHERE lease_owner IS NOT NULL")
    query(database, "UPDATE visited_units SET expires_at = now()")


def claim_due(connection: psycopg.Connection[Any], units: Sequence[str], **options: Any) -> list[Claim]:
    """What `visits.take` finds due, all of it claimed; the visits are over."""
    due = visits.take(connection, units, **options)
    claimed: list[Claim] = []
    for store in dict.fromkeys(unit.store_id for unit in due):
        of_store = [unit for unit in due if unit.store_id == store]
        claimed += store_units.claim(connection, of_store, lease=options["lease"], now=options.get("now"))
    visits.end(connection, [(unit.owner, unit.store_id) for unit in due])
    return claimed


class Scripted:
    """A platform with a script of product pages; each pass takes what it needs, up to a page without `resume`.

    An item that can be called is called instead of delivered.
    """

    def __init__(self, pages: list[Any]) -> None:
        self._pages = iter(pages)

    def profile(self) -> StoreProfile:
        return StoreProfile("1", "shop", "EUR", "Europe/Berlin", None, "2026-01-01T00:00:00Z")

    corrections_a_call = 250
    webhooks = None
    late_arrivals: ClassVar[dict[Resource, timedelta]] = {}
    undated: ClassVar[frozenset[Resource]] = frozenset()

    def look(self, since: Mapping[Resource, datetime], *, profile: bool) -> Look:
        """Anything may have changed."""
        return Look(frozenset(since), {}, {})

    def lookback(self, resource: Resource) -> timedelta:
        return timedelta(minutes=10)

    def pages(
        self, resource: Resource, *, since: datetime | None, resume: str | None, bulk: bool | None = None
    ) -> Iterator[Page]:
        for step in self._pages:
            if callable(step):
                step()
            else:
                yield step
                if step.resume is None:
                    return

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        """None of them is there any more."""
        return Page(len(external_ids), [], gone=list(external_ids))

    def close(self) -> None: ...


def with_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a `SyncRun`, with those that are a limit's taken together."""
    names = {field.name for field in dataclasses.fields(Limits)} & options.keys()
    return {
        **{name: value for name, value in options.items() if name not in names},
        "limits": Limits(**{name: options[name] for name in names}),
    }


def product(number: int) -> Product:
    time_ = "2026-01-01T00:00:00Z"
    return Product(str(number), time_, "title", f"handle-{number}", "ACTIVE", "vendor", "type", [], time_)


def page(*numbers: int, resume: str | None = None, source_count: int | None = None) -> Page:
    return Page(len(numbers), [product(n) for n in numbers], resume=resume, source_count=source_count)


def product_ids(database: Database) -> set[str]:
    return {row["external_id"] for row in query(database, "SELECT * FROM products WHERE deleted_at IS NULL")}


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


class LongestDelays(random.Random):
    """Of a delay's random part the whole: what fails is not tried again by the run that it failed in."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class HandClock:
    """Stands until it is slept by or a test moves its `seconds`; remembers the sleeps."""

    def __init__(self) -> None:
        self.seconds = START
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


Connect = Callable[[StoreAccess, Callable[[float], object]], Platform]


def connect_by(**options: dict[str, Any]) -> Connect:
    """How a run reaches its stores, with options by platform: `connect_by(shopify={"sizes": PageSizes(rows=20)})`."""

    def connect(access: StoreAccess, sleep: Callable[[float], object]) -> Platform:
        given = options.get(access.platform)
        if given is None:
            return platforms.connect(access, api_version=SHOPIFY_API_VERSION, sleep=sleep)
        module = {"shopify": shopify_platform, "square": square_platform}[access.platform]
        platform: Platform = module.connect(access, api_version=SHOPIFY_API_VERSION, sleep=sleep, **given)
        return platform

    return connect


class DatabaseClock:
    """The clock of a test's database, which is the only one the product goes by: set by hand, for new connections.

    PostgreSQL looks for its own functions first, unless the search path says otherwise.
    """

    FUNCTIONS = ("clock_timestamp", "statement_timestamp", "transaction_timestamp", "now")

    def __init__(self, url: str, start: datetime) -> None:
        self.connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self.connection.execute("CREATE SCHEMA clock; CREATE TABLE clock.hands (time timestamptz)")
        self.connection.execute("INSERT INTO clock.hands VALUES (%s)", (start,))
        self.now = start
        for name in self.FUNCTIONS:
            self.connection.execute(
                f"CREATE FUNCTION clock.{name}() RETURNS timestamptz LANGUAGE sql STABLE "
                "AS 'SELECT time FROM clock.hands'"
            )
        # A column's default keeps the function that it was made with.
        for table, column in self.connection.execute(
            "SELECT adrelid::regclass::text, attname FROM pg_attrdef JOIN pg_attribute a ON a.attrelid = adrelid "
            "AND a.attnum = adnum WHERE pg_get_expr(adbin, adrelid) = 'now()'"
        ).fetchall():
            self.connection.execute(f"ALTER TABLE {table} ALTER {column} SET DEFAULT clock.now()")
        [database] = self.connection.execute("SELECT current_database()").fetchone() or ()
        self.connection.execute(f"ALTER DATABASE {database} SET search_path = clock, public, pg_catalog")

    def set(self, now: datetime) -> None:
        self.connection.execute("UPDATE clock.hands SET time = %s", (now,))
        self.now = now

    def advance(self, **time: float) -> datetime:
        now = self.now + timedelta(**time)
        self.set(now)
        return now


def as_store(shop: Shop, **changes: Any) -> NewStore:
    """The store a sandbox shop is, as a person would add it. Its name is the first part of its domain."""
    values = {
        "name": shop.domain.split(".")[0],
        "platform": "shopify",
        "domain": shop.domain,
        "tier": shop.tier,
        "api_url": shop.api_url,
        "token": shop.token,
    }
    return NewStore(**{**values, **changes})


def source_rows(shop: Shop, resource: Resource) -> set[tuple[str, str]]:
    """(id, updatedAt) of what a sandbox shop holds of a resource, as it should stand in our table."""
    rows = shop.export()[resource.value]
    return {
        (row["id"], row["updatedAt"])
        for row in rows
        if resource is not Resource.INVENTORY_LEVELS or row["isActive"]
    }


def loaded_rows(database: Database, domain: str, resource: Resource) -> set[tuple[str, str]]:
    """(id, updatedAt) of what we hold of a resource of a store, as the vendor writes them."""
    with database.transaction() as connection:
        return {
            (external_id, updated_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
            for external_id, updated_at in connection.execute(
                f"SELECT t.external_id, t.source_updated_at FROM {resource.value} t JOIN stores s ON s.id = t.store_id "
                "WHERE s.domain = %s AND t.deleted_at IS NULL",
                (domain,),
            )
        }


def assert_equal_to_source(database: Database, sandbox: Sandbox, *domains: str) -> None:
    """Every row of these shops (all, if none is named) is held as the source has it, and no other."""
    for domain in domains or tuple(sandbox.world.shops):
        for resource in TABLES:
            assert loaded_rows(database, domain, resource) == source_rows(
                sandbox.world.shops[domain], resource
            )


def assert_sales_equal_to_source(database: Database, sandbox: Sandbox, *domains: str) -> None:
    """Customers and orders of these shops (all, if none is named), with lines and refunds, are held as the source has them."""
    for domain in domains or tuple(sandbox.world.shops):
        shop = sandbox.world.shops[domain]
        for resource in (Resource.CUSTOMERS, Resource.ORDERS):
            assert loaded_rows(database, domain, resource) == source_rows(shop, resource)
        export = shop.export(["orders"])["orders"]
        lines = {
            (line["id"], order["id"], line["quantity"], line["currentQuantity"], order["updatedAt"])
            for order in export
            for line in order["lineItems"]
        }
        refunds = {
            (refund["id"], order["id"], Decimal(refund["totalRefundedSet"]["shopMoney"]["amount"]))
            for order in export
            for refund in order["refunds"]
        }
        with database.transaction() as connection:
            assert lines == {
                (*row, updated_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
                for *row, updated_at in connection.execute(
                    "SELECT l.external_id, order_external_id, quantity, current_quantity, l.source_updated_at "
                    "FROM order_lines l JOIN stores s ON s.id = l.store_id WHERE s.domain = %s AND l.deleted_at IS NULL",
                    (domain,),
                )
            }
            assert refunds == set(
                connection.execute(
                    "SELECT r.external_id, order_external_id, amount FROM refunds r JOIN stores s ON s.id = r.store_id "
                    "WHERE s.domain = %s AND r.deleted_at IS NULL",
                    (domain,),
                )
            )
