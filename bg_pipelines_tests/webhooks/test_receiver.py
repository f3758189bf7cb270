"""What comes in from Shopify, Square, Twilio and anybody else, and what is answered and kept of it."""

from __future__ import annotations

import json
import select
import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.daemon_figures import read_daemon
from bg_pipelines.operations.prometheus import read_prometheus
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.webhooks.receiver import BODIES_BYTES, KEPT_AN_HOUR, LARGEST_BODY_BYTES
from bg_pipelines.webhooks.topics import TOPICS, Kind
from bg_pipelines_tests.support import KEY, PATIENCE, query
from bg_pipelines_tests.webhooks.conftest import (
    HARBOR,
    MERCHANT,
    OLD_SECRET,
    OWN_SECRET,
    PIER,
    PRODUCT,
    SECRET,
    Inside,
    Vendors,
    receiving,
    settings,
    shopify_headers,
)

SAMPLES: dict[str, Any] = json.loads((Path(__file__).parent / "shopify_samples.json").read_text())["payloads"]
COMMANDS = [topic.name for topic in TOPICS["shopify"].values() if topic.kind is Kind.COMMAND]
CART = {
    "id": "c1-77",
    "token": "c1-77",
    "updated_at": "2026-11-23T12:00:00+00:00",
    "line_items": [{"id": 1, "quantity": 2}],
    "note": "Ö\0",
}


