"""The one transport: whole answers in time and of a bounded size, credentials that go nowhere else, failures told for what they are."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms.http import Timeouts, Transport, parse_json, retry_after, vendor_time
from bg_pipelines.platforms.large_answers import AT_ONCE, LARGE_BYTES
from bg_pipelines.platforms.network import tls_context
from bg_pipelines.platforms.shopify import platform as shopify
from bg_pipelines.platforms.shopify.bulk_file import lines_from
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.square.client import SquareClient
from bg_pipelines.platforms.square.platform import SquarePlatform
from bg_pipelines_tests.platforms.conftest import TOKEN, failure_of
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer
from bg_pipelines_tests.platforms.tls import CUTS, Certificates, Cut, How, TlsServer, make_certificates

Serve = Callable[..., ScriptedServer]
SECONDS = 10.0
"""Long enough for anything that is not held up."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates but those that a test sets."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """The authority is trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
    return certificates


@pytest.fixture
def connect() -> Iterator[Callable[..., Transport]]:
    """Make a transport: `connect(max_bytes=1000)`."""
    made: list[Transport] = []

    def make(**options: Any) -> Transport:
        given = {"address_of": "BG_TEST_URL", "timeouts": Timeouts(2.0, 5.0, 20.0)}
        made.append(Transport("vendor", "The vendor", **{**given, **options}))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


@contextlib.contextmanager
def dripping(pieces: Iterator[bytes], pause_seconds: float = 0.05) -> Iterator[str]:
    """A server that sends these, one by one, whatever it is asked."""

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause_seconds)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# Time and size

BEGIN = b"HTTP/1.1 200 OK\r\n"


def without_end(begin: bytes, piece: bytes) -> Iterator[bytes]:
    yield begin
    while True:
        yield piece


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 2", b"0"),
        (BEGIN, b"X"),
        (BEGIN, b"X: y\r\n"),
        (BEGIN + b"Content-Length: 9999\r\n\r\n", b"x"),
        (BEGIN + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (BEGIN + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (BEGIN + b"\r\n", b"x"),
        (BEGIN + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"")),
    ],
    ids=[
        "a status",
        "a header",
        "headers",
        "a length",
        "chunks",
        "a chunk's length",
        "no length",
        "nothing, packed",
    ],
)
def test_an_answer_that_drips_for_ever_ends_at_its_deadline_wherever_it_drips(
    connect: Callable[..., Transport], begin: bytes, piece: bytes
) -> None:
    transport = connect(timeouts=Timeouts(2.0, 5.0, 0.4))
    with dripping(without_end(begin, piece)) as url:
        started = time.monotonic()
        error = failure_of(lambda: transport.request("GET", url))
    assert (error.error_type, error.source) == (ErrorType.TIMEOUT, "vendor")
    assert error.message.endswith(": no whole answer within 0.4 s")
    assert 0.3 < time.monotonic() - started < 4


def test_an_answer_that_does_not_begin_is_told_by_the_time_of_one_read(
    connect: Callable[..., Transport],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = failure_of(lambda: connect(timeouts=Timeouts(2.0, 0.2, 20.0)).request("GET", url))
    assert (error.error_type, error.details) == (ErrorType.TIMEOUT, {})
    assert error.message.endswith(": no answer within 0.2 s")


def test_a_handshake_that_does_not_end_is_a_connection_that_does_not_come_about(
    trusted: Certificates, connect: Callable[..., Transport]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        error = failure_of(lambda: connect(timeouts=Timeouts(0.2, 5.0, 20.0)).request("GET", url))
    assert (error.error_type, error.details) == (ErrorType.TIMEOUT, {"sent": False})
    assert error.message.endswith("no connection within 0.2 s")


@pytest.mark.parametrize("length", ["declared", "chunked", "until the end"])
def test_an_answer_larger_than_it_may_be_is_refused(connect: Callable[..., Transport], length: str) -> None:
    begin = {
        "declared": b"Content-Length: 100000\r\n\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n",
        "until the end": b"\r\n",
    }[length]
    piece = b"2710\r\n%s\r\n" % (b"x" * 10_000) if length == "chunked" else b"x" * 10_000
    with dripping(without_end(BEGIN + begin, piece), 0) as url:
        error = failure_of(lambda: connect(max_bytes=50_000).request("GET", url))
    assert error.error_type is ErrorType.MALFORMED_RESPONSE
    assert error.message == "The vendor sent an answer larger than 50,000 bytes; retried automatically"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "gzip, gzip, gzip"])
def test_an_answer_that_unpacks_to_more_than_it_may_is_refused_without_being_held(
    connect: Callable[..., Transport], serve: Serve, encoding: str
) -> None:
    packed = gzip.compress(b" " * 200_000_000)
    for _ in range(encoding.count(",")):
        packed = gzip.compress(packed)
    if encoding == "deflate":
        packed = packed[10:-8]
    server = serve(Reply(200, (packed,), {"Content-Encoding": encoding}))
    tracemalloc.start()
    error = failure_of(lambda: connect(max_bytes=5_000_000).request("GET", server.url))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.error_type is ErrorType.MALFORMED_RESPONSE
    assert "larger than 5,000,000 bytes" in error.message
    assert len(packed) < 1_000_000 < peak < 20_000_000


@pytest.mark.parametrize("values", [b"[],", b"{},", b"1,", b'"",'])
def test_json_that_takes_many_times_its_size_is_refused_before_it_is_read(
    connect: Callable[..., Transport], serve: Serve, values: bytes
) -> None:
    text = b'{"data": [' + values * 1_000_001 + b"null]}"
    server = serve(Reply(200, (gzip.compress(text, 1),), {"Content-Encoding": "gzip"}))
    transport = connect()
    answer = transport.request("GET", server.url)
    tracemalloc.start()
    error = failure_of(lambda: transport.object_of(answer))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.error_type is ErrorType.MALFORMED_RESPONSE
    assert "more than 1,000,000 values" in error.message
    assert peak < 1_000_000


def test_only_so_many_large_answers_are_read_at_a_time(
    connect: Callable[..., Transport], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Reply(200, (gzip.compress(b" " * (LARGE_BYTES + 1), 1),), {"Content-Encoding": "gzip"})
    transport = connect(timeouts=Timeouts(2.0, 0.2, 20.0))
    url = serve(large).url
    held = [transport.request("GET", url) for _ in range(AT_ONCE)]
    assert failure_of(lambda: transport.request("GET", url)).error_type is ErrorType.TIMEOUT
    assert transport.request("GET", serve(Reply.of({})).url).status == 200, "a small one needs no place"
    del held[0]
    assert transport.request("GET", url).status == 200


def test_headers_without_end_are_refused(connect: Callable[..., Transport]) -> None:
    with dripping(without_end(BEGIN + b"X: ", b"x" * 10_000), 0) as url:
        error = failure_of(lambda: connect().request("GET", url))
    assert error.error_type in {ErrorType.CONNECTION, ErrorType.MALFORMED_RESPONSE}


def test_a_connection_is_kept_for_the_next_request(
    trusted: Certificates, connect: Callable[..., Transport]
) -> None:
    transport = connect()
    with TlsServer(trusted.good, body=b"[1]") as server:
        assert [transport.request("POST", server.url, body=b"{}").content for _ in range(3)] == [b"[1]"] * 3
    assert (server.handshakes, len(server.asked)) == (1, 3)


def test_threads_share_a_transport_and_each_gets_its_own_answer(
    connect: Callable[..., Transport], serve: Serve
) -> None:
    server = serve(lambda asked: Reply(200, (asked.path.encode(),)))
    transport, wrong = connect(), []

    def ask(name: str) -> None:
        for number in range(30):
            path = f"/{name}/{number}"
            if transport.request("GET", server.url + path).content != path.encode():
                wrong.append(path)

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert (wrong, len(server.asked)) == ([], 120)


# Credentials


def test_a_redirect_is_an_answer_and_is_not_followed(connect: Callable[..., Transport], serve: Serve) -> None:
    elsewhere = serve(Reply.of({}))
    moved = serve(Reply(307, headers={"Location": f"{elsewhere.url}/login"}))
    answer = connect().request("POST", moved.url, headers={"Authorization": "Bearer EAAA"}, body=b"{}")
    assert (answer.status, answer.headers["location"]) == (307, f"{elsewhere.url}/login")
    assert elsewhere.asked == []


def redirected(connect: Callable[..., Transport], url: str, redirects: int) -> int:
    with connect().open("GET", url, redirects=redirects) as response:
        return response.status


def test_a_download_follows_a_few_redirects_and_no_more(
    connect: Callable[..., Transport], serve: Serve
) -> None:
    def further(asked: Asked) -> Reply:
        count = len(asked.path) - 1
        return Reply(302, headers={"Location": asked.path + "x"}) if count < 2 else Reply(200)

    server = serve(further)
    assert redirected(connect, f"{server.url}/", 2) == 200
    assert [asked.path for asked in server.asked] == ["/", "/x", "/xx"]
    assert redirected(connect, f"{server.url}/", 1) == 302


def test_a_download_is_not_led_from_tls_to_none(
    trusted: Certificates, connect: Callable[..., Transport], serve: Serve
) -> None:
    plain = serve(Reply(200))
    moved = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s/x\r\n\r\n" % plain.url.encode()
    with TlsServer(trusted.good, answer=moved) as server:
        error = failure_of(lambda: redirected(connect, server.url, 3))
    assert (error.error_type, plain.asked) == (ErrorType.MALFORMED_RESPONSE, [])


NETRC = {
    "default": "default login someone password secretword\n",
    "machine": "machine 127.0.0.1 login someone password secretword\n",
}


@pytest.mark.parametrize("entry", NETRC)
def test_what_stands_in_netrc_goes_nowhere(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    path = tmp_path / ".netrc"
    path.write_text(NETRC[entry])
    path.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(path))
    server = serve(Reply.of({"data": {}, "merchant": {"currency": "USD"}, "status": "active"}))
    url = server.url
    ask_shopify(url)
    client = ShopifyClient(url, StaticToken(TOKEN), api_version="2026-07")
    assert list(lines_from(client, url, 0))
    with contextlib.suppress(Exception):
        ask_square(url)
    ask_twilio(url)
    of_shopify, of_its_file, *of_square, of_twilio = (one.get("authorization") for one in server.headers)
    assert (of_shopify, of_its_file) == (None, None)
    assert set(of_square) == {"Bearer EAAA"}
    assert of_twilio.startswith("Basic QUMw")  # the account's own


def test_cookies_are_not_kept(connect: Callable[..., Transport], serve: Serve) -> None:
    server, transport = serve(Reply.of({}, 200, Set_Cookie="session=1; Path=/")), connect()
    for _ in range(2):
        transport.request("GET", server.url)
    assert ["cookie" in headers for headers in server.headers] == [False, False]


def test_no_log_has_the_address(
    connect: Callable[..., Transport], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        connect().request("GET", f"{serve(Reply.of({})).url}/secret.jsonl?signature=secret")
    assert "secret" not in caplog.text


# Failures


def ask_shopify(url: str) -> None:
    client = ShopifyClient(url, StaticToken(TOKEN), api_version="2026-07")
    try:
        client.execute(shopify.SHOP, {})
    finally:
        client.close()


def ask_square(url: str) -> None:
    platform = SquarePlatform(SquareClient("EAAA", url))
    try:
        platform.profile()
    finally:
        platform.close()


def ask_twilio(url: str) -> None:
    messages = TextMessages("AC" + "0" * 32, "token", sender="+12125550100", api_url=url)
    try:
        messages.check()
    finally:
        messages.close()


CLIENTS: dict[str, Callable[[str], None]] = {
    "shopify": ask_shopify,
    "square": ask_square,
    "twilio": ask_twilio,
}
each_client = pytest.mark.parametrize("source", CLIENTS)


@each_client
@pytest.mark.parametrize(("cut", "how"), CUTS)
def test_a_connection_that_was_cut_is_not_called_an_unverified_certificate(
    trusted: Certificates, source: str, cut: Cut, how: How
) -> None:
    with TlsServer(trusted.good, cut=cut, how=how) as server:
        error = failure_of(lambda: CLIENTS[source](server.url))
    assert (error.error_type, error.source, error.recoverable) == (ErrorType.CONNECTION, source, True)
    is_connected = cut not in ("before the handshake", "amid the handshake")
    fault = "the connection was cut" if is_connected else "cannot be reached"
    assert error.message.startswith(f"{server.address}: {fault} (")


@each_client
@pytest.mark.parametrize(
    ("certificate", "why"),
    [("expired", "expired"), ("of_another_host", "not valid for '127.0.0.1'"), ("of_nobody", "issuer")],
)
def test_a_certificate_that_cannot_be_verified_is_called_that(
    trusted: Certificates, source: str, certificate: str, why: str
) -> None:
    with TlsServer(getattr(trusted, certificate)) as server:
        error = failure_of(lambda: CLIENTS[source](server.url))
    assert (error.error_type, error.source) == (ErrorType.CONNECTION, source)
    assert error.message.startswith(f"{server.address}: its certificate could not be verified (")
    assert why in error.message
    assert server.asked == []


def test_a_server_without_tls_is_no_certificate_either(
    trusted: Certificates, connect: Callable[..., Transport], serve: Serve
) -> None:
    url = serve(Reply(200)).url.replace("http:", "https:")
    error = failure_of(lambda: connect().request("GET", url))
    assert (error.error_type, "certificate" in error.message) == (ErrorType.CONNECTION, False)


@pytest.mark.parametrize(
    ("cut", "is_surely_unsent"),
    [("before the handshake", True), ("amid the handshake", True), ("amid the headers", False)],
)
def test_what_was_cut_before_there_was_a_connection_was_surely_not_sent(
    trusted: Certificates, connect: Callable[..., Transport], cut: Cut, is_surely_unsent: bool
) -> None:
    with TlsServer(trusted.good, cut=cut) as server:
        error = failure_of(lambda: connect().request("POST", server.url, body=b"{}"))
    assert (error.details.get("sent") is False) is is_surely_unsent


def test_a_kept_connection_that_is_cut_may_have_sent(
    connect: Callable[..., Transport],
) -> None:
    answers = [BEGIN + b"Content-Length: 2\r\n\r\n{}", b""]

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for one in answers:
                connection.recv(65_536)
                connection.sendall(one)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        transport, url = connect(), f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert transport.request("GET", url).content == b"{}"
        error = failure_of(lambda: transport.request("POST", url, body=b"{}"))
    assert (error.error_type, error.details) == (ErrorType.CONNECTION, {})


def test_an_address_that_is_none_names_what_to_set(connect: Callable[..., Transport]) -> None:
    error = failure_of(lambda: connect().request("GET", "127.0.0.1:9"))
    assert error.error_type is ErrorType.CONFIGURATION
    assert error.message.startswith("BG_TEST_URL is not an address that can be called")


# The environment


def test_a_proxy_is_asked_and_told_who_we_are(
    connect: Callable[..., Transport], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(Reply(503))
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://user:pass%40word@"))
    assert connect().request("GET", "http://vendor.example/x").status == 503
    assert proxy.asked[0].path == "http://vendor.example/x"
    assert proxy.headers[0]["proxy-authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_asked"),
    [
        ("", "vendor.invalid", True),
        ("other.invalid", "vendor.invalid", True),
        ("vendor.invalid", "vendor.invalid", False),
        (".invalid", "vendor.invalid", False),
        ("invalid", "shop.vendor.invalid", False),
        ("*", "vendor.invalid", False),
        ("127.0.0.0/8", "127.0.0.2", False),
        ("10.0.0.0/8, 127.0.0.2", "127.0.0.2", False),
        ("10.0.0.0/8", "127.0.0.2", True),
        ("vendor.invalid:1", "vendor.invalid:1", False),
        ("vendor.invalid:2", "vendor.invalid:1", True),
    ],
)
def test_what_no_proxy_names_is_asked_itself(
    connect: Callable[..., Transport],
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
    host: str,
    is_asked: bool,
) -> None:
    proxy = serve(Reply(503))
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    url = f"http://{host}" if ":" in host else f"http://{host}:9"
    with contextlib.suppress(Exception):
        connect(timeouts=Timeouts(0.5, 0.5, 0.5)).request("GET", url)
    assert bool(proxy.asked) is is_asked


def test_a_proxy_that_refuses_to_connect_is_told_with_its_status(
    trusted: Certificates,
    connect: Callable[..., Transport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with dripping(iter([refusal])) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        error = failure_of(lambda: connect().request("GET", "https://vendor.example"))
    assert (error.error_type, error.details) == (ErrorType.CONNECTION, {"sent": False})
    assert error.message == "vendor.example: the proxy refuses or cannot be reached (407)"


def test_tls_goes_through_a_proxy_and_is_verified_behind_it(
    trusted: Certificates, connect: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    with TlsServer(trusted.good) as server, tunnel() as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert connect().request("GET", f"{server.url}/x").content == b"{}"
    assert asked[0].startswith(f"CONNECT {server.address} ")
    with TlsServer(trusted.of_nobody) as server, tunnel() as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        error = failure_of(lambda: connect().request("GET", server.url))
    assert "certificate could not be verified" in error.message


@contextlib.contextmanager
def tunnel() -> Iterator[tuple[str, list[str]]]:
    """A proxy for one connection, and the first lines of what it was asked."""
    asked: list[str] = []

    def relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            asked.append(client.recv(65_536).decode().partition("\r\n")[0])
            host, _, port = asked[0].split()[1].partition(":")
            with client, socket.create_connection((host, int(port))) as vendor:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                threading.Thread(target=relay, args=(vendor, client), daemon=True).start()
                relay(client, vendor)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://[::1", "ftp://127.0.0.1"])
def test_a_proxy_that_is_none_is_a_matter_of_configuration(
    connect: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    error = failure_of(lambda: connect().request("GET", "https://vendor.example"))
    assert (error.error_type, "HTTPS_PROXY" in error.message) == (ErrorType.CONFIGURATION, True)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_usual_variables_name_the_certificates_to_trust(
    certificates: Certificates,
    connect: Callable[..., Transport],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    with TlsServer(certificates.good) as server:
        assert "certificate" in failure_of(lambda: connect().request("GET", server.url)).message
        monkeypatch.setenv(variable, str(certificates.authority))
        assert connect().request("GET", server.url).status == 200


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_a_folder_of_certificates_will_do(
    certificates: Certificates,
    connect: Callable[..., Transport],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
) -> None:
    (tmp_path / "authority.pem").write_bytes(certificates.authority.read_bytes())
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    monkeypatch.setenv(variable, str(tmp_path))
    with TlsServer(certificates.good) as server:
        assert connect().request("GET", server.url).status == 200


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_a_matter_of_configuration(
    connect: Callable[..., Transport],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    content: str | None,
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    error = failure_of(connect)
    assert (error.error_type, error.recoverable) == (ErrorType.CONFIGURATION, False)
    assert variable in error.message


def test_the_root_certificates_are_read_once_a_process(connect: Callable[..., Transport]) -> None:
    assert tls_context() is tls_context()
    spent = time.process_time()
    for _ in range(100):
        connect()
    assert time.process_time() - spent < 1.0, "each would take some 20 ms"


def test_a_vendors_client_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, bg_pipelines.definitions, bg_pipelines.platforms, bg_pipelines.messaging.twilio\n"
        "loaded = [name for name in ('square', 'twilio', 'httpx', 'requests', 'apprise') if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What answers hold

NOON = {"Date": "Wed, 18 Nov 2026 12:00:00 GMT"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("2.0", 2.0),
        ("0", 1.0),
        ("86400", 3600.0),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Wed, 18 Nov 2026 12:00:30 GMT", 30.0),
        ("Wed, 18 Nov 2026 12:00:00 GMT", 1.0),
        ("Wed, 18 Nov 2026 11:59:00 GMT", None),
        ("Thu, 19 Nov 2026 12:00:00 GMT", 3600.0),
    ],
)
def test_a_retry_after_is_a_number_of_seconds_or_a_time_by_the_vendors_clock(
    text: str | None, seconds: float | None
) -> None:
    assert retry_after(NOON | ({"Retry-After": text} if text is not None else {})) == seconds


@pytest.mark.parametrize(
    ("date", "moment"),
    [
        ("Wed, 18 Nov 2026 11:06:40 GMT", datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)),
        ("Wed, 18 Nov 2026 11:06:40 -0000", datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)),
        ("yesterday", None),
    ],
)
def test_a_date_header_is_a_time_with_a_zone_or_nothing(date: str, moment: datetime | None) -> None:
    assert vendor_time({"Date": date}) == moment
    assert vendor_time({}) is None


def test_json_may_hold_half_a_surrogate_pair_and_not_be_nested_for_ever() -> None:
    assert parse_json(b'["\\ud83d"]') == ["\ud83d"]
    for nonsense in (b"", b"<html>", b"[" * 100_000, b"{"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(nonsense)
