"""A real board on loopback, in a thread, with a real database, and people at it as browsers send them."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import requests
import uvicorn

from bg_pipelines.board import session, users
from bg_pipelines.board.app import hosts, make_app
from bg_pipelines.board.figures import Cache
from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database
from bg_pipelines.incidents.fingerprints import StoreUnit
from bg_pipelines.machine.serving import configuration
from bg_pipelines.settings import Settings
from bg_pipelines_tests.conftest import database_made
from bg_pipelines_tests.support import KEY, PATIENCE, query, wait_for


class Person:
    """Somebody with a browser: keeps cookies, sends forms as browsers do, follows no redirect."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()

    def get(self, path: str = "/", **headers: str) -> requests.Response:
        return self.http.get(self.url + path, headers=headers, allow_redirects=False, timeout=PATIENCE)

    def post(self, path: str, fields: Any = None, **headers: str | None) -> requests.Response:
        """With the headers of a form on a page of the board, unless they are given; None: without that header."""
        sent = {"Origin": self.url, "Sec-Fetch-Site": "same-origin", **headers}
        return self.http.post(
            self.url + path, fields or {}, headers=sent, allow_redirects=False, timeout=PATIENCE
        )

    def log_in(self, name: str, password: str, **fields: str) -> requests.Response:
        return self.post("/login", {"name": name, "password": password, **fields})

    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', self.get("/changes").text)
        assert found
        return found[1]

    def act(self, path: str, **fields: Any) -> requests.Response:
        """Press a button."""
        return self.post(path, {"form_token": self.form_token(), "page": "/", **fields})


class Board:
    def __init__(self, url: str, database: Database, forget_figures: Callable[[], None]) -> None:
        self.url = url
        self.database = database
        self.forget_figures = forget_figures

    def person(self, name: str | None = None) -> Person:
        """Somebody who is logged in by this name, without a password for the time that takes."""
        person = Person(self.url)
        if name is not None:
            person.http.cookies["board"] = session.begin(self.database, name)
        return person


def forget(cache: Cache) -> None:
    """As right after the board's start: whoever looks waits for all figures."""
    cache.changed()
    cache._read_at = float("-inf")


@contextmanager
def serving(database: Database, settings: Settings) -> Iterator[Board]:
    """A board with these settings, as `bg-pipelines board` serves it. Dagster's storage has no tables yet."""
    dagster = Database(database.engine.url.render_as_string(hide_password=False), pool_size=1)
    # Tests say themselves when figures are read.
    with pytest.MonkeyPatch.context() as patched, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = make_app(settings, database, dagster, hosts(settings, "127.0.0.1", port))
        patched.setattr(app.state.board.cache, "keep_warm", lambda: None)
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive())
        try:
            yield Board(f"http://127.0.0.1:{port}", database, partial(forget, app.state.board.cache))
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            dagster.close()


@pytest.fixture(scope="module")
def board_database(server_home: Any, request: pytest.FixtureRequest) -> Iterator[Database]:
    name = request.module.__name__.rpartition(".")[2]
    with database_made(embedded.ensure(server_home), f"board_{name}") as url:
        database = Database(url)
        users.add(database, "ada", users.ADMIN, PASSWORD)
        users.add(database, "vera", users.VIEWER, PASSWORD)
        yield database
        database.close()


PASSWORD = "a long and secret word"


def settings_of(database: Database, **changes: Any) -> Settings:
    url = database.engine.url.render_as_string(hide_password=False)
    return Settings(**{"database_url": url, "encryption_key": KEY, **changes})


@pytest.fixture(scope="module")
def served(board_database: Database) -> Iterator[Board]:
    with serving(board_database, settings_of(board_database)) as board:
        yield board


@pytest.fixture
def board(served: Board) -> Board:
    """With no stores and nothing that was done."""
    query(
        served.database,
        "TRUNCATE stores, incidents, job_runs, activity, board_login_failures, board_sessions RESTART IDENTITY CASCADE",
    )
    served.forget_figures()
    return served


@pytest.fixture
def ada(board: Board) -> Person:
    """An admin."""
    return board.person("ada")


@pytest.fixture
def vera(board: Board) -> Person:
    """A viewer."""
    return board.person("vera")


@pytest.fixture
def add_store(board: Board) -> Callable[..., int]:
    """A store of this name, all of it read a minute ago; returns its number."""

    def add(name: str = "harbor", **values: Any) -> int:
        given = {
            "name": name,
            "platform": "shopify",
            "domain": f"{abs(hash(name))}.example",
            "credentials": b"",
        }
        given |= values
        with board.database.transaction() as connection:
            row = connection.execute(
                psycopg.sql.SQL("INSERT INTO stores ({}) VALUES ({}) RETURNING id").format(
                    psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, given)),
                    psycopg.sql.SQL(", ").join(psycopg.sql.Placeholder() * len(given)),
                ),
                list(given.values()),
            ).fetchone()
            assert row
            connection.execute(
                "INSERT INTO sync_states (store_id, resource, next_due_at, last_succeeded_at) SELECT %s, unnest, "
                "now() + interval '10 minutes', now() - interval '1 minute' FROM unnest(ARRAY['store', 'locations', 'products', "
                "'product_variants', 'inventory_levels', 'customers', 'orders', 'audit', 'webhooks'])",
                (row[0],),
            )
        return int(row[0])

    return add


@pytest.fixture
def add_incident(board: Board) -> Callable[..., int]:
    """An open incident of a store, under which its profile is parked; returns its number."""

    def add(store_id: int, message: str = "the token is revoked", subject: str = "store harbor") -> int:
        with board.database.transaction() as connection:
            row = connection.execute(
                "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, store_id, "
                "resources) VALUES (%s, true, 'credentials', 'high', 'shopify', %s, %s, %s, '{store}') "
                "RETURNING id",
                (str(StoreUnit(store_id, "store", "credentials")), subject, message, store_id),
            ).fetchone()
            assert row
            connection.execute(
                "UPDATE sync_states SET next_due_at = NULL, attempts = 1, retry_strategy = 'manual_intervention', incident_id = %s, "
                "last_error = "
                "jsonb_build_object('error_type', 'credentials', 'message', %s::text, 'severity', 'high', 'recoverable', false) "
                "WHERE store_id = %s AND resource = 'store'",
                (row[0], message, store_id),
            )
        return int(row[0])

    return add
