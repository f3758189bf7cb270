"""Stock corrections by people: one or a file of them, and the outcome of each.

A correction is a row of `inventory_corrections`. The store's next inventory_sync, which is due at once, sends it to
the platform, which applies it only if its quantity is still what was counted against (docs/jobs.md). A file is stored
as a whole, or rejected with every error and its line.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.csv_files import CsvFault, bad_data, read_rows
from bg_pipelines.sync.stock_corrections import QUEUE
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.store_units import make_carrier_due

SOURCE = "stock"
COLUMNS = ("store", "item", "location", "from", "to", "reason")
REQUIRED_COLUMNS = ("store", "item", "location", "to")
STATUSES = ("pending", "parked", "applied", "stale", "rejected")
"""`parked` is a pending one that waits under an incident."""
REASONS = (
    "correction", "cycle_count_available", "damaged", "movement_canceled", "movement_created", "movement_received",
    "movement_updated", "other", "promotion", "quality_control", "received", "reservation_created",
    "reservation_deleted", "reservation_updated", "restock", "safety_stock", "shrinkage",
)  # fmt: skip
"""What Shopify takes; Square asks for none."""
MOST = 1_000_000_000
LATEST = 50
SUGGESTIONS = 20
"""Unknown items of a file for which the nearest SKU is looked up."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class NewCorrection:
    """A correction as a person gives it: names as they type them. Without `from_` the stock is what is held now."""

    store: str
    item: str
    location: str
    to: int
    from_: int | None = None
    reason: str = REASONS[0]
    line: int | None = None
    """In a file."""


class Correction(NamedTuple):
    """A correction as it is kept; the id is None in a dry run."""

    id: int | None
    store: str
    item: str
    location: str
    from_quantity: int
    to_quantity: int


class Corrected(NamedTuple):
    """What `correct` has kept, how many were what is held already, and the stores of those that are paused."""

    corrections: list[Correction]
    unchanged: int
    paused: list[str]


class CorrectionRow(NamedTuple):
    """A correction as it is listed. `note` says why it is stale, rejected, parked or late."""

    id: int
    created_at: datetime
    store: str
    item: str
    sku: str | None
    location: str
    from_quantity: int
    to_quantity: int
    reason: str
    created_by: str | None
    status: str
    note: str | None


class _Found(NamedTuple):
    """A correction whose names are found in the store."""

    given: NewCorrection
    store_id: int
    item_id: str
    location_id: str
    from_quantity: int


def read_csv(path: Path, *, reason: str = REASONS[0]) -> tuple[list[NewCorrection], list[CsvFault]]:
    """Corrections from a CSV file with a header, and what is wrong with its other lines.

    `reason` is that of the lines without one. Raises IntegrationError (bad_data) if nothing can be read.
    """
    rows, faults = read_rows(path, columns=COLUMNS, required=REQUIRED_COLUMNS, source=SOURCE)
    if not rows and not faults:
        raise bad_data([CsvFault(2, "item", "the file has no corrections")], SOURCE)
    corrections = []
    for line, row in rows.items():
        to, from_ = _number(row["to"]), _number(row.get("from", ""))
        wrong = [CsvFault(line, name, "is missing") for name in REQUIRED_COLUMNS if not row[name]]
        if row["to"] and to is None:
            wrong.append(CsvFault(line, "to", f"{row['to']!r} is not a whole number"))
        if row.get("from") and from_ is None:
            wrong.append(CsvFault(line, "from", f"{row['from']!r} is not a whole number"))
        faults += wrong
        if not wrong:
            assert to is not None
            corrections.append(
                NewCorrection(
                    row["store"], row["item"], row["location"], to, from_, row.get("reason") or reason, line
                )
            )
    return corrections, faults


def correct(
    database: Database,
    corrections: Sequence[NewCorrection],
    *,
    by: str,
    faults: Sequence[CsvFault] = (),
    dry_run: bool = False,
) -> Corrected:
    """Store corrections to be sent at their stores' next inventory_sync, which is due now: all, or none.

    `faults` are those that were found before. In a dry run everything is checked and nothing is kept. Raises
    IntegrationError (bad_data) with every fault.
    """
    found_faults = [*faults, *_value_faults(corrections)]
    if not by.strip():
        found_faults.append(CsvFault(None, "by", "say who makes the correction"))
    by_store: defaultdict[str, list[NewCorrection]] = defaultdict(list)
    for given in corrections:
        by_store[given.store].append(given)
    found: list[_Found] = []
    with database.transaction() as connection:
        for store, of_store in by_store.items():
            try:
                store_id = find_store(connection, store)
            except IntegrationError as error:
                found_faults += [CsvFault(given.line, "store", error.message) for given in of_store]
                continue
            resolved, unknown = _resolve(connection, store_id, of_store)
            found += resolved
            found_faults += unknown
        found_faults += _repeated(found)
        if found_faults:
            raise bad_data(found_faults, SOURCE)
        needed = [one for one in found if one.given.to != one.from_quantity]
        ids = [None] * len(needed) if dry_run else _insert(connection, needed, by.strip())
        paused = connection.execute(
            "SELECT name FROM stores WHERE id = ANY(%s) AND paused_at IS NOT NULL ORDER BY name",
            ([one.store_id for one in needed],),
        ).fetchall()
    return Corrected(
        [
            Correction(
                id_, one.given.store, one.given.item, one.given.location, one.from_quantity, one.given.to
            )
            for id_, one in zip(ids, needed, strict=True)
        ],
        len(found) - len(needed),
        [name for (name,) in paused],
    )


