"""Shopify for a whole fleet: thousands of shops over TLS and gzip, each at an address of its own, out of prepared bytes.

    with serve() as vendor:
        vendor.api_url(17)              # https://127.16.0.17:41234: a store of the fleet
        vendor.change([17])             # a variant, a stock level, a customer and an order of that store change
        vendor.figures()                # requests, connections, changes, processor seconds

All shops are one small shop of the sandbox, each with changes of its own laid over it. Any document is answered: the sandbox
executes it once, and what comes out lies ready, packed, for whoever asks the same and has no change to be told. What is
asked "since" a time is the same question at any time, as long as nothing has changed since. An answer is sent 100 ms after
its request. The process ends when its standard input does, that is, with whoever started it.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import graphql
import httptools
import orjson
import uvloop

from benchmarks.harness.machine import processor_seconds
from bg_pipelines.sandbox.clock import stamp
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.api import Call, Shopify
from bg_pipelines.sandbox.shopify.schema import read
from bg_pipelines.sandbox.shopify.table import Table
from bg_pipelines.sandbox.world import World
from bg_pipelines_tests.platforms.tls import Authority

LATENCY_SECONDS = 0.1
VARIANTS, CUSTOMERS, ORDERS_PER_CUSTOMER = 12, 10, 1
"""Of each store: an idle visit reads none of them."""
FIRST_HOST = 16 << 16
"""127.16.0.0 and those after it are the stores' addresses: all of 127.0.0.0/8 is this machine."""
HOSTS_A_CERTIFICATE = 64
"""So that it is about as long as a vendor's."""
PLENTY = 20_000.0
"""Points in a shop's bucket: the vendor's pace is not what is measured."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
SHOP = b"gid://shopify/Shop/of-the-store"
"""In what is executed; each store's answer has its own."""
WITHOUT_CHANGES = frozenset(
    {
        "shop", "location", "locations", "currentAppInstallation", "productsCount", "productVariantsCount",
        "customersCount", "ordersCount",
    }
)  # fmt: skip
"""Fields of the root that no change of ours shows in, but where they are searched."""


# For the benchmark


class Vendor:
    """The running vendor."""

    def __init__(self, process: subprocess.Popen[str], authority: Path, port: int) -> None:
        self.process_id = process.pid
        self.authority = authority
        """The certificates to trust: of `REQUESTS_CA_BUNDLE`."""
        self._process = process
        self._port = port

    def api_url(self, store: int) -> str:
        return f"https://{_host(store)}:{self._port}"

    def change(self, stores: Sequence[int]) -> None:
        """In each of these stores one row of each kind changes now."""
        self._ask({"change": list(stores)})

    def figures(self) -> dict[str, Any]:
        """Of all the time since the start: `changes`, `requests` by operation, `connections` and so on.

        Raises RuntimeError where it could not answer something.
        """
        figures = self._ask({"figures": True})
        if figures["refused"]:
            raise RuntimeError(f"the vendor could not answer: {figures['refused']}")
        return {**figures, "processor_seconds": processor_seconds(self.process_id)}

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(orjson.dumps(question).decode() + "\n")
        self._process.stdin.flush()
        return orjson.loads(self._process.stdout.readline())


