"""Square's Catalog and Inventory APIs."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import Merchant, edit
from bg_pipelines_tests.sandbox.square.conftest import SquareClient, ids
from bg_pipelines_tests.support import HandClock

COUNTS, CHANGES = "inventory/counts/batch-retrieve", "inventory/changes/batch-create"
NOW = "2026-11-18T11:06:40Z"


def list_all(client: SquareClient, **params: Any) -> list[Any]:
    found, cursor = [], None
    while True:
        body = client.get("catalog/list", **params, **({"cursor": cursor} if cursor else {}))
        found += body.get("objects", [])
        cursor = body.get("cursor")
        if cursor is None:
            return found


def of_type(merchant: Merchant, kind: str) -> list[Any]:
    return [row for row in merchant.export()["objects"] if row["type"] == kind]


def test_the_list_holds_every_object_once_a_hundred_a_page(client: SquareClient, merchant: Merchant) -> None:
    expected = [row for row in merchant.export()["objects"] if not row["is_deleted"]]
    assert len(client.get("catalog/list", types="item,ITEM_VARIATION")["objects"]) == 100
    assert list_all(client, types="item,ITEM_VARIATION") == expected
    assert list_all(client) == of_type(merchant, "ITEM")
    assert client.get("catalog/list", types="TAX") == {}
    assert client.refused("GET", "catalog/list", types="THING")[1] == "INVALID_ENUM_VALUE"


def test_an_item_holds_its_variations(merchant: Merchant) -> None:
    variations = {row["id"]: row for row in of_type(merchant, "ITEM_VARIATION")}
    inside = [one for item in of_type(merchant, "ITEM") for one in item["item_data"]["variations"]]
    assert {one["id"]: one for one in inside} == variations
    assert len(inside) == len(variations) == 120


def test_what_changed_since_a_time_is_found_and_that_time_itself_is_not(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    item = of_type(merchant, "ITEM")[0]
    variation = item["item_data"]["variations"][0]
    query: dict[str, Any] = {"object_types": ["ITEM", "ITEM_VARIATION"], "begin_time": NOW}
    clock.seconds += 1
    edit(merchant, "update_variation", id=variation["id"], fields={"price": 4200, "sku": None})
    body = client.post("catalog/search", query)
    assert sorted(ids(body["objects"])) == sorted([item["id"], variation["id"]])
    assert body["latest_time"] == "2026-11-18T11:06:41.000Z"
    [shown] = [row for row in body["objects"] if row["type"] == "ITEM_VARIATION"]
    assert shown["item_variation_data"]["price_money"]["amount"] == 4200
    assert "sku" not in shown["item_variation_data"]
    assert shown["version"] > variation["version"]
    at_that_time = client.post("catalog/search", {**query, "begin_time": "2026-11-18T11:06:41Z"})
    assert "objects" not in at_that_time


def test_a_deleted_item_is_shown_only_to_who_asks_for_it_and_its_stock_is_gone(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    item = next(row for row in of_type(merchant, "ITEM") if len(row["item_data"]["variations"]) > 1)
    inside = ids(item["item_data"]["variations"])
    edit(merchant, "delete_item", id=item["id"])
    assert item["id"] not in ids(list_all(client, types="ITEM,ITEM_VARIATION"))
    query = {"object_types": ["ITEM", "ITEM_VARIATION"], "include_deleted_objects": True, "limit": 7}
    gone = [row for row in client.rows("catalog/search", "objects", query) if row["is_deleted"]]
    assert sorted(ids(gone)) == sorted([item["id"], *inside])
    assert {row["updated_at"] for row in gone} == {"2026-11-18T11:06:40.000Z"}
    wanted = {"object_ids": [item["id"]]}
    assert client.post("catalog/batch-retrieve", wanted) == {}
    [shown] = client.post("catalog/batch-retrieve", {**wanted, "include_deleted_objects": True})["objects"]
    assert ids(shown["item_data"]["variations"]) == inside
    assert client.post(COUNTS, {"catalog_object_ids": inside}) == {}


def test_a_deleted_variation_leaves_its_item_there_without_it(
    client: SquareClient, merchant: Merchant
) -> None:
    item = next(row for row in of_type(merchant, "ITEM") if len(row["item_data"]["variations"]) > 1)
    first, *rest = ids(item["item_data"]["variations"])
    edit(merchant, "delete_variation", id=first)
    [shown] = client.post("catalog/batch-retrieve", {"object_ids": [item["id"]]})["objects"]
    assert ids(shown["item_data"]["variations"]) == rest
    assert shown["version"] > item["version"]


def test_counts_come_newest_first_and_each_once(client: SquareClient, merchant: Merchant) -> None:
    expected = merchant.export()["counts"][::-1]
    assert len(expected) > 1000
    assert client.rows(COUNTS, "counts", {"limit": 333}) == expected
    assert {row["state"] for row in expected} == {"IN_STOCK", "WASTE"}
    assert any(row["quantity"].startswith("-") for row in expected)


def test_counts_are_found_by_object_place_state_and_time(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    exported = merchant.export()["counts"]
    one = exported[0]
    place, thing = one["location_id"], one["catalog_object_id"]
    found = client.rows(COUNTS, "counts", {"location_ids": [place], "catalog_object_ids": [thing]})
    assert one in found
    assert all(row["location_id"] == place and row["catalog_object_id"] == thing for row in found)
    wasted = client.rows(COUNTS, "counts", {"states": ["WASTE"]})
    assert wasted == [row for row in exported[::-1] if row["state"] == "WASTE"]
    clock.seconds += 1
    changed = edit(merchant, "set_count", catalog_object_id=thing, location_id=place, quantity="2.5")
    assert client.post(COUNTS, {"updated_after": NOW}) == {"counts": [changed]}
    assert client.post(COUNTS, {"updated_after": changed["calculated_at"]}) == {}
    assert client.rows(COUNTS, "counts", {"location_ids": []})[0] == changed
    for limit, code in ((0, "VALUE_TOO_LOW"), (1001, "VALUE_TOO_HIGH")):
        assert client.refused("POST", COUNTS, {"limit": limit}) == (400, code, "limit")


def test_a_count_changed_while_pages_are_read_is_missing_from_them(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    """So a reader may only move on to the time at which it began, and after its last page."""
    oldest = merchant.export()["counts"][0]
    page = client.post(COUNTS, {"limit": 500})
    clock.seconds += 1
    edit(
        merchant,
        "set_count",
        catalog_object_id=oldest["catalog_object_id"],
        location_id=oldest["location_id"],
        state=oldest["state"],
        quantity=77,
    )
    rest = client.rows(COUNTS, "counts", {"limit": 500, "cursor": page["cursor"]})
    assert oldest not in page["counts"] + rest
    assert [row["quantity"] for row in client.post(COUNTS, {"updated_after": NOW})["counts"]] == ["77"]


@pytest.fixture
def key(merchant: Merchant) -> dict[str, str]:
    row = next(row for row in merchant.export()["counts"] if row["state"] == "IN_STOCK")
    return {"catalog_object_id": row["catalog_object_id"], "location_id": row["location_id"]}


def counted(key: dict[str, str], quantity: str, at: str = NOW, **more: Any) -> dict[str, Any]:
    content = {**key, "quantity": quantity, "occurred_at": at, "state": "IN_STOCK", **more}
    return {"type": "PHYSICAL_COUNT", "physical_count": content}


def moved(
    key: dict[str, str], quantity: str, at: str = NOW, states: tuple[str, str] = ("NONE", "IN_STOCK")
) -> dict[str, Any]:
    content = {
        **key,
        "quantity": quantity,
        "occurred_at": at,
        "from_state": states[0],
        "to_state": states[1],
    }
    return {"type": "ADJUSTMENT", "adjustment": content}


def quantity(client: SquareClient, key: dict[str, str], state: str = "IN_STOCK") -> str:
    query = {name: [value] for name, value in ((f"{name}s", value) for name, value in key.items())}
    [row] = client.post(COUNTS, {**query, "states": [state]})["counts"]
    return str(row["quantity"])


def test_a_count_is_set_once_per_key(client: SquareClient, merchant: Merchant, key: dict[str, str]) -> None:
    content = {"idempotency_key": "a", "changes": [counted(key, "41")]}
    first = client.post(CHANGES, content)
    assert (first["counts"][0]["quantity"], first["changes"][0]["type"]) == ("41", "PHYSICAL_COUNT")
    client.post(CHANGES, {"idempotency_key": "b", "changes": [moved(key, "5")]})
    assert client.post(CHANGES, content) == first
    assert (quantity(client, key), merchant.applied) == ("46", 2)
    reused = {"idempotency_key": "a", "changes": [counted(key, "42")]}
    assert client.refused("POST", CHANGES, reused) == (400, "IDEMPOTENCY_KEY_REUSED", "idempotency_key")


def test_adjustments_move_stock_between_states(client: SquareClient, key: dict[str, str]) -> None:
    changes = [
        counted(key, "10", "2026-11-18T11:00:00Z"),
        moved(key, "3", states=("IN_STOCK", "WASTE")),
        moved(key, "9", states=("IN_STOCK", "SOLD")),
    ]
    body = client.post(CHANGES, {"idempotency_key": "a", "changes": changes})
    assert quantity(client, key) == "-2"
    assert {row["state"] for row in body["counts"]} == {"IN_STOCK", "WASTE"}


def test_what_was_changed_can_be_read_again_oldest_first(client: SquareClient, key: dict[str, str]) -> None:
    for number, time in enumerate(("11:00:00", "10:00:00", "10:30:00")):
        given = {
            **key,
            "from_state": "NONE",
            "to_state": "IN_STOCK",
            "quantity": "1",
            "reference_id": str(number),
        }
        given["occurred_at"] = f"2026-11-18T{time}Z"
        change = {"type": "ADJUSTMENT", "adjustment": given}
        client.post(CHANGES, {"idempotency_key": str(number), "changes": [change]})
    path = "inventory/changes/batch-retrieve"

    def references(**asked: Any) -> list[str]:
        return [
            row["adjustment"]["reference_id"] for row in client.rows(path, "changes", {"limit": 2, **asked})
        ]

    assert references() == ["1", "2", "0"]
    assert references(location_ids=[key["location_id"]], types=["ADJUSTMENT"], states=["IN_STOCK"]) == [
        "1",
        "2",
        "0",
    ]
    assert (
        references(types=["PHYSICAL_COUNT"])
        == references(updated_after=NOW)
        == references(states=["WASTE"])
        == []
    )
    assert client.refused("POST", path, {"types": ["TRANSFER"]})[1] == "INVALID_ENUM_VALUE"


def test_what_occurred_before_the_last_count_is_in_that_count_already(
    client: SquareClient, merchant: Merchant, key: dict[str, str]
) -> None:
    changes = [moved(key, "100", "2026-11-18T10:00:00Z"), counted(key, "7", "2026-11-18T11:00:00Z")]
    client.post(CHANGES, {"idempotency_key": "a", "changes": changes[::-1]})
    assert quantity(client, key) == "7"
    late = [counted(key, "99", "2026-11-18T10:30:00Z"), moved(key, "1", "2026-11-18T10:45:00Z")]
    client.post(CHANGES, {"idempotency_key": "b", "changes": late})
    assert quantity(client, key) == "7"


def test_a_count_that_changes_nothing_is_ignored_unless_asked_otherwise(
    client: SquareClient, merchant: Merchant, key: dict[str, str], clock: HandClock
) -> None:
    client.post(CHANGES, {"idempotency_key": "a", "changes": [counted(key, "7")]})
    clock.seconds += 60
    same = [counted(key, "7", "2026-11-18T11:07:00Z")]
    body = client.post(CHANGES, {"idempotency_key": "b", "changes": same})
    assert "changes" not in body
    assert (body["counts"][0]["calculated_at"], merchant.applied) == ("2026-11-18T11:06:40.000Z", 1)
    again = {"idempotency_key": "c", "changes": same, "ignore_unchanged_counts": False}
    assert client.post(CHANGES, again)["counts"][0]["calculated_at"] == "2026-11-18T11:07:40.000Z"


def test_one_bad_change_refuses_the_whole_batch(
    client: SquareClient, merchant: Merchant, key: dict[str, str]
) -> None:
    before = quantity(client, key)
    bad = {
        "NOT_FOUND": counted({**key, "catalog_object_id": "X"}, "1"),
        "INVALID_VALUE": counted(key, "many"),
        "INVALID_TIME": counted(key, "1", "2026-11-17T11:00:00Z"),
        "MISSING_REQUIRED_PARAMETER": {"type": "PHYSICAL_COUNT"},
        "INVALID_ENUM_VALUE": {"type": "TRANSFER"},
        "BAD_REQUEST": moved(key, "1", states=("SOLD", "NONE")),
    }
    for code, change in bad.items():
        content = {"idempotency_key": code, "changes": [counted(key, "12345"), change]}
        status, refused, field = client.refused("POST", CHANGES, content)
        assert (refused, status) == (code, 404 if code == "NOT_FOUND" else 400)
        assert field is not None
        assert field.startswith("changes[1]")
    for content in (
        {"changes": [counted(key, "1")]},
        {"idempotency_key": "", "changes": [counted(key, "1")]},
        {"idempotency_key": "x", "changes": []},
        {"idempotency_key": "x", "changes": [counted(key, "1")] * 101},
    ):
        assert client.refused("POST", CHANGES, content)[0] == 400
    assert (quantity(client, key), merchant.applied) == (before, 0)
