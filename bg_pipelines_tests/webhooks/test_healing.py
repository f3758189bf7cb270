"""What no event told of is found by a pass, counted, and much of it is an incident that says why."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Sandbox, Shop, edit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.healing import FEW, Healing
from bg_pipelines_tests.support import CATALOGUE, SALES, query
from bg_pipelines_tests.webhooks.conftest import Handle, Tell

Sync = Callable[..., Summary]
Read = Callable[..., Summary]
ORDERS = (Unit.ORDERS,)
HEALING = Healing("customer_sync", factor=4)


@pytest.fixture
def read(sync: Sync, shop: Shop) -> Read:
    """A pass over the shop's orders, or other units, that counts."""
    runs = itertools.count(1)

    def run(units: tuple[Unit, ...] = ORDERS, **options: Any) -> Summary:
        stores = (shop.domain.split(".")[0],)
        summary = sync(units=units, coverage=HEALING, stores=stores, run_id=f"pass-{next(runs)}", **options)
        assert summary.failures == []
        return summary

    return run


class Late:
    """The sandbox's clock, behind ours: what changes is out of the grace already."""

    minutes = 15.0

    def __call__(self) -> float:
        return time.time() - self.minutes * 60


@pytest.fixture
def late() -> Late:
    return Late()


@pytest.fixture
def shop(
    late: Late,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Sync,
    database: Database,
) -> Shop:
    """A synced shop that is subscribed to everything since long ago."""
    sandbox = make_sandbox(shops=1, variants=30, customers=5, clock=late)
    [name] = add_shops(sandbox)
    assert sync(units=(*CATALOGUE, *SALES)).failures == []
    topics = ["orders/updated", "orders/create", "products/update", "inventory_levels/update"]
    query(
        database,
        "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri) "
        "SELECT id, '1', '2026-01-01', %s, 'https://hooks.example.com' FROM stores WHERE name = %s",
        topics,
        name,
    )
    [shop] = sandbox.world.shops.values()
    return shop


def coverage(database: Database) -> dict[str, tuple[int, int]]:
    rows = query(
        database,
        "SELECT resource, sum(told)::int AS told, sum(untold)::int AS untold FROM webhook_coverage GROUP BY 1",
    )
    return {row["resource"]: (row["told"], row["untold"]) for row in rows}


def incidents(database: Database) -> list[dict[str, Any]]:
    return query(database, "SELECT * FROM incidents WHERE status = 'open' ORDER BY id")


def sell(shop: Shop, orders: int) -> list[dict[str, Any]]:
    return [edit(shop, "add_order") for _ in range(orders)]


def tell_of(tell: Tell, shop: Shop, orders: list[dict[str, Any]]) -> None:
    for order in orders:
        payload = {"admin_graphql_api_id": order["id"], "updated_at": order["updatedAt"]}
        tell(shop.domain.split(".")[0], "orders/create", payload)


def test_rows_are_told_by_events_or_found_by_passes(
    shop: Shop, database: Database, read: Read, tell: Tell, handle: Handle
) -> None:
    tell_of(tell, shop, sell(shop, 3))
    handle()
    assert coverage(database) == {"orders": (3, 0)}
    tell_of(tell, shop, sell(shop, 2))
    sell(shop, 4)
    [variant] = shop.export(["product_variants"])["product_variants"][:1]
    edit(shop, "update_variant", id=variant["id"], fields={"price": "3.00"})
    tell(shop.domain.split(".")[0], "products/update", {"admin_graphql_api_id": variant["product"]["id"]})
    read((*CATALOGUE, *SALES))
    found = coverage(database)
    assert found["orders"] == (5, 4)
    assert (found["products"], found["product_variants"]) == ((1, 0), (1, 0)), (
        "a variant is told by its product"
    )
    assert "customers" not in found, "it is not subscribed to"
    read()
    sell(shop, 1)
    read(force=True)
    assert coverage(database)["orders"] == (5, 4), "full passes count nothing"


def test_what_changed_before_the_subscription_or_a_moment_ago_does_not_count(
    shop: Shop, late: Late, database: Database, read: Read
) -> None:
    query(database, "UPDATE webhook_subscriptions SET source_updated_at = now()")
    sell(shop, 3)
    read()
    query(database, "UPDATE webhook_subscriptions SET source_updated_at = '2026-01-01'")
    late.minutes = 0
    sell(shop, 3)
    assert read().changed > 0
    assert coverage(database) == {}


def test_silent_webhooks_are_an_incident_of_the_platform_until_they_tell_again(
    shop: Shop, database: Database, read: Read, tell: Tell, handle: Handle
) -> None:
    sell(shop, FEW - 1)
    read()
    assert incidents(database) == []
    sell(shop, 1)
    read()
    [incident] = incidents(database)
    assert (incident["fingerprint"], incident["error_type"]) == ("untold:shopify:many", "events_missed")
    assert "no store's deliveries come" in incident["message"]
    tell_of(tell, shop, sell(shop, 1))
    handle()
    assert len(incidents(database)) == 1, "one delivery alone is no proof"
    query(database, "UPDATE incidents SET last_seen_at = now() - %s", timedelta(hours=3))
    tell_of(tell, shop, sell(shop, 1))
    handle()
    assert incidents(database) == []
    sell(shop, 1)
    read()
    assert incidents(database) == [], "what was untold before is over"


@pytest.mark.parametrize("is_gone", [True, False])
def test_where_other_stores_are_told_it_is_the_stores_and_says_whether_its_subscription_was_gone(
    shop: Shop, database: Database, read: Read, tell: Tell, is_gone: bool
) -> None:
    tell(shop.domain.split(".")[0], "locations/update", {"id": 1})  # received of late
    if is_gone:
        query(
            database,
            "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri, deleted_at) "
            "SELECT store_id, '2', source_updated_at, topics, uri, now() FROM webhook_subscriptions",
        )
    sell(shop, FEW)
    read()
    [incident] = incidents(database)
    assert incident["fingerprint"].startswith("untold:shopify:")
    assert ("its subscription was gone at" in incident["message"]) is is_gone
    assert ("while other stores' deliveries come" in incident["message"]) is not is_gone


def test_a_table_whose_changes_are_all_told_may_be_read_less_often(
    shop: Shop, database: Database, read: Read, tell: Tell, handle: Handle
) -> None:
    def interval() -> timedelta:
        read()
        [row] = query(
            database,
            "SELECT next_due_at - last_succeeded_at AS due FROM sync_states WHERE resource = 'orders'",
        )
        due: timedelta = row["due"]
        return due

    # At the store's own ticks: every 5 minutes is after 7.5 at most, every 20 after 10 at least.
    between = timedelta(minutes=8)
    assert interval() < between
    tell_of(tell, shop, sell(shop, FEW))
    handle()
    assert interval() > between
    sell(shop, 1)
    interval()
    assert interval() < between, "one that was not told ends that"
