"""Reading incidents: the list, and everything about one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents import fingerprints
from bg_pipelines.incidents.fingerprints import Fingerprint, Job, RejectedRows, circuit_keys
from bg_pipelines.incidents.runbooks import runbook
from bg_pipelines.wording import did_you_mean, plain
from bg_pipelines.work import parked
from bg_pipelines.work.parked import Held

Connection = psycopg.Connection[Any]

SHOWN = 10
"""How many attempts, runs and rejected rows `show` has at most."""
HELD_SHOWN = 100
"""How many rows of work: 10,000 stores may be parked under one incident."""


class IncidentRow(NamedTuple):
    """An incident as a list shows it. `parked` counts the rows of work that it parks."""

    id: int
    status: str
    severity: str
    needs_attention: bool
    subject: str
    error_type: str
    message: str
    opened_at: datetime
    last_seen_at: datetime
    occurrences: int
    parked: int
    owner: str | None
    store: str | None
    platform: str | None
    job: str | None
    resources: list[str]
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        return plain(self)  # type: ignore[no-any-return]


class OpenCircuit(NamedTuple):
    key: str
    opened_at: datetime
    failures: int
    probe_at: datetime | None


class Rejected(NamedTuple):
    """A row that could not be loaded: its id and why, never its content."""

    resource: str
    external_id: str
    reason: str
    times_seen: int
    last_seen_at: datetime


class Attempt(NamedTuple):
    id: int
    run_id: str
    store: str
    resource: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    pages: int
    rows_read: int
    rejected: int
    error_type: str | None
    message: str | None


class Run(NamedTuple):
    run_id: str
    status: str
    started_at: datetime
    seen_at: datetime


class SentAlert(NamedTuple):
    """A message about the incident, as it went to one target; `target` is None where none is set up."""

    kind: str
    severity: str
    title: str
    created_at: datetime
    target: str | None
    status: str | None
    sent_at: datetime | None
    error: str | None


class IncidentDetails(NamedTuple):
    """Everything about one incident.

    `held` and `rejects` have the first of `held_total` and `rejects_total`; `stores_total` counts the stores with work
    under it. `affected_runs` are job and tier of the runs that it still affects.
    """

    incident: IncidentRow
    source: str
    details: dict[str, Any]
    payload: str | None
    affected_runs: list[str]
    held: list[Held]
    held_total: int
    stores_total: int
    circuits: list[OpenCircuit]
    rejects: list[Rejected]
    rejects_total: int
    attempts: list[Attempt]
    runs: list[Run]
    alerts: list[SentAlert]
    runbook: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        content: dict[str, Any] = plain(self)
        return {**content.pop("incident"), **content}


def list_incidents(
    database: Database,
    *,
    status: str | None = "open",
    store: str | None = None,
    error_type: str | None = None,
    owner: str | None = None,
    needs_attention: bool | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[IncidentRow]:
    """Open ones first, by severity, then age; then the resolved, the latest first; at most `limit`, after `offset` others.

    `status` is open, resolved or None for both. Those of a `store` are its own, and those under which its work is
    parked. Raises IntegrationError (bad_data) for a store or an error type that does not exist.
    """
    with database.transaction() as connection:
        return _list(
            connection,
            "(%(status)s::text IS NULL OR i.status = %(status)s) AND (%(store)s::bigint IS NULL OR i.store_id = %(store)s OR "
            f"EXISTS ({parked.OF_STORE})) "
            "AND (%(type)s::text IS NULL OR i.error_type = %(type)s) "
            "AND (%(owner)s::text IS NULL OR i.owner = %(owner)s) "
            "AND (%(needs)s::boolean IS NULL OR i.needs_attention = %(needs)s)",
            {
                "status": status,
                "store": _known_store(connection, store),
                "type": _known_type(error_type),
                "owner": owner,
                "needs": needs_attention,
                "limit": limit,
                "offset": offset,
            },
        )


def show(database: Database, incident_id: int) -> IncidentDetails:
    """Everything about one incident. Raises IntegrationError (bad_data) if there is none of this number."""
    with database.transaction() as connection:
        found = _list(connection, "i.id = %(id)s", {"id": incident_id})
        if not found:
            raise unknown([incident_id])
        [incident] = found
        source, details, payload, affected_runs, text, store_id = _one(
            connection,
            "SELECT i.source, i.details, i.payload, i.affected_runs, i.fingerprint, i.store_id "
            "FROM incidents i WHERE i.id = %s",
            (incident_id,),
        )
        fingerprint = fingerprints.parse(text)
        return IncidentDetails(
            incident,
            source,
            details,
            payload,
            affected_runs,
            parked.held(connection, incident_id, HELD_SHOWN),
            *parked.count(connection, [incident_id]),
            _circuits_over(connection, incident, fingerprint, store_id),
            _rejects(connection, fingerprint),
            count_rejects(connection, fingerprint),
            _attempts(connection, incident, store_id),
            _runs(connection, incident.job) if isinstance(fingerprint, Job) else [],
            _alerts(connection, incident_id),
            runbook(
                ErrorType(incident.error_type),
                incident_id,
                incident.store,
                kind=text.partition(":")[0],
            ),
        )


def _list(connection: Connection, where: str, parameters: dict[str, Any]) -> list[IncidentRow]:
    with connection.cursor(row_factory=class_row(IncidentRow)) as cursor:
        cursor.execute(
            "SELECT i.id, i.status, i.severity, i.needs_attention, i.subject, i.error_type, i.message, i.opened_at, "  # noqa: S608 (conditions are this module's)
            "i.last_seen_at, i.occurrences, coalesce(y.parked, 0) AS parked, i.owner, s.name AS store, i.platform, i.job, "
            "i.resources, i.resolved_at, i.resolved_by, i.resolution FROM incidents i "
            "LEFT JOIN stores s ON s.id = i.store_id "
            f"LEFT JOIN ({parked.PARKED}) y ON y.incident_id = i.id "
            f"WHERE {where} ORDER BY i.status, "
            "CASE WHEN i.status = 'open' THEN array_position(%(ranks)s::text[], i.severity) END DESC, "
            "CASE WHEN i.status = 'open' THEN i.opened_at END, i.resolved_at DESC, i.id LIMIT %(limit)s OFFSET %(offset)s",
            {"limit": None, "offset": 0, **parameters, "ranks": [severity.value for severity in Severity]},
        )
        return cursor.fetchall()


def _circuits_over(
    connection: Connection, incident: IncidentRow, fingerprint: Fingerprint, store_id: int | None
) -> list[OpenCircuit]:
    """Its own circuit, and those that block its store's work."""
    with connection.cursor(row_factory=class_row(OpenCircuit)) as cursor:
        cursor.execute(
            "SELECT key, opened_at, failures, probe_at FROM circuits WHERE opened_at IS NOT NULL "
            "AND (key = ANY(%(own)s) OR store_id = %(store)s OR %(store)s::bigint IS NOT NULL AND platform = %(platform)s) "
            "ORDER BY key",
            {"own": circuit_keys([fingerprint]), "store": store_id, "platform": incident.platform},
        )
        return cursor.fetchall()


