"""Shopify's API over HTTP: each failure is told for what it is, throttles are waited out, tokens are renewed."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms import connect as connect_store
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.platforms.shopify import client, platform
from bg_pipelines.platforms.shopify.client import ClientCredentials, ShopifyClient, StaticToken
from bg_pipelines.sandbox import Fault, Shop, edit
from bg_pipelines_tests.platforms.conftest import SECRET, TOKEN, failure_of
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer
from bg_pipelines_tests.support import HandClock

CHECKOUT = Path(__file__).resolve().parents[3]
Connect = Callable[..., ShopifyClient]
Serve = Callable[..., ScriptedServer]

SHOP_DATA = {"data": {"shop": {"name": "Harbor Tools"}}}
ANSWER = Reply.of(SHOP_DATA)
PRODUCTS_OF_A_PAGE = {"first": 250, "after": None, "query": None}

LATER = (Severity.MEDIUM, True)
PERSON = (Severity.HIGH, False)


def ask(client: ShopifyClient) -> Any:
    return client.execute(platform.SHOP, {}).data


def told_as(error: IntegrationError) -> tuple[ErrorType, Severity, bool]:
    assert error.source == "shopify"
    return error.error_type, error.severity, error.recoverable


def throttled(
    wanted: float, available: float, maximum: float = 1000.0, restore: float = 50.0
) -> dict[str, Any]:
    status = {"maximumAvailable": maximum, "currentlyAvailable": available, "restoreRate": restore}
    cost = {"requestedQueryCost": wanted, "actualQueryCost": None, "throttleStatus": status}
    return {
        "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
        "extensions": {"cost": cost},
    }


# Failures


@pytest.mark.parametrize(
    ("kind", "error_type", "severity_and_recoverable", "advice"),
    [
        (
            "unauthorized",
            ErrorType.CREDENTIALS,
            PERSON,
            "Make a new one and give it with `bg-pipelines stores set STORE --token -`",
        ),
        ("payment_required", ErrorType.PAYMENT_REQUIRED, PERSON, "its bill is open"),
        ("forbidden", ErrorType.SCOPES, PERSON, "the app lacks a scope"),
        ("not_found", ErrorType.SHOP_GONE, PERSON, "check the store's domain"),
        ("locked", ErrorType.SHOP_LOCKED, (Severity.HIGH, True), "its owner has to contact Shopify"),
        ("server_error", ErrorType.SERVER_ERROR, LATER, "Shopify is failing (500); retried automatically"),
        ("bad_gateway", ErrorType.SERVER_ERROR, LATER, "Shopify is failing (502); retried automatically"),
        ("internal_error", ErrorType.SERVER_ERROR, LATER, "INTERNAL_SERVER_ERROR"),
        ("html", ErrorType.MALFORMED_RESPONSE, LATER, "HTML instead of data; retried automatically"),
        (
            "half_json",
            ErrorType.MALFORMED_RESPONSE,
            LATER,
            "cut short, instead of data; retried automatically",
        ),
        ("half_page", ErrorType.CONNECTION, LATER, "the connection was cut"),
        ("cut", ErrorType.CONNECTION, LATER, "the connection was cut"),
        ("apply_then_cut", ErrorType.CONNECTION, LATER, "the connection was cut"),
        ("access_denied", ErrorType.SCOPES, PERSON, "Grant it in the app's settings"),
    ],
)
def test_a_failure_is_told_for_what_it_is_and_asked_once(
    shop: Shop,
    connect: Connect,
    clock: HandClock,
    kind: str,
    error_type: ErrorType,
    severity_and_recoverable: tuple[Severity, bool],
    advice: str,
) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    shop.faults.append(Fault(kind, times=1))
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (error_type, *severity_and_recoverable)
    assert advice in error.message
    assert [request.fault for request in shop.requests] == [kind]
    assert clock.slept == []
    assert ask(client)["shop"]["name"] == shop.name, "the client is as good as new"


@pytest.mark.parametrize("kind", ["unauthorized", "server_error", "html", "internal_error"])
def test_a_failure_carries_what_shopifys_support_asks_for(shop: Shop, connect: Connect, kind: str) -> None:
    shop.faults.append(Fault(kind))
    error = failure_of(lambda: ask(connect(shop.api_url, StaticToken(shop.token))))
    assert error.details["status"] == {"unauthorized": 401, "server_error": 500}.get(kind, 200)
    assert len(error.details["request_id"]) == 36


def test_a_refused_port_is_a_connection_error_that_names_the_address(connect: Connect) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        error = failure_of(lambda: ask(connect(f"http://{address}")))
    assert told_as(error) == (ErrorType.CONNECTION, *LATER)
    assert error.message.startswith(f"{address}: cannot be reached (ConnectionRefusedError)")


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: who comes next waits."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def test_a_connection_that_does_not_come_about_is_a_timeout(connect: Connect, full_port: int) -> None:
    client = connect(f"http://127.0.0.1:{full_port}", timeouts=Timeouts(0.2, 20.0, 60.0))
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.TIMEOUT, *LATER)
    assert "20 s" not in error.message, "it waited for the connection, and not 20 s"


def test_an_answer_that_does_not_come_is_a_timeout(shop: Shop, connect: Connect) -> None:
    shop.faults.append(Fault("slow", seconds=1.0, times=1))
    client = connect(shop.api_url, StaticToken(shop.token), timeouts=Timeouts(1.0, 0.2, 60.0))
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.TIMEOUT, *LATER)
    assert "no answer within" in error.message


def test_an_answer_that_stops_in_the_middle_is_a_timeout(serve: Serve, connect: Connect) -> None:
    server = serve(Reply(200, (b'{"data": ', b"{}}"), pause_seconds=0.6))
    error = failure_of(lambda: ask(connect(server.url, timeouts=Timeouts(1.0, 0.2, 60.0))))
    assert told_as(error) == (ErrorType.TIMEOUT, *LATER)


def test_an_answer_that_drips_past_the_deadline_is_a_timeout(shop: Shop, connect: Connect) -> None:
    shop.faults.append(Fault("drip", seconds=10.0, times=1))
    token = StaticToken(shop.token)
    client = connect(shop.api_url, token, timeouts=Timeouts(1.0, 5.0, 0.3), clock=time.monotonic)
    began = time.monotonic()
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.TIMEOUT, *LATER)
    assert "no whole answer within" in error.message
    assert time.monotonic() - began < 5


def test_an_answer_that_drips_but_comes_in_time_is_read(shop: Shop, connect: Connect) -> None:
    shop.faults.append(Fault("drip", seconds=0.2))
    client = connect(shop.api_url, StaticToken(shop.token), clock=time.monotonic)
    assert ask(client)["shop"]["name"] == shop.name


def test_a_compressed_answer_in_pieces_is_read_whole(serve: Serve, connect: Connect) -> None:
    data = {"data": {"numbers": list(range(30_000))}}
    packed = gzip.compress(json.dumps(data).encode())
    pieces = tuple(packed[at : at + 7000] for at in range(0, len(packed), 7000))
    # The first piece is too short to hold any content of its own.
    server = serve(Reply(200, (packed[:3], packed[3:7000], *pieces[1:]), {"Content-Encoding": "gzip"}, 0.01))
    assert len(pieces) > 3
    assert ask(connect(server.url)) == data["data"]


def test_a_compressed_answer_that_is_cut_is_no_answer(serve: Serve, connect: Connect) -> None:
    packed = gzip.compress(json.dumps({"data": {"numbers": list(range(3000))}}).encode())
    server = serve(Reply(200, (packed[:-200],), {"Content-Encoding": "gzip"}))
    error = failure_of(lambda: ask(connect(server.url)))
    assert error.error_type in {ErrorType.CONNECTION, ErrorType.MALFORMED_RESPONSE}


def test_an_answer_without_end_is_malformed(serve: Serve, connect: Connect) -> None:
    server = serve(Reply(200, (b" " * 1001,)))
    error = failure_of(lambda: ask(connect(server.url, max_bytes=1000)))
    assert told_as(error) == (ErrorType.MALFORMED_RESPONSE, *LATER)
    assert "1,000 bytes" in error.message


def test_a_redirect_is_not_followed_and_names_the_new_host(serve: Serve, connect: Connect) -> None:
    elsewhere = serve(ANSWER)
    moved = serve(Reply(301, headers={"Location": f"{elsewhere.url}/admin?token={TOKEN}"}))
    error = failure_of(lambda: ask(connect(moved.url)))
    assert told_as(error) == (ErrorType.SHOP_GONE, *PERSON)
    assert "127.0.0.1" in error.message
    assert "--api-url" in error.message
    assert elsewhere.asked == [], "the token went to nobody else"


@pytest.mark.parametrize("location", ["", "/login", "//", "http://:80:80"])
def test_a_redirect_to_nowhere_is_told_too(serve: Serve, connect: Connect, location: str) -> None:
    server = serve(Reply(302, headers={"Location": location}))
    error = failure_of(lambda: ask(connect(server.url)))
    assert told_as(error) == (ErrorType.SHOP_GONE, *PERSON)


def test_a_redirect_to_an_address_that_is_none_is_classified(serve: Serve, connect: Connect) -> None:
    server = serve(Reply(302, headers={"Location": "http://[::1"}))
    error = failure_of(lambda: ask(connect(server.url)))
    assert error.error_type in {ErrorType.SHOP_GONE, ErrorType.MALFORMED_RESPONSE}


@pytest.mark.parametrize(
    ("status", "error_type", "severity_and_recoverable"),
    [
        (400, ErrorType.QUERY_REJECTED, PERSON),
        (408, ErrorType.TIMEOUT, LATER),
        (422, ErrorType.QUERY_REJECTED, PERSON),
        *((status, ErrorType.REFUSED, LATER) for status in (409, 410, 418, 421, 425, 430, 451, 499)),
        (503, ErrorType.SERVER_ERROR, LATER),
        (599, ErrorType.SERVER_ERROR, LATER),
        (202, ErrorType.MALFORMED_RESPONSE, LATER),
    ],
)
def test_other_statuses_are_told_by_their_class(
    serve: Serve,
    connect: Connect,
    status: int,
    error_type: ErrorType,
    severity_and_recoverable: tuple[Severity, bool],
) -> None:
    error = failure_of(lambda: ask(connect(serve(Reply.of({}, status)).url)))
    assert told_as(error) == (error_type, *severity_and_recoverable)
    assert error.details["status"] == status


DOCUMENTED = {
    "throttled": (ErrorType.THROTTLED, Severity.LOW, True),
    "max_cost_exceeded": (ErrorType.QUERY_TOO_COSTLY, *PERSON),
    "internal": (ErrorType.SERVER_ERROR, *LATER),
    "http_400": (ErrorType.QUERY_REJECTED, *PERSON),
    "http_402": (ErrorType.PAYMENT_REQUIRED, *PERSON),
    "http_403": (ErrorType.SCOPES, *PERSON),
    "http_404": (ErrorType.SHOP_GONE, *PERSON),
    "http_423": (ErrorType.SHOP_LOCKED, Severity.HIGH, True),
    "http_500": (ErrorType.SERVER_ERROR, *LATER),
}


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    folder = Path(os.environ.get("BG_VENDOR_SPECS", CHECKOUT.parent / "shared" / "vendor"))
    path = folder / "shopify_errors.json"
    if not path.exists():
        pytest.skip(f"the vendor's error bodies are not at {path}; set BG_VENDOR_SPECS")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_body_as_shopify_documents_it_is_told_for_what_it_is(
    documented: dict[str, Any], serve: Serve, connect: Connect, name: str
) -> None:
    server = serve(Reply.of(documented[name]["body"], documented[name]["http_status"]))
    client = connect(server.url, throttle_wait_seconds=0.0)
    assert told_as(failure_of(lambda: ask(client))) == DOCUMENTED[name]
    assert len(server.asked) == 1


def test_every_documented_body_is_tried(documented: dict[str, Any]) -> None:
    assert {name for name, one in documented.items() if isinstance(one, dict)} == set(DOCUMENTED)
    assert documented["other_codes_documented"] == ["ACCESS_DENIED", "SHOP_INACTIVE"]


@pytest.mark.parametrize(
    ("code", "error_type", "severity_and_recoverable"),
    [
        ("ACCESS_DENIED", ErrorType.SCOPES, PERSON),
        ("SHOP_INACTIVE", ErrorType.SHOP_GONE, PERSON),
        ("TIMEOUT", ErrorType.SERVER_ERROR, LATER),
        ("SOMETHING_NEW", ErrorType.QUERY_REJECTED, PERSON),
        (None, ErrorType.QUERY_REJECTED, PERSON),
    ],
)
def test_an_error_code_is_told_for_what_it_is(
    serve: Serve,
    connect: Connect,
    code: str | None,
    error_type: ErrorType,
    severity_and_recoverable: tuple[Severity, bool],
) -> None:
    body = {"errors": [{"message": "It is so.", "extensions": {"code": code}}], "data": None}
    error = failure_of(lambda: ask(connect(serve(Reply.of(body)).url)))
    assert told_as(error) == (error_type, *severity_and_recoverable)
    assert error.details.get("code") == code


def test_a_missing_scope_is_named(shop: Shop, connect: Connect) -> None:
    edit(shop, "set_scopes", scopes=["read_locations"])
    client = connect(shop.api_url, StaticToken(shop.token))
    error = failure_of(lambda: client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE))
    assert told_as(error) == (ErrorType.SCOPES, *PERSON)
    assert "`read_products` access scope" in error.message


def test_errors_beside_data_are_not_passed_over(serve: Serve, connect: Connect) -> None:
    body = SHOP_DATA | {
        "errors": [{"message": "half of it", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}]
    }
    error = failure_of(lambda: ask(connect(serve(Reply.of(body)).url)))
    assert told_as(error) == (ErrorType.SERVER_ERROR, *LATER)


@pytest.mark.parametrize(
    "errors",
    ["text", {"query": "missing"}, [None], [[]], ["text"], [{"message": None}], [{"extensions": "text"}], 7],
)
def test_errors_in_a_form_that_nobody_documents_reject_the_query(
    serve: Serve, connect: Connect, errors: Any
) -> None:
    error = failure_of(lambda: ask(connect(serve(Reply.of({"errors": errors})).url)))
    assert told_as(error) == (ErrorType.QUERY_REJECTED, *PERSON)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": {}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_an_answer_without_data_is_malformed(serve: Serve, connect: Connect, content: bytes) -> None:
    error = failure_of(lambda: ask(connect(serve(Reply(200, (content,))).url)))
    assert told_as(error) == (ErrorType.MALFORMED_RESPONSE, *LATER)


def test_half_a_surrogate_pair_in_one_field_does_not_spoil_the_answer(serve: Serve, connect: Connect) -> None:
    server = serve(Reply(200, (b'{"data": {"shop": {"name": "broken \\ud83d"}}}',)))
    assert ask(connect(server.url))["shop"]["name"] == "broken \ud83d"


def test_the_vendors_clock_comes_with_the_answer(shop: Shop, connect: Connect, clock: HandClock) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    assert client.execute(platform.SHOP, {}).vendor_time == clock.now()


@pytest.mark.parametrize(
    "address",
    [
        "harbor.myshopify.com",
        "ftp://harbor.myshopify.com",
        "http://",
        "http://[::1",
        "http://harbor.myshopify.com:port",
        f"http://{'a' * 64}.example",
    ],
)
def test_an_address_that_is_none_is_a_matter_of_configuration(connect: Connect, address: str) -> None:
    assert told_as(failure_of(lambda: ask(connect(address)))) == (ErrorType.CONFIGURATION, *PERSON)


def test_a_password_in_the_address_is_not_told(connect: Connect) -> None:
    error = failure_of(lambda: ask(connect(f"http://user:{TOKEN}@127.0.0.1:1")))
    assert error.message.startswith("127.0.0.1:1: ")


@pytest.mark.parametrize("token", ["shpat_line\n", "shpat_\N{HORIZONTAL ELLIPSIS}", "shpat_日本", ""])
def test_a_token_that_cannot_be_one_is_a_matter_of_credentials(
    serve: Serve, connect: Connect, token: str
) -> None:
    server = serve(Reply.of({"errors": "[API] Invalid API key or access token"}, 401))
    error = failure_of(lambda: ask(connect(server.url, StaticToken(token))))
    assert told_as(error) == (ErrorType.CREDENTIALS, *PERSON)


# Throttles


def test_a_429_is_waited_out_for_as_long_as_it_says(shop: Shop, connect: Connect, clock: HandClock) -> None:
    shop.faults.append(Fault("too_many_requests", times=2, seconds=7.5))
    assert ask(connect(shop.api_url, StaticToken(shop.token)))["shop"]["name"] == shop.name
    assert clock.slept == [7.5, 7.5]


def test_429s_are_waited_out_up_to_the_limit_of_one_call(
    shop: Shop, connect: Connect, clock: HandClock
) -> None:
    shop.faults.append(Fault("too_many_requests", seconds=40.0))
    client = connect(shop.api_url, StaticToken(shop.token), throttle_wait_seconds=100.0)
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.THROTTLED, Severity.LOW, True)
    assert error.details["retry_after_seconds"] == 40.0
    assert "40 s" in error.message
    assert clock.slept == [40.0, 40.0]


@pytest.mark.parametrize(
    "retry_after", [None, "soon", "0", "-5", "nan", "inf", "Wed, 18 Nov 2026 11:06:40 GMT"]
)
def test_a_429_that_does_not_say_for_how_long_is_given_up_in_the_end(
    serve: Serve, connect: Connect, clock: HandClock, retry_after: str | None
) -> None:
    refusals = 500

    def refuse(_: Asked) -> Reply:
        if len(server.asked) > refusals:
            raise AssertionError("it asks for ever")
        return Reply.of({}, 429, **({} if retry_after is None else {"Retry_After": retry_after}))

    server = serve(refuse)
    error = failure_of(lambda: ask(connect(server.url)))
    assert told_as(error) == (ErrorType.THROTTLED, Severity.LOW, True)
    if retry_after == "0":
        assert error.details["retry_after_seconds"] > 0
    else:
        assert "retry_after_seconds" not in error.details, "it is for us to back off, in the row as well"
        assert clock.slept[:4] == [1, 2, 4, 8]
    assert len(server.asked) < refusals
    assert sum(clock.slept) <= client.THROTTLE_WAIT_SECONDS


def test_a_throttle_is_waited_out_by_the_cost_it_needs(
    shop: Shop, connect: Connect, clock: HandClock
) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
    cost = shop.requests[-1].requested_cost
    # Somebody else empties the bucket, which this client cannot know of.
    shop.bucket.restore = 4.0
    shop.bucket.available = 1.0
    assert client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE).data["rows"]["nodes"]
    assert clock.slept == [pytest.approx((cost - 1) / 4)]
    assert len(shop.requests) == 3, "the first, the refused, the answered"


def test_a_throttle_that_lasts_too_long_gives_the_store_back(
    serve: Serve, connect: Connect, clock: HandClock
) -> None:
    server = serve(Reply.of(throttled(wanted=1000, available=0, restore=5)))
    error = failure_of(lambda: ask(connect(server.url, throttle_wait_seconds=120)))
    assert told_as(error) == (ErrorType.THROTTLED, Severity.LOW, True)
    assert error.details["retry_after_seconds"] == 200.0
    assert clock.slept == []


def test_throttles_that_follow_each_other_share_one_limit(
    serve: Serve, connect: Connect, clock: HandClock
) -> None:
    server = serve(Reply.of(throttled(wanted=500, available=0, restore=10)))
    error = failure_of(lambda: ask(connect(server.url, throttle_wait_seconds=120)))
    assert error.details["retry_after_seconds"] == 50.0
    assert clock.slept == [50.0, 50.0]


def test_a_throttle_without_its_cost_is_waited_out_a_second_at_a_time(
    serve: Serve, connect: Connect, clock: HandClock
) -> None:
    bare = throttled(1, 1)
    del bare["extensions"]
    server = serve(Reply.of(bare), Reply.of(bare), ANSWER)
    assert ask(connect(server.url)) == SHOP_DATA["data"]
    assert clock.slept == [1.0, 1.0]


def test_a_query_over_the_cost_limit_is_told_with_both_figures(
    serve: Serve, connect: Connect, documented: dict[str, Any]
) -> None:
    server = serve(Reply.of(documented["max_cost_exceeded"]["body"]))
    error = failure_of(lambda: ask(connect(server.url)))
    assert told_as(error) == (ErrorType.QUERY_TOO_COSTLY, *PERSON)
    assert (error.details["cost"], error.details["max_cost"]) == (2003, 1000)


def test_a_bucket_that_can_never_hold_the_query_makes_it_too_costly(
    shop: Shop, connect: Connect, clock: HandClock
) -> None:
    edit(shop, "set_budget", maximum=10, restore=10)
    client = connect(shop.api_url, StaticToken(shop.token))
    error = failure_of(lambda: client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE))
    assert told_as(error) == (ErrorType.QUERY_TOO_COSTLY, *PERSON)
    assert (error.details["cost"], error.details["max_cost"]) == (shop.requests[-1].requested_cost, 10)
    assert clock.slept == []


@pytest.mark.parametrize("restore", [1.0, 3.0, 7.0, 50.0])
def test_a_client_paces_itself_so_that_it_is_never_refused(
    shop: Shop, connect: Connect, clock: HandClock, restore: float
) -> None:
    edit(shop, "set_budget", maximum=90, restore=restore)
    client = connect(shop.api_url, StaticToken(shop.token))
    for _ in range(40):
        client.execute(platform.PRODUCTS, {"first": 100, "after": None, "query": None})
        client.execute(platform.PRODUCT_VARIANTS, {"first": 100, "after": None, "query": None})
        clock.seconds += 0.13
    assert len(shop.requests) == 80, "none was refused and asked again"
    assert len(clock.slept) > 10
    spent = sum(clock.slept) + 40 * 0.13
    # It waits for what the bucket needs, and hardly longer.
    used = 90 + spent * restore
    assert used == pytest.approx(90 + sum_of_actual_costs(shop), rel=0.25)


def sum_of_actual_costs(shop: Shop) -> float:
    """By the sandbox's price list: a connection is 2 + rows x cost of a row / 10; an object 1."""
    return sum(
        {"Products": 1 + 2 + -(-one.nodes // 10), "ProductVariants": 1 + 1 + 2 + -(-one.nodes * 3 // 10)}[
            one.operation
        ]
        for one in shop.requests
    )


def test_a_full_bucket_is_not_waited_for(shop: Shop, connect: Connect, clock: HandClock) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    for _ in range(10):
        client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
    assert clock.slept == []


def test_calls_with_a_reserve_leave_it_to_others_and_never_wait(
    shop: Shop, connect: Connect, clock: HandClock
) -> None:
    edit(shop, "set_budget", maximum=100, restore=1)
    client = connect(shop.api_url, StaticToken(shop.token), reserve=0.5)
    for _ in range(5):
        client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
        if shop.bucket.available < 50 + shop.requests[-1].requested_cost:
            break
    error = failure_of(lambda: client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE))
    assert error.error_type is ErrorType.THROTTLED
    assert shop.bucket.available >= 50
    assert all(request.status == 200 for request in shop.requests)
    clock.seconds += 100
    client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
    shop.faults.append(Fault("throttled"))
    assert failure_of(lambda: client.execute(platform.SHOP, {})).error_type is ErrorType.THROTTLED
    assert clock.slept == []


