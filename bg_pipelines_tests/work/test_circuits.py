"""Circuits: who is left alone, who is probed, and when it is over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.work import circuits, store_units
from bg_pipelines.work.circuits import Outcome, Transition, note_failure, note_success
from bg_pipelines.work.store_units import Claim
from bg_pipelines_tests.support import DatabaseClock, claim_due
from bg_pipelines_tests.work.test_store_units import LEASE, UNITS, add_stores

Connection = psycopg.Connection[Any]
CLOSED = Outcome()


@pytest.fixture
def fleet(clock: DatabaseClock, database: Database) -> list[int]:
    """Twelve stores of one platform whose every row is due now."""
    with database.transaction() as connection:
        return add_stores(connection, 12, due=clock.now - timedelta(minutes=1))


def fail(database: Database, store: int, error: str = "timeout", owner: str = "a", **options: Any) -> Outcome:
    with database.transaction() as connection:
        return note_failure(connection, store, "shopify", ErrorType(error), owner=owner, **options)


def succeed(database: Database, store: int) -> Outcome:
    with database.transaction() as connection:
        return note_success(connection, store, "shopify")


def claim(database: Database) -> list[Claim]:
    with database.transaction() as connection:
        claimed = claim_due(connection, UNITS, owner="a", limit=1000, lease=LEASE)
        connection.rollback()
    return claimed


def probe(database: Database, owner: str = "p") -> list[Claim]:
    with database.transaction() as connection:
        return store_units.claim_probe(connection, UNITS, owner=owner, lease=LEASE)


def is_due(database: Database) -> bool:
    with database.transaction() as connection:
        return store_units.is_due(connection, UNITS)


def test_a_store_that_fails_five_times_in_a_row_is_left_alone_and_no_other(
    fleet: list[int], database: Database
) -> None:
    store = fleet[3]
    outcomes = [fail(database, store) for _ in range(5)]
    assert outcomes == [CLOSED] * 4 + [Outcome(store=Transition.OPENED)]
    assert {work.store_id for work in claim(database)} == set(fleet) - {store}


def test_a_success_in_between_begins_the_count_anew(fleet: list[int], database: Database) -> None:
    for _ in range(4):
        fail(database, fleet[0])
    assert succeed(database, fleet[0]) == CLOSED
    assert [fail(database, fleet[0]) for _ in range(4)] == [CLOSED] * 4


def test_a_platform_is_left_alone_when_five_stores_failed_and_none_succeeded(
    fleet: list[int], database: Database
) -> None:
    assert [fail(database, store).platform for store in fleet[:4]] == [Transition.NONE] * 4
    succeed(database, fleet[5])
    assert [fail(database, store).platform for store in fleet[:4]] == [Transition.NONE] * 4
    assert fail(database, fleet[0]).platform is Transition.NONE, "the same store again is no fifth"
    assert fail(database, fleet[4]) == Outcome(platform=Transition.OPENED)
    assert claim(database) == []
    assert fail(database, fleet[7]) == Outcome(platform=Transition.STILL_OPEN)


def test_of_a_platform_with_few_stores_all_must_fail(clock: DatabaseClock, database: Database) -> None:
    with database.transaction() as connection:
        first, second = add_stores(connection, 2)
    assert fail(database, first) == CLOSED
    assert fail(database, second) == Outcome(platform=Transition.OPENED)


@pytest.mark.parametrize("error", ["credentials", "bad_data", "shop_locked", "unknown", "count_mismatch"])
def test_what_does_not_pass_by_itself_opens_no_circuit(
    fleet: list[int], database: Database, error: str
) -> None:
    assert {fail(database, fleet[0], error) for _ in range(9)} == {CLOSED}
    assert {fail(database, store, error) for store in fleet} == {CLOSED}


def test_a_rate_limit_is_a_stores_own_and_its_delay_is_waited_for(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    assert {fail(database, store, "throttled") for store in fleet} == {CLOSED}
    wait = timedelta(minutes=20)
    for _ in range(3):
        fail(database, fleet[0], "throttled", wait=wait)
    assert fail(database, fleet[0], "throttled", wait=wait) == Outcome(store=Transition.OPENED)
    clock.advance(minutes=19)
    assert probe(database) == []
    clock.advance(minutes=1)
    assert [work.store_id for work in probe(database)] == [fleet[0]]


# Probes


def open_platform(database: Database, fleet: list[int]) -> None:
    for store in fleet[:5]:
        fail(database, store)


def test_one_probe_goes_at_a_time_and_one_row_of_it(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    open_platform(database, fleet)
    assert not is_due(database)
    assert probe(database) == []
    clock.advance(seconds=30)
    assert is_due(database)
    [work] = probe(database)
    assert work.store_id in fleet
    assert probe(database) == []
    assert not is_due(database)
    assert claim(database) == []


def test_a_probe_passes_over_a_row_that_somebody_is_claiming(
    clock: DatabaseClock, fleet: list[int], database: Database
) -> None:
    open_platform(database, fleet)
    clock.advance(seconds=31)
    with database.transaction() as connection:
        connection.execute("SELECT FROM sync_states WHERE store_id <> %s FOR UPDATE", (fleet[-1],))
        assert [work.store_id for work in probe(database)] == [fleet[-1]]


def test_a_probe_that_fails_makes_the_next_one_wait_twice_as_long_up_to_five_minutes(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    open_platform(database, fleet)
    waited = []
    clock.advance(seconds=30)
    for number in range(6):
        [work] = probe(database, owner=f"p{number}")
        assert fail(database, work.store_id, owner=work.owner) == Outcome(platform=Transition.PROBE_FAILED)
        with database.transaction() as connection:
            store_units.QUEUE.release(connection, [work.owner])
        seconds = 0
        while not is_due(database):
            seconds += 10
            clock.advance(seconds=10)
        waited.append(seconds)
    assert waited == [60, 120, 240, 300, 300, 300]


def test_a_visit_that_began_before_the_circuit_opened_is_no_probe(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    open_platform(database, fleet)
    assert fail(database, fleet[8], owner="in flight") == Outcome(platform=Transition.STILL_OPEN)
    clock.advance(seconds=30)
    assert is_due(database)


def test_a_probe_that_succeeds_closes_the_circuit_and_everything_goes_again(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    open_platform(database, fleet)
    clock.advance(seconds=30)
    [work] = probe(database)
    assert succeed(database, work.store_id) == Outcome(platform=Transition.CLOSED)
    with database.transaction() as connection:
        store_units.QUEUE.release(connection, [work.owner])
    assert {work.store_id for work in claim(database)} == set(fleet)
    # What the stores failed by was the vendor's fault: it brings none of them nearer to its own circuit.
    assert [fail(database, fleet[0]).store for _ in range(4)] == [Transition.NONE] * 4


def test_a_probe_whose_worker_was_killed_is_tried_by_another_when_its_lease_has_ended(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    open_platform(database, fleet)
    clock.advance(seconds=30)
    [killed] = probe(database)
    clock.advance(seconds=LEASE.total_seconds() - 1)
    assert probe(database, owner="other") == []
    clock.advance(seconds=1)
    [work] = probe(database, owner="other")
    assert work.owner == "other"
    assert killed.owner != work.owner


def test_a_stores_own_circuit_waits_for_its_platforms(
    fleet: list[int], database: Database, clock: DatabaseClock
) -> None:
    for _ in range(5):
        fail(database, fleet[9], "throttled")
    open_platform(database, fleet)
    clock.advance(minutes=1)
    [work] = probe(database)
    assert probe(database, owner="other") == []
    succeed(database, work.store_id)
    with database.transaction() as connection:
        store_units.QUEUE.release(connection, [work.owner])
    if work.store_id != fleet[9]:
        assert {w.store_id for w in claim(database)} == set(fleet) - {fleet[9]}
        assert [w.store_id for w in probe(database, owner="other")] == [fleet[9]]


def test_a_platform_of_which_many_stores_were_left_alone_lately_is_ailing(
    clock: DatabaseClock, fleet: list[int], database: Database
) -> None:
    def open_circuit(store: int, error: str = "server_error") -> Outcome:
        for _ in range(circuits.STORE_FAILURES):
            with database.transaction() as connection:
                circuits.note_answer(connection, "shopify")  # as it does to others meanwhile
            outcome = fail(database, store, error)
        return outcome

    alone = Outcome(store=Transition.OPENED)
    assert {open_circuit(store) for store in fleet[: circuits.PLATFORM_STORES - 1]} == {alone}
    assert open_circuit(fleet[5], "throttled") == alone, "a rate limit is a store's own"
    assert open_circuit(fleet[6]) == Outcome(Transition.OPENED, Transition.AILING)
    clock.advance(hours=2)
    assert open_circuit(fleet[7]) == Outcome(Transition.OPENED, Transition.AILING), (
        "it lasts, and one more is reached"
    )
    clock.advance(hours=25)
    assert open_circuit(fleet[8]) == alone, "what has been broken for long says nothing of it"


def test_many_failing_at_once_open_a_circuit_once(fleet: list[int], database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda store: fail(database, store), fleet * 3))
    assert sum(outcome.platform is Transition.OPENED for outcome in outcomes) == 1
    with database.transaction() as connection:
        opened = connection.execute("SELECT key FROM circuits WHERE opened_at IS NOT NULL").fetchall()
    assert opened == [("platform:shopify",)]
    assert circuits.PLATFORM_STORES == 5
