"""The API's refusals: categories, codes and statuses as the vendor lists them."""

from __future__ import annotations

from bg_pipelines.sandbox.exchange import Answer, as_json
from bg_pipelines.sandbox.rows import Node

CATEGORIES = {
    "UNAUTHORIZED": "AUTHENTICATION_ERROR",
    "ACCESS_TOKEN_EXPIRED": "AUTHENTICATION_ERROR",
    "ACCESS_TOKEN_REVOKED": "AUTHENTICATION_ERROR",
    "FORBIDDEN": "AUTHENTICATION_ERROR",
    "INSUFFICIENT_SCOPES": "AUTHENTICATION_ERROR",
    "RATE_LIMITED": "RATE_LIMIT_ERROR",
    "INTERNAL_SERVER_ERROR": "API_ERROR",
    "SERVICE_UNAVAILABLE": "API_ERROR",
}
DETAILS = {
    "UNAUTHORIZED": "This request could not be authorized.",
    "ACCESS_TOKEN_EXPIRED": "The access token has expired.",
    "ACCESS_TOKEN_REVOKED": "The access token has been revoked.",
    "FORBIDDEN": "The request is not permitted.",
    "NOT_FOUND": "Resource not found.",
    "RATE_LIMITED": "Your application is being rate limited.",
    "INTERNAL_SERVER_ERROR": "An internal server error has occurred.",
    "SERVICE_UNAVAILABLE": "Service unavailable.",
}
# What a fault of a status says, if it names no other code.
CODES_BY_STATUS = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_SERVER_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


class RefusalError(Exception):
    """The vendor refuses a request: its code, its sentence, the field that is to blame and the HTTP status."""

    def __init__(self, code: str, detail: str | None = None, *, field: str | None = None, status: int = 400):
        self.code, self.field, self.status = code, field, status
        self.detail = DETAILS.get(code, code) if detail is None else detail
        super().__init__(self.detail)

    def answer(self) -> Answer:
        return as_json(self.status, {"errors": [self.shown()]})

    def shown(self) -> Node:
        error = {
            "category": CATEGORIES.get(self.code, "INVALID_REQUEST_ERROR"),
            "code": self.code,
            "detail": self.detail,
        }
        return error if self.field is None else error | {"field": self.field}


def not_found(what: str, which: str, field: str | None = None) -> RefusalError:
    return RefusalError("NOT_FOUND", f"{what} with ID `{which}` not found.", field=field, status=404)


def bad_request(detail: str, field: str | None = None) -> RefusalError:
    return RefusalError("BAD_REQUEST", detail, field=field)
