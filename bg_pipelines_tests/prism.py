"""Prism (npm `@stoplight/prism-cli`): a server that holds each request to a vendor's own description of its API, and answers
with the vendor's samples."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines_tests.support import PROJECT

PRISM = "@stoplight/prism-cli@5.16.0"
START_SECONDS = 60.0


def vendor_description(name: str) -> dict[str, Any]:
    """A vendor's OpenAPI file; the test is skipped where it is not."""
    path = Path(os.environ.get("BG_VENDOR_SPECS", PROJECT.parent / "shared" / "vendor")) / name
    if not path.exists():
        pytest.skip(f"the vendor's description is not at {path}; set BG_VENDOR_SPECS")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def program(session: Path) -> Path:
    """Prism, installed by npm once and kept in the user's cache.

    Where it cannot be installed, that is tried once: the session's folder says so to the other worker.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: Prism, which holds requests to the vendor's description, needs it")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bg-pipelines"
    folder = cache / PRISM.rpartition("/")[2]
    program = folder / "node_modules" / ".bin" / "prism"
    with (session / "npm").open("a+") as refused:
        fcntl.flock(refused, fcntl.LOCK_EX)
        refused.seek(0)
        why = refused.read()
        if not why and not program.exists():
            why = _install(npm, cache, folder)
            refused.write(why)
    if why:
        pytest.skip(f"npm could not install {PRISM}: {why}")
    return program


def _install(npm: str, cache: Path, folder: Path) -> str:
    """Why it could not be installed; nothing if it was."""
    cache.mkdir(parents=True, exist_ok=True)
    # Another run may be at it, too: each in a folder of its own, and one of them stays.
    fresh = Path(tempfile.mkdtemp(dir=cache))
    options = [
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    ]
    command = [npm, "install", "--prefix", str(fresh), *options, PRISM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode or folder.exists():
        shutil.rmtree(fresh)
    else:
        fresh.rename(folder)
    return done.stderr.strip()[-300:] or f"status {done.returncode}" if done.returncode else ""


@contextmanager
def serving(description: dict[str, Any], folder: Path, session: Path) -> Iterator[str]:
    """A description served, by a program that is installed once in this session: a request that is not as it says gets an error, with the header `sl-violations`."""
    file, log = folder / "description.json", folder / "log"
    file.write_text(json.dumps(description), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(program(session)), "mock", "--errors", "-h", "127.0.0.1", "-p", str(port), str(file)]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while "Prism is listening" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"Prism did not start within {START_SECONDS:g} s"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
