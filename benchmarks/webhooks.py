"""Webhooks received: two worker processes, 256 connections, bodies of 4 KB, each delivery on disk before it is answered.

Ours is `bg-pipelines serve-webhooks`, as it is started in production. The plain receiver (harness/plain_receiver.py) is what
one writes first: it verifies and inserts each delivery by itself, into the same table. Both take turns under the same
sender, each beginning with an empty table and after a checkpoint, on a PostgreSQL with its durable defaults.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import requests
from rich.console import Console
from rich.table import Table

from benchmarks.harness import plain_receiver
from benchmarks.harness.event_to_row import event_to_row
from benchmarks.harness.machine import description, own_postgres, processor_seconds, spread
from benchmarks.harness.store import CIPHER
from benchmarks.harness.webhook_sender import SECRET, SHOP, Sender, Sent, sending
from bg_pipelines.database.engine import Database
from bg_pipelines.machine.processes import child
from bg_pipelines.operations.stores import NewStore, save_stores

WORKERS = 2
CONNECTIONS = 256
KEY = "0" * 43 + "="


@dataclass(frozen=True)
class Size:
    seconds: float
    rounds: int
    edits: int


FULL = Size(seconds=8, rounds=5, edits=150)
SMALL = Size(seconds=1, rounds=1, edits=12)


class Receiver:
    """One of the two, its sender, and what came of its turns."""

    def __init__(self, process_ids: list[int], sender: Sender, port: int) -> None:
        self.port = port
        self.workers = [psutil.Process(process_id) for process_id in process_ids]
        self.sender = sender
        self.turns: list[Sent] = []
        self.taken = 0
        self.processor_us: list[list[float]] = []
        """In each turn, a delivery: of the workers, and of PostgreSQL."""

    def take(self, database: Database, size: Size, rate: float | None = None) -> Sent:
        """One turn: as many as can be, or at a rate. Raises RuntimeError unless every answer was 200 and is a row."""
        with database.transaction() as connection:
            connection.execute("TRUNCATE webhook_events")
            connection.execute("CHECKPOINT")
        server = _server(database)
        before = (_processor_seconds(self.workers), _processor_seconds(server))
        sent = self.sender.send(rate, seconds=size.seconds, connections=CONNECTIONS)
        after = (_processor_seconds(self.workers), _processor_seconds(server))
        with database.transaction() as connection:
            [(rows,)] = connection.execute("SELECT count(*) FROM webhook_events").fetchall()
        if sent.refused or rows < sent.answered:
            raise RuntimeError(f"{sent.refused} refused; {sent.answered} answered, {rows} stored")
        self.taken += rows
        self.processor_us.append([(b - a) / rows * 1e6 for a, b in zip(before, after, strict=True)])
        return sent

    @property
    def a_second(self) -> float:
        return statistics.median(turn.a_second for turn in self.turns)

    def processor(self) -> dict[str, int]:
        each = zip(("workers", "postgresql"), zip(*self.processor_us, strict=True), strict=True)
        return {name: round(statistics.median(spent)) for name, spent in each}

    def memory_mb(self) -> float:
        """Of the larger worker, in MB of 10^6 bytes."""
        return max(worker.memory_info().rss for worker in self.workers) / 1e6


def _server(database: Database) -> list[psutil.Process]:
    """PostgreSQL's processes."""
    with database.transaction() as connection:
        [(backend,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
    postmaster = psutil.Process(backend).parent()
    assert postmaster
    return [postmaster, *postmaster.children()]


def _processor_seconds(processes: list[psutil.Process]) -> float:
    return sum(processor_seconds(process.pid) for process in processes)


def run(console: Console, *, small: bool) -> dict[str, Any]:
    size = SMALL if small else FULL
    busy_before = os.getloadavg()[0]
    with ExitStack() as stack:
        with console.status("starting PostgreSQL and both receivers"):
            url = stack.enter_context(own_postgres())
            database = Database(url)
            stack.callback(database.close)
            save_stores(database, CIPHER, [NewStore("benchmark", "shopify", SHOP, token="t")])
            ours = stack.enter_context(_serve_ours(url))
            plain = stack.enter_context(_serve_plain(url.replace("+psycopg", "")))
        memory_before = ours.memory_mb()
        _take_turns(console, database, size, ours, plain)
        with console.status("at half of the most"):
            at_half = ours.take(database, size, ours.a_second / 2)
            plain_at_half = plain.take(database, size, plain.a_second / 2)
        memory = ours.memory_mb()
        with console.status("from an event to its row"):
            to_row = event_to_row(database, ours.port, size.edits)
    ratios = [a.a_second / b.a_second for a, b in zip(ours.turns, plain.turns, strict=True)]
    figures: dict[str, Any] = {
        "throughput_ratio_to_plain": round(statistics.median(ratios), 2),
        "ratios": spread(ratios),
        "p99_ms_at_half": round(at_half.p99_ms, 1),
        "p50_ms_at_half": round(at_half.p50_ms, 1),
        "plain_p99_ms_at_half": round(plain_at_half.p99_ms, 1),
        "a_second": spread([turn.a_second for turn in ours.turns], 0),
        "plain_a_second": spread([turn.a_second for turn in plain.turns], 0),
        "p99_ms": spread([turn.p99_ms for turn in ours.turns], 1),
        "plain_p99_ms": spread([turn.p99_ms for turn in plain.turns], 1),
        "processor_us_a_delivery": ours.processor(),
        "plain_processor_us_a_delivery": plain.processor(),
        "worker_rss_mb": round(memory, 1),
        "worker_rss_growth_mb": round(memory - memory_before, 1),
        "deliveries": ours.taken,
        "sender_processor_share": round(max(turn.processor for turn in ours.turns), 2),
        "rounds": size.rounds,
        **to_row,
        "machine": description(),
        "load_average_before": round(busy_before, 2),
    }
    _show(console, size, figures)
    return figures


def _take_turns(console: Console, database: Database, size: Size, ours: Receiver, plain: Receiver) -> None:
    with console.status("warming up") as status:
        for receiver in (ours, plain):
            receiver.take(database, size)
        for number in range(size.rounds):
            status.update(f"round {number + 1} of {size.rounds}")
            for receiver in (ours, plain) if number % 2 else (plain, ours):
                receiver.turns.append(receiver.take(database, size))


@contextmanager
def _serve_ours(url: str) -> Iterator[Receiver]:
    environment = {
        **os.environ,
        "BG_DATABASE_URL": url,
        "BG_ENCRYPTION_KEY": KEY,
        "BG_SHOPIFY_WEBHOOK_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "bg_pipelines.cli", "serve-webhooks"]
    options = ["--port", "0", "--workers", str(WORKERS)]
    with child([*command, *options], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = process.stdout.readline()
        if "/webhooks/" not in said:
            raise RuntimeError("the receiver did not start")
        port = int(said.partition("/webhooks/")[0].rpartition(":")[2])
        with sending(port) as sender:
            _wait_for(port)
            workers = [worker.pid for worker in psutil.Process(process.pid).children()]
            yield Receiver(workers, sender, port)


@contextmanager
def _serve_plain(url: str) -> Iterator[Receiver]:
    with ExitStack() as stack:
        port = 0
        processes = []
        for _ in range(WORKERS):
            command = [sys.executable, "-m", plain_receiver.__name__, url, str(port)]
            process = stack.enter_context(
                child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            port = int(process.stdout.readline())
            processes.append(process.pid)
        sender = stack.enter_context(sending(port))
        _wait_for(port)
        yield Receiver(processes, sender, port)


def _wait_for(port: int) -> None:
    """Connections wait in a listening socket until its worker has begun: one that is answered may be the other's."""
    for _ in range(8 * WORKERS):
        requests.get(f"http://127.0.0.1:{port}/", timeout=60)


def _show(console: Console, size: Size, figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "ours", "plain"):
        table.add_column(column, justify="right" if column else "left")
    for title, name, digits in (("a second, median", "a_second", 0), ("p99 at the most, ms", "p99_ms", 1)):
        table.add_row(title, *(f"{figures[key]['median']:,.{digits}f}" for key in (name, f"plain_{name}")))
    table.add_row(
        "p99 at half of it, ms", f"{figures['p99_ms_at_half']:.1f}", f"{figures['plain_p99_ms_at_half']:.1f}"
    )
    for name in ("workers", "postgresql"):
        table.add_row(
            f"processor time a delivery, {name}, µs",
            *(str(figures[f"{whose}processor_us_a_delivery"][name]) for whose in ("", "plain_")),
        )
    console.print(table)
    console.print(
        f"{figures['throughput_ratio_to_plain']} times the plain receiver ({size.rounds} rounds of {size.seconds:g} s each); "
        f"a worker has {figures['worker_rss_mb']:.0f} MB after {figures['deliveries']:,} deliveries; the sender takes "
        f"{figures['sender_processor_share']:.0%} of one processor"
    )
    console.print(
        f"from an edit at the shop to its row, with 100 ms of latency at its API: {figures['event_to_row_p50_ms']} ms at p50, "
        f"{figures['event_to_row_p99_ms']} ms at p99 of {size.edits} edits"
    )
