"""What webhooks tell of customers and orders, in the fields of Shopify's sample payloads and in their order."""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.rest import Rest, number_of, number_of_gid, price_set, shop_price
from bg_pipelines.sandbox.shopify.views import order_lines, refund_lines

FULFILLMENT = {"FULFILLED": "fulfilled", "PARTIALLY_FULFILLED": "partial"}

# Customers


def customer(rest: Rest, row: Node) -> Node:
    return person(rest, row) | {
        "addresses": [customer_address(row, address) for address in row["_addresses"]],
        "tax_exemptions": [],
        "admin_graphql_api_id": row["id"],
        "default_address": default_address(row),
    }


def person(rest: Rest, row: Node) -> Node:
    email, phone = row.get("defaultEmailAddress"), row.get("defaultPhoneNumber")
    return {
        "id": number_of(row),
        "created_at": rest.time(row["createdAt"]),
        "updated_at": rest.time(row["updatedAt"]),
        "first_name": row.get("firstName"),
        "last_name": row.get("lastName"),
        "state": row["state"].lower(),
        "note": row.get("note"),
        "verified_email": row["verifiedEmail"],
        "multipass_identifier": None,
        "tax_exempt": row["taxExempt"],
        "email": email and email["emailAddress"],
        "phone": phone and phone["phoneNumber"],
        "currency": rest.currency,
    }


def customer_of_order(rest: Rest, row: Node) -> Node:
    return person(rest, row) | {
        "tax_exemptions": [],
        "admin_graphql_api_id": row["id"],
        "default_address": default_address(row),
    }


def default_address(row: Node) -> Node | None:
    address = row.get("defaultAddress")
    return None if address is None else customer_address(row, address)


def customer_address(customer: Node, address: Node) -> Node:
    return {
        "id": number_of(address),
        "customer_id": number_of(customer),
        "first_name": address["firstName"],
        "last_name": address["lastName"],
        "company": address["company"],
        "address1": address["address1"],
        "address2": address["address2"],
        "city": address["city"],
        "province": address["province"],
        "country": address["country"],
        "zip": address["zip"],
        "phone": address["phone"],
        "name": address["name"] or "",
        "province_code": address["provinceCode"],
        "country_code": address["countryCodeV2"],
        "country_name": address["country"],
        "default": address is customer.get("defaultAddress"),
    }


def deleted_customer(_rest: Rest, row: Node) -> Node:
    return {"id": number_of(row), "tax_exemptions": [], "admin_graphql_api_id": row["id"]}


def sms_consent(rest: Rest, row: Node) -> Node:
    phone = row.get("defaultPhoneNumber")
    given = None
    if phone is not None:
        collected = phone["marketingCollectedFrom"] or "OTHER"
        given = {**consent(rest, phone), "consent_collected_from": collected.lower()}
    return {
        "id": number_of(row),
        "phone": phone and phone["phoneNumber"],
        "sms_marketing_consent": given,
    }


def email_consent(rest: Rest, row: Node) -> Node:
    email = row.get("defaultEmailAddress")
    return {
        "customer_id": number_of(row),
        "email_address": email and email["emailAddress"],
        "email_marketing_consent": None if email is None else consent(rest, email),
    }


def consent(rest: Rest, contact: Node) -> Node:
    level = contact["marketingOptInLevel"]
    return {
        "state": contact["marketingState"].lower(),
        "opt_in_level": level and level.lower(),
        "consent_updated_at": rest.time(contact["marketingUpdatedAt"]),
    }


# Orders


