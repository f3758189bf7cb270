"""One shop's customers and orders, and changes that keep them consistent.

Rows refer to each other directly (`order["customer"]` is the customer's row). What is null may be missing from a
row, and an order's lines and refunds are kept short, for a shop may have many; `views` spells them out.
An order that is placed, cancelled or refunded makes its customer newer, as at the vendor; its tags do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.money import Money
from bg_pipelines.sandbox.shopify.store import Store, gid, tell_nobody
from bg_pipelines.sandbox.shopify.table import Table

KINDS = ("Customer", "MailingAddress", "Order", "LineItem", "Refund", "RefundLineItem", "BulkOperation")
NUMBERS_PER_KIND = 200_000_000
STEP = 32
FIRST_ORDER = 1001
CONSENT_TOPICS = {
    "defaultEmailAddress": "customers_email_marketing_consent/update",
    "defaultPhoneNumber": "customers_marketing_consent/update",
}
PAID = frozenset({"PAID", "PARTIALLY_PAID", "PARTIALLY_REFUNDED", "REFUNDED"})
CUSTOMER_NULLABLE = (
    "firstName",
    "lastName",
    "defaultEmailAddress",
    "defaultPhoneNumber",
    "defaultAddress",
    "note",
    "lastOrder",
)
ORDER_NULLABLE = (
    "customer",
    "email",
    "phone",
    "note",
    "retailLocation",
    "cancelledAt",
    "cancelReason",
    "closedAt",
)


class Good(NamedTuple):
    """What is sold, as it was when the shop was made: a line keeps its title though the product goes away."""

    product_id: str
    variant_id: str
    title: str
    variant_title: str | None
    sku: str | None
    vendor: str
    units: int


class Line(NamedTuple):
    """One line of an order; `discount` is per piece."""

    good: Good
    quantity: int
    discount: int = 0

    @property
    def price(self) -> int:
        return self.good.units - self.discount


class Refunded(NamedTuple):
    """How many pieces of which line were given back, and for how much."""

    number: int
    line: int
    quantity: int
    subtotal: int
    tax: int


class Ledger:
    """The customers and orders of one shop. `first_number` is where their ids start; `tell` is as the store's."""

    def __init__(self, store: Store, clock: Clock, first_number: int) -> None:
        self.store = store
        self.clock = clock
        self.money = Money(store.shop["currencyCode"])
        self.customers = Table()
        self.orders = Table()
        self.tell: Callable[[str, Node], None] = tell_nobody
        self._first_number = first_number
        self._made: dict[str, int] = defaultdict(int)

    def number(self, kind: str, count: int = 1) -> int:
        """The next number of a kind; with `count`, the first of so many, each a STEP further."""
        first = self._first_number + KINDS.index(kind) * NUMBERS_PER_KIND + (self._made[kind] + 1) * STEP
        self._made[kind] += count
        return first

    # Customers

    def add_customer(self, fields: Node, *, at: str) -> Node:
        number = self.number("Customer")
        row: Node = {
            "id": gid("Customer", number),
            "_key": (number,),
            "_addresses": [],
            "_orders": [],
            "displayName": "",
            "tags": [],
            "locale": "en",
            "state": "DISABLED",
            "taxExempt": False,
            "verifiedEmail": False,
            "dataSaleOptOut": False,
            "numberOfOrders": "0",
            "amountSpent": self.money.amount(0),
            "createdAt": at,
            "updatedAt": at,
        }
        self._write_customer(row, fields, at)
        self.customers.put(row)
        self.tell("customers/create", row)
        return row

    def add_address(self, customer: Node, fields: Node) -> Node:
        number = self.number("MailingAddress")
        row = {"id": gid("MailingAddress", number), "_key": (number,), **fields}
        customer["_addresses"].append(row)
        customer.setdefault("defaultAddress", row)
        return row

    def update_customer(self, customer: Node, fields: Node) -> None:
        """`fields` has the vendor's names, but `email` and `phone` are texts; their consent stays as it was."""
        at = self.clock.stamp()
        self._write_customer(customer, fields, at)
        self._touch_customer(customer, at)

    def _write_customer(self, row: Node, fields: Node, at: str) -> None:
        for name, value in fields.items():
            if name == "email":
                set_contact(row, "defaultEmailAddress", "emailAddress", value)
            elif name == "phone":
                set_contact(row, "defaultPhoneNumber", "phoneNumber", value)
            elif name in {"emailMarketingState", "smsMarketingState"}:
                kind = "defaultEmailAddress" if name.startswith("email") else "defaultPhoneNumber"
                self.set_consent(row, kind, {"marketingState": value, "marketingUpdatedAt": at})
            elif value is None and name in CUSTOMER_NULLABLE:
                row.pop(name, None)
            else:
                row[name] = value
        row["displayName"] = display_name(row)

    def set_consent(self, customer: Node, kind: str, consent: Node) -> None:
        """Change what a customer agreed to; `kind` is defaultEmailAddress or defaultPhoneNumber."""
        if customer.get(kind) is not None:
            customer[kind] = customer[kind] | consent
            self.tell(CONSENT_TOPICS[kind], customer)
            self._touch_customer(customer, self.clock.stamp())

    def delete_customer(self, customer: Node) -> None:
        self.customers.remove(customer["id"])
        self.tell("customers/delete", customer)

    def redact_customer(self, customer: Node) -> None:
        """Take away all that says who it was; the id and the orders stay."""
        at = self.clock.stamp()
        for name in CUSTOMER_NULLABLE:
            if name != "lastOrder":
                customer.pop(name, None)
        customer.update(displayName="", tags=[], _addresses=[], verifiedEmail=False, state="DISABLED")
        for order in customer["_orders"]:
            for name in ("email", "phone", "note"):
                order.pop(name, None)
            self._touch_order(order, at)
        self._touch_customer(customer, at)

    def merge_customers(self, customer: Node, into: Node) -> None:
        """Give the orders and addresses of one customer to another one, who stays; the first is gone."""
        at = self.clock.stamp()
        for order in customer["_orders"]:
            order["customer"] = into
            self._touch_order(order, at)
        into["_orders"] = sorted([*into["_orders"], *customer["_orders"]], key=lambda order: order["_key"])
        into["_addresses"] += customer["_addresses"]
        into["tags"] = sorted({*into["tags"], *customer["tags"]})
        for name in CUSTOMER_NULLABLE:
            if customer.get(name) is not None:
                into.setdefault(name, customer[name])
        into["displayName"] = display_name(into)
        self.delete_customer(customer)
        self.recount(into)
        self._touch_customer(into, at)

    def recount(self, customer: Node) -> None:
        """What a customer bought in all; test orders do not count."""
        counted = [order for order in customer["_orders"] if not order["test"]]
        spent = sum(order["_left"] for order in counted if order["displayFinancialStatus"] in PAID)
        customer["numberOfOrders"] = str(len(counted))
        customer["amountSpent"] = self.money.amount(spent)
        if customer["_orders"]:
            customer["lastOrder"] = customer["_orders"][-1]

    def _touch_customer(self, customer: Node, at: str) -> None:
        customer["updatedAt"] = max(at, customer["updatedAt"])
        self.customers.touched()
        self.tell("customers/update", customer)

    # Orders

    def add_order(
        self, fields: Node, lines: Sequence[Line], *, at: str, tax_percent: int = 0, recount: bool = True
    ) -> Node:
        """`fields` are the vendor's, `customer` and `retailLocation` are rows. All totals are made of the lines."""
        number = self.number("Order")
        place = FIRST_ORDER + self._made["Order"] - 1
        presentment = fields.get("presentmentCurrencyCode", self.money.currency)
        subtotal = sum(line.price * line.quantity for line in lines)
        tax = subtotal * tax_percent // 100
        discounts = sum(line.discount * line.quantity for line in lines)
        row: Node = {
            "id": gid("Order", number),
            "_key": (number,),
            "_lines": tuple(lines),
            "_first_line": self.number("LineItem", max(1, len(lines))),
            "_refunds": (),
            "_total": subtotal + tax,
            "_tax": tax,
            "_left": subtotal + tax,
            "name": f"#{place}",
            "number": place,
            "currencyCode": self.money.currency,
            "presentmentCurrencyCode": presentment,
            "displayFinancialStatus": "PAID",
            "displayFulfillmentStatus": "UNFULFILLED",
            "subtotalPriceSet": self.money.bag(subtotal, presentment),
            "totalTaxSet": self.money.bag(tax, presentment),
            "totalDiscountsSet": self.money.bag(discounts, presentment),
            "totalPriceSet": self.money.bag(subtotal + tax, presentment),
            "currentTotalPriceSet": self.money.bag(subtotal + tax, presentment),
            "totalRefundedSet": self.money.bag(0, presentment),
            "sourceName": "web",
            "tags": [],
            "test": False,
            "processedAt": at,
            "createdAt": at,
            "updatedAt": at,
            **{name: value for name, value in fields.items() if value is not None},
        }
        self.orders.put(row)
        self.tell("orders/create", row)
        customer = row.get("customer")
        if customer is not None:
            customer["_orders"].append(row)
            if recount:
                self.recount(customer)
            self._touch_customer(customer, at)
        return row

    def update_order(self, order: Node, fields: Node, *, at: str | None = None) -> None:
        for name, value in fields.items():
            if value is None:
                order.pop(name, None)
            else:
                order[name] = value
        if "displayFinancialStatus" in fields and order.get("customer") is not None:
            self.recount(order["customer"])
        self._touch_order(order, at or self.clock.stamp())

    def delete_order(self, order: Node) -> None:
        self.orders.remove(order["id"])
        self.tell("orders/delete", order)
        customer = order.get("customer")
        if customer is not None:
            customer["_orders"] = [one for one in customer["_orders"] if one is not order]
            customer.pop("lastOrder", None)
            self.recount(customer)
            self._touch_customer(customer, self.clock.stamp())

    def cancel_order(self, order: Node, reason: str, *, at: str | None = None, recount: bool = True) -> None:
        """Cancel it and give back what was paid."""
        at = at or self.clock.stamp()
        if order["displayFinancialStatus"] in PAID:
            self.refund_order(order, self.refundable(order), at=at, recount=False)
        else:
            order["displayFinancialStatus"] = "VOIDED"
            self._set_left(order, 0)
        order.update(cancelledAt=at, cancelReason=reason, closedAt=at)
        self._order_changed(order, at, recount=recount)

    def refund_order(
        self, order: Node, quantities: dict[int, int], *, at: str | None = None, recount: bool = True
    ) -> Node:
        """Give back so many pieces by the line's place. With the last piece all that is left is given back."""
        at = at or self.clock.stamp()
        number = self.number("Refund")
        first = self.number("RefundLineItem", max(1, len(quantities)))
        subtotal_of_order = order["_total"] - order["_tax"]
        entries = []
        for place, (index, quantity) in enumerate(sorted(quantities.items())):
            subtotal = order["_lines"][index].price * quantity
            tax = order["_tax"] * subtotal // subtotal_of_order if subtotal_of_order else 0
            entries.append(Refunded(first + place * STEP, index, quantity, subtotal, tax))
        units = min(order["_left"], sum(entry.subtotal + entry.tax for entry in entries))
        if quantities == self.refundable(order):
            units = order["_left"]
        refund = {
            "_units": units,
            "id": gid("Refund", number),
            "_key": (number,),
            "_lines": tuple(entries),
            "order": order,
            "totalRefundedSet": self.money.bag(units, order["presentmentCurrencyCode"]),
            "processedAt": at,
            "createdAt": at,
            "updatedAt": at,
        }
        order["_refunds"] = (*order["_refunds"], refund)
        self._set_left(order, order["_left"] - units)
        refunded = sum(one["_units"] for one in order["_refunds"])
        order["totalRefundedSet"] = self.money.bag(refunded, order["presentmentCurrencyCode"])
        order["displayFinancialStatus"] = "PARTIALLY_REFUNDED" if order["_left"] else "REFUNDED"
        self._order_changed(order, at, recount=recount)
        return refund

    def edit_order(self, order: Node, quantities: dict[int, int]) -> None:
        """Staff take so many pieces off, by the line's place. What they cost is no longer due, and nothing is paid back.

        At the vendor too that is recorded as a refund of no money; `totalPriceSet` stays as it was.
        """
        at = self.clock.stamp()
        left, status, refunded = order["_left"], order["displayFinancialStatus"], order["totalRefundedSet"]
        is_all = quantities == self.refundable(order)
        order["_left"] = 0
        refund = self.refund_order(order, quantities, at=at, recount=False)
        worth = sum(entry.subtotal + entry.tax for entry in refund["_lines"])
        nothing = self.money.bag(0, order["presentmentCurrencyCode"])
        refund.update(_units=0, totalRefundedSet=nothing)
        order.update(displayFinancialStatus=status, totalRefundedSet=refunded)
        self._set_left(order, 0 if is_all else max(0, left - worth))
        self._order_changed(order, at, recount=True)

    def refundable(self, order: Node) -> dict[int, int]:
        """How many pieces of each line were not given back yet."""
        left = {index: line.quantity for index, line in enumerate(order["_lines"])}
        for refund in order["_refunds"]:
            for entry in refund["_lines"]:
                left[entry.line] -= entry.quantity
        return {index: quantity for index, quantity in left.items() if quantity}

    def _set_left(self, order: Node, units: int) -> None:
        order["_left"] = units
        order["currentTotalPriceSet"] = self.money.bag(units, order["presentmentCurrencyCode"])

    def _order_changed(self, order: Node, at: str, *, recount: bool) -> None:
        self._touch_order(order, at)
        customer = order.get("customer")
        if customer is not None:
            if recount:
                self.recount(customer)
            self._touch_customer(customer, at)

    def _touch_order(self, order: Node, at: str) -> None:
        order["updatedAt"] = max(at, order["updatedAt"])
        self.orders.touched()
        self.tell("orders/updated", order)


def set_contact(row: Node, kind: str, name: str, value: Any) -> None:
    """Write an e-mail address or a phone number (a text), or one with its consent (a dict)."""
    if value is None:
        row.pop(kind, None)
    elif isinstance(value, dict):
        row[kind] = value
    else:
        before = row.get(kind) or {
            "marketingState": "NOT_SUBSCRIBED",
            "marketingOptInLevel": None,
            "marketingUpdatedAt": None,
            "sourceLocation": None,
            **({"validFormat": True} if name == "emailAddress" else {"marketingCollectedFrom": None}),
        }
        row[kind] = before | {name: value}


def display_name(row: Node) -> str:
    """As the vendor says: the name, or else the e-mail address, or else the phone number."""
    names = [name for name in (row.get("firstName"), row.get("lastName")) if name]
    if names:
        return " ".join(names)
    email, phone = row.get("defaultEmailAddress"), row.get("defaultPhoneNumber")
    return str(email["emailAddress"] if email else phone["phoneNumber"] if phone else "")
