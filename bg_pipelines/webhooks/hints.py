"""Hints: events that name a changed or deleted row, which is asked for by its id and loaded as it is now.

Several events of a row are one ask. Order, lateness and duplicates do no harm: what is loaded is what the platform has
at that moment. What would cost more than a pass is left to the pass, which is due at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from bg_pipelines.database.load import Changes, Counts
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Page, Resource
from bg_pipelines.sync.loader import Loader
from bg_pipelines.webhooks.events import Event
from bg_pipelines.webhooks.topics import Kind, level_ends
from bg_pipelines.work import store_units

Connection = psycopg.Connection[Any]
Transact = Callable[[Callable[[Connection], Any]], Any]

BY_ID_AT_MOST = 100
"""Rows of a table that are asked for by their ids; more cost less in a pass. By ids each costs its full price, in a
listing of N rows all together `2 + floor(2 ln N)` times that of one."""
TOGETHER = 15
"""Asked for at once, and loaded before the next: as many orders as Shopify is asked for in one call."""

UNITS: Mapping[Resource, tuple[Unit, ...]] = {
    # A change of a variant is told as one of its product.
    resource: (Unit.PRODUCTS, Unit.PRODUCT_VARIANTS)
    if resource is Resource.PRODUCTS
    else (Unit(resource.value),)
    for resource in Resource
}
"""The units whose passes find what the events of a table told of."""


class Split(NamedTuple):
    """The events of a table, by what is done about them.

    `asked` are those of each row that is asked for; `known` need nothing any more; `passed_on` are a pass's; `later` are
    for the next claim.
    """

    asked: dict[str, list[Event]]
    known: list[Event]
    passed_on: list[Event]
    later: list[Event]


def split(connection: Connection, store_id: int, resource: Resource, events: Sequence[Event]) -> Split:
    """What to do about the events of a table. Nothing is asked for that is known to be deleted already, and nothing that a
    pass does for less; what was deleted is always asked for, since a pass would find it much later."""
    passed_on = [event for event in events if event.object_id is None]
    of: dict[str, list[Event]] = {}
    for event in events:
        if event.object_id is not None:
            of.setdefault(event.object_id, []).append(event)
    known: list[Event] = []
    for object_id, level in _levels(connection, store_id, resource, list(of)).items():
        named = of.pop(object_id)
        if level is not None:
            of.setdefault(level, []).extend(named)
        elif is_deletion(named):
            known += named  # of a level that was never held
        else:
            passed_on += named
    deleted = {object_id for object_id, named in of.items() if is_deletion(named)}
    for object_id in deleted - _held(connection, store_id, resource, deleted):
        known += of.pop(object_id)
    deleted &= of.keys()
    changed = [object_id for object_id in of if object_id not in deleted]
    if len(changed) > BY_ID_AT_MOST:
        passed_on += [event for object_id in changed for event in of.pop(object_id)]
        changed = []
    later = [event for object_id in sorted(deleted)[BY_ID_AT_MOST:] for event in of.pop(object_id)]
    return Split(of, known, passed_on, later)


def is_deletion(events: Sequence[Event]) -> bool:
    return all(event.declared is not None and event.declared.kind is Kind.DELETED for event in events)


def _levels(
    connection: Connection, store_id: int, resource: Resource, object_ids: Sequence[str]
) -> dict[str, str | None]:
    """Of ids that name the two ends of a stock level, the level's own, where it is held."""
    ends = {object_id: level_ends(object_id) for object_id in object_ids if level_ends(object_id)}
    if resource is not Resource.INVENTORY_LEVELS or not ends:
        return {}
    pairs = [pair for pair in ends.values() if pair]
    held = {
        (item, location): external_id
        for item, location, external_id in connection.execute(
            "SELECT inventory_item_external_id, location_external_id, external_id FROM inventory_levels "
            "WHERE store_id = %s AND inventory_item_external_id = ANY(%s) AND (inventory_item_external_id, "
            "location_external_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
            (store_id, [pair[0] for pair in pairs], [pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        )
    }
    return {object_id: held.get(pair) if pair else None for object_id, pair in ends.items()}


def _held(connection: Connection, store_id: int, resource: Resource, external_ids: set[str]) -> set[str]:
    """Which of these rows are held and not marked deleted; or could not be loaded."""
    if not external_ids:
        return set()
    statement = sql.SQL(
        "SELECT external_id FROM {table} WHERE store_id = %(store)s AND external_id = ANY(%(ids)s) AND deleted_at IS NULL "
        "UNION SELECT external_id FROM rejected_rows WHERE store_id = %(store)s AND resource = %(table)s "
        "AND external_id = ANY(%(ids)s)"
    ).format(table=sql.Identifier(resource.value))
    rows = connection.execute(
        statement, {"store": store_id, "table": resource.value, "ids": list(external_ids)}
    )
    return {external_id for (external_id,) in rows}


class Answer(NamedTuple):
    """What the platform has of rows that were asked for, by table; `cut` are products with more variants than these."""

    pages: list[tuple[Resource, Page]]
    cut: list[str]


def ask(
    platform: Platform, transact: Transact, store_id: int, resource: Resource, ids: Sequence[str]
) -> Iterator[tuple[list[str], Answer]]:
    """Answers about these rows, a few at a time, each with the ids that it is about. Raises IntegrationError."""
    for start in range(0, len(ids), TOGETHER):
        some = list(ids[start : start + TOGETHER])
        yield some, _ask(platform, transact, store_id, resource, some)


def _ask(platform: Platform, transact: Transact, store_id: int, resource: Resource, ids: list[str]) -> Answer:
    if resource is not Resource.PRODUCTS:
        return Answer([(resource, platform.rows(resource, ids))], [])
    found = platform.products_with_variants(ids)
    listed = {record.external_id for record in found.variants.records}
    listed |= {reject.key() for reject in found.variants.rejects}
    there = [
        one.external_id for one in found.products.records if one.external_id in set(ids) - set(found.cut)
    ]
    # Those of a deleted product are marked with it.
    missing = sorted(set(transact(lambda connection: _variants_of(connection, store_id, there))) - listed)
    pages = [(Resource.PRODUCTS, found.products), (Resource.PRODUCT_VARIANTS, found.variants)]
    for start in range(0, len(missing), BY_ID_AT_MOST):
        some = missing[start : start + BY_ID_AT_MOST]
        pages.append((Resource.PRODUCT_VARIANTS, platform.rows(Resource.PRODUCT_VARIANTS, some)))
    return Answer(pages, found.cut)


def _variants_of(connection: Connection, store_id: int, products: Sequence[str]) -> list[str]:
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute(
            "SELECT external_id FROM product_variants WHERE store_id = %s AND product_external_id = ANY(%s) "
            "AND deleted_at IS NULL",
            (store_id, list(products)),
        )
        return cursor.fetchall()


def load(
    connection: Connection, cipher: Cipher, store_id: int, answer: Answer, seen_at: datetime
) -> tuple[dict[Resource, Counts], list[tuple[Resource, Changes]]]:
    """The answer into its tables, as a pass does; returns what became of the rows, and which were written. `seen_at` is when it
    was asked for."""
    counts: dict[Resource, Counts] = {}
    changes: list[tuple[Resource, Changes]] = []
    for resource, page in answer.pages:
        loaded = Loader(store_id, resource, cipher).load(connection, [page], seen_at=seen_at)
        counts.setdefault(resource, Counts())
        counts[resource] += loaded.counts
        if loaded.changes is not None:
            changes.append((resource, loaded.changes))
    if answer.cut:
        store_units.hint(connection, [(store_id, Unit.PRODUCT_VARIANTS)])
    return counts, changes
