"""The Orders API: search orders of some locations, and read them by their ids."""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.customers import time_range
from bg_pipelines.sandbox.square.refusals import RefusalError, bad_request, not_found
from bg_pipelines.sandbox.square.sales import Order
from bg_pipelines.sandbox.square.values import now_ms

PAGE_SIZE, LARGEST_PAGE = 500, 1000
MOST_LOCATIONS, MOST_CUSTOMERS, MOST_SOURCES, MOST_IDS = 10, 10, 10, 100
CLOSED_STATES = {"COMPLETED", "CANCELED"}
WHEN: dict[str, Callable[[Order], int | None]] = {
    "created_at": lambda order: order.created,
    "updated_at": lambda order: order.updated,
    "closed_at": lambda order: order.closed,
}


def search_orders(call: Call) -> Node:
    query = call.content("SearchOrdersRequest")
    limit = shapes.page_size(query, PAGE_SIZE, LARGEST_PAGE)
    places = set(shapes.at_most(query, "location_ids", MOST_LOCATIONS))
    if not places:
        raise shapes.missing("location_ids")
    for place in sorted(places - call.store.locations.keys()):
        raise not_found("Location", place, "location_ids")
    asked = query.get("query", {})
    sort = asked.get("sort", {})
    sort_field = sort.get("sort_field", "CREATED_AT")
    cursor = call.cursor(query)
    # An open end is the time of the first page, for all pages.
    until = cursor.get("until", now_ms(call.merchant.clock))
    matches = compile_filter(asked.get("filter", {}), sort_field, until)
    entries = query.get("return_entries", False)
    body, _ = call.page(
        "order_entries" if entries else "orders",
        call.store.orders.ordered(sort_field),
        query,
        show_entry if entries else call.store.show_order,
        limit=limit,
        descending=sort.get("sort_order", "DESC") == "DESC",
        matches=lambda order: order.location_id in places and matches(order),
        cursor=cursor,
        until=until,
    )
    return body


def compile_filter(given: Node, sort_field: str, until: int) -> Callable[[Order], bool]:
    states = set(given.get("state_filter", {}).get("states", []))
    if sort_field == "CLOSED_AT" and not (states and states <= CLOSED_STATES):
        raise bad_request(
            "Sorting by CLOSED_AT needs a state_filter with closed states.", "query.sort.sort_field"
        )
    sources = shapes.at_most(
        given.get("source_filter", {}), "source_names", MOST_SOURCES, "query.filter.source_filter"
    )
    people = shapes.at_most(
        given.get("customer_filter", {}), "customer_ids", MOST_CUSTOMERS, "query.filter.customer_filter"
    )
    ranges = given.get("date_time_filter", {})
    if len(ranges) > 1:
        raise bad_request("Only one time range can be filtered by.", "query.filter.date_time_filter")
    name, first, last = sort_field.lower(), float("-inf"), float("inf")
    for name, given_range in ranges.items():
        if name != sort_field.lower():
            raise bad_request(
                f"sort_field must be {name.upper()} where date_time_filter is by {name}.",
                "query.sort.sort_field",
            )
        first, last = time_range(given_range, f"query.filter.date_time_filter.{name}")
        last = min(last, until) if "end_at" not in given_range else last
    when = WHEN[name]

    def matches(order: Order) -> bool:
        at = when(order)
        return (
            (not states or order.state in states)
            and (not sources or order.source in sources)
            and (not people or order.customer_id in people)
            and (not ranges or (at is not None and first <= at <= last))
        )

    return matches


def show_entry(order: Order) -> Node:
    shown: Node = {"order_id": order.id, "location_id": order.location_id}
    return shown if order.version is None else shown | {"version": order.version}


def batch_retrieve_orders(call: Call) -> Node:
    query = call.content("BatchRetrieveOrdersRequest")
    ids = shapes.at_most(query, "order_ids", MOST_IDS)
    if not ids:
        raise RefusalError("ARRAY_EMPTY", "`order_ids` must not be empty.", field="order_ids")
    place = query.get("location_id")
    found = [order for one in ids if (order := call.store.orders.get(one)) is not None]
    orders = [call.store.show_order(order) for order in found if place is None or order.location_id == place]
    return {"orders": orders} if orders else {}


def retrieve_order(call: Call) -> Node:
    order = call.store.orders.get(call.id)
    if order is None:
        raise not_found("Order", call.id, "order_id")
    return {"order": call.store.show_order(order)}
