"""The pages of a shop's customers and orders: `answers(customers=)`, three orders each, two and a half lines an order.

A hundredth of the rows has changed: a search by time finds those, newer and with other content. A row is made of its
number alone, so that every run has the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.harness.page_server import Key, answer, cursor, rows
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES

PAGE_ROWS = PAGE_SIZES.rows
ORDERS_PER_CUSTOMER = 3
LINES = (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 5, 8)
"""How many lines orders have, one after the other: 50 in 20."""
CHANGED_EVERY = 100
SIZES = {
    "Customers": {"first": PAGE_ROWS, "addresses": PAGE_SIZES.addresses},
    "Orders": {"first": PAGE_ROWS, "lines": PAGE_SIZES.lines},
}
SCOPES = ("read_all_orders", "write_customers", "read_orders", "write_inventory")

LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
NOW = "2026-06-01T08:00:00Z"
NAMES = (
    ("Ana", "Okafor"),
    ("Chloé", "Müller"),
    ("さくら", "高橋"),
    ("João", "Nguyễn"),
    ("Анна", "Максимова"),
    ("Grace", None),
    (None, None),
    ("Zoë 🌻", "O’Neill"),
    ("Ben", "Van den Berg"),
    ("Robert'); DROP TABLE customers;--", "Smith"),
)
CITIES = (("Köln", "50667", "DE"), ("Lyon", "69002", "FR"), ("Graz", "8010", "AT"), ("Gent", "9000", "BE"))
STREETS = ("Ringstraße", "Rue de la République", "Long Lane", "Hauptplatz")
GOODS = (
    "Linen shirt",
    "Rain jacket with hood",
    "Wool socks, three pairs",
    "Espresso cup “Porto”",
    "Notebook A5",
)


def answers(*, customers: int) -> dict[Key, bytes]:
    """Every answer this shop can give."""
    orders = customers * ORDERS_PER_CUSTOMER
    ready: dict[Key, bytes] = {}
    for operation, count in (("Customers", customers), ("Orders", orders)):
        _add(ready, Key(operation), range(count), count)
        # Not each hundredth: those would all have as many lines.
        changed = [first + first // CHANGED_EVERY % len(LINES) for first in range(0, count, CHANGED_EVERY)]
        _add(ready, Key(operation, changed=True), changed, count)
    return ready


def _add(ready: dict[Key, bytes], key: Key, numbers: Sequence[int], count: int) -> None:
    make = customer if key.operation == "Customers" else order
    for first in range(0, len(numbers), PAGE_ROWS):
        nodes = [make(i, key.changed) for i in numbers[first : first + PAGE_ROWS]]
        following = cursor(first + PAGE_ROWS) if first + PAGE_ROWS < len(numbers) else None
        data: dict[str, Any] = {
            "count": {"count": count, "precision": "EXACT"},
            "rows": rows(nodes, following),
        }
        if key.operation == "Orders":
            data["app"] = {"accessScopes": [{"handle": scope} for scope in SCOPES]}
        ready[key._replace(cursor=cursor(first) if first else None)] = answer(data)


# Rows, each made of its number


def customer(i: int, changed: bool) -> dict[str, Any]:
    roll = _roll(i)
    first_name, last_name = NAMES[roll % len(NAMES)]
    created_at = _time(roll)
    count = (1, 1, 1, 1, 1, 1, 0, 2)[roll >> 4 & 7]
    addresses = [_address(i, n, first_name, last_name) for n in range(count)]
    asked = bool(roll >> 7 & 1)
    return {
        "id": _id("Customer", i),
        "firstName": first_name,
        "lastName": f"{last_name}-Neu" if changed and i // CHANGED_EVERY % 3 == 0 else last_name,
        "verifiedEmail": bool(roll >> 8 & 3),
        "tags": ["VIP", "newsletter", "été"][: roll >> 10 & 3] if roll >> 12 & 1 else [],
        "locale": "de",
        "note": "Rings twice.\nLeave at the back door 🚪" if roll >> 13 & 31 == 0 else None,
        "numberOfOrders": str((roll >> 5 & 7) + changed),
        "createdAt": created_at,
        "updatedAt": NOW if changed else _time(roll, days=30),
        "amountSpent": {"amount": _amount(roll % 90_000 + 2_500 * changed), "currencyCode": "EUR"},
        "defaultAddress": _default(addresses[0]) if addresses else None,
        "addressesV2": rows(addresses, None),
        "defaultEmailAddress": {
            "emailAddress": f"customer.{i}@example.{'com' if roll >> 6 & 1 else 'org'}",
            "marketingState": "SUBSCRIBED" if asked else "NOT_SUBSCRIBED",
            "marketingUpdatedAt": created_at if asked else None,
            "sourceLocation": {"id": _id("Location", roll & 3)} if asked and roll >> 9 & 7 == 0 else None,
        }
        if roll >> 14 & 15
        else None,
        "defaultPhoneNumber": {
            "phoneNumber": f"+49151{roll % 10**8:08d}",
            "marketingState": "PENDING" if asked else "NOT_SUBSCRIBED",
            "marketingUpdatedAt": created_at if asked else None,
            "marketingCollectedFrom": "SHOPIFY" if asked else None,
            "sourceLocation": None,
        }
        if roll >> 18 & 3
        else None,
    }  # fmt: skip


def _default(address: dict[str, Any]) -> dict[str, Any]:
    return {"id": address["id"], "company": address["company"], "countryCodeV2": address["country_code"]}


def _address(i: int, n: int, first_name: str | None, last_name: str | None) -> dict[str, Any]:
    roll = _roll(2 * i + n)
    city, postal_code, country = CITIES[roll & 3]
    return {
        "id": f"{_id('MailingAddress', 2 * i + n)}?model_name=CustomerAddress",
        "first_name": first_name,
        "last_name": last_name,
        "company": "Acme ĿȚĐ" if roll >> 2 & 15 == 0 else None,
        "address_1": f"{STREETS[roll >> 6 & 3]} {roll >> 8 & 255}",
        "address_2": f"Flat {roll >> 9 & 31}" if roll >> 7 & 3 == 0 else None,
        "city": city,
        "province_code": None,
        "postal_code": postal_code,
        "country_code": country,
        "phone": f"+49221{roll % 10**7:07d}" if roll & 1 else None,
    }


def order(i: int, changed: bool) -> dict[str, Any]:
    roll = _roll(i)
    buyer = roll % (i // ORDERS_PER_CUSTOMER + 1)
    at = _time(roll)
    retail = roll >> 5 & 3 == 0
    done = changed or bool(roll >> 7 & 3)
    refunded = changed or roll >> 9 & 15 == 0
    lines = [_line(i, n, changed) for n in range(LINES[i % len(LINES)])]
    total = roll % 40_000
    return {
        "id": _id("Order", i),
        "name": f"#{1001 + i}",
        "createdAt": at,
        "updatedAt": NOW if changed else _time(roll, days=30),
        "processedAt": at,
        "cancelledAt": at if roll >> 13 & 31 == 0 else None,
        "cancelReason": "CUSTOMER" if roll >> 13 & 31 == 0 else None,
        "closedAt": _time(roll, days=20) if done else None,
        "sourceName": "pos" if retail else "web",
        "test": False,
        "email": f"customer.{buyer}@example.com" if roll >> 18 & 7 else None,
        "phone": f"+49151{roll % 10**8:08d}" if roll >> 18 & 3 == 0 else None,
        "note": "Bitte klingeln 🔔" if changed or roll >> 14 & 63 == 0 else None,
        "tags": ["gift", "phone order"][: roll >> 11 & 3] if roll >> 8 & 3 == 0 else [],
        "currencyCode": "EUR",
        "displayFinancialStatus": "PARTIALLY_REFUNDED" if refunded else "PAID",
        "displayFulfillmentStatus": "FULFILLED" if done else "UNFULFILLED",
        "customer": {"id": _id("Customer", buyer)} if roll >> 19 & 31 else None,
        "retailLocation": {"id": _id("Location", roll & 3)} if retail else None,
        "subtotalPriceSet": _money(total),
        "totalDiscountsSet": _money(total // 10 if roll >> 4 & 7 == 0 else 0),
        "totalTaxSet": _money(total * 19 // 119),
        "totalPriceSet": _money(total),
        "currentTotalPriceSet": _money(total),
        "refunds": [_refund(i)] if refunded else [],
        "lineItems": rows(lines, None),
    }


def _line(order_number: int, n: int, changed: bool) -> dict[str, Any]:
    number = 8 * order_number + n
    roll = _roll(number)
    cents, quantity = 500 + roll % 15_000, (1, 1, 1, 2)[roll >> 3 & 3]
    there = roll >> 14 & 31 != 0
    return {
        "id": _id("LineItem", number),
        "title": GOODS[roll % len(GOODS)],
        "variantTitle": ("Small / Ink", "Medium / Oat", "Large / Moss", None)[roll >> 5 & 3],
        "sku": f"SKU-{roll % 20_000:07d}" if roll >> 7 & 15 else None,
        "quantity": quantity,
        "currentQuantity": quantity - 1 if changed and n == 0 else quantity,
        "product": {"id": _id("Product", roll % 4_000)} if there else None,
        "variant": {"id": _id("ProductVariant", roll % 20_000)} if there else None,
        "originalUnitPriceSet": _money(cents),
        "totalDiscountSet": _money(0),
        "discountedTotalSet": _money(cents * quantity),
    }


def _refund(order_number: int) -> dict[str, Any]:
    roll = _roll(order_number)
    return {
        "id": _id("Refund", order_number),
        "note": "Too small" if roll & 1 else None,
        "createdAt": _time(roll, days=25),
        "processedAt": _time(roll, days=25),
        "totalRefundedSet": _money(500 + roll % 2_000),
    }


def _roll(i: int) -> int:
    """A number below 2^24 that looks like chance."""
    return (i * 2_654_435_761 + 12_345 >> 8) & 0xFF_FFFF


def _id(kind: str, i: int) -> str:
    return f"gid://shopify/{kind}/{7_000_000_000_000 + 37 * i}"


def _time(roll: int, days: int = 0) -> str:
    return f"{LONG_AGO + timedelta(days=days, seconds=roll * 2):%Y-%m-%dT%H:%M:%SZ}"


def _amount(cents: int) -> str:
    return str(cents / 100)


def _money(cents: int) -> dict[str, Any]:
    return {"shopMoney": {"amount": _amount(cents)}}
