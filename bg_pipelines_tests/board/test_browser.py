"""The board of a running demo, in a browser: on a wide screen and on a phone's, light and dark.

    apt-get install chromium && pip install -e '.[browser]' && npm install --prefix /tmp/axe axe-core
    BG_TEST_FULL=1 pytest -n 0 bg_pipelines_tests/board/test_browser.py

BG_AXE names another place of `axe.min.js`. With BG_SCREENSHOTS=1 its pictures are put into docs/.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines.machine.processes import any_free_port
from bg_pipelines_tests.support import PATIENCE, PROJECT, wait_for

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
PICTURES = {"wide": "board.png", "phone": "board-phone.png"}
# Read here: a test has none of our variables.
AXE = Path(os.environ.get("BG_AXE", "/tmp/axe/node_modules/axe-core/axe.min.js"))
KEEPS_PICTURES = os.environ.get("BG_SCREENSHOTS") == "1"
SECONDS = 120_000
"""In milliseconds, as Playwright counts: the daemon looks for hinted work every half minute."""


class Demo:
    """`make demo`, served; `link` logs in to its board, once."""

    def __init__(self, folder: Path) -> None:
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(PROJECT / name, folder)
        self.sandbox, self.port, self.board_port = (any_free_port() for _ in range(3))
        command = [sys.executable, "-m", "bg_pipelines.cli", "demo"]
        for option, port in (
            ("--port", self.port),
            ("--board-port", self.board_port),
            ("--sandbox-port", self.sandbox),
            ("--webhook-port", any_free_port()),
        ):
            command += [option, str(port)]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C" in line:
                break
        found = re.search(r"http://\S+/login/link\?token=\S+", self.said)
        assert found, self.said
        self.link = found[0]
        self.board = f"http://127.0.0.1:{self.board_port}"

    def edit(self, domain: str, **fields: str) -> None:
        address = f"http://127.0.0.1:{self.sandbox}/sandbox/shops/{domain}/edits"
        requests.post(address, json=fields, timeout=PATIENCE).raise_for_status()

    def shop(self) -> dict[str, Any]:
        shops = requests.get(f"http://127.0.0.1:{self.sandbox}/sandbox/shops", timeout=PATIENCE).json()
        shop: dict[str, Any] = shops[0]
        return shop


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BG_")]:
            patch.delenv(name)
        running = Demo(tmp_path_factory.mktemp("demo"))
        yield running
        os.killpg(running.process.pid, signal.SIGINT)
        running.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    assert AXE.exists(), "npm install --prefix /tmp/axe axe-core"
    return AXE.read_text()


@pytest.fixture(scope="module")
def cookies(demo: Demo, browser: Any) -> list[dict[str, Any]]:
    """Of somebody who used the link that the demo prints."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(demo.link)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", level=1, name="stores up to date").wait_for()
    kept: list[dict[str, Any]] = context.cookies()
    context.close()
    return kept


@pytest.fixture
def look(demo: Demo, browser: Any, cookies: list[dict[str, Any]]) -> Iterator[Any]:
    """Open a page of the board; whatever a browser complains of fails the test."""
    contexts, complaints = [], list[str]()

    def open_page(path: str = "/", size: dict[str, int] = WIDE, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        context.add_cookies(cookies)
        page = context.new_page()
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(demo.board + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def faults(page: Any, axe: str) -> list[str]:
    """What axe-core finds serious or critical."""
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{page.url}: {fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def test_a_broken_store_is_found_in_two_clicks_retried_and_gone(
    demo: Demo, look: Any, axe: str, tmp_path: Path
) -> None:
    shop = demo.shop()
    name = shop["name"]
    # It is broken, and synced until the fault is believed.
    demo.edit(shop["domain"], edit="expire_tokens")
    page = look(f"/store?name={name}")

    def is_believed() -> bool:
        page.get_by_role("button", name="Sync now").click()
        page.get_by_text("units due now").wait_for()
        with suppress(Exception):  # a timeout: the first refusal may have been a mistake of the vendor's
            page.get_by_role("heading", level=1).get_by_text("needs attention").wait_for(timeout=40_000)
            return True
        return False

    assert any(is_believed() for _ in range(5))
    page.goto(f"{demo.board}/")
    incident = page.get_by_role("link", name=re.compile(rf"#\d+ store {name}"))
    incident.first.wait_for(timeout=SECONDS)  # the page refreshes itself

    # On a phone and on a wide screen, with its incident.
    for kind, size in (("phone", PHONE), ("wide", WIDE)):
        seen = look("/", size)
        seen.get_by_role("link", name=re.compile(rf"#\d+ store {name}")).first.wait_for()
        assert seen.evaluate("document.documentElement.scrollWidth") <= size["width"]
        picture = (PROJECT / "docs" if KEEPS_PICTURES else tmp_path) / PICTURES[kind]
        seen.screenshot(path=picture)
        assert picture.stat().st_size < 150_000

    # Two clicks: the incident, which says what to do, and the store.
    incident.first.click()
    page.get_by_role("heading", name="What to do").wait_for()
    found = [fault for scheme in ("light", "dark") for size in (WIDE, PHONE)
             for fault in faults(look(page.url.removeprefix(demo.board), size, scheme), axe)]  # fmt: skip
    assert found == []
    page.get_by_role("link", name=name).first.click()
    page.get_by_role("heading", level=1, name=name).get_by_text("needs attention").wait_for()

    # It is mended, and retried with the keyboard alone.
    demo.edit(shop["domain"], edit="set_token", token=shop["token"])
    page.goto(f"{demo.board}/")
    page.get_by_role("button", name=re.compile("Retry incident")).first.focus()
    page.keyboard.press("Enter")
    page.get_by_text("1 incident retried").first.wait_for()
    incident.first.wait_for(state="detached", timeout=SECONDS)
    page.get_by_role("heading", level=1, name="all 14 stores up to date").wait_for(timeout=SECONDS)
    page.goto(f"{demo.board}/changes")
    page.get_by_role("row", name=re.compile("demo board retry incidents")).first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_serious_on_any_page(
    demo: Demo, look: Any, axe: str, size: dict[str, int], scheme: str
) -> None:
    name = demo.shop()["name"]
    paths = [
        "/",
        "/incidents",
        "/incidents?show=resolved",
        "/incident?id=1",
        "/stores",
        f"/store?name={name}",
        "/changes",
        "/login",
    ]
    found = []
    for path in paths:
        page = look(path, size, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        found += faults(page, axe)
    assert found == []


def test_a_page_that_refreshes_itself_keeps_ticks_and_focus_and_can_be_stopped(demo: Demo, look: Any) -> None:
    page = look("/stores")
    page.get_by_role("link", name=demo.shop()["name"]).focus()
    before = page.get_by_text("14 stores").element_handle()
    wait_for(lambda: not before.evaluate("one => one.isConnected"))
    assert page.evaluate("document.activeElement.textContent").strip() == demo.shop()["name"]
    page.get_by_role("button", name="Stop refreshing").click()
    assert page.get_by_role("button", name="Refresh every 10 seconds").is_visible()


def test_it_all_works_without_a_script(demo: Demo, browser: Any, cookies: list[dict[str, Any]]) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto(f"{demo.board}/stores")
    page.get_by_label("Name or domain").fill(demo.shop()["name"][:5])
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name=demo.shop()["name"]).click()
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("1 paused").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("1 resumed").wait_for()
    context.close()
