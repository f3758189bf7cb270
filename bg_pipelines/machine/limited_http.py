"""HTTP of uvicorn with limits that it lacks: how long a request may take to come in, and how large its head may be."""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = 10.0
"""From a connection, or a later request's first byte, until the request's last byte."""
HEAD_BYTES = 32 * 1024


class LimitedHttp(HttpToolsProtocol):
    """A connection; whoever sends slower than this is cut off, whatever of the request is missing."""

    def __init__(self, *args: Any, request_seconds: float = REQUEST_SECONDS, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request_seconds = request_seconds
        self._due: TimerHandle | None = None
        self._in_head = True
        self._head_bytes_left = HEAD_BYTES

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Any", transport))
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes_left -= len(data)
            if self._head_bytes_left < 0:
                self._end(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes_left = HEAD_BYTES
        if self._due is None:
            self._expect_request()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def _expect_request(self) -> None:
        self._due = self.loop.call_later(self._request_seconds, self._end, b"408 Request Timeout")

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _end(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()
