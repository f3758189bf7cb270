"""One shop's carts and checkouts, as far as webhooks tell of them: no API of the vendor's lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.seed import digest
from bg_pipelines.sandbox.shopify.money import units_of
from bg_pipelines.sandbox.shopify.store import tell_nobody
from bg_pipelines.sandbox.shopify.table import Table

FIRST_NUMBER = 40_000_000_000_000
STEP = 32


class BasketLine(NamedTuple):
    """What lies in it, as it was when it was put there."""

    variant: Node
    product: Node
    quantity: int
    units: int


def line_of(variant: Node, quantity: int, currency: str) -> BasketLine:
    return BasketLine(dict(variant), dict(variant["product"]), quantity, units_of(variant["price"], currency))


class Baskets:
    """Rows by their token. `tell` is as the store's."""

    def __init__(self, index: int, domain: str, clock: Clock) -> None:
        self.clock = clock
        self.carts = Table()
        self.checkouts = Table()
        self.tell: Callable[[str, Node], None] = tell_nobody
        self._domain = domain
        self._first_number = FIRST_NUMBER + index * 1_000_000_000
        self._made = 0

    def new_token(self, kind: str) -> str:
        return digest(self._domain, kind, self._made + 1)

    def put_cart(self, token: str, lines: Sequence[BasketLine] | None, fields: Node) -> Node:
        """Make a cart, or change the one that has this token; None leaves its lines as they are."""
        return self._put(self.carts, "carts", token, lines, {"note": None}, fields)

    def put_checkout(self, token: str, lines: Sequence[BasketLine] | None, fields: Node) -> Node:
        """Make a checkout, or change the one that has this token; `customer` is a row."""
        empty = dict.fromkeys(("cartToken", "customer", "email", "phone", "completedAt", "note"))
        return self._put(self.checkouts, "checkouts", token, lines, empty, fields)

    def delete_checkout(self, row: Node) -> None:
        self.checkouts.remove(row["id"])
        self.tell("checkouts/delete", row)

    def _put(
        self,
        table: Table,
        kind: str,
        token: str,
        lines: Sequence[BasketLine] | None,
        empty: Node,
        fields: Node,
    ) -> Node:
        at, row = self.clock.stamp(), table.get(token)
        topic = f"{kind}/{'create' if row is None else 'update'}"
        if row is None:
            self._made += 1
            number = self._first_number + self._made * STEP
            row = {"id": token, "_key": (number,), "_lines": (), **empty, "createdAt": at}
        row.update(fields, updatedAt=at)
        if lines is not None:
            row["_lines"] = tuple(lines)
        table.put(row)
        self.tell(topic, row)
        return row


def show_basket(row: Node) -> Node:
    lines = [
        {"variantId": line.variant["id"], "quantity": line.quantity, "price": line.variant["price"]}
        for line in row["_lines"]
    ]
    customer = row.get("customer")
    told = {} if "customer" not in row else {"customer": customer and {"id": customer["id"]}}
    return {"token": row["id"], **shown(row), **told, "lines": lines}