def order(rest: Rest, row: Node) -> Node:
    lines = order_lines(rest.ledger(), row)
    customer = row.get("customer")
    address = order_address(customer)
    nothing = price_set(rest.ledger().money.bag(0, row["presentmentCurrencyCode"]))
    total, left, tax = (row[name] for name in ("totalPriceSet", "currentTotalPriceSet", "totalTaxSet"))
    reason, status = row.get("cancelReason"), row["displayFulfillmentStatus"]
    listed = rest.ledger().money.bag(
        sum(line.good.units * line.quantity for line in row["_lines"]), row["presentmentCurrencyCode"]
    )
    return {
        "id": number_of(row),
        "admin_graphql_api_id": row["id"],
        "app_id": None,
        "browser_ip": None,
        "buyer_accepts_marketing": False,
        "cancel_reason": reason and reason.lower(),
        "cancelled_at": rest.time(row.get("cancelledAt")),
        "cart_token": None,
        "checkout_token": None,
        "client_details": None,
        "closed_at": rest.time(row.get("closedAt")),
        "confirmation_number": None,
        "confirmed": True,
        "contact_email": row.get("email"),
        "created_at": rest.time(row["createdAt"]),
        "currency": row["currencyCode"],
        "current_shipping_price_set": nothing,
        "current_subtotal_price": shop_price(row["subtotalPriceSet"]),
        "current_subtotal_price_set": price_set(row["subtotalPriceSet"]),
        "current_total_additional_fees_set": None,
        "current_total_discounts": shop_price(row["totalDiscountsSet"]),
        "current_total_discounts_set": price_set(row["totalDiscountsSet"]),
        "current_total_duties_set": None,
        "current_total_price": shop_price(left),
        "current_total_price_set": price_set(left),
        "current_total_tax": shop_price(tax),
        "current_total_tax_set": price_set(tax),
        "customer_locale": customer and customer["locale"],
        "device_id": None,
        "discount_codes": [],
        "duties_included": False,
        "email": row.get("email") or "",
        "estimated_taxes": False,
        "financial_status": row["displayFinancialStatus"].lower(),
        "fulfillment_status": FULFILLMENT.get(status),
        "landing_site": None,
        "landing_site_ref": None,
        "location_id": number_of(row.get("retailLocation")),
        "merchant_business_entity_id": None,
        "merchant_of_record_app_id": None,
        "name": row["name"],
        "note": row.get("note"),
        "note_attributes": [],
        "number": row["number"] - 1000,
        "order_number": row["number"],
        "order_status_url": f"https://{rest.store.shop['myshopifyDomain']}/orders/{number_of(row)}",
        "original_total_additional_fees_set": None,
        "original_total_duties_set": None,
        "payment_gateway_names": [],
        "phone": row.get("phone"),
        "po_number": None,
        "presentment_currency": row["presentmentCurrencyCode"],
        "processed_at": rest.time(row["processedAt"]),
        "reference": None,
        "referring_site": None,
        "source_identifier": None,
        "source_name": row["sourceName"],
        "source_url": None,
        "subtotal_price": shop_price(row["subtotalPriceSet"]),
        "subtotal_price_set": price_set(row["subtotalPriceSet"]),
        "tags": ", ".join(row["tags"]),
        "tax_exempt": False,
        "tax_lines": [],
        "taxes_included": False,
        "test": row["test"],
        "token": f"{number_of(row):x}",
        "total_cash_rounding_payment_adjustment_set": nothing,
        "total_cash_rounding_refund_adjustment_set": nothing,
        "total_discounts": shop_price(row["totalDiscountsSet"]),
        "total_discounts_set": price_set(row["totalDiscountsSet"]),
        "total_line_items_price": shop_price(listed),
        "total_line_items_price_set": price_set(listed),
        "total_outstanding": nothing["shop_money"]["amount"],
        "total_price": shop_price(total),
        "total_price_set": price_set(total),
        "total_shipping_price_set": nothing,
        "total_tax": shop_price(tax),
        "total_tax_set": price_set(tax),
        "total_tip_received": nothing["shop_money"]["amount"],
        "total_weight": 0,
        "updated_at": rest.time(row["updatedAt"]),
        "user_id": None,
        "billing_address": address,
        "customer": None if customer is None else customer_of_order(rest, customer),
        "discount_applications": [],
        "fulfillments": [],
        "line_items": [order_line(line) for line in lines],
        "payment_terms": None,
        "refunds": [refund_of(rest, row, refund) for refund in row["_refunds"]],
        "shipping_address": address,
        "shipping_lines": [],
        "returns": [],
        "line_item_groups": [],
    }


