"""The way to the database: transactions that end as they should, and faults that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from bg_pipelines.database import engine, revisions
from bg_pipelines.database.connecting import IDLE_SECONDS, LOCK_SECONDS, NETWORK
from bg_pipelines.database.engine import Database, dagster_storage_url, open_database
from bg_pipelines.database.sqlstates import EXPECTED, is_conflict, is_expected, is_outage
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import Settings, load_settings
from bg_pipelines.work.runner import LEASE
from bg_pipelines_tests.database import cut_network
from bg_pipelines_tests.support import PATIENCE, PROJECT, wait_for

PASSWORD = "hunter2-hunter2"
NOBODY_THERE = f"postgresql://bg:{PASSWORD}@127.0.0.1:9/bg"
WAYS = ["transaction", "session", "migrate", "require_migrated"]


def use(database: Database, way: str) -> None:
    match way:
        case "transaction":
            with database.transaction() as connection:
                connection.execute("SELECT 1")
        case "session":
            with database.session() as session:
                session.execute(sa.text("SELECT 1"))
        case _:
            getattr(database, way)()


def number_of(database: Database, query: str) -> int:
    with database.transaction() as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def terminate_others(database: Database) -> None:
    """End every connection to this database but the one that does it, as a restarted server would."""
    with psycopg.connect(
        database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
        autocommit=True,
    ) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_away_is_a_database_error_without_the_password(way: str) -> None:
    with pytest.raises(IntegrationError) as raised:
        use(Database(NOBODY_THERE), way)
    error = raised.value
    assert (error.error_type, error.source, error.recoverable) == ("database", "database", True)
    assert error.message.startswith("PostgreSQL is not available: ")
    assert "refused" in error.message
    assert error.details == {"server": "away"}
    assert PASSWORD not in str(error.as_dict())


@pytest.mark.parametrize("way", WAYS)
def test_an_option_that_postgresql_does_not_know_is_a_database_error(way: str) -> None:
    with pytest.raises(IntegrationError) as raised:
        use(Database(f"{NOBODY_THERE}?no_such_option=1"), way)
    assert "no_such_option" in raised.value.message
    assert PASSWORD not in raised.value.message


@pytest.mark.parametrize(
    "url", [f"postgresql://bg:{PASSWORD}@host:port/bg", f"postgresql://bg:{PASSWORD}@[::/bg"]
)
def test_a_malformed_address_is_a_configuration_error_without_the_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", url)
    with pytest.raises(IntegrationError) as raised:
        open_database(load_settings()).require_migrated()
    assert raised.value.error_type in (ErrorType.CONFIGURATION, ErrorType.DATABASE)
    assert PASSWORD not in raised.value.message


@pytest.mark.parametrize("way", ["transaction", "session"])
def test_connections_killed_between_transactions_go_unnoticed_by_the_next(
    database: Database, way: str
) -> None:
    use(database, way)
    terminate_others(database)
    use(database, way)


@pytest.mark.parametrize("way", ["transaction", "session"])
def test_a_connection_killed_in_a_transaction_is_a_database_error_and_the_next_transaction_works(
    database: Database, way: str
) -> None:
    with pytest.raises(IntegrationError) as raised:  # noqa: PT012
        if way == "transaction":
            with database.transaction() as connection:
                connection.execute("SELECT 1")
                terminate_others(database)
                connection.execute("SELECT 1")
        else:
            with database.session() as session:
                session.execute(sa.text("SELECT 1"))
                terminate_others(database)
                session.execute(sa.text("SELECT 1"))
    assert (raised.value.error_type, is_conflict(raised.value)) == ("database", False)
    assert raised.value.details == {"server": "away"}
    use(database, way)


def test_a_server_that_lets_nobody_in_is_told_from_one_that_is_away(database_url: str) -> None:
    elsewhere = Database(database_url.replace("/test_", "/no_such_database_"))
    for way in ("transaction", "session"):
        with pytest.raises(IntegrationError) as raised:
            use(elsewhere, way)
        assert raised.value.details == {"server": "refuses"}


def test_a_connection_killed_before_the_commit_is_a_database_error(database: Database) -> None:
    with pytest.raises(IntegrationError), database.transaction() as connection:  # noqa: PT012
        connection.execute("CREATE TABLE made (a int)")
        terminate_others(database)
    assert number_of(database, "SELECT count(*) FROM pg_tables WHERE tablename = 'made'") == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_any_exception_rolls_back(database: Database, error: type[BaseException]) -> None:
    with pytest.raises(error), database.transaction() as connection:  # noqa: PT012
        connection.execute("CREATE TABLE made (a int)")
        raise error
    with pytest.raises(error), database.session() as session:  # noqa: PT012
        session.execute(sa.text("CREATE TABLE made (a int)"))
        raise error
    assert number_of(database, "SELECT count(*) FROM pg_tables WHERE tablename = 'made'") == 0


def test_a_block_in_a_transaction_is_undone_with_it_even_as_its_first_statement(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction() as connection:  # noqa: PT012
        with connection.transaction():
            connection.execute("CREATE TABLE made (a int)")
        raise RuntimeError
    assert number_of(database, "SELECT count(*) FROM pg_tables WHERE tablename = 'made'") == 0


def test_a_wrong_statement_is_raised_as_it_is_and_leaves_the_connection_usable(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), database.transaction() as connection:
        connection.execute("SELECT * FROM nowhere")
    assert number_of(database, "SELECT 7") == 7


def test_of_two_transactions_in_each_others_way_one_is_done_and_the_other_is_a_conflict(
    database: Database,
) -> None:
    with database.transaction() as connection:
        connection.execute("CREATE TABLE counters AS SELECT n, 0 AS value FROM generate_series(1, 2) n")
    both = threading.Barrier(2)

    def count(first: int, second: int) -> IntegrationError | None:
        try:
            with database.transaction() as connection:
                connection.execute("SET LOCAL deadlock_timeout = '20ms'")
                connection.execute("UPDATE counters SET value = value + 1 WHERE n = %s", (first,))
                both.wait(5)
                connection.execute("UPDATE counters SET value = value + 1 WHERE n = %s", (second,))
        except IntegrationError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(count, (1, 2), (2, 1)))
    [error] = [outcome for outcome in outcomes if outcome is not None]
    assert (error.error_type, error.severity, error.recoverable) == ("database", "low", True)
    assert is_conflict(error)
    assert error.details["sqlstate"] == "40P01"
    assert number_of(database, "SELECT sum(value) FROM counters") == 2


def run_sql(database: Database, way: str, statement: str) -> None:
    if way == "transaction":
        with database.transaction() as connection:
            connection.execute(statement)
    else:
        with database.session() as session:
            session.execute(sa.text(statement))


OUTAGES = {"08006": "away", "57P01": "away", "57P02": "away", "57P03": "away"} | {
    code: code for code in ("53100", "53300", "57P04", "58030")
}
WAYS_TO_ASK = pytest.mark.parametrize("way", ["transaction", "session"])


@WAYS_TO_ASK
@pytest.mark.parametrize("sqlstate", sorted(EXPECTED))
def test_what_happens_in_a_database_in_use_is_no_outage(database: Database, sqlstate: str, way: str) -> None:
    with pytest.raises(IntegrationError) as raised:
        run_sql(database, way, f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")
    error = raised.value
    assert (error.error_type, error.source, error.recoverable) == ("database", "database", True)
    assert error.details == {"expected": True, "sqlstate": sqlstate}
    assert error.severity == ("low" if sqlstate.startswith("40") else "medium")
    assert (is_expected(error), is_outage(error)) == (True, False)
    assert is_conflict(error) == sqlstate.startswith("40")


@WAYS_TO_ASK
@pytest.mark.parametrize("sqlstate", sorted(OUTAGES))
def test_what_keeps_every_transaction_from_working_is_an_outage(
    database: Database, sqlstate: str, way: str
) -> None:
    with pytest.raises(IntegrationError) as raised:
        run_sql(database, way, f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")
    assert raised.value.details == {"server": OUTAGES[sqlstate]}
    assert (is_expected(raised.value), is_outage(raised.value)) == (False, True)
    assert ("not available" in raised.value.message) == (OUTAGES[sqlstate] == "away")


def test_a_full_disk_is_an_outage_and_a_full_temporary_space_is_not(database: Database) -> None:
    full = "could not write to file %s: No space left on device"
    for file, outage in (('"base/pgsql_tmp/pgsql_tmp77.0"', False), ('"base/16384/16397"', True)):
        with pytest.raises(IntegrationError) as raised:
            run_sql(
                database,
                "transaction",
                f"DO $$ BEGIN RAISE '{full % file}' USING ERRCODE = '53100'; END $$",
            )
        assert is_outage(raised.value) == outage


@WAYS_TO_ASK
@pytest.mark.parametrize("sqlstate", ["22003", "23505", "40002", "42P01", "54000", "55000", "XX000"])
def test_any_other_code_is_raised_as_it_is(database: Database, sqlstate: str, way: str) -> None:
    with pytest.raises((psycopg.Error, sa.exc.DBAPIError)):
        run_sql(database, way, f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")


@WAYS_TO_ASK
@pytest.mark.parametrize("timeout", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_transaction_that_the_server_ends_for_its_length_costs_its_connection_and_no_other(
    database: Database, timeout: str, way: str
) -> None:
    def ended(pid: int) -> bool:
        return number_of(database, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == 0

    with pytest.raises(IntegrationError) as raised:  # noqa: PT012
        if way == "transaction":
            with database.transaction() as connection:
                connection.execute(f"SET LOCAL {timeout} = '20ms'")
                wait_for(lambda: ended(connection.info.backend_pid))
                connection.execute("SELECT 1")
        else:
            with database.session() as session:
                session.execute(sa.text(f"SET LOCAL {timeout} = '20ms'"))
                [pid] = session.execute(sa.text("SELECT pg_backend_pid()")).one()
                wait_for(lambda: ended(pid))
                session.execute(sa.text("SELECT 1"))
    assert is_expected(raised.value)
    use(database, way)


def test_what_a_frozen_process_holds_is_free_before_those_that_wait_for_it_give_up(
    database: Database, database_url: str
) -> None:
    with database.transaction() as connection:
        connection.execute("CREATE TABLE held AS SELECT 1 AS n")
        limits = {
            name: number_of(database, f"SELECT extract(epoch FROM current_setting('{name}')::interval)::int")
            for name in ("idle_in_transaction_session_timeout", "lock_timeout")
        }
    assert limits == {"idle_in_transaction_session_timeout": IDLE_SECONDS, "lock_timeout": LOCK_SECONDS}
    assert 0 < IDLE_SECONDS < LOCK_SECONDS < LEASE.total_seconds()
    frozen = Database(database_url)
    with frozen.engine.connect() as connection:
        # As the connection has it, only shorter.
        connection.execute(sa.text("SET idle_in_transaction_session_timeout = '200ms'"))
        connection.execute(sa.text("UPDATE held SET n = 2"))
        run_sql(database, "transaction", "UPDATE held SET n = 3")
        connection.invalidate()
    frozen.close()
    assert number_of(database, "SELECT n FROM held") == 3


@pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "57014"])
def test_an_expected_failure_keeps_the_connection(database: Database, sqlstate: str) -> None:
    pid = number_of(database, "SELECT pg_backend_pid()")
    with pytest.raises(IntegrationError):
        run_sql(database, "transaction", f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")
    assert number_of(database, "SELECT pg_backend_pid()") == pid


def test_times_are_given_in_utc(database: Database) -> None:
    with database.transaction() as connection:
        row = connection.execute("SELECT now(), current_setting('application_name')").fetchone()
    assert row is not None
    assert row[0].utcoffset().total_seconds() == 0
    assert row[1] == "bg-pipelines"


# Migrations


@pytest.fixture
def empty(database: Database) -> Database:
    with database.transaction() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return database


def test_a_database_that_is_not_migrated_is_a_configuration_error_that_names_the_command(
    empty: Database,
) -> None:
    with pytest.raises(IntegrationError, match="bg-pipelines migrate") as raised:
        empty.require_migrated()
    assert raised.value.error_type == "configuration"
    empty.migrate()
    empty.require_migrated()


def test_migrating_again_changes_nothing(empty: Database) -> None:
    before, now = empty.migrate()
    assert before is None
    assert empty.migrate() == (now, now)


def test_two_that_migrate_at_once_both_find_it_done(empty: Database) -> None:
    begin = threading.Barrier(2)

    def migrate(_: int) -> tuple[str | None, str]:
        begin.wait(5)
        return empty.migrate()

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(migrate, range(2)))
    newest = outcomes[0][1]
    assert sorted(outcomes, key=str) == sorted([(None, newest), (newest, newest)], key=str)
    empty.require_migrated()


def test_a_migration_that_fails_changes_nothing_and_keeps_nobody_waiting(empty: Database) -> None:
    with empty.transaction() as connection:
        connection.execute("CREATE TABLE sync_states (in_the_way int)")
    with pytest.raises(Exception, match="sync_states"):
        empty.migrate()
    assert number_of(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1
    locks = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = current_database()"
    assert number_of(empty, locks) == 0


def test_a_migration_waits_for_a_table_in_use_a_moment_at_a_time_and_holds_up_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MIGRATION_LOCK_SECONDS", 0.2)
    add = sa.text("ALTER TABLE stores ADD COLUMN more int")
    monkeypatch.setattr(revisions, "upgrade", lambda connection: connection.execute(add))
    using = psycopg.connect(**database.parameters)
    using.execute("SELECT 1 FROM stores")  # a report that takes its time
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert number_of(database, "SELECT count(*) FROM stores") == 0, "others are served between two tries"
        if len(pauses) == 2:
            using.rollback()

    with pytest.raises(IntegrationError, match="nothing was migrated: a table has been in use"):
        database.migrate(tries=2, sleep=lambda _: None)
    database.migrate(tries=5, sleep=pause)
    assert pauses == [engine.MIGRATION_PAUSE_SECONDS] * 2
    assert number_of(database, "SELECT count(more) FROM stores") == 0
    using.close()


def set_revision(database: Database, *revisions: str) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM alembic_version")
        for revision in revisions:
            connection.execute("INSERT INTO alembic_version VALUES (%s)", (revision,))


def test_a_program_works_with_tables_newer_than_itself_and_leaves_them_as_they_are(
    database: Database,
) -> None:
    with database.transaction() as connection:
        connection.execute("ALTER TABLE stores ADD COLUMN of_a_later_release text NOT NULL DEFAULT 'new'")
    set_revision(database, "0099")
    database.require_migrated()
    assert database.migrate() == ("0099", "0099")
    assert number_of(database, "SELECT count(of_a_later_release) FROM stores") == 0


@pytest.mark.parametrize("revisions", [("1975ea83b712",), ("0000",), ("0001", "1975ea83b712"), ("99999",)])
def test_tables_of_another_program_are_a_configuration_error_and_stay_as_they_are(
    database: Database, revisions: tuple[str, ...]
) -> None:
    set_revision(database, *revisions)
    for way in ("require_migrated", "migrate"):
        with pytest.raises(IntegrationError, match="tables of another program") as raised:
            use(database, way)
        assert raised.value.error_type == "configuration"
        assert "migrate`" not in raised.value.message
    assert number_of(database, "SELECT count(*) FROM alembic_version") == len(revisions)


def test_revisions_are_consecutive_numbers_of_four_digits() -> None:
    folder = PROJECT / "bg_pipelines" / "database" / "migrations" / "versions"
    numbers = sorted(path.name[:4] for path in folder.glob("[!_]*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    for path in folder.glob("[!_]*.py"):
        assert f'revision = "{path.name[:4]}"' in path.read_text()


# Where the database is


def test_a_database_of_ones_own_is_not_migrated_unasked(
    empty: Database, database_url: str, tmp_path: Path
) -> None:
    opened = open_database(Settings(database_url=database_url, home_dir=tmp_path))
    with pytest.raises(IntegrationError, match="bg-pipelines migrate"):
        opened.require_migrated()
    opened.close()


def test_the_embedded_database_is_up_to_date_when_it_is_opened(server_home: Path) -> None:
    opened = open_database(Settings(home_dir=server_home))
    opened.require_migrated()
    opened.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_any_spelling_of_a_postgresql_address_will_do(scheme: str, database: Database) -> None:
    address = database.engine.url.render_as_string(hide_password=False).split("://", 1)[1]
    same = Database(f"{scheme}://{address}")
    assert number_of(same, "SELECT 7") == 7
    same.close()
    settings = Settings(dagster_database_url=f"{scheme}://{address}")
    dagster = sa.make_url(dagster_storage_url(settings))
    assert dagster.difference_update_query(["options"]) == sa.make_url(
        f"postgresql+psycopg2://{address}"
    ).difference_update_query(["options"])


# The network


def parameters(url: str) -> dict[str, str]:
    """What libpq is told of the network, and what the server is."""
    database = Database(url)
    with database.transaction() as connection:
        told = connection.info.get_parameters()
    database.close()
    return {name: value for name, value in told.items() if name in NETWORK}


def test_every_connection_notices_a_cut_network_within_half_a_lease(database_url: str) -> None:
    told = parameters(database_url)
    assert told == {name: str(value) for name, value in NETWORK.items()}
    seconds = int(told["keepalives_idle"]) + int(told["keepalives_interval"]) * int(told["keepalives_count"])
    assert max(seconds, int(told["tcp_user_timeout"]) / 1000) <= LEASE.total_seconds() / 2
    dagster = sa.make_url(dagster_storage_url(Settings(dagster_database_url=database_url)))
    assert {name: dagster.query[name] for name in NETWORK} == told


def test_what_the_url_says_of_the_network_and_of_the_server_stands(database_url: str) -> None:
    address = database_url.partition("&options=")[0]
    url = f"{address}&keepalives_idle=7&options=-c%20work_mem%3D5MB"
    assert parameters(url)["keepalives_idle"] == "7"
    assert "keepalives_idle=7" in dagster_storage_url(Settings(dagster_database_url=url))
    own = Database(url)
    with own.transaction() as connection:
        shown = connection.execute("SELECT current_setting('work_mem'), current_setting('timezone')")
        assert shown.fetchone() == ("5MB", "UTC")
    own.close()


def test_a_transaction_whose_network_is_cut_ends_as_an_outage(database_url: str) -> None:
    soon = (
        "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=2000&connect_timeout=2"
    )
    ended = subprocess.run(
        [sys.executable, "-m", cut_network.__name__, database_url, soon],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=PROJECT,
    )
    if ended.returncode == cut_network.NO_NAMESPACE:
        pytest.skip("this system lets no process have a network of its own")
    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines():
        outcome = json.loads(line)
        assert outcome["seconds"] < 30
        assert (outcome["error_type"], outcome["details"]) == ("database", {"server": "away"})
