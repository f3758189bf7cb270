"""What commands share: their groups, the console, tables, JSON, the database, and arguments of several topics."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bg_pipelines.database.engine import Database


class Group(typer.core.TyperGroup):
    """A group that answers an unknown option as it answers an unknown command: with the nearest."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer keeps its own copy of click's NoSuchOption private; this attribute is what marks it.
            if close := getattr(error, "possibilities", None):
                error.message = f"{error.message}. Did you mean {' or '.join(close)}?"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            raise


PIPE_COLUMNS = 400
console = Console(markup=False, highlight=False)
errors = Console(stderr=True)
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


def one_line(*parts: str | tuple[str, str]) -> Text:
    """One line, whatever its length: cut at a terminal's width, in full elsewhere."""
    text = Text.assemble(*parts)
    text.no_wrap, text.overflow = True, "ellipsis" if console.is_terminal else "ignore"
    return text


def print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


@contextmanager
def open_migrated() -> Iterator[Database]:
    """The application's database, at the newest revision. Raises IntegrationError."""
    # Imported here, so that help does not wait for a database driver.
    from bg_pipelines.database.engine import open_database
    from bg_pipelines.settings import load_settings

    database = open_database(load_settings())
    try:
        database.require_migrated()
        yield database
    finally:
        database.close()


def logged_in() -> str:
    """Who is logged in, as the operating system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
