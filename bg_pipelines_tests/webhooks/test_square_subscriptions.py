"""A Square store's one webhook subscription is kept as declared, with the key that signs its deliveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Fault, Merchant, Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.subscriptions import keep_subscriptions
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.support import query

Keep = Callable[..., Summary]
PUBLIC = "https://hooks.example.com"
URI = f"{PUBLIC}/webhooks/square"


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def merchant(make_sandbox: Callable[..., Sandbox], database: Database, cipher: Cipher) -> Merchant:
    sandbox = make_sandbox(shops=1, variants=0, merchants=1, square_variants=1, square_customers=1)
    [merchant] = sandbox.world.square_merchants.values()
    store = NewStore("till", "square", merchant.id.lower(), token=merchant.token, api_url=merchant.api_url)
    save_stores(database, cipher, [store])
    return merchant


@pytest.fixture
def keep(sync: Callable[..., Summary], merchant: Merchant) -> Keep:
    def run(public_url: str = PUBLIC, by_hand: tuple[str, ...] = ()) -> Summary:
        merchant.requests.clear()
        work = partial(keep_subscriptions, public_url=public_url, by_hand=by_hand)
        return sync(units=(Unit.WEBHOOKS,), stores=("till",), processes={Unit.WEBHOOKS: work})

    return run


def calls(merchant: Merchant) -> Counter[str]:
    return Counter(request.operation.removesuffix("s") for request in merchant.requests)


def there(merchant: Merchant) -> list[dict[str, Any]]:
    return list(merchant.subscriptions.shelf)


def held(database: Database, cipher: Cipher) -> list[tuple[str, str, str]]:
    """Id, address and key of what is kept."""
    rows = query(
        database, "SELECT * FROM webhook_subscriptions WHERE deleted_at IS NULL ORDER BY external_id"
    )
    assert all(set(row["topics"]) == set(TOPICS["square"]) for row in rows)
    return [(row["external_id"], row["uri"], cipher.decrypt(row["signature_key"])) for row in rows]


def kinds(database: Database) -> list[str]:
    return [
        row["kind"] for row in query(database, "SELECT kind FROM incidents WHERE status = 'open' ORDER BY id")
    ]


LIST, MAKE, KEY, CHANGE, REMOVE = (
    f"{verb}WebhookSubscription" for verb in ("List", "Create", "Retrieve", "Update", "Delete")
)


def test_one_subscription_has_all_event_types_and_its_key_is_kept(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    assert keep().failures == []
    assert calls(merchant) == {LIST: 1, MAKE: 1}
    [row] = there(merchant)
    assert (set(row["event_types"]), row["notification_url"]) == (set(TOPICS["square"]), URI)
    assert held(database, cipher) == [(row["id"], URI, row["signature_key"])]
    [stored] = query(database, "SELECT signature_key FROM webhook_subscriptions")
    assert row["signature_key"].encode() not in bytes(stored["signature_key"])
    version = query(database, "SELECT xmin::text AS version FROM webhook_subscriptions")
    keep()
    assert calls(merchant) == {LIST: 1, KEY: 1}
    assert query(database, "SELECT xmin::text AS version FROM webhook_subscriptions") == version


def test_a_key_that_was_changed_there_is_kept_instead(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    keep()
    [row] = there(merchant)
    key = merchant.subscriptions.rotate_key(row)
    keep()
    assert [one[2] for one in held(database, cipher)] == [key]


def test_one_that_was_made_before_a_crash_is_found_with_its_key(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    merchant.faults.append(Fault("apply_then_cut", operation="CreateWebhookSubscription", times=1))
    assert len(keep().failures) == 1
    assert keep().failures == []
    [row] = there(merchant)
    assert held(database, cipher) == [(row["id"], URI, row["signature_key"])]
    assert kinds(database) == []


def test_one_that_is_switched_off_or_gone_is_back_reported_and_what_it_would_have_told_is_read(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    keep()
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour'")
    [row] = there(merchant)
    merchant.subscriptions.update(row, {"enabled": False})
    keep()
    assert calls(merchant) == {LIST: 1, CHANGE: 1, KEY: 1}
    assert row["enabled"] is True
    assert kinds(database) == ["missing_subscriptions"]
    hinted = query(database, "SELECT resource FROM sync_states WHERE hinted_at IS NOT NULL")
    assert {unit["resource"] for unit in hinted} == {
        *("locations", "products", "product_variants", "inventory_levels", "customers", "orders"),
    }
    merchant.subscriptions.clear()
    keep()
    [again] = there(merchant)
    assert held(database, cipher) == [(again["id"], URI, again["signature_key"])]
    assert [row["occurrences"] for row in query(database, "SELECT occurrences FROM incidents")] == [2]


def test_what_differs_is_changed_duplicates_go_and_another_address_is_not_touched(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    keep()
    [ours] = there(merchant)
    merchant.subscriptions.update(ours, {"event_types": ["order.created"]})
    merchant.subscriptions.add({"event_types": ["order.created"], "notification_url": URI})
    other = merchant.subscriptions.add(
        {"event_types": ["order.created"], "notification_url": "https://a.example"}
    )
    keep()
    assert calls(merchant) == {LIST: 1, CHANGE: 1, REMOVE: 1, KEY: 1}
    kept = there(merchant)
    assert len(kept) == 2
    assert other in kept
    assert [one[1] for one in held(database, cipher)] == [URI]


def test_a_new_public_address_is_written_as_it_is_signed(
    keep: Keep, merchant: Merchant, database: Database, cipher: Cipher
) -> None:
    keep()
    # The same address for a browser; Square signs it letter by letter.
    keep("https://HOOKS.example.com")
    assert calls(merchant) == {LIST: 1, CHANGE: 1, KEY: 1}
    [row] = there(merchant)
    assert row["notification_url"] == "https://HOOKS.example.com/webhooks/square"
    assert held(database, cipher) == [(row["id"], row["notification_url"], row["signature_key"])]
    assert kinds(database) == []


def test_a_merchant_s_token_is_an_incident_unless_a_person_made_the_subscription(
    keep: Keep, merchant: Merchant, database: Database
) -> None:
    merchant.faults.append(Fault("forbidden", operation="WebhookSubscription"))
    [failure] = keep().failures
    assert failure.error.error_type is ErrorType.SCOPES
    assert kinds(database) == ["store"]
    assert keep(by_hand=("square",)).failures == []
    assert kinds(database) == []
    assert there(merchant) == []
