"""Shopify's customers and orders: the requested fields, and the answers as records.

A node is what one JSON object of an answer holds, be it of a page or a line of a bulk operation's file; what is
nested in it as a connection (addresses, lines) is given beside it, because a file has it on lines of its own. The
converters raise KeyError, TypeError, AttributeError or ValueError for an invalid node. They run once for every row of
a store, so they are flat and copy nothing.

Fields: https://shopify.dev/docs/api/admin-graphql/2026-07/objects/Customer, .../Order, .../LineItem, .../Refund.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import orjson

from bg_pipelines.platforms.phones import normalise
from bg_pipelines.platforms.shopify.failures import malformed
from bg_pipelines.platforms.shopify.pages import (
    IDS,
    NESTED_ROWS,
    PAGE_INFO,
    Converted,
    Node,
    PageReader,
    Rows,
    count_of,
    ids_only,
    key,
    nested_rows,
)
from bg_pipelines.records import ADDRESS, Customer, Order, OrderLine, Page, Refund
from bg_pipelines.values import read_time

REFUNDS_AT_MOST = 250  # of one order; they are a list without pages
ALL_ORDERS = "read_all_orders"

# By the names of `ADDRESS`, so that an address is kept as it comes.
ADDRESS_FIELDS = """
  id first_name: firstName last_name: lastName company address_1: address1 address_2: address2 city
  province_code: provinceCode postal_code: zip country_code: countryCodeV2 phone"""

# The marketing fields of a phone number are deprecated in favour of one that the API does not have yet.
CUSTOMER_FIELDS = """
  id firstName lastName verifiedEmail tags locale note numberOfOrders createdAt updatedAt
  amountSpent { amount currencyCode }
  defaultAddress { id company countryCodeV2 }
  defaultEmailAddress { emailAddress marketingState marketingUpdatedAt sourceLocation { id } }
  defaultPhoneNumber {
    phoneNumber marketingState marketingUpdatedAt marketingCollectedFrom sourceLocation { id }
  }"""

_MONEY = "shopMoney { amount }"
REFUND_FIELDS = f"id note createdAt processedAt totalRefundedSet {{ {_MONEY} }}"
ORDER_FIELDS = f"""
  id name createdAt updatedAt processedAt cancelledAt cancelReason closedAt sourceName test email phone note tags
  currencyCode displayFinancialStatus displayFulfillmentStatus customer {{ id }} retailLocation {{ id }}
  subtotalPriceSet {{ {_MONEY} }} totalDiscountsSet {{ {_MONEY} }} totalTaxSet {{ {_MONEY} }} totalPriceSet {{ {_MONEY} }}
  currentTotalPriceSet {{ {_MONEY} }}
  refunds(first: {REFUNDS_AT_MOST}) {{ {REFUND_FIELDS} }}"""
# What a line is sold for has all discounts taken off, those that belong to a code of the whole order too.
LINE_FIELDS = f"""
  id title variantTitle sku quantity currentQuantity product {{ id }} variant {{ id }}
  originalUnitPriceSet {{ {_MONEY} }} totalDiscountSet {{ {_MONEY} }}
  discountedTotalSet(withCodeDiscounts: true) {{ {_MONEY} }}"""

_ADDRESSES = f"addressesV2(first: $addresses) {{ nodes {{ {ADDRESS_FIELDS} }} {PAGE_INFO} }}"
CUSTOMER_NODE = f"{CUSTOMER_FIELDS} {_ADDRESSES}"
_LINES = f"lineItems(first: $lines) {{ nodes {{ {LINE_FIELDS} }} {PAGE_INFO} }}"
# Whether all orders are listed, told by the very answer that lists them.
APP_SCOPES = "app: currentAppInstallation { accessScopes { handle } }"

CUSTOMERS = f"""
query Customers($first: Int!, $after: String, $query: String, $addresses: Int!) {{
  count: customersCount(limit: null) {{ count precision }}
  rows: customers(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ {CUSTOMER_NODE} }} {PAGE_INFO}
  }}
}}"""

CUSTOMERS_BY_IDS = f"""
query CustomersByIds($ids: [ID!]!, $addresses: Int!) {{
  rows: nodes(ids: $ids) {{ ... on Customer {{ {CUSTOMER_NODE} }} }}
}}"""

CUSTOMER_ADDRESSES = f"""
query CustomerAddresses($id: ID!, $first: Int!, $after: String) {{
  customer(id: $id) {{
    rows: addressesV2(first: $first, after: $after) {{ nodes {{ {ADDRESS_FIELDS} }} {PAGE_INFO} }}
  }}
}}"""

ORDERS = f"""
query Orders($first: Int!, $after: String, $query: String, $lines: Int!) {{
  {APP_SCOPES}
  count: ordersCount(limit: null) {{ count precision }}
  rows: orders(first: $first, after: $after, sortKey: ID, query: $query) {{
    nodes {{ {ORDER_FIELDS} {_LINES} }} {PAGE_INFO}
  }}
}}"""

ORDERS_BY_IDS = f"""
query OrdersByIds($ids: [ID!]!, $lines: Int!) {{
  {APP_SCOPES}
  rows: nodes(ids: $ids) {{ ... on Order {{ {ORDER_FIELDS} {_LINES} }} }}
}}"""

ORDER_LINES = f"""
query OrderLines($id: ID!, $first: Int!, $after: String) {{
  order(id: $id) {{
    rows: lineItems(first: $first, after: $after) {{ nodes {{ {LINE_FIELDS} }} {PAGE_INFO} }}
  }}
}}"""


def _nested_ids(name: str, within: str, connection: str) -> str:
    return f"""
