"""The vendor's search syntax: `updated_at:>'2026-11-01T00:00:00Z' AND status:active`.

Supported: terms joined by spaces or AND, OR, a leading - or NOT, parentheses, the comparators > >= < <= and
quotes. As at the vendor, a field that cannot be searched and a date that cannot be read are ignored.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from bg_pipelines.sandbox.rows import Node

Matches = Callable[[Node], bool]

TOKEN = re.compile(
    r"""\s*(?:(?P<open>\()|(?P<close>\))|(?P<term>-?(?:[\w.]+:(?:[<>]=?)?)?(?:"[^"]*"|'[^']*'|[^\s()]+)))"""
)
TERM = re.compile(r"""(?P<field>\w+):(?P<comparator>[<>]=?)?(?P<value>.*)""", re.DOTALL)
COMPARATORS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
TIMES = {"updated_at": "updatedAt", "created_at": "createdAt", "processed_at": "processedAt"}
TEXTS = {
    "title": "title",
    "name": "name",
    "sku": "sku",
    "barcode": "barcode",
    "handle": "handle",
    "product_status": "status",
    "vendor": "vendor",
    "product_type": "productType",
    "tag": "tags",
    "first_name": "firstName",
    "last_name": "lastName",
    "state": "state",
    "financial_status": "displayFinancialStatus",
    "fulfillment_status": "displayFulfillmentStatus",
    "source_name": "sourceName",
}
# An order has them itself, a customer in its default address or number.
CONTACTS = {"email": ("defaultEmailAddress", "emailAddress"), "phone": ("defaultPhoneNumber", "phoneNumber")}
PARENTS = {"product_id": "product", "inventory_item_id": "item", "customer_id": "customer"}


@dataclass(frozen=True)
class Search:
    """One shop's way of searching: dates without a zone are in the shop's zone, and its index may lag."""

    zone: tzinfo
    visible_until: str | None = None

    def compile(self, query: str | None) -> Matches | None:
        """The test that a row must pass; None when the query holds nobody back."""
        if not query or not query.strip():
            return None
        return Parser(self, query).parse()


class Parser:
    def __init__(self, search: Search, query: str) -> None:
        self.search = search
        self.tokens = [match.group().strip() for match in TOKEN.finditer(query)]
        self.at = 0

    def parse(self) -> Matches | None:
        parts: list[Matches | None] = []
        while self.at < len(self.tokens):
            parts.append(self.either())
            self.at += 1  # Only a closing parenthesis without an opening one stops `either`: step over it.
        return every(parts)

    def either(self) -> Matches | None:
        choices = [self.all_of()]
        while self.peek() == "OR":
            self.at += 1
            choices.append(self.all_of())
        return some(choices)

    def all_of(self) -> Matches | None:
        parts: list[Matches | None] = []
        while self.peek() not in {None, "OR", ")"}:
            if self.peek() == "AND":
                self.at += 1
            else:
                parts.append(self.one())
        return every(parts)

    def one(self) -> Matches | None:
        token = self.tokens[self.at]
        self.at += 1
        if token == "NOT":  # noqa: S105
            return opposite(self.one()) if self.peek() not in {None, "OR", ")"} else None
        if token == "(":  # noqa: S105
            inside = self.either()
            if self.peek() == ")":
                self.at += 1
            return inside
        if token.startswith("-") and len(token) > 1:
            return opposite(self.term(token[1:]))
        return self.term(token)

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def term(self, token: str) -> Matches | None:
        parts = TERM.fullmatch(token)
        if parts is None:
            return contains(unquoted(token))
        field, value = parts["field"], unquoted(parts["value"])
        comparator = parts["comparator"] or ""
        if field in TIMES:
            return self.time(TIMES[field], comparator, value)
        if field == "id":
            return number(lambda node: node["_key"][-1], comparator, value)
        if field in PARENTS:
            parent = PARENTS[field]
            return number(lambda node: node[parent]["_key"][-1] if parent in node else -1, comparator, value)
        if field in CONTACTS:
            return text(lambda node: contact(node, field), value)
        if field == "status":
            return None if value.lower() == "any" else text(status, value)
        if field in TEXTS:
            name = TEXTS[field]
            return text(lambda node: node.get(name), value)
        return None

    def time(self, name: str, comparator: str, value: str) -> Matches | None:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self.search.zone)
        # Rows carry whole seconds, so a bound with a fraction is rounded to the second that decides the same.
        seconds = moment.timestamp()
        whole = math.ceil(seconds) if comparator in {">=", "<"} else math.floor(seconds)
        bound = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        compare = COMPARATORS[comparator]
        visible_until = self.search.visible_until if name == "updatedAt" else None
        if visible_until is None:
            return lambda node: compare(node[name], bound)
        return lambda node: node[name] <= visible_until and compare(node[name], bound)


def unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value


def number(read: Callable[[Node], int], comparator: str, value: str) -> Matches | None:
    digits = re.search(r"(\d+)$", value.split("?")[0])
    if digits is None:
        return None
    bound = int(digits.group(1))
    compare = COMPARATORS[comparator]
    return lambda node: compare(read(node), bound)


def contact(node: Node, field: str) -> str | None:
    kind, name = CONTACTS[field]
    found: str | None = node.get(field) or (node.get(kind) or {}).get(name)
    return found


def status(node: Node) -> str:
    """A product's, or whether an order is open, closed or cancelled."""
    if "status" in node:
        return str(node["status"])
    if node.get("cancelledAt") is not None:
        return "cancelled"
    return "closed" if node.get("closedAt") is not None else "open"


def text(read: Callable[[Node], Any], value: str) -> Matches:
    # Several statuses may be joined by commas; a trailing star is a prefix.
    wanted = [part.strip().lower() for part in value.split(",")]

    def matches(node: Node) -> bool:
        content = read(node)
        texts = content if isinstance(content, list) else [content or ""]
        return any(
            one.lower().startswith(want[:-1]) if want.endswith("*") else one.lower() == want
            for one in texts
            for want in wanted
        )

    return matches


def contains(value: str) -> Matches:
    wanted = value.lower().rstrip("*")
    return lambda node: any(
        wanted in (node.get(name) or "").lower() for name in ("title", "name", "displayName", "sku", "vendor")
    )


def every(parts: list[Matches | None]) -> Matches | None:
    tests = [part for part in parts if part is not None]
    if len(tests) <= 1:
        return tests[0] if tests else None
    return lambda node: all(test(node) for test in tests)


def some(choices: list[Matches | None]) -> Matches | None:
    tests = [choice for choice in choices if choice is not None]
    if len(tests) < len(choices) or len(tests) <= 1:
        # A choice that holds nobody back makes the whole alternative hold nobody back.
        return tests[0] if len(choices) == 1 and tests else None
    return lambda node: any(test(node) for test in tests)


def opposite(part: Matches | None) -> Matches | None:
    return None if part is None else lambda node: not part(node)
