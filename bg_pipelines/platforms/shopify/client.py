"""Shopify's Admin GraphQL API over HTTP: one call at a time, paced, authorised, its failures classified.

    client = ShopifyClient("https://harbor.myshopify.com", StaticToken("shpat_..."), api_version="2026-07")
    answer = client.execute("query { shop { name } }", {})

Vendor facts: https://shopify.dev/docs/api/usage/limits (cost, THROTTLED, MAX_COST_EXCEEDED),
/docs/api/usage/response-codes (401 to 5xx), /docs/apps/build/authentication-authorization (client credentials).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson
import requests
import urllib3.exceptions

from bg_pipelines.errors import ErrorType, IntegrationError

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
# An answer that drips in keeps every single read short; the whole of it has a limit too.
ANSWER_TIMEOUT_SECONDS = 120.0
# A worker waits out a throttle this long in one call, then gives the store back for later.
THROTTLE_WAIT_SECONDS = 120.0
RENEW_TOKEN_BEFORE = timedelta(minutes=30)
# What a Retry-After may ask of us; anything else is taken for a mistake.
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 3600.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SOURCE = "shopify"


class StaticToken(NamedTuple):
    """The access token of an older custom app; it does not expire."""

    access_token: str

    def __repr__(self) -> str:
        return "StaticToken(...)"


class ClientCredentials(NamedTuple):
    """A newer custom app's id and secret, from which 24-hour tokens are made, with the last one if there is one."""

    client_id: str
    client_secret: str
    access_token: str | None = None
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"ClientCredentials(client_id={self.client_id!r}, ...)"


Credentials = StaticToken | ClientCredentials


def credentials(stored: Mapping[str, Any]) -> Credentials:
    """As they are kept with a store."""
    try:
        if "client_secret" not in stored:
            return StaticToken(stored["access_token"])
        expires_at = stored.get("expires_at")
        return ClientCredentials(
            stored["client_id"],
            stored["client_secret"],
            stored.get("access_token"),
            datetime.fromisoformat(expires_at) if expires_at else None,
        )
    except KeyError as error:
        raise IntegrationError.of(
            ErrorType.CREDENTIALS,
            f"the store's credentials lack {error.args[0]}: give them again with `bg-pipelines stores add`",
            source=SOURCE,
        ) from None


class Answer(NamedTuple):
    """The `data` of a successful answer and the vendor's clock (its `Date` header)."""

    data: dict[str, Any]
    vendor_time: datetime | None


@dataclass
class _Budget:
    """The shop's leaky bucket as last seen, in cost points; `at` is our monotonic clock, in seconds."""

    available: float
    maximum: float
    restore_rate: float
    at: float

    def wait_seconds(self, cost: float, now: float) -> float:
        missing = min(cost, self.maximum) - (self.available + (now - self.at) * self.restore_rate)
        return max(0.0, missing / self.restore_rate)


