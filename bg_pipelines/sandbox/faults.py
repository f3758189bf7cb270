"""Faults on demand: what a vendor can be told to do wrong, and what each kind does to an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from bg_pipelines.sandbox.exchange import Answer, as_html
from bg_pipelines.sandbox.fields import RejectedError, is_number, is_whole
from bg_pipelines.sandbox.rows import Node

KINDS: dict[str, str] = {
    "unauthorized": "401, as for a wrong token",
    "payment_required": "402, the plan does not allow it",
    "forbidden": "403, the shop is not available",
    "not_found": "404, the shop is gone",
    "locked": "423, the shop is locked",
    "refused": "430 with an HTML body, as the gate's answer to an address that it takes for an attacker",
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
    "webhook_lost": "a delivery is never sent",
    "webhook_twice": "a delivery is sent twice, with the same ids",
    "webhook_late": "a delivery is sent `seconds` late",
    "webhook_shuffled": "a delivery is sent at a random moment within `seconds`, so that the order is lost",
}
# They apply when a bulk operation is started, and the last one when its file is fetched.
BULK_KINDS = frozenset(kind for kind in KINDS if kind.startswith("bulk_"))
# They apply to deliveries of webhooks; `operation` is a part of the topic. All that match are applied.
WEBHOOK_KINDS = tuple(kind for kind in KINDS if kind.startswith("webhook_"))
REQUEST_KINDS = frozenset(KINDS) - BULK_KINDS - {*WEBHOOK_KINDS}
# Requests that other faults only touch when their `operation` says so.
QUIET = frozenset({"access_token", "bulk_file"})
STATUSES = {
    "unauthorized": 401,
    "payment_required": 402,
    "forbidden": 403,
    "not_found": 404,
    "locked": 423,
    "refused": 430,
    "too_many_requests": 429,
    "server_error": 500,
    "bad_gateway": 502,
    "service_unavailable": 503,
    "html": 200,
}

BAD_GATEWAY_PAGE = (
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)
HTML_PAGE = (
    "<!DOCTYPE html><html><head><title>Something went wrong</title></head><body>Please wait</body></html>"
)


@dataclass
class Fault:
    """One thing to do wrong.

    `after` matching requests pass first, then it is applied `times` times (None: for ever). `operation` is a part of
    the operation's name or text, or of a webhook's topic; the token endpoint is only touched when it says
    "access_token", the file of a bulk operation when it says "bulk_file". `field` is a name or a dotted path
    ("inventoryItem.sku") inside a node. `id` names the node in place of its `row`: it is spoiled in every answer that
    holds it with its id.
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
    matched: int = 0
    applied: int = 0

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
        settings = {field.name for field in fields(cls)} - {"matched", "applied"}
        for name, value in content.items():
            if name not in settings:
                raise RejectedError(name, f"is none of {', '.join(sorted(settings))}")
            if name in {"kind", "operation", "field", "id"} and not isinstance(value, str | None):
                raise RejectedError(name, "must be a text")
            if (
                name in {"times", "after", "row"}
                and not (value is None and name == "times")
                and not is_whole(value)
            ):
                raise RejectedError(name, "must be a whole number, 0 or more")
            if name == "seconds" and not (is_number(value) and value >= 0):
                raise RejectedError(name, "must be a number, 0 or more")
        if not content.get("kind"):
            raise RejectedError("kind", "is missing")
        if content["kind"] not in kinds:
            raise RejectedError("kind", f"{content['kind']!r} is none of {', '.join(kinds)}")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def applies(self, name: str, text: str) -> bool:
        """Count a request that matches, and say whether the fault is applied to it."""
        if self.operation is not None:
            if self.operation not in name and self.operation not in text:
                return False
        elif name in QUIET and self.kind not in BULK_KINDS:
            return False
        if self.times is not None and self.applied >= self.times:
            return False
        self.matched += 1
        if self.matched <= self.after:
            return False
        self.applied += 1
        return True


def spoil_rows(fault: Fault, body: Node, id_fields: Collection[str] = ("id",)) -> bool:
    """Spoil a field of an answer's rows in place; False when none has it. `id_fields` are what a row is known by."""
    assert fault.field is not None
    path = fault.field.split(".")
    holders = [
        holder
        for node, holder in holding(body, path)
        if fault.id is None or any(node.get(name) == fault.id for name in id_fields)
    ]
    if fault.id is None:
        holders = holders[fault.row : fault.row + 1]
    for holder in holders:
        holder[path[-1]] = None if fault.kind == "null_field" else fault.value
    return bool(holders)


def holding(value: Any, path: list[str]) -> Iterator[tuple[Node, Node]]:
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


def first_match(
    faults: list[Fault], name: str, text: str = "", kinds: Collection[str] = KINDS
) -> Fault | None:
    """The first that matches; those of one node come last, as most answers don't hold it."""
    ordered = sorted(faults, key=lambda fault: fault.id is not None)
    return next((fault for fault in ordered if fault.kind in kinds and fault.applies(name, text)), None)


def html_page(status: int) -> Answer:
    """A page for people where a program expects JSON, as proxies give it."""
    return as_html(status, BAD_GATEWAY_PAGE if status == 502 else HTML_PAGE)


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
