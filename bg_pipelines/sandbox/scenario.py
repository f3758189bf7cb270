"""Scenarios: scripts of faults and edits, each step announced by a sentence and applied to the world at its time.

A script's time is counted in seconds from its beginning; who plays it says how quickly it passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bg_pipelines.sandbox.edits import edit
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.seed import digest
from bg_pipelines.sandbox.shopify.seed import domain_of
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.world import World

MINUTE = 60
RETRY_AFTER_SECONDS = 300.0
BAD_PRICE = "call us"


@dataclass(frozen=True)
class Step:
    at_seconds: float
    sentence: str
    action: Callable[[World], object]


class Scenario:
    """A script, and how far it was played; one scenario plays once.

    `shops` and `variants` are how large a world it is written for. `revoked`, `throttled` and `malformed` are the
    domains that it hits, no domain twice; `malformed_rows` has, from that step on, the spoiled node's id by domain.
    """

    def __init__(self, name: str, *, shops: int, variants: int, starts_at_hour: int = 12) -> None:
        self.name = name
        self.shops = shops
        self.variants = variants
        self.starts_at_hour = starts_at_hour
        self.steps: list[Step] = []
        self.played = 0
        self.revoked: tuple[str, ...] = ()
        self.throttled: tuple[str, ...] = ()
        self.malformed: tuple[str, ...] = ()
        self.malformed_rows: dict[str, str] = {}
        self._lock = threading.Lock()
        self._mended = 0

    def add(self, minute: float, sentence: str, action: Callable[[World], object]) -> None:
        """Add a step; steps of the same minute are played in the order in which they were added."""
        self.steps.append(Step(minute * MINUTE, sentence, action))
        self.steps.sort(key=lambda step: step.at_seconds)

    def advance(self, world: World, seconds: float) -> list[str]:
        """Play what is to be played up to `seconds` from the script's beginning; returns the sentences."""
        with self._lock:
            due = [step for step in self.steps[self.played :] if step.at_seconds <= seconds]
            for step in due:
                step.action(world)
                self.played += 1
            return [step.sentence for step in due]

    def mend_tokens(self, world: World) -> dict[str, str]:
        """Give each shop of `revoked` whose token is void a new one that works; returns them by domain."""
        mended = {}
        with self._lock:
            for domain in self.revoked:
                shop = world.shops[domain]
                with shop.lock:
                    if not shop.access.allows(shop.token):
                        self._mended += 1
                        mended[domain] = f"sandbox-token-{digest(shop.token, 'mended', self._mended)}"
                        edit(shop, "set_token", token=mended[domain])
        return mended

    def time_of(self, seconds: float) -> str:
        """A script's second as its clock shows it: 12:20."""
        minutes = self.starts_at_hour * 60 + int(seconds) // MINUTE
        return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"

    def to_json(self) -> dict[str, Any]:
        steps = [
            {"time": self.time_of(step.at_seconds), "sentence": step.sentence, "played": place < self.played}
            for place, step in enumerate(self.steps)
        ]
        return {
            "name": self.name,
            "revoked": self.revoked,
            "throttled": self.throttled,
            "malformed": self.malformed,
            "malformed_rows": self.malformed_rows,
            "steps": steps,
        }


class Trouble:
    """Faults that are put before a shop's own and later taken away, exactly these and no others."""

    def __init__(self) -> None:
        self._made: list[tuple[Shop, Fault]] = []

    def put(self, shop: Shop, fault: Fault) -> None:
        with shop.lock:
            shop.faults.insert(0, fault)
        self._made.append((shop, fault))

    def take_away(self, _world: World | None = None) -> None:
        for shop, mine in self._made:
            with shop.lock:
                shop.faults[:] = [fault for fault in shop.faults if fault is not mine]
        self._made.clear()


