"""Units of stores' work as runs rely on them: fair between tiers, a store at a time; see test_queue for the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import TIERS, Unit, next_hour
from bg_pipelines.retries import Decision, Strategy
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import all_queues
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.store_units import Claim
from bg_pipelines_tests.support import claim_due

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LEASE = timedelta(minutes=2)
UNITS = ("products", "inventory_levels")
LATER = Decision(Strategy.EXPONENTIAL_BACKOFF, NOON + timedelta(days=1), "failure 1 of 10")
TIER = {interval: tier for tier, interval in TIERS.items()}
Connection = psycopg.Connection[Any]
Row = tuple[int, str]


def add_stores(
    connection: Connection,
    count: int = 1,
    *,
    tier: int = 2,
    due: datetime = NOON,
    units: Sequence[str] = UNITS,
) -> list[int]:
    """Stores whose every unit is due at `due`, each a second later than the one before."""
    found = connection.execute(
        "INSERT INTO stores (name, platform, domain, tier, credentials) "
        "SELECT gen_random_uuid()::text, 'shopify', gen_random_uuid()::text, %s, '' FROM generate_series(1, %s) "
        "RETURNING id",
        (tier, count),
    ).fetchall()
    stores = sorted(row[0] for row in found)
    connection.execute(
        "INSERT INTO sync_states (store_id, resource, next_due_at) "
        "SELECT store, unit, %s + (store - %s) * interval '1 second' "
        "FROM unnest(%s::bigint[]) store, unnest(%s::text[]) unit",
        (due, stores[0], stores, list(units)),
    )
    return stores


def claim(connection: Connection, owner: str = "me", **options: Any) -> list[Claim]:
    """All that is due long after noon, unless told otherwise."""
    later = NOON + timedelta(days=1)
    defaults = {"limit": 1000, "lease": LEASE, "due_before": later, "now": later}
    return claim_due(connection, UNITS, owner=owner, **{**defaults, **options})


def rows_of(claimed: list[Claim]) -> list[Row]:
    return sorted((work.store_id, work.unit) for work in claimed)


def state(connection: Connection, work: Claim) -> tuple[Any, ...]:
    """(next_due_at, lease_owner, lease_expires_at, attempts, cursor, last_error) of a row."""
    row = connection.execute(
        "SELECT next_due_at, lease_owner, lease_expires_at, attempts, cursor, last_error FROM sync_states "
        "WHERE store_id = %s AND resource = %s",
        (work.store_id, work.unit),
    ).fetchone()
    assert row is not None
    return row


def assert_lease_lost(act: Any) -> None:
    with pytest.raises(IntegrationError) as raised:
        act()
    assert raised.value.error_type is ErrorType.LEASE_LOST


def test_a_row_whose_lease_ended_goes_to_another_and_the_first_can_neither_save_nor_settle(
    connection: Connection,
) -> None:
    add_stores(connection)
    now = NOON + timedelta(hours=1)
    first = claim(connection, "first", now=now)
    assert claim(connection, "second", now=now + LEASE - timedelta(seconds=1)) == []
    second = claim(connection, "second", now=now + LEASE)
    assert rows_of(second) == rows_of(first)
    [lost, *_] = first
    error = IntegrationError.of(ErrorType.TIMEOUT, "no answer")
    assert_lease_lost(lambda: store_units.save(connection, lost, {}))
    assert_lease_lost(lambda: store_units.complete(connection, lost, {}, next_due_at=NOON))
    assert_lease_lost(lambda: store_units.QUEUE.retry(connection, lost, error, LATER, attempts=1))
    assert_lease_lost(lambda: store_units.QUEUE.yield_(connection, lost))
    assert store_units.heartbeat(connection, {"first"}, LEASE) == 0
    assert store_units.QUEUE.release(connection, {"first"}) == 0
    store_units.save(connection, second[0], {"page": 2})


def test_rows_that_somebody_holds_are_passed_over_and_not_waited_for(database: Database) -> None:
    with database.transaction() as connection:
        held, *others = add_stores(connection, 4)
    with database.transaction() as slow, database.transaction() as quick:
        quick.execute("SET LOCAL statement_timeout = '5s'")
        slow.execute("SELECT FROM sync_states WHERE store_id = %s FOR UPDATE", (held,))
        assert rows_of(claim(quick, "quick")) == sorted((store, unit) for store in others for unit in UNITS)


# Fairness


def test_every_batch_holds_each_tiers_share(connection: Connection) -> None:
    waiting = Counter({1: 12, 2: 25, 3: 1000})
    for tier, count in waiting.items():
        add_stores(connection, count, tier=tier, units=UNITS[:1], due=NOON + timedelta(hours=3 - tier))
    for _ in range(6):
        claimed = claim(connection, limit=30)
        held = Counter(TIER[work.interval] for work in claimed)
        assert len(claimed) == 30
        assert all(held[tier] >= min(10, waiting[tier]) for tier in waiting)
        waiting -= held


def test_what_one_tier_leaves_the_others_take(connection: Connection) -> None:
    add_stores(connection, 40, tier=3, units=UNITS[:1])
    assert len(claim(connection, limit=30)) == 30


def test_even_the_smallest_batches_reach_every_tier(connection: Connection) -> None:
    for tier in (1, 2, 3):
        add_stores(connection, 5, tier=tier, units=UNITS[:1])
    seen: set[int] = set()
    while claimed := claim(connection, limit=1):
        seen |= {TIER[work.interval] for work in claimed}
    assert seen == {1, 2, 3}


def test_the_longest_due_goes_first(connection: Connection) -> None:
    late = add_stores(connection, 5, due=NOON + timedelta(hours=1))
    early = add_stores(connection, 5, due=NOON)
    order = [work.store_id for _ in range(10) for work in claim(connection, limit=1)[::2]]
    assert order == early + late


def test_a_store_is_claimed_with_all_of_its_due_units(connection: Connection) -> None:
    stores = add_stores(connection, 10)
    claimed = claim(connection, limit=3)
    assert len(claimed) >= 3
    assert rows_of(claimed) == sorted((s, r) for s in {w.store_id for w in claimed} for r in UNITS)
    assert {work.store_id for work in claimed} < set(stores)


def test_what_is_not_due_or_not_asked_for_stays(connection: Connection) -> None:
    [store] = add_stores(connection, due=NOON)
    [other] = add_stores(connection, due=NOON)
    [later] = add_stores(connection, due=NOON + timedelta(hours=1))
    now = NOON + timedelta(minutes=1)
    assert {work.store_id for work in claim(connection, now=now, due_before=now, stores={store, later})} == {
        store
    }
    assert claim_due(connection, ("locations",), owner="me", limit=9, lease=LEASE, due_before=now) == []
    assert {work.store_id for work in claim(connection, now=now, due_before=now)} == {other}
    assert claim(connection, now=now, due_before=now, stores=[]) == []


def test_paused_and_deleted_stores_are_never_claimed(connection: Connection) -> None:
    paused, deleted = add_stores(connection, 2)
    connection.execute("UPDATE stores SET paused_at = now() WHERE id = %s", (paused,))
    connection.execute("UPDATE stores SET deleted_at = now() WHERE id = %s", (deleted,))
    assert claim(connection) == []
    assert claim(connection, stores=[paused, deleted]) == []
    assert store_units.count_due(connection, UNITS, NOON + timedelta(hours=1), None) == (0, 0)
    connection.execute("UPDATE stores SET paused_at = NULL WHERE id = %s", (paused,))
    assert {work.store_id for work in claim(connection)} == {paused}


# Keeping, giving back, settling


def test_a_heartbeat_extends_the_rows_of_its_owners_and_no_others(connection: Connection) -> None:
    add_stores(connection, 3)
    [mine, also_mine, theirs] = [claim(connection, name, limit=2) for name in ("a", "b", "c")]
    before = state(connection, theirs[0])
    now = NOON + timedelta(days=2)
    assert store_units.heartbeat(connection, {"a", "b"}, LEASE, now=now) == len(mine + also_mine)
    assert {state(connection, work)[2] for work in mine + also_mine} == {now + LEASE}
    assert state(connection, theirs[0]) == before
    assert store_units.heartbeat(connection, set(), LEASE, now=now) == 0


def test_released_rows_are_still_due_and_keep_their_cursor(connection: Connection) -> None:
    add_stores(connection)
    [work, other] = claim(connection)
    store_units.save(connection, work, {"resume": "page 7"})
    due = state(connection, work)[0]
    assert store_units.QUEUE.release(connection, {"me"}) == 2
    assert state(connection, work) == (due, None, None, 0, {"resume": "page 7"}, None)
    again = {claimed.unit: claimed.cursor for claimed in claim(connection, "next")}
    assert again == {work.unit: {"resume": "page 7"}, other.unit: {}}


def test_a_success_forgets_failures_and_a_failure_counts_and_keeps_the_cursor(connection: Connection) -> None:
    add_stores(connection)
    error = IntegrationError.of(ErrorType.TIMEOUT, "no answer", details={"status": 504})
    due = NOON + timedelta(days=1)
    for failures in (1, 2):
        [work, _] = sorted(
            claim(connection, f"claim {failures}", now=due, due_before=due), key=lambda work: work.unit
        )
        store_units.QUEUE.retry(connection, work, error, LATER, attempts=failures)
        store_units.QUEUE.release(connection, {f"claim {failures}"})
        assert state(connection, work) == (due, None, None, failures, {}, error.as_dict())
    work = next(w for w in claim(connection, now=due, due_before=due) if w.unit == work.unit)
    assert work.attempts == 2
    store_units.complete(
        connection, work, {"since": "x"}, next_due_at=due + LEASE, now=due, full_pass_since=due
    )
    assert state(connection, work) == (due + LEASE, None, None, 0, {"since": "x"}, None)
    [again] = [w for w in claim(connection, now=due + LEASE, due_before=due + LEASE) if w.cursor]
    assert again.last_full_at == due


def test_made_due_rows_are_due_now_in_the_order_they_were(connection: Connection) -> None:
    [overdue] = add_stores(connection, due=NOON - timedelta(days=9999))
    [later] = add_stores(connection, due=NOON + timedelta(days=9999))
    [untouched] = add_stores(connection, due=NOON + timedelta(days=9999))
    assert store_units.make_due(connection, UNITS[:1], [overdue, later]) == 2
    now = database_clock(connection)
    assert store_units.count_due(connection, UNITS, now, None) == (2, 0)
    first = claim(connection, limit=1, now=now, due_before=now)
    second = claim(connection, limit=1, now=now, due_before=now)
    assert rows_of(first) == [(overdue, unit) for unit in sorted(UNITS)]
    assert rows_of(second) == [(later, UNITS[0])]
    assert store_units.make_due(connection, UNITS, None) == 6
    now = database_clock(connection)
    assert (untouched, UNITS[1]) in rows_of(claim(connection, now=now, due_before=now))


@pytest.mark.parametrize("failing", [False, True])
def test_the_unit_that_carries_a_queue_s_work_is_due_where_some_of_that_work_is(
    connection: Connection, failing: bool
) -> None:
    now, later = database_clock(connection), NOON + timedelta(days=9999)
    well, failed, parked, without, not_asked = stores = add_stores(connection, 5, due=later)
    connection.execute("UPDATE sync_states SET attempts = 1 WHERE store_id = %s", (failed,))
    connection.execute("UPDATE sync_states SET next_due_at = NULL WHERE store_id = %s", (parked,))
    for store, due in ((well, now), (failed, now), (parked, now), (without, later), (not_asked, now)):
        connection.execute(
            "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
            "change_from_quantity, quantity, next_due_at) VALUES (%s, 'i', 'l', 1, 2, %s)",
            (store, due),
        )
    [corrections] = [queue for queue in all_queues() if queue.carrier is Unit.INVENTORY_LEVELS]
    store_units.make_carrier_due(connection, corrections, stores[:-1], failing=failing)
    due_now = connection.execute(
        "SELECT store_id, resource FROM sync_states WHERE next_due_at <= clock_timestamp()"
    )
    expected = {well, failed} if failing else {well}
    assert set(due_now) == {(store, "inventory_levels") for store in expected}


def test_what_was_hinted_at_is_due_now_but_for_what_waits_for_its_retry_or_a_person(
    connection: Connection,
) -> None:
    later = NOON + timedelta(days=9999)
    well, failing, parked, other = add_stores(connection, 4, due=later)
    connection.execute("UPDATE sync_states SET attempts = 1 WHERE store_id = %s", (failing,))
    connection.execute(
        "UPDATE sync_states SET next_due_at = NULL, attempts = 1 WHERE store_id = %s", (parked,)
    )
    connection.execute("UPDATE sync_states SET last_succeeded_at = now()")
    assert not store_units.is_due(connection, UNITS, retries=True)
    store_units.hint(connection, [(store, "products") for store in (well, failing, parked)])
    rows = connection.execute(
        "SELECT store_id, next_due_at <= clock_timestamp() FROM sync_states WHERE hinted_at IS NOT NULL"
    )
    assert dict(rows.fetchall()) == {well: True, failing: False, parked: None}
    assert store_units.is_due(connection, UNITS, retries=True)
    assert not store_units.is_due(connection, UNITS[1:], retries=True)
    assert other not in {store for store, _ in rows_of(claim(connection, now=None, due_before=None))}


def test_a_hint_during_a_pass_makes_another_pass_due_and_one_before_it_is_answered_by_it(
    connection: Connection,
) -> None:
    later = NOON + timedelta(days=9999)
    [store] = add_stores(connection, due=later, units=["products"])
    hinted = "SELECT hinted_at IS NOT NULL, next_due_at <= clock_timestamp() FROM sync_states"

    def work() -> Claim:
        [work] = claim_due(connection, ["products"], owner="me", limit=1, lease=LEASE)
        return work

    store_units.hint(connection, [(store, "products")])
    held = work()
    store_units.hint(connection, [(store, "products")])
    store_units.complete(connection, held, {}, next_due_at=later)
    assert connection.execute(hinted).fetchone() == (True, True)
    store_units.complete(connection, work(), {}, next_due_at=later)
    assert connection.execute(hinted).fetchone() == (False, False)


def test_what_is_passed_over_is_done_and_due_at_the_next_hour(connection: Connection) -> None:
    due, busy, paused = add_stores(connection, 3, units=["webhooks"])
    [tier_1] = add_stores(connection, tier=1, units=["webhooks"])
    connection.execute("UPDATE stores SET paused_at = now() WHERE id = %s", (paused,))
    connection.execute(
        "UPDATE sync_states SET lease_owner = 'x', lease_expires_at = now() + interval '1 day' WHERE store_id = %s",
        (busy,),
    )
    connection.execute("UPDATE sync_states SET next_due_at = now() - interval '1 s'")
    assert store_units.pass_over(connection, ["webhooks"], [2]) == 1
    [(store, succeeded, next_due)] = connection.execute(
        "SELECT store_id, last_succeeded_at, next_due_at FROM sync_states WHERE next_due_at > now()"
    ).fetchall()
    assert (store, succeeded is not None) == (due, True)
    assert next_due == next_hour(database_clock(connection))
    assert store_units.pass_over(connection, ["webhooks"]) == 1
    assert not store_units.is_due(connection, ["webhooks"], tiers=[1]), tier_1


def test_what_is_due_is_counted_in_stores_that_nobody_is_at_work_on(connection: Connection) -> None:
    stores = add_stores(connection, 3)
    now = database_clock(connection)
    assert store_units.count_due(connection, UNITS, NOON - timedelta(days=1), None) == (0, 0)
    assert store_units.count_due(connection, UNITS, now + timedelta(days=9999), None) == (3, 0)
    assert store_units.count_due(connection, UNITS, now + timedelta(days=9999), stores[:1]) == (1, 0)
    claim(connection, limit=1, now=now)
    assert store_units.count_due(connection, UNITS, now + timedelta(days=9999), None) == (2, 1)
    assert store_units.count_due(connection, UNITS, now + timedelta(days=9999), None, tiers=[1]) == (0, 0)


# Cost


def test_a_claim_among_ten_thousand_stores_of_which_none_is_due_reads_a_few_pages(database: Database) -> None:
    with database.transaction() as connection:
        add_stores(connection, 10_000, due=NOON + timedelta(days=9999))
    with database.transaction() as connection:
        connection.execute("ANALYZE")

    def pages_read() -> tuple[int, int]:
        with database.transaction() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit), "
                "(SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('stores', 'sync_states')) "
                "FROM pg_statio_user_tables WHERE relname IN ('stores', 'sync_states')"
            ).fetchone()
        assert row is not None
        return row

    before = pages_read()
    with database.transaction() as connection:
        assert claim(connection, limit=50, now=NOON, due_before=NOON) == []
        assert store_units.count_due(connection, UNITS, NOON, None) == (0, 0)
        connection.execute("SELECT pg_stat_force_next_flush()")
    after = pages_read()
    assert after[1] == before[1], "a whole table was read"
    # Two pages a query, and about twenty that the planner looks at; the tables have some 600.
    assert after[0] - before[0] < 200
