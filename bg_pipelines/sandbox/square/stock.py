"""The Inventory API: counts, newest first, and changes of them, each batch applied once and whole."""

from __future__ import annotations

import re
from decimal import Decimal

import orjson

from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.customers import reused_key
from bg_pipelines.sandbox.square.refusals import RefusalError, bad_request, not_found
from bg_pipelines.sandbox.square.values import DAY_MS, now_ms, opaque_id, read_time, show_time

PAGE_SIZE, LARGEST_PAGE = 100, 1000
MOST_CHANGES = 100
QUANTITY = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,5})?")
# States that are kept count of; the others are where stock comes from or goes to.
COUNTED = frozenset(["IN_STOCK", "WASTE"])
MOVES = frozenset(
    [
        ("NONE", "IN_STOCK"),
        ("UNLINKED_RETURN", "IN_STOCK"),
        ("UNLINKED_RETURN", "WASTE"),
        ("IN_STOCK", "SOLD"),
        ("IN_STOCK", "WASTE"),
    ]
)


def batch_retrieve_counts(call: Call) -> Node:
    query = call.content("BatchRetrieveInventoryCountsRequest")
    limit = shapes.page_size(query, PAGE_SIZE, LARGEST_PAGE)
    # A filter that is empty is none.
    objects, places, states = (
        set(query.get(name, [])) for name in ("catalog_object_ids", "location_ids", "states")
    )
    after = read_time(query["updated_after"]) if "updated_after" in query else float("-inf")

    def matches(row: Node) -> bool:
        return (
            row["_at"] > after
            and (not objects or row["catalog_object_id"] in objects)
            and (not places or row["location_id"] in places)
            and (not states or row["state"] in states)
        )

    view = call.store.counts.ordered("CALCULATED_AT")
    body, _ = call.page("counts", view, query, shown, limit=limit, descending=True, matches=matches)
    return body


def batch_retrieve_changes(call: Call) -> Node:
    """Oldest first, by when they occurred."""
    query = call.content("BatchRetrieveInventoryChangesRequest")
    limit = shapes.page_size(query, PAGE_SIZE, LARGEST_PAGE)
    if "TRANSFER" in query.get("types", []):
        raise RefusalError("INVALID_ENUM_VALUE", "Transfers are not told of here.", field="types")
    objects, places, kinds, states = (
        set(query.get(name, [])) for name in ("catalog_object_ids", "location_ids", "types", "states")
    )
    after = read_time(query["updated_after"]) if "updated_after" in query else float("-inf")
    before = read_time(query["updated_before"]) if "updated_before" in query else float("inf")

    def matches(row: Node) -> bool:
        given = content_of(row)
        return (
            after < row["_created"] < before
            and (not objects or given["catalog_object_id"] in objects)
            and (not places or given["location_id"] in places)
            and (not kinds or row["type"] in kinds)
            and (not states or bool(states & set(row["_states"])))
        )

    view = call.store.changes.ordered("OCCURRED_AT")
    body, _ = call.page("changes", view, query, shown, limit=limit, matches=matches)
    return body


def batch_change_inventory(call: Call) -> Node:
    """Apply all changes, or none; a repeated key gets the first answer."""
    query = call.content("BatchChangeInventoryRequest")
    key = query["idempotency_key"]
    if not 1 <= len(key) <= 128:
        code = "VALUE_TOO_LONG" if key else "VALUE_EMPTY"
        raise RefusalError(code, "An idempotency key has 1 to 128 characters.", field="idempotency_key")
    told = orjson.dumps(query, option=orjson.OPT_SORT_KEYS)
    if f"stock:{key}" in call.merchant.idempotent:
        before, answer = call.merchant.idempotent[f"stock:{key}"]
        if before != told:
            raise reused_key()
        return answer
    changes = shapes.at_most(query, "changes", MOST_CHANGES)
    if not changes:
        raise RefusalError("ARRAY_EMPTY", "`changes` must not be empty.", field="changes")
    checked = [check(call, change, f"changes[{place}]") for place, change in enumerate(changes)]
    answer = apply(call, checked, ignore_unchanged=query.get("ignore_unchanged_counts", True))
    call.merchant.idempotent[f"stock:{key}"] = (told, answer)
    return answer


