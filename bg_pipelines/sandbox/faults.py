"""Spoil answers on purpose: what a vendor's side can be told to do wrong, and how each kind bites."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from bg_pipelines.sandbox.cost import Part
from bg_pipelines.sandbox.errors import RejectedError
from bg_pipelines.sandbox.exchange import Answer

KINDS: dict[str, str] = {
    "unauthorized": "401, as for a wrong token",
    "payment_required": "402, the plan does not allow it",
    "forbidden": "403, the shop is not available",
    "not_found": "404, the shop is gone",
    "locked": "423, the shop is locked",
    "too_many_requests": "429 with `Retry-After: seconds`",
    "server_error": "500",
    "bad_gateway": "502 with an HTML body",
    "service_unavailable": "503",
    "html": "200 with an HTML body",
    "slow": "executes, then waits `seconds` before it answers",
    "drip": "sends the answer a few bytes at a time over `seconds`",
    "cut": "closes the connection before any answer; nothing is executed",
    "half_page": "declares the full Content-Length, sends half, closes",
    "half_json": "a complete HTTP answer whose JSON is truncated",
    "throttled": "200 with the THROTTLED body; nothing is executed",
    "access_denied": "200 with ACCESS_DENIED for `field` (default: the first root field), data null",
    "internal_error": "200 with INTERNAL_SERVER_ERROR",
    "null_field": "sets `field` to null in node number `row` of the answer, or wherever node `id` appears",
    "bad_value": "sets `field` to `value` in node number `row` of the answer, or wherever node `id` appears",
    "missing_page_info": "the first pageInfo is null",
    "repeat_cursor": "endCursor is the cursor that was sent, hasNextPage is true",
    "apply_then_cut": "executes (a mutation is applied), then closes the connection without an answer",
    "bulk_failed": "the bulk operation fails with `value` (default: INTERNAL_SERVER_ERROR) and partial data",
    "bulk_canceled": "the bulk operation is canceled by the vendor",
    "bulk_slow": "the bulk operation takes `seconds` longer, by the sandbox's clock",
    "bulk_short_file": "the file of the bulk operation lacks its last `value` lines (default: 1), its counts do not tell",
    "bulk_expired_url": "the file of the bulk operation is not there any more: 400 with XML",
}
# They bite when a bulk operation is started, and the last one when its file is fetched.
BULK_KINDS = frozenset(kind for kind in KINDS if kind.startswith("bulk_"))
REQUEST_KINDS = frozenset(KINDS) - BULK_KINDS
# Requests that other faults only touch when their `operation` says so.
QUIET = frozenset({"access_token", "bulk_file"})
STATUSES = {
    "unauthorized": 401,
    "payment_required": 402,
    "forbidden": 403,
    "not_found": 404,
    "locked": 423,
    "too_many_requests": 429,
    "server_error": 500,
    "bad_gateway": 502,
    "service_unavailable": 503,
    "html": 200,
}


@dataclass
class Fault:
    """One thing to do wrong.

    `after` matching requests pass first, then it bites `times` times (None: for ever). `operation` is a part of
    the operation's name or text; the token endpoint is only touched when it says "access_token", the file of a
    bulk operation when it says "bulk_file". `field` is a
    name or a dotted path ("inventoryItem.sku") inside a node. `id` names the node in place of its `row`: it is
    spoiled in every answer that holds it with its id.
    """

    kind: str
    times: int | None = None
    after: int = 0
    seconds: float = 1.0
    operation: str | None = None
    field: str | None = None
    row: int = 0
    value: Any = None
    id: str | None = None
    seen: int = 0
    bitten: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RejectedError("kind", f"{self.kind!r} is none of {', '.join(KINDS)}")
        if self.kind in {"null_field", "bad_value"} and not self.field:
            raise RejectedError("field", f"{self.kind} needs the name of a field")

    @classmethod
    def from_json(cls, content: Any, kinds: Collection[str] = KINDS) -> Fault:
        """`kinds` are those that the vendor's side in question knows."""
        if not isinstance(content, dict):
            raise RejectedError("fault", "must be a JSON object")
        settings = {field.name for field in fields(cls)} - {"seen", "bitten"}
        for name, value in content.items():
            if name not in settings:
                raise RejectedError(name, f"is none of {', '.join(sorted(settings))}")
            if name in {"kind", "operation", "field", "id"} and not isinstance(value, str | None):
                raise RejectedError(name, "must be a text")
            if (
                name in {"times", "after", "row"}
                and not (value is None and name == "times")
                and not whole(value)
            ):
                raise RejectedError(name, "must be a whole number, 0 or more")
            if name == "seconds" and not (
                isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            ):
                raise RejectedError(name, "must be a number, 0 or more")
        if not content.get("kind"):
            raise RejectedError("kind", "is missing")
        if content["kind"] not in kinds:
            raise RejectedError("kind", f"{content['kind']!r} is none of {', '.join(kinds)}")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def bites(self, name: str, text: str) -> bool:
        """Count a request that matches, and say whether it is spoiled."""
        if self.operation is not None:
            if self.operation not in name and self.operation not in text:
                return False
        elif name in QUIET and self.kind not in BULK_KINDS:
            return False
        if self.times is not None and self.bitten >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.after:
            return False
        self.bitten += 1
        return True

    def spoil(self, body: dict[str, Any], parts: list[Part]) -> bool:
        """Change the answer in place; False when it has nothing to spoil, which then does not count."""
        data = body.get("data")
        if not isinstance(data, dict):
            return False
        if self.kind in {"null_field", "bad_value"}:
            assert self.field is not None
            path = self.field.split(".")
            holders = [
                holder for node, holder in holding(data, path) if self.id is None or node.get("id") == self.id
            ]
            if self.id is None:
                holders = holders[self.row : self.row + 1]
            for holder in holders:
                holder[path[-1]] = None if self.kind == "null_field" else self.value
            return bool(holders)
        for connection, part in connections(data, parts):
            if "pageInfo" not in connection:
                continue
            if self.kind == "missing_page_info":
                connection["pageInfo"] = None
                return True
            connection["pageInfo"]["hasNextPage"] = True
            if part.after is not None:
                connection["pageInfo"]["endCursor"] = part.after
                return True
        return False


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def holding(value: Any, path: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every node of the answer that has the path, in order, with the dict that holds the path's last name."""
    if isinstance(value, list):
        for one in value:
            yield from holding(one, path)
    elif isinstance(value, dict):
        holder: Any = value
        for name in path[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and path[-1] in holder:
            yield value, holder
        for one in value.values():
            if isinstance(one, dict | list):
                yield from holding(one, path)


def connections(value: Any, parts: list[Part]) -> Iterator[tuple[dict[str, Any], Part]]:
    """Every connection of the answer with the part of the query that asked for it, outermost first."""
    if not isinstance(value, dict):
        return
    for part in parts:
        below = value.get(part.key)
        if not isinstance(below, dict):
            continue
        if part.kind == "connection":
            yield below, part
            for row in below.get("nodes") or []:
                yield from connections(row, part.parts)
        else:
            yield from connections(below, part.parts)


def first_to_bite(
    faults: list[Fault], name: str, text: str = "", kinds: Collection[str] = KINDS
) -> Fault | None:
    """The first that matches; those of one node come last, as most answers don't hold it."""
    ordered = sorted(faults, key=lambda fault: fault.id is not None)
    return next((fault for fault in ordered if fault.kind in kinds and fault.bites(name, text)), None)


def delivered(answer: Answer, fault: Fault | None) -> Answer:
    """The answer, sent as the fault wants it."""
    match fault.kind if fault is not None else None:
        case "slow":
            answer.wait_seconds = fault.seconds if fault is not None else 0.0
        case "drip":
            answer.delivery = "drip"
            answer.drip_seconds = fault.seconds if fault is not None else 0.0
        case "half_page":
            answer.delivery = "half"
        case "half_json":
            answer.body = answer.body[: len(answer.body) // 2]
            answer.length //= 2
        case "apply_then_cut":
            answer.delivery = "cut"
        case _:
            pass
    return answer
