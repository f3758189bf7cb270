"""A store's webhook subscriptions are kept as declared, whatever the platform has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents import handling
from bg_pipelines.queues import EARLY, JOB_UNITS, Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.declared import declared, same_address, units_of
from bg_pipelines.webhooks.subscriptions import keep_subscriptions
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines.work import store_units
from bg_pipelines_tests.support import CATALOGUE, assert_equal_to_source, connect_by, expire_leases, query

Keep = Callable[..., Summary]
PUBLIC = "https://hooks.example.com"
URI = f"{PUBLIC}/webhooks/shopify"
BY_API = {topic.name for topic in TOPICS["shopify"].values() if topic.by_api}


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Sandbox:
    sandbox = make_sandbox(shops=1, variants=3)
    add_shops(sandbox)
    return sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    [shop] = sandbox.world.shops.values()
    return shop


@pytest.fixture
def keep(sync: Callable[..., Summary], sandbox: Sandbox) -> Keep:
    """Keep the subscriptions of all stores now: `keep(public_url="https://other.example.com")`."""

    def run(public_url: str = PUBLIC, **options: Any) -> Summary:
        sandbox.world.forget_requests()
        work = partial(keep_subscriptions, public_url=public_url, by_hand=options.pop("by_hand", ()))
        names = tuple(options.pop("stores", ()))
        return sync(units=(Unit.WEBHOOKS,), stores=names, processes={Unit.WEBHOOKS: work}, **options)

    return run


@pytest.fixture
def names(database: Database, sandbox: Sandbox) -> tuple[str, ...]:
    return tuple(row["name"] for row in query(database, "SELECT name FROM stores ORDER BY name"))


def calls(sandbox: Sandbox) -> Counter[str]:
    return Counter(request.operation for request in sandbox.world.requests())


def there(shop: Shop) -> list[tuple[str, str]]:
    """Topic and address of what the shop has."""
    return sorted((topic, row["uri"]) for topic, rows in shop.subscriptions.of.items() for row in rows)


def held(database: Database) -> list[dict[str, Any]]:
    return query(
        database,
        "SELECT external_id, topics, uri, include_fields, filter, signature_key, xmin::text AS version FROM webhook_subscriptions "
        "WHERE deleted_at IS NULL ORDER BY topics, external_id",
    )


def unit(database: Database, name: Unit = Unit.WEBHOOKS) -> dict[str, Any]:
    [row] = query(database, "SELECT * FROM sync_states WHERE resource = %s", name.value)
    return row


def incidents(database: Database) -> list[tuple[str, str, str, bool]]:
    return [
        (row["kind"], row["error_type"], row["severity"], row["needs_attention"])
        for row in query(database, "SELECT * FROM incidents WHERE status = 'open' ORDER BY id")
    ]


AS_DECLARED = [(topic, URI) for topic in sorted(BY_API)]


def test_the_first_look_makes_all_that_is_declared_and_the_second_asks_for_the_list_only(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    with database.transaction() as connection:
        assert store_units.is_due(connection, [Unit.WEBHOOKS], retries=True), (
            "the sensor starts it for a new store"
        )
    summary = keep()
    assert (summary.complete, summary.failures) == (1, [])
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "Subscribe": len(BY_API)}
    assert there(shop) == AS_DECLARED
    for row in shop.subscriptions.table:
        topic = TOPICS["shopify"][row["topic"].lower()[::-1].replace("_", "/", 1)[::-1]]
        assert tuple(row["includeFields"]) == topic.fields
        assert row["format"] == "JSON"
    rows = held(database)
    assert sorted(row["topics"] for row in rows) == [[topic] for topic in sorted(BY_API)]
    assert {row["external_id"] for row in rows} == {row["id"] for row in shop.subscriptions.table}
    assert {(row["uri"], row["filter"], row["signature_key"]) for row in rows} == {(URI, None, None)}
    before = held(database)
    keep(stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1}
    assert held(database) == before
    assert incidents(database) == []


def test_it_is_due_again_at_the_next_hour(keep: Keep, database: Database) -> None:
    began = datetime.now(UTC)
    keep()
    due = unit(database)["next_due_at"]
    assert timedelta(0) < due - began <= timedelta(hours=1)
    assert (due + EARLY).minute == (due + EARLY).second == 0


def test_what_differs_is_changed_by_one_call(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    [row] = shop.subscriptions.of["orders/create"]
    shop.subscriptions.update(row, {"includeFields": ["id"], "filter": "test:false"})
    keep(stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "UpdateSubscription": 1}
    [row] = shop.subscriptions.of["orders/create"]
    assert (tuple(row["includeFields"]), row["filter"]) == (TOPICS["shopify"]["orders/create"].fields, None)
    assert incidents(database) == []


def test_strays_and_duplicates_of_ours_go_and_another_address_is_not_touched(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    shop.subscriptions.add("REFUNDS_CREATE", {"uri": URI})  # declared by an earlier release
    shop.subscriptions.add("ORDERS_CREATE", {"uri": URI, "filter": "id:1"})
    others = "https://other.example.com/webhooks/shopify"
    shop.subscriptions.add("ORDERS_CREATE", {"uri": others})
    shop.subscriptions.add("REFUNDS_CREATE", {"uri": f"{PUBLIC}/staging/webhooks/shopify"})
    keep(stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "Unsubscribe": 2}
    assert there(shop) == sorted(
        [*AS_DECLARED, ("orders/create", others), ("refunds/create", f"{PUBLIC}/staging/webhooks/shopify")]
    )
    assert len(held(database)) == len(BY_API)


def test_of_two_that_differ_the_one_that_can_be_changed_is_kept(
    keep: Keep, sandbox: Sandbox, shop: Shop
) -> None:
    shop.subscriptions.add("ORDERS_CREATE", {"uri": URI, "filter": "id:1"})
    shop.subscriptions.add("ORDERS_CREATE", {"uri": URI, "includeFields": ["id"]})
    assert keep().failures == []
    assert there(shop) == AS_DECLARED
    assert calls(sandbox)["UpdateSubscription"] == calls(sandbox)["Unsubscribe"] == 1


def test_three_hundred_subscriptions_are_read_to_the_last_page(
    keep: Keep, sandbox: Sandbox, shop: Shop
) -> None:
    for number in range(300):
        shop.subscriptions.add("PRODUCTS_UPDATE", {"uri": f"https://apps.example.com/{number}"})
    shop.subscriptions.add("ORDERS_CREATE", {"uri": URI, "includeFields": ["id"]})
    assert keep().failures == []
    assert calls(sandbox)["WebhookSubscriptions"] == 2
    assert calls(sandbox)["Subscribe"] == len(BY_API) - 1
    assert len(there(shop)) == 300 + len(BY_API)


def test_what_was_deleted_behind_our_back_is_back_reported_once_and_its_tables_are_read(
    keep: Keep, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    query(
        database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour', last_succeeded_at = now()"
    )
    said: list[str] = []
    for topic in ("orders/create", "orders/updated", "products/update"):
        [row] = shop.subscriptions.of[topic]
        shop.subscriptions.remove(row)
    keep(stores=names, log=said.append)
    assert there(shop) == AS_DECLARED
    assert incidents(database) == [("missing_subscriptions", "events_missed", "medium", False)]
    [incident] = query(database, "SELECT * FROM incidents")
    assert incident["message"].startswith(
        "3 webhook subscriptions disappeared (orders/create, orders/updated, products/up"
    )
    assert incident["details"] == {"topics": ["orders/create", "orders/updated", "products/update"]}
    assert any("3 webhook subscriptions disappeared" in line for line in said)
    due = {
        row["resource"]
        for row in query(
            database, "SELECT resource FROM sync_states WHERE next_due_at <= now() AND hinted_at <= now()"
        )
    }
    assert due == {"orders", "products", "product_variants"}
    with database.transaction() as connection:
        assert store_units.is_due(connection, [Unit.ORDERS], retries=True), "the retries sensor starts it"
    keep(stores=names)
    assert [row["occurrences"] for row in query(database, "SELECT occurrences FROM incidents")] == [1]
    assert len(held(database)) == len(BY_API)


def test_what_changed_while_they_were_gone_is_read_although_no_tick_is_due(
    keep: Keep,
    sync: Callable[..., Summary],
    sandbox: Sandbox,
    shop: Shop,
    database: Database,
    names: tuple[str, ...],
) -> None:
    keep()
    sync(units=CATALOGUE)
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour'")
    edit(shop, "drop_subscriptions")
    for _ in range(10):
        sandbox.world.change_one()
    sync(units=CATALOGUE)
    with pytest.raises(AssertionError):
        assert_equal_to_source(database, sandbox)
    keep(stores=names)
    with database.transaction() as connection:
        for units in (JOB_UNITS["store_sync"], JOB_UNITS["inventory_sync"], JOB_UNITS["customer_sync"]):
            assert store_units.is_due(connection, units, retries=True)
    sync(units=CATALOGUE)
    assert_equal_to_source(database, sandbox)
    assert (
        query(
            database,
            "SELECT 1 FROM sync_states WHERE hinted_at IS NOT NULL AND resource = ANY(%s)",
            list(CATALOGUE),
        )
        == []
    )


def test_the_incident_is_over_when_none_has_been_missing_for_six_hours(
    keep: Keep, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    shop.subscriptions.clear()
    keep(stores=names)
    query(database, "UPDATE incidents SET last_seen_at = now() - interval '5 hours 50 minutes'")
    keep(stores=names)
    assert len(incidents(database)) == 1
    query(database, "UPDATE incidents SET last_seen_at = now() - interval '6 hours'")
    keep(stores=names)
    assert incidents(database) == []


def test_a_missing_one_is_reported_although_making_it_again_fails(
    keep: Keep, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    shop.subscriptions.clear()
    shop.faults.append(Fault("server_error", operation="Subscribe"))
    assert len(keep(stores=names).failures) == 1
    assert incidents(database) == [("missing_subscriptions", "events_missed", "medium", False)]
    shop.faults.clear()
    keep(stores=names)
    assert there(shop) == AS_DECLARED
    assert [row["occurrences"] for row in query(database, "SELECT occurrences FROM incidents")] == [1]


def test_a_topic_without_its_scope_is_an_incident_and_the_others_are_made(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    scopes = list(shop.access.scopes)
    edit(shop, "set_scopes", scopes=[scope for scope in scopes if scope != "read_locations"])
    summary = keep()
    assert (summary.complete, summary.failures) == (1, [])
    refused = {topic for topic in BY_API if topic.startswith("locations/")}
    assert there(shop) == [(topic, URI) for topic in sorted(BY_API - refused)]
    assert incidents(database) == [("refused_subscriptions", "scopes", "medium", True)]
    [incident] = query(database, "SELECT * FROM incidents")
    assert "read_locations" in incident["message"]
    assert set(incident["details"]["topics"]) == refused
    keep(stores=names)
    assert [row["occurrences"] for row in query(database, "SELECT occurrences FROM incidents")] == [1]
    edit(shop, "set_scopes", scopes=scopes)
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour'")
    assert handling.retry(database, [incident["id"]], by="jo").incidents == 1
    with database.transaction() as connection:
        assert store_units.is_due(connection, [Unit.WEBHOOKS], retries=True)
    keep()
    assert there(shop) == AS_DECLARED
    assert incidents(database) == []


def test_a_wrong_token_is_an_incident_like_any_other(keep: Keep, shop: Shop, database: Database) -> None:
    shop.access.expire_all()
    [failure] = keep().failures
    assert failure.error.error_type is ErrorType.CREDENTIALS
    assert incidents(database) == [("store", "credentials", "high", True)]
    assert unit(database)["next_due_at"] is None


def test_an_address_that_shopify_does_not_deliver_to_is_a_fault_of_the_settings(
    keep: Keep, sandbox: Sandbox, shop: Shop
) -> None:
    [failure] = keep("http://hooks.example.com").failures
    assert failure.error.error_type is ErrorType.CONFIGURATION
    assert "BG_PUBLIC_URL" in failure.error.message
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "Subscribe": 1}
    assert there(shop) == []


def test_a_new_public_address_changes_each_where_it_is(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    ids = {row["id"] for row in shop.subscriptions.table}
    moved = "https://new.example.com:8443/in/"
    keep(moved, stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "UpdateSubscription": len(BY_API)}
    assert {row["uri"] for row in shop.subscriptions.table} == {f"{moved}webhooks/shopify"}
    assert {row["id"] for row in shop.subscriptions.table} == ids
    assert incidents(database) == []
    keep(moved, stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1}


def test_what_a_copy_of_this_installation_took_over_is_left_to_it_and_made_anew(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    keep()
    copys = "https://staging.example.com/webhooks/shopify"
    taken = list(shop.subscriptions.table)
    for row in taken:
        shop.subscriptions.update(row, {"uri": copys})
    keep(stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "Subscribe": len(BY_API)}
    assert there(shop) == sorted(AS_DECLARED + [(topic, copys) for topic in BY_API])
    assert [kind for kind, *_ in incidents(database)] == ["missing_subscriptions"]
    keep(stores=names)
    assert calls(sandbox) == {"WebhookSubscriptions": 1}


def test_one_that_was_made_before_a_crash_is_found_and_made_no_second_time(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database
) -> None:
    # Made, and the run killed before it was kept: the answer is lost and so is all that came before it.
    shop.faults.append(Fault("apply_then_cut", operation="Subscribe", after=4, times=1))
    assert len(keep().failures) == 1
    assert held(database) == []
    assert len(there(shop)) == 5
    query(database, "UPDATE sync_states SET next_due_at = now()")
    assert keep().failures == []
    assert calls(sandbox) == {"WebhookSubscriptions": 1, "Subscribe": len(BY_API) - 5}
    assert there(shop) == AS_DECLARED
    assert len(held(database)) == len(BY_API)
    assert incidents(database) == []


def test_two_looks_at_once_make_each_once(
    keep: Keep, sandbox: Sandbox, shop: Shop, database: Database, names: tuple[str, ...]
) -> None:
    """As after a lost lease: what the other has made since is taken, for Shopify takes no second one."""
    connect = connect_by()

    def overtaken(access: Any, sleep: Any) -> Any:
        platform: Any = connect(access, sleep)
        listed = platform.webhooks.subscriptions

        def subscriptions() -> Any:
            found = listed()
            expire_leases(database)
            assert keep(stores=names, run_id="second").failures == []
            return found

        platform.webhooks.subscriptions = subscriptions
        return platform

    keep(connect=overtaken, run_id="first")
    assert calls(sandbox)["Subscribe"] == 2 * len(BY_API)
    assert there(shop) == AS_DECLARED
    assert len(held(database)) == len(BY_API)
    assert incidents(database) == []
    attempts = query(database, "SELECT run_id, status FROM sync_attempts ORDER BY id")
    assert [(row["run_id"], row["status"]) for row in attempts][1:] == [("second", "succeeded")]


def test_a_store_of_a_platform_without_webhooks_is_done(
    sync: Callable[..., Summary], keep: Keep, database: Database
) -> None:
    class Till:
        webhooks = None

        def close(self) -> None: ...

    assert keep(connect=lambda *_: Till()).failures == []
    assert unit(database)["last_succeeded_at"] is not None


def test_what_is_declared_is_one_subscription_a_topic_or_one_for_all() -> None:
    each = declared("shopify", URI, each_topic=True)
    assert {wanted.topics[0] for wanted in each} == BY_API
    assert not any("redact" in topic or "data_request" in topic for topic in BY_API)
    [one] = declared("square", URI, each_topic=False)
    assert set(one.topics) == set(TOPICS["square"])
    assert declared("corner", URI, each_topic=True) == []


def test_the_units_concerned_are_those_whose_passes_find_it() -> None:
    topics = ["products/update", "carts/update", "app/uninstalled"]
    assert units_of("shopify", topics) == [Unit.PRODUCTS, Unit.PRODUCT_VARIANTS]
    assert units_of("square", ["inventory.count.updated"]) == [Unit.INVENTORY_LEVELS]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://HOOKS.example.com:443/webhooks/shopify/", True),
        ("http://hooks.example.com/webhooks/shopify", False),
        ("https://hooks.example.com/webhooks/square", False),
        ("https://hooks.example.com/webhooks/shopify?x=1", False),
        ("https://hooks.example.com:http/webhooks/shopify", False),
        ("pubsub://project:topic", False),
    ],
)
def test_an_address_is_the_same_however_it_is_written(other: str, same: bool) -> None:
    assert same_address(URI, other) is same
