"""Reporting incidents: a fault begins, is repeated, and is over.

One open incident per fingerprint: a repeat is counted on it. A fault that returns within `REOPEN_WITHIN` of its end
reopens its incident. One cause may affect many stores at once: from the `ONE_CAUSE_FROM`th store of a platform with
the same type of error on it is one incident of the platform, and those of its stores are merged into it. `alerts`
decides who is notified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.sqlstates import AWAY, REFUSES, server_code
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents import fingerprints
from bg_pipelines.incidents.fingerprints import (
    CONFIGURATION,
    DATABASE,
    DATABASE_AWAY,
    Circuit,
    Fingerprint,
    Installation,
    OfStoreOrMany,
    StoreUnit,
)
from bg_pipelines.queues import TIERS
from bg_pipelines.wording import counted
from bg_pipelines.work import parked
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]

REOPEN_WITHIN = timedelta(minutes=30)
ONE_CAUSE_FROM = 5
_EACH_ITS_OWN = {ErrorType.BAD_DATA, ErrorType.COUNT_MISMATCH, ErrorType.DRIFT}
"""Errors of one store's data, which say nothing of other stores."""
_COUNTED_EXACTLY = 100
_COUNTED_AGAIN = timedelta(seconds=10)
"""Above so many stores under an incident they are counted no more often than this: each of 10,000 reports would read all."""

SYSTEM = "bg-pipelines"
"""`resolved_by` of what recovered automatically."""

MANUAL = "manual"
"""The tier of a run that was started manually."""

FORGOTTEN = 2 * max(TIERS.values())
"""A tier that has not had a fault for so long does not keep it open: it may have no stores any more."""


class Fault(NamedTuple):
    """A fault, as it is reported.

    `fingerprint` is the same for the same fault; `subject` is what is affected, as people call it; `needs_attention`
    says that it is not retried automatically; `units` are those of the store that fail; `payload` says where the failed work is stored; `affected_runs` are the
    runs it stopped, as job/tier.
    """

    fingerprint: Fingerprint
    subject: str
    error: IntegrationError
    needs_attention: bool
    job: str | None = None
    platform: str | None = None
    store_id: int | None = None
    units: Sequence[str] = ()
    payload: str | None = None
    affected_runs: Sequence[str] = ()


def run_fault(job: str, tier: str, error: IntegrationError) -> Fault:
    """The fault of a failed run: its job's own, or the installation's, which affects every job.

    `tier` is the run's tag of that name, or `MANUAL`.
    """
    installation = _of_the_installation(error)
    fingerprint, subject = installation or (fingerprints.Job(job, error.error_type), f"job {job}")
    return Fault(
        fingerprint,
        subject,
        error,
        needs_attention=not error.recoverable,
        job=None if installation else job,
        affected_runs=[f"{job}/{tier}"],
    )


def _of_the_installation(error: IntegrationError) -> tuple[Installation, str] | None:
    """Fingerprint and subject, if it is the database or the settings that are wrong."""
    server = server_code(error)
    if error.error_type is ErrorType.DATABASE and server == AWAY:
        return DATABASE_AWAY, "the database"
    # Disk full, too many connections, an error of the system.
    if error.error_type is ErrorType.DATABASE and server.startswith((REFUSES, "53", "57P04", "58")):
        return Installation(DATABASE, server), "the database"
    if error.error_type is ErrorType.CONFIGURATION and error.source in ("database", "settings"):
        digest = hashlib.sha256(error.message.encode()).hexdigest()[:8]
        return Installation(CONFIGURATION, digest), f"the {error.source}"
    return None


def report_fault(
    connection: Connection, fault: Fault, *, occurrence: str | None = None, repeat: bool = True
) -> int:
    """Open an incident, or count a repeat on the one that is open; returns its id.

    The same `occurrence` (a run, a number of rows) twice in a row is counted once. Without `repeat` (one more unit of
    the same failure) nothing is counted. A store's fault may be reported on its platform's incident.
    """
    own = fault.fingerprint
    if isinstance(own, StoreUnit) and fault.platform and own.error_type not in _EACH_ITS_OWN:
        return _report_store(connection, fault, own, fault.platform, occurrence, repeat)
    return _write(connection, fault, occurrence, repeat)


class _Open(NamedTuple):
    """An open incident of a platform or of one of its stores, locked."""

    id: int
    fingerprint: str
    store_id: int | None
    severity: str
    details: dict[str, Any]


