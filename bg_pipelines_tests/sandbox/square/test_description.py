"""The sandbox against the vendor's own description: operations, requests, answers."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import Merchant, Sandbox, World, change, edit
from bg_pipelines.sandbox.square.api import OPERATIONS
from bg_pipelines.sandbox.square.refusals import CATEGORIES, CODES_BY_STATUS
from bg_pipelines.sandbox.square.shapes import ENUMS, NOT_HONOURED, REQUIRED, SHAPES
from bg_pipelines_tests.sandbox.square.conftest import SquareClient
from bg_pipelines_tests.support import START

TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}
AT = "2026-11-18T10:00:00Z"


def name_of(rule: dict[str, Any]) -> str:
    return str(rule["$ref"].rpartition("/")[2])


def faults_of(value: Any, rule: dict[str, Any], schemas: dict[str, Any], at: str) -> list[str]:
    """Everything in which a value differs from what the vendor's schema says."""
    rule = schemas[name_of(rule)] if "$ref" in rule else rule
    kind = TYPES[rule.get("type", "object")]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return [f"{at}: {value!r} is no {rule['type']}"]
    found = []
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{at}: {value!r} is not in the vendor's list")
    if isinstance(value, str):
        found += [f"{at}: too long"] * (len(value) > rule.get("maxLength", len(value)))
        found += [f"{at}: too short"] * (len(value) < rule.get("minLength", 0))
    if isinstance(value, list):
        for place, one in enumerate(value):
            found += faults_of(one, rule["items"], schemas, f"{at}[{place}]")
    if isinstance(value, dict):
        found += [f"{at}: {name} is missing" for name in rule.get("required", []) if name not in value]
        for name, one in value.items():
            known = rule.get("properties", {}).get(name, rule.get("additionalProperties"))
            if known is None:
                found.append(f"{at}: the vendor has no {name}")
            else:
                found += faults_of(one, known, schemas, f"{at}.{name}")
    return found


def operations(description: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        content["operationId"]: (method.upper(), path, content)
        for path, methods in description["paths"].items()
        for method, content in methods.items()
        if "operationId" in content
    }


def test_every_operation_is_the_vendors_with_its_path_and_scope(description: dict[str, Any]) -> None:
    known = operations(description)
    for operation in OPERATIONS:
        method, path, content = known[operation.name]
        assert (operation.method, operation.path.count("{}")) == (method, path.count("{"))
        assert operation.path.split("{}")[0] == path.removeprefix("/v2/").split("{")[0]
        assert content["security"] == [{"oauth2": [operation.scope] if operation.scope else []}]


