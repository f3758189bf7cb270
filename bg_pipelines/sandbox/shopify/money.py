"""Amounts of money as the vendor writes them. Equal ones are shared: a shop's orders hold few different amounts.

Amounts are whole numbers of a currency's smallest unit. The vendor drops zeros at the end but keeps one digit:
12.5 USD is "12.5", 3 USD is "3.0", 980 JPY is "980.0".
"""

from __future__ import annotations

from bg_pipelines.sandbox.rows import Node

DECIMALS = {"JPY": 0, "BHD": 3, "KWD": 3}
PER_DOLLAR = {
    "AUD": 1.5,
    "BHD": 0.377,
    "CAD": 1.36,
    "EUR": 0.92,
    "GBP": 0.79,
    "JPY": 150.0,
    "SEK": 10.5,
    "USD": 1.0,
}


def decimals_of(currency: str) -> int:
    return DECIMALS.get(currency, 2)


def text_of(units: int, currency: str) -> str:
    decimals = decimals_of(currency)
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{str(part).zfill(decimals).rstrip('0') or '0'}"


def scale_of(currency: str) -> float:
    return float(10 ** decimals_of(currency))


def units_of(text: str, currency: str) -> int:
    return round(float(text) * scale_of(currency))


def converted(units: int, currency: str, other: str) -> int:
    dollars = units / scale_of(currency) / PER_DOLLAR[currency]
    return round(dollars * PER_DOLLAR[other] * scale_of(other))


class Money:
    """The amounts of one shop. Nodes are shared, so nobody may change one."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self._amounts: dict[tuple[int, str], Node] = {}
        self._bags: dict[tuple[int, str], Node] = {}

    def amount(self, units: int, currency: str | None = None) -> Node:
        """A MoneyV2."""
        key = (units, currency or self.currency)
        known = self._amounts.get(key)
        if known is None:
            known = self._amounts[key] = {"amount": text_of(*key), "currencyCode": key[1]}
        return known

    def bag(self, units: int, presentment: str) -> Node:
        """A MoneyBag: what the shop books, and what the customer saw in `presentment`."""
        key = (units, presentment)
        known = self._bags.get(key)
        if known is None:
            shown = units if presentment == self.currency else converted(units, self.currency, presentment)
            known = self._bags[key] = {
                "shopMoney": self.amount(units),
                "presentmentMoney": self.amount(shown, presentment),
            }
        return known
