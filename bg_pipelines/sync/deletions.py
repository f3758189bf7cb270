"""Deletions: rows that the source reports as deleted, rows that a full pass did not list, and their parts and
children."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from bg_pipelines.records import PARTS, Resource
from bg_pipelines.sync.confirmed import IS_CONFIRMED

Connection = psycopg.Connection[Any]


def mark_deleted(connection: Connection, table: str, store_id: int, external_ids: Sequence[str]) -> int:
    """Mark these rows as deleted at the source; returns how many were not before.

    Their rejected rows are dropped.
    """
    connection.execute(
        "DELETE FROM rejected_rows WHERE store_id = %s AND resource = %s AND external_id = ANY(%s)",
        (store_id, table, list(external_ids)),
    )
    statement = sql.SQL(
        "UPDATE {} SET deleted_at = now(), synced_at = now() "
        "WHERE store_id = %s AND external_id = ANY(%s) AND deleted_at IS NULL"
    ).format(sql.Identifier(table))
    return connection.execute(statement, (store_id, list(external_ids))).rowcount


def not_listed(
    connection: Connection,
    table: str,
    store_id: int,
    pass_began_at: datetime,
    created_since: datetime | None,
    *,
    after: str,
    limit: int,
) -> list[str]:
    """The ids behind `after`, up to `limit`, of rows that a full pass did not list; see `mark_not_listed_deleted`."""
    statement = sql.SQL(
        "SELECT external_id FROM {table} t WHERE {not_listed} AND external_id > %(after)s ORDER BY external_id LIMIT %(limit)s"
    )
    parameters = {
        "after": after,
        "limit": limit,
        **_not_listed_parameters(table, store_id, pass_began_at, created_since),
    }
    rows = connection.execute(
        statement.format(table=sql.Identifier(table), not_listed=_not_listed(created_since)), parameters
    )
    return [external_id for (external_id,) in rows]


def mark_not_listed_deleted(
    connection: Connection,
    table: str,
    store_id: int,
    pass_began_at: datetime,
    created_since: datetime | None = None,
) -> int:
    """After a full pass: mark the rows that it did not list as deleted; returns how many.

    A row that the source has but that could not be loaded is not gone; what stood in `rejected_rows` and was not
    listed either is dropped there. `created_since`: the source lists no rows that are older, so they stay, and so does
    what could not be loaded, whose age is unknown.
    """
    if created_since is None:
        connection.execute(
            "DELETE FROM rejected_rows WHERE store_id = %s AND resource = %s AND last_seen_at < %s",
            (store_id, table, pass_began_at),
        )
    statement = sql.SQL("UPDATE {table} t SET deleted_at = now() WHERE {not_listed}")
    return connection.execute(
        statement.format(table=sql.Identifier(table), not_listed=_not_listed(created_since)),
        _not_listed_parameters(table, store_id, pass_began_at, created_since),
    ).rowcount


def _not_listed(created_since: datetime | None) -> sql.Composable:
    return sql.SQL(
        "store_id = %(store)s AND deleted_at IS NULL AND synced_at < %(began)s {created} "
        f"AND NOT {IS_CONFIRMED.format('t', '%(resource)s')} AND NOT EXISTS ("
        "  SELECT FROM rejected_rows r WHERE r.store_id = %(store)s AND r.resource = %(resource)s"
        "  AND r.external_id = t.external_id AND r.last_seen_at >= %(began)s)"
    ).format(created=sql.SQL("AND source_created_at >= %(created)s" if created_since else ""))


def _not_listed_parameters(
    table: str, store_id: int, pass_began_at: datetime, created_since: datetime | None
) -> dict[str, Any]:
    return {"store": store_id, "resource": table, "began": pass_began_at, "created": created_since}


def drop_unlisted_part_rejects(
    connection: Connection,
    table: str,
    whole: str,
    store_id: int,
    pass_began_at: datetime,
    *,
    only_of_listed: bool,
) -> int:
    """After a full pass: forget the parts that could not be loaded and that it did not list again.

    An earlier version of such a part, that was kept, is gone with it where its row was listed; returns how many are.
    `only_of_listed`: others are not forgotten, for their row may not be listed for its age.
    """
    parameters = {"store": store_id, "table": table, "whole": whole, "began": pass_began_at}
    statement = sql.SQL(
        "WITH left_behind AS (UPDATE {table} p SET deleted_at = now() FROM rejected_rows r, {whole} w "  # noqa: S608 (constants)
        "WHERE r.store_id = %(store)s AND r.resource = %(table)s AND r.last_seen_at < %(began)s "
        "AND p.store_id = %(store)s AND p.external_id = r.external_id AND p.deleted_at IS NULL "
        "AND w.store_id = %(store)s AND w.external_id = p.order_external_id "
        "AND (w.synced_at >= %(began)s OR " + IS_CONFIRMED.format("w", "%(whole)s") + ") "
        "RETURNING p.external_id), dropped AS (DELETE FROM rejected_rows WHERE store_id = %(store)s "
        "AND resource = %(table)s AND last_seen_at < %(began)s {only}) SELECT count(*) FROM left_behind"
    ).format(
        table=sql.Identifier(table),
        whole=sql.Identifier(whole),
        only=sql.SQL("AND external_id IN (SELECT external_id FROM left_behind)" if only_of_listed else ""),
    )
    row = connection.execute(statement, parameters).fetchone()
    return int(row[0]) if row else 0


def mark_left_parts_deleted(
    connection: Connection,
    table: str,
    whole: str,
    store_id: int,
    records: Sequence[Any],
    parts: Sequence[Any],
    *,
    written: bool,
) -> int:
    """Mark the parts gone that rows of `whole`, just loaded with all of their `parts`, no longer have; how many.

    Parts carry their row's `source_updated_at`. So one that is older than its row was left behind, and one that is
    not among `parts` is gone where the row is held as it has just been read: so are all of them if all were `written`
    in this transaction. A row that is marked deleted has none.
    """
    statement = _LEFT_OF_WRITTEN if written else _LEFT
    parameters = {
        "store": store_id,
        "table": table,
        "ids": [record.external_id for record in records],
        "times": [record.source_updated_at for record in records],
        "parts": [part.external_id for part in parts],
    }
    return connection.execute(statement.format(table=table, whole=whole), parameters).rowcount


# NOT IN, and not NOT EXISTS: that is always looked up in a hash, however few rows the planner expects.
_NOT_READ = "p.external_id NOT IN (SELECT unnest(%(parts)s::text[]))"
_NOT_REJECTED = (
    "p.deleted_at IS NULL AND NOT EXISTS (SELECT FROM rejected_rows r WHERE r.store_id = %(store)s "
    "AND r.resource = %(table)s AND r.external_id = p.external_id)"
)
_LEFT = (
    "UPDATE {table} p SET deleted_at = now() FROM {whole} w "  # noqa: S608 (constants)
    "JOIN unnest(%(ids)s::text[], %(times)s::text[]::timestamptz[]) AS read (id, time) ON w.external_id = read.id "
    "WHERE w.store_id = %(store)s AND p.store_id = %(store)s AND p.order_external_id = w.external_id "
    "AND (w.deleted_at IS NOT NULL OR p.source_updated_at < w.source_updated_at "
    f"OR (w.source_updated_at = read.time AND {_NOT_READ})) AND {_NOT_REJECTED}"
)
_LEFT_OF_WRITTEN = (
    "UPDATE {table} p SET deleted_at = now() WHERE p.store_id = %(store)s "  # noqa: S608 (constants)
    f"AND p.order_external_id = ANY(%(ids)s) AND {_NOT_READ} AND {_NOT_REJECTED}"
)


def mark_children_deleted(connection: Connection, table: Resource, store_id: int) -> int:
    """Mark what belongs to the rows marked in this transaction: their parts, a product's variants, a variant's stock, and
    that of a location.

    Returns how many rows.
    """
    deleted = 0
    for part in PARTS.get(table, ()):
        deleted += _delete_with_parent(
            connection, store_id, (table.value, "external_id"), (part, "order_external_id")
        )
    if table is Resource.PRODUCTS:
        deleted = _delete_with_parent(
            connection, store_id, ("products", "external_id"), ("product_variants", "product_external_id")
        )
    if table is Resource.LOCATIONS:
        deleted = _delete_with_parent(
            connection, store_id, ("locations", "external_id"), ("inventory_levels", "location_external_id")
        )
    elif deleted or table is Resource.PRODUCT_VARIANTS:
        item = "inventory_item_external_id"
        deleted += _delete_with_parent(
            connection, store_id, ("product_variants", item), ("inventory_levels", item)
        )
    return deleted


def mark_orphans_deleted(
    connection: Connection, table: Resource, store_id: int, pass_began_at: datetime, *, only_of_listed: bool
) -> int:
    """At the end of a full pass: mark what went with the rows that it did not list; returns how many rows.

    `only_of_listed`: the source does not list old rows, so what belongs to others is not forgotten.
    """
    deleted = 0
    for part in PARTS.get(table, ()):
        deleted += drop_unlisted_part_rejects(
            connection, part, table.value, store_id, pass_began_at, only_of_listed=only_of_listed
        )
    return deleted + mark_children_deleted(connection, table, store_id)


def levels_of_no_variant(
    connection: Connection, store_id: int, pass_began_at: datetime, limit: int
) -> list[str]:
    """Levels that were read before a full pass of the variants began and belong to none that is held.

    Their variant was deleted before we ever had it, or is one that is not listed. A variant that could not be loaded
    still has its levels.
    """
    rows = connection.execute(
        "SELECT external_id FROM inventory_levels l "
        "WHERE store_id = %(store)s AND deleted_at IS NULL AND synced_at < %(began)s "
        "AND NOT EXISTS (SELECT FROM product_variants v WHERE v.store_id = l.store_id AND v.deleted_at IS NULL "
        "AND v.inventory_item_external_id = l.inventory_item_external_id) "
        "AND NOT EXISTS (SELECT FROM rejected_rows WHERE store_id = %(store)s AND resource = 'product_variants') "
        "ORDER BY external_id LIMIT %(limit)s",
        {"store": store_id, "began": pass_began_at, "limit": limit},
    )
    return [external_id for (external_id,) in rows]


def not_among(
    connection: Connection, table: str, store_id: int, listed: Sequence[str], limit: int
) -> list[str]:
    """The ids of held rows, up to `limit`, that are not among those that were listed."""
    rows = connection.execute(
        sql.SQL(
            "SELECT external_id FROM {} WHERE store_id = %s AND deleted_at IS NULL AND external_id <> ALL(%s) "
            "ORDER BY external_id LIMIT %s"
        ).format(sql.Identifier(table)),
        (store_id, list(listed), limit),
    )
    return [external_id for (external_id,) in rows]


def _delete_with_parent(
    connection: Connection, store_id: int, parent: tuple[str, str], child: tuple[str, str]
) -> int:
    """Mark children deleted whose parent was marked in this transaction (now() is its time)."""
    return connection.execute(
        f"UPDATE {child[0]} child SET deleted_at = now(), synced_at = now() FROM {parent[0]} parent "  # noqa: S608 (names from above)
        f"WHERE child.{child[1]} = parent.{parent[1]} AND child.store_id = %(store)s "
        "AND parent.store_id = %(store)s AND parent.deleted_at = now() AND child.deleted_at IS NULL",
        {"store": store_id},
    ).rowcount
