"""docs/add-a-pos.md is true: its platform, added by its one line, is synced by the jobs' own sync."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sync import Summary
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer
from bg_pipelines_tests.support import CATALOGUE, PROJECT, SALES

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


def of_the_page() -> tuple[str, str]:
    """The file, and the line."""
    page = Path(PROJECT / "docs" / "add-a-pos.md").read_text(encoding="utf-8")
    code, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return code, line


@pytest.fixture
def corner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The page's file among the platforms, and its line among theirs."""
    code, line = of_the_page()
    (tmp_path / "corner.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(platforms, "__path__", [*platforms.__path__, str(tmp_path)])
    added = eval(f"{{{line}}}", vars(platforms))
    monkeypatch.setattr(platforms, "PLATFORMS", platforms.PLATFORMS | added)
    monkeypatch.setattr("bg_pipelines.operations.stores.PLATFORMS", platforms.PLATFORMS)
    yield
    sys.modules.pop("bg_pipelines.platforms.corner", None)


def platform_at(url: str) -> Platform:
    access = platforms.StoreAccess("lamp", "corner", "lamp", url, {"access_token": "EAAA"})
    return platforms.connect(access, api_version="2026-07", sleep=lambda _: None)


@pytest.fixture
def lamp(corner: None, serve: Callable[..., ScriptedServer], database: Database, cipher: Cipher) -> str:
    """A store of the page's platform is there; returns its address."""
    url: str = serve(till).url
    save_stores(database, cipher, [NewStore("lamp", "corner", "lamp", token="EAAA", api_url=url)])
    return url


@pytest.mark.usefixtures("lamp")
def test_the_platform_of_the_page_is_synced_like_any_other(
    sync: Callable[..., Summary], database: Database
) -> None:
    summary = sync(units=(*CATALOGUE, *SALES))
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


def test_a_second_visit_looks_and_reads_what_may_have_changed(
    lamp: str, sync: Callable[..., Summary]
) -> None:
    for _ in range(2):
        summary = sync(units=(*CATALOGUE, *SALES), stores=("lamp",))
        assert (summary.complete, summary.failures) == (1, [])
    found = platform_at(lamp).products_with_variants(["i1", "i7"])
    assert ([row.external_id for row in found.variants.records], found.products.gone) == (["i1"], ["i7"])


def test_whoever_follows_the_page_to_the_letter_passes_make_test(tmp_path: Path) -> None:
    code, line = of_the_page()
    house = tmp_path / "bg_pipelines"
    shutil.copytree(PROJECT / "bg_pipelines", house, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (house / "platforms" / "corner.py").write_text(code, encoding="utf-8")
    listed = house / "platforms" / "__init__.py"
    listed.write_text(
        listed.read_text().replace('    "square": PlatformKind(', f'{line}    "square": PlatformKind(')
    )
    for command, folder in (
        (["ruff", "check", "-q", "bg_pipelines/platforms"], tmp_path),
        (["ruff", "format", "-q", "--check", "bg_pipelines/platforms"], tmp_path),
        (["lint-imports", "--no-cache"], tmp_path),
        # Of this file alone, beside what mypy knows of all others.
        (["mypy", "--no-error-summary", str(house / "platforms" / "corner.py")], PROJECT),
    ):
        # By its path, mypy would take it for a file of the package that is there.
        if command[0] == "mypy":
            command[-1] = shutil.copy(command[-1], tmp_path / "corner.py")
        done = subprocess.run(
            [Path(sys.executable).parent / command[0], *command[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


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
    [failure] = sync(units=(Unit.STORE,)).failures
    assert failure.error.error_type is ErrorType.CREDENTIALS


def test_an_audit_finds_no_drift_and_leaves_the_lines_of_its_orders(
    corner: None,
    sync: Callable[..., Summary],
    serve: Callable[..., ScriptedServer],
    database: Database,
    cipher: Cipher,
) -> None:
    save_stores(database, cipher, [NewStore("lamp", "corner", "lamp", token="EAAA", api_url=serve(till).url)])
    sync(units=(*CATALOGUE, *SALES))
    assert sync(units=(Unit.AUDIT,), stores=("lamp",)).failures == []
    with database.transaction() as connection:
        audits = connection.execute(
            "SELECT resource, sampled, different, gone, repaired FROM audits"
        ).fetchall()
        lines = connection.execute("SELECT count(*) FROM order_lines WHERE deleted_at IS NULL").fetchone()
    assert {(resource, sampled) for resource, sampled, *_ in audits if sampled} == {
        ("locations", 1),
        ("products", 3),
        ("product_variants", 3),
        ("orders", 4),
    }
    assert {tuple(found) for _, _, *found in audits} == {(0, 0, 0)}
    assert lines == (4,)


def test_a_list_of_any_length_is_read_and_one_that_goes_round_is_malformed(
    corner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = platform_at("http://127.0.0.1:9")

    def get(what: str, *, since: str | None, after: str | None) -> dict[str, Any]:
        number = int(after or 0)
        return {
            "rows": [{**ITEMS[0], "id": f"i{number}"}],
            "next": str(number + 1) if number < 1500 else None,
        }

    monkeypatch.setattr(platform, "get", get)
    assert len(list(platform.pages(Resource.PRODUCTS, since=None, resume=None))) == 1501
    monkeypatch.setattr(platform, "get", lambda *_, **__: {"rows": [], "next": "1"})
    with pytest.raises(IntegrationError, match="never be reached"):
        list(platform.pages(Resource.PRODUCTS, since=None, resume="0"))


@pytest.mark.parametrize("row", [{"id": "i9", "name": "Tea", "changed": AT}, None, "tea", []])
def test_a_row_that_makes_no_sense_is_a_reject(
    corner: None, serve: Callable[..., ScriptedServer], row: Any
) -> None:
    platform = platform_at(serve(Reply.of({"rows": [row, ITEMS[0]]})).url)
    [page] = platform.pages(Resource.PRODUCT_VARIANTS, since=None, resume=None)
    [reject] = page.rejects
    assert (reject.payload, [record.external_id for record in page.records]) == (row, ["i0"])


@pytest.mark.parametrize("body", [[], {}, {"rows": None}, {"rows": [], "next": {}}])
def test_an_answer_that_makes_no_sense_is_malformed(
    corner: None, serve: Callable[..., ScriptedServer], body: Any
) -> None:
    platform = platform_at(serve(Reply.of(body)).url)
    for call in (platform.profile, lambda: list(platform.pages(Resource.ORDERS, since=None, resume=None))):
        with pytest.raises(IntegrationError) as raised:
            call()
        assert raised.value.error_type is ErrorType.MALFORMED_RESPONSE
