"""A fleet of stores in a database of its own, and what is used up while they are visited.

    with fleet(stores=1_000) as made:
        made.vendor.change(made.some(0.01))
        made.make_due()
        with made.costs() as used:
            made.run_job("inventory_sync")
        used.transactions, used.wal_bytes, used.run_seconds, used.postgres_seconds

One store is synced by the product, until a pass finds nothing new; the others are copies of its rows with the same cursors, as
if each had been synced itself: what is measured is the days after that.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import sqlalchemy as sa

from benchmarks.harness import fleet_vendor
from benchmarks.harness.machine import libpq, own_postgres, postmaster, processor_seconds
from benchmarks.harness.page_server import TOKEN
from benchmarks.harness.store import CIPHER, KEY, connect
from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Store, Synced, SyncState
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.queues import JOB_UNITS, TICK, Unit
from bg_pipelines.sync import SyncRequest, SyncRun

JOBS = ("store_sync", "inventory_sync", "customer_sync")
UNITS: tuple[Unit, ...] = tuple(unit for job in JOBS for unit in JOB_UNITS[job])
PROJECT = Path(__file__).parent.parent.parent
TURN_SECONDS = TICK.total_seconds()
DAGSTER = "dagster"
"""The name of Dagster's database."""
_OWN = {
    Store: ("id", "name", "domain", "api_url", "credentials", "created_at"),
    SyncState: ("store_id", "resource", "next_due_at", "lease_owner", "lease_expires_at"),
}
"""What no store takes over from the first."""


@dataclass
class Costs:
    """What was used between two moments, by all of the product."""

    seconds: float = 0.0
    run_seconds: float = 0.0
    """Processor time of the processes that run jobs."""
    postgres_seconds: float = 0.0
    vendor_seconds: float = 0.0
    transactions: int = 0
    """In the application's database."""
    dagster_transactions: int = 0
    wal_bytes: int = 0
    wal_full_pages: int = 0
    """Pages that were written into the WAL whole, for each is so once after a checkpoint."""

    def __add__(self, other: Costs) -> Costs:
        return Costs(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class _Reading(NamedTuple):
    at: float
    transactions: int
    dagster_transactions: int
    wal_bytes: int
    wal_full_pages: int
    postgres_seconds: float
    vendor_seconds: float


class Fleet:
    def __init__(
        self, url: str, database: Database, vendor: fleet_vendor.Vendor, home: Path, stores: int
    ) -> None:
        self.url = url
        self.database = database
        self.vendor = vendor
        self.stores = stores
        self.random = random.Random(7)
        self.storage_url = sa.make_url(url).set(database=DAGSTER).render_as_string(hide_password=False)
        self.environment = {
            **os.environ,
            "BG_DATABASE_URL": url,
            "BG_DAGSTER_DATABASE_URL": self.storage_url,
            "BG_ENCRYPTION_KEY": KEY,
            "BG_HOME_DIR": str(home),
            "DAGSTER_HOME": str(home),
            **trusting(vendor),
        }
        self._watch = psycopg.connect(libpq(url), autocommit=True)
        self._postmaster = postmaster(url)

    def close(self) -> None:
        self._watch.close()

    def some(self, share: float) -> list[int]:
        """So many of the stores, at least one."""
        return self.random.sample(range(self.stores), max(1, round(self.stores * share)))

    def make_due(self) -> None:
        self.execute("UPDATE sync_states SET next_due_at = now() WHERE resource = ANY(%s)", list(UNITS))

    def execute(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = self._watch.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def run_job(self, job: str) -> Costs:
        """One run of a job in a process of its own, for all that is due. Raises RuntimeError if it failed."""
        before = self._read()
        command = [
            sys.executable,
            "-m",
            "dagster",
            "job",
            "execute",
            "-m",
            "bg_pipelines.definitions",
            "-j",
            job,
        ]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, cwd=PROJECT, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                output.seek(0)
                raise RuntimeError(f"{job} failed: {output.read()[-3000:].decode()}")
        # What its connections have counted is told as they end.
        time.sleep(0.5)
        costs = _between(before, self._read())
        costs.run_seconds = used.ru_utime + used.ru_stime
        return costs

    @contextmanager
    def costs(self) -> Iterator[Costs]:
        """What is used in this block; `run_seconds` are for the caller to say."""
        used, before = Costs(), self._read()
        yield used
        vars(used).update(vars(_between(before, self._read())))

    def require_visited(self, since: float) -> None:
        """Raises RuntimeError unless every store's units have succeeded since, and every change has arrived."""
        ((behind,),) = self.execute(
            "SELECT count(*) FROM sync_states WHERE resource = ANY(%s) AND last_succeeded_at < to_timestamp(%s)",
            list(UNITS),
            since,
        )
        late = [lag for _, lag in self.lags() if lag is None]
        if behind or late:
            raise RuntimeError(f"{behind} units were not visited, {len(late)} changes have not arrived")

    def lags(self, since: float = 0.0) -> list[tuple[float, float | None]]:
        """When each row changed at the vendor, and seconds from there to its commit; None: it has not come yet.

        A row that has changed again since tells nothing of the earlier change.
        """
        last = {}
        for change in self.vendor.figures()["changes"]:
            for table, external_id in change["rows"].items():
                last[change["store"], table, external_id] = change["at"]
        asked = [
            (table, f"shop-{store}", external_id, at)
            for (store, table, external_id), at in last.items()
            if at >= since
        ]
        lags: list[tuple[float, float | None]] = []
        for table in {table for table, *_ in asked}:
            _, names, ids, times = zip(*(one for one in asked if one[0] == table), strict=True)
            lags += [
                (at, lag)
                for at, lag in self.execute(
                    "SELECT c.at, extract(epoch FROM t.synced_at)::float8 - c.at FROM unnest(%s::text[], %s::text[], %s::float8[]) "
                    f"AS c (store, external_id, at) JOIN stores s ON s.name = c.store LEFT JOIN {table} t ON t.store_id = s.id "
                    "AND t.external_id = c.external_id AND t.source_updated_at >= to_timestamp(floor(c.at))",
                    list(names),
                    list(ids),
                    list(times),
                )
            ]
        return lags

    def dagster_rows(self) -> dict[str, int]:
        """Rows of Dagster's larger tables, 0 where it has not made them yet."""
        with psycopg.connect(libpq(self.storage_url)) as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
                if connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,)
                else 0
                for table in ("runs", "event_logs", "job_ticks")
            }

    def _read(self) -> _Reading:
        ((transactions, dagster_transactions, wal_bytes, wal_full_pages),) = self.execute(
            "SELECT sum(xact_commit + xact_rollback) FILTER (WHERE datname = current_database()), "
            "sum(xact_commit + xact_rollback) FILTER (WHERE datname = %s), "
            "max(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')), max(w.wal_fpi) FROM pg_stat_database, pg_stat_wal w",
            DAGSTER,
        )
        return _Reading(
            time.monotonic(),
            int(transactions),
            int(dagster_transactions),
            int(wal_bytes),
            int(wal_full_pages),
            tree_seconds(self._postmaster.pid),
            processor_seconds(self.vendor.process_id),
        )


