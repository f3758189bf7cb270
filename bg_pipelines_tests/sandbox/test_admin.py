"""What the operator can see and do."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import Shop, World, change
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import START, HandClock


def test_the_shops_are_listed_with_all_that_a_program_needs(client: Client, shop: Shop) -> None:
    first, second = client.admin("GET", "shops").json()
    assert first["domain"] == shop.domain
    assert first["api_url"] == f"{client.sandbox.url}/{shop.domain}"
    assert (first["tier"], second["tier"]) == (1, 2)
    assert {"name", "token", "client_id", "client_secret"} <= first.keys()
    assert first["variants"] + second["variants"] == 90


def test_deleting_a_product_takes_its_variants_items_and_levels(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    clock.seconds += 100
    path = f"shops/{shop.domain}/edits"
    made = client.admin("POST", path, {"edit": "add_product", "variants": 3}).json()
    gone, *kept = made["variants"]
    client.admin("POST", path, {"edit": "delete_variant", "id": gone["id"]})
    export = shop.export()
    assert gone["id"] not in {row["id"] for row in export["product_variants"]}
    assert gone["inventoryItem"]["id"] not in {row["item"]["id"] for row in export["inventory_levels"]}
    assert client.ask(
        "query($id: ID!) { inventoryItem(id: $id) { id } }", id=gone["inventoryItem"]["id"]
    ) == {"inventoryItem": None}
    left = client.ask(
        "query($id: ID!) { product(id: $id) { variants(first: 9) { nodes { id } } } }", id=made["id"]
    )
    assert left["product"]["variants"]["nodes"] == [{"id": row["id"]} for row in kept]
    client.admin("POST", path, {"edit": "delete_product", "id": made["id"]})
    after = shop.export()
    assert made["id"] not in {row["id"] for row in after["products"]}
    assert not {row["id"] for row in kept} & {row["id"] for row in after["product_variants"]}
    items = {row["inventoryItem"]["id"] for row in after["product_variants"]}
    assert {row["item"]["id"] for row in after["inventory_levels"]} <= items


def test_editing_a_variant_makes_it_and_its_product_newer(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    clock.seconds += 100
    variant = shop.export()["product_variants"][0]
    edit = {"edit": "update_variant", "id": variant["id"], "fields": {"sku": "NEW", "price": "1.00"}}
    edited = client.admin("POST", f"shops/{shop.domain}/edits", edit).json()
    product = next(row for row in shop.export()["products"] if row["id"] == variant["product"]["id"])
    assert edited["updatedAt"] == product["updatedAt"] == shop.clock.stamp()
    assert edited["inventoryItem"]["sku"] == "NEW"


def test_a_deactivated_level_is_shown_only_to_those_who_ask(client: Client, shop: Shop) -> None:
    level = next(row for row in shop.export()["inventory_levels"] if row["isActive"])
    where = {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}
    client.admin("POST", f"shops/{shop.domain}/edits", {"edit": "deactivate_level", **where})
    shown = client.ask(
        """query($id: ID!) { inventoryItem(id: $id) {
          active: inventoryLevels(first: 9) { nodes { id } }
          all: inventoryLevels(first: 9, includeInactive: true) { nodes { id isActive } } } }""",
        id=level["item"]["id"],
    )["inventoryItem"]
    assert level["id"] not in {row["id"] for row in shown["active"]["nodes"]}
    assert {"id": level["id"], "isActive": False} in shown["all"]["nodes"]


def test_random_changes_repeat_and_leave_everything_consistent(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    twin = World(shops=2, variants=90, seed=7, clock=clock).shops[shop.domain]
    assert twin.export() == shop.export()
    clock.seconds += 60
    made = client.admin("POST", f"shops/{shop.domain}/changes", {"count": 300}).json()
    assert len(made) == 300
    assert {one["edit"] for one in made} >= {
        "set_quantity",
        "update_variant",
        "add_product",
        "delete_variant",
    }
    assert made == change(twin, 300)
    export = shop.export()
    assert twin.export() == export
    products = {row["id"] for row in export["products"]}
    variants = {row["inventoryItem"]["id"]: row for row in export["product_variants"]}
    assert {row["product"]["id"] for row in variants.values()} == products
    available = dict.fromkeys(variants, 0)
    for level in export["inventory_levels"]:
        quantities = {one["name"]: one["quantity"] for one in level["quantities"]}
        assert quantities["on_hand"] == quantities["available"] + quantities["committed"]
        available[level["item"]["id"]] += quantities["available"]
    assert available == {item: row["inventoryQuantity"] for item, row in variants.items()}


def test_nothing_is_new_right_after_the_start(shop: Shop) -> None:
    export = shop.export()
    recent = shop.clock.stamp(3600)
    for table in ("locations", "products", "product_variants", "inventory_levels"):
        assert export[table]
        assert all(row["updatedAt"] < recent for row in export[table])


def test_requests_are_logged_and_forgotten(client: Client, shop: Shop) -> None:
    client.post("query Few { products(first: 2) { nodes { id variants(first: 1) { nodes { id } } } } }")
    (request,) = client.admin("GET", f"requests?domain={shop.domain}").json()
    assert {name: request[name] for name in ("operation", "status", "fault", "requested_cost", "nodes")} == {
        "operation": "Few",
        "status": 200,
        "fault": None,
        "requested_cost": (2 + 2 * (1 + 2 + 1)),
        "nodes": 4,
    }
    client.admin("DELETE", "requests")
    assert client.admin("GET", "requests").json() == []


def test_the_clock_can_be_shifted(client: Client) -> None:
    assert client.admin("POST", "clock", {"offset_seconds": 3600}).json()["offset_seconds"] == 3600
    assert client.sandbox.world.clock.seconds() == START + 3600


def test_faults_are_added_listed_and_cleared(client: Client, shop: Shop) -> None:
    path = f"shops/{shop.domain}/faults"
    client.admin("POST", path, {"kind": "locked", "times": 1})
    assert client.post("{ shop { id } }").status_code == 423
    (fault,) = client.admin("GET", path).json()
    assert (fault["kind"], fault["applied"]) == ("locked", 1)
    assert client.admin("DELETE", path).json() == []
    assert shop.faults == []


@pytest.mark.parametrize(
    ("what", "content", "field"),
    [
        ("faults", {"kind": "gremlin"}, "kind"),
        ("faults", {"kind": "cut", "times": -1}, "times"),
        ("faults", {"kind": "cut", "tmies": 1}, "tmies"),
        ("faults", {"kind": "null_field"}, "field"),
        ("faults", {"kind": "slow", "seconds": "long"}, "seconds"),
        ("faults", 5, "fault"),
        ("changes", {"count": "many"}, "count"),
        ("changes", {}, "count"),
        ("edits", {}, "edit"),
        ("edits", {"edit": "explode"}, "edit"),
        ("edits", {"edit": "delete_product", "id": "gid://shopify/Product/1"}, "id"),
        ("edits", {"edit": "set_budget", "maximum": "big"}, "maximum"),
        ("edits", {"edit": "set_budget", "size": 1}, "size"),
    ],
)
def test_a_wrong_wish_names_the_field(
    client: Client, shop: Shop, what: str, content: Any, field: str
) -> None:
    answer = client.admin("POST", f"shops/{shop.domain}/{what}", content)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert field in answer.json()["error"]


def test_a_body_that_is_not_json_and_a_place_that_is_none_are_told(client: Client, shop: Shop) -> None:
    url = f"{client.sandbox.url}/sandbox/clock"
    assert client.session.post(url, data=b"{").json()["field"] == "body"
    assert client.admin("GET", "nothing").status_code == 404
    assert client.admin("GET", "shops/nobody/export").status_code == 404
    assert client.admin("PUT", "shops").status_code == 405
    assert client.admin("GET", "requests?domain=nobody").json()["field"] == "domain"
