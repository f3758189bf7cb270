"""The Shopify Admin API over HTTP: tokens, versions, budget, documents and faults."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson
from graphql import GraphQLError, OperationDefinitionNode, get_operation_ast

from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import (
    REQUEST_KINDS,
    STATUSES,
    Fault,
    delivered,
    first_match,
    html_page,
    spoil_rows,
)
from bg_pipelines.sandbox.shopify import errors
from bg_pipelines.sandbox.shopify.bulk_operations import BulkFile
from bg_pipelines.sandbox.shopify.cost import Part, Pricing
from bg_pipelines.sandbox.shopify.execution import execute
from bg_pipelines.sandbox.shopify.schema import admin_schema, read
from bg_pipelines.sandbox.shopify.shop import Request, Shop

VERSIONS = ("2026-07", "2026-10")
"""That are answered. An older one "falls forward" to the first, as at the vendor, and the answer's header says so."""


def _served(asked: str) -> str | None:
    if asked in VERSIONS:
        return asked
    return VERSIONS[0] if re.fullmatch(r"\d{4}-(01|04|07|10)", asked) and asked < VERSIONS[0] else None


@dataclass
class Call:
    """One GraphQL request while it is answered."""

    text: str
    name: str
    variables: dict[str, Any]
    operation_name: str | None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    requested: int = 0
    nodes: int = 0
    parts: list[Part] = field(default_factory=list)


