"""A real HTTP server that gives the answers it was told to, for what the sandbox would never say.

    with ScriptedServer(Reply(429, headers={"Retry-After": "2"}), Reply.of({"data": {}})) as server: server.url

The last reply is given for ever. A function in place of a reply is called with the request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Asked(NamedTuple):
    """A request as it came; `wanted` is its range of bytes."""

    path: str
    token: str | None
    body: dict[str, Any]
    wanted: str | None = None


@dataclass
class Reply:
    """`pieces` are sent one by one, `pause_seconds` apart; their whole length is declared."""

    status: int = 200
    pieces: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    pause_seconds: float = 0.0

    @classmethod
    def of(cls, body: Any, status: int = 200, **headers: str) -> Self:
        return cls(status, (json.dumps(body).encode(),), headers)


Script = Reply | Callable[[Asked], Reply]


class Handler(BaseHTTPRequestHandler):
    server: ScriptedHTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        token, wanted = self.headers.get("X-Shopify-Access-Token"), self.headers.get("Range")
        asked = Asked(self.path, token, body, wanted)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        reply = self.server.reply_to(asked)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(sum(map(len, reply.pieces))))
        self.end_headers()
        for piece in reply.pieces:
            self.wfile.write(piece)
            if reply.pause_seconds:
                time.sleep(reply.pause_seconds)
        if "Content-Length" in reply.headers:
            self.close_connection = True  # more was declared than comes

    do_GET = do_PUT = do_POST  # noqa: N815 (the server asks for these names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


class ScriptedHTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, script: tuple[Script, ...]) -> None:
        self.script = list(script)
        self.asked: list[Asked] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def reply_to(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return reply(asked) if callable(reply) else reply

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what is wanted here."""


class ScriptedServer:
    def __init__(self, *script: Script) -> None:
        self._server = ScriptedHTTPServer(script)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def asked(self) -> list[Asked]:
        return self._server.asked

    @property
    def headers(self) -> list[dict[str, str]]:
        """Those of each request; their names in small letters."""
        return self._server.headers

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
