"""A clock that a test holds in its hand, clients that go by it, and what every failure has to fulfil."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.shopify_api import Credentials, ShopifyClient, StaticToken
from bg_pipelines.sandbox import Sandbox, Shop, World
from bg_pipelines_tests.platforms.scripted import Script, ScriptedServer

START = 1_795_000_000.0  # 2026-11-18T11:06:40Z
TOKEN = "shpat_" + "a1" * 16
SECRET = "shpss_" + "b2" * 16
# How each token and secret that is used in this folder begins.
SECRET_BEGINNINGS = ("shpat_", "shpss_", "sandbox-token-", "sandbox-secret-")


class HandClock:
    """Stands until it is slept by; remembers for how long."""

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


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def connect(clock: HandClock) -> Iterator[Callable[..., ShopifyClient]]:
    """Make a client that waits by the hand clock: `connect(server.url)`."""
    made: list[ShopifyClient] = []

    def make(base_url: str, credentials: Credentials | None = None, **options: Any) -> ShopifyClient:
        by_hand = {"sleep": clock.sleep, "clock": clock, "now": clock.now, "timeouts": (2.0, 5.0, 10.0)}
        client = ShopifyClient(
            base_url, credentials or StaticToken(TOKEN), api_version="2026-07", **{**by_hand, **options}
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start scripted servers: `serve(Reply(500))`."""
    running: list[ScriptedServer] = []

    def start(*script: Script) -> ScriptedServer:
        running.append(ScriptedServer(*script).__enter__())
        return running[-1]

    yield start
    for server in running:
        threading.Thread(target=server.__exit__).start()


@pytest.fixture
def shop(clock: HandClock) -> Iterator[Shop]:
    """A sandbox shop of 60 variants whose time is the hand clock's."""
    sandbox = Sandbox(World(shops=1, variants=60, clock=clock), port=0)
    sandbox.start()
    yield next(iter(sandbox.world.shops.values()))
    # A server stops at its next look at the clock: no test waits for that of another.
    threading.Thread(target=sandbox.stop).start()


def failure_of(call: Callable[[], object]) -> IntegrationError:
    """The failure of a call, of which every one holds: it is classified, JSON-ready and gives nothing away."""
    with pytest.raises(IntegrationError) as caught:
        call()
    error = caught.value
    shown = [str(error), repr(error), repr(error.details), "".join(traceback.format_exception(error))]
    shown.append(json.dumps(error.as_dict(), allow_nan=False))
    for secret in SECRET_BEGINNINGS:
        assert not any(secret in text for text in shown)
    return error
