"""Dagster's UI of a running demo in a browser: what is wrong is seen in the list of runs, tables have plots and checks.

It needs what the board's browser tests need. With BG_SCREENSHOTS=1 its picture is put into docs/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bg_pipelines_tests.board.test_browser import SECONDS, WIDE, Demo, browser, demo
from bg_pipelines_tests.support import PROJECT

__all__ = ["browser", "demo"]  # fixtures

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
PICTURES = os.environ.get("BG_SCREENSHOTS") == "1"  # here: a test has none of our variables


@pytest.fixture
def page(demo: Demo, browser: Any) -> Iterator[Any]:
    """One of the demo's UI. The demo has run every job, one store of it with a token that was revoked."""
    context = browser.new_context(viewport=WIDE, base_url=f"http://127.0.0.1:{demo.port}")
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    yield page
    context.close()


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=PROJECT / "docs" / name)


def test_in_the_ui_what_failed_is_found_with_a_click_and_tables_have_plots_checks_and_columns(
    page: Any,
) -> None:
    page.goto("/overview/activity/timeline")
    page.get_by_text("bg_pipelines.definitions").first.wait_for()
    for job in ("store_sync", "customer_sync", "clean_database"):
        page.get_by_text(job, exact=True).first.wait_for()

    # The list of runs: a run whose store failed is told from the others, and a click shows those of this store.
    page.goto("/runs")
    outcome = page.get_by_text("outcome: stores failed").first
    outcome.wait_for()
    page.get_by_text(re.compile("^failed: .+: credentials$")).first.click()
    page.get_by_text(re.compile("add.*filter", re.IGNORECASE)).first.click()
    page.wait_for_url(re.compile("credentials"))
    assert page.get_by_text("Success").count() == page.get_by_text("outcome: stores failed").count() > 0

    # Its page: which store, and why, before anything else of its outcome.
    page.locator("a[href*='/runs/']").filter(has_text=re.compile("[0-9a-f]{8}")).first.click()
    page.get_by_text("was revoked").first.wait_for()
    page.get_by_text("3 checks").first.wait_for()
    picture(page, "run.png")

    page.goto("/locations/__repository__@bg_pipelines.definitions/jobs/customer_sync/playground")
    page.get_by_text("max_workers").first.wait_for()
    page.get_by_text("No errors").first.wait_for()
    assert page.get_by_text("pool_size").count() == 0

    page.goto("/assets/orders?view=overview")
    for text in ("Row count", "Freshness policy", "back-office", "source_updated_at", "sales"):
        page.get_by_text(text).first.wait_for()
    page.get_by_text("Plots", exact=True).first.click()
    page.locator("canvas").first.wait_for()
    page.goto("/assets/orders?view=checks")
    for check in ("drift", "proof", "rejected_rows", "stores_up_to_date", "no_store_fails"):
        page.get_by_text(check, exact=True).first.wait_for()
    assert page.get_by_role("button", name="Execute all").is_enabled()
