"""Incidents as a person deals with them: list, show, assign, retry, resolve, one or many at a time.

    retry     what waits under it starts now; the incident stays open until that succeeds, a new failure counts on it
    resolve   a person says that it is over; what waits goes back to its schedule, so a fault that is still there
              opens an incident again

How they come about is in `database.incidents`. An incident parks rows of `sync_states`, stands for an open circuit,
for rows that could not be loaded, or for a job; its fingerprint says which. Locks are taken as a sync takes them:
circuits, incidents, then `sync_states`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_conflict
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents.reporting import circuit_fingerprint
from bg_pipelines.incidents.runbooks import runbook, shell_word
from bg_pipelines.records import Resource
from bg_pipelines.wording import counted, did_you_mean
from bg_pipelines.work.circuits import OF_A_STORE

Connection = psycopg.Connection[Any]
T = TypeVar("T")

SHOWN = 10
"""How many attempts, runs and rejected rows `show` has at most."""
_TRIES = 3
"""A deadlock with a running sync costs the one that loses it nothing but another try."""


class IncidentRow(NamedTuple):
    """An incident as a list shows it. `parked` counts the rows of work that wait for a person under it."""

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
        return _plain(self)  # type: ignore[no-any-return]


class HeldRow(NamedTuple):
    """A resource of a store under an incident: parked, or (`next_due_at`) started again and not yet through."""

    store: str
    resource: str
    next_due_at: datetime | None
    in_hand: bool
    attempts: int
    retry_strategy: str | None
    retry_reason: str | None
    error: dict[str, Any] | None
    last_succeeded_at: datetime | None


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
    """All there is to know of an incident. `rejects_total` counts what `rejects` has the first of.

    `affected_runs` are job and tier of the runs that it still keeps from working.
    """

    incident: IncidentRow
    source: str
    details: dict[str, Any]
    payload: str | None
    affected_runs: list[str]
    held: list[HeldRow]
    circuits: list[OpenCircuit]
    rejects: list[Rejected]
    rejects_total: int
    attempts: list[Attempt]
    runs: list[Run]
    alerts: list[SentAlert]
    runbook: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        plain: dict[str, Any] = _plain(self)
        return {**plain.pop("incident"), **plain}


class Retried(NamedTuple):
    """How many incidents something was started for, how many rows of work that was, and what else is to be said."""

    incidents: int
    rows: int
    notes: list[str]


class Resolved(NamedTuple):
    """How many incidents were closed, how many rows went back to their schedule, and what else is to be said."""

    incidents: int
    rows: int
    notes: list[str]


# Looking


def list_incidents(
    database: Database,
    *,
    status: str | None = "open",
    store: str | None = None,
    error_type: str | None = None,
    owner: str | None = None,
    needs_attention: bool | None = None,
) -> list[IncidentRow]:
    """Open ones first, the most severe and oldest of them first; then the resolved, the last one first.

    `status` is open, resolved or None for both. Raises IntegrationError (bad_data) for a store or an error type
    that does not exist.
    """
    with database.transaction() as connection:
        return _list(
            connection,
            "(%(status)s::text IS NULL OR i.status = %(status)s) AND (%(store)s::text IS NULL OR s.name = %(store)s) "
            "AND (%(type)s::text IS NULL OR i.error_type = %(type)s) "
            "AND (%(owner)s::text IS NULL OR i.owner = %(owner)s) "
            "AND (%(needs)s::boolean IS NULL OR i.needs_attention = %(needs)s)",
            {
                "status": status,
                "store": _known_store(connection, store),
                "type": _known_type(error_type),
                "owner": owner,
                "needs": needs_attention,
            },
        )


def show(database: Database, incident_id: int) -> IncidentDetails:
    """Everything about one incident. Raises IntegrationError (bad_data) if there is none of this number."""
    with database.transaction() as connection:
        found = _list(connection, "i.id = %(id)s", {"id": incident_id})
        if not found:
            raise _unknown([incident_id])
        [incident] = found
        source, details, payload, affected_runs, fingerprint, store_id, domain = _one(
            connection,
            "SELECT i.source, i.details, i.payload, i.affected_runs, i.fingerprint, i.store_id, s.domain "
            "FROM incidents i LEFT JOIN stores s ON s.id = i.store_id WHERE i.id = %s",
            (incident_id,),
        )
        rejects, rejects_total = _rejects(connection, fingerprint)
        return IncidentDetails(
            incident,
            source,
            details,
            payload,
            affected_runs,
            _held(connection, incident_id),
            _circuits_over(connection, incident, fingerprint, store_id),
            rejects,
            rejects_total,
            _attempts(connection, incident, store_id),
            _runs(connection, incident.job) if fingerprint.startswith("job:") else [],
            _alerts(connection, incident_id),
            runbook(ErrorType(incident.error_type), incident_id, incident.store, domain),
        )


# Doing


def assign(database: Database, ids: Collection[int], owner: str) -> int:
    """Say who looks after these; an empty name: nobody. Returns how many there are. Raises IntegrationError (bad_data)."""

    def act(connection: Connection) -> int:
        _require_known(connection, ids)
        return connection.execute(
            "UPDATE incidents SET owner = %s WHERE id IN "
            "(SELECT id FROM incidents WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE)",
            (_clean(owner) or None, list(ids)),
        ).rowcount

    return _transact(database, act)


def retry(database: Database, ids: Collection[int], *, by: str) -> Retried:
    """Start again what waits under these incidents, with all its tries; they stay open until it succeeds.

    Parked rows are due now; an open circuit is probed now; of rows that could not be loaded the next pass reads
    everything. What a run has in hand at this moment is left to it. Raises IntegrationError (bad_data) for an unknown
    id, or if none is open.
    """

    def act(connection: Connection) -> Retried:
        held, notes = _hold(connection, ids, "retry")
        reason = f"started again by {_clean(by)}"
        rows, busy = _start_rows(connection, held, reason)
        probed, due = _probe(connection, held)
        reread = _read_again(connection, held)
        started = {incident for incident, _ in rows} | busy | set(probed) | reread
        for incident in held:
            if incident.id in busy:
                notes.append(f"{incident.id}: a run is at work on it now")
            elif probed.get(incident.id) is False:
                notes.append(f"{incident.id}: a probe is under way")
            elif incident.id not in started:
                notes.append(f"{incident.id}: {_why_nothing(incident)}")
        stores = {store for _, store in rows} | {i.store_id for i in held if i.store_id and i.id in started}
        notes += _in_the_way(connection, stores, {i.fingerprint for i in held if i.id in probed})
        return Retried(len(started), len(rows) + due + len(reread), notes)

    return _transact(database, act)


def resolve(database: Database, ids: Collection[int], *, by: str, note: str) -> Resolved:
    """Close these incidents: a person says that they are over, and why.

    What they parked is due now as if it had never failed; an open circuit is closed, so calls go at once. If the
    fault is still there, an incident opens again. Raises IntegrationError (bad_data) for an unknown id, no note, or if
    none is open.
    """
    if not note.strip():
        raise _bad_data("say in a note why it is over")

    def act(connection: Connection) -> Resolved:
        held, notes = _hold(connection, ids, "resolve")
        rows, _ = _start_rows(connection, held, f"resolved by {_clean(by)}", release=True)
        due = _close_circuits(connection, held)
        connection.execute(
            "UPDATE incidents SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = %s, resolution = %s "
            "WHERE id = ANY(%s)",
            (_clean(by), _clean(note), [incident.id for incident in held]),
        )
        for incident in held:
            _, kept = _rejects(connection, incident.fingerprint)
            if kept:
                notes.append(
                    f"{incident.id}: {counted(kept, 'row')} still not loaded: it opens again at the next pass; "
                    "`bg-pipelines incidents retry` reads them again"
                )
        stores = {store for _, store in rows}
        closed = {i.fingerprint for i in held}
        return Resolved(len(held), len(rows) + due, notes + _in_the_way(connection, stores, closed))

    return _transact(database, act)


class _Held(NamedTuple):
    """An open incident that is locked."""

    id: int
    fingerprint: str
    store_id: int | None
    job: str | None


def _hold(connection: Connection, ids: Collection[int], verb: str) -> tuple[list[_Held], list[str]]:
    """Lock the circuits and the incidents; returns those still open, and a note on each that is not."""
    fingerprints = _require_known(connection, ids)
    connection.execute(
        "SELECT FROM circuits WHERE key = ANY(%s) ORDER BY key FOR NO KEY UPDATE",
        (_circuit_keys(fingerprints),),
    )
    locked = connection.execute(
        "SELECT id, fingerprint, store_id, job, status = 'open', resolved_by, resolved_at FROM incidents "
        "WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
        (list(ids),),
    ).fetchall()
    held = [_Held(*row[:4]) for row in locked if row[4]]
    notes = [
        f"{row[0]}: resolved already, by {row[5]} at {row[6]:%Y-%m-%d %H:%M} UTC"
        for row in locked
        if not row[4]
    ]
    if not held:
        raise _bad_data(f"there is nothing to {verb}" + "".join(f"\n  {note}" for note in notes))
    return held, notes


def _start_rows(
    connection: Connection, held: Sequence[_Held], reason: str, *, release: bool = False
) -> tuple[list[tuple[int, int]], set[int]]:
    """Make what is under these incidents due, with all its tries; `release` takes it from under them.

    Returns (incident, store) of each row, and the incidents of which a run has rows in hand: it settles those.
    """
    ids = [incident.id for incident in held]
    under = connection.execute(
        "SELECT store_id, resource, incident_id, coalesce(lease_expires_at > clock_timestamp(), false) "
        "FROM sync_states WHERE incident_id = ANY(%s) ORDER BY store_id, resource FOR NO KEY UPDATE",
        (ids,),
    ).fetchall()
    free = [row for row in under if not row[3]]
    connection.execute(
        "UPDATE sync_states SET next_due_at = least(next_due_at, clock_timestamp()), attempts = 0, retry_reason = %s "
        "WHERE (store_id, resource) IN (SELECT * FROM unnest(%s::bigint[], %s::text[]))",
        (reason, [row[0] for row in free], [row[1] for row in free]),
    )
    if release:
        connection.execute("UPDATE sync_states SET incident_id = NULL WHERE incident_id = ANY(%s)", (ids,))
    return [(row[2], row[0]) for row in free], {row[2] for row in under if row[3]}


def _probe(connection: Connection, held: Sequence[_Held]) -> tuple[dict[int, bool], int]:
    """Let a probe of each open circuit go now; returns whether, by incident, and how many waiting rows are due with it.

    False where a probe is under way: there is never more than one.
    """
    by_key = {key: i.id for i in held for key in _circuit_keys([i.fingerprint])}
    at_once = {
        key: not busy
        for key, busy in connection.execute(
            "SELECT key, EXISTS (SELECT FROM sync_states y WHERE y.lease_owner = c.probe_owner "
            "AND y.lease_expires_at > clock_timestamp()) FROM circuits c WHERE key = ANY(%s) AND opened_at IS NOT NULL",
            (list(by_key),),
        )
    }
    keys = [key for key, free in at_once.items() if free]
    connection.execute(
        "UPDATE circuits SET probe_at = clock_timestamp(), probe_owner = NULL WHERE key = ANY(%s)", (keys,)
    )
    return {by_key[key]: free for key, free in at_once.items()}, _hurry(connection, keys)


def _close_circuits(connection: Connection, held: Sequence[_Held]) -> int:
    """Close the circuits of these; returns how many waiting rows are due with that."""
    keys = _circuit_keys(i.fingerprint for i in held)
    due = _hurry(connection, keys)
    # A vendor's failures were none of its stores'.
    connection.execute(
        "UPDATE circuits SET failures = 0, failing_stores = '{}', opened_at = NULL, probe_at = NULL, probe_owner = NULL "
        "WHERE key = ANY(%(keys)s) OR opened_at IS NULL AND store_id IN "
        "(SELECT s.id FROM stores s JOIN circuits c ON c.platform = s.platform WHERE c.key = ANY(%(keys)s))",
        {"keys": keys},
    )
    return due


def _hurry(connection: Connection, keys: Sequence[str]) -> int:
    """What these circuits cover and waits for its next try is due now: else there is nothing to probe with."""
    waiting = connection.execute(
        "SELECT y.store_id, y.resource FROM sync_states y JOIN stores s ON s.id = y.store_id "
        "JOIN circuits c ON c.store_id = s.id OR c.platform = s.platform "
        "WHERE c.key = ANY(%s) AND y.attempts > 0 AND y.next_due_at > clock_timestamp() "
        "AND y.last_error ->> 'error_type' = ANY(%s) "
        "AND coalesce(y.lease_expires_at, '-infinity') <= clock_timestamp() "
        "ORDER BY y.store_id, y.resource FOR NO KEY UPDATE OF y",
        (list(keys), [kind.value for kind in OF_A_STORE]),
    ).fetchall()
    return connection.execute(
        "UPDATE sync_states SET next_due_at = clock_timestamp() "
        "WHERE (store_id, resource) IN (SELECT * FROM unnest(%s::bigint[], %s::text[]))",
        ([row[0] for row in waiting], [row[1] for row in waiting]),
    ).rowcount


def _read_again(connection: Connection, held: Sequence[_Held]) -> set[int]:
    """Of rows that could not be loaded the next pass reads everything; of drift the audit is due. Returns their incidents."""
    of: dict[tuple[int, str], set[int]] = {}
    for incident in held:
        if place := _rejects_place(incident.fingerprint) or _audit_place(incident.fingerprint):
            of.setdefault(place, set()).add(incident.id)
    stores, resources = [store for store, _ in of], [resource for _, resource in of]
    found = connection.execute(
        "SELECT store_id, resource FROM sync_states WHERE (store_id, resource) IN "
        "(SELECT * FROM unnest(%s::bigint[], %s::text[])) ORDER BY store_id, resource FOR NO KEY UPDATE",
        (stores, resources),
    ).fetchall()
    # A pass that a run has in hand is left to it; one that lies unfinished may be past the rows already. What waits
    # for a person under another incident goes on waiting.
    connection.execute(
        "UPDATE sync_states SET last_full_at = NULL, "
        "cursor = CASE WHEN lease_expires_at > clock_timestamp() THEN cursor ELSE cursor - 'pass' END, "
        "next_due_at = CASE WHEN next_due_at IS NOT NULL THEN least(next_due_at, clock_timestamp()) END "
        "WHERE (store_id, resource) IN (SELECT * FROM unnest(%s::bigint[], %s::text[]))",
        (stores, resources),
    )
    return {incident for row in found for incident in of[row]}


def _why_nothing(incident: _Held) -> str:
    if incident.fingerprint.startswith("job:"):
        return (
            f"nothing to start: {incident.job} runs again by its schedule, or with "
            f"`dagster job execute -m bg_pipelines.definitions -j {incident.job}`"
        )
    return "nothing waits under it: what failed is tried again by itself, and closes it when it works"


def _in_the_way(connection: Connection, stores: Collection[int], but: Collection[str]) -> list[str]:
    """What keeps work of these stores from starting at once: a pause, a circuit whose incident is none of `but`."""
    paused = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM stores WHERE id = ANY(%s) AND paused_at IS NOT NULL ORDER BY name",
            (list(stores),),
        )
    ]
    notes = [
        f"store {name} is paused: its work waits for `bg-pipelines stores resume {shell_word(name)}`"
        for name in paused
    ]
    for key, names in connection.execute(
        "SELECT c.key, array_agg(s.name ORDER BY s.name) FROM circuits c "
        "JOIN stores s ON s.id = c.store_id OR s.platform = c.platform "
        "WHERE c.opened_at IS NOT NULL AND s.id = ANY(%s) AND s.paused_at IS NULL GROUP BY c.key ORDER BY c.key",
        (list(stores),),
    ).fetchall():
        fingerprint = circuit_fingerprint(key)
        if fingerprint in but:
            continue
        of = connection.execute(
            "SELECT id FROM incidents WHERE fingerprint = %s AND status = 'open'", (fingerprint,)
        ).fetchone()
        notes.append(
            f"{', '.join(names)}: waits until the next probe of {key} succeeds"
            + (f" (incident {of[0]})" if of else "")
        )
    return notes


# What `show` and `list` read


def _list(connection: Connection, where: str, parameters: dict[str, Any]) -> list[IncidentRow]:
    with connection.cursor(row_factory=class_row(IncidentRow)) as cursor:
        cursor.execute(
            "SELECT i.id, i.status, i.severity, i.needs_attention, i.subject, i.error_type, i.message, i.opened_at, "  # noqa: S608 (conditions are this module's)
            "i.last_seen_at, i.occurrences, coalesce(y.parked, 0) AS parked, i.owner, s.name AS store, i.platform, i.job, "
            "i.resources, i.resolved_at, i.resolved_by, i.resolution FROM incidents i "
            "LEFT JOIN stores s ON s.id = i.store_id "
            "LEFT JOIN (SELECT incident_id, count(*) AS parked FROM sync_states "
            "WHERE incident_id IS NOT NULL AND next_due_at IS NULL GROUP BY incident_id) y ON y.incident_id = i.id "
            f"WHERE {where} ORDER BY i.status, "
            "CASE WHEN i.status = 'open' THEN array_position(%(ranks)s::text[], i.severity) END DESC, "
            "CASE WHEN i.status = 'open' THEN i.opened_at END, i.resolved_at DESC, i.id",
            {**parameters, "ranks": [severity.value for severity in Severity]},
        )
        return cursor.fetchall()


def _held(connection: Connection, incident_id: int) -> list[HeldRow]:
    with connection.cursor(row_factory=class_row(HeldRow)) as cursor:
        cursor.execute(
            "SELECT s.name AS store, y.resource, y.next_due_at, "
            "coalesce(y.lease_expires_at > clock_timestamp(), false) AS in_hand, y.attempts, y.retry_strategy, "
            "y.retry_reason, y.last_error AS error, y.last_succeeded_at "
            "FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE y.incident_id = %s ORDER BY s.name, y.resource",
            (incident_id,),
        )
        return cursor.fetchall()


def _circuits_over(
    connection: Connection, incident: IncidentRow, fingerprint: str, store_id: int | None
) -> list[OpenCircuit]:
    """Its own circuit, and those that keep its store's work from going."""
    with connection.cursor(row_factory=class_row(OpenCircuit)) as cursor:
        cursor.execute(
            "SELECT key, opened_at, failures, probe_at FROM circuits WHERE opened_at IS NOT NULL "
            "AND (key = ANY(%(own)s) OR store_id = %(store)s OR %(store)s::bigint IS NOT NULL AND platform = %(platform)s) "
            "ORDER BY key",
            {"own": _circuit_keys([fingerprint]), "store": store_id, "platform": incident.platform},
        )
        return cursor.fetchall()