def refund_of(rest: Rest, order: Node, refund: Node) -> Node:
    return {
        "id": number_of(refund),
        "admin_graphql_api_id": refund["id"],
        "created_at": rest.time(refund["createdAt"]),
        "note": None,
        "order_id": number_of(order),
        "processed_at": rest.time(refund["processedAt"]),
        "refund_line_items": [
            {
                "id": number_of(line),
                "line_item_id": number_of(line["lineItem"]),
                "quantity": line["quantity"],
                "restock_type": line["restockType"].lower(),
                "subtotal_set": price_set(line["subtotalSet"]),
                "total_tax_set": price_set(line["totalTaxSet"]),
            }
            for line in refund_lines(rest.ledger(), refund)
        ],
    }


def order_line(line: Node) -> Node:
    product, variant = line["product"], line["variant"]
    return {
        "id": number_of(line),
        "admin_graphql_api_id": line["id"],
        "attributed_staffs": [],
        "current_quantity": line["currentQuantity"],
        "fulfillable_quantity": line["currentQuantity"],
        "fulfillment_service": "manual",
        "fulfillment_status": None,
        "gift_card": line["isGiftCard"],
        "grams": 0,
        "name": line["name"],
        "price": shop_price(line["originalUnitPriceSet"]),
        "price_set": price_set(line["originalUnitPriceSet"]),
        "product_exists": product is not None,
        "product_id": number_of(product),
        "properties": [],
        "quantity": line["quantity"],
        "requires_shipping": line["requiresShipping"],
        "sales_line_item_group_id": None,
        "sku": line["sku"],
        "taxable": line["taxable"],
        "title": line["title"],
        "total_discount": shop_price(line["totalDiscountSet"]),
        "total_discount_set": price_set(line["totalDiscountSet"]),
        "variant_id": number_of(variant),
        "variant_inventory_management": None if variant is None else "shopify",
        "variant_title": line["variantTitle"],
        "vendor": line["vendor"],
        "tax_lines": [],
        "duties": [],
        "discount_allocations": [],
    }


def order_address(customer: Node | None) -> Node | None:
    """Where an order goes: the sandbox's orders go to their customer's default address."""
    address = (customer or {}).get("defaultAddress")
    if address is None:
        return None
    return {
        "first_name": address["firstName"],
        "address1": address["address1"],
        "phone": address["phone"],
        "city": address["city"],
        "zip": address["zip"],
        "province": address["province"],
        "country": address["country"],
        "last_name": address["lastName"],
        "address2": address["address2"],
        "company": address["company"],
        "latitude": None,
        "longitude": None,
        "name": address["name"] or "",
        "country_code": address["countryCodeV2"],
        "province_code": address["provinceCode"],
    }


def compliance_request(rest: Rest, row: Node, orders_name: str) -> Node:
    """What customers/data_request and customers/redact have in common."""
    told = person(rest, row)
    return {
        "shop_id": number_of_gid(rest.store.shop["id"]),
        "shop_domain": rest.store.shop["myshopifyDomain"],
        "customer": {name: told[name] for name in ("id", "email", "phone")},
        orders_name: [number_of(order) for order in row["_orders"]],
    }


PAYLOADS: dict[str, Callable[[Rest, Node], Node]] = {
    "orders/create": order,
    "orders/updated": order,
    "customers/create": customer,
    "customers/update": customer,
    "customers/delete": deleted_customer,
    "customers_marketing_consent/update": sms_consent,
    "customers_email_marketing_consent/update": email_consent,
}
