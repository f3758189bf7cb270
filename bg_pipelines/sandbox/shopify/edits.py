"""Edits of a shop as its staff would make them: its catalogue, its stock and its settings."""

from __future__ import annotations

from bg_pipelines.sandbox.fields import (
    TEXT,
    TEXT_OR_NULL,
    TEXTS,
    Edits,
    Kinds,
    RejectedError,
    amount,
    changes,
    count,
    text,
    texts,
)
from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.shopify import sales_edits, webhook_edits
from bg_pipelines.sandbox.shopify.money import decimals_of
from bg_pipelines.sandbox.shopify.seed import add_variant_with_stock, place_address, product_fields
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.store import PRODUCT_FIELDS, QUANTITY_NAMES, VARIANT_FIELDS
from bg_pipelines.sandbox.shopify.views import show_level, show_variant

PRODUCT: Kinds = dict.fromkeys(PRODUCT_FIELDS, TEXT) | {"tags": TEXTS}
VARIANT: Kinds = dict.fromkeys(VARIANT_FIELDS, TEXT) | dict.fromkeys(
    ("sku", "barcode", "compareAtPrice"), TEXT_OR_NULL
)


def set_quantity(shop: Shop, fields: Node) -> Node:
    name = fields.get("name", "available")
    if name not in QUANTITY_NAMES:
        raise RejectedError("name", f"{name!r} is none of {', '.join(QUANTITY_NAMES)}")
    quantity = fields.get("quantity")
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        raise RejectedError("quantity", "must be a whole number")
    level = find_level(shop, fields)
    shop.store.set_quantity(level, name, quantity)
    return show_level(level)


def deactivate_level(shop: Shop, fields: Node) -> Node:
    level = find_level(shop, fields)
    shop.store.deactivate_level(level)
    return show_level(level)


def update_product(shop: Shop, fields: Node) -> Node:
    product = shop.store.products.named(fields)
    shop.store.update_product(product, changes(fields, PRODUCT))
    return shown(product)


def update_variant(shop: Shop, fields: Node) -> Node:
    variant = shop.store.variants.named(fields)
    shop.store.update_variant(variant, changes(fields, VARIANT))
    return show_variant(variant)


def add_product(shop: Shop, fields: Node) -> Node:
    variants = count(fields, "variants", 1)
    given = changes(fields, PRODUCT) if "fields" in fields else {}
    at = shop.store.clock.stamp()
    product = shop.store.add_product(product_fields(shop.random) | given, at=at)
    made = []
    for place in range(variants):
        title = "Default Title" if variants == 1 else f"No. {place + 1}"
        made.append(add_variant_with_stock(shop.store, shop.random, product, title, decimals(shop), at))
    return shown(product) | {"variants": [show_variant(variant) for variant in made]}


def delete_product(shop: Shop, fields: Node) -> Node:
    product = shop.store.products.named(fields)
    shop.store.delete_product(product)
    return {"id": product["id"]}


def delete_variant(shop: Shop, fields: Node) -> Node:
    variant = shop.store.variants.named(fields)
    shop.store.delete_variant(variant)
    return {"id": variant["id"]}


def rename_location(shop: Shop, fields: Node) -> Node:
    location = shop.store.locations.named(fields)
    shop.store.rename_location(location, text(fields, "name"))
    return shown(location)


def add_location(shop: Shop, fields: Node) -> Node:
    """Where nothing is stocked yet."""
    beside = next(one for one in shop.store.locations if one["isActive"])["address"]
    address = place_address(shop.random, beside["city"], beside["countryCode"], beside["provinceCode"])
    return shown(shop.store.add_location(text(fields, "name"), address, at=shop.clock.stamp()))


def activate_location(shop: Shop, fields: Node) -> Node:
    location = shop.store.locations.named(fields)
    if location["isActive"]:
        raise RejectedError("id", "it is active")
    shop.store.activate_location(location)
    return shown(location)


def deactivate_location(shop: Shop, fields: Node) -> Node:
    location = shop.store.locations.named(fields)
    active = [one for one in shop.store.locations if one["isActive"]]
    if location not in active or len(active) == 1:
        raise RejectedError(
            "id", "it is the last active location" if location in active else "it is not active"
        )
    shop.store.deactivate_location(location)
    return shown(location)


