"""Square's webhook subscriptions: one of the application, with all event types and a key of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Wanted
from bg_pipelines.sandbox import Fault, Merchant
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import Connect

WANTED = Wanted(tuple(TOPICS["square"]), "https://hooks.example.com/webhooks/square")
ROW = {
    "id": "wbhk_1",
    "event_types": ["order.created"],
    "notification_url": "https://a.example",
    "enabled": True,
}
SAMPLES_TIME = "2022-01-10 23:29:48 +0000 UTC"


@pytest.fixture
def merchant(merchant: Merchant) -> Iterator[Merchant]:
    yield merchant
    merchant.subscriptions.clear()


def test_a_subscription_is_made_listed_changed_and_removed(merchant: Merchant, connect: Connect) -> None:
    webhooks = connect(merchant).webhooks
    made = webhooks.subscribe(WANTED)
    assert (made.topics, made.uri, made.delivers) == (WANTED.topics, WANTED.uri, True)
    [row] = merchant.subscriptions.shelf
    assert made.signature_key == row["signature_key"] == webhooks.signature_key(made.external_id)
    assert "signature_key" not in repr(made)
    [listed] = webhooks.subscriptions()
    assert (listed.external_id, listed.signature_key) == (made.external_id, None), "the list has no keys"
    merchant.subscriptions.update(row, {"enabled": False})
    assert [one.delivers for one in webhooks.subscriptions()] == [False], "those that are off are listed"
    moved = webhooks.update(made.external_id, WANTED._replace(uri="https://new.example.com/webhooks/square"))
    assert moved is not None
    assert (moved.uri, moved.delivers) == ("https://new.example.com/webhooks/square", True)
    webhooks.unsubscribe(made.external_id)
    assert webhooks.subscriptions() == []


def test_what_is_gone_already_is_no_fault(merchant: Merchant, connect: Connect) -> None:
    webhooks = connect(merchant).webhooks
    webhooks.unsubscribe("wbhk_x")
    assert webhooks.update("wbhk_x", WANTED) is None
    assert webhooks.signature_key("wbhk_x") is None


def test_a_list_is_read_to_its_last_page(merchant: Merchant, connect: Connect) -> None:
    for number in range(130):
        merchant.subscriptions.add(
            {"event_types": ["order.created"], "notification_url": f"https://a.example/{number}"}
        )
    assert len({one.external_id for one in connect(merchant).webhooks.subscriptions()}) == 130


def test_a_merchant_s_token_may_not_manage_them_and_the_error_says_what_to_do(
    merchant: Merchant, connect: Connect
) -> None:
    merchant.faults.append(Fault("forbidden", operation="WebhookSubscription"))
    webhooks = connect(merchant).webhooks
    calls: tuple[Callable[[], object], ...] = (
        webhooks.subscriptions,
        lambda: webhooks.signature_key("x"),
        lambda: webhooks.subscribe(WANTED),
        lambda: webhooks.update("x", WANTED),
        lambda: webhooks.unsubscribe("x"),
    )
    for call in calls:
        error = failure_of(call)
        assert error.error_type is ErrorType.SCOPES
        assert "BG_SQUARE_WEBHOOK_KEY" in error.message


def test_an_address_that_square_does_not_deliver_to_is_a_fault_of_the_settings(
    merchant: Merchant, connect: Connect
) -> None:
    webhooks = connect(merchant).webhooks
    error = failure_of(
        lambda: webhooks.subscribe(WANTED._replace(uri="http://hooks.example.com/webhooks/square"))
    )
    assert error.error_type is ErrorType.CONFIGURATION
    assert "BG_PUBLIC_URL" in error.message


@pytest.mark.parametrize(
    ("row", "at"),
    [
        (ROW | {"created_at": SAMPLES_TIME}, datetime(2022, 1, 10, 23, 29, 48, tzinfo=UTC)),
        (
            ROW | {"created_at": SAMPLES_TIME, "updated_at": "2026-01-01T00:00:00.000Z"},
            datetime(2026, 1, 1, tzinfo=UTC),
        ),
    ],
)
def test_a_time_is_read_however_square_writes_it(
    connect: Connect, serve: Callable[..., ScriptedServer], row: dict[str, Any], at: datetime
) -> None:
    server = serve(Reply.of({"subscriptions": [row]}))
    [one] = connect(token="EAAA", base_url=server.url).webhooks.subscriptions()
    assert one.source_updated_at == at


@pytest.mark.parametrize("row", [None, {}, {"id": "x"}, ROW | {"created_at": None}, ROW | {"event_types": 7}])
def test_an_answer_that_makes_no_sense_is_malformed(
    connect: Connect, serve: Callable[..., ScriptedServer], row: Any
) -> None:
    server = serve(Reply.of({"subscription": row}))
    webhooks = connect(token="EAAA", base_url=server.url).webhooks
    assert failure_of(lambda: webhooks.subscribe(WANTED)).error_type is ErrorType.MALFORMED_RESPONSE
