"""Resolvers of locations, inventory items and levels, and of quantities that are set."""

from __future__ import annotations

import re
from typing import Any

import orjson
from graphql import GraphQLResolveInfo, get_directive_values

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.catalogue import search
from bg_pipelines.sandbox.shopify.connections import connect
from bg_pipelines.sandbox.shopify.errors import RefusedError
from bg_pipelines.sandbox.shopify.search import every
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.shopify.store import gid
from bg_pipelines.sandbox.shopify.table import Table
from bg_pipelines.sandbox.shopify.views import show_quantities

LARGEST_INPUT = 250
LARGEST_QUANTITY = 1_000_000_000
KEY_SECONDS = 86400
REASONS = frozenset(
    [
        "correction",
        "cycle_count_available",
        "damaged",
        "movement_canceled",
        "movement_created",
        "movement_received",
        "movement_updated",
        "other",
        "promotion",
        "quality_control",
        "received",
        "reservation_created",
        "reservation_deleted",
        "reservation_updated",
        "restock",
        "safety_stock",
        "shrinkage",
    ]
)
GLOBAL_ID = re.compile(r"gid://shopify/[A-Za-z]+/\d+(\?.*)?")
MESSAGES = {
    "CHANGE_FROM_QUANTITY_STALE": "The changeFromQuantity value does not match persisted value.",
    "IDEMPOTENCY_KEY_PARAMETER_MISMATCH": (
        "The same idempotency key cannot be used with different operation parameters."
    ),
    "INVALID_INVENTORY_ITEM": "The specified inventory item could not be found.",
    "INVALID_LOCATION": "The specified location could not be found.",
    "INVALID_NAME": "The quantity name must be either 'available' or 'on_hand'.",
    "INVALID_QUANTITY_NEGATIVE": "The quantity can't be negative.",
    "INVALID_QUANTITY_TOO_HIGH": "The total quantity can't be higher than 1,000,000,000.",
    "INVALID_REASON": "The specified reason is invalid.",
    "INVALID_REFERENCE_DOCUMENT": "The specified reference document is invalid.",
    "ITEM_NOT_STOCKED_AT_LOCATION": "The specified inventory item is not stocked at the location.",
    "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR": (
        "The combination of inventoryItemId and locationId must be unique."
    ),
}


def is_active(row: Node) -> bool:
    return bool(row["isActive"])


