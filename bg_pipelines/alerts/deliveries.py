r"""From alerts to targets: a delivery is recorded before it is sent, and retried until it is sent or permanently
refused.

    pending -> sent
          \-> pending    failed: retried after a growing delay, without end
          \-> refused    permanently (an invalid number): kept with the reason, and an incident

Deliveries are claimed work (`work.queue`): if a sender dies, its claim is taken over when the lease ends. From the
second call on the vendor is asked first whether it has the message. A target gets its alerts one at a time, the most
severe and then the oldest first; each target has a thread and a pace of its own.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from bg_pipelines.alerts.announcements import UNCLEAR_WAIT
from bg_pipelines.alerts.recipients import Target
from bg_pipelines.alerts.wording import AlertKind, Message
from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import AlertDelivery
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import AlertTarget, parse
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.retries import Decision, Policies, Strategy, decide
from bg_pipelines.work.queue import FREE, Connection, Queue, clock

LEASE = timedelta(seconds=60)
PATIENCE = 8
"""After so many failures a delivery no longer delays the alerts of other incidents: it may be the cause itself."""
LIMIT = 10
CALL_SECONDS = 20.0
"""A call begins no delivery after this time; what is left is for the next."""
_TARGETS_AT_ONCE = 16
_ERROR_CHARACTERS = 300

_POLICIES = Policies(
    {
        kind.value: {
            "strategy": "exponential_backoff",
            "delay_seconds": 15,
            "cap_seconds": 900,
            "max_attempts": 10_000,
        }
        for kind in ErrorType
    }
)
log = logging.getLogger(__name__)


class Delivered(NamedTuple):
    """What a call did: sent, refused for good, and how many deliveries wait after it, for whichever target.

    `fault` says what kept it from doing all of it.
    """

    sent: int = 0
    waiting: int = 0
    refused: int = 0
    fault: str | None = None

    def __str__(self) -> str:
        counts = f"{self.sent} sent, {self.waiting} waiting, {self.refused} refused"
        return f"{counts}; {self.fault}" if self.fault else counts


class Delivery(NamedTuple):
    """A claimed delivery, with its alert; `calls` counts how often sending it was begun, this time among them."""

    alert_id: int
    target: str
    owner: str
    attempts: int
    calls: int
    incident_id: int
    kind: AlertKind
    severity: str
    title: str
    body: str
    reference: str
    age: timedelta

    @property
    def message(self) -> Message:
        return Message(self.kind, self.severity, self.title, self.body, self.reference, self.incident_id)


QUEUE = Queue(
    AlertDelivery,
    Delivery,
    joins="JOIN alerts a ON a.id = t.alert_id",
    joined="a.incident_id AS of_incident, a.kind, a.severity, a.title, a.body, a.reference AS of_alert, a.created_at",
    columns={
        **{name: f"picked.{name}" for name in ("kind", "severity", "title", "body")},
        "incident_id": "picked.of_incident",
        "reference": "picked.of_alert",
        "age": "greatest(clock_timestamp() - picked.created_at, interval '0')",
    },
)

_RANK = "array_position(ARRAY['low', 'medium', 'high', 'critical'], {}.severity)"
# One at a time. An earlier alert of the same incident always goes first; of all others the most severe, then the
# oldest. One that has failed often delays none of them: it may be the cause itself.
_NEXT = f"""
    t.target = %(target)s AND t.alert_id <> ALL(%(tried)s)
    AND NOT EXISTS (SELECT FROM alert_deliveries e JOIN alerts b ON b.id = e.alert_id
        WHERE e.target = t.target AND e.alert_id <> t.alert_id AND e.status = 'pending'
        AND (e.lease_expires_at > clock_timestamp()
            OR b.incident_id = a.incident_id AND e.alert_id < t.alert_id
            OR e.attempts < %(patience)s AND ({_RANK.format("b")}, -e.alert_id) > ({_RANK.format("a")}, -t.alert_id)))"""


def deliver(
    database: Database,
    targets: Sequence[Target],
    *,
    limit: int = LIMIT,
    rng: random.Random | None = None,
) -> Delivered:
    """Send what is due, at most `limit` a target; after a failure the rest of that target's waits.

    Raises IntegrationError (database) only where nothing could be counted; see `fault` for the rest.
    """
    rng = rng or random.Random()  # noqa: S311 (jitter)
    sent = refused = 0
    faults: list[str] = []
    with ThreadPoolExecutor(max(1, min(len(targets), _TARGETS_AT_ONCE)), "alerts") as pool:
        for outcome in pool.map(lambda target: _deliver_to(database, target, limit, rng), targets):
            sent += outcome.sent
            refused += outcome.refused
            faults += [outcome.fault] if outcome.fault else []
    with database.transaction() as connection:
        _forget_removed(connection, targets)
        row = connection.execute("SELECT count(*) FROM alert_deliveries WHERE status = 'pending'").fetchone()
    assert row is not None
    return Delivered(sent, int(row[0]), refused, "; ".join(dict.fromkeys(faults)) or None)


def _forget_removed(connection: Connection, targets: Sequence[Target]) -> None:
    """Resolve the incidents of targets that are no longer in the settings."""
    named = {AlertTarget(target.key) for target in targets}
    rows = connection.execute(
        "SELECT fingerprint FROM incidents WHERE status = 'open' AND kind = %s", (AlertTarget.kind,)
    ).fetchall()
    removed = [fingerprint for (text,) in rows if (fingerprint := parse(text)) not in named]
    if removed:
        reporting.clear(connection, removed, "it is no target any more")


def _deliver_to(database: Database, target: Target, limit: int, rng: random.Random) -> Delivered:
    sent = refused = failed = 0
    tried: list[int] = []
    until = time.monotonic() + CALL_SECONDS
    try:
        while len(tried) < limit and time.monotonic() < until:
            delivery = _claim(database, target.key, tried)
            if delivery is None:
                break
            tried.append(delivery.alert_id)
            error = _send(database, target, delivery)
            if error is None:
                sent += 1
            elif _is_final(error):
                _refuse(database, delivery, error)
                refused += 1
            else:
                _retry(database, delivery, error, rng)
                failed += 1
                # One that has failed often may be at fault itself, and not its target: the next one tells.
                if failed > 1 or delivery.attempts + 1 < PATIENCE:
                    break
    except IntegrationError as error:
        return Delivered(sent=sent, refused=refused, fault=error.message)
    except Exception as error:  # noqa: BLE001 (one target's surprise must not stop the others)
        return Delivered(sent=sent, refused=refused, fault=f"{target.key}: unexpected {type(error).__name__}")
    return Delivered(sent=sent, refused=refused)


def _claim(database: Database, target: str, tried: list[int]) -> Delivery | None:
    with database.transaction() as connection:
        claims = QUEUE.claim(
            connection,
            owner=f"alerts/{uuid.uuid4()}",
            limit=1,
            lease=LEASE,
            among=_NEXT,
            order=f"{_RANK.format('a')} DESC, t.alert_id",
            also="calls = t.calls + 1",
            parameters={"target": target, "tried": tried, "patience": PATIENCE},
        )
    return claims[0] if claims else None


def _send(database: Database, target: Target, delivery: Delivery) -> IntegrationError | None:
    """Send it, unless the vendor has it already; returns why that failed. Raises what is wrong with the database."""
    reference = None
    try:
        if delivery.calls > 1:
            reference = target.find(delivery.message, datetime.now(UTC) - delivery.age)
    except IntegrationError as error:
        return error
    if reference is None:
        try:
            if delivery.calls > 1:
                _renew(database, delivery)
            reference = target.send(delivery.message)
        except IntegrationError as error:
            return error
        except Exception as error:  # noqa: BLE001 (its text may hold anything)
            return IntegrationError(f"unexpected {type(error).__name__}", details={"maybe_sent": True})
    with database.transaction() as connection:
        # Without a fence: whoever has it by now, it is sent.
        connection.execute(
            "UPDATE alert_deliveries SET status = 'sent', sent_at = clock_timestamp(), reference = %s, next_due_at = NULL, "  # noqa: S608 (of constants)
            f"last_error = NULL, retry_strategy = NULL, retry_reason = NULL, {FREE} "
            "WHERE alert_id = %s AND target = %s",
            (reference, delivery.alert_id, delivery.target),
        )
        reporting.clear(connection, [AlertTarget(target.key)], "it takes alerts again")
    return None


def _is_final(error: IntegrationError) -> bool:
    """Only what is the recipient's is final: an account, a sender or a code that nobody knew is mended, or passes."""
    return error.error_type is ErrorType.BAD_DATA


