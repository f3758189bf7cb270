"""A store as whoever visits it reads it: its row, and its platform, connected with its credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.protocol import Platform

Connect = Callable[[StoreAccess, Callable[[float], object]], Platform]
"""Makes a platform out of a store's access and a sleep."""


@dataclass
class Store:
    """The row of a store; `credentials` are encrypted. `is_shut`: a circuit keeps it, or its platform, from being
    called."""

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


_STORE = """
    SELECT id, name, platform, domain, api_url, credentials, paused_at IS NOT NULL AS is_paused,
        uninstalled_at IS NOT NULL AS is_uninstalled, deleted_at IS NOT NULL AS is_deleted,
        EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL
            AND (c.store_id = stores.id OR c.platform = stores.platform)) AS is_shut
    FROM stores WHERE id = %s"""


def read_store(connection: psycopg.Connection[Any], store_id: int) -> Store:
    with connection.cursor(row_factory=class_row(Store)) as cursor:
        cursor.execute(_STORE, (store_id,))
        store = cursor.fetchone()
    assert store is not None
    return store


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

    access = StoreAccess(
        store.name,
        store.platform,
        store.domain,
        store.api_url,
        cipher.decrypt(store.credentials),
        save,
        reserve,
    )
    return connect(access, sleep)
