"""The commands of the documentation's console blocks are run as they stand there, against a world that has what they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines import people
from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.jobs import cart_tasks
from bg_pipelines.cleaning.run import CleaningRun
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.privacy.planted import Person, insert, plant
from bg_pipelines_tests.support import PROJECT, as_store, query
from bg_pipelines_tests.typed import Run, ok

PAGES = [PROJECT / "README.md", *sorted(set((PROJECT / "docs").glob("*.md")) - {PROJECT / "docs" / "cli.md"})]

NOT_RUN = {
    "board": "serves; board/",
    "up": "serves; machine/test_up",
    "serve-webhooks": "serves; machine/test_serving",
    "migrate": "database/test_models",
    "status --watch": "never ends; cli/test_cli",
}
"""Commands that other tests run, and where."""
MAY_FAIL = {"check", "audit harbor"}
"""They find faults, for the world's rows are not what its platforms have."""
SECRET = "shpat_0123456789abcdef\n"
"""What is typed where a secret is asked for; twice, where it is to be repeated."""


def console_blocks(page: Path) -> Iterator[list[str]]:
    """The lines of each of a page's console blocks; one that goes on below is one."""
    for block in re.findall(r"^ *```console\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        yield block.replace("\\\n", " ").splitlines()


def typed_in(line: str) -> str | None:
    """What is typed in a line, without prompt and comment; None: it is output."""
    found = re.match(r"\s*\w*[$#] (.*)", line)
    return re.split(r"\s+#\s", found[1])[0].strip() if found else None


def console_lines(page: Path) -> Iterator[str]:
    """What is typed in a page's console blocks."""
    for block in console_blocks(page):
        lines = iter(block)
        for line in lines:
            if typed := typed_in(line):
                while typed.count("'") % 2:  # a quoted text goes on
                    typed += "\n" + next(lines)
                yield from typed.split(" && ")


def ours() -> list[str]:
    """The commands of this program, each once, those that remove something last."""
    found = dict.fromkeys(
        line.removeprefix("bg-pipelines ")
        for page in PAGES
        for line in console_lines(page)
        if line.startswith("bg-pipelines ")
    )
    return sorted(found, key=lambda line: (" remove " in line, " erase " in line, "pause" in line))


def test_every_store_of_the_documentation_is_added(run: Run) -> None:
    lines = [line for line in ours() if line.startswith("stores add ")]
    assert len(lines) >= 3
    for line in lines:
        result = run(*shlex.split(line), typed=SECRET)
        assert result.exit_code == 0, (line, result.exception)


@pytest.fixture
def world(
    database: Database,
    cipher: Cipher,
    make_sandbox: Callable[..., Sandbox],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    run: Run,
) -> Callable[[], None]:
    """What the documentation names is there: stores, customers, products, incidents, files. Returns what adds harbor again,
    where it was removed."""
    sandbox = make_sandbox(shops=2, variants=3, merchants=1, square_variants=2, square_customers=2)
    (harbor, pier), (quay,) = sandbox.world.shops.values(), sandbox.world.square_merchants.values()
    till = NewStore("harbor-till", "square", "till", token=quay.token, api_url=quay.api_url)
    stores = [as_store(harbor, name="harbor"), as_store(pier, name="pier"), till]
    save_stores(
        database, cipher, [*stores, NewStore("quay", "square", "quay", token="t", api_url=quay.api_url)]
    )
    ids = {row["name"]: row["id"] for row in query(database, "SELECT id, name FROM stores")}
    for store, number in (("harbor", 17), ("harbor", 1234), ("pier", 9)):
        plant(database, cipher, ids[store], Person(f"marker{number}", number, f"1234567{number}"))
    with database.transaction() as connection:

        def put(table: str, store: str = "harbor", **given: Any) -> None:
            insert(connection, table, {"store_id": ids[store], **given})

        put("customers", "quay", external_id="4", email="d@example.com", email_verified=True)
        put("locations", external_id="gid://shopify/Location/1", name="Quay Street")
        put(
            "products",
            external_id="gid://shopify/Product/1",
            title="Linen Shirt",
            handle="linen-shirt",
            status="active",
        )
        for number, sku in enumerate(("LINEN-S", "TEE-S"), 1):
            item = f"gid://shopify/InventoryItem/{number}"
            put(
                "product_variants",
                external_id=f"gid://shopify/ProductVariant/{number}",
                product_external_id="gid://shopify/Product/1",
                inventory_item_external_id=item,
                sku=sku,
                title=sku,
                price=49,
            )
            level = f"gid://shopify/InventoryLevel/{number}"
            place = "gid://shopify/Location/1"
            put(
                "inventory_levels",
                external_id=level,
                inventory_item_external_id=item,
                location_external_id=place,
                available=12,
            )
        put("orders", external_id="gid://shopify/Order/1", name="#1001")
        for table, number in (("incidents", 12), ("data_requests", 4), ("webhook_events", 4711)):
            connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s, false)", (table, number))
        put("incidents", fingerprint="store:1:credentials", error_type="credentials", notified="open")
        parked = "UPDATE sync_states SET incident_id = 12, next_due_at = NULL WHERE store_id = %s AND resource = 'products'"
        connection.execute(parked, (ids["harbor"],))
        put("data_requests", kind="export", status="open")
        for number in (4711, 4712):
            put(
                "webhook_events",
                source="shopify",
                webhook_id=str(number),
                topic="orders/updated",
                status="handled",
            )
        long_ago = datetime.now(UTC) - timedelta(days=400)
        put("carts", external_id="old", source_updated_at=long_ago, payment_state="none")
    Path("counts.csv").write_text("store,item,location,from,to,reason\nharbor,LINEN-S,Quay Street,12,11,\n")
    Path("sandbox.csv").write_text("name,platform,domain,token\nmole,shopify,mole.myshopify.com,shpat_1\n")
    twilio = sandbox.world.twilio
    for name, value in {
        "BG_TWILIO_ACCOUNT_SID": twilio.account_sid,
        "BG_TWILIO_AUTH_TOKEN": twilio.auth_token,
        "BG_TWILIO_FROM": twilio.numbers[0],
        "BG_TWILIO_API_URL": sandbox.url,
        "BG_HOME_DIR": str(tmp_path / "home"),
        "BG_PUBLIC_URL": "https://hooks.example.com",
    }.items():
        monkeypatch.setenv(name, value)
    people.match(database)
    ok(run("people", "join", "harbor", "1234", "pier", "9"))
    keep = CartKeep(archive=timedelta(days=365))
    CleaningRun(
        database, "clean_active_carts", cart_tasks(keep, cipher), run_id="before", max_minutes=1
    ).run()

    def add_again() -> None:
        if not query(database, "SELECT id FROM stores WHERE name = 'harbor'"):
            save_stores(database, cipher, [NewStore("harbor", "shopify", "harbor.myshopify.com", token="t")])

    return add_again


