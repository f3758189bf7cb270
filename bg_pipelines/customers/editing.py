"""Customers for people: show one, edit a profile, list changes.

An edit is stored next to the customer, pending, and the next sync sends it to the platform (docs/jobs.md). `customers`
has the platform's values: it shows the new one once the platform has it. What is returned here is personal data;
errors name the field and the remedy and never repeat a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row, dict_row

from bg_pipelines.customers import changes
from bg_pipelines.customers.changes import Change, same
from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_customer, find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.phones import normalise
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.store_units import make_carrier_due

STATUSES = ("pending", "applied", "superseded", "rejected", "recorded")
CONSENTS = ("subscribed", "unsubscribed", "pending")
"""The consents that a person may set; the other states are the platform's own."""
LONGEST_NAME = 255
LONGEST_NOTE = 5000
LATEST = 50

# A value and the country whose national phone numbers it may be in -> what is kept, or ValueError(remedy).
Check = Callable[[Any, str | None], Any]


def _text(longest: int) -> Check:
    def check(value: Any, _country: str | None) -> str | None:
        if value is not None and not isinstance(value, str):
            raise ValueError("give a text")
        text = (value or "").strip()
        if len(text) > longest:
            raise ValueError(f"give at most {longest} characters")
        if re.search("[\0\ud800-\udfff]", text):
            raise ValueError("holds a character that no text can hold; type it again")
        return text or None

    return check


def _email(value: Any, country: str | None) -> str | None:
    text: str | None = _text(LONGEST_NAME)(value, country)
    if text is not None and not re.fullmatch(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", text):
        raise ValueError("give an e-mail address, like name@example.com, or nothing to clear it")
    return text


def _phone(value: Any, country: str | None) -> str | None:
    text = _text(LONGEST_NAME)(value, country)
    number, given = normalise(text, country)
    if text is not None and number is None:
        national = f", or one of {country}" if country else ""
        raise ValueError(f"give a phone number like +14155550123{national}, or nothing to clear it")
    if given is not None and re.search(r"[a-zA-Z#;]", given):
        raise ValueError("give a phone number without an extension: no platform keeps one")
    return number


def _tags(value: Any, country: str | None) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError("give a list of texts")
    tags = {_text(LONGEST_NAME)(tag, country) for tag in value} - {None}
    if any("," in tag for tag in tags):
        raise ValueError("give tags without commas, which separate them")
    return sorted(tags)


def _locale(value: Any, _country: str | None) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]{2,3}(-[A-Z][A-Za-z]{1,3})?", value.strip()):
        raise ValueError("give a language, like en or pt-BR")
    return value.strip()


def _consent(value: Any, _country: str | None) -> str:
    if value not in CONSENTS:
        raise ValueError(f"give one of: {', '.join(CONSENTS)}")
    return str(value)


FIELDS: dict[str, Check] = {
    "first_name": _text(LONGEST_NAME),
    "last_name": _text(LONGEST_NAME),
    "company": _text(LONGEST_NAME),
    "email": _email,
    "phone": _phone,
    "note": _text(LONGEST_NOTE),
    "tags": _tags,
    "locale": _locale,
    "email_consent": _consent,
    "sms_consent": _consent,
}
"""What can be edited. Which of these its platform takes is known when an edit is sent."""


class ChangeRow(NamedTuple):
    """A change as it is listed. The values of one that was erased are gone."""

    id: int
    store: str
    customer_external_id: str
    field: str
    from_value: Any
    to_value: Any
    changed_by: str
    changed_at: datetime
    status: str
    settled_at: datetime | None
    found_value: Any
    reason: str | None
    erased_at: datetime | None


