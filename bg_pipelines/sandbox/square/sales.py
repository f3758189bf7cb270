"""An order's lines and sums, made from its number whenever it is shown: an order that nobody reads costs little.

What it makes depends on the seed and the number alone, never on what became of the catalogue since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.values import money, opaque_id, show_time

# Name, percentage, and whether it is in the price already.
TAXES = {
    "US": ("Sales Tax", "8.875", "ADDITIVE"),
    "CA": ("HST", "13", "ADDITIVE"),
    "JP": ("消費税", "10", "INCLUSIVE"),
    "DE": ("MwSt.", "19", "INCLUSIVE"),
    "GB": ("VAT", "20", "INCLUSIVE"),
    "AU": ("GST", "10", "INCLUSIVE"),
    "BH": ("VAT", "10", "INCLUSIVE"),
}
# Where tax that is in the price is taken out of gross sales; elsewhere it stays in.
GROSS_WITHOUT_TAX = frozenset(["US", "CA", "JP"])
DISCOUNTS = (("Staff", "10"), ("Summer sale", "25"), ("Loyalty ❤", "12.5"))
LINES, LINE_WEIGHTS = (1, 2, 3, 4, 7), (40, 30, 15, 10, 5)
TENDERS, TENDER_WEIGHTS = ("CARD", "CASH", "OTHER"), (70, 25, 5)


class Ware(NamedTuple):
    """A variation as it was first sold."""

    id: str
    version: int
    item: str
    name: str
    price: int


@dataclass(slots=True)
class Order:
    """What a search needs to know of an order. `version` is None for orders that no API made, as at the vendor;
    `lines` is how many it has where that is not left to the number; `returned` is what a return order holds."""

    id: str
    number: int
    location_id: str
    customer_id: str | None
    state: str
    created: int
    updated: int
    closed: int | None
    source: str | None
    version: int | None = None
    lines: int | None = None
    returned: Node | None = None
    refunded: bool = False


@dataclass(frozen=True)
class Till:
    """What the orders of a merchant have in common."""

    merchant_id: str
    country: str
    currency: str
    wares: Sequence[Ware]
    roll: Callable[[int], Random]

    def money(self, amount: int) -> Node:
        return money(amount, self.currency)

    def amounts(self, total: int, tax: int, discount: int, tip: int) -> Node:
        return {
            "total_money": self.money(total),
            "tax_money": self.money(tax),
            "discount_money": self.money(discount),
            "tip_money": self.money(tip),
            "service_charge_money": self.money(0),
        }


def show_order(till: Till, order: Order) -> Node:
    shown: Node = {"id": order.id, "location_id": order.location_id}
    optional = {"customer_id": order.customer_id, "version": order.version}
    shown |= {name: value for name, value in optional.items() if value is not None}
    if order.source is not None:
        shown["source"] = {"name": order.source}
    shown |= {
        "created_at": show_time(order.created),
        "updated_at": show_time(order.updated),
        "state": order.state,
    }
    if order.closed is not None:
        shown["closed_at"] = show_time(order.closed)
    return shown | (sale(till, order) if order.returned is None else order.returned)


def sale(till: Till, order: Order) -> Node:
    """Lines, taxes, discounts, sums and tenders. A sum is that of the lines, to the smallest unit."""
    random = till.roll(order.number)
    count = random.choices(LINES, LINE_WEIGHTS)[0] if order.lines is None else order.lines
    tax_name, rate, kind = TAXES[till.country]
    discount = random.choice(DISCOUNTS) if random.random() < 0.15 else None
    taxed = random.random() < 0.9
    lines, sums = [], {"tax": 0, "discount": 0, "total": 0}
    for place in range(count):
        line = line_of(till, random, order, place)
        gross = line["gross_sales_money"]["amount"]
        off = percent_of(gross, discount[1]) if discount else 0
        tax = 0
        if taxed:
            # What is in the price already is taken out of it, not added.
            share = float(rate) if kind == "ADDITIVE" else 100 * float(rate) / (100 + float(rate))
            tax = round((gross - off) * share / 100)
            line["applied_taxes"] = [{"uid": f"t{place}", "tax_uid": "tax", "applied_money": till.money(tax)}]
        if discount:
            line["applied_discounts"] = [
                {"uid": f"d{place}", "discount_uid": "discount", "applied_money": till.money(off)}
            ]
        total = gross - off + (tax if kind == "ADDITIVE" else 0)
        if kind == "INCLUSIVE" and till.country in GROSS_WITHOUT_TAX:
            line["gross_sales_money"] = till.money(gross - tax)
        line["total_tax_money"] = till.money(tax)
        line["total_discount_money"] = till.money(off)
        line["total_money"] = till.money(total)
        line["total_service_charge_money"] = till.money(0)
        lines.append(line)
        for name, amount in (("tax", tax), ("discount", off), ("total", total)):
            sums[name] += amount
    shown: Node = {"line_items": lines} if lines else {}
    if taxed and lines:
        shown["taxes"] = [
            {
                "uid": "tax",
                "name": tax_name,
                "percentage": rate,
                "type": kind,
                "applied_money": till.money(sums["tax"]),
                "scope": "ORDER",
            }
        ]
    if discount and lines:
        shown["discounts"] = [
            {
                "uid": "discount",
                "name": discount[0],
                "percentage": discount[1],
                "type": "FIXED_PERCENTAGE",
                "applied_money": till.money(sums["discount"]),
                "scope": "ORDER",
            }
        ]
    type_ = random.choices(TENDERS, TENDER_WEIGHTS)[0]
    tip = round(sums["total"] * random.choice((0.1, 0.15, 0.2))) if random.random() < 0.2 else 0
    paid = order.state == "COMPLETED"
    tip = tip if paid and type_ == "CARD" else 0
    total = sums["total"] + tip
    if paid:
        shown["tenders"] = [tender(till, order, type_, total, tip)]
    return shown | {
        "total_money": till.money(total),
        "total_tax_money": till.money(sums["tax"]),
        "total_discount_money": till.money(sums["discount"]),
        "total_tip_money": till.money(tip),
        "total_service_charge_money": till.money(0),
        "net_amounts": till.amounts(total, sums["tax"], sums["discount"], tip),
        "net_amount_due_money": till.money(total if order.state == "OPEN" else 0),
    }


def line_of(till: Till, random: Random, order: Order, place: int) -> Node:
    quantity = random.choices((1, 2, 3, 12), (70, 20, 8, 2))[0]
    custom = random.random() < 0.03 or not till.wares
    ware = None if custom else till.wares[int(random.random() * len(till.wares))]
    price = ware.price if ware else random.randint(100, 9000)
    line: Node = {"uid": opaque_id(21, order.id, place), "quantity": str(quantity)}
    if ware is None:
        # An amount typed at the till: it has no catalogue object, and often no name.
        line |= {"item_type": "CUSTOM_AMOUNT"}
    else:
        line |= {
            "catalog_object_id": ware.id,
            "catalog_version": ware.version,
            "name": ware.item,
            "variation_name": ware.name,
            "item_type": "ITEM",
        }
    if random.random() < 0.04:
        line["note"] = "engraved: “Für Oma” ♥"
    gross = price * quantity
    return line | {
        "base_price_money": till.money(price),
        "variation_total_price_money": till.money(gross),
        "gross_sales_money": till.money(gross),
    }


def tender(till: Till, order: Order, kind: str, total: int, tip: int) -> Node:
    shown: Node = {
        "id": opaque_id(24, order.id, "tender"),
        "location_id": order.location_id,
        "transaction_id": order.id,
        "created_at": show_time(order.closed if order.closed is not None else order.created),
        "amount_money": till.money(total),
        "type": kind,
    }
    if tip:
        shown["tip_money"] = till.money(tip)
    if order.customer_id is not None:
        shown["customer_id"] = order.customer_id
    if kind == "CARD":
        shown["card_details"] = {"status": "CAPTURED", "entry_method": "EMV"}
    if kind == "CASH":
        shown["cash_details"] = {
            "buyer_tendered_money": till.money(total),
            "change_back_money": till.money(0),
        }
    return shown


def return_of(till: Till, order: Order, return_id: str, at: int, lines: int | None) -> Node:
    """What a return order holds: the first `lines` of the sale's lines, or all and its tip."""
    sold = show_order(till, order)
    back = sold.get("line_items", [])[:lines]
    whole = len(back) == len(sold.get("line_items", []))
    tip = sold["total_tip_money"]["amount"] if whole else 0

    def summed(name: str) -> int:
        return sum(int(line[name]["amount"]) for line in back)

    total = summed("total_money") + tip
    tax, discount = summed("total_tax_money"), summed("total_discount_money")
    amounts = till.amounts(total, tax, discount, tip)
    nothing = till.money(0)
    return {
        "returns": [
            {
                "uid": opaque_id(21, return_id, "return"),
                "source_order_id": order.id,
                "return_line_items": [returned_line(line, return_id) for line in back],
                "return_amounts": amounts,
            }
        ],
        "return_amounts": amounts,
        "net_amounts": till.amounts(-total, -tax, -discount, -tip),
        "refunds": [
            {
                "id": opaque_id(24, return_id, "refund"),
                "location_id": order.location_id,
                "transaction_id": return_id,
                "tender_id": sold["tenders"][0]["id"],
                "created_at": show_time(at),
                "reason": "Returned goods",
                "amount_money": till.money(total),
                "status": "APPROVED",
            }
        ],
        "total_money": nothing,
        "total_tax_money": nothing,
        "total_discount_money": nothing,
        "total_tip_money": nothing,
        "total_service_charge_money": nothing,
    }


def returned_line(line: Node, return_id: str) -> Node:
    kept = {name: value for name, value in line.items() if name not in {"uid", "gross_sales_money"}}
    return kept | {
        "uid": opaque_id(21, return_id, line["uid"]),
        "source_line_item_uid": line["uid"],
        "gross_return_money": line["gross_sales_money"],
    }


def percent_of(amount: int, percentage: str) -> int:
    return round(amount * float(percentage) / 100)
