"""`bg-pipelines serve-webhooks` as an operator meets it: refused clearly, or serving through kills, and gone when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import requests

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.webhooks.metrics import LATER_SECONDS
from bg_pipelines_tests.support import KEY, PATIENCE, query, wait_for
from bg_pipelines_tests.typed import Run, refused
from bg_pipelines_tests.webhooks.conftest import SECRET, Vendors, add_stores, shopify_headers


@contextmanager
def serving(url: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], Vendors]]:
    environment = {
        **os.environ,
        "BG_DATABASE_URL": url,
        "BG_ENCRYPTION_KEY": KEY,
        "BG_SHOPIFY_WEBHOOK_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "bg_pipelines.cli", "serve-webhooks", "--port", "0", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            vendors = Vendors(int(said.split("/webhooks/")[0].rpartition(":")[2]))
            wait_for(lambda: vendors.get("/healthz").status_code == 200)
            yield process, vendors
        finally:
            process.kill()


def workers(process: subprocess.Popen[str]) -> set[psutil.Process]:
    return set(psutil.Process(process.pid).children())


class Sender(threading.Thread):
    """Sends one delivery after the other, as a vendor that counts on what it was answered, until it is told to stop."""

    def __init__(self, vendors: Vendors, name: str) -> None:
        super().__init__()
        self.url = f"{vendors.url}/webhooks/shopify"
        self.label = name
        self.answered: set[str] = set()
        self.other: set[int] = set()
        self.done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.done.is_set():
            number += 1
            webhook_id = f"{self.label}-{number}"
            body = b'{"id":%d}' % number
            headers = shopify_headers(body, "products/update", webhook_id=webhook_id)
            try:
                status = requests.post(self.url, body, headers=headers, timeout=PATIENCE).status_code
            except requests.ConnectionError:
                continue  # whoever answered was killed
            if status == 200:
                self.answered.add(webhook_id)
            else:
                self.other.add(status)


def wait_for_answers(senders: list[Sender]) -> None:
    """Each gets some more."""
    wanted = [len(sender.answered) + 20 for sender in senders]
    wait_for(lambda: all(len(sender.answered) >= n for sender, n in zip(senders, wanted, strict=True)))


def kill_one_worker(process: subprocess.Popen[str]) -> None:
    before = workers(process)
    assert len(before) == 2
    next(iter(before)).kill()
    wait_for(lambda: len(workers(process) - before) == 1)


def is_listening(vendors: Vendors) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", vendors.port)) == 0


def counted(vendors: Vendors) -> float:
    lines = vendors.get("/metrics").text.splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if 'outcome="stored"' in one)


def test_workers_that_are_killed_are_replaced_and_everything_that_was_answered_is_stored(
    database_url: str, database: Database
) -> None:
    add_stores(database, Cipher(KEY))
    with serving(database_url, "--workers", "2") as (process, vendors):
        senders = [Sender(vendors, f"s{number}") for number in range(8)]
        for sender in senders:
            sender.start()
        for _ in range(2):
            wait_for_answers(senders)
            kill_one_worker(process)
        for sender in senders:
            sender.done.set()
        for sender in senders:
            sender.join()
        answered = {webhook_id for sender in senders for webhook_id in sender.answered}
        stored = [row["webhook_id"] for row in query(database, "SELECT webhook_id FROM webhook_events")]
        assert len(stored) == len(set(stored))
        assert answered <= set(stored)
        assert not {status for sender in senders for status in sender.other}
        # Workers count together, whichever is asked, and whichever of them took it.
        time.sleep(2 * LATER_SECONDS)
        before = counted(vendors)
        for _ in range(20):
            assert Vendors(vendors.port).shopify().status_code == 200
        wait_for(lambda: counted(vendors) == before + 20)
        text = vendors.get("/metrics").text
        assert "bg_pipelines_database_up 1.0" in text
        assert 'bg_pipelines_work_due{table="webhook_events"}' in text, "all other figures are there"
        last = workers(process)
        process.kill()
        psutil.wait_procs(last, timeout=PATIENCE)
        assert not any(worker.is_running() for worker in last)


def test_it_ends_on_a_signal_once_what_is_under_way_is_stored(database_url: str, database: Database) -> None:
    add_stores(database, Cipher(KEY))
    with serving(database_url) as (process, vendors):
        with database.transaction() as connection:
            connection.execute("LOCK webhook_events IN EXCLUSIVE MODE")
            sender = Sender(vendors, "one")
            sender.start()
            wait_for(
                lambda: bool(
                    query(database, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
                )
            )
            process.send_signal(signal.SIGTERM)
            sender.done.set()
            wait_for(lambda: not is_listening(vendors))
        sender.join()
        assert process.wait(PATIENCE) == 130
    stored = {row["webhook_id"] for row in query(database, "SELECT webhook_id FROM webhook_events")}
    assert sender.answered == stored != set()


def test_a_port_that_is_taken_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_SHOPIFY_WEBHOOK_SECRET", SECRET)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = refused(run("serve-webhooks", "--port", str(taken.getsockname()[1])))
    assert "in use" in message
    assert "--port" in message
    assert "cannot listen at no.such.host.invalid" in refused(
        run("serve-webhooks", "--host", "no.such.host.invalid")
    )


def test_a_receiver_that_could_verify_nothing_or_has_no_tables_is_refused(
    run: Run, database: Database
) -> None:
    assert "BG_SHOPIFY_WEBHOOK_SECRET" in refused(run("serve-webhooks", "--port", "0"))
    with database.transaction() as connection:
        connection.execute("DROP TABLE alembic_version")
    assert "bg-pipelines migrate" in refused(run("serve-webhooks", "--port", "0"))
