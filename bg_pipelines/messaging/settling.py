"""Settling: what becomes of a claimed message in its row, whatever was decided, answered or met.

decided   before the call: held, refused, or recorded as begun
sent      Twilio has it
failed    final if it is the recipient's; retried, or parked under an incident, if it is not
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.failing import fail
from bg_pipelines.incidents.fingerprints import Fingerprint, TextsRefused, TextsStopped, TextsUnclear, parse
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.messaging import checks, consent
from bg_pipelines.messaging.checks import Hold, Refuse
from bg_pipelines.messaging.outbox import JOB, QUEUE, TextClaim
from bg_pipelines.retries import Decision, Policies, Strategy, decide
from bg_pipelines.work.queue import FREE, RESET, clock

Connection = psycopg.Connection[Any]

UNCLEAR_WAIT = timedelta(seconds=60)
"""From a call's begin until it may be looked up: twice as long as the call may take to arrive
(`sending.CALL_WITHIN_SECONDS`, and 20 seconds for the call itself)."""
ACCOUNT_ERRORS = frozenset({ErrorType.CREDENTIALS, ErrorType.PAYMENT_REQUIRED, ErrorType.CONFIGURATION})
"""Faults of the account or its sender: every other message would meet them as well."""
BY_CODE_ERRORS = frozenset({ErrorType.SCOPES, ErrorType.QUERY_REJECTED})
"""Refusals that may be of some messages alone, and say nothing of the recipient: parked by their code."""


class Failed(NamedTuple):
    """What became of a message that failed (refused, retrying, parked), and why."""

    outcome: str
    reason: str


class Settling:
    """Writes outcomes into the rows of one run's claims."""

    def __init__(
        self,
        database: Database,
        *,
        policies: Policies | None,
        rng: random.Random | None,
        unclear_wait: timedelta,
        lease: timedelta,
    ) -> None:
        self.database = database
        self.policies = policies
        self.rng = rng or random.Random()  # noqa: S311 (jitter)
        self.unclear_wait = unclear_wait
        self.lease = lease

    def decided(
        self, connection: Connection, claim: TextClaim, facts: checks.Facts, decision: checks.Decision
    ) -> None:
        """Record a decision in the transaction that it was made in; of one to send, that its call begins."""
        if isinstance(decision, Hold):
            self.hold(connection, claim, decision)
        elif isinstance(decision, Refuse):
            QUEUE.complete(
                connection,
                claim,
                "status = 'refused', reason = %(reason)s, called_at = NULL, status_at = clock_timestamp()",
                {"reason": decision.reason},
            )
        else:
            if decision.relies_on is not None:
                checks.keep_evidence(connection, claim, facts, decision.relies_on)
            QUEUE.save(
                connection,
                claim,
                "called_at = clock_timestamp(), calls = calls + 1, body = %(body)s, segments = %(segments)s, "
                "lease_expires_at = clock_timestamp() + %(lease)s",
                {"body": decision.text.body, "segments": decision.text.segments, "lease": self.lease},
            )

    def hold(self, connection: Connection, claim: TextClaim, hold: Hold) -> None:
        QUEUE.save(
            connection,
            claim,
            f"next_due_at = %(until)s, retry_strategy = %(strategy)s, retry_reason = %(reason)s, {FREE}",
            {"until": hold.until, "strategy": Strategy.SCHEDULED_RETRY.value, "reason": hold.reason},
        )

    def sent(self, claim: TextClaim, sid: str) -> None:
        """Twilio has it. Without a fence: whoever has claimed it by now, it is sent. What Twilio has told of it since is
        not taken back."""
        with self.database.transaction() as connection:
            # One that was parked goes through: what it was parked for is over, and what is open of the account. Incidents
            # are locked before rows, as by whoever retries them.
            over = [] if claim.incident_id is None else _lock_over(connection, claim.incident_id)
            connection.execute(
                "UPDATE text_messages SET status = CASE status WHEN 'pending' THEN 'queued' ELSE status END, sid = %(sid)s, "  # noqa: S608 (of constants)
                "sent_at = coalesce(sent_at, called_at, clock_timestamp()), called_at = NULL, next_due_at = NULL, "
                f"reason = NULL, {RESET}, {FREE} WHERE id = %(id)s",
                {"sid": sid, "id": claim.id},
            )
            reporting.clear(connection, over, "a message was sent again")

    def failed(self, claim: TextClaim, error: IntegrationError, *, looked_up: bool = False) -> Failed:
        """A message's call, or its look-up, has failed."""
        unclear = looked_up or bool(error.details.get("maybe_sent"))
        with self.database.transaction() as connection:
            if error.error_type is ErrorType.BAD_DATA and not unclear:
                self._refuse_for_good(connection, claim, error)
                return Failed("refused", error.message)
            outcome = fail(
                connection,
                QUEUE,
                claim,
                _fault(error),
                attempts=claim.attempts + 1,
                rng=self.rng,
                job=JOB,
                policies=self.policies,
                decision=self._later(connection, claim, error) if unclear and error.recoverable else None,
                assignments="" if unclear else "called_at = NULL",
            )
        return Failed("retrying" if outcome.incident_id is None else "parked", str(error.error_type))

    def _later(self, connection: Connection, claim: TextClaim, error: IntegrationError) -> Decision:
        """Not before a request that is still on its way has arrived."""
        now = clock(connection)
        decision = decide(error, claim.attempts + 1, now, self.rng, job=JOB, policies=self.policies)
        if decision.retry_at is None:
            return decision
        return decision._replace(retry_at=max(decision.retry_at, now + self.unclear_wait))

    def _refuse_for_good(self, connection: Connection, claim: TextClaim, error: IntegrationError) -> None:
        # The number's lock before the row's, as when it is checked.
        consent.lock(connection, claim.phone)
        code = error.details.get("code")
        QUEUE.complete(
            connection,
            claim,
            "status = 'failed', reason = %(reason)s, error_code = %(code)s, called_at = NULL, "
            "status_at = clock_timestamp()",
            {"reason": error.message, "code": code},
        )
        if code is not None:
            consent.note_code(connection, claim.phone, code, f"text message {claim.id}")


def _lock_over(connection: Connection, incident_id: int) -> list[Fingerprint]:
    """The open incidents that end once a message that was parked under this one goes through, locked."""
    return [
        parse(text)
        for (text,) in connection.execute(
            "SELECT fingerprint FROM incidents WHERE status = 'open' AND (kind = %s AND id = %s OR fingerprint LIKE %s) "
            "ORDER BY id FOR NO KEY UPDATE",
            (TextsRefused.kind, incident_id, f"{TextsStopped.kind}:account-%"),
        )
    ]


def _fault(error: IntegrationError) -> Fault:
    """What a failed message is reported as, if it is parked."""
    code = int(error.details.get("code") or error.details.get("status") or 0)
    fingerprint: Fingerprint
    if error.error_type in ACCOUNT_ERRORS:
        fingerprint = TextsStopped(f"account-{code}")
    elif error.error_type is ErrorType.OUTCOME_UNKNOWN:
        fingerprint = TextsUnclear()
    else:
        fingerprint = TextsRefused(code if error.error_type in BY_CODE_ERRORS else 0)
    subject = f"text messages, code {code}" if error.error_type in BY_CODE_ERRORS else "text messages"
    return Fault(fingerprint, subject, error, needs_attention=True, job=JOB)
