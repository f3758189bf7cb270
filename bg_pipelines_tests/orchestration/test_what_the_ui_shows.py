"""What Dagster's UI is given to show: tables as assets, checks, freshness, config in the Launchpad, and of a run what failed."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.defs_state.base import set_defs_state_storage
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.freshness import FreshnessDaemon

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base
from bg_pipelines.definitions import defs
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.messaging.sending import Sent
from bg_pipelines.operations.table_health import CHECKS
from bg_pipelines.orchestration.assets import ASSETS, STALE_AFTER, TABLES
from bg_pipelines.orchestration.reports import (
    FAILED_TAG,
    OUTCOME_TAG,
    STORE_TAG,
    report,
    report_handling,
    report_sent,
)
from bg_pipelines.orchestration.table_checks import check_tables
from bg_pipelines.queues import JOBS, Unit
from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines.sync.summary import Failure, Summary, UnitSummary
from bg_pipelines.webhooks.summary import HandlingSummary
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.support import query

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]
BY_KEY = {spec.key.to_user_string(): spec for spec in ASSETS}


# Assets


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_an_asset_with_its_own_columns_its_owner_and_where_its_rows_come_from(table: str) -> None:
    spec = BY_KEY[table]
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == [*Base.metadata.tables[table].columns.keys()]
    assert all(column.type for column in columns)
    assert spec.owners
    assert spec.kinds == {"postgres", "table"}
    assert len((spec.description or "").splitlines()[0]) > 10
    written = [job for job in JOBS if f"`{job}`" in (spec.description or "")]
    assert written, "the jobs that write it"


def test_every_table_of_a_store_leads_back_to_its_vendors_and_none_to_itself() -> None:
    def sources(name: str, path: tuple[str, ...] = ()) -> set[str]:
        assert name not in path, path
        deps = {dep.asset_key.to_user_string() for dep in BY_KEY[name].deps}
        return deps.union(*(sources(dep, (*path, name)) for dep in deps))

    for unit in Unit:
        if unit.resource is not None:
            assert {"shopify", "square", "stores"} <= sources(unit.resource.value) | {"stores"}
    assert "text_messages" in sources("twilio")
    assert {spec.group_name for spec in ASSETS} >= {
        "vendors",
        "stores",
        "catalogue",
        "stock",
        "sales",
        "carts",
    }


def test_what_is_personal_is_marked_in_the_columns() -> None:
    marked = {
        column.name
        for column in BY_KEY["customers"].metadata["dagster/column_schema"].columns
        if "personal" in column.tags
    }
    assert {"email", "phone", "first_name", "addresses"} <= marked
    assert not {"external_id", "store_id"} & marked


@pytest.mark.usefixtures("environment")
def test_a_table_is_fresh_after_a_run_that_read_it_and_stale_when_none_has_for_too_long(
    make_sandbox: MakeSandbox,
    add_shops: AddShops,
    database: Database,
    instance: dg.DagsterInstance,
    dagster_url: str,
) -> None:
    sandbox = make_sandbox(shops=2, variants=5)
    add_shops(sandbox)
    execute("inventory_sync", instance=instance)
    for shop in sandbox.world.shops.values():
        shop.faults.append(Fault("unauthorized"))
    execute("store_sync", instance=instance)  # nothing is read
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="bg_pipelines.definitions"), location_name="bg"
    )
    daemon = FreshnessDaemon()
    keys = [dg.AssetKey(name) for name in ("inventory_levels", "products", "carts")]
    gc.collect()  # an instance that an earlier test left open puts back what was before it as it is collected: now
    with (
        # Dagster keeps this for the whole process, and it may be an earlier test's, whose instance is gone.
        set_defs_state_storage(instance.defs_state_storage),
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as process,
    ):

        def states() -> list[FreshnessState | None]:
            list(daemon.run_iteration(process))
            records = instance.get_freshness_state_records(keys)
            return [records[key].freshness_state if key in records else None for key in keys]

        not_applicable = FreshnessState.NOT_APPLICABLE
        assert states() == [FreshnessState.PASS, FreshnessState.UNKNOWN, not_applicable]
        with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
            events = "SELECT count(*) FROM event_logs"
            [before] = connection.execute(events).fetchone() or ()
            began = time.process_time()
            states()
            print(f"a look at {len(ASSETS)} assets: {time.process_time() - began:.3f} s of processor time")
            assert connection.execute(events).fetchone() == (before,), "what has not changed is not written"
            # The run ended as long ago as a store of the lowest tier may be without one.
            seconds = STALE_AFTER.total_seconds()
            [body] = (
                connection.execute(
                    "SELECT last_materialization FROM asset_keys WHERE asset_key = '[\"inventory_levels\"]'"
                ).fetchone()
                or ()
            )
            entry = json.loads(body)
            entry["event_log_entry"]["timestamp"] -= seconds
            connection.execute(
                "UPDATE asset_keys SET last_materialization = %s WHERE asset_key = '[\"inventory_levels\"]'",
                (json.dumps(entry),),
            )
        assert states()[0] is FreshnessState.FAIL


# Checks


def look(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[dict[str, bool], list[Any], str]:
    """What the sensor notes: of each check whether it passed, the tables that it observed, and its cursor."""
    sensor = defs.get_repository_def().get_sensor_def("table_checks")
    data = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=cursor))
    for event in data.asset_events:  # as the daemon does
        instance.report_runless_asset_event(event)
    found = {
        f"{event.asset_key.to_user_string()}/{event.check_name}": event.passed
        for event in data.asset_events
        if isinstance(event, dg.AssetCheckEvaluation)
    }
    observed = [event for event in data.asset_events if isinstance(event, dg.AssetObservation)]
    return found, observed, data.cursor or ""


@pytest.mark.usefixtures("environment")
def test_checks_are_kept_when_they_change_and_say_what_is_wrong(
    make_sandbox: MakeSandbox,
    add_shops: AddShops,
    database: Database,
    instance: dg.DagsterInstance,
    dagster_url: str,
) -> None:
    add_shops(make_sandbox(shops=2, variants=5))
    for job in ("store_sync", "inventory_sync", "customer_sync"):
        assert execute(job).success
    query(database, "ANALYZE")
    found, observed, cursor = look(instance)
    assert set(found) == {f"{table}/{check}" for table, checks in CHECKS.items() for check in checks}
    assert all(found.values()), found
    figures = {event.asset_key.to_user_string(): event.metadata for event in observed}
    [held] = query(database, "SELECT count(*) AS n FROM inventory_levels")
    assert figures["inventory_levels"]["rows"].value == held["n"] > 0
    assert "age_p99_seconds" in figures["inventory_levels"]
    assert look(instance, cursor)[:2] == ({}, []), "the same is told once"

    store = "(SELECT min(id) FROM stores)"
    query(
        database,
        "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
        f"VALUES ({store}, 'orders', 'o', 'no money', '')",
    )
    query(
        database,
        "INSERT INTO audits (store_id, resource, run_id, sampled, different, missing, ahead, gone, lag, short, repaired) "
        f"VALUES ({store}, 'products', 'r', 50, 1, 0, 0, 0, 0, 0, 0)",
    )
    query(
        database,
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, resources) "
        "VALUES ('f', true, 'count_mismatch', 'critical', 's', 's', 'm', '{customers}')",
    )
    query(
        database,
        "INSERT INTO webhook_events (source, topic, webhook_id, event_id, next_due_at, payload, received_at) VALUES "
        "('shopify', 'carts/update', 'w', 'e', now() - interval '1 hour', '', now())",
    )
    query(
        database,
        "UPDATE sync_states SET next_due_at = now() - interval '3 hours', last_succeeded_at = now() - interval '5 hours' "
        "WHERE resource = 'locations'",
    )
    found, observed, cursor = look(instance, cursor)
    assert found == {
        "orders/rejected_rows": False,
        "products/drift": False,
        "customers/proof": False,
        "webhook_events/oldest_item": False,
        "locations/stores_up_to_date": False,
    }
    query(database, "DELETE FROM rejected_rows")
    assert look(instance, cursor)[0] == {"orders/rejected_rows": True}
    # In any case a few times a day, so that the page of an asset says that it was looked at.
    with psycopg.connect(dagster_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE asset_check_executions SET create_timestamp = now() - interval '1 day'")
    assert len(look(instance, cursor)[0]) == sum(map(len, CHECKS.values()))


@pytest.mark.usefixtures("environment")
def test_a_person_evaluates_them_with_the_button(database: Database, instance: dg.DagsterInstance) -> None:
    result = (
        dg.Definitions(assets=ASSETS, asset_checks=[check_tables], resources=dict(defs.resources or {}))
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=instance)
    )
    evaluated = result.get_asset_check_evaluations()
    assert len(evaluated) == sum(map(len, CHECKS.values()))
    assert all(check.passed for check in evaluated)
    severity = {check.check_name: check.severity for check in evaluated}
    assert severity["oldest_item"] is dg.AssetCheckSeverity.ERROR, "no incident tells of it"
    assert severity["drift"] is dg.AssetCheckSeverity.WARN


# A run


@pytest.mark.usefixtures("environment")
def test_of_a_run_what_failed_comes_first_and_is_seen_in_the_list_of_runs(
    make_sandbox: MakeSandbox, add_shops: AddShops, database: Database, instance: dg.DagsterInstance
) -> None:
    sandbox = make_sandbox(shops=3, variants=5)
    names = add_shops(sandbox)
    well = execute("inventory_sync", instance=instance)
    next(iter(sandbox.world.shops.values())).faults.append(Fault("unauthorized"))
    failed = execute("store_sync", instance=instance)
    assert failed.success, "the other stores are done"

    def tags(result: dg.ExecuteInProcessResult) -> dict[str, str]:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        return dict(run.tags)

    assert OUTCOME_TAG not in tags(well)
    assert tags(failed)[OUTCOME_TAG] == "stores failed"
    assert tags(failed)[FAILED_TAG] == f"{names[0]}: credentials"
    same = dg.RunsFilter(tags={FAILED_TAG: f"{names[0]}: credentials"})
    assert [run.run_id for run in instance.get_runs(same)] == [failed.run_id], "a click shows its others"

    [output] = [e for e in failed.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    assert list(output.step_output_data.metadata)[:2] == ["failed", "board"]
    assert (
        output.step_output_data.metadata["board"].value
        == f"http://127.0.0.1:3001/store?name={quote(names[0])}"
    )
    errors = [e for e in instance.all_logs(failed.run_id) if e.level >= 40]
    assert errors[0].user_message.startswith(f"1 of 3 stores failed\n{names[0]}: credentials: ")

    # A warning, until the figures say that none fails any more.
    checked = [e for e in failed.all_node_events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    assert {e.asset_check_evaluation_data.asset_key.to_user_string() for e in checked} == {
        "locations",
        "products",
        "product_variants",
    }
    assert not any(e.asset_check_evaluation_data.passed for e in checked)
    found, _, _ = look(instance)
    assert "products/no_store_fails" not in found, "it says so already"
    query(database, "UPDATE sync_states SET attempts = 0")
    assert look(instance)[0]["products/no_store_fails"] is True

    levels = [e.materialization for e in well.all_events if e.is_step_materialization]
    assert {"read", "inserted", "updated", "stores", "seconds"} <= set(levels[0].metadata)


@pytest.mark.usefixtures("environment")
def test_a_run_for_one_store_has_its_name_and_one_that_follows_a_failed_one_not_its_outcome(
    make_sandbox: MakeSandbox, add_shops: AddShops, instance: dg.DagsterInstance
) -> None:
    first, second = add_shops(make_sandbox(shops=2, variants=5))
    result = execute("store_sync", instance=instance, stores=[first])
    assert [run.run_id for run in instance.get_runs(dg.RunsFilter(tags={STORE_TAG: first}))] == [
        result.run_id
    ]
    both = execute("store_sync", instance=instance, stores=[first, second])
    run = instance.get_run_by_id(both.run_id)
    assert run is not None
    assert STORE_TAG not in run.tags
    # Dagster gives a run that follows another all of its tags.
    job = defs.resolve_job_def("store_sync")
    after = job.execute_in_process(
        instance=instance, tags={OUTCOME_TAG: "stores failed", FAILED_TAG: "x: scopes"}
    )
    run = instance.get_run_by_id(after.run_id)
    assert run is not None
    assert (run.tags[OUTCOME_TAG], run.tags[FAILED_TAG]) == ("ok", "")


@pytest.mark.usefixtures("environment")
def test_ten_thousand_stores_that_fail_are_no_event_of_megabytes(
    instance: dg.DagsterInstance, database: Database, dagster_url: str
) -> None:
    error = IntegrationError.of(ErrorType.TIMEOUT, "no answer within 30 s " * 5, source="shopify")
    units = {Unit.PRODUCTS: UnitSummary(failed=10_000)}
    failures = [Failure(f"store <b>{n}</b>", ["products"], error, "retried") for n in range(10_000)]
    summary = Summary(total=10_000, done=10_000, units=units, failures=failures)

    @dg.op
    def sync(context) -> None:  # type: ignore[no-untyped-def]
        report(context, summary, database, None)

    result = dg.GraphDefinition("sync_all", node_defs=[sync]).execute_in_process(instance=instance)
    [output] = [e for e in result.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    shown = output.step_output_data.metadata
    assert len(shown["failed"].records) == 200
    assert shown["board"].value.endswith("/incidents")
    assert (shown["failed_in_all"].value, shown["stores_failed"].value) == (10_000, 10_000)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[FAILED_TAG].endswith(", store <b>2</b>: timeout, and 9,997 more")
    with psycopg.connect(dagster_url.replace("+psycopg", "")) as connection:
        largest = connection.execute("SELECT max(length(event)) FROM event_logs").fetchone()
    assert largest is not None
    assert largest[0] < 200_000


def test_the_inbox_and_the_outbox_show_what_became_of_their_items(instance: dg.DagsterInstance) -> None:
    sent = Sent(outcomes=Counter(sent=2, parked=1))

    @dg.op
    def handle(context) -> None:  # type: ignore[no-untyped-def]  # read by Dagster
        report_handling(context, HandlingSummary(events=Counter(handled=3, failed=1)))

    @dg.op
    def send(context) -> None:  # type: ignore[no-untyped-def]
        report_sent(context, sent)

    for op, table, count, failed in (
        (handle, "webhook_events", "events_handled", ("events failed", "1 event")),
        (send, "text_messages", "messages_sent", ("messages failed", "1 message")),
    ):
        result = dg.GraphDefinition(f"job_{table}", node_defs=[op]).execute_in_process(instance=instance)
        [shown] = result.asset_materializations_for_node(op.name)
        assert shown.asset_key == dg.AssetKey(table)
        assert shown.metadata[count].value in (2, 3)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert (run.tags[OUTCOME_TAG], run.tags[FAILED_TAG]) == failed


@pytest.mark.usefixtures("environment")
def test_a_run_writes_few_events(
    make_sandbox: MakeSandbox, add_shops: AddShops, instance: dg.DagsterInstance, dagster_url: str
) -> None:
    """Each is a row that is kept: what is shown more must not cost every run of a fleet."""
    add_shops(make_sandbox(shops=3, variants=5))
    rows = []
    for job in ("store_sync", "store_sync", "customer_sync"):
        run = execute(job, instance=instance).run_id
        with psycopg.connect(dagster_url.replace("+psycopg", "")) as connection:
            of_run = connection.execute("SELECT count(*) FROM event_logs WHERE run_id = %s", (run,))
            rows.append((of_run.fetchone() or (0,))[0])
    assert rows == [16, 12, 20]


# The Launchpad


@pytest.mark.parametrize("name", JOBS)
def test_the_launchpad_of_a_job_is_filled_with_its_documented_defaults(name: str) -> None:
    job = defs.resolve_job_def(name)
    [(op, given)] = (job.run_config or {})["ops"].items()
    schema = job.graph.node_dict[op].definition.config_schema.config_type.fields
    assert set(given["config"]) == set(schema)
    for field_name, field in schema.items():
        assert field.description, field_name
        assert field.default_value == given["config"][field_name]
    dg.validate_run_config(job, job.run_config)
    assert job.description
    assert not job.run_config_schema.run_config_schema_type.fields["resources"].is_required
    resources = job.run_config_schema.run_config_schema_type.fields["resources"].config_type.fields
    for name in {"database", "platforms"} & resources.keys():
        assert not resources[name].config_type.fields["config"].config_type.fields, "nothing to be set"