def test_every_field_of_a_request_is_the_vendors_and_none_is_forgotten(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    for name, shape in SHAPES.items():
        schema = schemas[name]
        refused = NOT_HONOURED.get(name, ())
        assert {*shape, *refused} == schema["properties"].keys(), name
        assert not shape.keys() & set(refused)
        assert set(REQUIRED.get(name, ())) == set(schema.get("required", ())), name
        for field, kind in shape.items():
            assert kind_of(schema["properties"][field]) == kind.replace("time", "string"), f"{name}.{field}"


def kind_of(rule: dict[str, Any]) -> str:
    if "$ref" in rule:
        return name_of(rule)
    return f"[{kind_of(rule['items'])}]" if rule["type"] == "array" else str(rule["type"])


def test_every_list_of_values_is_the_vendors(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    for name, values in ENUMS.items():
        assert set(values) == set(schemas[name]["enum"]), name
    used = {kind.strip("[]") for shape in SHAPES.values() for kind in shape.values()}
    assert {name for name in used if "enum" in schemas.get(name, {})} - {"Country"} == set(ENUMS)


def test_every_error_is_one_of_the_vendors(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    assert {*CATEGORIES, *CODES_BY_STATUS.values()} <= set(schemas["ErrorCode"]["enum"])
    assert set(CATEGORIES.values()) <= set(schemas["ErrorCategory"]["enum"])


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    """What merchants of every currency hold after many edits."""
    world = World(
        shops=1, variants=0, clock=lambda: START, merchants=8, square_variants=200, square_customers=400
    )
    for merchant in world.square_merchants.values():
        change(merchant, 60)
    return [merchant.export() for merchant in world.square_merchants.values()]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("locations", "Location"),
        ("customers", "Customer"),
        ("orders", "Order"),
        ("objects", "CatalogObject"),
        ("counts", "InventoryCount"),
    ],
)
def test_every_row_has_the_vendors_fields_and_types(
    everything: list[dict[str, Any]], description: dict[str, Any], name: str, schema: str
) -> None:
    schemas = description["components"]["schemas"]
    rows = [row for export in everything for row in export[name]]
    assert len(rows) > 30
    for row in rows:
        assert faults_of(row, schemas[schema], schemas, schema) == []
    for export in everything:
        assert faults_of(export["merchant"], schemas["Merchant"], schemas, "Merchant") == []


def requests_of(merchant: Merchant) -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """A request of each operation that is answered with all that it can be answered with."""
    store = merchant.store
    places = list(store.locations)
    row = next(row for row in store.objects if row["type"] == "ITEM_VARIATION")
    made = edit(merchant, "refund_order", id=edit(merchant, "add_order", location_id=places[0])["id"])
    customer = next(iter(store.customers))["id"]
    change = {"catalog_object_id": row["id"], "location_id": places[0], "quantity": "3", "occurred_at": AT}
    wanted = {"name": "ours", "event_types": ["order.created"], "notification_url": "https://a.example/"}
    hook = merchant.subscriptions.add(wanted)["id"]
    return {
        "RetrieveMerchant": ("merchants/me", None, {}),
        "ListLocations": ("locations", None, {}),
        "RetrieveLocation": (f"locations/{places[0]}", None, {}),
        "SearchCustomers": ("customers/search", {"limit": 5, "count": True}, {}),
        "BulkRetrieveCustomers": ("customers/bulk-retrieve", {"customer_ids": [customer, "gone"]}, {}),
        "CreateCustomer": ("customers", {"given_name": "Ann", "address": {"locality": "Köln"}}, {}),
        "RetrieveCustomer": (f"customers/{customer}", None, {}),
        "UpdateCustomer": (f"customers/{customer}", {"note": "new", "company_name": None}, {}),
        "DeleteCustomer": (f"customers/{customer}", None, {}),
        "SearchOrders": (
            "orders/search",
            {"location_ids": places[:10], "limit": 5, "return_entries": True},
            {},
        ),
        "BatchRetrieveOrders": ("orders/batch-retrieve", {"order_ids": [made["id"]]}, {}),
        "RetrieveOrder": (f"orders/{made['id']}", None, {}),
        "ListCatalog": ("catalog/list", None, {"types": "ITEM,ITEM_VARIATION"}),
        "SearchCatalogObjects": (
            "catalog/search",
            {"object_types": ["ITEM_VARIATION"], "include_related_objects": True, "limit": 5},
            {},
        ),
        "BatchRetrieveCatalogObjects": (
            "catalog/batch-retrieve",
            {"object_ids": [row["id"]], "include_related_objects": True},
            {},
        ),
        "BatchRetrieveInventoryCounts": ("inventory/counts/batch-retrieve", {"limit": 5}, {}),
        "BatchRetrieveInventoryChanges": (
            "inventory/changes/batch-retrieve",
            {"catalog_object_ids": [row["id"]], "types": ["ADJUSTMENT"], "limit": 5},
            {},
        ),
        "BatchChangeInventory": (
            "inventory/changes/batch-create",
            {
                "idempotency_key": "one",
                "changes": [
                    {"type": "PHYSICAL_COUNT", "physical_count": {**change, "state": "IN_STOCK"}},
                    {
                        "type": "ADJUSTMENT",
                        "adjustment": {**change, "from_state": "NONE", "to_state": "IN_STOCK"},
                    },
                ],
            },
            {},
        ),
        "ListWebhookSubscriptions": ("webhooks/subscriptions", None, {"limit": 5, "sort_order": "DESC"}),
        "CreateWebhookSubscription": (
            "webhooks/subscriptions",
            {"idempotency_key": "one", "subscription": wanted},
            {},
        ),
        "RetrieveWebhookSubscription": (f"webhooks/subscriptions/{hook}", None, {}),
        "UpdateWebhookSubscription": (
            f"webhooks/subscriptions/{hook}",
            {"subscription": {"enabled": False}},
            {},
        ),
        "DeleteWebhookSubscription": (f"webhooks/subscriptions/{hook}", None, {}),
        "UpdateWebhookSubscriptionSignatureKey": (
            f"webhooks/subscriptions/{merchant.subscriptions.add(wanted)['id']}/signature-key",
            {"idempotency_key": "one"},
            {},
        ),
    }


def test_every_answer_has_the_vendors_shape(
    client: SquareClient, merchant: Merchant, description: dict[str, Any]
) -> None:
    schemas, known = description["components"]["schemas"], operations(description)
    asked = requests_of(merchant)
    assert asked.keys() == {operation.name for operation in OPERATIONS}
    for name, (path, content, params) in asked.items():
        method, _, operation = known[name]
        body = client.well(client.send(method, path, content, **params))
        rule = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert faults_of(body, rule, schemas, name) == []
        refused = client.send(method, path, content, token="nobody").json()
        assert faults_of(refused, rule, schemas, name) == []
    assert [request.operation for request in merchant.requests] == list(asked)


def test_a_field_that_the_vendor_has_and_the_sandbox_does_not_honour_is_refused(client: SquareClient) -> None:
    fuzzy = {"query": {"filter": {"email_address": {"fuzzy": "ann"}}}}
    assert client.refused("POST", "customers/search", fuzzy) == (
        400,
        "BAD_REQUEST",
        "query.filter.email_address.fuzzy",
    )
    assert client.refused("POST", "customers/search", {"colour": 1}) == (
        400,
        "UNKNOWN_BODY_PARAMETER",
        "colour",
    )


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        ({"limit": "5"}, "EXPECTED_INTEGER", "limit"),
        ({"limit": 0}, "VALUE_TOO_LOW", "limit"),
        ({"limit": 101}, "VALUE_TOO_HIGH", "limit"),
        ({"count": 1}, "EXPECTED_BOOLEAN", "count"),
        ({"cursor": 1}, "EXPECTED_STRING", "cursor"),
        ({"cursor": "made up"}, "INVALID_CURSOR", "cursor"),
        ({"query": []}, "EXPECTED_OBJECT", "query"),
        ({"query": {"sort": {"field": "NAME"}}}, "INVALID_ENUM_VALUE", "query.sort.field"),
        (
            {"query": {"filter": {"created_at": {"start_at": "2026-01-01T00:00:00"}}}},
            "INVALID_TIME",
            "query.filter.created_at.start_at",
        ),
        (
            {
                "query": {
                    "filter": {
                        "created_at": {"start_at": "2026-01-02T00:00:00Z", "end_at": "2026-01-01T00:00:00Z"}
                    }
                }
            },
            "INVALID_TIME_RANGE",
            "query.filter.created_at",
        ),
    ],
)
def test_a_request_that_is_not_as_described_is_refused_with_its_field(
    client: SquareClient, content: Any, code: str, field: str
) -> None:
    assert client.refused("POST", "customers/search", content) == (400, code, field)


def test_another_merchants_token_sees_another_merchant(sandbox: Sandbox, client: SquareClient) -> None:
    other = next(iter(sandbox.world.square_merchants.values()))
    shown = client.send("GET", "merchants/me", token=other.token).json()["merchant"]
    assert (shown["id"], shown["business_name"]) == (other.id, other.name)
    assert client.refused("GET", f"merchants/{other.id}") == (404, "NOT_FOUND", None)
    assert client.get(f"merchants/{client.merchant.id}")["merchant"]["id"] == client.merchant.id
