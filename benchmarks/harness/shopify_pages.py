"""Shopify's pages of one big shop, serialised beforehand and served by a process of its own.

    with serve(variants=50_000, levels=200_000) as server:
        ...                             # server.url speaks the Admin API, for the product's own documents only
        server.requests()               # how many of each operation were asked since this was last called

The sandbox would answer the same, but it executes GraphQL, and its time would drown ours. This one looks a page
up by operation, location and cursor, and sends it. What was asked for is compared with what is served: another page
size or an unknown document is an error, not an approximation. It ends when its standard input does, that is, with
whoever started it.
"""

from __future__ import annotations

import random
import signal
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import orjson
import requests

PAGE_ROWS = 250
LEVELS_AT_FIRST = 15
LOCATIONS = 4
TOKEN = "shpat_benchmark"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Key = tuple[str, str | None, str | None]
"""Operation, location and cursor; `CHANGED` as the cursor stands for a search by time."""
CHANGED = "changed"


@dataclass(frozen=True)
class PageServer:
    url: str
    process_id: int

    def requests(self) -> dict[str, int]:
        """Requests by operation since the last call."""
        counts: dict[str, int] = requests.get(f"{self.url}/requests", timeout=10).json()
        return counts


@contextmanager
def serve(*, variants: int, levels: int) -> Iterator[PageServer]:
    command = [sys.executable, "-m", __name__, str(variants), str(levels)]
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


def pages(variants: int, levels: int) -> dict[Key, bytes]:
    """Every answer this shop can give."""
    random_ = random.Random(2026)
    answers: dict[Key, bytes] = {}
    _add_variants(answers, variants, random_)
    _add_levels(answers, levels // LOCATIONS, random_)
    return answers


def _add_variants(answers: dict[Key, bytes], count: int, random_: random.Random) -> None:
    def data(nodes: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
        return {
            "shop": {"currencyCode": "EUR"},
            "count": {"count": count, "precision": "EXACT"},
            "rows": _rows(nodes, next_cursor),
        }

    for first in range(0, count, PAGE_ROWS):
        nodes = [_variant(i, random_) for i in range(first, min(first + PAGE_ROWS, count))]
        more = first + PAGE_ROWS < count
        key = ("ProductVariants", None, _cursor(first) if first else None)
        answers[key] = _answer(data(nodes, _cursor(first + PAGE_ROWS) if more else None))
    answers["ProductVariants", None, CHANGED] = _answer(data([], None))


def _add_levels(answers: dict[Key, bytes], items: int, random_: random.Random) -> None:
    """Levels of all items at each location: the first few in one answer, the rest location by location."""
    locations = [f"gid://shopify/Location/{61_000_000_000 + 7 * i}" for i in range(LOCATIONS)]
    first_nodes, changed_nodes = [], []
    for number, location in enumerate(locations):
        nodes = [_level(number, i, random_) for i in range(min(LEVELS_AT_FIRST, items))]
        more = items > LEVELS_AT_FIRST
        first_nodes.append(
            {"id": location, "inventoryLevels": _rows(nodes, _cursor(LEVELS_AT_FIRST) if more else None)}
        )
        changed_nodes.append({"id": location, "inventoryLevels": _rows([], None)})
        for first in range(LEVELS_AT_FIRST, items, PAGE_ROWS):
            nodes = [_level(number, i, random_) for i in range(first, min(first + PAGE_ROWS, items))]
            more = first + PAGE_ROWS < items
            rows = _rows(nodes, _cursor(first + PAGE_ROWS) if more else None)
            answers["LocationInventoryLevels", location, _cursor(first)] = _answer(
                {"location": {"rows": rows}}
            )
    answers["InventoryLevels", None, None] = _answer({"rows": _rows(first_nodes, None)})
    answers["InventoryLevels", None, CHANGED] = _answer({"rows": _rows(changed_nodes, None)})


def _variant(i: int, random_: random.Random) -> dict[str, Any]:
    cents = random_.randrange(500, 20_000)
    return {
        "id": f"gid://shopify/ProductVariant/{42_000_000_000_000 + 37 * i}",
        "title": f"{random_.choice(('Small', 'Medium', 'Large'))} / {random_.choice(('Ink', 'Oat', 'Moss'))}",
        "sku": f"SKU-{i:07d}",
        "barcode": f"40{i:011d}" if i % 3 else None,
        "position": i % 5 + 1,
        "price": f"{cents / 100:.2f}",
        "compareAtPrice": f"{cents / 50:.2f}" if i % 4 == 0 else None,
        "updatedAt": _time(random_),
        "product": {"id": f"gid://shopify/Product/{8_000_000_000_000 + 37 * (i // 5)}"},
        "inventoryItem": {"id": _item(i)},
    }


def _level(location: int, i: int, random_: random.Random) -> dict[str, Any]:
    on_hand, committed = random_.randrange(200), random_.randrange(5)
    quantities = {"available": on_hand - committed, "on_hand": on_hand, "committed": committed, "incoming": 0}
    return {
        "id": f"gid://shopify/InventoryLevel/{101_000_000_000 + location}?inventory_item_id={_item_number(i)}",
        "isActive": True,
        "updatedAt": _time(random_),
        "item": {"id": _item(i)},
        "quantities": [{"name": name, "quantity": quantity} for name, quantity in quantities.items()],
    }


def _item_number(i: int) -> int:
    return 44_000_000_000_000 + 37 * i


def _item(i: int) -> str:
    return f"gid://shopify/InventoryItem/{_item_number(i)}"


def _time(random_: random.Random) -> str:
    return f"{EPOCH + timedelta(seconds=random_.randrange(10_000_000)):%Y-%m-%dT%H:%M:%SZ}"


def _cursor(first: int) -> str:
    return f"eyJsYXN0X2lkIjo{first}fQ=="


def _rows(nodes: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
    return {"nodes": nodes, "pageInfo": {"hasNextPage": next_cursor is not None, "endCursor": next_cursor}}


def _answer(data: dict[str, Any]) -> bytes:
    # A bucket that is always full: the vendor's pace is not what is measured.
    bucket = {"maximumAvailable": 20_000.0, "currentlyAvailable": 20_000, "restoreRate": 1000.0}
    cost = {"requestedQueryCost": 104, "actualQueryCost": 104, "throttleStatus": bucket}
    return orjson.dumps({"data": data, "extensions": {"cost": cost}})


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

    def __init__(self, answers: dict[Key, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._answers = answers
        self._counts: Counter[str] = Counter()

    def counted(self) -> bytes:
        counts, self._counts = self._counts, Counter()
        return orjson.dumps(counts)

    def answer(self, asked: bytes) -> tuple[str, bytes]:
        request = orjson.loads(asked)
        variables = request["variables"]
        operation = request["query"].split("(", 1)[0].split()[-1]
        self._counts[operation] += 1
        cursor = CHANGED if variables["query"] else variables["after"]
        sizes = {"first": 20, "levels": LEVELS_AT_FIRST} if "levels" in variables else {"first": PAGE_ROWS}
        answer = self._answers.get((operation, variables.get("location"), cursor))
        if answer is None or any(variables[name] != size for name, size in sizes.items()):
            return "404 Not Found", b"{}"
        return "200 OK", answer


def main() -> None:
    # Ctrl-C reaches the whole foreground; ours ends when whoever started it closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    variants, levels = map(int, sys.argv[1:])
    with _Server(pages(variants, levels)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
