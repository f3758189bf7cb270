"""One transport for every vendor: an answer comes whole, in time and of a bounded size, or as a classified error.

    transport = Transport("shopify", "Shopify", address_of="--api-url")
    answer = transport.request("POST", "https://harbor.myshopify.com/admin/...", headers={...}, body=b"{}")
    answer.status, answer.headers, answer.content

    time         connecting, each read, and the answer as a whole, its headers included
    size         the bytes on the wire, the bytes they unpack to, the values of their JSON, and large answers at a time
    credentials  only those that the caller gives: no ~/.netrc, no cookies, no redirect
    TLS          one context per process: reading the root certificates costs ten times as much as a call
    environment  HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY; REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR

The vendor's client interprets the status. Nothing is retried here.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urljoin

import orjson
import urllib3
from urllib3 import exceptions as faults
from urllib3.util import Timeout, Url, parse_url

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.connections import (
    Exchange,
    OverdueError,
    TooLargeError,
    authorization,
    begun,
    make_manager,
)
from bg_pipelines.platforms.large_answers import LARGE_BYTES, Place, take_place
from bg_pipelines.platforms.network import proxy_for, tls_context
from bg_pipelines.platforms.silenced import silenced

CHUNK_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_ANSWER_VALUES = 1_000_000
"""Of JSON, about: `[],[],...` takes thirty times its size when it is read."""
OF_THE_CALL = frozenset({400, 405, 406, 411, 413, 414, 415, 422, 431})
"""Statuses that say that the request itself is wrong, also where nothing comes with them."""
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 3600.0
"""What a Retry-After may ask of us."""


class Timeouts(NamedTuple):
    """In seconds: for connecting, TLS included; for each read; for the whole answer."""

    connect: float = 5.0
    read: float = 30.0
    whole: float = 120.0


TIMEOUTS = Timeouts()


class Answer(NamedTuple):
    """An answer, unpacked. Header names are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    place: Place | None = None
    """That of a large one, until its content has been read."""


class TooManyValuesError(ValueError):
    """JSON that would take many times its size in memory."""


class Transport:
    """Requests to one vendor. Safe to share between threads.

    `source` stands in errors, `name` in their sentences; `address_of` is what a person sets to change the address.
    `clock` is in seconds and only ever compared with itself. Raises IntegrationError and nothing else: timeout,
    connection, malformed_response, configuration. Where surely nothing was sent, `sent` is False in its details.
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
            content, place = bytearray(), None
            while chunk := response.read1(CHUNK_BYTES, decode_content=True):
                content += chunk
                if len(content) > self._max_bytes:
                    raise TooLargeError
                if place is None and len(content) > LARGE_BYTES:
                    place = take_place(self.timeouts.read)
            return Answer(response.status, response.headers, bytes(content), place)

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        redirects: int = 0,
        may_go_to: Callable[[Url], bool] = lambda _: True,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """A request's answer, to be read piece by piece with `read1`, of which each is in time.

        Up to `redirects` are followed, never from TLS to none; `headers` go along, so there must be no credentials in them.
        The address, and each that it leads to, is asked of `may_go_to`: malformed_response where it says no.
        """
        exchange = Exchange(self.clock, self.clock() + self.timeouts.whole, self._max_bytes)
        try:
            response = self._send(exchange, method, url, headers or {}, body, redirects, may_go_to)
            try:
                if (response.length_remaining or 0) > self._max_bytes:
                    raise TooLargeError
                yield response
            finally:
                response.close()
        except (faults.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise self._classified(error, exchange, url) from None

    def object_of(self, answer: Answer, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that is an answer's content; `details` are for the error where it is none."""
        try:
            value = parse_json(answer.content)
        except TooManyValuesError:
            raise self._malformed(f"answered with more than {MAX_ANSWER_VALUES:,} values", details) from None
        except ValueError:
            is_html = answer.content.lstrip()[:1] == b"<"
            kind = "HTML" if is_html else "something that is not JSON, or cut short,"
            raise self._malformed(f"answered {answer.status} with {kind} instead of data", details) from None
        if not isinstance(value, dict):
            raise self._malformed("answered with JSON that is no object", details)
        return value

    def _malformed(self, what: str, details: Mapping[str, Any] | None = None) -> IntegrationError:
        message = f"{self._name} {what}; retried automatically"
        return IntegrationError.of(
            ErrorType.MALFORMED_RESPONSE, message, source=self._source, details=details
        )

    # Sending

    def _send(
        self,
        exchange: Exchange,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        redirects: int,
        may_go_to: Callable[[Url], bool],
    ) -> urllib3.BaseHTTPResponse:
        while True:
            place = parse_url(url)
            if place.scheme not in ("http", "https") or not place.host:
                raise faults.LocationValueError("no address")
            if not may_go_to(place):
                raise self._malformed(f"leads to {place.host}, which is not where its files are")
            named = {"User-Agent": "bg-pipelines", **authorization(place), **headers}
            # An address may be a secret, and urllib3 writes addresses into its log.
            with begun(exchange), silenced():
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
            self._managers[key] = make_manager(proxy_for(place), self._tls)
        return self._managers[key]

    # What failed

    def _classified(self, error: Exception, exchange: Exchange, url: str) -> IntegrationError:
        causes = list(_causes(error))
        root, timeouts = type(causes[-1]).__name__, self.timeouts

        def met(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if met(TooLargeError):
            return self._malformed(f"sent an answer larger than {self._max_bytes:,.0f} bytes")
        if met(faults.DecodeError):
            return self._malformed("sent an answer that cannot be unpacked")
        if met(faults.LocationValueError, faults.URLSchemeUnknown, UnicodeError):
            message = f"{self._address_of} is not an address that can be called ({root})"
            details = {"sent": False}
            return IntegrationError.of(ErrorType.CONFIGURATION, message, source=self._source, details=details)
        if met(OverdueError):
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

    def _failure(self, kind: ErrorType, url: str, fault: str, exchange: Exchange) -> IntegrationError:
        # Host and port only: a path or a query may hold a secret.
        try:
            address = parse_url(url)._replace(auth=None).netloc
        except ValueError:
            address = None
        details = {} if exchange.connected else {"sent": False}
        message = f"{address or self._name}: {fault}"
        return IntegrationError.of(kind, message, source=self._source, details=details)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what is behind it, the root last."""
    at: BaseException | None = error
    while at is not None:
        yield at
        inner = next((one for one in reversed(at.args) if isinstance(one, BaseException)), None)
        at = inner or at.__cause__


# What answers hold


def parse_json(content: bytes) -> Any:
    """Raises ValueError, also for more values than an answer may have."""
    # Each value has one of these before it, so only a long answer can have so many.
    if len(content) > MAX_ANSWER_VALUES and sum(map(content.count, (b",", b"[", b"{"))) > MAX_ANSWER_VALUES:
        raise TooManyValuesError
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        # orjson refuses a lone surrogate anywhere, and a number that is too large; then only the row that has it shall
        # fail. Python itself reads no integer of more than 4,300 digits.
        return json.loads(content, parse_int=lambda digits: int(digits) if len(digits) < 400 else math.inf)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def vendor_time(headers: Mapping[str, str]) -> datetime | None:
    """The vendor's clock when it answered, to the second; None where it does not say."""
    return _moment(headers.get("Date"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a vendor asks to wait, given in seconds or as a time; None without a usable value."""
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