def test_what_a_call_by_ids_costs_is_known_from_one_with_fewer_ids(shop: Shop, connect: Connect) -> None:
    edit(shop, "set_budget", maximum=100, restore=1)
    client = connect(shop.api_url, StaticToken(shop.token), reserve=0.5)
    ids = [row["id"] for row in shop.export(["products"])["products"]] * 50
    client.execute(platform.PRODUCTS_BY_IDS, {"ids": ids[:1]})
    error = failure_of(lambda: client.execute(platform.PRODUCTS_BY_IDS, {"ids": ids[:50]}))
    assert error.error_type is ErrorType.THROTTLED
    assert len(shop.requests) == 1
    client.execute(platform.PRODUCTS_BY_IDS, {"ids": ids[:2]})
    assert shop.bucket.available >= 50


class StoppedError(Exception):
    """What a run's sleep raises when the run is told to stop."""


@pytest.mark.parametrize("kind", ["too_many_requests", "throttled"])
def test_a_sleep_that_raises_ends_the_call_at_once(shop: Shop, connect: Connect, kind: str) -> None:
    def stop(_: float) -> None:
        raise StoppedError

    shop.faults.append(Fault(kind))
    client = connect(shop.api_url, StaticToken(shop.token), sleep=stop)
    with pytest.raises(StoppedError):
        ask(client)
    assert len(shop.requests) == 1


