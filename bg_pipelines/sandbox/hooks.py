"""A receiver of notifications: anything posted to /hooks/NAME is kept for the operator to read."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import STATUSES, Fault, delivered, first_match, html_page

KINDS = ("too_many_requests", "server_error", "html", "slow", "cut", "apply_then_cut")
HEADERS_KEPT = ("content-type", "user-agent")
NOTICES_KEPT = 10_000


@dataclass(frozen=True)
class Notice:
    """One thing that was posted. `body` is what its JSON says, or its text if it is none."""

    received_at: str
    headers: dict[str, str]
    body: Any

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Hook:
    """One place to post to. What a fault refuses is not in `received`."""

    def __init__(self, name: str) -> None:
        self.lock = threading.RLock()
        self.name = name
        self.received: deque[Notice] = deque(maxlen=NOTICES_KEPT)
        self.faults: list[Fault] = []


class Hooks(dict[str, Hook]):
    """Hooks by name; asking for one makes it: `world.hooks["ops"].received`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self._making = threading.Lock()

    def __missing__(self, name: str) -> Hook:
        with self._making:
            return self.setdefault(name, Hook(name))


class Receiver:
    """The side of the hooks that notifications are posted to."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    def answer(self, incoming: Incoming) -> Answer:
        place = incoming.path.strip("/").split("/")
        if len(place) != 2 or not place[1]:
            return as_json(404, {"error": "post to /hooks/NAME"})
        if incoming.method != "POST":
            return as_json(405, {"error": "only POST here; read it at /sandbox/hooks/NAME"})
        hook = self.hooks[place[1]]
        with hook.lock:
            fault = first_match(hook.faults, hook.name, kinds=KINDS)
            if fault is not None and fault.kind in STATUSES:
                return by_status(fault)
            if fault is not None and fault.kind == "cut":
                return Answer(200, delivery="cut")
            hook.received.append(self.read(incoming))
            return delivered(as_json(200, {"received": True}), fault)

    def read(self, incoming: Incoming) -> Notice:
        headers = {name: incoming.headers.get(name) for name in HEADERS_KEPT}
        try:
            body = orjson.loads(incoming.body)
        except orjson.JSONDecodeError:
            body = incoming.body.decode("utf-8", "replace")
        return Notice(
            received_at=self.hooks.clock.stamp(),
            headers={name: value for name, value in headers.items() if value is not None},
            body=body,
        )


def by_status(fault: Fault) -> Answer:
    if fault.kind == "html":
        return html_page(200)
    answer = as_json(STATUSES[fault.kind], {"error": fault.kind})
    if fault.kind == "too_many_requests":
        answer.headers["Retry-After"] = f"{fault.seconds:.1f}"
    return answer
