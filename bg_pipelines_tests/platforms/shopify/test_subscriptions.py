"""What Shopify says of a webhook subscription, as what it means for us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Wanted
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PageReader, PageSizes
from bg_pipelines.platforms.shopify.subscriptions import COMPLIANCE_TOPICS, Subscriptions
from bg_pipelines.sandbox import Shop
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer

Connect = Callable[..., ShopifyClient]
Serve = Callable[..., ScriptedServer]
WANTED = Wanted(("orders/create",), "https://hooks.example.com/webhooks/shopify", ("id", "updated_at"))
NODE = {
    "id": "gid://shopify/WebhookSubscription/1",
    "topic": "ORDERS_CREATE",
    "uri": WANTED.uri,
    "format": "JSON",
    "includeFields": ["id"],
    "filter": "",
    "updatedAt": "2026-11-18T11:06:40Z",
}
GONE = {"field": ["id"], "message": "Webhook subscription does not exist"}


def subscriptions(client: ShopifyClient, **sizes: int) -> Subscriptions:
    return Subscriptions(client, PageReader(client, PageSizes(**sizes)))


def outcome(*errors: dict[str, Any] | str, node: Any = None) -> Reply:
    given = [error if isinstance(error, dict) else {"field": None, "message": error} for error in errors]
    return Reply.of({"data": {"outcome": {"webhookSubscription": node, "userErrors": given}}})


def test_a_shop_s_subscriptions_are_made_changed_listed_and_removed(shop: Shop, connect: Connect) -> None:
    webhooks = subscriptions(connect(shop.api_url, StaticToken(shop.token)), rows=2)
    made = [
        webhooks.subscribe(WANTED._replace(topics=(topic.name,), include_fields=topic.fields))
        for topic in TOPICS["shopify"].values()
        if topic.by_api
    ]
    assert [one.topics[0] for one in made] == [t.name for t in TOPICS["shopify"].values() if t.by_api]
    assert webhooks.subscriptions() == made
    changed = webhooks.update(made[0].external_id, WANTED._replace(include_fields=None, filter="id:1"))
    assert changed is not None
    assert (changed.include_fields, changed.filter, changed.delivers) == (None, "id:1", True)
    again = webhooks.update(made[0].external_id, WANTED)
    assert again is not None
    assert (again.include_fields, again.filter) == (WANTED.include_fields, None)
    assert webhooks.subscribe(WANTED) == again, "Shopify takes no second one"
    webhooks.unsubscribe(again.external_id)
    webhooks.unsubscribe(again.external_id)
    assert webhooks.update(again.external_id, WANTED) is None
    assert webhooks.subscriptions() == made[1:]


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (
            "This app is not approved to subscribe to webhook topics containing protected customer data. See "
            "https://shopify.dev/docs/apps/launch/protected-customer-data for more details.",
            ErrorType.SCOPES,
            "not approved the app for protected customer data, which orders/create holds",
        ),
        (
            "Address protocol http:// is not supported",
            ErrorType.CONFIGURATION,
            "set it to a public https address",
        ),
        ("Address is invalid", ErrorType.CONFIGURATION, "BG_PUBLIC_URL"),
        (
            "The specified filter is invalid",
            ErrorType.QUERY_REJECTED,
            "refuses the subscription to orders/create",
        ),
    ],
)
def test_a_refusal_says_what_a_person_should_do(
    serve: Serve, connect: Connect, message: str, kind: ErrorType, says: str
) -> None:
    webhooks = subscriptions(connect(serve(outcome(message)).url))
    for call in (lambda: webhooks.subscribe(WANTED), lambda: webhooks.update("1", WANTED)):
        error = failure_of(call)
        assert error.error_type is kind
        assert says in error.message


def test_an_address_that_is_taken_by_the_app_s_own_configuration_is_a_refusal(
    serve: Serve, connect: Connect
) -> None:
    nothing = Reply.of(
        {"data": {"rows": {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}}}
    )
    taken = outcome("Address for this topic has already been taken")
    server = serve(taken, nothing)
    error = failure_of(lambda: subscriptions(connect(server.url)).subscribe(WANTED))
    assert error.error_type is ErrorType.QUERY_REJECTED
    assert "shopify.app.toml" in error.message
    assert server.asked[1].body["variables"] | {"first": 0} == {
        "topics": ["ORDERS_CREATE"],
        "uri": WANTED.uri,
        "first": 0,
        "after": None,
    }


@pytest.mark.parametrize("topic", COMPLIANCE_TOPICS)
def test_a_compliance_topic_is_refused_with_where_it_stands_before_anything_is_asked(
    serve: Serve, connect: Connect, topic: str
) -> None:
    server = serve(outcome(node=NODE))
    error = failure_of(lambda: subscriptions(connect(server.url)).subscribe(WANTED._replace(topics=(topic,))))
    assert error.error_type is ErrorType.CONFIGURATION
    assert "`bg-pipelines webhooks toml`" in error.message
    assert server.asked == []
    assert not TOPICS["shopify"][topic].by_api


def test_what_is_gone_already_is_no_fault_and_another_refusal_is(serve: Serve, connect: Connect) -> None:
    server = serve(outcome(GONE), outcome(GONE), outcome("Cannot be removed"))
    webhooks = subscriptions(connect(server.url))
    webhooks.unsubscribe("1")
    assert webhooks.update("1", WANTED) is None
    assert failure_of(lambda: webhooks.unsubscribe("1")).error_type is ErrorType.QUERY_REJECTED


def test_another_format_than_we_read_does_not_deliver(serve: Serve, connect: Connect) -> None:
    webhooks = subscriptions(connect(serve(outcome(node=NODE | {"format": "XML"})).url))
    assert not webhooks.subscribe(WANTED).delivers


@pytest.mark.parametrize(
    "body",
    [
        {"outcome": None},
        {"outcome": {"webhookSubscription": NODE}},
        {"outcome": {"webhookSubscription": NODE, "userErrors": ["no"]}},
        {"outcome": {"webhookSubscription": None, "userErrors": []}},
        {"outcome": {"webhookSubscription": NODE | {"includeFields": None}, "userErrors": []}},
        {"outcome": {"webhookSubscription": NODE | {"topic": 7}, "userErrors": []}},
    ],
)
def test_an_answer_that_makes_no_sense_is_malformed(
    serve: Serve, connect: Connect, body: dict[str, Any]
) -> None:
    webhooks = subscriptions(connect(serve(Reply.of({"data": body})).url))
    assert failure_of(lambda: webhooks.subscribe(WANTED)).error_type is ErrorType.MALFORMED_RESPONSE
