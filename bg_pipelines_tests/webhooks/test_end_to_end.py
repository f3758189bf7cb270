"""From an edit at the shop to the row: delivered by the sandbox, received over HTTP, handled, and equal to the source."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.sandbox import Fault, Sandbox, Shop, change, edit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.topics import TOPICS, Kind
from bg_pipelines_tests.support import (
    CATALOGUE,
    PATIENCE,
    SALES,
    assert_equal_to_source,
    assert_sales_equal_to_source,
)
from bg_pipelines_tests.webhooks.conftest import Handle, outcomes, receiving, settings

Sync = Callable[..., Summary]
EVERYTHING = (*CATALOGUE, *SALES)
STORE = "shop"
TOLD = [topic.name for topic in TOPICS["shopify"].values() if topic.kind in (Kind.CHANGED, Kind.DELETED)]


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    """Of a receiver at work."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with receiving(settings(database_url, public_url=address), port=port):
        yield address


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(shops=1, variants=40, customers=10)


@pytest.fixture
def shop(sandbox: Sandbox, database: Database, cipher: Cipher, sync: Sync, address: str) -> Shop:
    """A shop that has been synced, and tells of everything from now on."""
    [shop] = sandbox.world.shops.values()
    access = shop.access
    store = NewStore(
        STORE,
        "shopify",
        shop.domain,
        api_url=shop.api_url,
        client_id=access.client_id,
        client_secret=access.client_secret,
    )
    save_stores(database, cipher, [store])
    assert sync(units=EVERYTHING).failures == []
    for name in TOLD:
        fields = TOPICS["shopify"][name].fields
        more = {"includeFields": list(fields)} if fields else {}
        shop.subscriptions.add(name.upper().replace("/", "_"), {"uri": f"{address}/webhooks/shopify", **more})
    return shop


def equal(database: Database, sandbox: Sandbox) -> None:
    assert_equal_to_source(database, sandbox)
    assert_sales_equal_to_source(database, sandbox)


def test_what_is_told_alone_keeps_every_table_equal_to_the_source(
    shop: Shop, sandbox: Sandbox, database: Database, handle: Handle
) -> None:
    """Doubled and in any order; no pass is needed, as long as the rate limit allows."""
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    shop.faults += [Fault("webhook_twice"), Fault("webhook_shuffled", seconds=0.3)]
    for _ in range(3):
        change(shop, 25)
        product = edit(shop, "add_product", variants=2)
        edit(shop, "delete_product", id=shop.export(["products"])["products"][0]["id"])
        edit(shop, "update_product", id=product["id"], fields={"title": "again"})
        edit(shop, "rename_location", id=shop.export(["locations"])["locations"][0]["id"], name="Pier 9")
        if _ < 2:
            handle()
    assert sandbox.world.deliveries_settled(PATIENCE)
    handle()
    equal(database, sandbox)
    assert outcomes(database).keys() == {"handled"}


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_lost_late_or_doubled_a_pass_finds_the_rest(
    shop: Shop, sandbox: Sandbox, database: Database, handle: Handle, sync: Sync, seed: int
) -> None:
    rng = random.Random(seed)
    shop.random.seed(seed)
    for round_ in range(8):
        shop.faults[:] = rng.sample(
            [
                Fault("webhook_lost", times=rng.randint(1, 20)),
                Fault("webhook_twice", times=20),
                Fault("webhook_late", seconds=0.5, times=5),
                Fault("webhook_shuffled", seconds=0.4),
            ],
            k=rng.randint(0, 3),
        )
        change(shop, rng.randint(1, 15))
        if rng.random() < 0.6:
            handle()
        if rng.random() < 0.4:
            units = tuple(rng.sample(EVERYTHING, k=rng.randint(1, 4)))
            sync(units=units, stores=(STORE,), force=rng.random() < 0.3, run_id=f"round-{round_}")
    shop.faults.clear()
    assert sandbox.world.deliveries_settled(PATIENCE)
    handle()
    assert sync(units=EVERYTHING, stores=(STORE,), run_id="last").failures == []
    equal(database, sandbox)
    assert "pending" not in outcomes(database)
