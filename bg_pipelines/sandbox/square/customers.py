"""The Customers API: search, read and write profiles."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from bg_pipelines.sandbox.rows import Node, shown
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.people import customer_row
from bg_pipelines.sandbox.square.refusals import RefusalError, bad_request, not_found
from bg_pipelines.sandbox.square.values import now_ms, opaque_id, read_time

LARGEST_PAGE = 100
MOST_IDS = 100
NAMING = ("given_name", "family_name", "company_name", "email_address", "phone_number")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
Matches = Callable[[Node], bool]


def search_customers(call: Call) -> Node:
    query = call.content("SearchCustomersRequest")
    limit = shapes.page_size(query, LARGEST_PAGE, LARGEST_PAGE)
    asked = query.get("query", {})
    sort = asked.get("sort", {})
    matches = compile_filter(asked.get("filter", {}))
    until = now_ms(call.merchant.clock) - int(call.merchant.search_lag_seconds * 1000)
    view = call.store.customers.as_of(until, sort.get("field", "DEFAULT"))
    body, _ = call.page(
        "customers",
        view,
        query,
        shown,
        limit=limit,
        descending=sort.get("order") == "DESC",
        matches=matches,
    )
    if query.get("count"):
        body["count"] = sum(1 for row in view.rows if matches(row))
    return body


def compile_filter(given: Node) -> Matches:
    tests: list[Matches] = []
    for name, hidden in (("created_at", "_created"), ("updated_at", "_updated")):
        if name in given:
            tests.append(in_range(given[name], hidden, f"query.filter.{name}"))
    tests += [
        has_value(name, given[name]["exact"])
        for name in ("email_address", "phone_number", "reference_id")
        if "exact" in given.get(name, {})
    ]
    source = given.get("creation_source", {})
    if "values" in source:
        include = source.get("rule", "INCLUDE") == "INCLUDE"
        tests.append(lambda row: (row["creation_source"] in source["values"]) is include)
    return lambda row: all(test(row) for test in tests)


def in_range(given: Node, hidden: str, at: str) -> Matches:
    first, last = time_range(given, at)
    return lambda row: first <= row[hidden] <= last


def time_range(given: Node, at: str) -> tuple[float, float]:
    """Both ends are included; one that is not given is open."""
    first = read_time(given["start_at"]) if "start_at" in given else float("-inf")
    last = read_time(given["end_at"]) if "end_at" in given else float("inf")
    if first > last:
        raise RefusalError("INVALID_TIME_RANGE", "`start_at` must not be after `end_at`.", field=at)
    return first, last


def has_value(name: str, value: str) -> Matches:
    return lambda row: row.get(name) == value


def retrieve_customer(call: Call) -> Node:
    return {"customer": shown(find(call))}


def bulk_retrieve_customers(call: Call) -> Node:
    """Each id with its customer, or with the error that it would have been answered with alone."""
    ids = shapes.at_most(call.content("BulkRetrieveCustomersRequest"), "customer_ids", MOST_IDS)
    if not ids:
        raise RefusalError("ARRAY_EMPTY", "`customer_ids` must not be empty.", field="customer_ids")
    found = {one: call.store.customers.get(one) for one in ids}
    missing = {one: {"errors": [not_found("Customer", one).shown()]} for one in ids}
    return {
        "responses": {
            one: missing[one] if row is None else {"customer": shown(row)} for one, row in found.items()
        }
    }


def create_customer(call: Call) -> Node:
    fields = call.content("CreateCustomerRequest")
    key = fields.pop("idempotency_key", None)
    told = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    if key is not None and f"customer:{key}" in call.merchant.idempotent:
        before, answer = call.merchant.idempotent[f"customer:{key}"]
        if before != told:
            raise reused_key()
        return answer
    if not any(fields.get(name) for name in NAMING):
        raise bad_request(f"At least one of {', '.join(f'`{name}`' for name in NAMING)} is required.")
    check(fields)
    store = call.store
    number, at = store.number("customer"), now_ms(call.merchant.clock)
    row = customer_row(
        fields,
        row_id=opaque_id(26, call.merchant.id, "customer", number),
        created=at,
        updated=at,
        version=0,
        source="THIRD_PARTY",
        unsubscribed=False,
    )
    store.put_customer(row)
    call.merchant.applied += 1
    answer = {"customer": shown(row)}
    if key is not None:
        call.merchant.idempotent[f"customer:{key}"] = (told, answer)
    return answer


def update_customer(call: Call) -> Node:
    row, fields = find(call), call.content("UpdateCustomerRequest")
    check_version(row, fields.pop("version", None))
    check(fields)
    after = {**row, **fields}
    if not any(after.get(name) for name in NAMING):
        raise bad_request(f"At least one of {', '.join(f'`{name}`' for name in NAMING)} is required.")
    call.merchant.applied += 1
    return {"customer": shown(call.store.update_customer(row, fields))}


def delete_customer(call: Call) -> Node:
    row, version = find(call), call.query.get("version")
    if version is not None and not version.lstrip("-").isdigit():
        raise RefusalError("EXPECTED_INTEGER", "Expected an integer.", field="version")
    check_version(row, None if version is None else int(version))
    call.store.delete_customer(row)
    call.merchant.applied += 1
    return {}


def find(call: Call) -> Node:
    row = call.store.customers.get(call.id)
    if row is None:
        raise not_found("Customer", call.id, "customer_id")
    return row


def check(fields: Node) -> None:
    email, phone = fields.get("email_address"), fields.get("phone_number")
    if email and not EMAIL.fullmatch(email):
        raise RefusalError(
            "INVALID_EMAIL_ADDRESS", f"`{email}` is not a valid email address.", field="email_address"
        )
    # What was typed is kept as it is; only its digits are counted.
    if phone and not 9 <= len(re.sub(r"\D", "", phone)) <= 16:
        raise RefusalError(
            "INVALID_PHONE_NUMBER", f"`{phone}` is not a valid phone number.", field="phone_number"
        )


def check_version(row: Node, version: int | None) -> None:
    if version is not None and version != row["version"]:
        raise RefusalError(
            "CONFLICT",
            f"The customer's version is {row['version']}, not {version}.",
            field="version",
            status=409,
        )


def reused_key() -> RefusalError:
    return RefusalError(
        "IDEMPOTENCY_KEY_REUSED",
        "The idempotency key was used before with other parameters.",
        field="idempotency_key",
    )
