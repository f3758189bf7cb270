"""A road to the database that a test can cut, block and open again, without harm to anybody else on the server."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import sqlalchemy as sa


class Road:
    """A port that leads to a server's Unix socket. `url` is the database's, by this road."""

    def __init__(self, url: str) -> None:
        address = sa.make_url(url)
        self._target = os.path.join(str(address.query["host"]), f".s.PGSQL.{address.port}")
        self._ends: list[socket.socket] = []
        self._passable = threading.Event()
        self._port = 0
        self.open()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/{address.database}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = int(self._listener.getsockname()[1])
        self._passable.set()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Connections are lost, and new ones refused."""
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def block(self) -> None:
        """Connections stay and new ones are taken, but nothing passes."""
        self._passable.clear()

    def unblock(self) -> None:
        self._passable.set()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._ends += (near, far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passable.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
