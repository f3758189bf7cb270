"""A bulk operation of Shopify, which writes a whole resource of a store into one file: started once, found again, waited for.

    place = Place(tag, export.digest, ...)             # saved before the start, as a token
    operation_id = find(client, place) or start(client, export, place)
    operation = ended(client, export, place, looks)    # raises operation_running while it is at work

https://shopify.dev/docs/api/usage/bulk-operations/queries
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.shopify.client import Answer, ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import Converted, Node, count_of
from bg_pipelines.platforms.vendor_text import said
from bg_pipelines.records import Record
from bg_pipelines.values import read_time
from bg_pipelines.wording import about, counted

OPERATIONS_LOOKED_AT = 20

START = """
mutation StartExport($query: String!) {
  bulkOperationRunQuery(query: $query) {
    bulkOperation { id } userErrors { code field message }
  }
}"""

EXPORT = "query Export($id: ID!) { bulkOperation(id: $id) { id status errorCode createdAt objectCount rootObjectCount url } }"

# The newest come first.
RECENT_EXPORTS = """
query RecentExports($first: Int!) {
  bulkOperations(first: $first, sortKey: CREATED_AT) { nodes { id query } }
}"""

DOCUMENTS = (START, EXPORT, RECENT_EXPORTS)


class Rows(Enum):
    """What of an export's connection is a row."""

    FLAT = "each of its lines"
    WITH_NESTED = "each with what is nested in it"
    NESTED = "what is nested in each"


class Export(NamedTuple):
    """What is exported: a query of one connection, how many rows it should have, and what a row becomes.

    What is nested in a row is in its node, as `nested`; the answer to `count_query` is the page's `data`, and `counted` and
    `at_most` read from it how many rows there are, and may be. `shows_all` tells from it whether all rows are exported and
    counted, or only those of the last 60 days.
    """

    query: str
    count_query: str
    convert: Callable[[Converted, Node], Record | str]
    of: Rows = Rows.FLAT
    shows_all: Callable[[Node], bool] = lambda _: True
    counted: Callable[[Node], int | None] = count_of
    at_most: Callable[[Node], int | None] = count_of

    @property
    def digest(self) -> str:
        """Tells this query from that of another release."""
        return hashlib.sha256(self.query.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """Progress of an export; `offset`, `lines` and `rows` are those of the file that were read. Made into a token."""

    tag: str
    digest: str
    shows_all: bool
    operation: str | None = None
    offset: int = 0
    lines: int = 0
    rows: int = 0
    """Of those that are joined no more than this counts."""
    expected: int | None = None
    """How many rows there were at the start."""

    PREFIX = "bulk "

    def token(self) -> str:
        return self.PREFIX + json.dumps(asdict(self))

    @classmethod
    def of(cls, token: str) -> Place:
        return cls(**json.loads(token.removeprefix(cls.PREFIX)))


def is_export(token: str | None) -> bool:
    """Whether a page's token is one of an export."""
    return token is not None and token.startswith(Place.PREFIX)


class Operation(NamedTuple):
    """An operation that has ended well; it has no file where there were no rows."""

    lines: int
    rows: int
    url: str | None


def start(client: ShopifyClient, export: Export, place: Place) -> str:
    """Start the operation under the export's tag, which stands in its query as a comment; returns its id."""
    answer = client.execute(START, {"query": f"# {place.tag}\n{export.query}"})
    try:
        payload = answer.data["bulkOperationRunQuery"]
        errors = payload["userErrors"]
        if not errors:
            return str(payload["bulkOperation"]["id"])
        code, text = errors[0]["code"], said(errors[0]["message"])
    except (KeyError, TypeError, IndexError):
        raise malformed("Shopify's answer to the start of a bulk operation lacks its outcome") from None
    if code in ("LIMIT_REACHED", "OPERATION_IN_PROGRESS"):
        raise IntegrationError.of(
            ErrorType.OPERATION_RUNNING,
            "Shopify takes no further bulk operation yet: as many as it allows are under way in this shop",
            source=SOURCE,
            details={"code": code},
        )
    raise IntegrationError.of(
        ErrorType.QUERY_REJECTED,
        f"Shopify does not take the bulk operation's query: {text}",
        source=SOURCE,
        details={"code": code},
    )


def find(client: ShopifyClient, place: Place) -> str | None:
    """The operation that was started with this export's tag, if any: the answer to its start was lost."""
    answer = client.execute(RECENT_EXPORTS, {"first": OPERATIONS_LOOKED_AT})
    try:
        nodes = answer.data["bulkOperations"]["nodes"]
        return next((str(node["id"]) for node in nodes if place.tag in node["query"]), None)
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks the bulk operations") from None


def ended(client: ShopifyClient, export: Export, place: Place, looks: tuple[float, ...]) -> Operation:
    """The operation when it has ended; raises IntegrationError (operation_running) if it has not after these looks."""
    found: Operation | IntegrationError | None = None
    for seconds in looks:
        if seconds:
            client.sleep(seconds)
        found = _look(client, export, place)
        if isinstance(found, Operation):
            return found
    assert isinstance(found, IntegrationError)
    raise found


def _look(client: ShopifyClient, export: Export, place: Place) -> Operation | IntegrationError:
    """The operation if it has ended, or what to raise while it has not."""
    answer = client.execute(EXPORT, {"id": place.operation})
    try:
        node = answer.data["bulkOperation"]
        if node is None:
            raise failed("Shopify does not know it any more", place)
        status, code = node["status"], node["errorCode"]
        lines, rows, url = int(node["objectCount"]), int(node["rootObjectCount"]), node["url"]
    except (KeyError, TypeError, ValueError):
        raise malformed("Shopify's answer lacks how far a bulk operation is") from None
    if status in ("CREATED", "RUNNING", "CANCELING"):
        return IntegrationError.of(
            ErrorType.OPERATION_RUNNING,
            f"Shopify is at work on the export ({status.lower()}, {_so_far(answer, export, place)})",
            source=SOURCE,
            details={"operation": place.operation, "status": status, "rows": rows},
        )
    if status == "FAILED" and code == "ACCESS_DENIED":
        raise IntegrationError.of(
            ErrorType.SCOPES,
            "the app lacks a scope for what the bulk operation reads: grant it in the app's settings",
            source=SOURCE,
            details={"operation": place.operation, "code": code},
        )
    if status != "COMPLETED":
        raise failed(f"it is {str(status).lower()}" + (f" ({code})" if code else ""), place)
    return Operation(lines, rows, url)


def _so_far(answer: Answer, export: Export, place: Place) -> str:
    """How far an operation is, and how long it takes at this pace; of a query with fewer rows than there may be, no more
    than how far."""
    node = answer.data["bulkOperation"]
    rows = int(node["objectCount" if export.of is Rows.NESTED else "rootObjectCount"])
    told = f"{counted(rows, 'row')} so far"
    with suppress(KeyError, TypeError, ValueError):
        if (
            rows
            and place.expected
            and place.shows_all
            and answer.vendor_time
            and export.of is not Rows.NESTED
        ):
            seconds = (answer.vendor_time - read_time(node["createdAt"])).total_seconds()
            left = max(0, place.expected - rows) / rows * seconds
            return f"{rows:,} of {place.expected:,} rows so far, {about(left)} left"
    return told


def failed(why: str, place: Place | None = None) -> IntegrationError:
    return IntegrationError.of(
        ErrorType.OPERATION_FAILED,
        f"Shopify's bulk operation cannot be used: {why}. Another export follows automatically",
        source=SOURCE,
        details={"operation": place.operation} if place else {},
    )
