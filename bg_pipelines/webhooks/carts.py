"""Carts and their checkouts, which have no API: what is delivered is the only source, and the newest counts.

A cart's deliveries say what it holds, a checkout's whose it is and whether it was bought. Each is applied by its own
source time: an older one changes nothing, and neither takes away what the other has said. What cannot be loaded is kept
with its reason, as the rows of a sync are.

Vendor facts: https://shopify.dev/docs/api/webhooks (carts/*, checkouts/*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from bg_pipelines.database.load import AHEAD, Counts, load
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms.phones import normalise
from bg_pipelines.platforms.rejects import NONSENSE, fault, optional
from bg_pipelines.privacy.tombstones import standing
from bg_pipelines.records import Reject
from bg_pipelines.sync.rejects import keep_rejects
from bg_pipelines.values import Amount, Time, read_rows, writable
from bg_pipelines.webhooks.events import Event
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]
Payload = Mapping[str, Any]

TABLES = CARTS, ITEMS = "carts", "cart_items"


class Document(NamedTuple):
    """A delivery of a cart or of its checkout. `at` is the source's time of it, or else when it came."""

    event: Event
    payload: Payload

    @property
    def is_checkout(self) -> bool:
        return self.event.topic.startswith("checkouts/")

    @property
    def at(self) -> datetime:
        event = self.event
        at = event.source_updated_at or event.triggered_at or event.received_at
        # One from the future would be the newest for ever.
        return event.received_at if self.is_ahead(at) else at

    def is_ahead(self, at: datetime) -> bool:
        """Whether a time was still to come when this was delivered, and not by a difference of clocks."""
        return at > self.event.received_at + AHEAD


class CartRecord(NamedTuple):
    """The columns of `carts` that deliveries fill; `order_external_id` is not among them."""

    external_id: str
    source_updated_at: Time
    customer_external_id: str | None
    checkout_external_id: str | None
    currency: str | None
    total: Amount | None
    email: str | None
    phone: str | None
    completed_at: Time | None
    source_created_at: Time
    cart_updated_at: Time | None
    checkout_updated_at: Time | None


class ItemRecord(NamedTuple):
    """A row of `cart_items`."""

    external_id: str
    source_updated_at: Time
    cart_external_id: str
    product_external_id: str | None
    variant_external_id: str | None
    title: str
    sku: str | None
    quantity: Amount
    unit_price: Amount | None
    total: Amount | None
    currency: str | None


class _Cart:
    """A cart as it is held, brought up to the newest delivery of each kind."""

    def __init__(self, token: str, held: Mapping[str, Any] | None) -> None:
        self.token = token
        self.held = held
        self.values: dict[str, Any] = {
            name: None if held is None else _text(held[name]) for name in CartRecord._fields
        }
        self.items: list[ItemRecord] | None = None
        self.applied: list[Document] = []

    def is_newer(self, document: Document) -> bool:
        """Whether it says more than what is held; one that was cleaned away comes back with a later one only."""
        if self.held is None:
            return True
        last: datetime | None = self.held[
            "checkout_updated_at" if document.is_checkout else "cart_updated_at"
        ]
        if last is None or document.at > last or document.is_ahead(last):
            return True
        return document.at == last and self.held["deleted_at"] is None

    def apply(self, document: Document) -> None:
        """Raises KeyError, TypeError, AttributeError or ValueError for a payload that is none."""
        payload, at = document.payload, _text(document.at)
        if document.event.topic == "checkouts/delete":
            new: dict[str, Any] = {"checkout_external_id": None, "checkout_updated_at": at}
        elif document.is_checkout:
            new = {**_of_checkout(payload), "checkout_updated_at": at}
        else:
            new = {"cart_updated_at": at}
            self.items = _items(self.token, str(at), payload)
        created = payload.get("created_at") if not document.is_checkout else None
        new["source_created_at"] = (
            created or self.values["source_created_at"] or payload.get("created_at") or at
        )
        self.values |= new
        self.applied.append(document)

    def record(self) -> CartRecord:
        times = [document.at for document in self.applied]
        if self.held is not None and not self.applied[-1].is_ahead(self.held["source_updated_at"]):
            times.append(self.held["source_updated_at"])
        return CartRecord(
            **{**self.values, "external_id": self.token, "source_updated_at": _text(max(times))}
        )

    def kept_as(self) -> dict[str, Any]:
        """What it was made of, for a cart that cannot be loaded."""
        return {document.event.topic: document.payload for document in self.applied}


def apply_documents(
    connection: Connection, cipher: Cipher, store_id: int, documents: Sequence[Document]
) -> dict[str, Counts]:
    """Bring a store's carts up to these deliveries; returns what became of the rows, by table.

    Of several deliveries of a cart only the newest of each kind counts.
    """
    # Before anything of the store is locked.
    tombstones = standing(connection, store_id)
    newest: dict[tuple[str, bool], Document] = {}
    for document in sorted(documents, key=lambda document: (document.at, document.event.id)):
        newest[document.event.object_id or "", document.is_checkout] = document
    held = _held(connection, store_id, sorted({token for token, _ in newest}))
    carts: dict[str, _Cart] = {}
    rejects: list[Reject] = []
    for (token, _), document in newest.items():
        cart = carts.setdefault(token, _Cart(token, held.get(token)))
        if not cart.is_newer(document):
            continue
        try:
            cart.apply(document)
        except NONSENSE as error:
            again = partial(_apply, token, held.get(token), document)
            reason = f"{fault(document.payload, error, again)}; it loads with a later delivery"
            rejects.append(Reject(token, reason, dict(document.payload)))
    counts = {CARTS: Counts(read=len(rejects), rejected=len(rejects)), ITEMS: Counts()}
    changed = {token: cart for token, cart in carts.items() if cart.applied}
    # What a newer delivery holds is there, whenever it was marked deleted.
    seen_at = clock(connection)
    refused: list[Reject] = []
    records = tombstones.strip_rows(CARTS, [cart.record() for cart in changed.values()])
    counts[CARTS] += _load(connection, CARTS, store_id, records, seen_at, refused)
    # With their items: a cart that is not there has none.
    rejects += [reject._replace(payload=changed.pop(str(reject.external_id)).kept_as()) for reject in refused]
    counts[ITEMS] += _load_items(connection, cipher, store_id, list(changed.values()), seen_at)
    rejects = [tombstones.strip_reject(CARTS, reject) for reject in rejects]
    keep_rejects(connection, cipher, CARTS, store_id, rejects)
    return counts