def test_a_stop_while_pacing_ends_the_call_before_it_is_sent(shop: Shop, connect: Connect) -> None:
    def stop(_: float) -> None:
        raise StoppedError

    edit(shop, "set_budget", maximum=16, restore=1)
    client = connect(shop.api_url, StaticToken(shop.token), sleep=stop)
    client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
    with pytest.raises(StoppedError):
        client.execute(platform.PRODUCTS, PRODUCTS_OF_A_PAGE)
    assert len(shop.requests) == 1


# Tokens


def app_of(shop: Shop, **changes: Any) -> ClientCredentials:
    return ClientCredentials(shop.access.client_id, shop.access.client_secret)._replace(**changes)


def operations(shop: Shop) -> list[str]:
    return [request.operation for request in shop.requests]


def test_an_app_gets_its_token_with_the_first_call_and_keeps_it(
    shop: Shop, connect: Connect, clock: HandClock
) -> None:
    kept: list[ClientCredentials] = []
    client = connect(shop.api_url, app_of(shop), on_token=kept.append)
    ask(client)
    ask(client)
    assert operations(shop) == ["access_token", "Shop", "Shop"]
    (renewed,) = kept
    assert shop.access.allows(renewed.access_token)
    assert renewed == app_of(
        shop, access_token=renewed.access_token, expires_at=clock.now() + timedelta(seconds=86399)
    )