def body_of(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def sample(topic: str, shop: str = HARBOR) -> dict[str, Any]:
    """Shopify's sample of a topic. What stands in it for the shop's name is the shop's name."""
    payload = dict(SAMPLES[topic])
    for name in ("shop_domain", "myshopify_domain"):
        if name in payload:
            payload[name] = shop
    return payload


# Signatures and shops


def test_a_delivery_is_stored_as_a_hint_without_its_payload(vendors: Vendors, inside: Inside) -> None:
    answer = vendors.shopify(webhook_id="w1")
    assert (answer.status_code, answer.content) == (200, b"")
    row = inside.row()
    assert row["received_at"].tzinfo is not None
    assert row["next_due_at"] is not None
    assert {
        name: row[name]
        for name in (
            *("source", "topic", "webhook_id", "event_id", "resource", "object_id", "source_updated_at"),
            *("triggered_at", "payload", "status", "reason", "domain"),
        )
    } == {
        "source": "shopify",
        "topic": "products/update",
        "webhook_id": "w1",
        "event_id": "event-1",
        "resource": "products",
        "object_id": "gid://shopify/Product/632910392",
        "source_updated_at": datetime(2026, 11, 23, 11, tzinfo=UTC),
        "triggered_at": datetime(2026, 11, 23, 11, 0, 1, 123456, tzinfo=UTC),
        "payload": None,
        "status": "pending",
        "reason": None,
        "domain": HARBOR,
    }


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_any_current_secret_will_do_also_in_the_spelling_of_events(
    vendors: Vendors, inside: Inside, secret: str
) -> None:
    assert vendors.shopify(secret=secret).status_code == 200
    event = {
        "topic": "Product",
        "action": "update",
        "handle": "ours",
        "data": {"product": {"id": "gid://shopify/Product/7", "updatedAt": "2026-11-23T12:00:00Z"}},
        "fields_changed": {"added": [], "updated": ["product[id: 'gid://shopify/Product/7'].title"]},
        "query_variables": {"productId": "gid://shopify/Product/7"},
    }
    assert vendors.event(body_of(event), secret=secret).status_code == 200
    _, row = inside.rows()
    assert (row["topic"], row["object_id"]) == ("products/update", "gid://shopify/Product/7")
    assert row["source_updated_at"] == datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize("topic", ["products/update", *COMMANDS])
@pytest.mark.parametrize("wrong", ["secret", "nothing"])
def test_a_wrong_signature_is_401_and_nothing_is_kept(
    vendors: Vendors, inside: Inside, topic: str, wrong: str
) -> None:
    changes: dict[str, Any] = {"secret": "wrong"} if wrong == "secret" else {"X-Shopify-Hmac-Sha256": ""}
    assert vendors.shopify(body_of(sample(topic)), topic, **changes).status_code == 401
    assert inside.count() == 0


def test_a_stores_own_secret_signs_for_it_and_for_no_other(vendors: Vendors, inside: Inside) -> None:
    assert vendors.shopify(shop=PIER, secret=OWN_SECRET).status_code == 200
    assert vendors.shopify(shop=HARBOR, secret=OWN_SECRET).status_code == 401
    assert vendors.shopify(shop="nobody.myshopify.com", secret=OWN_SECRET).status_code == 401
    assert vendors.shopify(shop=PIER, secret=SECRET).status_code == 200
    assert [row["domain"] for row in inside.rows()] == [PIER, PIER]


def test_a_shop_or_topic_that_is_not_known_is_400_and_kept_with_its_reason(
    vendors: Vendors, inside: Inside
) -> None:
    assert vendors.shopify(shop="nobody.myshopify.com", webhook_id="w1").status_code == 400
    assert vendors.shopify(topic="themes/publish", webhook_id="w2").status_code == 400
    nobody, theme = inside.rows()
    assert (nobody["status"], nobody["store_id"], nobody["next_due_at"]) == ("not_understood", None, None)
    assert nobody["reason"] == "its shop is no store of ours"
    assert nobody["payload"] == PRODUCT.decode()
    assert (theme["topic"], theme["domain"]) == ("themes/publish", HARBOR)
    assert theme["reason"] == "its topic is not one that is subscribed to"


def test_what_was_not_understood_is_stored_once_it_is(vendors: Vendors, inside: Inside) -> None:
    assert vendors.shopify(b"[]", webhook_id="w1").status_code == 400
    assert vendors.shopify(webhook_id="w1").status_code == 200
    assert [row["status"] for row in inside.rows()] == ["not_understood", "pending"]


def test_a_new_store_is_known_within_a_second_and_names_that_are_not_cost_one_query_a_second(
    own_database: Database, inside: Inside, url: str
) -> None:
    now = [0.0]
    with receiving(settings(url), clock=lambda: now[0]) as vendors:
        assert vendors.shopify(shop="mole.myshopify.com").status_code == 400
        save_stores(own_database, Cipher(KEY), [NewStore("mole", "shopify", "mole.myshopify.com", token="t")])
        assert vendors.shopify(shop="mole.myshopify.com").status_code == 400, "within the same second"
        now[0] += 1
        assert vendors.shopify(shop="mole.myshopify.com").status_code == 200


# What a body says


@pytest.mark.parametrize("topic", TOPICS["shopify"])
def test_every_sample_of_shopifys_is_understood(vendors: Vendors, inside: Inside, topic: str) -> None:
    payload = sample(topic)
    assert vendors.shopify(body_of(payload), topic).status_code == 200
    row = inside.row()
    declared = TOPICS["shopify"][topic]
    assert (row["status"], row["resource"]) == ("pending", declared.table)
    assert (row["object_id"] is None) == (declared.kind is Kind.COMMAND)
    assert row["payload"] == (payload if declared.kind in (Kind.DOCUMENT, Kind.COMMAND) else None)


def test_a_documents_payload_is_kept_encrypted(
    vendors: Vendors, inside: Inside, own_database: Database
) -> None:
    assert vendors.shopify(body_of(CART), "carts/update").status_code == 200
    row = inside.row()
    assert (row["resource"], row["object_id"], row["payload"]) == ("carts", "c1-77", CART)
    with own_database.transaction() as connection:
        [(held,)] = connection.execute("SELECT payload FROM webhook_events").fetchall()
    assert b"c1-77" not in held


def test_a_checkout_that_no_cart_went_into_is_nothing_to_store(vendors: Vendors, inside: Inside) -> None:
    payload = {**sample("checkouts/create"), "cart_token": None}
    assert vendors.shopify(body_of(payload), "checkouts/create").status_code == 200
    assert inside.count() == 0


@pytest.mark.parametrize("topic", ["app/uninstalled", "shop/update", *COMMANDS[-3:]])
@pytest.mark.parametrize("named", [PIER, None, 7])
def test_a_command_whose_body_is_another_shops_is_refused(
    vendors: Vendors, inside: Inside, topic: str, named: Any
) -> None:
    payload = sample(topic)
    payload |= {name: named for name in ("myshopify_domain", "shop_domain") if name in payload}
    assert vendors.shopify(body_of(payload), topic).status_code == 400
    assert inside.row()["status"] == "not_understood"


@pytest.mark.parametrize(
    ("body", "topic"),
    [
        *(("products/update", command) for command in COMMANDS),
        *((one, other) for one in COMMANDS[-3:] for other in COMMANDS[-3:] if one != other),
        ("carts/update", "shop/redact"),
        ("carts/update", "app/uninstalled"),
    ],
)
def test_a_body_is_no_command_that_its_topic_alone_makes_it(
    vendors: Vendors, inside: Inside, body: str, topic: str
) -> None:
    assert vendors.shopify(body_of(sample(body)), topic).status_code == 400
    assert inside.row()["status"] == "not_understood"


STRANGE_BODIES = {
    "html": b"<!DOCTYPE html><html><body>Bad gateway</body></html>",
    "half of it": PRODUCT[: len(PRODUCT) // 2],
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"x"',
    "not utf-8": b'{"id": "\xff"}',
    "no id": b"{}",
    "an id that is a list": b'{"id":[1]}',
    "an id below zero": b'{"id":-1}',
    "an id that is true": b'{"id":true}',
    "a huge number": b'{"id":' + b"9" * 400 + b"}",
    "a number of 5,000 digits": b'{"id":' + b"9" * 5000 + b"}",
    "NUL in an id": b'{"admin_graphql_api_id":"gid://shopify/Product/1\\u0000"}',
    "half a pair in an id": b'{"admin_graphql_api_id":"gid://shopify/Product/\\ud800"}',
    "an id as long as a book": b'{"admin_graphql_api_id":"gid://shopify/Product/' + b"1" * 10_000 + b'"}',
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
}


@pytest.mark.parametrize("strange", STRANGE_BODIES)
def test_a_body_that_cannot_be_read_is_400_and_kept(vendors: Vendors, inside: Inside, strange: str) -> None:
    assert vendors.shopify(STRANGE_BODIES[strange]).status_code == 400
    row = inside.row()
    assert (row["status"], row["domain"]) == ("not_understood", HARBOR)
    assert row["reason"]


def test_a_document_that_is_deeper_than_whoever_reads_it_later_can_go_is_refused(
    vendors: Vendors, inside: Inside
) -> None:
    for depth, status in ((90, 200), (110, 400), (900, 400)):
        body = b'{"token":"a","note":' + b"[" * depth + b"]" * depth + b"}"
        assert vendors.shopify(body, "carts/update").status_code == status


def test_of_a_name_that_stands_twice_the_last_counts(vendors: Vendors, inside: Inside) -> None:
    assert vendors.shopify(b'{"id":1,"id":2}').status_code == 200
    assert inside.row()["object_id"] == "gid://shopify/Product/2"


@pytest.mark.parametrize(
    "updated_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "yesterday", 7, None]
)
def test_a_time_that_no_calendar_has_is_left_out(vendors: Vendors, inside: Inside, updated_at: Any) -> None:
    assert vendors.shopify(body_of({"id": 1, "updated_at": updated_at})).status_code == 200
    assert inside.row()["source_updated_at"] is None


def test_what_comes_under_another_content_type_is_as_good(vendors: Vendors, inside: Inside) -> None:
    changes: dict[str, Any] = {"Content-Type": "text/html; charset=ebcdic"}
    assert vendors.shopify(**changes).status_code == 200


@pytest.mark.parametrize("webhook_id", ["", "x" * 201, "a b", "ÿ"])
def test_a_delivery_without_an_id_that_tells_it_apart_is_refused(
    vendors: Vendors, inside: Inside, webhook_id: str
) -> None:
    changes = {"X-Shopify-Webhook-Id": webhook_id.encode("latin-1")}
    assert vendors.shopify(**changes).status_code == 400  # type: ignore[arg-type]


def test_of_bodies_that_are_not_understood_no_more_are_kept_than_an_hour_may_have(
    url: str, inside: Inside
) -> None:
    now = [0.0]
    with receiving(settings(url), clock=lambda: now[0]) as vendors:
        for _ in range(KEPT_AN_HOUR + 5):
            assert vendors.shopify(b"[]").status_code == 400
        assert inside.count() == KEPT_AN_HOUR
        now[0] += 3600 / KEPT_AN_HOUR
        assert vendors.shopify(b"[]").status_code == 400
        assert inside.count() == KEPT_AN_HOUR + 1


# Square and Twilio


def square_event(**changes: Any) -> dict[str, Any]:
    counts = [
        {"catalog_object_id": item, "location_id": "L1", "calculated_at": "2026-11-23T12:00:00Z"}
        for item in ("A", "B", "C")
    ]
    return {
        "merchant_id": MERCHANT,
        "type": "inventory.count.updated",
        "event_id": "e1",
        "created_at": "2026-11-23T12:00:01Z",
        "data": {"type": "inventory_counts", "id": "1", "object": {"inventory_counts": counts}},
        **changes,
    }


def test_a_delivery_of_square_about_several_rows_is_as_many_rows(vendors: Vendors, inside: Inside) -> None:
    assert vendors.square(body_of(square_event())).status_code == 200
    assert [(row["webhook_id"], row["object_id"], row["event_id"]) for row in inside.rows()] == [
        ("e1", "A@L1", "e1"),
        ("e1#2", "B@L1", "e1"),
        ("e1#3", "C@L1", "e1"),
    ]
    assert vendors.square(body_of(square_event())).status_code == 200
    assert inside.count() == 3


def test_the_key_of_a_subscription_signs_for_every_merchant_of_its_application(
    inside: Inside, url: str, own_database: Database, cipher: Cipher
) -> None:
    kiosk = NewStore("kiosk", "square", "kiosk", token="t")
    save_stores(own_database, cipher, [kiosk])
    with own_database.transaction() as connection:
        connection.execute("UPDATE stores SET external_id = 'MLKIOSK' WHERE name = 'kiosk'")
        connection.execute(
            "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri, signature_key) "
            "SELECT id, 'wbhk_1', now(), '{}', 'https://x', %s FROM stores WHERE name = 'till'",
            (cipher.encrypt("key-of-the-application"),),
        )
    with receiving(settings(url)) as vendors:
        for merchant, status in ((MERCHANT, 200), ("MLKIOSK", 200), ("MLNOBODY", 400)):
            event = square_event(merchant_id=merchant)
            assert vendors.square(body_of(event), "key-of-the-application").status_code == status
        assert vendors.square(body_of(square_event()), "no-key").status_code == 401
    assert inside.rows()[3]["domain"] == "kiosk"
    assert inside.rows()[-1]["reason"] == "its merchant is no store of ours"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "order.fancied"},
        {"type": 7},
        {"event_id": None},
        {"event_id": "a\0"},
        {"data": None},
        {"data": {}},
    ],
)
def test_a_strange_event_of_squares_is_400(vendors: Vendors, inside: Inside, changes: dict[str, Any]) -> None:
    assert vendors.square(body_of(square_event(**changes))).status_code == 400
    assert inside.row()["status"] == "not_understood"


