"""urllib3's connections with a limit to an answer's time, its headers included, and to its size on the wire.

exchange = Exchange(time.monotonic, due=time.monotonic() + 120, bytes_left=1_000_000)
with begun(exchange):
    response = make_manager(None, tls).urlopen("GET", url, preload_content=False)
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3 import exceptions as faults
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Url, make_headers, parse_url

from bg_pipelines.errors import ErrorType, IntegrationError

CONNECTIONS = 10
"""Kept open to a host, for the threads that share a manager."""


class OverdueError(TimeoutError):
    """The whole answer has taken too long."""


class TooLargeError(OSError):
    """The answer is larger than it may be."""


@dataclass
class Exchange:
    """A request and its answer: when it is due, how many bytes may still come, and whether a connection came about."""

    clock: Callable[[], float]
    due: float
    bytes_left: float
    connected: bool = False


_current: ContextVar[Exchange] = ContextVar("exchange")
"""The one that this thread is beginning: urllib3 hands nothing of ours down to its connections."""


@contextmanager
def begun(exchange: Exchange) -> Iterator[None]:
    """In here a manager's request and its answer are this exchange."""
    before = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(before)


class _Incoming(io.RawIOBase):
    """What comes from a socket: no read outlasts the exchange's time, or brings more than its size.

    urllib3 limits single reads only, so headers or a body that drip in would hold a worker for hours.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, exchange: Exchange) -> None:
        self._raw, self._sock, self._exchange = raw, sock, exchange
        self._idle = sock.gettimeout() or math.inf
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        exchange = self._exchange
        left = exchange.due - exchange.clock()
        if left <= 0:
            raise OverdueError
        if left < self._idle:
            self._sock.settimeout(left)
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError:
            if left < self._idle:
                raise OverdueError from None
            raise
        self.ended = not count
        exchange.bytes_left -= count or 0
        if exchange.bytes_left < 0:
            raise TooLargeError
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._incoming = _Incoming(self.fp.detach(), sock, _current.get())
        self.fp = io.BufferedReader(self._incoming)

    def begin(self) -> None:
        super().begin()
        if self._incoming.ended:
            # For http.client headers that are cut are headers.
            raise http.client.IncompleteRead(b"")


class _Connection(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        _current.get().connected = True

    def request(self, *args: Any, **options: Any) -> None:
        _current.get().connected |= not self.is_closed
        super().request(*args, **options)


class _TlsConnection(_Connection, HTTPSConnection):
    """Connected when the handshake is over."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def make_manager(proxy: str | None, tls: ssl.SSLContext) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "ssl_context": tls}
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        try:
            headers = authorization(parse_url(proxy), proxy=True)
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, proxy_ssl_context=tls, **options)
        except (ValueError, faults.HTTPError):
            message = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not the address of an HTTP proxy"
            raise IntegrationError.of(ErrorType.CONFIGURATION, message, source="settings") from None
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def authorization(place: Url, *, proxy: bool = False) -> dict[str, str]:
    """What an address that holds a user and a password is called with."""
    if not place.auth:
        return {}
    auth = unquote(place.auth)
    return make_headers(proxy_basic_auth=auth) if proxy else make_headers(basic_auth=auth)