@pytest.mark.parametrize(("minutes", "renews"), [(29, True), (31, False)])
def test_a_token_is_renewed_before_it_expires(
    shop: Shop, connect: Connect, clock: HandClock, minutes: int, renews: bool
) -> None:
    kept: list[ClientCredentials] = []
    ask(connect(shop.api_url, app_of(shop), on_token=kept.append))
    client = connect(shop.api_url, kept[-1], on_token=kept.append)
    assert kept[-1].expires_at is not None
    clock.seconds = kept[-1].expires_at.timestamp() - minutes * 60
    shop.requests.clear()
    ask(client)
    assert operations(shop) == (["access_token", "Shop"] if renews else ["Shop"])
    assert len(kept) == 1 + renews


def test_a_token_that_was_revoked_is_renewed_once_and_the_call_goes_on(shop: Shop, connect: Connect) -> None:
    kept: list[ClientCredentials] = []
    client = connect(shop.api_url, app_of(shop), on_token=kept.append)
    ask(client)
    edit(shop, "expire_tokens")
    assert ask(client)["shop"]["name"] == shop.name
    assert operations(shop) == ["access_token", "Shop", "Shop", "access_token", "Shop"]
    assert len(kept) == 2
    assert kept[0].access_token != kept[1].access_token


def test_a_second_401_is_the_truth(shop: Shop, connect: Connect) -> None:
    shop.faults.append(Fault("unauthorized"))
    error = failure_of(lambda: ask(connect(shop.api_url, app_of(shop))))
    assert told_as(error) == (ErrorType.CREDENTIALS, *PERSON)
    assert operations(shop) == ["access_token", "Shop", "access_token", "Shop"]