def test_an_event_about_thousands_of_rows_is_400(vendors: Vendors, inside: Inside) -> None:
    event = square_event()
    event["data"]["object"]["inventory_counts"] *= 400
    assert vendors.square(body_of(event)).status_code == 400


def test_each_status_of_a_text_message_is_stored_once(vendors: Vendors, inside: Inside) -> None:
    for status in ("sent", "delivered", "delivered"):
        form = {"MessageSid": "SM1", "MessageStatus": status, "To": "+12125550123"}
        answer = vendors.twilio("/webhooks/twilio/status", form)
        assert answer.status_code == 200
        assert answer.text.endswith("<Response></Response>")
        assert answer.headers["Content-Type"].startswith("text/xml")
    sent, delivered = inside.rows()
    assert (sent["source"], sent["topic"], sent["webhook_id"]) == ("twilio", "status", "SM1/sent")
    assert (delivered["store_id"], delivered["payload"]["MessageStatus"]) == (None, "delivered")


def test_an_answer_by_text_message_is_stored_encrypted(vendors: Vendors, inside: Inside) -> None:
    form = {"MessageSid": "SM2", "Body": "STOP ☂\0", "From": "+12125550123"}
    assert vendors.twilio("/webhooks/twilio/inbound", form).status_code == 200
    row = inside.row()
    assert (row["topic"], row["webhook_id"], row["payload"]) == ("inbound", "SM2", form)


