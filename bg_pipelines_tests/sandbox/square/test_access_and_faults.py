"""Tokens, scopes, versions, and each kind of fault as a client sees it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Fault, Merchant, RejectedError, Sandbox, edit
from bg_pipelines.sandbox.square.api import REQUEST_KINDS
from bg_pipelines_tests.sandbox.square.conftest import SquareClient, ids

SEARCH = "customers/search"
STATUSES = [
    ("unauthorized", 401, "AUTHENTICATION_ERROR", "UNAUTHORIZED"),
    ("forbidden", 403, "AUTHENTICATION_ERROR", "FORBIDDEN"),
    ("not_found", 404, "INVALID_REQUEST_ERROR", "NOT_FOUND"),
    ("too_many_requests", 429, "RATE_LIMIT_ERROR", "RATE_LIMITED"),
    ("server_error", 500, "API_ERROR", "INTERNAL_SERVER_ERROR"),
    ("service_unavailable", 503, "API_ERROR", "SERVICE_UNAVAILABLE"),
]


def add(merchant: Merchant, kind: str, **settings: Any) -> Fault:
    fault = Fault(kind, **{"times": 1, **settings})
    merchant.faults.append(fault)
    return fault


def test_a_token_that_is_void_says_why(client: SquareClient, merchant: Merchant) -> None:
    assert client.refused("GET", "locations", token="nobody") == (401, "UNAUTHORIZED", None)
    old = merchant.token
    edit(merchant, "set_token", token="new")
    assert client.refused("GET", "locations", token=old) == (401, "ACCESS_TOKEN_REVOKED", None)
    assert client.get("locations")["locations"]
    edit(merchant, "expire_tokens")
    assert client.refused("GET", "locations") == (401, "ACCESS_TOKEN_EXPIRED", None)
    edit(merchant, "expire_tokens", code="ACCESS_TOKEN_REVOKED")
    assert client.refused("GET", "locations") == (401, "ACCESS_TOKEN_REVOKED", None)
    edit(merchant, "set_token", token="new")
    assert client.get("locations")["locations"]
    answer = client.session.get(f"{merchant.api_url}/v2/locations", timeout=5)
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_no_merchant_takes_anothers_token(sandbox: Sandbox) -> None:
    first, second = sandbox.world.square_merchants.values()
    with pytest.raises(RejectedError, match="another merchant"):
        edit(first, "set_token", token=second.token)


def test_an_operation_needs_its_scope(client: SquareClient, merchant: Merchant) -> None:
    edit(merchant, "set_scopes", scopes=["CUSTOMERS_READ"])
    assert client.post(SEARCH, {})["customers"]
    answer = client.send("POST", "customers", {"given_name": "Ann"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "INSUFFICIENT_SCOPES")
    assert "CUSTOMERS_WRITE" in answer.json()["errors"][0]["detail"]


def test_the_version_that_is_asked_for_is_named_in_the_answer(
    client: SquareClient, merchant: Merchant
) -> None:
    url, token = f"{merchant.api_url}/v2/locations", f"Bearer {merchant.token}"
    for asked, status, named in (
        ({}, 200, "2025-08-20"),
        ({"Square-Version": "2026-01-22"}, 200, "2026-01-22"),
        ({"Square-Version": "newest"}, 400, "2025-08-20"),
    ):
        answer = client.session.get(url, headers={"Authorization": token, **asked}, timeout=5)
        assert (answer.status_code, answer.headers["Square-Version"]) == (status, named)


def test_what_is_no_endpoint_is_not_found(client: SquareClient) -> None:
    assert client.refused("GET", "loyalty/programs") == (404, "NOT_FOUND", None)
    assert client.refused("DELETE", "locations") == (405, "METHOD_NOT_ALLOWED", None)
    assert client.refused("GET", "locations/L0") == (404, "NOT_FOUND", None)
    main = client.get("locations/main")["location"]
    assert main["id"] == client.get("merchants/me")["merchant"]["main_location_id"]
    answer = client.session.post(
        f"{client.merchant.api_url}/v2/{SEARCH}",
        data=b"{",
        headers={"Authorization": f"Bearer {client.merchant.token}"},
        timeout=5,
    )
    assert answer.json()["errors"][0]["code"] == "EXPECTED_JSON_BODY"


@pytest.mark.parametrize(("kind", "status", "category", "code"), STATUSES)
def test_a_status_comes_with_its_error_and_then_all_is_well(
    client: SquareClient, merchant: Merchant, kind: str, status: int, category: str, code: str
) -> None:
    add(merchant, kind)
    answer = client.send("POST", SEARCH, {})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["category"], error["code"]) == (status, category, code)
    assert "Retry-After" not in answer.headers
    assert client.send("POST", SEARCH, {}).status_code == 200
    assert [(one.status, one.fault, one.rows) for one in merchant.requests] == [
        (status, kind, 0),
        (200, None, 60),
    ]


def test_a_fault_may_name_the_code(client: SquareClient, merchant: Merchant) -> None:
    add(merchant, "unauthorized", value="ACCESS_TOKEN_REVOKED")
    assert client.refused("POST", SEARCH, {})[1] == "ACCESS_TOKEN_REVOKED"


@pytest.mark.parametrize(("kind", "status"), [("bad_gateway", 502), ("html", 200)])
def test_a_page_of_html_comes_in_place_of_json(
    client: SquareClient, merchant: Merchant, kind: str, status: int
) -> None:
    add(merchant, kind)
    answer = client.send("POST", SEARCH, {})
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")


@pytest.mark.parametrize("kind", ["cut", "half_page", "apply_then_cut"])
def test_a_connection_is_cut(client: SquareClient, merchant: Merchant, kind: str) -> None:
    add(merchant, kind)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        client.send("POST", "customers", {"given_name": "Ann"})
    assert len(merchant.store.customers) == (60 if kind == "cut" else 61)


def test_a_truncated_body_is_not_json(client: SquareClient, merchant: Merchant) -> None:
    add(merchant, "half_json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(client.send("POST", SEARCH, {}).content)


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_an_answer_takes_its_time(client: SquareClient, merchant: Merchant, kind: str) -> None:
    add(merchant, kind, seconds=0.2)
    start = time.monotonic()
    assert client.post(SEARCH, {})["customers"]
    assert time.monotonic() - start > 0.15


def test_a_field_is_spoiled_by_its_place_or_wherever_its_row_is(
    client: SquareClient, merchant: Merchant
) -> None:
    exported = merchant.export()
    add(merchant, "null_field", field="created_at", row=2)
    page = client.post(SEARCH, {})["customers"]
    assert [row["created_at"] is None for row in page[:4]] == [False, False, True, False]
    order, thing = exported["orders"][0], exported["counts"][-1]["catalog_object_id"]
    always: dict[str, Any] = {"times": None, "operation": "RetrieveOrder"}
    fault = add(merchant, "bad_value", field="total_money.amount", value="much", id=order["id"], **always)
    add(merchant, "bad_value", field="quantity", value="some", id=thing, times=None, operation="Inventory")
    assert client.get(f"orders/{order['id']}")["order"]["total_money"]["amount"] == "much"
    assert client.get(f"orders/{exported['orders'][1]['id']}")["order"] == exported["orders"][1]
    assert fault.applied == 1
    counts = client.rows("inventory/counts/batch-retrieve", "counts", {"catalog_object_ids": [thing]})
    assert {row["quantity"] for row in counts} == {"some"}
    assert merchant.export() == exported


def test_a_cursor_repeats(client: SquareClient, merchant: Merchant) -> None:
    add(merchant, "repeat_cursor", times=None, operation="SearchCustomers")
    first = client.post(SEARCH, {})
    assert len(first["customers"]) == 60
    second = client.post(SEARCH, {"cursor": first["cursor"]})
    assert second["cursor"] == first["cursor"]
    add(merchant, "repeat_cursor", times=None, operation="ListCatalog")
    listed = client.get("catalog/list", types="ITEM_VARIATION")
    again = client.get("catalog/list", types="ITEM_VARIATION", cursor=listed["cursor"])
    assert again["cursor"] == listed["cursor"]


def test_a_fault_bites_its_operation_alone_and_counts_only_what_it_spoiled(
    client: SquareClient, merchant: Merchant
) -> None:
    fault = add(merchant, "server_error", operation="SearchOrders")
    nothing = add(merchant, "null_field", field="no_such_field")
    assert client.get("locations")["locations"]
    assert (fault.matched, fault.applied, nothing.applied) == (0, 0, 0)
    assert client.refused("POST", "orders/search", {"location_ids": []})[0] == 500


def test_every_kind_is_tried_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in REQUEST_KINDS if f'"{kind}"' not in here] == []


def test_an_operator_lists_edits_and_changes_merchants(client: SquareClient, merchant: Merchant) -> None:
    listed = client.operator("GET").json()
    assert [one["id"] for one in listed] == list(client.sandbox.world.square_merchants)
    assert listed[1] == {
        "name": merchant.name,
        "id": merchant.id,
        "tier": 2,
        "token": merchant.token,
        "api_url": client.sandbox.url,
        "applied": 0,
        "subscriptions": 0,
    }
    place = f"/{merchant.id}"
    assert client.operator("GET", f"{place}/export").json() == merchant.export()
    made = client.operator("POST", f"{place}/edits", [{"edit": "add_customer"}, {"edit": "add_order"}])
    assert ids(made.json())[0] in merchant.store.customers
    assert len(client.operator("POST", f"{place}/changes", {"count": 5}).json()) == 5
    given = {"kind": "cut", "times": 1, "operation": "SearchCustomers"}
    assert client.operator("POST", f"{place}/faults", given).json()[0]["kind"] == "cut"
    assert client.operator("DELETE", f"{place}/faults").json() == []
    client.get("locations")
    [request] = client.operator("GET", f"{place}/requests").json()
    assert (request["operation"], request["merchant_id"], request["rows"]) == (
        "ListLocations",
        merchant.id,
        12,
    )
    assert client.operator("DELETE", f"{place}/requests").json() == []


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("faults", {"kind": "throttled"}, "kind"),
        ("edits", {"edit": "explode"}, "edit"),
        ("edits", {"edit": "set_token", "colour": 1}, "colour"),
        ("edits", {"edit": "cancel_order", "id": "X"}, "id"),
        ("edits", {"edit": "add_late_order", "hours": 100}, "hours"),
        ("edits", {"edit": "add_late_order", "hours": 1, "updated_hours": 2}, "updated_hours"),
        ("edits", {"edit": "add_order", "state": "LOST"}, "state"),
        ("edits", {"edit": "add_order", "location_id": "X"}, "location_id"),
        ("edits", {"edit": "update_customer", "id": "X", "fields": {"note": "x"}}, "id"),
        ("edits", {"edit": "set_count", "catalog_object_id": "X"}, "catalog_object_id"),
        ("edits", {"edit": "add_customer", "fields": {"shoe": 1}}, "fields.shoe"),
        ("changes", {"count": -1}, "count"),
    ],
)
def test_a_wrong_wish_is_rejected_with_its_field(
    client: SquareClient, merchant: Merchant, path: str, content: Any, field: str
) -> None:
    answer = client.operator("POST", f"/{merchant.id}/{path}", content)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_what_is_no_merchant_or_place_is_not_found(client: SquareClient, merchant: Merchant) -> None:
    assert client.operator("GET", "/ML0/export").status_code == 404
    assert client.operator("GET", f"/{merchant.id}/nothing").status_code == 404
