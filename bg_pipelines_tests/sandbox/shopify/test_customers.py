"""Customers: read, searched, updated, and what their shop's people do to them."""

from __future__ import annotations

from typing import Any

import pytest

from bg_pipelines.sandbox import RejectedError, Shop, World, edit
from bg_pipelines_tests.sandbox.conftest import Client
from bg_pipelines_tests.support import START, HandClock

CUSTOMERS = """query Customers($first: Int, $after: String, $query: String, $sort: CustomerSortKeys) {
  customers(first: $first, after: $after, query: $query, sortKey: $sort) {
    nodes { id firstName lastName displayName note locale numberOfOrders state tags taxExempt verifiedEmail
      dataSaleOptOut createdAt updatedAt amountSpent { amount currencyCode } lastOrder { id }
      defaultEmailAddress { emailAddress marketingState marketingOptInLevel marketingUpdatedAt validFormat
        sourceLocation { id } }
      defaultPhoneNumber { phoneNumber marketingState marketingOptInLevel marketingUpdatedAt
        marketingCollectedFrom sourceLocation { id } }
      defaultAddress { ...address } addressesV2(first: 50) { nodes { ...address } } }
    pageInfo { hasNextPage endCursor }
  }
}
fragment address on MailingAddress { id firstName lastName name company address1 address2 city province
  provinceCode country countryCodeV2 zip phone }"""
UPDATE = """mutation Update($input: CustomerInput!) {
  customerUpdate(input: $input) { customer { id displayName tags note updatedAt defaultEmailAddress { emailAddress
    marketingState } defaultPhoneNumber { phoneNumber } } userErrors { field message } } }"""
EMAIL_CONSENT = """mutation($input: CustomerEmailMarketingConsentUpdateInput!) {
  customerEmailMarketingConsentUpdate(input: $input) { customer { defaultEmailAddress { marketingState
    marketingOptInLevel marketingUpdatedAt sourceLocation { id } } } userErrors { code field message } } }"""
SMS_CONSENT = """mutation($input: CustomerSmsMarketingConsentUpdateInput!) {
  customerSmsMarketingConsentUpdate(input: $input) { customer { updatedAt defaultPhoneNumber { marketingState } }
    userErrors { code field message } } }"""


def as_exported(node: dict[str, Any]) -> dict[str, Any]:
    return node | {"addressesV2": node["addressesV2"]["nodes"]}


def with_email(shop: Shop) -> dict[str, Any]:
    return next(row for row in shop.export()["customers"] if row["defaultEmailAddress"])


def customer_now(shop: Shop, customer_id: str) -> dict[str, Any]:
    return next(row for row in shop.export()["customers"] if row["id"] == customer_id)


def test_paging_to_the_end_gives_the_export(client: Client, shop: Shop) -> None:
    export = client.admin("GET", f"shops/{shop.domain}/export?only=customers").json()
    assert export.keys() == {"customers"}
    read = client.pages(CUSTOMERS, "customers", first=7)
    assert [as_exported(node) for node in read] == export["customers"] == shop.export()["customers"]
    assert client.ask("{ customersCount { count precision } }")["customersCount"] == {
        "count": len(read),
        "precision": "EXACT",
    }
    one = client.ask("query($id: ID!) { customer(id: $id) { id displayName } }", id=read[3]["id"])
    assert one["customer"] == {"id": read[3]["id"], "displayName": read[3]["displayName"]}


def test_the_customers_of_a_shop_are_made_when_they_are_asked_for_and_repeat() -> None:
    first, second = (World(shops=2, variants=60, customers=80, clock=lambda: START) for _ in range(2))
    domain = next(iter(first.shops))
    shop, twin = first.shops[domain], second.shops[domain]
    told = shop.to_json()
    assert shop._ledger is None
    # An edit of the catalogue before they are made changes none of them.
    edit(shop, "delete_product", id=shop.export(["products"])["products"][0]["id"])
    assert shop.export(["customers"]) == twin.export(["customers"])
    assert [order["lineItems"][0]["title"] for order in shop.export()["orders"]] == [
        order["lineItems"][0]["title"] for order in twin.export()["orders"]
    ]
    assert (told["customers"], told["orders"]) == (len(shop.ledger.customers), len(shop.ledger.orders))
    assert sum(one.to_json()["customers"] for one in first.shops.values()) == 80