def test_twilios_signature_is_asked_for_and_its_forms_are_read(vendors: Vendors, inside: Inside) -> None:
    path = "/webhooks/twilio/status"
    assert vendors.twilio(path, {"MessageSid": "SM1", "MessageStatus": "sent"}, "wrong").status_code == 401
    assert vendors.twilio(path, {str(n): "" for n in range(300)}).status_code == 401, "more than any form has"
    assert inside.count() == 0
    assert vendors.twilio(path, {"MessageSid": "SM1"}).status_code == 400
    assert inside.row()["status"] == "not_understood"


def test_without_a_public_address_square_and_twilio_cannot_be_verified(url: str, inside: Inside) -> None:
    with receiving(settings(url, public_url=None)) as vendors:
        assert vendors.square(body_of(square_event())).status_code == 401
        assert vendors.twilio("/webhooks/twilio/inbound", {"MessageSid": "SM1"}).status_code == 401
        assert vendors.shopify().status_code == 200


# Size, pace and what is no delivery


def raw(vendors: Vendors, *parts: bytes) -> bytes:
    """What is answered to these bytes until the connection is closed; b"" if it is closed without a word."""
    with socket.create_connection(("127.0.0.1", vendors.port), timeout=PATIENCE) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def head(headers: dict[str, Any]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /webhooks/shopify HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


def test_a_body_is_refused_by_its_size_as_soon_as_that_is_known(vendors: Vendors, inside: Inside) -> None:
    fitting = b'{"id":1}'.ljust(LARGEST_BODY_BYTES)
    assert vendors.shopify(fitting).status_code == 200
    assert vendors.shopify(fitting + b" ").status_code == 413
    told = head({"Content-Length": LARGEST_BODY_BYTES * 100})
    assert raw(vendors, told).startswith(b"HTTP/1.1 413 "), "before any of it was sent"
    chunked = head({"Transfer-Encoding": "chunked"})
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert raw(vendors, chunked, *[chunk] * 40)[:13] in (b"HTTP/1.1 413 ", b"")
    assert inside.count() == 1


def test_a_body_in_chunks_is_as_good(vendors: Vendors, inside: Inside) -> None:
    headers = shopify_headers(PRODUCT, "products/update")
    answer = requests.post(
        f"{vendors.url}/webhooks/shopify",
        (bytes([byte]) for byte in PRODUCT),
        headers=headers,
        timeout=PATIENCE,
    )
    assert answer.status_code == 200
    assert inside.row()["object_id"] == "gid://shopify/Product/632910392"


def test_whoever_sends_slowly_is_cut_off_wherever_they_stop(url: str, inside: Inside) -> None:
    whole = head({**shopify_headers(PRODUCT, "products/update"), "Content-Length": len(PRODUCT)})
    with receiving(settings(url), request_seconds=0.2) as vendors:
        for part in (b"", whole[:30], whole, whole + PRODUCT[:10]):
            assert raw(vendors, part).startswith(b"HTTP/1.1 408 "), part
        assert vendors.shopify().status_code == 200
        received = metrics(vendors)
    assert inside.count() == 1
    assert (
        received['bg_pipelines_webhooks_received_total{outcome="cut_off",source="shopify",topic="other"}']
        == 2
    )


def test_a_head_without_an_end_is_refused(vendors: Vendors) -> None:
    line = b"X-Padding: " + b"x" * 4000 + b"\r\n"
    answer = raw(vendors, b"POST /webhooks/shopify HTTP/1.1\r\n", *[line] * 50)
    assert answer[:13] in (b"HTTP/1.1 431 ", b"")


def test_bodies_of_many_at_once_do_not_fill_the_memory(vendors: Vendors, inside: Inside) -> None:
    held = []
    part = b"x" * (LARGEST_BODY_BYTES - 1)
    try:
        for _ in range(BODIES_BYTES // LARGEST_BODY_BYTES + 2):
            connection = socket.create_connection(("127.0.0.1", vendors.port), timeout=PATIENCE)
            held.append(connection)
            connection.sendall(head({"Content-Length": LARGEST_BODY_BYTES}) + part)
        [refused, *_], _, _ = select.select(held, [], [], PATIENCE)
        answer = refused.recv(1000)
    finally:
        for connection in held:
            connection.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in answer.lower()


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"POST http:// HTTP/1.1\r\n\r\n",
        b"POST /webhooks/shopify HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhooks/shopify HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\n\r\n",
        b"POST /webhooks/square?\xff HTTP/1.1\r\nHost: [\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"GET /webhooks/shopify HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /webhooks/shopify/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_delivery_is_the_senders_fault(vendors: Vendors, request_: bytes) -> None:
    assert raw(vendors, request_).startswith(b"HTTP/1.1 4"), request_


# Anything at all

ANY_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "X-Shopify-Topic",
            "X-Shopify-Shop-Domain",
            "X-Shopify-Webhook-Id",
            "X-Shopify-Event-Id",
            "X-Shopify-Triggered-At",
            "shopify-topic",
            "Content-Type",
            "X-Anything",
        ]
    ),
    st.one_of(
        st.sampled_from([HARBOR, *TOPICS["shopify"], "2026-11-23T12:00:00Z"]),
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])).map(str.strip),
    ),
    max_size=5,
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted(
    {name for payload in SAMPLES.values() for name in payload}
    | {"topic", "action", "query_variables", "data"}
)
ANY_BODY = st.one_of(
    st.binary(max_size=200),
    ANY_JSON.map(body_of),
    st.dictionaries(st.sampled_from(NAMES), ANY_JSON | st.sampled_from([HARBOR, "Product"]), max_size=6).map(
        body_of
    ),
)


