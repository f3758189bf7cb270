"""The figures, in worked examples; the same as Prometheus text; and what they cost with ten thousand stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.metrics import Metrics, TableMetrics, read_metrics
from bg_pipelines.operations.prometheus import prometheus_text
from bg_pipelines.operations.run_figures import RunMetrics
from bg_pipelines.operations.status import read_status
from bg_pipelines.operations.store_figures import find_stores
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.operations.work_figures import JobMetrics, QueueMetrics, Rates, StoreMetrics
from bg_pipelines.queues import JOB_UNITS, JOBS, Unit
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines.work.pulse import DEAD_AFTER
from bg_pipelines.work.queue import all_queues

Execute = Callable[..., Any]


@pytest.fixture
def execute(database: Database) -> Execute:
    """Run a statement: `execute("UPDATE ...", values)`."""

    def run(statement: str, *values: Any) -> Any:
        with database.transaction() as connection:
            return connection.execute(statement, values or None)

    run("TRUNCATE job_runs")
    return run


@pytest.fixture
def three_stores(execute: Execute) -> None:
    """ann (tier 1), ben (tier 2) and cleo (tier 3), all synced a minute ago and due in an hour."""
    add_stores(execute, "VALUES ('ann', 1), ('ben', 2), ('cleo', 3)")


def add_stores(execute: Execute, names: str) -> None:
    execute(
        f"INSERT INTO stores (name, platform, domain, credentials, tier) SELECT name, 'shopify', name || '.com', '', tier "
        f"FROM ({names}) given(name, tier)"
    )
    execute(
        "INSERT INTO sync_states (store_id, resource, next_due_at, last_succeeded_at) SELECT id, unit, "
        "clock_timestamp() + interval '1 hour', clock_timestamp() - interval '1 minute' "
        "FROM stores, unnest(%s::text[]) unit ON CONFLICT DO NOTHING",
        list(Unit),
    )


def change(execute: Execute, store: str, unit: Unit, assignments: str) -> None:
    changed = execute(
        f"UPDATE sync_states SET {assignments} WHERE resource = %s "
        "AND store_id = (SELECT id FROM stores WHERE name = %s)",
        unit,
        store,
    )
    assert changed.rowcount == 1


def add_tries(
    execute: Execute,
    store: str,
    unit: Unit,
    *seconds: float,
    status: str = "succeeded",
    run: str = "r",
) -> None:
    for each in seconds:
        execute(
            "INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at, finished_at) SELECT %s, id, %s, %s, "
            "t, t + %s FROM stores, (SELECT clock_timestamp() - interval '1 hour') began(t) WHERE name = %s",
            run,
            unit,
            status,
            timedelta(seconds=each),
            store,
        )


def add_run(execute: Execute, run_id: str, job: str, status: str, **values: Any) -> None:
    values = {"peak_rss_mb": None, "connections_in_use": None, "connections_size": None} | values
    execute(
        "INSERT INTO job_runs (run_id, job, queue, status, started_at, seen_at, finished_at, peak_rss_mb, connections_in_use, "
        "connections_size) SELECT %s, %s, 'stores_sync', %s, now - %s, now - %s, CASE WHEN %s <> 'running' THEN now - %s END, "
        "%s, %s, %s FROM clock_timestamp() now",
        run_id,
        job,
        status,
        timedelta(minutes=values["began"]),
        timedelta(minutes=values["seen"]),
        status,
        timedelta(minutes=values["seen"]),
        values["peak_rss_mb"],
        values["connections_in_use"],
        values["connections_size"],
    )


def of_job(metrics: Metrics, job: str) -> JobMetrics:
    return next(line for line in metrics.jobs if line.job == job)


def of_queue(metrics: Metrics, queue: str) -> QueueMetrics:
    return next(line for line in metrics.queues if line.queue == queue)


def of_store(metrics: Metrics, store: str, job: str) -> StoreMetrics:
    return next(line for line in metrics.stores if (line.store, line.job) == (store, job))


def of_runs(metrics: Metrics, job: str) -> RunMetrics:
    return next(line for line in metrics.runs if line.job == job)


def tries_of(line: Rates) -> tuple[float | None, float | None, float | None]:
    return line.p50_seconds, line.p95_seconds, line.success_rate


def tables() -> list[str]:
    return [queue.table for queue in all_queues()]


def about(minutes: float) -> Any:
    return pytest.approx(minutes * 60, abs=15)


def test_every_unit_belongs_to_one_job_that_there_is() -> None:
    held = [unit for units in JOB_UNITS.values() for unit in units]
    assert sorted(held) == sorted(Unit)
    assert set(JOB_UNITS) <= set(JOBS)


def test_with_nothing_there_every_figure_is_zero_or_absent(database: Database, execute: Execute) -> None:
    metrics = read_metrics(database)
    assert metrics.stores == []
    assert [line.job for line in metrics.jobs] == list(JOB_UNITS)
    assert of_job(metrics, "store_sync") == JobMetrics(
        job="store_sync", queue="stores_sync", stores=0, current=0
    )
    assert metrics.tables == [TableMetrics(table, 0, 0.0, 0, 0, 0) for table in tables()]
    assert metrics.runs == []
    assert 0 < metrics.connections.server_in_use < metrics.connections.server_size


# Work


def test_what_is_due_and_in_nobodys_hands_is_the_size_of_its_queue(
    database: Database, execute: Execute, three_stores: None
) -> None:
    change(execute, "ann", Unit.PRODUCTS, "next_due_at = clock_timestamp() - interval '10 minutes'")
    change(execute, "ann", Unit.LOCATIONS, "next_due_at = clock_timestamp() - interval '4 minutes'")
    change(execute, "ann", Unit.INVENTORY_LEVELS, "next_due_at = clock_timestamp() - interval '2 minutes'")
    change(
        execute,
        "ben",
        Unit.PRODUCTS,
        "next_due_at = clock_timestamp() - interval '30 minutes', lease_owner = 'r', "
        "lease_expires_at = clock_timestamp() + interval '1 minute'",
    )
    metrics = read_metrics(database)
    job = of_job(metrics, "store_sync")
    assert (job.stores, job.size, job.running, job.oldest_seconds) == (3, 1, 1, about(10))
    assert job.behind_seconds == about(30)  # in hand, and still behind
    queue = of_queue(metrics, "stores_sync")
    assert (queue.size, queue.running, queue.oldest_seconds) == (2, 1, about(10))
    assert of_queue(metrics, "default").size == 0
    metrics = read_metrics(database, all_stores=True)
    assert of_store(metrics, "ann", "store_sync").behind_seconds == about(10)
    assert of_store(metrics, "ann", "inventory_sync").behind_seconds == about(2)
    assert of_store(metrics, "cleo", "store_sync").behind_seconds == 0


def test_a_lease_that_has_ended_is_due_again(
    database: Database, execute: Execute, three_stores: None
) -> None:
    change(
        execute,
        "ben",
        Unit.STORE,
        "next_due_at = clock_timestamp() - interval '5 minutes', lease_owner = 'r', "
        "lease_expires_at = clock_timestamp() - interval '1 second'",
    )
    job = of_job(read_metrics(database), "store_sync")
    assert (job.size, job.running, job.oldest_seconds) == (1, 0, about(5))


def test_a_retry_waits_whether_it_is_due_or_not_and_what_is_parked_waits_for_a_person(
    database: Database, execute: Execute, three_stores: None
) -> None:
    change(execute, "ann", Unit.STORE, "attempts = 2, next_due_at = clock_timestamp() + interval '1 minute'")
    change(execute, "ben", Unit.STORE, "attempts = 1, next_due_at = clock_timestamp() - interval '1 minute'")
    execute(
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, store_id, job, "
        "resources, opened_at) SELECT 'f', true, 'scopes', 'high', 'shopify', 'store cleo', 'm', id, 'inventory_sync', "
        "'{inventory_levels}', clock_timestamp() - interval '3 hours' FROM stores WHERE name = 'cleo'"
    )
    change(
        execute,
        "cleo",
        Unit.INVENTORY_LEVELS,
        "attempts = 1, next_due_at = NULL, incident_id = (SELECT id FROM incidents)",
    )
    metrics = read_metrics(database)
    of_stores, of_stock = of_job(metrics, "store_sync"), of_job(metrics, "inventory_sync")
    assert (of_stores.retries_waiting, of_stores.parked, of_stores.open_incidents) == (2, 0, 0)
    assert (of_stock.retries_waiting, of_stock.parked, of_stock.open_incidents) == (0, 1, 1)
    assert of_stock.parked_seconds == about(180)
    assert of_stock.behind_seconds == 0  # it is not late, it waits
    cleo = of_store(metrics, "cleo", "inventory_sync")
    assert (cleo.parked, cleo.parked_seconds, cleo.open_incidents, cleo.current) == (1, about(180), 1, False)
    assert of_queue(metrics, "stores_sync").open_incidents == 1
    assert (metrics.stores_total, metrics.stores_current) == (3, 0)
    assert metrics.incidents == [("high", True, 1)]


def test_an_incident_of_a_vendor_is_about_every_job_that_syncs(
    database: Database, execute: Execute, three_stores: None
) -> None:
    execute(
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, platform) "
        "VALUES ('circuit:platform:shopify', false, 'timeout', 'medium', 'shopify', 'platform shopify', 'm', 'shopify')"
    )
    execute(
        "INSERT INTO circuits (key, platform, failures, opened_at) VALUES ('platform:shopify', 'shopify', 1, clock_timestamp())"
    )
    metrics = read_metrics(database)
    assert [job.open_incidents for job in metrics.jobs] == [1] * len(JOB_UNITS)
    assert of_queue(metrics, "stores_sync").open_incidents == 1
    assert metrics.circuits == {"platform": 1, "store": 0}


def test_each_table_of_claimed_work_has_figures_of_its_own(
    database: Database, execute: Execute, three_stores: None
) -> None:
    execute(
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message) "
        "VALUES ('edits:1', true, 'bad_data', 'low', 's', 's', 'm')"
    )
    execute(
        "INSERT INTO customer_changes (store_id, customer_external_id, field, changed_by, next_due_at, attempts, "
        "lease_expires_at, incident_id, status) SELECT s.id, 'c', 'note', 'jane', clock_timestamp() + due, attempts, "
        "clock_timestamp() + leased, CASE WHEN parked THEN (SELECT id FROM incidents) END, status FROM stores s, (VALUES "
        "(interval '-3 minutes', 0, NULL::interval, false, 'pending'), "
        "(interval '-9 minutes', 1, interval '-1 second', false, 'pending'), "
        "(interval '5 minutes', 2, NULL, false, 'pending'), (interval '-20 minutes', 0, interval '1 minute', false, 'pending'), "
        "(NULL, 3, NULL, true, 'pending'), (NULL, 0, NULL, false, 'applied')"
        ") given(due, attempts, leased, parked, status) WHERE s.name IN ('ann', 'ben')"
    )
    set_paused(database, ["ben"], True)
    metrics = read_metrics(database)
    figures = {table.table: table for table in metrics.tables}
    assert list(figures) == tables()
    edits = figures["customer_changes"]
    assert edits._replace(oldest_seconds=0) == TableMetrics("customer_changes", 2, 0, 1, 2, 1)
    assert edits.oldest_seconds == about(9)
    told = samples(prometheus_text(metrics))
    for field, name in {
        "due": "due",
        "oldest_seconds": "oldest_due_seconds",
        "running": "running",
        "retrying": "retrying",
        "parked": "parked",
    }.items():
        assert told[key(f"work_{name}", table="customer_changes")] == getattr(edits, field)


# Current


def test_a_store_is_current_until_it_is_overdue_by_more_than_its_interval(
    database: Database, execute: Execute, three_stores: None
) -> None:
    for store in ("ann", "ben", "cleo"):  # due every 5, 15 and 60 minutes
        change(execute, store, Unit.STORE, "next_due_at = clock_timestamp() - interval '14 minutes'")
    metrics = read_metrics(database)
    assert {s.store for s in metrics.stores if not s.current} == {"ann"}
    assert (metrics.stores_total, metrics.stores_current) == (3, 2)
    assert {job.job: job.current for job in metrics.jobs} == dict.fromkeys(JOB_UNITS, 3) | {"store_sync": 2}
    execute("UPDATE stores SET interval_minutes = 10 WHERE name = 'ben'")
    execute("UPDATE stores SET interval_minutes = 15 WHERE name = 'ann'")
    assert {s.store for s in read_metrics(database).stores if not s.current} == {"ben"}


NEVER_ENDS = "last_succeeded_at = clock_timestamp() - interval '5 hours', next_due_at = clock_timestamp()"
IN_HAND = f"{NEVER_ENDS}, lease_owner = 'r/1', lease_expires_at = clock_timestamp() + interval '2 minutes'"


@pytest.mark.parametrize(
    "fault", ["attempts = 1", "next_due_at = NULL", "last_succeeded_at = NULL", NEVER_ENDS, IN_HAND]
)
def test_a_store_that_fails_is_parked_or_was_never_synced_is_not_current(
    database: Database, execute: Execute, three_stores: None, fault: str
) -> None:
    change(execute, "ben", Unit.PRODUCTS, fault)
    assert read_metrics(database).stores_current == 2
    assert [row.state for row in find_stores(database).stores].count("ok") == 2
    by_resource = {unit.resource: unit.current for unit in read_status(database).metrics.resources}
    assert by_resource == dict.fromkeys(by_resource, 3) | {Unit.PRODUCTS: 2}


def test_paused_stores_are_in_no_figure_but_their_own(
    database: Database, execute: Execute, three_stores: None
) -> None:
    set_paused(database, ["ben"], True)
    metrics = read_metrics(database)
    assert (metrics.stores_total, metrics.stores_current, metrics.stores_paused) == (2, 2, 1)
    assert {line.store for line in read_metrics(database, all_stores=True).stores} == {"ann", "cleo"}


# Tries


def test_percentiles_are_of_the_tries_that_succeeded_and_the_rate_of_all_that_ended(
    database: Database, execute: Execute, three_stores: None
) -> None:
    add_tries(execute, "ann", Unit.PRODUCTS, *range(1, 21))
    add_tries(execute, "ann", Unit.PRODUCTS, 900, 900, status="failed")
    add_tries(execute, "ann", Unit.PRODUCTS, 900, status="abandoned")
    add_tries(execute, "ann", Unit.PRODUCTS, 900, status="released")
    add_tries(execute, "ann", Unit.PRODUCTS, 900, status="running")
    add_tries(execute, "ben", Unit.INVENTORY_LEVELS, 100)
    metrics = read_metrics(database)
    # Of buckets that end at 5, 10, 30, 60 and 120 seconds, which hold 5, 5, 10, 0 and 0 or 1.
    assert tries_of(of_job(metrics, "store_sync")) == pytest.approx((10, 28, 20 / 23))
    assert tries_of(of_job(metrics, "inventory_sync")) == pytest.approx((90, 117, 1))
    assert tries_of(of_job(metrics, "customer_sync")) == (None, None, None)
    assert tries_of(of_queue(metrics, "stores_sync")) == pytest.approx((11, 29.9, 21 / 24))


def test_tries_that_all_failed_have_a_rate_and_no_duration(
    database: Database, execute: Execute, three_stores: None
) -> None:
    add_tries(execute, "ann", Unit.PRODUCTS, 1, 2, status="failed")
    assert tries_of(of_job(read_metrics(database), "store_sync")) == (None, None, 0)


def test_tries_before_the_window_are_left_out(
    database: Database, execute: Execute, three_stores: None
) -> None:
    add_tries(execute, "ann", Unit.PRODUCTS, 10)
    assert of_job(read_metrics(database), "store_sync").p50_seconds == 7.5
    metrics = read_metrics(database, window=timedelta(minutes=30))
    assert of_job(metrics, "store_sync").p50_seconds is None


def test_a_try_counts_for_the_job_of_its_run(
    database: Database, execute: Execute, three_stores: None
) -> None:
    add_run(execute, "other", "inventory_sync", "succeeded", began=2, seen=1)
    add_tries(execute, "ann", Unit.PRODUCTS, 7, run="other")
    metrics = read_metrics(database)
    assert of_job(metrics, "inventory_sync").p50_seconds == 7.5
    assert of_job(metrics, "store_sync").p50_seconds is None


# Runs


def test_runs_are_timed_and_weighed_per_job(database: Database, execute: Execute) -> None:
    add_run(execute, "a", "store_sync", "succeeded", began=62, seen=60, peak_rss_mb=100.0)
    add_run(execute, "b", "store_sync", "succeeded", began=44, seen=40, peak_rss_mb=300.0)
    add_run(execute, "c", "store_sync", "failed", began=30, seen=29, peak_rss_mb=90.0)
    add_run(execute, "d", "store_sync", "stopped", began=20, seen=19)
    add_run(execute, "e", "store_sync", "running", began=5, seen=0, connections_in_use=7, connections_size=10)
    add_run(
        execute, "f", "inventory_sync", "running", began=5, seen=0, connections_in_use=2, connections_size=20
    )
    metrics = read_metrics(database)
    runs = of_runs(metrics, "store_sync")
    assert (runs.at_work, runs.dead, runs.success_rate) == (1, 0, pytest.approx(2 / 3))
    assert (runs.p50_seconds, runs.p95_seconds) == (about(3), about(3.9))
    assert runs.peak_memory_bytes == 300 * 2**20
    assert runs.last_succeeded_at is not None
    assert (metrics.at - runs.last_succeeded_at).total_seconds() == about(40)
    assert metrics.connections[:2] == (9, 30)


def test_a_run_that_was_silent_is_dead_until_a_later_one_has_succeeded(
    database: Database, execute: Execute
) -> None:
    minutes = DEAD_AFTER.total_seconds() / 60
    add_run(execute, "silent", "store_sync", "running", began=10, seen=minutes * 1.2, connections_in_use=9)
    add_run(execute, "alive", "store_sync", "running", began=10, seen=minutes * 0.3)
    runs = of_runs(read_metrics(database), "store_sync")
    assert (runs.at_work, runs.dead, runs.success_rate, runs.connections_in_use) == (1, 1, 0, 0)
    add_run(execute, "beside", "store_sync", "succeeded", began=3, seen=1)
    assert of_runs(read_metrics(database), "store_sync").dead == 1
    add_run(execute, "later", "store_sync", "succeeded", began=minutes * 0.9, seen=0)
    runs = of_runs(read_metrics(database), "store_sync")
    assert (runs.dead, runs.success_rate) == (0, pytest.approx(2 / 3))


def test_alerts_are_counted_while_they_wait_and_for_a_day_where_they_were_refused(
    database: Database, execute: Execute, three_stores: None
) -> None:
    execute(
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, store_id) "
        "SELECT 'f', true, 'scopes', 'high', 's', 's', 'm', min(id) FROM stores"
    )
    execute(
        "INSERT INTO alerts (incident_id, kind, severity, title, body, created_at) SELECT id, 'opened', 'high', 't', 'b', "
        "clock_timestamp() - age FROM incidents, unnest(ARRAY[interval '1 hour', interval '30 hours']) age"
    )
    execute(
        "INSERT INTO alert_deliveries (alert_id, target, status) SELECT id, status, status FROM alerts, "
        "unnest(ARRAY['pending', 'sent', 'refused']) status"
    )
    assert read_metrics(database).deliveries == {"pending": 2, "refused": 1}


# A real sync


def test_a_real_sync_shows_in_the_figures(
    database: Database,
    execute: Execute,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Summary],
) -> None:
    sandbox = make_sandbox(shops=3, variants=30)
    add_shops(sandbox)
    revoked = next(iter(sandbox.world.shops.values()))
    revoked.access.expire_all()
    sync(job="store_sync", units=JOB_UNITS["store_sync"], run_id="first")
    sync(job="inventory_sync", units=JOB_UNITS["inventory_sync"], run_id="second")
    metrics = read_metrics(database)
    assert (metrics.stores_total, metrics.stores_current) == (3, 0), (
        "of customers and audits nothing has run yet"
    )
    for job in metrics.jobs[:2]:
        assert (job.stores, job.current, job.parked, job.size, job.running) == (3, 2, 1, 0, 0)
        assert job.success_rate == pytest.approx(2 / 3)
        assert 0 < (job.p50_seconds or 0) <= (job.p95_seconds or 0) < 60
        assert job.open_incidents == 1
    assert [(run.job, run.success_rate, run.dead) for run in metrics.runs] == [
        ("inventory_sync", 1, 0),
        ("store_sync", 1, 0),
    ]
    assert all((run.peak_memory_bytes or 0) > 2**20 for run in metrics.runs)


# Prometheus


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"bg_pipelines_{name}", frozenset(labels.items())


def test_the_text_parses_and_has_the_same_figures(
    database: Database, execute: Execute, three_stores: None
) -> None:
    change(
        execute,
        "ann",
        Unit.STORE,
        "next_due_at = clock_timestamp() - interval '10 minutes', attempts = 3",
    )
    add_tries(execute, "ann", Unit.PRODUCTS, 2, 4)
    add_run(execute, "a", "store_sync", "succeeded", began=3, seen=1, peak_rss_mb=128.0)
    execute("UPDATE stores SET name = 'cleo \"\\ & sons' WHERE name = 'cleo'")
    metrics = read_metrics(database, all_stores=True)
    told = samples(prometheus_text(metrics))
    work = {
        "size": "due",
        "oldest_seconds": "oldest_due_seconds",
        "running": "running",
        "retries_waiting": "retries_waiting",
        "parked": "parked",
        "parked_seconds": "parked_seconds",
        "behind_seconds": "behind_seconds",
        "open_incidents": "open_incidents",
    }
    visits = {
        "p50_seconds": "duration_p50_seconds",
        "p95_seconds": "duration_p95_seconds",
        "success_rate": "success_ratio",
    }
    for field, name in (work | visits).items():
        for queue in metrics.queues:
            assert told.get(key(f"queue_{name}", queue=queue.queue)) == getattr(queue, field)
        for job in metrics.jobs:
            assert told.get(key(f"job_{name}", job=job.job, queue=job.queue)) == getattr(job, field)
        for store in metrics.stores if field in work else ():
            labels = {"store": store.store, "platform": "shopify", "job": store.job}
            expected = getattr(store, field)
            assert told.get(key(f"store_{name}", **labels), expected and None) == expected
    place = {"job": "store_sync", "queue": "stores_sync"}
    assert told[key("job_stores", **place)] == 3
    assert told[key("job_stores_current", **place)] == 2
    assert told[key("run_peak_memory_bytes", **place)] == 128 * 2**20
    assert told[key("run_last_success_timestamp_seconds", **place)] == pytest.approx(
        metrics.at.timestamp() - 60, abs=15
    )
    assert told[key("stores")] == 3
    assert told[key("database_connections_size")] == metrics.connections.server_size
    assert told[key("circuits_open", scope="platform")] == 0
    assert told[key("alert_deliveries", status="pending")] == 0


def test_every_metric_is_explained_and_in_base_units(
    database: Database, execute: Execute, three_stores: None
) -> None:
    for family in text_string_to_metric_families(prometheus_text(read_metrics(database))):
        assert family.name.startswith("bg_pipelines_")
        assert family.documentation
        assert family.type == (
            "histogram" if family.name.endswith(("known_age_seconds", "change_lag_seconds")) else "gauge"
        )
        assert not any(unit in family.name for unit in ("minutes", "_mb", "percent", "millis"))


def test_without_stores_no_sample_has_a_stores_label(
    database: Database, execute: Execute, three_stores: None
) -> None:
    text = prometheus_text(read_metrics(database), stores=False)
    assert 'store="' not in text
    assert 'job="store_sync"' in text


# Many stores


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    """Every statement that goes to the database."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(database.engine, "before_cursor_execute", note)


def test_ten_thousand_stores_take_as_many_queries_as_three(
    database: Database, execute: Execute, three_stores: None, statements: list[str]
) -> None:
    read_metrics(database)
    of_three = len(statements)
    add_stores(execute, "SELECT 'store ' || n, 1 + n % 3 FROM generate_series(1, 9997) n")
    execute(
        "INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at, finished_at) SELECT 'r', store_id, resource, "
        "'succeeded', clock_timestamp() - interval '1 hour', clock_timestamp() FROM sync_states"
    )
    execute("ANALYZE sync_states, sync_attempts, stores")
    statements.clear()
    metrics = read_metrics(database, most_stores=5)
    assert len(statements) == of_three <= 12
    assert (metrics.stores_total, metrics.stores) == (10_000, [])
    assert {job.success_rate for job in metrics.jobs} == {1}
    assert len(read_metrics(database, all_stores=True).stores) == 10_000 * len(JOB_UNITS)
