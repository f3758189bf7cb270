"""What is decided about work that failed, without a database, a clock or a vendor."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from bg_pipelines.errors import DEFAULTS, ErrorType, IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.retries import POLICIES, Decision, Policies, Strategy, decide

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def failed(error_type: ErrorType, **options: object) -> IntegrationError:
    return IntegrationError.of(error_type, "it failed", **options)  # type: ignore[arg-type]


def waits(error: IntegrationError, attempts: int, times: int = 500, **options: object) -> list[float]:
    rng = random.Random(7)
    decisions = [decide(error, attempts, NOW, rng, **options) for _ in range(times)]  # type: ignore[arg-type]
    return [(d.retry_at - NOW).total_seconds() for d in decisions if d.retry_at is not None]


def test_every_error_type_has_a_policy_and_what_is_not_recoverable_requires_attention() -> None:
    assert set(POLICIES) == set(ErrorType)
    for error_type, kind in DEFAULTS.items():
        decision = decide(failed(error_type), 1, NOW, random.Random(7))
        assert (decision.retry_at is None) == (not kind.recoverable), error_type


@pytest.mark.parametrize(("attempts", "most"), [(1, 30), (2, 60), (3, 120), (6, 960), (7, 1800), (9, 1800)])
def test_backoff_is_anything_up_to_a_doubling_and_capped_delay(attempts: int, most: float) -> None:
    seconds = waits(failed(ErrorType.TIMEOUT), attempts)
    assert len(seconds) == 500
    assert min(seconds) < most * 0.05
    assert most * 0.95 < max(seconds) <= most
    # Full jitter: as much in each quarter.
    assert all(100 < sum(most * q / 4 <= s < most * (q + 1) / 4 for s in seconds) < 150 for q in range(4))


def test_the_attempts_are_used_up_and_then_it_requires_attention() -> None:
    error = failed(ErrorType.TIMEOUT)
    decisions = [decide(error, attempts, NOW, random.Random(7)) for attempts in range(1, 12)]
    assert [d.strategy for d in decisions[:9]] == [Strategy.EXPONENTIAL_BACKOFF] * 9
    assert decisions[9:] == [
        Decision(Strategy.MANUAL_INTERVENTION, None, f"attempt {n} of 10 was the last") for n in (10, 11)
    ]


def test_the_vendors_own_delay_wins_over_jitter_and_cap() -> None:
    error = failed(ErrorType.THROTTLED, details={"retry_after_seconds": 3000.0})
    assert set(waits(error, 1)) == set(waits(error, 20)) == {3000.0}


@pytest.mark.parametrize("told", [0, -5, "soon", None, True])
def test_a_delay_that_is_none_is_not_the_vendors(told: object) -> None:
    error = failed(ErrorType.THROTTLED, details={"retry_after_seconds": told})
    assert len(set(waits(error, 1))) > 400


@pytest.mark.parametrize("told", [1e300, float("inf"), 10**12])
def test_a_delay_of_years_is_a_day(told: float) -> None:
    # As it stands before it is made storable: what a vendor sends is not to be trusted.
    error = failed(ErrorType.THROTTLED)
    error.details["retry_after_seconds"] = told
    assert set(waits(error, 1)) == {86_400.0}


def test_a_delay_that_is_no_number_is_not_the_vendors_either() -> None:
    error = failed(ErrorType.THROTTLED)
    error.details["retry_after_seconds"] = float("nan")
    assert len(set(waits(error, 1))) > 400


def test_a_scheduled_retry_waits_its_fixed_delay_as_often_as_it_may() -> None:
    error = failed(ErrorType.SHOP_LOCKED)
    for attempts in (1, 47):
        assert decide(error, attempts, NOW, random.Random(attempts)) == Decision(
            Strategy.SCHEDULED_RETRY,
            NOW + timedelta(minutes=30),
            f"attempt {attempts} of 48 failed, a fixed delay",
        )
    assert decide(error, 48, NOW, random.Random(7)).retry_at is None


def test_an_error_that_is_marked_recoverable_is_tried_again_though_its_kind_is_not() -> None:
    expired = IntegrationError("the page is gone", error_type="query_rejected", recoverable=True)
    assert decide(expired, 1, NOW, random.Random(7)).strategy is Strategy.EXPONENTIAL_BACKOFF
    lost = IntegrationError("no shop", error_type="shop_gone", recoverable=True)
    assert decide(lost, 1, NOW, random.Random(7)).strategy is Strategy.MANUAL_INTERVENTION


def test_a_decision_is_the_same_for_the_same_input_and_changes_nothing() -> None:
    error = failed(ErrorType.TIMEOUT, details={"status": 504})
    before = error.as_dict()
    assert decide(error, 3, NOW, random.Random(7)) == decide(error, 3, NOW, random.Random(7))
    assert error.as_dict() == before


def test_any_number_of_attempts_has_a_decision() -> None:
    endless = Policies({"timeout": {"max_attempts": 10_000}})
    assert max(waits(failed(ErrorType.TIMEOUT), 9_999, policies=endless)) <= 1800


# Configuration


def test_a_policy_is_set_for_all_jobs_or_for_one_and_what_is_left_out_stays() -> None:
    policies = Policies(
        {"store_sync.timeout": {"delay_seconds": 5}, "timeout": {"max_attempts": 3}}, jobs=tuple(JOBS)
    )
    of_job, of_all = (
        policies.of("store_sync", ErrorType.TIMEOUT),
        policies.of("inventory_sync", ErrorType.TIMEOUT),
    )
    assert (of_job.delay_seconds, of_job.cap_seconds, of_job.max_attempts) == (5, 1800, 3)
    assert (of_all.delay_seconds, of_all.cap_seconds, of_all.max_attempts) == (30, 1800, 3)
    assert policies.of("store_sync", ErrorType.CONNECTION) == POLICIES[ErrorType.CONNECTION]
    error = failed(ErrorType.TIMEOUT)
    assert max(waits(error, 1, job="store_sync", policies=policies)) <= 5
    assert waits(error, 3, job="inventory_sync", policies=policies) == []


def test_a_strategy_can_be_changed() -> None:
    policies = Policies(
        {
            "timeout": {"strategy": "scheduled_retry", "delay_seconds": 60},
            "unknown": {"strategy": "manual_intervention"},
        }
    )
    assert set(waits(failed(ErrorType.TIMEOUT), 1, policies=policies)) == {60.0}
    assert waits(failed(ErrorType.UNKNOWN), 1, policies=policies) == []


def test_every_fault_of_a_configuration_is_named_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="timeot") as raised:
        Policies(
            {
                "timeot": {},
                "stor_sync.timeout": {},
                "throttled": {"max_atempts": 3},
                "timeout": {"max_attempts": 0, "strategy": "hope"},
            },
            jobs=tuple(JOBS),
        )
    faults = str(raised.value).split("; ")
    text = str(raised.value)
    assert "timeot: no such error type; did you mean 'timeout'?" in text
    assert "stor_sync.timeout: no such job; did you mean 'store_sync'?" in text
    assert "throttled.max_atempts: " in text
    assert "did you mean 'max_attempts'?" in text
    assert "timeout.max_attempts: " in text
    assert "timeout.strategy: " in text
    assert len(faults) >= 5
