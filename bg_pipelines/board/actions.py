"""What each button of the board does: the same as the command of its name, by the user who is logged in.

Whatever comes of it, its entry in the audit trail says so, and the page that follows shows that entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from bg_pipelines.board.pages import Form, Look
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations import actions
from bg_pipelines.operations.activity import BOARD, Actor, Done
from bg_pipelines.wording import storable


def _incidents(form: Form) -> list[int]:
    """The one whose own button it was, or all that are ticked. Raises IntegrationError (bad_data) where there is none."""
    given = form.all("only") or form.all("id")
    ids = [int(text) for text in given if re.fullmatch(r"[0-9]{1,15}", text)]
    if not ids:
        raise IntegrationError.of(
            ErrorType.BAD_DATA, "No incident is ticked. Nothing was done.", source="board"
        )
    return ids


def retry(look: Look, form: Form) -> Done:
    return actions.retry_incidents(look.database, _incidents(form), _actor(look))


def resolve(look: Look, form: Form) -> Done:
    return actions.resolve_incidents(look.database, _incidents(form), _actor(look), note=form.get("note"))


def assign(look: Look, form: Form) -> Done:
    return actions.assign_incidents(look.database, _incidents(form), _actor(look), to=form.get("to")[:100])


def pause(look: Look, form: Form) -> Done:
    return actions.pause_stores(look.database, [_store(form)], _actor(look))


def resume(look: Look, form: Form) -> Done:
    return actions.resume_stores(look.database, [_store(form)], _actor(look))


def sync(look: Look, form: Form) -> Done:
    return actions.sync_store(look.database, _store(form), _actor(look))


def read_whole(look: Look, form: Form) -> Done:
    return actions.sync_store(look.database, _store(form), _actor(look), full_pass=True)


def _store(form: Form) -> str:
    return storable(form.get("store"))


def _actor(look: Look) -> Actor:
    return Actor(look.session.user.name, BOARD)


def _then_back(act: Callable[[Look, Form], Done]) -> Callable[[Look, Form], Response]:
    """Act, and go back to the page of the button, with what came of it."""

    def handler(look: Look, form: Form) -> Response:
        try:
            done = act(look, form)
        finally:
            look.cache.changed()
        page = form.get("page")
        if page in ("/incident", "/store"):
            query = {"id": form.get("id"), "name": form.get("name"), "done": done.id}
        else:
            page, query = page if page == "/incidents" else "/", {"done": done.id}
        given = {name: value for name, value in query.items() if value != ""}
        return RedirectResponse(f"{page}?{urlencode(given, errors='replace')}", status_code=303)

    return handler


ACTIONS: dict[str, Callable[[Look, Form], Response]] = {
    "/incidents/retry": _then_back(retry),
    "/incidents/resolve": _then_back(resolve),
    "/incidents/assign": _then_back(assign),
    "/store/pause": _then_back(pause),
    "/store/resume": _then_back(resume),
    "/store/sync": _then_back(sync),
    "/store/read-whole": _then_back(read_whole),
}
"""By path. Each is a POST, for an admin."""
