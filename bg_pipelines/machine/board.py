"""`bg-pipelines board`: the board, served on this machine; behind a proxy with TLS for anybody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn

from bg_pipelines.board import users
from bg_pipelines.board.app import LOOPBACK, hosts, make_app
from bg_pipelines.database.engine import open_dagster_database, open_database
from bg_pipelines.machine.processes import configuration_error
from bg_pipelines.machine.serving import bound_socket, configuration
from bg_pipelines.settings import load_settings

HOST, PORT = "127.0.0.1", 3001


def serve_board(say: Callable[[str], object], *, host: str = HOST, port: int = PORT) -> None:
    """Serve until KeyboardInterrupt; `say` is told the address. Raises IntegrationError (configuration, database)."""
    settings = load_settings()
    if host not in LOOPBACK and host != "::1" and settings.board_url is None:
        raise configuration_error(
            f"at {host} others can reach it: set BG_BOARD_URL to the address that they open, an https:// one of a proxy, and "
            "serve it there"
        )
    with ExitStack() as stack:
        database = open_database(settings)
        stack.callback(database.close)
        database.require_migrated()
        dagster = open_dagster_database(settings, pool_size=1)
        stack.callback(dagster.close)
        if not users.list_users(database):
            say("nobody can log in to the board yet: `bg-pipelines board users add NAME`")
        listening = stack.enter_context(bound_socket(host, port))
        port = listening.getsockname()[1]
        app = make_app(settings, database, dagster, hosts(settings, host, port))
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        say(f"the board: {settings.board_url or f'http://127.0.0.1:{port}'} (Ctrl-C ends it)")
        uvicorn.Server(configuration(app)).run([listening])
