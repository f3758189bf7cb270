"""A sender of webhooks in a process of its own, fast enough not to be what is measured.

    with sending(port) as sender:
        sender.send(None, seconds=5, connections=256)      # as many as can be
        sender.send(5_000, seconds=5, connections=256)     # so many a second

Requests are built beforehand but for the delivery's id; answers are read as far as their status. At a rate, an answer's time
counts from when its request was due, so that a receiver that stands still is charged with all that it keeps waiting.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
import uvloop

SECRET = "benchmark-secret"
SHOP = "benchmark.myshopify.com"
BODY_BYTES = 4096
BODIES = 64
TICK_SECONDS = 0.001
WARM_UP_SECONDS = 0.5


class Sent(NamedTuple):
    """How many were answered 200 and otherwise, milliseconds of the answers' times, and the share of one processor that
    sending took."""

    a_second: float
    answered: int
    refused: int
    p50_ms: float
    p99_ms: float
    processor: float


class Sender:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, rate: float | None, *, seconds: float, connections: int) -> Sent:
        """At `rate` a second; None: each connection sends again as soon as it was answered."""
        assert self._process.stdin
        assert self._process.stdout
        print(orjson.dumps([rate, seconds, connections]).decode(), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sender ended")
        return Sent(*orjson.loads(line))


@contextmanager
def sending(port: int) -> Iterator[Sender]:
    command = [sys.executable, "-m", __name__, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Sender(process)
        finally:
            process.terminate()


# In the process


def requests() -> list[tuple[bytes, bytes]]:
    """What stands before and behind a delivery's id: orders as Shopify sends them, signed, with all its headers."""
    made = []
    for number in range(1, BODIES + 1):
        order = {
            "id": number,
            "admin_graphql_api_id": f"gid://shopify/Order/{number}",
            "created_at": "2026-11-23T12:00:00-05:00",
            "updated_at": "2026-11-23T12:30:00-05:00",
            "currency": "USD",
            "total_price": "398.00",
            "line_items": [],
        }
        items: list[dict[str, Any]] = order["line_items"]  # type: ignore[assignment]
        while len(body := orjson.dumps(order)) < BODY_BYTES - 200:
            items.append(
                {
                    "id": number * 100 + len(items),
                    "admin_graphql_api_id": f"gid://shopify/LineItem/{number * 100 + len(items)}",
                    "current_quantity": 1,
                    "price": "199.00",
                    "title": "IPod Nano - 8GB",
                    "sku": f"IPOD-{number}-{len(items)}",
                    "variant_id": 808950810,
                }
            )
        order["note"] = "x" * (BODY_BYTES - len(body) - len(',"note":""'))
        body = orjson.dumps(order)
        signature = base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode()
        head = (
            "POST /webhooks/shopify HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: Shopify-Captain-Hook\r\n"
            f"Content-Length: {len(body)}\r\nAccept: */*\r\nAccept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3\r\n"
            "Content-Type: application/json\r\nX-Forwarded-For: 34.133.113.228\r\nX-Forwarded-Proto: https\r\n"
            "X-Shopify-Api-Version: 2026-07\r\nX-Shopify-Event-Id: 98880550-7158-44d4-b7cd-2c97c8a091b5\r\n"
            f"X-Shopify-Hmac-Sha256: {signature}\r\nX-Shopify-Shop-Domain: {SHOP}\r\nX-Shopify-Topic: orders/updated\r\n"
            "X-Shopify-Triggered-At: 2026-11-23T17:30:01.877041743Z\r\nX-Shopify-Webhook-Id: "
        )
        made.append((head.encode(), b"\r\n\r\n" + body))
    return made


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self.run = run
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, due: float) -> None:
        self.due = due
        self.transport.write(next(self.run.requests))

    def data_received(self, data: bytes) -> None:
        # One request at a time and an answer without a body: it comes whole.
        self.run.answered(self, data.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, _: Exception | None) -> None:
        self.run.lost = not self.run.is_over


class _Run:
    """Everything that is sent between two moments."""

    def __init__(self, requests: Iterator[bytes], rate: float | None) -> None:
        self.requests = requests
        self.rate = rate
        self.times: list[float] = []
        self.refused = 0
        self.is_over = False
        self.lost = False
        self.idle: deque[_Connection] = deque()
        self.overdue: deque[float] = deque()

    def answered(self, connection: _Connection, well: bool) -> None:
        now = time.perf_counter()
        if well:
            self.times.append(now - connection.due)
        else:
            self.refused += 1
        if self.is_over:
            return
        if self.rate is None:
            connection.send(now)
        elif self.overdue:
            connection.send(self.overdue.popleft())
        else:
            self.idle.append(connection)

    async def keep_the_rate(self, seconds: float) -> None:
        assert self.rate
        began = time.perf_counter()
        issued = 0
        while (passed := time.perf_counter() - began) < seconds:
            while issued < passed * self.rate:
                due = began + issued / self.rate
                issued += 1
                if self.idle:
                    self.idle.popleft().send(due)
                else:
                    self.overdue.append(due)
            await asyncio.sleep(TICK_SECONDS)


async def run(
    port: int, requests: Iterator[bytes], rate: float | None, seconds: float, connections: int
) -> Sent:
    loop = asyncio.get_running_loop()
    run = _Run(requests, rate)
    made = [
        (await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    for connection in made:
        if rate is None:
            connection.send(time.perf_counter())
        else:
            run.idle.append(connection)
    if rate is None:
        await asyncio.sleep(WARM_UP_SECONDS)
        run.times.clear()
    began, used = time.perf_counter(), time.process_time()
    if rate is None:
        await asyncio.sleep(seconds)
    else:
        await run.keep_the_rate(seconds)
    passed, used = time.perf_counter() - began, time.process_time() - used
    times = sorted(run.times)
    run.is_over = True
    if run.lost or not times:
        raise RuntimeError("the receiver closed a connection, or answered nothing")
    # What has not been answered is no faster than the slowest that has.
    await asyncio.sleep(0.5)
    for connection in made:
        connection.transport.close()
    await asyncio.sleep(0.1)
    return Sent(
        len(times) / passed,
        len(times),
        run.refused,
        times[len(times) // 2] * 1000,
        times[int(len(times) * 0.99)] * 1000,
        used / passed,
    )


def main() -> None:
    # Ctrl-C reaches the whole foreground; ours ends when whoever started it closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = int(sys.argv[1])
    numbers = itertools.count(int(time.time() * 1000) * 1_000_000)
    built = itertools.cycle(requests())
    sent = (
        before + b"%d" % number + behind for number, (before, behind) in zip(numbers, built, strict=False)
    )
    for line in sys.stdin:
        rate, seconds, connections = orjson.loads(line)
        figures = uvloop.run(run(port, sent, rate, seconds, connections))
        print(orjson.dumps(tuple(figures)).decode(), flush=True)


if __name__ == "__main__":
    main()
