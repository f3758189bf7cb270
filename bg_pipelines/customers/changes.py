"""Changes of customers' profiles: rows of `customer_changes`, added by an edit and settled when it is sent.

Changes that come from a platform are written by a trigger of `customers` (migration 0003). Values are personal data:
never in a log, an error or a run's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.models import CustomerChange
from bg_pipelines.work.queue import FREE, Queue

Connection = psycopg.Connection[Any]


class Change(NamedTuple):
    """An edit of ours that is pending: one field of one customer, from what to what, by whom and when.

    `owner` is the claim that has it, if one has.
    """

    id: int
    customer_external_id: str
    field: str
    from_value: Any
    to_value: Any
    changed_by: str
    changed_at: datetime
    owner: str = ""
    attempts: int = 0


QUEUE = Queue(CustomerChange, Change)

_PENDING = (
    "SELECT id, customer_external_id, field, from_value, to_value, changed_by, changed_at FROM customer_changes "
    "WHERE store_id = %(store)s AND status = 'pending' "
    "AND (%(customer)s::text IS NULL OR customer_external_id = %(customer)s) ORDER BY id"
)


def same(field: str, one: Any, other: Any) -> bool:
    """Whether two values of a field mean the same to a platform: it may write them in its own way."""
    if field == "tags":
        return set(one or ()) == set(other or ())
    if field == "email":
        return (one or "").lower() == (other or "").lower()
    return (one or None) == (other or None)


def value_of(profile: Mapping[str, Any], field: str) -> Any:
    """What a profile has in a field. A phone that cannot be read as a number is still a phone."""
    return profile["phone"] or profile["phone_given"] if field == "phone" else profile[field]


def pending(connection: Connection, store_id: int, customer_external_id: str | None = None) -> list[Change]:
    """The edits of a store, or of one of its customers, that the platform has not been sent yet; oldest first."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        cursor.execute(_PENDING, {"store": store_id, "customer": customer_external_id})
        return cursor.fetchall()


def still_pending(connection: Connection, changes: Sequence[Change]) -> set[int]:
    """The ids of those that are still pending; the trigger settles them when their customer is redacted."""
    rows = connection.execute(
        "SELECT id FROM customer_changes WHERE id = ANY(%s) AND status = 'pending'",
        ([change.id for change in changes],),
    )
    return {change_id for (change_id,) in rows}


def is_somebody(connection: Connection, store_id: int, customer_external_id: str) -> bool:
    """Whether a customer is held and neither deleted nor redacted; `somebody` of the database says so."""
    row = connection.execute(
        "SELECT somebody(c) FROM customers c WHERE store_id = %s AND external_id = %s",
        (store_id, customer_external_id),
    ).fetchone()
    return row is not None and bool(row[0])


def forget_nobody(connection: Connection, store_id: int, customer_external_ids: Sequence[str]) -> None:
    """Reject and erase what waits for customers who were deleted or redacted before: no trigger sees that again."""
    connection.execute(
        "SELECT forget_customer(c) FROM customers c WHERE store_id = %s AND external_id = ANY(%s) AND NOT somebody(c)",
        (store_id, list(customer_external_ids)),
    )


def add(
    connection: Connection,
    store_id: int,
    customer_external_id: str,
    field: str,
    from_value: Any,
    to_value: Any,
    *,
    by: str,
) -> Change:
    """Add an edit, pending."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        cursor.execute(
            "INSERT INTO customer_changes (store_id, customer_external_id, field, from_value, to_value, changed_by, "
            "changed_at) VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp()) "
            "RETURNING id, customer_external_id, field, from_value, to_value, changed_by, changed_at",
            (store_id, customer_external_id, field, _json(from_value), _json(to_value), by),
        )
        added = cursor.fetchone()
    assert added is not None
    return added


def settle(
    connection: Connection, change: Change, status: str, *, found: Any = None, reason: str | None = None
) -> None:
    """End a pending change; `found` is what the platform had instead, `reason` a text without any value.

    The trigger knows by `settled_at`, this transaction's time, that what is loaded in it is no change of the platform's.
    """
    connection.execute(
        "UPDATE customer_changes SET status = %s, settled_at = now(), found_value = %s, error = %s, next_due_at = NULL, "  # noqa: S608 (of constants)
        f"incident_id = NULL, {FREE} "
        "WHERE id = %s AND status = 'pending'",
        (status, _json(found), None if reason is None else Jsonb({"reason": reason}), change.id),
    )


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(value)