def _rejects(connection: Connection, fingerprint: Fingerprint) -> list[Rejected]:
    """The first rows that could not be loaded."""
    if not isinstance(fingerprint, RejectedRows):
        return []
    with connection.cursor(row_factory=class_row(Rejected)) as cursor:
        cursor.execute(
            "SELECT resource, external_id, reason, times_seen, last_seen_at FROM rejected_rows "
            "WHERE store_id = %s AND resource = %s ORDER BY id LIMIT %s",
            (fingerprint.store_id, fingerprint.table, SHOWN),
        )
        return cursor.fetchall()


def count_rejects(connection: Connection, fingerprint: Fingerprint) -> int:
    """Of an incident of rows that could not be loaded: how many there are now."""
    if not isinstance(fingerprint, RejectedRows):
        return 0
    [total] = _one(
        connection,
        "SELECT count(*) FROM rejected_rows WHERE store_id = %s AND resource = %s",
        (fingerprint.store_id, fingerprint.table),
    )
    return int(total)


def _attempts(connection: Connection, incident: IncidentRow, store_id: int | None) -> list[Attempt]:
    """The latest of its store and units; of a platform, those that failed."""
    if store_id is None and incident.platform is None:
        return []
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        cursor.execute(
            "SELECT a.id, a.run_id, s.name AS store, a.resource, a.status, a.started_at, a.finished_at, a.pages, "
            "a.rows_read, a.rejected, a.error ->> 'error_type' AS error_type, a.error ->> 'message' AS message "
            "FROM sync_attempts a JOIN stores s ON s.id = a.store_id WHERE "
            + (
                "a.store_id = %(store)s AND (%(units)s::text[] = '{}' OR a.resource = ANY(%(units)s)) "
                if store_id is not None
                else "s.platform = %(platform)s AND a.status = 'failed' "
            )
            + "ORDER BY a.started_at DESC, a.id DESC LIMIT %(shown)s",
            {
                "store": store_id,
                "units": incident.resources,
                "platform": incident.platform,
                "shown": SHOWN,
            },
        )
        return cursor.fetchall()


def _runs(connection: Connection, job: str | None) -> list[Run]:
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        cursor.execute(
            "SELECT run_id, status, started_at, seen_at FROM job_runs WHERE job = %s ORDER BY started_at DESC LIMIT %s",
            (job, SHOWN),
        )
        return cursor.fetchall()


def _alerts(connection: Connection, incident_id: int) -> list[SentAlert]:
    with connection.cursor(row_factory=class_row(SentAlert)) as cursor:
        cursor.execute(
            "SELECT a.kind, a.severity, a.title, a.created_at, d.target, d.status, d.sent_at, d.last_error ->> 'message' AS error "
            "FROM alerts a LEFT JOIN alert_deliveries d ON d.alert_id = a.id WHERE a.incident_id = %s "
            "ORDER BY a.id DESC, d.target",
            (incident_id,),
        )
        return cursor.fetchall()


def _known_store(connection: Connection, name: str | None) -> int | None:
    if name is None:
        return None
    stores = dict(connection.execute("SELECT name, id FROM stores ORDER BY name").fetchall())
    if name not in stores:
        raise bad_data(f"no such store: {name}{did_you_mean(name, stores)}")
    return int(stores[name])


def _known_type(name: str | None) -> str | None:
    if name is not None and name not in set(ErrorType):
        raise bad_data(
            f"no such error type: {name}"
            + (did_you_mean(name, ErrorType) or f"; there are: {', '.join(ErrorType)}")
        )
    return name


def unknown(ids: Sequence[int]) -> IntegrationError:
    return bad_data(
        f"no such incident: {', '.join(map(str, ids))}; nothing was changed. "
        "`bg-pipelines incidents list` has those that are open"
    )


def bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="incidents")


def _one(connection: Connection, statement: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return tuple(row)
