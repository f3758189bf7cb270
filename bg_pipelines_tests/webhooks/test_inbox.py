"""The inbox's writer: what shares a commit, what a bad value costs, and what happens while the database is away."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.link import Link
from bg_pipelines.database.sqlstates import is_expected, is_outage
from bg_pipelines.errors import IntegrationError
from bg_pipelines.webhooks.deliveries import Delivery, NotUnderstoodError
from bg_pipelines.webhooks.inbox import ROWS_WAITING, Inbox, UnavailableError
from bg_pipelines.webhooks.receiver import ANSWER_SECONDS
from bg_pipelines_tests.database.road import Road
from bg_pipelines_tests.support import PATIENCE
from bg_pipelines_tests.webhooks.conftest import (
    PRODUCT,
    Inside,
    Vendors,
    receiving,
    settings,
    shopify_headers,
)

SOON = 10.0
"""Seconds within which an answer of four comes on a machine that has much else to do."""

Insert = tuple[int, int, float, int]


def delivery(number: int, **changes: Any) -> Delivery:
    values = {
        "resource": "products",
        "object_id": f"gid://shopify/Product/{number}",
        "source_updated_at": datetime(2026, 11, 23, tzinfo=UTC),
    }
    return Delivery(1, "shopify", "products/update", f"w{number:04}", **{**values, **changes})


def with_inbox(
    database: Database, work: Callable[[Inbox, list[Insert]], Coroutine[Any, Any, None]], seconds: float = 60
) -> None:
    """Run `work` with an inbox and the list of its statements."""

    async def run() -> None:
        inserts: list[Insert] = []
        inbox = Inbox(
            Link(database.parameters, seconds=seconds), on_insert=lambda *insert: inserts.append(insert)
        )
        inbox.start()
        try:
            await work(inbox, inserts)
        finally:
            await inbox.close()

    asyncio.run(run())


def test_what_arrives_during_a_statement_shares_the_next(own_database: Database, inside: Inside) -> None:
    async def work(inbox: Inbox, inserts: list[Insert]) -> None:
        tasks = [asyncio.create_task(inbox.store([delivery(0)]))]
        await asyncio.sleep(0)
        while inbox.rows_waiting:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(inbox.store([delivery(n)])) for n in range(1, 51)]
        await asyncio.gather(*tasks)
        assert [(rows, new, waiting) for rows, new, _, waiting in inserts] == [(1, 1, 50), (50, 50, 0)]

    with_inbox(own_database, work)
    assert [row["webhook_id"] for row in inside.rows()] == [f"w{n:04}" for n in range(51)]


def test_one_bad_value_keeps_no_other_out(own_database: Database, inside: Inside) -> None:
    async def work(inbox: Inbox, inserts: list[Insert]) -> None:
        bad = {7: {"object_id": "\0"}, 13: {"object_id": random.Random(7).randbytes(5000).hex()}}
        outcomes = await asyncio.gather(
            *(inbox.store([delivery(n, **bad.get(n, {}))]) for n in range(20)), return_exceptions=True
        )
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, NotUnderstoodError)] == [7, 13]

    with_inbox(own_database, work)
    assert inside.count() == 18


def test_the_same_deliveries_through_several_writers_at_once_are_stored_once(
    own_database: Database, inside: Inside
) -> None:
    async def work(first: Inbox, inserts: list[Insert]) -> None:
        second = Inbox(Link(own_database.parameters, seconds=60))
        second.start()
        for start in range(0, 400, 100):
            numbers = range(start, start + 100)
            forth = (first.store([delivery(n)]) for n in numbers)
            back = (second.store([delivery(n) for n in reversed(numbers)]) for _ in range(3))
            await asyncio.gather(*forth, *back)
        await second.close()

    with_inbox(own_database, work)
    assert inside.count() == 400


def test_a_queue_that_is_full_takes_no_more(own_database: Database, inside: Inside) -> None:
    async def work(inbox: Inbox, inserts: list[Insert]) -> None:
        many = asyncio.create_task(inbox.store([delivery(n) for n in range(ROWS_WAITING + 1)]))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await inbox.store([delivery(0)])
        await many
        await inbox.store([delivery(0)])

    with_inbox(own_database, work)
    assert inside.count() == ROWS_WAITING + 1


def test_whoever_waits_when_it_is_closed_is_told_that_nothing_was_stored(own_database: Database) -> None:
    async def work(inbox: Inbox, inserts: list[Insert]) -> None:
        waiting = asyncio.create_task(inbox.store([delivery(1)]))
        await asyncio.sleep(0)
        await inbox.close()
        with pytest.raises(UnavailableError):
            await waiting

    with_inbox(own_database, work)


def test_a_statement_that_waits_for_a_lock_ends_in_time_and_the_next_one_works(
    own_database: Database, inside: Inside
) -> None:
    async def work() -> None:
        link = Link(own_database.parameters, seconds=0.3)
        count = "SELECT count(*) FROM webhook_events"
        with own_database.transaction() as connection:
            connection.execute("LOCK webhook_events")
            with pytest.raises(IntegrationError) as raised:
                await link.execute(count)
        assert is_expected(raised.value) or is_outage(raised.value)
        assert (await link.execute(count)).rows == [(0,)]
        await link.close()

    asyncio.run(work())


# With a receiver


@pytest.fixture
def road(url: str, inside: Inside) -> Iterator[Road]:
    road = Road(url)
    yield road
    road.cut()


@pytest.fixture
def vendors(road: Road) -> Iterator[Vendors]:
    with receiving(settings(road.url)) as vendors:
        assert vendors.shopify().status_code == 200
        yield vendors


def terminate(database: Database) -> None:
    """End the receiver's connections, as a restarted server would."""
    with database.transaction() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'bg-pipelines'"
        )