def _report_store(
    connection: Connection,
    fault: Fault,
    own: StoreUnit,
    platform: str,
    occurrence: str | None,
    repeat: bool,
) -> int:
    """Report on the store's incident or, where the same is open for enough other stores, on the platform's."""
    shared = fingerprints.Platform(platform, own.unit, own.error_type)
    # Serialised per platform and error: otherwise the fifth and the sixth store's reports could miss each other.
    _lock(connection, shared)
    with connection.cursor(row_factory=class_row(_Open)) as cursor:
        cursor.execute(
            "SELECT id, fingerprint, store_id, severity, details FROM incidents WHERE status = 'open' AND kind = ANY(%s) "
            "AND platform = %s AND error_type = %s ORDER BY id FOR NO KEY UPDATE",
            ([StoreUnit.kind, fingerprints.Platform.kind], platform, own.error_type),
        )
        found = [(row, fingerprints.parse(row.fingerprint)) for row in cursor]
    of_platform = next((row for row, fingerprint in found if fingerprint == shared), None)
    of_stores = {
        row.id: row.store_id
        for row, fingerprint in found
        if isinstance(fingerprint, StoreUnit) and fingerprint.unit == own.unit
    }
    stores = {own.store_id, *of_stores.values()}
    now = clock(connection)
    if of_platform is None:
        if len(stores) < ONE_CAUSE_FROM:
            return _write(connection, fault, occurrence, repeat)
        count, counted_at, severity = len(stores), now, Severity.HIGH
    else:
        count, counted_at = (
            of_platform.details["stores"],
            datetime.fromisoformat(of_platform.details["counted_at"]),
        )
        severity = Severity(of_platform.severity)  # it falls no more while it lasts
        if count <= _COUNTED_EXACTLY or now - counted_at > _COUNTED_AGAIN:
            count, counted_at = parked.count(connection, [of_platform.id])[1], now
        # Those that come with this report: its store, and whoever had an incident of its own before the platform had.
        count += sum(not parked.is_under(connection, of_platform.id, store) for store in stores if store)
    if severity is not Severity.CRITICAL and (count <= _COUNTED_EXACTLY or counted_at == now):
        severity = _severity(connection, platform, count)
    of_many = fault._replace(
        fingerprint=shared,
        subject=_many(platform, count),
        error=IntegrationError(
            f"Many stores have the same error; the last, {fault.subject}: {fault.error.message}",
            error_type=fault.error.error_type,
            severity=fault.error.severity,
            recoverable=fault.error.recoverable,
            source=fault.error.source,
            details={**fault.error.details, "stores": count, "counted_at": counted_at.isoformat()},
        ).at_least(severity),
        job=None,
        store_id=None,
    )
    incident_id = _write(connection, of_many, occurrence, repeat)
    _merge(connection, list(of_stores), incident_id)
    return incident_id


def _severity(connection: Connection, platform: str, stores: int) -> Severity:
    """How severe it is that so many of a platform's stores have the same fault: more than one's, and most that of most."""
    row = connection.execute(
        "SELECT count(*) FROM stores WHERE platform = %s AND paused_at IS NULL AND deleted_at IS NULL",
        (platform,),
    ).fetchone()
    return Severity.CRITICAL if row and 2 * stores > row[0] else Severity.HIGH


def report_of_many(
    connection: Connection, fault: Fault, many: OfStoreOrMany, *, occurrence: str | None = None
) -> int:
    """Report a store's fault that parks nothing: on its own incident or, from the `ONE_CAUSE_FROM`th store of its platform
    with an open one of this kind on, on one of them all, `many`; returns its id."""
    _lock(connection, many)
    rows = connection.execute(
        "SELECT id, fingerprint, store_id FROM incidents WHERE status = 'open' AND kind = %s AND platform = %s "
        "ORDER BY id FOR NO KEY UPDATE",
        (many.kind, fault.platform),
    ).fetchall()
    of_stores = {incident_id: store_id for incident_id, text, store_id in rows if text != str(many)}
    if len(of_stores) == len(rows) and len({fault.store_id, *of_stores.values()}) < ONE_CAUSE_FROM:
        return _write(connection, fault, occurrence, repeat=True)
    error = IntegrationError(
        f"Many stores have the same; the last, {fault.subject}: {fault.error.message}",
        error_type=fault.error.error_type,
        severity=fault.error.severity,
        recoverable=fault.error.recoverable,
        source=fault.error.source,
        details=fault.error.details,
    )
    of_many = fault._replace(
        fingerprint=many,
        subject=f"platform {fault.platform}: many stores",
        error=error,
        store_id=None,
        payload=None,
    )
    incident_id = _write(connection, of_many, occurrence, repeat=True)
    _merge(connection, list(of_stores), incident_id)
    return incident_id