class ShopifyClient:
    """Calls one shop's Admin GraphQL API.

    `base_url` is https://SHOP or any other address that speaks the API. `on_token` is told each renewed
    `ClientCredentials`, to be kept. `clock` is in seconds and only ever compared with itself; `now` is the time of
    day. Raises IntegrationError, classified, and nothing else (but what `sleep` raises).
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        api_version: str,
        on_token: Callable[[ClientCredentials], None] = lambda _: None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        timeouts: tuple[float, float, float] = (
            CONNECT_TIMEOUT_SECONDS,
            READ_TIMEOUT_SECONDS,
            ANSWER_TIMEOUT_SECONDS,
        ),
        throttle_wait_seconds: float = THROTTLE_WAIT_SECONDS,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._url = f"{self._base_url}/admin/api/{api_version}/graphql.json"
        self._credentials = credentials
        self._on_token = on_token
        self.sleep = sleep
        self.clock = clock
        self._now = now
        self.timeouts = timeouts
        self._throttle_wait_seconds = throttle_wait_seconds
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/json", "Accept": "application/json"})
        self._prepared: dict[str, tuple[requests.PreparedRequest, dict[str, Any]]] = {}
        self._budget: _Budget | None = None
        self._costs: dict[str, float] = {}

    def close(self) -> None:
        self._session.close()

    def execute(self, document: str, variables: Mapping[str, Any]) -> Answer:
        """Send one document and return its data, waiting out throttles and renewing the token on the way.

        Raises IntegrationError: see `classify_status` and `classify_errors`.
        """
        body = orjson.dumps({"query": document, "variables": variables})
        may_wait = self._throttle_wait_seconds
        renewed = False
        while True:
            self._pace(document)
            try:
                status, headers, content = self._post(self._url, body, self._authorization())
                if status == 401 and isinstance(self._credentials, ClientCredentials) and not renewed:
                    # Revoked or expired before its time: one new token, then a second 401 is the truth.
                    self._renew_token(self._credentials)
                    renewed = True
                    continue
                return self._read(document, status, headers, content)
            except IntegrationError as error:
                if error.error_type is not ErrorType.THROTTLED:
                    raise
                seconds = float(error.details.get("retry_after_seconds", 1.0))
                if seconds > may_wait:
                    raise
                may_wait -= seconds
                self.sleep(seconds)

    def _pace(self, document: str) -> None:
        """Wait until the bucket holds what this document cost last time, rather than be refused."""
        if self._budget is not None:
            seconds = self._budget.wait_seconds(self._costs.get(document, 0.0), self.clock())
            if seconds > 0:
                self.sleep(min(seconds, self._throttle_wait_seconds))

    def _read(self, document: str, status: int, headers: Mapping[str, str], content: bytes) -> Answer:
        details: dict[str, Any] = {"status": status}
        if request_id := headers.get("X-Request-Id"):
            details["request_id"] = request_id
        if status != 200:
            raise classify_status(status, headers, details)
        answer = _parse(content, details)
        self._note_cost(document, answer)
        if errors := answer.get("errors"):
            raise classify_errors(errors, answer.get("extensions"), details)
        data = answer.get("data")
        if not isinstance(data, dict):
            raise _malformed("Shopify answered without data", details)
        return Answer(data, vendor_time(headers))

    def _note_cost(self, document: str, answer: dict[str, Any]) -> None:
        try:
            cost = answer["extensions"]["cost"]
            throttle = cost["throttleStatus"]
            self._costs[document] = float(cost["requestedQueryCost"])
            self._budget = _Budget(
                available=float(throttle["currentlyAvailable"]),
                maximum=float(throttle["maximumAvailable"]),
                restore_rate=max(1.0, float(throttle["restoreRate"])),
                at=self.clock(),
            )
        except (KeyError, TypeError, ValueError):
            return  # MAX_COST_EXCEEDED and some failures come without it

    def _authorization(self) -> dict[str, str]:
        credentials = self._credentials
        if isinstance(credentials, ClientCredentials) and (
            credentials.access_token is None
            or credentials.expires_at is None
            or credentials.expires_at - RENEW_TOKEN_BEFORE <= self._now()
        ):
            credentials = self._renew_token(credentials)
        token = credentials.access_token or ""
        if not (token.isascii() and token.isprintable()):
            raise _of(
                ErrorType.CREDENTIALS,
                "the access token has characters that no token has (a line break, an ellipsis): "
                "copy it whole and give it with `bg-pipelines stores add`",
                {},
            )
        return {"X-Shopify-Access-Token": token}

    def _renew_token(self, credentials: ClientCredentials) -> ClientCredentials:
        request = {
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "grant_type": "client_credentials",
        }
        url = f"{self._base_url}/admin/oauth/access_token"
        status, headers, content = self._post(url, orjson.dumps(request), {})
        details = {"status": status}
        if status in (400, 401):
            raise IntegrationError.of(
                ErrorType.CREDENTIALS,
                "Shopify refuses the app's client id and secret: check both, and that the app is installed in this "
                "shop, then give them again with `bg-pipelines stores add`",
                source=SOURCE,
                details=details,
            )
        if status != 200:
            raise classify_status(status, headers, details)
        try:
            answer = _parse(content, details)
            token, expires_at = (
                answer["access_token"],
                self._now() + timedelta(seconds=float(answer["expires_in"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            token, expires_at = None, None
        if not isinstance(token, str) or not token:
            raise _malformed("Shopify answered a request for a token without one", details)
        renewed = credentials._replace(access_token=token, expires_at=expires_at)
        self._credentials = renewed
        self._on_token(renewed)
        return renewed

    def _prepare(self, url: str) -> tuple[requests.PreparedRequest, dict[str, Any]]:
        """A request to this address, yet without a body, and what the environment says of it (proxies, CA).

        Looked up once: for each page anew it would cost as much as sending the request.
        """
        if url not in self._prepared:
            request = self._session.prepare_request(requests.Request("POST", url))
            settings = self._session.merge_environment_settings(url, {}, True, None, None)
            self._prepared[url] = request, {**settings}
        prepared, environment = self._prepared[url]
        return prepared.copy(), environment

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        connect, read, whole = self.timeouts
        deadline = self.clock() + whole
        try:
            request, settings = self._prepare(url)
            request.prepare_body(body, None)
            request.headers.update(headers)
            with self._session.send(
                request, timeout=(connect, read), allow_redirects=False, **settings
            ) as response:
                content = bytearray()
                # read1 returns after each packet, so that the deadline is looked at however slowly they come.
                while chunk := response.raw.read1(1 << 18, decode_content=True):
                    content += chunk
                    if self.clock() > deadline:
                        raise _transport_error(ErrorType.TIMEOUT, url, f"no whole answer within {whole:g} s")
                    if len(content) > MAX_ANSWER_BYTES:
                        raise _malformed(f"Shopify's answer is larger than {MAX_ANSWER_BYTES} bytes", {})
                return response.status_code, response.headers, bytes(content)
        except requests.ConnectTimeout:
            raise _transport_error(ErrorType.TIMEOUT, url, f"no connection within {connect:g} s") from None
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise _transport_error(ErrorType.TIMEOUT, url, f"no answer within {read:g} s") from None
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
            urllib3.exceptions.LocationValueError,
        ) as error:
            raise _transport_error(
                ErrorType.CONFIGURATION, url, f"not an address ({type(error).__name__})"
            ) from None
        except requests.exceptions.SSLError:
            raise _transport_error(
                ErrorType.CONNECTION, url, "its certificate could not be verified"
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            fault = "the connection failed or was cut"
            raise _transport_error(ErrorType.CONNECTION, url, f"{fault} ({type(error).__name__})") from None
        except ValueError:
            # requests looks into a redirect's address even where it is not to follow it.
            raise _malformed(
                "Shopify's answer has headers that make no sense; it is tried again", {}
            ) from None


def vendor_time(headers: Mapping[str, str]) -> datetime | None:
    """The vendor's clock when it answered, to the second; None where it does not say."""
    try:
        moment = parsedate_to_datetime(headers["Date"])
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" is UTC without a zone
    except (KeyError, ValueError):
        return None


