"""Square's webhook subscriptions, and what is delivered to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bg_pipelines.sandbox import Fault, Merchant, Sandbox, change, edit
from bg_pipelines.sandbox.square.events import EVENT_TYPES
from bg_pipelines_tests.sandbox.listener import Listener
from bg_pipelines_tests.sandbox.square.conftest import SquareClient, ids
from bg_pipelines_tests.sandbox.square.test_description import faults_of

PATH = "webhooks/subscriptions"
URL = "https://back-office.example/webhooks/square"
SECONDS = 20
SCHEMAS = {
    "catalog.version.updated": "CatalogVersionUpdatedEvent",
    "customer.created": "CustomerCreatedEvent",
    "customer.deleted": "CustomerDeletedEvent",
    "customer.updated": "CustomerUpdatedEvent",
    "inventory.count.updated": "InventoryCountUpdatedEvent",
    "location.created": "LocationCreatedEvent",
    "location.updated": "LocationUpdatedEvent",
    "order.created": "OrderCreatedEvent",
    "order.updated": "OrderUpdatedEvent",
}


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as running:
        yield running


def subscribe(client: SquareClient, url: str = URL, **fields: Any) -> Any:
    wanted = {"event_types": sorted(EVENT_TYPES), "notification_url": url} | fields
    return client.post(PATH, {"subscription": wanted})["subscription"]


def settle(sandbox: Sandbox) -> None:
    assert sandbox.world.deliveries_settled(SECONDS)


def test_a_subscription_is_created_once_changed_listed_and_deleted(client: SquareClient) -> None:
    wanted = {"name": "ours", "event_types": ["order.created"], "notification_url": URL}
    request = {"idempotency_key": "k", "subscription": wanted}
    made = client.post(PATH, request)["subscription"]
    assert client.post(PATH, request)["subscription"] == made
    assert {name: made[name] for name in (*wanted, "enabled")} == {**wanted, "enabled": True}
    changed = client.well(client.send("PUT", f"{PATH}/{made['id']}", {"subscription": {"enabled": False}}))
    assert changed["subscription"]["enabled"] is False
    key = client.post(f"{PATH}/{made['id']}/signature-key", {})["signature_key"]
    read = client.get(f"{PATH}/{made['id']}")["subscription"]
    assert read["signature_key"] == key != made["signature_key"]
    assert client.get(PATH) == {}
    [listed] = client.get(PATH, include_disabled="true")["subscriptions"]
    assert "signature_key" not in listed
    assert client.well(client.send("DELETE", f"{PATH}/{made['id']}")) == {}
    assert client.refused("GET", f"{PATH}/{made['id']}") == (404, "NOT_FOUND", "subscription_id")


def test_they_are_listed_page_by_page(client: SquareClient) -> None:
    made = [subscribe(client, f"{URL}/{number}")["id"] for number in range(5)]
    found: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = client.get(PATH, limit=2, **cursor)
        found += ids(page["subscriptions"])
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert found == made
    assert ids(client.get(PATH, sort_order="DESC")["subscriptions"]) == made[::-1]


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"event_types": []}, "ARRAY_EMPTY", "subscription.event_types"),
        ({"event_types": None}, "MISSING_REQUIRED_PARAMETER", "subscription.event_types"),
        ({"event_types": ["gremlin.seen"]}, "INVALID_ARRAY_VALUE", "subscription.event_types"),
        (
            {"notification_url": "http://back-office.example/"},
            "INVALID_VALUE",
            "subscription.notification_url",
        ),
        ({"notification_url": "https://["}, "INVALID_VALUE", "subscription.notification_url"),
        ({"signature_key": "mine"}, "BAD_REQUEST", "subscription.signature_key"),
    ],
)
def test_a_subscription_that_cannot_be_is_refused(
    client: SquareClient, fields: dict[str, Any], code: str, field: str
) -> None:
    wanted = {"event_types": ["order.created"], "notification_url": URL} | fields
    assert client.refused("POST", PATH, {"subscription": wanted}) == (400, code, field)


def test_every_event_has_the_vendors_form_and_a_signature_that_its_own_client_trusts(
    client: SquareClient, merchant: Merchant, listener: Listener, description: dict[str, Any]
) -> None:
    helper = pytest.importorskip("square.utils.webhooks_helper", reason="squareup is not installed")
    key = subscribe(client, listener.url)["signature_key"]
    change(merchant, 60)
    order = edit(merchant, "add_order", state="OPEN")["id"]
    edit(merchant, "complete_order", id=order)
    customer = client.post("customers", {"given_name": "Ann"})["customer"]["id"]
    client.send("PUT", f"customers/{customer}", {"note": "new"})
    client.send("DELETE", f"customers/{customer}")
    edit(merchant, "rename_location", id=edit(merchant, "add_location", name="Kiosk")["id"], name="Booth")
    settle(client.sandbox)
    schemas = description["components"]["schemas"]
    for received in listener.received:
        content = received.content
        assert faults_of(content, schemas[SCHEMAS[content["type"]]], schemas, content["type"]) == []
        assert content["merchant_id"] == merchant.id
        assert helper.verify_signature(
            request_body=received.body.decode(),
            signature_header=received.headers["x-square-hmacsha256-signature"],
            signature_key=key,
            notification_url=listener.url,
        )
    assert {one.content["type"] for one in listener.received} == EVENT_TYPES.keys() == SCHEMAS.keys()
    told = [one.topic for one in merchant.deliveries if one.object_id == customer]
    assert told == ["customer.created", "customer.updated", "customer.deleted"]
    assert {one.status for one in merchant.deliveries} == {"delivered"}


def test_a_retry_has_the_same_event_and_says_that_it_is_one(
    client: SquareClient, merchant: Merchant, listener: Listener
) -> None:
    subscribe(client, listener.url, event_types=["location.updated"])
    edit(merchant, "set_webhook_pace", seconds_per_hour=0.001)
    answers = iter([500, 200])
    listener.answer = lambda _: next(answers)
    edit(merchant, "rename_location", id=next(iter(merchant.store.locations)), name="Booth")
    settle(client.sandbox)
    first, second = listener.received
    assert first.body == second.body
    assert "square-retry-number" not in first.headers
    assert (second.headers["square-retry-number"], second.headers["square-retry-reason"]) == (
        "1",
        "http_error",
    )
    listener.answer = lambda _: 500
    edit(merchant, "rename_location", id=next(iter(merchant.store.locations)), name="Stand")
    settle(client.sandbox)
    lost = client.operator("GET", f"/{merchant.id}/deliveries").json()[-1]
    assert (lost["status"], lost["tries"], len(client.get(PATH)["subscriptions"])) == ("failed", 12, 1)


def test_an_event_whose_scope_is_missing_or_that_a_fault_loses_is_not_sent(
    client: SquareClient, merchant: Merchant, listener: Listener
) -> None:
    subscribe(client, listener.url)
    edit(merchant, "set_scopes", scopes=["MERCHANT_PROFILE_READ"])
    fault = {"kind": "webhook_lost", "times": 1, "operation": "location."}
    assert client.operator("POST", f"/{merchant.id}/faults", fault).status_code == 200
    edit(merchant, "add_order")
    place = next(iter(merchant.store.locations))
    for name in ("Booth", "Stand"):
        edit(merchant, "rename_location", id=place, name=name)
    settle(client.sandbox)
    assert [(one.topic, one.status) for one in merchant.deliveries] == [
        ("location.updated", "lost"),
        ("location.updated", "delivered"),
    ]
    assert merchant.faults == [Fault("webhook_lost", times=1, operation="location.", matched=1, applied=1)]
    assert edit(merchant, "drop_subscriptions") == {"dropped": 1}
