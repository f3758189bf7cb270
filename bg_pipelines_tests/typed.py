"""Commands as a person types them, in this process."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import Result
from typer.testing import CliRunner

from bg_pipelines.cli.app import app
from bg_pipelines.errors import IntegrationError

Run = Callable[..., Result]


def type_in(*arguments: str, typed: str | None = None) -> Result:
    """Type a command on a machine with nothing set."""
    return CliRunner().invoke(app, list(arguments), input=typed)


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def refused(result: Result) -> str:
    """The message of the error that `main` shows in red."""
    assert isinstance(result.exception, IntegrationError), result.output
    return result.exception.message


def words(text: str) -> str:
    """The text without the frame and line breaks that the width of a terminal makes."""
    return " ".join(text.replace("│", " ").split())
