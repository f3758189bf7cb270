"""What becomes of work that failed: by itself, at a time, or by a person; and that a slow store holds up no other."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting as core
from bg_pipelines.incidents.fingerprints import StoreUnit
from bg_pipelines.incidents.handling import retry
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.records import Page, Resource
from bg_pipelines.retries import Decision, Policies, Strategy
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Limits, Summary, SyncRequest, SyncRun
from bg_pipelines.work import circuits, store_units
from bg_pipelines_tests.support import (
    CATALOGUE,
    PATIENCE,
    DatabaseClock,
    Scripted,
    as_store,
    assert_equal_to_source,
    claim_due,
    page,
    query,
    wait_for,
)

Sync = Callable[..., Summary]
MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]


@pytest.fixture
def shop(clock: DatabaseClock, make_sandbox: MakeSandbox, add_shops: AddShops) -> Shop:
    """One shop, added as a store, at noon by the database's clock."""
    sandbox = make_sandbox(shops=1, variants=30, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    return shop


def incidents(database: Database, status: str = "open") -> list[dict[str, Any]]:
    return query(database, "SELECT * FROM incidents WHERE status = %s ORDER BY id", status)


def states(database: Database) -> list[dict[str, Any]]:
    """Those that `sync` works on by default."""
    return query(
        database,
        "SELECT * FROM sync_states WHERE resource = ANY(%s) ORDER BY store_id, resource",
        list(CATALOGUE),
    )


def next_due(database: Database) -> datetime:
    [row] = query(database, "SELECT min(next_due_at) AS due FROM sync_states WHERE attempts > 0")
    due = row["due"]
    assert isinstance(due, datetime)
    return due


# Exponential backoff


def test_transient_failures_are_tried_again_with_growing_capped_delays_and_then_wait_for_a_person(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("server_error"))
    policies = Policies(
        {"server_error": {"delay_seconds": 40, "cap_seconds": 100, "max_attempts": 4}}, jobs=()
    )
    waits = []
    for number in range(1, 4):
        # A new run with a new source of chance each time: what was decided stands in the row alone.
        sync(units=(Unit.STORE,), policies=policies, rng=random.Random(number))
        [row] = [row for row in states(database) if row["resource"] == "store"]
        assert (row["attempts"], row["retry_strategy"]) == (number, "exponential_backoff")
        waits.append((row["next_due_at"] - clock.now).total_seconds())
        assert sync(units=(Unit.STORE,), policies=policies).done == 0, "it is not due yet"
        clock.set(row["next_due_at"])
    assert waits == pytest.approx(
        [random.Random(n + 1).uniform(0, most) for n, most in enumerate((40, 80, 100))], abs=0.001
    )
    assert incidents(database) == []
    sync(units=(Unit.STORE,), policies=policies)
    [row] = [row for row in states(database) if row["resource"] == "store"]
    assert (row["attempts"], row["retry_strategy"], row["next_due_at"]) == (4, "manual_intervention", None)
    [incident] = incidents(database)
    assert (incident["needs_attention"], incident["error_type"]) == (True, "server_error")
    assert row["incident_id"] == incident["id"]
    assert "attempt 4 of 4 was the last" in row["retry_reason"]
    clock.advance(days=30)
    assert sync(units=(Unit.STORE,)).done == 0


def test_the_vendors_own_delay_is_kept_to_the_second(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("too_many_requests", seconds=1234))
    sync()
    assert next_due(database) == clock.now + timedelta(seconds=1234)


def test_a_try_that_kept_pages_before_it_failed_is_the_first_failure_again(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    for _ in range(3):
        edit(shop, "add_product", variants=300, fields={"title": "big"})
    query(database, "UPDATE sync_states SET attempts = 7 WHERE resource = 'product_variants'")
    shop.faults.append(Fault("half_json", operation="ProductVariants", after=2))
    sync(units=(Unit.PRODUCT_VARIANTS,), load_rows=100)
    [row] = [row for row in states(database) if row["resource"] == "product_variants"]
    assert row["attempts"] == 1
    sync(units=(Unit.PRODUCT_VARIANTS,), load_rows=100, stores=(row_name(database),))
    [row] = [row for row in states(database) if row["resource"] == "product_variants"]
    assert row["attempts"] == 2, "nothing was kept this time"


def row_name(database: Database) -> str:
    [row] = query(database, "SELECT name FROM stores")
    return str(row["name"])


# Scheduled retry


def test_a_locked_shop_is_tried_again_at_a_fixed_time_as_often_as_it_may(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("locked"))
    policies = Policies({"shop_locked": {"delay_seconds": 600, "max_attempts": 3}})
    for number in (1, 2):
        sync(policies=policies)
        assert {(row["attempts"], row["retry_strategy"]) for row in states(database)} == {
            (number, "scheduled_retry")
        }
        assert {row["next_due_at"] for row in states(database)} == {clock.now + timedelta(minutes=10)}
        clock.advance(minutes=10)
    sync(policies=policies)
    assert {row["next_due_at"] for row in states(database)} == {None}
    assert [incident["error_type"] for incident in incidents(database)] == ["shop_locked"]


# Manual intervention


def test_a_revoked_token_parks_all_of_a_store_under_one_incident_and_a_new_one_ends_it(
    shop: Shop, sync: Sync, database: Database, cipher: Cipher, clock: DatabaseClock
) -> None:
    shop.access.expire_all()
    sync(units=JOB_UNITS["store_sync"], job="store_sync", run_id="a")
    sync(units=(Unit.INVENTORY_LEVELS,), job="inventory_sync", run_id="b")
    [incident] = incidents(database)
    assert (incident["error_type"], incident["severity"], incident["needs_attention"]) == (
        "credentials",
        "high",
        True,
    )
    assert set(incident["resources"]) == {r.value for r in CATALOGUE}
    assert incident["occurrences"] == 2, "once for each run, not for each unit"
    assert {(r["next_due_at"], r["incident_id"]) for r in states(database)} == {(None, incident["id"])}
    asked = len(shop.requests)
    clock.advance(days=1)
    assert sync().done == 0
    assert len(shop.requests) == asked, "a parked store is not asked"
    edit(shop, "set_token", token="shpat_" + "0" * 32)
    save_stores(database, cipher, [as_store(shop, token="shpat_" + "0" * 32)])
    summary = sync()
    assert (summary.done, summary.failures) == (1, [])
    [resolved] = incidents(database, "resolved")
    assert (resolved["id"], resolved["resolved_by"]) == (incident["id"], "bg-pipelines")
    assert {(r["attempts"], r["incident_id"], r["retry_strategy"]) for r in states(database)} == {
        (0, None, None)
    }


def test_a_missing_scope_parks_its_unit_and_the_incident_ends_with_it_and_not_before(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("access_denied", operation="Locations"))
    sync()
    [incident] = incidents(database)
    assert incident["resources"] == ["locations"]
    clock.advance(hours=2)
    sync()
    assert [row["id"] for row in incidents(database)] == [incident["id"]], "others' success is not its own"
    shop.faults.clear()
    query(database, "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE next_due_at IS NULL")
    sync()
    assert incidents(database) == []


def test_a_row_that_cannot_be_loaded_is_one_incident_until_it_loads(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    variant = shop.export()["product_variants"][5]["id"]
    shop.faults.append(Fault("bad_value", field="price", value="free", id=variant))
    sync()
    [incident] = incidents(database)
    assert (incident["error_type"], incident["resources"]) == ("bad_data", ["product_variants"])
    assert variant in incident["message"]
    for _ in range(3):
        clock.advance(hours=1)
        sync()
    assert [(row["id"], row["occurrences"]) for row in incidents(database)] == [(incident["id"], 1)]
    assert {row["attempts"] for row in states(database)} == {0}, "the store is current but for that row"
    shop.faults.clear()
    edit(shop, "update_variant", id=variant, fields={"title": "mended"})
    clock.advance(hours=1)
    sync()
    assert incidents(database) == []


# Circuits


def test_a_vendor_that_is_down_is_one_incident_few_calls_and_over_by_itself(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    sandbox = make_sandbox(shops=30, variants=60, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("server_error"))
    lines: list[str] = []
    for _ in range(40):  # ten minutes
        sync(log=lines.append, max_workers=4)
        clock.advance(seconds=15)
    [incident] = incidents(database)
    assert (incident["fingerprint"], incident["needs_attention"]) == ("circuit:platform:shopify", False)
    assert len(sandbox.world.requests()) < 30, "it is left alone but for probes"
    assert [line for line in lines if "its circuit is open" in line] != []
    assert max(row["attempts"] for row in states(database)) <= 1, (
        "the vendor's fault uses up no store's tries"
    )
    for shop in sandbox.world.shops.values():
        shop.faults.clear()
    for _ in range(8):
        sync(log=lines.append)
        clock.advance(minutes=1)
    assert incidents(database) == []
    assert "platform shopify answers again" in lines
    assert_equal_to_source(database, sandbox)


def test_a_store_that_fails_again_and_again_is_probed_until_it_answers(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    sandbox = make_sandbox(shops=8, variants=16, clock=lambda: clock.now.timestamp())
    names = add_shops(sandbox)
    broken = next(iter(sandbox.world.shops.values()))
    broken.faults.append(Fault("html"))
    lines: list[str] = []
    for _ in range(40):
        sync(log=lines.append)
        clock.advance(seconds=30)
    [incident] = incidents(database)
    assert (incident["subject"], incident["needs_attention"]) == (f"store {names[0]}", False)
    assert f"store {names[0]} failed too often (malformed_response)" in "\n".join(lines)
    broken.faults.clear()
    for _ in range(35):  # the longest that a store waits before it is retried
        sync(log=lines.append)
        clock.advance(minutes=1)
    assert incidents(database) == []
    assert f"store {names[0]} answers again" in lines
    assert_equal_to_source(database, sandbox)


def test_a_vendor_that_fails_now_here_now_there_is_few_incidents_and_over_by_itself(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    sandbox = make_sandbox(shops=15, variants=15, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    query(database, "UPDATE stores SET interval_minutes = 5")
    rng = random.Random(3)
    for _ in range(60):  # half an hour, in which four calls of five fail
        for shop in sandbox.world.shops.values():
            shop.faults[:] = [Fault("bad_gateway")] if rng.random() < 0.8 else []
        sync(rng=rng, max_workers=1)  # of several, some are amid a failure while the platform's circuit opens
        clock.advance(seconds=30)
    told = query(
        database,
        "SELECT split_part(fingerprint, ':', 2) AS of, needs_attention FROM incidents "
        "WHERE merged_into IS NULL",
    )
    assert [row["of"] for row in told].count("platform") == 1
    assert len(told) <= circuits.PLATFORM_STORES
    assert not any(row["needs_attention"] for row in told)
    for shop in sandbox.world.shops.values():
        shop.faults.clear()
    mend(sync, clock, database, rng)
    assert_equal_to_source(database, sandbox)


def mend(sync: Sync, clock: DatabaseClock, database: Database, rng: random.Random) -> None:
    """Minute by minute until nothing is retried any more; 40 are the longest that a store waits for that."""
    for _ in range(40):
        sync(rng=rng)
        if not any(row["attempts"] for row in states(database)) and incidents(database) == []:
            return
        clock.advance(minutes=1)
    raise AssertionError(incidents(database))


def test_a_vendor_that_is_down_for_a_part_of_its_stores_uses_up_no_stores_tries(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    """However long it lasts: here 45 minutes, for eight of 16 stores."""
    sandbox = make_sandbox(shops=16, variants=16, clock=lambda: clock.now.timestamp())
    names = add_shops(sandbox)
    shops = list(sandbox.world.shops.values())
    rng = random.Random(5)
    sync(rng=rng)
    for shop in shops[:8]:
        shop.faults.append(Fault("bad_gateway"))
    down = f"store_id IN (SELECT id FROM stores WHERE name = ANY(ARRAY{names[:8]}))"
    tries = []
    for _ in range(3):  # quarters of an hour
        for _ in range(15):
            sync(rng=rng, max_workers=4)
            clock.advance(minutes=1)
        [most] = query(database, f"SELECT max(attempts) AS tries FROM sync_states WHERE {down}")
        tries.append(most["tries"])
    assert tries == [tries[0]] * 3, "none is used up once it is known to be the vendor's fault"
    parked = [row for row in states(database) if row["next_due_at"] is None]
    assert parked == []
    [incident] = incidents(database)
    assert (incident["fingerprint"], incident["needs_attention"]) == ("circuit:platform:shopify", False)
    for shop in shops[:8]:
        shop.faults.clear()
    mend(sync, clock, database, rng)
    assert_equal_to_source(database, sandbox)


def leave_alone(database: Database) -> None:
    """As after ten minutes of an outage: a probe may go now."""
    query(
        database,
        "INSERT INTO circuits (key, platform, failures, opened_at, probe_at) VALUES ('platform:shopify', 'shopify', 3, "
        "clock_timestamp() - interval '10 minutes', clock_timestamp() - interval '1 second')",
    )


def test_an_outage_is_over_with_the_first_pages_of_a_probe_and_not_with_its_last(
    database: Database, cipher: Cipher
) -> None:
    add_named(database, "large", due="2 hours")
    for number in range(5):
        add_named(database, f"small-{number}")
    leave_alone(database)
    served = threading.Event()
    small: list[str] = []
    waited: list[bool] = []

    def connect(access: Any, sleep: Any) -> Any:
        if access.name == "large":
            # Each page but the first three comes when all the others have been served.
            pages = [page(n) for n in range(1, 6)]
            return Slow(pages, lambda: waited.append(len(waited) < 3 or served.wait(10)))
        small.append(access.name)
        if len(small) == 5:
            served.set()
        return Scripted([page(1)])

    summary = run(database, cipher, connect, limits=Limits(load_rows=1))
    assert all(waited)
    assert (summary.complete, summary.failures) == (6, [])


def test_an_outage_is_over_with_a_probe_that_is_yielded_amid_its_pages(
    database: Database, cipher: Cipher
) -> None:
    add_named(database, "large")
    leave_alone(database)
    pages = [page(n) for n in range(1, 61)]
    run(
        database,
        cipher,
        lambda *_: Slow(pages, lambda: time.sleep(0.1)),
        limits=Limits(load_rows=1),
        max_minutes=2 / 60,
    )
    assert query(database, "SELECT opened_at FROM circuits") == [{"opened_at": None}]


def test_rows_that_were_claimed_before_the_circuit_opened_are_given_back_without_a_call(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    sandbox = make_sandbox(shops=40, variants=40, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("server_error"))
    summary = sync(max_workers=1, batch_size=1000)
    assert (summary.done, summary.given_back) == (5, 35)
    assert len(sandbox.world.requests()) == 5
    assert query(database, "SELECT 1 FROM sync_states WHERE lease_owner IS NOT NULL") == []


# Slow stores


class Slow(Scripted):
    """A platform that takes its time over each page."""

    def __init__(self, pages: list[Page], wait: Callable[[], object]) -> None:
        self.script, self.wait = pages, wait

    def pages(
        self, resource: Resource, *, since: datetime | None, resume: str | None, bulk: bool | None = None
    ) -> Any:
        start = 0 if resume is None else int(resume)
        for number, one in list(enumerate(self.script, 1))[start:]:
            self.wait()
            one.resume = str(number) if number < len(self.script) else None
            yield one


def add_named(database: Database, name: str, platform: str = "shopify", due: str = "1 hour") -> None:
    query(
        database,
        "WITH s AS (INSERT INTO stores (name, platform, domain, credentials) VALUES (%s, %s, %s, %s) RETURNING id) "
        "INSERT INTO sync_states (store_id, resource, next_due_at) "
        "SELECT id, 'products', clock_timestamp() - %s::interval FROM s",
        name,
        platform,
        f"{name}.example",
        Cipher("0" * 43 + "=").encrypt({"access_token": "x"}),
        due,
    )


def run(database: Database, cipher: Cipher, connect: Any, **options: Any) -> Summary:
    request = {
        key: options.pop(key) for key in ("max_workers", "max_minutes", "batch_size") if key in options
    }
    return SyncRun(
        database,
        cipher,
        SyncRequest((Unit.PRODUCTS,), **request),
        run_id="run",
        connect=connect,
        log=lambda _: None,
        **options,
    ).run()


def test_a_slow_store_is_yielded_at_the_page_reached_when_others_wait(
    database: Database, cipher: Cipher
) -> None:
    add_named(database, "slow", due="2 hours")
    add_named(database, "quick")
    finished: list[str] = []

    def connect(access: Any, sleep: Any) -> Any:
        if access.name == "quick":
            finished.append("quick")
            return Scripted([page(1)])
        finished.append("slow")
        return Slow([page(n) for n in range(1, 13)], lambda: time.sleep(0.1))

    summary = run(database, cipher, connect, max_workers=1, turn_seconds=0.2)
    assert finished == ["slow", "quick", "slow"], "the quick one had its turn before the slow one was done"
    assert (summary.done, summary.complete, summary.failures) == (2, 2, [])
    held = query(
        database,
        "SELECT name, count(*) AS n FROM products p JOIN stores s ON s.id = p.store_id GROUP BY name ORDER BY name",
    )
    assert [(row["name"], row["n"]) for row in held] == [("quick", 1), ("slow", 12)]
    assert {row["attempts"] for row in states(database)} == {0}


def test_a_slow_vendor_never_has_all_workers(database: Database, cipher: Cipher) -> None:
    for number in range(12):
        add_named(database, f"slow-{number}", "square", due="2 hours")
    for number in range(4):
        add_named(database, f"quick-{number}")
    release = threading.Event()
    quick: list[str] = []

    def connect(access: Any, sleep: Any) -> Any:
        if access.platform == "square":
            return Slow([page(1)], lambda: release.wait(PATIENCE))
        quick.append(access.name)
        if len(quick) == 4:
            release.set()
        return Scripted([page(1)])

    began = time.monotonic()
    summary = run(database, cipher, connect, max_workers=4, batch_size=4)
    assert time.monotonic() - began < PATIENCE, "the quick stores waited for the slow ones"
    assert summary.complete == 16


def test_a_run_that_a_slow_store_keeps_busy_takes_what_comes_due_meanwhile(
    database: Database, cipher: Cipher
) -> None:
    add_named(database, "slow")
    served = threading.Event()

    def connect(access: Any, sleep: Any) -> Any:
        if access.name == "slow":
            add_named(database, "late", due="0")
            return Slow([page(1)], lambda: served.wait(30))
        served.set()
        return Scripted([page(1)])

    summary = run(database, cipher, connect)
    assert served.is_set()
    assert (summary.total, summary.complete) == (2, 2)


def test_what_comes_due_during_a_runs_last_visit_is_taken_by_that_run(
    database: Database, cipher: Cipher
) -> None:
    """The tick meanwhile has started no other, for one is at work."""
    add_named(database, "last")

    def connect(access: Any, sleep: Any) -> Any:
        if access.name == "last":
            add_named(database, "late", due="0")
        return Scripted([page(1)])

    summary = run(database, cipher, connect)
    assert (summary.total, summary.complete) == (2, 2)


def test_a_run_ends_when_its_time_is_over_and_the_next_goes_on_at_the_page_reached(
    database: Database, cipher: Cipher
) -> None:
    add_named(database, "slow")
    asked: list[int] = []

    def connect(access: Any, sleep: Any) -> Any:
        return Slow([page(n) for n in range(1, 61)], lambda: (asked.append(1), time.sleep(0.1)))

    summary = run(database, cipher, connect, max_minutes=2 / 60)
    assert (summary.done, summary.given_back, summary.failures) == (0, 1, [])
    [held] = query(database, "SELECT count(*) AS n FROM products")
    assert 0 < held["n"] < 60
    assert {(r["lease_owner"], r["attempts"]) for r in states(database)} == {(None, 0)}
    summary = run(database, cipher, connect)
    assert summary.complete == 1
    assert query(database, "SELECT count(*) AS n FROM products")[0]["n"] == 60
    # What was fetched ahead of the last page kept is fetched again, and no more.
    assert len(asked) <= 60 + 21


# The run's own row


def test_a_run_leaves_a_row_of_how_it_went(shop: Shop, sync: Sync, database: Database) -> None:
    sync(job="store_sync", run_id="r1")
    [row] = query(database, "SELECT * FROM job_runs")
    assert (row["run_id"], row["job"], row["queue"], row["status"]) == (
        "r1",
        "store_sync",
        "stores_sync",
        "succeeded",
    )
    assert (row["stores"], row["stores_failed"]) == (1, 0)
    assert row["peak_rss_mb"] > 50
    assert 1 <= row["connections_in_use"] <= row["connections_size"] == 10
    assert row["finished_at"] >= row["started_at"]


def test_a_run_is_heard_of_until_what_follows_its_stores_is_done(
    shop: Shop, database: Database, cipher: Cipher, clock: DatabaseClock
) -> None:
    def follow(summary: Summary) -> None:
        clock.advance(minutes=5)
        heard = "SELECT 1 FROM job_runs WHERE status = 'running' AND seen_at = clock_timestamp()"
        wait_for(lambda: query(database, heard) != [], PATIENCE)

    sync = SyncRun(
        database,
        cipher,
        SyncRequest((Unit.PRODUCTS,)),
        run_id="run",
        connect=lambda access, sleep: Scripted([page(1)]),
        log=lambda _: None,
        lease=timedelta(seconds=1),
    )
    sync.run(follow)
    assert query(database, "SELECT status FROM job_runs") == [{"status": "succeeded"}]


# What a review found


def test_stores_that_have_been_broken_for_long_stop_no_healthy_ones(
    clock: DatabaseClock, database: Database, make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync
) -> None:
    sandbox = make_sandbox(shops=12, variants=24, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    query(database, "UPDATE stores SET tier = 1")
    sync()
    broken = list(sandbox.world.shops)[:5]
    for domain in broken:
        sandbox.world.shops[domain].faults.append(Fault("server_error"))
    rng = random.Random(1)
    worst = timedelta(0)
    for _ in range(2 * 30):  # half an hour, every half minute
        clock.advance(seconds=30)
        with database.transaction() as connection:
            tick = clock.now.minute % 5 == 0 and clock.now.second == 0
            due = tick and store_units.is_due(connection, list(Unit), tiers=[1])
            due = due or store_units.is_due(connection, list(Unit), retries=True)
        if due:
            sync(rng=rng)
        [row] = query(
            database,
            "SELECT max(clock_timestamp() - last_succeeded_at) AS age FROM sync_states JOIN stores ON id = store_id "
            "WHERE NOT domain = ANY(%s)",
            broken,
        )
        worst = max(worst, row["age"])
    assert worst <= timedelta(minutes=10), "healthy stores waited for broken ones"


@pytest.mark.parametrize("answer", ["unauthorized", "locked", "payment_required", "too_many_requests"])
def test_a_probe_that_is_answered_ends_an_outage_whatever_the_answer(
    answer: str,
    clock: DatabaseClock,
    database: Database,
    make_sandbox: MakeSandbox,
    add_shops: AddShops,
    sync: Sync,
) -> None:
    sandbox = make_sandbox(shops=6, variants=6, clock=lambda: clock.now.timestamp())
    add_shops(sandbox)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("server_error"))
    sync()
    assert [row["fingerprint"] for row in incidents(database)] == ["circuit:platform:shopify"]
    for shop in sandbox.world.shops.values():
        shop.faults[:] = [Fault(answer, seconds=600)]
    clock.advance(minutes=1)
    sync()
    assert "circuit:platform:shopify" not in [row["fingerprint"] for row in incidents(database)]
    assert (
        query(database, "SELECT 1 FROM circuits WHERE platform = 'shopify' AND opened_at IS NOT NULL") == []
    )


def test_an_incident_is_not_resolved_under_a_row_that_is_parked_at_that_moment(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("locked"))
    sync(units=(Unit.STORE,), policies=Policies({"shop_locked": {"max_attempts": 1}}))
    [store] = {row["store_id"] for row in states(database)}
    query(database, "UPDATE sync_states SET next_due_at = now(), incident_id = NULL WHERE resource = 'store'")
    locked = IntegrationError.of(ErrorType.SHOP_LOCKED, "locked")
    with database.transaction() as connection:
        [work] = claim_due(connection, ["inventory_levels"], owner="x", limit=5, lease=timedelta(minutes=2))

    def clear() -> None:
        with database.transaction() as other:
            core.clear_recovered(other, store, ["store"])

    clearing = threading.Thread(target=clear)
    with database.transaction() as connection:
        fingerprint = StoreUnit(store, None, ErrorType.SHOP_LOCKED)
        fault = core.Fault(fingerprint, "store", locked, needs_attention=True, store_id=store)
        incident = core.report_fault(connection, fault)
        clearing.start()
        deadline = time.monotonic() + PATIENCE
        # Until it waits for the row's lock, which is the moment this is about.
        while not query(database, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        decision = Decision(Strategy.MANUAL_INTERVENTION, None, "for a person")
        store_units.QUEUE.park(connection, work, locked, decision, attempts=1, incident_id=incident)
    clearing.join()
    assert [row["id"] for row in incidents(database)] == [incident]


def test_a_row_that_fails_again_after_a_person_retried_it_stays_with_its_incident(
    shop: Shop, sync: Sync, database: Database, clock: DatabaseClock
) -> None:
    shop.faults.append(Fault("locked"))
    sync(policies=Policies({"shop_locked": {"max_attempts": 1}}))
    [incident] = incidents(database)
    retry(database, [incident["id"]], by="ana")
    sync()
    assert {(row["incident_id"], row["attempts"]) for row in states(database)} == {(incident["id"], 1)}
    assert None not in {row["next_due_at"] for row in states(database)}
    shop.faults.clear()
    clock.advance(hours=1)
    sync()
    assert incidents(database) == []


def test_a_token_that_is_given_while_the_old_one_is_refused_is_tried_at_once(
    shop: Shop, database: Database, cipher: Cipher, clock: DatabaseClock
) -> None:
    def connect(access: Any, sleep: Any) -> Any:
        save_stores(database, cipher, [as_store(shop, token="shpat_" + "1" * 32)])
        raise IntegrationError.of(ErrorType.CREDENTIALS, "no such token")

    run(database, cipher, connect)
    assert incidents(database) == []
    assert all(row["next_due_at"] <= clock.now for row in states(database))


def test_force_makes_due_what_it_is_asked_for_and_no_more(
    database: Database, cipher: Cipher, clock: DatabaseClock
) -> None:
    for name in ("first", "third", "paused"):
        add_named(database, name, due="-1 hour")
    query(database, "UPDATE stores SET tier = CASE name WHEN 'third' THEN 3 ELSE 1 END")
    query(database, "UPDATE stores SET paused_at = now() WHERE name = 'paused'")
    with database.transaction() as connection:
        assert store_units.make_due(connection, ["products"], None, [1]) == 1


def test_a_named_store_that_is_left_alone_is_said(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, clock: DatabaseClock, database: Database
) -> None:
    sandbox = make_sandbox(shops=6, variants=6, clock=lambda: clock.now.timestamp())
    names = add_shops(sandbox)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("server_error"))
    sync()
    lines: list[str] = []
    sync(stores=(names[0],), log=lines.append)
    assert [line for line in lines if line.startswith(f"{names[0]}: platform:shopify failed too often")] != []
