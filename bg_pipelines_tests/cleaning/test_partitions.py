"""Tables partitioned by time: old partitions go whole, new ones are there in time, and the table stays in use."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bg_pipelines.cleaning.jobs import preview_database
from bg_pipelines.cleaning.partitions import Partition, missing
from bg_pipelines.cleaning.retention import Rule, find_faults, load_rules
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines_tests.cleaning import test_database
from bg_pipelines_tests.cleaning.test_batches import plain
from bg_pipelines_tests.support import KEY, DatabaseClock, query

DAY = timedelta(days=1)
RULE = Rule("page_views", "seen_at", 60 * DAY, partitions="month")
TABLE = """
    CREATE TABLE page_views (id bigint GENERATED ALWAYS AS IDENTITY, seen_at timestamptz NOT NULL, page text DEFAULT '/',
        PRIMARY KEY (id, seen_at)) PARTITION BY RANGE (seen_at);
    CREATE INDEX ON page_views (page);
    CREATE TABLE page_views_old PARTITION OF page_views FOR VALUES FROM (MINVALUE) TO ('2026-08-01');
    CREATE TABLE page_views_august PARTITION OF page_views FOR VALUES FROM ('2026-08-01') TO ('2026-09-01');
    CREATE TABLE page_views_later PARTITION OF page_views FOR VALUES FROM ('2026-09-01') TO ('2026-12-01');
    INSERT INTO page_views (seen_at) SELECT day FROM generate_series('2026-07-02', '2026-11-22', interval '1 day') day"""


def make(database: Database, statements: str = TABLE) -> None:
    with database.transaction() as connection:
        for statement in statements.split(";"):
            connection.execute(statement)


def clean(database: Database, run_id: str, rule: Rule = RULE) -> Any:
    return test_database.clean(database, [rule], run_id=run_id, upkeep=False).done[0].outcome


def partitions(database: Database) -> list[str]:
    rows = query(
        database,
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'page_views'::regclass ORDER BY pg_get_expr(c.relpartbound, c.oid)",
    )
    return sorted(row["relname"] for row in rows)


def test_old_partitions_go_whole_and_new_ones_are_there_before_rows_come(
    clock: DatabaseClock, database: Database
) -> None:
    make(database)
    [shown] = preview_database(database, [RULE], Cipher(KEY), [])
    assert (shown.rows, shown.what) == (61, "page_views.rows 61, page_views.partitions_dropped 2")
    outcome = clean(database, "first")
    assert (outcome.completed, outcome.figures["page_views.partitions_dropped"]) == (True, 2)
    assert outcome.figures["page_views.bytes"] == shown.bytes
    assert partitions(database) == [
        "page_views_later",
        "page_views_p20261201",
        "page_views_p20270101",
        "page_views_p20270201",
    ]
    assert query(database, "SELECT to_regclass('page_views_old') IS NULL AS gone") == [{"gone": True}]
    for month in (1, 2):
        query(database, "INSERT INTO page_views (seen_at) VALUES (%s)", datetime(2027, month, 28, tzinfo=UTC))
    indexes = query(
        database, "SELECT count(*) AS n FROM pg_index WHERE indrelid = 'page_views_p20270201'::regclass"
    )
    assert indexes == [{"n": 2}], "a new partition is as the table is"
    assert clean(database, "again").figures == {}
    clock.advance(days=75)  # 6 February
    clean(database, "later")
    assert partitions(database) == [
        "page_views_p20261201",
        *(f"page_views_p2027{month:02}01" for month in (1, 2, 3, 4, 5)),
    ]


@pytest.mark.usefixtures("clock")
def test_nothing_waits_for_a_partition_that_is_in_use_and_the_next_run_drops_it(database: Database) -> None:
    make(database)
    with psycopg.connect(plain(database)) as report:
        report.execute("SELECT count(*) FROM page_views_august")
        outcome = clean(database, "busy")
        assert outcome.completed
        assert outcome.figures["page_views.partitions_locked"] > 0
        assert query(database, "SELECT count(*) AS n FROM page_views_august") == [{"n": 31}]
    assert clean(database, "calm").figures["page_views.partitions_dropped"] >= 1
    assert {"page_views_old", "page_views_august"}.isdisjoint(partitions(database))
    assert query(
        database, "SELECT count(*) AS n FROM pg_class WHERE relname ~ 'page_views_(old|august)$'"
    ) == [{"n": 0}]


@pytest.mark.usefixtures("clock")
def test_a_partition_that_a_killed_run_left_detached_is_dropped_and_one_that_a_person_detached_is_not(
    database: Database,
) -> None:
    make(database)
    query(
        database,
        "COMMENT ON TABLE page_views_old IS 'bg-pipelines: its time is over, it is being dropped (page_views)'",
    )
    for name in ("old", "august"):
        query(database, f"ALTER TABLE page_views DETACH PARTITION page_views_{name}")
    assert clean(database, "heir").figures["page_views.partitions_dropped"] == 1
    assert query(database, "SELECT count(*) AS n FROM page_views_august") == [{"n": 31}]


@pytest.mark.usefixtures("clock")
def test_a_partition_that_a_person_is_detaching_is_left_to_them_and_the_task_says_so(
    database: Database,
) -> None:
    make(database)
    with (
        psycopg.connect(plain(database)) as report,
        psycopg.connect(plain(database), autocommit=True) as person,
    ):
        report.execute("SELECT count(*) FROM page_views")
        person.execute("SET lock_timeout = 50")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            person.execute("ALTER TABLE page_views DETACH PARTITION page_views_old CONCURRENTLY")
    [done] = (
        test_database.CleaningRun(database, "clean_database", test_database.tasks_of([RULE])[:1], run_id="r")
        .run()
        .done
    )
    assert done.failure is not None
    assert (
        "none can go: ALTER TABLE page_views DETACH PARTITION page_views_old FINALIZE" in done.failure.message
    )
    assert query(database, "SELECT count(*) AS n FROM page_views_old") == [{"n": 30}]
    query(database, "ALTER TABLE page_views DETACH PARTITION page_views_old FINALIZE")
    query(database, "UPDATE cleaning_tasks SET next_due_at = now()")
    clean(database, "theirs is done")
    assert query(database, "SELECT count(*) AS n FROM page_views_old") == [{"n": 30}]


@pytest.mark.usefixtures("clock")
def test_beside_a_default_partition_old_ones_go_and_its_rows_in_the_way_of_a_new_one_are_said(
    database: Database,
) -> None:
    make(database)
    make(database, "CREATE TABLE page_views_rest PARTITION OF page_views DEFAULT; "
         "INSERT INTO page_views (seen_at) VALUES (date_trunc('month', now()) + interval '2 months')")  # fmt: skip
    summary = test_database.CleaningRun(
        database, "clean_database", test_database.tasks_of([RULE])[:1], run_id="r"
    ).run()
    [done] = summary.done
    assert done.failure is not None
    assert "are in the default partition of page_views; no partition can be made" in done.failure.message
    assert {"page_views_old", "page_views_august"}.isdisjoint(partitions(database))


@pytest.mark.usefixtures("clock")
def test_a_partition_that_others_refer_to_is_set_aside_and_stops_no_other(database: Database) -> None:
    make(database)
    query(
        database,
        "CREATE TABLE notes (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES page_views (id, seen_at))",
    )
    query(database, "INSERT INTO notes SELECT id, seen_at FROM page_views_old LIMIT 1")
    outcome = clean(database, "referred")
    assert (outcome.set_aside, outcome.figures["page_views.partitions_dropped"]) == (1, 1)
    [aside] = query(database, "SELECT task, key, reason FROM cleaning_set_aside")
    assert aside["key"] == "page_views_old"
    assert re.fullmatch(r"the constraint notes_id_at_fkey\w+ of notes \(23503\)", aside["reason"])


def at(month: int, day: int) -> datetime:
    return datetime(2026, month, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("taken", "width", "first", "number"),
    [
        ([], "month", (at(11, 1), at(12, 1)), 4),
        ([], "week", (at(11, 23), at(11, 30)), 5),
        ([], "day", (at(11, 25), at(11, 26)), 8),
        (
            [(at(11, 1), at(12, 1))],
            "week",
            (at(12, 1), at(12, 7)),
            4,
        ),  # the first one is as short as it must be
        (
            [(at(1, 1), at(2, 1)), (at(11, 27), at(11, 29))],
            "week",
            (at(11, 23), at(11, 27)),
            6,
        ),  # between others
        ([(None, None)], "day", None, 0),
        ([(at(11, 1), None)], "day", None, 0),
    ],
)
def test_what_is_missing_is_made_around_what_there_is(
    taken: list[tuple[Any, Any]], width: str, first: tuple[datetime, datetime] | None, number: int
) -> None:
    given = [Partition("s", str(n), low, high, False) for n, (low, high) in enumerate(taken)]
    found = missing(given, datetime(2026, 11, 25, 13, tzinfo=UTC), width)
    assert len(found) == number
    assert found[:1] == ([first] if first else [])
    assert all(a[1] <= b[0] for a, b in pairwise(found))


def test_a_rule_of_partitions_is_checked(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "retention.toml"
    file.write_text(
        "[[rule]]\ntable = 'page_views'\nage = 'seen_at'\nkeep = '60 days'\npartitions = 'month'\n"
    )
    [rule] = [rule for rule in load_rules(file) if rule.task == "page_views"]
    assert rule == RULE
    make(database)
    with database.transaction() as connection:
        assert find_faults(connection, [rule]) == []
        [fault] = find_faults(connection, [Rule("audits", "audited_at", DAY, partitions="day")])
    assert fault == "retention rule audits: audits is not partitioned by ranges of audited_at"
    file.write_text(file.read_text().replace("'month'", "'moon'\nhold = 'true'"))
    with pytest.raises(
        IntegrationError, match=r"partitions: must be one of day, week, month; rule 1.hold: whole"
    ):
        load_rules(file)
