"""Classification of Shopify's errors: a status other than 200, and the `errors` of an answer with 200.

https://shopify.dev/docs/api/usage/response-codes, https://shopify.dev/docs/api/usage/limits (THROTTLED, MAX_COST_EXCEEDED)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.http import OF_THE_CALL, retry_after
from bg_pipelines.platforms.vendor_text import said

SOURCE = "shopify"


def classify_status(status: int, headers: Mapping[str, str], details: dict[str, Any]) -> IntegrationError:
    """An HTTP status other than 200, as what it means for us."""
    if status == 429:
        seconds = retry_after(headers)
        wait = "" if seconds is None else f" {seconds:.0f} s"
        details = details if seconds is None else {**details, "retry_after_seconds": seconds}
        return _of(ErrorType.THROTTLED, f"Shopify asks to wait{wait} (429)", details)
    if status >= 500:
        return _of(ErrorType.SERVER_ERROR, f"Shopify is failing ({status}); retried automatically", details)
    if 300 <= status < 400:
        try:
            host = urlsplit(headers.get("Location", "")).hostname or "another address"
        except ValueError:
            host = "another address"
        message = f"the shop has moved ({status}) to {host}: give the store its new domain or --api-url"
        return _of(ErrorType.SHOP_GONE, message, details)
    if status < 300:
        return malformed(f"Shopify answered {status} without data", details)
    if status in OF_THE_CALL:
        return _of(ErrorType.QUERY_REJECTED, f"Shopify refuses the request ({status})", details)
    kind, message = _STATUSES.get(status, (ErrorType.REFUSED, _REFUSED.format(status=status)))
    return _of(kind, message, details)


_REFUSED = (
    "Shopify refuses the call and gives no reason ({status}): mostly for a moment; retried automatically"
)
"""430 above all: its gate's answer to an address that it takes for an attacker, in short bursts."""


_STATUSES: dict[int, tuple[ErrorType, str]] = {
    408: (ErrorType.TIMEOUT, "Shopify gave up waiting for the request (408); retried automatically"),
    401: (
        ErrorType.CREDENTIALS,
        "Shopify does not accept the access token (401): it was revoked or mistyped. "
        "Make a new one and give it with `bg-pipelines stores set STORE --token -`",
    ),
    402: (
        ErrorType.PAYMENT_REQUIRED,
        "the shop is frozen or its plan does not allow this (402): its bill is open",
    ),
    403: (
        ErrorType.SCOPES,
        "Shopify forbids it (403): the app lacks a scope or was removed from the shop",
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
    code = code if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,60}", code) else None
    text = said(first.get("message") or errors)
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
        message = f"the app lacks a scope: {text.rstrip('.')}. Grant it in the app's settings"
        return _of(ErrorType.SCOPES, message, details)
    if code == "SHOP_INACTIVE":
        return _of(ErrorType.SHOP_GONE, "the shop is closed (SHOP_INACTIVE)", details)
    if code in ("INTERNAL_SERVER_ERROR", "TIMEOUT"):
        return _of(ErrorType.SERVER_ERROR, f"Shopify is failing ({code}); retried automatically", details)
    if not code and first.get("path"):
        # It was executed, and one of its fields failed: no fault of the query's.
        message = "Shopify is failing at a field of a row; retried automatically"
        return _of(ErrorType.SERVER_ERROR, message, details)
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


def malformed(message: str, details: dict[str, Any] | None = None) -> IntegrationError:
    """An answer without what was asked for."""
    return _of(ErrorType.MALFORMED_RESPONSE, f"{message}; retried automatically", details or {})


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)
