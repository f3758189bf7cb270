"""Confirmed rows: what a full pass has listed and found held as it is, noted apart so that no row is written to say so.

The notes are in an unlogged table, which costs no WAL and is empty after a crash of the server. So the pass marks when it
began, and whoever uses the notes requires the mark: without it the pass begins again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError

Connection = psycopg.Connection[Any]

_NOTES = (
    "SELECT FROM confirmed_rows k WHERE k.store_id = {0}.store_id AND k.resource = {1} "
    "AND k.external_id = {0}.external_id"
)
IS_CONFIRMED = f"EXISTS ({_NOTES})"
"""Whether a row of the table alias {0} is; {1} is the resource."""
WAS_CONFIRMED = f"EXISTS ({_NOTES} AND k.confirmed_at <> now())"
"""Whether it is, by an earlier transaction."""


def begin(connection: Connection, store_id: int, table: str, began_at: datetime) -> None:
    """A full pass begins: forget what an earlier one has noted, and leave its mark."""
    forget(connection, store_id, table)
    connection.execute(
        "INSERT INTO confirmed_rows (store_id, resource, external_id, confirmed_at) VALUES (%s, %s, '', %s)",
        (store_id, table, began_at),
    )


def are_known(connection: Connection, store_id: int, table: str, began_at: datetime) -> bool:
    """Whether the notes of the pass that began then are there."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM confirmed_rows WHERE store_id = %s AND resource = %s AND external_id = '' "
        "AND confirmed_at = %s)",
        (store_id, table, began_at),
    ).fetchone()
    return bool(row and row[0])


def require(connection: Connection, store_id: int, table: str, began_at: datetime) -> None:
    """Raises IntegrationError (count_mismatch) where the notes of the pass that began then are lost."""
    if are_known(connection, store_id, table, began_at):
        return
    raise IntegrationError(
        f"PostgreSQL has forgotten which {table} this pass has listed, as it does when it recovers from a crash. Nothing "
        "was marked deleted; the next attempt reads everything again",
        error_type=ErrorType.COUNT_MISMATCH,
        source="database",
    )


def forget(connection: Connection, store_id: int, table: str) -> None:
    connection.execute("DELETE FROM confirmed_rows WHERE store_id = %s AND resource = %s", (store_id, table))