def asks_for_secret(line: str) -> bool:
    return line.endswith("--token -") or line.startswith("board users add")


def test_every_other_command_of_the_documentation_does_what_it_is_shown_for(
    world: Callable[[], None], run: Run
) -> None:
    faults = []
    for line in ours():
        if any(line == name or line.startswith(f"{name} --") for name in NOT_RUN) or line.startswith(
            "stores add "
        ):
            continue
        world()
        result = run(*shlex.split(line), typed=2 * SECRET if asks_for_secret(line) else "y\n")
        if result.exit_code != 0 and line not in MAY_FAIL:
            faults.append(
                f"bg-pipelines {line}: {result.exit_code} {result.exception!r} {result.output[-200:]}"
            )
    assert not faults, "\n".join(faults)


def test_every_request_to_the_sandbox_that_the_documentation_shows_is_answered(
    make_sandbox: Callable[..., Sandbox],
) -> None:
    sandbox = make_sandbox(shops=2, variants=3, merchants=1, square_variants=2, square_customers=2)
    shop, merchant = (
        next(iter(sandbox.world.shops.values())),
        next(iter(sandbox.world.square_merchants.values())),
    )
    names = {"$SANDBOX": sandbox.url, "$DOMAIN": shop.domain, "$TOKEN": shop.token, "$ID": merchant.id}
    shown = [
        line
        for line in console_lines(PROJECT / "docs" / "sandbox.md")
        if line.startswith("curl -s ") and "|" not in line and "/scenario" not in line
    ]
    assert len(shown) > 20
    for line in shown:
        for name, value in names.items():
            line = line.replace(name, value)
        method, address, headers, body = "GET", "", {}, None
        words = iter(shlex.split(line)[2:])
        for word in words:
            if word == "-X":
                method = next(words)
            elif word == "-H":
                header, _, value = next(words).partition(": ")
                headers[header] = value
            elif word == "-d":
                body = next(words)
                method = "POST" if method == "GET" else method
            else:
                address = word
        answer = requests.request(method, address, headers=headers, data=body, timeout=30)
        assert answer.status_code < 300, (line, answer.text[:200])
