"""The profile of a store: what its platform says of the shop itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bg_pipelines.database.load import AHEAD, Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import next_turn
from bg_pipelines.sync.context import Context
from bg_pipelines.sync.state import digest
from bg_pipelines.values import read_rows
from bg_pipelines.wording import command
from bg_pipelines.work import attempts


def sync_profile(context: Context) -> None:
    """Keep the shop's profile. Raises IntegrationError (configuration) where another store of ours is the same shop."""
    claim = context.claim
    found = context.platform.profile()
    kept, refused = read_rows([found])
    if refused:
        message = f"the shop's profile cannot be held: {refused[0].reason}; correct it at the source"
        raise IntegrationError.of(ErrorType.BAD_DATA, message, source=claim.platform)
    [profile] = kept
    with context.database.transaction() as connection:
        double = connection.execute(
            "SELECT name FROM stores WHERE platform = %s AND external_id = %s AND id < %s AND paused_at IS NULL "
            "AND deleted_at IS NULL ORDER BY id LIMIT 1",
            (claim.platform, profile.external_id, claim.store_id),
        ).fetchone()
        if double is not None:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"it is the same store there as {double[0]}, so all of it would count twice: pause one of them, like "
                f"{command('stores', 'pause', context.store_name)}",
                source=claim.platform,
            )
        updated = connection.execute(
            "UPDATE stores SET external_id = %(external_id)s, shop_name = %(shop_name)s, currency = %(currency)s, "
            "timezone = %(timezone)s, plan = %(plan)s, source_updated_at = %(source_updated_at)s, synced_at = now() "
            "WHERE id = %(id)s AND (external_id, shop_name, currency, timezone, plan, source_updated_at) "
            "IS DISTINCT FROM (%(external_id)s, %(shop_name)s, %(currency)s, %(timezone)s, %(plan)s, "
            "%(source_updated_at)s::timestamptz) "
            "AND (source_updated_at IS NULL OR source_updated_at <= %(source_updated_at)s::timestamptz "
            "OR source_updated_at > now() + %(ahead)s)",
            {**profile._asdict(), "id": claim.store_id, "ahead": AHEAD},
        ).rowcount
        counts = Counts(read=1, updated=updated, unchanged=1 - updated)
        attempts.count(connection, context.attempt, 1, counts)
        context.complete(
            connection,
            {"seen": digest(found)},
            next_due_at=next_turn(claim.claimed_at, claim.interval, claim.store_id),
            full_pass_since=claim.claimed_at,
        )
    context.note_rows(1, counts)


def seen_profile(cursor: Mapping[str, Any]) -> str | None:
    """The digest of the profile that is kept, from its unit's cursor."""
    return cursor.get("seen")
