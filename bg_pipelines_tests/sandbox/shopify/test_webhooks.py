"""Webhook subscriptions of a shop's app."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import HandClock

FIELDS = "id topic uri format includeFields metafieldNamespaces filter name createdAt updatedAt apiVersion { handle }"
CREATE = f"""mutation($topic: WebhookSubscriptionTopic!, $input: WebhookSubscriptionInput!) {{
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: $input) {{
    webhookSubscription {{ {FIELDS} }} userErrors {{ field message }} }} }}"""
UPDATE = f"""mutation($id: ID!, $input: WebhookSubscriptionInput!) {{
  webhookSubscriptionUpdate(id: $id, webhookSubscription: $input) {{
    webhookSubscription {{ {FIELDS} }} userErrors {{ field message }} }} }}"""
DELETE = """mutation($id: ID!) { webhookSubscriptionDelete(id: $id) {
  deletedWebhookSubscriptionId userErrors { field message } } }"""
LIST = f"""query($first: Int, $after: String, $topics: [WebhookSubscriptionTopic!], $uri: String) {{
  webhookSubscriptions(first: $first, after: $after, topics: $topics, uri: $uri) {{
    nodes {{ {FIELDS} }} pageInfo {{ hasNextPage endCursor }} }} }}"""
URI = "https://back-office.example/webhooks/shopify"
TOPICS = ("ORDERS_CREATE", "ORDERS_UPDATED", "PRODUCTS_UPDATE", "CUSTOMERS_UPDATE", "APP_UNINSTALLED")


def create(client: Client, topic: str = "ORDERS_CREATE", /, **given: Any) -> Any:
    return client.ask(CREATE, topic=topic, input={"uri": URI} | given)["webhookSubscriptionCreate"]


def test_a_subscription_is_created_changed_read_and_deleted(client: Client, clock: HandClock) -> None:
    made = create(client, includeFields=["id", "updated_at"], name="orders", filter="test:false")
    assert made["userErrors"] == []
    row = made["webhookSubscription"]
    assert row | {"id": "", "createdAt": "", "updatedAt": ""} == {
        "id": "",
        "topic": "ORDERS_CREATE",
        "uri": URI,
        "format": "JSON",
        "includeFields": ["id", "updated_at"],
        "metafieldNamespaces": [],
        "filter": "test:false",
        "name": "orders",
        "createdAt": "",
        "updatedAt": "",
        "apiVersion": {"handle": "2026-07"},
    }
    clock.seconds += 60
    changed = client.ask(UPDATE, id=row["id"], input={"includeFields": ["id"]})["webhookSubscriptionUpdate"]
    now = client.sandbox.world.clock.stamp()
    assert changed["webhookSubscription"] == row | {"includeFields": ["id"], "updatedAt": now}
    read = client.ask(f"query($id: ID!) {{ webhookSubscription(id: $id) {{ {FIELDS} }} }}", id=row["id"])
    assert read["webhookSubscription"] == changed["webhookSubscription"]
    deleted = client.ask(DELETE, id=row["id"])["webhookSubscriptionDelete"]
    assert deleted == {"deletedWebhookSubscriptionId": row["id"], "userErrors": []}
    gone = {"field": ["id"], "message": "Webhook subscription does not exist"}
    assert client.ask(DELETE, id=row["id"])["webhookSubscriptionDelete"]["userErrors"] == [gone]
    assert client.ask(UPDATE, id=row["id"], input={})["webhookSubscriptionUpdate"]["userErrors"] == [gone]


def test_they_are_read_page_by_page_by_topic_and_by_address(client: Client) -> None:
    for topic in TOPICS:
        create(client, topic)
    create(client, "PRODUCTS_UPDATE", uri="http://127.0.0.1:1/other")
    assert [row["topic"] for row in client.pages(LIST, "webhookSubscriptions", first=2)] == [
        *TOPICS,
        "PRODUCTS_UPDATE",
    ]
    of_topic = client.pages(LIST, "webhookSubscriptions", first=9, topics=["PRODUCTS_UPDATE"])
    assert [row["uri"] for row in of_topic] == [URI, "http://127.0.0.1:1/other"]
    assert len(client.pages(LIST, "webhookSubscriptions", first=9, uri=URI)) == len(TOPICS)
    assert client.ask("{ webhookSubscriptionsCount { count } }")["webhookSubscriptionsCount"]["count"] == 6
    assert "first or last" in client.post(LIST).json()["errors"][0]["message"]


def test_each_shop_has_its_own(client: Client) -> None:
    create(client)
    client.shop = list(client.sandbox.world.shops.values())[1]
    assert client.pages(LIST, "webhookSubscriptions", first=9) == []
    assert create(client)["userErrors"] == []


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({}, "callbackUrl", "Address for this topic has already been taken"),
        ({"uri": None, "callbackUrl": URI}, "callbackUrl", "Address for this topic has already been taken"),
        ({"uri": "http://back-office.example/"}, "callbackUrl", "Address protocol http:// is not supported"),
        ({"uri": "pubsub://project:topic"}, "callbackUrl", "Address protocol pubsub:// is not supported"),
        ({"uri": ""}, "callbackUrl", "Address can't be blank"),
        ({"uri": "nowhere"}, "callbackUrl", "Address is invalid"),
        ({"uri": "https://["}, "callbackUrl", "Address is invalid"),
        ({"uri": "https://back-office.example:99999/"}, "callbackUrl", "Address is invalid"),
        (
            {"uri": "https://a.myshopify.com/x"},
            "callbackUrl",
            "Address cannot be a Shopify or an internal domain",
        ),
        ({"format": "XML"}, "format", "Format 'xml' is invalid for this webhook topic"),
        ({"filter": "active"}, None, "The specified filter is invalid"),
        ({"name": "two words", "filter": "id:1"}, "name", "Name name field can only contain"),
        ({"name": "Taken", "filter": "id:1"}, "name", "Name already exists, no duplicate allowed"),
    ],
)
def test_what_shopify_refuses_is_a_user_error(
    client: Client, given: dict[str, Any], field: str | None, message: str
) -> None:
    create(client, name="taken")
    answer = create(client, **given)
    assert answer["webhookSubscription"] is None
    (error,) = answer["userErrors"]
    assert error["field"] == ["webhookSubscription", *([field] if field else [])]
    assert error["message"].startswith(message)


def test_another_filter_or_topic_may_have_the_same_address(client: Client) -> None:
    assert create(client)["userErrors"] == []
    assert create(client, "ORDERS_UPDATED")["userErrors"] == []
    row = create(client, filter="status:open")["webhookSubscription"]
    taken = client.ask(UPDATE, id=row["id"], input={"filter": None})["webhookSubscriptionUpdate"]
    assert [error["message"] for error in taken["userErrors"]] == [
        "Address for this topic has already been taken"
    ]


@pytest.mark.parametrize(
    "topic", ["ORDERS_EXPLODE", "CUSTOMERS_DATA_REQUEST", "CUSTOMERS_REDACT", "SHOP_REDACT"]
)
def test_a_topic_that_the_api_does_not_know_is_an_error_of_the_query(client: Client, topic: str) -> None:
    (error,) = client.post(CREATE, {"topic": topic, "input": {"uri": URI}}).json()["errors"]
    assert topic in error["message"]
    assert error["extensions"] == {"code": "INVALID_VARIABLE"}


def test_a_topic_needs_the_scope_of_its_rows(client: Client, shop: Shop) -> None:
    edit(shop, "set_scopes", scopes=["read_products"])
    assert create(client, "PRODUCTS_UPDATE")["userErrors"] == []
    assert create(client, "APP_UNINSTALLED")["userErrors"] == []
    (error,) = client.post(CREATE, {"topic": "CARTS_UPDATE", "input": {"uri": URI}}).json()["errors"]
    assert error["extensions"]["code"] == "ACCESS_DENIED"
    assert "read_orders" in error["message"]
