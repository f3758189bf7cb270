"""Commands: what an event asks for is done once, for its store, whatever state that is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.platforms.shopify.bulk import ExportLimits
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Sandbox, Shop, edit
from bg_pipelines.sync import Summary
from bg_pipelines.work import store_units
from bg_pipelines_tests.support import SALES, connect_by, query
from bg_pipelines_tests.webhooks.conftest import Handle, Tell, outcomes, reasons

Sync = Callable[..., Summary]
CUSTOMER = {"id": 7, "email": "ada@example.com", "phone": None}


@pytest.fixture
def shop(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Shop:
    sandbox = make_sandbox(shops=1, variants=3, customers=3)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    return shop


@pytest.fixture
def order(shop: Shop, tell: Tell) -> Callable[..., None]:
    """Give the shop's store a command: `order("shop/update")`."""

    def give(topic: str, **payload: Any) -> None:
        named = {"myshopify_domain": shop.domain, "shop_domain": shop.domain}
        tell(shop.domain.split(".")[0], topic, {**named, **payload})

    return give


def state(database: Database, unit: Unit) -> dict[str, Any]:
    [row] = query(database, "SELECT * FROM sync_states WHERE resource = %s", unit.value)
    return row


def test_a_changed_shop_has_its_profile_read_at_once(
    shop: Shop, database: Database, order: Callable[..., None], handle: Handle, sync: Sync
) -> None:
    assert sync(units=(Unit.STORE,)).failures == []
    order("shop/update")
    handle()
    assert state(database, Unit.STORE)["hinted_at"] is not None
    query(database, "UPDATE stores SET paused_at = now()")
    order("shop/update")
    handle()
    assert outcomes(database) == {"handled": 1, "ignored": 1}


def test_a_finished_export_is_fetched_at_once(
    shop: Shop, database: Database, order: Callable[..., None], handle: Handle, sync: Sync
) -> None:
    order("bulk_operations/finish", admin_graphql_api_id="gid://shopify/BulkOperation/1")
    handle()
    assert reasons(database) == {"nothing waited for it"}
    edit(shop, "set_bulk_seconds", seconds=3600)
    connect = connect_by(shopify={"exports": ExportLimits(looks_seconds=(0.02,))})
    assert sync(units=SALES, backfill="bulk", connect=connect).units[Unit.ORDERS].waiting == 1
    waiting = state(database, Unit.ORDERS)["next_due_at"]
    with database.transaction() as connection:
        store_units.hint(connection, [(1, Unit.ORDERS)])
    assert state(database, Unit.ORDERS)["next_due_at"] == waiting, "a hint does not look for it earlier"
    order("bulk_operations/finish", admin_graphql_api_id="gid://shopify/BulkOperation/1")
    handle()
    assert state(database, Unit.ORDERS)["next_due_at"] < waiting
    assert outcomes(database) == {"handled": 2}


def test_a_shop_that_removed_the_app_is_paused_and_its_hints_are_ignored(
    shop: Shop, database: Database, tell: Tell, order: Callable[..., None], handle: Handle
) -> None:
    order("app/uninstalled")
    handle()
    assert (outcomes(database), reasons(database)) == ({"ignored": 1}, {"the app is installed"})
    edit(shop, "uninstall")
    order("app/uninstalled")
    tell(shop.domain.split(".")[0], "orders/updated", {"id": 1})
    handle()
    assert outcomes(database) == {"handled": 1, "ignored": 2}
    [store] = query(database, "SELECT paused_at, uninstalled_at FROM stores")
    assert store["paused_at"] is not None
    assert store["uninstalled_at"] is not None
    order("app/uninstalled")
    handle()
    assert "it was done before" in reasons(database)


def test_a_customer_who_is_to_be_erased_is_and_so_is_what_their_cart_tells_later(
    shop: Shop, database: Database, tell: Tell, order: Callable[..., None], handle: Handle
) -> None:
    [store] = query(database, "SELECT name FROM stores")
    cart = {
        "token": "k1",
        "cart_token": "c1",
        "created_at": "2026-11-23T12:00:00Z",
        "currency": "EUR",
        "total_price": "1.00",
        "email": "ada@example.com",
        "customer": CUSTOMER,
    }
    query(database, "UPDATE stores SET paused_at = now()")  # a command is carried out all the same
    tell(store["name"], "checkouts/create", {**cart, "updated_at": "2026-11-23T12:01:00Z"})
    order("customers/redact", customer=CUSTOMER, orders_to_redact=[])
    handle()
    [held] = query(database, "SELECT email, customer_external_id, total FROM carts")
    assert (held["email"], held["customer_external_id"]) == (None, None)
    tell(
        store["name"],
        "checkouts/update",
        {**cart, "updated_at": "2026-11-23T12:02:00Z", "total_price": "2.00"},
    )
    tell(
        store["name"], "checkouts/update", {**cart, "updated_at": "2026-11-23T12:03:00Z", "total_price": "x"}
    )
    handle()
    [held] = query(database, "SELECT email, customer_external_id, total FROM carts")
    assert (held["email"], held["customer_external_id"]) == (None, None)
    [request] = query(database, "SELECT * FROM data_requests")
    assert (request["kind"], request["status"]) == ("erase_customer", "done")
    told = query(database, "SELECT reason FROM webhook_events WHERE topic = 'customers/redact'")
    assert told == [{"reason": f"request {request['id']}"}]


def test_a_command_that_cannot_be_carried_out_waits_for_a_person_with_its_reason(
    shop: Shop, database: Database, order: Callable[..., None], handle: Handle
) -> None:
    order("customers/redact", customer="nobody", orders_to_redact=[])
    assert handle().events == {"failed": 1}
    [incident] = query(database, "SELECT error_type, message, needs_attention FROM incidents")
    assert (incident["error_type"], incident["needs_attention"]) == ("bad_data", True)
    assert incident["message"] == "customer: must be an object and is not"


def test_what_an_erased_store_is_still_sent_is_not_kept_and_not_carried_out_when_it_is_replayed(
    database: Database, order: Callable[..., None], handle: Handle
) -> None:
    query(database, "UPDATE stores SET deleted_at = now()")
    order("customers/redact", customer=CUSTOMER, orders_to_redact=[])
    handle()
    assert query(database, "SELECT count(*) AS kept FROM webhook_events WHERE payload IS NOT NULL") == [
        {"kept": 0}
    ]
    query(database, "UPDATE webhook_events SET status = 'pending', next_due_at = now()")
    handle()
    assert reasons(database) == {"its content was erased"}