def test_a_lasting_token_is_never_renewed(shop: Shop, connect: Connect) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    edit(shop, "set_token", token="sandbox-token-another")
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.CREDENTIALS, *PERSON)
    assert len(shop.requests) == 1


@pytest.mark.parametrize("wrong", [{"client_secret": SECRET}, {"client_id": "another"}])
def test_a_wrong_secret_is_a_matter_of_credentials(
    shop: Shop, connect: Connect, wrong: dict[str, str]
) -> None:
    kept: list[ClientCredentials] = []
    client = connect(shop.api_url, app_of(shop, **wrong), on_token=kept.append)
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.CREDENTIALS, *PERSON)
    assert "client id and secret" in error.message
    assert operations(shop) == ["access_token"]
    assert kept == []


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        ("not_found", ErrorType.SHOP_GONE),
        ("server_error", ErrorType.SERVER_ERROR),
        ("too_many_requests", ErrorType.THROTTLED),
        ("html", ErrorType.MALFORMED_RESPONSE),
        ("half_json", ErrorType.MALFORMED_RESPONSE),
        ("cut", ErrorType.CONNECTION),
    ],
)
def test_a_failure_of_the_token_endpoint_is_told_for_what_it_is(
    shop: Shop, connect: Connect, kind: str, error_type: ErrorType
) -> None:
    shop.faults.append(Fault(kind, operation="access_token", seconds=300))
    error = failure_of(lambda: ask(connect(shop.api_url, app_of(shop))))
    assert error.error_type is error_type
    assert operations(shop) == ["access_token"]


