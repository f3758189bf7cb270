"""Incidents as the jobs write them: a fault is reported, repeated, and over.

One open incident per fingerprint: a repeat is counted on it. A fault that comes back within `QUIET` of its end is
the same incident again. What people are told of all this is up to `operations.alerts`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.errors import ErrorType, IntegrationError

Connection = psycopg.Connection[Any]

QUIET = timedelta(minutes=30)

SYSTEM = "bg-pipelines"
"""Who resolved what mended itself."""

_WHOLE_STORE = "unreachable"


class Fault(NamedTuple):
    """Something wrong, as it is reported.

    `fingerprint` is the same for the same fault; `subject` is what is affected, as people call it; `needs_person`
    says that nothing will mend it by itself; `payload` says where what failed is kept.
    """

    fingerprint: str
    subject: str
    error: IntegrationError
    needs_person: bool
    job: str | None = None
    platform: str | None = None
    store_id: int | None = None
    resources: Sequence[str] = ()
    payload: str | None = None


def store_fingerprint(store_id: int, error_type: ErrorType, resource: str | None) -> str:
    """`resource` is None where the fault keeps the whole store out of reach."""
    return f"store:{store_id}:{resource or _WHOLE_STORE}:{error_type}"


def circuit_fingerprint(key: str) -> str:
    return f"circuit:{key}"


def rejects_fingerprint(store_id: int, resource: str) -> str:
    return f"rejects:{store_id}:{resource}"


def drift_fingerprint(store_id: int, resource: str) -> str:
    return f"drift:{store_id}:{resource}"


def job_fingerprint(job: str, error_type: str) -> str:
    return f"job:{job}:{error_type}"


def report(
    connection: Connection, fault: Fault, *, occurrence: str | None = None, repeat: bool = True
) -> int:
    """Open an incident, or count a repeat on the one that is open; returns its id.

    The same `occurrence` (a run, a number of rows) twice in a row is counted once, and what is no `repeat`, but one
    more resource that the same failure reaches, not at all.
    """
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (fault.fingerprint,))
    error = fault.error
    values = {
        **fault._asdict(),
        "resources": list(fault.resources),
        "occurrence": occurrence,
        "repeat": repeat,
        "error_type": error.error_type.value,
        "severity": error.severity.value,
        "source": error.source,
        "message": error.message,
        "details": Jsonb(error.details),
        "quiet": QUIET,
    }
    values.pop("error")
    row = connection.execute(
        "UPDATE incidents SET status = 'open', resolved_at = NULL, resolved_by = NULL, resolution = NULL, "
        # Over and back before people heard that it was over: for them it never ended.
        "told = CASE WHEN told = 'resolved' THEN 'nothing' ELSE told END, "
        "occurrences = occurrences + (%(repeat)s AND "
        "(last_occurrence IS NULL OR last_occurrence IS DISTINCT FROM %(occurrence)s))::int, "
        "last_occurrence = %(occurrence)s, last_seen_at = clock_timestamp(), "
        "needs_person = CASE WHEN status = 'open' THEN needs_person OR %(needs_person)s ELSE %(needs_person)s END, "
        "error_type = %(error_type)s, severity = %(severity)s, source = %(source)s, subject = %(subject)s, "
        "message = %(message)s, details = %(details)s, payload = coalesce(%(payload)s, payload), "
        "resources = ARRAY(SELECT DISTINCT unnest(resources || %(resources)s::text[]) ORDER BY 1) "
        "WHERE id = (SELECT id FROM incidents WHERE fingerprint = %(fingerprint)s "
        "AND (status = 'open' OR resolved_at > clock_timestamp() - %(quiet)s) ORDER BY status = 'open' DESC, id DESC LIMIT 1) "
        "RETURNING id",
        values,
    ).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO incidents (fingerprint, needs_person, error_type, severity, source, subject, message, details, "
            "job, platform, store_id, resources, payload, last_occurrence, opened_at, last_seen_at) VALUES "
            "(%(fingerprint)s, %(needs_person)s, %(error_type)s, %(severity)s, %(source)s, %(subject)s, %(message)s, "
            "%(details)s, %(job)s, %(platform)s, %(store_id)s, %(resources)s, %(payload)s, %(occurrence)s, "
            "clock_timestamp(), clock_timestamp()) RETURNING id",
            values,
        ).fetchone()
    assert row is not None
    return int(row[0])


def is_reported(connection: Connection, occurrence: str) -> bool:
    """Whether an incident was opened by this occurrence, or counted it last."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM incidents WHERE last_occurrence = %s)", (occurrence,)
    ).fetchone()
    return bool(row and row[0])


def clear(connection: Connection, fingerprints: Collection[str], how: str) -> int:
    """The faults are over by themselves: resolve what is open of them; returns how many that was."""
    return _resolve(connection, how, "fingerprint = ANY(%(given)s)", {"given": list(fingerprints)})


def clear_job(connection: Connection, job: str) -> int:
    """A run of the job has worked: what kept earlier ones from it is over."""
    return _resolve(
        connection, "a later run worked", "starts_with(fingerprint, %(job)s)", {"job": f"job:{job}:"}
    )


def clear_database_outages(connection: Connection) -> int:
    """The database answers: what runs and ticks reported of its being away is over."""
    return _resolve(
        connection,
        "the database answers",
        "starts_with(fingerprint, 'job:') AND error_type = %(error_type)s "
        "AND last_seen_at < clock_timestamp() - interval '1 minute'",
        {"error_type": ErrorType.DATABASE.value},
    )


def clear_recovered(connection: Connection, store_id: int, resources: Collection[str]) -> int:
    """Resources of a store were synced: resolve those of the store's incidents that park nothing any more."""
    # Locked in a statement of its own: the next one then sees what whoever held the lock has parked meanwhile.
    connection.execute(
        "SELECT FROM incidents WHERE store_id = %s AND status = 'open' ORDER BY id FOR NO KEY UPDATE",
        (store_id,),
    )
    fingerprints = [f"store:{store_id}:{resource}:" for resource in (*resources, _WHOLE_STORE)]
    return _resolve(
        connection,
        "the work succeeded",
        "store_id = %(store)s AND (fingerprint = %(circuit)s "
        "OR EXISTS (SELECT FROM unnest(%(own)s::text[]) own WHERE starts_with(fingerprint, own))) "
        "AND NOT EXISTS (SELECT FROM sync_states y WHERE y.incident_id = incidents.id)",
        {
            "store": store_id,
            "circuit": circuit_fingerprint(f"store:{store_id}"),
            "own": fingerprints,
        },
    )


def _resolve(connection: Connection, how: str, where: str, parameters: dict[str, Any]) -> int:
    """Resolve the open incidents of a condition (a constant of this module) as having mended themselves."""
    return connection.execute(
        "UPDATE incidents SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = %(by)s, "  # noqa: S608
        f"resolution = %(how)s WHERE status = 'open' AND {where}",
        {**parameters, "by": SYSTEM, "how": how},
    ).rowcount