query {name}Ids($id: ID!, $first: Int!, $after: String) {{
  {within}(id: $id) {{ rows: {connection}(first: $first, after: $after) {{ nodes {{ id }} {PAGE_INFO} }} }}
}}"""


ADDRESS_IDS = _nested_ids("Address", "customer", "addressesV2")
LINE_IDS = _nested_ids("Line", "order", "lineItems")
CUSTOMER_IDS = ids_only("Customer", "customers")
ORDER_IDS = ids_only("Order", "orders", beside=APP_SCOPES)

DOCUMENTS = (
    CUSTOMER_IDS,
    ORDER_IDS,
    ADDRESS_IDS,
    LINE_IDS,
    IDS,
    CUSTOMERS,
    CUSTOMERS_BY_IDS,
    CUSTOMER_ADDRESSES,
    ORDERS,
    ORDERS_BY_IDS,
    ORDER_LINES,
)


class Sales:
    """Reads a shop's customers and orders, each whole: what does not come with its row is fetched at once."""

    def __init__(self, reader: PageReader) -> None:
        self._reader = reader
        self._sizes = sizes = reader.sizes
        self.addresses = {"addresses": sizes.addresses}
        self._lines_by_ids = {"lines": sizes.lines_by_ids}

    def customers(self, query: str | None, resume: str | None) -> Iterator[Page]:
        variables = {"query": query, **self.addresses}
        return self._reader.connection(
            CUSTOMERS, variables, resume, self.customer, ids=CUSTOMER_IDS, complete=self._whole_customers
        )

    def customers_by_ids(self, ids: Sequence[str]) -> Page:
        return self._reader.by_ids(CUSTOMERS_BY_IDS, self.addresses, ids, self.customer)

    def orders(self, query: str | None, resume: str | None) -> Iterator[Page]:
        """Without the scope `ALL_ORDERS` Shopify lists, and counts, those of the last 60 days alone."""
        listed_since: datetime | None = None
        for answer, data, rows in self._reader.answers(
            ORDERS, {"query": query, "lines": self._sizes.lines}, resume, ids=ORDER_IDS
        ):
            converted = Converted(data)
            converted.add(self._whole_orders(rows.nodes), self._order)
            page = converted.page(answer.vendor_time, resume=rows.next_cursor, source_count=count_of(data))
            if not all_are_shown(data):
                # They come by id, so the first is the oldest that there is to be seen.
                listed_since = listed_since or _oldest(rows.nodes) or answer.vendor_time or datetime.now(UTC)
                page.listed_since, page.source_count = listed_since, None
            yield page

    def orders_by_ids(self, ids: Sequence[str]) -> Page:
        return self._reader.by_ids(
            ORDERS_BY_IDS,
            self._lines_by_ids,
            ids,
            self._order,
            shows_all=all_are_shown,
            most=self._sizes.orders_by_ids,
            complete=self._whole_orders,
        )

    def _whole_customers(self, nodes: list[Node]) -> list[Node]:
        return self._reader.whole(nodes, "addressesV2", CUSTOMERS_BY_IDS, {"addresses": self._sizes.nested})

    def _whole_orders(self, nodes: list[Node]) -> list[Node]:
        return self._reader.whole(nodes, "lineItems", ORDERS_BY_IDS, {"lines": self._sizes.nested})

    def customer(self, _: Converted, node: Node) -> Customer | str:
        nested = nested_rows(node, "addressesV2")
        addresses = self._all(nested, CUSTOMER_ADDRESSES, ADDRESS_IDS, "customer", "addressesV2", node)
        return node["id"] if addresses is None else customer(node, addresses)

    def _order(self, page: Converted, node: Node) -> Order | str:
        nested = nested_rows(node, "lineItems")
        lines = self._all(nested, ORDER_LINES, LINE_IDS, "order", "lineItems", node)
        return node["id"] if lines is None else whole_order(page, node, lines)

    def _all(
        self, nested: Rows, document: str, ids: str, within: str, name: str, node: Node
    ) -> list[Node] | None:
        """All rows of a node's connection; None if the node went away meanwhile."""
        nodes, after = nested
        if after is not None:
            external_id, _ = key(node)
            for _, data, rows in self._reader.answers(document, {"id": external_id}, after, within, ids):
                if not data:
                    return None
                nodes = nodes + rows.nodes
                if len(nodes) > NESTED_ROWS:
                    raise ValueError(f"{name}: more than {NESTED_ROWS:,}; the list may have no end")
        return nodes


