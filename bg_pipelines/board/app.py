"""The board as an application: routes, and what stands before each of them.

Nothing is shown, and nothing done, without a session. A form is taken from a page of the board alone: its token is the
session's, and its Origin is the host that it was sent to. Only an admin's does anything.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bg_pipelines.board import actions, pages, session, users
from bg_pipelines.board.figures import Cache
from bg_pipelines.board.pages import Form, Look
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.activity import BOARD, Actor, note
from bg_pipelines.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 512 * 1024
"""Of a form: the numbers of ten thousand incidents."""
REFRESH = "x-board-refresh"
"""The header of a page that refreshes itself."""
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # Not `no-referrer`: browsers would then send forms with the Origin `null`, which could be anybody's.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}

_COOKIES = {True: "__Host-board", False: "board"}
"""By whether it is served over TLS. A browser takes a cookie of the first name only then, and from this very host."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Board:
    """What a board needs: `hosts` are those that it answers to, with their ports."""

    settings: Settings
    database: Database
    dagster: Database
    hosts: frozenset[str]
    cache: Cache

    @property
    def is_secure(self) -> bool:
        return (self.settings.board_url or "").startswith("https://")

    @property
    def cookie(self) -> str:
        return _COOKIES[self.is_secure]


def hosts(settings: Settings, host: str, port: int) -> frozenset[str]:
    """What may stand in a request's Host header: a page of another name that is made to point here is refused."""
    named = {*LOOPBACK, f"[{host}]" if ":" in host else host}
    known = {f"{name}:{port}" for name in named}
    if settings.board_url:
        known.add(urlsplit(settings.board_url).netloc.lower())
    return frozenset(known)


def make_app(
    settings: Settings, database: Database, dagster: Database, known_hosts: frozenset[str]
) -> Starlette:
    """The board with these settings, answering to these hosts."""
    cache = Cache(database, dagster)
    board = Board(settings, database, dagster, known_hosts, cache)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        cache.keep_warm()
        yield
        cache.close()

    app = Starlette(
        routes=[
            Route("/static/{name}", _static),
            Route("/login", _open(board, _show_login)),
            Route("/login", _open(board, _log_in), methods=["POST"]),
            Route("/login/link", _open(board, _show_link)),
            Route("/login/link", _open(board, _use_link), methods=["POST"]),
            Route("/logout", _guarded(board, _log_out), methods=["POST"]),
            *(Route(path, _guarded(board, page)) for path, page in pages.PAGES.items()),
            *(
                Route(path, _guarded(board, action, acts=True), methods=["POST"])
                for path, action in actions.ACTIONS.items()
            ),
        ],
        lifespan=lifespan,
        exception_handlers={404: _not_found, 405: _not_found},
    )
    app.state.board = board
    app.router.redirect_slashes = False
    app.add_middleware(_Doorkeeper, hosts=known_hosts)
    return app


class _Doorkeeper:
    """Refuses other hosts' names, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given),
                ]
            await send(message)

        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or named[0] not in self._hosts:
            refused = PlainTextResponse("not a host of this board: set BG_BOARD_URL\n", status_code=421)
            await refused(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


# Before each page and each action

Handler = Callable[[Look, Form], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(board: Board, handler: Handler, *, acts: bool = False) -> Endpoint:
    """For whoever is logged in; with `acts`, and may act."""

    def answer(request: Request, form: Form | None) -> Response:
        token = request.cookies.get(board.cookie, "")
        found = session.find(board.database, token, is_use=REFRESH not in request.headers) if token else None
        if found is None:
            return _not_logged_in(request)
        look = Look(board.settings, board.database, board.cache, found, request.query_params)
        if form is not None:
            if not _is_own(request) or not found.is_form_token(form.get("form_token", "")):
                return pages.message(
                    look,
                    403,
                    "This form was not sent by a page of this board, or by an old one. Nothing was done.",
                )
            if acts and not found.user.may_act:
                return pages.message(look, 403, f"{found.user.name} may look and not act. Nothing was done.")
        try:
            return handler(look, form or Form([]))
        except IntegrationError as error:
            if error.error_type is ErrorType.DATABASE:
                raise
            return pages.message(look, 404 if form is None else 409, error.message)

    return partial(_safely, answer)


def _open(board: Board, handler: Callable[[Board, Request, Form], Response]) -> Endpoint:
    """For whoever is not logged in yet."""

    def answer(request: Request, form: Form | None) -> Response:
        if form is not None and not _is_own(request):
            return pages.anonymous_message(
                403, "This form was not sent by a page of this board. Nothing was done."
            )
        return handler(board, request, form or Form([]))

    return partial(_safely, answer)


async def _safely(answer: Callable[[Request, Form | None], Response], request: Request) -> Response:
    """What goes wrong is said, without what a stranger is not to know."""
    form = None
    if request.method == "POST":
        form = await _form(request)
        if form is None:
            return pages.anonymous_message(413, "This form is too large. Nothing was done.")
    try:
        return await run_in_threadpool(answer, request, form)
    except IntegrationError:
        return pages.anonymous_message(
            503, "The database does not answer. Try again in a moment; `bg-pipelines check` tells more."
        )
    except Exception as error:  # noqa: BLE001 (whatever it is, its text may hold what nobody is to see)
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "bg_pipelines" in frame.filename
        ]
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
        log.error("board: unexpected %s at %s", type(error).__name__, where)
        return pages.anonymous_message(500, "A fault of the board: its log names the place.")


async def _form(request: Request) -> Form | None:
    """None where it is too large."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    try:
        return Form(parse_qsl(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=20_000))
    except ValueError:
        return Form([])


