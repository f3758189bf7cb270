"""The HTTP/1.1 server on loopback, with control over every byte and every closed connection."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType, TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from bg_pipelines.sandbox.admin import Admin
from bg_pipelines.sandbox.deliveries import HOUR_SECONDS
from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.hooks import Receiver
from bg_pipelines.sandbox.scenario import Scenario, make_scenario, play
from bg_pipelines.sandbox.shopify.api import Shopify
from bg_pipelines.sandbox.square.api import Square
from bg_pipelines.sandbox.twilio.account import API_VERSION
from bg_pipelines.sandbox.twilio.api import Twilio
from bg_pipelines.sandbox.world import World

HOST = "127.0.0.1"
LARGEST_BODY = 10 * 1024 * 1024
DRIPS = 20
STOP_CHECK_SECONDS = 0.1
SHOPS, VARIANTS = 12, 3000


class CannotListenError(Exception):
    """The port is taken or is none."""


class Server(ThreadingHTTPServer):
    """A thread per connection; the connections are kept so that stopping can close them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, world: World) -> None:
        self.world = world
        self.shopify = Shopify(world.shops, world.next_number)
        self.square = Square(world.square_merchants, world.next_number)
        self.twilio = Twilio(world.twilio, world.next_number)
        self.hooks = Receiver(world.hooks)
        self.admin = Admin(world)
        self.stopping = threading.Event()
        self.open_sockets: set[socket.socket] = set()
        super().__init__((HOST, port), Handler)

    def server_bind(self) -> None:
        # HTTPServer would look the host's name up, which can take seconds where no name server answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a bug of the sandbox and is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        for connection in list(self.open_sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def answer(self, incoming: Incoming) -> Answer:
        match incoming.path.lstrip("/").partition("/")[0]:
            case "sandbox":
                return self.admin.answer(incoming)
            case "hooks":
                return self.hooks.answer(incoming)
            case "v2":
                return self.square.answer(incoming)
            case first if first == API_VERSION:
                return self.twilio.answer(incoming)
        return self.shopify.answer(incoming)


class Handler(BaseHTTPRequestHandler):
    """Read a request, have it answered, send the answer as it wants to be sent."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_any(self) -> None:
        body = self.read_body()
        if body is None:
            return
        parts = urlsplit(self.path)
        incoming = Incoming(
            method=self.command,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query)),
            headers=self.headers,  # type: ignore[arg-type]  # Its lookups ignore case, as HTTP wants.
            body=body,
        )
        self.send(self.server.answer(incoming))

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_any  # noqa: N815

    def read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True
            self.send(as_json(411, {"errors": "A Content-Length of at most 10 MiB is required"}))
            return None
        return self.rfile.read(int(length))

    def send(self, answer: Answer) -> None:
        if answer.wait_seconds:
            self.server.stopping.wait(answer.wait_seconds)
        if answer.delivery == "cut":
            self.close_connection = True
            return
        head = self.head(answer)
        if answer.chunks is not None:
            self.send_chunks(head, answer, answer.chunks)
            return
        match answer.delivery:
            case "half":
                self.close_connection = True
                self.wfile.write(head + answer.body[: len(answer.body) // 2])
            case "drip":
                self.wfile.write(head)
                self.drip(answer)
            case _:
                self.wfile.write(head + answer.body)

    def send_chunks(self, head: bytes, answer: Answer, chunks: Iterable[bytes]) -> None:
        half = answer.delivery == "half"
        self.close_connection = self.close_connection or half
        left = answer.length // 2 if half else answer.length
        self.wfile.write(head)
        for chunk in chunks:
            self.wfile.write(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break
            if answer.delivery == "drip":
                self.server.stopping.wait(answer.drip_seconds / DRIPS)

    def head(self, answer: Answer) -> bytes:
        headers = {
            "Date": formatdate(self.server.world.clock.seconds(), usegmt=True),
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body) if answer.chunks is None else answer.length),
            "X-Request-Id": str(uuid.uuid4()),
            **answer.headers,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        # Vendors have statuses of their own, such as Shopify's 430.
        phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
        lines = [f"HTTP/1.1 {answer.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def drip(self, answer: Answer) -> None:
        size = max(1, len(answer.body) // DRIPS + 1)
        for start in range(0, len(answer.body), size):
            self.wfile.write(answer.body[start : start + size])
            self.server.stopping.wait(answer.drip_seconds / DRIPS)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet: the log of requests is at /sandbox/requests, and it holds no tokens."""


