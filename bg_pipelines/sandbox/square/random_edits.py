"""Random edits of a merchant, repeatable: the same seed and history make the same edits."""

from __future__ import annotations

from random import Random
from typing import Any

from bg_pipelines.sandbox.fields import apply_edit
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.edits import EDITS, someone
from bg_pipelines.sandbox.square.merchant import Merchant
from bg_pipelines.sandbox.square.seed import item_fields

Made = dict[str, str]


def change_at_random(merchant: Merchant, count: int) -> list[Made]:
    weights = [weight for _, weight in RANDOM_EDITS]
    made = []
    for _ in range(count):
        [(name, _)] = merchant.random.choices(RANDOM_EDITS, weights)
        made.append(change_one(merchant, name))
        merchant.notifier.flush()
    return made


def change_one(merchant: Merchant, name: str) -> Made:
    """Do this edit to a row picked at random; where there is none to do it to, a customer is added."""
    random, store = merchant.random, merchant.store
    fields: Node | None = {}
    match name:
        case "update_customer":
            fields = chosen(someone(merchant), note=f"note {random.randint(1, 10**6)}")
        case "delete_customer":
            fields = chosen(someone(merchant))
        case "complete_order" | "cancel_order":
            fields = chosen(pick_order(merchant, "OPEN"))
        case "refund_order":
            fields = chosen(pick_order(merchant, "COMPLETED"))
        case "update_item":
            named = item_fields(random)["name"]
            fields = chosen(pick(living(merchant, "ITEM"), random, "id"), name=named)
        case "update_variation":
            variation = pick(living(merchant, "ITEM_VARIATION"), random, "id")
            fields = chosen(variation, price=random.randint(100, 99_999))
        case "delete_item":
            fields = chosen(pick(living(merchant, "ITEM"), random, "id"))
        case "rename_location":
            place = random.choice(list(store.locations.values()))
            named = f"{place['address']['locality']} {random.randint(1, 99)}"
            fields = {"id": place["id"], "name": named}
        case "set_count":
            count = pick(list(store.counts), random)
            fields = count and {
                "catalog_object_id": count["catalog_object_id"],
                "location_id": count["location_id"],
                "state": count["state"],
                "quantity": random.randint(0, 500),
            }
    if fields is None:
        name, fields = "add_customer", {}
    shown_row = apply_edit(EDITS, merchant, name, fields)
    return {"edit": name, "id": str(shown_row.get("id") or shown_row.get("catalog_object_id"))}


def chosen(row_id: Any, **fields: Any) -> Node | None:
    if row_id is None:
        return None
    return {"id": row_id, "fields": fields} if fields else {"id": row_id}


def pick(rows: list[Node], random: Random, name: str | None = None) -> Any:
    if not rows:
        return None
    row = random.choice(rows)
    return row if name is None else row[name]


def pick_order(merchant: Merchant, state: str) -> str | None:
    ids = [
        order.id
        for order in merchant.store.orders
        if order.state == state and not order.refunded and order.returned is None
    ]
    return merchant.random.choice(ids) if ids else None


def living(merchant: Merchant, kind: str) -> list[Node]:
    return [row for row in merchant.store.objects if row["type"] == kind and not row["is_deleted"]]


RANDOM_EDITS: tuple[tuple[str, int], ...] = (
    ("set_count", 30),
    ("add_order", 20),
    ("update_customer", 12),
    ("add_customer", 8),
    ("update_variation", 8),
    ("add_late_order", 5),
    ("complete_order", 4),
    ("refund_order", 3),
    ("update_item", 3),
    ("add_item", 2),
    ("cancel_order", 2),
    ("delete_customer", 1),
    ("delete_item", 1),
    ("rename_location", 1),
)