def _rejects(connection: Connection, fingerprint: str) -> tuple[list[Rejected], int]:
    """The first rows that could not be loaded, and how many there are."""
    place = _rejects_place(fingerprint)
    if place is None:
        return [], 0
    with connection.cursor(row_factory=class_row(Rejected)) as cursor:
        cursor.execute(
            "SELECT resource, external_id, reason, times_seen, last_seen_at FROM rejected_rows "
            "WHERE store_id = %s AND resource = %s ORDER BY id LIMIT %s",
            (*place, SHOWN),
        )
        rejects = cursor.fetchall()
    [total] = _one(
        connection, "SELECT count(*) FROM rejected_rows WHERE store_id = %s AND resource = %s", place
    )
    return rejects, total


def _rejects_place(fingerprint: str) -> tuple[int, str] | None:
    """Store and resource of an incident that stands for rows that could not be loaded."""
    found = re.fullmatch(r"rejects:(\d+):(.+)", fingerprint)
    return (int(found[1]), found[2]) if found else None


def _audit_place(fingerprint: str) -> tuple[int, str] | None:
    """Of an incident of drift, the store's audit."""
    found = re.fullmatch(r"drift:(\d+):.+", fingerprint)
    return (int(found[1]), Resource.AUDIT.value) if found else None


