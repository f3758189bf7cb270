"""How long one store's carts are kept, where that is otherwise than for all stores: rows of `cart_rules`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from typing import NamedTuple

from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.relations import Connection
from bg_pipelines.cleaning.spans import A_SPAN, read_span
from bg_pipelines.errors import ErrorType, IntegrationError

NAMES = tuple(field.name for field in fields(CartKeep))


class StoreRules(NamedTuple):
    """What a store has otherwise; what is not in `spans` is as for all stores."""

    store: str
    spans: dict[str, timedelta]


def list_rules(connection: Connection) -> list[StoreRules]:
    """The stores that have something otherwise, by name."""
    rows = connection.execute(
        f"SELECT coalesce(s.name, r.store_id::text), {', '.join(f'r.{name}' for name in NAMES)} "
        "FROM cart_rules r LEFT JOIN stores s ON s.id = r.store_id ORDER BY 1"
    ).fetchall()
    found = (
        StoreRules(store, {name: span for name, span in zip(NAMES, spans, strict=True) if span is not None})
        for store, *spans in rows
    )
    return [rules for rules in found if rules.spans]


def set_rules(connection: Connection, store_id: int, given: Mapping[str, str | None]) -> None:
    """Change what is given as text, by name; an empty text: as for all stores again; None: as it is.

    Raises IntegrationError (bad_data) for a text that is no span, and then changes nothing.
    """
    chosen = {name: text.strip() for name, text in given.items() if text is not None}
    values = {name: read_span(text) for name, text in chosen.items()}
    if wrong := [f"{name} {A_SPAN}" for name, text in chosen.items() if text and values[name] is None]:
        raise IntegrationError.of(
            ErrorType.BAD_DATA, f"times of carts: {'; '.join(wrong)}; '' is as for all stores", source="carts"
        )
    connection.execute(
        f"INSERT INTO cart_rules (store_id, {', '.join(values)}) VALUES (%(store)s, "
        f"{', '.join(f'%({name})s' for name in values)}) ON CONFLICT (store_id) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in values),
        {"store": store_id, **values},
    )
