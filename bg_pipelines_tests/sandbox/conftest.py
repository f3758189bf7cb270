"""A running sandbox with two shops, and a client that knows nothing of the product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Sandbox, Shop, World
from bg_pipelines_tests.support import HandClock


class Client:
    """Ask one shop, as any program would."""

    def __init__(self, sandbox: Sandbox, shop: Shop, session: requests.Session) -> None:
        self.sandbox = sandbox
        self.shop = shop
        self.session = session

    def post(
        self, query: str, variables: dict[str, Any] | None = None, token: str | None = None
    ) -> requests.Response:
        return self.session.post(
            f"{self.shop.api_url}/admin/api/2026-07/graphql.json",
            json={"query": query, "variables": variables or {}},
            headers={"X-Shopify-Access-Token": token or self.shop.token},
            timeout=10,
        )

    def ask(self, query: str, /, **variables: Any) -> Any:
        body = self.post(query, variables).json()
        assert "errors" not in body, body["errors"]
        return body["data"]

    def pages(self, query: str, name: str, /, **variables: Any) -> list[Any]:
        rows: list[Any] = []
        after = None
        while True:
            page = self.ask(query, after=after, **variables)[name]
            rows += page["nodes"]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                return rows

    def admin(self, method: str, path: str, content: Any = None) -> requests.Response:
        return self.session.request(method, f"{self.sandbox.url}/sandbox/{path}", json=content, timeout=10)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sandbox(clock: HandClock) -> Iterator[Sandbox]:
    with Sandbox(World(shops=2, variants=90, seed=7, clock=clock), port=0) as running:
        yield running


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return next(iter(sandbox.world.shops.values()))


@pytest.fixture
def client(sandbox: Sandbox, shop: Shop) -> Iterator[Client]:
    with requests.Session() as session:
        yield Client(sandbox, shop, session)