class Shopify:
    """The vendor's side of shops by their domain; `next_number` counts the requests of the whole sandbox."""

    def __init__(self, shops: Mapping[str, Shop], next_number: Callable[[], int]) -> None:
        self.shops = shops
        self.next_number = next_number

    def answer(self, incoming: Incoming) -> Answer:
        domain, _, rest = incoming.path.strip("/").partition("/")
        shop = self.shops.get(domain)
        if shop is None:
            return as_json(404, errors.BY_STATUS[404])
        if rest == "admin/oauth/access_token":
            return self.grant(shop, incoming)
        if rest.startswith("bulk/"):
            return self.bulk_file(shop, incoming, rest.removeprefix("bulk/"))
        place = rest.split("/")
        if (
            len(place) != 4
            or place[:2] != ["admin", "api"]
            or place[3] != "graphql.json"
            or (version := _served(place[2])) is None
        ):
            return as_json(404, errors.BY_STATUS[404])
        if incoming.method != "POST":
            return as_json(405, {"errors": "Method Not Allowed"})
        answer = self.graphql(shop, incoming)
        answer.headers["X-Shopify-API-Version"] = version
        return answer

    def grant(self, shop: Shop, incoming: Incoming) -> Answer:
        if incoming.method != "POST":
            return as_json(405, {"errors": "Method Not Allowed"})
        form = read_form(incoming)
        with shop.lock:
            fault = first_match(shop.faults, "access_token", kinds=REQUEST_KINDS)
            if fault is not None and fault.kind in STATUSES:
                answer = by_status(fault)
            elif fault is not None and fault.kind == "cut":
                answer = Answer(200, delivery="cut")
            else:
                answer = delivered(as_json(*shop.access.grant(form)), fault)
            self.log(shop, "access_token", answer, fault)
        return answer

    def bulk_file(self, shop: Shop, incoming: Incoming, key: str) -> Answer:
        """The file of a bulk operation: its URL is secret and needs no token."""
        if incoming.method != "GET":
            return as_json(405, {"errors": "Method Not Allowed"})
        with shop.lock:
            fault = first_match(shop.faults, "bulk_file", kinds={*REQUEST_KINDS, "bulk_expired_url"})
            file = shop.bulk.file(key, shop.clock.seconds())
            if fault is not None and fault.kind in STATUSES:
                answer = by_status(fault)
            elif fault is not None and fault.kind == "cut":
                answer = Answer(200, delivery="cut")
            elif file is None or (fault is not None and fault.kind == "bulk_expired_url"):
                answer = Answer(
                    400, errors.EXPIRED_URL.encode(), content_type="application/xml; charset=UTF-8"
                )
            else:
                answer = delivered(
                    as_file(file, incoming.headers.get("Range") if shop.bulk.ranges else None), fault
                )
            self.log(shop, "bulk_file", answer, fault)
        return answer

    def graphql(self, shop: Shop, incoming: Incoming) -> Answer:
        call = read_call(incoming)
        with shop.lock:
            if not shop.access.allows(incoming.headers.get("X-Shopify-Access-Token")):
                answer, fault = as_json(401, errors.BY_STATUS[401]), None
            elif call is None:
                answer, fault = as_json(400, errors.BY_STATUS[400]), None
            else:
                answer, fault = self.spoiled(
                    shop, call, first_match(shop.faults, call.name, call.text, REQUEST_KINDS)
                )
                answer.headers["X-Request-Id"] = call.request_id
                shop.notifier.flush()
            self.log(shop, call.name if call else "", answer, fault, call)
        return answer

    def spoiled(self, shop: Shop, call: Call, fault: Fault | None) -> tuple[Answer, Fault | None]:
        """The answer, and the fault if it was applied."""
        kind = fault.kind if fault is not None else None
        if fault is not None and kind in STATUSES:
            return by_status(fault), fault
        if kind == "cut":
            return Answer(200, delivery="cut"), fault
        if kind == "internal_error":
            return as_json(200, errors.internal_error(call.request_id)), fault
        body = self.execute(shop, call, fault)
        if fault is not None and kind in {"null_field", "bad_value", "missing_page_info", "repeat_cursor"}:
            # What is shown must not be the shop's own rows: those stay whole.
            body = orjson.loads(orjson.dumps(body))
            if not spoil(fault, body, call.parts):
                fault.applied -= 1
                fault = None
        return delivered(as_json(200, body), fault), fault

    def execute(self, shop: Shop, call: Call, fault: Fault | None) -> dict[str, Any]:
        document, refused = read(call.text)
        if document is None:
            return {"errors": [error.formatted for error in refused]}
        operation = get_operation_ast(document, call.operation_name)
        if operation is None:
            return {"errors": [{"message": f'No operation named "{call.operation_name or ""}"'}]}

        call.parts = Pricing(admin_schema(), document, call.variables).parts(operation)
        call.requested = sum(part.requested() for part in call.parts)
        if call.requested > shop.max_query_cost:
            return errors.max_cost_exceeded(call.requested, shop.max_query_cost)
        bucket = shop.bucket
        if not bucket.take(call.requested, shop.clock.seconds()):
            return errors.throttled(bucket.report(call.requested, None))
        if fault is not None and fault.kind == "throttled":
            bucket.give_back(call.requested)
            return errors.throttled(bucket.report(call.requested, None))
        denied = self.denied(shop, call.parts, fault)
        if denied is not None:
            bucket.give_back(call.requested)
            return errors.access_denied(*denied, bucket.report(call.requested, 0))

        result = execute(admin_schema(), shop, document, call.variables, call.operation_name)
        actual = 0
        for part in call.parts if result.data is not None else ():
            cost, nodes = part.actual(result.data.get(part.key) if result.data else None)
            actual += cost
            call.nodes += nodes
        bucket.give_back(call.requested - actual)
        body: dict[str, Any] = {}
        if result.errors:
            body["errors"] = [formatted(error) for error in result.errors]
        if result.data is not None or any(error.path for error in result.errors or ()):
            body["data"] = result.data
        body["extensions"] = {"cost": bucket.report(call.requested, actual)}
        return body

    def denied(self, shop: Shop, parts: list[Part], fault: Fault | None) -> tuple[str, str | None] | None:
        """The field that is denied, with the scope that it needs."""
        if fault is not None and fault.kind == "access_denied":
            return fault.field or (parts[0].name if parts else ""), None
        return shop.access.denied(parts)

    def log(
        self, shop: Shop, name: str, answer: Answer, fault: Fault | None, call: Call | None = None
    ) -> None:
        shop.requests.append(
            Request(
                number=self.next_number(),
                at=shop.clock.stamp(),
                domain=shop.domain,
                operation=name,
                status=None if answer.delivery == "cut" else answer.status,
                fault=fault.kind if fault is not None else None,
                requested_cost=call.requested if call else 0,
                nodes=call.nodes if call else 0,
            )
        )


