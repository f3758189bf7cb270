"""Square's Connect v2 API through its official client (`squareup`): one call at a time, its failures classified.

    client = SquareClient("EAAA...")
    answer = client.call(client.api.customers.search, limit=100)

The client makes the requests: addresses, authorisation, version. The answers are read here, before it does: its models
take 16 ms of processor time an order, where reading the JSON takes 0.3, and they hide what is null and what is no number.

Vendor facts: https://developer.squareup.com/docs/build-basics/handling-errors (codes), /general-considerations/rate-limits
(429 without a promise of when), /build-basics/common-api-patterns/pagination (cursors).
"""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple

import httpx
import orjson
from square import Square

from bg_pipelines.errors import ErrorType, IntegrationError

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
# An answer that drips in keeps every single read short; the whole of it has a limit too.
ANSWER_TIMEOUT_SECONDS = 120.0
# A worker waits out a rate limit this long in one call, then gives the store back for later.
THROTTLE_WAIT_SECONDS = 60.0
FIRST_WAIT_SECONDS = 1.0
# What a Retry-After may ask of us; anything else is taken for a mistake.
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SOURCE = "square"
# The client would send a refused POST again by itself, and a 409 too.
ONCE = {"max_retries": 0}


class Answer(NamedTuple):
    """The JSON object of a successful answer and the vendor's clock (its `Date` header)."""

    data: dict[str, Any]
    vendor_time: datetime | None

    def rows(self, name: str) -> list[Any]:
        """One of its lists; Square leaves out one without rows."""
        rows = self.data.get(name)
        if rows is not None and not isinstance(rows, list):
            raise malformed(f"Square's answer has no list of {name}")
        return rows or []


class SquareClient:
    """Calls one merchant's API, whom the token tells.

    `base_url` is Square's own where it is None. `sleep` waits, in seconds, and may raise to stop; `clock` is in seconds
    and only ever compared with itself. Raises IntegrationError, classified, and nothing else (but what `sleep` raises).
    """

    def __init__(
        self,
        token: str,
        base_url: str | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        timeouts: tuple[float, float, float] = (
            CONNECT_TIMEOUT_SECONDS,
            READ_TIMEOUT_SECONDS,
            ANSWER_TIMEOUT_SECONDS,
        ),
        throttle_wait_seconds: float = THROTTLE_WAIT_SECONDS,
    ) -> None:
        if not (token and token.isascii() and token.isprintable()):
            raise _of(
                ErrorType.CREDENTIALS,
                "the access token is empty or has characters that no token has (a line break, an ellipsis): "
                "copy it whole and give it with `bg-pipelines stores add`",
                {},
            )
        self._http = _Http(timeouts, clock)
        self._sleep = sleep
        self._throttle_wait_seconds = throttle_wait_seconds
        self.api = Square(token=token, base_url=base_url, httpx_client=self._http)

    def close(self) -> None:
        self._http.close()

    def call(self, method: Callable[..., object], *place: str, **arguments: Any) -> Answer:
        """Call one of `api`'s methods and return what was answered, waiting out rate limits on the way.

        Raises IntegrationError: see `classify`.
        """
        may_wait, pause = self._throttle_wait_seconds, FIRST_WAIT_SECONDS
        while True:
            try:
                method(*place, **arguments, request_options=ONCE)
                answer: Answer = self._http.kept.answer
                return answer
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
                raise _of(
                    ErrorType.CONFIGURATION, "the store's --api-url is not an address that can be called", {}
                ) from None
            except IntegrationError as error:
                seconds = float(error.details.get("retry_after_seconds", pause))
                if error.error_type is not ErrorType.THROTTLED or seconds > may_wait:
                    raise
                may_wait -= seconds
                pause *= 2
                self._sleep(seconds)

    def answers(
        self, method: Callable[..., object], arguments: Mapping[str, Any], cursor: str | None
    ) -> Iterator[tuple[Answer, str | None]]:
        """The answers of a search from behind a cursor to its end, each with the cursor behind it.

        The client's own pager goes round for ever where a cursor comes again.
        """
        seen = {cursor}
        while True:
            more = {"cursor": cursor} if cursor else {}
            answer = self.call(method, **arguments, **more)
            cursor = answer.data.get("cursor") or None
            if cursor is not None and not isinstance(cursor, str):
                raise malformed("Square's answer has a cursor that is no text")
            if cursor is not None and cursor in seen:
                raise malformed("Square repeats a page's cursor: the end would never be reached")
            seen.add(cursor)
            yield answer, cursor
            if cursor is None:
                return


