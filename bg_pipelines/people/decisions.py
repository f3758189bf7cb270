"""Decisions about who is one person: join, split, and undo either.

A customer is named by its store and its id there; for Shopify the number at the end of the id is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.customers.changes import is_somebody
from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_customer
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.people.grouping import CustomerId
from bg_pipelines.people.matching import BATCH, lock, match, match_batch, person_of


class Decision(NamedTuple):
    """A decision that was made or undone, and which persons the two customers are now (None: nobody)."""

    id: int
    kind: str
    person_id: int | None
    other_person_id: int | None


class HeldDecision(NamedTuple):
    """A decision that is in force."""

    id: int
    kind: str
    store: str
    customer: str
    other_store: str
    other: str
    decided_by: str
    decided_at: datetime


def join(database: Database, customer: tuple[str, str], other: tuple[str, str], *, by: str) -> Decision:
    """Join two customers, each (store's name, id), with all who are matched with either, into one person.

    A split in force wins: then they stay two, as the result shows. Raises IntegrationError (bad_data).
    """
    return _decide(database, "together", customer, other, by)


def split(database: Database, customer: tuple[str, str], other: tuple[str, str], *, by: str) -> Decision:
    """Split two customers for good: `other` leaves, whoever can be matched with both stays.

    Raises IntegrationError (bad_data).
    """
    return _decide(database, "apart", customer, other, by)


def undo(database: Database, decision_id: int, *, by: str) -> Decision:
    """Undo a decision: grouping and ids are as if it had never been made. Raises IntegrationError (bad_data)."""

    def change(connection: psycopg.Connection[Any]) -> tuple[int, str, CustomerId, CustomerId]:
        row = connection.execute(
            "UPDATE person_decisions SET undone_by = %s, undone_at = now() WHERE id = %s AND undone_at IS NULL "
            "RETURNING kind, store_id, customer_external_id, other_store_id, other_customer_external_id",
            (by, decision_id),
        ).fetchone()
        if row is None:
            raise _bad_data(f"decision {decision_id}: there is none in force; `people decisions` lists them")
        return decision_id, row[0], (row[1], row[2]), (row[3], row[4])

    return _change(database, change)


def list_decisions(database: Database) -> list[HeldDecision]:
    """The decisions in force, the newest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT d.id, d.kind, s.name, d.customer_external_id, o.name, d.other_customer_external_id, d.decided_by, "
            "d.decided_at FROM person_decisions d JOIN stores s ON s.id = d.store_id "
            "JOIN stores o ON o.id = d.other_store_id WHERE d.undone_at IS NULL ORDER BY d.id DESC"
        ).fetchall()
    return [HeldDecision(*row) for row in rows]


def _decide(
    database: Database, kind: str, customer: tuple[str, str], other: tuple[str, str], by: str
) -> Decision:
    def change(connection: psycopg.Connection[Any]) -> tuple[int, str, CustomerId, CustomerId]:
        pair = [find_customer(connection, *name) for name in (customer, other)]
        if pair[0] == pair[1]:
            raise _bad_data("these are one and the same customer; name two")
        for (store, _), found in zip((customer, other), pair, strict=True):
            if not is_somebody(connection, *found):
                raise _bad_data(
                    f"customer {found[1]} of store {store} was deleted or redacted; there is nothing to decide"
                )
        (store_id, external_id), (other_store_id, other_id) = pair
        held = connection.execute(
            "SELECT id, kind, decided_by FROM person_decisions WHERE undone_at IS NULL AND "
            "(store_id, customer_external_id, other_store_id, other_customer_external_id) IN ((%s, %s, %s, %s), (%s, %s, %s, %s))",
            (
                store_id,
                external_id,
                other_store_id,
                other_id,
                other_store_id,
                other_id,
                store_id,
                external_id,
            ),
        ).fetchone()
        if held is not None:
            done = "joined" if held[1] == "together" else "split"
            raise _bad_data(f"these two were {done} by {held[2]}: undo decision {held[0]} first")
        [decision_id] = connection.execute(
            "INSERT INTO person_decisions (kind, store_id, customer_external_id, other_store_id, "
            "other_customer_external_id, decided_by) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
            (kind, store_id, external_id, other_store_id, other_id, by),
        ).fetchone() or (0,)
        return decision_id, kind, pair[0], pair[1]

    return _change(database, change)


def _change(
    database: Database,
    change: Callable[[psycopg.Connection[Any]], tuple[int, str, CustomerId, CustomerId]],
) -> Decision:
    """Change a decision and match whom it concerns, in one transaction."""
    match(database)  # what waits may be much, and needs no transaction with this
    with database.transaction() as connection:
        lock(connection)
        decision_id, kind, customer, other = change(connection)
        while match_batch(connection)[0] == BATCH:
            pass
        persons = [person_of(connection, each) for each in (customer, other)]
    return Decision(decision_id, kind, *persons)


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="people")
