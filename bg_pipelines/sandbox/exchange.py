"""One HTTP request and its answer, apart from how it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Delivery = Literal["whole", "cut", "half", "drip"]


@dataclass(frozen=True)
class Incoming:
    """`path` has no query string; `query` keeps the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Answer:
    """`wait_seconds` pass before it is sent; `drip_seconds` is how long a drip takes.

    What is too long to hold comes in `chunks` of `length` bytes together, in place of `body`.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    wait_seconds: float = 0.0
    drip_seconds: float = 0.0
    chunks: Iterable[bytes] | None = None
    length: int = 0


def as_json(status: int, content: Any) -> Answer:
    return Answer(status, orjson.dumps(content))


def as_html(status: int, page: str) -> Answer:
    return Answer(status, page.encode(), content_type="text/html; charset=utf-8")
