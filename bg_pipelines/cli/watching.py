"""`bg-pipelines status --watch`: the page, read again every two seconds, and keys that do something about what is on it.

    up, down or k, j   choose an incident, or a store that is retried
    r                  retry it now
    p                  pause its store
    o                  open it: what `incidents show` says; any key closes it, arrows scroll
    q                  quit

What is done is in the audit trail, as if it had been typed. Where there is no keyboard (a pipe) the page is shown alone.
"""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.live import Live
from rich.segment import Segment, Segments
from rich.text import Text

from bg_pipelines.cli.incidents import incident_page
from bg_pipelines.cli.printing import one_line
from bg_pipelines.cli.status_page import Failing, failing, status_page
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents import reading
from bg_pipelines.operations import actions
from bg_pipelines.operations.activity import Actor
from bg_pipelines.operations.status import FailingStore, Status
from bg_pipelines.operations.trends import Trend, read_trends
from bg_pipelines.wording import counted, flat

AGAIN_SECONDS = 2.0
_KEYS = {b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down"}
_ONE_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|[\s\S]")
_HELP = "↑ ↓ choose   r retry   p pause its store   o open   q quit"


class Watching:
    """What is on the screen, and what a key does to it. `read` reads the state anew."""

    def __init__(
        self, console: Console, database: Database, read: Callable[[], Status], actor: Actor
    ) -> None:
        self.console = console
        self.database = database
        self.actor = actor
        self._read = read
        self._state = read()
        self._trends: Mapping[str, Trend] = read_trends(database)
        self._fault = ""
        self._chosen = 0
        self._said = ""
        self._asked: Callable[[], str] | None = None
        """What a `y` does."""
        self._opened: RenderableType | None = None
        self._scrolled = 0

    def watch(self) -> None:
        """Until `q` or KeyboardInterrupt."""
        with _keyboard() as keys, Live(self.page(), console=self.console, screen=True) as live:
            look_at = time.monotonic() + AGAIN_SECONDS
            while True:
                key = keys(max(0.0, look_at - time.monotonic()))
                if key is not None and not self.press(key):
                    return
                if key is None or time.monotonic() >= look_at:
                    self.look()
                    look_at = time.monotonic() + AGAIN_SECONDS
                live.update(self.page(), refresh=True)

    def look(self) -> None:
        """Read it anew; what was last known stays while the database is away."""
        chosen = self._one()
        try:
            self._state, self._trends = self._read(), read_trends(self.database)
        except IntegrationError as error:
            self._fault = error.message
            return
        self._fault = ""
        # The same one stays chosen, wherever its line has moved.
        for place, one in enumerate(failing(self._state)):
            if chosen is not None and _key(one) == _key(chosen):
                self._chosen = place

    def press(self, key: str) -> bool:
        """Do what a key means; returns whether to go on."""
        if self._opened is not None:
            if key in ("up", "down"):
                self._scrolled = max(0, self._scrolled + (1 if key == "down" else -1))
            else:
                self._opened = None
            return True
        if self._asked is not None:
            act, self._asked = self._asked, None
            self._act(act if key == "y" else lambda: "nothing was done")
            return True
        if key == "q":
            return False
        if key in ("up", "down"):
            last = len(failing(self._state)) - 1
            self._chosen = max(0, min(last, self._chosen + (1 if key == "down" else -1)))
            self._said = ""
        elif key in ("r", "p", "o"):
            one = self._one()
            self._act(lambda: "nothing is chosen: nothing fails" if one is None else self._do(key, one))
        return True

    def page(self) -> RenderableType:
        if self._opened is not None:
            lines = self.console.render_lines(self._opened, pad=False)
            self._scrolled = min(self._scrolled, max(0, len(lines) - 3))
            shown = lines[self._scrolled : self._scrolled + self.console.height - 1]
            rows = Segments([segment for line in shown for segment in (*line, Segment.line())])
            return Lines(one_line(("any key goes back, ↑ ↓ scroll", "dim")), rows)
        below: list[Text] = [one_line((self._fault, "bold red"))] if self._fault else []
        below += [one_line((flat(self._said), "bold"))] if self._said else []
        below.append(one_line((_HELP, "dim")))
        return status_page(self._state, self._trends, self.console, chosen=self._one(), below=below)

    def _one(self) -> Failing | None:
        known = failing(self._state)
        return known[min(self._chosen, len(known) - 1)] if known else None

    def _do(self, key: str, one: Failing) -> str:
        """Raises IntegrationError."""
        ids = [incident.id for incident in one] if isinstance(one, list) else []
        stores = _stores(one)
        if key == "o":
            number = ids[0] if ids else one.incident if isinstance(one, FailingStore) else None
            if number is None:
                return "it is retried automatically and has no incident"
            self._opened, self._scrolled = incident_page(reading.show(self.database, number)), 0
            return ""
        if key == "p":
            if not stores:
                return "it is no store's: nothing to pause"
            return self._ask(len(stores), "pause", "store", lambda: self._pause(stores))
        if isinstance(one, FailingStore):
            return actions.sync_store(self.database, one.store, self.actor).outcome
        return self._ask(
            len(ids),
            "retry",
            "incident",
            lambda: actions.retry_incidents(self.database, ids, self.actor).outcome,
        )

    def _pause(self, stores: list[str]) -> str:
        return actions.pause_stores(self.database, stores, self.actor).outcome

    def _ask(self, number: int, verb: str, noun: str, act: Callable[[], str]) -> str:
        """Of one at once; of more only where a person says so."""
        if number == 1:
            return act()
        self._asked = act
        return f"{verb} {counted(number, noun)}? y does, any other key does not"

    def _act(self, act: Callable[[], str]) -> None:
        try:
            self._said = act()
        except IntegrationError as error:
            self._said = error.message
        if self._asked is None and self._opened is None:
            self.look()


def _key(one: Failing) -> tuple[str, object]:
    return (
        ("store", (one.store, one.error_type)) if isinstance(one, FailingStore) else ("incident", one[0].id)
    )


def _stores(one: Failing) -> list[str]:
    if isinstance(one, FailingStore):
        return [one.store]
    names = (
        incident.subject.removeprefix("store ") for incident in one if incident.subject.startswith("store ")
    )
    return list(dict.fromkeys(names))


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str | None]]:
    """What waits for a key, so many seconds at most; None: none was pressed. The terminal is as it was at the end."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield _sleep
        return
    place = sys.stdin.fileno()
    before = termios.tcgetattr(place)

    pressed: list[bytes] = []

    def key(seconds: float) -> str | None:
        if not pressed:
            if not select.select([place], [], [], seconds)[0]:
                return None
            pressed.extend(_ONE_KEY.findall(os.read(place, 1024)))
            if not pressed:  # the terminal is gone
                raise KeyboardInterrupt
        one = pressed.pop(0)
        return _KEYS.get(one) or one[:1].decode("latin-1").lower()

    tty.setcbreak(place)
    try:
        yield key
    finally:
        termios.tcsetattr(place, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
