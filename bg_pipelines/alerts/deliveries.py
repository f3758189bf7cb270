"""From alerts to targets: a delivery is recorded before it is sent, and tried until it is sent or refused for good.

    pending -> sending -> sent
                  |-> pending    failed: tried again after a growing delay, without end
                  |-> refused    this target will never take it (a number that is none): kept, with the reason

`next_try_at` of what is being sent is the end of its lease: if its sender died, it is then taken over. From the
second try on the vendor is asked first whether the message is there. A target gets its alerts in their order, one
at a time; each target has a thread and a pace of its own.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from psycopg.rows import class_row

from bg_pipelines.alerts.recipients import Target
from bg_pipelines.alerts.wording import Kind, Message
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.retries import Policies, decide

LEASE = timedelta(seconds=60)
PATIENCE = 8
"""After so many failures a delivery no longer holds up the alerts of other incidents: it may be the fault itself."""
UNCLEAR_WAIT = timedelta(seconds=15)
"""At least so long after an unclear outcome, so that what the vendor is still at can be found."""
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
_MENDED_BY_A_PERSON = {
    ErrorType.CONFIGURATION,
    ErrorType.CREDENTIALS,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SCOPES,
}
"""Faults of the account or the settings, not of the one recipient: the alert waits until they are mended."""

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


class _Delivery(NamedTuple):
    alert_id: int
    incident_id: int
    kind: Kind
    severity: str
    title: str
    body: str
    attempts: int
    age: timedelta

    @property
    def message(self) -> Message:
        return Message(
            self.kind, self.severity, self.title, self.body, f"#{self.incident_id}.{self.alert_id}"
        )


# Of the same incident an earlier alert always goes first.
_CLAIM = """
    WITH picked AS MATERIALIZED (
        SELECT d.alert_id, d.target FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
        WHERE d.target = %(target)s AND d.status IN ('pending', 'sending') AND d.next_try_at <= clock_timestamp()
        AND d.alert_id <> ALL(%(tried)s)
        AND NOT EXISTS (SELECT FROM alert_deliveries e JOIN alerts b ON b.id = e.alert_id
            WHERE e.target = d.target AND e.alert_id < d.alert_id AND e.status IN ('pending', 'sending')
            AND (b.incident_id = a.incident_id OR e.attempts < %(patience)s OR e.status = 'sending'))
        ORDER BY d.alert_id LIMIT 1 FOR UPDATE OF d SKIP LOCKED)
    UPDATE alert_deliveries d
    SET status = 'sending', attempts = attempts + 1, next_try_at = clock_timestamp() + %(lease)s
    FROM picked, alerts a WHERE d.alert_id = picked.alert_id AND d.target = picked.target AND a.id = d.alert_id
    RETURNING d.alert_id, a.incident_id, a.kind, a.severity, a.title, a.body, d.attempts,
        greatest(clock_timestamp() - a.created_at, interval '0') AS age"""
_MINE = "alert_id = %(alert)s AND target = %(target)s AND status = 'sending' AND attempts = %(attempts)s"


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
        row = connection.execute(
            "SELECT count(*) FROM alert_deliveries WHERE status IN ('pending', 'sending')"
        ).fetchone()
    assert row is not None
    return Delivered(sent, int(row[0]), refused, "; ".join(dict.fromkeys(faults)) or None)


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
                _refuse(database, target.key, delivery, error)
                refused += 1
            else:
                _put_back(database, target.key, delivery, error, rng)
                failed += 1
                # One that has failed often may be at fault itself, and not its target: the next one tells.
                if failed > 1 or delivery.attempts < PATIENCE:
                    break
    except IntegrationError as error:
        return Delivered(sent=sent, refused=refused, fault=error.message)
    except Exception as error:  # noqa: BLE001 (one target's surprise must not stop the others)
        return Delivered(sent=sent, refused=refused, fault=f"{target.key}: unexpected {type(error).__name__}")
    return Delivered(sent=sent, refused=refused)


def _claim(database: Database, target: str, tried: list[int]) -> _Delivery | None:
    with database.transaction() as connection:
        return (
            connection.cursor(row_factory=class_row(_Delivery))
            .execute(_CLAIM, {"target": target, "tried": tried, "patience": PATIENCE, "lease": LEASE})
            .fetchone()
        )


def _send(database: Database, target: Target, delivery: _Delivery) -> IntegrationError | None:
    """Send it, unless it is there already; returns why it could not be. Raises what is wrong with the database."""
    try:
        reference = None
        if delivery.attempts > 1:
            reference = target.find(delivery.message, datetime.now(UTC) - delivery.age)
    except IntegrationError as error:
        return error
    if reference is None:
        if delivery.attempts > 1 and not _renew(database, target.key, delivery):
            return IntegrationError("somebody else has taken it over", error_type=ErrorType.LEASE_LOST)
        try:
            reference = target.send(delivery.message)
        except IntegrationError as error:
            return error
        except Exception as error:  # noqa: BLE001 (its text may hold anything)
            return IntegrationError(f"unexpected {type(error).__name__}", details={"maybe_sent": True})
    # Whoever has it by now: it is sent.
    _execute(
        database,
        "UPDATE alert_deliveries SET status = 'sent', sent_at = clock_timestamp(), reference = %(reference)s, "
        "error = NULL WHERE alert_id = %(alert)s AND target = %(target)s",
        target.key,
        delivery,
        reference=reference,
    )
    return None


def _is_final(error: IntegrationError) -> bool:
    return not error.recoverable and error.error_type not in _MENDED_BY_A_PERSON


def _refuse(database: Database, target: str, delivery: _Delivery, error: IntegrationError) -> None:
    _execute(
        database,
        f"UPDATE alert_deliveries SET status = 'refused', error = %(error)s WHERE {_MINE}",  # noqa: S608
        target,
        delivery,
        error=error.message[:_ERROR_CHARACTERS],
    )
    log.error("alert %s is refused by %s: %s", delivery.alert_id, target, error.message)


def _put_back(
    database: Database, target: str, delivery: _Delivery, error: IntegrationError, rng: random.Random
) -> None:
    now = datetime.now(UTC)
    again = IntegrationError(error.message, error_type=error.error_type, details=error.details)
    # The count is bounded, for an alert is never given up.
    retry_at = decide(again, min(delivery.attempts, 64), now, rng, policies=_POLICIES).retry_at
    assert retry_at is not None
    delay = max(retry_at - now, UNCLEAR_WAIT if error.details.get("maybe_sent") else timedelta())
    _execute(
        database,
        "UPDATE alert_deliveries SET status = 'pending', next_try_at = clock_timestamp() + %(delay)s, "  # noqa: S608
        f"error = %(error)s WHERE {_MINE}",
        target,
        delivery,
        delay=delay,
        error=error.message[:_ERROR_CHARACTERS],
    )
    log.warning(
        "alert %s did not reach %s (try %s), it is tried again in %.0f s: %s",
        delivery.alert_id,
        target,
        delivery.attempts,
        delay.total_seconds(),
        error.message,
    )


def _renew(database: Database, target: str, delivery: _Delivery) -> bool:
    """A whole lease for the sending itself; False where somebody else has it."""
    return (
        _execute(
            database,
            f"UPDATE alert_deliveries SET next_try_at = clock_timestamp() + %(lease)s WHERE {_MINE}",  # noqa: S608
            target,
            delivery,
            lease=LEASE,
        )
        == 1
    )


def _execute(database: Database, statement: str, target: str, delivery: _Delivery, **values: object) -> int:
    with database.transaction() as connection:
        return connection.execute(
            statement,
            {"alert": delivery.alert_id, "target": target, "attempts": delivery.attempts, **values},
        ).rowcount
