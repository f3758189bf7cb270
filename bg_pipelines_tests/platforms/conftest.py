"""Clients that go by a hand clock, and what every failure has to fulfil."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.platforms.phones import normalise
from bg_pipelines.platforms.shopify.client import Credentials, ShopifyClient, StaticToken
from bg_pipelines.records import ADDRESS, Customer, Order, OrderLine, Refund
from bg_pipelines.sandbox import Sandbox, Shop, World
from bg_pipelines_tests.platforms.scripted import Script, ScriptedServer
from bg_pipelines_tests.support import HandClock

TOKEN = "shpat_" + "a1" * 16
SECRET = "shpss_" + "b2" * 16
# How each token and secret that is used in this folder begins.
SECRET_BEGINNINGS = ("shpat_", "shpss_", "sandbox-token-", "sandbox-secret-", "sandbox-square-", "EAAA")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def connect(clock: HandClock) -> Iterator[Callable[..., ShopifyClient]]:
    """Make a client that waits by the hand clock: `connect(server.url)`."""
    made: list[ShopifyClient] = []

    def make(base_url: str, credentials: Credentials | None = None, **options: Any) -> ShopifyClient:
        by_hand = {
            "sleep": clock.sleep,
            "clock": clock,
            "now": clock.now,
            "timeouts": Timeouts(2.0, 5.0, 10.0),
        }
        client = ShopifyClient(
            base_url, credentials or StaticToken(TOKEN), api_version="2026-07", **{**by_hand, **options}
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start scripted servers: `serve(Reply(500))`."""
    running: list[ScriptedServer] = []

    def start(*script: Script) -> ScriptedServer:
        running.append(ScriptedServer(*script).__enter__())
        return running[-1]

    yield start
    for server in running:
        threading.Thread(target=server.__exit__).start()


@pytest.fixture
def shop(clock: HandClock) -> Iterator[Shop]:
    """A sandbox shop of 60 variants whose time is the hand clock's."""
    sandbox = Sandbox(World(shops=1, variants=60, clock=clock), port=0)
    sandbox.start()
    yield next(iter(sandbox.world.shops.values()))
    # A server stops at its next look at the clock: no test waits for that of another.
    threading.Thread(target=sandbox.stop).start()


def failure_of(call: Callable[[], object]) -> IntegrationError:
    """The failure of a call, of which every one holds: it is classified, JSON-ready and gives nothing away."""
    with pytest.raises(IntegrationError) as caught:
        call()
    error = caught.value
    shown = [str(error), repr(error), repr(error.details), "".join(traceback.format_exception(error))]
    shown.append(json.dumps(error.as_dict(), allow_nan=False))
    for secret in SECRET_BEGINNINGS:
        assert not any(secret in text for text in shown)
    return error


# The sandbox's rows as the records that they should become, by a way of its own.


def expected_customer(row: dict[str, Any]) -> Customer:
    email, phone = row["defaultEmailAddress"] or {}, row["defaultPhoneNumber"] or {}
    number, _ = normalise(phone.get("phoneNumber"), None)
    default = row["defaultAddress"] or {}
    places = sorted(row["addressesV2"], key=lambda address: address["id"] != default.get("id"))
    vendor_names = {"address_1": "address1", "address_2": "address2", "postal_code": "zip"}
    vendor_names |= {"country_code": "countryCodeV2", "province_code": "provinceCode"}
    vendor_names |= {"first_name": "firstName", "last_name": "lastName"}
    addresses = [
        {
            name: address[vendor]
            for name in ADDRESS
            if address.get(vendor := vendor_names.get(name, name)) is not None
        }
        for address in places
    ]
    return Customer(
        external_id=row["id"],
        source_updated_at=row["updatedAt"],
        first_name=row["firstName"],
        last_name=row["lastName"],
        company=default.get("company"),
        email=email.get("emailAddress"),
        email_verified=row["verifiedEmail"],
        # A few of the sandbox's are of no number that there is.
        phone=number,
        phone_given=None if number else phone.get("phoneNumber"),
        addresses=json.dumps(addresses, ensure_ascii=False, separators=(",", ":")),
        tags=row["tags"],
        locale=row["locale"],
        note=row["note"],
        email_consent=lower(email.get("marketingState")),
        email_consent_at=email.get("marketingUpdatedAt"),
        email_consent_source=(email.get("sourceLocation") or {}).get("id"),
        sms_consent=lower(phone.get("marketingState")),
        sms_consent_at=phone.get("marketingUpdatedAt"),
        sms_consent_source=(phone.get("sourceLocation") or {}).get("id")
        or lower(phone.get("marketingCollectedFrom")),
        orders_count=row["numberOfOrders"],
        total_spent=row["amountSpent"]["amount"],
        currency=row["amountSpent"]["currencyCode"],
        source_created_at=row["createdAt"],
    )


def expected_order(row: dict[str, Any]) -> Order:
    return Order(
        external_id=row["id"],
        source_updated_at=row["updatedAt"],
        name=row["name"],
        customer_external_id=(row["customer"] or {}).get("id"),
        location_external_id=(row["retailLocation"] or {}).get("id"),
        channel=row["sourceName"],
        status="cancelled" if row["cancelledAt"] else "closed" if row["closedAt"] else "open",
        financial_status=lower(row["displayFinancialStatus"]),
        fulfillment_status=lower(row["displayFulfillmentStatus"]),
        is_return=False,
        is_test=row["test"],
        currency=row["currencyCode"],
        subtotal=amount(row["subtotalPriceSet"]),
        discount=amount(row["totalDiscountsSet"]),
        tax=amount(row["totalTaxSet"]),
        total=amount(row["totalPriceSet"]),
        current_total=amount(row["currentTotalPriceSet"]),
        email=row["email"],
        phone=row["phone"],
        note=row["note"],
        tags=row["tags"],
        ordered_at=row["processedAt"],
        cancelled_at=row["cancelledAt"],
        cancel_reason=lower(row["cancelReason"]),
        closed_at=row["closedAt"],
        source_created_at=row["createdAt"],
    )


def expected_lines(row: dict[str, Any]) -> list[OrderLine]:
    return [
        OrderLine(
            external_id=line["id"],
            source_updated_at=row["updatedAt"],
            order_external_id=row["id"],
            product_external_id=(line["product"] or {}).get("id"),
            variant_external_id=(line["variant"] or {}).get("id"),
            title=line["title"],
            variant_title=line["variantTitle"],
            sku=line["sku"],
            quantity=line["quantity"],
            current_quantity=line["currentQuantity"],
            unit_price=amount(line["originalUnitPriceSet"]),
            discount=amount(line["totalDiscountSet"]),
            total=amount(line["discountedTotalSet"]),
            currency=row["currencyCode"],
        )
        for line in row["lineItems"]
    ]


def expected_refunds(row: dict[str, Any]) -> list[Refund]:
    return [
        Refund(
            external_id=refund["id"],
            source_updated_at=row["updatedAt"],
            order_external_id=row["id"],
            sale_external_id=row["id"],
            amount=amount(refund["totalRefundedSet"]),
            currency=row["currencyCode"],
            note=refund.get("note"),
            refunded_at=refund["processedAt"],
        )
        for refund in row["refunds"]
    ]


def lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def amount(bag: dict[str, Any]) -> str:
    return str(bag["shopMoney"]["amount"])
