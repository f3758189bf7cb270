"""What the sandbox's shops and merchants send when something changes there is received, every one of them, once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.sandbox import Sandbox, Shop, change, edit
from bg_pipelines.sandbox.square.events import EVENT_TYPES
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.support import PATIENCE
from bg_pipelines_tests.webhooks.conftest import Inside, Vendors, receiving, settings

BY_API = [topic.name for topic in TOPICS["shopify"].values() if topic.by_api]
NAMED_BY_API = {topic: topic.upper().replace("/", "_") for topic in BY_API}


@pytest.fixture
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def vendors(url: str, address: str, inside: Inside) -> Iterator[Vendors]:
    port = int(address.rpartition(":")[2])
    with receiving(settings(url, public_url=address), port=port) as vendors:
        yield vendors


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox], vendors: Vendors) -> Sandbox:
    return make_sandbox(shops=1, variants=30, merchants=1, square_variants=10, square_customers=5)


@pytest.fixture
def shop(sandbox: Sandbox, own_database: Database, cipher: Cipher) -> Shop:
    """A store with an app of its own, which is what signs."""
    [shop] = sandbox.world.shops.values()
    access = shop.access
    store = NewStore(
        "shop", "shopify", shop.domain, client_id=access.client_id, client_secret=access.client_secret
    )
    save_stores(own_database, cipher, [store])
    return shop


def subscribe(shop: Shop, address: str, *topics: str) -> None:
    for topic in topics:
        fields = TOPICS["shopify"][topic].fields
        more = {"includeFields": list(fields)} if fields else {}
        shop.subscriptions.add(NAMED_BY_API[topic], {"uri": f"{address}/webhooks/shopify", **more})


def assert_all_received(sandbox: Sandbox, shop: Shop, inside: Inside) -> None:
    assert sandbox.world.deliveries_settled(PATIENCE)
    assert {delivery.status for delivery in shop.deliveries} == {"delivered"}
    rows = inside.rows()
    assert {row["status"] for row in rows} == {"pending"}
    told = sorted((delivery.id, delivery.topic) for delivery in shop.deliveries)
    assert sorted((row["webhook_id"], row["topic"]) for row in rows) == told
    # Of a document and a command the payload says it, and a level that is gone is named by its two ends.
    about = {delivery.id: delivery.object_id for delivery in shop.deliveries}
    for row in rows:
        if row["payload"] is None and row["topic"] != "inventory_levels/disconnect":
            assert row["object_id"] == about[row["webhook_id"]]


def test_everything_that_a_shop_tells_of_is_received(
    sandbox: Sandbox, shop: Shop, address: str, inside: Inside
) -> None:
    subscribe(shop, address, *BY_API)
    change(shop, 40)
    variant = next(iter(shop.store.variants))
    cart = edit(shop, "put_cart", lines={variant["id"]: 2})
    checkout = edit(shop, "put_checkout", cart_token=cart["token"])
    edit(shop, "delete_checkout", token=checkout["token"])
    customer = next(iter(shop.ledger.customers))["id"]
    edit(shop, "delete_order", id=next(iter(shop.ledger.orders))["id"])
    edit(shop, "update_shop", fields={"name": "Other"})
    edit(shop, "set_compliance_uri", uri=f"{address}/webhooks/shopify")
    for name in ("request_customer_data", "request_customer_redaction"):
        edit(shop, name, id=customer)
    edit(shop, "request_shop_redaction")
    edit(shop, "uninstall")
    assert_all_received(sandbox, shop, inside)
    topics = {row["topic"] for row in inside.rows()}
    assert {
        "carts/create",
        "checkouts/delete",
        "app/uninstalled",
        "customers/redact",
        "shop/redact",
    } <= topics


def test_shopifys_events_mean_the_same(sandbox: Sandbox, shop: Shop, address: str, inside: Inside) -> None:
    kinds = ("orders/", "customers/", "products/")
    subscribe(shop, address, *(topic for topic in BY_API if topic.startswith(kinds)))
    edit(shop, "set_webhook_shape", shape="events")
    change(shop, 40)
    product = edit(shop, "add_product", variants=1)
    edit(shop, "delete_product", id=product["id"])
    assert_all_received(sandbox, shop, inside)
    assert {"products/create", "products/update", "products/delete"} <= {
        row["topic"] for row in inside.rows()
    }


def test_everything_that_a_merchant_tells_of_is_received(
    sandbox: Sandbox, address: str, inside: Inside, own_database: Database, cipher: Cipher
) -> None:
    [merchant] = sandbox.world.square_merchants.values()
    save_stores(own_database, cipher, [NewStore("merchant", "square", merchant.id.lower(), token="t")])
    made = merchant.subscriptions.add(
        {"event_types": sorted(EVENT_TYPES), "notification_url": f"{address}/webhooks/square"}
    )
    with own_database.transaction() as connection:
        connection.execute(
            "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri, signature_key) "
            "SELECT id, %s, now(), '{}', '', %s FROM stores WHERE name = 'merchant'",
            (made["id"], cipher.encrypt(made["signature_key"])),
        )
    change(merchant, 40)
    assert sandbox.world.deliveries_settled(PATIENCE)
    assert {delivery.status for delivery in merchant.deliveries} == {"delivered"}
    rows = inside.rows()
    assert {row["webhook_id"] for row in rows} == {delivery.id for delivery in merchant.deliveries}
    assert {row["status"] for row in rows} == {"pending"}
    assert {"order.updated", "inventory.count.updated"} <= {row["topic"] for row in rows}
