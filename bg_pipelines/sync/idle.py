"""Idle units: one look tells that nothing has changed at their source since the last pass, so there is nothing to read.

Nearly every visit finds that of all its units. They are settled together with those of other stores, in one transaction,
and leave no attempt. A unit is looked at only if its last pass found nothing either: one that is busy is read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.paging import may_be_of_size
from bg_pipelines.platforms.protocol import Look, Platform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sync.state import CursorState, digest, full_pass_due
from bg_pipelines.sync.store_profile import seen_profile
from bg_pipelines.sync.stores import Store
from bg_pipelines.work.store_units import Claim

_OF_ONE = {ErrorType.SCOPES, ErrorType.QUERY_REJECTED, ErrorType.QUERY_TOO_COSTLY}
"""A look fails as a whole, and these may be the fault of one of its resources."""


def find_idle(
    connect: Callable[[], Platform], store: Store, due: Sequence[Claim], asked_at: datetime
) -> set[str]:
    """Those of these due units that are idle. `asked_at` is now, by the database's clock, or earlier; the store is connected
    only where there is something to look for. Their cursors stay as they are: the next look begins where this one did.

    Raises IntegrationError where the look failed, unless a part of it may be at fault: then nothing is known to be idle, and
    each unit is read by itself.
    """
    states: dict[Resource, CursorState] = {}
    since: dict[Resource, datetime] = {}
    profile: str | None = None
    for claim in due:
        unit = Unit(claim.unit)
        if claim.attempts or claim.full_pass_wanted_at or claim.backfill or unit in store.carries:
            continue
        if unit is Unit.STORE and not store.is_double:
            profile = seen_profile(claim.cursor)
        elif unit.resource is not None:
            try:
                state = CursorState.parse(claim.cursor)
            except IntegrationError:
                continue  # it fails as this unit's own
            is_between = state.current is None and state.awaited is None and state.seen is not None
            if is_between and state.since and not full_pass_due(claim.last_full_at, asked_at):
                states[unit.resource], since[unit.resource] = state, state.since
    if not since and profile is None:
        return set()
    platform = connect()
    try:
        look = platform.look(since, profile=profile is not None)
    except IntegrationError as error:
        if error.error_type in _OF_ONE or may_be_of_size(error):
            return set()
        raise
    idle = {resource.value for resource, state in states.items() if _is_unchanged(resource, state, look)}
    if look.profile is not None and digest(look.profile) == profile:
        idle.add(Unit.STORE.value)
    return idle


def _is_unchanged(resource: Resource, state: CursorState, look: Look) -> bool:
    page = look.listed.get(resource)
    if page is not None:
        return digest(page) == state.seen
    count = look.counts.get(resource)
    return resource not in look.changed and count in (None, state.agreed)