class CustomerDetails(NamedTuple):
    """A customer as the platform has them (column -> value), and their latest changes, newest first."""

    store: str
    values: dict[str, Any]
    changes: list[ChangeRow]


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """`field=value` texts as values: nothing behind the sign takes the value away, commas part tags.

    Raises IntegrationError (bad_data).
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        field, sign, text = assignment.partition("=")
        field = field.strip()
        if not sign:
            raise _bad_data(["--set: write it as field=value"])
        if field in values:
            raise _bad_data([f"{field}: is given twice"])
        values[field] = [tag.strip() for tag in text.split(",")] if field == "tags" else text or None
    return values


def edit(
    database: Database, store: str, customer_id: str, values: Mapping[str, Any], *, by: str
) -> list[Change]:
    """Store an edit of a customer's profile, to be sent at the store's next sync, which is due now.

    `values` are by field of `FIELDS`; None takes a value away, tags are a list. Returns what was added: one change a
    field whose value is not what we hold, or what a pending edit makes it, already. Raises IntegrationError
    (bad_data) with every fault.
    """
    if not by.strip():
        raise _bad_data(["by: say who makes the edit"])
    if not values:
        raise _bad_data(["give at least one field and its value"])
    with database.transaction() as connection:
        store_id, customer_id = find_customer(connection, store, customer_id)
        # Locked: a sync that redacts the customer, or another edit, comes before this one or after it.
        held = _customer(connection, store_id, customer_id, lock=True)
        if not changes.is_somebody(connection, store_id, customer_id):
            was = "redacted" if held["deleted_at"] is None else "deleted"
            raise _bad_data([f"customer {customer_id}: was {was} on the platform and cannot be edited"])
        checked = _check(values, _country(held))
        waiting = {change.field: change for change in changes.pending(connection, store_id, customer_id)}
        added = []
        for field, value in checked.items():
            before = waiting[field].to_value if field in waiting else changes.value_of(held, field)
            if not same(field, before, value):
                added.append(
                    changes.add(connection, store_id, customer_id, field, before, value, by=by.strip())
                )
        if added:
            make_carrier_due(connection, changes.QUEUE, [store_id])
    return added


def show(database: Database, store: str, customer_id: str) -> CustomerDetails:
    """A customer and their latest changes, with values. Raises IntegrationError (bad_data)."""
    with database.transaction() as connection:
        store_id, customer_id = find_customer(connection, store, customer_id)
        held = _customer(connection, store_id, customer_id)
        return CustomerDetails(store, held, _changes(connection, store_id=store_id, customer_id=customer_id))


def list_changes(
    database: Database,
    store: str | None = None,
    customer_id: str | None = None,
    *,
    status: str | None = None,
    limit: int = LATEST,
) -> list[ChangeRow]:
    """The latest changes, newest first: all, of a store, or of one of its customers.

    Raises IntegrationError (bad_data) for a store, customer or status that is none.
    """
    if status is not None and status not in STATUSES:
        raise _bad_data([f"status is none of: {', '.join(STATUSES)}{did_you_mean(status, STATUSES)}"])
    with database.transaction() as connection:
        store_id = None if store is None else find_store(connection, store)
        if store is not None and customer_id is not None:
            store_id, customer_id = find_customer(connection, store, customer_id)
        return _changes(connection, store_id=store_id, customer_id=customer_id, status=status, limit=limit)


def _changes(
    connection: psycopg.Connection[Any],
    *,
    store_id: int | None = None,
    customer_id: str | None = None,
    status: str | None = None,
    limit: int = LATEST,
) -> list[ChangeRow]:
    with connection.cursor(row_factory=class_row(ChangeRow)) as cursor:
        cursor.execute(
            "SELECT c.id, s.name AS store, customer_external_id, field, from_value, to_value, changed_by, changed_at, "
            "status, settled_at, found_value, error ->> 'reason' AS reason, erased_at "
            "FROM customer_changes c JOIN stores s ON s.id = c.store_id "
            "WHERE (%(store)s::bigint IS NULL OR c.store_id = %(store)s) "
            "AND (%(customer)s::text IS NULL OR customer_external_id = %(customer)s) "
            "AND (%(status)s::text IS NULL OR status = %(status)s) ORDER BY c.id DESC LIMIT %(limit)s",
            {"store": store_id, "customer": customer_id, "status": status, "limit": limit},
        )
        return cursor.fetchall()


def _check(values: Mapping[str, Any], country: str | None) -> dict[str, Any]:
    checked, faults = {}, []
    for field, value in values.items():
        if field not in FIELDS:
            faults.append(
                f"{field}: not a field that can be edited; there are: {', '.join(FIELDS)}{did_you_mean(field, FIELDS)}"
            )
            continue
        try:
            checked[field] = FIELDS[field](value, country)
        except ValueError as error:
            faults.append(f"{field}: {error}")
    if faults:
        raise _bad_data([*faults, "nothing was changed"])
    return checked


def _customer(
    connection: psycopg.Connection[Any], store_id: int, customer_id: str, *, lock: bool = False
) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            f"SELECT * FROM customers WHERE store_id = %s AND external_id = %s {'FOR NO KEY UPDATE' if lock else ''}",  # noqa: S608
            (store_id, customer_id),
        )
        held = cursor.fetchone()
    assert held is not None
    return held


def _country(held: Mapping[str, Any]) -> str | None:
    """That of the customer's first address, in whose national form a phone number may be given."""
    for address in held["addresses"]:
        return address.get("country_code") or None
    return None


def _bad_data(faults: Sequence[str]) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, "; ".join(faults), source="customers")