def classify_status(status: int, headers: Mapping[str, str], details: dict[str, Any]) -> IntegrationError:
    """An HTTP status other than 200, as what it means for us."""
    if status == 429:
        seconds = _seconds(headers.get("Retry-After"), default=2.0)
        details = {**details, "retry_after_seconds": seconds}
        return _of(ErrorType.THROTTLED, f"Shopify asks to wait {seconds:.0f} s (429)", details)
    if status >= 500:
        return _of(ErrorType.SERVER_ERROR, f"Shopify is failing ({status}); it is tried again", details)
    if 300 <= status < 400:
        try:
            host = urlsplit(headers.get("Location", "")).hostname or "another address"
        except ValueError:
            host = "another address"
        message = f"the shop has moved ({status}) to {host}: give the store its new domain or --api-url"
        return _of(ErrorType.SHOP_GONE, message, details)
    if status < 300:
        return _malformed(f"Shopify answered {status} without data; it is tried again", details)
    kind, message = _STATUSES.get(
        status, (ErrorType.QUERY_REJECTED, f"Shopify refuses the request ({status})")
    )
    return _of(kind, message, details)


_STATUSES: dict[int, tuple[ErrorType, str]] = {
    408: (ErrorType.TIMEOUT, "Shopify gave up waiting for the request (408); it is tried again"),
    401: (
        ErrorType.CREDENTIALS,
        "Shopify does not accept the access token (401): it was revoked or mistyped. "
        "Make a new one and give it with `bg-pipelines stores add`",
    ),
    402: (
        ErrorType.PAYMENT_REQUIRED,
        "the shop is frozen or its plan does not allow this (402): its bill is open",
    ),
    403: (
        ErrorType.SCOPES,
        "Shopify forbids it (403): the app lacks a scope or was removed from the shop. Run `bg-pipelines check`",
    ),
    404: (
        ErrorType.SHOP_GONE,
        "no such shop, or no such API version, at this address (404): check the store's domain and --api-url",
    ),
    423: (
        ErrorType.SHOP_LOCKED,
        "Shopify has locked the shop for now (423): its owner has to contact Shopify",
    ),
}


