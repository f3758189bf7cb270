"""How a unit ends: each outcome of the closed set, as its row, its attempt and its incident have it afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.retries import REFUSALS, Policies, Strategy
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import settling
from bg_pipelines.sync.context import NotReady, StoreRef
from bg_pipelines.sync.settling import Failure, Settling, decide_failure
from bg_pipelines.work import attempts, store_units
from bg_pipelines.work.attempts import Attempt
from bg_pipelines.work.queue import clock
from bg_pipelines.work.store_units import Claim
from bg_pipelines_tests.support import claim_due, query

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
UNITS = ("products", "orders")


def error(kind: ErrorType) -> IntegrationError:
    return IntegrationError.of(kind, "it did not work", source="shopify")


# What is decided


@pytest.mark.parametrize(
    ("failure", "before", "options", "count", "retried"),
    [
        (Failure(error(ErrorType.TIMEOUT)), 0, {}, 1, True),
        (Failure(error(ErrorType.TIMEOUT)), 9, {}, 10, False),
        (Failure(error(ErrorType.TIMEOUT), progressed=True), 9, {}, 1, True),
        (Failure(error(ErrorType.TIMEOUT)), 9, {"vendors_fault": True}, 9, True),
        (Failure(error(ErrorType.TIMEOUT)), 0, {"vendors_fault": True}, 1, True),
        (Failure(error(ErrorType.CREDENTIALS)), 0, {}, 1, False),
        (Failure(error(ErrorType.CREDENTIALS)), 0, {"new_credentials": True}, 1, True),
        *((Failure(error(kind)), 0, {"worked_lately": True}, 1, True) for kind in REFUSALS),
        *((Failure(error(kind)), 1, {"worked_lately": True}, 2, False) for kind in REFUSALS),
        (Failure(error(ErrorType.BAD_DATA)), 0, {"worked_lately": True}, 1, False),
        (Failure(error(ErrorType.OPERATION_RUNNING), tries=1440), 0, {}, 1, False),
        (Failure(error(ErrorType.DATABASE)), 0, {}, 1, True),
    ],
)
def test_what_happens_next_to_a_failure(
    failure: Failure, before: int, options: dict[str, bool], count: int, retried: bool
) -> None:
    counted, decision = decide_failure(
        failure,
        before,
        NOON,
        random.Random(1),
        **{"vendors_fault": False, "new_credentials": False, "worked_lately": False, **options},
        job="store_sync",
        policies=Policies(),
    )
    assert (counted, decision.retry_at is not None) == (count, retried)
    assert (decision.strategy is Strategy.MANUAL_INTERVENTION) is not retried


# What is written


@pytest.fixture
def store(
    make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]], database: Database
) -> StoreRef:
    [name] = add_shops(make_sandbox(shops=1, variants=1))
    [row] = query(database, "SELECT id FROM stores")
    return StoreRef(row["id"], name, "shopify")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def settle(store: StoreRef, database: Database, said: list[str]) -> Settling:
    [row] = query(database, "SELECT credentials FROM stores")
    return Settling(
        database,
        store,
        run_id="run",
        job="store_sync",
        policies=Policies(),
        rng=random.Random(1),
        held_credentials=lambda: bytes(row["credentials"]),
        say=said.append,
        reopened=lambda: None,
    )


@pytest.fixture
def begun(store: StoreRef, database: Database) -> list[tuple[Claim, Attempt]]:
    """Two units of the store, claimed, each with its attempt."""
    with database.transaction() as connection:
        claims = claim_due(
            connection, UNITS, owner="run/1", limit=9, lease=timedelta(minutes=2), due_before=None
        )
        return [(claim, begin(connection, claim)) for claim in claims]


def begin(connection: psycopg.Connection[Any], claim: Claim) -> Attempt:
    """An attempt that has kept something."""
    attempt = Attempt(claim.attempt_id, "run", claim.store_id, claim.unit, claim.claimed_at)
    attempts.count(connection, attempt, 1, Counts())
    return attempt


def row(database: Database, unit: str) -> dict[str, Any]:
    [found] = query(
        database,
        "SELECT next_due_at > clock_timestamp() AS later, lease_owner, attempts, incident_id, cursor, "
        "last_error ->> 'error_type' AS error, retry_strategy, last_succeeded_at IS NOT NULL AS succeeded "
        "FROM sync_states WHERE resource = %s",
        unit,
    )
    return found


def attempt_of(database: Database, attempt: Attempt) -> str:
    [found] = query(database, "SELECT status FROM sync_attempts WHERE id = %s", attempt.id)
    return str(found["status"])


def test_the_set_is_closed_and_each_is_tested() -> None:
    names = {outcome.__name__.lower() for outcome in get_args(settling.Outcome)}
    tested = {name.removeprefix("test_").split("_is_")[0] for name in globals() if name.startswith("test_")}
    assert names == {"done", "yielded", "waiting", "retried", "parked", "lost"}
    assert names <= tested


def test_done_is_due_again_and_forgets_its_failures(
    begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    claim, attempt = begun[0]
    with database.transaction() as connection:
        due = clock(connection) + timedelta(minutes=5)
        store_units.complete(connection, claim, {"since": "x"}, next_due_at=due)
        attempts.end(connection, attempt, "succeeded")
    found = row(database, claim.unit)
    assert (found["later"], found["succeeded"], found["lease_owner"]) == (True, True, None)
    assert (found["attempts"], found["error"], found["cursor"]) == (0, None, {"since": "x"})
    assert attempt_of(database, attempt) == "succeeded"


def test_yielded_is_due_at_once_behind_all_others_and_no_failure(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    settle.give_back([claim for claim, _ in begun], behind_others=True)
    for claim, attempt in begun:
        found = row(database, claim.unit)
        assert (found["later"], found["lease_owner"], found["attempts"], found["error"]) == (
            False,
            None,
            0,
            None,
        )
        assert attempt_of(database, attempt) == "released"


def test_waiting_is_looked_at_again_with_its_count_and_no_failure(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database, said: list[str]
) -> None:
    claim, attempt = begun[0]
    running = NotReady(error(ErrorType.OPERATION_RUNNING), 7, lambda waits: {"waits": waits})
    assert isinstance(settle.not_ready(claim, attempt, running), settling.Waiting)
    found = row(database, claim.unit)
    assert (found["later"], found["attempts"], found["cursor"]) == (True, 0, {"waits": 7})
    assert attempt_of(database, attempt) == "released"
    assert "Checked again at" in said[0]


def test_one_that_has_waited_for_too_long_has_failed_and_counts_anew(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    claim, attempt = begun[0]
    running = NotReady(error(ErrorType.OPERATION_RUNNING), 1440, lambda waits: {"waits": waits})
    assert settle.not_ready(claim, attempt, running) is None
    outcome = settle.failed(claim, attempt, Failure(running.error, tries=running.waits))
    assert isinstance(outcome, settling.Parked)
    assert row(database, claim.unit)["cursor"] == {"waits": 0}


def test_retried_is_due_later_with_its_error_and_its_count(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    claim, attempt = begun[0]
    outcome = settle.failed(claim, attempt, Failure(error(ErrorType.SHOP_LOCKED)))
    assert isinstance(outcome, settling.Retried)
    found = row(database, claim.unit)
    assert (found["later"], found["lease_owner"], found["attempts"]) == (True, None, 1)
    assert (found["error"], found["retry_strategy"]) == ("shop_locked", "scheduled_retry")
    assert attempt_of(database, attempt) == "failed"
    assert query(database, "SELECT 1 FROM incidents") == []


def test_parked_is_due_at_no_time_under_one_incident_however_many_units_it_reaches(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    failure = Failure(error(ErrorType.CREDENTIALS))
    outcomes = [settle.failed(claim, attempt, failure) for claim, attempt in begun]
    [incident] = query(database, "SELECT id, occurrences, resources FROM incidents")
    assert outcomes == [settling.Parked(incident["id"], "credentials is not retried automatically")] * 2
    assert (incident["occurrences"], sorted(incident["resources"])) == (1, sorted(UNITS))
    for claim, _ in begun:
        found = row(database, claim.unit)
        assert (found["later"], found["incident_id"]) == (None, incident["id"])


def test_lost_is_settled_by_whoever_has_it_and_only_the_attempt_is_ended(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    claim, attempt = begun[0]
    query(database, "UPDATE sync_states SET lease_owner = 'another/1'")
    before = row(database, claim.unit)
    assert settle.failed(claim, attempt, Failure(error(ErrorType.TIMEOUT))) == settling.Lost()
    running = NotReady(error(ErrorType.OPERATION_RUNNING), 1, lambda waits: {"waits": waits})
    assert settle.not_ready(*begun[1], running) == settling.Lost()
    assert row(database, claim.unit) == before
    assert attempt_of(database, attempt) == "failed"


def test_where_the_database_is_away_nothing_is_settled(
    settle: Settling, begun: list[tuple[Claim, Attempt]], database: Database
) -> None:
    claim, attempt = begun[0]
    away = IntegrationError.of(ErrorType.DATABASE, "PostgreSQL is not available", details={"server": "away"})
    with pytest.raises(IntegrationError):
        settle.failed(claim, attempt, Failure(away))
    assert row(database, claim.unit)["lease_owner"] == "run/1"
