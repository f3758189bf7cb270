"""Incidents as the jobs write them: a fault is reported, repeated, and over.

One open incident per fingerprint: a repeat is counted on it. A fault that comes back within `QUIET` of its end is
the same incident again. What people are told of all this is up to `operations.alerts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.sqlstates import AWAY, REFUSES
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import TIERS

Connection = psycopg.Connection[Any]

QUIET = timedelta(minutes=30)

SYSTEM = "bg-pipelines"
"""Who resolved what mended itself."""

MANUAL = "manual"
"""The tier of a run that no schedule and no sensor started."""

FORGOTTEN = 2 * max(TIERS.values())
"""A tier that has not met a fault for so long, as it may have no stores any more, does not keep it open."""

_WHOLE_STORE = "unreachable"
_DATABASE_AWAY = "house:database"
_CONFIGURATION = "house:configuration:"


class Fault(NamedTuple):
    """Something wrong, as it is reported.

    `fingerprint` is the same for the same fault; `subject` is what is affected, as people call it; `needs_attention`
    says that nothing will mend it by itself; `payload` says where what failed is kept; `affected_runs` says whose runs it
    kept from working, as job/tier.
    """

    fingerprint: str
    subject: str
    error: IntegrationError
    needs_attention: bool
    job: str | None = None
    platform: str | None = None
    store_id: int | None = None
    resources: Sequence[str] = ()
    payload: str | None = None
    affected_runs: Sequence[str] = ()


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


def run_fault(job: str, tier: str, error: IntegrationError) -> Fault:
    """What keeps runs of a job from working: a fault of its own, or of the house, which every job meets.

    `tier` is the run's tag of that name, or `MANUAL`.
    """
    fingerprint, subject = _of_the_house(error) or (job_fingerprint(job, error.error_type), f"job {job}")
    return Fault(
        fingerprint,
        subject,
        error,
        needs_attention=not error.recoverable,
        job=job if fingerprint.startswith("job:") else None,
        affected_runs=[f"{job}/{tier}"],
    )


def _of_the_house(error: IntegrationError) -> tuple[str, str] | None:
    """Fingerprint and subject, if it is the database or the settings that are wrong."""
    server = str(error.details.get("server") or "")
    if error.error_type is ErrorType.DATABASE and server == AWAY:
        return _DATABASE_AWAY, "the database"
    # Disk full, too many connections, an error of the system.
    if error.error_type is ErrorType.DATABASE and server.startswith((REFUSES, "53", "57P04", "58")):
        return f"{_DATABASE_AWAY}:{server}", "the database"
    if error.error_type is ErrorType.CONFIGURATION and error.source in ("database", "settings"):
        digest = hashlib.sha256(error.message.encode()).hexdigest()[:8]
        return f"{_CONFIGURATION}{digest}", f"the {error.source}"
    return None


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
        "affected_runs": list(fault.affected_runs),
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
        "notified = CASE WHEN notified = 'resolved' THEN 'nothing' ELSE notified END, "
        "occurrences = occurrences + (%(repeat)s AND "
        "(last_occurrence IS NULL OR last_occurrence IS DISTINCT FROM %(occurrence)s))::int, "
        "last_occurrence = %(occurrence)s, last_seen_at = clock_timestamp(), "
        "needs_attention = CASE WHEN status = 'open' THEN needs_attention OR %(needs_attention)s ELSE %(needs_attention)s END, "
        "error_type = %(error_type)s, severity = %(severity)s, source = %(source)s, subject = %(subject)s, "
        "message = %(message)s, details = %(details)s, payload = coalesce(%(payload)s, payload), "
        "resources = ARRAY(SELECT DISTINCT unnest(resources || %(resources)s::text[]) ORDER BY 1), "
        "affected_runs = ARRAY(SELECT DISTINCT unnest(CASE WHEN status = 'open' THEN affected_runs END || %(affected_runs)s::text[]) ORDER BY 1) "
        "WHERE id = (SELECT id FROM incidents WHERE fingerprint = %(fingerprint)s "
        "AND (status = 'open' OR resolved_at > clock_timestamp() - %(quiet)s) ORDER BY status = 'open' DESC, id DESC LIMIT 1) "
        "RETURNING id",
        values,
    ).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, details, "
            "job, platform, store_id, resources, payload, affected_runs, last_occurrence, opened_at, last_seen_at) VALUES "
            "(%(fingerprint)s, %(needs_attention)s, %(error_type)s, %(severity)s, %(source)s, %(subject)s, %(message)s, "
            "%(details)s, %(job)s, %(platform)s, %(store_id)s, %(resources)s, %(payload)s, %(affected_runs)s, %(occurrence)s, "
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


def clear_job(connection: Connection, job: str, tier: str | None = None) -> int:
    """A run of the job has worked, for this tier, or (None) for all: what kept earlier ones of it from that is over.

    A fault that other tiers' runs met, too, stays until they have worked as well: a store of tier 3 may kill its run
    at each tick while tier 1 is well. With right settings and a database any run shows that these are so.
    """
    connection.execute(
        "UPDATE incidents SET affected_runs = ARRAY(SELECT met FROM unnest(affected_runs) met "
        "WHERE NOT (met = ANY(%(own)s) OR (%(all)s AND starts_with(met, %(job)s)))) "
        "WHERE status = 'open' AND EXISTS (SELECT FROM unnest(affected_runs) met WHERE starts_with(met, %(job)s))",
        {"own": [f"{job}/{tier}", f"{job}/{MANUAL}"], "all": tier is None, "job": f"{job}/"},
    )
    return _resolve(
        connection,
        "a later run worked",
        "(fingerprint = %(away)s OR starts_with(fingerprint, %(configuration)s) "
        "OR ((starts_with(fingerprint, %(job)s) OR starts_with(fingerprint, 'house:')) "
        "AND (affected_runs = '{}' OR last_seen_at < clock_timestamp() - %(forgotten)s)))",
        {
            "away": _DATABASE_AWAY,
            "configuration": _CONFIGURATION,
            "job": f"job:{job}:",
            "forgotten": FORGOTTEN,
        },
    )


def clear_database_outages(connection: Connection) -> int:
    """The database answers: what runs and ticks reported of its being away is over."""
    return _resolve(
        connection,
        "the database answers",
        "fingerprint = %(away)s AND last_seen_at < clock_timestamp() - interval '1 minute'",
        {"away": _DATABASE_AWAY},
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
