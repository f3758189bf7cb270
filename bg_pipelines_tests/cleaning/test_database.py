"""Cleaning of the database: history that goes when its time is over, and upkeep that is done where it is needed."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bg_pipelines.cleaning import advice, files, repack, upkeep
from bg_pipelines.cleaning.jobs import database_task_names, database_tasks
from bg_pipelines.cleaning.retention import RULES, Rule, find_faults, load_rules
from bg_pipelines.cleaning.run import CleaningRun, Summary
from bg_pipelines.cleaning.tasks import Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines_tests.cleaning import test_carts
from bg_pipelines_tests.cleaning.test_batches import plain
from bg_pipelines_tests.support import KEY, query
from bg_pipelines_tests.typed import Run, ok, refused, words

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


def test_logs_are_rotated_by_size_and_deleted_by_age(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").touch()
    large, small, of_the_server = (tmp_path / name for name in ("receiver.log", "small.log", "data/x.log"))
    for path in (large, of_the_server):
        path.write_text("line\n" * 1000)
    small.write_text("line\n")
    with large.open("a") as writer:
        figures = files.rotate(tmp_path, largest=1000)
        writer.write("more\n")
    assert figures["log_files.rotated"] == 1
    assert large.read_text() == "more\n", "who writes to it goes on"
    [packed] = tmp_path.glob("receiver.log.*.gz")
    assert gzip.decompress(packed.read_bytes()) == b"line\n" * 1000
    assert of_the_server.stat().st_size == 5000
    figures = files.rotate(tmp_path, largest=1000, now=datetime.now(UTC) + 31 * DAY)
    assert figures["log_files.rows"] == 1
    assert list(tmp_path.glob("*.gz")) == []


def test_vacuum_reindex_and_left_over_indexes_where_they_are_needed(database: Database) -> None:
    with psycopg.connect(plain(database), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE used (id bigint PRIMARY KEY, name text) WITH (autovacuum_enabled = off)"
        )
        connection.execute("INSERT INTO used SELECT n, 'x' FROM generate_series(1, 20000) n")
        connection.execute("DELETE FROM used WHERE id % 10 <> 0")
        connection.execute("SELECT pg_stat_force_next_flush()")
        # As an interrupted REINDEX CONCURRENTLY leaves it.
        connection.execute("CREATE INDEX used_name_ccnew ON used (name)")
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'used_name_ccnew'::regclass"
        )
        size = connection.execute("SELECT pg_relation_size('used_pkey')").fetchone()
    done = upkeep.vacuum(database, lambda: None)
    assert done.figures["upkeep.vacuumed"] >= 1
    assert query(
        database, "SELECT n_dead_tup < 1000 AS ok FROM pg_stat_user_tables WHERE relname = 'used'"
    ) == [{"ok": True}]
    nothing = upkeep.reindex(database, lambda: None, data=Path("/"), bloated_bytes=1, free=lambda _: 0)
    assert nothing.figures["upkeep.reindexed"] == 0
    assert nothing.figures["upkeep.no_room"] > 0
    done = upkeep.reindex(database, lambda: None, data=None, bloated_bytes=100_000)
    assert done.figures["upkeep.reindexed"] == 1
    [now] = query(database, "SELECT pg_relation_size('used_pkey') AS size")
    assert size is not None
    assert now["size"] < size[0] / 2
    assert upkeep.remove_left_over(database).figures["upkeep.left_over_indexes"] == 1
    assert query(database, "SELECT to_regclass('used_name_ccnew') IS NULL AS gone") == [{"gone": True}]


@pytest.mark.parametrize(
    ("change", "allowed", "why"),
    [
        ({}, True, None),
        ({"version": 180_004}, True, "PostgreSQL 19 is the first"),
        ({}, False, "BG_REPACK is not set"),
        ({"wal_level": "minimal"}, True, "it needs wal_level replica"),
        ({"slots": 0}, True, "max_repack_replication_slots above 0"),
        ({"long_transaction": True}, True, "a long transaction is under way"),
    ],
)
def test_tables_are_repacked_only_on_a_server_that_can_and_where_a_person_allows_it(
    change: dict[str, Any], allowed: bool, why: str | None
) -> None:
    server = repack.Server(190_000, "replica", 5, False)._replace(**change)
    found = repack.why_not(server, allowed=allowed)
    assert found is why or (why is not None and why in (found or ""))
    table = repack.Bloated("public.carts", 1, 1, keyed=True)
    word = "REPACK (CONCURRENTLY, ANALYZE)" if server.version >= 190_000 else "VACUUM (FULL, ANALYZE)"
    assert repack.statement(server, table) == f"{word} public.carts"


def test_a_table_that_is_mostly_empty_is_advice_where_it_cannot_be_repacked(database: Database) -> None:
    with psycopg.connect(plain(database), autocommit=True) as connection:
        for name in ("emptied", "filled"):
            connection.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text)")
            connection.execute(
                f"INSERT INTO {name} SELECT n, repeat('x', n % 50) FROM generate_series(1, 20000) n"
            )
        connection.execute("DELETE FROM emptied WHERE id % 10 <> 0")
        connection.execute("VACUUM ANALYZE emptied, filled")
        version = connection.info.server_version
        done, [advice] = repack.repack(
            database, lambda: None, allowed=False, data=None, bloated_bytes=100_000
        )
    assert (done.figures, advice.about) == ({}, "public.emptied")
    assert "MB for rows of about 0 MB; not done: " in advice.why
    assert advice.sql.startswith("VACUUM (FULL" if version < repack.REPACK_FROM else "REPACK (CONCURRENTLY")


def test_advice_names_what_a_person_may_do_and_does_nothing(database: Database) -> None:
    query(database, "CREATE TABLE small (id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
    query(database, "CREATE INDEX one ON small (name)")
    query(database, "CREATE INDEX two ON small (name)")
    query(database, "SELECT setval('small_id_seq', 30000)")
    with database.transaction() as connection:
        found = {one.what: one for one in advice.advise(connection)}
        sizes = advice.sizes(connection)
    assert found["duplicate index"].sql == "DROP INDEX CONCURRENTLY two"
    assert found["sequence near its end"].about == "public.small_id_seq"
    [grown] = advice.growth({"small": 1_000_000}, {"small": 500_000_000, "other": 1})
    assert grown.why == "1 MB a week ago, 500 MB now"
    assert "carts" in sizes


def test_commands_show_pause_and_preview(database: Database, run: Run) -> None:
    assert "no cleaning job has run yet" in ok(run("cleaning", "status"))
    clean(database, [rule for rule in RULES if rule.table == "audits"])
    assert "audits" in ok(run("cleaning", "status"))
    assert "paused: audits" in ok(run("cleaning", "pause", "audits", "--by", "jane"))
    assert '"state": "paused by jane"' in ok(run("cleaning", "status", "--json"))
    assert "did you mean 'audits'" in refused(run("cleaning", "pause", "audit"))
    assert "resumed: audits" in ok(run("cleaning", "resume"))
    query(database, "INSERT INTO cart_events (store_id, cart_external_id, kind, happened_at) "
          "VALUES (1, 'c', 'cart.abandoned', now() - interval '91 days')")  # fmt: skip
    assert "1 row to delete, nothing was deleted" in ok(run("cleaning", "preview"))
    assert "no row is set aside" in ok(run("cleaning", "set-aside"))


def test_a_stores_own_times_of_carts_are_set_by_command_and_what_is_not_named_stays(
    database: Database, run: Run
) -> None:
    for name in ("harbor", "mill"):
        query(database, "INSERT INTO stores (name, platform, domain, credentials) VALUES (%s, 'shopify', %s, '')", name, name)  # fmt: skip
    assert "2 hours" in ok(run("cleaning", "carts"))
    ok(run("cleaning", "carts", "harbor", "--anonymous", "14 days", "--archive", "52 weeks"))
    shown = words(ok(run("cleaning", "carts", "harbor", "--abandon", "36 hours")))
    assert "harbor 36 hours 2 weeks" in shown
    assert "52 weeks" in shown
    assert "harbor" not in ok(run("cleaning", "carts", "mill"))
    message = refused(run("cleaning", "carts", "harbor", "--empty", "soon", "--abandon", "1 day"))
    assert (
        message
        == "times of carts: empty must be a span like '90 days' (hours, days or weeks); '' is as for all stores"
    )
    assert "did you mean 'harbor'" in refused(run("cleaning", "carts", "harbour"))
    assert run("cleaning", "carts", "--empty", "1 day").exit_code == 2, "a time without a store is no store's"
    [rules] = query(database, "SELECT abandon, anonymous, empty, archive FROM cart_rules")
    assert rules == {"abandon": 36 * HOUR, "anonymous": 14 * DAY, "empty": None, "archive": 364 * DAY}
    ok(run("cleaning", "carts", "harbor", "--abandon", "", "--anonymous", ""))
    assert query(database, "SELECT abandon, anonymous FROM cart_rules") == [
        {"abandon": None, "anonymous": None}
    ]


def test_archived_rows_are_read_by_command(database: Database, run: Run) -> None:
    assert "archived is: nothing" in refused(run("cleaning", "archive", "carts"))
    query(database, "INSERT INTO cart_rules (store_id, archive) VALUES (1, '1 year')")
    test_carts.add_cart(database, "old", idle=31 * DAY, items=2, total=7)
    test_carts.clean(database)
    [line] = ok(run("cleaning", "archive", "carts")).splitlines()
    row = json.loads(line)
    assert (row["external_id"], row["total"], len(row["cart_items"])) == ("old", 7, 2)
    assert ok(run("cleaning", "archive", "carts", "--since", "2999-01-01")) == ""
    assert "did you mean 'carts'" in refused(run("cleaning", "archive", "cart"))
