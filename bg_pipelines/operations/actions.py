"""What a person on call may do, on the board and by commands alike: each says what came of it, and is in the audit trail.

All raise IntegrationError: bad_data for what does not exist or cannot be, database.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_store
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import handling
from bg_pipelines.operations.activity import Actor, Done, recorded
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.queues import Unit
from bg_pipelines.wording import counted
from bg_pipelines.work import store_units

SYNCED = tuple(unit for unit in Unit if unit not in (Unit.AUDIT, Unit.WEBHOOKS))


def retry_incidents(database: Database, ids: Collection[int], actor: Actor) -> Done:
    with recorded(database, actor, "retry incidents", _numbers(ids)) as done:
        _say(done, handling.retry(database, ids, by=actor.name), "retried")
    return done


def resolve_incidents(database: Database, ids: Collection[int], actor: Actor, *, note: str) -> Done:
    with recorded(database, actor, "resolve incidents", _numbers(ids)) as done:
        _say(done, handling.resolve(database, ids, by=actor.name, note=note), "resolved")
    return done


def assign_incidents(database: Database, ids: Collection[int], actor: Actor, *, to: str) -> Done:
    with recorded(database, actor, "assign incidents", _numbers(ids)) as done:
        done.count = handling.assign(database, ids, to)
        done.outcome = f"{counted(done.count, 'incident')} assigned to {to.strip() or 'nobody'}"
    return done


def pause_stores(database: Database, names: Sequence[str], actor: Actor) -> Done:
    return _set_paused(database, names, actor, "pause", True)


def resume_stores(database: Database, names: Sequence[str], actor: Actor) -> Done:
    return _set_paused(database, names, actor, "resume", False)


def sync_store(database: Database, name: str, actor: Actor, *, full_pass: bool = False) -> Done:
    """All that is synced of a store is due now and started within half a minute, also what is parked; with `full_pass` it
    is read whole."""
    action = "read a store whole" if full_pass else "sync a store"
    with recorded(database, actor, action, name) as done:
        with database.transaction() as connection:
            store_id = find_store(connection, name)
            done.count = store_units.make_due(connection, SYNCED, [store_id], full_pass=full_pass)
            if not done.count:
                raise IntegrationError.of(
                    ErrorType.BAD_DATA, f"store {name} is paused: resume it first", source="stores"
                )
            # Between its tier's ticks only what was hinted at is looked for.
            connection.execute(
                "UPDATE sync_states SET hinted_at = clock_timestamp() WHERE store_id = %s AND resource = ANY(%s)",
                (store_id, list(SYNCED)),
            )
        done.outcome = f"{counted(done.count, 'unit')} due now" + (", to be read whole" if full_pass else "")
    return done


def _say(done: Done, changed: handling.Retried | handling.Resolved, verb: str) -> None:
    done.count = changed.incidents
    what = f"{counted(changed.incidents, 'incident')} {verb}, {counted(changed.rows, 'unit')} of work due now"
    done.outcome = "\n".join([what, *changed.notes])


def _set_paused(database: Database, names: Sequence[str], actor: Actor, verb: str, paused: bool) -> Done:
    with recorded(database, actor, f"{verb} stores", ", ".join(names)) as done:
        done.count = set_paused(database, names, paused)
        done.outcome = f"{done.count} {verb}d, {len(set(names)) - done.count} already were"
    return done


def _numbers(ids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(ids)))
