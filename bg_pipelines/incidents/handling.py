"""Handling incidents: assign, retry, resolve, one or many at a time.

    retry     what is parked under it is due now; the incident stays open until that succeeds, a new failure counts on
    it
    resolve   a person says that it is over; what waits goes back to its schedule, so a fault that is still there
              opens an incident again

`reporting` opens them. Work of every queue may be parked under an incident (`work.parked`); or it is about an open
circuit, rows that could not be loaded, or a job: its fingerprint says which. Locks are taken as a running job takes
them: circuits, incidents, then the queues' tables.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.incidents import fingerprints
from bg_pipelines.incidents.fingerprints import (
    Circuit,
    DataRequest,
    Drift,
    Fingerprint,
    Job,
    RefusedSubscriptions,
    RejectedRows,
    circuit_keys,
)
from bg_pipelines.incidents.reading import SHOWN, bad_data, count_rejects, unknown
from bg_pipelines.queues import Unit
from bg_pipelines.wording import command, counted, storable
from bg_pipelines.work import parked
from bg_pipelines.work.circuits import OF_A_STORE

Connection = psycopg.Connection[Any]


class Retried(NamedTuple):
    """How many incidents were retried, how many rows of work are due with that, and notes."""

    incidents: int
    rows: int
    notes: list[str]


class Resolved(NamedTuple):
    """How many incidents were closed, how many rows returned to their schedule, and notes."""

    incidents: int
    rows: int
    notes: list[str]


def assign(database: Database, ids: Collection[int], owner: str) -> int:
    """Set the owner of these; an empty name: nobody. Returns how many there are. Raises IntegrationError
    (bad_data)."""

    def act(connection: Connection) -> int:
        _require_known(connection, ids)
        return connection.execute(
            "UPDATE incidents SET owner = %s WHERE id IN "
            "(SELECT id FROM incidents WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE)",
            (storable(owner.strip()) or None, list(ids)),
        ).rowcount

    return database.transact(act)


def retry(database: Database, ids: Collection[int], *, by: str) -> Retried:
    """Retry what is parked under these incidents, with all its attempts; they stay open until it succeeds.

    Parked rows are due now; an open circuit is probed now; where rows could not be loaded the next pass reads
    everything. Rows that a run has claimed are left to it. Raises IntegrationError (bad_data) for an unknown id, or if
    none is open.
    """

    def act(connection: Connection) -> Retried:
        held, notes = _hold(connection, ids, "retry")
        reason = f"retried by {storable(by.strip())}"
        rows = parked.start_again(connection, [i.id for i in held], reason)
        probed, due = _probe(connection, held)
        reread = _read_again(connection, held)
        started = rows.incidents | rows.in_hand | set(probed) | reread
        for incident in held:
            if incident.id in rows.in_hand:
                notes.append(f"{incident.id}: a run has claimed it")
            elif probed.get(incident.id) is False:
                notes.append(f"{incident.id}: a probe is under way")
            elif incident.id not in started:
                notes.append(f"{incident.id}: {_why_nothing(incident)}")
        stores = rows.stores | {i.store_id for i in held if i.store_id and i.id in started}
        notes += _in_the_way(connection, stores, {i.fingerprint for i in held if i.id in probed})
        return Retried(len(started), rows.rows + due + len(reread), notes)

    return database.transact(act)


def resolve(database: Database, ids: Collection[int], *, by: str, note: str) -> Resolved:
    """Close these incidents: a person says that they are over, and why.

    What they parked is due now as if it had never failed; an open circuit is closed. If the fault persists, an
    incident opens again. Raises IntegrationError (bad_data) for an unknown id, no note, or if none is open.
    """
    if not note.strip():
        raise bad_data("say in a note why it is over")

    def act(connection: Connection) -> Resolved:
        held, notes = _hold(connection, ids, "resolve")
        closed = [incident.id for incident in held]
        rows = parked.start_again(connection, closed, f"resolved by {storable(by.strip())}", release=True)
        due = _close_circuits(connection, held)
        connection.execute(
            "UPDATE incidents SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = %s, resolution = %s "
            "WHERE id = ANY(%s)",
            (storable(by.strip()), storable(note.strip()), closed),
        )
        for incident in held:
            if kept := count_rejects(connection, incident.fingerprint):
                notes.append(
                    f"{incident.id}: {counted(kept, 'row')} still not loaded: it opens again at the next pass; "
                    f"{command('incidents', 'retry', incident.id)} then reads them again"
                )
        notes += _in_the_way(connection, rows.stores, {i.fingerprint for i in held})
        return Resolved(len(held), rows.rows + due, notes)

    return database.transact(act)


class _Held(NamedTuple):
    """An open incident that is locked."""

    id: int
    fingerprint: Fingerprint
    store_id: int | None
    job: str | None


def _hold(connection: Connection, ids: Collection[int], verb: str) -> tuple[list[_Held], list[str]]:
    """Lock the circuits and the incidents; returns those still open, and a note on each that is not."""
    known = _require_known(connection, ids)
    connection.execute(
        "SELECT FROM circuits WHERE key = ANY(%s) ORDER BY key FOR NO KEY UPDATE",
        (circuit_keys(known),),
    )
    locked = connection.execute(
        "SELECT id, fingerprint, store_id, job, status = 'open', resolved_by, resolved_at FROM incidents "
        "WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
        (list(ids),),
    ).fetchall()
    held = [_Held(row[0], fingerprints.parse(row[1]), *row[2:4]) for row in locked if row[4]]
    notes = [
        f"{row[0]}: resolved already, by {row[5]} at {row[6]:%Y-%m-%d %H:%M} UTC"
        for row in locked
        if not row[4]
    ]
    if not held:
        raise bad_data(f"there is nothing to {verb}" + "".join(f"\n  {note}" for note in notes))
    return held, notes


def _probe(connection: Connection, held: Sequence[_Held]) -> tuple[dict[int, bool], int]:
    """Make a probe of each open circuit due now; returns whether, by incident, and how many waiting rows are due with
    it.

    False where a probe is under way: there is never more than one.
    """
    by_key = {key: i.id for i in held for key in circuit_keys([i.fingerprint])}
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
    keys = circuit_keys(i.fingerprint for i in held)
    due = _hurry(connection, keys)
    # A vendor's failures are not its stores'.
    connection.execute(
        "UPDATE circuits SET failures = 0, failing_stores = '{}', opened_at = NULL, probe_at = NULL, probe_owner = NULL "
        "WHERE key = ANY(%(keys)s) OR opened_at IS NULL AND store_id IN "
        "(SELECT s.id FROM stores s JOIN circuits c ON c.platform = s.platform WHERE c.key = ANY(%(keys)s))",
        {"keys": keys},
    )
    return due


def _hurry(connection: Connection, keys: Sequence[str]) -> int:
    """What these circuits cover and waits for its next attempt is due now: else there is nothing to probe with."""
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
    """For rows that could not be loaded the next pass reads everything; for drift the audit is due, for refused webhook
    subscriptions the unit that asks for them. Returns their incidents."""
    of: dict[tuple[int, str], set[int]] = {}
    for incident in held:
        match incident.fingerprint:
            case RejectedRows(store_id, table):
                of.setdefault((store_id, table), set()).add(incident.id)
            case Drift(store_id):
                of.setdefault((store_id, Unit.AUDIT.value), set()).add(incident.id)
            case RefusedSubscriptions(platform, store_id):
                for one in [store_id] if store_id else _stores_of(connection, platform):
                    of.setdefault((one, Unit.WEBHOOKS.value), set()).add(incident.id)
    stores, units = [store for store, _ in of], [unit for _, unit in of]
    found = connection.execute(
        "SELECT store_id, resource FROM sync_states WHERE (store_id, resource) IN "
        "(SELECT * FROM unnest(%s::bigint[], %s::text[])) ORDER BY store_id, resource FOR NO KEY UPDATE",
        (stores, units),
    ).fetchall()
    # An unfinished pass may be past these rows already: one that begins from now on is wanted. What is parked under
    # another incident stays parked.
    connection.execute(
        "UPDATE sync_states SET last_full_at = NULL, full_pass_wanted_at = clock_timestamp(), hinted_at = clock_timestamp(), "
        "next_due_at = CASE WHEN next_due_at IS NOT NULL THEN least(next_due_at, clock_timestamp()) END "
        "WHERE (store_id, resource) IN (SELECT * FROM unnest(%s::bigint[], %s::text[]))",
        (stores, units),
    )
    return {incident for row in found for incident in of[row]}


def _stores_of(connection: Connection, platform: str) -> list[int]:
    return [
        store_id
        for (store_id,) in connection.execute(
            "SELECT id FROM stores WHERE platform = %s AND paused_at IS NULL AND deleted_at IS NULL",
            (platform,),
        )
    ]


def _why_nothing(incident: _Held) -> str:
    if isinstance(incident.fingerprint, Job):
        return (
            f"nothing to start: {incident.job} runs again by its schedule, or with "
            f"`dagster job execute -m bg_pipelines.definitions -j {incident.job}`"
        )
    if isinstance(incident.fingerprint, DataRequest):
        return "nothing to start: `bg-pipelines customers requests` has what is to be done"
    return "nothing waits under it: what failed is retried automatically, and closes it when it works"


def _in_the_way(connection: Connection, stores: Collection[int], but: Collection[Fingerprint]) -> list[str]:
    """What prevents work of these stores from starting at once: a pause, a circuit whose incident is none of `but`."""
    paused = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM stores WHERE id = ANY(%s) AND paused_at IS NOT NULL ORDER BY name",
            (list(stores),),
        )
    ]
    notes = [
        f"store {name} is paused: its work waits for {command('stores', 'resume', name)}"
        for name in paused[:SHOWN]
    ]
    if len(paused) > SHOWN:
        notes.append(f"{len(paused) - SHOWN:,} more stores are paused: `bg-pipelines stores list`")
    for key, names in connection.execute(
        "SELECT c.key, array_agg(s.name ORDER BY s.name) FROM circuits c "
        "JOIN stores s ON s.id = c.store_id OR s.platform = c.platform "
        "WHERE c.opened_at IS NOT NULL AND s.id = ANY(%s) AND s.paused_at IS NULL GROUP BY c.key ORDER BY c.key",
        (list(stores),),
    ).fetchall():
        fingerprint = Circuit(key)
        if fingerprint in but:
            continue
        of = connection.execute(
            "SELECT id FROM incidents WHERE fingerprint = %s AND status = 'open'", (str(fingerprint),)
        ).fetchone()
        notes.append(
            f"{', '.join(names)}: waits until the next probe of {key} succeeds"
            + (f" (incident {of[0]})" if of else "")
        )
    return notes


# What `show` and `list` read


# Checking


def _require_known(connection: Connection, ids: Collection[int]) -> list[Fingerprint]:
    """The fingerprints of these incidents. Raises IntegrationError (bad_data) naming each id that does not exist."""
    known = dict(
        connection.execute(
            "SELECT id, fingerprint FROM incidents WHERE id = ANY(%s)", (list(ids),)
        ).fetchall()
    )
    if missing := sorted(set(ids) - set(known)):
        raise unknown(missing)
    return [fingerprints.parse(text) for text in known.values()]
