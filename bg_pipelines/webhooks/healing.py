"""Healing: what no event has told of is found by the next pass, and counted, so that silent webhooks are noticed.

    told     rows that were loaded because an event named them, or that a pass wrote and an event had named
    untold   rows that a pass wrote although nothing had told of them within `GRACE`

Counted by store, table and hour (`webhook_coverage`), in the transaction of the rows, for stores with subscriptions for the
table. Where much is untold there is an incident: of the platform, if no store of it is told anything, or of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import UntoldChanges
from bg_pipelines.queues import HEALTHY_FACTOR
from bg_pipelines.records import Resource
from bg_pipelines.sync.context import StoreRef
from bg_pipelines.webhooks.topics import TOPICS, Kind
from bg_pipelines.wording import counted
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]

GRACE = timedelta(minutes=2)
"""An event has so long, from the change, before a pass that finds the change counts as the first to know."""
WINDOW = timedelta(days=1)
FEW = 20
"""Rows: of fewer within the window nothing is concluded."""
TOLERATED = 0.1
"""The share of the rows within the window that may be untold."""
SILENT = timedelta(minutes=30)
"""A platform of which nothing has been received for so long delivers to nobody."""
WELL_AFTER = timedelta(hours=2)
"""An incident is over when events come and nothing untold was added to it for so long: two passes of the slowest tier."""
SKEW = timedelta(minutes=1)
"""By so much our clock may be behind a platform's."""


class _Told(NamedTuple):
    """How events name the rows of a table: as rows of `resource`, by the id that is in `column`."""

    resource: Resource
    column: str = "external_id"


# A change of a variant is told as one of its product.
_TOLD = {resource: _Told(resource) for resource in Resource} | {
    Resource.PRODUCT_VARIANTS: _Told(Resource.PRODUCTS, "product_external_id")
}
# Who has no id of a level names its item and location.
_ALSO = {Resource.INVENTORY_LEVELS: "t.inventory_item_external_id || '@' || t.location_external_id"}

_COUNT = """
    WITH found AS (
        SELECT EXISTS (SELECT FROM webhook_events e WHERE e.store_id = %(store)s AND e.resource = %(told)s
                AND e.object_id IN ({names}) AND e.received_at >= t.source_updated_at - %(skew)s) AS told,
            t.source_updated_at < now() - %(grace)s AS due
        FROM {table} t WHERE t.store_id = %(store)s AND t.external_id = ANY(%(ids)s)
            AND t.synced_at = now() AND t.deleted_at IS NULL AND t.source_updated_at > now() - %(window)s
            AND EXISTS (SELECT FROM webhook_subscriptions w WHERE w.store_id = %(store)s AND w.deleted_at IS NULL
                AND w.topics && %(topics)s AND w.source_updated_at <= t.source_updated_at)
    )
    SELECT count(*) FILTER (WHERE told), count(*) FILTER (WHERE due AND NOT told) FROM found"""


def _topics(platform: str, resource: Resource) -> list[str]:
    """The platform's topics whose events name rows of this table that have changed."""
    table = _TOLD[resource].resource
    # Of a catalogue Square tells its version alone.
    return [
        topic.name
        for topic in TOPICS.get(platform, {}).values()
        if topic.kind is Kind.CHANGED and topic.table == table and topic.object_type != "catalog_version"
    ]


