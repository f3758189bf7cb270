"""Deliveries of webhooks: posted by a few threads, retried as the vendor would, and written down.

A vendor's side makes a `Delivery` and hands it to the `Courier`. Waiting is done in real time, whatever the
sandbox's clock says: vendors spread their retries over hours, which whoever makes a delivery may shorten.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from random import Random
from typing import Any
from urllib.parse import SplitResult, urlsplit

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.faults import WEBHOOK_KINDS, Fault

THREADS = 8
TIMEOUT_SECONDS = 5.0
STOP_SECONDS = 1.0
# What a place remembers, and what may wait to be sent in the whole sandbox.
DELIVERIES_KEPT = 20_000
MOST_PENDING = 200_000
LOOPBACK = frozenset({"127.0.0.1", "localhost"})
HOUR_SECONDS = 1.0
"""How long an hour of a vendor's retries takes, unless it is told."""


@dataclass
class Delivery:
    """One notification for one address; each try posts the same body with the same `id`.

    `retries` are the seconds to wait before each retry. `status` is pending, then delivered, failed or lost.
    `answers` has one entry a try: the HTTP status, or what went wrong. `retry_headers` are added to a retry;
    `give_up` is called when the last try has failed.
    """

    topic: str
    id: str
    event_id: str
    object_id: str | None
    subscription_id: str | None
    uri: str
    created_at: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    retries: Sequence[float] = ()
    retry_headers: Callable[[Delivery], Mapping[str, str]] | None = field(default=None, repr=False)
    give_up: Callable[[], object] = field(default=lambda: None, repr=False)
    status: str = "pending"
    tries: int = 0
    answers: list[int | str] = field(default_factory=list)
    last_try_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        names = ("topic", "id", "event_id", "object_id", "subscription_id", "uri", "status", "tries")
        shown = {name: getattr(self, name) for name in names}
        return {
            **shown,
            "answers": list(self.answers),
            "created_at": self.created_at,
            "last_try_at": self.last_try_at,
        }


class Courier:
    """Sends deliveries. Its threads start with the first one; `stop` ends them at once, with what they were sending."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pending = 0
        lock = threading.Lock()
        self._due_changed = threading.Condition(lock)
        self._all_settled = threading.Condition(lock)
        self._due: list[tuple[float, int, Delivery]] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._connections: set[HTTPConnection] = set()
        self._stopped = False

    def send(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Have it posted after so many seconds, and again until it is taken or its retries are used up."""
        with self._due_changed:
            if self._stopped or self.pending >= MOST_PENDING:
                delivery.status = "lost"
                return
            self.pending += 1
            self._put(delivery, delay_seconds)
            if len(self._threads) < THREADS:
                self._threads.append(threading.Thread(target=self._work, name="sandbox-courier", daemon=True))
                self._threads[-1].start()

    def settled(self, timeout: float) -> bool:
        """Wait until nothing is to be sent any more, late ones and retries included; False if it takes longer."""
        with self._all_settled:
            return self._all_settled.wait_for(lambda: not self.pending, timeout)

    def start(self) -> None:
        """Take deliveries again after a stop."""
        with self._due_changed:
            self._stopped = False

    def stop(self) -> None:
        with self._due_changed:
            self._stopped = True
            for _, _, delivery in self._due:
                delivery.status = "lost"
            self._due.clear()
            self.pending = 0
            threads, self._threads = self._threads, []
            connections = list(self._connections)
            self._due_changed.notify_all()
            self._all_settled.notify_all()
        for connection in connections:
            with contextlib.suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(STOP_SECONDS)

    def _put(self, delivery: Delivery, delay_seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay_seconds, next(self._numbers), delivery))
        self._due_changed.notify()

    def _work(self) -> None:
        me = threading.current_thread()
        own: dict[tuple[str, str, int | None], HTTPConnection] = {}
        try:
            while (delivery := self._next(me)) is not None:
                delivery.tries += 1
                delivery.last_try_at = self.clock.stamp()
                self._settle(me, delivery, self._post(own, delivery))
        finally:
            for connection in own.values():
                self._connections.discard(connection)
                connection.close()

    def _next(self, me: threading.Thread) -> Delivery | None:
        with self._due_changed:
            while me in self._threads:
                wait_seconds = self._due[0][0] - time.monotonic() if self._due else None
                if wait_seconds is not None and wait_seconds <= 0:
                    return heapq.heappop(self._due)[2]
                self._due_changed.wait(wait_seconds)
        return None

    def _settle(self, me: threading.Thread, delivery: Delivery, answer: int | str) -> None:
        delivery.answers.append(answer)
        taken = isinstance(answer, int) and 200 <= answer < 300
        with self._due_changed:
            if me not in self._threads:
                delivery.status = "delivered" if taken else "lost"
                return
            if not taken and delivery.tries <= len(delivery.retries):
                self._put(delivery, delivery.retries[delivery.tries - 1])
                return
        # Whoever waits for all to be settled finds done what follows from it.
        if not taken:
            delivery.give_up()
        delivery.status = "delivered" if taken else "failed"
        delivery.headers, delivery.body = {}, b""
        with self._all_settled:
            if me in self._threads:
                self.pending -= 1
                if not self.pending:
                    self._all_settled.notify_all()

    def _post(self, own: dict[tuple[str, str, int | None], HTTPConnection], delivery: Delivery) -> int | str:
        parts = urlsplit(delivery.uri)
        if parts.hostname not in LOOPBACK:
            return "not sent: the sandbox posts to this machine alone"
        place = (parts.scheme, parts.hostname, parts.port)
        connection = own.get(place)
        if connection is None:
            connection = own[place] = open_connection(*place)
            self._connections.add(connection)
        elif is_stale(connection):
            connection.close()
        extra = delivery.retry_headers(delivery) if delivery.retry_headers and delivery.tries > 1 else {}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", target, delivery.body, {**delivery.headers, **extra})
            response = connection.getresponse()
            response.read()
        except TimeoutError:
            connection.close()
            return "timeout"
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            return type(error).__name__
        return response.status