# The converters


def customer(node: Node, addresses: Sequence[Node]) -> Customer:
    """A customer with all of their addresses. `company` is that of the default one."""
    default = node["defaultAddress"]
    email = node["defaultEmailAddress"]
    phone = node["defaultPhoneNumber"]
    spent = node["amountSpent"]
    company = region = email_location = sms_source = number = given = None
    if default is not None:
        company, region = default["company"], default["countryCodeV2"]
    if email is not None:
        email_location = email["sourceLocation"]
    if phone is not None:
        number, given = normalise(phone["phoneNumber"], region)
        sms_location = phone["sourceLocation"]
        collected_from = phone["marketingCollectedFrom"]
        sms_source = _lower(collected_from) if sms_location is None else sms_location["id"]
    return Customer(
        *key(node),
        node["firstName"],
        node["lastName"],
        company,
        email["emailAddress"] if email is not None else None,
        node["verifiedEmail"],
        number,
        given,
        _addresses(default["id"] if default is not None else None, addresses) if addresses else "[]",
        node["tags"],
        node["locale"],
        node["note"],
        email["marketingState"].lower() if email is not None else None,
        email["marketingUpdatedAt"] if email is not None else None,
        email_location["id"] if email_location is not None else None,
        phone["marketingState"].lower() if phone is not None else None,
        phone["marketingUpdatedAt"] if phone is not None else None,
        sms_source,
        node["numberOfOrders"],
        spent["amount"],
        spent["currencyCode"],
        node["createdAt"],
    )


def whole_order(page: Converted, node: Node, lines: Sequence[Node]) -> Order:
    """An order, whose lines and refunds are added to the page's parts."""
    record = order(node)
    page.add_parts("order_lines", node, lines, line)
    page.add_parts("refunds", node, node["refunds"], refund)
    return record