class Healing:
    """The `Coverage` of a sync job. `factor`: by how much less often what is proven to be told is read."""

    def __init__(self, job: str, factor: int = HEALTHY_FACTOR) -> None:
        self.job = job
        self.factor = factor

    def note_changed(
        self, connection: Connection, store: StoreRef, resource: Resource, ids: Sequence[str]
    ) -> None:
        """Count rows that an incremental pass has just written, and report a store, or its platform, of which much is
        untold."""
        topics = _topics(store.platform, resource)
        if not topics:
            return
        told = _TOLD[resource]
        names = [sql.SQL("t.{}").format(sql.Identifier(told.column))]
        if resource in _ALSO:
            names.append(sql.SQL(_ALSO[resource]))  # type: ignore[arg-type]
        row = connection.execute(
            sql.SQL(_COUNT).format(table=sql.Identifier(resource.value), names=sql.SQL(", ").join(names)),
            {
                "store": store.id,
                "told": told.resource.value,
                "ids": list(ids),
                "topics": topics,
                "skew": SKEW,
                "grace": GRACE,
                "window": WINDOW,
            },
        ).fetchone()
        told_rows, untold_rows = row or (0, 0)
        add(connection, store.id, resource, told=told_rows, untold=untold_rows)
        if untold_rows:
            self._judge(connection, store, resource)

    def interval(
        self, connection: Connection, store: StoreRef, resource: Resource, usual: timedelta
    ) -> timedelta:
        if self.factor <= 1 or not _is_proven(connection, store, resource):
            return usual
        return min(usual * self.factor, timedelta(days=1))

    def _judge(self, connection: Connection, store: StoreRef, resource: Resource) -> None:
        now = clock(connection)
        own, all_ = UntoldChanges(store.platform, store.id), UntoldChanges(store.platform, None)
        # What was untold before it was last well is over.
        [since] = connection.execute(
            "SELECT max(resolved_at) FROM incidents WHERE fingerprint = ANY(%s) AND resolved_at > %s",
            ([str(own), str(all_)], now - WINDOW),
        ).fetchone() or (None,)
        told, untold = _counts(connection, store.id, resource, now - WINDOW, since)
        if untold < FEW or untold < TOLERATED * (told + untold):
            return
        last = connection.execute(
            "SELECT max(received_at) FROM webhook_events WHERE received_at > %s AND source = %s "
            "AND status <> 'not_understood'",
            (now - SILENT, store.platform),
        ).fetchone()
        is_silent = last is None or last[0] is None
        error = IntegrationError.of(
            ErrorType.EVENTS_MISSED,
            _why(connection, store, resource, untold, is_silent=is_silent),
            source=store.platform,
            details={"told": told, "untold": untold, "table": resource.value},
        )
        fault = reporting.Fault(
            all_ if is_silent else own,
            subject=f"webhooks of {store.platform}" if is_silent else f"store {store.name}",
            error=error,
            needs_attention=True,
            job=self.job,
            platform=store.platform,
            store_id=None if is_silent else store.id,
            units=[] if is_silent else [resource.value],
            payload=f"webhook_coverage of store {store.id}",
        )
        reporting.report_fault(connection, fault, occurrence=f"{now:%Y-%m-%d %H}")


def _why(connection: Connection, store: StoreRef, resource: Resource, untold: int, *, is_silent: bool) -> str:
    what = f"webhooks told nothing of {counted(untold, 'row')} of {resource.value} that changed within a day"
    if is_silent:
        return (
            f"{store.name}: {what}, and no store's deliveries come. Passes find the changes later. See that the receiver "
            "runs and is reached: `bg-pipelines check`"
        )
    gone = connection.execute(
        "SELECT max(deleted_at) FROM webhook_subscriptions WHERE store_id = %s AND topics && %s "
        "AND deleted_at > clock_timestamp() - %s",
        (store.id, _topics(store.platform, resource), WINDOW),
    ).fetchone()
    if gone is not None and gone[0] is not None:
        return (
            f"{what}: its subscription was gone at {gone[0]:%H:%M} UTC and has been made again. Passes find the changes "
            "later"
        )
    return (
        f"{what}, while other stores' deliveries come. Passes find the changes later. Look at the app's deliveries to this "
        "shop at the platform"
    )


def add(connection: Connection, store_id: int, resource: Resource, *, told: int = 0, untold: int = 0) -> None:
    """Count rows of a store's table in this hour."""
    if told or untold:
        connection.execute(
            "INSERT INTO webhook_coverage AS c (store_id, resource, hour, told, untold) "
            "VALUES (%s, %s, date_trunc('hour', now(), 'UTC'), %s, %s) ON CONFLICT (store_id, resource, hour) "
            "DO UPDATE SET told = c.told + excluded.told, untold = c.untold + excluded.untold",
            (store_id, resource.value, told, untold),
        )


def clear_if_well(connection: Connection, store_id: int, platform: str) -> None:
    """Events of a store come: what was untold of it, or of its platform, is over if none was for a while."""
    of = [UntoldChanges(platform, store_id), UntoldChanges(platform, None)]
    over = connection.execute(
        "SELECT FROM incidents WHERE status = 'open' AND fingerprint = ANY(%s) AND last_seen_at < clock_timestamp() - %s",
        ([str(one) for one in of], WELL_AFTER),
    )
    if over.rowcount:
        reporting.clear(connection, of, "its webhooks tell of changes again")


def _is_proven(connection: Connection, store: StoreRef, resource: Resource) -> bool:
    """Whether events have told of all rows of a table that changed within the window, and of enough of them."""
    told, untold = _counts(connection, store.id, resource, clock(connection) - WINDOW, None)
    return untold == 0 and told >= FEW


def _counts(
    connection: Connection, store_id: int, resource: Resource, since: datetime, behind: datetime | None
) -> tuple[int, int]:
    """Rows told and untold since the hour of `since`, and from the hour behind `behind`."""
    row = connection.execute(
        "SELECT coalesce(sum(told), 0)::bigint, coalesce(sum(untold), 0)::bigint FROM webhook_coverage "
        "WHERE store_id = %s AND resource = %s AND hour > %s AND (%s::timestamptz IS NULL OR hour > %s)",
        (store_id, resource.value, since - timedelta(hours=1), behind, behind),
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)
