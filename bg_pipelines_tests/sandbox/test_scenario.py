"""Scripted troubles: what happens when, to whom, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from bg_pipelines.sandbox import SCENARIOS, Fault, RejectedError, Sandbox, Scenario, Shop, World
from bg_pipelines.sandbox.scenario import make_scenario, play
from bg_pipelines_tests.support import START

MINUTE = 60
QUERY = "{ productVariants(first: 100) { nodes { id price } } }"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(World(shops=8, variants=200, clock=lambda: START)) as running:
        yield running


@pytest.fixture
def world(sandbox: Sandbox) -> World:
    return sandbox.world


@pytest.fixture
def scenario() -> Scenario:
    return SCENARIOS["afternoon"](shops=8, variants=200)


def ask(shop: Shop) -> requests.Response:
    return requests.post(
        f"{shop.api_url}/admin/api/2026-07/graphql.json",
        json={"query": QUERY},
        headers={"X-Shopify-Access-Token": shop.token},
        timeout=5,
    )


def statuses(world: World) -> dict[str, int]:
    return {domain: ask(shop).status_code for domain, shop in world.shops.items()}


def prices(shop: Shop) -> dict[str, str]:
    return {row["id"]: row["price"] for row in ask(shop).json()["data"]["productVariants"]["nodes"]}


def exceptions(world: World, usual: int = 200) -> dict[str, int]:
    return {domain: status for domain, status in statuses(world).items() if status != usual}


def test_steps_are_played_in_order_and_once(world: World, scenario: Scenario) -> None:
    told = scenario.advance(world, 30 * MINUTE)
    assert told[0] == "the afternoon begins: 8 shops, and all is well"
    assert told[-1] == "outage: it is over"
    assert scenario.advance(world, 30 * MINUTE) == scenario.advance(world, 0) == []
    rest = scenario.advance(world, 2 * 60 * MINUTE)
    assert told + rest == [step.sentence for step in scenario.steps]
    assert scenario.steps[-1].at_seconds == 2 * 60 * MINUTE


def test_a_script_of_ones_own_is_played_by_the_minute(world: World) -> None:
    scenario = Scenario("mine", shops=1, variants=1)
    done: list[str] = []
    scenario.add(2, "second", lambda _: done.append("second"))
    scenario.add(1, "first", lambda _: done.append("first"))
    assert scenario.advance(world, 119) == ["first"]
    assert scenario.advance(world, 120) == ["second"]
    assert done == ["first", "second"]


def test_an_outage_takes_every_shop_and_leaves_other_faults_as_they_were(
    world: World, scenario: Scenario
) -> None:
    shop = world.shops[scenario.throttled[0]]
    mine = Fault("service_unavailable", operation="nothing at all")
    shop.faults += [mine, Fault("service_unavailable", operation="nothing at all")]
    before = list(shop.faults)
    scenario.advance(world, 19 * MINUTE)
    assert exceptions(world) == {}
    scenario.advance(world, 20 * MINUTE)
    assert set(statuses(world).values()) == {502, 503}
    url = f"{shop.api_url}/admin/oauth/access_token"
    assert requests.post(url, json={}, timeout=5).status_code in {502, 503}
    scenario.advance(world, 30 * MINUTE)
    assert exceptions(world) == {}
    assert [id(fault) for fault in shop.faults] == [id(fault) for fault in before]
    assert [fault.kind for fault in world.shops[scenario.malformed[0]].faults] == ["bad_value"]


def test_revoked_shops_stay_out_until_their_tokens_are_mended(world: World, scenario: Scenario) -> None:
    before = {domain: world.shops[domain].token for domain in scenario.revoked}
    assert scenario.mend_tokens(world) == {}
    scenario.advance(world, 46 * MINUTE)
    assert exceptions(world) == dict.fromkeys(scenario.revoked, 401)
    tokens = scenario.mend_tokens(world)
    assert tokens.keys() == set(scenario.revoked)
    assert not set(tokens.values()) & set(before.values())
    assert tokens == {domain: world.shops[domain].token for domain in scenario.revoked}
    assert exceptions(world) == {}
    assert scenario.mend_tokens(world) == {}


def test_one_shop_is_throttled_for_half_an_hour(world: World, scenario: Scenario) -> None:
    scenario.advance(world, 50 * MINUTE)
    scenario.mend_tokens(world)
    assert exceptions(world) == dict.fromkeys(scenario.throttled, 429)
    assert ask(world.shops[scenario.throttled[0]]).headers["Retry-After"] == "300.0"
    scenario.advance(world, 80 * MINUTE)
    assert exceptions(world) == {}


def test_one_price_is_bad_wherever_it_appears_and_to_the_end(world: World, scenario: Scenario) -> None:
    shop = world.shops[scenario.malformed[0]]
    scenario.advance(world, 10 * MINUTE)
    row = scenario.malformed_rows[shop.domain]
    assert [node for node, price in prices(shop).items() if price == "call us"] == [row]
    assert shop.store.variants[row]["updatedAt"] == world.clock.stamp()
    scenario.advance(world, 120 * MINUTE)
    assert [node for node, price in prices(shop).items() if price == "call us"] == [row]
    (fault,) = shop.faults
    assert fault.applied == 2
    query = {"query": "{ shop { id } productVariants(first: 1, reverse: true) { nodes { id price } } }"}
    headers = {"X-Shopify-Access-Token": shop.token}
    url = f"{shop.api_url}/admin/api/2026-07/graphql.json"
    assert "call us" not in requests.post(url, json=query, headers=headers, timeout=5).text
    assert (fault.applied, shop.requests[-1].fault) == (2, None)


@pytest.mark.parametrize("shops", [4, 5, 7, 200])
def test_no_shop_is_hit_twice_whatever_the_size(shops: int) -> None:
    first, twin = (SCENARIOS["afternoon"](shops=shops) for _ in range(2))
    hit = first.revoked + first.throttled + first.malformed
    assert len(set(hit)) == len(hit) == 4
    assert hit == twin.revoked + twin.throttled + twin.malformed
    assert set(hit) <= World(shops=shops, variants=0).shops.keys()


def test_the_whole_afternoon_of_two_hundred_shops_keeps_its_bad_row() -> None:
    scenario = SCENARIOS["afternoon"]()
    assert scenario.shops == 200
    world = World(shops=200, variants=2000)
    scenario.advance(world, 2 * 60 * MINUTE)
    (domain,) = scenario.malformed
    assert scenario.malformed_rows[domain] in world.shops[domain].store.variants
    assert [domain for domain, shop in world.shops.items() if shop.faults] == [domain]


def test_it_is_played_as_quickly_as_one_likes_and_can_be_ended(world: World, scenario: Scenario) -> None:
    told: list[str] = []
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return sum(waits) > 130

    play(scenario, world, wait=wait, tell=told.append, speed=10)
    assert told[0] == "12:00 the afternoon begins: 8 shops, and all is well"
    assert "12:20 outage: every Shopify shop answers 503 or 502" in told
    assert told[-1].startswith("12:20")
    assert waits[:3] == [0, 30, 30]


def test_the_operator_sees_the_script_and_mends(sandbox: Sandbox, world: World, scenario: Scenario) -> None:
    url = f"{sandbox.url}/sandbox/scenario"
    assert requests.get(url, timeout=5).status_code == 404
    sandbox.server.admin.scenario = scenario
    scenario.advance(world, 60 * MINUTE)
    shown: Any = requests.get(url, timeout=5).json()
    assert tuple(shown["revoked"]) == scenario.revoked
    assert [step["played"] for step in shown["steps"]].count(True) == scenario.played
    mended = requests.post(f"{url}/mend", timeout=5).json()
    assert mended.keys() == set(scenario.revoked)
    assert requests.get(f"{url}/mend", timeout=5).status_code == 405
    scenario.advance(world, 80 * MINUTE)
    assert exceptions(world) == {}


@pytest.mark.parametrize(
    ("wish", "field"),
    [(lambda: make_scenario("evening"), "scenario"), (lambda: make_scenario("afternoon", shops=3), "shops")],
)
def test_a_wrong_wish_is_rejected(wish: Any, field: str) -> None:
    with pytest.raises(RejectedError) as raised:
        wish()
    assert raised.value.field == field
