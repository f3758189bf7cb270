"""What webhooks tell of carts and checkouts, in the fields of Shopify's sample payloads and in their order."""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.baskets import BasketLine
from bg_pipelines.sandbox.shopify.rest import Rest, number_of, price_set
from bg_pipelines.sandbox.shopify.sales_payloads import customer_of_order, order_address

UNIT_PRICE_FIELDS = ("measured_type", "quantity_value", "quantity_unit", "reference_value", "reference_unit")


def utc_time(stamp: str) -> str:
    """Unlike all other times, a cart's are in UTC with milliseconds."""
    return stamp.replace("Z", ".000Z")


def cart(rest: Rest, row: Node) -> Node:
    return {
        "id": row["id"],
        "token": row["id"],
        "line_items": [cart_line(rest, row, line) for line in row["_lines"]],
        "note": row["note"],
        "updated_at": utc_time(row["updatedAt"]),
        "created_at": utc_time(row["createdAt"]),
    }


def cart_line(rest: Rest, row: Node, line: BasketLine) -> Node:
    one, all_, nothing = (bag(rest, units) for units in (line.units, line.units * line.quantity, 0))
    price, line_price = one["shop_money"]["amount"], all_["shop_money"]["amount"]
    return {
        "id": number_of(line.variant),
        "properties": None,
        "quantity": line.quantity,
        "variant_id": number_of(line.variant),
        "key": f"{number_of(line.variant)}:{row['id']}",
        "discounted_price": price,
        "discounts": [],
        "gift_card": False,
        "grams": 0,
        "line_price": line_price,
        "original_line_price": line_price,
        "original_price": price,
        "price": price,
        "product_id": number_of(line.product),
        "sku": line.variant["sku"],
        "taxable": True,
        "title": full_title(line),
        "total_discount": nothing["shop_money"]["amount"],
        "vendor": line.product["vendor"],
        "discounted_price_set": one,
        "line_price_set": all_,
        "original_line_price_set": all_,
        "price_set": one,
        "total_discount_set": nothing,
        "parent_relationship": None,
    }


def checkout(rest: Rest, row: Node) -> Node:
    customer = row["customer"]
    address = order_address(customer)
    return {
        "token": row["id"],
        "cart_token": row["cartToken"],
        "email": row["email"],
        "gateway": None,
        "buyer_accepts_marketing": False,
        "created_at": rest.time(row["createdAt"]),
        "updated_at": rest.time(row["updatedAt"]),
        "landing_site": None,
        "note": row["note"],
        "note_attributes": [],
        "referring_site": None,
        "shipping_lines": [],
        "taxes_included": False,
        "total_weight": 0,
        "currency": rest.currency,
        "completed_at": rest.time(row["completedAt"]),
        "closed_at": None,
        "user_id": None,
        "location_id": None,
        "source_identifier": None,
        "source_url": None,
        "device_id": None,
        "phone": row["phone"],
        "customer_locale": customer and customer["locale"],
        "line_items": [checkout_line(rest, row, line) for line in row["_lines"]],
        "name": f"#{number_of(row)}",
        "source": None,
        "abandoned_checkout_url": f"https://{rest.store.shop['myshopifyDomain']}/checkouts/{row['id']}/recover",
        "discount_codes": [],
        "tax_lines": [],
        "source_name": "web",
        **sums(rest, row),
        "billing_address": address,
        "shipping_address": address,
        "customer": None if customer is None else customer_of_order(rest, customer),
    }


def checkout_line(rest: Rest, row: Node, line: BasketLine) -> Node:
    one, all_ = (amount(rest, units) for units in (line.units, line.units * line.quantity))
    variant_title = None if line.variant["title"] == "Default Title" else line.variant["title"]
    return {
        "applied_discounts": [],
        "discount_allocations": [],
        "key": f"{number_of(line.variant)}:{row['id']}",
        "destination_location_id": None,
        "fulfillment_service": "manual",
        "gift_card": False,
        "grams": 0,
        "origin_location_id": None,
        "presentment_title": line.product["title"],
        "presentment_variant_title": variant_title,
        "product_id": number_of(line.product),
        "properties": None,
        "quantity": line.quantity,
        "requires_shipping": True,
        "sku": line.variant["sku"],
        "tax_lines": [],
        "taxable": True,
        "title": line.product["title"],
        "variant_id": number_of(line.variant),
        "variant_title": variant_title,
        "variant_price": one,
        "vendor": line.product["vendor"],
        "user_id": None,
        "unit_price_measurement": dict.fromkeys(UNIT_PRICE_FIELDS),
        "rank": None,
        "compare_at_price": line.variant["compareAtPrice"],
        "line_price": all_,
        "price": one,
    }


def sums(rest: Rest, row: Node) -> Node:
    total = amount(rest, sum(line.units * line.quantity for line in row["_lines"]))
    nothing = amount(rest, 0)
    return {
        "presentment_currency": rest.currency,
        "buyer_accepts_sms_marketing": False,
        "sms_marketing_phone": None,
        "total_discounts": nothing,
        "total_line_items_price": total,
        "total_price": total,
        "total_tax": nothing,
        "subtotal_price": total,
        "total_duties": None,
        "reservation_token": None,
    }


def deleted_checkout(rest: Rest, row: Node) -> Node:
    """Known by the number that a checkout's name has: there is no token in it, at the vendor either."""
    return {"id": number_of(row), **sums(rest, row), "cart_token": row["cartToken"]}


def full_title(line: BasketLine) -> str:
    title, variant = line.product["title"], line.variant["title"]
    return str(title) if variant == "Default Title" else f"{title} - {variant}"


def bag(rest: Rest, units: int) -> Node:
    return price_set(rest.ledger().money.bag(units, rest.currency))


def amount(rest: Rest, units: int) -> str:
    return str(bag(rest, units)["shop_money"]["amount"])


PAYLOADS: dict[str, Callable[[Rest, Node], Node]] = {
    "carts/create": cart,
    "carts/update": cart,
    "checkouts/create": checkout,
    "checkouts/update": checkout,
    "checkouts/delete": deleted_checkout,
}