class _Http(httpx.Client):
    """What Square's client sends with: reads each answer whole, in time, and keeps it; the client gets an empty one.

    Kept for its own thread: another may still be in a call whose answer nobody waits for any more.
    """

    def __init__(self, timeouts: tuple[float, float, float], clock: Callable[[], float]) -> None:
        connect, read, self._whole = timeouts
        super().__init__(timeout=httpx.Timeout(read, connect=connect), verify=_tls(), follow_redirects=False)
        self._clock = clock
        self.kept = threading.local()

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        # The client sets one time limit for everything.
        request.extensions = {**request.extensions, "timeout": self.timeout.as_dict()}
        status, headers, content = self._read(request, options)
        if not 200 <= status < 300:
            raise classify(status, headers, _errors(content))
        data = _parse(content, {"status": status})
        if errors := data.get("errors"):
            raise classify(status, headers, errors)
        self.kept.answer = Answer(data, _vendor_time(headers))
        return httpx.Response(200, request=request, content=b"{}")

    def _read(self, request: httpx.Request, options: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        host, deadline = request.url.netloc.decode("ascii", "replace"), self._clock() + self._whole
        try:
            with closing(super().send(request, **{**options, "stream": True})) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if self._clock() > deadline:
                        raise _transport(ErrorType.TIMEOUT, host, f"no whole answer within {self._whole:g} s")
                    if len(content) > MAX_ANSWER_BYTES:
                        raise _malformed(f"Square's answer is larger than {MAX_ANSWER_BYTES} bytes", {})
                return response.status_code, response.headers, bytes(content)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise
        except httpx.ConnectTimeout:
            raise _transport(
                ErrorType.TIMEOUT, host, f"no connection within {self.timeout.connect:g} s"
            ) from None
        except httpx.TimeoutException:
            raise _transport(ErrorType.TIMEOUT, host, f"no answer within {self.timeout.read:g} s") from None
        except httpx.DecodingError:
            raise _malformed("Square's answer is packed in a way that makes no sense", {}) from None
        except (httpx.HTTPError, OSError) as error:
            fault = f"the connection failed or was cut ({type(error).__name__})"
            if _is_of_tls(error):
                fault = "its certificate could not be verified"
            raise _transport(ErrorType.CONNECTION, host, fault) from None


@cache
def _tls() -> ssl.SSLContext:
    """One for all stores: reading the certificates takes longer than a call.

    httpx heeds SSL_CERT_FILE and SSL_CERT_DIR, and these two not, which our other clients go by.
    """
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not bundle:
        return httpx.create_ssl_context()
    try:
        folder = os.path.isdir(bundle)
        return ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
    except OSError as error:
        message = (
            f"REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE: the certificates cannot be read ({type(error).__name__})"
        )
        raise IntegrationError.of(ErrorType.CONFIGURATION, message, source="settings") from None


def classify(status: int, headers: Mapping[str, str], errors: Any) -> IntegrationError:
    """A refusal, by its HTTP status and the `errors` of its body, as what it means for us.

    Of an error's parts only `code` and `field` are kept: `detail` may quote what was sent.
    """
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code, field = _word(first.get("code")), _word(first.get("field"))
    details: dict[str, Any] = {"status": status}
    details |= {name: word for name, word in (("code", code), ("field", field)) if word}
    said = " ".join(filter(None, (str(status), code)))
    if status == 429 or code == "RATE_LIMITED":
        seconds = _retry_after(headers)
        wait = "" if seconds is None else f", for {seconds:.0f} s"
        details |= {} if seconds is None else {"retry_after_seconds": seconds}
        return _of(ErrorType.THROTTLED, f"Square asks to be called less often{wait} ({said})", details)
    if status >= 500 or code in ("INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "GATEWAY_TIMEOUT"):
        return _of(ErrorType.SERVER_ERROR, f"Square is failing ({said}); it is tried again", details)
    if status == 401:
        return _of(ErrorType.CREDENTIALS, _UNAUTHORISED.format(said=said), details)
    if status == 403:
        return _of(ErrorType.SCOPES, _FORBIDDEN.format(said=said), details)
    if status == 408:
        message = "Square gave up waiting for the request (408); it is tried again"
        return _of(ErrorType.TIMEOUT, message, details)
    if 300 <= status < 400:
        message = f"Square's API has moved from this address ({status}): give the store its new --api-url"
        return _of(ErrorType.CONFIGURATION, message, details)
    at = f" at {field}" if field else ""
    error = _of(ErrorType.QUERY_REJECTED, f"Square refuses the request ({said}{at})", details)
    # A cursor does not last; the pages are read anew.
    error.recoverable = code == "INVALID_CURSOR"
    return error


_UNAUTHORISED = (
    "Square does not accept the access token ({said}): it is wrong, expired or revoked. "
    "Make a new one and give it with `bg-pipelines stores add`"
)
_FORBIDDEN = "Square forbids it ({said}): the token lacks a permission. Run `bg-pipelines check` to see which"


def time_text(moment: datetime) -> str:
    """A time as Square writes it: UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def malformed(message: str) -> IntegrationError:
    """An answer without what was asked for."""
    return _malformed(f"{message}; it is tried again", {})


def _errors(content: bytes) -> Any:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return body.get("errors") if isinstance(body, dict) else None


def _parse(content: bytes, details: dict[str, Any]) -> dict[str, Any]:
    try:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            # orjson refuses a lone surrogate anywhere; then only the row that has it shall fail.
            answer = json.loads(content)
    except (ValueError, RecursionError):
        kind = "HTML" if content.lstrip()[:1] == b"<" else "something that is not JSON, or cut short,"
        raise _malformed(f"Square answered with {kind} instead of data; it is tried again", details) from None
    if not isinstance(answer, dict):
        raise _malformed("Square answered with JSON that is no object; it is tried again", details)
    return answer


def _word(value: Any) -> str | None:
    """A code, or the place of a fault: never a sentence, which may quote anything."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.\[\]]{1,100}", value) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        moment = _time(text)
        seconds = (moment - datetime.now(UTC)).total_seconds() if moment else -1.0
    # Never none at all, or a call would go round without a pause; NaN and infinity are no waits.
    return max(FIRST_WAIT_SECONDS, seconds) if 0 <= seconds <= MAX_RETRY_AFTER_SECONDS else None


def _vendor_time(headers: Mapping[str, str]) -> datetime | None:
    return _time(headers.get("date", ""))


def _time(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" is UTC without a zone


def _is_of_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)


def _malformed(message: str, details: dict[str, Any]) -> IntegrationError:
    return _of(ErrorType.MALFORMED_RESPONSE, message, details)


def _transport(kind: ErrorType, host: str, fault: str) -> IntegrationError:
    # Host and port only: a path or a query may hold what is nobody's business.
    return _of(kind, f"{host or 'the store'}: {fault}", {})
