"""Program of a test: wait for a query, then for a commit, over a TCP connection whose network is cut meanwhile.

    python -m bg_pipelines_tests.database.cut_network DATABASE_URL PARAMETERS

The network is the loopback device of a namespace of this process's own; a go-between in it leads to the server's Unix
socket. Prints how each wait ended, as JSON lines; exits with 77 where the system allows no such namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time

import sqlalchemy as sa

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError

NEW_USER, NEW_NETWORK, SET_FLAGS = 0x10000000, 0x40000000, 0x8914
NO_NAMESPACE = 77


def enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) and libc.unshare(NEW_USER | NEW_NETWORK):
        sys.exit(NO_NAMESPACE)


def set_network(up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, SET_FLAGS, struct.pack("16sh14x", b"lo", int(up)))


def forward(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)


def lead_to(path: str, port: int = 0) -> int:
    """A port (any, or this) whose connections lead to a Unix socket."""
    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(path)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=forward, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def wait_in(database: Database, work: str) -> dict[str, object]:
    """Cut the network once the transaction has begun, and see how the rest of it ends."""
    set_network(True)
    try:
        with database.transaction() as connection:
            if work == "sleep":
                threading.Timer(0.3, set_network, (False,)).start()
                began = time.monotonic()
                connection.execute("SELECT pg_sleep(120)")
            else:
                set_network(False)
                began = time.monotonic()
    except IntegrationError as error:
        return {"seconds": time.monotonic() - began, **error.as_dict()}
    return {"seconds": time.monotonic() - began}


def main(url: str, parameters: str) -> None:
    address = sa.make_url(url)
    enter_namespace()
    set_network(True)
    port = lead_to(os.path.join(str(address.query["host"]), f".s.PGSQL.{address.port}"))
    database = Database(f"postgresql://postgres@127.0.0.1:{port}/{address.database}?{parameters}")
    for work in ("sleep", "commit"):
        print(json.dumps(wait_in(database, work)), flush=True)
    os._exit(0)  # what is left waits for a network


if __name__ == "__main__":
    main(*sys.argv[1:])
