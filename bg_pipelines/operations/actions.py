"""What a person on call may do, on the board and by commands alike: each says what came of it, and is in the audit trail.

All raise IntegrationError: bad_data for what does not exist or cannot be, database.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import handling
from bg_pipelines.operations.activity import Actor, Done, recorded
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.queues import Unit
from bg_pipelines.wording import counted
from bg_pipelines.work import store_units

SYNCED = tuple(unit for unit in Unit if unit not in (Unit.AUDIT, Unit.WEBHOOKS))


def retry_incidents(database: Database, ids: Collection[int], actor: Actor) -> handling.Retried:
    with recorded(database, actor, "retry incidents", _numbers(ids)) as done:
        retried = handling.retry(database, ids, by=actor.name)
        started = f"{counted(retried.incidents, 'incident')} retried, {counted(retried.rows, 'unit')} of work due now"
        _say(done, started, retried.notes)
    return retried


def resolve_incidents(
    database: Database, ids: Collection[int], actor: Actor, *, note: str
) -> handling.Resolved:
    with recorded(database, actor, "resolve incidents", _numbers(ids)) as done:
        resolved = handling.resolve(database, ids, by=actor.name, note=note)
        closed = f"{counted(resolved.incidents, 'incident')} resolved, {counted(resolved.rows, 'unit')} of work due now"
        _say(done, closed, resolved.notes)
    return resolved


def assign_incidents(database: Database, ids: Collection[int], actor: Actor, *, to: str) -> int:
    with recorded(database, actor, "assign incidents", _numbers(ids)) as done:
        count = handling.assign(database, ids, to)
        done.outcome = f"{counted(count, 'incident')} assigned to {to.strip() or 'nobody'}"
    return count


def pause_stores(database: Database, names: Sequence[str], actor: Actor) -> int:
    """Returns how many were at work before."""
    with recorded(database, actor, "pause stores", ", ".join(names)) as done:
        changed = set_paused(database, names, True)
        done.outcome = f"{changed} paused, {len(set(names)) - changed} already were"
    return changed


def resume_stores(database: Database, names: Sequence[str], actor: Actor) -> int:
    """Returns how many were paused before."""
    with recorded(database, actor, "resume stores", ", ".join(names)) as done:
        changed = set_paused(database, names, False)
        done.outcome = f"{changed} resumed, {len(set(names)) - changed} already were"
    return changed


def sync_store(database: Database, name: str, actor: Actor, *, full_pass: bool = False) -> int:
    """All that is synced of a store is due now and started within half a minute, also what is parked; with `full_pass` it
    is read whole. Returns how many units that are."""
    action = "read a store whole" if full_pass else "sync a store"
    with recorded(database, actor, action, name) as done:
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT id, paused_at IS NOT NULL OR deleted_at IS NOT NULL FROM stores WHERE name = %s",
                (name,),
            ).fetchone()
            if row is None or row[1]:
                raise IntegrationError.of(
                    ErrorType.BAD_DATA,
                    f"store {name} is paused: resume it first" if row else f"no store is named {name!r}",
                    source="stores",
                )
            units = store_units.make_due(connection, SYNCED, [row[0]], full_pass=full_pass)
            # Between its tier's ticks only what was hinted at is looked for.
            connection.execute(
                "UPDATE sync_states SET hinted_at = clock_timestamp() WHERE store_id = %s AND resource = ANY(%s)",
                (row[0], list(SYNCED)),
            )
        done.outcome = f"{counted(units, 'unit')} due now" + (", to be read whole" if full_pass else "")
    return units


def _numbers(ids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


def _say(done: Done, what: str, notes: Sequence[str]) -> None:
    done.outcome = "\n".join([what, *notes])
