"""What can go wrong with Square, told for what it is, and what keeps a store from being synced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.checks import find_faults
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.operations.stores_csv import read_csv
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.platforms.square.client import SquareClient
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Fault, Merchant, edit
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import Connect, as_store, read
from bg_pipelines_tests.support import KEY, HandClock

Serve = Callable[..., ScriptedServer]
SCOPES = (
    "ITEMS_READ",
    "INVENTORY_READ",
    "INVENTORY_WRITE",
    "CUSTOMERS_READ",
    "CUSTOMERS_WRITE",
    "ORDERS_READ",
)


@pytest.mark.parametrize(
    ("fault", "error_type", "recoverable"),
    [
        (Fault("unauthorized"), ErrorType.CREDENTIALS, False),
        (Fault("unauthorized", value="ACCESS_TOKEN_REVOKED"), ErrorType.CREDENTIALS, False),
        (Fault("forbidden"), ErrorType.SCOPES, False),
        (Fault("forbidden", value="INSUFFICIENT_SCOPES"), ErrorType.SCOPES, False),
        (Fault("not_found"), ErrorType.QUERY_REJECTED, False),
        (Fault("too_many_requests"), ErrorType.THROTTLED, True),
        (Fault("server_error"), ErrorType.SERVER_ERROR, True),
        (Fault("bad_gateway"), ErrorType.SERVER_ERROR, True),
        (Fault("service_unavailable"), ErrorType.SERVER_ERROR, True),
        (Fault("html"), ErrorType.MALFORMED_RESPONSE, True),
        (Fault("half_json"), ErrorType.MALFORMED_RESPONSE, True),
        (Fault("half_page"), ErrorType.CONNECTION, True),
        (Fault("cut"), ErrorType.CONNECTION, True),
    ],
    ids=lambda value: f"{value.kind}-{value.value}" if isinstance(value, Fault) else "",
)
def test_a_failure_is_told_for_what_it_is_and_asked_once(
    merchant: Merchant, connect: Connect, fault: Fault, error_type: ErrorType, recoverable: bool
) -> None:
    merchant.faults.append(fault)
    failure = failure_of(connect(merchant, throttle_wait_seconds=0).profile)
    assert (failure.error_type, failure.recoverable, failure.source) == (error_type, recoverable, "square")
    assert len(merchant.requests) == 1
    if isinstance(fault.value, str):
        assert fault.value in failure.message


@pytest.mark.parametrize("code", ["ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_REVOKED", "UNAUTHORIZED"])
def test_a_token_that_is_good_no_more_is_a_matter_of_credentials(
    merchant: Merchant, connect: Connect, code: str
) -> None:
    edit(merchant, "expire_tokens", code=code)
    failure = failure_of(connect(merchant).profile)
    assert (failure.error_type, failure.details["code"]) == (ErrorType.CREDENTIALS, code)


@pytest.mark.parametrize("token", ["", "EAAA\nx", "EAAA\u2026"])
def test_a_token_that_cannot_be_one_is_told_before_it_is_sent(token: str) -> None:
    assert failure_of(lambda: SquareClient(token)).error_type is ErrorType.CREDENTIALS


def test_an_answer_that_does_not_come_is_a_timeout(merchant: Merchant, connect: Connect) -> None:
    merchant.faults.append(Fault("slow", seconds=2, times=1))
    failure = failure_of(connect(merchant, timeouts=Timeouts(1.0, 0.2, 10.0)).profile)
    assert (failure.error_type, "0.2 s" in failure.message) == (ErrorType.TIMEOUT, True)


def test_an_answer_that_drips_past_the_deadline_is_a_timeout(serve: Serve, connect: Connect) -> None:
    clock = HandClock()

    def tick() -> float:
        clock.seconds += 4
        return clock.seconds

    server = serve(Reply(pieces=(b"{", b'"location"', b": ", b"{}", b"}"), pause_seconds=0.02))
    platform = connect(token="EAAA", base_url=server.url, clock=tick, timeouts=Timeouts(2.0, 5.0, 10.0))
    failure = failure_of(platform.profile)
    assert (failure.error_type, "10 s" in failure.message) == (ErrorType.TIMEOUT, True)


def test_an_answer_without_end_is_malformed(serve: Serve, connect: Connect) -> None:
    server = serve(Reply.of({"location": "x" * 200}))
    platform = connect(token="EAAA", base_url=server.url, max_bytes=100)
    assert failure_of(platform.profile).error_type is ErrorType.MALFORMED_RESPONSE


def test_a_refused_port_names_the_address_and_no_more(connect: Connect) -> None:
    failure = failure_of(connect(token="EAAA", base_url="http://user:EAAA@127.0.0.1:9").profile)
    assert failure.error_type is ErrorType.CONNECTION
    assert failure.message.startswith("127.0.0.1:9: ")


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:port", "nothing"])
def test_an_address_that_is_none_is_a_matter_of_configuration(connect: Connect, address: str) -> None:
    failure = failure_of(connect(token="EAAA", base_url=address).profile)
    assert failure.error_type is ErrorType.CONFIGURATION


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7.0), ("0", 1.0), ("soon", None), ("nan", None), ("1e9", 3600.0), ("-5", None)],
)
def test_a_retry_after_is_heeded_where_one_comes(
    serve: Serve, connect: Connect, retry_after: str, seconds: float | None
) -> None:
    server = serve(Reply(429, headers={"Retry-After": retry_after}))
    failure = failure_of(connect(token="EAAA", base_url=server.url, throttle_wait_seconds=0).profile)
    assert failure.details.get("retry_after_seconds") == seconds


def test_a_retry_after_may_be_a_time(serve: Serve, connect: Connect, clock: HandClock) -> None:
    then = format_datetime(datetime.fromtimestamp(datetime.now(UTC).timestamp() + 30, UTC), usegmt=True)
    merchant = {"merchant": {"id": "M", "currency": "USD", "created_at": "x"}}
    place = {"location": {"name": "n", "timezone": "UTC"}}
    server = serve(Reply(429, headers={"Retry-After": then}), Reply.of({**merchant, **place}))
    connect(token="EAAA", base_url=server.url).profile()
    [slept] = clock.slept
    assert 25 < slept <= 30


@pytest.mark.parametrize(
    ("reply", "error_type"),
    [
        (Reply(301, headers={"Location": "https://elsewhere.example"}), ErrorType.CONFIGURATION),
        (Reply(408), ErrorType.TIMEOUT),
        (Reply.of([]), ErrorType.MALFORMED_RESPONSE),
        (Reply.of({"errors": [{"code": "INTERNAL_SERVER_ERROR"}]}), ErrorType.SERVER_ERROR),
        (Reply.of({"errors": [{"code": "BAD_REQUEST"}]}), ErrorType.QUERY_REJECTED),
        (Reply.of({"errors": "none"}, 400), ErrorType.QUERY_REJECTED),
        *((Reply(status), ErrorType.REFUSED) for status in (404, 409, 410, 421, 425, 430, 451, 499)),
        (Reply.of({"errors": [{"code": "RATE_LIMITED"}]}, 400), ErrorType.THROTTLED),
        (Reply(200, (b"\x1f\x8bnonsense",), {"Content-Encoding": "gzip"}), ErrorType.MALFORMED_RESPONSE),
        (Reply.of({"location": "here"}), ErrorType.MALFORMED_RESPONSE),
    ],
)
def test_other_answers_are_told_by_what_they_mean(
    serve: Serve, connect: Connect, reply: Reply, error_type: ErrorType
) -> None:
    platform = connect(token="EAAA", base_url=serve(reply).url, throttle_wait_seconds=0)
    assert failure_of(platform.profile).error_type is error_type


def test_what_an_error_quotes_is_not_repeated(serve: Serve, connect: Connect) -> None:
    quoted = {"code": "jo@example.com said no", "detail": "`jo@example.com` is none", "field": "a b"}
    platform = connect(token="EAAA", base_url=serve(Reply.of({"errors": [quoted]}, 400)).url)
    failure = failure_of(platform.profile)
    assert "example.com" not in str(failure.as_dict())


def test_half_a_surrogate_pair_in_one_field_does_not_spoil_the_answer(serve: Serve, connect: Connect) -> None:
    body = b'{"locations": [{"id": "L", "name": "\\ud83d", "status": "ACTIVE", "created_at": "2026-01-01T00:00:00Z"}]}'
    [page] = read(connect(token="EAAA", base_url=serve(Reply(200, (body,))).url), Resource.LOCATIONS)
    assert page.records[0].external_id == "L"


# What keeps a store from being synced


def test_a_store_that_can_be_synced_has_no_faults_and_is_not_changed(
    merchant: Merchant, connect: Connect
) -> None:
    before = merchant.export()
    assert connect(merchant).faults() == []
    assert (merchant.export(), merchant.applied) == (before, 0)


@pytest.mark.parametrize("missing", SCOPES)
def test_each_missing_permission_is_named(merchant: Merchant, connect: Connect, missing: str) -> None:
    scopes = ["MERCHANT_PROFILE_READ", *SCOPES]
    edit(merchant, "set_scopes", scopes=[scope for scope in scopes if scope != missing])
    try:
        [fault] = connect(merchant).faults()
        assert f"permission {missing}:" in fault
        edit(merchant, "set_scopes", scopes=list(SCOPES))
        [fault] = connect(merchant).faults()
        assert "permission MERCHANT_PROFILE_READ:" in fault
    finally:
        edit(merchant, "set_scopes", scopes=scopes)


def test_a_void_token_is_one_fault(merchant: Merchant, connect: Connect) -> None:
    edit(merchant, "expire_tokens")
    [fault] = connect(merchant).faults()
    assert "ACCESS_TOKEN_EXPIRED" in fault


# As a store


def test_square_stores_are_added_from_csv_checked_and_told_what_they_lack(
    merchants: list[Merchant],
    database: Database,
    database_url: str,
    cipher: Cipher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [f"{m.name},square,{m.id},{m.token},{m.api_url}" for m in merchants]
    path = tmp_path / "stores.csv"
    path.write_text("\n".join(["name,platform,domain,token,api_url", *lines]))
    assert save_stores(database, cipher, read_csv(path)).added == len(merchants)
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("BG_ALERT_URLS", "json://127.0.0.1:9/x")
    assert find_faults() == []
    edit(merchants[0], "expire_tokens")
    [fault] = find_faults()
    assert fault.startswith(f"store {merchants[0].name}: Square does not accept the access token")


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"domain": "harbor street"}, "domain"),
        ({"domain": ""}, "domain"),
        ({"domain": "https://harbor"}, "domain"),
        ({"token": None, "client_id": "id", "client_secret": "secret"}, "token"),
        ({"token": None}, "token"),
    ],
)
def test_a_square_store_needs_a_name_as_its_domain_and_a_token(
    merchant: Merchant, database: Database, cipher: Cipher, changes: dict[str, str], column: str
) -> None:
    with pytest.raises(IntegrationError, match=f"{column}: "):
        save_stores(database, cipher, [as_store(merchant, **changes)])


def test_without_an_address_it_is_squares_own() -> None:
    client = SquareClient("EAAA")
    assert client.base_url == "https://connect.squareup.com"
    client.close()


def test_threads_that_share_a_client_get_their_own_answers(merchant: Merchant, connect: Connect) -> None:
    client = connect(merchant)._client
    calls = {
        "customers": partial(client.post, "customers/search"),
        "locations": partial(client.get, "locations"),
    }

    def answered(name: str) -> set[str]:
        return {name if name in calls[name]().data else "another" for _ in range(60)}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(answered, calls)) == [{name} for name in calls]
    finally:
        sys.setswitchinterval(interval)
