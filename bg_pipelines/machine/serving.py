"""`bg-pipelines serve-webhooks`: the receiver in worker processes, watched, replaced when they die, stopped together.

Each worker has a listening socket of its own, which this process holds as well: what waits in it is taken by the
worker's successor. The workers end with this process, however it ends.

    python -m bg_pipelines.machine.serving DESCRIPTOR       one worker, on a socket that is handed to it
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from subprocess import Popen
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.link import Link
from bg_pipelines.database.secrets import cipher
from bg_pipelines.machine.limited_http import REQUEST_SECONDS, LimitedHttp
from bg_pipelines.machine.processes import child, configuration_error
from bg_pipelines.operations.daemon_figures import daemon_reader
from bg_pipelines.operations.prometheus import read_prometheus
from bg_pipelines.settings import Settings, load_settings
from bg_pipelines.webhooks.metrics import SHARED_FOLDER, forget_process
from bg_pipelines.webhooks.receiver import make_app
from bg_pipelines.webhooks.senders import Senders

HOST, PORT, WORKERS = "127.0.0.1", 8088, 1
CONNECTIONS = 1_000
"""Of a worker. More are answered 503."""
IDLE_SECONDS = 75
"""A connection is kept so long without a request: longer than usual proxies keep it, so that they close it first."""
STOP_SECONDS = 10
"""What is being stored is finished; then a worker ends, whoever is still connected."""
LOOK_SECONDS = 0.2
SHORT_LIFE_SECONDS = 5.0
SHORT_LIVES = 5
"""Workers that died this often as soon as they were started will not do better."""


def serve(
    say: Callable[[str], object], *, host: str = HOST, port: int = PORT, workers: int = WORKERS
) -> None:
    """Serve until KeyboardInterrupt. `say` is told the address, and what a person should know.

    Raises IntegrationError (configuration) for a port that is taken, a database without our tables and where nothing
    could be verified, (database) where the database is away at the start.
    """
    settings = load_settings()
    with ExitStack() as stack:
        database = open_database(settings)
        stack.callback(database.close)
        database.require_migrated()
        _require_secrets(settings, database)
        sockets = [stack.enter_context(one) for one in _listen(host, port, workers)]
        counts = stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-webhooks-"))
        team = [_Worker(one, counts) for one in sockets]
        try:
            for worker in team:
                worker.start()
            say(f"webhooks are received at http://{_address(sockets[0])}/webhooks/ (Ctrl-C ends it)")
            if settings.public_url is None:
                say("BG_PUBLIC_URL is not set: what Square and Twilio sign cannot be verified and gets 401")
            while True:
                for worker in team:
                    worker.look_after()
                time.sleep(LOOK_SECONDS)
        finally:
            # Nothing new; then all of them finish at the same time.
            for one in sockets:
                one.close()
            for worker in team:
                worker.stop()
            for worker in team:
                worker.wait()


class _Worker:
    """A worker process and, when it dies, its successors on the same socket. All of them count in one folder."""

    def __init__(self, listening: socket.socket, counts: str) -> None:
        self._listening = listening
        self._counts = counts
        self._process: Popen[Any] | None = None
        self._held = ExitStack()
        self._started_at = 0.0
        self._short_lives = 0

    def start(self) -> None:
        descriptor = self._listening.fileno()
        command = [sys.executable, "-m", "bg_pipelines.machine.serving", str(descriptor)]
        self._started_at = time.monotonic()
        environment = {**os.environ, SHARED_FOLDER: self._counts}
        self._process = self._held.enter_context(child(command, pass_fds=[descriptor], env=environment))

    def look_after(self) -> None:
        """Replace it if it has died. Raises IntegrationError if none of several lived for long."""
        assert self._process is not None
        if self._process.poll() is None:
            return
        self._end()
        lived_briefly = time.monotonic() - self._started_at < SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if lived_briefly else 0
        if self._short_lives >= SHORT_LIVES:
            raise configuration_error("the receiver's workers end as soon as they are started; see above why")
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def wait(self) -> None:
        if self._process is not None:
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._held.close()
        forget_process(self._process.pid, self._counts)


def _require_secrets(settings: Settings, database: Database) -> None:
    if settings.shopify_webhook_secret or settings.square_webhook_key or settings.twilio_auth_token:
        return

    async def have_secrets() -> bool:
        link = Link(database.parameters, seconds=60)
        try:
            return await Senders(link, cipher(settings)).have_secrets()
        finally:
            await link.close()

    if not asyncio.run(have_secrets()):
        raise configuration_error(
            "no delivery could be verified: set BG_SHOPIFY_WEBHOOK_SECRET (the app's client secret) or "
            "BG_SQUARE_WEBHOOK_KEY, or add a store with its client secret"
        )


def _listen(host: str, port: int, workers: int) -> list[socket.socket]:
    """A socket for each worker: the kernel divides the connections among them."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without SO_REUSEPORT: else another's listener on this port would share it with us, unnoticed.
        with _bound(family, address) as probe:
            address = probe.getsockname()
        sockets = [_bound(family, address, shared=True) for _ in range(workers)]
    except OSError as error:
        raise configuration_error(
            f"cannot listen at {host} port {port}: {error.strerror or type(error).__name__}; end what uses it, or give "
            "another with --port or --host"
        ) from None
    for one in sockets:
        one.listen(CONNECTIONS)
    return sockets


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket of our own. Raises IntegrationError (configuration) for a port that is taken."""
    [one] = _listen(host, port, 1)
    return one


def _bound(family: int, address: Any, *, shared: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_worker(listening: socket.socket) -> None:
    """Receive on this socket until SIGTERM or SIGINT."""
    _allow_connections()
    settings = load_settings()
    with closing(open_database(settings, pool_size=1)) as database, daemon_reader(settings) as daemon:
        app = make_app(settings, database, figures=lambda: read_prometheus(database, daemon()))
        # Not earlier: what migrates the embedded database tells of every step.
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        server = uvicorn.Server(configuration(app))
        server.config.load()
        # What is there from the start stays: to look through it for garbage would make everybody wait now and then.
        gc.collect()
        gc.freeze()
        server.run([listening])


def configuration(app: Starlette, *, request_seconds: float = REQUEST_SECONDS) -> uvicorn.Config:
    """How a worker serves it."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=cast("type[LimitedHttp]", partial(LimitedHttp, request_seconds=request_seconds)),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def _allow_connections() -> None:
    """Each needs a file descriptor, and the usual limit of a shell has hardly room for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 200
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


if __name__ == "__main__":
    run_worker(socket.socket(fileno=int(sys.argv[1])))
