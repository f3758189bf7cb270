"""Carts and checkouts become rows by their own times: whatever the order they come in, the newest of each counts."""

from __future__ import annotations

import os
import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.http import parse_json
from bg_pipelines.webhooks.carts import Document, apply_documents
from bg_pipelines.webhooks.events import Event
from bg_pipelines_tests.nasty import ALL, as_json, traces
from bg_pipelines_tests.support import query
from bg_pipelines_tests.webhooks.conftest import Handle, Tell, outcomes

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
IS_FULL = os.environ.get("BG_TEST_FULL") == "1"
CUSTOMER = "gid://shopify/Customer/7"


@pytest.fixture
def harbor(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [NewStore("harbor", "shopify", "harbor.myshopify.com", token="t")])


def at(minute: float) -> str:
    return (NOON + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")


def cart(minute: float, *lines: tuple[int, int], token: str = "c1", **changes: Any) -> dict[str, Any]:
    """A cart with so many pieces of each variant."""
    return {
        "id": token,
        "token": token,
        "created_at": at(0),
        "updated_at": at(minute),
        "line_items": [
            {
                "id": variant,
                "key": f"{variant}:{token}",
                "quantity": quantity,
                "variant_id": variant,
                "product_id": variant + 1000,
                "title": f"Tea {variant}",
                "sku": "",
                "price": "2.50",
                "line_price": str(Decimal("2.50") * quantity),
            }
            for variant, quantity in lines
        ],
        **changes,
    }


def checkout(minute: float, token: str = "c1", **changes: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "token": f"checkout-of-{token}",
        "cart_token": token,
        "created_at": at(1),
        "updated_at": at(minute),
        "completed_at": None,
        "currency": "EUR",
        "total_price": "9.90",
        "email": "ada@example.com",
        "phone": "+4915112345678",
        "customer": {"id": 7},
        **changes,
    }


def carts(database: Database) -> dict[str, dict[str, Any]]:
    return {
        row["external_id"]: row for row in query(database, "SELECT * FROM carts WHERE deleted_at IS NULL")
    }


def contents(database: Database, token: str = "c1") -> dict[str, int]:
    """The pieces of each variant in a cart."""
    rows = query(
        database, "SELECT * FROM cart_items WHERE cart_external_id = %s AND deleted_at IS NULL", token
    )
    return {row["variant_external_id"].rpartition("/")[2]: int(row["quantity"]) for row in rows}


@pytest.mark.usefixtures("harbor")
def test_a_cart_and_its_checkout_are_one_row_and_its_lines_are_its_items(
    database: Database, tell: Tell, handle: Handle
) -> None:
    tell("harbor", "carts/create", cart(1, (1, 2), (2, 1)))
    handle()
    held = carts(database)["c1"]
    assert (held["customer_external_id"], held["total"], held["source_created_at"]) == (None, None, NOON)
    tell("harbor", "carts/update", cart(3, (2, 5)))
    tell("harbor", "checkouts/create", checkout(4))
    tell("harbor", "checkouts/update", checkout(5, completed_at=at(5)))
    summary = handle()
    held = carts(database)["c1"]
    assert {name: held[name] for name in ("customer_external_id", "email", "phone", "currency", "total")} == {
        "customer_external_id": CUSTOMER,
        "email": "ada@example.com",
        "phone": "+4915112345678",
        "currency": "EUR",
        "total": Decimal("9.9000"),
    }
    assert held["completed_at"] == held["source_updated_at"] == NOON + timedelta(minutes=5)
    assert (held["cart_updated_at"], held["source_created_at"]) == (NOON + timedelta(minutes=3), NOON)
    assert contents(database) == {"2": 5}
    [item] = query(database, "SELECT * FROM cart_items WHERE deleted_at IS NULL")
    assert item["product_external_id"] == "gid://shopify/Product/1002"
    assert (item["unit_price"], item["total"], item["sku"]) == (Decimal("2.5"), Decimal("12.5"), None)
    assert outcomes(database) == {"handled": 4}
    assert summary.rows["cart_items"].deleted == 1


@pytest.mark.usefixtures("harbor")
@pytest.mark.parametrize("held_before", [True, False])
def test_a_cart_that_once_came_with_a_time_far_ahead_goes_on(
    database: Database, tell: Tell, handle: Handle, held_before: bool
) -> None:
    far = "2222-03-01T10:00:00Z"
    if held_before:
        tell("harbor", "carts/create", cart(1, (1, 2)))
        tell("harbor", "checkouts/create", checkout(2))
        handle()
    tell("harbor", "carts/update", cart(1, (1, 3), updated_at=far))
    tell("harbor", "checkouts/update", checkout(2, updated_at=far, total_price="1.00"))
    handle()
    assert carts(database)["c1"]["source_updated_at"] < datetime.now(UTC) + timedelta(minutes=1)
    # As an earlier release has kept it.
    query(
        database,
        "UPDATE carts SET (source_updated_at, cart_updated_at, checkout_updated_at) = (%s, %s, %s)",
        far,
        far,
        far,
    )
    query(database, "UPDATE cart_items SET source_updated_at = %s", far)
    tell("harbor", "carts/update", cart(3, (2, 5)))
    tell("harbor", "checkouts/update", checkout(4, total_price="12.50"))
    handle()
    assert contents(database) == {"2": 5}
    assert carts(database)["c1"]["total"] == Decimal("12.5")
    assert carts(database)["c1"]["source_updated_at"] == NOON + timedelta(minutes=4)


@pytest.mark.usefixtures("harbor")
def test_a_checkout_of_an_unknown_cart_makes_it_and_the_cart_takes_nothing_from_it(
    database: Database, tell: Tell, handle: Handle
) -> None:
    tell("harbor", "checkouts/create", checkout(2))
    handle()
    assert carts(database)["c1"]["cart_updated_at"] is None
    tell("harbor", "carts/create", cart(1, (1, 2)))
    handle()
    held = carts(database)["c1"]
    assert (held["email"], held["source_created_at"], contents(database)) == (
        "ada@example.com",
        NOON,
        {"1": 2},
    )
    assert held["source_updated_at"] == NOON + timedelta(minutes=2)
    tell(
        "harbor", "checkouts/delete", {"id": 1, "cart_token": "c1"}, triggered_at=NOON + timedelta(minutes=9)
    )
    handle()
    assert carts(database)["c1"]["checkout_external_id"] is None
    tell("harbor", "checkouts/update", checkout(3))
    handle()
    assert carts(database)["c1"]["checkout_external_id"] is None, "it is older than the deletion"


@pytest.mark.usefixtures("harbor")
def test_what_cannot_be_loaded_is_kept_with_its_reason_until_it_can(
    database: Database, cipher: Cipher, tell: Tell, handle: Handle
) -> None:
    tell("harbor", "checkouts/create", checkout(1, total_price="many"))
    bad = cart(1, (1, 2), (2, 2), token="c2")
    bad["line_items"][0]["quantity"] = "NaN"
    tell("harbor", "carts/create", bad)
    tell("harbor", "carts/create", cart(1, token="c3", line_items=None))
    tell("harbor", "carts/create", cart(1, (5, 1), token="c4"))
    handle()
    assert outcomes(database) == {"handled": 4}
    rows = query(
        database, "SELECT resource, external_id, reason, payload FROM rejected_rows ORDER BY external_id"
    )
    assert [(row["resource"], row["external_id"]) for row in rows] == [
        ("carts", "c1"),
        ("cart_items", "c2/1:c2"),
        ("carts", "c3"),
    ]
    assert "many" not in str([row["reason"] for row in rows])
    assert cipher.decrypt(rows[0]["payload"])["checkouts/create"]["total_price"] == "many"
    assert (set(carts(database)), contents(database, "c2")) == ({"c2", "c4"}, {"2": 2})
    incidents = "SELECT units FROM incidents WHERE status = 'open'".replace("units", "resources")
    assert sorted(row["resources"] for row in query(database, incidents)) == [["cart_items"], ["carts"]]
    tell("harbor", "checkouts/update", checkout(2))
    tell("harbor", "carts/update", cart(2, (2, 2), token="c2"))
    tell("harbor", "carts/update", cart(2, (2, 2), token="c3"))
    handle()
    assert query(database, "SELECT 1 FROM rejected_rows") == []
    assert query(database, incidents) == []


@pytest.mark.usefixtures("harbor")
def test_carts_of_a_paused_store_are_kept_and_those_of_one_that_left_are_not(
    database: Database, tell: Tell, handle: Handle
) -> None:
    query(database, "UPDATE stores SET paused_at = now()")
    tell("harbor", "carts/create", cart(1, (1, 2)))
    handle()
    assert set(carts(database)) == {"c1"}
    query(database, "UPDATE stores SET uninstalled_at = now()")
    tell("harbor", "carts/create", cart(1, (1, 2), token="c2"))
    handle()
    assert (set(carts(database)), outcomes(database)) == ({"c1"}, {"handled": 1, "ignored": 1})


@pytest.mark.usefixtures("harbor")
def test_a_cart_that_was_cleaned_away_comes_back_with_something_newer_only(
    database: Database, tell: Tell, handle: Handle
) -> None:
    tell("harbor", "carts/create", cart(1, (1, 2)))
    handle()
    query(database, "UPDATE carts SET deleted_at = now()")
    query(database, "UPDATE cart_items SET deleted_at = now()")
    tell("harbor", "carts/create", cart(1, (1, 2)))
    handle()
    assert carts(database) == {}
    tell("harbor", "carts/update", cart(2, (1, 3)))
    handle()
    assert (set(carts(database)), contents(database)) == ({"c1"}, {"1": 3})


@pytest.mark.usefixtures("harbor")
def test_a_payload_of_another_key_fails_alone(database: Database, tell: Tell, handle: Handle) -> None:
    tell("harbor", "carts/create", cart(1, (1, 2)))
    tell("harbor", "carts/create", cart(1, (1, 2), token="c2"))
    query(
        database,
        "UPDATE webhook_events SET payload = %s WHERE object_id = 'c1'",
        Cipher("1" * 43 + "=").encrypt({}),
    )
    assert handle().events == {"handled": 1, "failed": 1}
    assert set(carts(database)) == {"c2"}


histories = st.lists(
    st.tuples(st.sampled_from(["cart", "checkout"]), st.integers(0, 3)), min_size=1, max_size=8
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(history=histories, seed=st.integers(0, 10**6))
def test_in_whatever_order_and_batches_deliveries_come_the_end_is_the_same(
    own_database: Database, cipher: Cipher, history: list[tuple[str, int]], seed: int
) -> None:
    """Shuffled, doubled and cut into batches at random: the cart is what the newest of each kind say."""
    rng = random.Random(seed)
    documents = []
    for number, (kind, what) in enumerate(history):
        if kind == "cart":
            documents.append(
                ("carts/update", cart(number, *((variant, number + 1) for variant in range(what))))
            )
        else:
            documents.append(("checkouts/update", checkout(number, total_price=f"{number}.00")))
    sent = documents + rng.choices(documents, k=2)
    rng.shuffle(sent)
    with own_database.transaction() as connection:
        while sent:
            size = rng.randint(1, 4)
            batch, sent = sent[:size], sent[size:]
            apply_documents(
                connection, cipher, 1, [document(number, *one) for number, one in enumerate(batch)]
            )
        [held] = connection.execute(
            "SELECT cart_updated_at, checkout_updated_at, total FROM carts"
        ).fetchall()
        items = connection.execute(
            "SELECT variant_external_id, quantity FROM cart_items WHERE deleted_at IS NULL ORDER BY 1"
        ).fetchall()
        connection.rollback()
    of_cart = [number for number, (kind, _) in enumerate(history) if kind == "cart"]
    of_checkout = [number for number, (kind, _) in enumerate(history) if kind == "checkout"]
    assert held == (
        NOON + timedelta(minutes=of_cart[-1]) if of_cart else None,
        NOON + timedelta(minutes=of_checkout[-1]) if of_checkout else None,
        of_checkout[-1] if of_checkout else None,
    )
    expected = range(history[of_cart[-1]][1]) if of_cart else ()
    assert items == [(f"gid://shopify/ProductVariant/{variant}", of_cart[-1] + 1) for variant in expected]


def document(number: int, topic: str, payload: dict[str, Any]) -> Document:
    moment = datetime.fromisoformat(payload["updated_at"])
    token = payload.get("cart_token") or payload["token"]
    now = NOON + timedelta(days=1)
    event = Event(number, "run/1", 0, 1, "shopify", topic, "carts", token, moment, None, now, None, None)
    return Document(event, payload)


FIELDS = {
    "carts/update": [
        *cart(1),
        *(f"line_items.0.{name}" for name in cart(1, (1, 2))["line_items"][0]),
        "line_items.0",
    ],
    "checkouts/update": [*checkout(1), "customer.id", "customer.admin_graphql_api_id"],
}


@pytest.mark.parametrize("topic", FIELDS)
def test_a_nasty_value_in_any_field_of_a_delivery_costs_at_most_its_cart(
    own_database: Database, cipher: Cipher, topic: str
) -> None:
    rng = random.Random(7)
    # Whose it is and when it changed are read when it is received.
    fields = [name for name in FIELDS[topic] if name not in ("token", "id", "cart_token", "updated_at")]
    dealt = [
        (field, name)
        for field in fields
        for name in (sorted(ALL) if IS_FULL else rng.sample(sorted(ALL), 25))
    ]
    documents, expected = [], {}
    for number, (field, name) in enumerate(dealt):
        token = f"c{number}"
        payload = cart(1, (1, 2), token=token) if topic == "carts/update" else checkout(1, token)
        *holders, last = field.split(".")
        holder: Any = payload
        for one in holders:
            holder = holder[int(one)] if isinstance(holder, list) else holder[one]
        holder[int(last) if isinstance(holder, list) else last] = ALL[name]
        documents.append(document(number, topic, parse_json(as_json(payload))))
        expected[token] = field, name
    with own_database.transaction() as connection:
        connection.execute(
            "INSERT INTO stores (id, name, platform, domain, credentials) OVERRIDING SYSTEM VALUE "
            "VALUES (1, 'harbor', 'shopify', 'harbor.myshopify.com', '')"
        )
        apply_documents(connection, cipher, 1, documents)
        held = {row[0] for row in connection.execute("SELECT external_id FROM carts")}
        items = {row[0] for row in connection.execute("SELECT cart_external_id FROM cart_items")}
        rejects = connection.execute("SELECT resource, external_id, reason FROM rejected_rows").fetchall()
        for table in ("carts", "cart_items"):
            connection.execute(f"SELECT * FROM {table}").fetchall()
        connection.rollback()
    rejected = {token.partition("/")[0] for _, token, _ in rejects}
    for token, (field, name) in expected.items():
        assert token in held | rejected, (field, name)
        no_items = field == "line_items" and ALL[name] == []
        assert topic != "carts/update" or token in items | rejected or no_items, (field, name)
    assert [reason for *_, reason in rejects if not re.match(r"[a-z_0-9.]+: ", reason)] == []
    assert traces(str([reason for *_, reason in rejects])) == []
    assert rejects
    # A wrong kind is never made a text.
    wrong = {
        token for token, (_, name) in expected.items() if isinstance(ALL[name], dict | list) and ALL[name]
    }
    assert wrong <= rejected