def locations(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    wanted = every([None if args["includeInactive"] else is_active, search(info, args.get("query"))])
    return connect(info.context.store.locations, args, sort_key=args["sortKey"], matches=wanted)


def location(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    table: Table = info.context.store.locations
    if args.get("id") is None:
        # At the vendor this is the primary location.
        return next((row for row in table if row["isActive"]), None)
    return table.get(args["id"])


def inventory_items(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(info.context.store.items, args, matches=search(info, args.get("query")))


def inventory_item(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.store.items.get(args["id"])  # type: ignore[no-any-return]


def inventory_level(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return info.context.store.levels.get(args["id"])  # type: ignore[no-any-return]


def levels_of_location(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node:
    return levels(info.context.store.levels_at[source["id"]], info, args)


def levels_of_item(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node:
    return levels(source["_levels"], info, args)


def levels(table: Table, info: GraphQLResolveInfo, args: dict[str, Any]) -> Node:
    wanted = every([None if args["includeInactive"] else is_active, search(info, args.get("query"))])
    return connect(table, args, matches=wanted)


def level_at_location(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return one_level(info, args["inventoryItemId"], source["id"], args)


def level_of_item(source: Node, info: GraphQLResolveInfo, **args: Any) -> Node | None:
    return one_level(info, source["id"], args["locationId"], args)


def one_level(info: GraphQLResolveInfo, item_id: str, location_id: str, args: dict[str, Any]) -> Node | None:
    level: Node | None = info.context.store.level(item_id, location_id)
    return level if level is not None and (level["isActive"] or args["includeInactive"]) else None


def variants_of_item(source: Node, _info: GraphQLResolveInfo, **args: Any) -> Node:
    return connect(Table([source["_variant"]]), args)


def quantities(source: Node, _info: GraphQLResolveInfo, **args: Any) -> list[Node]:
    number, item = source["_key"]
    return [
        quantity
        | {"id": f"{gid('InventoryQuantity', number)}?inventory_item_id={item}&name={quantity['name']}"}
        for quantity in show_quantities(source, args["names"])
    ]


def changes_of_group(source: Node, _info: GraphQLResolveInfo, **args: Any) -> list[Node]:
    items, places, names = args.get("inventoryItemIds"), args.get("locationIds"), args.get("quantityNames")
    return [
        change
        for change in source["_changes"]
        if (items is None or change["item"]["id"] in items)
        and (places is None or change["location"]["id"] in places)
        and (names is None or change["name"] in names)
    ]


def inventory_set_quantities(_root: object, info: GraphQLResolveInfo, **args: Any) -> Node:
    """Set quantities once per idempotency key: a repeated call gets the first one's answer."""
    shop: Shop = info.context
    given: dict[str, Any] = args["input"]
    key = idempotency_key(info)
    if len(given["quantities"]) > LARGEST_INPUT:
        raise RefusedError(
            f"The input array size of {len(given['quantities'])} is greater than the maximum allowed of "
            f"{LARGEST_INPUT}.",
            code="MAX_INPUT_SIZE_EXCEEDED",
        )
    if any("changeFromQuantity" not in quantity for quantity in given["quantities"]):
        raise RefusedError(
            "InventoryQuantityInput must include the following argument: changeFromQuantity.",
            code="INVALID_FIELD_ARGUMENTS",
        )
    for index, quantity in enumerate(given["quantities"]):
        for name in ("inventoryItemId", "locationId"):
            if not GLOBAL_ID.fullmatch(quantity[name]):
                raise RefusedError(
                    "Variable $input of type InventorySetQuantitiesInput! was provided invalid value for "
                    f"quantities.{index}.{name} (Invalid global id '{quantity[name]}')",
                    code="INVALID_VARIABLE",
                )

    now = shop.clock.seconds()
    fingerprint = orjson.dumps(given, option=orjson.OPT_SORT_KEYS)
    before = shop.idempotent.get(key)
    if before is not None and now - before[2] < KEY_SECONDS:
        return (
            before[1]
            if before[0] == fingerprint
            else payload([user_error("IDEMPOTENCY_KEY_PARAMETER_MISMATCH")])
        )
    errors = refusals(shop, given)
    answer = payload(errors) if errors else apply(shop, given)
    shop.idempotent[key] = (fingerprint, answer, now)
    return answer


def idempotency_key(info: GraphQLResolveInfo) -> str:
    directive = info.schema.get_directive("idempotent")
    assert directive is not None
    values = get_directive_values(directive, info.field_nodes[0], info.variable_values)
    key = str(values["key"]).strip() if values else ""
    if not key:
        raise RefusedError("The @idempotent directive is required for this mutation but was not provided.")
    return key


def refusals(shop: Shop, given: dict[str, Any]) -> list[Node]:
    """Every reason not to apply any of it."""
    name = given["name"]
    if name not in {"available", "on_hand"}:
        return [user_error("INVALID_NAME", "name")]
    if given["reason"] not in REASONS:
        return [user_error("INVALID_REASON", "reason")]
    document = given.get("referenceDocumentUri")
    if document is not None and not re.match(r"[a-z][a-z0-9+.-]*://?\S+$", document, re.IGNORECASE):
        return [user_error("INVALID_REFERENCE_DOCUMENT", "referenceDocumentUri")]
    errors: list[Node] = []
    seen: set[tuple[str, str]] = set()
    for index, one in enumerate(given["quantities"]):
        item_id, location_id = one["inventoryItemId"], one["locationId"]
        refusal = refuse_one(shop, name, one, repeated=(item_id, location_id) in seen)
        seen.add((item_id, location_id))
        if refusal is not None:
            code, field = refusal
            errors.append(user_error(code, "quantities", str(index), field))
    return errors


def refuse_one(shop: Shop, name: str, one: dict[str, Any], *, repeated: bool) -> tuple[str, str] | None:
    place = shop.store.locations.get(one["locationId"])
    if one["inventoryItemId"] not in shop.store.items:
        return "INVALID_INVENTORY_ITEM", "inventoryItemId"
    if place is None or not place["isActive"]:
        return "INVALID_LOCATION", "locationId"
    if repeated:
        return "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR", "locationId"
    level = shop.store.level(one["inventoryItemId"], one["locationId"])
    if level is None or not level["isActive"]:
        return "ITEM_NOT_STOCKED_AT_LOCATION", "locationId"
    if one["quantity"] < 0:
        return "INVALID_QUANTITY_NEGATIVE", "quantity"
    if one["quantity"] > LARGEST_QUANTITY:
        return "INVALID_QUANTITY_TOO_HIGH", "quantity"
    expected = one["changeFromQuantity"]
    # An explicit null opts out of the comparison.
    if expected is not None and expected != level["_quantities"][name]:
        return "CHANGE_FROM_QUANTITY_STALE", "changeFromQuantity"
    return None


def apply(shop: Shop, given: dict[str, Any]) -> Node:
    made: list[Node] = []
    for one in given["quantities"]:
        level = shop.store.level(one["inventoryItemId"], one["locationId"])
        assert level is not None  # refuse_one saw it, under the same lock.
        name = given["name"]
        if level["_quantities"][name] == one["quantity"]:
            continue
        delta = shop.store.set_quantity(level, name, one["quantity"])
        other = "on_hand" if name == "available" else "available"
        made += [
            {
                "name": moved,
                "delta": delta,
                # The vendor gives the quantity after only for the name that was set.
                "quantityAfterChange": level["_quantities"][moved] if moved == name else None,
                "item": level["item"],
                "location": level["location"],
                "ledgerDocumentUri": None,
            }
            for moved in (name, other)
        ]
    if not made:
        return payload([])
    shop.applied += 1
    shop.store.adjustments += 1
    group = {
        "id": gid("InventoryAdjustmentGroup", shop.store.adjustments),
        "createdAt": shop.clock.stamp(),
        "reason": given["reason"],
        "referenceDocumentUri": given.get("referenceDocumentUri"),
        "_changes": made,
    }
    return payload([], group)


def payload(errors: list[Node], group: Node | None = None) -> Node:
    return {"inventoryAdjustmentGroup": group, "userErrors": errors}


def user_error(code: str, *path: str) -> Node:
    return {"code": code, "field": ["input", *path] if path else None, "message": MESSAGES[code]}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.locations": locations,
    "QueryRoot.location": location,
    "QueryRoot.inventoryItems": inventory_items,
    "QueryRoot.inventoryItem": inventory_item,
    "QueryRoot.inventoryLevel": inventory_level,
    "Mutation.inventorySetQuantities": inventory_set_quantities,
    "Location.inventoryLevels": levels_of_location,
    "Location.inventoryLevel": level_at_location,
    "InventoryItem.inventoryLevels": levels_of_item,
    "InventoryItem.inventoryLevel": level_of_item,
    "InventoryItem.variants": variants_of_item,
    "InventoryLevel.quantities": quantities,
    "InventoryAdjustmentGroup.changes": changes_of_group,
}
