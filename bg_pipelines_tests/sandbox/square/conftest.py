"""A running sandbox with two merchants, and a client that knows nothing of the product or of Square's library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Merchant, Sandbox, World
from bg_pipelines_tests.support import HandClock


class SquareClient:
    """Ask one merchant, as any program would."""

    def __init__(self, sandbox: Sandbox, merchant: Merchant, session: requests.Session) -> None:
        self.sandbox = sandbox
        self.merchant = merchant
        self.session = session

    def send(
        self, method: str, path: str, content: Any = None, *, token: str | None = None, **params: Any
    ) -> requests.Response:
        return self.session.request(
            method,
            f"{self.merchant.api_url}/v2/{path}",
            json=content,
            params=params,
            headers={"Authorization": f"Bearer {token or self.merchant.token}"},
            timeout=10,
        )

    def get(self, path: str, **params: Any) -> Any:
        return self.well(self.send("GET", path, **params))

    def post(self, path: str, content: Any) -> Any:
        return self.well(self.send("POST", path, content))

    def well(self, answer: requests.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(
        self, method: str, path: str, content: Any = None, **params: Any
    ) -> tuple[int, str, str | None]:
        """The status, the code and the field of the one error that comes."""
        answer = self.send(method, path, content, **params)
        [error] = answer.json()["errors"]
        return answer.status_code, error["code"], error.get("field")

    def pages(self, path: str, name: str, content: Any) -> list[list[Any]]:
        found, cursor = [], None
        while True:
            body = self.post(path, content if cursor is None else {**content, "cursor": cursor})
            found.append(body.get(name, []))
            cursor = body.get("cursor")
            if cursor is None:
                return found

    def rows(self, path: str, name: str, content: Any) -> list[Any]:
        return [row for page in self.pages(path, name, content) for row in page]

    def operator(self, method: str, path: str = "", content: Any = None) -> requests.Response:
        url = f"{self.sandbox.url}/sandbox/merchants{path}"
        return self.session.request(method, url, json=content, timeout=10)


def ids(rows: list[Any]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.fixture
def sandbox(clock: HandClock) -> Iterator[Sandbox]:
    world = World(
        shops=1,
        variants=3,
        seed=7,
        clock=clock,
        merchants=2,
        square_variants=360,
        square_customers=180,
        square_orders=300,
    )
    with Sandbox(world, port=0) as running:
        yield running


@pytest.fixture
def merchant(sandbox: Sandbox) -> Merchant:
    """The one with more locations than one call may name."""
    return list(sandbox.world.square_merchants.values())[1]


@pytest.fixture
def client(sandbox: Sandbox, merchant: Merchant) -> Iterator[SquareClient]:
    with requests.Session() as session:
        yield SquareClient(sandbox, merchant, session)


@pytest.fixture(scope="session")
def description() -> dict[str, Any]:
    """Square's own description, found by BG_VENDOR_SPECS."""
    default = Path(__file__).resolve().parents[3].parent / "shared" / "vendor"
    path = Path(os.environ.get("BG_VENDOR_SPECS", default)) / "square_api.json"
    if not path.exists():
        pytest.skip(f"the vendor's description is not at {path}; set BG_VENDOR_SPECS")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
