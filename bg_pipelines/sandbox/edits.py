"""Edit a shop as its staff would: exactly, or at random but repeatably."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from bg_pipelines.sandbox import sales_edits
from bg_pipelines.sandbox.errors import RejectedError
from bg_pipelines.sandbox.faults import whole
from bg_pipelines.sandbox.seed import add_variant_with_stock, money, product_fields
from bg_pipelines.sandbox.store import PRODUCT_FIELDS, QUANTITY_NAMES, VARIANT_FIELDS, show_level, shown
from bg_pipelines.sandbox.table import Node, Table

if TYPE_CHECKING:
    from bg_pipelines.sandbox.shop import Shop

Edit = Callable[["Shop", dict[str, Any]], Node]
Made = dict[str, str]


def apply(shop: Shop, name: str, fields: dict[str, Any]) -> Node:
    """Do one exact edit; the answer shows what it made of it."""
    known = EDITS.get(name)
    if known is None:
        raise RejectedError("edit", f"{name!r} is none of {', '.join(EDITS)}")
    edit, allowed = known
    for field in fields:
        if field not in allowed:
            raise RejectedError(field, f"{name} takes {', '.join(allowed) or 'nothing'}")
    return edit(shop, fields)


def set_quantity(shop: Shop, fields: dict[str, Any]) -> Node:
    name = fields.get("name", "available")
    if name not in QUANTITY_NAMES:
        raise RejectedError("name", f"{name!r} is none of {', '.join(QUANTITY_NAMES)}")
    quantity = fields.get("quantity")
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        raise RejectedError("quantity", "must be a whole number")
    level = find_level(shop, fields)
    shop.store.set_quantity(level, name, quantity)
    return show_level(level)


def deactivate_level(shop: Shop, fields: dict[str, Any]) -> Node:
    level = find_level(shop, fields)
    shop.store.deactivate_level(level)
    return show_level(level)


def update_product(shop: Shop, fields: dict[str, Any]) -> Node:
    product = find(shop.store.products, fields)
    shop.store.update_product(product, changes(fields, PRODUCT_FIELDS))
    return shown(product)


def update_variant(shop: Shop, fields: dict[str, Any]) -> Node:
    variant = find(shop.store.variants, fields)
    shop.store.update_variant(variant, changes(fields, VARIANT_FIELDS))
    return show_variant(variant)


def add_product(shop: Shop, fields: dict[str, Any]) -> Node:
    count = fields.get("variants", 1)
    if not whole(count):
        raise RejectedError("variants", "must be a whole number, 0 or more")
    given = changes(fields, PRODUCT_FIELDS) if "fields" in fields else {}
    at = shop.store.clock.stamp()
    product = shop.store.add_product(product_fields(shop.random) | given, at=at)
    made = []
    for place in range(count):
        title = "Default Title" if count == 1 else f"No. {place + 1}"
        made.append(add_variant_with_stock(shop.store, shop.random, product, title, decimals(shop), at))
    return shown(product) | {"variants": [show_variant(variant) for variant in made]}


def delete_product(shop: Shop, fields: dict[str, Any]) -> Node:
    product = find(shop.store.products, fields)
    shop.store.delete_product(product)
    return {"id": product["id"]}


def delete_variant(shop: Shop, fields: dict[str, Any]) -> Node:
    variant = find(shop.store.variants, fields)
    shop.store.delete_variant(variant)
    return {"id": variant["id"]}


def rename_location(shop: Shop, fields: dict[str, Any]) -> Node:
    location = find(shop.store.locations, fields)
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise RejectedError("name", "must be a text")
    shop.store.rename_location(location, name)
    return shown(location)


def set_token(shop: Shop, fields: dict[str, Any]) -> Node:
    token = fields.get("token")
    if not isinstance(token, str) or not token:
        raise RejectedError("token", "must be a text")
    shop.access.set_token(token)
    return {"token": token}


def expire_tokens(shop: Shop, _fields: dict[str, Any]) -> Node:
    return {"expired": shop.access.expire_all()}


def set_scopes(shop: Shop, fields: dict[str, Any]) -> Node:
    scopes = fields.get("scopes")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise RejectedError("scopes", "must be a list of texts")
    shop.access.scopes = scopes
    return {"scopes": scopes}


def set_budget(shop: Shop, fields: dict[str, Any]) -> Node:
    budget = {"maximum": shop.bucket.maximum, "restore": shop.bucket.restore}
    for name in budget:
        value = fields.get(name, budget[name])
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise RejectedError(name, "must be a number, 0 or more")
        budget[name] = value
    shop.bucket.resize(**budget)
    return dict(budget)


def set_search_lag(shop: Shop, fields: dict[str, Any]) -> Node:
    seconds = fields.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise RejectedError("seconds", "must be a number, 0 or more")
    shop.search_lag_seconds = float(seconds)
    return {"seconds": shop.search_lag_seconds}


def set_bulk_seconds(shop: Shop, fields: dict[str, Any]) -> Node:
    seconds = fields.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise RejectedError("seconds", "must be a number, 0 or more")
    shop.bulk.seconds = float(seconds)
    return {"seconds": shop.bulk.seconds}


LEVEL = ("inventory_item_id", "location_id")
EDITS: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "set_quantity": (set_quantity, (*LEVEL, "quantity", "name")),
    "deactivate_level": (deactivate_level, LEVEL),
    "update_product": (update_product, ("id", "fields")),
    "update_variant": (update_variant, ("id", "fields")),
    "add_product": (add_product, ("fields", "variants")),
    "delete_product": (delete_product, ("id",)),
    "delete_variant": (delete_variant, ("id",)),
    "rename_location": (rename_location, ("id", "name")),
    "set_token": (set_token, ("token",)),
    "expire_tokens": (expire_tokens, ()),
    "set_scopes": (set_scopes, ("scopes",)),
    "set_budget": (set_budget, ("maximum", "restore")),
    "set_search_lag": (set_search_lag, ("seconds",)),
    "set_bulk_seconds": (set_bulk_seconds, ("seconds",)),
    **sales_edits.EDITS,
}


def find(table: Table, fields: dict[str, Any], field: str = "id") -> Node:
    row = table.get(str(fields.get(field)))
    if row is None:
        raise RejectedError(field, f"there is no {fields.get(field)!r} in this shop")
    return row


def find_level(shop: Shop, fields: dict[str, Any]) -> Node:
    item = find(shop.store.items, fields, "inventory_item_id")
    location = find(shop.store.locations, fields, "location_id")
    level = shop.store.level(item["id"], location["id"])
    if level is None:
        raise RejectedError("location_id", "the item has no level there")
    return level


def changes(fields: dict[str, Any], allowed: tuple[str, ...]) -> dict[str, Any]:
    given = fields.get("fields")
    if not isinstance(given, dict) or not given:
        raise RejectedError("fields", "must be a JSON object with at least one field")
    for name, value in given.items():
        if name not in allowed:
            raise RejectedError(name, f"is none of {', '.join(allowed)}")
        if name == "tags":
            if not isinstance(value, list):
                raise RejectedError(name, "must be a list of texts")
        elif not isinstance(value, str) and not (
            value is None and name in {"sku", "barcode", "compareAtPrice"}
        ):
            raise RejectedError(name, "must be a text")
    return given


def show_variant(variant: Node) -> Node:
    return shown(variant) | {
        "inventoryItem": shown(variant["inventoryItem"]),
        "product": {"id": variant["product"]["id"]},
    }


def decimals(shop: Shop) -> int:
    return {"JPY": 0, "BHD": 3}.get(shop.store.shop["currencyCode"], 2)


def change_at_random(shop: Shop, count: int) -> list[Made]:
    """Make `count` edits; the same seed and history make the same ones. The answer names what was touched."""
    edits = (*RANDOM_EDITS, *(sales_edits.RANDOM_EDITS if shop.has_sales else ()))
    kinds = [edit for edit, _ in edits]
    weights = [weight for _, weight in edits]
    return [shop.random.choices(kinds, weights)[0](shop, shop.random) for _ in range(count)]


def pick(table: Table, random: Random) -> Node | None:
    rows = table.ordered("ID")[1]
    return random.choice(rows) if rows else None


def change_stock(shop: Shop, random: Random) -> Made:
    level = pick(shop.store.levels, random)
    if level is None or not level["isActive"]:
        return change_price(shop, random)
    shop.store.set_quantity(
        level, "available", max(0, level["_quantities"]["available"] + random.choice((-3, -1, 5)))
    )
    return made_of("set_quantity", level)


def change_price(shop: Shop, random: Random) -> Made:
    variant = pick(shop.store.variants, random)
    if variant is None:
        return add_one(shop, random)
    shop.store.update_variant(variant, {"price": money(random.randint(500, 25000) / 100, decimals(shop))})
    return made_of("update_variant", variant)


def change_title(shop: Shop, random: Random) -> Made:
    product = pick(shop.store.products, random)
    if product is None:
        return add_one(shop, random)
    shop.store.update_product(product, {"title": product_fields(random)["title"]})
    return made_of("update_product", product)


def add_one(shop: Shop, random: Random) -> Made:
    return made_of("add_product", add_product(shop, {"variants": random.randint(1, 3)}))


def drop_variant(shop: Shop, random: Random) -> Made:
    variant = pick(shop.store.variants, random)
    if variant is None:
        return add_one(shop, random)
    if len(variant["product"]["_variants"]) == 1:
        # At the vendor a product keeps at least one variant.
        shop.store.delete_product(variant["product"])
        return made_of("delete_product", variant["product"])
    shop.store.delete_variant(variant)
    return made_of("delete_variant", variant)


def drop_product(shop: Shop, random: Random) -> Made:
    product = pick(shop.store.products, random)
    if product is None:
        return add_one(shop, random)
    shop.store.delete_product(product)
    return made_of("delete_product", product)


def close_level(shop: Shop, random: Random) -> Made:
    level = pick(shop.store.levels, random)
    if level is None:
        return add_one(shop, random)
    shop.store.deactivate_level(level)
    return made_of("deactivate_level", level)


def rename_one(shop: Shop, random: Random) -> Made:
    location = pick(shop.store.locations, random)
    assert location is not None  # Every shop has two at least, and nothing deletes one.
    shop.store.rename_location(location, f"{location['address']['city']} {random.randint(1, 99)}")
    return made_of("rename_location", location)


def made_of(edit: str, row: Node) -> Made:
    return {"edit": edit, "id": str(row["id"])}


RANDOM_EDITS: tuple[tuple[Callable[[Shop, Random], Made], int], ...] = (
    (change_stock, 40),
    (change_price, 25),
    (change_title, 10),
    (add_one, 8),
    (drop_variant, 8),
    (drop_product, 3),
    (close_level, 4),
    (rename_one, 2),
)
