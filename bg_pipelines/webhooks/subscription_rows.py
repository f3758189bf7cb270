"""The rows of `webhook_subscriptions`: what a store had when it was last looked at. One that is as it was is not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.platforms.protocol import Subscription

Connection = psycopg.Connection[Any]


class KnownSubscription(NamedTuple):
    """A row of `webhook_subscriptions`; the key is encrypted."""

    external_id: str
    topics: list[str]
    uri: str
    include_fields: list[str] | None
    filter: str | None
    source_updated_at: datetime
    signature_key: bytes | None

    def is_as(self, found: Subscription) -> bool:
        """Whether it is still what is kept of it; its key is not looked at."""
        fields = None if self.include_fields is None else tuple(self.include_fields)
        kept = tuple(self.topics), self.uri, fields, self.filter
        return (
            kept
            == (
                found.topics,
                found.uri,
                found.include_fields,
                found.filter,
            )
            and self.source_updated_at == found.source_updated_at
        )


def read(connection: Connection, store_id: int) -> list[KnownSubscription]:
    """Those that the store had when it was last looked at."""
    with connection.cursor(row_factory=class_row(KnownSubscription)) as cursor:
        cursor.execute(
            "SELECT external_id, topics, uri, include_fields, filter, source_updated_at, signature_key FROM webhook_subscriptions "
            "WHERE store_id = %s AND deleted_at IS NULL ORDER BY external_id",
            (store_id,),
        )
        return cursor.fetchall()


def of_others(connection: Connection, store_id: int) -> set[str]:
    """The ids of those that other stores of this one's platform have."""
    rows = connection.execute(
        "SELECT w.external_id FROM webhook_subscriptions w JOIN stores s ON s.id = w.store_id "
        "WHERE s.platform = (SELECT platform FROM stores WHERE id = %(store)s) AND s.id <> %(store)s "
        "AND w.deleted_at IS NULL",
        {"store": store_id},
    )
    return {external_id for (external_id,) in rows}


def write(
    connection: Connection, store_id: int, found: Sequence[Subscription], keys: Mapping[str, bytes]
) -> None:
    """Keep these as they were found; `keys` are those that are new, encrypted."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO webhook_subscriptions AS t (store_id, external_id, source_updated_at, synced_at, topics, uri, "
            "include_fields, filter, signature_key) VALUES (%s, %s, %s, clock_timestamp(), %s, %s, %s, %s, %s) "
            "ON CONFLICT (store_id, external_id) DO UPDATE SET source_updated_at = excluded.source_updated_at, "
            "synced_at = excluded.synced_at, deleted_at = NULL, topics = excluded.topics, uri = excluded.uri, "
            "include_fields = excluded.include_fields, filter = excluded.filter, "
            "signature_key = coalesce(excluded.signature_key, t.signature_key)",
            [
                (
                    store_id,
                    one.external_id,
                    one.source_updated_at,
                    list(one.topics),
                    one.uri,
                    None if one.include_fields is None else list(one.include_fields),
                    one.filter,
                    keys.get(one.external_id),
                )
                for one in found
            ],
        )


def mark_removed(connection: Connection, store_id: int, external_ids: Sequence[str]) -> None:
    connection.execute(
        "UPDATE webhook_subscriptions SET deleted_at = clock_timestamp(), synced_at = clock_timestamp() "
        "WHERE store_id = %s AND external_id = ANY(%s) AND deleted_at IS NULL",
        (store_id, list(external_ids)),
    )
