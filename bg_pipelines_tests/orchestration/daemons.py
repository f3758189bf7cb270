"""A real Dagster daemon of a test, and its home."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from bg_pipelines_tests.support import (
    PROJECT,
)


class Daemon:
    """A Dagster daemon with its code server, on a home of its own with the real dagster.yaml."""

    def __init__(self, home: Path, workspace: Path) -> None:
        self.home = home
        self.workspace = workspace
        self.log = home / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self.workspace)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env={**os.environ, "DAGSTER_HOME": str(self.home)},
                start_new_session=True,
            )

    def kill(self) -> None:
        """The daemon, its code server, and every run that it started: at once, and without a word."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            for process in [psutil.Process(self.process.pid), *children]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()
        # An orphan of theirs may have left the family.
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("DAGSTER_HOME") == str(self.home) and process.pid != os.getpid():
                    process.kill()
        self.process = None


def workspace_of(module: str, folder: Path) -> Path:
    """A workspace whose one code location is this module."""
    path = folder / "workspace.yaml"
    path.write_text(f"load_from:\n  - python_module: {module}\n")
    return path


def make_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DAGSTER_HOME with the real dagster.yaml, but for how long run monitoring waits."""
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    config["run_monitoring"] |= {"poll_interval_seconds": 1, "start_timeout_seconds": 60}
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{os.environ.get('PYTHONPATH', '')}")
    return home
