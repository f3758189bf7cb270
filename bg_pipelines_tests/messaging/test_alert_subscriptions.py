"""Alerts by subscription: put in the outbox by the change itself, at most once, whatever path writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging import desk
from bg_pipelines_tests.messaging.conftest import ANN, BEN, Outbox
from bg_pipelines_tests.support import query, wait_for

Subscribe = Callable[..., desk.Subscribed]


@pytest.fixture
def subscribe(outbox: Outbox) -> Subscribe:
    def subscribe(alert: str, phone: str = ANN, **about: Any) -> desk.Subscribed:
        about = about or ({"order": "#1001"} if alert == "order_ready" else {"variant": "LINEN-S"})
        return desk.subscribe(outbox.database, outbox.rules, "harbor", alert, phone, by="jane", **about)

    return subscribe


def waiting(outbox: Outbox) -> list[str]:
    rows = query(
        outbox.database, "SELECT template, phone FROM text_messages WHERE status = 'pending' ORDER BY id"
    )
    return [f"{row['template']} {row['phone']}" for row in rows]


def set_stock(outbox: Outbox, available: int, **more: Any) -> None:
    query(outbox.database, "UPDATE inventory_levels SET available = %s", available)


def test_who_waits_is_told_once_when_the_stock_comes_back(outbox: Outbox, subscribe: Subscribe) -> None:
    set_stock(outbox, 0)
    assert subscribe("back_in_stock").id == subscribe("back_in_stock").id
    subscribe("back_in_stock", BEN)
    set_stock(outbox, 3)
    set_stock(outbox, 0)
    set_stock(outbox, 5)
    assert waiting(outbox) == [f"back_in_stock {ANN}", f"back_in_stock {BEN}"]
    # A subscription is no consent.
    assert str(outbox.send()) == "2 refused"


def test_with_consent_the_alert_is_sent_with_title_price_and_link(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    desk.grant(
        outbox.database,
        outbox.rules,
        "harbor",
        ANN,
        "customer_alert",
        source="form",
        channel="web",
        wording="Text me",
        by="jane",
    )
    set_stock(outbox, 0)
    subscribe("back_in_stock")
    set_stock(outbox, 3)
    assert str(outbox.send()) == "1 sent"
    [body] = outbox.at_twilio()
    assert body.startswith(
        "Harbor: Linen Shirt is back in stock, $49.00. https://harbor.example/products/linen-shirt?m="
    )


def test_stock_at_a_place_that_is_new_here_and_a_level_that_lives_again_count_as_well(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    set_stock(outbox, 0)
    subscribe("back_in_stock")
    query(
        outbox.database,
        "INSERT INTO inventory_levels SELECT store_id, 'l2', source_updated_at, synced_at, NULL, "
        "inventory_item_external_id, 'loc2', 4, 4, 0, 0 FROM inventory_levels",
    )
    query(outbox.database, "DELETE FROM text_messages")
    query(outbox.database, "UPDATE inventory_levels SET available = 0")
    subscribe("back_in_stock", BEN)
    query(
        outbox.database,
        "UPDATE inventory_levels SET available = 2, deleted_at = now() WHERE external_id = 'l1'",
    )
    assert waiting(outbox) == []
    query(outbox.database, "UPDATE inventory_levels SET deleted_at = NULL WHERE external_id = 'l1'")
    assert waiting(outbox) == [f"back_in_stock {BEN}"]


def test_whoever_subscribes_to_what_is_so_already_is_told_at_once(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    assert subscribe("back_in_stock").is_told
    query(outbox.database, "UPDATE orders SET fulfillment_status = 'fulfilled'")
    assert subscribe("order_ready").is_told
    assert waiting(outbox) == [f"back_in_stock {ANN}", f"order_ready {ANN}"]


def test_each_price_that_is_lower_than_the_last_one_told_is_told_once(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    subscribe("price_drop")
    for price in (55, 45, 50, 45, 40):
        query(outbox.database, "UPDATE product_variants SET price = %s", price)
    rows = query(outbox.database, "SELECT fields ->> 'was' AS was FROM text_messages ORDER BY id")
    assert [row["was"] for row in rows] == ["49.0000", "45.0000"]


def test_an_order_is_told_when_it_is_ready_and_not_when_it_was_cancelled(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    subscribe("order_ready")
    query(outbox.database, "UPDATE orders SET fulfillment_status = 'partially_fulfilled'")
    assert waiting(outbox) == []
    query(outbox.database, "UPDATE orders SET fulfillment_status = 'prepared'")
    query(outbox.database, "UPDATE orders SET fulfillment_status = 'fulfilled'")
    assert waiting(outbox) == [f"order_ready {ANN}"]
    query(outbox.database, "UPDATE orders SET cancelled_at = now()")
    query(outbox.database, "UPDATE text_messages SET requested_by = 'checkout'")
    assert str(outbox.send()) == "1 refused"


def test_a_subscription_that_is_made_while_the_stock_changes_is_not_missed(
    outbox: Outbox, subscribe: Subscribe
) -> None:
    set_stock(outbox, 0)
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
    told: list[desk.Subscribed] = []
    with outbox.database.transaction() as connection:
        connection.execute("UPDATE inventory_levels SET available = 3")
        thread = threading.Thread(target=lambda: told.append(subscribe("back_in_stock")))
        thread.start()
        wait_for(lambda: query(outbox.database, waits) != [])
    thread.join()
    assert [one.is_told for one in told] == [True]
    assert waiting(outbox) == [f"back_in_stock {ANN}"]


@pytest.mark.parametrize(
    ("alert", "about", "fault"),
    [
        ("back_in_stok", {"variant": "LINEN-S"}, "did you mean 'back_in_stock'"),
        ("back_in_stock", {"variant": "LINEN-M"}, "name one variant by its id or its SKU"),
        ("order_ready", {"order": "#9"}, "has none with this id or name"),
        ("price_drop", {"product": "Linen Shrt"}, "did you mean 'Linen Shirt'"),
    ],
)
def test_what_is_not_there_is_said(
    subscribe: Subscribe, alert: str, about: dict[str, str], fault: str
) -> None:
    with pytest.raises(IntegrationError, match=fault):
        subscribe(alert, **about)
