"""The fields of an operator's request (faults, edits): each is checked, and an error names the wrong one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bg_pipelines.sandbox.rows import Node

Place = TypeVar("Place")
# By the edit's name: what does it, and the fields that it takes.
Edits = Mapping[str, tuple[Callable[[Place, Node], Node], tuple[str, ...]]]
# What a field of a row may be: a text, a text or null, a list of texts, yes or no, or one of these.
TEXT, TEXT_OR_NULL, TEXTS, YES_OR_NO = "a text", "a text or null", "a list of texts", "true or false"
Kinds = Mapping[str, str | tuple[str, ...]]


class RejectedError(Exception):
    """An operator's request names a field that is missing or wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def apply_edit(edits: Edits[Place], place: Place, name: str, fields: Node) -> Node:
    """Do one of these edits; the answer shows what it made of it."""
    known = edits.get(name)
    if known is None:
        raise RejectedError("edit", f"{name!r} is none of {', '.join(edits)}")
    edit, allowed = known
    for field in fields:
        if field not in allowed:
            raise RejectedError(field, f"{name} takes {', '.join(allowed) or 'nothing'}")
    return edit(place, fields)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(fields: Node, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise RejectedError(name, "must be a text")
    return value


def texts(fields: Node, name: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RejectedError(name, "must be a list of texts")
    return value


def count(fields: Node, name: str, default: int) -> int:
    value: Any = fields.get(name, default)
    if not is_whole(value):
        raise RejectedError(name, "must be a whole number, 0 or more")
    return int(value)


def amount(fields: Node, name: str, default: float | None = None) -> float:
    value: Any = fields.get(name, default)
    if not is_number(value) or value < 0:
        raise RejectedError(name, "must be a number, 0 or more")
    return float(value)


def changes(fields: Node, kinds: Kinds) -> Node:
    """What `fields` says is to be written, each of its kind."""
    given = fields.get("fields")
    if not isinstance(given, dict) or not given:
        raise RejectedError("fields", "must be a JSON object with at least one field")
    for name, value in given.items():
        kind = kinds.get(name)
        if kind is None:
            raise RejectedError(name, f"is none of {', '.join(kinds)}")
        if isinstance(kind, tuple):
            if value not in kind:
                raise RejectedError(name, f"{value!r} is none of {', '.join(kind)}")
        elif not fits(value, kind):
            raise RejectedError(name, f"must be {kind}")
    return given


def fits(value: object, kind: str) -> bool:
    if kind == TEXTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == YES_OR_NO:
        return isinstance(value, bool)
    return isinstance(value, str) or (value is None and kind == TEXT_OR_NULL)