def test_the_seed_holds_the_customers_that_break_naive_code() -> None:
    shops = list(World(shops=3, variants=30, customers=1500, clock=lambda: START).shops.values())
    tables = [shop.export(["customers"])["customers"] for shop in shops]
    rows = [row for table in tables for row in table]
    names = "".join(row["displayName"] for row in rows)
    assert set("さмל王م🌻’") <= set(names)
    assert any(row["firstName"] is None and row["lastName"] is None for row in rows)
    assert any(row["defaultAddress"] is None for row in rows)
    phones = [
        [row["defaultPhoneNumber"]["phoneNumber"] for row in table if row["defaultPhoneNumber"]]
        for table in tables
    ]
    assert all(phone.startswith("+") and phone[1:].isdigit() for table in phones for phone in table)
    assert len(rows) - sum(len(table) for table in phones) > 0
    assert all(len(table) > len(set(table)) for table in phones)
    emails = [
        {row["defaultEmailAddress"]["emailAddress"] for row in table if row["defaultEmailAddress"]}
        for table in tables
    ]
    assert any(email.startswith("noemail+") for email in emails[0])
    # The same person is known to several shops.
    assert emails[0] & emails[1]
    assert len(rows) > sum(len(table) for table in emails)
    numbers = sorted(int(row["numberOfOrders"]) for row in rows)
    assert numbers[0] == 0
    assert numbers[-1] > 10 * numbers[len(numbers) // 2]
    assert {row["amountSpent"]["currencyCode"] for row in rows} == {"USD", "EUR", "JPY"}


def test_only_what_changed_since_is_found_and_search_lags(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    edit(shop, "set_search_lag", seconds=30)
    query = f"updated_at:>'{shop.clock.stamp()}'"
    clock.seconds += 60
    customer = shop.export()["customers"][5]
    edit(shop, "update_customer", id=customer["id"], fields={"lastName": "Newest"})
    assert client.pages(CUSTOMERS, "customers", first=9, query=query) == []
    clock.seconds += 31
    (found,) = client.pages(CUSTOMERS, "customers", first=9, query=query)
    assert (found["id"], found["lastName"]) == (customer["id"], "Newest")
    (newest,) = client.ask("{ customers(first: 1, sortKey: UPDATED_AT, reverse: true) { nodes { id } } }")[
        "customers"
    ]["nodes"]
    assert newest == {"id": customer["id"]}


def test_customers_are_found_by_what_they_are(client: Client, shop: Shop) -> None:
    customer = with_email(shop)
    email = customer["defaultEmailAddress"]["emailAddress"]
    edit(shop, "update_customer", id=customer["id"], fields={"tags": ["rare"], "phone": "+12125550000"})
    for query in (
        f"email:'{email}'",
        "phone:'+12125550000'",
        "tag:rare",
        f"id:{customer['id'].rsplit('/')[-1]}",
    ):
        (found,) = client.pages(CUSTOMERS, "customers", first=9, query=query)
        assert found["id"] == customer["id"], query


def test_an_update_is_applied_and_told(client: Client, shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    customer = with_email(shop)
    wish = {
        "id": customer["id"],
        "firstName": "Łucja",
        "lastName": None,
        "tags": ["b", "a", "b"],
        "note": "x",
    }
    answer = client.ask(UPDATE, input=wish | {"email": "new@example.com", "phone": "+12125550000"})[
        "customerUpdate"
    ]
    assert answer["userErrors"] == []
    assert answer["customer"] == {
        "id": customer["id"],
        "displayName": "Łucja",
        "tags": ["a", "b"],
        "note": "x",
        "updatedAt": shop.clock.stamp(),
        # The consent stays with its customer when the address changes.
        "defaultEmailAddress": {
            "emailAddress": "new@example.com",
            "marketingState": customer["defaultEmailAddress"]["marketingState"],
        },
        "defaultPhoneNumber": {"phoneNumber": "+12125550000"},
    }
    assert shop.applied == 1
    answer = client.ask(UPDATE, input={"id": customer["id"], "phone": ""})["customerUpdate"]
    assert answer["customer"]["defaultPhoneNumber"] is None


@pytest.mark.parametrize(
    ("wish", "field", "message"),
    [
        ({"id": "gid://shopify/Customer/1"}, ["id"], "Customer does not exist"),
        ({"email": "nobody"}, ["email"], "Email is invalid"),
        ({"phone": "12"}, ["phone"], "Phone is invalid"),
        ({"firstName": "x" * 256}, ["firstName"], "First name is too long (maximum is 255 characters)"),
        (
            {"firstName": None, "lastName": None, "email": None, "phone": None},
            None,
            "A name, phone number, or email address must be present",
        ),
    ],
)
def test_a_wrong_update_is_a_user_error_and_changes_nothing(
    client: Client, shop: Shop, wish: dict[str, Any], field: Any, message: str
) -> None:
    before = shop.export()
    given = {"id": before["customers"][0]["id"]} | wish
    answer = client.ask(UPDATE, input=given)["customerUpdate"]
    assert answer == {"customer": None, "userErrors": [{"field": field, "message": message}]}
    assert shop.export() == before
    assert shop.applied == 0


def test_an_address_that_another_one_has_is_taken(client: Client, shop: Shop) -> None:
    first, second = [row for row in shop.export()["customers"] if row["defaultEmailAddress"]][:2]
    email = second["defaultEmailAddress"]["emailAddress"].upper()
    answer = client.ask(UPDATE, input={"id": first["id"], "email": email})["customerUpdate"]
    assert answer["userErrors"] == [{"field": ["email"], "message": "Email has already been taken"}]


def test_consent_is_given_and_taken_back(client: Client, shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    customer, place = with_email(shop), shop.export()["locations"][0]
    consent = {
        "marketingState": "SUBSCRIBED",
        "marketingOptInLevel": "CONFIRMED_OPT_IN",
        "sourceLocationId": place["id"],
    }
    wish = {"customerId": customer["id"], "emailMarketingConsent": consent}
    answer = client.ask(EMAIL_CONSENT, input=wish)["customerEmailMarketingConsentUpdate"]
    assert answer["userErrors"] == []
    assert answer["customer"]["defaultEmailAddress"] == {
        "marketingState": "SUBSCRIBED",
        "marketingOptInLevel": "CONFIRMED_OPT_IN",
        "marketingUpdatedAt": shop.clock.stamp(),
        "sourceLocation": {"id": place["id"]},
    }
    edit(shop, "update_customer", id=customer["id"], fields={"phone": "+12125550000"})
    wish = {"customerId": customer["id"], "smsMarketingConsent": {"marketingState": "UNSUBSCRIBED"}}
    answer = client.ask(SMS_CONSENT, input=wish)["customerSmsMarketingConsentUpdate"]
    assert answer["customer"] == {
        "updatedAt": shop.clock.stamp(),
        "defaultPhoneNumber": {"marketingState": "UNSUBSCRIBED"},
    }


def test_consent_needs_something_to_write_to_and_a_state_that_one_may_set(client: Client, shop: Shop) -> None:
    customer = with_email(shop)
    wish = {"customerId": customer["id"], "emailMarketingConsent": {"marketingState": "INVALID"}}
    (error,) = client.ask(EMAIL_CONSENT, input=wish)["customerEmailMarketingConsentUpdate"]["userErrors"]
    assert error["field"] == ["input", "emailMarketingConsent", "marketingState"]
    edit(shop, "update_customer", id=customer["id"], fields={"phone": None})
    wish = {"customerId": customer["id"], "smsMarketingConsent": {"marketingState": "SUBSCRIBED"}}
    (error,) = client.ask(SMS_CONSENT, input=wish)["customerSmsMarketingConsentUpdate"]["userErrors"]
    assert error["code"] == "INVALID"


def test_a_redacted_customer_keeps_nothing_but_its_id_and_its_orders(
    client: Client, shop: Shop, clock: HandClock
) -> None:
    clock.seconds += 60
    customer = next(
        row for row in shop.export()["customers"] if row["lastOrder"] and row["defaultEmailAddress"]
    )
    told = client.admin(
        "POST", f"shops/{shop.domain}/edits", {"edit": "redact_customer", "id": customer["id"]}
    ).json()
    read = next(
        node for node in client.pages(CUSTOMERS, "customers", first=50) if node["id"] == customer["id"]
    )
    assert as_exported(read) == told
    for name in (
        "firstName",
        "lastName",
        "note",
        "defaultEmailAddress",
        "defaultPhoneNumber",
        "defaultAddress",
    ):
        assert read[name] is None
    assert (read["displayName"], read["tags"], read["addressesV2"]) == ("", [], {"nodes": []})
    assert (read["numberOfOrders"], read["updatedAt"]) == (customer["numberOfOrders"], shop.clock.stamp())
    orders = [order for order in shop.export()["orders"] if order["customer"] == {"id": customer["id"]}]
    assert len(orders) >= 1
    assert all(order["email"] is order["phone"] is None for order in orders)


def test_only_a_customer_without_orders_can_be_deleted(client: Client, shop: Shop) -> None:
    rows = shop.export()["customers"]
    buyer = next(row for row in rows if row["lastOrder"])
    with pytest.raises(RejectedError, match="orders"):
        edit(shop, "delete_customer", id=buyer["id"])
    made = edit(
        shop, "add_customer", fields={"firstName": "Short", "lastName": "Stay", "email": "s@example.com"}
    )
    ask = "query($id: ID!) { customer(id: $id) { canDelete displayName addressesV2(first: 1) { nodes { id } } } }"
    read = client.ask(ask, id=made["id"])["customer"]
    assert (read["canDelete"], read["displayName"]) == (True, "Short Stay")
    assert client.ask(ask, id=buyer["id"])["customer"]["canDelete"] is False
    edit(shop, "delete_customer", id=made["id"])
    assert client.ask(ask, id=made["id"]) == {"customer": None}
    assert shop.export()["customers"] == rows


def test_merged_customers_are_one_with_all_their_orders(client: Client, shop: Shop, clock: HandClock) -> None:
    clock.seconds += 60
    gone, kept = [row for row in shop.export()["customers"] if row["lastOrder"]][:2]
    merged = edit(shop, "merge_customers", id=gone["id"], into=kept["id"])
    assert int(merged["numberOfOrders"]) == int(gone["numberOfOrders"]) + int(kept["numberOfOrders"])
    assert gone["id"] not in {row["id"] for row in shop.export()["customers"]}
    orders = shop.export()["orders"]
    assert {"id": gone["id"]} not in [order["customer"] for order in orders]
    moved = [order for order in orders if order["updatedAt"] == shop.clock.stamp()]
    assert len(moved) >= 1
    assert customer_now(shop, kept["id"])["updatedAt"] == shop.clock.stamp()


@pytest.mark.parametrize(
    ("scopes", "query", "field"),
    [
        (["read_orders"], "{ customers(first: 1) { nodes { id } } }", "customers"),
        (["read_orders"], "{ orders(first: 1) { nodes { id customer { id } } } }", "customer"),
        (["read_customers"], "{ customers(first: 1) { nodes { id lastOrder { id } } } }", "lastOrder"),
        (["read_customers"], "{ ordersCount { count } }", "ordersCount"),
        (
            ["read_customers"],
            'mutation { customerUpdate(input: {id: "x"}) { customer { id } } }',
            "customerUpdate",
        ),
    ],
)
def test_protected_data_needs_its_scope_wherever_it_appears(
    client: Client, shop: Shop, scopes: list[str], query: str, field: str
) -> None:
    edit(shop, "set_scopes", scopes=scopes)
    body = client.post(query).json()
    assert body["data"] is None
    assert body["errors"][0]["extensions"]["code"] == "ACCESS_DENIED"
    assert body["errors"][0]["message"].startswith(f"Access denied for {field} field.")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"edit": "update_customer", "id": "{id}", "fields": {"state": "HAPPY"}}, "state"),
        ({"edit": "update_customer", "id": "{id}", "fields": {"tags": "x"}}, "tags"),
        ({"edit": "update_customer", "id": "{id}", "fields": {"age": 5}}, "age"),
        ({"edit": "update_customer", "id": "{id}", "fields": {}}, "fields"),
        ({"edit": "merge_customers", "id": "{id}", "into": "{id}"}, "into"),
        ({"edit": "redact_customer", "id": "gid://shopify/Customer/1"}, "id"),
    ],
)
def test_a_wrong_wish_names_the_field(client: Client, shop: Shop, fields: dict[str, Any], field: str) -> None:
    customer_id = shop.export()["customers"][0]["id"]
    wish = {name: customer_id if value == "{id}" else value for name, value in fields.items()}
    answer = client.admin("POST", f"shops/{shop.domain}/edits", wish)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
