"""Upkeep is done where it is needed, and everything else is advice; logs are rotated."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bg_pipelines.cleaning import advice, files, repack, upkeep
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning.test_batches import plain
from bg_pipelines_tests.support import query

DAY = timedelta(days=1)


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
    with psycopg.connect(plain(database), autocommit=True) as connection:
        for statement in (
            "CREATE TABLE small (id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)",
            "CREATE INDEX one ON small (name)",
            "CREATE INDEX two ON small (name)",
            "CREATE INDEX half_made ON small (id, name)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half_made'::regclass",
            "CREATE TABLE large (small_id smallint REFERENCES small) WITH (autovacuum_enabled = off)",
            "INSERT INTO small (name) SELECT 'x' FROM generate_series(1, 10)",
            "INSERT INTO large SELECT 1 FROM generate_series(1, 3000)",
            "DELETE FROM large WHERE ctid > '(1,0)'",
            "SELECT setval('small_id_seq', 30000)",
            "INSERT INTO cleaning_results (run_id, task, job, started_at, finished_at, completed) "
            "VALUES ('r', 't', 'j', now() - interval '31 days', now(), true)",
            "SELECT pg_stat_force_next_flush()",
        ):
            connection.execute(statement)
    with database.transaction() as connection:
        assert {one.about for one in advice.advise(connection)} == {"two", "half_made", "public.small_id_seq"}
        found = advice.advise(connection, advice.From(index_bytes=0, rows=20, transactions=1))
        sizes = advice.sizes(connection)
    by = {(one.what, one.about): one.sql for one in found}
    assert by["duplicate index", "two"] == "DROP INDEX CONCURRENTLY two"
    assert by["unused index", "one"] == "DROP INDEX CONCURRENTLY one"
    assert by["invalid index", "half_made"] == "REINDEX INDEX CONCURRENTLY half_made"
    assert by["missing index", "large"] == "CREATE INDEX CONCURRENTLY ON large (small_id)"
    assert by["many dead rows", "large"] == "VACUUM (ANALYZE, VERBOSE) large"
    assert by["wraparound", "small"] == "VACUUM (FREEZE, VERBOSE) small"
    assert ("sequence near its end", "public.small_id_seq") in by
    assert "small_pkey" not in {about for _, about in by}, "what keeps rows unique is of use"
    [grown] = advice.growth({"small": 1_000_000}, {"small": 500_000_000, "other": 1})
    assert grown.why == "1 MB a week ago, 500 MB now"
    assert "carts" in sizes
    assert query(database, "SELECT to_regclass('two') IS NOT NULL AS there") == [{"there": True}]
