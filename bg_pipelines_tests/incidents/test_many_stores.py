"""One cause over many stores is one incident: from the fifth store of a platform with the same error on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from bg_pipelines.alerts.announcements import announce
from bg_pipelines.alerts.recipients import Address
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import (
    Circuit,
    MissingSubscriptions,
    Platform,
    RefusedSubscriptions,
    StoreUnit,
)
from bg_pipelines.incidents.handling import resolve, retry
from bg_pipelines.incidents.reading import list_incidents, show
from bg_pipelines.incidents.reporting import ONE_CAUSE_FROM, Fault, clear_recovered
from bg_pipelines.sandbox import Sandbox, Shop
from bg_pipelines.sync import Summary
from bg_pipelines_tests.support import CATALOGUE, query

Sync = Callable[..., Summary]
WRONG = "the store does not accept the access token (401)"


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> list[Shop]:
    sandbox = make_sandbox(shops=7, variants=5)
    add_shops(sandbox)
    return list(sandbox.world.shops.values())


def rotate(shops: Sequence[Shop]) -> None:
    """The app's secret is rotated: no store's token is right any more."""
    for shop in shops:
        shop.access.expire_all()


def add_stores(database: Database, count: int, platform: str = "shopify") -> list[int]:
    """Stores with one unit of work each, `products`."""
    with database.transaction() as connection:
        rows = connection.execute(
            "INSERT INTO stores (name, platform, domain, credentials) SELECT %s || n, %s, n || '.example', '' "
            "FROM generate_series(1, %s) n RETURNING id",
            (f"{platform}-", platform, count),
        ).fetchall()
        stores = sorted(row[0] for row in rows)
        connection.execute(
            "INSERT INTO sync_states (store_id, resource) SELECT unnest(%s::bigint[]), 'products'", (stores,)
        )
    return stores


def fail(
    connection: psycopg.Connection[Any],
    store: int,
    *,
    platform: str = "shopify",
    error_type: ErrorType = ErrorType.CREDENTIALS,
    unit: str | None = None,
) -> int:
    """Report that a store is out of reach, and park its work, as a visit does; returns the incident."""
    fault = Fault(
        StoreUnit(store, unit, error_type),
        subject=f"store {platform}-{store}",
        error=IntegrationError.of(error_type, WRONG, source=platform),
        needs_attention=True,
        job="store_sync",
        platform=platform,
        store_id=store,
        units=["products"],
    )
    incident = reporting.report_fault(connection, fault)
    connection.execute(
        "UPDATE sync_states SET next_due_at = NULL, incident_id = %s WHERE store_id = %s", (incident, store)
    )
    return incident


def recover(connection: psycopg.Connection[Any], store: int) -> None:
    connection.execute(
        "UPDATE sync_states SET next_due_at = clock_timestamp() + interval '5 minutes', incident_id = NULL "
        "WHERE store_id = %s",
        (store,),
    )
    clear_recovered(connection, store, ["products"])


def open_ones(database: Database) -> list[tuple[str, str]]:
    return [(row.subject, row.error_type) for row in list_incidents(database)]


# As a sync meets it


def test_a_secret_that_was_rotated_is_one_incident_that_says_how_many_stores(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    rotate(shops)
    sync()
    assert open_ones(database) == [("platform shopify: 7 stores", "credentials")]
    [incident] = list_incidents(database)
    assert (incident.severity, incident.needs_attention, incident.parked) == (
        "critical",
        True,
        7 * len(CATALOGUE),
    )


def test_fewer_stores_than_that_are_an_incident_each(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    rotate(shops[: ONE_CAUSE_FROM - 1])
    sync()
    assert len(open_ones(database)) == ONE_CAUSE_FROM - 1
    assert all(subject.startswith("store ") for subject, _ in open_ones(database))


def test_one_retry_starts_all_of_them_and_their_success_ends_it(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    rotate(shops)
    sync()
    [incident] = list_incidents(database)
    for shop in shops[:3]:
        shop.access.set_token(shop.token)
    assert retry(database, [incident.id], by="jane") == (1, 7 * len(CATALOGUE), [])
    sync(run_id="some are well")
    with database.transaction() as connection:
        reporting.recount(connection)
    assert open_ones(database) == [("platform shopify: 4 stores", "credentials")]
    for shop in shops[3:]:
        shop.access.set_token(shop.token)
    retry(database, [incident.id], by="jane")
    assert sync(run_id="all are well").failures == []
    assert open_ones(database) == []
    [over] = list_incidents(database, status="resolved")[:1]
    assert (over.id, over.resolved_by) == (incident.id, reporting.SYSTEM)


def test_the_page_of_the_incident_names_the_first_stores_and_how_many_there_are(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    rotate(shops)
    sync()
    [incident] = list_incidents(database)
    details = show(database, incident.id)
    assert (details.held_total, details.stores_total) == (7 * len(CATALOGUE), 7)
    assert len({row.store for row in details.held}) == 7
    assert {attempt.error_type for attempt in details.attempts} == {"credentials"}


def test_it_is_found_by_the_name_of_each_of_its_stores(
    database: Database, shops: list[Shop], sync: Sync
) -> None:
    rotate(shops[:6])
    sync()
    [incident] = list_incidents(database)
    for number, shop in enumerate(shops):
        found = [row.id for row in list_incidents(database, store=shop.domain.split(".")[0])]
        assert found == ([incident.id] if number < 6 else [])


# When it is one cause, and when not


def test_another_error_or_another_platform_or_another_unit_is_another_cause(database: Database) -> None:
    shopify, square = add_stores(database, 8), add_stores(database, 1, "square")
    with database.transaction() as connection:
        for store in shopify[:4]:
            fail(connection, store)
        fail(connection, shopify[4], error_type=ErrorType.SHOP_GONE)
        fail(connection, square[0], platform="square")
        fail(connection, shopify[5], unit="products")
    assert len(open_ones(database)) == 7
    with database.transaction() as connection:
        fail(connection, shopify[6])
    assert min(open_ones(database)) == ("platform shopify: 5 stores", "credentials")
    assert len(open_ones(database)) == 4


def test_bad_rows_of_many_stores_stay_incidents_of_their_own(database: Database) -> None:
    with database.transaction() as connection:
        for store in add_stores(database, 6):
            fail(connection, store, error_type=ErrorType.BAD_DATA, unit="customers")
    assert len(open_ones(database)) == 6


def test_a_scope_that_an_app_lost_is_one_incident_though_each_store_works_otherwise(
    database: Database,
) -> None:
    with database.transaction() as connection:
        for store in add_stores(database, 6):
            fail(connection, store, error_type=ErrorType.SCOPES, unit="orders")
    assert open_ones(database) == [("platform shopify: 6 stores", "scopes")]


# What becomes of the stores' own


def test_the_earlier_incidents_are_part_of_it_and_nobody_is_told_that_they_are_over(
    database: Database,
) -> None:
    stores = add_stores(database, 6)
    ops = [Address("json://127.0.0.1:9/ops", "ops")]
    with database.transaction() as connection:
        early = [fail(connection, store) for store in stores[:4]]
    announce(database, ops)
    with database.transaction() as connection:
        whole = fail(connection, stores[4])
    announce(database, ops)
    for row in query(database, "SELECT * FROM incidents WHERE id = ANY(%s)", early):
        assert (row["status"], row["merged_into"]) == ("resolved", whole)
        assert row["resolution"] == f"part of incident {whole}"
    told = query(database, "SELECT incident_id, kind, title FROM alerts ORDER BY id")
    assert [(row["incident_id"], row["kind"]) for row in told] == [
        *((incident, "opened") for incident in early),
        (whole, "opened"),
    ]
    assert told[-1]["title"] == "[critical] platform shopify: 5 stores: credentials"
    with database.transaction() as connection:
        assert fail(connection, stores[5]) == whole
    assert query(database, "SELECT DISTINCT incident_id AS id FROM sync_states") == [{"id": whole}]


def test_a_store_whose_fault_comes_back_alone_after_all_were_well_has_an_incident_of_its_own(
    database: Database,
) -> None:
    stores = add_stores(database, 5)
    with database.transaction() as connection:
        own, *_ = [fail(connection, store) for store in stores]
    with database.transaction() as connection:
        for store in stores:
            recover(connection, store)
    assert open_ones(database) == []
    with database.transaction() as connection:
        assert fail(connection, stores[0]) == own
    [row] = query(database, "SELECT * FROM incidents WHERE status = 'open'")
    assert (row["subject"], row["merged_into"]) == (f"store shopify-{stores[0]}", None)


def test_resolving_it_gives_all_stores_their_schedule_back(database: Database) -> None:
    with database.transaction() as connection:
        for store in add_stores(database, 6):
            incident = fail(connection, store)
    assert resolve(database, [incident], by="jane", note="a new secret") == (1, 6, [])
    assert query(
        database, "SELECT DISTINCT incident_id, next_due_at <= clock_timestamp() AS due FROM sync_states"
    ) == [{"incident_id": None, "due": True}]


def test_open_incidents_of_stores_can_be_merged_into_that_of_their_platform(database: Database) -> None:
    stores = add_stores(database, 3)
    gone = IntegrationError.of(ErrorType.TIMEOUT, "no answer", source="shopify")
    with database.transaction() as connection:
        for store in stores:
            circuit = Fault(
                Circuit(f"store:{store}"), "store", gone, True, platform="shopify", store_id=store
            )
            incident = reporting.report_fault(connection, circuit)
            connection.execute(
                "UPDATE sync_states SET next_due_at = NULL, incident_id = %s WHERE store_id = %s",
                (incident, store),
            )
        fail(connection, stores[0], error_type=ErrorType.SCOPES, unit="orders")
        whole = reporting.report_fault(
            connection,
            Fault(Circuit("platform:shopify"), "platform shopify", gone, False, platform="shopify"),
        )
        assert reporting.merge(connection, "shopify", [ErrorType.TIMEOUT], into=whole) == 3
    assert sorted(open_ones(database)) == [
        ("platform shopify", "timeout"),
        (f"store shopify-{stores[0]}", "scopes"),
    ]
    assert show(database, whole).stores_total == 2


def test_what_was_parked_for_a_fault_that_is_over_by_itself_is_due(database: Database) -> None:
    [store] = add_stores(database, 1)
    down = IntegrationError.of(ErrorType.TIMEOUT, "no answer", source="shopify")
    platform = Circuit("platform:shopify")
    with database.transaction() as connection:
        incident = reporting.report_fault(
            connection, Fault(platform, "platform shopify", down, False, platform="shopify")
        )
        connection.execute("UPDATE sync_states SET next_due_at = NULL, incident_id = %s", (incident,))
        assert reporting.clear(connection, [platform], "it answers again") == 1
    [row] = query(
        database,
        "SELECT *, next_due_at <= clock_timestamp() AS due FROM sync_states WHERE store_id = %s",
        store,
    )
    assert (row["due"], row["incident_id"], row["retry_reason"]) == (True, None, "it answers again")


# Many at once


def test_stores_that_are_reported_at_the_same_time_still_make_one_incident(database: Database) -> None:
    stores = add_stores(database, 24)
    together = threading.Barrier(8)

    def work(worker: int) -> None:
        together.wait()
        for store in stores[worker::8]:
            with database.transaction() as connection:
                fail(connection, store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert open_ones(database) == [("platform shopify: 24 stores", "credentials")]
    assert {row["incident_id"] for row in query(database, "SELECT * FROM sync_states")} == {
        row.id for row in list_incidents(database)
    }


def test_a_store_that_recovers_while_another_is_reported_leaves_no_work_under_a_closed_incident(
    database: Database,
) -> None:
    stores = add_stores(database, 12)
    with database.transaction() as connection:
        for store in stores[:6]:
            fail(connection, store)
    together = threading.Barrier(2)

    def act(what: Callable[[psycopg.Connection[Any], int], object], some: Sequence[int]) -> None:
        together.wait()
        for store in some:
            with database.transaction() as connection:
                what(connection, store)

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(act, recover, stores[:6]), pool.submit(act, fail, stores[6:])]
        for one in done:
            one.result()
    assert (
        query(
            database,
            "SELECT 1 FROM sync_states y LEFT JOIN incidents i ON i.id = incident_id "
            "WHERE next_due_at IS NULL AND i.status IS DISTINCT FROM 'open'",
        )
        == []
    )


def test_of_ten_thousand_stores_each_report_costs_the_same(database: Database) -> None:
    stores = add_stores(database, 10_000)
    reports = 40

    def pages_read() -> int:
        with database.transaction() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
        [row] = query(
            database,
            "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint AS pages "
            "FROM pg_statio_user_tables WHERE relname IN ('incidents', 'sync_states', 'stores')",
        )
        return int(row["pages"])

    def cost(some: Sequence[int]) -> float:
        before = pages_read()
        for store in some:
            with database.transaction() as connection:
                fail(connection, store)
                connection.execute("SELECT pg_stat_force_next_flush()")
        return (pages_read() - before) / len(some)

    with database.transaction() as connection:
        whole = [fail(connection, store) for store in stores[:150]][-1]
        connection.execute(
            "UPDATE sync_states SET next_due_at = NULL, incident_id = %s WHERE store_id = ANY(%s)",
            (whole, stores[150:-reports]),
        )
    query(database, "ANALYZE sync_states")
    fail_one = cost(stores[-reports:])
    assert fail_one < 200
    query(
        database,
        "UPDATE incidents SET details = details || jsonb_build_object('counted_at', clock_timestamp() - interval '1 minute')",
    )
    with database.transaction() as connection:
        fail(connection, stores[0])
    assert open_ones(database) == [("platform shopify: 10,000 stores", "credentials")]


def test_a_recovery_among_ten_thousand_reads_a_few_pages_and_waits_for_nobody(database: Database) -> None:
    stores = add_stores(database, 300)
    with database.transaction() as connection:
        for store in stores:
            fail(connection, store)
    with database.transaction() as reporting_one, database.transaction() as recovering:
        recovering.execute("SET LOCAL lock_timeout = '5s'")
        fail(reporting_one, stores[0])
        recover(recovering, stores[1])


def test_the_fingerprint_of_a_platform_s_fault_is_its_platform_unit_and_type() -> None:
    assert str(Platform("shopify", None, ErrorType.CREDENTIALS)) == "platform:shopify:unreachable:credentials"


# Faults that park nothing


def lose_subscriptions(database: Database, store: int, platform: str = "shopify") -> int:
    error = IntegrationError.of(
        ErrorType.EVENTS_MISSED, "2 webhook subscriptions disappeared", source=platform
    )
    fault = Fault(
        MissingSubscriptions(platform, store),
        subject=f"store {platform}-{store}",
        error=error,
        needs_attention=False,
        platform=platform,
        store_id=store,
    )
    with database.transaction() as connection:
        many = MissingSubscriptions(platform, None)
        return reporting.report_of_many(connection, fault, many, occurrence=f"attempt {store}")


def test_subscriptions_that_disappear_in_many_stores_are_one_incident(database: Database) -> None:
    stores = add_stores(database, ONE_CAUSE_FROM + 2)
    [other] = add_stores(database, 1, platform="square")
    lose_subscriptions(database, other, platform="square")
    own = [lose_subscriptions(database, store) for store in stores[: ONE_CAUSE_FROM - 1]]
    assert len(set(own)) == len(own)
    of_many = {lose_subscriptions(database, store) for store in stores[ONE_CAUSE_FROM - 1 :]}
    assert len(of_many) == 1
    assert open_ones(database) == [
        ("store square-" + str(other), "events_missed"),
        ("platform shopify: many stores", "events_missed"),
    ]
    [incident] = query(database, "SELECT * FROM incidents WHERE id = ANY(%s)", list(of_many))
    assert incident["occurrences"] == 3
    assert f"the last, store shopify-{stores[-1]}: 2 webhook subscriptions disappeared" in incident["message"]
    merged = query(database, "SELECT merged_into FROM incidents WHERE id = ANY(%s)", own)
    assert {row["merged_into"] for row in merged} == of_many


def test_a_fault_is_over_once_it_was_not_seen_for_as_long_as_is_said(database: Database) -> None:
    [store] = add_stores(database, 1)
    lose_subscriptions(database, store)
    query(database, "UPDATE incidents SET last_seen_at = now() - interval '59 minutes'")
    over = [MissingSubscriptions("shopify", store)]
    with database.transaction() as connection:
        assert reporting.clear(connection, over, "well", quiet_for=timedelta(hours=1)) == 0
        assert reporting.clear(connection, over, "well", quiet_for=timedelta(minutes=59)) == 1


def test_a_retry_of_what_many_stores_are_refused_asks_for_it_in_all_of_them(database: Database) -> None:
    stores = add_stores(database, ONE_CAUSE_FROM)
    query(database, "UPDATE sync_states SET resource = 'webhooks', next_due_at = now() + interval '1 hour'")
    query(database, "UPDATE stores SET paused_at = now() WHERE id = %s", stores[0])
    with database.transaction() as connection:
        incident = reporting.report_fault(
            connection,
            Fault(
                RefusedSubscriptions("shopify", None),
                subject="platform shopify: many stores",
                error=IntegrationError.of(ErrorType.SCOPES, "the app lacks a scope", source="shopify"),
                needs_attention=True,
                platform="shopify",
            ),
        )
    retry(database, [incident], by="jo")
    due = query(
        database, "SELECT store_id FROM sync_states WHERE next_due_at <= now() AND hinted_at <= now()"
    )
    assert {row["store_id"] for row in due} == set(stores[1:])


def test_it_is_as_severe_as_many_are_hit(database: Database) -> None:
    """One store's token is high, that of a few of many stores too, that of most of them critical, and so it stays."""
    stores = add_stores(database, 14)
    severities = []
    with database.transaction() as connection:
        for store in stores[:9]:
            fail(connection, store)
            row = connection.execute(
                "SELECT severity, count(*) FROM incidents WHERE status = 'open' GROUP BY 1"
            ).fetchall()
            severities.append(row)
    assert severities == [[("high", n)] for n in (1, 2, 3, 4, 1, 1, 1)] + 2 * [[("critical", 1)]]
