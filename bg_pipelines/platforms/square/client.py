"""Square's Connect v2 API over HTTP: one call at a time, authorised, its failures classified.

    client = SquareClient("EAAA...")
    answer = client.post("customers/search", limit=100)

Vendor facts: https://developer.squareup.com/docs/build-basics/handling-errors (codes), /general-considerations/rate-limits
(429 without a promise of when), /build-basics/common-api-patterns/pagination (cursors).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import orjson

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms import http
from bg_pipelines.platforms.http import Timeouts, Transport, parse_json, retry_after, vendor_time
from bg_pipelines.platforms.paging import FEWER, Cursors, may_be_of_size

T = TypeVar("T")

BASE_URL = "https://connect.squareup.com"
VERSION = "2026-09-16"
"""Of the API: what a request and its answer look like."""
# A worker waits out a rate limit this long in one call, then releases the store for later.
THROTTLE_WAIT_SECONDS = 60.0
FIRST_WAIT_SECONDS = 1.0
SOURCE = "square"
LISTED_PAGES = 1_000
"""A list that is held as a whole has no more."""


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
    """Calls the API of one merchant, identified by the token.

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
        timeouts: Timeouts = http.TIMEOUTS,
        max_bytes: float = http.MAX_ANSWER_BYTES,
        throttle_wait_seconds: float = THROTTLE_WAIT_SECONDS,
    ) -> None:
        if not (token and token.isascii() and token.isprintable()):
            raise _of(
                ErrorType.CREDENTIALS,
                "the access token is empty or has characters that no token has (a line break, an ellipsis): "
                "copy it whole and give it with `bg-pipelines stores set STORE --token -`",
                {},
            )
        self.transport = Transport(
            SOURCE,
            "Square",
            address_of="the store's --api-url",
            timeouts=timeouts,
            max_bytes=max_bytes,
            clock=clock,
        )
        self.base_url = (base_url or BASE_URL).rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Square-Version": VERSION,
            "Content-Type": "application/json",
        }
        self.sleep = sleep
        self.throttle_wait_seconds = throttle_wait_seconds

    def close(self) -> None:
        self.transport.close()

    def get(self, *place: str, **query: str) -> Answer:
        """Ask for what is at a place: `get("locations", "main")`."""
        return self._call("GET", _path(place) + (f"?{urlencode(query)}" if query else ""), None)

    def post(self, what: str, /, **content: Any) -> Answer:
        return self._call("POST", what, content)

    def put(self, *place: str, content: Mapping[str, Any], may_wait_seconds: float | None = None) -> Answer:
        """`may_wait_seconds` is for what must not be sent later than that; by default a minute."""
        return self._call("PUT", _path(place), content, may_wait_seconds)

    def post_soon(self, what: str, content: Mapping[str, Any], may_wait_seconds: float) -> Answer:
        """As `post`, for what must not be sent later than that."""
        return self._call("POST", what, content, may_wait_seconds)

    def delete(self, *place: str) -> Answer:
        return self._call("DELETE", _path(place), None)

    def answers(
        self, what: str, content: Mapping[str, Any], cursor: str | None
    ) -> Iterator[tuple[Answer, str | None]]:
        """The answers of a search from behind a cursor to its end, each with the cursor behind it.

        Where Square fails at so many rows, fewer are asked for; at one alone, it fails.
        """
        limit = content.get("limit")

        def ask(more: dict[str, str]) -> Answer:
            nonlocal limit
            while True:
                try:
                    return self.post(what, **{**content, **({"limit": limit} if limit else {})}, **more)
                except IntegrationError as error:
                    if not limit or limit == 1 or not may_be_of_size(error):
                        raise
                    # One call tells a vendor that is down from a page that is too much.
                    if limit == content["limit"] and not self._manages(what, {**content, **more}):
                        raise
                    limit = max(1, limit // FEWER)

        return self._paged(ask, cursor)

    def _manages(self, what: str, content: Mapping[str, Any]) -> bool:
        """Whether Square answers at all, and it is the number of rows that it fails at."""
        try:
            self.post(what, **{**content, "limit": 1})
        except IntegrationError:
            return False
        return True

    def listed(self, *place: str, **query: str) -> Iterator[Answer]:
        """The answers of a list that is asked for with GET, to its end."""
        pages = self._paged(lambda more: self.get(*place, **query, **more), None)
        for number, (answer, _) in enumerate(pages, 1):
            if number > LISTED_PAGES:
                raise malformed("Square's list goes on and on: the end would never be reached")
            yield answer

    def _paged(
        self, ask: Callable[[dict[str, str]], Answer], cursor: str | None
    ) -> Iterator[tuple[Answer, str | None]]:
        cursors = Cursors("Square", malformed, cursor)
        while True:
            answer = ask({"cursor": cursor} if cursor else {})
            cursor = answer.data.get("cursor") or None
            if cursor is not None and not isinstance(cursor, str):
                raise malformed("Square's answer has a cursor that is no text")
            has_rows = any(isinstance(rows, list) and rows for rows in answer.data.values())
            cursors.note(cursor, is_empty=not has_rows)
            yield answer, cursor
            if cursor is None:
                return

    def _call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None,
        may_wait_seconds: float | None = None,
    ) -> Answer:
        """What was answered, after waiting out rate limits. Raises IntegrationError: see `Transport` and `classify`."""
        url = f"{self.base_url}/v2/{path}"
        body = None if content is None else orjson.dumps(content)
        may_wait = self.throttle_wait_seconds
        may_wait = may_wait if may_wait_seconds is None else min(may_wait, may_wait_seconds)
        return self.within_rate_limit(
            lambda: self._read(self.transport.request(method, url, headers=self._headers, body=body)),
            may_wait_seconds=may_wait,
            pause_seconds=FIRST_WAIT_SECONDS,
        )

    def within_rate_limit(self, act: Callable[[], T], *, may_wait_seconds: float, pause_seconds: float) -> T:
        """What `act` returns, begun again after each wait that the rate limit asks for (`pause_seconds`, doubled each time,
        where it names none). Raises like `act`, and IntegrationError (throttled) where the waits would be longer than
        `may_wait_seconds` together.
        """
        while True:
            try:
                return act()
            except IntegrationError as error:
                seconds = float(error.details.get("retry_after_seconds", pause_seconds))
                if error.error_type is not ErrorType.THROTTLED or seconds > may_wait_seconds:
                    raise
                may_wait_seconds -= seconds
                pause_seconds *= 2
                self.sleep(seconds)

    def _read(self, received: http.Answer) -> Answer:
        if not 200 <= received.status < 300:
            raise classify(received.status, received.headers, _errors(received.content))
        data = self.transport.object_of(received, {"status": received.status})
        if errors := data.get("errors"):
            raise classify(received.status, received.headers, errors)
        return Answer(data, vendor_time(received.headers))


