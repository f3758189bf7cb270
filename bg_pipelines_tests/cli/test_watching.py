"""`status --watch`: what is wrong stays on the screen, and a key does something about it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from typing import Any, BinaryIO

import psycopg
import pytest
from rich.console import Console

from bg_pipelines.cli.status_page import sparkline
from bg_pipelines.cli.watching import Watching
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.activity import COMMAND, Actor
from bg_pipelines.operations.status import read_status
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.support import PATIENCE, PROJECT, query
from bg_pipelines_tests.typed import Run


class Screen:
    """What is on the screen, of so many lines, after some keys."""

    def __init__(self, database: Database, lines: int = 40) -> None:
        self.console = Console(
            file=StringIO(), width=120, height=lines, force_terminal=True, color_system="standard"
        )
        self.watching = Watching(
            self.console, database, lambda: read_status(database, most_stores=5), Actor("ada", COMMAND)
        )

    def press(self, *keys: str) -> str:
        for key in keys:
            assert self.watching.press(key)
        return self.shown()

    def shown(self) -> str:
        with self.console.capture() as captured:
            self.console.print(self.watching.page())
        return captured.get()

    def chosen(self) -> str:
        """The line that is marked."""
        [line] = [line for line in self.shown().splitlines() if "\x1b[7" in line or ";7m" in line]
        return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.fixture
def shops(
    make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]], sync: Callable[..., Any]
) -> list[str]:
    """Two stores whose tokens are revoked, and one that is well."""
    sandbox = make_sandbox(shops=3, variants=4)
    names = add_shops(sandbox)
    for shop in list(sandbox.world.shops.values())[:2]:
        shop.access.expire_all()
    sync()
    return names


def audit_trail(database: Database) -> list[tuple[str, str, str]]:
    rows = query(database, "SELECT who, action, subject FROM activity WHERE via = 'command' ORDER BY id")
    return [(row["who"], row["action"], row["subject"]) for row in rows]


def test_arrows_choose_r_retries_p_pauses_o_opens_and_q_quits(database: Database, shops: list[str]) -> None:
    screen = Screen(database)
    assert screen.chosen().startswith("#1 high  store ")
    assert "5 units waiting" in screen.chosen()
    screen.press("down", "down", "down")
    assert screen.chosen().startswith("#2 high  store "), "the last one is the last"
    page = screen.press("o")
    assert "what to do" in page
    assert "bg-pipelines stores set" in page
    assert "retried" not in screen.press("x"), "any key goes back"
    screen.press("up")

    assert "1 incident retried, 5 units of work due now" in screen.press("r")
    assert query(database, "SELECT count(*) AS parked FROM sync_states WHERE next_due_at IS NULL") == [
        {"parked": 5}
    ]
    chosen = screen.chosen()
    name = next(name for name in shops if name in chosen)
    assert "1 paused, 0 already were" in screen.press("p")
    assert query(database, "SELECT name FROM stores WHERE paused_at IS NOT NULL") == [{"name": name}]
    assert audit_trail(database) == [
        ("ada", "retry incidents", chosen.split()[0].removeprefix("#")),
        ("ada", "pause stores", name),
    ]
    assert not screen.watching.press("q")


def test_many_that_say_the_same_are_asked_for_before_anything_is_done(database: Database) -> None:
    query(
        database,
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, opened_at) "
        "SELECT 'job:j' || n || ':bad_data', true, 'bad_data', 'medium', 'shopify', 'job j' || n, 'it is so', now() "
        "FROM generate_series(1, 6) n",
    )
    screen = Screen(database)
    assert "#1 and 5 alike" in screen.chosen()
    assert "retry 6 incidents? y does, any other key does not" in screen.press("r")
    assert "nothing was done" in screen.press("n")
    assert audit_trail(database) == []
    assert "nothing to pause" in screen.press("p")
    assert "0 incidents retried" in screen.press("r", "y"), "nothing waits under them"
    assert audit_trail(database) == [("ada", "retry incidents", "1, 2, 3, 4, 5, 6")]


def test_the_chosen_one_stays_so_wherever_its_line_moves_and_nothing_is_chosen_where_nothing_fails(
    database: Database, shops: list[str]
) -> None:
    screen = Screen(database)
    screen.press("down")
    chosen = screen.chosen().split("  since")[0]
    query(database, "UPDATE incidents SET status = 'resolved', resolved_at = now() WHERE id = 1")
    screen.watching.look()
    assert screen.chosen().split("  since")[0] == chosen
    query(database, "UPDATE incidents SET status = 'resolved', resolved_at = now()")
    query(database, "UPDATE sync_states SET next_due_at = now(), attempts = 0, incident_id = NULL")
    screen.watching.look()
    assert "nothing is chosen: nothing fails" in screen.press("r")
    set_paused(database, shops, True)


def test_a_trend_is_a_bar_for_each_moment_the_highest_of_each_few_and_a_dot_where_nobody_looked() -> None:
    assert sparkline([None, 0, 1, 2, 3, 4, 5, 6, 7]) == "·▁▂▃▄▅▆▇█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    hour = [None] * 30 + [float(n) for n in range(30)]
    assert len(sparkline(hour)) == 24
    assert sparkline(hour).endswith("█")


def test_with_a_keyboard_it_reads_keys_and_leaves_the_terminal_as_it_was(
    run: Run, database: Database, shops: list[str]
) -> None:
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "bg_pipelines.cli", "status", "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with os.fdopen(screen, "r+b", 0) as keys:
        process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=PROJECT
        )
        try:
            os.close(terminal)
            read_until(keys, "o open")
            keys.write(b"\x1b[B")
            keys.write(b"r")
            read_until(keys, "1 incident retried")
            keys.write(b"q")
            read_until(keys, "\x1b[?1049l")  # the screen from before
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


def test_status_is_watched_through_a_restart_of_the_database(run: Run, database_url: str) -> None:
    run("stores", "add", "harbor", "--domain", "harbor.myshopify.com", "--token", "shpat_x")
    [name] = re.findall(r"test_\d+", database_url)
    server = database_url.replace("+psycopg", "").replace(f"/{name}?", "/postgres?")
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "bg_pipelines.cli", "status", "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with psycopg.connect(server, autocommit=True) as connection, os.fdopen(screen, "rb", 0) as output:
        process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=PROJECT
        )
        try:
            os.close(terminal)
            read_until(output, "0 of 1 store up to date")
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            read_until(output, "PostgreSQL is not available")
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            run("stores", "pause", "harbor")
            read_until(output, "every store is paused")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) in (0, 1, 130)
        finally:
            process.kill()
            process.wait()


def read_until(output: BinaryIO, words: str) -> None:
    shown = ""
    deadline = time.monotonic() + PATIENCE
    while words not in shown:
        assert select.select([output], [], [], deadline - time.monotonic())[0], shown
        shown += output.read(65_536).decode(errors="replace")
