"""Square's rows as records, one function each; an invalid row raises, and becomes a reject with that reason.

A row whose state says that it does not exist (a deleted catalogue object, a draft) is returned as its id alone. Square
leaves out what is null. Money is a whole number of its currency's smallest unit; a quantity is a decimal text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bg_pipelines.platforms.phones import normalise
from bg_pipelines.platforms.rejects import NONSENSE, key_of, optional
from bg_pipelines.records import (
    Customer,
    InventoryLevel,
    Location,
    Order,
    OrderLine,
    Product,
    ProductVariant,
    Record,
    Refund,
    StoreProfile,
)
from bg_pipelines.wording import currency_digits

Node = dict[str, Any]

_WHOLE = re.compile(r"(-?[0-9]{1,18})(\.0*)?")
_STATUSES = {"OPEN": "open", "COMPLETED": "closed", "CANCELED": "cancelled"}
_ADDRESS = (
    ("first_name", "first_name"),
    ("last_name", "last_name"),
    ("address_1", "address_line_1"),
    ("address_2", "address_line_2"),
    ("city", "locality"),
    ("province_code", "administrative_district_level_1"),
    ("postal_code", "postal_code"),
    ("country_code", "country"),
)


class Sale(NamedTuple):
    """An order with its parts."""

    order: Order
    lines: list[OrderLine]
    refunds: list[Refund]


Converted = Record | Sale | str
"""A converted row: a record, an order with its parts, or the id of a deleted row."""


def decimal_text(amount: int, currency: str) -> str:
    """An amount in the smallest unit of its currency as decimal text: 1250 is 12.50 USD, 1250 JPY and 1.250 BHD."""
    digits = currency_digits(currency)
    if not digits:
        return str(amount)
    text = f"{abs(amount):0{digits + 1}d}"
    return f"{'-' if amount < 0 else ''}{text[:-digits]}.{text[-digits:]}"


def profile(merchant: Node, location: Node) -> StoreProfile:
    return StoreProfile(
        external_id=merchant["id"],
        shop_name=merchant.get("business_name") or location["name"],
        currency=merchant["currency"],
        timezone=location["timezone"],
        plan=None,
        source_updated_at=merchant["created_at"],
    )


def location(row: Node) -> Location:
    """Square has no change time of locations, and no word on whether one fulfils online orders."""
    external_id, created_at = key_of(row, "created_at")
    address, status = _object(row, "address"), row["status"]
    if status not in ("ACTIVE", "INACTIVE"):
        raise ValueError("status: is none that is known")
    return Location(
        external_id,
        created_at,
        row["name"],
        status == "ACTIVE",
        False,
        address.get("address_line_1"),
        address.get("locality"),
        address.get("administrative_district_level_1"),
        _country(address) or _country(row),
        address.get("postal_code"),
    )


def product(categories: Mapping[str, str], row: Node) -> Product | str:
    """`categories` are names by id. Square does not tell when an item was made."""
    external_id, updated_at = key_of(row, "updated_at")
    if _truth(row, "is_deleted"):
        return external_id
    item = row["item_data"]
    category = _text(_object(item, "reporting_category"), "id")
    return Product(
        external_id,
        updated_at,
        item["name"],
        external_id,
        "ARCHIVED" if _truth(item, "is_archived") else "ACTIVE",
        "",
        categories.get(category, "") if category else "",
        [],
        updated_at,
    )


def variant(shop_currency: str, row: Node) -> ProductVariant | str:
    external_id, updated_at = key_of(row, "updated_at")
    if _truth(row, "is_deleted"):
        return external_id
    data = row["item_variation_data"]
    # What is typed at the till has no price of its own.
    variable = data.get("pricing_type") == "VARIABLE_PRICING"
    price, currency = (None, shop_currency) if variable else _money(data, "price_money")
    return ProductVariant(
        external_id,
        updated_at,
        data["item_id"],
        external_id,
        _text(data, "name") or "",
        data.get("sku"),
        data.get("upc"),
        data.get("ordinal", 0),
        price,
        None,
        currency,
    )


def level(row: Node) -> InventoryLevel:
    """The pieces in stock; what is promised or on its way is counted in states that are not asked for."""
    item, place, calculated_at = (
        _id(row, name) for name in ("catalog_object_id", "location_id", "calculated_at")
    )
    if row["state"] != "IN_STOCK":
        raise ValueError("state: is not the one that was asked for")
    quantity = row["quantity"]
    whole = _WHOLE.fullmatch(quantity) if isinstance(quantity, str) else None
    if whole is None:
        raise ValueError("quantity: is not a whole number of pieces; stock that is weighed cannot be held")
    pieces = int(whole[1])
    return InventoryLevel(f"{item}@{place}", calculated_at, item, place, pieces, pieces, 0, 0)


def customer(merchant_country: str | None, row: Node) -> Customer:
    """Phone numbers are read as national ones of the address's country, or of the merchant's where it has none."""
    external_id, updated_at = key_of(row, "updated_at")
    address = _object(row, "address")
    country = _country(address)
    kept = {name: _text(address, theirs) for name, theirs in _ADDRESS if address.get(theirs) is not None}
    if country is None:
        kept.pop("country_code", None)
    phone, phone_given = normalise(_text(row, "phone_number"), country or merchant_country)
    unsubscribed = _truth(_object(row, "preferences"), "email_unsubscribed")
    return Customer(
        external_id=external_id,
        source_updated_at=updated_at,
        first_name=row.get("given_name"),
        last_name=row.get("family_name"),
        company=row.get("company_name"),
        email=row.get("email_address"),
        email_verified=False,  # Square does not verify them
        phone=phone,
        phone_given=phone_given,
        addresses=json.dumps([kept] if kept else [], ensure_ascii=False),
        tags=[],
        locale=None,
        note=row.get("note"),
        # Square tells who has unsubscribed; of the others it does not say that they ever agreed.
        email_consent="unsubscribed" if unsubscribed else None,
        email_consent_at=None,
        email_consent_source=None,
        sms_consent=None,
        sms_consent_at=None,
        sms_consent_source=None,
        orders_count=None,
        total_spent=None,
        currency=None,
        source_created_at=row["created_at"],
    )


def sale(row: Node) -> Sale | str:
    """An order; a draft is none yet. One without lines that has returns is a return, and names the sale it is of."""
    external_id, updated_at = key_of(row, "updated_at")
    state = row["state"]
    if state == "DRAFT":
        return external_id
    if not isinstance(state, str) or state not in _STATUSES:
        raise ValueError("state: is none that is known")
    total, currency = _money(row, "total_money")
    sold, tenders = _objects(row, "line_items"), _objects(row, "tenders")
    lines = [_line(external_id, updated_at, place, line) for place, line in enumerate(sold)]
    refunds = _refunds(row, external_id, updated_at)
    tender = tenders[0] if tenders else {}
    shipped = {_text(one, "state") or "" for one in _objects(row, "fulfillments")}
    closed_at = row.get("closed_at")
    order = Order(
        external_id=external_id,
        source_updated_at=updated_at,
        # A receipt's number is how the payment's id begins.
        name=_text(row, "ticket_name") or f"#{(_text(tender, 'id') or external_id)[:4]}",
        customer_external_id=_text(row, "customer_id") or _text(tender, "customer_id"),
        location_external_id=row["location_id"],
        channel=_object(row, "source").get("name"),
        status=_STATUSES[state],
        financial_status=None,
        fulfillment_status=shipped.pop().lower() if len(shipped) == 1 else None,
        is_return=not lines and bool(refunds or _objects(row, "returns")),
        is_test=False,
        currency=currency,
        subtotal=_subtotal(sold, currency),
        discount=_optional_money(row, "total_discount_money"),
        tax=_optional_money(row, "total_tax_money"),
        total=total,
        current_total=None,  # what comes back is an order of its own
        email=None,
        phone=None,
        note=None,
        tags=[],
        ordered_at=row["created_at"],
        cancelled_at=closed_at if state == "CANCELED" else None,
        cancel_reason=None,
        closed_at=closed_at,
        source_created_at=row["created_at"],
    )
    return Sale(order, lines, refunds)


def _line(order: str, updated_at: str, place: int, line: Node) -> OrderLine:
    """A line's own id is unique within its order alone. Its quantity stays: what comes back is an order of its own."""
    try:
        unit_price, currency = _money(line, "base_price_money")
        gross, discount = _amount(line, "gross_sales_money"), _amount(line, "total_discount_money")
        uid, quantity = line["uid"], line["quantity"]
        if not _is_text(uid):
            raise ValueError("uid: must be a text and is not")
        return OrderLine(
            external_id=f"{order}/{uid}",
            source_updated_at=updated_at,
            order_external_id=order,
            product_external_id=None,
            variant_external_id=line.get("catalog_object_id"),
            title=_text(line, "name") or (_text(line, "item_type") or "item").replace("_", " ").capitalize(),
            variant_title=line.get("variation_name"),
            sku=None,
            quantity=quantity,
            current_quantity=quantity,
            unit_price=unit_price,
            discount=decimal_text(discount, currency),
            total=decimal_text(gross - discount, currency),
            currency=currency,
        )
    except NONSENSE as error:
        raise ValueError(f"line_items[{place}].{_fault(error)}") from None


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]}: missing from the answer"
    return str(error) if isinstance(error, ValueError) else "a field: is not of the kind that it must be"


