"""Shopify's Admin GraphQL API over HTTP: one call at a time, paced, authorised, its failures classified.

    client = ShopifyClient("https://harbor.myshopify.com", StaticToken("shpat_..."), api_version="2026-10")
    answer = client.execute("query { shop { name } }", {})

Vendor facts: https://shopify.dev/docs/api/usage/limits (cost, THROTTLED, MAX_COST_EXCEEDED),
/docs/api/usage/response-codes (401 to 5xx), /docs/apps/build/authentication-authorization (client credentials).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms import http
from bg_pipelines.platforms.http import Timeouts, Transport, vendor_time
from bg_pipelines.platforms.shopify.failures import SOURCE, classify_errors, classify_status, malformed

# A worker waits out a throttle this long in one call, then releases the store for later.
THROTTLE_WAIT_SECONDS = 120.0
FIRST_WAIT_SECONDS = 1.0
"""Where it is not said for how long; twice as long each time after."""
RENEW_TOKEN_BEFORE = timedelta(minutes=30)


class StaticToken(NamedTuple):
    """The access token of an older custom app; it does not expire."""

    access_token: str

    def __repr__(self) -> str:
        return "StaticToken(...)"


class ClientCredentials(NamedTuple):
    """A newer custom app's id and secret, from which 24-hour tokens are made, with the last one, if any."""

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
            f"the store's credentials lack {error.args[0]}: give its token again with `bg-pipelines stores set STORE --token -`",
            source=SOURCE,
        ) from None


