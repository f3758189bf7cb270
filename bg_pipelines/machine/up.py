"""`bg-pipelines up`: one machine in production. The Dagster web UI and daemon and the receiver, watched and stopped together.

A process that dies is started again, at growing intervals; the watchdog of this process tells people what is wrong for
longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bg_pipelines.database.engine import open_database
from bg_pipelines.machine.processes import child, configuration_error, require_free
from bg_pipelines.machine.watchdog import LOOK_SECONDS, Watchdog
from bg_pipelines.settings import load_settings

LOOK_AGAIN_SECONDS = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
LONG_LIFE_SECONDS = 60.0
"""After which a process that dies is started at once again."""


def up(say: Callable[[str], object], *, port: int, webhook_port: int | None) -> None:
    """Run it until KeyboardInterrupt; the receiver where webhooks are on (`BG_PUBLIC_URL`) and `webhook_port` is given.

    Raises IntegrationError (configuration).
    """
    project = Path(os.environ.get("DAGSTER_HOME") or Path.cwd())
    if not (project / "dagster.yaml").exists():
        raise configuration_error(
            "run it in the project's folder, where dagster.yaml is, or set DAGSTER_HOME"
        )
    settings = load_settings()
    # For every process that is started from here, wherever it runs.
    os.environ |= {"BG_HOME_DIR": str(settings.home), "DAGSTER_HOME": str(project)}
    require_free(port)
    module = ["-m", "bg_pipelines.definitions"]
    commands = {
        "the web UI": ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *module],
        "the daemon": ["-m", "dagster._daemon", "run", *module],
    }
    if webhook_port is not None and settings.public_url is not None:
        commands["the receiver"] = ["-m", "bg_pipelines.cli", "serve-webhooks", "--port", str(webhook_port)]
    with ExitStack() as stack:
        database = open_database(settings)  # which holds the embedded server, too
        stack.callback(database.close)
        database.require_migrated()
        watchdog = Watchdog(settings)
        stack.callback(watchdog.close)
        kept = [_Kept(name, [sys.executable, *command], say) for name, command in commands.items()]
        for one in kept:
            stack.callback(one.stop)
            one.start()
        say(f"the Dagster UI: http://127.0.0.1:{port} (Ctrl-C ends everything)")
        look_at = 0.0
        while True:
            for one in kept:
                one.look_after()
            if time.monotonic() >= look_at:
                watchdog.look()
                look_at = time.monotonic() + LOOK_SECONDS
            time.sleep(LOOK_AGAIN_SECONDS)


class _Kept:
    """A process and, when it dies, its successors."""

    def __init__(self, name: str, command: list[str], say: Callable[[str], object]) -> None:
        self.name = name
        self._command = command
        self._say = say
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._again_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = self._held.enter_context(child(self._command))

    def look_after(self) -> None:
        now = time.monotonic()
        if self._process is None:
            if now >= self._again_at:
                self.start()
        elif self._process.poll() is not None:
            status = self._process.returncode
            self.stop()
            self._pause = (
                FIRST_PAUSE_SECONDS
                if now - self._started_at >= LONG_LIFE_SECONDS
                else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            )
            self._again_at = now + self._pause
            self._say(f"{self.name} ended ({status}); it is started again in {self._pause:.0f} s")

    def stop(self) -> None:
        self._process = None
        self._held.close()