def _is_own(request: Request) -> bool:
    """Whether a page of this very host has sent it, as every browser of these years says."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return site == "same-origin"
    try:
        return urlsplit(origin).netloc.lower() == request.headers["host"].lower()
    except ValueError:
        return False


def _not_logged_in(request: Request) -> Response:
    if REFRESH in request.headers:
        return PlainTextResponse("log in again\n", status_code=401)
    if request.method == "POST":
        return pages.login(403, "Your session has ended. Nothing was done: log in, and do it again.")
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse("/login" if to == "/" else f"/login?next={quote(to)}", status_code=303)


# Logging in and out

_LOGINS = threading.BoundedSemaphore(8)
"""Logins at a time: those that wait for a look at their password hold none of the threads that all others need."""


def _show_login(_board: Board, request: Request, _: Form) -> Response:
    return pages.login(200, "", request.query_params.get("next", ""))


def _log_in(board: Board, _: Request, form: Form) -> Response:
    next_page = form.get("next", "")
    if not _LOGINS.acquire(blocking=False):
        answer = pages.login(
            429, "Too many people log in at this moment: try again in a few seconds.", next_page
        )
        answer.headers["retry-after"] = "5"
        return answer
    try:
        return _try_login(board, form.get("name", "").strip(), form.get("password", ""), next_page)
    finally:
        _LOGINS.release()


def _try_login(board: Board, name: str, password: str, next_page: str) -> Response:
    if wait := session.take_try(board.database, name):
        text = f"Too many logins by this name have failed: wait {-(-wait // 60)} min."
        answer = pages.login(429, text, next_page)
        answer.headers["retry-after"] = str(wait)
        return answer
    user = users.verify(board.database, name, password)
    if user is None:
        return pages.login(401, "This name and this password are not those of a user.", next_page)
    session.forget_tries(board.database, name)
    return _logged_in(board, user.name, _local(next_page))


def _show_link(board: Board, request: Request, _: Form) -> Response:
    token = request.query_params.get("token", "")
    name = session.link_user(board.database, token)
    if name is None:
        return pages.login(403, "This link was used already, or is too old.")
    return pages.link(name, token)


def _use_link(board: Board, _: Request, form: Form) -> Response:
    name = session.use_link(board.database, form.get("token", ""))
    if name is None:
        return pages.login(403, "This link was used already, or is too old.")
    return _logged_in(board, name, "/")


def _logged_in(board: Board, name: str, to: str) -> Response:
    token = session.begin(board.database, name)
    note(board.database, Actor(name, BOARD), "log in", "", "")
    answer = RedirectResponse(to, status_code=303)
    answer.set_cookie(board.cookie, token, path="/", secure=board.is_secure, httponly=True, samesite="lax")
    return answer


def _log_out(look: Look, _: Form) -> Response:
    session.end(look.database, look.session.token)
    answer = RedirectResponse("/login", status_code=303)
    for is_secure, name in _COOKIES.items():
        answer.delete_cookie(name, path="/", secure=is_secure, httponly=True, samesite="lax")
    return answer


def _local(to: str) -> str:
    """A page of this board, whatever a link to the login page said."""
    return (
        to if to.startswith("/") and not to.startswith("//") and "\\" not in to and to.isprintable() else "/"
    )


# Files and the rest

_FILES: Mapping[str, str] = {
    "board.css": "text/css; charset=utf-8",
    "board.js": "text/javascript; charset=utf-8",
    "board.svg": "image/svg+xml",
}


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if (kind := _FILES.get(name)) is None:
        return await _not_found(request, None)
    content = resources.files("bg_pipelines.board").joinpath("static", name).read_bytes()
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


async def _not_found(_: Request, __: Any) -> Response:
    return pages.anonymous_message(404, "There is no such page.")