def classify(status: int, headers: Mapping[str, str], errors: Any) -> IntegrationError:
    """Classification of an error, by its HTTP status and the `errors` of its body.

    Of an error's parts only `code` and `field` are kept: `detail` may quote what was sent.
    """
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code, field = _word(first.get("code")), _word(first.get("field"))
    details: dict[str, Any] = {"status": status}
    details |= {name: word for name, word in (("code", code), ("field", field)) if word}
    said = " ".join(filter(None, (str(status), code)))
    if status == 429 or code == "RATE_LIMITED":
        seconds = retry_after(headers)
        wait = "" if seconds is None else f", for {seconds:.0f} s"
        details |= {} if seconds is None else {"retry_after_seconds": seconds}
        return _of(ErrorType.THROTTLED, f"Square asks to be called less often{wait} ({said})", details)
    if status >= 500 or code in ("INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "GATEWAY_TIMEOUT"):
        return _of(ErrorType.SERVER_ERROR, f"Square is failing ({said}); retried automatically", details)
    if status == 401:
        return _of(ErrorType.CREDENTIALS, _UNAUTHORISED.format(said=said), details)
    if status == 403:
        return _of(ErrorType.SCOPES, _FORBIDDEN.format(said=said), details)
    if status == 408:
        message = "Square gave up waiting for the request (408); retried automatically"
        return _of(ErrorType.TIMEOUT, message, details)
    if 300 <= status < 400:
        message = f"Square's API has moved from this address ({status}): give the store its new --api-url"
        return _of(ErrorType.CONFIGURATION, message, details)
    if code is None and status not in http.OF_THE_CALL:
        message = f"Square refuses the call and gives no reason ({said}): mostly for a moment; retried automatically"
        return _of(ErrorType.REFUSED, message, details)
    at = f" at {field}" if field else ""
    error = _of(ErrorType.QUERY_REJECTED, f"Square refuses the request ({said}{at})", details)
    # A cursor expires; the pages are read again.
    error.recoverable = code == "INVALID_CURSOR"
    return error


_UNAUTHORISED = (
    "Square does not accept the access token ({said}): it is wrong, expired or revoked. "
    "Make a new one and give it with `bg-pipelines stores set STORE --token -`"
)
_FORBIDDEN = "Square forbids it ({said}): the token lacks a permission"


def time_text(moment: datetime) -> str:
    """A time as Square writes it: UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def malformed(message: str) -> IntegrationError:
    """An answer without what was asked for."""
    return _of(ErrorType.MALFORMED_RESPONSE, f"{message}; retried automatically", {})


def _path(place: tuple[str, ...]) -> str:
    return "/".join(quote(part, safe="") for part in place)


def _errors(content: bytes) -> Any:
    try:
        body = parse_json(content)
    except ValueError:
        return None
    return body.get("errors") if isinstance(body, dict) else None


def _word(value: Any) -> str | None:
    """A code, or the place of a fault: never a sentence, which may quote anything."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.\[\]]{1,100}", value) else None


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)
