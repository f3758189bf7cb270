"""Subjects: whom a request is about, and whether what is held somewhere names them.

A customer is known by their id at the platform, by ids of orders, and by e-mail and phone, which alone tell whose an
anonymous cart or an unread payload is. Personal: it is kept encrypted, and only until the request is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.names import find_customer, find_store
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.phones import normalise
from bg_pipelines.privacy.tables import ANSWERS

SHORTEST_PHONE = 7
"""Fewer digits are found in anything."""
COMPARED_DIGITS = 9
"""So many last digits of a phone are the same however it is written: with its country's code, or with a zero."""


class Subject(NamedTuple):
    """A customer of a store. `customer` is their id, None where they never had one; e-mails are in lower case."""

    customer: str | None
    orders: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()

    def parameters(self, store_id: int) -> dict[str, Any]:
        """For the conditions of `tables`."""
        return {
            "store": store_id,
            "customer": self.customer,
            "orders": list(self.orders),
            "emails": list(self.emails),
            "phones": list(self.phones),
        }

    def sealed(self, cipher: Cipher) -> bytes:
        return cipher.encrypt(self._asdict())

    def joined(self, other: Subject) -> Subject:
        """With all that another request knows of the same customer."""
        return Subject(
            self.customer,
            *(
                tuple(dict.fromkeys((*ours, *theirs)))
                for ours, theirs in zip(self[1:], other[1:], strict=True)
            ),
        )


class Search:
    """Tells whether content names a subject: by id, by the id of an order, by e-mail or by phone."""

    def __init__(self, subject: Subject) -> None:
        self._ids = {known for known in (subject.customer, *subject.orders) if known}
        self._customer = {subject.customer, (subject.customer or "").rpartition("/")[2]} - {None, ""}
        self._emails = set(subject.emails)
        digits = [re.sub(r"\D", "", phone) for phone in subject.phones]
        self._phones = {number[-COMPARED_DIGITS:] for number in digits if len(number) >= SHORTEST_PHONE}

    def finds(self, content: Any) -> bool:
        """`content` is JSON, or a text."""
        if isinstance(content, Mapping):
            return any(
                (key in _OWNERS and self._is_customer(value)) or self.finds(value)
                for key, value in content.items()
            )
        if isinstance(content, list | tuple):
            return any(map(self.finds, content))
        return isinstance(content, str) and self._finds_in_text(content)

    def _is_customer(self, value: Any) -> bool:
        """Some payloads have the plain number of an id: anywhere else it may be the number of anything."""
        if isinstance(value, Mapping):
            value = value.get("id")
        return not isinstance(value, bool) and isinstance(value, int | str) and str(value) in self._customer

    def _finds_in_text(self, text: str) -> bool:
        if text in self._ids or not self._ids.isdisjoint(_GID.findall(text)):
            return True
        if "@" in text and not self._emails.isdisjoint(
            found.strip(".") for found in _EMAIL.findall(text.lower())
        ):
            return True
        digits = re.sub(r"\D", "", text) if self._phones else ""
        return len(digits) >= SHORTEST_PHONE and any(ending in digits for ending in self._phones)


_OWNERS = ("customer", "customer_id", "customer_external_id")
"""Keys of JSON whose value is a customer, or a customer's id."""
_GID = re.compile(r"gid://[\w/-]+")
_EMAIL = re.compile(r"[^\s<>()\[\]\"',;:]+@[^\s<>()\[\]\"',;:]+")


def unsealed(cipher: Cipher, token: bytes) -> Subject:
    """What was sealed. Raises IntegrationError (configuration) where the key is another one."""
    kept = cipher.decrypt(token)
    return Subject(kept["customer"], *(tuple(kept[name]) for name in Subject._fields[1:]))


def find_known(connection: psycopg.Connection[Any], store: str, customer: str) -> tuple[int, str]:
    """The store's number and the whole id of a customer, also of one who is known by orders or carts alone.

    Raises IntegrationError (bad_data).
    """
    try:
        return find_customer(connection, store, customer)
    except IntegrationError:
        store_id = find_store(connection, store)
        known = connection.execute(
            "SELECT FROM orders WHERE store_id = %(store)s AND customer_external_id = %(customer)s "
            "UNION ALL SELECT FROM carts WHERE store_id = %(store)s AND customer_external_id = %(customer)s LIMIT 1",
            {"store": store_id, "customer": customer},
        ).rowcount
        if not known:
            raise
        return store_id, customer


def find_subject(
    connection: psycopg.Connection[Any],
    store_id: int,
    customer: str | None,
    *,
    orders: Iterable[str] = (),
    email: str | None = None,
    phone: str | None = None,
) -> Subject:
    """What a request says of a customer, with every e-mail and phone that is held of them."""
    emails, phones = {email}, {phone}
    for row in connection.execute(
        "SELECT email, phone, phone_given FROM customers WHERE store_id = %(store)s AND external_id = %(customer)s "
        "UNION SELECT email, phone, NULL FROM orders WHERE store_id = %(store)s AND customer_external_id = %(customer)s "
        "UNION SELECT email, phone, NULL FROM carts WHERE store_id = %(store)s AND customer_external_id = %(customer)s "
        "UNION SELECT NULL, phone, NULL FROM text_messages "
        "WHERE store_id = %(store)s AND customer_external_id = %(customer)s "
        "UNION SELECT NULL, phone, NULL FROM text_subscriptions "
        "WHERE store_id = %(store)s AND customer_external_id = %(customer)s",
        {"store": store_id, "customer": customer},
    ):
        emails.add(row[0])
        phones.update(row[1:])
    for field, *values in connection.execute(
        "SELECT field, from_value, to_value, found_value FROM customer_changes WHERE store_id = %s "
        "AND customer_external_id = %s AND field IN ('email', 'phone', 'phone_given')",
        (store_id, customer),
    ):
        (emails if field == "email" else phones).update(value for value in values if isinstance(value, str))
    # As it is written, too: it may stand somewhere in the same way.
    phones |= {normalise(text, None)[0] for text in phones}
    return Subject(
        customer,
        tuple(dict.fromkeys(orders)),
        tuple(sorted({text.strip().lower() for text in emails if text and text.strip()})),
        tuple(sorted({text for text in phones if text and text.strip()})),
    )


def with_held_orders(connection: psycopg.Connection[Any], store_id: int, subject: Subject) -> Subject:
    """With the orders that are held of them: what of an order could not be loaded names the order at best."""
    held = connection.execute(
        f"SELECT t.external_id FROM orders t WHERE {ANSWERS['orders'].of_customer}",  # noqa: S608
        subject.parameters(store_id),
    ).fetchall()
    return subject.joined(Subject(subject.customer, tuple(order for (order,) in held)))


def content_of(cipher: Cipher, payload: bytes) -> Any:
    """What an encrypted column holds: JSON, or a text that is none. Raises IntegrationError where no key reads it."""
    try:
        return cipher.decrypt(payload)
    except ValueError:
        return cipher.decrypt_bytes(payload).decode(errors="replace")
