"""Connections say all that they depend on: neither the environment nor the database's own settings reach what is loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database, dagster_storage_url, embedded_url
from bg_pipelines.database.link import Link
from bg_pipelines.database.sqlstates import is_outage
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import Settings
from bg_pipelines_tests.database.pooler import Pooler

NAME = "Zoë Łukasz 日本"
HOSTILE = {
    "PGCLIENTENCODING": "LATIN1",
    "PGHOSTADDR": "127.0.0.1",
    "PGHOST": "nowhere.example",
    "PGPORT": "9",
    "PGUSER": "nobody",
    "PGDATABASE": "nothing",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Kathmandu",
    "PGSERVICE": "nowhere",
    "PGSERVICEFILE": "/nowhere",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGTARGETSESSIONATTRS": "standby",
    "PGAPPNAME": "psql",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGGEQO": "off",
}
READ = "SELECT :name, current_setting('TimeZone'), current_setting('DateStyle'), DATE '2026-12-01', now()"


def read(url: str, driver: str) -> tuple[Any, ...]:
    """What a connection says of itself, and what it makes of a name and a date."""
    if driver == "psycopg":
        database = Database(url)
        with database.session() as session:
            row = session.execute(sa.text(READ), {"name": NAME}).one()
        database.close()
    else:
        engine = sa.create_engine(dagster_storage_url(Settings(dagster_database_url=url)))
        with engine.connect() as connection:
            row = connection.execute(sa.text(READ), {"name": NAME}).one()
        engine.dispose()
    name, zone, style, day, now = row
    return name, zone, style, day.isoformat(), now.utcoffset().total_seconds()


RIGHT = (NAME, "UTC", "ISO, MDY", "2026-12-01", 0)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_variables_that_are_meant_for_other_servers_reach_no_connection(
    database_url: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    assert read(database_url, driver) == RIGHT


def test_nor_do_they_change_which_server_the_embedded_one_is(
    server_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    assert read(embedded_url(server_home, "template"), "psycopg") == RIGHT


def test_variables_of_transport_security_stay(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    Database(database_url).close()
    assert os.environ["PGSSLMODE"] == "verify-full"


FOR_OTHERS = {
    "timezone": "Asia/Kathmandu",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1h",
    "lock_timeout": "1h",
    "idle_in_transaction_session_timeout": "1h",
    "idle_session_timeout": "1h",
    "synchronous_commit": "off",
    "transaction_timeout": "1h",
}


def test_settings_of_a_database_that_are_meant_for_others_reach_no_connection(database_url: str) -> None:
    name = sa.make_url(database_url).database
    shown = ", ".join(f"current_setting('{setting}')" for setting in FOR_OTHERS)
    database = Database(database_url)
    with database.transaction() as connection:
        before = connection.execute(f"SELECT {shown}").fetchone()
    for setting, value in FOR_OTHERS.items():
        with database.transaction() as connection:
            connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    database.close()
    again = Database(database_url)
    with again.transaction() as connection:
        assert connection.execute(f"SELECT {shown}").fetchone() == before
    again.close()


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other_encoding(server_home: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    server = embedded.ensure(server_home)
    name = f"in_{request.param.lower()}"
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{request.param}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        yield server.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def refusal(url: str, way: str) -> IntegrationError:
    database = Database(url)
    with pytest.raises(IntegrationError) as raised:  # noqa: PT012
        if way == "link":
            asyncio.run(Link(database.parameters, seconds=5).execute("SELECT 1"))
        elif way == "transaction":
            with database.transaction():
                pass
        elif way == "session":
            with database.session() as session:
                session.execute(sa.text("SELECT 1"))
        else:
            getattr(database, way)()
    database.close()
    return raised.value


WAYS = ["transaction", "session", "migrate", "require_migrated", "link"]


@pytest.mark.parametrize("way", WAYS)
def test_a_database_that_cannot_hold_every_text_is_refused_in_one_sentence(
    other_encoding: str, way: str
) -> None:
    error = refusal(other_encoding, way)
    assert error.error_type is ErrorType.CONFIGURATION
    assert error.message.startswith("the database's encoding is ")
    assert "ENCODING 'UTF8'" in error.message


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ignores", [True, False])
def test_a_pooler_that_hands_on_no_options_is_refused_in_one_sentence(
    database_url: str, ignores: bool, way: str
) -> None:
    pooler = Pooler(database_url, ignores=ignores)
    error = refusal(pooler.url, way)
    pooler.cut()
    assert error.error_type is ErrorType.CONFIGURATION
    assert "pooler" in error.message
    assert "the address of the server itself" in error.message


def test_an_error_that_psycopg_passes_over_is_logged_without_the_row(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(database_url)
    with pytest.raises(psycopg.Error), database.transaction() as connection:  # noqa: PT012
        connection.execute("CREATE TEMPORARY TABLE rows (orders int)")
        with connection.cursor().copy("COPY rows FROM STDIN") as copy:
            copy.write("Quendolin@example.com\n")
            raise psycopg.DataError("Quendolin")  # a second one: psycopg tells of the first, and goes on
    database.close()
    assert "psycopg" in {record.name for record in caplog.records}
    assert "Quendolin" not in caplog.text


def test_values_are_kept_out_of_the_log_of_a_server_that_lets_us(server_home: Any, database_url: str) -> None:
    name = sa.make_url(database_url).database
    shown = "SELECT current_setting('log_min_messages'), current_setting('log_parameter_max_length')"
    with psycopg.connect(embedded.ensure(server_home).url("postgres", driver=None), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET log_min_messages = 'warning'")
        admin.execute(f"ALTER DATABASE {name} SET log_parameter_max_length = -1")
        admin.execute("DROP ROLE IF EXISTS clerk")
        admin.execute("CREATE ROLE clerk LOGIN")
        try:
            of_the_clerk = database_url.replace("postgres:@", "clerk:@")
            for url, expected in ((database_url, ("log", "0")), (of_the_clerk, ("warning", "-1"))):
                database = Database(url)
                with database.transaction() as connection:
                    assert connection.execute(shown).fetchone() == expected
                database.close()
            admin.execute("GRANT SET ON PARAMETER log_min_messages, log_parameter_max_length TO clerk")
            database = Database(of_the_clerk)
            with database.transaction() as connection:
                assert connection.execute(shown).fetchone() == ("log", "0")
            database.close()
        finally:
            admin.execute("REVOKE SET ON PARAMETER log_min_messages, log_parameter_max_length FROM clerk")
            admin.execute("DROP ROLE clerk")


def test_a_database_that_is_only_read_is_an_outage(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(IntegrationError) as raised, database.transaction() as connection:  # noqa: PT012
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("CREATE TABLE made (a int)")
    assert is_outage(raised.value)
    assert "read-only" in raised.value.message
    database.close()