class Answer(NamedTuple):
    """The `data` of a successful answer, the vendor's clock (its `Date` header) and the version that answered."""

    data: dict[str, Any]
    vendor_time: datetime | None
    version: str | None = None


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
    day. `reserve` is the share of the bucket that is left to others, `on_budget` is told which is used up: see `StoreAccess`. Raises IntegrationError, classified, and nothing else (but what `sleep` raises).
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
        timeouts: Timeouts = http.TIMEOUTS,
        max_bytes: float = http.MAX_ANSWER_BYTES,
        throttle_wait_seconds: float = THROTTLE_WAIT_SECONDS,
        reserve: float = 0.0,
        on_budget: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.api_version = api_version
        self.base_url = base_url.rstrip("/")
        self._url = f"{self.base_url}/admin/api/{api_version}/graphql.json"
        self._credentials = credentials
        self._on_token = on_token
        self._on_budget = on_budget
        self.sleep = sleep
        self.clock = clock
        self._now = now
        self.timeouts = timeouts
        self._transport = Transport(
            SOURCE,
            "Shopify",
            address_of="the store's domain or --api-url",
            timeouts=timeouts,
            max_bytes=max_bytes,
            clock=clock,
        )
        self.throttle_wait_seconds = 0.0 if reserve else throttle_wait_seconds
        self._reserve = reserve
        self.points_spent = 0.0
        """What all answers so far have cost."""
        self._budget: _Budget | None = None
        self._costs: dict[str, float] = {}

    def close(self) -> None:
        self._transport.close()

    @property
    def restore_rate(self) -> float | None:
        """How many points the shop's plan gives a second; None before the first answer."""
        return None if self._budget is None else self._budget.restore_rate

    def execute(
        self, document: str, variables: Mapping[str, Any], *, may_wait_seconds: float | None = None
    ) -> Answer:
        """Send one document and return its data, waiting out throttles and renewing the token on the way.

        `may_wait_seconds` is for what must not be sent later than that; by default a minute or two. Raises
        IntegrationError: see `Transport`, `classify_status` and `classify_errors`.
        """
        body = orjson.dumps({"query": document, "variables": variables})
        rows = len(variables.get("ids", ()))
        may_wait, pause = self.throttle_wait_seconds, FIRST_WAIT_SECONDS
        may_wait = may_wait if may_wait_seconds is None else min(may_wait, may_wait_seconds)
        renewed = False
        while True:
            self._pace(document, rows, may_wait_seconds)
            try:
                answer = self._post(self._url, body, self._authorization())
                if answer.status == 401 and isinstance(self._credentials, ClientCredentials) and not renewed:
                    # Revoked or expired before its time: one new token, then a second 401 is the truth.
                    self._renew_token(self._credentials)
                    renewed = True
                    continue
                return self._read(document, rows, answer)
            except IntegrationError as error:
                if error.error_type is not ErrorType.THROTTLED:
                    raise
                seconds = float(error.details.get("retry_after_seconds", pause))
                if seconds > may_wait:
                    raise
                may_wait -= seconds
                pause *= 2
                self.sleep(seconds)

    def _pace(self, document: str, rows: int, may_wait_seconds: float | None) -> None:
        """Wait until the bucket holds what this document cost last time, for so many ids, to avoid a refusal.

        With a reserve there is no waiting. Raises IntegrationError (throttled) where the call would take of it, or wait for
        longer than it may.
        """
        if self._budget is None:
            return
        needed = self._costs.get(document, 0.0) * max(rows, 1) + self._reserve * self._budget.maximum
        seconds = self._budget.wait_seconds(needed, self.clock())
        if seconds > 0 and self._reserve:
            raise IntegrationError.of(
                ErrorType.THROTTLED,
                f"the shop's rate limit has no more than the {self._reserve:.0%} that are left to syncs",
                source=SOURCE,
            )
        if may_wait_seconds is not None and seconds > may_wait_seconds:
            raise IntegrationError.of(
                ErrorType.THROTTLED,
                f"the shop's rate limit is used up for {seconds:.1f} s",
                source=SOURCE,
                details={"retry_after_seconds": seconds},
            )
        if seconds > 0:
            self.sleep(min(seconds, self.throttle_wait_seconds))

    def _read(self, document: str, rows: int, received: http.Answer) -> Answer:
        details: dict[str, Any] = {"status": received.status}
        if request_id := received.headers.get("X-Request-Id"):
            details["request_id"] = request_id
        if received.status != 200:
            raise classify_status(received.status, received.headers, details)
        answer = self._transport.object_of(received, details)
        self._note_cost(document, rows, answer)
        if errors := answer.get("errors"):
            raise classify_errors(errors, answer.get("extensions"), details)
        data = answer.get("data")
        if not isinstance(data, dict):
            raise malformed("Shopify answered without data", details)
        return Answer(data, vendor_time(received.headers), received.headers.get("X-Shopify-API-Version"))

    def _note_cost(self, document: str, rows: int, answer: dict[str, Any]) -> None:
        try:
            cost = answer["extensions"]["cost"]
            throttle = cost["throttleStatus"]
            requested = float(cost["requestedQueryCost"]) / max(rows, 1)
            # By ids the price is each one's, and a little for the call: of few ids the most for one.
            self.points_spent += float(cost["actualQueryCost"] or 0)
            self._costs[document] = max(requested, self._costs.get(document, 0.0)) if rows else requested
            self._budget = _Budget(
                available=float(throttle["currentlyAvailable"]),
                maximum=float(throttle["maximumAvailable"]),
                restore_rate=max(1.0, float(throttle["restoreRate"])),
                at=self.clock(),
            )
        except (KeyError, TypeError, ValueError):
            return  # MAX_COST_EXCEEDED and some failures come without it
        if self._budget.maximum > 0:
            self._on_budget(min(1.0, max(0.0, 1 - self._budget.available / self._budget.maximum)))

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
            raise IntegrationError.of(
                ErrorType.CREDENTIALS,
                "the access token has characters that no token has (a line break, an ellipsis): "
                "copy it whole and give it with `bg-pipelines stores set STORE --token -`",
                source=SOURCE,
            )
        return {"X-Shopify-Access-Token": token}

    def _renew_token(self, credentials: ClientCredentials) -> ClientCredentials:
        request = {
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "grant_type": "client_credentials",
        }
        url = f"{self.base_url}/admin/oauth/access_token"
        received = self._post(url, orjson.dumps(request), {})
        details = {"status": received.status}
        if received.status in (400, 401):
            raise IntegrationError.of(
                ErrorType.CREDENTIALS,
                "Shopify refuses the app's client id and secret: check both, and that the app is installed in this "
                "shop, then give them again with `bg-pipelines stores set STORE --client-secret -`",
                source=SOURCE,
                details=details,
            )
        if received.status != 200:
            raise classify_status(received.status, received.headers, details)
        answer = self._transport.object_of(received, details)
        try:
            token, expires_at = (
                answer["access_token"],
                self._now() + timedelta(seconds=float(answer["expires_in"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            token, expires_at = None, None
        if not isinstance(token, str) or not token:
            raise malformed("Shopify answered a request for a token without one", details)
        renewed = credentials._replace(access_token=token, expires_at=expires_at)
        self._credentials = renewed
        self._on_token(renewed)
        return renewed

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> http.Answer:
        named = {"Content-Type": "application/json", **headers}
        return self._transport.request("POST", url, headers=named, body=body)
