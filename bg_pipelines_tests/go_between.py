"""A go-between before a running sandbox, over real HTTP, that changes what a vendor answers.

    with GoBetween(sandbox, change) as between: NewStore(..., api_url=between.address(shop.api_url))

`change` is given an answer's JSON, parsed, with the path and the body of its request, and returns what is sent, or an
`Answer` in the vendor's place; of a file of JSON lines it is given each line. `instead` is asked first, with path and body:
where it gives an `Answer` the vendor hears of nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple, Self

import orjson
import urllib3

from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.nasty import as_json


class Answer(NamedTuple):
    status: int
    content: bytes = b"{}"


Change = Callable[[Any, str, bytes], Any]


class GoBetween:
    """Serves on loopback until the end of the context; `change` may be replaced meanwhile."""

    def __init__(self, sandbox: Sandbox, change: Change = lambda content, _path, _asked: content) -> None:
        self.change = change
        self.instead: Callable[[str, bytes], Answer | None] = lambda _path, _asked: None
        self.asked: list[tuple[str, bytes]] = []
        self._upstream = f"http://127.0.0.1:{sandbox.port}"
        self._pool = urllib3.PoolManager(maxsize=10)
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def address(self, api_url: str) -> str:
        return api_url.replace(self._upstream, self.url)

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        self.asked.append((path, body))
        if (instead := self.instead(path, body)) is not None:
            return instead.status, {"Content-Type": "application/json"}, instead.content
        found = self._pool.request(method, self._upstream + path, headers=headers, body=body or None)
        content = found.data.replace(self._upstream.encode(), self.url.encode())
        kept = {name: value for name, value in found.headers.items() if name.lower() not in _OWN}
        if path.endswith(".jsonl"):
            lines = [self.change(orjson.loads(line), path, body) for line in content.splitlines()]
            return found.status, kept, b"".join(as_json(line) + b"\n" for line in lines)
        if found.status != 200 or not content.startswith(b"{"):
            return found.status, kept, content
        changed = self.change(orjson.loads(content), path, body)
        if isinstance(changed, Answer):
            return changed.status, kept, changed.content
        return 200, kept, as_json(changed)

    def _handler(between) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (`self` is the request)
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None: ...

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
                status, kept, content = between.answer(self.command, self.path, headers, body)
                self.send_response_only(status)
                for name, value in {**kept, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True


_OWN = frozenset(
    [
        "host",
        "content-length",
        "connection",
        "accept-encoding",
        "transfer-encoding",
        "range",
        "content-encoding",
    ]
)
