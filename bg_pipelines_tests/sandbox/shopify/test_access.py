"""Tokens, scopes, versions and the other doors of a shop."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from bg_pipelines.sandbox import Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import START, HandClock

QUERY = "{ shop { id } }"


def grant(client: Client, *, as_form: bool = False, **changes: str) -> Any:
    form = {
        "client_id": client.shop.access.client_id,
        "client_secret": client.shop.access.client_secret,
        "grant_type": "client_credentials",
    } | changes
    url = f"{client.shop.api_url}/admin/oauth/access_token"
    return client.session.post(url, data=form) if as_form else client.session.post(url, json=form)


@pytest.mark.parametrize("as_form", [True, False])
def test_a_token_is_granted_and_dies_after_a_day(client: Client, clock: HandClock, as_form: bool) -> None:
    granted = grant(client, as_form=as_form).json()
    assert granted["expires_in"] == 86399
    assert "read_products" in granted["scope"].split(",")
    assert client.post(QUERY, token=granted["access_token"]).status_code == 200
    clock.seconds += 86400
    assert client.post(QUERY, token=granted["access_token"]).status_code == 401


def test_a_wrong_secret_gets_no_token(client: Client) -> None:
    answer = grant(client, client_secret="wrong")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")
    answer = grant(client, grant_type="password")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_tokens_can_be_expired_and_set(client: Client, shop: Shop) -> None:
    edit(shop, "expire_tokens")
    answer = client.post(QUERY)
    assert answer.status_code == 401
    assert answer.json() == {
        "errors": "[API] Invalid API key or access token (unrecognized login or wrong password)"
    }
    assert client.post(QUERY, token=grant(client).json()["access_token"]).status_code == 200
    edit(shop, "set_token", token="new")
    assert client.post(QUERY, token="new").status_code == 200


def test_a_token_of_one_shop_opens_no_other(client: Client) -> None:
    token = client.shop.token
    client.shop = list(client.sandbox.world.shops.values())[1]
    assert client.post(QUERY, token=token).status_code == 401


def test_a_missing_scope_is_denied_and_listed(client: Client, shop: Shop) -> None:
    edit(shop, "set_scopes", scopes=["read_locations"])
    listed = client.ask("{ currentAppInstallation { accessScopes { handle } } }")["currentAppInstallation"]
    assert listed == {"accessScopes": [{"handle": "read_locations"}]}
    body = client.post("{ products(first: 1) { nodes { id } } }").json()
    assert body["data"] is None
    assert body["errors"][0]["extensions"]["code"] == "ACCESS_DENIED"
    assert "read_products" in body["errors"][0]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "nobody.myshopify.example/admin/api/2026-07/graphql.json",
        "{domain}/admin/api/2029-01/graphql.json",
        "{domain}/admin/api/2019-02/graphql.json",
        "x",
    ],
)
def test_what_does_not_exist_is_not_found(client: Client, shop: Shop, path: str) -> None:
    url = f"{client.sandbox.url}/{path.format(domain=shop.domain)}"
    answer = client.session.post(url, json={"query": QUERY}, headers={"X-Shopify-Access-Token": shop.token})
    assert (answer.status_code, answer.json()) == (404, {"errors": "Not Found"})


@pytest.mark.parametrize(
    ("asked", "served"), [("2019-01", "2026-07"), ("2026-07", "2026-07"), ("2026-10", "2026-10")]
)
def test_a_version_that_has_ended_falls_forward_and_the_answer_says_to_which(
    client: Client, shop: Shop, asked: str, served: str
) -> None:
    url = f"{shop.api_url}/admin/api/{asked}/graphql.json"
    answer = client.session.post(url, json={"query": QUERY}, headers={"X-Shopify-Access-Token": shop.token})
    assert (answer.status_code, answer.headers["X-Shopify-API-Version"]) == (200, served)


def test_every_answer_has_the_sandboxs_date_and_a_request_id(client: Client) -> None:
    first, second = client.post(QUERY), client.post(QUERY)
    assert parsedate_to_datetime(first.headers["Date"]).timestamp() == START
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


def test_a_body_that_is_no_query_is_refused(client: Client, shop: Shop) -> None:
    url, headers = f"{shop.api_url}/admin/api/2026-07/graphql.json", {"X-Shopify-Access-Token": shop.token}
    for body in (b"{", b"[]", b'{"query": 5}', b'{"query": "{ shop { id } }", "variables": []}'):
        status = client.session.post(url, data=body, headers=headers).status_code
        assert status == (200 if b"variables" in body else 400)
    assert client.session.get(url, headers=headers).status_code == 405


def test_a_document_that_is_not_valid_is_a_200_with_errors(client: Client) -> None:
    for query in ("{ nonsense }", "{", "query A { shop { id } } query B { shop { id } }"):
        answer = client.post(query)
        assert answer.status_code == 200
        assert answer.json()["errors"]
        assert "data" not in answer.json()