def list_corrections(
    database: Database, *, store: str | None = None, status: str | None = None, limit: int = LATEST
) -> list[CorrectionRow]:
    """The latest corrections, newest first. Raises IntegrationError (bad_data) for a store or status that is none."""
    if status is not None and status not in STATUSES:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"status {status!r} is none of: {', '.join(STATUSES)}{did_you_mean(status, STATUSES)}",
            source=SOURCE,
        )
    with (
        database.transaction() as connection,
        connection.cursor(row_factory=class_row(CorrectionRow)) as cursor,
    ):
        cursor.execute(
            _LIST,
            {
                "store": None if store is None else find_store(connection, store),
                "status": status,
                "limit": limit,
            },
        )
        return cursor.fetchall()


_LIST = """
    SELECT * FROM (
        SELECT c.id, c.created_at, s.name AS store, c.inventory_item_external_id AS item,
        (SELECT min(v.sku) FROM product_variants v WHERE v.store_id = c.store_id
         AND v.inventory_item_external_id = c.inventory_item_external_id AND v.deleted_at IS NULL) AS sku,
        coalesce(l.name, c.location_external_id) AS location, c.change_from_quantity AS from_quantity,
        c.quantity AS to_quantity, c.reason, c.created_by,
        CASE WHEN c.status = 'pending' AND c.next_due_at IS NULL THEN 'parked' ELSE c.status END AS status,
        CASE c.status
            WHEN 'stale' THEN 'the platform has ' || coalesce(c.found_quantity::text, 'no such stock') || '; count again'
            WHEN 'rejected' THEN c.error ->> 'code'
            WHEN 'pending' THEN coalesce('incident ' || c.incident_id || ': ', '') || (c.last_error ->> 'message')
        END AS note
        FROM inventory_corrections c JOIN stores s ON s.id = c.store_id
        LEFT JOIN locations l ON l.store_id = c.store_id AND l.external_id = c.location_external_id
        WHERE %(store)s::bigint IS NULL OR c.store_id = %(store)s
    ) listed
    WHERE %(status)s::text IS NULL OR status = %(status)s ORDER BY id DESC LIMIT %(limit)s"""


def _value_faults(corrections: Iterable[NewCorrection]) -> list[CsvFault]:
    faults = []
    for given in corrections:
        if not 0 <= given.to <= MOST:
            faults.append(CsvFault(given.line, "to", f"{given.to} is not from 0 to {MOST:,}"))
        if given.from_ is not None and abs(given.from_) > MOST:
            faults.append(CsvFault(given.line, "from", f"{given.from_} is not from -{MOST:,} to {MOST:,}"))
        if given.reason not in REASONS:
            guess = did_you_mean(given.reason, REASONS)
            faults.append(
                CsvFault(given.line, "reason", f"{given.reason!r} is none of: {', '.join(REASONS)}{guess}")
            )
    return faults


def _resolve(
    connection: Connection, store_id: int, corrections: Sequence[NewCorrection]
) -> tuple[list[_Found], list[CsvFault]]:
    """Items, locations and the quantities held, of one store; or what is not there, with the nearest."""
    items = _by_name(_items(connection, store_id, {given.item for given in corrections}))
    at = connection.execute(
        "SELECT external_id, name FROM locations WHERE store_id = %s AND deleted_at IS NULL", (store_id,)
    ).fetchall()
    locations = _by_name(at)
    held = _held(connection, store_id, {item for ids in items.values() for item in ids})
    found: list[_Found] = []
    faults: list[CsvFault] = []
    for given in corrections:
        skus = partial(_near_skus, connection, store_id, given.item) if len(faults) < SUGGESTIONS else list
        item = _only(given, "item", given.item, "SKU", items, skus)
        location = _only(
            given, "location", given.location, "name", locations, lambda: [name for _, name in at]
        )
        unknown = [one for one in (item, location) if isinstance(one, CsvFault)]
        if not unknown and (item, location) not in held:
            unknown = [
                CsvFault(
                    given.line,
                    "item",
                    f"{given.item!r} is not stocked at {given.location!r}, as far as we know",
                )
            ]
        if unknown:
            faults += unknown
            continue
        from_ = held[str(item), str(location)] if given.from_ is None else given.from_
        found.append(_Found(given, store_id, str(item), str(location), from_))
    return found, faults


