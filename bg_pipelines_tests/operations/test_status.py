"""What a person on call sees: is anything wrong, what is it, and does it need attention?"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bg_pipelines.cli import status as cli_status
from bg_pipelines.cli.app import app
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.freshness_figures import UnitStatus
from bg_pipelines.operations.status import NO_STORES, FailingStore, read_status
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines.work.pulse import RunRecord
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines_tests.support import KEY, claim_due
from bg_pipelines_tests.typed import Run, ok, words

Sync = Callable[..., Summary]


def of(database: Database, unit: Unit) -> UnitStatus:
    return next(row for row in read_status(database).metrics.resources if row.resource == unit)


def change(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(statement)


@pytest.fixture(autouse=True)
def no_runs(database: Database) -> None:
    change(database, "TRUNCATE job_runs")


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Sandbox:
    sandbox = make_sandbox(shops=3, variants=30)
    add_shops(sandbox)
    return sandbox


@pytest.fixture
def names(shops: Sandbox) -> list[str]:
    return [domain.split(".")[0] for domain in shops.world.shops]


@pytest.fixture
def well(database: Database, shops: Sandbox) -> None:
    """All were synced a minute ago and are due in an hour."""
    change(
        database,
        "UPDATE sync_states SET last_succeeded_at = clock_timestamp() - interval '1 minute', "
        "next_due_at = clock_timestamp() + interval '1 hour'",
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Callable[..., str]:
    """What `bg-pipelines status` prints: `shown("--json")`, `shown(width=80, terminal=True)`."""
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)

    def run(*options: str, width: int = 100, terminal: bool = False, command: str = "status") -> str:
        console = Console(
            markup=False, highlight=False, width=width, force_terminal=terminal, color_system=None
        )
        monkeypatch.setattr(cli_status, "console", console)
        result = CliRunner().invoke(app, [command, *options])
        assert result.exit_code == 0, result.output
        return result.output

    return run


def add_incident(database: Database, store: str, *, needs_attention: bool = True, **values: Any) -> None:
    values = {
        "error_type": "scopes",
        "severity": "high",
        "message": "grant the scope",
        "age": "2 hours",
    } | values
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, occurrences, "
            "store_id, job, resources, opened_at) SELECT gen_random_uuid()::text, %s, %s, %s, 'shopify', 'store ' || name, %s, "
            "3, id, 'store_sync', '{products}', clock_timestamp() - %s::interval FROM stores WHERE name = %s",
            (
                needs_attention,
                values["error_type"],
                values["severity"],
                values["message"],
                values["age"],
                store,
            ),
        )


def fail(database: Database, store: str, units: str, **values: Any) -> None:
    values = {
        "attempts": 2,
        "next": "clock_timestamp() + interval '5 minutes'",
        "message": "no answer",
    } | values
    change(
        database,
        f"UPDATE sync_states SET attempts = {values['attempts']}, next_due_at = {values['next']}, retry_strategy = "
        "'exponential_backoff', retry_reason = 'a random part of 30 s', last_error = jsonb_build_object("
        f"'error_type', 'timeout', 'severity', 'medium', 'recoverable', true, 'message', '{values['message']}') "
        f"WHERE resource IN ({units}) AND store_id = (SELECT id FROM stores WHERE name = '{store}')",
    )


# The verdict


def test_with_no_stores_the_verdict_says_how_to_add_one(database: Database) -> None:
    status = read_status(database)
    assert status.verdict == NO_STORES
    assert (status.incidents, status.failing, status.runs, status.paused) == ([], [], [], [])


def test_where_nothing_is_wrong_one_line_says_so(database: Database, well: None) -> None:
    assert read_status(database).verdict == "all 3 stores up to date"


def test_the_verdict_counts_faults_and_those_who_wait_for_a_person(
    database: Database, well: None, names: list[str]
) -> None:
    add_incident(database, names[0])
    assert read_status(database).verdict == "1 incident needs attention · all 3 stores up to date"
    add_incident(database, names[1])
    add_incident(database, names[2], needs_attention=False)
    fail(database, names[2], "'products'")
    assert read_status(database).verdict == (
        "2 incidents need attention · 1 incident retried automatically · 2 of 3 stores up to date · 1 store retrying"
    )


def test_the_verdict_tells_of_stores_that_are_all_paused(database: Database, names: list[str]) -> None:
    set_paused(database, names, True)
    status = read_status(database)
    assert status.verdict == "every store is paused"
    assert status.paused == sorted(names)


# What it is made of


def test_new_stores_are_due(database: Database, shops: Sandbox) -> None:
    rows = read_status(database).metrics.resources
    assert [row.resource for row in rows] == sorted(Unit)
    assert {(r.stores, r.current, r.due, r.running, r.failing, r.rejected_rows) for r in rows} == {
        (3, 0, 3, 0, 0, 0)
    }


def test_after_a_sync_a_fault_is_an_incident_and_its_work_is_parked(
    database: Database, shops: Sandbox, sync: Sync, names: list[str]
) -> None:
    revoked, unscoped, _ = shops.world.shops.values()
    revoked.access.expire_all()
    unscoped.access.scopes.remove("read_locations")
    sync(units=(Unit.STORE, Unit.LOCATIONS))
    status = read_status(database)
    assert of(database, Unit.STORE)[1:6] == (3, 2, 0, 0, 1)
    assert of(database, Unit.LOCATIONS)[1:6] == (3, 1, 0, 0, 2)
    assert of(database, Unit.PRODUCTS)[1:6] == (3, 0, 3, 0, 0)
    assert sorted((i.subject, i.error_type, i.needs_attention) for i in status.incidents) == sorted(
        [(f"store {names[0]}", "credentials", True), (f"store {names[1]}", "scopes", True)]
    )
    assert sorted(
        (f.store, f.resources, f.failures, f.error_type, f.next_try_at) for f in status.failing
    ) == (
        sorted(
            [
                (names[0], ["locations", "store"], 1, "credentials", None),
                (names[1], ["locations"], 1, "scopes", None),
            ]
        )
    )
    assert {f.incident for f in status.failing} == {i.id for i in status.incidents}
    assert status.retrying == []
    assert not any(shop.token in json.dumps(status.as_dict()) for shop in shops.world.shops.values())


def test_claimed_rows_are_running_and_not_due_until_their_lease_ends(
    database: Database, shops: Sandbox
) -> None:
    with database.transaction() as connection:
        now = database_clock(connection)
        claim_due(
            connection, [Unit.PRODUCTS], owner="me", limit=2, lease=timedelta(minutes=2), due_before=now
        )
    assert of(database, Unit.PRODUCTS)[1:6] == (3, 0, 1, 2, 0)
    change(
        database,
        "UPDATE sync_states SET lease_expires_at = now() - interval '1 second' WHERE lease_owner = 'me'",
    )
    assert of(database, Unit.PRODUCTS)[1:6] == (3, 0, 3, 0, 0)


def test_minutes_behind_is_the_longest_that_any_store_is_overdue(
    database: Database, well: None, names: list[str]
) -> None:
    assert of(database, Unit.PRODUCTS).minutes_behind == 0
    change(
        database,
        "UPDATE sync_states SET next_due_at = clock_timestamp() - interval '90 minutes' "
        "WHERE resource = 'products' AND store_id = (SELECT min(id) FROM stores)",
    )
    assert of(database, Unit.PRODUCTS).minutes_behind == pytest.approx(90, abs=0.2)
    change(database, "UPDATE sync_states SET next_due_at = NULL WHERE resource = 'products'")
    assert of(database, Unit.PRODUCTS).minutes_behind == 0


def test_paused_stores_are_named_and_left_out_of_the_counts(
    database: Database, shops: Sandbox, names: list[str]
) -> None:
    set_paused(database, names[:1], True)
    assert read_status(database).paused == names[:1]
    assert of(database, Unit.STORE).stores == 2


def test_corrections_and_rejected_rows_are_counted(database: Database, shops: Sandbox) -> None:
    change(
        database,
        "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
        "change_from_quantity, quantity, status) SELECT id, 'i', 'l', 1, 2, status "
        "FROM stores, unnest(ARRAY['pending', 'stale']) status",
    )
    change(
        database,
        "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
        "SELECT id, 'products', 'x', 'why', '' FROM stores",
    )
    assert read_status(database).metrics.corrections == {"pending": 3, "stale": 3}
    assert (of(database, Unit.PRODUCTS).rejected_rows, of(database, Unit.STORE).rejected_rows) == (
        3,
        0,
    )


def test_incidents_that_wait_for_a_person_come_first_then_the_gravest(
    database: Database, well: None, names: list[str]
) -> None:
    add_incident(database, names[0], needs_attention=False, severity="critical")
    add_incident(database, names[1], severity="low")
    add_incident(database, names[2], severity="high")
    assert [incident.severity for incident in read_status(database).incidents] == ["high", "low", "critical"]


def test_a_dead_run_is_told_until_a_later_one_has_succeeded(database: Database, well: None) -> None:
    change(
        database,
        "INSERT INTO job_runs (run_id, job, queue, started_at, seen_at) SELECT run, 'store_sync', 'stores_sync', "
        "now - interval '9 minutes', now - seen FROM clock_timestamp() now, "
        "(VALUES ('silent', interval '4 minutes'), ('alive', interval '20 seconds')) given(run, seen)",
    )
    status = read_status(database)
    assert [(run.run_id, run.alive) for run in status.runs] == [("silent", False), ("alive", True)]
    assert status.verdict == "all 3 stores up to date · 1 run died"
    change(
        database,
        "INSERT INTO job_runs (run_id, job, queue, status, started_at) VALUES "
        "('later', 'store_sync', 'stores_sync', 'succeeded', clock_timestamp() - interval '1 minute')",
    )
    status = read_status(database)
    assert [run.run_id for run in status.runs] == ["alive"]
    assert status.verdict == "all 3 stores up to date"


def test_a_run_tells_where_it_works_and_which_units_it_has_had_in_hand_the_longest(
    database: Database, well: None, names: list[str]
) -> None:
    with database.transaction() as connection:
        RunRecord(database, "run-1", "store_sync").begin(connection)
    change(
        database,
        "UPDATE sync_states SET next_due_at = now(), lease_owner = 'run-1/ab', lease_expires_at = now() + interval '1 minute' "
        "WHERE resource IN ('store', 'products')",
    )
    change(
        database,
        "INSERT INTO sync_attempts (run_id, store_id, resource, started_at, rows_read) SELECT 'run-1', id, 'products', "
        f"now() - interval '40 s', 250 FROM stores WHERE name = '{names[1]}'",
    )
    [run] = read_status(database).runs
    assert (run.host, run.units, len(run.visits)) == (socket.gethostname(), 6, 5)
    longest = run.visits[0]
    assert (longest.store, longest.resource, longest.rows) == (names[1], "products", 250)
    assert longest.since is not None
    assert {visit.since for visit in run.visits[1:]} == {None}


def test_an_incident_tells_how_much_waits_behind_it(database: Database, well: None, names: list[str]) -> None:
    add_incident(database, names[0])
    add_incident(database, names[1])
    [first, _] = read_status(database).incidents
    change(
        database,
        f"UPDATE sync_states SET incident_id = {first.id}, next_due_at = CASE WHEN resource = 'store' THEN NULL ELSE next_due_at "
        "END WHERE resource IN ('store', 'products')",
    )
    waiting = {i.id: (i.waiting, i.waiting_stores) for i in read_status(database).incidents}
    assert sorted(waiting.values()) == [(0, 0), (6, 3)]
    assert waiting[first.id] == (6, 3)


def test_a_queue_tells_how_long_what_is_due_takes(database: Database, well: None) -> None:
    change(database, "UPDATE sync_states SET next_due_at = now() WHERE resource = 'store'")
    queue = read_status(database).metrics.queues[0]
    # Three stores were served by each of two jobs, within the last five minutes.
    assert (queue.queue, queue.size, queue.per_minute) == ("stores_sync", 3, 6 / 5)
    assert queue.seconds_to_empty == pytest.approx(150)
    change(database, "UPDATE sync_states SET last_succeeded_at = now() - interval '10 minutes'")
    assert read_status(database).metrics.queues[0].seconds_to_empty is None


def test_a_circuit_names_its_subject_and_its_next_probe(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    change(
        database,
        "INSERT INTO circuits (key, store_id, platform, failures, opened_at, probe_at) SELECT * FROM (VALUES "
        "('platform:shopify', NULL::bigint, 'shopify', 2, clock_timestamp(), '2026-11-23T12:00:05Z'::timestamptz), "
        "('store:1', (SELECT min(id) FROM stores), NULL, 1, clock_timestamp(), '2026-11-23T12:00:05Z')) given",
    )
    circuits = read_status(database).circuits
    assert [circuit.subject for circuit in circuits] == ["platform shopify", f"store {names[0]}"]
    assert "platform shopify since" in shown()
    assert "next probe 12:00:05" in shown()


def test_alerts_that_were_not_delivered_or_refused_are_told_by_target(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    add_incident(database, names[0])
    change(
        database,
        "INSERT INTO alerts (incident_id, kind, severity, title, body) SELECT id, 'opened', 'high', 't', 'b' FROM incidents",
    )
    change(
        database,
        "INSERT INTO alert_deliveries (alert_id, target, status, last_error) SELECT a.id, target, status, jsonb_build_object('message', error) "
        "FROM alerts a, (VALUES "
        "('mail:1f', 'sent', NULL), ('sms:2e', 'pending', 'busy'), ('sms:3d', 'refused', 'no such number')) given (target, status, error)",
    )
    alerts = read_status(database).alerts
    assert [(alert.target, alert.pending, alert.refused, alert.error) for alert in alerts] == [
        ("sms:2e", 1, 0, "busy"),
        ("sms:3d", 0, 1, "no such number"),
    ]
    assert read_status(database).verdict.endswith(" · 1 alert refused")
    assert "sms:3d: 1 refused, since" in shown()


# As it is shown


def test_each_open_incident_is_one_line_with_all_of_it(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    message = "the app lacks a scope:\n  grant it, " + "then look again, " * 10
    add_incident(database, names[0], message=message)
    add_incident(
        database, names[1], needs_attention=False, severity="medium", error_type="timeout", age="3 days"
    )
    [first, second] = [line for line in shown().splitlines() if line.startswith("#")]
    for part in ("#1 ", "high", f"store {names[0]}", "scopes", "since ", "3 times", "needs attention"):
        assert part in first
    assert first.endswith(" ".join(message.split()))
    assert "retried automatically" in second
    assert f"since {read_status(database).incidents[1].opened_at:%Y-%m-%d %H:%M}" in second


def test_on_a_terminal_no_line_is_longer_than_it_and_an_incident_still_is_one(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    for name in names:
        add_incident(database, name, message="grant the scope " * 20)
        fail(database, name, "'store', 'products'", message="no answer " * 20)
    for width in (80, 100):
        lines = shown(width=width, terminal=True).splitlines()
        assert max(map(len, lines)) <= width
        assert len([line for line in lines if line.startswith("#")]) == 3
        [header] = [line for line in lines if line.startswith("queue, job")]
        assert header.rstrip().endswith("behind")


def test_where_nothing_is_open_no_line_speaks_of_incidents(
    database: Database, well: None, shown: Callable[..., str]
) -> None:
    lines = shown().splitlines()
    assert lines[1] == "all 3 stores up to date"
    assert lines[2] == ""
    assert lines[3].startswith("freshness")
    assert lines[11].startswith("queue, job")
    assert not any(line.startswith(("#", "run", "alerts", "circuit", "paused")) for line in lines)


def test_a_job_has_a_line_under_its_queue(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    fail(database, names[0], "'products'", next="clock_timestamp() - interval '20 minutes'")
    add_incident(database, names[0])
    change(
        database,
        "INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at, finished_at) SELECT 'r', id, 'products', "
        "status, t, t + interval '42 seconds' FROM (SELECT clock_timestamp() - interval '1 hour') began(t), stores, "
        "unnest(ARRAY['succeeded', 'failed']) status",
    )
    lines = {line.split()[0]: line.split()[1:] for line in shown().splitlines() if line}
    #                              stores current due oldest running retries parked incidents p50 p95 success behind
    assert lines["store_sync"] == ["3", "2", "1", "20m", "0", "1", "0", "1", "45s", "58s", "50%", "20m"]
    assert lines["inventory_sync"] == ["3", "3", "0", "0", "0", "0", "0", "0"]
    assert lines["stores_sync"] == ["1", "20m", "0", "1", "0", "1", "45s", "58s", "50%", "20m"]
    assert "45s/58s" in shown(width=80)


def test_the_worst_of_those_that_are_late_have_a_line_each(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    change(
        database,
        "UPDATE sync_states SET next_due_at = clock_timestamp() - (store_id * 10 + 100) * interval '1 minute' "
        "WHERE resource IN ('products', 'orders', 'inventory_levels')",
    )
    lines = [line for line in shown().splitlines() if line.startswith("late") or line.endswith("more late")]
    behind = [int(line.split()[3]) for line in lines[:-1]]
    assert behind == sorted(behind, reverse=True)
    assert (len(behind), lines[-1]) == (5, "and 4 more late")
    assert re.fullmatch(r"late  \S+  \w+_sync  \d+ (minutes|hours) behind", lines[0])


def test_the_memory_that_runs_took_is_told_per_job(
    database: Database, well: None, shown: Callable[..., str]
) -> None:
    change(
        database,
        "INSERT INTO job_runs (run_id, job, queue, status, finished_at, peak_rss_mb) "
        "SELECT 'run ' || mb, 'store_sync', 'stores_sync', 'succeeded', clock_timestamp(), mb FROM (VALUES (90), (140)) r(mb)",
    )
    assert "peak memory of a run: store_sync 140 MB" in shown().splitlines()


def test_only_the_worst_twenty_that_are_tried_again_are_shown_and_the_rest_counted(
    database: Database, well: None, shown: Callable[..., str]
) -> None:
    change(
        database,
        "WITH added AS (INSERT INTO stores (name, platform, domain, credentials) SELECT 'bad ' || n, 'shopify', n || '.com', '' "
        "FROM generate_series(1, 37) n RETURNING id, name) INSERT INTO sync_states (store_id, resource, attempts, next_due_at, "
        "last_error) SELECT id, 'products', substr(name, 5)::int, '2099-01-01T12:30:00Z', "
        '\'{"error_type": "timeout", "severity": "low", "recoverable": true, "message": "no answer"}\' FROM added',
    )
    lines = [line for line in shown().splitlines() if line.startswith("bad ")]
    assert len(lines) == 20
    assert lines[0] == "bad 37  timeout  attempt 37 failed, next attempt 12:30:00  products: no answer"
    assert "and 17 more that are retried" in shown()
    assert len(json.loads(shown("--json"))["failing"]) == 37


# JSON


def test_json_has_everything_there_and_back(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    add_incident(database, names[1])
    fail(database, names[0], "'products'", attempts=1, next="'2099-11-23T12:00:00Z'")
    change(
        database,
        "UPDATE sync_states SET next_due_at = NULL, attempts = 1, incident_id = (SELECT id FROM incidents) "
        f"WHERE resource = 'store' AND store_id = (SELECT id FROM stores WHERE name = '{names[1]}')",
    )
    kept = json.loads(shown("--json"))
    assert set(kept) == {
        *("trouble", "verdict", "metrics", "incidents", "circuits", "runs", "alerts", "failing", "paused"),
        *("backfills", "daemon"),
    }
    assert kept["verdict"] == read_status(database).verdict
    parked, retried = sorted(kept["failing"], key=lambda row: row["incident"] is None)
    assert (parked["store"], parked["next_try_at"]) == (names[1], None)
    assert retried == {
        "store": names[0],
        "resources": ["products"],
        "failures": 1,
        "error_type": "timeout",
        "severity": "medium",
        "recoverable": True,
        "message": "no answer",
        "next_try_at": "2099-11-23T12:00:00+00:00",
        "running": False,
        "strategy": "exponential_backoff",
        "reason": "a random part of 30 s",
        "incident": None,
    }
    assert set(retried) == set(FailingStore._fields)
    assert kept["incidents"][0]["id"] == parked["incident"]
    assert {(row["store"], row["job"]) for row in kept["metrics"]["stores"]} == {
        (names[0], "store_sync"),
        (names[1], "store_sync"),
    }, "only those where something is wrong"
    every = json.loads(shown("--json", "--stores"))["metrics"]["stores"]
    assert {row["store"] for row in every} == set(names)
    assert len(every) == 3 * len(JOB_UNITS)
    assert [row["job"] for row in kept["metrics"]["jobs"]] == list(JOB_UNITS)


def test_the_metrics_command_prints_prometheus_text(
    database: Database, well: None, names: list[str], shown: Callable[..., str]
) -> None:
    text = shown(command="metrics")
    assert "# HELP bg_pipelines_stores_current " in text
    assert "\nbg_pipelines_stores_current 3.0\n" in text
    assert f'store="{names[0]}"' in text
    assert 'store="' not in shown("--no-per-store", command="metrics")


def test_many_incidents_that_say_the_same_are_one_line_each_is_still_to_be_had(
    database: Database, well: None, names: list[str], shown: Callable[..., str], run: Run
) -> None:
    for _ in range(185):
        add_incident(database, names[0], error_type="bad_data", message="3 rows could not be loaded")
    add_incident(database, names[1])
    lines = [line for line in shown().splitlines() if line.startswith("#")]
    assert [line.split("  ")[0] for line in lines] == ["#1 and 184 alike high", "#186 high"]
    listed = ok(run("incidents", "list"))
    assert len(listed.splitlines()) < 10
    assert "incidents 1, 2, 3 and 182 others; --type bad_data shows each" in words(listed)
    assert (
        words(ok(run("incidents", "list", "--type", "bad_data"))).count("3 rows could not be loaded") == 185
    )