def _refunds(row: Node, order: str, updated_at: str) -> list[Refund]:
    """What came back, at what it was worth, by the sale it was of; else the money that was paid back for no goods.

    Nothing did where the return was cancelled, or no refund of it went through.
    """
    tried, returns = _objects(row, "refunds"), _objects(row, "returns")
    paid = [one for one in tried if _text(one, "status") not in ("REJECTED", "FAILED")]
    if (returns and row["state"] == "CANCELED") or (tried and not paid):
        return []
    note = next((one["reason"] for one in paid if one.get("reason")), None)
    at = (paid[0].get("created_at") if paid else None) or row.get("closed_at") or row["created_at"]
    found = []
    for one in returns:
        # Of a single return the sum may stand with the order alone.
        amounts = _object(one, "return_amounts") or (row["return_amounts"] if len(returns) == 1 else {})
        amount, currency = _money(amounts, "total_money")
        sale_id = one.get("source_order_id")
        found.append(
            Refund(f"{order}/{_id(one, 'uid')}", updated_at, order, sale_id, amount, currency, note, at)
        )
    if returns:
        return found
    sale_id = order if _objects(row, "line_items") else None
    for one in paid:
        amount, currency = _money(one, "amount_money")
        values = (amount, currency, one.get("reason"), one.get("created_at") or at)
        found.append(Refund(f"{order}/{_id(one, 'id')}", updated_at, order, sale_id, *values))
    return found


