"""How Shopify's older REST API writes things, whose shape webhooks have kept: plain numbers as ids, times in the shop's zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.ledger import Ledger
from bg_pipelines.sandbox.shopify.money import decimals_of
from bg_pipelines.sandbox.shopify.store import Store


class Rest:
    """One shop's way of writing. `ledger` is called when something of it is needed."""

    def __init__(self, store: Store, ledger: Callable[[], Ledger]) -> None:
        self.store = store
        self.ledger = ledger
        self.zone = ZoneInfo(store.shop["ianaTimezone"])
        self.currency: str = store.shop["currencyCode"]

    def time(self, stamp: str | None) -> str | None:
        """2026-11-18T11:06:40Z as 2026-11-18T06:06:40-05:00."""
        return None if stamp is None else datetime.fromisoformat(stamp).astimezone(self.zone).isoformat()


def number_of(row: Node | None) -> int | None:
    return None if row is None else int(row["_key"][-1])


def number_of_gid(row_id: str) -> int:
    return int(row_id.rpartition("/")[2])


def fixed(amount: str, currency: str) -> str:
    """An amount as these payloads have it: all decimals of its currency."""
    return f"{float(amount):.{decimals_of(currency)}f}"


def price_set(bag: Node) -> Node:
    return {
        "shop_money": money(bag["shopMoney"]),
        "presentment_money": money(bag["presentmentMoney"]),
    }


def money(amount: Node) -> Node:
    return {
        "amount": fixed(amount["amount"], amount["currencyCode"]),
        "currency_code": amount["currencyCode"],
    }


def shop_price(bag: Node) -> str:
    return str(money(bag["shopMoney"])["amount"])