def test_a_429_of_the_token_endpoint_is_waited_out(shop: Shop, connect: Connect, clock: HandClock) -> None:
    shop.faults.append(Fault("too_many_requests", operation="access_token", seconds=3.0, times=1))
    assert ask(connect(shop.api_url, app_of(shop)))["shop"]["name"] == shop.name
    assert clock.slept == [3.0]


@pytest.mark.parametrize(
    "grant",
    [
        b"{}",
        b'{"access_token": null, "expires_in": 86399}',
        b'{"access_token": "", "expires_in": 86399}',
        b'{"access_token": 17, "expires_in": 86399}',
        b'{"access_token": "shpat_x"}',
        b'{"access_token": "shpat_x", "expires_in": "soon"}',
        b'{"access_token": "shpat_x", "expires_in": 1e300}',
        b'{"access_token": "shpat_x", "expires_in": 1e12}',
        b'{"access_token": "shpat_x", "expires_in": NaN}',
    ],
)
def test_a_grant_without_a_token_and_its_lifetime_is_malformed(
    serve: Serve, connect: Connect, grant: bytes
) -> None:
    kept: list[ClientCredentials] = []
    server = serve(Reply(200, (grant,)), ANSWER)
    client = connect(server.url, ClientCredentials("id", SECRET), on_token=kept.append)
    error = failure_of(lambda: ask(client))
    assert told_as(error) == (ErrorType.MALFORMED_RESPONSE, *LATER)
    assert kept == []


