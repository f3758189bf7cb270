"""Rows with markers in every place where something personal may be, and a search for them in everything that is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from bg_pipelines import people
from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.privacy.tables import ANSWERS
from bg_pipelines_tests.support import KEY, query

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Person:
    """Somebody whose every text is a marker: `marker` is in their name, e-mail and address, `digits` in their phone."""

    def __init__(self, marker: str, number: int, digits: str) -> None:
        self.marker = marker
        self.number = number
        self.id = f"gid://shopify/Customer/{number}"
        self.email = f"{marker}@example.com"
        self.phone = f"+4930{digits}"
        self.orders = [f"gid://shopify/Order/{number}{place}" for place in range(1, 4)]

    def command(self, **more: Any) -> dict[str, Any]:
        """What Shopify sends about them."""
        return {
            "shop_id": 954889,
            "shop_domain": "harbor.myshopify.com",
            "customer": {"id": self.number, "email": self.email.upper(), "phone": self.phone},
            **more,
        }

    def redact(self) -> dict[str, Any]:
        return self.command(orders_to_redact=[int(self.orders[2].rpartition("/")[2])])


def add_store(database: Database, cipher: Cipher, name: str) -> int:
    save_stores(database, cipher, [NewStore(name, "shopify", f"{name}.myshopify.com", token="t")])
    [row] = query(database, "SELECT id FROM stores WHERE name = %s", name)
    return int(row["id"])


def plant(database: Database, cipher: Cipher, store: int, who: Person) -> None:
    """Rows of this person in every table that may hold something personal, a marker in each column that does."""
    mark = who.marker
    linked, second, named = who.orders
    with database.transaction() as connection:

        def put(table: str, **given: Any) -> None:
            insert(connection, table, {**erased_columns(table, mark), "store_id": store, **given})

        put("customers", external_id=who.id, email=who.email, email_verified=True, phone=who.phone)
        for order, customer in ((linked, who.id), (second, who.id), (named, None)):
            put("orders", external_id=order, customer_external_id=customer, email=who.email, phone=who.phone)
            put("order_lines", external_id=f"{order}/line", order_external_id=order)
            put("refunds", external_id=f"{order}/refund", order_external_id=order)
        carts: dict[str, dict[str, Any]] = {
            "theirs": {"customer_external_id": who.id, "email": None, "phone": None},
            "by e-mail": {"customer_external_id": None, "email": who.email.title(), "phone": None},
            "by phone": {"customer_external_id": None, "email": None, "phone": who.phone},
        }
        for name, owner in carts.items():
            put("carts", external_id=f"{who.number} {name}", **owner)
            put("cart_items", external_id=f"{who.number} {name}/1", cart_external_id=f"{who.number} {name}")
        put("sessions", id=f"session of {who.number} in {store}", customer_external_id=who.id)
        for field, status in (("locale", "recorded"), ("note", "pending"), ("email_consent", "applied")):
            put("customer_changes", customer_external_id=who.id, field=field, status=status)
        put(
            "customer_changes",
            customer_external_id=who.id,
            field="email",
            from_value=json.dumps(f"old.{who.email}"),
        )
        for number, customer in enumerate((who.id, None)):
            key = f"{store} {who.number} {number}"
            about = {"kind": "product_share", "template": "product_share", "idempotency_key": key}
            put("text_messages", customer_external_id=customer, phone=who.phone, **about)
            object_ = {"alert": "back_in_stock", "variant_external_id": str(number)}
            put("text_subscriptions", customer_external_id=customer, phone=who.phone, **object_)
        [message] = connection.execute(
            "SELECT max(id) FROM text_messages WHERE store_id = %s AND phone = %s", (store, who.phone)
        ).fetchone() or (None,)
        reply = {"sid": f"SM {store} {who.number}", "reading": "other", "message_id": message}
        insert(connection, "text_replies", {"phone": who.phone, "body": mark, **reply})
        rejects: dict[tuple[str, str], Any] = {
            ("customers", who.id): {"firstName": mark},
            ("orders", linked): {"note": mark},
            ("orders", named): {"note": mark},
            ("orders", f"new {who.number}"): {"customer": {"id": who.id}, "note": mark},
            ("refunds", f"known {who.number}"): {"order_external_id": second, "note": mark},
            ("orders", f"sha256:{who.number}"): {"billing": [{"email": who.email}], "note": mark},
            ("orders", f"phone {who.number}"): {
                "phone": f"0{who.phone[3:5]} / {who.phone[5:]}",
                "note": mark,
            },
            ("orders", f"before {who.number}"): {"email": f"OLD.{who.email}", "note": mark},
        }
        for (table, external_id), content in rejects.items():
            payload = cipher.encrypt(content)
            put("rejected_rows", resource=table, external_id=external_id, payload=payload, reason="r")
        events: list[dict[str, Any]] = [
            {"topic": "carts/update", "resource": "carts", "content": {"customer": {"id": who.number}, "note": mark}},
            {"topic": "checkouts/update", "resource": "carts", "content": {"email": who.email, "note": mark}},
            {"topic": "customers/data_request", "status": "handled", "content": who.command()},
            {"topic": "orders/odd", "status": "not_understood", "raw": f'{{"note": "{mark} {who.email}"'.encode()},
            {"topic": "carts/update", "store_id": None, "content": {"to": [who.email], "note": mark}},
        ]  # fmt: skip
        for place, event in enumerate(events):
            payload = cipher.encrypt(event.pop("content")) if "content" in event else seal(event.pop("raw"))
            put(
                "webhook_events",
                source="shopify",
                webhook_id=f"{store}-{who.number}-{place}",
                payload=payload,
                **event,
            )
    people.match(database)


def plant_store(database: Database, cipher: Cipher, store: int, mark: str) -> None:
    """A row of this store in every table that has rows of one, a marker in each of its texts that is free to hold one."""
    with database.transaction() as connection:
        incident = insert(
            connection,
            "incidents",
            {"store_id": store, "fingerprint": f"rejects:{store}:orders", "notified": "open", **texts("incidents", mark)},
        )  # fmt: skip
        alert = insert(
            connection, "alerts", {"incident_id": incident, "kind": "opened", "title": mark, "body": mark}
        )
        insert(connection, "alert_deliveries", {"alert_id": alert, "target": "sms:1", "reference": mark})
        connection.execute("UPDATE stores SET shop_name = %s, plan = %s WHERE id = %s", (mark, mark, store))
        for table, answer in ANSWERS.items():
            if "t.store_id" not in (answer.of_store or "") or table == "sync_states":
                continue
            given = {"store_id": store, **texts(table, mark), **KINDS.get(table, {})}
            if table == "person_decisions":
                given["other_store_id"] = store
            for column in ("payload", "signature_key"):
                if column in Base.metadata.tables[table].columns:
                    given[column] = cipher.encrypt({"text": mark})
            insert(connection, table, given)
        connection.execute("UPDATE sync_states SET last_error = %s WHERE store_id = %s", (f'"{mark}"', store))


KINDS: Mapping[str, dict[str, Any]] = {
    "sync_attempts": {"status": "failed"},
    "circuits": {"platform": None},
    "carts": {"payment_state": "none"},
    "cart_events": {"kind": "cart.abandoned"},
    "webhook_events": {"status": "handled"},
    "customer_changes": {"status": "recorded"},
    "inventory_corrections": {"status": "applied"},
    "person_decisions": {"kind": "apart"},
    "text_messages": {"kind": "product_share", "status": "sent"},
    "text_subscriptions": {"alert": "order_ready", "variant_external_id": None},
}
"""Columns that take one of a few words."""


# Writing


def erased_columns(table: str, mark: str) -> dict[str, Any]:
    """The columns that erasure empties, filled with the marker."""
    columns = Base.metadata.tables[table].columns
    return {
        name: filled(columns[name].type, mark)
        for name in ANSWERS[table].emptied
        if not isinstance(columns[name].type, sa.DateTime | sa.Boolean)
    }


def texts(table: str, mark: str) -> dict[str, Any]:
    """Every column of a table that takes any text, filled with the marker, but keys and what it refers to."""
    checked = (
        "status", "kind", "resource", "retry_strategy", "notified", "fingerprint", "matched_by", "error_type", "severity",
        "source", "platform", "job", "affected_runs", "resources", "resolved_by",
    )  # fmt: skip
    return {
        column.name: filled(column.type, mark)
        for column in Base.metadata.tables[table].columns
        if isinstance(column.type, sa.Text | JSONB | ARRAY)
        and not isinstance(getattr(column.type, "item_type", None), sa.BigInteger)
        and column.name not in checked
        and column.computed is None
    }


def filled(kind: Any, mark: str) -> Any:
    if isinstance(kind, JSONB):
        return json.dumps([{"address_1": mark, "more": {"deep": [mark]}}])
    return [mark] if isinstance(kind, ARRAY) else mark


def insert(connection: psycopg.Connection[Any], table: str, given: Mapping[str, Any]) -> Any:
    """A row with these values, and something that fits in what else is required; returns its first key."""
    values = dict(given)
    for column in Base.metadata.tables[table].columns:
        required = not column.nullable and column.server_default is None and column.identity is None
        if column.name not in values and required:
            values[column.name] = required_value(column.type)
    [key, *_] = Base.metadata.tables[table].primary_key
    names = ", ".join(values)
    row = connection.execute(
        f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING {key.name}",
        list(values.values()),
    ).fetchone()
    assert row is not None
    return row[0]


def required_value(kind: Any) -> Any:
    if isinstance(kind, sa.DateTime):
        return LONG_AGO
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.Integer | sa.Numeric):
        return 1
    if isinstance(kind, JSONB):
        return "[]"
    return [] if isinstance(kind, ARRAY) else b"" if isinstance(kind, sa.LargeBinary) else "x"


def seal(raw: bytes) -> bytes:
    """What is no JSON, encrypted as the receiver does."""
    return Fernet(KEY).encrypt(raw)


# Searching


def everything(database: Database) -> dict[tuple[str, str], str]:
    """Every row of every table by its key, as one text, what is encrypted decrypted."""
    found = {}
    with database.transaction() as connection:
        for name, table in Base.metadata.tables.items():
            cursor = connection.execute(f"SELECT * FROM {name}")
            columns = [column.name for column in cursor.description or ()]
            keys = [columns.index(column.name) for column in table.primary_key]
            for row in cursor:
                found[name, str([row[place] for place in keys])] = " | ".join(map(readable, row))
    return found


def readable(value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        raw = bytes(value)
        return opened(raw).decode(errors="replace") if raw.startswith(b"gAAAA") else raw.hex()
    return json.dumps(value, default=str, ensure_ascii=False)


def opened(token: bytes) -> bytes:
    try:
        return Fernet(KEY).decrypt(token)
    except InvalidToken:  # another key's
        return token


def traces(who: Person) -> list[str]:
    """What must not be found of a person: their texts, and the digests by which they are matched."""
    digests = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in (who.email.lower(), who.phone)]
    return [who.marker.lower(), who.phone[1:], who.phone[5:], *digests]


def find(database: Database, *texts: str) -> list[tuple[str, str]]:
    """The rows in which one of these texts is found."""
    return sorted(
        key for key, row in everything(database).items() if any(text in row.lower() for text in texts)
    )


def find_in_files(folder: Path, *texts: str) -> list[str]:
    return [
        str(path)
        for path in files(folder)
        if any(text.encode() in path.read_bytes().lower() for text in texts)
    ]


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
