"""Stores as a person looks for them, and everything about one: each resource's age, passes, proof, audits and faults.

The number of queries is the same however many stores there are, and none reads the history of more than one store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import OWN_INTERVALS, TIERS
from bg_pipelines.wording import did_you_mean, storable
from bg_pipelines.work import freshness

ATTEMPTS_SHOWN = 25

STATES = ("needs attention", "failing", "late", "new", "paused", "uninstalled", "being removed", "ok")
"""What a store is in, the worst first."""

STATE = (
    "CASE WHEN s.deleted_at IS NOT NULL THEN 'being removed' "
    "WHEN s.uninstalled_at IS NOT NULL THEN 'uninstalled' WHEN s.paused_at IS NOT NULL THEN 'paused' "
    "WHEN bool_or(y.store_id IS NOT NULL AND y.next_due_at IS NULL) THEN 'needs attention' "
    "WHEN max(y.attempts) > 0 OR bool_or(y.incident_id IS NOT NULL) THEN 'failing' "
    "WHEN NOT bool_and(y.last_succeeded_at IS NOT NULL) THEN 'new' "
    f"WHEN bool_and({freshness.is_current('clock_timestamp()')}) THEN 'ok' ELSE 'late' END"
)
"""SQL of the state of a store `s`, over its units `y`."""

SHOWN = "(s.deleted_at IS NULL OR s.name <> 'erased-' || s.id)"
"""SQL of whether a store `s` is still there: of one that was removed a bare row is kept, as proof."""

OLDEST = (
    "min(y.last_succeeded_at) FILTER (WHERE y.resource NOT IN "
    f"({', '.join(repr(unit.value) for unit in OWN_INTERVALS)}))"
)
"""SQL of the oldest last success of what is synced of a store, over its units `y`."""

EVERY = f"coalesce(s.interval_minutes, (ARRAY[{', '.join(str(int(TIERS[t].total_seconds() // 60)) for t in sorted(TIERS))}])[s.tier])"
"""SQL of how often a store is due, in minutes."""

Connection = psycopg.Connection[Any]


class FoundStore(NamedTuple):
    """`last_synced_at` is the oldest last success of what is synced of it, `every` in minutes; None where nothing ever succeeded."""

    id: int
    name: str
    platform: str
    domain: str
    tier: int
    every: int
    state: str
    last_synced_at: datetime | None
    incidents: int


class FoundStores(NamedTuple):
    """A page of the stores that were looked for, by name. `total` counts those of the search, whatever their state;
    `has_more`: there are others after these."""

    at: datetime
    stores: list[FoundStore]
    total: int
    has_more: bool


_CANDIDATES = {
    "needs attention": "SELECT DISTINCT store_id FROM sync_states WHERE next_due_at IS NULL",
    "failing": "SELECT DISTINCT store_id FROM sync_states WHERE attempts > 0 OR incident_id IS NOT NULL",
    "new": "SELECT DISTINCT store_id FROM sync_states WHERE last_succeeded_at IS NULL",
    "paused": "SELECT id FROM stores WHERE paused_at IS NOT NULL",
    "uninstalled": "SELECT id FROM stores WHERE uninstalled_at IS NOT NULL",
    "being removed": "SELECT id FROM stores WHERE deleted_at IS NOT NULL",
    "late": f"SELECT DISTINCT y.store_id FROM sync_states y JOIN {freshness.stores_at_work('statement_timestamp()')} ON s.id = y.store_id "  # noqa: S608
    f"WHERE NOT {freshness.is_current_at_work('statement_timestamp()')}",
}
"""By which stores may be in a state: so that of thousands only these are looked at."""


def find_stores(
    database: Database,
    *,
    search: str = "",
    state: str | None = None,
    tier: int | None = None,
    limit: int | None = None,
    after: str = "",
) -> FoundStores:
    """Stores whose name or domain contains `search`, or whose platform it is, that come after this name. Raises IntegrationError (bad_data) for an unknown state."""
    if state is not None and state not in STATES:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"state {state!r} is none of: {', '.join(STATES)}{did_you_mean(state, STATES)}",
            source="stores",
        )
    of_state = "HAVING " + STATE + " = %(state)s" if state else ""
    where = (
        "(%(search)s = '' OR strpos(lower(s.name), lower(%(search)s)) > 0 OR strpos(lower(s.domain), lower(%(search)s)) > 0 "
        "OR s.platform = lower(%(search)s)) AND (%(tier)s::bigint IS NULL OR s.tier = %(tier)s) "
        f"AND {SHOWN}"
    )
    parameters: dict[str, Any] = {
        "search": storable(search),
        "tier": tier,
        "state": state,
        "limit": None if limit is None else limit + 1,
        "after": storable(after),
        "ids": None,
    }
    with (
        database.transaction() as connection,
        connection.cursor(row_factory=class_row(FoundStore)) as cursor,
    ):
        counted = connection.execute(
            f"SELECT clock_timestamp(), count(*) FROM stores s WHERE {where}",  # noqa: S608 (made of constants)
            parameters,
        ).fetchone()
        assert counted is not None
        if state in _CANDIDATES:
            # Apart, so that it is read once and never once for each store.
            parameters["ids"] = [row[0] for row in connection.execute(_CANDIDATES[state]).fetchall()]
        cursor.execute(
            "SELECT s.id, s.name, s.platform, s.domain, s.tier, "  # noqa: S608 (made of constants)
            f"{EVERY} AS every, y.state, y.last_synced_at, "
            "(SELECT count(*) FROM incidents i WHERE i.store_id = s.id AND i.status = 'open') AS incidents "
            f"FROM stores s CROSS JOIN LATERAL (SELECT {STATE} AS state, {OLDEST} AS last_synced_at "
            f"FROM (SELECT 1) one LEFT JOIN sync_states y ON y.store_id = s.id {of_state}) y "
            f"WHERE {where} AND (%(ids)s::bigint[] IS NULL OR s.id = ANY(%(ids)s)) AND s.name > %(after)s "
            "ORDER BY s.name LIMIT %(limit)s",
            parameters,
        )
        found = cursor.fetchall()
    return FoundStores(counted[0], found[:limit], counted[1], limit is not None and len(found) > limit)


class UnitRow(NamedTuple):
    """One unit of a store. `running`: a run is at it; `wanted_at`: a person wants a full pass; `proof` is of the last
    one, as `sync.proof` keeps it; `waiting` edits and corrections of ours are not sent yet."""

    resource: str
    last_succeeded_at: datetime | None
    next_due_at: datetime | None
    running: bool
    attempts: int
    error_type: str | None
    message: str | None
    strategy: str | None
    reason: str | None
    incident_id: int | None
    last_full_at: datetime | None
    wanted_at: datetime | None
    last_change_at: datetime | None
    last_change_lag: timedelta | None
    proof: dict[str, Any] | None
    rejected: int


class AttemptRow(NamedTuple):
    run_id: str
    resource: str
    status: str
    full_pass: bool
    started_at: datetime
    finished_at: datetime | None
    rows_read: int
    inserted: int
    updated: int
    deleted: int
    rejected: int
    error_type: str | None
    message: str | None
    budget_used: float | None


class AuditRow(NamedTuple):
    resource: str
    audited_at: datetime
    sampled: int
    drifted: int
    repaired: int
    lag: int
    fields: dict[str, Any]


class StoreIncident(NamedTuple):
    id: int
    severity: str
    subject: str
    error_type: str
    message: str
    opened_at: datetime
    needs_attention: bool


class StoreDetails(NamedTuple):
    """Everything about one store. `events` are those of its inbox by state; `circuit_opened_at`: only probes call it, or its
    platform. `credentials` are as they are kept, encrypted."""

    at: datetime
    id: int
    name: str
    platform: str
    domain: str
    api_url: str | None
    tier: int
    every: int
    state: str
    shop_name: str | None
    currency: str | None
    timezone: str | None
    plan: str | None
    created_at: datetime
    paused_at: datetime | None
    uninstalled_at: datetime | None
    subscriptions: int
    circuit_opened_at: datetime | None
    credentials: bytes
    units: Sequence[UnitRow] = ()
    attempts: Sequence[AttemptRow] = ()
    audits: Sequence[AuditRow] = ()
    incidents: Sequence[StoreIncident] = ()
    events: dict[str, int] = {}  # noqa: RUF012 (of a tuple)

    @property
    def last_budget(self) -> AttemptRow | None:
        """The latest pass after which the vendor's rate limit is known."""
        return next((one for one in self.attempts if one.budget_used is not None), None)

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None