def test_the_secret_goes_to_the_token_endpoint_alone_and_the_token_to_the_api(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Reply.of({"access_token": TOKEN, "expires_in": 86399}), ANSWER)
    ask(connect(f"{server.url}/", ClientCredentials("id", SECRET)))
    grant, call = server.asked
    assert grant == Asked(
        "/admin/oauth/access_token",
        None,
        {"client_id": "id", "client_secret": SECRET, "grant_type": "client_credentials"},
    )
    assert (call.path, call.token) == ("/admin/api/2026-07/graphql.json", TOKEN)
    assert SECRET not in json.dumps(call.body)


@pytest.mark.parametrize("credentials", [StaticToken(TOKEN), ClientCredentials("id", SECRET, TOKEN)])
def test_credentials_do_not_show_when_they_are_printed(credentials: Any) -> None:
    for text in (repr(credentials), str(credentials), f"{credentials}"):
        assert TOKEN not in text
        assert SECRET not in text


# Stores


def access_to(shop: Shop, credentials: dict[str, Any], **changes: Any) -> StoreAccess:
    values = {"name": "harbor", "platform": "shopify", "domain": shop.domain, "api_url": shop.api_url}
    return StoreAccess(**{**values, **changes}, credentials=credentials)


def test_a_stores_renewed_credentials_are_kept_and_read_again(shop: Shop) -> None:
    saved: list[Any] = []
    stored = {"client_id": shop.access.client_id, "client_secret": shop.access.client_secret}
    first = connect_store(
        access_to(shop, stored, save_credentials=saved.append), api_version="2026-07", sleep=time.sleep
    )
    # A token of today's: these stores go by the real time of day.
    assert first.profile().shop_name == shop.name
    first.close()
    (renewed,) = (json.loads(json.dumps(one)) for one in saved)
    second = connect_store(access_to(shop, renewed), api_version="2026-07", sleep=time.sleep)
    second.profile()
    second.close()
    assert operations(shop) == ["access_token", "Shop", "Shop"]


