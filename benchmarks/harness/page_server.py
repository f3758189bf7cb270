"""Shopify's pages of one big shop, serialised beforehand and served by a process of its own.

    with serve(catalogue_pages, variants=50_000, levels=200_000) as server:
        ...                             # server.url speaks the Admin API, for the product's own documents only
        server.requests()               # how many of each operation were asked since this was last called

The sandbox would answer the same, but it executes GraphQL, and its time would drown ours. This one looks a page
up by what was asked for, and sends it. Variables are compared with what is served: another page size or an unknown
document is an error, not an approximation. It ends when its standard input does, that is, with whoever started it.

A module of pages has `answers(**sizes)`, every answer of that shop, and `SIZES`, the numbers of rows that each of the
product's operations asks for.
"""

from __future__ import annotations

import importlib
import signal
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from types import ModuleType
from typing import Any, NamedTuple

import orjson
import requests

TOKEN = "shpat_benchmark"


class Key(NamedTuple):
    """What a page is looked up by; `within` is the id of the one row whose rows they are."""

    operation: str
    cursor: str | None = None
    changed: bool = False
    within: str | None = None


@dataclass(frozen=True)
class PageServer:
    url: str
    process_id: int

    def requests(self) -> dict[str, int]:
        """Requests by operation since the last call."""
        counts: dict[str, int] = requests.get(f"{self.url}/requests", timeout=10).json()
        return counts


@contextmanager
def serve(pages: ModuleType, **sizes: int) -> Iterator[PageServer]:
    command = [sys.executable, "-m", __name__, pages.__name__, *(f"{name}={n}" for name, n in sizes.items())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the page server did not start")
            yield PageServer(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


# For the modules of pages


def cursor(first: int) -> str:
    return f"eyJsYXN0X2lkIjo{first}fQ=="


def rows(nodes: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
    return {"nodes": nodes, "pageInfo": {"hasNextPage": next_cursor is not None, "endCursor": next_cursor}}


def answer(data: dict[str, Any]) -> bytes:
    # A bucket that is always full: the vendor's pace is not what is measured.
    bucket = {"maximumAvailable": 20_000.0, "currentlyAvailable": 20_000, "restoreRate": 1000.0}
    cost = {"requestedQueryCost": 104, "actualQueryCost": 104, "throttleStatus": bucket}
    return orjson.dumps({"data": data, "extensions": {"cost": cost}})


# The server


class _Handler(socketserver.StreamRequestHandler):
    """One connection: requests one after the other, each answered with a page that lies ready."""

    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        # A client that was stopped is no fault of ours.
        with suppress(ConnectionError):
            self._answer_all()

    def _answer_all(self) -> None:
        while request := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line[:15].lower() == b"content-length:":
                    length = int(line[15:])
            asked = self.rfile.read(length)
            if request.startswith(b"GET /requests "):
                status, body = "200 OK", self.server.counted()
            else:
                status, body = self.server.answer(asked)
            head = (
                f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n"
                "Content-Type: application/json; charset=utf-8\r\n"
                f"X-Request-Id: 5b2c6c1e-8f2e-4a52-9f6e-1c1f5a0e7d11\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            self.connection.sendall(head.encode() + body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, answers: Mapping[Key, bytes], sizes: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._answers = answers
        self._sizes = sizes
        self._counts: Counter[str] = Counter()

    def counted(self) -> bytes:
        counts, self._counts = self._counts, Counter()
        return orjson.dumps(counts)

    def answer(self, asked: bytes) -> tuple[str, bytes]:
        request = orjson.loads(asked)
        variables = request["variables"]
        operation = request["query"].split("(", 1)[0].split()[-1]
        self._counts[operation] += 1
        sizes = self._sizes.get(operation, {})
        within = next((variables[name] for name in ("location", "order") if name in variables), None)
        key = Key(operation, variables["after"], bool(variables["query"]), within)
        answer = self._answers.get(key)
        if answer is None or any(variables[name] != size for name, size in sizes.items()):
            return "404 Not Found", b"{}"
        return "200 OK", answer


def main() -> None:
    # Ctrl-C reaches the whole foreground; ours ends when whoever started it closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pages = importlib.import_module(sys.argv[1])
    sizes = {name: int(n) for name, _, n in (argument.partition("=") for argument in sys.argv[2:])}
    with _Server(pages.answers(**sizes), pages.SIZES) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
