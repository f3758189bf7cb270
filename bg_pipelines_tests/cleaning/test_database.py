"""Cleaning of the database: history that goes when its time is over, and upkeep that is done where it is needed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.cleaning.jobs import database_task_names, database_tasks
from bg_pipelines.cleaning.retention import RULES, Rule, find_faults, load_rules
from bg_pipelines.cleaning.run import CleaningRun, Summary
from bg_pipelines.cleaning.tasks import Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines_tests.support import KEY, query

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def tasks_of(rules: list[Rule]) -> list[Task]:
    return database_tasks(
        rules,
        Cipher(KEY),
        home=Path("nowhere"),
        data=None,
        history=lambda run: run.finished(run.so_far("").figures),
    )


def clean(
    database: Database,
    rules: list[Rule] | None = None,
    *,
    run_id: str = "run",
    upkeep: bool = True,
    **options: Any,
) -> Summary:
    chosen = list(RULES) if rules is None else rules
    given = tasks_of(chosen)
    if not upkeep:
        given = given[: len(chosen)]
    summary = CleaningRun(
        database, "clean_database", given, run_id=run_id, sleep=lambda _: None, **options
    ).run()
    assert [(done.task, done.failure) for done in summary.done if done.failure] == []
    return summary


def test_our_own_rules_are_sound(database: Database) -> None:
    with database.transaction() as connection:
        assert find_faults(connection, RULES) == []
    assert len(set(database_task_names(RULES))) == len(database_task_names(RULES))


HISTORY = """
    INSERT INTO stores (name, platform, domain, credentials) VALUES ('harbor', 'shopify', 'harbor.example', '');
    INSERT INTO sync_attempts (run_id, store_id, resource, status, started_at) SELECT 'r', s.id, status || age, status,
        now() - make_interval(days => age) FROM stores s, unnest(ARRAY['succeeded', 'failed', 'running']) status,
        unnest(ARRAY[1, 8, 31]) age;
    INSERT INTO webhook_events (source, topic, webhook_id, status, received_at, next_due_at) SELECT 'shopify', topic, age::text,
        status, now() - make_interval(days => age), CASE topic WHEN 'due' THEN now() END
        FROM (VALUES ('handled', 'handled'), ('ignored', 'ignored'), ('not_understood', 'not_understood'),
            ('pending', 'due'), ('pending', 'parked')) given (status, topic), unnest(ARRAY[0, 2, 4, 31]) age;
    INSERT INTO incidents (fingerprint, status, needs_attention, error_type, severity, source, subject, message, resolved_at)
        SELECT 'job:j:' || age || status, status, true, 'unknown', 'low', 's', 's', 'm',
        CASE status WHEN 'resolved' THEN now() - make_interval(days => age) END
        FROM unnest(ARRAY['open', 'resolved']) status, unnest(ARRAY[1, 200]) age;
    INSERT INTO alerts (incident_id, kind, severity, title, body, created_at)
        SELECT id, 'opened', 'low', 't', 'b', now() - interval '200 days' FROM incidents;
    INSERT INTO alert_deliveries (alert_id, target, status) SELECT id, 'sms:1', 'sent' FROM alerts;
    INSERT INTO locations (store_id, external_id, source_updated_at, deleted_at, name, active, fulfills_online_orders)
        SELECT 1, age::text, now(), now() - make_interval(days => age), 'n', true, true FROM unnest(ARRAY[1, 181]) age"""


def test_history_goes_when_its_time_is_over_and_what_is_open_or_pending_stays(database: Database) -> None:
    with database.transaction() as connection:
        for statement in HISTORY.split(";"):
            connection.execute(statement)
    clean(database)
    left = {row["resource"] for row in query(database, "SELECT resource FROM sync_attempts")}
    assert left == {"succeeded1", "failed1", "failed8", "running1", "running8", "running31"}
    events = {
        (row["topic"], row["webhook_id"])
        for row in query(database, "SELECT topic, webhook_id FROM webhook_events")
    }
    assert events == {
        *(("due", age) for age in ("0", "2", "4", "31")),
        *(("parked", age) for age in ("0", "2", "4")),
        *((topic, age) for topic in ("handled", "ignored") for age in ("0", "2")),
        ("not_understood", "0"),
    }
    incidents = [
        row["fingerprint"] for row in query(database, "SELECT fingerprint FROM incidents ORDER BY 1")
    ]
    assert incidents == ["job:j:1open", "job:j:1resolved", "job:j:200open"]
    assert query(database, "SELECT count(*) AS n FROM alert_deliveries") == [{"n": 2}], (
        "those of open incidents"
    )
    assert query(database, "SELECT external_id FROM locations") == [{"external_id": "1"}]
    assert sum(done.outcome.rows for done in clean(database).done if done.task != "advice") == 0


def test_a_user_adds_rules_for_tables_of_their_own_and_changes_ours(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "retention.toml"
    file.write_text(
        "[keep]\nsync_attempts = '2 days'\n[[rule]]\ntable = 'page_views'\nage = 'seen_at'\nkeep = '2 weeks'\n"
        "condition = \"t.kind <> 'order'\"\nhold = 't.pinned'\narchive = '30 days'\n"
    )
    rules = {rule.task: rule for rule in load_rules(file)}
    assert rules["sync_attempts"].keep == 2 * DAY
    rule = rules["page_views"]
    with database.transaction() as connection:
        [fault] = find_faults(connection, [rule])
    assert fault.startswith("retention rule page_views: there is no table or view page_views")
    query(database, "CREATE TABLE page_views (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text, "
          "seen_at timestamptz, pinned boolean)")  # fmt: skip
    with database.transaction() as connection:
        assert find_faults(connection, [rule]) == [
            "retention rule page_views: no index begins with seen_at: CREATE INDEX CONCURRENTLY ON page_views (seen_at)"
        ]
    query(database, "CREATE INDEX ON page_views (seen_at)")
    query(database, "INSERT INTO page_views (kind, seen_at, pinned) SELECT kind, now() - interval '1 day' * age, pinned FROM "
          "unnest(ARRAY['view', 'order']) kind, unnest(ARRAY[1, 15]) age, unnest(ARRAY[true, false, NULL]) pinned, "
          "generate_series(1, 700)")  # fmt: skip
    [done] = clean(database, [rule]).done[:1]
    assert done.outcome.figures["page_views.rows"] == 700
    left = query(
        database,
        "SELECT count(*) AS n FROM page_views WHERE kind = 'view' AND seen_at < now() - interval '14 days'",
    )
    assert left == [{"n": 1400}], "the pinned, and those of which that is not known"
    assert query(database, "SELECT sum(row_count) AS n FROM archived_rows") == [{"n": 700}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[keep]\nsync_attempt = '2 days'", "keep.sync_attempt: no such rule; did you mean 'sync_attempts'?"),
        ("[keep]\nalerts = '2 moons'", "keep.alerts: must be a span like '90 days' (hours, days or weeks)"),
        ("[[rule]]\ntable = 'a b'\nage = 'x'\nkeep = '1 day'", "rule 1.table: must be the name of a table"),
        ("[[rule]]\ntable = 'a'\nage = 'x'\nkeeps = '1 day'", "rule 1.keeps: no such field; did you mean 'keep'?"),
        ("[[rule]]\ntable = 'alerts'\nage = 'x'\nkeep = '1 day'", "there is a rule 'alerts' already"),
        ("[rules]\n", "'rules' is none of keep, rule; did you mean 'rule'?"),
        ("=", "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_of_rules_that_is_wrong_says_where(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "retention.toml"
    file.write_text(text)
    with pytest.raises(IntegrationError) as raised:
        load_rules(file)
    assert fault in raised.value.message


def test_a_condition_that_postgresql_does_not_take_is_a_fault(database: Database) -> None:
    with database.transaction() as connection:
        [fault] = find_faults(connection, [Rule("audits", "audited_at", DAY, "t.nothing = 1")])
        assert fault == "retention rule audits: PostgreSQL does not take it: column t.nothing does not exist"
        [fault] = find_faults(connection, [Rule("stores", "name", DAY)])
        assert fault == "retention rule stores: stores.name is no time"
