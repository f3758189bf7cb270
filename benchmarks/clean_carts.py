"""Deleting expired carts beside a shop at work: one big DELETE, batches of 2,000, and `clean_active_carts`.

Each works on a copy of the same tables, beside the same steady load of small writes and reads by a process of its own, whose
times are also taken right before, with nothing cleaned: so a machine that gets slower in between slows both.
The batches are those of an application's cleaning task: keys of 2,000 expired carts by an index on their last activity,
then their items, their reservations and they themselves by these keys. Only the product checks each cart once more
before it deletes it, marks the few that have been abandoned since, and counts what it freed; all three delete the same carts.
With `--log` a last turn cleans nothing: it only logs so many MB a second, one transaction for each batch that the product would
make, which tells what the log alone does to the load.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine
from bg_pipelines.cleaning.batches import Manners
from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.jobs import cart_tasks
from bg_pipelines.cleaning.run import CleaningRun
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher

CARTS = 5_000_000
SMALL = 100_000
STORES = 500
WRITES_PER_SECOND = 200
WRITERS = 4
READERS = 2
QUIET_SECONDS = 20.0
BATCH = 2_000
LOG_ALONE = "the log alone"
KEEP = CartKeep()
KEY = "0" * 43 + "="

_FILL = """
    CREATE TEMPORARY TABLE made AS
    SELECT 1 + n % %(stores)s AS store_id, 'gid://shopify/Cart/' || md5(n::text) AS external_id,
        now() - random() * interval '28 days'
        - CASE WHEN n % 2 = 0 THEN interval '32 days' ELSE interval '0' END AS seen_at, CASE WHEN random() < 0.532 THEN 'customer ' || n END AS customer
    FROM generate_series(1, %(carts)s) n;
    INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at, customer_external_id, currency, total,
        abandoned_at) SELECT store_id, external_id, seen_at, seen_at, customer, 'EUR', 20,
        CASE WHEN seen_at < now() - interval '2 hours' THEN seen_at + interval '2 hours' END FROM made;
    INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, variant_external_id, title, quantity,
        unit_price) SELECT store_id, external_id || '/' || k, seen_at, external_id, 'variant ' || k, 'a thing', 1, 10
        FROM made CROSS JOIN generate_series(1, 2) k"""
_EXPIRED = (
    "customer_external_id IS NULL AND source_updated_at < now() - interval '30 days' AND completed_at IS NULL "
    "AND deleted_at IS NULL AND payment_state IN ('none', 'settled')"
)
_OF_CART = "store_id = gone.store_id AND cart_external_id = gone.external_id"


class Load(NamedTuple):
    """Milliseconds of the load's writes and reads."""

    writes: list[float]
    reads: list[float]

    @property
    def p99(self) -> float:
        return statistics.quantiles([*self.writes, *self.reads], n=100)[98]


class Measured(NamedTuple):
    """What was deleted in how long, and the load right before and meanwhile."""

    before: Load
    load: Load
    carts: int
    seconds: float
    log_bytes: int

    @property
    def log_mb_per_second(self) -> float:
        return self.log_bytes / self.seconds / 1e6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--carts", type=int, help=f"how many: {CARTS:,}, or {SMALL:,} with --small")
    parser.add_argument(
        "--log",
        type=float,
        metavar="MB",
        help="also measure the load beside so many MB of log a second and nothing else",
    )
    parser.add_argument(
        "--batch-milliseconds", type=float, default=50, help="how long a batch of the product takes (50)"
    )
    parser.add_argument(
        "--database",
        help="URL of an empty database on another server than the embedded one, by a superuser; the server should have nothing "
        "else to do",
    )


@contextmanager
def _given(url: str) -> Iterator[str]:
    database = Database(url)
    database.migrate()
    database.close()
    yield database.engine.url.render_as_string(hide_password=False)


def run(
    console: Console,
    *,
    small: bool,
    carts: int | None = None,
    database: str | None = None,
    log: float | None = None,
    batch_milliseconds: float = 50,
) -> dict[str, Any]:
    """Deletions per second of each manner, and what the load felt."""
    number = carts or (SMALL if small else CARTS)
    quiet_seconds = 5.0 if small else QUIET_SECONDS
    with _given(database) if database else machine.own_postgres() as url:
        with console.status(f"making {number:,} carts and {2 * number:,} items"):
            _make(url, number)
        manners: dict[str, Callable[[str], int]] = {
            "one DELETE": _one_delete,
            f"batches of {BATCH:,}": _batches,
            "clean_active_carts": partial(_product, batch_seconds=batch_milliseconds / 1000),
        }
        if log:
            manners[LOG_ALONE] = partial(
                _log_alone,
                mb_per_second=log,
                seconds=quiet_seconds,
                turn=batch_milliseconds / 1000 * (1 + Manners().rest),
            )
        results = {}
        for name, work in manners.items():
            with console.status(name):
                results[name] = _beside_load(url, work, quiet_seconds)
        with _connect(url) as connection:
            settings = [
                connection.execute(f"SHOW {name}").fetchall()[0][0]
                for name in ("server_version", "wal_compression")
            ]
    figures = _report(console, number, results, "PostgreSQL {}, wal_compression {}".format(*settings))
    return {**figures, "batch_milliseconds": batch_milliseconds}


