"""Connections to Dagster's database: kept by each process, whatever it makes of instances, and never shared with a fork."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import dagster as dg
import psycopg
import sqlalchemy as sa

from bg_pipelines.orchestration.storage import KEPT_CONNECTIONS
from bg_pipelines_tests.support import wait_for


def backend(storage: Any) -> int:
    connect = getattr(storage, "index_connection", None) or storage.connect
    with connect() as connection:
        return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())


def test_all_instances_of_a_process_use_one_connection_where_one_is_enough(
    instance: dg.DagsterInstance, home: Path
) -> None:
    first = backend(instance.run_storage)
    for _ in range(3):
        with dg.DagsterInstance.from_config(str(home)) as another:
            assert another.get_runs_count() == 0
            assert backend(another.schedule_storage) == first
            assert backend(another.event_log_storage) == first


def test_as_many_more_as_are_needed_at_once_are_opened_and_closed_again(instance: dg.DagsterInstance) -> None:
    many = 3 * KEPT_CONNECTIONS
    together = Barrier(many)

    def hold(_: int) -> int:
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            together.wait(30)
            return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())

    with ThreadPoolExecutor(many) as threads:
        assert len(set(threads.map(hold, range(many)))) == many

    def there() -> int:
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            return int(
                connection.execute(
                    sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
                ).scalar_one()
            )

    # The server's side of a connection ends a moment after ours.
    wait_for(lambda: there() == KEPT_CONNECTIONS)


def test_a_connection_that_the_server_has_ended_is_replaced(
    instance: dg.DagsterInstance, dagster_url: str
) -> None:
    before = backend(instance.run_storage)
    with psycopg.connect(
        sa.make_url(dagster_url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert instance.get_runs_count() == 0
    assert backend(instance.run_storage) != before


def test_a_forked_process_has_connections_of_its_own(instance: dg.DagsterInstance) -> None:
    ours = backend(instance.run_storage)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(backend(instance.run_storage)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        theirs = told.read()
    os.waitpid(child, 0)
    assert theirs
    assert int(theirs) != ours
    assert backend(instance.run_storage) == ours
