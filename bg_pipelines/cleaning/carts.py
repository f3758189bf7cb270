"""Carts: which are abandoned and which expire, what they hold back, and what is left of what is gone (docs/cleaning.md).

A cart's activity is its `source_updated_at`. One with money in it is never deleted, whatever its age. An abandoned
cart's reservations are released at once; an expired one goes with its items and reservations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from psycopg.rows import class_row

from bg_pipelines.cleaning.relations import Axis, Blocks, Connection, Keys, Relation, Span, find
from bg_pipelines.cleaning.sweeps import Child, Rows, RowSweep
from bg_pipelines.database.secrets import Cipher

TABLES = ("carts", "cart_items", "inventory_reservations", "sessions")
"""What an application may replace by views over tables of its own (docs/cleaning.md)."""
REPORTED = 20


@dataclass(frozen=True)
class CartKeep:
    """How long carts are kept without activity; `cart_rules` has what a store has otherwise.

    `archive`: how long deleted carts are kept archived, without what is personal in them; None: they are not.
    """

    abandon: timedelta = timedelta(hours=2)
    anonymous: timedelta = timedelta(days=30)
    customer: timedelta = timedelta(days=90)
    empty: timedelta = timedelta(hours=6)
    bought: timedelta = timedelta(days=30)
    archive: timedelta | None = None


_NO_MONEY = "t.payment_state IN ('none', 'settled')"
_TOMBSTONE = "interval '7 days'"
"""How long a cart that its source has deleted is kept: an older event about it may still come."""
_GRACE = "interval '1 day'"
"""How long what names a cart that is not there is kept: the cart may come later."""
_ABANDONED = "t.abandoned_at IS NOT NULL AND t.abandoned_at >= t.source_updated_at"


def _before(name: str, column: str = "t.source_updated_at") -> str:
    return f"{column} < statement_timestamp() - coalesce(r.{name}, %({name})s)"


_KIND = f"""CASE
    WHEN t.deleted_at IS NOT NULL THEN CASE WHEN t.deleted_at < statement_timestamp() - {_TOMBSTONE} THEN 'deleted' END
    WHEN t.completed_at IS NOT NULL
        THEN CASE WHEN {_before("bought", "greatest(t.completed_at, t.source_updated_at)")} THEN 'bought' END
    WHEN t.customer_external_id IS NULL AND {_before("anonymous")} THEN 'anonymous'
    WHEN t.customer_external_id IS NOT NULL AND {_before("customer")} THEN 'customer'
    -- An abandoned cart had items when it was found to be, and nothing has happened to it since.
    WHEN {_before("empty")} AND NOT ({_ABANDONED}) AND NOT EXISTS (SELECT FROM cart_items i
        WHERE i.store_id = t.store_id AND i.cart_external_id = t.external_id AND i.deleted_at IS NULL) THEN 'empty'
    END"""
_RULES = "LEFT JOIN cart_rules r ON r.store_id = t.store_id"
_OF_CART = ("store_id", "cart_external_id")
_CART = ("store_id", "external_id")
_PERSONAL = "- 'email' - 'phone' - 'customer_external_id'"

_ABANDON = f"""
    WITH chosen AS MATERIALIZED (
        SELECT t.store_id, t.external_id, {{place}} FROM carts t {_RULES}
        WHERE {{span}} AND {{also}} AND t.deleted_at IS NULL AND t.completed_at IS NULL AND {_NO_MONEY}
            AND {_before("abandon")} AND (t.abandoned_at IS NULL OR t.abandoned_at < t.source_updated_at)
            AND EXISTS (SELECT FROM cart_items i
                WHERE i.store_id = t.store_id AND i.cart_external_id = t.external_id AND i.deleted_at IS NULL)
        {{lock}}
    )"""
_MARK = """,
    marked AS (
        UPDATE carts t SET abandoned_at = statement_timestamp() FROM chosen c WHERE {same} RETURNING c.store_id, c.external_id
    ),
    recorded AS (
        INSERT INTO cart_events (store_id, cart_external_id, kind, happened_at)
        SELECT store_id, external_id::text, 'cart.abandoned', statement_timestamp() FROM marked
    ),
    released AS (
        DELETE FROM inventory_reservations h USING marked m
        WHERE h.store_id = m.store_id AND h.cart_external_id = m.external_id
        RETURNING pg_column_size(h.*) AS bytes, h.quantity
    )
    SELECT (SELECT count(*) FROM marked), (SELECT count(*) FROM released), (SELECT sum(bytes) FROM released),
        (SELECT sum(quantity) FROM released)"""


class CartSweep(RowSweep):
    """Deletes expired carts, then marks the abandoned ones and releases what they hold back."""

    def clean(self, connection: Connection, span: Span) -> Counter[str]:
        figures = super().clean(connection, span)
        row = connection.execute(
            self._abandon(span, self.not_set_aside(), "FOR UPDATE OF t SKIP LOCKED")
            + _MARK.format(same=self.same),
            {**self.values(), **span.parameters},
        ).fetchone()
        assert row is not None
        marked, released, size, _ = row
        figures["carts.abandoned"] += marked
        figures["inventory_reservations.rows"] += released
        figures["inventory_reservations.bytes"] += size or 0
        return +figures

    def count(self, connection: Connection, span: Span) -> Counter[str]:
        figures = super().count(connection, span)
        row = connection.execute(
            f"{self._abandon(span)} SELECT count(*), (SELECT count(*) FROM inventory_reservations h JOIN chosen c "
            "ON h.store_id = c.store_id AND h.cart_external_id = c.external_id) FROM chosen",
            {**self.values(), **span.parameters},
            prepare=False,
        ).fetchone()
        assert row is not None
        figures["carts.abandoned"] += row[0]
        figures["inventory_reservations.rows"] += row[1]
        return +figures

    def chosen(self, connection: Connection, span: Span) -> list[tuple[str, ...]]:
        deleted = super().chosen(connection, span)
        marked = connection.execute(
            f"{self._abandon(span)} SELECT store_id::text, external_id::text FROM chosen",
            {**self.values(), **span.parameters},
            prepare=False,
        ).fetchall()
        return [*deleted, *marked]

    def _abandon(self, span: Span, also: str = f"({_KIND}) IS NULL", lock: str = "") -> str:
        return _ABANDON.format(place=self.place, span=span.condition, also=also, lock=lock)


def sweep(connection: Connection, table: str, keep: CartKeep, cipher: Cipher) -> RowSweep:
    """The sweep of one of `TABLES`. Raises IntegrationError (configuration) where it is not there."""
    relation = find(connection, table)
    if table == "carts":
        rows = _carts(keep, archives=keep.archive is not None or _any_store_archives(connection))
        return CartSweep(rows, relation, _axis(relation, rows.key), cipher)
    rows = replace(_LEFT_BEHIND[table], parameters={"abandon": keep.abandon})
    return RowSweep(rows, relation, _axis(relation, rows.key), cipher)


def _axis(relation: Relation, key: tuple[str, ...]) -> Axis:
    return Blocks(relation) if relation.has_blocks else Keys(relation, key)


def _any_store_archives(connection: Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM cart_rules WHERE archive IS NOT NULL LIMIT 1").fetchone())


def _carts(keep: CartKeep, *, archives: bool) -> Rows:
    return Rows(
        task="carts",
        table="carts",
        key=_CART,
        joins=f"{_RULES} CROSS JOIN LATERAL (SELECT {_KIND} AS kind) k",
        condition=f"{_NO_MONEY} AND k.kind IS NOT NULL",
        kind="k.kind",
        children=(
            Child("cart_items", _OF_CART, _CART),
            Child("inventory_reservations", _OF_CART, _CART),
        ),
        archive="coalesce(r.archive, %(archive)s)" if archives else None,
        archived=f"jsonb_build_object('kind', k.kind) || (to_jsonb(t) {_PERSONAL})",
        parameters={part.name: getattr(keep, part.name) for part in fields(keep)},
    )


_NO_CART = (
    "NOT EXISTS (SELECT FROM carts c WHERE c.store_id = t.store_id AND c.external_id = t.cart_external_id)"
)
_LEFT_BEHIND = {
    rows.table: rows
    for rows in (
        Rows(
            task="cart_items",
            table="cart_items",
            key=("store_id", "external_id"),
            condition=f"(t.synced_at < statement_timestamp() - {_GRACE} AND {_NO_CART}) "
            f"OR t.deleted_at < statement_timestamp() - {_TOMBSTONE}",
        ),
        Rows(
            task="inventory_reservations",
            table="inventory_reservations",
            key=("id",),
            # A bought cart's stock is the order's by now.
            condition=f"""(t.created_at < statement_timestamp() - {_GRACE} AND {_NO_CART})
                OR EXISTS (SELECT FROM carts c LEFT JOIN cart_rules r ON r.store_id = c.store_id
                    WHERE c.store_id = t.store_id AND c.external_id = t.cart_external_id
                    AND {_NO_MONEY.replace("t.", "c.")} AND (c.deleted_at IS NOT NULL
                        OR (c.completed_at IS NULL AND {_ABANDONED.replace("t.", "c.")})
                        OR {_before("abandon", "greatest(c.completed_at, c.source_updated_at)")}
                            AND c.completed_at IS NOT NULL))""",
        ),
        Rows(
            task="sessions",
            table="sessions",
            key=("id",),
            condition=f"""t.expires_at < statement_timestamp()
                OR (t.cart_external_id IS NOT NULL AND t.customer_external_id IS NULL
                    AND t.seen_at < statement_timestamp() - {_GRACE} AND {_NO_CART})""",
            kind="CASE WHEN t.expires_at < statement_timestamp() THEN 'expired' ELSE 'orphaned' END",
        ),
    )
}


class MoneyCart(NamedTuple):
    """A cart that would have expired, but for the money in it."""

    store_id: int
    external_id: str
    payment_state: str
    total: Decimal | None
    currency: str | None
    source_updated_at: str


def with_money(connection: Connection, keep: CartKeep) -> tuple[int, list[MoneyCart]]:
    """Carts with money in them that have been idle for longer than carts are kept: how many, and the oldest."""
    condition = (
        "t.payment_state IN ('pending', 'authorised', 'paid') AND t.source_updated_at < statement_timestamp() - "
        "CASE WHEN t.customer_external_id IS NULL THEN coalesce(r.anonymous, %(anonymous)s) "
        "ELSE coalesce(r.customer, %(customer)s) END"
    )
    values: dict[str, Any] = {"anonymous": keep.anonymous, "customer": keep.customer, "limit": REPORTED}
    row = connection.execute(f"SELECT count(*) FROM carts t {_RULES} WHERE {condition}", values).fetchone()
    assert row is not None
    with connection.cursor(row_factory=class_row(MoneyCart)) as cursor:
        cursor.execute(
            "SELECT t.store_id, t.external_id::text, t.payment_state, t.total, t.currency, t.source_updated_at::text "
            f"FROM carts t {_RULES} WHERE {condition} ORDER BY t.source_updated_at LIMIT %(limit)s",
            values,
        )
        return int(row[0]), cursor.fetchall()