class Sandbox:
    """A running sandbox: `with Sandbox(World(shops=2), port=0) as sandbox: sandbox.url`.

    It serves from a thread; `port=0` takes a free port. `change_every` makes one random edit, shop after shop,
    every so many seconds; 0 makes none.
    """

    def __init__(self, world: World | None = None, port: int = 0, change_every: float = 0.0) -> None:
        self.world = world if world is not None else World()
        self.change_every = change_every
        self.started = False
        try:
            self.server = Server(port, self.world)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CannotListenError(f"sandbox cannot listen on {HOST}:{port}: {reason}") from error
        self.port: int = self.server.server_port
        self.url = self.world.twilio.base_url = f"http://{HOST}:{self.port}"
        for shop in self.world.shops.values():
            shop.base_url = self.url
        for merchant in self.world.square_merchants.values():
            merchant.base_url = self.url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.started = True
        self.world.courier.start()
        serving = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, name="sandbox", daemon=True
        )
        serving.start()
        if self.change_every > 0:
            threading.Thread(target=self.keep_changing, name="sandbox-changes", daemon=True).start()

    def keep_changing(self) -> None:
        while not self.server.stopping.wait(self.change_every):
            self.world.change_one()

    def play(
        self, scenario: Scenario, *, tell: Callable[[str], None], speed: float = 1.0
    ) -> threading.Thread:
        """Play a scenario in a thread, telling its steps as they happen."""
        check_speed(speed)
        self.server.admin.scenario = scenario
        playing = threading.Thread(
            target=play,
            args=(scenario, self.world),
            kwargs={"wait": self.server.stopping.wait, "tell": tell, "speed": speed},
            name="sandbox-scenario",
            daemon=True,
        )
        playing.start()
        return playing

    def stop(self) -> None:
        self.world.courier.stop()
        if self.started:
            self.server.stop()
        else:
            self.server.server_close()


def serve(
    *,
    port: int = 4010,
    shops: int | None = None,
    variants: int | None = None,
    seed: int = 7,
    change_every: float = 0.0,
    search_lag: float = 0.0,
    customers: int | None = None,
    orders_per_customer: float = 3.0,
    scenario: str | None = None,
    speed: float = 1.0,
    merchants: int = 0,
    square_variants: int = 1000,
    square_customers: int = 1000,
    webhook_hour: float = HOUR_SECONDS,
) -> int:
    """Serve until SIGINT or SIGTERM; the answer is the exit code. A scenario says how many shops and variants."""
    script = None
    if scenario is not None:
        size = {"shops": shops, "variants": variants}
        script = make_scenario(scenario, **{name: count for name, count in size.items() if count is not None})
        shops, variants = script.shops, script.variants
    check_speed(speed)
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        # Before the shops are made, so that an early Ctrl-C ends cleanly too.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        world = World(
            shops=SHOPS if shops is None else shops,
            variants=VARIANTS if variants is None else variants,
            seed=seed,
            clock=time.time,
            search_lag=search_lag,
            customers=customers,
            orders_per_customer=orders_per_customer,
            merchants=merchants,
            square_variants=square_variants,
            square_customers=square_customers,
            webhook_hour=webhook_hour,
        )
        content = f"{len(world.shops)} shops" + (f", {merchants} merchants" if merchants else "")
        with Sandbox(world, port=port, change_every=change_every) as sandbox:
            say(f"sandbox listening on {sandbox.url} ({content})")
            if script is not None:
                sandbox.play(script, tell=say, speed=speed)
            # Not an Event: its lock deadlocks when a second signal comes while it is held, and a signal that comes
            # just before a wait without end is only noticed at the next one.
            while not signals:
                time.sleep(STOP_CHECK_SECONDS)
    except CannotListenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def check_speed(speed: float) -> None:
    if not 0 < speed < math.inf:
        raise RejectedError("speed", "must be more than 0")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