@contextmanager
def fleet(stores: int) -> Iterator[Fleet]:
    with ExitStack() as stack:
        url = stack.enter_context(own_postgres())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-benchmark-")))
        shutil.copy(PROJECT / "dagster.yaml", home)
        vendor = stack.enter_context(fleet_vendor.serve())
        database = Database(url)
        stack.callback(database.close)
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DAGSTER}")
        stack.enter_context(_in_environment(trusting(vendor)))
        _fill(database, vendor, stores)
        made = Fleet(url, database, vendor, home, stores)
        stack.callback(made.close)
        yield made


def trusting(vendor: fleet_vendor.Vendor) -> dict[str, str]:
    return {"REQUESTS_CA_BUNDLE": str(vendor.authority), "NO_PROXY": "*", "no_proxy": "*"}


def tree_seconds(process_id: int) -> float:
    """Processor time of a process and of all below it, of those that have ended as well."""
    process = psutil.Process(process_id)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _between(before: _Reading, after: _Reading) -> Costs:
    return Costs(
        seconds=after.at - before.at,
        postgres_seconds=after.postgres_seconds - before.postgres_seconds,
        vendor_seconds=after.vendor_seconds - before.vendor_seconds,
        transactions=after.transactions - before.transactions,
        dagster_transactions=after.dagster_transactions - before.dagster_transactions,
        wal_bytes=after.wal_bytes - before.wal_bytes,
        wal_full_pages=after.wal_full_pages - before.wal_full_pages,
    )


@contextmanager
def _in_environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fill(database: Database, vendor: fleet_vendor.Vendor, stores: int) -> None:
    """Add the stores, all of the first tier, and make each as it is when everything has been synced."""
    new = [
        NewStore(
            f"shop-{n}", "shopify", f"shop-{n}.myshopify.com", tier=1, api_url=vendor.api_url(n), token=TOKEN
        )
        for n in range(stores)
    ]
    save_stores(database, CIPHER, new)
    # Once whole, and twice more: after the first pass that finds nothing a visit is a look.
    for number, backfill in enumerate(("pages", "auto", "auto")):
        request = SyncRequest(UNITS, stores=("shop-0",), backfill=backfill)
        run_id = f"first-{number}"
        summary = SyncRun(database, CIPHER, request, run_id=run_id, connect=connect, log=lambda _: None).run()
        if summary.failures or summary.complete != 1:
            raise RuntimeError(f"the first store could not be synced: {summary.failures}")
    tables: Sequence[Any] = [model.__table__ for model in Synced.__subclasses__()]  # type: ignore[attr-defined]
    with database.transaction() as connection:
        # No trigger: what they would queue for each of these copies has been done for the first.
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("CREATE TEMPORARY TABLE first AS SELECT id FROM stores WHERE name = 'shop-0'")
        for table in tables:
            names = ", ".join(column.name for column in table.columns if column.name != "store_id")
            connection.execute(
                f"INSERT INTO {table.name} (store_id, {names}) SELECT s.id, {names.replace('external_id', 't.external_id', 1)} "
                f"FROM {table.name} t, first, (SELECT id FROM stores) s WHERE t.store_id = first.id AND s.id <> first.id"
            )
        for model, condition in ((Store, ""), (SyncState, "AND t.resource = f.resource")):
            key = "id" if model is Store else "store_id"
            taken = [column.name for column in model.__table__.columns if column.name not in _OWN[model]]
            connection.execute(
                f"UPDATE {model.__tablename__} t SET {', '.join(f'{name} = f.{name}' for name in taken)} "
                f"FROM {model.__tablename__} f, first WHERE f.{key} = first.id AND t.{key} <> first.id {condition}"
            )
        connection.execute(
            "UPDATE stores SET external_id = ids.id FROM unnest(%s::text[], %s::text[]) AS ids (name, id) WHERE stores.name = ids.name",
            ([one.name for one in new], list(map(fleet_vendor.shop_id, range(stores)))),
        )
        connection.execute("TRUNCATE people_queue")
        # What is no sync of these jobs is not due while they are measured.
        connection.execute(
            "UPDATE sync_states SET next_due_at = now() + interval '1 day' WHERE NOT resource = ANY(%s)",
            (list(UNITS),),
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        # What made the stores wrote more than a checkpoint may wait for: else the next one would come at once.
        connection.exec_driver_sql("CHECKPOINT")
