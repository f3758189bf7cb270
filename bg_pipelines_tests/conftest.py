"""What tests stand on: a real PostgreSQL (one server a worker, a database a test) and a real sandbox over HTTP."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster_postgres.storage import DagsterPostgresStorage
from graphql import GraphQLSchema, build_client_schema

from bg_pipelines.database import embedded
from bg_pipelines.database.embedded import EmbeddedServer
from bg_pipelines.database.engine import Database, embedded_url
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Sandbox, World
from bg_pipelines.settings import driver_url
from bg_pipelines.sync import Limits, Summary, SyncRequest, SyncRun
from bg_pipelines_tests.support import (
    CATALOGUE,
    KEY,
    PROJECT,
    Connect,
    DatabaseClock,
    LongestDelays,
    as_store,
    connect_by,
    with_limits,
)

SERVER_HOME = pytest.StashKey[Path]()

MEMORY = Path("/dev/shm")
# A database is hundreds of small files: in memory it is made in a tenth of the time.
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    # One folder a checkout: pytest closes the folder to other users when a session starts, and PostgreSQL of a session
    # under way, which is another user where tests run as root, would lose its data.
    root = MEMORY / f"bg-{zlib.crc32(str(PROJECT).encode()):08x}"
    root.mkdir(exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(root))
# The size of the terminal, which is no test's business, and which pytest's workers are given by readline.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

LONGEST = (
    "test_crashes",
    "test_up",
    "test_run_queue",
    "test_demo",
    "test_watchdog",
    "test_jobs",
    "test_afternoon",
    "test_real_processes",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first. The first worker has them all, so that no two daemons starve each other, and the others take from
    it what else it has (`--dist worksteal` takes from the end). Three workers for two processors: these tests mostly wait. What is marked `full` is left out, unless
    BG_TEST_FULL=1."""
    if os.environ.get("BG_TEST_FULL") != "1":
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
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
    passed: set[int] = set()  # one that was raised again may lead back to itself
    while error is not None and not isinstance(error, psycopg.OperationalError):
        passed.add(id(error))
        error = error.__cause__ or error.__context__
        if id(error) in passed:
            error = None
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
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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


@contextmanager
def database_made(server: EmbeddedServer, name: str, template: str = "template") -> Iterator[str]:
    """A copy of a database, by its URL, for as long as it is needed."""
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield server.url(name)
        # A database in use is looked at again every 100 ms; its last connections are gone sooner.
        in_use = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        deadline = time.monotonic() + 1
        while connection.execute(in_use, (name,)).fetchone() and time.monotonic() < deadline:
            time.sleep(0.002)
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database_url(server_home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test's own, migrated and empty."""
    name = f"test_{abs(hash(request.node.nodeid)) % 10**12}"
    with database_made(embedded.ensure(server_home), name) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


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
    return schema_of("2026-07")


@pytest.fixture(scope="session")
def next_vendor() -> GraphQLSchema:
    """That of the version that comes next."""
    return schema_of("2026-10")


def schema_of(version: str) -> GraphQLSchema:
    folder = Path(os.environ.get("BG_VENDOR_SPECS", PROJECT.parent / "shared" / "vendor"))
    path = folder / f"shopify_admin_{version}.json.gz"
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


@pytest.fixture
def add_shops(database: Database, cipher: Cipher) -> Callable[..., list[str]]:
    """Add all shops of a sandbox as stores; returns their names."""

    def add(sandbox: Sandbox) -> list[str]:
        stores = [as_store(shop) for shop in sandbox.world.shops.values()]
        save_stores(database, cipher, stores)
        return [store.name for store in stores]

    return add


@pytest.fixture
def connect_stores() -> Connect:
    """How a run reaches its stores; tests of small pages have their own."""
    return connect_by()


@pytest.fixture
def sync(database: Database, cipher: Cipher, connect_stores: Connect) -> Callable[..., Summary]:
    """Run one sync: `sync(units=(Unit.PRODUCTS,), stores=("harbor",), force=True)`."""

    def run(
        *,
        units: tuple[Unit, ...] = CATALOGUE,
        run_id: str = "test-run",
        log: Any = None,
        connect: Connect | None = None,
        **request: Any,
    ) -> Summary:
        options = {"rng": LongestDelays()} | {
            key: request.pop(key)
            for key in (
                *("lease", "progress_seconds", "turn_seconds", "policies", "rng", "processes", "coverage"),
                *(field.name for field in dataclasses.fields(Limits)),
            )
            if key in request
        }
        return SyncRun(
            database,
            cipher,
            SyncRequest(units, **request),
            run_id=run_id,
            connect=connect or connect_stores,
            log=log or (lambda _: None),
            **with_limits(options),
        ).run()

    return run


@pytest.fixture(scope="session")
def shared_database(server_home: Path) -> Iterator[str]:
    """The name of a database that rooms of many small tests share; see `emptied_database_url`."""
    with database_made(embedded.ensure(server_home), "test_shared"):
        yield "test_shared"


@pytest.fixture
def emptied_database_url(shared_database: str, server_home: Path) -> str:
    """The shared database, emptied before the test: that is ten times quicker than a database of its own."""
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url(shared_database, driver=None)) as connection:
        connection.execute(
            "TRUNCATE stores, locations, products, product_variants, inventory_levels, customers, orders, order_lines, "
            "refunds, webhook_subscriptions RESTART IDENTITY CASCADE"
        )
    return server.url(shared_database)


@pytest.fixture(scope="module")
def own_database(server_home: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """One database for a file whose tests are each rolled back: they leave nothing in it."""
    name = request.module.__name__.rpartition(".")[2]
    with database_made(embedded.ensure(server_home), name) as url:
        database = Database(url)
        yield database
        database.close()


@pytest.fixture
def connection(own_database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose transaction is rolled back at the end of the test."""
    with own_database.transaction() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a process that works on this test's database."""
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)


@pytest.fixture
def dagster_url(server_home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test's own for Dagster's storage, with its tables and nothing in them."""
    name = f"dagster_{abs(hash(request.node.nodeid)) % 10**12}"
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        made = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'dagster_template'").fetchone()
        if made is None:
            connection.execute("CREATE DATABASE dagster_template")
            DagsterPostgresStorage(driver_url(server.url("dagster_template"), "psycopg2"))
    with database_made(server, name, "dagster_template") as url:
        yield url


@pytest.fixture
def instance(
    dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance as dagster.yaml says, with a storage of its own."""
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", dagster_url)
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Callable[..., Any]:
    """Type a command on a machine with a migrated database: `run("stores", "list")`."""
    # Here, for the program takes the terminal's size from the environment when it is imported.
    from bg_pipelines_tests.typed import type_in

    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)

    return type_in
