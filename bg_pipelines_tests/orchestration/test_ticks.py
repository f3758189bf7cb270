"""When jobs start by themselves: dagster.yaml and the schedules as `queues` has them, and what a tick does and costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from bg_pipelines.database.engine import Database
from bg_pipelines.definitions import defs
from bg_pipelines.errors import IntegrationError
from bg_pipelines.jobs import store_sync
from bg_pipelines.orchestration.failures import DELIVER_SECONDS, STALE_SECONDS
from bg_pipelines.orchestration.launcher import WatchedRunLauncher
from bg_pipelines.orchestration.run_health import DEAD_AFTER_SECONDS
from bg_pipelines.orchestration.sync_job import THEN_SECONDS, SyncConfig
from bg_pipelines.orchestration.table_checks import CHECK_SECONDS
from bg_pipelines.orchestration.ticks import INBOX, OUTBOX, RETRIES, RETRIES_SECONDS, WORK_SECONDS
from bg_pipelines.queues import (
    CONCURRENCY_GROUP_TAG,
    DEFAULT,
    FIRST_TIER,
    JOB_UNITS,
    JOBS,
    LOWER_TIERS,
    MAX_CONCURRENT_RUNS,
    QUEUES,
    STORES_SYNC,
    STORES_SYNC_GROUPS,
    TIERS,
    Unit,
)
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.work import store_units
from bg_pipelines.work.pulse import BEAT_SECONDS
from bg_pipelines.work.runner import LEASE, OVER_SECONDS
from bg_pipelines_tests.support import PROJECT, claim_due, query

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]
Tick = Callable[..., dg.RunRequest | str]

CONFIG: dict[str, Any] = yaml.safe_load((PROJECT / "dagster.yaml").read_text())


# dagster.yaml


def limits(key: str) -> dict[str, int]:
    runs = CONFIG["concurrency"]["runs"]
    return {limit["value"]: limit["limit"] for limit in runs["tag_concurrency_limits"] if limit["key"] == key}


def test_the_limits_are_those_of_the_table() -> None:
    assert CONFIG["concurrency"]["runs"]["max_concurrent_runs"] == MAX_CONCURRENT_RUNS
    assert limits("queue") == {queue.name: queue.max_concurrent_runs for queue in QUEUES}
    own = {name: job.max_concurrent_runs for name, job in JOBS.items() if job.queue is DEFAULT}
    assert limits(CONCURRENCY_GROUP_TAG) == {**STORES_SYNC_GROUPS, **own}


def test_neither_queue_can_take_the_others_last_slot() -> None:
    assert limits("queue").keys() == {STORES_SYNC.name, DEFAULT.name}
    assert sum(limits("queue").values()) == MAX_CONCURRENT_RUNS, "each has slots of its own"
    assert sum(STORES_SYNC_GROUPS.values()) == STORES_SYNC.max_concurrent_runs
    of_stores = [job for job in JOBS.values() if job.queue is STORES_SYNC]
    assert STORES_SYNC_GROUPS[FIRST_TIER] == len(of_stores), "the first tier has a slot for each job"
    for job in JOBS.values():
        if job.queue is DEFAULT:
            assert job.max_concurrent_runs is not None
            assert job.max_concurrent_runs < DEFAULT.max_concurrent_runs, "no job takes all slots of default"
    assert {job.queue for job in JOBS.values()} <= set(QUEUES)
    ranks = [
        [int(job.tags("", tier)["dagster/priority"]) for tier in (1, 2, 3)]
        for job in (JOBS["store_sync"], JOBS["customer_sync"])
    ]
    assert [*ranks[0], *ranks[1]] == sorted([*ranks[0], *ranks[1]], reverse=True), "stores first, by tier"
    assert ranks[0][-1] > ranks[1][0]


def test_times_fit_each_other() -> None:
    monitoring = CONFIG["run_monitoring"]
    assert monitoring["enabled"]
    # A run gives its stores back by itself, long before it is ended from outside.
    most = next(m.le for m in SyncConfig.model_fields["max_minutes"].metadata if hasattr(m, "le"))
    assert monitoring["max_runtime_seconds"] >= most * 60 + OVER_SECONDS + THEN_SECONDS + 120
    # One that is killed is made good within a minute: noticed, and its successor started.
    assert CONFIG["run_launcher"]["config"]["dead_after_seconds"] == DEAD_AFTER_SECONDS
    assert DEAD_AFTER_SECONDS + monitoring["poll_interval_seconds"] <= 45
    assert BEAT_SECONDS * 3 < DEAD_AFTER_SECONDS, "three beats are missed before"
    assert LEASE.total_seconds() / 4 > BEAT_SECONDS


def test_a_failed_op_never_starts_its_run_again() -> None:
    assert CONFIG["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}


@pytest.mark.usefixtures("environment")
def test_dagster_takes_every_word_of_it(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_launcher, WatchedRunLauncher)
    assert instance.run_launcher.health.dead_after_seconds == DEAD_AFTER_SECONDS
    assert instance.run_launcher.supports_check_run_worker_health
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert (queue.max_concurrent_runs, len(queue.tag_concurrency_limits)) == (
        MAX_CONCURRENT_RUNS,
        len(CONFIG["concurrency"]["runs"]["tag_concurrency_limits"]),
    )


def test_the_definitions_load_without_any_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    dg.Definitions.validate_loadable(defs)


def test_every_schedule_and_sensor_runs_as_the_table_says() -> None:
    repository = defs.get_repository_def()
    expected = {
        f"{name}_{cron}": (name, when) for name, job in JOBS.items() for cron, when in job.crons.items()
    }
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert {name: (s.job_name, s.cron_schedule) for name, s in schedules.items()} == expected
    for schedule in schedules.values():
        assert schedule.execution_timezone == "UTC"
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    # The daemon looks every five seconds, and a tick begins a moment after its look.
    looks = [MIN_INTERVAL_LOOP_TIME * n for n in range(1, 100)]
    sensors = {
        s.name: next(look for look in looks if look - 0.1 >= (s.minimum_interval_seconds or 0))
        for s in repository.sensor_defs
    }
    assert sensors == {
        **{f"{name}_{RETRIES}": RETRIES_SECONDS for name in JOB_UNITS},
        f"handle_webhooks_{INBOX}": WORK_SECONDS,
        f"share_product_text_message_{OUTBOX}": WORK_SECONDS,
        "run_failures": DELIVER_SECONDS,
        "deliver_alerts": DELIVER_SECONDS,
        "stale_stores": STALE_SECONDS,
        "table_checks": CHECK_SECONDS,
    }
    assert {s.default_status for s in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}


# A tick


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Tick:
    """Let a schedule or a sensor tick: returns the run it asks for, or why it asks for none."""

    def tick(name: str) -> dg.RunRequest | str:
        repository = defs.get_repository_def()
        if repository.has_schedule_def(name):
            at = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC))
            data: Any = repository.get_schedule_def(name).evaluate_tick(at)
        else:
            data = repository.get_sensor_def(name).evaluate_tick(dg.build_sensor_context(instance=instance))
        if not data.run_requests:
            return str(data.skip_message)
        [request] = data.run_requests
        return request  # type: ignore[no-any-return]

    return tick


def add_fleet(database: Database, stores: int) -> None:
    """Stores of all tiers, none of them due: the next is so in a minute."""
    query(
        database,
        "INSERT INTO stores (name, platform, domain, tier, credentials) "
        "SELECT 'store-' || n, 'shopify', 'store-' || n || '.example', 1 + n %% 3, '' FROM generate_series(1, %s) n",
        stores,
    )
    query(
        database,
        "INSERT INTO sync_states (store_id, resource, next_due_at, last_succeeded_at) "
        "SELECT id, unit, now() + interval '1 minute' + id * interval '0.3 seconds', now() "
        "FROM stores, unnest(%s::text[]) unit",
        list(Unit),
    )
    query(database, "ANALYZE")


def make_due(database: Database, tier: int, unit: Unit = Unit.PRODUCTS) -> None:
    query(
        database,
        "UPDATE sync_states SET next_due_at = now() - interval '1 second' WHERE resource = %s AND store_id = "
        "(SELECT min(id) FROM stores WHERE tier = %s)",
        unit,
        tier,
    )


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, Any]]]:
    """What is sent to the application's database meanwhile (Dagster has a driver of its own)."""
    sent: list[tuple[Any, Any]] = []
    execute = psycopg.Cursor.execute

    def count(self: Any, statement: Any, parameters: Any = None, **options: Any) -> Any:
        sent.append((statement, parameters))
        return execute(self, statement, parameters, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", count)
        yield sent


@pytest.mark.usefixtures("environment")
def test_with_10_000_stores_and_none_due_a_tick_is_one_query_by_index_and_no_run(
    database: Database, instance: dg.DagsterInstance, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_fleet(database, 10_000)
    names = [s.name for s in defs.get_repository_def().schedule_defs if s.job_name in JOB_UNITS] + [
        f"{name}_{RETRIES}" for name in JOB_UNITS
    ]
    tick(names[0])  # which opens the database, once a process
    for name in names:
        with statements(monkeypatch) as sent:
            began = time.perf_counter()
            assert "due" in str(tick(name))
            print(f"idle tick of {name}: {(time.perf_counter() - began) * 1000:.1f} ms")
        # Beginning the transaction is an empty statement.
        [(asked, parameters)] = [(what, how) for what, how in sent if what not in ("SELECT", ";")]
        with database.transaction() as connection:
            plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN ANALYZE {asked}", parameters))
        assert "ix_sync_states_next_due_at_store_id" in plan
        assert "Seq Scan on sync_states" not in plan
        assert "Seq Scan on stores" not in plan
    assert instance.get_runs_count() == 0


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("tier", TIERS)
def test_a_tick_starts_a_run_of_its_tier_if_something_of_it_is_due(
    database: Database, tick: Tick, tier: int
) -> None:
    add_fleet(database, 6)
    make_due(database, tier)
    request = tick(f"store_sync_tier_{tier}")
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == {"ops": {"sync_stores": {"config": {"tiers": [tier]}}}}
    assert request.run_key is None
    tags = {**store_sync.store_sync.tags, **request.tags}  # as Dagster makes the run
    group = FIRST_TIER if tier == 1 else LOWER_TIERS
    assert (tags["tier"], tags[CONCURRENCY_GROUP_TAG]) == (str(tier), group)
    for other in TIERS.keys() - {tier}:
        assert tick(f"store_sync_tier_{other}") == f"no store of tier {other} is due"
    assert tick(f"inventory_sync_tier_{tier}") == f"no store of tier {tier} is due"


@pytest.mark.usefixtures("environment")
def test_the_sensor_starts_what_failed_and_what_is_new_but_not_what_a_tick_takes(
    database: Database, tick: Tick
) -> None:
    add_fleet(database, 6)
    make_due(database, 1)
    assert tick("store_sync_retries") == "no retry is due"
    query(database, "UPDATE sync_states SET retry_strategy = 'exponential_backoff' WHERE next_due_at < now()")
    request = tick("store_sync_retries")
    assert isinstance(request, dg.RunRequest)
    assert (request.run_config, request.tags["tier"]) == ({}, RETRIES)
    assert tick("inventory_sync_retries") == "no retry is due"
    query(database, "UPDATE sync_states SET retry_strategy = NULL, last_succeeded_at = NULL")
    assert isinstance(tick("store_sync_retries"), dg.RunRequest)


@pytest.mark.usefixtures("environment")
def test_the_sensor_starts_what_was_hinted_at(database: Database, tick: Tick) -> None:
    add_fleet(database, 6)
    with database.transaction() as connection:
        [store] = connection.execute("SELECT min(id) FROM stores").fetchone() or ()
        store_units.hint(connection, [(store, Unit.ORDERS)])
    assert isinstance(tick("customer_sync_retries"), dg.RunRequest)
    assert tick("store_sync_retries") == "no retry is due"


@pytest.mark.usefixtures("environment")
def test_without_a_public_url_a_tick_passes_over_the_webhooks_and_starts_nothing(
    database: Database, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_fleet(database, 6)
    query(
        database,
        "UPDATE sync_states SET next_due_at = now(), last_succeeded_at = NULL WHERE resource = 'webhooks'",
    )
    for name in ("create_shopify_webhook_tier_1", "create_shopify_webhook_retries"):
        assert str(tick(name)).startswith("BG_PUBLIC_URL is not set")
        assert str(tick(name)).startswith("no ")
    states = query(
        database,
        "SELECT next_due_at > now() AS later, last_succeeded_at FROM sync_states WHERE resource = 'webhooks'",
    )
    assert all(row["later"] and row["last_succeeded_at"] for row in states)
    monkeypatch.setenv("BG_PUBLIC_URL", "https://hooks.example.com")
    query(database, "UPDATE sync_states SET next_due_at = now() WHERE resource = 'webhooks'")
    assert isinstance(tick("create_shopify_webhook_tier_1"), dg.RunRequest)


@pytest.mark.usefixtures("environment")
def test_the_inbox_is_drained_by_one_run_that_stays_warm(
    database: Database, instance: dg.DagsterInstance, tick: Tick
) -> None:
    sensor = f"handle_webhooks_{INBOX}"
    assert tick(sensor) == "no webhook events are due"
    add_fleet(database, 2)
    put = (
        "INSERT INTO webhook_events (store_id, source, topic, webhook_id, status, lease_owner, lease_expires_at) "
        "SELECT id, %s, 'orders/updated', id::text, %s, %s, now() + interval '1 minute' FROM stores"
    )
    query(database, put, "shopify", "handled", None)
    query(database, put.replace("id::text", "'claimed' || id"), "shopify", "pending", "run/1")
    assert tick(sensor) == "no webhook events are due"
    query(database, "UPDATE webhook_events SET lease_expires_at = now()")
    request = tick(sensor)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == {"ops": {"handle_events": {"config": {"warm_seconds": 60.0}}}}
    assert request.tags["tier"] == INBOX
    job = defs.resolve_job_def("handle_webhooks")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"tier": INBOX}).run_id
    assert str(tick(sensor)).startswith(f"run {run} of inbox is running since ")
    held = instance.get_run_by_id(run)
    assert held is not None
    instance.report_run_failed(held)
    assert tick(sensor) == f"run {run} has just failed; the next one starts a minute after it"


@pytest.mark.usefixtures("environment")
def test_text_messages_are_sent_by_a_run_that_stays_warm_and_none_starts_while_sending_is_stopped(
    database: Database, tick: Tick
) -> None:
    sensor = f"share_product_text_message_{OUTBOX}"
    assert tick(sensor) == "no text messages are due"
    add_fleet(database, 1)
    query(
        database,
        "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone) "
        "SELECT 'k', 'product_share', 'product_share', id, '+12125550123' FROM stores",
    )
    request = tick(sensor)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == {"ops": {"send_text_messages": {"config": {"warm_seconds": 60.0}}}}
    assert request.tags["tier"] == OUTBOX
    query(
        database,
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message) "
        "VALUES ('texts_stopped:stop', true, 'sending_paused', 'high', 's', 's', 'm')",
    )
    assert tick(sensor) == "no text messages are due"


