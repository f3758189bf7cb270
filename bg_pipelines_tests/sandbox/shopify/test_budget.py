"""What a query costs, and when a shop is asked too much."""

from __future__ import annotations

from bg_pipelines.sandbox import Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import HandClock

VARIANTS = "{ productVariants(first: 100) { nodes { id product { id } inventoryItem { id } } } }"


def test_the_bucket_throttles_and_restores(client: Client, shop: Shop, clock: HandClock) -> None:
    edit(shop, "set_budget", maximum=40, restore=10)
    # 2 + 100 x (1 + product + inventoryItem) / 10 = 32 points are asked for; what was not used comes back.
    body = client.post(VARIANTS).json()
    rows = len(body["data"]["productVariants"]["nodes"])
    actual = 2 + -(-rows * 3 // 10)
    assert body["extensions"]["cost"] == {
        "requestedQueryCost": 32,
        "actualQueryCost": actual,
        "throttleStatus": {"maximumAvailable": 40.0, "currentlyAvailable": 40 - actual, "restoreRate": 10.0},
    }
    refused = client.post(VARIANTS)
    assert refused.status_code == 200
    assert refused.json() == {
        "errors": [
            {
                "message": "Throttled",
                "extensions": {
                    "code": "THROTTLED",
                    "documentation": "https://shopify.dev/api/usage/rate-limits",
                },
            }
        ],
        "extensions": {
            "cost": {
                "requestedQueryCost": 32,
                "actualQueryCost": None,
                "throttleStatus": {
                    "maximumAvailable": 40.0,
                    "currentlyAvailable": 40 - actual,
                    "restoreRate": 10.0,
                },
            }
        },
    }
    clock.seconds += (32 - (40 - actual)) / 10
    assert "data" in client.post(VARIANTS).json()


def test_one_shops_budget_is_its_own(client: Client, shop: Shop) -> None:
    edit(shop, "set_budget", maximum=1, restore=0)
    assert "errors" in client.post(VARIANTS).json()
    client.shop = list(client.sandbox.world.shops.values())[1]
    assert "data" in client.post(VARIANTS).json()


def test_a_query_above_a_thousand_points_never_succeeds(client: Client) -> None:
    body = client.post(
        "{ products(first: 250) { nodes { variants(first: 250) { nodes { id inventoryItem { id } } } } } }"
    ).json()
    (error,) = body.pop("errors")
    assert body == {}
    cost = 2 + 250 * (1 + 2 + 50) // 10
    assert error["message"].startswith(
        f"Query cost is {cost}, which exceeds the single query max cost limit (1000)."
    )
    assert error["extensions"] == {
        "code": "MAX_COST_EXCEEDED",
        "cost": cost,
        "maxCost": 1000,
        "documentation": "https://shopify.dev/api/usage/limits#rate-limits",
    }


def test_cost_counts_fragments_edges_aliases_and_default_variables(client: Client) -> None:
    body = client.post(
        """query($n: Int = 20) { shop { ...s } few: locations(first: 1) { edges { node { id address { city } } } }
          products(first: $n) { nodes { ... on Product { id } } } }
          fragment s on Shop { id plan { shopifyPlus } }"""
    ).json()
    assert body["extensions"]["cost"]["requestedQueryCost"] == (1 + 1) + (2 + 1) + (2 + 2)
