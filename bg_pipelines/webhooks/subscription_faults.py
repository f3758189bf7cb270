"""Incidents of a store's webhook subscriptions: some disappeared at the platform, or it refuses some.

Neither stops the unit, which looks again at the next hour. Of many stores of a platform it is one incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import MissingSubscriptions, RefusedSubscriptions
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.queues import SUBSCRIPTIONS_EVERY
from bg_pipelines.sync.context import Context, fault_of
from bg_pipelines.wording import counted

Connection = psycopg.Connection[Any]

WELL_AFTER = timedelta(hours=6)
"""Missing subscriptions are over when none has been missing for so long: Shopify removes one whose deliveries have failed
for four hours, so what is removed again and again stays one incident."""
OF_ONE_TOPIC = (ErrorType.SCOPES, ErrorType.QUERY_REJECTED)
"""Faults of one subscription, which say nothing of the others. A missing scope is told first: a person can grant it."""
TOPICS_NAMED = 5


class Refusal(NamedTuple):
    """A subscription that the platform refuses, and why."""

    topics: tuple[str, ...]
    error: IntegrationError


def disappeared(topics: Sequence[str]) -> str:
    """A sentence of subscriptions that are missing."""
    return (
        f"{counted(len(topics), 'webhook subscription')} disappeared ({_named(topics)}) and "
        f"{'is' if len(topics) == 1 else 'are'} made again; what changed meanwhile is read"
    )


def report_missing(connection: Connection, context: Context, topics: Sequence[str]) -> None:
    platform = context.claim.platform
    error = IntegrationError.of(
        ErrorType.EVENTS_MISSED,
        f"{disappeared(topics)}. Find out whether the receiver is reached: `bg-pipelines check`",
        source=platform,
        details={"topics": list(topics)},
    )
    fault = _fault(
        context, MissingSubscriptions(platform, context.claim.store_id), error, needs_attention=False
    )
    reporting.report_of_many(
        connection, fault, MissingSubscriptions(platform, None), occurrence=f"attempt {context.attempt.id}"
    )


def clear_missing(connection: Connection, context: Context) -> None:
    """None is missing now: end the incident if none has been for long enough."""
    platform = context.claim.platform
    over = [MissingSubscriptions(platform, context.claim.store_id), MissingSubscriptions(platform, None)]
    reporting.clear(connection, over, "none has been missing since", quiet_for=WELL_AFTER)


def report_refused(connection: Connection, context: Context, refused: Sequence[Refusal]) -> None:
    """What the platform refuses now; nothing: end the incident."""
    platform = context.claim.platform
    own = RefusedSubscriptions(platform, context.claim.store_id)
    many = RefusedSubscriptions(platform, None)
    if not refused:
        how = "the platform takes every subscription"
        reporting.clear(connection, [own], how)
        # Of many stores it is over when none of them has had it at its last look.
        reporting.clear(connection, [many], how, quiet_for=2 * SUBSCRIPTIONS_EVERY)
        return
    topics = [topic for refusal in refused for topic in refusal.topics]
    first = min(refused, key=lambda refusal: OF_ONE_TOPIC.index(refusal.error.error_type)).error
    error = IntegrationError(
        f"No webhooks of {_named(topics)}: {first.message}",
        error_type=first.error_type,
        severity="medium",
        recoverable=False,
        source=first.source,
        details={"topics": {topic: one.error.message for one in refused for topic in one.topics}},
    )
    # The same again at the next hour is no repeat.
    reporting.report_of_many(
        connection, _fault(context, own, error, needs_attention=True), many, occurrence=" ".join(topics)
    )


def _fault(
    context: Context,
    fingerprint: MissingSubscriptions | RefusedSubscriptions,
    error: IntegrationError,
    *,
    needs_attention: bool,
) -> Fault:
    payload = f"webhook_subscriptions of store {context.claim.store_id}"
    return fault_of(context, fingerprint, error, payload=payload, needs_attention=needs_attention)


def _named(topics: Sequence[str]) -> str:
    more = len(topics) - TOPICS_NAMED
    return ", ".join(topics[:TOPICS_NAMED]) + (f" and {more} more" if more > 0 else "")