def check(call: Call, change: Node, at: str) -> Node:
    """The change as it will be shown; anything wrong with it refuses the whole batch."""
    kind = change.get("type")
    if kind is None:
        raise shapes.missing(f"{at}.type")
    if kind == "TRANSFER":
        raise RefusalError("INVALID_ENUM_VALUE", "Transfers cannot be made through the API.", field=at)
    name = kind.lower()
    at = f"{at}.{name}"
    if name not in change:
        raise shapes.missing(at)
    given: Node = change[name]
    wanted = ("state",) if kind == "PHYSICAL_COUNT" else ("from_state", "to_state")
    for field in ("catalog_object_id", "location_id", "quantity", "occurred_at", *wanted):
        if field not in given:
            raise shapes.missing(f"{at}.{field}")
    row = call.store.objects.get(given["catalog_object_id"])
    if row is None or row["type"] != "ITEM_VARIATION" or row["is_deleted"]:
        raise not_found("Item variation", given["catalog_object_id"], f"{at}.catalog_object_id")
    if given["location_id"] not in call.store.locations:
        raise not_found("Location", given["location_id"], f"{at}.location_id")
    quantity = given["quantity"]
    if not QUANTITY.fullmatch(quantity) or (kind == "ADJUSTMENT" and Decimal(quantity) < 0):
        raise RefusalError("INVALID_VALUE", f"`{quantity}` is not a valid quantity.", field=f"{at}.quantity")
    if kind == "PHYSICAL_COUNT" and given["state"] not in COUNTED:
        raise bad_request(f"{given['state']} cannot be counted.", f"{at}.state")
    if kind == "ADJUSTMENT" and (given["from_state"], given["to_state"]) not in MOVES:
        raise bad_request(f"Nothing moves from {given['from_state']} to {given['to_state']}.", at)
    now, when = now_ms(call.merchant.clock), read_time(given["occurred_at"])
    if not now - DAY_MS <= when <= now:
        raise RefusalError(
            "INVALID_TIME",
            "occurred_at must be within the last 24 hours and not in the future.",
            field=f"{at}.occurred_at",
        )
    return {"type": kind, name: {**given, "catalog_object_type": "ITEM_VARIATION"}}


def apply(call: Call, changes: list[Node], *, ignore_unchanged: bool) -> Node:
    """In the order in which they occurred, whatever the order in which they came."""
    store, now = call.store, now_ms(call.merchant.clock)
    made: list[Node] = []
    touched: dict[tuple[str, str, str], None] = {}
    for change in sorted(changes, key=lambda one: read_time(content_of(one)["occurred_at"])):
        given = content_of(change)
        occurred = int(read_time(given["occurred_at"]))
        object_id, place, amount = (
            given["catalog_object_id"],
            given["location_id"],
            Decimal(given["quantity"]),
        )
        if change["type"] == "PHYSICAL_COUNT":
            moves, states = {given["state"]: amount}, [given["state"]]
            count = store.count(object_id, place, given["state"])
            unchanged = count is not None and count["_quantity"] == amount
        else:
            states = [one for one in (given["from_state"], given["to_state"]) if one in COUNTED]
            moves = {one: amount if one == given["to_state"] else -amount for one in states}
            unchanged = amount == 0
        touched.update(dict.fromkeys((object_id, place, state) for state in states))
        if unchanged and ignore_unchanged:
            continue
        for state, value in moves.items():
            settle(call, (object_id, place, state), value, change["type"] == "PHYSICAL_COUNT", occurred, now)
        number = store.number("change")
        given |= {"id": opaque_id(20, call.merchant.id, "change", number), "created_at": show_time(now)}
        made.append(change)
        kept = {"_occurred": occurred, "_number": number, "_created": now, "_states": states}
        store.changes.put(given["id"], {**change, **kept})
    if made:
        call.merchant.applied += 1
    counts = [shown(row) for key in touched if (row := store.count(*key)) is not None]
    body: Node = {"counts": counts} if counts else {}
    return body | {"changes": made} if made else body


def settle(
    call: Call, key: tuple[str, str, str], value: Decimal, counted: bool, occurred: int, now: int
) -> None:
    """What occurred before the last count by hand is in that count already."""
    before = call.store.count(*key)
    last = before["_counted"] if before is not None else None
    if last is not None and occurred < last:
        return
    quantity = value if counted or before is None else before["_quantity"] + value
    call.store.put_count(*key, quantity, at=now, counted=occurred if counted else last)


def content_of(change: Node) -> Node:
    content: Node = change[change["type"].lower()]
    return content
