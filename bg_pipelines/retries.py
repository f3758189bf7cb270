"""What happens next to work that failed: `decide` returns a decision and does nothing else.

    exponential_backoff   transient: a growing delay with full jitter and a cap; the vendor's own delay wins
    scheduled_retry       time-dependent: a fixed delay
    manual_intervention   not recoverable, or no attempts left: parked, requires attention

`POLICIES` has the policy of each error type; `BG_RETRY_POLICIES` changes it, for one job or for all. A decision is
stored in the row it is about, so it survives a restart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean

MOST_VENDOR_DELAY_SECONDS = 86_400.0


class Strategy(StrEnum):
    EXPONENTIAL_BACKOFF = "exponential_backoff"
    SCHEDULED_RETRY = "scheduled_retry"
    MANUAL_INTERVENTION = "manual_intervention"


class Policy(BaseModel):
    """How often and when failed work is retried.

    Backoff waits between nothing and `delay_seconds` doubled with each failure, at most `cap_seconds`; a scheduled
    retry waits `delay_seconds`. After `max_attempts` failures in a row it requires attention.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    delay_seconds: float = Field(default=30, gt=0, le=7 * 86_400)
    cap_seconds: float = Field(default=1800, gt=0, le=7 * 86_400)
    max_attempts: int = Field(default=10, ge=1, le=10_000)


class Decision(NamedTuple):
    """What happens next: retried at `retry_at`, or (None) parked; `reason` says why, as a clause."""

    strategy: Strategy
    retry_at: datetime | None
    reason: str


def _backoff(delay: float, cap: float, attempts: int) -> Policy:
    return Policy(
        strategy=Strategy.EXPONENTIAL_BACKOFF, delay_seconds=delay, cap_seconds=cap, max_attempts=attempts
    )


def _scheduled(delay: float, attempts: int) -> Policy:
    return Policy(strategy=Strategy.SCHEDULED_RETRY, delay_seconds=delay, max_attempts=attempts)


_MANUAL = Policy(strategy=Strategy.MANUAL_INTERVENTION, max_attempts=1)

POLICIES: Mapping[ErrorType, Policy] = {
    ErrorType.TIMEOUT: _backoff(30, 1800, 10),
    ErrorType.CONNECTION: _backoff(30, 1800, 10),
    ErrorType.SERVER_ERROR: _backoff(30, 1800, 10),
    ErrorType.MALFORMED_RESPONSE: _backoff(30, 1800, 10),
    ErrorType.REFUSED: _backoff(30, 1800, 10),
    # A shop whose rate limit another app uses up is slow, not broken: it has many attempts.
    ErrorType.THROTTLED: _backoff(60, 1800, 50),
    ErrorType.DATABASE: _backoff(5, 300, 10),
    ErrorType.LEASE_LOST: _backoff(5, 300, 10),
    ErrorType.UNKNOWN: _backoff(60, 3600, 5),
    ErrorType.RUN_DIED: _backoff(60, 3600, 5),
    # Where these are marked recoverable, the next attempt starts from the beginning.
    ErrorType.COUNT_MISMATCH: _backoff(60, 3600, 3),
    ErrorType.QUERY_REJECTED: _backoff(30, 600, 3),
    ErrorType.DRIFT: _backoff(60, 3600, 3),
    ErrorType.STALE: _backoff(60, 3600, 3),
    ErrorType.EVENTS_MISSED: _backoff(60, 3600, 3),
    ErrorType.SHOP_LOCKED: _scheduled(1800, 48),
    # A bulk operation of a large shop takes minutes to hours.
    ErrorType.OPERATION_RUNNING: _scheduled(60, 1440),
    ErrorType.OPERATION_FAILED: _backoff(60, 3600, 5),
    ErrorType.CONFIGURATION: _scheduled(900, 3),
    ErrorType.CREDENTIALS: _MANUAL,
    ErrorType.SCOPES: _MANUAL,
    ErrorType.PAYMENT_REQUIRED: _MANUAL,
    ErrorType.SHOP_GONE: _MANUAL,
    ErrorType.QUERY_TOO_COSTLY: _MANUAL,
    ErrorType.BAD_DATA: _MANUAL,
    ErrorType.OUTCOME_UNKNOWN: _MANUAL,
    ErrorType.SENDING_PAUSED: _MANUAL,
    ErrorType.REPLY_WAITING: _MANUAL,
    ErrorType.DATA_REQUEST: _MANUAL,
}
"""The policy of each error type, for every job without one of its own."""


REFUSALS = {
    ErrorType.CREDENTIALS,
    ErrorType.SCOPES,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.QUERY_REJECTED,
}
"""What a vendor says for good, and now and then by mistake, for a moment: where the same worked lately it is tried once
more, a little later, before a person is asked."""
SECOND_TRY_SECONDS = (60.0, 180.0)


