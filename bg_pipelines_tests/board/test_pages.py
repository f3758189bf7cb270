"""What the pages show: what is wrong, and where; of thousands the first; a stranger's text as text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from bg_pipelines.board.pages import PAGES
from bg_pipelines.operations.trends import sample
from bg_pipelines.wording import visible
from bg_pipelines_tests import nasty
from bg_pipelines_tests.board.conftest import Board, Person
from bg_pipelines_tests.support import query

RUN = "2f6b1c1e-0000-4000-8000-000000000001"
VOID = {"meta", "link", "input", "br", "path"}


class Page(HTMLParser):
    """A page as a browser reads it: its text, its elements, and the headings and labels that it lacks."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.tags = "", list[str](), list[tuple[str, dict[str, str | None]]]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page(person: Person, path: str) -> Page:
    answer = person.get(path)
    assert answer.status_code == 200, answer.text
    found = Page(answer.text)
    assert found.open == []
    return found


@pytest.fixture
def many(board: Board) -> Callable[[int], None]:
    """So many stores, half of which fail, each with an incident of its own and ten attempts."""

    def make(number: int) -> None:
        for statement in (
            "INSERT INTO stores (name, platform, domain, credentials, tier) SELECT 'shop-' || n, 'shopify', 'shop-' || n || "
            f"'.example', '', 1 + n %% 3 FROM generate_series(1, {number}) n",
            "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, store_id) "
            "SELECT 'store:' || id || ':store:scopes', true, 'scopes', 'high', 'shopify', 'store ' || name, 'grant it', id "
            "FROM stores WHERE id %% 2 = 0",
            "INSERT INTO sync_states (store_id, resource, attempts, incident_id) SELECT s.id, unit, CASE WHEN i.id IS NULL THEN 0 "
            "ELSE 1 END, i.id FROM stores s LEFT JOIN incidents i ON i.store_id = s.id, unnest(ARRAY['store', 'orders']) unit",
            "INSERT INTO sync_attempts (run_id, store_id, resource, status, finished_at) SELECT 'r', id, 'orders', 'failed', now() "
            "FROM stores, generate_series(1, 10)",
            f"INSERT INTO activity (who, via, action, subject, succeeded) SELECT 'ada', 'board', 'a', n::text, true "
            f"FROM generate_series(1, {number}) n",
        ):
            query(board.database, statement)

    return make


@pytest.fixture
def statements(board: Board) -> Iterator[list[str]]:
    """What is asked of the database."""
    asked: list[str] = []

    class Counting(psycopg.Cursor[Any]):
        def execute(self, statement: Any, *rest: Any, **options: Any) -> Any:
            asked.append(str(statement))
            return super().execute(statement, *rest, **options)

    def count(connection: Any, *_: Any) -> None:
        connection.cursor_factory = Counting

    sa.event.listen(board.database.engine, "connect", count)
    board.database.engine.dispose()
    yield asked
    sa.event.remove(board.database.engine, "connect", count)
    board.database.engine.dispose()


def test_a_page_asks_as_much_of_the_database_whatever_the_number_of_stores(
    board: Board, many: Callable[[int], None], statements: list[str], ada: Person
) -> None:
    def asked() -> dict[str, int]:
        numbers = {}
        for path in PAGES:
            board.forget_figures()
            statements.clear()
            page(ada, f"{path}?id=1&name=shop-2")
            numbers[path] = len(statements)
        return numbers

    many(2)
    few = asked()
    query(board.database, "TRUNCATE stores, incidents, activity RESTART IDENTITY CASCADE")
    many(300)
    assert asked() == few
    assert max(few.values()) <= 50, few


def test_lists_are_cut_and_lead_to_the_rest(board: Board, many: Callable[[int], None], ada: Person) -> None:
    many(120)
    front = page(ada, "/")
    assert "and 40 more" in front.words
    assert sum(tag == "input" and given.get("type") == "checkbox" for tag, given in front.tags) == 20
    for path in ("/incidents", "/stores", "/changes"):
        seen = set[str]()
        following: str | None = path
        for _ in range(5):
            html = ada.get(following).text
            rows = re.findall(r'<th scope="row">(.*?)</th>', html, re.DOTALL)
            assert 0 < len(rows) <= 50
            seen.update(rows)
            found = re.search(r'<a href="([^"]*)">And more', html)
            if found is None:
                break
            following = found[1].replace("&amp;", "&")
        assert len(seen) == {"/incidents": 60, "/stores": 120, "/changes": 120}[path]