def read_store(database: Database, name: str) -> StoreDetails:
    """Everything about the store of this name. Raises IntegrationError: bad_data where there is none, database."""
    with database.transaction() as connection:
        store_id = find_store(connection, storable(name))
        of = {"store": store_id, "shown": ATTEMPTS_SHOWN}
        [store] = _read(connection, StoreDetails, _STORE, of)
        found: StoreDetails = store._replace(
            units=_read(connection, UnitRow, _UNITS, of),
            attempts=_read(connection, AttemptRow, _ATTEMPTS, of),
            audits=_read(connection, AuditRow, _AUDITS, of),
            incidents=_read(connection, StoreIncident, _INCIDENTS, of),
            events=dict(connection.execute(_EVENTS, of).fetchall()),
        )
        return found


def _read(connection: Connection, row: type[Any], statement: Any, of: dict[str, Any]) -> list[Any]:
    with connection.cursor(row_factory=class_row(row)) as cursor:
        cursor.execute(statement, of)
        return cursor.fetchall()


_STORE = f"""
    SELECT clock_timestamp() AS at, s.id, s.name, s.platform, s.domain, s.api_url, s.tier, {EVERY} AS every,
        (SELECT {STATE} FROM (SELECT 1) one LEFT JOIN sync_states y ON y.store_id = s.id) AS state,
        s.shop_name, s.currency, s.timezone, s.plan, s.created_at, s.paused_at, s.uninstalled_at, s.credentials,
        (SELECT count(*) FROM webhook_subscriptions w WHERE w.store_id = s.id AND w.deleted_at IS NULL) AS subscriptions,
        (SELECT min(opened_at) FROM circuits c WHERE c.store_id = s.id OR c.platform = s.platform) AS circuit_opened_at
    FROM stores s WHERE s.id = %(store)s"""  # noqa: S608 (made of constants)

