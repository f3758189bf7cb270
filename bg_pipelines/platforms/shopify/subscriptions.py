"""Shopify's webhook subscriptions by API: one a topic, of this app at this shop.

Vendor facts: https://shopify.dev/docs/apps/build/webhooks/subscribe (topics, scopes, compliance topics),
https://shopify.dev/docs/apps/launch/protected-customer-data (topics that need an approval). Those that an app declares
in its shopify.app.toml are not listed and not changed by API.
"""

from __future__ import annotations

from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Subscription, Wanted
from bg_pipelines.platforms.shopify.client import ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import NESTED_ROWS, PAGE_INFO, Node, PageReader
from bg_pipelines.platforms.vendor_text import said
from bg_pipelines.values import read_time

COMPLIANCE_TOPICS = ("customers/data_request", "customers/redact", "shop/redact")

_FIELDS = "id topic uri format includeFields filter updatedAt"
_OUTCOME = f"webhookSubscription {{ {_FIELDS} }} userErrors {{ field message }}"

SUBSCRIPTIONS = f"""
query WebhookSubscriptions($first: Int!, $after: String, $topics: [WebhookSubscriptionTopic!], $uri: String) {{
  rows: webhookSubscriptions(first: $first, after: $after, topics: $topics, uri: $uri) {{
    nodes {{ {_FIELDS} }}
    {PAGE_INFO}
  }}
}}"""

SUBSCRIBE = f"""
mutation Subscribe($topic: WebhookSubscriptionTopic!, $subscription: WebhookSubscriptionInput!) {{
  outcome: webhookSubscriptionCreate(topic: $topic, webhookSubscription: $subscription) {{ {_OUTCOME} }}
}}"""

UPDATE_SUBSCRIPTION = f"""
mutation UpdateSubscription($id: ID!, $subscription: WebhookSubscriptionInput!) {{
  outcome: webhookSubscriptionUpdate(id: $id, webhookSubscription: $subscription) {{ {_OUTCOME} }}
}}"""

UNSUBSCRIBE = """
mutation Unsubscribe($id: ID!) {
  outcome: webhookSubscriptionDelete(id: $id) { deletedWebhookSubscriptionId userErrors { field message } }
}"""

DOCUMENTS = (SUBSCRIPTIONS, SUBSCRIBE, UPDATE_SUBSCRIPTION, UNSUBSCRIBE)

# What Shopify says instead of a code: webhooks' userErrors have none.
_TAKEN, _MISSING, _PROTECTED = "already been taken", "does not exist", "protected customer data"


class Subscriptions:
    """Webhook subscriptions of one shop. See `Webhooks` for what each method promises."""

    each_topic = True
    own_keys = False

    def __init__(self, client: ShopifyClient, reader: PageReader) -> None:
        self._client = client
        self._reader = reader

    def subscriptions(self) -> list[Subscription]:
        return self._listed({})

    def signature_key(self, external_id: str) -> str | None:  # noqa: ARG002 (the app's secret signs all of them)
        return None

    def subscribe(self, wanted: Wanted) -> Subscription:
        topic = _only_topic(wanted)
        answer = self._client.execute(SUBSCRIBE, {"topic": _enum(topic), "subscription": _input(wanted)}).data
        messages = _messages(answer)
        if any(_TAKEN in message for message in messages):
            there = self._listed({"topics": [_enum(topic)], "uri": wanted.uri})
            if there:
                return there[0]
        if messages:
            raise _refused(topic, messages)
        return _subscription(_outcome(answer)["webhookSubscription"])

    def update(self, external_id: str, wanted: Wanted) -> Subscription | None:
        answer = self._client.execute(
            UPDATE_SUBSCRIPTION, {"id": external_id, "subscription": _input(wanted)}
        ).data
        messages = _messages(answer)
        if any(_MISSING in message for message in messages):
            return None
        if messages:
            raise _refused(_only_topic(wanted), messages)
        return _subscription(_outcome(answer)["webhookSubscription"])

    def unsubscribe(self, external_id: str) -> None:
        messages = _messages(self._client.execute(UNSUBSCRIBE, {"id": external_id}).data)
        if messages and not any(_MISSING in message for message in messages):
            message = f"Shopify does not remove a webhook subscription: {said(messages[0])}"
            raise IntegrationError.of(ErrorType.QUERY_REJECTED, message, source=SOURCE)

    def _listed(self, variables: Node) -> list[Subscription]:
        found: list[Subscription] = []
        for _, _, rows in self._reader.answers(SUBSCRIPTIONS, variables, None):
            found += map(_subscription, rows.nodes)
            if len(found) > NESTED_ROWS:
                raise malformed("Shopify lists webhook subscriptions without an end")
        return found


def _only_topic(wanted: Wanted) -> str:
    [topic] = wanted.topics
    if topic in COMPLIANCE_TOPICS:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"Shopify takes no subscription to {topic} by API: it stands in the app's shopify.app.toml. "
            "`bg-pipelines webhooks toml` prints that section",
            source=SOURCE,
        )
    return topic


def _enum(topic: str) -> str:
    """A topic as the API names it: orders/create is ORDERS_CREATE."""
    return topic.replace("/", "_").upper()


def _topic(enum: str) -> str:
    """A topic as its deliveries name it."""
    return "/".join(enum.lower().rsplit("_", 1))


def _input(wanted: Wanted) -> Node:
    return {
        "uri": wanted.uri,
        "format": "JSON",
        "includeFields": None if wanted.include_fields is None else list(wanted.include_fields),
        "filter": wanted.filter,
    }


def _subscription(node: Any) -> Subscription:
    try:
        return Subscription(
            external_id=str(node["id"]),
            topics=(_topic(node["topic"]),),
            uri=str(node["uri"]),
            include_fields=tuple(node["includeFields"]) or None,
            filter=node["filter"] or None,
            source_updated_at=read_time(node["updatedAt"]),
            delivers=node["format"] == "JSON",
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise malformed("Shopify's answer has a webhook subscription that makes no sense") from None


def _outcome(answer: Node) -> Node:
    outcome = answer.get("outcome")
    if not isinstance(outcome, dict):
        raise malformed("Shopify's answer to a change of a webhook subscription lacks its outcome")
    return outcome


def _messages(answer: Node) -> list[str]:
    """What is wrong with a change, in Shopify's words."""
    errors = _outcome(answer).get("userErrors")
    if not isinstance(errors, list) or not all(isinstance(error, dict) for error in errors):
        raise malformed("Shopify's answer to a change of a webhook subscription lacks its errors")
    return [str(error.get("message")) for error in errors]


def _refused(topic: str, messages: list[str]) -> IntegrationError:
    why = said(messages[0])
    if any(_PROTECTED in message for message in messages):
        return IntegrationError.of(
            ErrorType.SCOPES,
            f"Shopify has not approved the app for protected customer data, which {topic} holds: ask for access in the "
            "app's settings",
            source=SOURCE,
        )
    if any(_TAKEN in message for message in messages):
        return IntegrationError.of(
            ErrorType.QUERY_REJECTED,
            f"Shopify has a subscription to {topic} for this address that its API does not list: take the topic out of "
            "the app's shopify.app.toml",
            source=SOURCE,
        )
    if why.startswith("Address"):
        return IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"Shopify does not deliver webhooks to BG_PUBLIC_URL ({why}): set it to a public https address",
            source=SOURCE,
        )
    return IntegrationError.of(
        ErrorType.QUERY_REJECTED, f"Shopify refuses the subscription to {topic}: {why}", source=SOURCE
    )