def delete_location(shop: Shop, fields: Node) -> Node:
    location = shop.store.locations.named(fields)
    if location["isActive"]:
        # At the vendor too.
        raise RejectedError("id", "an active location cannot be deleted; deactivate it first")
    shop.store.delete_location(location)
    return {"id": location["id"]}


def connect_level(shop: Shop, fields: Node) -> Node:
    """Stock an item at a location where it is not stocked, or not any more."""
    item = shop.store.items.named(fields, "inventory_item_id")
    location = shop.store.locations.named(fields, "location_id")
    available = count(fields, "available", 0)
    if not location["isActive"]:
        raise RejectedError("location_id", "it is not active")
    level = shop.store.level(item["id"], location["id"])
    if level is None:
        quantities = {"available": available, "on_hand": available}
        level = shop.store.add_level(item, location, quantities, at=shop.clock.stamp())
    elif level["isActive"]:
        raise RejectedError("location_id", "the item is stocked there")
    else:
        shop.store.connect_level(level, available)
    return show_level(level)


def update_shop(shop: Shop, fields: Node) -> Node:
    shop.store.update_shop(changes(fields, {"name": TEXT}))
    return shown(shop.store.shop)


def set_token(shop: Shop, fields: Node) -> Node:
    token = text(fields, "token")
    shop.access.set_token(token)
    return {"token": token}


def expire_tokens(shop: Shop, _fields: Node) -> Node:
    return {"expired": shop.access.expire_all()}


def set_scopes(shop: Shop, fields: Node) -> Node:
    shop.access.scopes = texts(fields, "scopes")
    return {"scopes": shop.access.scopes}


def set_budget(shop: Shop, fields: Node) -> Node:
    maximum = amount(fields, "maximum", shop.bucket.maximum)
    restore = amount(fields, "restore", shop.bucket.restore)
    shop.bucket.resize(maximum, restore)
    return {"maximum": maximum, "restore": restore}


def set_search_lag(shop: Shop, fields: Node) -> Node:
    shop.search_lag_seconds = amount(fields, "seconds")
    return {"seconds": shop.search_lag_seconds}


def set_bulk_seconds(shop: Shop, fields: Node) -> Node:
    shop.bulk.seconds = amount(fields, "seconds")
    return {"seconds": shop.bulk.seconds}


LEVEL = ("inventory_item_id", "location_id")
EDITS: Edits[Shop] = {
    "set_quantity": (set_quantity, (*LEVEL, "quantity", "name")),
    "deactivate_level": (deactivate_level, LEVEL),
    "update_product": (update_product, ("id", "fields")),
    "update_variant": (update_variant, ("id", "fields")),
    "add_product": (add_product, ("fields", "variants")),
    "delete_product": (delete_product, ("id",)),
    "delete_variant": (delete_variant, ("id",)),
    "rename_location": (rename_location, ("id", "name")),
    "add_location": (add_location, ("name",)),
    "activate_location": (activate_location, ("id",)),
    "deactivate_location": (deactivate_location, ("id",)),
    "delete_location": (delete_location, ("id",)),
    "connect_level": (connect_level, (*LEVEL, "available")),
    "update_shop": (update_shop, ("fields",)),
    "set_token": (set_token, ("token",)),
    "expire_tokens": (expire_tokens, ()),
    "set_scopes": (set_scopes, ("scopes",)),
    "set_budget": (set_budget, ("maximum", "restore")),
    "set_search_lag": (set_search_lag, ("seconds",)),
    "set_bulk_seconds": (set_bulk_seconds, ("seconds",)),
    **sales_edits.EDITS,
    **webhook_edits.EDITS,
}


def find_level(shop: Shop, fields: Node) -> Node:
    item = shop.store.items.named(fields, "inventory_item_id")
    location = shop.store.locations.named(fields, "location_id")
    level = shop.store.level(item["id"], location["id"])
    if level is None:
        raise RejectedError("location_id", "the item has no level there")
    return level


def decimals(shop: Shop) -> int:
    return decimals_of(shop.store.shop["currencyCode"])
