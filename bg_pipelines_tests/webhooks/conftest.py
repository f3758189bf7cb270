"""A real receiver on loopback, in a thread, with a real database; senders that sign as the vendors do; an inbox that
tests fill themselves, and runs that drain it."""

from __future__ import annotations

import base64
import hmac
import itertools
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import uvicorn
from psycopg.rows import dict_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.machine.serving import configuration
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.settings import Settings
from bg_pipelines.webhooks.handling import HandlingRequest, HandlingRun, HandlingSummary
from bg_pipelines.webhooks.receiver import make_app
from bg_pipelines.webhooks.topics import TOPICS, Kind, subjects
from bg_pipelines_tests.support import KEY, PATIENCE, Connect, query, wait_for

SECRET, OLD_SECRET, OWN_SECRET = "app-secret", "secret-before-the-rotation", "secret-of-piers-own-app"
SQUARE_KEY, TWILIO_TOKEN = "square-key", "twilio-token"
PUBLIC_URL = "https://hooks.example.com/bg"
HARBOR, PIER, MERCHANT = "harbor.myshopify.com", "pier.myshopify.com", "ML7477B43C415"
PRODUCT = b'{"id":632910392,"admin_graphql_api_id":"gid://shopify/Product/632910392","updated_at":"2026-11-23T12:00:00+01:00"}'

_numbers = itertools.count(1)


def settings(url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": url,
        "encryption_key": KEY,
        "shopify_webhook_secret": f"{SECRET},{OLD_SECRET}",
        "square_webhook_key": SQUARE_KEY,
        "twilio_auth_token": TWILIO_TOKEN,
        "public_url": PUBLIC_URL,
    }
    return Settings(**{**values, **changes})


@contextmanager
def receiving(settings: Settings, *, port: int = 0, **options: Any) -> Iterator[Vendors]:
    """A receiver on this port, or any, as a worker serves it."""
    assert settings.database_url
    database = Database(settings.database_url.get_secret_value())
    of_app = {name: options.pop(name) for name in ("clock", "kept_an_hour", "figures") if name in options}
    server = uvicorn.Server(configuration(make_app(settings, database, **of_app), **options))
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive())
        try:
            yield Vendors(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            database.close()


def signed(body: bytes, secret: str, algorithm: str = "sha256") -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, algorithm)).decode()


class Vendors:
    """Shopify, Square and Twilio, as far as a receiver knows them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()

    def get(self, path: str) -> requests.Response:
        return self._session.get(self.url + path, timeout=PATIENCE)

    def post(self, path: str, body: Any, headers: Mapping[str, Any]) -> requests.Response:
        return self._session.post(self.url + path, body, headers=headers, timeout=PATIENCE)

    def shopify(
        self, body: bytes = PRODUCT, topic: str = "products/update", **changes: Any
    ) -> requests.Response:
        return self.post("/webhooks/shopify", body, shopify_headers(body, topic, **changes))

    def event(self, body: bytes, **changes: Any) -> requests.Response:
        """The same with the headers of Shopify's Events, whose names have no X."""
        headers = shopify_headers(body, "Product", **changes)
        headers = {name.lower().removeprefix("x-"): value for name, value in headers.items()}
        return self.post("/webhooks/shopify", body, headers)

    def square(self, body: bytes, key: str = SQUARE_KEY) -> requests.Response:
        signature = signed(f"{PUBLIC_URL}/webhooks/square".encode() + body, key)
        return self.post("/webhooks/square", body, {"x-square-hmacsha256-signature": signature})

    def twilio(self, path: str, form: Mapping[str, str], token: str = TWILIO_TOKEN) -> requests.Response:
        values = "".join(name + form[name] for name in sorted(form))
        signature = signed(f"{PUBLIC_URL}{path}{values}".encode(), token, "sha1")
        return self.post(path, form, {"X-Twilio-Signature": signature})


def shopify_headers(
    body: bytes,
    topic: str,
    shop: str = HARBOR,
    webhook_id: str | None = None,
    secret: str = SECRET,
    **more: str,
) -> dict[str, Any]:
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": topic,
        "X-Shopify-Shop-Domain": shop,
        "X-Shopify-Webhook-Id": webhook_id or f"webhook-{next(_numbers)}",
        "X-Shopify-Event-Id": "event-1",
        "X-Shopify-Triggered-At": "2026-11-23T11:00:01.123456789Z",
        "X-Shopify-Hmac-Sha256": signed(body, secret),
        **more,
    }


