"""What Twilio told: states of text messages and replies, each handled in a transaction of its own, oldest first.

A store's events are one ask of its platform; these ask nobody, and a STOP among them waits for nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import WebhookEvent
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import ErrorType, IntegrationError, unexpected
from bg_pipelines.incidents import fingerprints
from bg_pipelines.incidents.failing import fail
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.messaging import answers
from bg_pipelines.messaging.answers import AnswerRules, Outcome
from bg_pipelines.retries import Decision, Policies, Strategy
from bg_pipelines.webhooks.events import HANDLED, IGNORED
from bg_pipelines.work.queue import Queue, clock

Connection = psycopg.Connection[Any]

SOURCE = "twilio"
AGAIN_AFTER = timedelta(minutes=1)
MOST_TRIES = 10
"""So often a status of a message whose call is not settled is looked at again; then it is of none of ours."""


class TextEvent(NamedTuple):
    """A claimed event of Twilio's. `payload` is encrypted."""

    id: int
    owner: str
    attempts: int
    topic: str
    payload: bytes | None


QUEUE = Queue(WebhookEvent, TextEvent)


def claim(
    connection: Connection, *, owner: str, limit: int, lease: timedelta, due_before: datetime | None = None
) -> list[TextEvent]:
    """Take up to `limit` due events, replies before states."""
    return QUEUE.claim(
        connection,
        owner=owner,
        limit=limit,
        lease=lease,
        among="t.store_id IS NULL AND t.source = %(source)s",
        order="t.topic <> 'inbound', t.next_due_at, t.id",
        parameters={"source": SOURCE},
        due_before=due_before,
    )


def handle(
    database: Database,
    cipher: Cipher,
    rules: AnswerRules,
    events: Sequence[TextEvent],
    *,
    job: str,
    policies: Policies,
    rng: random.Random,
    note: Callable[[str, float], object] = lambda *_: None,
) -> None:
    """Handle claimed events; `note` is told each one's outcome and its age in seconds.

    Raises IntegrationError for what keeps the run itself from working.
    """
    for event in events:
        try:
            with database.transaction() as connection:
                outcome, age = _handle_one(connection, cipher, rules, event)
            note(outcome, age)
        except IntegrationError as error:
            if error.error_type is ErrorType.LEASE_LOST:
                continue
            if error.error_type is ErrorType.DATABASE and not is_expected(error):
                raise
            _fail(database, event, error, job, policies, rng)
            note("failed", 0.0)
        except Exception as error:  # noqa: BLE001 (a bug of ours, or a text that no column can hold)
            _fail(database, event, unexpected(error), job, policies, rng)
            note("failed", 0.0)


def _handle_one(
    connection: Connection, cipher: Cipher, rules: AnswerRules, event: TextEvent
) -> tuple[str, float]:
    fields = cipher.decrypt(event.payload) if event.payload else {}
    outcome = answers.handle(connection, event.topic, fields, rules)
    if outcome is Outcome.LATER and event.attempts + 1 < MOST_TRIES:
        now = clock(connection)
        decision = Decision(
            Strategy.SCHEDULED_RETRY, now + AGAIN_AFTER, "of a message whose sending is not settled yet"
        )
        error = IntegrationError.of(ErrorType.OPERATION_RUNNING, decision.reason, source=SOURCE)
        QUEUE.retry(connection, event, error, decision, attempts=event.attempts + 1)
        return "waiting", 0.0
    handled = outcome is Outcome.HANDLED
    QUEUE.complete(
        connection,
        event,
        "status = %(status)s, reason = %(reason)s, settled_at = clock_timestamp(), payload = NULL",
        {
            "status": HANDLED if handled else IGNORED,
            "reason": None if handled else "of no message of ours",
        },
    )
    row = connection.execute(
        "SELECT extract(epoch FROM settled_at - received_at)::float8 FROM webhook_events WHERE id = %s",
        (event.id,),
    ).fetchone()
    assert row is not None
    return (HANDLED if handled else IGNORED), float(row[0])


def _fail(
    database: Database,
    event: TextEvent,
    error: IntegrationError,
    job: str,
    policies: Policies,
    rng: random.Random,
) -> None:
    fault = Fault(
        fingerprints.Job(job, error.error_type), "Twilio's webhooks", error, needs_attention=True, job=job
    )
    with database.transaction() as connection:
        fail(
            connection,
            QUEUE,
            event,
            fault,
            attempts=event.attempts + 1,
            rng=rng,
            job=job,
            policies=policies,
            repeat=False,
        )
