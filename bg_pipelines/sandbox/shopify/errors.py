"""The bodies of the Admin API's refusals, as the vendor documents or sends them."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLError

DOCUMENTATION = "https://shopify.dev/api/usage"

BY_STATUS: dict[int, Any] = {
    400: {"errors": {"query": "Required parameter missing or invalid"}},
    401: {"errors": "[API] Invalid API key or access token (unrecognized login or wrong password)"},
    402: {"errors": "This shop's plan does not have access to this feature"},
    403: {"errors": "Unavailable Shop"},
    404: {"errors": "Not Found"},
    423: {"errors": "This shop is unavailable"},
    429: {
        "errors": "Exceeded 2 calls per second for api client. Reduce request rates to resume uninterrupted service."
    },
    500: {"errors": "An unexpected error occurred"},
    503: {"errors": "Service Unavailable"},
}


EXPIRED_URL = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code>"
    "<Message>The provided token has expired.</Message></Error>"
)


class RefusedError(GraphQLError):
    """A field refuses its arguments: a top-level error with the code BAD_REQUEST."""

    def __init__(self, message: str, code: str = "BAD_REQUEST") -> None:
        super().__init__(message, extensions={"code": code})


def throttled(cost: dict[str, Any]) -> dict[str, Any]:
    extensions = {"code": "THROTTLED", "documentation": f"{DOCUMENTATION}/rate-limits"}
    return {"errors": [{"message": "Throttled", "extensions": extensions}], "extensions": {"cost": cost}}


def max_cost_exceeded(cost: int, max_cost: int) -> dict[str, Any]:
    message = (
        f"Query cost is {cost}, which exceeds the single query max cost limit ({max_cost}).\n\n"
        "See https://shopify.dev/concepts/about-apis/rate-limits for more information on how the\n"
        "cost of a query is calculated.\n\n"
        "To query larger amounts of data with fewer limits, bulk operations should be used instead.\n"
        "See https://shopify.dev/tutorials/perform-bulk-operations-with-admin-api for usage details.\n"
    )
    extensions = {
        "code": "MAX_COST_EXCEEDED",
        "cost": cost,
        "maxCost": max_cost,
        "documentation": f"{DOCUMENTATION}/limits#rate-limits",
    }
    return {"errors": [{"message": message, "extensions": extensions}]}


def internal_error(request_id: str) -> dict[str, Any]:
    message = (
        "Internal error. Looks like something went wrong on our end.\n"
        f"Request ID: {request_id} (include this in support requests)."
    )
    return {
        "errors": [
            {"message": message, "extensions": {"code": "INTERNAL_SERVER_ERROR", "requestId": request_id}}
        ]
    }


def access_denied(field: str, scope: str | None, cost: dict[str, Any]) -> dict[str, Any]:
    required = f"`{scope}` access scope." if scope else "an access scope that this app was not granted."
    error = {
        "message": f"Access denied for {field} field. Required access: {required}",
        "path": [field],
        "extensions": {
            "code": "ACCESS_DENIED",
            "documentation": f"{DOCUMENTATION}/access-scopes",
            "requiredAccess": required,
        },
    }
    return {"errors": [error], "data": None, "extensions": {"cost": cost}}