def _only(
    given: NewCorrection,
    column: str,
    typed: str,
    known_by: str,
    names: Mapping[str, set[str]],
    near: Callable[[], Iterable[str]],
) -> str | CsvFault:
    """The id of the one that is meant by what was typed."""
    ids = names.get(typed) or names.get(typed.casefold(), set())
    if len(ids) == 1:
        return next(iter(ids))
    if ids:
        return CsvFault(
            given.line, column, f"{typed!r} is more than one {column}; give an id: {' or '.join(sorted(ids))}"
        )
    return CsvFault(
        given.line, column, f"no {column} has the {known_by} or id {typed!r}{did_you_mean(typed, near())}"
    )


def _items(connection: Connection, store_id: int, typed: set[str]) -> list[tuple[str, str | None]]:
    return connection.execute(
        "SELECT inventory_item_external_id, sku FROM product_variants WHERE store_id = %(store)s AND deleted_at IS NULL "
        "AND (lower(sku) = ANY(%(folded)s) OR inventory_item_external_id = ANY(%(typed)s) "
        "OR regexp_replace(inventory_item_external_id, '^.*/', '') = ANY(%(typed)s))",
        {"store": store_id, "typed": list(typed), "folded": [name.lower() for name in typed]},
    ).fetchall()


def _by_name(rows: Iterable[tuple[str, str | None]]) -> dict[str, set[str]]:
    """Ids by whatever a person may type: the name in any case, the id, or the last part of an id like gid://…/17."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for id_, name in rows:
        for typed in {id_.rpartition("/")[2], *((name, name.casefold()) if name else ())}:
            names[typed].add(id_)
    return {**names, **{id_: {id_} for id_, _ in rows}}


def _held(connection: Connection, store_id: int, items: set[str]) -> Mapping[tuple[str, str], int]:
    """By item and location: what is available there, once what is pending has been applied."""
    rows = connection.execute(
        "SELECT inventory_item_external_id, location_external_id, coalesce((SELECT quantity FROM inventory_corrections c "
        "  WHERE c.store_id = l.store_id AND c.inventory_item_external_id = l.inventory_item_external_id "
        "  AND c.location_external_id = l.location_external_id AND status = 'pending' AND next_due_at IS NOT NULL "
        "  ORDER BY id DESC LIMIT 1), available) "
        "FROM inventory_levels l WHERE store_id = %s AND deleted_at IS NULL AND inventory_item_external_id = ANY(%s)",
        (store_id, list(items)),
    ).fetchall()
    return {(item, location): quantity for item, location, quantity in rows}


def _near_skus(connection: Connection, store_id: int, item: str) -> list[str]:
    """SKUs that begin or end alike: of tens of thousands only these are compared."""
    rows = connection.execute(
        "SELECT DISTINCT sku FROM product_variants WHERE store_id = %(store)s AND deleted_at IS NULL "
        "AND (left(sku, 2) ILIKE left(%(item)s, 2) OR right(sku, 2) ILIKE right(%(item)s, 2)) LIMIT 5000",
        {"store": store_id, "item": item},
    ).fetchall()
    return [sku for (sku,) in rows]


def _repeated(found: Iterable[_Found]) -> list[CsvFault]:
    first: dict[tuple[int, str, str], int | None] = {}
    faults = []
    for one in found:
        key = (one.store_id, one.item_id, one.location_id)
        if key in first:
            faults.append(
                CsvFault(
                    one.given.line,
                    "item",
                    f"{one.given.item!r} at this location is already on line {first[key]}",
                )
            )
        else:
            first[key] = one.given.line
    return faults


def _insert(connection: Connection, found: Sequence[_Found], by: str) -> list[int | None]:
    rows = connection.execute(
        "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
        "change_from_quantity, quantity, reason, created_by) "
        "SELECT *, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::int[], %s::int[], %s::text[]) RETURNING id",
        (
            by,
            [one.store_id for one in found],
            [one.item_id for one in found],
            [one.location_id for one in found],
            [one.from_quantity for one in found],
            [one.given.to for one in found],
            [one.given.reason for one in found],
        ),
    ).fetchall()
    make_carrier_due(connection, QUEUE, {one.store_id for one in found})
    return [id_ for (id_,) in rows]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else None
