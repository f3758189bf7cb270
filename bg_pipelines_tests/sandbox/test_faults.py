"""Each kind of fault, as a client sees it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import Fault, RejectedError, Shop
from bg_pipelines.sandbox.faults import REQUEST_KINDS
from bg_pipelines_tests.sandbox.conftest import Client

QUERY = """query Variants($after: String) { productVariants(first: 5, after: $after) {
  nodes { id price inventoryItem { sku } } pageInfo { hasNextPage endCursor } } }"""
STATUSES = [
    ("unauthorized", 401, "[API] Invalid API key or access token (unrecognized login or wrong password)"),
    ("payment_required", 402, "This shop's plan does not have access to this feature"),
    ("forbidden", 403, "Unavailable Shop"),
    ("not_found", 404, "Not Found"),
    ("locked", 423, "This shop is unavailable"),
    ("too_many_requests", 429, None),
    ("server_error", 500, "An unexpected error occurred"),
    ("service_unavailable", 503, "Service Unavailable"),
]


def add(shop: Shop, kind: str, **settings: Any) -> None:
    shop.faults.append(Fault(kind, times=1, **settings))


@pytest.mark.parametrize(("kind", "status", "message"), STATUSES)
def test_a_status_comes_with_its_body_and_then_all_is_well(
    client: Client, shop: Shop, kind: str, status: int, message: str | None
) -> None:
    add(shop, kind, seconds=2.0)
    answer = client.post(QUERY)
    assert answer.status_code == status
    if message is not None:
        assert answer.json() == {"errors": message}
    assert answer.headers.get("Retry-After") == ("2.0" if kind == "too_many_requests" else None)
    assert client.post(QUERY).status_code == 200
    assert [(request.status, request.fault) for request in shop.requests] == [(status, kind), (200, None)]


@pytest.mark.parametrize(("kind", "status"), [("bad_gateway", 502), ("html", 200), ("refused", 430)])
def test_a_page_of_html_comes_in_place_of_json(client: Client, shop: Shop, kind: str, status: int) -> None:
    add(shop, kind)
    answer = client.post(QUERY)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "<html>" in answer.text


@pytest.mark.parametrize("kind", ["cut", "half_page", "apply_then_cut"])
def test_a_connection_is_cut(client: Client, shop: Shop, kind: str) -> None:
    add(shop, kind)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        client.post(QUERY)
    assert client.post(QUERY).status_code == 200


def test_a_truncated_body_is_not_json(client: Client, shop: Shop) -> None:
    add(shop, "half_json")
    answer = client.post(QUERY)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_an_answer_takes_its_time(client: Client, shop: Shop, kind: str) -> None:
    add(shop, kind, seconds=0.2)
    start = time.monotonic()
    assert "data" in client.post(QUERY).json()
    assert time.monotonic() - start > 0.15


def test_throttled_is_an_answer_of_200_without_data(client: Client, shop: Shop) -> None:
    add(shop, "throttled")
    answer = client.post(QUERY)
    body = answer.json()
    assert answer.status_code == 200
    assert "data" not in body
    assert body["errors"][0]["extensions"]["code"] == "THROTTLED"
    assert body["extensions"]["cost"]["actualQueryCost"] is None


@pytest.mark.parametrize(
    ("kind", "code"), [("access_denied", "ACCESS_DENIED"), ("internal_error", "INTERNAL_SERVER_ERROR")]
)
def test_an_error_comes_with_200(client: Client, shop: Shop, kind: str, code: str) -> None:
    add(shop, kind)
    answer = client.post(QUERY)
    body = answer.json()
    assert answer.status_code == 200
    assert body.get("data") is None
    assert body["errors"][0]["extensions"]["code"] == code


def test_a_field_of_one_row_is_null_or_wrong(client: Client, shop: Shop) -> None:
    add(shop, "null_field", field="inventoryItem.sku", row=2)
    add(shop, "bad_value", field="price", value="free")
    rows = client.ask(QUERY)["productVariants"]["nodes"]
    whole = shop.export()["product_variants"][:5]
    assert [row["inventoryItem"]["sku"] for row in rows] == [
        None if index == 2 else row["sku"] for index, row in enumerate(whole)
    ]
    rows = client.ask(QUERY)["productVariants"]["nodes"]
    assert [row["price"] for row in rows] == ["free"] + [row["price"] for row in whole[1:]]


def test_a_field_of_one_node_is_wrong_in_every_answer_that_holds_it(client: Client, shop: Shop) -> None:
    row = shop.export()["product_variants"][7]
    fault = Fault("bad_value", field="price", value="free", id=row["id"])
    shop.faults += [fault, Fault("locked", after=1, times=1, operation="Variants")]
    first = client.ask(QUERY)["productVariants"]
    assert "free" not in {node["price"] for node in first["nodes"]}
    assert (fault.applied, shop.requests[-1].fault) == (0, None)
    # A fault of one node does not stand in the way of another one.
    assert client.post(QUERY).status_code == 423
    for _ in range(2):
        rows = client.ask(QUERY, after=first["pageInfo"]["endCursor"])["productVariants"]["nodes"]
        assert [node["id"] for node in rows if node["price"] == "free"] == [row["id"]]
    assert (fault.applied, shop.requests[-1].fault) == (2, "bad_value")
    alone = client.ask("query($id: ID!) { productVariant(id: $id) { id price } }", id=row["id"])
    assert alone["productVariant"]["price"] == "free"
    assert shop.export()["product_variants"][7] == row


def test_page_info_is_missing(client: Client, shop: Shop) -> None:
    add(shop, "missing_page_info")
    assert client.ask(QUERY)["productVariants"]["pageInfo"] is None


def test_a_cursor_repeats(client: Client, shop: Shop) -> None:
    add(shop, "repeat_cursor")
    first = client.ask(QUERY)["productVariants"]["pageInfo"]
    second = client.ask(QUERY, after=first["endCursor"])["productVariants"]["pageInfo"]
    assert second == first | {"hasNextPage": True}


def test_a_fault_waits_for_its_turn_and_its_operation(client: Client, shop: Shop) -> None:
    shop.faults.append(Fault("server_error", times=2, after=1, operation="Variants"))
    shop.faults.append(Fault("locked", operation="shop"))
    statuses = [client.post(QUERY).status_code for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert client.post("{ shop { id } }").status_code == 423


def test_the_token_endpoint_is_spoiled_only_by_name(client: Client, shop: Shop) -> None:
    url, form = (
        f"{shop.api_url}/admin/oauth/access_token",
        {
            "client_id": shop.access.client_id,
            "client_secret": shop.access.client_secret,
            "grant_type": "client_credentials",
        },
    )
    shop.faults.append(Fault("server_error"))
    assert client.session.post(url, json=form).status_code == 200
    shop.faults.append(Fault("bad_gateway", operation="access_token"))
    assert client.session.post(url, json=form).status_code == 502


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(RejectedError, match="kind"):
        Fault("gremlin")


def test_every_kind_is_tried_here() -> None:
    # Those of bulk operations are tried with them.
    here = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in REQUEST_KINDS if f'"{kind}"' not in here] == []
