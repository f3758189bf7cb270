"""What can go wrong with a vendor, a store's data or the database, as one structured error.

    IntegrationError                the only exception that jobs, retries and incidents look at
     |
     |  transient: the same call may succeed a moment later
     +-- timeout                    no answer, or not all of it, within the allowed time
     +-- connection                 refused, reset, cut in the middle, name not found
     +-- server_error               5xx, or the vendor's own "internal error"
     +-- throttled                  the vendor asked us to slow down for longer than a worker should wait
     +-- malformed_response         HTML, half a page, or JSON that lacks what was asked for
     +-- refused                    a 4xx that says nothing of the call, the shop or us: as a vendor's gate in its bad moments
     +-- database                   our PostgreSQL is unavailable or refused the work
     +-- lease_lost                 another worker has claimed this row and settles it
     +-- operation_failed           the vendor's operation for us failed: another is started
     +-- run_died                   a run's process was killed, or its machine restarted; it is retried automatically
     |
     |  time-dependent: succeeds once somebody else has finished something
     +-- shop_locked                the platform has locked the shop for now
     +-- operation_running          the vendor's operation has not finished yet
     |
     |  found by a job that repairs what it can
     +-- drift                      stored rows differed from the source although they had been synced
     +-- stale                      something is not read to its end any more, although nothing has failed
     +-- events_missed              webhook events were not delivered: what they told of is read by a pass instead
     |
     |  requires attention: the same call never succeeds unchanged
     +-- credentials                the token or secret is wrong, revoked or expired
     +-- scopes                     the token may not read or write this
     +-- payment_required           the shop's plan does not allow it, or a bill is open
     +-- shop_gone                  no such shop at this address
     +-- query_rejected             the vendor does not accept the query or its arguments
     +-- query_too_costly           the query exceeds the vendor's cost limit even with the smallest page
     +-- bad_data                   the source sent, or a person requested, something invalid
     +-- count_mismatch             rows read and rows accounted for differ: nothing of the batch was kept
     +-- outcome_unknown            whether a call was executed cannot be known: it is never repeated blindly
     +-- sending_paused             sending text messages was stopped, lest more harm be done
     +-- reply_waiting              somebody answered a text message, in words of their own
     +-- data_request               a customer's data was asked for by law: a person sends it, in time
     +-- configuration              a setting, key, address or migration is missing or wrong
     +-- unknown                    none of these

An error is classified once, where it enters (a vendor client, the database edge). `retries` turns it into
what happens next; nobody else looks at a status code. Messages and details contain no secret and no personal data:
they go into logs, tables and alerts unchanged.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from bg_pipelines.wording import filled, visible


class ErrorType(StrEnum):
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    MALFORMED_RESPONSE = "malformed_response"
    REFUSED = "refused"
    DATABASE = "database"
    LEASE_LOST = "lease_lost"
    OPERATION_FAILED = "operation_failed"
    RUN_DIED = "run_died"
    SHOP_LOCKED = "shop_locked"
    OPERATION_RUNNING = "operation_running"
    DRIFT = "drift"
    STALE = "stale"
    EVENTS_MISSED = "events_missed"
    CREDENTIALS = "credentials"
    SCOPES = "scopes"
    PAYMENT_REQUIRED = "payment_required"
    SHOP_GONE = "shop_gone"
    QUERY_REJECTED = "query_rejected"
    QUERY_TOO_COSTLY = "query_too_costly"
    BAD_DATA = "bad_data"
    COUNT_MISMATCH = "count_mismatch"
    OUTCOME_UNKNOWN = "outcome_unknown"
    SENDING_PAUSED = "sending_paused"
    REPLY_WAITING = "reply_waiting"
    DATA_REQUEST = "data_request"
    CONFIGURATION = "configuration"
    UNKNOWN = "unknown"


RUN_CONFIG = "run config"
"""The source of what a person who launched a run by hand mistyped."""


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class ErrorDefaults(NamedTuple):
    """Severity and recoverability of an error type, unless the code that raises it says otherwise."""

    severity: Severity
    recoverable: bool


DEFAULTS: dict[ErrorType, ErrorDefaults] = {
    ErrorType.TIMEOUT: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.CONNECTION: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.SERVER_ERROR: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.THROTTLED: ErrorDefaults(Severity.LOW, True),
    ErrorType.MALFORMED_RESPONSE: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.REFUSED: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.DATABASE: ErrorDefaults(Severity.CRITICAL, True),
    ErrorType.LEASE_LOST: ErrorDefaults(Severity.LOW, True),
    ErrorType.OPERATION_FAILED: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.RUN_DIED: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.SHOP_LOCKED: ErrorDefaults(Severity.HIGH, True),
    ErrorType.OPERATION_RUNNING: ErrorDefaults(Severity.LOW, True),
    ErrorType.DRIFT: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.STALE: ErrorDefaults(Severity.HIGH, True),
    ErrorType.EVENTS_MISSED: ErrorDefaults(Severity.MEDIUM, True),
    ErrorType.CREDENTIALS: ErrorDefaults(Severity.HIGH, False),
    ErrorType.SCOPES: ErrorDefaults(Severity.HIGH, False),
    ErrorType.PAYMENT_REQUIRED: ErrorDefaults(Severity.HIGH, False),
    ErrorType.SHOP_GONE: ErrorDefaults(Severity.HIGH, False),
    ErrorType.QUERY_REJECTED: ErrorDefaults(Severity.HIGH, False),
    ErrorType.QUERY_TOO_COSTLY: ErrorDefaults(Severity.HIGH, False),
    ErrorType.BAD_DATA: ErrorDefaults(Severity.MEDIUM, False),
    ErrorType.COUNT_MISMATCH: ErrorDefaults(Severity.CRITICAL, False),
    ErrorType.OUTCOME_UNKNOWN: ErrorDefaults(Severity.MEDIUM, False),
    ErrorType.SENDING_PAUSED: ErrorDefaults(Severity.HIGH, False),
    ErrorType.REPLY_WAITING: ErrorDefaults(Severity.LOW, False),
    ErrorType.DATA_REQUEST: ErrorDefaults(Severity.LOW, False),
    ErrorType.CONFIGURATION: ErrorDefaults(Severity.HIGH, False),
    ErrorType.UNKNOWN: ErrorDefaults(Severity.MEDIUM, True),
}


class IntegrationError(Exception):
    """A failure of an integration, with what is needed to decide what happens next.

    `message` is a sentence a person can act on. `error_type` is one of `ErrorType`, `severity` one of
    `Severity`; `recoverable` tells whether the same work may succeed later without a person; `source` names
    who failed (a vendor, "database", "settings", "run config"); `details` are JSON-ready facts (status, request id, retry
    delay in seconds). Raises ValueError for an error type or severity that does not exist.
    """

    def __init__(
        self,
        message: str,
        *,
        error_type: str = "unknown",
        severity: str = "medium",
        recoverable: bool = True,
        source: str = "integration",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        message = _storable(message)
        super().__init__(message)
        self.message = message
        self.error_type = ErrorType(error_type)
        self.severity = Severity(severity)
        self.recoverable = recoverable
        self.source = source
        self.details = _storable(dict(details or {}))

    @classmethod
    def of(
        cls,
        error_type: ErrorType,
        message: str,
        *,
        source: str = "integration",
        details: Mapping[str, Any] | None = None,
    ) -> IntegrationError:
        """An error of this type with the severity and recoverability of that type."""
        defaults = DEFAULTS[error_type]
        return cls(
            message,
            error_type=error_type,
            severity=defaults.severity,
            recoverable=defaults.recoverable,
            source=source,
            details=details,
        )

    def of_store(self, name: str) -> IntegrationError:
        """This error, with the store's name in the commands of its message: a vendor's client does not know it."""
        self.message = filled(self.message, STORE=name)
        return self

    def at_least(self, severity: Severity) -> IntegrationError:
        """The same error, as severe as this or more."""
        ranks = list(Severity)
        return IntegrationError(
            self.message,
            error_type=self.error_type,
            severity=max(self.severity, severity, key=ranks.index),
            recoverable=self.recoverable,
            source=self.source,
            details=self.details,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: how an error is stored in a row and shown to people."""
        return {
            "error_type": self.error_type.value,
            "severity": self.severity.value,
            "recoverable": self.recoverable,
            "source": self.source,
            "message": self.message,
            "details": self.details,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call IntegrationError(message) and lose the rest between processes.
        return _rebuild, (self.as_dict(),)


def unexpected(error: BaseException, *, details: Mapping[str, Any] | None = None) -> IntegrationError:
    """A bug as an error: where it happened, without its text, which may quote personal data."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else ""
    return IntegrationError.of(
        ErrorType.UNKNOWN,
        f"unexpected {type(error).__name__}{place}: please report it",
        source="bg-pipelines",
        details=details,
    )


def _storable(value: Any) -> Any:
    """The value as PostgreSQL's jsonb can hold it and a terminal can show it: errors quote texts of vendors."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {_storable(key): _storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value


def _rebuild(state: dict[str, Any]) -> IntegrationError:
    return IntegrationError(state.pop("message"), **state)