@of_hypothesis(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_HEADERS, ANY_BODY, st.sampled_from([*TOPICS["shopify"]]), st.booleans())
def test_no_request_to_shopifys_path_is_an_error_of_ours(
    vendors: Vendors, headers: dict[str, str], body: bytes, topic: str, is_signed: bool
) -> None:
    changes: dict[str, Any] = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = vendors.shopify(body, topic, secret=SECRET if is_signed else "wrong", **changes)
    assert answer.status_code in ((200, 400) if is_signed else (401,)), answer.text


@of_hypothesis(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ANY_BODY
    | st.dictionaries(st.sampled_from([*square_event()]), ANY_JSON).map(
        lambda some: body_of(square_event(**some))
    ),
    st.dictionaries(
        st.sampled_from(["MessageSid", "MessageStatus", "Body", "x"]), st.text(st.characters(codec="utf-8"))
    ),
)
def test_no_request_of_squares_or_twilios_is_an_error_of_ours(
    vendors: Vendors, body: bytes, form: dict[str, str]
) -> None:
    assert vendors.square(body).status_code in (200, 400)
    assert vendors.twilio("/webhooks/twilio/status", form).status_code in (200, 400, 401)
    assert vendors.post("/webhooks/twilio/inbound", body, {"X-Twilio-Signature": "x"}).status_code == 401


