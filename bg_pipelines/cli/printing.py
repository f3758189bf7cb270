"""What commands share: their groups, the console, tables, JSON, the database, and arguments of several topics."""

from __future__ import annotations

import getpass
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import visible

if TYPE_CHECKING:
    from bg_pipelines.database.engine import Database
    from bg_pipelines.incidents.reading import IncidentRow
    from bg_pipelines.operations.activity import Actor
    from bg_pipelines.operations.status import OpenIncident


Incident = TypeVar("Incident", "IncidentRow", "OpenIncident")


class Group(typer.core.TyperGroup):
    """A group that answers an unknown option as it answers an unknown command: with the nearest.

    What was typed is quoted harmlessly, and refused where no database and no vendor could take it.
    """

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **options: Any) -> Any:
        with _harmless_faults():
            for place, argument in enumerate(args, start=1):
                if any("\ud800" <= character <= "\udfff" or character == "\0" for character in argument):
                    raise typer.BadParameter(f"argument {place}, {argument!r}, is not UTF-8")
            return super().make_context(info_name, args, *rest, **options)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _harmless_faults():
            return super().invoke(ctx)


@contextmanager
def _harmless_faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Typer keeps its own copies of click's exceptions private; these attributes are what marks them.
        if isinstance(message := getattr(error, "message", None), str):
            if close := getattr(error, "possibilities", None):
                message = f"{message}. Did you mean {' or '.join(close)}?"
                error.possibilities = None  # type: ignore[attr-defined]
            error.message = visible(message)  # type: ignore[attr-defined]
        raise


class HarmlessConsole(Console):
    """A console on which no text of a stranger is alive: what would steer the terminal is written out."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


def unbreakable_output() -> None:
    """What a terminal or a pipe cannot show is written out: not every one takes UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


PIPE_COLUMNS = 400
console = HarmlessConsole(markup=False, highlight=False)
errors = HarmlessConsole(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
By = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Your name, kept with the change.", show_default="the user logged in"),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Store name.")]
CustomerId = Annotated[
    str,
    typer.Argument(
        metavar="CUSTOMER", help="The customer's id; the number at the end of a gid:// is enough."
    ),
]
SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


def new_table(*columns: str, **options: Any) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, **options)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def alike(incidents: Sequence[Incident]) -> list[list[Incident]]:
    """Incidents in their order, those of more than three that say the same together: 185 of one kind are one line."""
    groups: dict[tuple[Any, ...], list[Incident]] = {}
    for one in incidents:
        groups.setdefault(_said(one), []).append(one)
    lines = []
    for one in incidents:
        group = groups[_said(one)]
        if len(group) <= 3:
            lines.append([one])
        elif one is group[0]:
            lines.append(group)
    return lines


def _said(one: Incident) -> tuple[Any, ...]:
    return one.severity, one.error_type, one.message, one.needs_attention, one.owner


def one_line(*parts: str | tuple[str, str]) -> Text:
    """One line, whatever its length: cut at a terminal's width, in full elsewhere."""
    text = Text.assemble(
        *((visible(part) if isinstance(part, str) else (visible(part[0]), part[1])) for part in parts)
    )
    text.no_wrap, text.overflow = True, "ellipsis" if console.is_terminal else "ignore"
    return text


def print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


@contextmanager
def open_migrated(*, make: bool = False) -> Iterator[Database]:
    """The application's database, at the newest revision; with `make` a home is made where none is.

    Raises IntegrationError, also (bad_data) for a value that no column takes, such as an id of thirty digits.
    """
    # Imported here, so that help does not wait for a database driver.
    import psycopg
    import sqlalchemy as sa

    from bg_pipelines.database.engine import open_database, require_home
    from bg_pipelines.settings import load_settings

    settings = load_settings()
    if not make:
        require_home(settings)
    database = open_database(settings)
    try:
        database.require_migrated()
        yield database
    except (psycopg.DataError, sa.exc.DataError) as error:
        what = type(getattr(error, "orig", None) or error).__name__
        message = (
            f"a value that was given is too large, or not of its kind ({what}); nothing was changed by it"
        )
        raise IntegrationError.of(ErrorType.BAD_DATA, message, source="command line") from None
    finally:
        database.close()


def in_home() -> str:
    """Where the tables are, where nothing is in them: it may be another place than was meant. Nothing for a server's."""
    from bg_pipelines.settings import load_settings

    settings = load_settings()
    return f" in {settings.home}" if settings.embedded else ""


def logged_in() -> str:
    """Who is logged in, as the operating system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def typist(by: str | None = None) -> Actor:
    """Who types this command, for the audit trail: by the name that is given, or as the operating system knows them."""
    from bg_pipelines.operations.activity import COMMAND, Actor

    return Actor(by or logged_in(), COMMAND)


def typed_secret(name: str, *, again: bool = False) -> str:
    """Typed unseen, twice with `again`; from a pipe, its next line."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True, confirmation_prompt=again))
    return sys.stdin.readline().strip()
