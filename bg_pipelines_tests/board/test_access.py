"""Who gets in, and what is shown to, and done for, those who do not."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from starlette.routing import Route

from bg_pipelines.board import session, users
from bg_pipelines.board.actions import ACTIONS
from bg_pipelines.board.app import hosts, make_app
from bg_pipelines.board.pages import PAGES
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines_tests.board.conftest import PASSWORD, Board, Person, serving, settings_of
from bg_pipelines_tests.support import PATIENCE, query

NAME = "Harbor & Sons"
OPEN = {"/static/{name}", "/login", "/login/link"}
"""What is shown to anybody: no more than a form, a sheet and a script."""


@pytest.fixture
def incident(add_store: Callable[..., int], add_incident: Callable[..., int]) -> int:
    return add_incident(add_store(NAME))


def rows(board: Board) -> Any:
    """All that a button could change."""
    return [
        query(board.database, statement)
        for statement in (
            "SELECT id, paused_at FROM stores",
            "SELECT id, status, owner FROM incidents",
            "SELECT store_id, resource, next_due_at, attempts, hinted_at, full_pass_wanted_at FROM sync_states ORDER BY 1, 2",
        )
    ]


def fields(incident: int) -> dict[str, Any]:
    return {"id": incident, "store": NAME, "name": NAME, "note": "over", "to": "eve", "page": "/"}


# Without a login


def test_nothing_is_shown_without_a_login_by_any_route(board: Board, incident: int) -> None:
    settings = settings_of(board.database)
    app = make_app(settings, board.database, board.database, hosts(settings, "127.0.0.1", 1))
    routes = {route.path: route.methods or set() for route in app.routes if isinstance(route, Route)}
    assert routes.keys() == {*OPEN, "/logout", *PAGES, *ACTIONS}, "a route that this test does not know"
    stranger = board.person()
    before = rows(board)
    for path in routes:
        place = path.replace("{name}", "board.css") + f"?id={incident}&name={quote(NAME)}"
        for answer in (
            stranger.get(place),
            stranger.get(place, **{"X-Board-Refresh": "1"}),
            stranger.post(place, fields(incident)),
        ):
            assert "Harbor" not in answer.text
            assert answer.status_code in (200, 303, 401, 403, 404), (path, answer.status_code)
            if answer.status_code == 200:
                assert path in OPEN
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/login")
    assert rows(board) == before
    assert query(board.database, "SELECT FROM activity") == []


def test_the_login_leads_to_the_page_that_was_asked_for_and_to_no_other_host(
    board: Board, incident: int
) -> None:
    stranger = board.person()
    asked = stranger.get(f"/incident?id={incident}").headers["location"]
    page = stranger.get(asked).text
    next_page = re.search(r'name="next" value="([^"]*)"', page)
    assert next_page
    answer = stranger.log_in("ada", PASSWORD, next=next_page[1])
    assert (answer.status_code, answer.headers["location"]) == (303, f"/incident?id={incident}")
    assert "#1" in stranger.get(answer.headers["location"]).text
    for evil in ("https://evil.example", "//evil.example", "/\\evil.example"):
        assert board.person().log_in("ada", PASSWORD, next=evil).headers["location"] == "/"
    assert [
        row["who"] for row in query(board.database, "SELECT who FROM activity WHERE action = 'log in'")
    ] == ["ada"] * 4


def test_a_wrong_password_and_a_name_that_there_is_not_get_the_same_answer(board: Board) -> None:
    wrong, unknown = board.person().log_in("ada", "wrong"), board.person().log_in("nobody", "wrong")
    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text)
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers


def test_five_wrong_passwords_by_one_name_are_all_that_are_looked_at_even_at_the_same_time(
    board: Board,
) -> None:
    answers: list[int] = []

    def guess(number: int) -> None:
        answers.append(board.person().log_in("vera", f"guess {number}").status_code)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answers) == [401] * 5 + [429] * 7
    locked = board.person().log_in("vera", PASSWORD)
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 15 * 60
    assert board.person().log_in("ada", PASSWORD).status_code == 303, "others are not kept out by it"
    query(board.database, "UPDATE board_login_failures SET failed_at = now() - interval '16 minutes'")
    assert board.person().log_in("vera", PASSWORD).status_code == 303
    assert query(board.database, "SELECT FROM board_login_failures") == []


def test_a_flood_of_logins_keeps_nobody_out_who_is_logged_in(board: Board, ada: Person) -> None:
    answers: list[int] = []

    def guess(number: int) -> None:
        answers.append(board.person().log_in(f"name-{number}", "guess").status_code)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(45)]
    for thread in threads:
        thread.start()
    assert ada.get("/changes").status_code == 200
    assert len(answers) < len(threads), "before they are answered"
    for thread in threads:
        thread.join(PATIENCE)
    assert set(answers) == {401, 429}


def test_a_link_logs_in_once_and_not_by_being_looked_at(board: Board) -> None:
    token = session.make_link(board.database, "ada")
    first, second = board.person(), board.person()
    assert "as ada" in first.get(f"/login/link?token={token}").text
    assert first.get("/").status_code == 303
    assert first.post("/login/link", {"token": token}).headers["location"] == "/"
    assert first.get("/").status_code == 200
    assert second.post("/login/link", {"token": token}).status_code == 403
    assert second.get(f"/login/link?token={token}").status_code == 403
    old = session.make_link(board.database, "ada")
    query(board.database, "UPDATE board_sessions SET expires_at = now() WHERE is_link")
    assert second.post("/login/link", {"token": old}).status_code == 403
    second.http.cookies["board"] = session.make_link(board.database, "ada")
    assert second.get("/").status_code == 303, "a link's token is no session's"


# Sessions


def test_a_session_ends_without_use_and_with_its_user_and_a_page_that_refreshes_itself_is_no_use(
    board: Board, ada: Person
) -> None:
    query(
        board.database,
        "UPDATE board_sessions SET seen_at = now() - interval '1 hour', expires_at = now() + interval '7 hours'",
    )
    hours = "SELECT round(extract(epoch FROM expires_at - now()) / 3600) AS hours FROM board_sessions"
    assert ada.get("/changes", **{"X-Board-Refresh": "1"}).status_code == 200
    assert query(board.database, hours)[0]["hours"] == 7
    assert ada.get("/changes").status_code == 200
    assert query(board.database, hours)[0]["hours"] == 8
    query(board.database, "UPDATE board_sessions SET created_at = now() - interval '8 days'")
    assert ada.get("/changes").status_code == 303, "a week is the longest"

    again = board.person("ada")
    assert again.get("/changes").status_code == 200
    query(board.database, "UPDATE board_sessions SET expires_at = now()")
    assert again.get("/changes").status_code == 303
    assert again.get("/changes", **{"X-Board-Refresh": "1"}).status_code == 401

    users.add(board.database, "eve", users.ADMIN, PASSWORD)
    eve = board.person("eve")
    assert eve.get("/changes").status_code == 200
    users.remove(board.database, "eve")
    assert eve.get("/changes").status_code == 303


def test_logging_out_ends_the_session_itself_and_not_only_the_cookie(board: Board, ada: Person) -> None:
    copied = board.person()
    copied.http.cookies["board"] = ada.http.cookies["board"]
    assert copied.get("/changes").status_code == 200
    answer = ada.post("/logout", {"form_token": ada.form_token()})
    assert answer.headers["location"] == "/login"
    assert copied.get("/changes").status_code == 303


def test_a_cookie_is_kept_from_scripts_and_from_other_sites_and_with_tls_from_clear_text(
    board: Board,
) -> None:
    cookie = board.person().log_in("ada", PASSWORD).headers["set-cookie"]
    assert cookie.startswith("board=")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    token = cookie.partition("=")[2].partition(";")[0]
    assert query(board.database, "SELECT FROM board_sessions WHERE digest = %s", token.encode()) == []
    with serving(
        board.database, settings_of(board.database, board_url="https://board.example.com")
    ) as behind_a_proxy:
        headers = {"Host": "board.example.com", "Origin": "https://board.example.com"}
        answer = requests.post(
            f"{behind_a_proxy.url}/login",
            {"name": "ada", "password": PASSWORD},
            headers=headers,
            allow_redirects=False,
            timeout=PATIENCE,
        )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-board=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


# Forms


@pytest.mark.parametrize("path", sorted(ACTIONS))
def test_a_forged_stale_or_foreign_form_does_nothing(
    board: Board, ada: Person, incident: int, path: str
) -> None:
    other = board.person("ada")
    good = {**fields(incident), "form_token": ada.form_token()}
    before = rows(board)
    evil: dict[str, requests.Response] = {
        "without a token": ada.post(path, fields(incident)),
        "another's token": ada.post(path, {**good, "form_token": other.form_token()}),
        "a made-up token": ada.post(path, {**good, "form_token": "é" * 64}),
        "of another site": ada.post(path, good, Origin="https://evil.example"),
        "of nowhere": ada.post(path, good, Origin="null"),
        "another port": ada.post(path, good, Origin="http://127.0.0.1:1"),
        "cross-site": ada.post(path, good, **{"Sec-Fetch-Site": "cross-site"}),
        "same-site": ada.post(path, good, **{"Sec-Fetch-Site": "same-site"}),
        "neither header": ada.post(path, good, **{"Origin": None, "Sec-Fetch-Site": None}),
        "by GET": ada.get(f"{path}?id={incident}&store={quote(NAME)}&form_token={good['form_token']}"),
    }
    assert {
        what: answer.status_code for what, answer in evil.items() if answer.status_code not in (403, 404, 405)
    } == {}
    query(board.database, "UPDATE board_sessions SET expires_at = now()")
    assert ada.post(path, good).status_code == 403, "a session that has ended"
    assert rows(board) == before
    assert query(board.database, "SELECT FROM activity") == []


@pytest.mark.parametrize("path", sorted(ACTIONS))
def test_a_viewer_looks_and_changes_nothing(board: Board, vera: Person, incident: int, path: str) -> None:
    before = rows(board)
    answer = vera.act(path, **fields(incident))
    assert answer.status_code == 403
    assert rows(board) == before
    for page in PAGES:
        shown = vera.get(f"{page}?id={incident}&name={quote(NAME)}")
        assert shown.status_code == 200
        assert re.findall(r'formaction="([^"]*)"|action="(/[is][^"?]*/[^"]*)"', shown.text) == []


def test_a_form_that_is_too_large_or_none_at_all_is_refused(board: Board, ada: Person) -> None:
    assert ada.post("/incidents/retry", {"id": "1" * 600_000}).status_code == 413
    for body in (b"\xff\xfe=%", b"&" * 30_000, b"id", b"%00=%00", b""):
        assert ada.post("/incidents/retry", body).status_code == 403


# Headers


def test_no_other_host_s_name_is_answered_so_that_no_page_elsewhere_can_be_made_to_point_here(
    board: Board, ada: Person
) -> None:
    port = board.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert ada.get("/", Host=host).status_code in (400, 421), host
        assert ada.get("/login", Host=host).status_code in (400, 421), host
    assert ada.get("/changes", Host=f"localhost:{port}").status_code == 200


def test_every_answer_forbids_frames_foreign_scripts_and_being_kept(
    board: Board, ada: Person, incident: int
) -> None:
    stranger = board.person()
    answers = [ada.get(f"{page}?id={incident}&name={quote(NAME)}") for page in PAGES]
    answers += [
        stranger.get("/"),
        stranger.get("/login"),
        stranger.get("/none"),
        stranger.get("/static/board.css"),
    ]
    answers += [
        ada.get("/incident?id=9999"),
        stranger.post("/login", {}),
        stranger.get("/", Host="evil.example"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        kept = "no-cache" if "static" in answer.url else "no-store"
        assert answer.headers["cache-control"] == kept
        assert "server" not in answer.headers
        assert not re.search(r"<script(?! src=)|\sstyle=|\son[a-z]+=", answer.text)


# Users


def test_a_user_has_a_name_a_role_and_a_password_that_nobody_can_read(board: Board) -> None:
    for name, role, password in (
        ("", "admin", PASSWORD), ("a b", "admin", PASSWORD), ("-a", "admin", PASSWORD), ("eve", "root", PASSWORD),
        ("eve", "admin", "short"), ("eve", "admin", "x" * 2_000),
    ):  # fmt: skip
        with pytest.raises(IntegrationError) as refused:
            users.add(board.database, name, role, password)
        assert password not in refused.value.message
    with pytest.raises(IntegrationError, match="did you mean 'vera'"):
        users.remove(board.database, "verra")
    [held] = query(board.database, "SELECT password FROM board_users WHERE name = 'ada'")
    assert held["password"].startswith("scrypt$32768$8$3$")
    assert users.verify(board.database, "ada", PASSWORD) == users.User("ada", "admin")
    assert users.verify(board.database, "ada\0", "\ud800") is None


def test_a_database_that_is_away_is_said_and_nothing_of_it(board: Board, ada: Person) -> None:
    away = Database("postgresql://nobody:secret@127.0.0.1:1/none", pool_size=1)
    with serving(away, settings_of(board.database)) as served:
        person = Person(served.url)
        person.http.cookies["board"] = ada.http.cookies["board"]
        for path in (*PAGES, "/login/link?token=x"):
            answer = person.get(path)
            assert answer.status_code == 503
            assert "The database does not answer" in answer.text
            assert "secret" not in answer.text
            assert "127.0.0.1" not in answer.text
        assert person.log_in("ada", PASSWORD).status_code == 503
        assert person.get("/login").status_code == 200
    away.close()
