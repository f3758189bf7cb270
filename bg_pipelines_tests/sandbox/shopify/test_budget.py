"""What a query costs, and when a shop is asked too much."""

from __future__ import annotations

import math

import pytest

from bg_pipelines.sandbox import Shop, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import HandClock

VARIANTS = "{ productVariants(first: 100) { nodes { id product { id } inventoryItem { id } } } }"


def test_the_bucket_throttles_and_restores(client: Client, shop: Shop, clock: HandClock) -> None:
    edit(shop, "set_budget", maximum=40, restore=10)
    # 2 + floor(2 ln 100) x (1 + product + inventoryItem) = 29 points are asked for; what was not used comes back.
    body = client.post(VARIANTS).json()
    rows = len(body["data"]["productVariants"]["nodes"])
    actual = 2 + math.floor(2 * math.log(rows)) * 3
    assert rows < 100
    assert body["extensions"]["cost"] == {
        "requestedQueryCost": 29,
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
                "requestedQueryCost": 29,
                "actualQueryCost": None,
                "throttleStatus": {
                    "maximumAvailable": 40.0,
                    "currentlyAvailable": 40 - actual,
                    "restoreRate": 10.0,
                },
            }
        },
    }
    clock.seconds += (29 - (40 - actual)) / 10
    assert "data" in client.post(VARIANTS).json()


def test_one_shops_budget_is_its_own(client: Client, shop: Shop) -> None:
    edit(shop, "set_budget", maximum=1, restore=0)
    assert "errors" in client.post(VARIANTS).json()
    client.shop = list(client.sandbox.world.shops.values())[1]
    assert "data" in client.post(VARIANTS).json()


def test_a_query_above_a_thousand_points_never_succeeds(client: Client) -> None:
    # Nine lines' worth of objects a variant.
    objects = " ".join(f"{name}: product {{ id }}" for name in "abcdefgh")
    body = client.post(
        f"{{ products(first: 250) {{ nodes {{ variants(first: 250) {{ nodes {{ id {objects} }} }} }} }} }}"
    ).json()
    (error,) = body.pop("errors")
    assert body == {}
    cost = 2 + 11 * (1 + 2 + 11 * (1 + 8))
    assert error["message"].startswith(
        f"Query cost is {cost}, which exceeds the single query max cost limit (1000)."
    )
    assert error["extensions"] == {
        "code": "MAX_COST_EXCEEDED",
        "cost": cost,
        "maxCost": 1000,
        "documentation": "https://shopify.dev/api/usage/limits#rate-limits",
    }


BAG = "{ shopMoney { amount } }"
LINE = f"""id product {{ id }} variant {{ id }} originalUnitPriceSet {BAG} totalDiscountSet {BAG}
  discountedTotalSet {BAG}"""
SUMS = f"subtotalPriceSet {BAG} totalDiscountsSet {BAG} totalTaxSet {BAG} totalPriceSet {BAG}"
ORDER = f"id customer {{ id }} retailLocation {{ id }} refunds {{ totalRefundedSet {BAG} }} {SUMS}"
PAGE = "nodes { %s } pageInfo { hasNextPage endCursor }"
LEVEL = 'item { id } quantities(names: ["available"]) { name quantity }'
CUSTOMER = """id amountSpent { amount } defaultAddress { id } defaultEmailAddress { sourceLocation { id } }
  defaultPhoneNumber { sourceLocation { id } } addressesV2(first: 10) { nodes { id city } }"""
APP = "currentAppInstallation { accessScopes { handle } } ordersCount { count }"


def orders_with(lines: int) -> str:
    return f"orders(first: 250) {{ {PAGE % f'{ORDER} lineItems(first: {lines}) {{ {PAGE % LINE} }}'} }}"


@pytest.mark.parametrize(
    ("query", "points"),
    [
        (f"{APP} {orders_with(20)}", 676),
        (orders_with(50), 871),
        (f"customersCount {{ count }} customers(first: 250) {{ {PAGE % CUSTOMER} }}", 146),
        (
            "shop { currencyCode } productVariantsCount { count } productVariants(first: 250) "
            f"{{ {PAGE % 'id product { id } inventoryItem { id }'} }}",
            37,
        ),
        (
            f"locations(first: 20) {{ {PAGE % f'id inventoryLevels(first: 250) {{ {PAGE % LEVEL} }}'} }}",
            182,
        ),
    ],
    ids=["orders with 20 lines", "orders with 50 lines", "customers", "variants", "levels"],
)
def test_a_query_is_asked_for_what_it_is_at_the_vendor(client: Client, query: str, points: int) -> None:
    """Figures of the law that 1,776 recorded answers of Shopify follow."""
    cost = client.post(f"{{ {query} }}").json()["extensions"]["cost"]
    assert cost["requestedQueryCost"] == points
    assert 0 < cost["actualQueryCost"] < points


@pytest.mark.parametrize(("rows", "factor"), [(1, 1), (2, 2), (3, 2), (20, 5), (21, 6), (244, 10), (245, 11)])
def test_the_price_of_a_page_grows_by_steps(client: Client, rows: int, factor: int) -> None:
    cost = client.post(f"{{ products(first: {rows}) {{ nodes {{ id }} }} }}").json()["extensions"]["cost"]
    assert cost["requestedQueryCost"] == 2 + factor


def test_what_is_not_there_is_given_back(client: Client) -> None:
    body = client.post(
        """{ order(id: "gid://shopify/Order/1") { customer { id } lineItems(first: 50) { nodes { id } } }
          nodes(ids: ["gid://shopify/Product/1", "gid://shopify/Product/2"]) { ... on Product { id } }
          products(first: 100, query: "id:1") { nodes { id } } }"""
    ).json()
    cost = body["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == ((1 + 1 + 2 + 7) + 2 + (2 + 9), 2)


def test_cost_counts_fragments_edges_aliases_and_default_variables(client: Client) -> None:
    body = client.post(
        """query($n: Int = 20) { shop { ...s } few: locations(first: 1) { edges { node { id address { city } } } }
          products(first: $n) { nodes { ... on Product { id } } } }
          fragment s on Shop { id plan { shopifyPlus } }"""
    ).json()
    assert body["extensions"]["cost"]["requestedQueryCost"] == (1 + 1) + (2 + 1 * 2) + (2 + 5 * 1)
