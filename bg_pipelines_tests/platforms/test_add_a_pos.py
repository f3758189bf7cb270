"""docs/add-a-pos.md is true: its platform, added by its one line, is synced by the jobs' own sync."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.base import Platform, Resource
from bg_pipelines.sync import Summary
from bg_pipelines_tests.conftest import CATALOGUE, PROJECT, SALES
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer

AT = "2026-01-02T03:04:05Z"
SHOP = {"id": "s", "name": "Lamp", "currency": "EUR", "zone": "Europe/Berlin", "changed": AT}
ITEMS = [{"id": f"i{number}", "name": "Tea", "price": "2.50", "changed": AT} for number in range(3)]
SOLD = [{"id": f"b{number}", "item": "i1", "total": "2.50", "changed": AT} for number in range(4)]


def till(asked: Asked) -> Reply:
    """Two rows a page."""
    what, _, query = asked.path.strip("/").partition("?")
    if what == "shop":
        return Reply.of(SHOP)
    after = int(re.findall(r"after=(\d+)", query)[0]) if "after=" in query else 0
    rows = {"items": ITEMS, "sales": SOLD}[what]
    body: dict[str, Any] = {"rows": rows[after : after + 2]}
    return Reply.of({**body, "next": str(after + 2)} if after + 2 < len(rows) else body)


@pytest.fixture
def corner(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(PROJECT / "docs" / "add-a-pos.md").read_text(encoding="utf-8")
    code, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module: dict[str, Any] = {"__name__": "corner"}
    exec(compile(code, "docs/add-a-pos.md", "exec"), module)

    def make(
        access: platforms.StoreAccess, *, api_version: str, sleep: Callable[[float], object]
    ) -> Platform:
        made: Platform = module["CornerPlatform"](access.base_url, access.credentials["access_token"])
        return made

    added = eval(f"{{{line}}}", {**vars(platforms), "_corner": make})
    monkeypatch.setattr(platforms, "PLATFORMS", platforms.PLATFORMS | added)
    monkeypatch.setattr("bg_pipelines.operations.stores.PLATFORMS", platforms.PLATFORMS)


def test_the_platform_of_the_page_is_synced_like_any_other(
    corner: None,
    sync: Callable[..., Summary],
    serve: Callable[..., ScriptedServer],
    database: Database,
    cipher: Cipher,
) -> None:
    store = NewStore("lamp", "corner", "lamp", token="EAAA", api_url=serve(till).url)
    save_stores(database, cipher, [store])
    summary = sync(resources=(*CATALOGUE, *SALES))
    assert (summary.complete, summary.failures) == (1, [])
    with database.transaction() as connection:
        counts = {
            table: (connection.execute(f"SELECT count(*) FROM {table}").fetchone() or [None])[0]
            for table in (
                "locations",
                "products",
                "product_variants",
                "orders",
                "order_lines",
                "rejected_rows",
            )
        }
        shop_name = connection.execute("SELECT shop_name FROM stores").fetchone()
    assert counts == {
        "locations": 1,
        "products": 3,
        "product_variants": 3,
        "orders": 4,
        "order_lines": 4,
        "rejected_rows": 0,
    }
    assert shop_name == ("Lamp",)


def test_its_failures_are_classified(
    corner: None,
    sync: Callable[..., Summary],
    serve: Callable[..., ScriptedServer],
    database: Database,
    cipher: Cipher,
) -> None:
    save_stores(
        database, cipher, [NewStore("lamp", "corner", "lamp", token="EAAA", api_url=serve(Reply(401)).url)]
    )
    [failure] = sync(resources=(Resource.STORE,)).failures
    assert failure.error.error_type is ErrorType.CREDENTIALS
