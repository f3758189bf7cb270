"""What the documentation shows below a command is what that command prints, but for numbers, times and how much there is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.sandbox import Fault, Sandbox, edit
from bg_pipelines_tests.support import as_store, query
from bg_pipelines_tests.test_documented_commands import PAGES, console_blocks, typed_in
from bg_pipelines_tests.typed import Run

NAMES = ("harbor", "pier", "summit", "quay", "mole", "buoy", "cove", "dock", "reef")
ELSEWHERE = {
    "serve-webhooks": "machine/test_serving",
    "status: Nothing is running: no heartbeat": "operations/test_daemon_figures",
}
"""What other tests hold, and where."""


def documented() -> Iterator[tuple[str, str]]:
    """Commands of the console blocks, and each line that is shown of what they print."""
    for page in PAGES:
        for block in console_blocks(page):
            command = ""
            for line in block:
                if (typed := typed_in(line)) is not None:
                    command = typed
                elif line.strip() and command.startswith("bg-pipelines "):
                    yield command.removeprefix("bg-pipelines "), line


def shape(text: str) -> str:
    """A text without its numbers, times, checksums and names of stores, in one line."""
    text = re.sub(r"\(checksum [0-9a-f]+\)", "(checksum 0)", text)
    text = re.sub(r"\d[\d,.:/-]*(ms|s|m|h|%)?(?![a-z])", "0", text)
    text = re.sub(rf"\b({'|'.join(NAMES)})\b", "STORE", text)
    text = re.sub(r"\bonce\b", "0 times", text)
    return " ".join(re.sub(r"\b0(/0)?\b", " ", text).split())


@pytest.fixture
def printed(
    run: Run,
    make_sandbox: Callable[..., Sandbox],
    database: Database,
    cipher: Cipher,
    sync: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """What each command prints, of all that the documentation tells of: a day on which a price is changed by somebody else,
    one token is revoked, a scope is missing, a shop is away, and at the end all tokens are revoked."""
    outputs: dict[str, str] = defaultdict(str)

    def note(*words: str) -> None:
        outputs[" ".join(words)] += run(*words).output + "\n"

    def turn(number: int) -> None:
        units = JOB_UNITS["store_sync"]
        query(
            database,
            "UPDATE sync_states SET next_due_at = now() WHERE next_due_at IS NOT NULL AND resource = ANY(%s)",
            [unit.value for unit in units],
        )
        query(
            database, "UPDATE sync_states SET last_succeeded_at = last_succeeded_at - %s", timedelta(days=1)
        )
        sync(job="store_sync", units=units, run_id=f"turn-{number}")

    monkeypatch.setenv("BG_PUBLIC_URL", "https://hooks.example.com")
    Path("sandbox.csv").write_text("name,platform,domain,token\nbay,shopify,bay.myshopify.com,shpat_1\n")
    note("stores", "import", "sandbox.csv")
    query(database, "DELETE FROM sync_states")
    query(database, "DELETE FROM stores")
    note("webhooks", "toml")
    sandbox = make_sandbox(shops=len(NAMES), variants=60, customers=8, orders_per_customer=2)
    shops = dict(zip(NAMES, sandbox.world.shops.values(), strict=True))
    save_stores(database, cipher, [as_store(shop, name=name) for name, shop in shops.items()])
    for job in ("store_sync", "inventory_sync", "customer_sync"):
        sync(job=job, units=JOB_UNITS[job], run_id=job)
    query(
        database,
        "UPDATE product_variants SET price = price + 1 WHERE external_id = (SELECT min(v.external_id) "
        "FROM product_variants v JOIN stores s ON s.id = v.store_id WHERE s.name = 'harbor')",
    )
    edit(shops["harbor"], "add_order")
    note("audit", "harbor")
    shops["harbor"].faults.append(Fault("unauthorized"))
    edit(shops["pier"], "set_scopes", scopes=["read_products"])
    query(database, "UPDATE stores SET api_url = 'http://127.0.0.1:9' WHERE name = 'summit'")
    turn(1)
    turn(2)
    query(database, "UPDATE stores SET paused_at = now() WHERE name = 'mole'")
    query(database, "UPDATE incidents SET owner = 'jane' WHERE error_type = 'credentials'")
    note("incidents", "list")
    note("status")
    for shop in shops.values():
        shop.faults.append(Fault("unauthorized"))
    for number in (3, 4, 5):
        turn(number)
    note("incidents", "list")
    return outputs


def test_what_is_shown_of_a_commands_output_is_what_it_prints(printed: dict[str, str]) -> None:
    shown = [
        (command, line)
        for command, line in documented()
        if not f"{command}: {line}".startswith(tuple(ELSEWHERE))
    ]
    assert len(shown) > 30
    faults = []
    for command, line in shown:
        if command not in printed:
            faults.append(f"{command}: shown and not tried")
        elif shape(line.partition("…")[0]) not in shape(printed[command]):
            faults.append(f"{command}: does not print {line.strip()!r}")
    assert not faults, "\n".join(faults) + "\n\n" + "\n".join(printed.values())