def start_run(instance: dg.DagsterInstance, tier: str, status: dg.DagsterRunStatus) -> str:
    job = defs.resolve_job_def("store_sync")
    return instance.create_run_for_job(job, status=status, tags={"tier": tier}).run_id


@pytest.mark.usefixtures("environment")
def test_no_run_is_started_while_the_last_one_waits_or_works(
    database: Database, instance: dg.DagsterInstance, tick: Tick
) -> None:
    add_fleet(database, 6)
    for tier in (1, 2):
        make_due(database, tier)
    run = start_run(instance, "1", dg.DagsterRunStatus.NOT_STARTED)
    assert str(tick("store_sync_tier_1")).startswith(f"run {run} of tier 1 is queued since ")
    assert isinstance(tick("store_sync_tier_2"), dg.RunRequest), "each tier by itself"
    held = instance.get_run_by_id(run)
    assert held is not None
    instance.report_run_failed(held)
    assert isinstance(tick("store_sync_tier_1"), dg.RunRequest)


@pytest.mark.usefixtures("environment")
def test_a_run_that_has_died_blocks_no_tick(
    database: Database, instance: dg.DagsterInstance, tick: Tick
) -> None:
    add_fleet(database, 6)
    make_due(database, 1)
    run = start_run(instance, "1", dg.DagsterRunStatus.STARTED)
    assert str(tick("store_sync_tier_1")).startswith(f"run {run} of tier 1 is running since ")
    with psycopg.connect(_plain(instance), autocommit=True) as connection:
        connection.execute("UPDATE runs SET create_timestamp = create_timestamp - interval '1 hour'")
    assert isinstance(tick("store_sync_tier_1"), dg.RunRequest), "it has never said a word"
    query(
        database,
        "INSERT INTO job_runs (run_id, job, queue, seen_at) VALUES (%s, 'store_sync', 'stores_sync', now())",
        run,
    )
    assert "is running since" in str(tick("store_sync_tier_1"))
    query(database, "UPDATE job_runs SET seen_at = now() - interval '3 minutes'")
    assert isinstance(tick("store_sync_tier_1"), dg.RunRequest)


