"""The operator's endpoints: list what there is, set faults, edit, shift the clock, read the log. JSON in and out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import orjson

from bg_pipelines.sandbox import hooks
from bg_pipelines.sandbox.edits import change, edit
from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import KINDS, WEBHOOK_KINDS, Fault
from bg_pipelines.sandbox.fields import RejectedError, is_number, is_whole
from bg_pipelines.sandbox.hooks import Hook
from bg_pipelines.sandbox.scenario import Scenario
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.square import api as square
from bg_pipelines.sandbox.square.merchant import Merchant
from bg_pipelines.sandbox.twilio import api as twilio
from bg_pipelines.sandbox.twilio.account import TwilioAccount
from bg_pipelines.sandbox.world import World

MOST_CHANGES = 100_000
Handlers = dict[str, Callable[[], Any]]


class Admin:
    """The endpoints below /sandbox; docs/sandbox.md lists them. `scenario` is the one that is played, if there is one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scenario: Scenario | None = None

    def answer(self, incoming: Incoming) -> Answer:
        place = incoming.path.strip("/").split("/")[1:]
        try:
            return self.route(incoming, place)
        except RejectedError as error:
            return as_json(400, {"error": str(error), "field": error.field})

    def route(self, incoming: Incoming, place: list[str]) -> Answer:
        handlers: Handlers = {}
        if place == ["shops"]:
            handlers = {"GET": lambda: [shop.to_json() for shop in self.world.shops.values()]}
        elif place == ["requests"]:
            domain = self.known_domain(incoming.query.get("domain"))
            handlers = {
                "GET": lambda: [request.to_json() for request in self.world.requests(domain)],
                "DELETE": lambda: self.forget(domain),
            }
        elif place == ["deliveries"]:
            handlers = {"GET": lambda: self.deliveries(incoming.query.get("wait"))}
        elif place == ["clock"]:
            handlers = {"GET": self.clock, "POST": lambda: self.shift_clock(content(incoming))}
        elif len(place) == 3 and place[0] == "shops":
            shop = self.world.shops.get(place[1])
            if shop is None:
                return as_json(404, {"error": f"there is no shop {place[1]}", "field": "domain"})
            handlers = self.of_shop(shop, place[2], incoming)
        elif place[:1] == ["merchants"]:
            merchant = self.world.square_merchants.get(place[1]) if len(place) > 1 else None
            if merchant is None and len(place) > 1:
                return as_json(404, {"error": f"there is no merchant {place[1]}", "field": "id"})
            handlers = self.of_merchants(merchant, place[2:], incoming)
        elif place[:1] == ["twilio"]:
            handlers = self.of_twilio(place[1:], incoming)
        elif place[:1] == ["hooks"]:
            handlers = self.of_hooks(place[1:], incoming)
        elif place[:1] == ["scenario"]:
            if self.scenario is None:
                return as_json(404, {"error": "no scenario is played; see --scenario"})
            handlers = self.of_scenario(self.scenario, place[1:])
        if not handlers:
            return as_json(404, {"error": f"there is no {incoming.path}; see docs/sandbox.md"})
        handler = handlers.get(incoming.method)
        if handler is None:
            return as_json(405, {"error": f"only {', '.join(handlers)} here"})
        return as_json(200, handler())

    def of_shop(self, shop: Shop, what: str, incoming: Incoming) -> Handlers:
        only: Any = incoming.query.get("only")
        match what:
            case "export":
                return {"GET": lambda: shop.export(only and only.split(","))}
            case "faults":
                return fault_handlers(shop, incoming, KINDS)
            case "changes":
                return {"POST": lambda: change_some(shop, content(incoming))}
            case "edits":
                return {"POST": lambda: edit_in_order(shop, content(incoming))}
            case "deliveries":
                return log_handlers(shop, shop.deliveries)
        return {}

    def of_merchants(self, merchant: Merchant | None, place: list[str], incoming: Incoming) -> Handlers:
        if merchant is None:
            return {"GET": lambda: [one.to_json() for one in self.world.square_merchants.values()]}
        match place:
            case ["export"]:
                return {"GET": merchant.export}
            case ["requests"]:
                return log_handlers(merchant, merchant.requests)
            case ["deliveries"]:
                return log_handlers(merchant, merchant.deliveries)
            case ["faults"]:
                return fault_handlers(merchant, incoming, square.KINDS)
            case ["changes"]:
                return {"POST": lambda: change_some(merchant, content(incoming))}
            case ["edits"]:
                return {"POST": lambda: edit_in_order(merchant, content(incoming))}
        return {}

    def of_twilio(self, place: list[str], incoming: Incoming) -> Handlers:
        account = self.world.twilio
        match place:
            case []:
                return {"GET": account.to_json}
            case ["messages"]:
                return {"GET": account.export}
            case ["requests"]:
                return log_handlers(account, account.requests)
            case ["faults"]:
                return fault_handlers(account, incoming, (*twilio.KINDS, *WEBHOOK_KINDS))
            case ["taken"]:
                return {"GET": account.taken, "DELETE": account.forget_messages}
            case ["deliveries"]:
                return log_handlers(account, account.outbox.sent)
            case ["edits"]:
                return {"POST": lambda: edit_in_order(account, content(incoming))}
        return {}

    def of_hooks(self, place: list[str], incoming: Incoming) -> Handlers:
        match place:
            case []:
                return {
                    "GET": lambda: {name: len(hook.received) for name, hook in list(self.world.hooks.items())}
                }
            case [name]:
                hook = self.world.hooks[name]
                return log_handlers(hook, hook.received)
            case [name, "faults"]:
                return fault_handlers(self.world.hooks[name], incoming, hooks.KINDS)
        return {}

    def of_scenario(self, scenario: Scenario, place: list[str]) -> Handlers:
        match place:
            case []:
                return {"GET": scenario.to_json}
            case ["mend"]:
                return {"POST": lambda: scenario.mend_tokens(self.world)}
        return {}

    def known_domain(self, domain: str | None) -> str | None:
        if domain is not None and domain not in self.world.shops:
            raise RejectedError("domain", f"there is no shop {domain}")
        return domain

    def forget(self, domain: str | None) -> Any:
        self.world.forget_requests(domain)
        return {"deleted": True}

    def deliveries(self, wait: str | None) -> Any:
        """How many webhooks are still to be delivered, after waiting so many seconds at most for none."""
        if wait is not None and not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", wait):
            raise RejectedError("wait", "must be a number of seconds below 1000")
        settled = self.world.deliveries_settled(float(wait or 0))
        return {"pending": self.world.courier.pending, "settled": settled}

    def clock(self) -> Any:
        return {"now": self.world.clock.stamp(), "offset_seconds": self.world.clock.offset_seconds}

    def shift_clock(self, given: Any) -> Any:
        seconds: Any = given.get("offset_seconds") if isinstance(given, dict) else None
        if not is_number(seconds) or abs(seconds) > 10**9:
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


