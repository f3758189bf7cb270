"""Rows of a query as instances of a class, for whoever shows them."""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

T = TypeVar("T")


def read(session: Session, row: type[T], statement: str, **values: Any) -> list[T]:
    """A query's rows as instances of `row`, whose fields are its columns, by name."""
    found = session.execute(sa.text(statement), values)
    names = tuple(found.keys())
    return [row(**dict(zip(names, line, strict=True))) for line in found]