_UNITS = """
    SELECT y.resource, y.last_succeeded_at, y.next_due_at, coalesce(y.lease_expires_at > clock_timestamp(), false) OR EXISTS (
            SELECT FROM visited_units v WHERE v.store_id = y.store_id AND v.resource = y.resource
            AND v.expires_at > clock_timestamp()) AS running,
        y.attempts, y.last_error ->> 'error_type' AS error_type, y.last_error ->> 'message' AS message,
        y.retry_strategy AS strategy, y.retry_reason AS reason, y.incident_id, y.last_full_at,
        y.full_pass_wanted_at AS wanted_at, y.last_change_at, y.last_change_lag, y.proof,
        (SELECT count(*) FROM rejected_rows r WHERE r.store_id = y.store_id AND r.resource = y.resource) AS rejected
    FROM sync_states y WHERE y.store_id = %(store)s
    ORDER BY array_position(ARRAY['store', 'locations', 'products', 'product_variants', 'inventory_levels', 'customers',
        'orders', 'audit', 'webhooks'], y.resource)"""

_ATTEMPTS = """
    SELECT run_id, resource, status, full_pass, started_at, finished_at, rows_read, inserted, updated, deleted, rejected,
        error ->> 'error_type' AS error_type, error ->> 'message' AS message, budget_used
    FROM sync_attempts WHERE store_id = %(store)s ORDER BY started_at DESC, id DESC LIMIT %(shown)s"""

_AUDITS = """
    SELECT DISTINCT ON (resource) resource, audited_at, sampled, different + missing + ahead + gone AS drifted, repaired, lag, fields
    FROM audits WHERE store_id = %(store)s ORDER BY resource, audited_at DESC"""

_INCIDENTS = """
    SELECT id, severity, subject, error_type, message, opened_at, needs_attention FROM incidents
    WHERE status = 'open' AND (store_id = %(store)s OR id IN (
        SELECT incident_id FROM sync_states WHERE store_id = %(store)s AND incident_id IS NOT NULL))
    ORDER BY needs_attention DESC, array_position(ARRAY['critical', 'high', 'medium', 'low'], severity), opened_at"""

_EVENTS = """
    SELECT CASE WHEN status = 'pending' AND next_due_at IS NULL THEN 'parked' ELSE status END, count(*)
    FROM webhook_events WHERE store_id = %(store)s GROUP BY 1 ORDER BY 1"""
