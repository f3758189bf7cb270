"""Whatever is typed or stands in a file, and whatever strangers wrote: no traceback, and nothing alive in a terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bg_pipelines.cli.app import TOPICS, app
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations import stock, stores
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.wording import visible
from bg_pipelines_tests import nasty
from bg_pipelines_tests.support import KEY
from bg_pipelines_tests.typed import type_in

# They serve, or ask others over the network.
NOT_TYPED = {"demo", "sandbox", "serve-webhooks", "check", "migrate"}
ARGUMENTS: Mapping[str, str] = {
    **nasty.ARGUMENTS,
    **{name: str(value) for name, value in nasty.NUMBERS.items() if isinstance(value, float)},
    **{name: str(value) for name, value in nasty.NUMBERS.items() if isinstance(value, int) and abs(value) < 10**30},
}  # fmt: skip
PLAUSIBLE = {"store": "Harbor", "to": "+12125550123", "platform": "shopify", "domain": "harbor.myshopify.com"}
many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if not path and name in TOPICS:
            command.make_context(name, ["--help"], resilient_parsing=True)  # which imports its file
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        elif name not in NOT_TYPED:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@st.composite
def typed(draw: st.DrawFn) -> list[str]:
    """A command of which one value is nasty, and the others are what somebody would type."""
    path = draw(st.sampled_from(sorted(COMMANDS)))
    valued = [one for one in COMMANDS[path].params if not getattr(one, "is_flag", False)]
    spoiled = draw(st.sampled_from(valued)) if valued else None
    words = list(path)
    for one in valued:
        if one is spoiled:
            value = draw(st.sampled_from(sorted(ARGUMENTS)).map(ARGUMENTS.__getitem__))
        elif one.required:
            value = PLAUSIBLE.get(one.name or "", "1")
        else:
            continue
        words += [one.opts[-1], value] if one.param_type_name == "option" else [value]
    flags = {
        flag for one in COMMANDS[path].params for flag in one.opts if flag in ("--yes", "--json", "--dry-run")
    }
    return words + sorted(flags)


def is_harmless(result: Result) -> bool:
    said = result.output
    if isinstance(result.exception, IntegrationError):
        said += result.exception.message
    else:
        assert isinstance(result.exception, SystemExit | None), repr(result.exception)
    assert "Traceback" not in said
    return visible(said) == said


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch, database: Database, database_url: str, cipher: Cipher
) -> Database:
    """With a database in which a store is."""
    for name in ("BG_DATABASE_URL", "BG_DAGSTER_DATABASE_URL"):
        monkeypatch.setenv(name, database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    save_stores(database, cipher, [NewStore("Harbor", "shopify", "harbor.myshopify.com", token="shpat_1")])
    return database


@given(words=typed())
@many
def test_no_argument_makes_a_traceback_or_reaches_the_terminal_alive(
    machine: Database, words: list[str]
) -> None:
    assert is_harmless(type_in(*words))


FILES = {
    ("stores", "import"): (stores.COLUMNS, {"name": "Pier", "platform": "shopify", "domain": "p.myshopify.com", "token": "t"}),
    ("stock", "correct"): (stock.COLUMNS, {"store": "Harbor", "item": "SKU", "location": "1", "to": "2", "from": "1"}),
}  # fmt: skip
TEXTS = {name: str(value) for name, value in nasty.ALL.items() if isinstance(value, str)}


@given(file=st.sampled_from(sorted(FILES)), value=st.sampled_from(sorted(TEXTS)), data=st.data())
@many
def test_no_value_of_a_file_makes_a_traceback_or_reaches_the_terminal_alive(
    machine: Database, tmp_path: Path, file: tuple[str, ...], value: str, data: st.DataObject
) -> None:
    columns, row = FILES[file]
    column = data.draw(st.sampled_from(columns))
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as opened:
        writer = csv.DictWriter(opened, columns)
        writer.writeheader()
        writer.writerow({**row, column: TEXTS[value]})
    assert is_harmless(type_in(*file, str(path)))
    assert is_harmless(type_in("stores", "list"))
