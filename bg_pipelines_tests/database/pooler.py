"""What stands between us and the server, as a pooler does: it drops the options of a connection, or refuses them."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from bg_pipelines_tests.database.road import Road

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


class Pooler(Road):
    """Like PgBouncer: `ignores` is its `ignore_startup_parameters = options`."""

    def __init__(self, url: str, *, ignores: bool) -> None:
        self._ignores = ignores
        super().__init__(url)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            if source.family is socket.AF_INET and not self._begin(source, target):
                return
        super()._forward(source, target)

    def _begin(self, client: socket.socket, server: socket.socket) -> bool:
        """Hand on the first message of a client, which is its version and its parameters."""
        while True:
            (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
            body = client.recv(length - 4, socket.MSG_WAITALL)
            if struct.unpack("!I", body[:4])[0] not in (SSL_REQUEST, GSS_REQUEST):
                break
            client.sendall(b"N")
        texts = body[4:].rstrip(b"\0").split(b"\0")
        parameters = dict(zip(texts[::2], texts[1::2], strict=True))
        if parameters.pop(b"options", None) and not self._ignores:
            said = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            client.sendall(b"E" + struct.pack("!I", len(said) + 4) + said)
            client.shutdown(socket.SHUT_RDWR)
            return False
        rest = body[:4] + b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items()) + b"\0"
        server.sendall(struct.pack("!I", len(rest) + 4) + rest)
        return True
