"""Tombstones: rows that were erased here, of which nothing personal is ever loaded again.

A page may have been fetched before an erasure and be loaded after it; where a person of ours asked for the erasure, the
platform may have the data for years. So ids of what was erased stay (`erased_rows`), and whatever loads a store's rows
asks for them first:

    tombstones = standing(connection, store_id)      in the transaction that loads
    page = tombstones.strip(table, page)

Whoever loads holds the store's lock together with others; whoever buries holds it alone. So each load has either been
committed before a tombstone is set, and what it wrote is erased, or knows of it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import psycopg

from bg_pipelines.privacy.subjects import Subject
from bg_pipelines.privacy.tables import ANSWERS, EMPTIED
from bg_pipelines.records import PARTS, Page, Reject, Resource

Connection = psycopg.Connection[Any]

# One number for each store's: PostgreSQL's advisory locks are plain integers.
_LOCK = 0x6267_7076 << 32
_NONE: frozenset[str] = frozenset()
_TEXT = re.compile(r'"([^"\\]*)"')


class Tombstones:
    """The tombstones of one store: ids by table."""

    def __init__(self, ids: Mapping[str, AbstractSet[str]]) -> None:
        self._ids = ids

    def __bool__(self) -> bool:
        return bool(self._ids)

    def cover(self, table: str, row: Any) -> bool:
        """Whether a row was erased: by its own id, or with its customer's. `row` is a named tuple of the table's columns."""
        if row.external_id in self._of(table):
            return True
        return getattr(row, "customer_external_id", None) in self._of("customers")

    def strip_rows(self, table: str, rows: Sequence[Any]) -> list[Any]:
        """The rows, those that were erased without what is personal."""
        return [row._replace(**EMPTIED[table]) if self.cover(table, row) else row for row in rows]

    def strip(self, resource: Resource, page: Page) -> Page:
        """The page, without what is personal of rows that were erased, their parts and what of it was rejected."""
        if not self:
            return page
        table = resource.value
        erased = {row.external_id for row in page.records if self.cover(table, row)}
        parts = dict(page.parts)
        for part in PARTS.get(resource, ()):
            if part in EMPTIED and part in parts:
                parts[part] = [
                    row._replace(**EMPTIED[part]) if row.order_external_id in erased else row
                    for row in parts[part]
                ]
        return replace(
            page,
            records=self.strip_rows(table, page.records),
            parts=parts,
            rejects=[self.strip_reject(table, reject, bool(erased)) for reject in page.rejects],
        )

    def strip_reject(self, table: str, reject: Reject, others_erased: bool = False) -> Reject:
        """What could not be converted is of no known shape: it goes as a whole if it names who was erased.

        Of a part it is not known whose it is.
        """
        own = reject.table or table
        is_erased = reject.external_id in self._of(own) or (own != table and others_erased)
        if not is_erased:
            named = set(_TEXT.findall(json.dumps(reject.payload, default=str)))
            is_erased = not (named.isdisjoint(self._of("customers")) and named.isdisjoint(self._of(table)))
        return reject._replace(external_id=reject.key(), payload=None) if is_erased else reject

    def _of(self, table: str) -> AbstractSet[str]:
        return self._ids.get(table, _NONE)


def standing(connection: Connection, store_id: int) -> Tombstones:
    """The tombstones of a store; until the transaction ends no other is set. Called before anything is loaded."""
    # In one message. The second statement sees what was committed while the first one waited.
    cursor = connection.execute(
        f"SELECT pg_advisory_xact_lock_shared({_LOCK + store_id:d}); "  # noqa: S608 (numbers)
        f"SELECT resource, external_id FROM erased_rows WHERE store_id = {store_id:d}"
    )
    cursor.nextset()
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for table, external_id in cursor:
        ids[table].add(external_id)
    return Tombstones(ids)


def lock_alone(connection: Connection, store_id: int) -> None:
    """Until the transaction's end nobody loads rows of this store; first waits until nobody does."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK + store_id,))


def bury(connection: Connection, store_id: int, subject: Subject) -> None:
    """Set the tombstones of a customer: theirs, and those of orders and carts that are not known by their id."""
    lock_alone(connection, store_id)
    parameters = subject.parameters(store_id)
    connection.execute(
        f"""
        INSERT INTO erased_rows (store_id, resource, external_id)
        SELECT %(store)s, 'customers', %(customer)s WHERE %(customer)s::text IS NOT NULL
        UNION ALL
        (SELECT %(store)s, 'orders', named FROM unnest(%(orders)s::text[]) AS named
            UNION SELECT t.store_id, 'orders', t.external_id FROM orders t
            WHERE t.customer_external_id IS NULL AND {ANSWERS["orders"].of_customer}
            EXCEPT SELECT o.store_id, 'orders', o.external_id FROM orders o
            WHERE o.store_id = %(store)s AND o.customer_external_id = %(customer)s)
        UNION ALL
        SELECT t.store_id, 'carts', t.external_id FROM carts t WHERE {ANSWERS["carts"].of_customer}
        ON CONFLICT DO NOTHING""",  # noqa: S608 (of constants)
        parameters,
    )
