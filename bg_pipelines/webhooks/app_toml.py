"""The section of an app's `shopify.app.toml` for what Shopify takes there and not by API: the compliance topics and Events.

Vendor facts: https://shopify.dev/docs/apps/build/cli-for-apps/app-configuration (`[webhooks]`, `compliance_topics`),
https://shopify.dev/docs/apps/build/events/subscribe (`[[events.subscription]]`; since API version 2026-10 and Shopify CLI
3.92). Events of one topic are told once more by the classic topics that the API subscribes to, which does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from bg_pipelines.webhooks.declared import address
from bg_pipelines.webhooks.topics import EVENTS, TOPICS

EVENTS_SINCE = "2026-10"
_GONE = "delete"


def app_toml(public_url: str, api_version: str, *, events: bool = False) -> str:
    """The text of the section; with `events` also the subscriptions of Shopify's Events that we read."""
    uri = address(public_url, "shopify")
    compliance = [topic.name for topic in TOPICS["shopify"].values() if not topic.by_api]
    blocks = [
        ["[webhooks]", _line("api_version", api_version)],
        ["[[webhooks.subscriptions]]", _line("compliance_topics", compliance), _line("uri", uri)],
    ]
    if events:
        blocks.append(["[events]", _line("api_version", max(api_version, EVENTS_SINCE))])
        for topic in dict.fromkeys(topic for topic, _ in EVENTS):
            actions = [action for of, action in EVENTS if of == topic]
            blocks.append(_changed(topic, [action for action in actions if action != _GONE], uri))
            blocks.append(_block(topic, f"{topic.lower()}-deleted", [_GONE], uri))
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _changed(topic: str, actions: list[str], uri: str) -> list[str]:
    """Asks for id and time alone: the row is fetched. Of a deleted one nothing can be asked, its id comes by itself."""
    name = topic.lower()
    query = f"query {name}_changed(${name}Id: ID!) {{\n  {name}(id: ${name}Id) {{\n    id\n    updatedAt\n  }}\n}}"
    # The topic itself as the trigger: any change.
    lines = [*_block(topic, f"{name}-changed", actions, uri), _line("triggers", [name])]
    return [*lines, f'query = """\n{query}\n"""']


def _block(topic: str, handle: str, actions: list[str], uri: str) -> list[str]:
    return [
        "[[events.subscription]]",
        _line("handle", handle),
        _line("topic", topic),
        _line("actions", actions),
        _line("uri", uri),
    ]


def _line(name: str, value: str | Iterable[str]) -> str:
    """A key and its value: texts and lists of texts are written in TOML as in JSON."""
    return f"{name} = {json.dumps(value if isinstance(value, str) else list(value))}"