def recount(connection: Connection) -> None:
    """Have the incidents of platforms name how many stores there are now: those that recovered do not report it."""
    rows = connection.execute(
        "SELECT id, platform, details FROM incidents WHERE status = 'open' AND kind = %s "
        "ORDER BY id FOR NO KEY UPDATE SKIP LOCKED",
        (fingerprints.Platform.kind,),
    ).fetchall()
    for incident_id, platform, details in rows:
        stores = parked.count(connection, [incident_id])[1]
        if stores and stores != details["stores"]:
            now = {"stores": stores, "counted_at": clock(connection).isoformat()}
            connection.execute(
                "UPDATE incidents SET subject = %s, details = %s WHERE id = %s",
                (_many(platform, stores), Jsonb({**details, **now}), incident_id),
            )


def _many(platform: str, stores: int) -> str:
    return f"platform {platform}: {counted(stores, 'store')}"


def merge(connection: Connection, platform: str, error_types: Collection[ErrorType], into: int) -> int:
    """Merge what is open of whole stores of a platform, their circuits among it, into one incident; returns how many.

    What is parked under them is moved to that one. They send no all-clear.
    """
    rows = connection.execute(
        "SELECT id, fingerprint FROM incidents WHERE status = 'open' AND kind = ANY(%s) AND platform = %s "
        "AND error_type = ANY(%s) AND store_id IS NOT NULL AND id <> %s ORDER BY id FOR NO KEY UPDATE",
        ([StoreUnit.kind, Circuit.kind], platform, list(error_types), into),
    ).fetchall()
    merged = []
    for incident_id, text in rows:
        fingerprint = fingerprints.parse(text)
        if not (isinstance(fingerprint, StoreUnit) and fingerprint.unit):
            merged.append(incident_id)
    _merge(connection, merged, into)
    return len(merged)


def _merge(connection: Connection, incident_ids: Sequence[int], into: int) -> None:
    """End these, which are locked, as parts of another one."""
    if not incident_ids:
        return
    connection.execute(
        "UPDATE incidents SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = %s, "
        "resolution = %s, merged_into = %s, notified = 'resolved' WHERE id = ANY(%s)",
        (SYSTEM, f"part of incident {into}", into, list(incident_ids)),
    )
    parked.move(connection, incident_ids, into)


def _lock(connection: Connection, fingerprint: Fingerprint) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (str(fingerprint),))


def _write(connection: Connection, fault: Fault, occurrence: str | None, repeat: bool) -> int:
    _lock(connection, fault.fingerprint)
    error = fault.error
    values = {
        **fault._asdict(),
        "fingerprint": str(fault.fingerprint),
        "units": list(fault.units),
        "affected_runs": list(fault.affected_runs),
        "occurrence": occurrence,
        "repeat": repeat,
        "error_type": error.error_type.value,
        "severity": error.severity.value,
        "source": error.source,
        "message": error.message,
        "details": Jsonb(error.details),
        "reopen_within": REOPEN_WITHIN,
    }
    values.pop("error")
    row = connection.execute(
        "UPDATE incidents SET status = 'open', resolved_at = NULL, resolved_by = NULL, resolution = NULL, merged_into = NULL, "
        # Over and back before people heard that it was over: for them it never ended.
        "notified = CASE WHEN notified = 'resolved' THEN 'nothing' ELSE notified END, "
        "occurrences = occurrences + (%(repeat)s AND "
        "(last_occurrence IS NULL OR last_occurrence IS DISTINCT FROM %(occurrence)s))::int, "
        "last_occurrence = %(occurrence)s, last_seen_at = clock_timestamp(), "
        "needs_attention = CASE WHEN status = 'open' THEN needs_attention OR %(needs_attention)s ELSE %(needs_attention)s END, "
        "error_type = %(error_type)s, severity = %(severity)s, source = %(source)s, subject = %(subject)s, "
        "message = %(message)s, details = %(details)s, payload = coalesce(%(payload)s, payload), "
        "resources = ARRAY(SELECT DISTINCT unnest(resources || %(units)s::text[]) ORDER BY 1), "
        "affected_runs = ARRAY(SELECT DISTINCT unnest(CASE WHEN status = 'open' THEN affected_runs END || %(affected_runs)s::text[]) ORDER BY 1) "
        "WHERE id = (SELECT id FROM incidents WHERE fingerprint = %(fingerprint)s "
        "AND (status = 'open' OR resolved_at > clock_timestamp() - %(reopen_within)s) ORDER BY status = 'open' DESC, id DESC LIMIT 1) "
        "RETURNING id",
        values,
    ).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, details, "
            "job, platform, store_id, resources, payload, affected_runs, last_occurrence, opened_at, last_seen_at) VALUES "
            "(%(fingerprint)s, %(needs_attention)s, %(error_type)s, %(severity)s, %(source)s, %(subject)s, %(message)s, "
            "%(details)s, %(job)s, %(platform)s, %(store_id)s, %(units)s, %(payload)s, %(affected_runs)s, %(occurrence)s, "
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


