"""`bg-pipelines webhooks list` and `replay`: what was received, what became of it, and once more."""

from __future__ import annotations

import json

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines_tests.support import query
from bg_pipelines_tests.typed import Run, ok, refused, words

PUT = (
    "INSERT INTO webhook_events (store_id, source, topic, webhook_id, object_id, status, reason, received_at, settled_at, "
    "next_due_at, payload) VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, %s, now() - %s::interval, now(), NULL, %s) "
    "RETURNING id"
)


@pytest.fixture
def events(database: Database) -> list[int]:
    """A handled order, an ignored one of yesterday, a cart, one whose content was erased, one not understood, a text."""
    [store] = query(
        database,
        "INSERT INTO stores (name, platform, domain, credentials) VALUES ('harbor', 'shopify', 'h.example', '') RETURNING id",
    )
    harbor = store["id"]
    rows: list[tuple[object, ...]] = [
        (harbor, "shopify", "orders/updated", "gid://shopify/Order/1", "handled", None, "1 minute", None),
        (harbor, "shopify", "orders/updated", "gid://shopify/Order/2", "ignored", "paused", "1 day", None),
        (harbor, "shopify", "carts/update", "c1", "handled", None, "1 minute", b"x"),
        (harbor, "shopify", "carts/update", "c2", "ignored", "the customer was erased", "1 minute", None),
        (harbor, "shopify", "orders/updated", None, "not_understood", "no JSON", "1 minute", b"x"),
        (None, "twilio", "status", None, "handled", None, "1 minute", b"x"),
    ]
    return [query(database, PUT, *row)[0]["id"] for row in rows]


def test_events_are_listed_by_what_is_known_of_them(run: Run, events: list[int]) -> None:
    assert len(json.loads(ok(run("webhooks", "list", "--json")))["events"]) == 6
    by_status = json.loads(ok(run("webhooks", "list", "--status", "ignored", "--json")))["events"]
    assert [row["id"] for row in by_status] == [events[3], events[1]]
    chosen = ("--store", "harbor", "--since", "2h", "--topic", "orders/updated")
    recent = json.loads(ok(run("webhooks", "list", *chosen, "--json")))["events"]
    assert [row["id"] for row in recent] == [events[4], events[0]]
    assert "paused" in words(ok(run("webhooks", "list", "--id", str(events[1]))))
    assert ok(run("webhooks", "list", "--incident", "1")).strip() == "no events"
    assert "did you mean 'handled'" in refused(run("webhooks", "list", "--status", "handeld"))
    assert "did you mean 'orders/updated'" in refused(run("webhooks", "list", "--topic", "orders/update"))
    assert "no time" in refused(run("webhooks", "list", "--since", "noon"))


def test_events_are_replayed_whatever_became_of_them_and_what_cannot_be_is_told(
    run: Run, database: Database, events: list[int]
) -> None:
    assert "say which" in refused(run("webhooks", "replay"))
    assert "no such event: 999" in refused(run("webhooks", "replay", "999"))
    done = ok(run("webhooks", "replay", str(events[0]), str(events[2]), "--by", "Ada"))
    assert words(done) == "1 carts/update 1 orders/updated 2 events are due once more"
    due = query(
        database,
        "SELECT id, retry_reason, status FROM webhook_events WHERE next_due_at IS NOT NULL ORDER BY id",
    )
    assert [row["id"] for row in due] == [events[0], events[2]]
    assert {(row["status"], row["retry_reason"]) for row in due} == {("pending", "replayed by Ada")}
    query(
        database,
        "UPDATE webhook_events SET lease_expires_at = now() + interval '1 hour' WHERE id = %s",
        events[0],
    )
    everything = json.loads(ok(run("webhooks", "replay", "--since", "3d", "--json")))
    assert everything == {
        "replayed": {"carts/update": 1, "orders/updated": 1},
        "left": {
            "a run is at work on them": 1,
            "their content was erased": 1,
            "they are of text messages": 1,
            "they were not understood": 1,
        },
    }