# Health and metrics


def metrics(vendors: Vendors) -> dict[str, float]:
    lines = vendors.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if one[0] != "#")}


def test_one_address_has_all_figures_read_once_however_many_ask_and_its_own_counts_without_the_database(
    url: str, dagster_url: str
) -> None:
    database, dagster = Database(url), Database(dagster_url)
    reads = []

    def figures() -> str:
        reads.append(1)
        return read_prometheus(database, read_daemon(dagster))

    with closing(database), closing(dagster):
        query(database, "DELETE FROM webhook_events")
        with receiving(settings(url), figures=figures) as vendors:
            vendors.shopify(webhook_id="w1")
            for _ in range(3):
                found = metrics(vendors)
        assert len(reads) == 1
        assert found["bg_pipelines_stores"] > 0
        assert found['bg_pipelines_work_due{table="webhook_events"}'] == 1
        assert found["bg_pipelines_daemon_ticks_stopped"] == 0
        assert found["bg_pipelines_database_up"] == 1
        assert not any("store=" in name for name in found), "of stores there may be thousands"
    away = Database("postgresql://nobody@127.0.0.1:1/nothing")
    with (
        closing(away),
        receiving(settings(url), figures=lambda: read_prometheus(away, read_daemon(away))) as vendors,
    ):
        before = metrics(vendors).get("bg_pipelines_webhooks_statement_rows_count", 0)
        vendors.shopify(webhook_id="w2")
        found = metrics(vendors)
    assert found["bg_pipelines_database_up"] == 0
    assert "bg_pipelines_stores" not in found
    assert found["bg_pipelines_webhooks_statement_rows_count"] == before + 1


def test_health_and_metrics_say_what_is_going_on(url: str, inside: Inside) -> None:
    with receiving(settings(url)) as vendors:
        answer = vendors.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        for _ in range(2):
            vendors.shopify(webhook_id="w1")
        vendors.shopify(secret="wrong")
        vendors.shopify(topic="made/up")
        found = metrics(vendors)
    received = "bg_pipelines_webhooks_received_total"
    assert found[f'{received}{{outcome="stored",source="shopify",topic="products/update"}}'] == 2
    assert found[f'{received}{{outcome="bad_signature",source="shopify",topic="products/update"}}'] == 1
    assert found[f'{received}{{outcome="not_understood",source="shopify",topic="other"}}'] == 1
    assert found["bg_pipelines_webhooks_duplicate_rows_total"] == 1
    assert found["bg_pipelines_webhooks_statement_rows_count"] == 3
    assert found['bg_pipelines_webhooks_pending{source="shopify"}'] == 1
    assert 0 <= found['bg_pipelines_webhooks_oldest_pending_seconds{source="shopify"}'] < PATIENCE