def log_handlers(place: Shop | Merchant | TwilioAccount | Hook, log: deque[Any]) -> Handlers:
    def listed() -> Any:
        with place.lock:
            return [entry.to_json() for entry in log]

    def emptied() -> Any:
        with place.lock:
            log.clear()
        return []

    return {"GET": listed, "DELETE": emptied}


def fault_handlers(
    place: Shop | Merchant | TwilioAccount | Hook, incoming: Incoming, kinds: Collection[str]
) -> Handlers:
    return {
        "GET": lambda: faults(place),
        "POST": lambda: add_faults(place, content(incoming), kinds),
        "DELETE": lambda: clear_faults(place),
    }


def faults(place: Shop | Merchant | TwilioAccount | Hook) -> Any:
    with place.lock:
        return [fault.to_json() for fault in place.faults]


def add_faults(place: Shop | Merchant | TwilioAccount | Hook, given: Any, kinds: Collection[str]) -> Any:
    """One fault or a list of them, added behind those that are there."""
    made = [Fault.from_json(one, kinds) for one in (given if isinstance(given, list) else [given])]
    with place.lock:
        place.faults.extend(made)
    return faults(place)


def clear_faults(place: Shop | Merchant | TwilioAccount | Hook) -> Any:
    with place.lock:
        place.faults.clear()
    return []


def change_some(shop: Shop | Merchant, given: Any) -> Any:
    count = given.get("count") if isinstance(given, dict) else None
    if not isinstance(count, int) or not is_whole(count) or count > MOST_CHANGES:
        raise RejectedError("count", f"must be a whole number from 0 to {MOST_CHANGES}")
    return change(shop, count)


def edit_in_order(place: Shop | Merchant | TwilioAccount, given: Any) -> Any:
    """One edit or a list of them, in order; those before one that is rejected stay done."""
    if isinstance(given, list):
        return [edit_in_order(place, one) for one in given]
    if not isinstance(given, dict) or not isinstance(given.get("edit"), str):
        raise RejectedError("edit", "is missing: give a JSON object with the name of the edit")
    fields = {name: value for name, value in given.items() if name != "edit"}
    return edit(place, given["edit"], **fields)