def _attempts(connection: Connection, incident: IncidentRow, store_id: int | None) -> list[Attempt]:
    """The latest of its store and resources; of a platform, those that failed."""
    if store_id is None and incident.platform is None:
        return []
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        cursor.execute(
            "SELECT a.id, a.run_id, s.name AS store, a.resource, a.status, a.started_at, a.finished_at, a.pages, "
            "a.rows_read, a.rejected, a.error ->> 'error_type' AS error_type, a.error ->> 'message' AS message "
            "FROM sync_attempts a JOIN stores s ON s.id = a.store_id WHERE "
            + (
                "a.store_id = %(store)s AND (%(resources)s::text[] = '{}' OR a.resource = ANY(%(resources)s)) "
                if store_id is not None
                else "s.platform = %(platform)s AND a.status = 'failed' "
            )
            + "ORDER BY a.started_at DESC, a.id DESC LIMIT %(shown)s",
            {
                "store": store_id,
                "resources": incident.resources,
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


# Checking


def _require_known(connection: Connection, ids: Collection[int]) -> list[str]:
    """The fingerprints of these incidents. Raises IntegrationError (bad_data) naming each id that there is not."""
    known = dict(
        connection.execute(
            "SELECT id, fingerprint FROM incidents WHERE id = ANY(%s)", (list(ids),)
        ).fetchall()
    )
    if unknown := sorted(set(ids) - set(known)):
        raise _unknown(unknown)
    return list(known.values())


def _known_store(connection: Connection, name: str | None) -> str | None:
    if name is not None:
        names = [row[0] for row in connection.execute("SELECT name FROM stores ORDER BY name")]
        if name not in names:
            raise _bad_data(f"no such store: {name}{did_you_mean(name, names)}")
    return name


def _known_type(name: str | None) -> str | None:
    if name is not None and name not in set(ErrorType):
        raise _bad_data(
            f"no such error type: {name}"
            + (did_you_mean(name, ErrorType) or f"; there are: {', '.join(ErrorType)}")
        )
    return name


def _unknown(ids: Sequence[int]) -> IntegrationError:
    return _bad_data(
        f"no such incident: {', '.join(map(str, ids))}; nothing was changed. "
        "`bg-pipelines incidents list` has those that are open"
    )


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="incidents")


def _circuit_keys(fingerprints: Iterable[str]) -> list[str]:
    prefix = circuit_fingerprint("")
    return [text.removeprefix(prefix) for text in fingerprints if text.startswith(prefix)]


def _one(connection: Connection, statement: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return tuple(row)


def _transact(database: Database, act: Callable[[Connection], T]) -> T:
    for left in reversed(range(_TRIES)):
        try:
            with database.transaction() as connection:
                return act(connection)
        except IntegrationError as error:
            if not left or not is_conflict(error):
                raise
    raise AssertionError


def _clean(text: str) -> str:
    """What a person typed, as PostgreSQL can hold it."""
    return text.strip().replace("\0", "").encode(errors="replace").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value