def _subtotal(sold: list[Node], currency: str) -> str:
    """What the goods cost, discounts taken off: the sum of the lines' totals, as Square counts gross sales.

    Tax that is in the prices already is in it, but in the US, Canada and Japan, where Square takes it out.
    """
    gross = sum(_amount(line, "gross_sales_money") for line in sold)
    return decimal_text(gross - sum(_amount(line, "total_discount_money") for line in sold), currency)


def _country(holder: Node) -> str | None:
    """ZZ is Square's word for one that is not known."""
    country = _text(holder, "country")
    return None if country == "ZZ" else country or None


def _money(holder: Node, name: str) -> tuple[str, str]:
    """As decimal text, and its currency."""
    money = holder.get(name)
    amount, currency = (
        (money.get("amount"), money.get("currency")) if isinstance(money, dict) else (None, None)
    )
    if type(amount) is not int or not isinstance(currency, str) or not currency:
        raise ValueError(f"{name}: must be a whole number with a currency and is not")
    return decimal_text(amount, currency), currency


def _optional_money(holder: Node, name: str) -> str | None:
    return None if holder.get(name) is None else _money(holder, name)[0]


def _amount(holder: Node, name: str) -> int:
    """In the smallest unit; Square leaves out what there is nothing of."""
    money = holder.get(name)
    amount = 0 if money is None else money.get("amount") if isinstance(money, dict) else None
    if type(amount) is not int:
        raise ValueError(f"{name}: must be a whole number and is not")
    return amount


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _id(holder: Node, name: str) -> str:
    if not _is_text(holder[name]):
        raise ValueError(f"{name}: must be a text and is not")
    return str(holder[name])


# Square leaves out what is null; what is there must be what it is said to be, also where it is nought or empty.


def _text(holder: Node, name: str) -> str | None:
    return optional(holder, name, str)  # type: ignore[no-any-return]


def _truth(holder: Node, name: str) -> bool:
    return optional(holder, name, bool, nothing=False)  # type: ignore[no-any-return]


def _object(holder: Node, name: str) -> Node:
    return optional(holder, name, dict, {})  # type: ignore[no-any-return]


def _objects(holder: Node, name: str) -> list[Node]:
    found = optional(holder, name, list, [])
    if not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{name}: must be a list of objects and is not")
    return found  # type: ignore[no-any-return]