def spoil(fault: Fault, body: dict[str, Any], parts: list[Part]) -> bool:
    """Change the answer in place; False when it has nothing to spoil, which then does not count."""
    data = body.get("data")
    if not isinstance(data, dict):
        return False
    if fault.kind in {"null_field", "bad_value"}:
        return spoil_rows(fault, data)
    for connection, part in connections(data, parts):
        if "pageInfo" not in connection:
            continue
        if fault.kind == "missing_page_info":
            connection["pageInfo"] = None
            return True
        connection["pageInfo"]["hasNextPage"] = True
        if part.after is not None:
            connection["pageInfo"]["endCursor"] = part.after
            return True
    return False


def connections(value: Any, parts: list[Part]) -> Iterator[tuple[dict[str, Any], Part]]:
    """Every connection of the answer with the part of the query that asked for it, outermost first."""
    if not isinstance(value, dict):
        return
    for part in parts:
        below = value.get(part.key)
        if not isinstance(below, dict):
            continue
        if part.kind == "connection":
            yield below, part
            for row in below.get("nodes") or []:
                yield from connections(row, part.parts)
        else:
            yield from connections(below, part.parts)


def as_file(file: BulkFile, wanted: str | None) -> Answer:
    """The file, or what it has from a byte on (`Range: bytes=N-`), which is all that is asked for here."""
    asked = re.fullmatch(r"bytes=(\d+)-", wanted or "")
    first = int(asked[1]) if asked else 0
    if first >= file.length:
        return Answer(416, headers={"Content-Range": f"bytes */{file.length}"})
    answer = Answer(
        206 if asked else 200,
        content_type="application/jsonl",
        chunks=file.chunks(first),
        length=file.length - first,
    )
    if asked:
        answer.headers["Content-Range"] = f"bytes {first}-{file.length - 1}/{file.length}"
    return answer


def read_call(incoming: Incoming) -> Call | None:
    try:
        content = orjson.loads(incoming.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("query"), str):
        return None
    variables = content.get("variables") or {}
    name = content.get("operationName") or None
    if not isinstance(variables, dict) or not isinstance(name, str | None):
        return None
    return Call(
        text=content["query"],
        name=name or name_in(content["query"]),
        variables=variables,
        operation_name=name,
    )


def name_in(text: str) -> str:
    """The name of a document's first operation, for the log and the faults."""
    document, _ = read(text)
    for definition in document.definitions if document else ():
        if isinstance(definition, OperationDefinitionNode) and definition.name:
            return definition.name.value
    return ""


def read_form(incoming: Incoming) -> dict[str, Any]:
    try:
        content = orjson.loads(incoming.body)
    except orjson.JSONDecodeError:
        return dict(parse_qsl(incoming.body.decode("utf-8", "replace")))
    return content if isinstance(content, dict) else {}


def by_status(fault: Fault) -> Answer:
    status = STATUSES[fault.kind]
    if fault.kind in {"html", "bad_gateway", "refused"}:
        return html_page(status)
    answer = as_json(status, errors.BY_STATUS[status])
    if fault.kind == "too_many_requests":
        answer.headers["Retry-After"] = f"{fault.seconds:.1f}"
    return answer


def formatted(error: GraphQLError) -> dict[str, Any]:
    content: dict[str, Any] = dict(error.formatted)
    if error.original_error is not None and not isinstance(error.original_error, GraphQLError):
        # A bug of the sandbox must not look like an answer of the vendor's.
        content["extensions"] = {"code": "SANDBOX_BUG", "problem": repr(error.original_error)}
    elif error.path is None and error.message.startswith("Variable "):
        content["extensions"] = {"code": "INVALID_VARIABLE"}
    return content