def _make(url: str, number: int) -> None:
    with _connect(url) as connection:
        connection.execute("SELECT setseed(0.5)")
        for statement in _FILL.split(";"):
            connection.execute(statement.replace("%(stores)s", str(STORES)).replace("%(carts)s", str(number)))
        # What the batches need. Of guests alone: theirs expire sooner, and each batch would walk past all that stay.
        connection.execute(
            "CREATE INDEX carts_activity ON carts (source_updated_at) WHERE customer_external_id IS NULL"
        )
        connection.execute("VACUUM ANALYZE carts, cart_items")
        connection.execute("CHECKPOINT")


def _beside_load(url: str, work: Callable[[str], int], quiet_seconds: float) -> Measured:
    """What `work` does on a copy of the tables while the load runs."""
    copy, server = (
        sa.make_url(url).set(database=name).render_as_string(hide_password=False)
        for name in ("a_copy", "postgres")
    )
    with _connect(server) as connection:
        connection.execute("DROP DATABASE IF EXISTS a_copy WITH (FORCE)")
        source = sa.make_url(url).database
        connection.execute(f"CREATE DATABASE a_copy TEMPLATE {source} STRATEGY file_copy")
        connection.execute("CHECKPOINT")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    load = spawn.Process(target=_load, args=(copy, theirs), daemon=True)
    load.start()
    try:
        ours.recv()  # it is warm
        ours.send("before")
        time.sleep(quiet_seconds)
        with _connect(copy) as connection:
            logged = _logged(connection)
            ours.send("meanwhile")
            began = time.perf_counter()
            deleted = work(copy)
            seconds = time.perf_counter() - began
            logged = _logged(connection) - logged
        ours.send("end")
        before, meanwhile = ours.recv()
    finally:
        load.terminate()
        load.join()
    return Measured(Load(*before), Load(*meanwhile), deleted, seconds, logged)


def _logged(connection: psycopg.Connection[Any]) -> int:
    """How many bytes of WAL there have ever been."""
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").fetchone()
    return int(row[0]) if row else 0


def _one_delete(url: str) -> int:
    with _connect(url) as connection:
        row = connection.execute(
            f"WITH gone AS (DELETE FROM carts WHERE {_EXPIRED} RETURNING store_id, external_id), "
            f"items AS (DELETE FROM cart_items USING gone WHERE cart_items.{_OF_CART.replace('AND ', 'AND cart_items.')}), "
            "held AS (DELETE FROM inventory_reservations USING gone "
            f"WHERE inventory_reservations.{_OF_CART.replace('AND ', 'AND inventory_reservations.')}) SELECT count(*) FROM gone"
        ).fetchone()
    return int(row[0]) if row else 0


def _batches(url: str) -> int:
    deleted = 0
    with _connect(url) as connection:
        while True:
            with connection.transaction():
                keys = connection.execute(
                    f"SELECT store_id, external_id FROM carts WHERE {_EXPIRED} ORDER BY source_updated_at LIMIT {BATCH}"
                ).fetchall()
                if not keys:
                    return deleted
                stores, ids = [key[0] for key in keys], [key[1] for key in keys]
                for table in ("cart_items", "inventory_reservations"):
                    connection.execute(
                        f"DELETE FROM {table} t USING unnest(%s::bigint[], %s::text[]) k (store_id, external_id) "
                        "WHERE t.store_id = k.store_id AND t.cart_external_id = k.external_id",
                        (stores, ids),
                    )
                deleted += connection.execute(
                    "DELETE FROM carts t USING unnest(%s::bigint[], %s::text[]) k (store_id, external_id) "
                    "WHERE t.store_id = k.store_id AND t.external_id = k.external_id",
                    (stores, ids),
                ).rowcount


def _product(url: str, *, batch_seconds: float) -> int:
    database = Database(url)
    [carts] = [task for task in cart_tasks(KEEP, Cipher(KEY)) if task.name == "carts"]
    try:
        summary = CleaningRun(
            database,
            "clean_active_carts",
            [carts],
            run_id="benchmark",
            max_minutes=60,
            manners=Manners(batch_seconds=batch_seconds),
        ).run()
    finally:
        database.close()
    [done] = summary.done
    if not done.outcome.completed:
        raise RuntimeError(f"the sweep did not end: {done.outcome.why}")
    return summary.figures["carts.rows"]