def open_connection(scheme: str, host: str, port: int | None) -> HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
    return HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)


def split_address(uri: str) -> SplitResult | None:
    """The parts of an address; None if it is none."""
    try:
        parts = urlsplit(uri)
        # In pubsub://project:topic the part behind the colon is no port.
        has_port = parts.scheme not in {"http", "https"} or parts.port != 0
        return parts if parts.scheme and parts.hostname and has_port else None
    except ValueError:
        return None


def is_allowed(parts: SplitResult) -> bool:
    """Whether a vendor posts there: over https, and over plain http to this machine, where the sandbox lives."""
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def is_stale(connection: HTTPConnection) -> bool:
    """Whether the other side has closed a connection that was kept: nothing else is to be read from it now."""
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


class Outbox:
    """What one shop or merchant sends: `sent` has the last of its deliveries, `hour_seconds` is how long an hour takes
    until a retry, and `faults`, the place's own list, may lose, double, delay or shuffle what is sent."""

    def __init__(self, courier: Courier, faults: list[Fault], random: Random) -> None:
        self.courier = courier
        self.faults = faults
        self.random = random
        self.hour_seconds = HOUR_SECONDS
        self.sent: deque[Delivery] = deque(maxlen=DELIVERIES_KEPT)

    def post(self, delivery: Delivery, retry_hours: Sequence[float], delay_seconds: float = 0.0) -> None:
        """Send it with a retry after each of so many hours; hold the place's lock."""
        retries = [hours * self.hour_seconds for hours in retry_hours]
        delays = self._delays(delivery.topic)
        if not delays:
            delivery.status = "lost"
            self.sent.append(delivery)
        for delay in delays:
            copy = replace(delivery, retries=retries, answers=[])
            self.sent.append(copy)
            self.courier.send(copy, delay_seconds + delay)

    def _delays(self, topic: str) -> list[float]:
        """In how many seconds a delivery is sent: once and at once, unless a fault says otherwise."""
        delays = [0.0]
        for fault in self.faults:
            if fault.kind not in WEBHOOK_KINDS or not fault.applies(topic, ""):
                continue
            match fault.kind:
                case "webhook_lost":
                    return []
                case "webhook_twice":
                    delays *= 2
                case "webhook_late":
                    delays = [delay + fault.seconds for delay in delays]
                case _:
                    delays = [delay + self.random.uniform(0, fault.seconds) for delay in delays]
        return delays
