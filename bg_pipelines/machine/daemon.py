"""`bg-pipelines daemon`: Dagster's daemon, alone on its instance. Two of them would start every run twice.

Who runs it holds an advisory lock in Dagster's database, on a connection that lives as long as the daemon; whoever else
tries is refused, on whatever machine. Where the connection is lost, the lock is taken again, or the daemon ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from bg_pipelines.database import connecting
from bg_pipelines.database.engine import open_dagster_database
from bg_pipelines.database.sqlstates import classified, unavailable
from bg_pipelines.errors import IntegrationError
from bg_pipelines.machine.processes import configuration_error
from bg_pipelines.settings import Settings, load_settings

LOCK = 0x6267_6461
LOOK_SECONDS = 2.0
FREE_SECONDS = 8.0
"""How long is waited for the end of one that was just told to stop, as when a service is restarted."""
_PREFIX = "bg-daemon"

_HOLDER = (
    "SELECT l.pid, application_name, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM pg_locks l "
    "JOIN pg_stat_activity a USING (pid) WHERE locktype = 'advisory' AND l.classid = 0 AND l.objid = %s AND granted "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class DaemonLock:
    """The right to run the daemon of this instance. `name` tells others who holds it."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        self.name = (name or f"{_PREFIX} {socket.gethostname()[:40]} {os.getpid()}")[:63]
        database = open_dagster_database(settings, pool_size=1)
        self._parameters = {**database.parameters, "application_name": self.name}
        database.close()
        self._connection: psycopg.Connection[Any] | None = None
        """With the lock, or none."""

    def take(self, seconds: float = 0.0, sleep: Callable[[float], object] = time.sleep) -> None:
        """Raises IntegrationError: configuration where another has it for longer than `seconds`, database."""
        end = time.monotonic() + seconds
        while (holder := self._take()) is not None:
            if time.monotonic() >= end:
                raise configuration_error(
                    f"a Dagster daemon is at work on this instance already: {holder}. Two would start every run twice. Use "
                    "that one, or stop it first; `bg-pipelines worker` adds a machine that only carries out runs"
                )
            sleep(0.2)

    def keep(self) -> bool:
        """Whether it is still ours, taken again where the connection was lost. Raises IntegrationError (database)."""
        try:
            if self._connection is not None:
                self._connection.execute("SELECT")
                return True
        except psycopg.Error:
            self.close()
        return self._take() is None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self) -> str | None:
        """Take it, or say who has it."""
        try:
            connection = psycopg.connect(**self._parameters, autocommit=True)
            connecting.settle(connection)
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
            if row and row[0]:
                self._connection = connection
                return None
            with connection:
                # What a cut network left of us: the server has not noticed yet that nobody is there.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = %s AND pid <> pg_backend_pid()",
                    (self.name,),
                )
                return _named(connection.execute(_HOLDER, (LOCK,)).fetchone())
        except psycopg.Error as error:
            raise classified(error) or unavailable(error) from error


def _named(holder: tuple[Any, ...] | None) -> str:
    if holder is None:
        return "another process"
    pid, name, since = holder
    parts = name.split()
    if len(parts) == 3 and parts[0] == _PREFIX:
        return f"process {parts[2]} on {parts[1]} since {since} UTC"
    return f"PostgreSQL's session {pid} since {since} UTC"


def run_daemon(workspace: Sequence[str]) -> None:
    """Run it until SIGTERM or SIGINT, with these arguments of `dagster-daemon run` that say where the code is.

    Raises IntegrationError: configuration where another daemon is at work, database.
    """
    lock = DaemonLock(load_settings())
    lock.take(FREE_SECONDS)
    threading.Thread(target=_keep, args=(lock,), daemon=True, name="daemon lock").start()
    from dagster._daemon.cli import run_command

    run_command.main(args=list(workspace), prog_name="bg-pipelines daemon", standalone_mode=False)


def _keep(lock: DaemonLock) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            if lock.keep():
                continue
        except IntegrationError:
            continue  # nobody can start runs while the database is away
        print("another Dagster daemon took over while the database was away; this one ends", file=sys.stderr)  # noqa: T201
        os.kill(os.getpid(), signal.SIGTERM)
        return
