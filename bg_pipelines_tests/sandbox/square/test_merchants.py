"""What the seed makes of merchants, and what edits make of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bg_pipelines.sandbox import RejectedError, World, change, edit
from bg_pipelines.sandbox.square.edits import EDITS
from bg_pipelines.sandbox.square.random_edits import RANDOM_EDITS
from bg_pipelines_tests.support import START


def worlds(count: int = 1, **options: Any) -> list[World]:
    sizes = {"shops": 1, "variants": 0, "merchants": 2, "square_customers": 300, "clock": lambda: START}
    return [World(**{**sizes, **options}) for _ in range(count)]


def test_there_are_none_unless_asked_for() -> None:
    assert World(shops=1, variants=1).square_merchants == {}


def test_the_same_seed_makes_the_same_merchants_and_changes() -> None:
    first, second = worlds(2)
    for one, other in zip(first.square_merchants.values(), second.square_merchants.values(), strict=True):
        assert (one.id, one.token) == (other.id, other.token)
        assert change(one, 80) == change(other, 80)
        assert one.export() == other.export()
    [other_seed] = worlds(seed=8)
    assert not other_seed.square_merchants.keys() & first.square_merchants.keys()


def test_the_seed_holds_the_rows_that_break_naive_code() -> None:
    [world] = worlds(merchants=8, square_variants=1600, square_customers=1600)
    exports = [merchant.export() for merchant in world.square_merchants.values()]
    sizes = [len(export["locations"]) for export in exports]
    assert (min(sizes), max(sizes)) == (1, 14)
    assert {"USD", "EUR", "JPY", "BHD"} <= {export["merchant"]["currency"] for export in exports}
    assert any(row["status"] == "INACTIVE" for export in exports for row in export["locations"])

    people = [row for export in exports for row in export["customers"]]
    names = " ".join(row.get("given_name", "") + row.get("family_name", "") for row in people)
    assert all(any(first <= letter <= last for letter in names) for first, last in SCRIPTS)
    phones = [row["phone_number"] for row in people if "phone_number" in row]
    assert 0 < len(phones) < len(people)
    assert any(phone.startswith("+") for phone in phones)
    assert any(phone.startswith("(") for phone in phones)
    assert len(set(phones)) < len(phones)
    emails = [row["email_address"] for row in people if "email_address" in row]
    assert emails.count("family@example.com") > 1
    assert any(email != email.lower() for email in emails)
    assert any(row.get("birthday", "").startswith("0000") for row in people)

    things = [row["item_variation_data"] for row in objects(exports, "ITEM_VARIATION")]
    assert any("sku" not in thing for thing in things)
    assert any(thing.get("sku") == "" for thing in things)
    assert any("price_money" not in thing for thing in things)
    assert any(not row["present_at_all_locations"] for row in objects(exports, "ITEM"))

    orders = [row for export in exports for row in export["orders"]]
    assert {order["state"] for order in orders} == {"OPEN", "COMPLETED", "CANCELED"}
    assert any("customer_id" not in order for order in orders)
    assert any("source" not in order for order in orders)
    assert any("name" not in line for order in orders for line in order["line_items"])


SCRIPTS = (("A", "z"), ("ا", "ي"), ("א", "ת"), ("А", "я"), ("一", "龥"), ("\U0001f300", "\U0001faff"))


def objects(exports: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for export in exports for row in export["objects"] if row["type"] == kind]


def test_ids_are_unique_over_all_merchants_and_kinds() -> None:
    [world] = worlds(merchants=3)
    ids = [
        row["id"]
        for merchant in world.square_merchants.values()
        for name in ("locations", "customers", "orders", "objects")
        for row in merchant.export()[name]
    ]
    assert len(ids) == len(set(ids)) > 2000


def test_many_merchants_are_made_in_a_moment_because_their_rows_are_not() -> None:
    start = time.monotonic()
    [world] = worlds(merchants=2000, square_customers=10_000_000, square_variants=1_000_000)
    assert time.monotonic() - start < 10
    assert len(world.square_merchants) == 2000


@pytest.mark.parametrize("name", ["merchants", "square_variants", "square_customers", "square_orders"])
def test_a_number_below_zero_is_rejected(name: str) -> None:
    with pytest.raises(RejectedError, match=name):
        worlds(**{name: -1})


def test_merchants_without_rows_answer_all_the_same() -> None:
    [world] = worlds(square_customers=0, square_variants=0)
    for merchant in world.square_merchants.values():
        assert merchant.export()["orders"] == []
        assert len(change(merchant, 50)) == 50


def test_a_change_of_the_world_comes_to_merchants_too() -> None:
    [world] = worlds()
    before = [merchant.export() for merchant in world.square_merchants.values()]
    for _ in range(3):
        world.change_one()
    after = [merchant.export() for merchant in world.square_merchants.values()]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_random_changes_are_edits_that_exist() -> None:
    assert {name for name, _ in RANDOM_EDITS} <= EDITS.keys()


def test_an_order_that_was_sold_never_changes_with_the_catalogue() -> None:
    [world] = worlds()
    merchant = next(iter(world.square_merchants.values()))
    before = merchant.export()["orders"]
    for row in [row for row in merchant.export()["objects"] if row["type"] == "ITEM_VARIATION"][:50]:
        edit(merchant, "update_variation", id=row["id"], fields={"price": 1, "name": "other"})
    for row in [row for row in merchant.export()["objects"] if row["type"] == "ITEM"][:20]:
        edit(merchant, "delete_item", id=row["id"])
    assert merchant.export()["orders"] == before