class Inside:
    """The inbox, looked at from the database's side."""

    def __init__(self, connection: psycopg.Connection[Any], cipher: Cipher) -> None:
        self._cursor = connection.cursor(row_factory=dict_row)
        self._cipher = cipher

    def rows(self) -> list[dict[str, Any]]:
        self._cursor.execute(
            "SELECT e.*, s.domain FROM webhook_events e LEFT JOIN stores s ON s.id = store_id ORDER BY e.id"
        )
        return [
            {**row, "payload": self._cipher.decrypt(row["payload"]) if row["payload"] else None}
            for row in self._cursor.fetchall()
        ]

    def row(self) -> dict[str, Any]:
        [row] = self.rows()
        return row

    def count(self) -> int:
        return len(self.rows())

    def clear(self) -> None:
        self._cursor.execute("TRUNCATE webhook_events")


def add_stores(database: Database, cipher: Cipher) -> None:
    """Harbor, whose app's secret is a setting, pier with an app of its own, and a merchant at Square."""
    stores = [
        NewStore("harbor", "shopify", HARBOR, token="t"),
        NewStore("pier", "shopify", PIER, client_id="pier", client_secret=OWN_SECRET),
        NewStore("till", "square", MERCHANT.lower(), token="t"),
    ]
    save_stores(database, cipher, stores)


@pytest.fixture(scope="module")
def url(own_database: Database) -> str:
    """The database of a file of tests, with these stores."""
    add_stores(own_database, Cipher(KEY))
    return own_database.engine.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def vendors(url: str) -> Iterator[Vendors]:
    """Of one receiver for a file of tests; each begins with an empty inbox if it asks for `inside`."""
    with receiving(settings(url), kept_an_hour=10**6) as vendors:
        yield vendors


@pytest.fixture
def inside(own_database: Database, cipher: Cipher) -> Iterator[Inside]:
    url = own_database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        inside = Inside(connection, cipher)
        inside.clear()
        yield inside


# The inbox

Handle = Callable[..., HandlingSummary]
Tell = Callable[..., None]


@pytest.fixture
def handle(database: Database, cipher: Cipher, connect_stores: Connect, tmp_path: Path) -> Handle:
    """Drain the inbox once: `handle(max_workers=1)`."""
    runs = itertools.count(1)

    def run(*, log: Any = None, connect: Connect | None = None, **options: Any) -> HandlingSummary:
        request = {
            name: options.pop(name)
            for name in ("max_workers", "max_minutes", "warm_seconds")
            if name in options
        }
        return HandlingRun(
            database,
            cipher,
            HandlingRequest(**request),
            run_id=f"handling-{next(runs)}",
            home=tmp_path,
            connect=connect or connect_stores,
            log=log or (lambda _: None),
            rng=random.Random(1),
            **options,
        ).run()

    return run


@pytest.fixture
def tell(database: Database, cipher: Cipher) -> Tell:
    """Put a delivery into the inbox, as the receiver does: `tell("harbor", "orders/updated", {"id": 1})`."""
    numbers = itertools.count(1)

    def put(
        store: str,
        topic: str,
        payload: dict[str, Any],
        *,
        triggered_at: datetime | None = None,
        source: str = "shopify",
    ) -> None:
        declared = TOPICS[source][topic]
        kept = None
        if declared.kind in (Kind.DOCUMENT, Kind.COMMAND):
            kept = cipher.encrypt(payload)
        for subject in list(subjects(source, declared, payload)) or [None]:
            query(
                database,
                "INSERT INTO webhook_events (store_id, source, topic, webhook_id, resource, object_id, source_updated_at, "
                "triggered_at, payload) SELECT id, %s, %s, %s, %s, %s, %s, %s, %s FROM stores WHERE name = %s",
                source,
                topic,
                f"delivery-{next(numbers)}",
                declared.table if subject else None,
                subject.external_id if subject else None,
                subject.source_updated_at if subject else None,
                triggered_at,
                kept,
                store,
            )

    return put


def outcomes(database: Database) -> dict[str, int]:
    """How many events of the inbox there are, by status."""
    rows = query(database, "SELECT status, count(*)::int AS number FROM webhook_events GROUP BY status")
    return {row["status"]: row["number"] for row in rows}


def reasons(database: Database) -> set[str]:
    return {row["reason"] for row in query(database, "SELECT DISTINCT reason FROM webhook_events")}
