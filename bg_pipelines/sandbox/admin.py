"""Answer the sandbox's operator: list shops, set faults, edit rows, shift the clock, read the log. JSON in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from bg_pipelines.sandbox.errors import RejectedError
from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import Fault, whole
from bg_pipelines.sandbox.shop import Shop
from bg_pipelines.sandbox.world import World

MOST_CHANGES = 100_000


class Admin:
    """The endpoints below /sandbox; docs/sandbox.md lists them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def answer(self, incoming: Incoming) -> Answer:
        place = incoming.path.strip("/").split("/")[1:]
        try:
            return self.route(incoming, place)
        except RejectedError as error:
            return as_json(400, {"error": str(error), "field": error.field})

    def route(self, incoming: Incoming, place: list[str]) -> Answer:
        handlers: dict[str, Callable[[], Any]] = {}
        if place == ["shops"]:
            handlers = {"GET": lambda: [shop.to_json() for shop in self.world.shops.values()]}
        elif place == ["requests"]:
            domain = self.known_domain(incoming.query.get("domain"))
            handlers = {
                "GET": lambda: [request.to_json() for request in self.world.requests(domain)],
                "DELETE": lambda: self.forget(domain),
            }
        elif place == ["clock"]:
            handlers = {"GET": self.clock, "POST": lambda: self.shift_clock(content(incoming))}
        elif len(place) == 3 and place[0] == "shops":
            shop = self.world.shops.get(place[1])
            if shop is None:
                return as_json(404, {"error": f"there is no shop {place[1]}", "field": "domain"})
            handlers = self.of_shop(shop, place[2], incoming)
        if not handlers:
            return as_json(404, {"error": f"there is no {incoming.path}; see docs/sandbox.md"})
        handler = handlers.get(incoming.method)
        if handler is None:
            return as_json(405, {"error": f"only {', '.join(handlers)} here"})
        return as_json(200, handler())

    def of_shop(self, shop: Shop, what: str, incoming: Incoming) -> dict[str, Callable[[], Any]]:
        match what:
            case "export":
                return {"GET": shop.export}
            case "faults":
                return {
                    "GET": lambda: faults(shop),
                    "POST": lambda: add_faults(shop, content(incoming)),
                    "DELETE": lambda: clear_faults(shop),
                }
            case "changes":
                return {"POST": lambda: change(shop, content(incoming))}
            case "edits":
                return {"POST": lambda: edit(shop, content(incoming))}
        return {}

    def known_domain(self, domain: str | None) -> str | None:
        if domain is not None and domain not in self.world.shops:
            raise RejectedError("domain", f"there is no shop {domain}")
        return domain

    def forget(self, domain: str | None) -> Any:
        self.world.forget_requests(domain)
        return {"deleted": True}

    def clock(self) -> Any:
        return {"now": self.world.clock.stamp(), "offset_seconds": self.world.clock.offset_seconds}

    def shift_clock(self, given: Any) -> Any:
        seconds = given.get("offset_seconds") if isinstance(given, dict) else None
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or abs(seconds) > 10**9:
            raise RejectedError(
                "offset_seconds", "must be a number of seconds, at most 1000000000 either way"
            )
        self.world.clock.offset_seconds = float(seconds)
        return self.clock()


def content(incoming: Incoming) -> Any:
    try:
        return orjson.loads(incoming.body)
    except orjson.JSONDecodeError as error:
        raise RejectedError("body", f"is not JSON ({error})") from None


def faults(shop: Shop) -> Any:
    with shop.lock:
        return [fault.to_json() for fault in shop.faults]


def add_faults(shop: Shop, given: Any) -> Any:
    """One fault or a list of them, added behind those that are there."""
    made = [Fault.from_json(one) for one in (given if isinstance(given, list) else [given])]
    with shop.lock:
        shop.faults.extend(made)
    return faults(shop)


def clear_faults(shop: Shop) -> Any:
    with shop.lock:
        shop.faults.clear()
    return []


def change(shop: Shop, given: Any) -> Any:
    count = given.get("count") if isinstance(given, dict) else None
    if not isinstance(count, int) or not whole(count) or count > MOST_CHANGES:
        raise RejectedError("count", f"must be a whole number from 0 to {MOST_CHANGES}")
    return shop.change(count)


def edit(shop: Shop, given: Any) -> Any:
    """One edit or a list of them, in order; those before one that is rejected stay done."""
    if isinstance(given, list):
        return [edit(shop, one) for one in given]
    if not isinstance(given, dict) or not isinstance(given.get("edit"), str):
        raise RejectedError("edit", "is missing: give a JSON object with the name of the edit")
    fields = {name: value for name, value in given.items() if name != "edit"}
    with shop.lock:
        return shop.edit(given["edit"], **fields)