def _plain(instance: dg.DagsterInstance) -> str:
    url = instance.run_storage.postgres_url  # type: ignore[attr-defined]
    return (
        str(url).replace("+psycopg2", "").replace("+", "%20")
    )  # what SQLAlchemy reads as a space, libpq does not


@pytest.mark.usefixtures("environment")
def test_while_the_database_is_away_a_tick_fails_with_one_sentence_and_tells(
    database_url: str, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(
        "bg_pipelines.orchestration.ticks.alerts.report_failure",
        lambda job, error, *, run_id, tier: told.append((job, error.error_type, run_id.split()[0], tier)),
    )
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/nothing")
    for name in ("store_sync_tier_1", "inventory_sync_retries"):
        with pytest.raises((dg.DagsterError, IntegrationError)) as caught:
            tick(name)
        # Dagster tells where it happened, and below it our sentence.
        error = caught.value.__cause__ if isinstance(caught.value, dg.DagsterError) else caught.value
        assert isinstance(error, IntegrationError)
        assert error.message.startswith("PostgreSQL is not available: ")
        assert error.__suppress_context__
        assert "hunter2" not in error.message
    assert told == [
        ("store_sync", "database", "store_sync_tier_1", "1"),
        ("inventory_sync", "database", "inventory_sync_retries", "retries"),
    ]
    # It is back: nothing needs to be started again.
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    assert tick("store_sync_tier_1") == "no store of tier 1 is due"


@pytest.mark.usefixtures("environment")
def test_whatever_keeps_a_tick_from_starting_a_run_is_told(
    database: Database, dagster_url: str, tick: Tick
) -> None:
    add_fleet(database, 6)
    make_due(database, tier=1)
    with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ALTER TABLE runs RENAME run_body TO elsewhere")
        with pytest.raises(dg.DagsterError, match="store_sync_tier_1"):
            tick("store_sync_tier_1")
        connection.execute("ALTER TABLE runs RENAME elsewhere TO run_body")
    [incident] = query(database, "SELECT job, status, message FROM incidents")
    assert (incident["job"], incident["status"]) == ("store_sync", "open")
    assert incident["message"].startswith("unexpected ")
    assert isinstance(tick("store_sync_tier_1"), dg.RunRequest)


@pytest.mark.usefixtures("environment")
def test_what_is_to_be_told_is_delivered_by_a_sensor(tick: Tick, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tick("deliver_alerts")).startswith("told: ")
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/nothing")
    assert str(tick("deliver_alerts")).startswith("No alert was sent: PostgreSQL is not available: ")


def test_due_means_the_same_to_a_tick_as_to_a_claim(database: Database) -> None:
    add_fleet(database, 6)
    for tier in TIERS:
        make_due(database, tier)
        with database.transaction() as connection:
            assert store_units.is_due(connection, ["products"], tiers=[tier])
            claimed = claim_due(connection, ["products"], owner="me", limit=10, lease=LEASE, tiers=[tier])
            assert len(claimed) == 1
            assert not store_units.is_due(connection, ["products"], tiers=[tier])