def classify_errors(errors: Any, extensions: Any, details: dict[str, Any]) -> IntegrationError:
    """The `errors` of an answer with status 200, as what they mean for us."""
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    extra = first.get("extensions")
    extra = extra if isinstance(extra, dict) else {}
    code = extra.get("code")
    text = str(first.get("message") or errors)[:200]
    if code:
        details = {**details, "code": code}
    if code == "THROTTLED":
        seconds, never = _throttle_seconds(extensions)
        if never:
            cost = extensions["cost"]
            extra = {
                "cost": cost["requestedQueryCost"],
                "maxCost": cost["throttleStatus"]["maximumAvailable"],
            }
        if not never:
            details = {**details, "retry_after_seconds": seconds}
            return _of(ErrorType.THROTTLED, f"Shopify asks to wait {seconds:.1f} s (THROTTLED)", details)
        code = "MAX_COST_EXCEEDED"  # the bucket can never hold it
    if code == "MAX_COST_EXCEEDED":
        details = {**details, "cost": extra.get("cost"), "max_cost": extra.get("maxCost")}
        return _of(ErrorType.QUERY_TOO_COSTLY, "the query is over Shopify's cost limit", details)
    if code == "ACCESS_DENIED":
        message = (
            f"the app lacks a scope: {text}. Grant it in the app's settings, then run `bg-pipelines check`"
        )
        return _of(ErrorType.SCOPES, message, details)
    if code == "SHOP_INACTIVE":
        return _of(ErrorType.SHOP_GONE, "the shop is closed (SHOP_INACTIVE)", details)
    if code in ("INTERNAL_SERVER_ERROR", "TIMEOUT"):
        return _of(ErrorType.SERVER_ERROR, f"Shopify is failing ({code}); it is tried again", details)
    return _of(ErrorType.QUERY_REJECTED, f"Shopify rejects the query: {text}", details)


def _throttle_seconds(extensions: Any) -> tuple[float, bool]:
    """How long until the bucket holds the query, and whether it never will."""
    try:
        cost = extensions["cost"]
        throttle = cost["throttleStatus"]
        wanted, maximum = float(cost["requestedQueryCost"]), float(throttle["maximumAvailable"])
        missing = wanted - float(throttle["currentlyAvailable"])
        return max(0.1, missing / max(1.0, float(throttle["restoreRate"]))), wanted > maximum
    except (KeyError, TypeError, ValueError):
        return 1.0, False


def _parse(content: bytes, details: dict[str, Any]) -> dict[str, Any]:
    try:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            # orjson refuses a lone surrogate anywhere; then only the row that has it shall fail.
            answer = json.loads(content)
    except (ValueError, RecursionError):
        kind = "HTML" if content.lstrip()[:1] == b"<" else "something that is not JSON, or cut short,"
        raise _malformed(
            f"Shopify answered 200 with {kind} instead of data; it is tried again", details
        ) from None
    if not isinstance(answer, dict):
        raise _malformed("Shopify answered with JSON that is no GraphQL answer; it is tried again", details)
    return answer


def _seconds(text: str | None, *, default: float) -> float:
    try:
        seconds = float(text or default)
    except ValueError:
        return default
    # Never none at all, or a call would go round without a pause; NaN and infinity are no waits.
    return max(MIN_WAIT_SECONDS, seconds) if seconds <= MAX_WAIT_SECONDS else default


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)


def _malformed(message: str, details: dict[str, Any]) -> IntegrationError:
    return _of(ErrorType.MALFORMED_RESPONSE, message, details)


def _transport_error(kind: ErrorType, url: str, fault: str) -> IntegrationError:
    # Host and port only: a path or a query may hold what is nobody's business.
    try:
        address = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        address = ""
    return _of(kind, f"{address or 'the store'}: {fault}", {})