def has_rejects(connection: Connection, store_id: int) -> bool:
    """Whether any cart or item of a store could not be loaded."""
    found = connection.execute(
        "SELECT FROM rejected_rows WHERE store_id = %s AND resource = ANY(%s) LIMIT 1",
        (store_id, list(TABLES)),
    )
    return found.rowcount > 0


def _held(connection: Connection, store_id: int, tokens: Sequence[str]) -> dict[str, dict[str, Any]]:
    """These carts as they are held, kept from changing until the transaction's end."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM carts WHERE store_id = %s AND external_id = ANY(%s) ORDER BY external_id FOR NO KEY UPDATE",
            (store_id, list(tokens)),
        )
        return {row["external_id"]: row for row in cursor.fetchall()}


def _load_items(
    connection: Connection, cipher: Cipher, store_id: int, carts: Sequence[_Cart], seen_at: datetime
) -> Counts:
    """The items of carts whose contents are told anew; those that are no longer in theirs are marked deleted."""
    told = [cart for cart in carts if cart.items is not None]
    if not told:
        return Counts()
    items = [item._replace(currency=cart.values["currency"]) for cart in told for item in cart.items or ()]
    refused: list[Reject] = []
    counts = _load(connection, ITEMS, store_id, items, seen_at, refused)
    parameters = {
        "store": store_id,
        "carts": [cart.token for cart in told],
        "items": [item.external_id for item in items],
    }
    # What could not be loaded and is in its cart no more is forgotten.
    connection.execute(
        "DELETE FROM rejected_rows WHERE store_id = %(store)s AND resource = 'cart_items' "
        "AND external_id <> ALL(%(items)s) AND EXISTS (SELECT FROM unnest(%(carts)s::text[]) AS cart "
        "WHERE starts_with(external_id, cart || '/'))",
        parameters,
    )
    counts.deleted = connection.execute(
        "UPDATE cart_items SET deleted_at = now(), synced_at = now() WHERE store_id = %(store)s "
        "AND cart_external_id = ANY(%(carts)s) AND external_id <> ALL(%(items)s) AND deleted_at IS NULL",
        parameters,
    ).rowcount
    keep_rejects(connection, cipher, ITEMS, store_id, refused)
    return counts


def _load(
    connection: Connection,
    table: str,
    store_id: int,
    rows: Sequence[Any],
    seen_at: datetime,
    rejects: list[Reject],
) -> Counts:
    """Rows into a table; those that cannot be held are added to `rejects`."""
    kept, refused = read_rows(rows)
    rejects += [
        Reject(row.external_id, f"{reason}; it loads with a later delivery", row._asdict())
        for row, reason in refused
    ]
    counts = Counts(read=len(refused), rejected=len(refused))
    counts += load(connection, table, store_id, kept, seen_at=seen_at, reject=rejects.append)
    return counts


def _apply(token: str, held: Mapping[str, Any] | None, document: Document, payload: Payload) -> None:
    _Cart(token, held).apply(document._replace(payload=payload))


def _of_checkout(payload: Payload) -> dict[str, Any]:
    customer = optional(payload, "customer", dict, {})
    phone, _ = normalise(optional(payload, "phone", str), None)
    named = optional(customer, "admin_graphql_api_id", str)
    return {
        "checkout_external_id": payload["token"],
        "customer_external_id": named or _gid("Customer", customer.get("id"), "customer.id"),
        "currency": payload["currency"],
        "total": payload["total_price"],
        "email": optional(payload, "email", str) or None,
        "phone": phone,
        "completed_at": payload.get("completed_at"),
    }


def _items(token: str, at: str, payload: Payload) -> list[ItemRecord]:
    lines = payload["line_items"]
    if type(lines) is not list:
        raise ValueError("line_items: must be a list and is not")
    return [_item(token, at, line) for line in lines]


def _item(token: str, at: str, line: Payload) -> ItemRecord:
    key = optional(line, "key", str) or line["id"]
    if type(key) is not int and not writable(key):
        raise ValueError("key: must be a text that can be held and is not")
    return ItemRecord(
        f"{token}/{key}",
        at,
        token,
        _gid("Product", line.get("product_id"), "product_id"),
        _gid("ProductVariant", line.get("variant_id"), "variant_id"),
        line["title"],
        optional(line, "sku", str) or None,
        line["quantity"],
        line.get("price"),
        line.get("line_price"),
        None,
    )


def _gid(kind: str, number: Any, name: str) -> str | None:
    if number is None:
        return None
    if type(number) is not int or number < 0:
        raise ValueError(f"{name}: must be a whole number and is not")
    return f"gid://shopify/{kind}/{number}"


def _text(value: Any) -> str | None:
    """A held value as a platform writes it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value) if isinstance(value, Decimal) else value