def _report(connection: Connection, delivery: Delivery, what: str) -> None:
    """Open an incident: whoever is not reached cannot say so. The others are alerted."""
    target = delivery.target
    error = IntegrationError.of(ErrorType.CONFIGURATION, f"{target} {what}", source="alerts")
    fault = Fault(AlertTarget(target), f"alert target {target}", error, needs_attention=True)
    reporting.report_fault(connection, fault, occurrence=f"alert {delivery.alert_id}")


def _refuse(database: Database, delivery: Delivery, error: IntegrationError) -> None:
    """Keep the reason, and say it to the others."""
    with _unless_lost(), database.transaction() as connection:
        _report(
            connection,
            delivery,
            f"refuses alerts for good: {error.message}. Alerts still go to the other targets. "
            "Correct or remove it in BG_ALERT_PHONES or BG_ALERT_URLS.",
        )
        decision = Decision(Strategy.MANUAL_INTERVENTION, None, "the target refuses it for good")
        QUEUE.retry(
            connection,
            delivery,
            _short(error),
            decision,
            attempts=delivery.attempts + 1,
            assignments="status = 'refused'",
        )
    log.error("alert %s is refused by %s: %s", delivery.alert_id, delivery.target, error.message)


def _retry(database: Database, delivery: Delivery, error: IntegrationError, rng: random.Random) -> None:
    attempts = delivery.attempts + 1
    again = IntegrationError(error.message, error_type=error.error_type, details=error.details)
    with _unless_lost(), database.transaction() as connection:
        now = clock(connection)
        # The count is bounded, for an alert is never given up.
        decision = decide(again, min(attempts, 64), now, rng, policies=_POLICIES)
        assert decision.retry_at is not None
        earliest = now + (UNCLEAR_WAIT if error.details.get("maybe_sent") else timedelta())
        decision = decision._replace(retry_at=max(decision.retry_at, earliest))
        if not error.recoverable:
            _report(
                connection,
                delivery,
                f"takes no alerts: {error.message}. They wait for it, and go to the other targets meanwhile.",
            )
        QUEUE.retry(connection, delivery, _short(error), decision, attempts=attempts)
    log.warning(
        "alert %s did not reach %s (attempt %s), retrying in %.0f s: %s",
        delivery.alert_id,
        delivery.target,
        attempts,
        ((decision.retry_at or now) - now).total_seconds(),
        error.message,
    )


def _renew(database: Database, delivery: Delivery) -> None:
    """A whole lease for the sending itself. Raises IntegrationError (lease_lost) where somebody else has it."""
    with database.transaction() as connection:
        QUEUE.save(connection, delivery, "lease_expires_at = clock_timestamp() + %(lease)s", {"lease": LEASE})


def _short(error: IntegrationError) -> IntegrationError:
    return IntegrationError(
        error.message[:_ERROR_CHARACTERS],
        error_type=error.error_type,
        severity=error.severity,
        recoverable=error.recoverable,
        source=error.source,
    )


@contextmanager
def _unless_lost() -> Iterator[None]:
    """Whoever has claimed the delivery now settles it."""
    try:
        yield
    except IntegrationError as error:
        if error.error_type is not ErrorType.LEASE_LOST:
            raise
