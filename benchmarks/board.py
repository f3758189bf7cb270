"""The board with 10,000 stores and a million attempts: how long a page takes, and what it asks of the database.

Over HTTP, by one person who is logged in, one page after the other. The overview is looked at three times: its figures are kept
warm and are those of a moment ago; after an action, what can be acted on is read anew; only right after the board's start it
waits for all of them.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import requests
import sqlalchemy as sa
import uvicorn
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.table import Table

from benchmarks.harness.machine import description, own_postgres, spread
from benchmarks.harness.store import KEY
from benchmarks.status import ATTEMPTS, SMALL, STORES, make_stores
from bg_pipelines.board import session, users
from bg_pipelines.board.app import hosts, make_app
from bg_pipelines.database.engine import Database
from bg_pipelines.machine.serving import configuration
from bg_pipelines.operations.metrics import read_metrics
from bg_pipelines.operations.trends import DAY_POINTS, HOUR_POINTS, figures_of
from bg_pipelines.settings import Settings

ROUNDS = 20
AFTER_AN_ACTION, AT_THE_START = "overview, after an action", "overview, at the board's start"
PAGES = {
    "overview": "/",
    AFTER_AN_ACTION: "/",
    AT_THE_START: "/",
    "incidents": "/incidents",
    "an incident": "/incident?id=1",
    "stores": "/stores",
    "stores by name": "/stores?search=op-77",
    "stores that fail": "/stores?state=failing",
    "stores that are late": "/stores?state=late",
    "the last stores": "/stores?after=shop-99",
    "a store": "/store?name=shop-100",
    "changes": "/changes",
}


def run(console: Console, *, small: bool) -> dict[str, Any]:
    stores, attempts = (STORES // SMALL, ATTEMPTS // SMALL) if small else (STORES, ATTEMPTS)
    with own_postgres() as url:
        database, dagster = Database(url), Database(url, pool_size=1)
        with console.status(f"making {stores:,} stores and {attempts:,} attempts"):
            make_stores(database, stores, attempts)
            _make_more(database)
        users.add(database, "ada", users.ADMIN, users.new_password())
        settings = Settings(database_url=url, encryption_key=KEY)
        asked: Counter[str] = Counter()
        _count_statements(database, asked)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            app = make_app(settings, database, dagster, hosts(settings, "127.0.0.1", port))
            server = uvicorn.Server(configuration(app))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            person = requests.Session()
            person.cookies["board"] = session.begin(database, "ada")
            times: dict[str, list[float]] = {name: [] for name in PAGES}
            queries, sizes = {}, {}
            with console.status("looking"):
                for name, path in PAGES.items():
                    for number in range(1 + (5 if small else ROUNDS)):
                        if name == AFTER_AN_ACTION:
                            app.state.board.cache.changed()
                        elif name == AT_THE_START:
                            app.state.board.cache.changed()
                            app.state.board.cache._read_at = float("-inf")
                        asked.clear()
                        began = time.perf_counter()
                        answer = person.get(f"http://127.0.0.1:{port}{path}", timeout=60)
                        took = 1000 * (time.perf_counter() - began)
                        answer.raise_for_status()
                        queries[name], sizes[name] = asked["statements"], len(answer.content)
                        if number:  # the first loads its template
                            times[name].append(took)
            server.should_exit = True
            thread.join()
        for one in (database, dagster):
            one.close()
    _show(console, stores, attempts, times, queries, sizes)
    figures = {
        re.sub(r"\W+", "_", name) + "_ms": spread(values, 1)["median"] for name, values in times.items()
    }
    return {
        **figures,
        "queries_most": max(queries.values()),
        "stores": stores,
        "attempts": attempts,
        "machine": description(),
    }


def _make_more(database: Database) -> None:
    """A day of trends, and a year of what people did."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO activity (who, via, action, subject, succeeded, outcome) SELECT 'ada', 'board', 'retry incidents', "
            "n::text, true, '1 incident retried' FROM generate_series(1, 20000) n"
        )
    figures = Jsonb(figures_of(read_metrics(database, most_stores=0)))
    with database.transaction() as connection:
        for minutes, points in ((1, HOUR_POINTS), (15, DAY_POINTS)):
            connection.execute(
                "INSERT INTO figure_samples (minutes, at, figures) SELECT %(minutes)s, date_bin(make_interval(mins => %(minutes)s), "
                "now() - n * make_interval(mins => %(minutes)s), 'epoch'), %(figures)s FROM generate_series(0, %(points)s - 1) n",
                {"minutes": minutes, "points": points, "figures": figures},
            )


def _count_statements(database: Database, asked: Counter[str]) -> None:
    class Counting(psycopg.Cursor[Any]):
        def execute(self, *arguments: Any, **options: Any) -> Any:
            asked["statements"] += 1
            return super().execute(*arguments, **options)

    def count(connection: Any, *_: Any) -> None:
        connection.cursor_factory = Counting

    sa.event.listen(database.engine, "connect", count)
    database.engine.dispose()


def _show(
    console: Console,
    stores: int,
    attempts: int,
    times: dict[str, list[float]],
    queries: dict[str, int],
    sizes: dict[str, int],
) -> None:
    table = Table(title=f"{stores:,} stores, {attempts:,} attempts")
    for name in ("", "min ms", "median ms", "max ms", "queries", "bytes"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in times.items():
        cells = [f"{value:,.0f}" for value in spread(values).values()]
        table.add_row(name, *cells, str(queries[name]), f"{sizes[name]:,}")
    console.print(table)