def order(node: Node) -> Order:
    """An order as it was sold, without its parts."""
    refunded = node["refunds"]
    if type(refunded) is not list:
        raise ValueError("refunds: must be a list and is not")
    if len(refunded) >= REFUNDS_AT_MOST:
        raise ValueError(f"refunds: {len(refunded)}, and Shopify tells of no more; some may be missing")
    buyer, location = node["customer"], node["retailLocation"]
    subtotal, discount, tax = node["subtotalPriceSet"], node["totalDiscountsSet"], node["totalTaxSet"]
    cancelled_at, closed_at = node["cancelledAt"], node["closedAt"]
    return Order(
        *key(node),
        node["name"],
        buyer["id"] if buyer is not None else None,
        location["id"] if location is not None else None,
        node["sourceName"],
        "cancelled" if cancelled_at is not None else "closed" if closed_at is not None else "open",
        _lower(node["displayFinancialStatus"]),
        _lower(node["displayFulfillmentStatus"]),
        False,
        node["test"],
        node["currencyCode"],
        subtotal["shopMoney"]["amount"] if subtotal is not None else None,
        discount["shopMoney"]["amount"] if discount is not None else None,
        tax["shopMoney"]["amount"] if tax is not None else None,
        node["totalPriceSet"]["shopMoney"]["amount"],
        node["currentTotalPriceSet"]["shopMoney"]["amount"],
        node["email"],
        _phone(node["phone"]),
        node["note"],
        node["tags"],
        node["processedAt"],
        cancelled_at,
        _lower(node["cancelReason"]),
        closed_at,
        node["createdAt"],
    )


def line(order_node: Node, node: Node) -> OrderLine:
    """A line of an order; its product or variant may be gone."""
    external_id = node["id"]
    if type(external_id) is not str:
        raise ValueError("id: must be a text and is not")
    product, variant = node["product"], node["variant"]
    return OrderLine(
        external_id,
        order_node["updatedAt"],
        order_node["id"],
        product["id"] if product is not None else None,
        variant["id"] if variant is not None else None,
        node["title"],
        node["variantTitle"],
        node["sku"],
        node["quantity"],
        node["currentQuantity"],
        node["originalUnitPriceSet"]["shopMoney"]["amount"],
        node["totalDiscountSet"]["shopMoney"]["amount"],
        node["discountedTotalSet"]["shopMoney"]["amount"],
        order_node["currencyCode"],
    )


def refund(order_node: Node, node: Node) -> Refund:
    """Money paid back for an order."""
    external_id, order_id = node["id"], order_node["id"]
    if type(external_id) is not str:
        raise ValueError("id: must be a text and is not")
    return Refund(
        external_id,
        order_node["updatedAt"],
        order_id,
        order_id,
        node["totalRefundedSet"]["shopMoney"]["amount"],
        order_node["currencyCode"],
        node["note"],
        node["createdAt"] if node["processedAt"] is None else node["processedAt"],
    )


def _addresses(default_id: str | None, nodes: Sequence[Node]) -> str:
    """The JSON list of addresses, the default one first."""
    if len(nodes) > 1 and nodes[0]["id"] != default_id:
        nodes = sorted(nodes, key=lambda node: node["id"] != default_id)
    kept = [{name: node[name] for name in ADDRESS if node[name] is not None} for node in nodes]
    for address in kept:
        for name, value in address.items():
            if type(value) is not str:
                raise ValueError(f"addresses.{name}: must be a text and is not")
    try:
        return orjson.dumps(kept).decode()
    except orjson.JSONEncodeError:
        raise ValueError("addresses: a character in them is no valid Unicode") from None


def all_are_shown(data: Node) -> bool:
    """Whether the app may read orders of any age, by the scopes in an answer."""
    try:
        return any(scope["handle"] == ALL_ORDERS for scope in data["app"]["accessScopes"])
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks the app's scopes") from None


def _oldest(nodes: Sequence[Node]) -> datetime | None:
    """When the oldest of them was made; a node without a time is a row that will be rejected."""
    oldest: datetime | None = None
    for node in nodes:
        with suppress(KeyError, TypeError, ValueError):
            made = read_time(node["createdAt"])
            oldest = made if oldest is None else min(oldest, made)
    return oldest


def _phone(text: str | None) -> str | None:
    """In E.164 where it can be read, so that it is the same as a customer's; else as it was given."""
    number, given = normalise(text, None)
    return number or given


def _lower(text: str | None) -> str | None:
    return text if text is None else text.lower()
