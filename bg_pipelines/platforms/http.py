"""One transport for every vendor: an answer comes whole, in time and of a bounded size, or as a classified error.

    transport = Transport("shopify", "Shopify")
    answer = transport.request("POST", "https://harbor.myshopify.com/admin/...", headers={...}, body=b"{}")
    answer.status, answer.headers, answer.content

    time         connecting, each read, and the answer as a whole, its headers included
    size         the bytes on the wire and the bytes they unpack to
    credentials  those that the caller gives and no others: ~/.netrc and cookies are not looked at, no redirect is followed
    TLS          one context a process, for reading the root certificates costs ten times what a call does
    environment  HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY; REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR

What a status means is the vendor's client's to know. Nothing is retried here.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin

import orjson
import urllib3
from urllib3 import exceptions as faults
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout, Url, make_headers, parse_url

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.network import proxy_for, tls_context
from bg_pipelines.platforms.silenced import silenced

CHUNK_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
CONNECTIONS = 10
"""Kept open to a host, for the threads that share a transport."""
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 3600.0
"""What a Retry-After may ask of us."""


class Timeouts(NamedTuple):
    """In seconds: for connecting, TLS included; for each read; for the whole answer."""

    connect: float = 5.0
    read: float = 30.0
    whole: float = 120.0


TIMEOUTS = Timeouts()


class Answer(NamedTuple):
    """An answer as it came, unpacked. The names of headers are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport:
    """Requests to one vendor. Safe to share between threads.

    `source` stands in errors, `name` in their sentences; `address_of` is what a person sets to change the address. `clock` is in seconds and only ever compared with itself.
    Raises IntegrationError and nothing else: timeout, connection, malformed_response, configuration. Where surely
    nothing was sent, `sent` is False in its details.
    """

    def __init__(
        self,
        source: str,
        name: str,
        *,
        address_of: str,
        timeouts: Timeouts = TIMEOUTS,
        max_bytes: float = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeouts = timeouts
        self.clock = clock
        self._source = source
        self._name = name
        self._address_of = address_of
        self._max_bytes = max_bytes
        self._tls = tls_context()
        self._managers: dict[tuple[str | None, str | None], urllib3.PoolManager] = {}

    def close(self) -> None:
        for manager in self._managers.values():
            manager.clear()

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request and read its answer to the end."""
        asked = {"Accept-Encoding": "gzip", "Accept": "application/json", **(headers or {})}
        with self.open(method, url, headers=asked, body=body) as response:
            content = bytearray()
            while chunk := response.read1(CHUNK_BYTES, decode_content=True):
                content += chunk
                if len(content) > self._max_bytes:
                    raise _TooLargeError
            return Answer(response.status, response.headers, bytes(content))

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        redirects: int = 0,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """A request's answer, to be read piece by piece with `read1`, of which each is in time.

        Up to `redirects` are followed, never from TLS to none; `headers` go along, so there must be no credentials in them.
        """
        exchange = _Exchange(self.clock, self.clock() + self.timeouts.whole, self._max_bytes)
        try:
            response = self._send(exchange, method, url, headers or {}, body, redirects)
            try:
                if (response.length_remaining or 0) > self._max_bytes:
                    raise _TooLargeError
                yield response
            finally:
                response.close()
        except (faults.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise self._classified(error, exchange, url) from None

    def object_of(self, answer: Answer, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that is an answer's content; `details` are for the error where it is none."""
        try:
            value = parse_json(answer.content)
        except ValueError:
            is_html = answer.content.lstrip()[:1] == b"<"
            kind = "HTML" if is_html else "something that is not JSON, or cut short,"
            raise self._malformed(f"answered {answer.status} with {kind} instead of data", details) from None
        if not isinstance(value, dict):
            raise self._malformed("answered with JSON that is no object", details)
        return value

    def _malformed(self, what: str, details: Mapping[str, Any] | None = None) -> IntegrationError:
        message = f"{self._name} {what}; it is tried again"
        return IntegrationError.of(
            ErrorType.MALFORMED_RESPONSE, message, source=self._source, details=details
        )

    # Sending

    def _send(
        self,
        exchange: _Exchange,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        redirects: int,
    ) -> urllib3.BaseHTTPResponse:
        while True:
            place = parse_url(url)
            if place.scheme not in ("http", "https") or not place.host:
                raise faults.LocationValueError("no address")
            named = {"User-Agent": "bg-pipelines", **_authorization(place), **headers}
            waiting = _exchange.set(exchange)
            try:
                # An address may be a secret, and urllib3 writes addresses into its log.
                with silenced():
                    response = self._manager(place).urlopen(
                        method,
                        url,
                        body=body,
                        headers=named,
                        redirect=False,
                        retries=False,
                        preload_content=False,
                        timeout=Timeout(connect=self.timeouts.connect, read=self.timeouts.read),
                    )
            finally:
                _exchange.reset(waiting)
            target = response.get_redirect_location()
            if not redirects or not target:
                return response
            response.close()
            redirects -= 1
            url = urljoin(url, target)
            if place.scheme == "https" and parse_url(url).scheme != "https":
                raise self._malformed("redirects to an address without TLS")

    def _manager(self, place: Url) -> urllib3.PoolManager:
        key = place.scheme, place.netloc
        if key not in self._managers:
            self._managers[key] = _make_manager(proxy_for(place), self._tls)
        return self._managers[key]

    # What failed

    def _classified(self, error: Exception, exchange: _Exchange, url: str) -> IntegrationError:
        causes = list(_causes(error))
        root, timeouts = type(causes[-1]).__name__, self.timeouts

        def met(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if met(_TooLargeError):
            return self._malformed(f"sent an answer larger than {self._max_bytes:,.0f} bytes")
        if met(faults.DecodeError):
            return self._malformed("sent an answer that cannot be unpacked")
        if met(faults.LocationValueError, faults.URLSchemeUnknown, UnicodeError):
            message = f"{self._address_of} is not an address that can be called ({root})"
            return IntegrationError.of(ErrorType.CONFIGURATION, message, source=self._source)
        if met(_OverdueError):
            fault = f"no whole answer within {timeouts.whole:g} s"
            return self._failure(ErrorType.TIMEOUT, url, fault, exchange)
        unverified = next((one for one in causes if isinstance(one, ssl.SSLCertVerificationError)), None)
        if unverified is not None:
            fault = f"its certificate could not be verified ({unverified.verify_message})"
            return self._failure(ErrorType.CONNECTION, url, fault, exchange)
        if met(TimeoutError, faults.ReadTimeoutError) and not exchange.connected:
            fault = f"no connection within {timeouts.connect:g} s"
            return self._failure(ErrorType.TIMEOUT, url, fault, exchange)
        if met(TimeoutError, faults.ReadTimeoutError):
            fault = f"no answer within {timeouts.read:g} s"
            return self._failure(ErrorType.TIMEOUT, url, fault, exchange)
        if met(faults.ProxyError):
            refused = re.search(r"Tunnel connection failed: (\d{3})", str(error))
            fault = f"the proxy refuses or cannot be reached ({refused[1] if refused else root})"
            return self._failure(ErrorType.CONNECTION, url, fault, exchange)
        if met(faults.HTTPError, http.client.HTTPException, OSError):
            fault = "the connection was cut" if exchange.connected else "cannot be reached"
            return self._failure(ErrorType.CONNECTION, url, f"{fault} ({root})", exchange)
        return self._malformed(f"sent an answer whose headers make no sense ({root})")

    def _failure(self, kind: ErrorType, url: str, fault: str, exchange: _Exchange) -> IntegrationError:
        # Host and port only: a path or a query may hold what is nobody's business.
        try:
            address = parse_url(url)._replace(auth=None).netloc
        except ValueError:
            address = None
        details = {} if exchange.connected else {"sent": False}
        message = f"{address or self._name}: {fault}"
        return IntegrationError.of(kind, message, source=self._source, details=details)


# Time and size


class _OverdueError(TimeoutError):
    """The whole answer has taken too long."""


class _TooLargeError(OSError):
    """The answer is larger than it may be."""


@dataclass
class _Exchange:
    """A request and its answer: when it is due, how many bytes may still come, and whether a connection came about."""

    clock: Callable[[], float]
    due: float
    bytes_left: float
    connected: bool = False


_exchange: ContextVar[_Exchange] = ContextVar("exchange")
"""The one that this thread is beginning: urllib3 hands nothing of ours down to its connections."""


class _Incoming(io.RawIOBase):
    """What comes from a socket: no read outlasts the exchange's time, or brings more than its size.

    urllib3 limits single reads only, so headers or a body that drip in would hold a worker for hours.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, exchange: _Exchange) -> None:
        self._raw, self._sock, self._exchange = raw, sock, exchange
        self._idle = sock.gettimeout() or math.inf
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        exchange = self._exchange
        left = exchange.due - exchange.clock()
        if left <= 0:
            raise _OverdueError
        if left < self._idle:
            self._sock.settimeout(left)
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError:
            if left < self._idle:
                raise _OverdueError from None
            raise
        self.ended = not count
        exchange.bytes_left -= count or 0
        if exchange.bytes_left < 0:
            raise _TooLargeError
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._incoming = _Incoming(self.fp.detach(), sock, _exchange.get())
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
        _exchange.get().connected = True

    def request(self, *args: Any, **options: Any) -> None:
        _exchange.get().connected |= not self.is_closed
        super().request(*args, **options)


class _TlsConnection(_Connection, HTTPSConnection):
    """Connected when the handshake is over."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _make_manager(proxy: str | None, tls: ssl.SSLContext) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "ssl_context": tls}
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        try:
            headers = _authorization(parse_url(proxy), proxy=True)
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, proxy_ssl_context=tls, **options)
        except (ValueError, faults.HTTPError):
            message = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not the address of an HTTP proxy"
            raise IntegrationError.of(ErrorType.CONFIGURATION, message, source="settings") from None
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def _authorization(place: Url, *, proxy: bool = False) -> dict[str, str]:
    """What an address that holds a user and a password is called with."""
    if not place.auth:
        return {}
    auth = unquote(place.auth)
    return make_headers(proxy_basic_auth=auth) if proxy else make_headers(basic_auth=auth)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what is behind it, the root last."""
    at: BaseException | None = error
    while at is not None:
        yield at
        inner = next((one for one in reversed(at.args) if isinstance(one, BaseException)), None)
        at = inner or at.__cause__


# What answers hold


def parse_json(content: bytes) -> Any:
    """Raises ValueError."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        # orjson refuses a lone surrogate anywhere; then only the row that has it shall fail.
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def vendor_time(headers: Mapping[str, str]) -> datetime | None:
    """The vendor's clock when it answered, to the second; None where it does not say."""
    return _moment(headers.get("Date"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a vendor asks to wait, told in seconds or as a time; None where it does not say, or oddly."""
    text = headers.get("Retry-After")
    try:
        seconds = float(text or "")
    except ValueError:
        moment = _moment(text)
        if moment is None:
            return None
        seconds = (moment - (vendor_time(headers) or datetime.now(UTC))).total_seconds()
    if not 0 <= seconds < math.inf:
        return None
    # Never none at all, or a call would go round without a pause.
    return min(max(seconds, MIN_WAIT_SECONDS), MAX_WAIT_SECONDS)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" is UTC without a zone