def is_refused(vendors: Vendors, **changes: Any) -> bool:
    began = time.monotonic()
    answer = vendors.shopify(**changes)
    assert time.monotonic() - began < SOON
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def test_a_hundred_of_the_same_at_once_are_one_row(vendors: Vendors, inside: Inside) -> None:
    inside.clear()
    headers = {
        **shopify_headers(PRODUCT, "products/update", webhook_id="same"),
        "Content-Length": len(PRODUCT),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /webhooks/shopify HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + PRODUCT
    connections = [
        socket.create_connection(("127.0.0.1", vendors.port), timeout=PATIENCE) for _ in range(100)
    ]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        with connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert inside.count() == 1


def test_a_connection_that_was_lost_meanwhile_costs_no_delivery(
    vendors: Vendors, inside: Inside, own_database: Database
) -> None:
    terminate(own_database)
    assert vendors.shopify().status_code == 200
    assert inside.count() == 2


def test_while_the_database_is_away_deliveries_are_refused_for_later_and_then_taken_again(
    vendors: Vendors, inside: Inside, road: Road
) -> None:
    road.cut()
    for _ in range(3):
        assert is_refused(vendors)
    assert is_refused(vendors, shop="nobody.myshopify.com")
    assert is_refused(vendors, body=b"[]"), "or its reason would be lost"
    assert vendors.get("/healthz").status_code == 503
    assert 'outcome="unavailable"' in vendors.get("/metrics").text
    assert inside.count() == 1
    road.open()
    assert vendors.shopify().status_code == 200
    assert vendors.get("/healthz").status_code == 200
    assert inside.count() == 2


def test_a_database_that_does_not_answer_holds_no_sender_longer_than_it_would_wait(
    vendors: Vendors, inside: Inside, road: Road
) -> None:
    assert ANSWER_SECONDS < 5
    road.block()
    assert is_refused(vendors)
    road.unblock()
    assert vendors.shopify().status_code == 200


def test_a_database_that_takes_no_writes_is_not_well(
    vendors: Vendors, own_database: Database, inside: Inside
) -> None:
    def set_read_only(value: str) -> None:
        with own_database.transaction() as connection:
            connection.execute(
                f"ALTER DATABASE {own_database.engine.url.database} SET default_transaction_read_only = {value}"
            )
        terminate(own_database)

    set_read_only("on")
    try:
        assert is_refused(vendors)
        assert vendors.get("/healthz").status_code == 503
    finally:
        with psycopg.connect(
            own_database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            options="-c default_transaction_read_only=off",
        ) as connection:
            connection.execute(
                f"ALTER DATABASE {own_database.engine.url.database} RESET default_transaction_read_only"
            )
        terminate(own_database)
    assert vendors.shopify().status_code == 200