@contextmanager
def serve() -> Iterator[Vendor]:
    with tempfile.TemporaryDirectory(prefix="bg-fleet-") as folder:
        authority = Path(folder) / "authority.pem"
        command = [sys.executable, "-m", __name__, str(authority)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout
            try:
                port = process.stdout.readline().strip()
                if not port:
                    raise RuntimeError("the vendor did not start")
                yield Vendor(process, authority, int(port))
            finally:
                process.terminate()


def shop_id(store: int) -> str:
    return f"gid://shopify/Shop/{7_000_000_000 + store}"


def _host(store: int) -> str:
    return socket.inet_ntoa((127 << 24 | FIRST_HOST + store).to_bytes(4))


# What it answers


@dataclass
class Change:
    """One moment at which a store changed, and what: fields by the id of the row, and the row of each kind."""

    store: int
    at: float
    rows: dict[str, Node]
    tables: dict[str, str] = field(default_factory=dict)


class Shops:
    """What every store of the fleet is asked and answers."""

    def __init__(self) -> None:
        world = World(
            shops=1, variants=VARIANTS, customers=CUSTOMERS, orders_per_customer=ORDERS_PER_CUSTOMER
        )
        (self.shop,) = world.shops.values()
        self.shopify = Shopify(world.shops, world.next_number)
        self.shop.bucket.resize(PLENTY, PLENTY)
        ledger = self.shop.ledger
        for person in [*ledger.customers, *ledger.orders]:
            # One person in thousands of stores would be one person: matching them is not what is measured.
            for name in ("defaultEmailAddress", "defaultPhoneNumber", "email", "phone"):
                person.pop(name, None)
        self.kinds: dict[str, Table] = {
            "product_variants": self.shop.store.variants,
            "inventory_levels": self.shop.store.levels,
            "customers": ledger.customers,
            "orders": ledger.orders,
        }
        tables = [*self.kinds.values(), self.shop.store.products, self.shop.store.locations]
        self.rows: dict[str, Node] = {row["id"]: row for table in tables for row in table}
        self.newest = max(row["updatedAt"] for row in self.rows.values())
        self.changes: dict[int, list[Change]] = {}
        self.shop.store.shop["id"] = SHOP.decode()
        self.executed: dict[tuple[str, str], bytes] = {}
        self.ready: dict[tuple[tuple[str, str], int | None], bytes] = {}
        self.refused: Counter[str] = Counter()
        self.executions = 0

    def change(self, store: int) -> None:
        """The next row of each kind changes; a variant's product with it, as at the vendor."""
        now, before = time.time(), self.changes.setdefault(store, [])
        at = stamp(now)
        change = Change(store, now, {})
        for kind, table in self.kinds.items():
            rows = [row for row in table if row.get("isActive", True)]
            row = rows[len(before) % len(rows)]
            change.tables[kind] = row["id"]
            change.rows[row["id"]] = {"updatedAt": at}
            if kind == "product_variants":
                change.rows[row["id"]]["price"] = str(int(now) % 1000)
                change.rows[row["product"]["id"]] = {"updatedAt": at}
            elif kind == "inventory_levels":
                change.rows[row["id"]]["_quantities"] = dict.fromkeys(row["_quantities"], int(now) % 1000)
            else:
                change.rows[row["id"]]["note"] = f"changed {at}"
        before.append(change)

    def answer(self, store: int, asked: bytes) -> bytes:
        """The answer to a GraphQL request, packed."""
        call = orjson.loads(asked)
        text, variables = call["query"], call.get("variables") or {}
        names = _searches(text)
        times = [
            found for name in names or () if (found := TIME.search(str(variables.get(name)))) is not None
        ]
        all_since = names is not None and len(times) == len(names)
        since = min((found.group() for found in times), default="")
        changes = self.changes.get(store, [])
        shown = [one for one in changes if not all_since or since <= stamp(one.at)]
        if shown or (times and since <= self.newest):
            return _packed(self.execute(text, variables, changes), store)
        key = text, TIME.sub("", orjson.dumps(variables).decode())
        if key not in self.executed:
            self.executed[key] = self.execute(text, variables, [])
        executed = self.executed[key]
        ready = key, store if SHOP in executed else None
        if ready not in self.ready:
            self.ready[ready] = _packed(executed, store)
        return self.ready[ready]

    def execute(self, text: str, variables: dict[str, Any], changes: Sequence[Change]) -> bytes:
        self.executions += 1
        call = Call(text, "", variables, None)
        with self.laid_over(changes):
            body = self.shopify.execute(self.shop, call, None)
        if "errors" in body:
            self.refused[str(body["errors"])[:500]] += 1
        return orjson.dumps(body)

    @contextmanager
    def laid_over(self, changes: Sequence[Change]) -> Iterator[None]:
        before = {name: dict(self.rows[name]) for change in changes for name in change.rows}
        for change in changes:
            for name, fields in change.rows.items():
                self.rows[name].update(fields)
        self.touched(bool(changes))
        try:
            yield
        finally:
            for name, fields in before.items():
                self.rows[name].clear()
                self.rows[name].update(fields)
            self.touched(bool(changes))

    def touched(self, is_changed: bool) -> None:
        for table in (*self.kinds.values(), self.shop.store.products) if is_changed else ():
            table.touched()


def _packed(body: bytes, store: int) -> bytes:
    return gzip.compress(body.replace(SHOP, shop_id(store).encode()), 6)


@lru_cache(maxsize=512)
def _searches(text: str) -> frozenset[str] | None:
    """The variables that a document searches by; None if it shows rows that it does not search for."""
    document, _ = read(text)
    names: set[str] = set()
    for operation in document.definitions if document is not None else ():
        if not isinstance(operation, graphql.OperationDefinitionNode):
            return None  # a fragment: not worth knowing
        for root in operation.selection_set.selections:
            found = _Searches()
            graphql.visit(root, found)
            is_alike = isinstance(root, graphql.FieldNode) and root.name.value in WITHOUT_CHANGES
            if not (found.names or (is_alike and not found.has_rows_within)):
                return None
            names |= found.names
    return frozenset(names)


class _Searches(graphql.Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.has_rows_within = False
        self.depth = 0

    def enter_field(self, node: graphql.FieldNode, *_: Any) -> None:
        self.depth += 1
        arguments = {argument.name.value: argument.value for argument in node.arguments}
        if isinstance(query := arguments.get("query"), graphql.VariableNode):
            self.names.add(query.name.value)
        self.has_rows_within |= self.depth > 1 and "first" in arguments

    def leave_field(self, *_: Any) -> None:
        self.depth -= 1


# How it is asked


class Server:
    """Accepts for all stores; a connection's own address says which one is asked."""

    def __init__(self, shops: Shops, authority: Authority, loop: asyncio.AbstractEventLoop) -> None:
        self.shops = shops
        self.authority = authority
        self.loop = loop
        self.counts: Counter[str] = Counter()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # All addresses, but of the loopback device alone.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        self.listener.bind(("0.0.0.0", 0))
        self.listener.listen(1024)
        self.listener.setblocking(False)
        self.context = cache(self.make_context)
        self.tasks: set[asyncio.Task[Any]] = set()
        loop.add_reader(self.listener.fileno(), self.accept)

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            address = int.from_bytes(socket.inet_aton(connection.getsockname()[0])) & 0xFFFFFF
            store = address - FIRST_HOST
            self.counts["connections"] += 1
            task = self.loop.create_task(
                self.serve(connection, store, self.context(store // HOSTS_A_CERTIFICATE))
            )
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def serve(self, connection: socket.socket, store: int, context: ssl.SSLContext) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: _Connection(self, store), connection, ssl=context)
        except OSError:
            self.counts["failed_handshakes"] += 1

    def make_context(self, group: int) -> ssl.SSLContext:
        first = group * HOSTS_A_CERTIFICATE
        certificate = self.authority.sign(*map(_host, range(first, first + HOSTS_A_CERTIFICATE)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def figures(self) -> dict[str, Any]:
        counts = self.counts
        changes = [
            {"store": one.store, "at": one.at, "rows": one.tables}
            for of_store in self.shops.changes.values()
            for one in of_store
        ]
        operations = {name[1:]: n for name, n in counts.items() if name[0] == "/"}
        return {
            "connections": counts["connections"],
            "failed_handshakes": counts["failed_handshakes"],
            "bytes_sent": counts["bytes_sent"],
            "requests": operations,
            "executions": self.shops.executions,
            "changes": changes,
            "refused": self.shops.refused,
        }


class _Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection: requests one after the other."""

    transport: asyncio.Transport

    def __init__(self, server: Server, store: int) -> None:
        self.server = server
        self.store = store
        self.body = b""
        self.path = b""
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.path = url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        asked, self.body = self.body, b""
        if not self.path.endswith(b"/graphql.json"):
            status, body = "404 Not Found", gzip.compress(b"{}")
        else:
            status, body = "200 OK", self.server.shops.answer(self.store, asked)
            self.server.counts[f"/{_name(asked)}"] += 1
        self.server.loop.call_later(LATENCY_SECONDS, self.send, status, body)

    def send(self, status: str, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n"
            "Content-Type: application/json; charset=utf-8\r\nContent-Encoding: gzip\r\n"
            f"X-Request-Id: 5b2c6c1e-8f2e-4a52-9f6e-1c1f5a0e7d11\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.server.counts["bytes_sent"] += len(head) + len(body)
        self.transport.write(head.encode() + body)


def _name(asked: bytes) -> str:
    found = re.search(rb"(?:query|mutation) (\w+)", asked)
    return found[1].decode() if found else "?"


async def _serve(authority_file: Path) -> None:
    loop = asyncio.get_running_loop()
    authority = Authority()
    authority_file.write_bytes(authority.pem)
    shops = Shops()
    server = Server(shops, authority, loop)
    print(server.listener.getsockname()[1], flush=True)
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = orjson.loads(line)
        for store in order.get("change", ()):
            shops.change(store)
        answer = server.figures() if "figures" in order else {}
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        sys.stdout.flush()


def main() -> None:
    # Ctrl-C reaches the whole foreground; ours ends when whoever started it closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_serve(Path(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()
