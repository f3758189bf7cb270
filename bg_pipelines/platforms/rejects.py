"""Rows that a platform's converter refuses: which field is at fault, and how, never its value.

    except NONSENSE as error:
        page.rejects.append(rejected(row, error, partial(convert, page)))

A converter is flat and says nothing of where it fails. The row is converted once more, as an object that remembers what
was looked at last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bg_pipelines.records import Reject, remedied

NONSENSE = (KeyError, TypeError, AttributeError, ValueError)
"""What a converter raises for a row that is none."""
_KINDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


def optional(holder: Any, name: str, kind: type, nothing: Any = None) -> Any:
    """A field that may be null or missing: then it is `nothing`. Nought and what is empty are of a kind, too.

    Raises ValueError with the field's name.
    """
    value = holder.get(name)
    if value is None:
        return nothing
    if not isinstance(value, kind):
        raise ValueError(f"{name}: must be {_KINDS[kind]} and is not")
    return value


def id_of(row: Any) -> Any:
    return row.get("id") if isinstance(row, dict) else None


def key_of(row: dict[str, Any], when: str) -> tuple[str, str]:
    """Id and time of change (`when`): a row without either can be neither kept apart nor kept current."""
    external_id, updated_at = row["id"], row[when]
    if type(external_id) is str and type(updated_at) is str and external_id and updated_at:
        return external_id, updated_at
    name = when if isinstance(external_id, str) and external_id else "id"
    raise ValueError(f"{name}: must be a text and is not")


def rejected(
    row: Any,
    error: Exception,
    convert: Callable[[Any], object],
    *,
    external_id: Any = None,
    table: str | None = None,
) -> Reject:
    """The reject of a row that `convert` raised `error` for; its id is the row's, unless `external_id` says another."""
    named = id_of(row) if external_id is None else external_id
    return Reject(
        named if isinstance(named, str) and named else None,
        remedied(fault(row, error, convert)),
        row,
        table,
    )


def fault(row: Any, error: Exception, convert: Callable[[Any], object]) -> str:
    """Field and fault of a row that `convert` raised `error` for."""
    if type(error) is ValueError:
        return str(error)
    if not isinstance(row, dict):
        return "the row: is not an object"
    place = _last_looked_at(row, convert)
    if isinstance(error, KeyError):
        missing = str(error.args[0])
        return f"{place if place and place.endswith(missing) else missing}: missing from the answer"
    return f"{place or 'a row nested in it'}: is null, or not of the kind that it must be"


def _last_looked_at(row: dict[str, Any], convert: Callable[[Any], object]) -> str | None:
    looked_at: list[str] = []
    try:
        convert(_Traced(row, "", looked_at))
    except NONSENSE:
        return looked_at[-1] if looked_at else None
    # Else it is nested in what does not come with the row.
    return None


class _Traced(dict[str, Any]):
    """An object that notes the names that are looked at in it, and in what it holds."""

    def __init__(self, content: dict[str, Any], path: str, looked_at: list[str]) -> None:
        super().__init__(content)
        self._path, self._looked_at = path, looked_at

    def __getitem__(self, name: str) -> Any:
        self._looked_at.append(f"{self._path}{name}")
        return self._traced(super().__getitem__(name), f"{self._path}{name}.")

    def get(self, name: str, default: Any = None) -> Any:
        with suppress(KeyError):
            return self[name]
        return default

    def _traced(self, value: Any, path: str) -> Any:
        if path.endswith("pageInfo."):
            return (
                {**value, "hasNextPage": False} if isinstance(value, dict) else value
            )  # nothing is asked for again
        if isinstance(value, dict):
            return _Traced(value, path, self._looked_at)
        if isinstance(value, list):
            return [self._traced(one, path) for one in value]
        return value