class Policies:
    """`POLICIES` with overrides, for all jobs ("timeout") or for one ("customer_sync.timeout").

    `overrides` are fields of `Policy` by that key; what is left out stays. Raises ValueError naming every fault.
    """

    def __init__(
        self, overrides: Mapping[str, Mapping[str, Any]] | None = None, *, jobs: tuple[str, ...] = ()
    ) -> None:
        self._table: dict[tuple[str, ErrorType], Policy] = {("", kind): p for kind, p in POLICIES.items()}
        faults: list[str] = []
        # Those for all jobs first: one job's own build on them.
        for key, fields in sorted((overrides or {}).items(), key=lambda item: "." in item[0]):
            job, _, kind = key.rpartition(".")
            if ("." in key) and job not in jobs:
                faults.append(f"{key}: no such job{_meant(job, jobs)}")
                continue
            if kind not in set(ErrorType):
                faults.append(f"{key}: no such error type{_meant(kind, list(ErrorType))}")
                continue
            try:
                held = self.of(job, ErrorType(kind)).model_dump()
                self._table[job, ErrorType(kind)] = Policy.model_validate({**held, **fields})
            except ValidationError as error:
                for fault in error.errors(include_input=False, include_url=False):
                    name = ".".join(map(str, fault["loc"]))
                    meant = (
                        _meant(name, list(Policy.model_fields)) if fault["type"] == "extra_forbidden" else ""
                    )
                    faults.append(f"{key}.{name}: {fault['msg']}{meant}")
        if faults:
            raise ValueError("; ".join(faults))

    def of(self, job: str, error_type: ErrorType) -> Policy:
        return self._table.get((job, error_type)) or self._table["", error_type]


def decide(
    error: IntegrationError,
    attempts: int,
    now: datetime,
    rng: random.Random,
    *,
    job: str = "",
    policies: Policies | None = None,
    worked_lately: bool = False,
) -> Decision:
    """What happens next to work that has just failed with `error`.

    `attempts` counts the failures since the last success, this one among them. The vendor's own delay
    (`retry_after_seconds` in the error's details) replaces the policy's, cap and all. Full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/. `worked_lately`: the vendor took the
    like from us not long ago; then the first of `REFUSALS` is not believed.
    """
    if worked_lately and attempts == 1 and error.error_type in REFUSALS and not error.recoverable:
        return Decision(
            Strategy.SCHEDULED_RETRY,
            now + timedelta(seconds=rng.uniform(*SECOND_TRY_SECONDS)),
            "it worked lately: tried once more before a person is asked",
        )
    policy = (policies or Policies()).of(job, error.error_type)
    if not error.recoverable:
        return Decision(
            Strategy.MANUAL_INTERVENTION, None, f"{error.error_type} is not retried automatically"
        )
    if policy.strategy is Strategy.MANUAL_INTERVENTION:
        return Decision(
            Strategy.MANUAL_INTERVENTION, None, f"{error.error_type} is not retried automatically"
        )
    if attempts >= policy.max_attempts:
        return Decision(
            Strategy.MANUAL_INTERVENTION, None, f"attempt {attempts} of {policy.max_attempts} was the last"
        )
    asked = vendor_delay(error)
    if asked:
        seconds, reason = asked.total_seconds(), "the vendor's own delay"
    elif policy.strategy is Strategy.SCHEDULED_RETRY:
        seconds, reason = policy.delay_seconds, "a fixed delay"
    else:
        # The exponent is bounded: 2 ** 10,000 is no float.
        most = min(policy.cap_seconds, policy.delay_seconds * 2.0 ** min(attempts - 1, 64))
        seconds, reason = rng.uniform(0, most), f"next within {most:.0f} s"
    return Decision(
        policy.strategy,
        now + timedelta(seconds=seconds),
        f"attempt {attempts} of {policy.max_attempts} failed, {reason}",
    )


def is_by_status(error: IntegrationError) -> bool:
    """Whether an HTTP status said it, which a gate before the vendor's own program may have answered."""
    status = error.details.get("status")
    return isinstance(status, int) and status >= 400


def vendor_delay(error: IntegrationError) -> timedelta:
    """How long the vendor asked us to wait (`retry_after_seconds`), at most a day; zero without a usable value."""
    asked = error.details.get("retry_after_seconds")
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not asked > 0:
        return timedelta(0)
    return timedelta(seconds=min(float(asked), MOST_VENDOR_DELAY_SECONDS))


def _meant(word: str, known: Any) -> str:
    return did_you_mean(word, known) or f"; there are: {', '.join(known)}"
