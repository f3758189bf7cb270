"""A store as whoever visits it reads it: its row, and its platform, connected with its credentials."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.work.queue import all_queues

Connect = Callable[[StoreAccess, Callable[[float], object]], Platform]
"""Makes a platform out of a store's access and a sleep."""


@dataclass
class Store:
    """The row of a store; `credentials` are encrypted. `is_shut`: a circuit keeps it, or its platform, from being
    called; `is_double`: it is the same shop as another. `carries` are units of it with other queues' work to do;
    `budget_used` is the share of its vendor's rate limit, as last told in this visit."""

    id: int
    name: str
    platform: str
    domain: str
    api_url: str | None
    credentials: bytes
    is_paused: bool
    is_uninstalled: bool
    is_deleted: bool
    is_shut: bool
    is_double: bool
    carries: list[str]
    budget_used: float | None = None


# Work of another queue that is due, and that a visit to one of the store's units does.
_CARRIES = " UNION ALL ".join(
    f"SELECT '{queue.carrier}' WHERE EXISTS (SELECT FROM {queue.table} t WHERE t.store_id = stores.id AND {queue.open} "  # noqa: S608 (names of the models)
    "AND t.next_due_at <= clock_timestamp())"
    for queue in all_queues()
    if queue.carrier is not None
)
_STORES = f"""
    SELECT id, name, platform, domain, api_url, credentials, paused_at IS NOT NULL AS is_paused,
        uninstalled_at IS NOT NULL AS is_uninstalled, deleted_at IS NOT NULL AS is_deleted,
        EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL
            AND (c.store_id = stores.id OR c.platform = stores.platform)) AS is_shut,
        EXISTS (SELECT FROM stores o WHERE o.platform = stores.platform AND o.external_id = stores.external_id
            AND o.id < stores.id AND o.paused_at IS NULL AND o.deleted_at IS NULL) AS is_double,
        ARRAY({_CARRIES}) AS carries
    FROM stores WHERE id = ANY(%s)"""  # noqa: S608 (made of constants)


def read_stores(connection: psycopg.Connection[Any], store_ids: Collection[int]) -> dict[int, Store]:
    """These stores, by their ids."""
    with connection.cursor(row_factory=class_row(Store)) as cursor:
        cursor.execute(_STORES, (list(store_ids),))
        return {store.id: store for store in cursor}


def read_store(connection: psycopg.Connection[Any], store_id: int) -> Store:
    return read_stores(connection, [store_id])[store_id]


def connect_store(
    store: Store,
    database: Database,
    cipher: Cipher,
    connect: Connect,
    sleep: Callable[[float], object],
    *,
    reserve: float = 0.0,
) -> Platform:
    """Its platform; credentials that are renewed are kept, also in `store`. `reserve`: see `StoreAccess`.

    Raises IntegrationError (configuration, credentials).
    """

    def save(credentials: Any) -> None:
        renewed = cipher.encrypt(credentials)
        with database.transaction() as connection:
            # Only over what was read: a person, or another run, may have set others meanwhile.
            kept = connection.execute(
                "UPDATE stores SET credentials = %s WHERE id = %s AND credentials = %s",
                (renewed, store.id, store.credentials),
            ).rowcount
        if kept:
            store.credentials = renewed

    def note_budget(used: float) -> None:
        store.budget_used = used

    access = StoreAccess(
        store.name,
        store.platform,
        store.domain,
        store.api_url,
        cipher.decrypt(store.credentials),
        save,
        reserve,
        note_budget,
    )
    return connect(access, sleep)
