"""Stores and customers by the names that people type. For an unknown name the error suggests the closest."""

from __future__ import annotations

from typing import Any

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean


def find_store(connection: psycopg.Connection[Any], name: str) -> int:
    """The number of the store of this name. Raises IntegrationError (bad_data)."""
    row = connection.execute("SELECT id FROM stores WHERE name = %s", (name,)).fetchone()
    if row is None:
        names = [known for (known,) in connection.execute("SELECT name FROM stores")]
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"no store is named {name!r}{did_you_mean(name, names)} (`bg-pipelines stores list` shows all)",
            source="stores",
        )
    return int(row[0])


def find_customer(connection: psycopg.Connection[Any], store: str, customer_id: str) -> tuple[int, str]:
    """The store's number, and the whole id of its customer who has this id or whose id ends in `/` and this.

    Raises IntegrationError (bad_data).
    """
    store_id = find_store(connection, store)
    for condition in ("external_id = %s", "right(external_id, length(%s) + 1) = '/' || %s"):
        parameters = (store_id, *[customer_id] * condition.count("%s"))
        found = connection.execute(
            f"SELECT external_id FROM customers WHERE store_id = %s AND {condition} LIMIT 2",  # noqa: S608
            parameters,
        ).fetchall()
        if len(found) == 1:
            return store_id, found[0][0]
    raise IntegrationError.of(
        ErrorType.BAD_DATA,
        f"customer {customer_id!r}: store {store} has none with this id, or more than one; give the id as the platform "
        "writes it, for Shopify like gid://shopify/Customer/1234",
        source="customers",
    )