def afternoon(shops: int = 200, variants: int = 10_000) -> Scenario:
    """Two hours with an outage, revoked tokens, a throttled shop, a bad row and the usual edits."""
    if shops < 4:
        raise RejectedError("shops", "must be 4 or more for the afternoon")
    scenario = Scenario("afternoon", shops=shops, variants=variants)
    # Apart from one another, whatever the size; the bad row in a shop of the first tier, which has most rows.
    first, second, third = (domain_of(shops * quarter // 4) for quarter in (1, 2, 3))
    scenario.malformed = (domain_of(0),)
    scenario.revoked = (first, third)
    scenario.throttled = (second,)
    outage, throttling = Trouble(), Trouble()

    def begin_outage(world: World) -> None:
        for shop in world.shops.values():
            kind = "bad_gateway" if shop.index % 2 else "service_unavailable"
            outage.put(shop, Fault(kind))
            outage.put(shop, Fault(kind, operation="access_token"))

    def throttle(world: World) -> None:
        throttling.put(world.shops[second], Fault("too_many_requests", seconds=RETRY_AFTER_SECONDS))

    def spoil_row(world: World) -> None:
        for domain in scenario.malformed:
            scenario.malformed_rows[domain] = spoil_a_price(world.shops[domain])

    def revoke(domain: str) -> Callable[[World], object]:
        return lambda world: edit(world.shops[domain], "expire_tokens")

    def edit_some(world: World) -> None:
        for _ in range(edits):
            world.change_one()

    edits = max(1, shops // 10)
    scenario.add(0, f"the afternoon begins: {shops} shops, and all is well", lambda _: None)
    for minute in range(5, 120, 5):
        scenario.add(minute, f"edits: {edits} by the shops' staff", edit_some)
    scenario.add(10, f"malformed: {domain_of(0)} gives a variant the price {BAD_PRICE!r}", spoil_row)
    scenario.add(20, "outage: every Shopify shop answers 503 or 502", begin_outage)
    scenario.add(30, "outage: it is over", outage.take_away)
    scenario.add(40, f"revoked: the token of {first} is void", revoke(first))
    scenario.add(45, f"revoked: the token of {third} is void", revoke(third))
    scenario.add(50, f"throttled: {second} answers 429 with Retry-After: {RETRY_AFTER_SECONDS:.0f}", throttle)
    scenario.add(80, f"throttled: {second} answers again", throttling.take_away)
    scenario.add(
        120, "the afternoon is over; the void tokens and the malformed price are for people", lambda _: None
    )
    return scenario


def spoil_a_price(shop: Shop) -> str:
    """Spoil one variant's price in every answer that holds it; it is touched, so that a next sync reads it."""
    with shop.lock:
        variants = shop.store.variants.ordered("ID")[1] or edit(shop, "add_product")["variants"]
        variant = variants[0]
        edit(shop, "update_variant", id=variant["id"], fields={"price": variant["price"]})
        shop.faults.append(Fault("bad_value", field="price", value=BAD_PRICE, id=variant["id"]))
        return str(variant["id"])


SCENARIOS: dict[str, Callable[..., Scenario]] = {"afternoon": afternoon}


def make_scenario(name: str, **size: int) -> Scenario:
    """A new scenario by its name; `shops` and `variants` in place of those it is written for."""
    make = SCENARIOS.get(name)
    if make is None:
        raise RejectedError("scenario", f"{name!r} is none of {', '.join(SCENARIOS)}")
    return make(**size)


def play(
    scenario: Scenario,
    world: World,
    *,
    wait: Callable[[float], bool],
    tell: Callable[[str], None],
    speed: float = 1.0,
) -> None:
    """Play a scenario, `speed` times as quickly as it is written; ends early when `wait(seconds)` says so."""
    now = 0.0
    for step in list(scenario.steps):
        if wait((step.at_seconds - now) / speed):
            return
        now = step.at_seconds
        for sentence in scenario.advance(world, now):
            tell(f"{scenario.time_of(now)} {sentence}")
