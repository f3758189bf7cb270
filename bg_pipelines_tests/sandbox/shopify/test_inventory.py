"""Setting quantities: compared first, applied once, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Fault, Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import HandClock

SET = """mutation Set($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id reason changes(quantityNames: ["available"]) {
      name delta quantityAfterChange item { id } location { id } } }
    userErrors { code field message }
  }
}"""


def quantity_of(level: dict[str, Any], name: str) -> int:
    return int(next(quantity["quantity"] for quantity in level["quantities"] if quantity["name"] == name))


def level_now(shop: Shop, level: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in shop.export()["inventory_levels"] if row["id"] == level["id"])


@pytest.fixture
def levels(shop: Shop) -> list[dict[str, Any]]:
    return [level for level in shop.export()["inventory_levels"] if level["isActive"]]


def change(level: dict[str, Any], quantity: int, **settings: Any) -> dict[str, Any]:
    return {
        "inventoryItemId": level["item"]["id"],
        "locationId": level["location"]["id"],
        "quantity": quantity,
        "changeFromQuantity": quantity_of(level, "available"),
    } | settings


def given(*changes: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"name": "available", "reason": "correction", "quantities": list(changes)} | settings


def put(client: Client, content: dict[str, Any], key: str = "one") -> dict[str, Any]:
    answer: dict[str, Any] = client.ask(SET, input=content, key=key)["inventorySetQuantities"]
    return answer


def test_a_quantity_is_set_and_what_is_on_hand_moves_with_it(
    client: Client, shop: Shop, levels: list[dict[str, Any]], clock: HandClock
) -> None:
    clock.seconds += 50
    level, before = levels[0], shop.export()
    answer = put(client, given(change(level, 777)))
    assert answer["userErrors"] == []
    (made,) = answer["inventoryAdjustmentGroup"]["changes"]
    delta = 777 - quantity_of(level, "available")
    assert (made["delta"], made["quantityAfterChange"], made["item"]) == (delta, 777, level["item"])
    now = level_now(shop, level)
    assert quantity_of(now, "available") == 777
    assert quantity_of(now, "on_hand") == quantity_of(level, "on_hand") + delta
    assert now["updatedAt"] > level["updatedAt"]
    # Stock makes neither the variant nor the product newer.
    after = shop.export()
    assert [row["updatedAt"] for row in after["product_variants"]] == [
        row["updatedAt"] for row in before["product_variants"]
    ]
    assert after["products"] == before["products"]
    assert shop.applied == 1


def test_a_stale_comparison_applies_nothing(client: Client, shop: Shop, levels: list[dict[str, Any]]) -> None:
    before = shop.export()
    stale = change(levels[0], 5, changeFromQuantity=quantity_of(levels[0], "available") + 1)
    answer = put(client, given(stale, change(levels[1], 6)))
    assert answer["inventoryAdjustmentGroup"] is None
    assert answer["userErrors"] == [
        {
            "code": "CHANGE_FROM_QUANTITY_STALE",
            "field": ["input", "quantities", "0", "changeFromQuantity"],
            "message": "The changeFromQuantity value does not match persisted value.",
        }
    ]
    assert shop.export() == before
    assert shop.applied == 0


def test_a_repeated_key_gets_the_first_answer_and_applies_once(
    client: Client, shop: Shop, levels: list[dict[str, Any]]
) -> None:
    content = given(change(levels[0], 777))
    first = put(client, content)
    assert put(client, content) == first
    assert shop.applied == 1
    other = put(client, given(change(levels[0], 778)))
    assert [error["code"] for error in other["userErrors"]] == ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]
    assert quantity_of(level_now(shop, levels[0]), "available") == 777


def test_a_lost_answer_can_be_asked_for_again(
    client: Client, shop: Shop, levels: list[dict[str, Any]]
) -> None:
    shop.faults.append(Fault("apply_then_cut", times=1, operation="inventorySetQuantities"))
    content = given(change(levels[0], 777))
    with pytest.raises(requests.ConnectionError):
        put(client, content)
    assert quantity_of(level_now(shop, levels[0]), "available") == 777
    assert put(client, content)["userErrors"] == []
    assert shop.applied == 1
    assert [request.status for request in shop.requests] == [None, 200]


@pytest.mark.parametrize(
    ("settings", "one", "code", "field"),
    [
        ({"name": "incoming"}, {}, "INVALID_NAME", ["input", "name"]),
        ({"reason": "whim"}, {}, "INVALID_REASON", ["input", "reason"]),
        ({"referenceDocumentUri": "x"}, {}, "INVALID_REFERENCE_DOCUMENT", ["input", "referenceDocumentUri"]),
        (
            {},
            {"inventoryItemId": "gid://shopify/InventoryItem/1"},
            "INVALID_INVENTORY_ITEM",
            "inventoryItemId",
        ),
        ({}, {"locationId": "gid://shopify/Location/1"}, "INVALID_LOCATION", "locationId"),
        ({}, {"quantity": -1}, "INVALID_QUANTITY_NEGATIVE", "quantity"),
        ({}, {"quantity": 1_000_000_001}, "INVALID_QUANTITY_TOO_HIGH", "quantity"),
    ],
)
def test_a_wrong_input_is_a_user_error(
    client: Client, levels: list[dict[str, Any]], settings: Any, one: Any, code: str, field: Any
) -> None:
    (error,) = put(client, given(change(levels[0], 5) | one, **settings))["userErrors"]
    assert error["code"] == code
    assert error["field"] == (field if isinstance(field, list) else ["input", "quantities", "0", field])


def test_an_item_must_be_stocked_and_named_once(
    client: Client, shop: Shop, levels: list[dict[str, Any]]
) -> None:
    first, second = levels[:2]
    twice = put(client, given(change(first, 5), change(first, 6)))
    assert [error["code"] for error in twice["userErrors"]] == [
        "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR"
    ]
    edit(
        shop, "deactivate_level", inventory_item_id=second["item"]["id"], location_id=second["location"]["id"]
    )
    closed = put(client, given(change(second, 5)), key="two")
    assert [error["code"] for error in closed["userErrors"]] == ["ITEM_NOT_STOCKED_AT_LOCATION"]


def test_the_key_and_the_comparison_are_required(
    client: Client, shop: Shop, levels: list[dict[str, Any]]
) -> None:
    without_key = SET.replace("@idempotent(key: $key)", "").replace(", $key: String!", "")
    body = client.post(without_key, {"input": given(change(levels[0], 5))}).json()
    assert body["errors"][0]["message"] == (
        "The @idempotent directive is required for this mutation but was not provided."
    )
    bare = change(levels[0], 5)
    del bare["changeFromQuantity"]
    body = client.post(SET, {"input": given(bare), "key": "k"}).json()
    assert "changeFromQuantity" in body["errors"][0]["message"]
    assert shop.applied == 0
    # An explicit null opts out of the comparison.
    assert put(client, given(change(levels[0], 5, changeFromQuantity=None)), key="null")["userErrors"] == []