def test_a_store_without_an_api_url_is_at_its_domain(shop: Shop) -> None:
    assert access_to(shop, {}, api_url=None).base_url == f"https://{shop.domain}"
    assert access_to(shop, {}).base_url == shop.api_url


def test_a_stores_credentials_do_not_show_when_it_is_printed(shop: Shop) -> None:
    assert TOKEN not in repr(access_to(shop, {"access_token": TOKEN}))


def test_a_platform_that_does_not_exist_is_answered_with_those_that_do(shop: Shop) -> None:
    store = access_to(shop, {"access_token": TOKEN}, platform="shopfiy")
    error = failure_of(lambda: connect_store(store, api_version="2026-07", sleep=time.sleep))
    assert (error.error_type, error.recoverable) == (ErrorType.CONFIGURATION, False)
    assert "'shopfiy'; there are: shopify" in error.message


@pytest.mark.parametrize("stored", [{}, {"client_secret": SECRET}])
def test_a_store_whose_credentials_lack_a_part_is_told_so(shop: Shop, stored: dict[str, Any]) -> None:
    error = failure_of(
        lambda: connect_store(access_to(shop, stored), api_version="2026-07", sleep=time.sleep)
    )
    assert (error.error_type, error.recoverable) == (ErrorType.CREDENTIALS, False)
