"""Square's Customers API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.sandbox import Merchant, edit
from bg_pipelines_tests.sandbox.square.conftest import SquareClient, ids
from bg_pipelines_tests.support import START, HandClock

SEARCH = "customers/search"
BY_CREATION = {"query": {"sort": {"field": "CREATED_AT", "order": "ASC"}}}


def at(seconds: float) -> str:
    return (datetime.fromtimestamp(START, UTC) + timedelta(seconds=seconds)).isoformat()


def found(client: SquareClient, **given: Any) -> list[str]:
    return ids(client.rows(SEARCH, "customers", {"query": {"filter": given}}))


def test_pages_hold_every_customer_once_in_the_order_asked_for(
    client: SquareClient, merchant: Merchant
) -> None:
    everybody = merchant.export()["customers"]
    pages = client.pages(SEARCH, "customers", {**BY_CREATION, "limit": 25})
    assert [len(page) for page in pages] == [25, 25, 10]
    assert [row for page in pages for row in page] == everybody
    newest_first = {"query": {"sort": {"field": "CREATED_AT", "order": "DESC"}}, "limit": 7}
    assert client.rows(SEARCH, "customers", newest_first) == everybody[::-1]
    by_name = client.rows(SEARCH, "customers", {"limit": 7})
    assert sorted(ids(by_name)) == sorted(ids(everybody))
    names = [(row.get("given_name", ""), row.get("family_name", "")) for row in by_name]
    assert names == sorted(names)


def test_the_count_is_of_all_pages_and_comes_only_if_asked_for(client: SquareClient) -> None:
    assert client.post(SEARCH, {"limit": 5, "count": True})["count"] == 60
    assert "count" not in client.post(SEARCH, {"limit": 5})


def test_customers_are_found_by_when_they_were_made_or_changed_bounds_included(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    first = edit(merchant, "add_customer", fields={"given_name": "Ann"})
    clock.seconds += 60
    second = edit(merchant, "add_customer")
    edit(merchant, "update_customer", id=first["id"], fields={"note": "new"})
    assert found(client, created_at={"start_at": at(0), "end_at": at(0)}) == [first["id"]]
    assert found(client, created_at={"start_at": at(1)}) == [second["id"]]
    assert sorted(found(client, updated_at={"start_at": at(60)})) == sorted([first["id"], second["id"]])
    assert found(client, updated_at={"start_at": at(60.0005)}) == []
    assert client.post(SEARCH, {"query": {"filter": {"updated_at": {"start_at": at(61)}}}}) == {}


def test_customers_are_found_by_what_they_are_known_by(client: SquareClient, merchant: Merchant) -> None:
    made = edit(
        merchant, "add_customer", fields={"email_address": "a@b.example", "phone_number": "(212) 555-0199"}
    )
    assert found(client, email_address={"exact": "a@b.example"}) == [made["id"]]
    assert found(client, phone_number={"exact": "(212) 555-0199"}) == [made["id"]]
    assert found(client, phone_number={"exact": "+12125550199"}) == []
    online = found(client, creation_source={"values": ["ONLINE_STORE"], "rule": "INCLUDE"})
    others = found(client, creation_source={"values": ["ONLINE_STORE"], "rule": "EXCLUDE"})
    assert online
    assert len(online) + len(others) == len(merchant.store.customers)


def test_a_cursor_is_good_for_its_query_and_merchant_alone(client: SquareClient, merchant: Merchant) -> None:
    cursor = client.post(SEARCH, {**BY_CREATION, "limit": 5})["cursor"]
    # The size of the page may change.
    assert len(client.post(SEARCH, {**BY_CREATION, "limit": 9, "cursor": cursor})["customers"]) == 9
    for content in (
        {"cursor": cursor},
        {"query": {"sort": {"field": "CREATED_AT", "order": "DESC"}}, "cursor": cursor},
        {**BY_CREATION, "cursor": cursor[:-4]},
        {**BY_CREATION, "cursor": f"{cursor[:-4]}AAAA"},
    ):
        assert client.refused("POST", SEARCH, content) == (400, "INVALID_CURSOR", "cursor")
    other = next(one for one in client.sandbox.world.square_merchants.values() if one is not merchant)
    answer = client.send("POST", SEARCH, {**BY_CREATION, "cursor": cursor}, token=other.token)
    assert answer.json()["errors"][0]["code"] == "INVALID_CURSOR"
    assert client.refused("GET", "catalog/list", cursor=cursor) == (400, "INVALID_CURSOR", "cursor")


def test_a_customer_deleted_behind_a_cursor_loses_nobody_else(
    client: SquareClient, merchant: Merchant
) -> None:
    everybody = ids(merchant.export()["customers"])
    page = client.post(SEARCH, {**BY_CREATION, "limit": 10})
    edit(merchant, "delete_customer", id=page["customers"][-1]["id"])
    edit(merchant, "delete_customer", id=page["customers"][0]["id"])
    rest = client.rows(SEARCH, "customers", {**BY_CREATION, "limit": 10, "cursor": page["cursor"]})
    assert ids(page["customers"]) + ids(rest) == everybody


def test_a_search_lags_behind_what_was_made_changed_or_deleted(
    client: SquareClient, merchant: Merchant, clock: HandClock
) -> None:
    edit(merchant, "set_search_lag", seconds=45)
    kept = edit(merchant, "add_customer", fields={"note": "old"})
    gone = edit(merchant, "add_customer")
    since = {"created_at": {"start_at": at(0)}}
    assert found(client, **since) == []
    assert client.get(f"customers/{kept['id']}")["customer"] == kept
    clock.seconds += 45
    assert sorted(found(client, **since)) == sorted([kept["id"], gone["id"]])
    edit(merchant, "update_customer", id=kept["id"], fields={"note": "new"})
    edit(merchant, "delete_customer", id=gone["id"])
    query = {"query": {"filter": since}}
    assert {row.get("note") for row in client.rows(SEARCH, "customers", query)} >= {"old"}
    assert found(client, updated_at={"start_at": at(1)}) == []
    assert gone["id"] in found(client, **since)
    clock.seconds += 45
    assert [row["note"] for row in client.rows(SEARCH, "customers", query)] == ["new"]


def test_customers_are_read_by_their_ids_each_with_an_answer_of_its_own(
    client: SquareClient, merchant: Merchant
) -> None:
    row = merchant.export()["customers"][0]
    path = "customers/bulk-retrieve"
    answered = client.post(path, {"customer_ids": [row["id"], "nobody"]})["responses"]
    assert answered[row["id"]] == {"customer": row}
    assert [error["code"] for error in answered["nobody"]["errors"]] == ["NOT_FOUND"]
    assert client.refused("POST", path, {"customer_ids": ["x"] * 101})[1] == "ARRAY_LENGTH_TOO_LONG"
    assert client.refused("POST", path, {"customer_ids": []})[1] == "ARRAY_EMPTY"


def test_a_customer_is_made_once_per_key(client: SquareClient, merchant: Merchant) -> None:
    given = {"given_name": "Ann", "phone_number": "(212) 555-0001", "idempotency_key": "k"}
    made = client.post("customers", given)
    assert client.post("customers", given) == made
    assert client.refused("POST", "customers", {**given, "note": "x"}) == (
        400,
        "IDEMPOTENCY_KEY_REUSED",
        "idempotency_key",
    )
    assert (len(merchant.store.customers), merchant.applied) == (61, 1)
    # What was typed is what is kept.
    assert made["customer"]["phone_number"] == "(212) 555-0001"
    assert (made["customer"]["version"], made["customer"]["created_at"]) == (0, "2026-11-18T11:06:40.000Z")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"note": "nobody"}, "BAD_REQUEST"),
        ({"email_address": "ann"}, "INVALID_EMAIL_ADDRESS"),
        ({"phone_number": "555"}, "INVALID_PHONE_NUMBER"),
    ],
)
def test_a_customer_that_is_none_is_refused(
    client: SquareClient, merchant: Merchant, fields: dict[str, str], code: str
) -> None:
    status, refused, _ = client.refused("POST", "customers", fields)
    assert (status, refused, merchant.applied) == (400, code, 0)


def test_an_update_needs_the_version_that_it_knew(client: SquareClient, merchant: Merchant) -> None:
    made = edit(merchant, "add_customer", fields={"given_name": "Ann", "nickname": "A", "note": "old"})
    path = f"customers/{made['id']}"
    changed = client.well(client.send("PUT", path, {"version": 0, "note": "new", "nickname": None}))
    assert changed["customer"] == client.get(path)["customer"]
    assert (changed["customer"]["version"], changed["customer"]["note"]) == (1, "new")
    assert changed["customer"]["given_name"] == "Ann"
    assert "nickname" not in changed["customer"]
    assert client.refused("PUT", path, {"version": 0, "note": "late"}) == (409, "CONFLICT", "version")
    assert client.refused("DELETE", path, version=0) == (409, "CONFLICT", "version")
    assert client.well(client.send("DELETE", path, version=1)) == {}
    for method in ("GET", "DELETE"):
        assert client.refused(method, path) == (404, "NOT_FOUND", "customer_id")
    assert client.refused("PUT", path, {"note": "x"}) == (404, "NOT_FOUND", "customer_id")


def test_an_update_may_not_take_everything_away(client: SquareClient, merchant: Merchant) -> None:
    made = client.post("customers", {"given_name": "Ann"})["customer"]
    assert client.refused("PUT", f"customers/{made['id']}", {"given_name": None})[1] == "BAD_REQUEST"
    assert client.get(f"customers/{made['id']}")["customer"] == made