def _log_alone(url: str, *, mb_per_second: float, seconds: float, turn: float) -> int:
    """Log so much and change nothing, in one transaction every `turn` seconds."""
    with _connect(url) as connection:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            connection.execute(
                "SELECT pg_logical_emit_message(true, '', repeat('x', %s))",
                (int(mb_per_second * 1e6 * turn),),
            )
            time.sleep(max(0.0, began + turn - time.perf_counter()))
    return 0


# The load: a process of its own, told when a phase begins and when all ends, that answers with the times of each phase.


def _load(url: str, pipe: Pipe) -> None:
    with _connect(url) as connection:
        live = connection.execute(
            "SELECT store_id, external_id FROM carts WHERE customer_external_id IS NOT NULL LIMIT 20000"
        ).fetchall()
    warming: dict[str, list[float]] = {"write": [], "read": []}
    phases = [warming]
    ended = threading.Event()

    def worker(number: int, kind: str, per_second: float) -> None:
        rng = random.Random(number)
        with _connect(url) as connection:
            due = time.perf_counter() + rng.random() / per_second
            while not ended.is_set():
                time.sleep(max(0.0, due - time.perf_counter()))
                cart = rng.choice(live)
                phase, began = phases[-1], time.perf_counter()
                if kind == "read":
                    connection.execute(
                        "SELECT * FROM carts c JOIN cart_items i ON i.store_id = c.store_id "
                        "AND i.cart_external_id = c.external_id WHERE c.store_id = %s AND c.external_id = %s",
                        cart,
                    ).fetchall()
                elif rng.random() < 0.5:
                    connection.execute(
                        "UPDATE carts SET source_updated_at = now() WHERE store_id = %s AND external_id = %s",
                        cart,
                    )
                else:
                    connection.execute(
                        "INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity) "
                        "VALUES (%s, gen_random_uuid()::text, now(), %s, 'a thing', 1)",
                        cart,
                    )
                phase[kind].append((time.perf_counter() - began) * 1000)
                # What was due while it waited is made up for, like customers who do not wait for one another.
                due += 1 / per_second

    each = WRITES_PER_SECOND / WRITERS
    threads = [threading.Thread(target=worker, args=(n, "write", each), daemon=True) for n in range(WRITERS)]
    threads += [
        threading.Thread(target=worker, args=(100 + n, "read", WRITES_PER_SECOND / READERS), daemon=True)
        for n in range(READERS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(2)
    pipe.send("warm")
    while pipe.recv() != "end":
        phases.append({"write": [], "read": []})
    ended.set()
    for thread in threads:
        thread.join(10)
    pipe.send([(phase["write"], phase["read"]) for phase in phases[1:]])


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _report(console: Console, number: int, results: dict[str, Measured], server: str) -> dict[str, Any]:
    batches, product = results[f"batches of {BATCH:,}"], results["clean_active_carts"]
    table = Table(
        box=None,
        header_style="bold",
        title=f"{number:,} carts, {machine.description()}, {server}",
        title_justify="left",
    )
    columns = (
        "",
        "carts deleted",
        "seconds",
        "carts/s",
        "log MB/s",
        "writes/s",
        "load p50 ms",
        "p99 ms",
        "before",
        "longest write ms",
    )
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, result in results.items():
        load = result.load
        table.add_row(
            name,
            f"{result.carts:,}",
            f"{result.seconds:.1f}",
            f"{result.carts / result.seconds:,.0f}",
            f"{result.log_mb_per_second:.0f}",
            f"{len(load.writes) / result.seconds:.0f}",
            f"{statistics.median([*load.writes, *load.reads]):.2f}",
            f"{load.p99:.2f}",
            f"{result.before.p99:.2f}",
            f"{max(load.writes):.1f}",
        )
    console.print(table)
    alone = results.pop(LOG_ALONE, None)
    if len({result.carts for result in results.values()}) != 1:
        raise RuntimeError("they did not delete the same carts")
    figures = {
        "server": server,
        "carts": number,
        "deleted": product.carts,
        "carts_per_second": round(product.carts / product.seconds),
        "batches_carts_per_second": round(batches.carts / batches.seconds),
        "speedup_over_batches": round(product.carts / product.seconds / (batches.carts / batches.seconds), 2),
        "longest_writer_wait_ms": round(max(product.load.writes), 1),
        "load_p99_ms": round(product.load.p99, 2),
        "load_p99_ratio": round(product.load.p99 / product.before.p99, 2),
        "log_bytes_per_cart": round(product.log_bytes / product.carts),
    }
    if alone:
        figures["log_alone_mb_per_second"] = round(alone.log_mb_per_second, 1)
        figures["log_alone_load_p99_ratio"] = round(alone.load.p99 / alone.before.p99, 2)
    return figures
