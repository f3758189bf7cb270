"""Reminders of abandoned carts: once a cart, to whoever was asked by text and said yes, and only while it is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bg_pipelines.messaging import consent, desk, reminders
from bg_pipelines.messaging.answers import AnswerRules, handle
from bg_pipelines.messaging.checks import Rules
from bg_pipelines_tests.cleaning.test_carts import clean
from bg_pipelines_tests.messaging.conftest import ANN, BEN, NOON, Outbox
from bg_pipelines_tests.support import DatabaseClock, query

ON = Rules(cart_reminders=True)
Leave = Callable[..., None]


@pytest.fixture
def leave(outbox: Outbox) -> Leave:
    """Somebody leaves a cart for three hours, and clean_active_carts finds it abandoned: `leave("c1", phone=ANN)`."""
    outbox.rules = ON

    def leave(cart: str, items: int = 1, *, phone: str | None = ANN, customer: str | None = None) -> None:
        query(
            outbox.database,
            "INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at, phone, customer_external_id) "
            "VALUES (1, %s, now() - interval '3 hours', now(), %s, %s) ON CONFLICT (store_id, external_id) DO UPDATE SET "
            "source_updated_at = now() - interval '3 hours', abandoned_at = now() - interval '4 hours'",
            cart,
            phone,
            customer,
        )
        for title in ("A Linen Shirt", "Belt", "Scarf")[:items]:
            query(
                outbox.database,
                "INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity) "
                "VALUES (1, %s, now(), %s, %s, 1) ON CONFLICT DO NOTHING",
                f"{cart}/{title}",
                cart,
                title,
            )
        clean(outbox.database)

    return leave


def say_yes(outbox: Outbox, phone: str = ANN) -> None:
    event = consent.Event(phone, "cart_reminder", "confirmed", "reply", "sms", wording="YES")
    with outbox.database.transaction() as connection:
        consent.record(connection, event)


def reminded(outbox: Outbox) -> list[dict[str, Any]]:
    return query(
        outbox.database,
        "SELECT phone, status, reason FROM text_messages WHERE template = 'cart_reminder' ORDER BY id",
    )


def test_whoever_left_a_cart_and_said_yes_is_reminded_once(
    outbox: Outbox, leave: Leave, clock: DatabaseClock
) -> None:
    say_yes(outbox)
    leave("c1", items=3)
    assert str(outbox.send()) == "1 sent"
    [body] = outbox.at_twilio()
    assert body.startswith(
        "Harbor: you left A Linen Shirt and 2 more in your cart. https://harbor.example/cart?m="
    )
    clock.advance(hours=1)
    leave("c1")
    assert str(outbox.send()) == "nothing to send", "once a cart, however often it is left"
    leave("c2", items=1)
    assert str(outbox.send()) == "1 sent"
    assert "you left A Linen Shirt in your cart" in outbox.at_twilio()[1]


def test_from_the_question_to_the_reminder_by_what_the_house_has_for_it(
    outbox: Outbox, leave: Leave, clock: DatabaseClock
) -> None:
    about: Any = {"source": "checkout", "channel": "web", "wording": "Remind me of my cart", "by": "jane"}
    desk.grant(outbox.database, ON, "harbor", ANN, "cart_reminder", **about)
    leave("early")
    assert str(outbox.send()) == "1 sent"
    [question] = outbox.at_twilio()
    assert "reply YES to get shopping cart reminders" in question
    clock.advance(minutes=1)
    with outbox.database.transaction() as connection:
        handle(connection, "inbound", {"From": ANN, "Body": "Yes!", "MessageSid": "SM1"}, AnswerRules())
    leave("later")
    assert str(outbox.send()) == "1 sent"


def test_without_a_yes_to_that_very_question_nobody_is_reminded(outbox: Outbox, leave: Leave) -> None:
    with outbox.database.transaction() as connection:
        for kind, event in (
            ("all", "confirmed"),
            ("cart_reminder", "granted"),
            ("customer_alert", "confirmed"),
        ):
            consent.record(connection, consent.Event(ANN, kind, event, "form", "web"))
    say_yes(outbox, BEN)
    with outbox.database.transaction() as connection:
        consent.opt_out(connection, BEN, "all", source="staff", channel="phone")
    leave("c1")
    leave("c2", phone=BEN)
    leave("c3", phone=None)
    assert str(outbox.send()) == "nothing to send"
    assert reminded(outbox) == []
    with outbox.database.transaction() as connection:
        assert not reminders.is_due(connection), "each was considered, and is not again"


def test_the_number_of_a_customer_will_do(outbox: Outbox, leave: Leave) -> None:
    query(
        outbox.database,
        "INSERT INTO customers (store_id, external_id, source_updated_at, first_name, phone, email_verified, addresses, tags, "
        "source_created_at) VALUES (1, 'u1', now(), 'Ann', %s, false, '[]', '{}', now())",
        ANN,
    )
    say_yes(outbox)
    leave("c1", phone=None, customer="u1")
    assert str(outbox.send()) == "1 sent"


def test_they_are_off_unless_the_setting_says_otherwise(outbox: Outbox, leave: Leave) -> None:
    say_yes(outbox)
    leave("c1")
    assert str(outbox.send(rules=replace(ON, cart_reminders=False))) == "nothing to send"
    assert Rules().cart_reminders is False
    with outbox.database.transaction() as connection:
        assert reminders.is_due(connection)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM carts", "the cart was bought, or is not there any more"),
        ("UPDATE carts SET deleted_at = now()", "the cart was bought, or is not there any more"),
        ("UPDATE carts SET completed_at = now()", "the cart was bought, or is not there any more"),
        ("UPDATE carts SET payment_state = 'authorised'", "the cart was bought, or is not there any more"),
        ("UPDATE carts SET source_updated_at = now()", "the cart was touched since it was found abandoned"),
        ("UPDATE carts SET abandoned_at = NULL", "the cart was touched since it was found abandoned"),
        ("DELETE FROM cart_items", "nothing is left in the cart"),
        ("UPDATE cart_items SET deleted_at = now()", "nothing is left in the cart"),
    ],
)
def test_it_is_looked_at_again_when_it_is_sent(
    outbox: Outbox, leave: Leave, clock: DatabaseClock, change: str, reason: str
) -> None:
    clock.set(NOON + timedelta(hours=10))  # at night
    say_yes(outbox)
    leave("c1")
    assert str(outbox.send()) == "1 held"
    clock.advance(hours=11)
    query(outbox.database, change)
    assert str(outbox.send()) == "1 refused"
    assert reminded(outbox) == [{"phone": ANN, "status": "refused", "reason": reason}]


def test_after_two_days_it_is_too_late(outbox: Outbox, leave: Leave, clock: DatabaseClock) -> None:
    say_yes(outbox)
    leave("c1")
    clock.advance(hours=1)
    leave("c2")
    clock.set(NOON + timedelta(hours=48, minutes=1))
    assert str(outbox.send()) == "1 sent", "the second alone"
    clock.set(NOON + timedelta(hours=10))
    leave("c3")
    clock.advance(hours=47)
    assert str(outbox.send()) == "1 refused"
    assert reminded(outbox)[-1]["reason"] == "expires before it could be sent (quiet hours at the recipient)"


def test_a_view_of_an_application_s_own_carts_has_no_phone_and_does_no_harm(
    outbox: Outbox, leave: Leave
) -> None:
    say_yes(outbox)
    leave("c1", customer="nobody")
    query(outbox.database, "ALTER TABLE carts RENAME COLUMN phone TO called")
    try:
        assert str(outbox.send()) == "nothing to send"
    finally:
        query(outbox.database, "ALTER TABLE carts RENAME COLUMN called TO phone")
