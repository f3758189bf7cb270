"""What each page of the board shows. All text is made harmless on its way into the page: as markup, and to the eye."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse, Response

from bg_pipelines.board import token_end
from bg_pipelines.board.figures import Cache
from bg_pipelines.board.session import Session
from bg_pipelines.board.sparkline import sparklines
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents import reading
from bg_pipelines.operations import activity
from bg_pipelines.operations.store_figures import STATES, find_stores, read_store
from bg_pipelines.operations.trends import NO_TREND
from bg_pipelines.queues import TIERS
from bg_pipelines.settings import Settings
from bg_pipelines.wording import counted, span, times, visible
from bg_pipelines.work.queue import clock

SHOWN = 20
"""Lines of one kind on the front page."""
PAGE = 50
"""Lines of a page of a list."""
DAGSTER_URL = "http://127.0.0.1:3000"


class Form:
    """The fields of a form, in their order."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self._fields if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._fields if key == name]


@dataclass(frozen=True)
class Look:
    """One request of somebody who is logged in."""

    settings: Settings
    database: Database
    cache: Cache
    session: Session
    query: QueryParams


# Writing


def _shown(value: Any) -> Any:
    """What stands in a page: no text of a stranger steers what is around it, and nothing is written where there is nothing."""
    if value is None:
        return ""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return visible(value)
    return value


_environment = Environment(
    loader=PackageLoader("bg_pipelines.board"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_shown,
)


def _moment(at: datetime | None) -> Markup:
    """A time as people read it, and machines, too."""
    if at is None:
        return Markup("")
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), f"{at:%d %b %H:%M:%S}"
    )


def _ago(at: datetime | None, now: datetime) -> Markup:
    if at is None:
        return Markup("never")
    seconds = (now - at).total_seconds()
    words = f"{span(seconds)} ago" if seconds >= 1 else f"in {span(-seconds)}" if seconds <= -1 else "now"
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(
        at.isoformat(timespec="seconds"), words
    )


def _code(text: str) -> Markup:
    """What stands between backticks is typed into a terminal."""
    parts = re.split(r"`([^`]+)`", visible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def _url(path: str, **query: Any) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


_environment.filters |= {"moment": _moment, "ago": _ago, "span": span, "code": _code, "number": _number}
_environment.globals |= {
    "url": _url,
    "counted": counted,
    "times": times,
    "spark": lambda trends, name, what, is_time=False: sparklines(
        trends.get(name, NO_TREND), what, span if is_time else _number
    ),
    "is_dagster_run": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
    "len": len,
}


def _page(look: Look, template: str, code: int = 200, /, **values: Any) -> Response:
    done = look.query.get("done", "")
    entry = (
        activity.find(look.database, int(done), look.session.user.name)
        if re.fullmatch(r"[0-9]{1,18}", done)
        else None
    )
    text = _environment.get_template(template).render(
        user=look.session.user,
        form_token=look.session.form_token,
        dagster=(look.settings.dagster_url or DAGSTER_URL).rstrip("/"),
        done=entry,
        **values,
    )
    return HTMLResponse(text.encode(errors="replace"), code)


def message(look: Look, status: int, text: str) -> Response:
    """A page that says one thing to whoever is logged in."""
    return _page(look, "message.html", status, text=text)


def anonymous_message(status: int, text: str) -> Response:
    """The same to anybody: it shows nothing else."""
    return _anonymous("alone.html", status, text=text)


def login(status: int, text: str, next_page: str = "") -> Response:
    return _anonymous("login.html", status, text=text, next_page=next_page)


def link(name: str, token: str) -> Response:
    return _anonymous("link.html", 200, name=name, token=token)


def _anonymous(template: str, status: int, **values: Any) -> Response:
    return HTMLResponse(_environment.get_template(template).render(**values).encode(errors="replace"), status)


# The pages


def front(look: Look, _: Form) -> Response:
    """Is all well, and if not: what is it, since when, does it get better, and what to do."""
    figures = look.cache.read()
    status, metrics = figures.status, figures.status.metrics
    return _page(
        look,
        "front.html",
        now=metrics.at,
        status=status,
        metrics=metrics,
        daemon=status.daemon,
        trends=figures.trends,
        is_well=status.is_well and status.trouble is None,
        incidents=status.incidents[:SHOWN],
        freshness=[line for line in metrics.freshness if line.stores],
        retrying=status.retrying[:SHOWN],
        late=[line for line in metrics.stores if not line.current],
        late_total=sum(job.late for job in metrics.jobs),
        texts={state: number for state, number in metrics.texts.items() if number},
        entries=activity.list_activity(look.database, limit=10),
    )


def incidents(look: Look, _: Form) -> Response:
    """All that are open, or the resolved ones; fifty at a time."""
    resolved = look.query.get("show") == "resolved"
    error_type = look.query.get("type") or None
    first = _whole(look, "from")
    rows = reading.list_incidents(
        look.database,
        status="resolved" if resolved else "open",
        error_type=error_type,
        limit=PAGE + 1,
        offset=first,
    )
    return _page(
        look,
        "incidents.html",
        now=_now(look),
        incidents=rows[:PAGE],
        first=first,
        following=first + PAGE if len(rows) > PAGE else None,
        resolved=resolved,
        error_type=error_type,
        types=sorted(ErrorType),
    )


def incident(look: Look, _: Form) -> Response:
    """Everything about one, and what to do about it."""
    details = reading.show(look.database, _whole(look, "id"))
    return _page(look, "incident.html", now=_now(look), details=details, incident=details.incident)


def stores(look: Look, _: Form) -> Response:
    """Stores by name, of which some are looked for."""
    state, tier = look.query.get("state") or None, _whole(look, "tier") or None
    search, after = look.query.get("search", "").strip(), look.query.get("after", "")
    found = find_stores(look.database, search=search, state=state, tier=tier, limit=PAGE, after=after)
    return _page(
        look,
        "stores.html",
        now=found.at,
        found=found,
        search=search,
        state=state,
        tier=tier,
        after=after,
        states=STATES,
        tiers=sorted(TIERS),
    )


def store(look: Look, _: Form) -> Response:
    """Everything about one store."""
    details = read_store(look.database, look.query.get("name", ""))
    ends = token_end.describe(look.settings, details.credentials)
    return _page(look, "store.html", now=details.at, store=details, token_ends=ends)


def changes(look: Look, _: Form) -> Response:
    """The audit trail, the newest first."""
    before = _whole(look, "before") or None
    entries = activity.list_activity(look.database, limit=PAGE + 1, before=before)
    return _page(
        look,
        "changes.html",
        now=_now(look),
        entries=entries[:PAGE],
        following=entries[PAGE - 1].id if len(entries) > PAGE else None,
    )


PAGES: dict[str, Callable[[Look, Form], Response]] = {
    "/": front,
    "/incidents": incidents,
    "/incident": incident,
    "/stores": stores,
    "/store": store,
    "/changes": changes,
}
"""By path. Each is a GET, for whoever is logged in."""


def _whole(look: Look, name: str) -> int:
    """A number of the address; 0 where there is none, or something else."""
    text = look.query.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def _now(look: Look) -> datetime:
    with look.database.transaction() as connection:
        return clock(connection)
