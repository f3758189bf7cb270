"""One merchant's locations, customers, orders, catalogue and stock, and changes that keep them consistent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square.sales import Order, Till, show_order
from bg_pipelines.sandbox.square.shelf import Key, Shelf, View
from bg_pipelines.sandbox.square.values import now_ms, opaque_id, show_time

CHANGES_KEPT = 100_000


def by_name(row: Node) -> Key:
    return row.get("given_name") or "", row.get("family_name") or "", row["id"]


def by_creation(row: Node) -> Key:
    return row["_created"], row["id"]


class Directory(Shelf[Node]):
    """Customers as they are, and as a search sees them, which lags behind."""

    def __init__(self) -> None:
        super().__init__({"DEFAULT": by_name, "CREATED_AT": by_creation})
        self._recent: deque[tuple[int, str, Node | None]] = deque(maxlen=CHANGES_KEPT)

    def change(self, row_id: str, row: Node | None, at: int) -> None:
        """Put a row in the place of the one that was there; None deletes it. Rows are replaced, never edited."""
        self._recent.append((at, row_id, self.get(row_id)))
        if row is None:
            self.remove(row_id)
        else:
            self.put(row_id, row)

    def as_of(self, until: int, order: str) -> View[Node]:
        """What there was at a time not long ago."""
        before: dict[str, Node | None] = {}
        for at, row_id, row in reversed(self._recent):
            if at <= until:
                break
            before[row_id] = row
        if not before:
            return self.ordered(order)
        rows = [row for row_id, row in self.items() if row_id not in before]
        return View.of(rows + [row for row in before.values() if row is not None], self.orders[order])


def tell_nobody(_event_type: str, _row_id: str, _row: Any) -> None:
    """As long as nobody wants to know what changes."""


class Store:
    """The rows of one merchant. `till` makes its orders' content; entries with an underscore are never shown.

    `tell` is called with each change: the type of the vendor's event for it, the row's id and the row.
    """

    def __init__(self, merchant: Node, clock: Clock, till: Till) -> None:
        self.merchant = merchant
        self.clock = clock
        self.till = till
        self.locations: dict[str, Node] = {}
        self.customers = Directory()
        self.orders: Shelf[Order] = Shelf(
            {
                "CREATED_AT": lambda order: (order.created, order.id),
                "UPDATED_AT": lambda order: (order.updated, order.id),
                "CLOSED_AT": lambda order: (order.closed or 0, order.id),
            }
        )
        self.objects: Shelf[Node] = Shelf({"ID": lambda row: (row["id"],)})
        self.counts: Shelf[Node] = Shelf({"CALCULATED_AT": lambda row: (row["_at"], row["_id"])})
        # Only what was changed through the API: the tills' own changes leave no trace here.
        self.changes: Shelf[Node] = Shelf({"OCCURRED_AT": lambda row: (row["_occurred"], row["_number"])})
        self.made: dict[str, int] = {"customer": 0, "order": 0, "item": 0, "variation": 0, "change": 0}
        self.latest_version = 0
        self.latest_change = 0
        self.tell: Callable[[str, str, Any], None] = tell_nobody

    def number(self, kind: str) -> int:
        self.made[kind] += 1
        return self.made[kind]

    # Customers

    def put_customer(self, row: Node) -> None:
        event_type = "customer.updated" if row["id"] in self.customers else "customer.created"
        self.customers.change(row["id"], row, row["_updated"])
        self.tell(event_type, row["id"], row)

    def update_customer(self, row: Node, fields: Node) -> Node:
        """`fields` replace what is there; one that is None is taken away."""
        at = now_ms(self.clock)
        changed = {name: value for name, value in (row | fields).items() if value is not None}
        changed |= {"_updated": at, "updated_at": show_time(at), "version": row["version"] + 1}
        self.put_customer(changed)
        return changed

    def delete_customer(self, row: Node) -> None:
        self.customers.change(row["id"], None, now_ms(self.clock))
        self.tell("customer.deleted", row["id"], row)

    # Orders and locations

    def put_order(self, order: Order) -> None:
        event_type = "order.updated" if order.id in self.orders else "order.created"
        self.orders.put(order.id, order)
        self.tell(event_type, order.id, order)

    def add_location(self, name: str) -> Node:
        """One more like the first."""
        first, at = next(iter(self.locations.values())), now_ms(self.clock)
        row_id = f"L{opaque_id(12, self.merchant['id'], 'location', len(self.locations))}"
        row = {**first, "id": row_id, "name": name, "status": "ACTIVE", "created_at": show_time(at)}
        self.locations[row_id] = row
        self.tell("location.created", row_id, row)
        return row

    def rename_location(self, row: Node, name: str) -> None:
        row["name"] = name
        self.tell("location.updated", row["id"], row)

    # Catalogue

    def version(self, at: int) -> int:
        """The vendor's versions are milliseconds; two changes never have the same one."""
        self.latest_version = max(self.latest_version + 1, at)
        return self.latest_version

    def touch(self, row: Node, at: int | None = None) -> None:
        at = now_ms(self.clock) if at is None else at
        row["_updated"], row["updated_at"], row["version"] = at, show_time(at), self.version(at)
        self.latest_change = max(self.latest_change, at)
        self.tell("catalog.version.updated", "catalog", row)
        if row["type"] == "ITEM_VARIATION":
            # At the vendor an item holds its variations, so it changes with them.
            self.touch(self.objects[row["item_variation_data"]["item_id"]], at)

    def delete_object(self, row: Node) -> None:
        for variation in [self.objects[one] for one in row.get("_variations", [])] or [row]:
            variation["is_deleted"] = True
            self.touch(variation)
            if variation["type"] == "ITEM_VARIATION":
                for count in [one for one in self.counts if one["catalog_object_id"] == variation["id"]]:
                    self.counts.remove(count["_id"])
        if row["type"] == "ITEM":
            row["is_deleted"] = True
            self.touch(row)

    def show_object(self, row: Node) -> Node:
        if row["type"] != "ITEM":
            return shown(row)
        inside = [self.objects[one] for one in row["_variations"]]
        # Those of a living item that are deleted are not in it any more.
        listed = [shown(one) for one in inside if row["is_deleted"] or not one["is_deleted"]]
        return shown(row) | {"item_data": row["item_data"] | {"variations": listed}}

    def present(self, row: Node) -> list[str]:
        """The locations where an object is sold."""
        if row["present_at_all_locations"]:
            return [one for one in self.locations if one not in row.get("absent_at_location_ids", [])]
        return list(row.get("present_at_location_ids", []))

    # Stock

    def count(self, object_id: str, location_id: str, state: str) -> Node | None:
        return self.counts.get(f"{object_id}/{location_id}/{state}")

    def put_count(
        self, object_id: str, location_id: str, state: str, quantity: Decimal, *, at: int, counted: int | None
    ) -> Node:
        """`counted` is when it was last counted by hand; what happened before that is in the count already."""
        row_id = f"{object_id}/{location_id}/{state}"
        row = {
            "_id": row_id,
            "_at": at,
            "_quantity": quantity,
            "_counted": counted,
            "catalog_object_id": object_id,
            "catalog_object_type": "ITEM_VARIATION",
            "state": state,
            "location_id": location_id,
            "quantity": f"{quantity.normalize():f}",
            "calculated_at": show_time(at),
        }
        self.counts.put(row_id, row)
        self.tell("inventory.count.updated", row_id, row)
        return row

    # All of it

    def show_order(self, order: Order) -> Node:
        return show_order(self.till, order)

    def export(self) -> dict[str, Any]:
        """Everything as the API would show it, deleted objects too."""
        return {
            "merchant": self.merchant,
            "locations": list(self.locations.values()),
            "customers": [shown(row) for row in self.customers.ordered("CREATED_AT").rows],
            "orders": [self.show_order(order) for order in self.orders.ordered("CREATED_AT").rows],
            "objects": [self.show_object(row) for row in self.objects.ordered("ID").rows],
            "counts": [shown(row) for row in self.counts.ordered("CALCULATED_AT").rows],
        }
