"""Visits as runs rely on them: what one run is at no other takes, until it ends, its lease does, or PostgreSQL forgets it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.work import store_units, visits
from bg_pipelines.work.queue import clock, owner_of
from bg_pipelines.work.store_units import Claim
from bg_pipelines_tests.work.test_store_units import LEASE, NOON, UNITS, add_stores, rows_of

Connection = psycopg.Connection[Any]


def take(connection: Connection, owner: str = "me/1", **options: Any) -> list[Claim]:
    return visits.take(connection, UNITS, **{"owner": owner, "limit": 1000, "lease": LEASE, **options})


def test_runs_that_take_at_the_same_time_share_all_that_is_due(database: Database) -> None:
    with database.transaction() as connection:
        stores = [add_stores(connection, 60, tier=tier) for tier in (1, 2, 3)]
    begin = threading.Barrier(8)

    def work(worker: int) -> list[tuple[int, str]]:
        taken: list[tuple[int, str]] = []
        begin.wait()
        while True:
            with database.transaction() as connection:
                due = take(connection, f"worker {worker}", limit=7)
            taken += rows_of(due)
            if not due:
                return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [row for rows in pool.map(work, range(8)) for row in rows]
    assert sorted(taken) == sorted((s, r) for some in stores for s in some for r in UNITS)


def test_what_a_run_is_at_is_due_for_nobody_else_until_its_lease_ends(connection: Connection) -> None:
    [store] = add_stores(connection)
    now = clock(connection)
    assert len(take(connection)) == len(UNITS)
    assert take(connection, "other/1") == []
    assert not store_units.is_due(connection, UNITS)
    assert store_units.count_due(connection, UNITS, now, None) == (0, 1)
    visits.renew(connection, ["me/1"], -LEASE)
    assert store_units.is_due(connection, UNITS)
    assert {unit.owner for unit in take(connection, "other/1")} == {"other/1"}
    # What the first still ends is no longer its own.
    visits.end(connection, [("me/1", store)])
    assert take(connection, "third/1") == []


@pytest.mark.parametrize("how", ["ended", "released", "its run is dead", "PostgreSQL crashed"])
def test_a_visit_that_is_over_leaves_its_store_to_the_next_with_all_else_as_it_was(
    connection: Connection, how: str
) -> None:
    [store] = add_stores(connection)
    run_id = "7d9c1f54-31a5-4a0f-8d53-0c1c3b1b9f00"
    rows = "SELECT * FROM sync_states ORDER BY resource"
    before = connection.execute(rows).fetchall()
    mine = f"{owner_of(run_id)}/x"
    taken = rows_of(take(connection, mine))
    if how == "ended":
        visits.end(connection, [(mine, store)])
    elif how == "released":
        visits.release(connection, [mine])
    elif how == "its run is dead":
        visits.release_runs(connection, [run_id])
    else:
        connection.execute("TRUNCATE visited_units")
    assert connection.execute(rows).fetchall() == before
    assert rows_of(take(connection, "next/1")) == taken


def test_units_are_claimed_as_they_are_then_and_not_as_they_were_found(connection: Connection) -> None:
    add_stores(connection)
    found = take(connection)
    connection.execute("UPDATE sync_states SET attempts = 3 WHERE resource = %s", (UNITS[0],))
    connection.execute(
        "UPDATE sync_states SET next_due_at = now() + %s WHERE resource = %s", (LEASE, UNITS[1])
    )
    [claimed] = store_units.claim(connection, found, lease=LEASE)
    assert (claimed.unit, claimed.attempts, claimed.owner) == (UNITS[0], 3, "me/1")
    assert claimed.attempt_id != 0
    assert store_units.claim(connection, found, lease=LEASE) == [], "it is claimed"


def test_idle_units_are_settled_unless_somebody_has_claimed_or_settled_them_since(
    connection: Connection,
) -> None:
    add_stores(connection, 2)
    found = take(connection)
    claimed, settled, *others = found
    store_units.claim(connection, [claimed], lease=LEASE)
    connection.execute(
        "UPDATE sync_states SET next_due_at = %s WHERE store_id = %s AND resource = %s",
        (NOON - timedelta(days=1), settled.store_id, settled.unit),
    )
    due = clock(connection) + timedelta(hours=1)
    assert store_units.complete_idle(connection, [(unit, due) for unit in found]) == len(others)
    rows = connection.execute("SELECT store_id, resource FROM sync_states WHERE next_due_at = %s", (due,))
    assert sorted(rows.fetchall()) == rows_of(others)
