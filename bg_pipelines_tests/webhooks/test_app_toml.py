"""The section of shopify.app.toml is what Shopify reads, and asks for what we read."""

from __future__ import annotations

import tomllib

import pytest
from graphql import GraphQLSchema, parse, validate

from bg_pipelines.webhooks.app_toml import app_toml
from bg_pipelines.webhooks.topics import EVENTS
from bg_pipelines_tests.typed import Run, ok, refused

PUBLIC = "https://hooks.example.com/"
URI = "https://hooks.example.com/webhooks/shopify"


def test_the_compliance_topics_are_subscribed_to() -> None:
    section = tomllib.loads(app_toml(PUBLIC, "2026-07"))
    assert section == {
        "webhooks": {
            "api_version": "2026-07",
            "subscriptions": [
                {
                    "compliance_topics": ["customers/data_request", "customers/redact", "shop/redact"],
                    "uri": URI,
                }
            ],
        }
    }


def test_each_event_that_we_read_is_subscribed_to_once_and_asks_for_ids_and_times(
    vendor: GraphQLSchema,
) -> None:
    section = tomllib.loads(app_toml(PUBLIC, "2026-07", events=True))
    assert section["events"]["api_version"] == "2026-10", "there are none in an earlier version"
    subscriptions = section["events"]["subscription"]
    told = [(one["topic"], action) for one in subscriptions for action in one["actions"]]
    assert sorted(told) == sorted(EVENTS)
    assert {one["uri"] for one in subscriptions} == {URI}
    handles = [one["handle"] for one in subscriptions]
    assert len(set(handles)) == len(handles)
    assert all(len(handle) <= 50 for handle in handles)
    for one in subscriptions:
        name = one["topic"].lower()
        if one["actions"] == ["delete"]:
            assert one.keys() == {"handle", "topic", "actions", "uri"}
            continue
        assert one["triggers"] == [name], "an update needs its triggers"
        assert validate(vendor, parse(one["query"])) == []
        assert f"{name}(id: ${name}Id) {{ id updatedAt }}" in " ".join(one["query"].split())


def test_a_later_version_is_that_of_the_events_too() -> None:
    assert tomllib.loads(app_toml(PUBLIC, "2027-01", events=True))["events"]["api_version"] == "2027-01"


def test_the_command_prints_it_and_asks_for_the_address(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(run("webhooks", "toml")).startswith("BG_PUBLIC_URL is not set")
    monkeypatch.setenv("BG_PUBLIC_URL", PUBLIC)
    assert ok(run("webhooks", "toml")) == app_toml(PUBLIC, "2026-10")
    assert ok(run("webhooks", "toml", "--events")) == app_toml(PUBLIC, "2026-10", events=True)
