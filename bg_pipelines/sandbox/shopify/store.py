"""One shop's catalogue and stock, and changes that keep them consistent.

Rows refer to each other directly (`variant["product"]` is the product's row). Editing a variant also makes its
product newer; a change of stock makes only its level newer, as at the vendor.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.table import Table

KINDS = ("Product", "ProductVariant", "InventoryItem", "InventoryLevel", "Location")
NUMBERS_PER_KIND = 200_000_000
QUANTITY_NAMES = ("available", "on_hand", "committed", "incoming")
PRODUCT_FIELDS = ("title", "handle", "status", "vendor", "productType", "tags")
VARIANT_FIELDS = ("title", "sku", "barcode", "price", "compareAtPrice")


def gid(kind: str, number: int) -> str:
    return f"gid://shopify/{kind}/{number}"


def tell_nobody(_topic: str, _row: Node) -> None:
    """As long as nobody wants to know what changes."""


class Store:
    """The tables of one shop. `first_number` is where its ids start: the vendor's ids are larger than 32 bits.

    `tell` is called with each change: the topic of the vendor's webhook for it, and the row.
    """

    def __init__(self, shop: Node, clock: Clock, first_number: int) -> None:
        self.shop = shop
        self.clock = clock
        self.products = Table()
        self.variants = Table()
        self.items = Table()
        self.levels = Table()
        self.locations = Table()
        self.levels_at: dict[str, Table] = {}
        self.adjustments = 0
        self.tell: Callable[[str, Node], None] = tell_nobody
        self._first_number = first_number
        self._made: dict[str, int] = defaultdict(int)

    def number(self, kind: str) -> int:
        # Two kinds never share a number, so that an id of the wrong kind finds nothing. The vendor's ids are not
        # dense either: a step keeps "the next id" from being a lucky guess.
        self._made[kind] += 1
        return self._first_number + KINDS.index(kind) * NUMBERS_PER_KIND + self._made[kind] * 32

    def add_location(
        self, name: str, address: Node, *, at: str, active: bool = True, online: bool = True
    ) -> Node:
        number = self.number("Location")
        row: Node = {
            "id": gid("Location", number),
            "_key": (number,),
            "_level_number": self.number("InventoryLevel"),
            "name": name,
            "isActive": active,
            "fulfillsOnlineOrders": online and active,
            "address": address,
            "createdAt": at,
            "updatedAt": at,
        }
        self.locations.put(row)
        self.levels_at[row["id"]] = Table()
        self.tell("locations/create", row)
        return row

    def update_shop(self, fields: Node) -> None:
        self.shop.update(fields, updatedAt=self.clock.stamp())
        self.tell("shop/update", self.shop)

    def rename_location(self, location: Node, name: str) -> None:
        location["name"] = name
        self._touch_location(location)

    def activate_location(self, location: Node) -> None:
        location.update(isActive=True)
        self._touch_location(location)
        self.tell("locations/activate", location)

    def deactivate_location(self, location: Node) -> None:
        """Close it: nothing is stocked there any more."""
        for level in self.levels_at[location["id"]]:
            if level["isActive"]:
                self.deactivate_level(level)
        location.update(isActive=False, fulfillsOnlineOrders=False)
        self._touch_location(location)
        self.tell("locations/deactivate", location)

    def delete_location(self, location: Node) -> None:
        for level in self.levels_at.pop(location["id"]):
            self.levels.remove(level["id"])
            level["item"]["_levels"].remove(level["id"])
        self.locations.remove(location["id"])
        self.tell("locations/delete", location)

    def _touch_location(self, location: Node) -> None:
        location["updatedAt"] = self.clock.stamp()
        self.locations.touched()
        self.tell("locations/update", location)

    def add_product(self, fields: Node, *, at: str) -> Node:
        number = self.number("Product")
        title = fields["title"]
        row: Node = {
            "id": gid("Product", number),
            "_key": (number,),
            "_variants": Table(),
            "title": title,
            "handle": f"{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') or 'product'}-{number}",
            "status": "ACTIVE",
            "vendor": "",
            "productType": "",
            "tags": [],
            "createdAt": at,
            "updatedAt": at,
            **{name: value for name, value in fields.items() if name in PRODUCT_FIELDS},
        }
        self.products.put(row)
        self.tell("products/create", row)
        return row

    def add_variant(self, product: Node, fields: Node, *, at: str) -> Node:
        number, item_number = self.number("ProductVariant"), self.number("InventoryItem")
        item: Node = {
            "id": gid("InventoryItem", item_number),
            "_key": (item_number,),
            "_levels": Table(),
            "sku": fields.get("sku"),
            "tracked": fields.get("tracked", True),
            "createdAt": at,
            "updatedAt": at,
        }
        row: Node = {
            "id": gid("ProductVariant", number),
            "_key": (number,),
            "title": "Default Title",
            "sku": None,
            "barcode": None,
            "price": "1",
            "compareAtPrice": None,
            "position": max((variant["position"] for variant in product["_variants"]), default=0) + 1,
            "inventoryQuantity": 0,
            "inventoryItem": item,
            "product": product,
            "createdAt": at,
            "updatedAt": at,
            **{name: value for name, value in fields.items() if name in VARIANT_FIELDS},
        }
        item["_variant"] = row
        product["_variants"].put(row)
        self.items.put(item)
        self.variants.put(row)
        self.tell("products/update", product)
        return row

    def add_level(
        self, item: Node, location: Node, quantities: dict[str, int], *, at: str, active: bool = True
    ) -> Node:
        # The vendor's number is the same for all items of a location: only the whole gid names a level.
        number, item_number = location["_level_number"], item["_key"][0]
        row: Node = {
            "id": f"{gid('InventoryLevel', number)}?inventory_item_id={item_number}",
            "_key": (number, item_number),
            "_quantities": {name: quantities.get(name, 0) for name in QUANTITY_NAMES},
            "isActive": active,
            "item": item,
            "location": location,
            "createdAt": at,
            "updatedAt": at,
        }
        self.levels.put(row)
        self.levels_at[location["id"]].put(row)
        item["_levels"].put(row)
        if active:
            item["_variant"]["inventoryQuantity"] += row["_quantities"]["available"]
            self.tell("inventory_levels/connect", row)
        return row

    def connect_level(self, level: Node, available: int) -> None:
        """Stock an item again where it was stocked before."""
        level["isActive"] = True
        self.set_quantity(level, "available", available)
        self.tell("inventory_levels/connect", level)

    def level(self, item_id: str, location_id: str) -> Node | None:
        item, location = self.items.get(item_id), self.locations.get(location_id)
        if item is None or location is None:
            return None
        return self.levels_at[location_id].get(
            f"{gid('InventoryLevel', location['_level_number'])}?inventory_item_id={item['_key'][0]}"
        )

    def set_quantity(self, level: Node, name: str, quantity: int) -> int:
        """Set available or on_hand; the other one moves by as much. The answer is by how much."""
        quantities = level["_quantities"]
        delta: int = quantity - quantities[name]
        for moved in ("available", "on_hand") if name in {"available", "on_hand"} else (name,):
            quantities[moved] += delta
        if level["isActive"] and name in {"available", "on_hand"}:
            level["item"]["_variant"]["inventoryQuantity"] += delta
            self.variants.touched()
        self.touch_level(level)
        self.tell("inventory_levels/update", level)
        return delta

    def deactivate_level(self, level: Node) -> None:
        if level["isActive"]:
            level["item"]["_variant"]["inventoryQuantity"] -= level["_quantities"]["available"]
            self.variants.touched()
            self.tell("inventory_levels/disconnect", level)
        level["isActive"] = False
        level["_quantities"] = dict.fromkeys(QUANTITY_NAMES, 0)
        self.touch_level(level)

    def touch_level(self, level: Node) -> None:
        level["updatedAt"] = self.clock.stamp()
        self.levels.touched()
        self.levels_at[level["location"]["id"]].touched()
        level["item"]["_levels"].touched()

    def update_product(self, product: Node, fields: Node) -> None:
        product.update(fields)
        self.touch_product(product)

    def update_variant(self, variant: Node, fields: Node) -> None:
        variant.update(fields)
        variant["updatedAt"] = self.clock.stamp()
        if "sku" in fields:
            variant["inventoryItem"]["sku"] = fields["sku"]
            variant["inventoryItem"]["updatedAt"] = variant["updatedAt"]
            self.items.touched()
        self.variants.touched()
        variant["product"]["_variants"].touched()
        self.touch_product(variant["product"])

    def touch_product(self, product: Node) -> None:
        product["updatedAt"] = self.clock.stamp()
        self.products.touched()
        self.tell("products/update", product)

    def delete_variant(self, variant: Node) -> None:
        self._drop_variant(variant)
        variant["product"]["_variants"].remove(variant["id"])
        self.touch_product(variant["product"])

    def delete_product(self, product: Node) -> None:
        for variant in product["_variants"]:
            self._drop_variant(variant)
        self.products.remove(product["id"])
        self.tell("products/delete", product)

    def _drop_variant(self, variant: Node) -> None:
        item = variant["inventoryItem"]
        for level in item["_levels"]:
            self.levels.remove(level["id"])
            self.levels_at[level["location"]["id"]].remove(level["id"])
            if level["isActive"]:
                self.tell("inventory_levels/disconnect", level)
        self.items.remove(item["id"])
        self.variants.remove(variant["id"])
