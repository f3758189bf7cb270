"""Explanations of why a customer belongs to a person, in sentences. They name customers by store and id, never by
their data."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_customer
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.people.grouping import CustomerId
from bg_pipelines.people.keys import MOST
from bg_pipelines.people.matching import person_of


class Link(NamedTuple):
    """A customer of a person, and why."""

    store: str
    customer: str
    reason: str
    matched_at: datetime


_LINKS = """
    SELECT p.store_id, p.customer_external_id, s.name, p.matched_by, p.with_store_id, p.with_customer_external_id,
        o.name, p.matched_at, d.id, d.decided_by, d.decided_at
    FROM person_customers p JOIN stores s ON s.id = p.store_id LEFT JOIN stores o ON o.id = p.with_store_id
    LEFT JOIN person_decisions d ON p.matched_by = 'decision' AND d.kind = 'together' AND d.undone_at IS NULL
        AND (d.store_id, d.customer_external_id, d.other_store_id, d.other_customer_external_id) IN (
            (p.store_id, p.customer_external_id, p.with_store_id, p.with_customer_external_id),
            (p.with_store_id, p.with_customer_external_id, p.store_id, p.customer_external_id))
    WHERE p.person_id = %s ORDER BY p.matched_by <> 'first', p.store_id, p.customer_external_id COLLATE "C" """


def find_person(database: Database, store: str, customer: str) -> int:
    """Which person a customer is. Raises IntegrationError (bad_data) if it is none."""
    with database.transaction() as connection:
        found = find_customer(connection, store, customer)
        person_id = person_of(connection, found)
    if person_id is None:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"customer {found[1]} of store {store} is no person: {_NOBODY}",
            source="people",
        )
    return person_id


def customers_of(database: Database, person_id: int) -> list[Link]:
    """The customers of a person, the first before the others. Raises IntegrationError (bad_data) if there is none."""
    with database.transaction() as connection:
        links = _links(connection, person_id)
    if not links:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"person {person_id}: there is none of this number; one who became one with another has the older number",
            source="people",
        )
    return [link for link, _ in links.values()]


def why(database: Database, store: str, customer: str) -> list[str]:
    """Why a customer belongs to its person: the matches from it to the first one, and what its e-mail and phone
    match."""
    with database.transaction() as connection:
        found = find_customer(connection, store, customer)
        person_id = person_of(connection, found)
        if person_id is None:
            return [f"customer {found[1]} of store {store} is no person: {_NOBODY}"]
        links = _links(connection, person_id)
        lines = [f"customer {found[1]} of store {store} is person {person_id}"]
        step: CustomerId | None = found
        while step is not None:
            link, step = links[step]
            lines.append(f"customer {link.customer} of store {link.store}: {link.reason}")
        if others := len(links) - len(lines[1:]):
            more = "1 more customer is" if others == 1 else f"{others} more customers are"
            lines.append(
                f"{more} this person too: `bg-pipelines people show {person_id}` tells which and why"
            )
        lines += _keys(connection, found)
    return lines


_NOBODY = "it is deleted or redacted, nothing is known of who it is, or it has not been matched yet"


def _links(
    connection: psycopg.Connection[Any], person_id: int
) -> dict[CustomerId, tuple[Link, CustomerId | None]]:
    links: dict[CustomerId, tuple[Link, CustomerId | None]] = {}
    for row in connection.execute(_LINKS, (person_id,)):
        store_id, customer, store, by, with_store_id, with_id, with_store, matched_at, *decision = row
        other = f"customer {with_id} of store {with_store}"
        reasons = {
            "first": "the first we know of this person",
            "email": f"matched because it has the same verified e-mail as {other}",
            "phone": f"matched because it has the same phone as {other}",
        }
        reason = reasons.get(by)
        if reason is None:
            number, decided_by, decided_at = decision
            reason = f"joined with {other} by {decided_by} on {decided_at:%Y-%m-%d} (decision {number})"
        towards = None if with_store_id is None else (with_store_id, with_id)
        links[store_id, customer] = Link(store, customer, reason, matched_at), towards
    return links


def _keys(connection: psycopg.Connection[Any], customer: CustomerId) -> list[str]:
    row = connection.execute(
        "SELECT c.email IS NOT NULL, c.email_verified, p.email_key IS NOT NULL, p.email_shared, "
        "(SELECT count(*) FROM person_customers o WHERE o.email_key = p.email_key), "
        "(SELECT count(*) FROM person_customers o WHERE o.email_key = p.email_key AND o.person_id <> p.person_id), "
        "coalesce(c.phone, c.phone_given) IS NOT NULL, c.phone IS NOT NULL, p.phone_key IS NOT NULL, p.phone_shared, "
        "(SELECT count(*) FROM person_customers o WHERE o.phone_key = p.phone_key), "
        "(SELECT count(*) FROM person_customers o WHERE o.phone_key = p.phone_key AND o.person_id <> p.person_id) "
        "FROM person_customers p JOIN customers c ON c.store_id = p.store_id AND c.external_id = p.customer_external_id "
        "WHERE p.store_id = %s AND p.customer_external_id = %s",
        customer,
    ).fetchone()
    if row is None:
        return []
    return [
        f"e-mail: {_told(*row[:6], unfit='it is not verified', placeholder='it is a placeholder, or of a store itself')}",
        f"phone: {_told(*row[6:], unfit='it could not be read', placeholder='it is made up, or has an extension')}",
    ]


def _told(
    has: bool,
    fit: bool,
    key: bool,
    shared: bool,
    holders: int,
    elsewhere: int,
    *,
    unfit: str,
    placeholder: str,
) -> str:
    if not has:
        return "it has none"
    if not fit:
        return f"matches nobody: {unfit}"
    if not key:
        return f"matches nobody: {placeholder}"
    if shared:
        return (
            f"matches nobody: {holders:,} customers have it, among them two of one store without the same name, "
            f"or more than {MOST} in all"
        )
    if holders == 1:
        return "no other customer has it"
    if elsewhere:
        return (
            f"{holders:,} customers have it, {elsewhere:,} of them are not this person: somebody split them, or it "
            "would make one of two customers of one store with different verified e-mails"
        )
    return f"{holders:,} customers have it, all of them this person"