def test_stores_are_found_by_name_domain_state_and_tier(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    add_store("harbor", tier=1)
    add_incident(add_store("quay", domain="50%_off.example"))
    add_store("pier", tier=3)
    query(board.database, "UPDATE stores SET paused_at = now() WHERE name = 'pier'")

    def found(address: str) -> list[str]:
        shown = page(ada, address).tags
        links = [given.get("href") or "" for tag, given in shown if tag == "a"]
        return [link.removeprefix("/store?name=") for link in links if link.startswith("/store?")]

    assert found("/stores") == ["harbor", "pier", "quay"]
    assert found("/stores?search=ARB") == ["harbor"]
    assert found("/stores?search=50%25_") == ["quay"]
    assert found("/stores?search=%25") == ["quay"]
    assert found("/stores?tier=3") == ["pier"]
    assert found("/stores?state=needs+attention") == ["quay"]
    assert found("/stores?state=paused") == ["pier"]
    assert found("/stores?state=ok") == ["harbor"]
    assert found("/stores?state=late") == found("/stores?search=nothing") == []
    assert ada.get("/stores?state=lat").status_code == 404
    assert "did you mean" in Page(ada.get("/stores?state=lat").text).text


def test_a_broken_store_is_found_from_the_front_page_in_two_clicks(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    number = add_incident(add_store("harbor"))
    query(
        board.database,
        "INSERT INTO sync_attempts (run_id, store_id, resource, status, finished_at, budget_used, error) SELECT %s, id, 'store', "
        "'failed', now(), 0.375, "
        '\'{"error_type": "credentials", "message": "the token is revoked"}\' FROM stores',
        RUN,
    )
    front = page(ada, "/")
    assert front.words.startswith("1 incident needs attention")
    first = next(
        given["href"] for tag, given in front.tags if tag == "a" and "/incident?" in str(given.get("href"))
    )
    assert first == f"/incident?id={number}"
    incident = page(ada, first)
    assert "bg-pipelines stores" in incident.text, "what to do"
    assert "1 unit of work, of 1 store" in incident.words
    second = next(
        given["href"] for tag, given in incident.tags if tag == "a" and "/store?" in str(given.get("href"))
    )
    store = page(ada, str(second))
    assert "harbor needs attention" in store.words
    assert ("a", f"http://127.0.0.1:3000/runs/{RUN}") in [
        (tag, given.get("href")) for tag, given in store.tags
    ]
    assert "attempt 1: the token is revoked" in store.words
    assert "38 % used up at the end of a pass" in store.words


def test_a_store_tells_when_its_token_ends_and_nothing_else_of_it(
    board: Board, add_store: Callable[..., int], ada: Person
) -> None:
    from bg_pipelines.database.secrets import Cipher
    from bg_pipelines_tests.support import KEY

    cipher = Cipher(KEY)
    add_store("renewed", credentials=cipher.encrypt(
        {"client_id": "id", "client_secret": "secret-1", "access_token": "secret-2", "expires_at": "2026-11-30T10:00:00+00:00"}
    ))  # fmt: skip
    add_store("kept", credentials=cipher.encrypt({"access_token": "secret-3"}))
    add_store("lost", credentials=b"what another key made")
    for name, words in (
        ("renewed", "ends 2026-11-30 10:00 UTC"),
        ("kept", "no end"),
        ("lost", "not readable"),
    ):
        shown = page(ada, f"/store?name={name}")
        assert words in shown.words
        assert "secret" not in shown.text


def test_trends_are_drawn_and_said_in_words(board: Board, add_store: Callable[..., int], ada: Person) -> None:
    query(board.database, "TRUNCATE figure_samples")
    add_store("harbor")
    assert "last hour: not known" in ada.get("/").text
    query(board.database, "UPDATE sync_states SET next_due_at = now()")
    sample(board.database)
    board.forget_figures()
    html = ada.get("/").text
    assert 'aria-label="stores_sync, stores due, last hour: 2 all the time"' in html
    assert re.search(r'd="M95\.0 2\.0h\.1"', html)


def test_the_front_page_says_that_nothing_is_started(
    board: Board, add_store: Callable[..., int], ada: Person
) -> None:
    add_store("harbor")
    assert "Nothing is running: the daemon has never run" in page(ada, "/").words


# Text of strangers


HOSTILE = {name: text for name, text in nasty.TEXTS.items() if 0 < len(text) < 30_000 and "\0" not in text}
HOSTILE |= {
    "a tag's end": '"><img src=x onerror=alert(1)>',
    "an attribute": "' onmouseover='alert(1)",
    "a template": "{{ 7 * 7 }}{% raw %}",
    "a link": "javascript:alert(1)",
    "a comment": "<!-- ]]> -->",
    "a title's end": "</title></script><script>alert(1)</script>",
}


def test_text_from_a_shop_is_shown_as_text_on_every_page(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    names = {}
    for what, text in HOSTILE.items():
        kept = text.encode(errors="replace").decode()[:3_000]
        number = add_store(kept, shop_name=kept, plan=kept, api_url=kept)
        names[what] = (kept, add_incident(number, message=kept, subject=f"store {kept}"))
        query(
            board.database,
            "INSERT INTO sync_attempts (run_id, store_id, resource, status, finished_at, error) VALUES (%s, %s, 'orders', "
            "'failed', now(), %s)",
            kept, number, json.dumps({"error_type": "bad_data", "message": kept}),
        )  # fmt: skip
        query(
            board.database,
            "INSERT INTO activity (who, via, action, subject, succeeded, outcome) VALUES ('ada', 'command', 'pause', %s, true, %s)",
            kept, kept,
        )  # fmt: skip
    ada.act("/incidents/retry")
    harmless = {"html", "head", "body", "a", "bdi", "h1", "p", "td", "th", "tr", "span", "code", "li"}
    for what, (kept, number) in names.items():
        for path in (
            f"/incident?id={number}",
            "/store?" + _query(name=kept),
            "/stores?" + _query(search=kept[:200]),
        ):
            html = ada.get(path).text
            found = Page(html)
            assert ada.get(path).status_code == 200, (what, path)
            assert visible(kept)[:100].strip() in found.text or path.startswith("/stores"), (what, path)
            assert found.open == [], (what, path)
            assert {tag for tag, _ in found.tags} - harmless <= {
                "meta", "title", "link", "script", "header", "nav", "ul", "form", "input", "button", "main", "div", "section",
                "h2", "dl", "dt", "dd", "fieldset", "legend", "label", "table", "caption", "thead", "tbody", "footer", "time",
                "br", "select", "option", "strong",
            }, (what, path)  # fmt: skip
            scripts = [given for tag, given in found.tags if tag == "script"]
            assert scripts == [{"src": "/static/board.js", "defer": None}]
            assert not [given for _, given in found.tags if any(name.startswith("on") for name in given)], (
                what,
                path,
            )
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u200b]", html), (what, path)
            hrefs = [given["href"] or "" for tag, given in found.tags if tag == "a"]
            assert {href.partition(":")[0] for href in hrefs if ":" in href.partition("/")[0]} <= {"http"}, (
                what,
                path,
            )
    for path in ("/", "/incidents", "/stores", "/changes"):
        found = page(ada, path)
        assert nasty.TRACE in found.text


def test_an_address_that_nobody_would_type_is_answered_all_the_same(board: Board, ada: Person) -> None:
    for place, (name, text) in enumerate(HOSTILE.items()):
        for path in list(PAGES)[place % 2 :: 2]:
            query_text = _query(
                name=text,
                id=text,
                search=text,
                state=text,
                tier=text,
                before=text,
                done=text,
                type=text,
                **{"from": text},
            )
            status = ada.get(f"{path}?{query_text}"[:8_000]).status_code
            assert status in (200, 404), (name, path, status)
    for number in ("9" * 15, "9" * 30, "-1", "1e5", "٣"):
        for path in PAGES:
            status = ada.get(
                f"{path}?" + _query(id=number, before=number, done=number, tier=number, **{"from": number})
            ).status_code
            assert status in (200, 404), (number, path, status)


def _query(**values: str) -> str:
    from urllib.parse import urlencode

    return urlencode(values, errors="replace")


# For everybody


def test_every_page_can_be_used_with_a_keyboard_and_a_screen_reader(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    number = add_incident(add_store("harbor"))
    paths = ["/", "/incidents", f"/incident?id={number}", "/stores", "/store?name=harbor", "/changes"]
    htmls = {path: ada.get(path).text for path in paths} | {"/login": board.person().get("/login").text}
    for path, html in htmls.items():
        found = Page(html)
        tags = [tag for tag, _ in found.tags]
        assert (tags.count("h1"), tags.count("main"), tags.count("title")) == (1, 1, 1), path
        assert 'href="#main"' in html
        assert '<html lang="en">' in html
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert all(below - above <= 1 for above, below in itertools.pairwise(levels)), path
        assert tags.count("table") == tags.count("caption"), path
        assert all("scope" in given for tag, given in found.tags if tag == "th"), path
        labelled = {given.get("for") for tag, given in found.tags if tag == "label"}
        inside = re.findall(r"<label>[^<]*<(?:input|select)[^>]*>", html)
        fields = [g for tag, g in found.tags if tag in ("input", "select") and g.get("type") != "hidden"]
        named = [g for g in fields if g.get("id", "-") in labelled or "aria-label" in g]
        assert len(named) + len(inside) == len(fields), path
        ids = [given["id"] for _, given in found.tags if "id" in given]
        assert len(ids) == len(set(ids)), path
