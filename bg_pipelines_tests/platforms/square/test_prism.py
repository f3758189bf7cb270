"""Every kind of request that the platform makes, against Square's own description of its API.

Prism takes more than a minute for the whole of it, so it gets the operations that are used, made stricter: a field that
Square does not know is a fault too, where Square would say nothing or guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from bg_pipelines.platforms import http
from bg_pipelines.platforms.protocol import Correction, Wanted
from bg_pipelines.platforms.square.client import SquareClient
from bg_pipelines.platforms.square.platform import SquarePlatform
from bg_pipelines.platforms.square.writes import EDITABLE
from bg_pipelines.records import Resource
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines_tests.platforms.square.conftest import TABLES
from bg_pipelines_tests.prism import serving, vendor_description

OPERATIONS = {
    "RetrieveMerchant",
    "ListLocations",
    "RetrieveLocation",
    "SearchCustomers",
    "BulkRetrieveCustomers",
    "RetrieveCustomer",
    "UpdateCustomer",
    "SearchOrders",
    "BatchRetrieveOrders",
    "SearchCatalogObjects",
    "BatchRetrieveCatalogObjects",
    "BatchRetrieveInventoryCounts",
    "BatchRetrieveInventoryChanges",
    "BatchChangeInventory",
    "ListWebhookSubscriptions",
    "CreateWebhookSubscription",
    "RetrieveWebhookSubscription",
    "UpdateWebhookSubscription",
    "DeleteWebhookSubscription",
}
SINCE = datetime(2026, 1, 2, 3, 4, 5, 678900, UTC)


def cut_description(whole: dict[str, Any]) -> dict[str, Any]:
    """The operations that are used with the schemas of their requests; their answers are the vendor's samples."""
    schemas = whole["components"]["schemas"]
    needed: dict[str, Any] = {}

    def need(value: Any) -> None:
        for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(value)):
            if name not in needed:
                needed[name] = dict(schemas[name])
                if needed[name].get("type") == "object":
                    needed[name]["additionalProperties"] = False
                need(needed[name])

    paths: dict[str, dict[str, Any]] = {}
    for path, methods in whole["paths"].items():
        for method, content in methods.items():
            if content.get("operationId") not in OPERATIONS:
                continue
            need(content.get("requestBody", {}))
            answer = content["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            sample = dict(schemas[answer.rpartition("/")[2]]["example"])
            # The samples repeat their cursor for ever.
            sample.pop("cursor", None)
            body = {"schema": {"type": "object"}, "example": sample}
            responses = {"200": {"description": "", "content": {"application/json": body}}}
            paths.setdefault(path, {})[method] = {**content, "responses": responses}
    components = {**whole["components"], "schemas": needed}
    return {"openapi": whole["openapi"], "info": whole["info"], "components": components, "paths": paths}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return cut_description(vendor_description("square_api.json"))


@pytest.fixture(scope="module")
def prism(
    description: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, session_folder: Path
) -> Iterator[str]:
    with serving(description, tmp_path_factory.mktemp("prism"), session_folder) as url:
        yield url


class Answered(NamedTuple):
    """A request that was made of Prism, and what it answered."""

    method: str
    path: str
    answer: http.Answer


@pytest.fixture
def answers() -> list[Answered]:
    """What Prism has answered."""
    return []


@pytest.fixture
def platform(
    prism: str, answers: list[Answered], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SquarePlatform]:
    client = SquareClient("EAAA", prism)
    request = client.transport.request

    def noted(method: str, url: str, **given: Any) -> http.Answer:
        answer = request(method, url, **given)
        answers.append(Answered(method, urlsplit(url).path, answer))
        return answer

    monkeypatch.setattr(client.transport, "request", noted)
    platform = SquarePlatform(client)
    yield platform
    platform.close()


def faults_of(answers: list[Answered]) -> list[tuple[str, str, str]]:
    return [
        (one.method, one.path, one.answer.content.decode()[:1000])
        for one in answers
        if one.answer.status != 200 or "sl-violations" in one.answer.headers
    ]


@pytest.mark.timeout(400)  # npm may have to fetch Prism first
def test_every_kind_of_request_is_as_square_describes_it(
    platform: SquarePlatform, answers: list[Answered], description: dict[str, Any]
) -> None:
    assert platform.profile().currency == "USD"
    for resource in TABLES:
        for since in (None, SINCE):
            at = "c"
            if resource is Resource.ORDERS:
                at = json.dumps({"locations": ["L"], "cursor": "c"})
            elif resource is Resource.INVENTORY_LEVELS and since is None:
                began = "2026-01-01T00:00:00.000Z"
                at = json.dumps({"after": began, "began": began, "cursor": "c", "catch_ups": 1})
            for resume in (None, at):
                pages = list(platform.pages(resource, since=since, resume=resume))
                assert pages
                # The vendor's samples make records. Of orders there are none, and an item for a variation.
                assert resource is Resource.PRODUCT_VARIANTS or not [page for page in pages if page.rejects]
        platform.rows(resource, ["A@B", "C@D"])
    values = dict.fromkeys(EDITABLE, None)
    assert platform.update_customer("C", {**values, "first_name": "Jo"}).status == "applied"
    [page] = platform.pages(Resource.INVENTORY_LEVELS, since=None, resume=None)
    level = page.records[0]
    for more in (2, -2):
        item, place, found = level.inventory_item_external_id, level.location_external_id, level.available
        correction = Correction(item, place, found, found + more, "correction", "key")
        assert platform.correct_stock([correction])[0].status == "applied"
    assert (
        platform.correct_stock([Correction(item, place, found + 1, 0, "correction", "key")])[0].status
        == "stale"
    )
    assert platform.faults() == []
    wanted = Wanted(tuple(TOPICS["square"]), "https://hooks.example.com/webhooks/square")
    webhooks = platform.webhooks
    made = webhooks.subscribe(wanted)
    assert made.signature_key == webhooks.signature_key(made.external_id)
    assert webhooks.update(made.external_id, wanted) is not None
    assert [one.external_id for one in webhooks.subscriptions()] == [made.external_id]
    webhooks.unsubscribe(made.external_id)
    assert faults_of(answers) == []
    asked = {(one.method, one.path) for one in answers}
    for path, methods in description["paths"].items():
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for method in methods:
            assert any(method.upper() == m and pattern.fullmatch(p) for m, p in asked), (method, path)


@pytest.mark.timeout(400)
def test_prism_finds_what_is_wrong(platform: SquarePlatform, answers: list[Answered]) -> None:
    for what, content in (
        ("customers/search", {"limit": 101}),
        ("customers/search", {"query": {"filter": {"colour": {"exact": "red"}}}}),
        ("orders/search", {"query": {"sort": {"sort_order": "ASC"}}}),
        ("inventory/counts/batch-retrieve", {"states": ["SOMEWHERE"]}),
    ):
        answers.clear()
        with pytest.raises(Exception, match="Square refuses the request"):
            platform._client.post(what, **content)
        assert len(faults_of(answers)) == 1
