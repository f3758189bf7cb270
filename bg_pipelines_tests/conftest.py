"""What tests stand on: a real PostgreSQL (one server a worker, a database a test) and a real sandbox over HTTP."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from graphql import GraphQLSchema, build_client_schema

from bg_pipelines import platforms
from bg_pipelines.database import embedded
from bg_pipelines.database.embedded import EmbeddedServer
from bg_pipelines.database.engine import Database, embedded_url
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.base import JOB_RESOURCES, Resource
from bg_pipelines.sandbox import Sandbox, Shop, World
from bg_pipelines.sync import Summary, SyncRequest, SyncRun

PROJECT = Path(__file__).parent.parent
KEY = "0" * 43 + "="
CATALOGUE = (*JOB_RESOURCES["store_sync"], *JOB_RESOURCES["inventory_sync"])
SALES = JOB_RESOURCES["customer_sync"]
PATIENCE = 120
"""Seconds a test waits for what should happen within a few, on a machine that has much else to do."""
SERVER_HOME = pytest.StashKey[Path]()

MEMORY = Path("/dev/shm")
# A database is hundreds of small files: in memory it is made in a tenth of the time.
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
# The size of the terminal, which is no test's business, and which pytest's workers are given by readline.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

LONGEST = ("test_crashes", "test_queue", "test_demo", "test_jobs", "test_afternoon")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first. Of two workers the first has them all, so that no two daemons starve each other, and the second
    takes from it what else it has (`--dist worksteal` takes from the end)."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where the session's server failed a test, the end of what it says is shown with it."""
    report = yield
    home = item.config.stash.get(SERVER_HOME, None)
    error: BaseException | None = call.excinfo.value if call.excinfo and report.failed else None
    while error is not None and not isinstance(error, psycopg.OperationalError):
        error = error.__cause__ or error.__context__
    if error is not None and home is not None:
        log = EmbeddedServer(home).log.read_text(errors="replace").splitlines()
        report.sections.append(("the end of postgres.log", "\n".join(log[-60:])))
    return report


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine's, and no .env file, reaches a test."""
    for name in os.environ:
        if name.startswith("BG_") and name != "BG_VENDOR_SPECS":
            monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The home of the session's embedded server, with a migrated database named `template`."""
    home = pytestconfig.stash[SERVER_HOME] = tmp_path_factory.mktemp("server")
    server = embedded.ensure(home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        # Nothing here outlives the session; crashes of the server are tested in homes of their own.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    database = Database(embedded_url(home, "template"))
    database.migrate()
    database.close()
    yield home
    embedded.release(home)


@pytest.fixture
def database_url(server_home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test's own, migrated and empty."""
    name = f"test_{abs(hash(request.node.nodeid)) % 10**12}"
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template")
        yield server.url(name)
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


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


@pytest.fixture
def clock(database_url: str) -> Iterator[DatabaseClock]:
    """Noon of a Monday, until the test says otherwise. Ask for it before `database`."""
    clock = DatabaseClock(database_url, datetime(2026, 11, 23, 12, tzinfo=UTC))
    yield clock
    clock.connection.close()


@pytest.fixture
def cipher() -> Cipher:
    return Cipher(KEY)


@pytest.fixture(scope="session")
def vendor() -> GraphQLSchema:
    """Shopify's own introspection, found by BG_VENDOR_SPECS."""
    folder = Path(os.environ.get("BG_VENDOR_SPECS", PROJECT.parent / "shared" / "vendor"))
    path = folder / "shopify_admin_2026-07.json.gz"
    if not path.exists():
        pytest.skip(f"the vendor's introspection is not at {path}; set BG_VENDOR_SPECS")
    with gzip.open(path) as file:
        return build_client_schema(json.load(file)["data"], assume_valid=True)


@pytest.fixture
def make_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes of any size: `make_sandbox(shops=3, variants=60)`."""
    running: list[Sandbox] = []

    def make(**options: Any) -> Sandbox:
        sandbox = Sandbox(World(**options), port=0)
        running.append(sandbox.__enter__())
        return sandbox

    yield make
    for sandbox in running:
        sandbox.__exit__(None, None, None)


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


@pytest.fixture
def add_shops(database: Database, cipher: Cipher) -> Callable[..., list[str]]:
    """Add all shops of a sandbox as stores; returns their names."""

    def add(sandbox: Sandbox) -> list[str]:
        stores = [as_store(shop) for shop in sandbox.world.shops.values()]
        save_stores(database, cipher, stores)
        return [store.name for store in stores]

    return add


@pytest.fixture
def sync(database: Database, cipher: Cipher) -> Callable[..., Summary]:
    """Run one sync: `sync(resources=(Resource.PRODUCTS,), stores=("harbor",), force=True)`."""

    def run(
        *,
        resources: tuple[Resource, ...] = CATALOGUE,
        run_id: str = "test-run",
        log: Any = None,
        **request: Any,
    ) -> Summary:
        options = {
            key: request.pop(key)
            for key in ("lease", "load_rows", "progress_seconds", "turn_seconds", "policies", "rng")
            if key in request
        }
        return SyncRun(
            database,
            cipher,
            SyncRequest(resources, **request),
            run_id=run_id,
            connect=lambda access, sleep: platforms.connect(access, api_version="2026-07", sleep=sleep),
            log=log or (lambda _: None),
            **options,
        ).run()

    return run


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


TABLES = tuple(resource for resource in CATALOGUE if resource is not Resource.STORE)


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
        for resource in SALES:
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