def clear(
    connection: Connection, over: Collection[Fingerprint], how: str, *, quiet_for: timedelta = timedelta(0)
) -> int:
    """These faults recovered: resolve their open incidents that were not seen for so long; returns how many.

    What is parked under them is due now: it was parked for this fault.
    """
    return _resolve(
        connection,
        how,
        "fingerprint = ANY(%(given)s) AND last_seen_at <= clock_timestamp() - %(quiet_for)s",
        {"given": [str(one) for one in over], "quiet_for": quiet_for},
    )


def clear_job(connection: Connection, job: str, tier: str | None = None) -> int:
    """A run of the job succeeded, for this tier or (None) for all: resolve what stopped earlier ones.

    A fault that affected other tiers' runs, too, stays open until they have succeeded as well: a store of tier 3 may
    kill its run at each tick while tier 1 is fine. Any run shows that settings and database are fine.
    """
    connection.execute(
        "UPDATE incidents SET affected_runs = ARRAY(SELECT run FROM unnest(affected_runs) run "
        "WHERE NOT (run = ANY(%(own)s) OR (%(all)s AND split_part(run, '/', 1) = %(job)s))) "
        "WHERE status = 'open' AND EXISTS (SELECT FROM unnest(affected_runs) run WHERE split_part(run, '/', 1) = %(job)s)",
        {"own": [f"{job}/{tier}", f"{job}/{MANUAL}"], "all": tier is None, "job": job},
    )
    rows = connection.execute(
        "SELECT id, fingerprint, affected_runs = '{}' OR last_seen_at < clock_timestamp() - %s FROM incidents "
        "WHERE status = 'open' AND kind = ANY(%s)",
        (FORGOTTEN, [fingerprints.Job.kind, Installation.kind]),
    ).fetchall()
    over = []
    for incident_id, text, all_worked in rows:
        fingerprint = fingerprints.parse(text)
        shown_by_any_run = fingerprint == DATABASE_AWAY or (
            isinstance(fingerprint, Installation) and fingerprint.part == CONFIGURATION
        )
        of_this_job = not isinstance(fingerprint, fingerprints.Job) or fingerprint.job == job
        if shown_by_any_run or (of_this_job and all_worked):
            over.append(incident_id)
    return _resolve(connection, "a later run succeeded", "id = ANY(%(over)s)", {"over": over})


def clear_database_outages(connection: Connection) -> int:
    """The database answers: resolve its outages."""
    return _resolve(
        connection,
        "the database answers",
        "fingerprint = %(away)s AND last_seen_at < clock_timestamp() - interval '1 minute'",
        {"away": str(DATABASE_AWAY)},
    )


def clear_database_faults(connection: Connection) -> int:
    """The database answers and has room to write: resolve its outages, whatever they lacked."""
    return _resolve(
        connection,
        "the database can be written again",
        "(fingerprint = %(away)s OR fingerprint LIKE %(lacking)s)",
        {"away": str(DATABASE_AWAY), "lacking": f"{Installation(DATABASE)}:%"},
    )


def clear_recovered(connection: Connection, store_id: int, units: Collection[str]) -> int:
    """Units of a store succeeded: resolve those of its incidents, and its platform's, that park nothing any more."""
    # Locked in a statement of its own: the next one then sees what whoever held the lock has parked meanwhile. Of the
    # platform's only those that look empty: all stores would wait for one another at the others.
    rows = connection.execute(
        "SELECT id, fingerprint FROM incidents WHERE status = 'open' AND (store_id = %(store)s OR kind = %(kind)s "  # noqa: S608
        f"AND platform = (SELECT platform FROM stores WHERE id = %(store)s) AND {parked.NOTHING_UNDER}) "
        "ORDER BY id FOR NO KEY UPDATE",
        {"store": store_id, "kind": fingerprints.Platform.kind},
    ).fetchall()
    own = [row[0] for row in rows if _has_recovered(fingerprints.parse(row[1]), units)]
    if not own:
        return 0
    return _resolve(
        connection, "the work succeeded", f"id = ANY(%(own)s) AND {parked.NOTHING_UNDER}", {"own": own}
    )


def _has_recovered(fingerprint: Fingerprint, units: Collection[str]) -> bool:
    match fingerprint:
        case StoreUnit(unit=unit):
            return unit is None or unit in units
        case Circuit() | fingerprints.Platform():
            return True
    return False


def _resolve(connection: Connection, how: str, where: str, parameters: dict[str, Any]) -> int:
    """Resolve the open incidents of a condition (a constant of this module) as recovered."""
    resolved = connection.execute(
        "UPDATE incidents SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = %(by)s, "  # noqa: S608
        f"resolution = %(how)s WHERE status = 'open' AND {where} RETURNING id",
        {**parameters, "by": SYSTEM, "how": how},
    ).fetchall()
    if resolved:
        parked.start_again(connection, [row[0] for row in resolved], how, release=True)
    return len(resolved)
