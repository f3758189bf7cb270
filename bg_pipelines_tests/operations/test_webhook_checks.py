"""`check` says why webhooks would not arrive, and nothing of webhooks to whoever has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.operations.webhook_checks import address_faults, hints, secret_faults
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.settings import Settings
from bg_pipelines_tests.platforms.scripted import Asked, Reply, Script, ScriptedServer
from bg_pipelines_tests.support import query
from bg_pipelines_tests.typed import Run, words
from bg_pipelines_tests.webhooks.conftest import receiving, settings

Serve = Callable[[Script], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """The address of something that answers so."""
    running: list[ScriptedServer] = []

    def start(script: Script) -> str:
        running.append(ScriptedServer(script).__enter__())
        return running[-1].url

    yield start
    for server in running:
        server.__exit__()


def test_a_receiver_that_stores_is_no_fault_and_one_that_cannot_is(database_url: str) -> None:
    with receiving(settings(database_url)) as vendors:
        assert address_faults(f"{vendors.url}/") == []
    away = "postgresql://nobody@127.0.0.1:1/nothing"
    with receiving(settings(away)) as vendors:
        [fault] = address_faults(vendors.url)
    assert fault == "BG_PUBLIC_URL: the receiver cannot store deliveries: its database does not take them"


def test_a_receiver_whose_proxy_keeps_healthz_to_itself_is_known_by_what_it_refuses(
    database_url: str, serve: Serve
) -> None:
    def proxy(asked: Asked) -> Reply:
        if asked.path == "/webhooks/shopify":
            return Reply(401, (b"its signature is missing or wrong",))
        return Reply(404, (b"<html>",))

    assert address_faults(serve(proxy)) == []
    with receiving(settings(database_url)) as vendors:
        answer = vendors.post("/webhooks/shopify", b"", {})
        assert (answer.status_code, answer.text) == (401, "its signature is missing or wrong")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, (b"<html>hello</html>",)),
        Reply.of({"status": "up"}),
        Reply.of(["ok"]),
        Reply(301, headers={"Location": "https://elsewhere.example"}),
        Reply(401, (b"log in",)),
    ],
)
def test_another_program_there_is_a_fault(serve: Serve, reply: Reply) -> None:
    [fault] = address_faults(serve(reply))
    assert "another program answers there" in fault
    assert f"({reply.status})" in fault


def test_an_address_that_is_not_reached_says_why_and_what_to_look_at(serve: Serve) -> None:
    [fault] = address_faults("http://127.0.0.1:9")
    assert fault.startswith(
        "BG_PUBLIC_URL: the receiver is not reached from this machine: 127.0.0.1:9: cannot be reached"
    )
    assert "serve-webhooks" in fault
    slow = serve(Reply(200, (b"a", b"b"), pause_seconds=1))
    [fault] = address_faults(slow, timeouts=Timeouts(1, 0.2, 0.3))
    assert "no answer within" in fault or "no whole answer within" in fault


def test_only_this_machine_may_be_called_without_tls() -> None:
    assert address_faults("http://hooks.example.com") == [
        "BG_PUBLIC_URL: platforms deliver webhooks to https:// only"
    ]
    for here in ("http://localhost:9", "http://[::1]:9", "http://127.0.0.9:9"):
        assert "not reached" in address_faults(here)[0]


def test_a_store_with_only_a_token_needs_the_app_s_secret(database: Database, cipher: Cipher) -> None:
    stores = [
        NewStore("pier", "shopify", "pier.myshopify.com", client_id="i", client_secret="s"),
        NewStore("till", "square", "till", token="t"),
    ]
    save_stores(database, cipher, stores)

    def faults(**changes: str) -> list[str]:
        with database.transaction() as connection:
            return secret_faults(connection, cipher, Settings(**changes))  # type: ignore[arg-type]

    assert faults() == []
    many = [NewStore(f"store-{n}", "shopify", f"store-{n}.myshopify.com", token="t") for n in range(7)]
    save_stores(database, cipher, many)
    [fault] = faults()
    assert fault.startswith(
        "BG_SHOPIFY_WEBHOOK_SECRET is not set: webhooks of 7 stores that have only a token"
    )
    assert "(store-0, store-1, store-2, store-3, store-4 and 2 more)" in fault
    assert faults(shopify_webhook_secret="secret") == []
    query(database, "UPDATE stores SET paused_at = now() WHERE name LIKE 'store-%%'")
    assert faults() == []


def test_without_a_public_url_check_says_so_and_finds_no_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_ALERT_URLS", "json://127.0.0.1:9/hooks/ops")
    result = run("check")
    assert "hint: webhooks are off, because BG_PUBLIC_URL is not set" in words(result.output)
    assert "BG_PUBLIC_URL:" not in result.output
    monkeypatch.setenv("BG_PUBLIC_URL", "http://127.0.0.1:9")
    result = run("check")
    assert "- BG_PUBLIC_URL: the receiver is not reached" in words(result.output)
    assert "hint:" not in result.output
    assert result.exit_code == 1
    assert hints(Settings(public_url="https://hooks.example.com")) == []
