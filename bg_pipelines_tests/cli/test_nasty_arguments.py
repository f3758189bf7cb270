"""Whatever is typed or stands in a file, and whatever strangers wrote: no traceback, and nothing alive in a terminal."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
import typer
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bg_pipelines.alerts.wording import Facts, compose
from bg_pipelines.cli.app import TOPICS, app
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations import stock, stores
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.wording import visible
from bg_pipelines_tests import nasty
from bg_pipelines_tests.privacy.planted import Person, plant
from bg_pipelines_tests.support import KEY, PATIENCE, query
from bg_pipelines_tests.typed import type_in

# They serve, or ask others over the network.
NOT_TYPED = {"demo", "sandbox", "serve-webhooks", "check", "migrate", "up", "watch", "worker", "daemon"}
ARGUMENTS: Mapping[str, str] = {
    **nasty.ARGUMENTS,
    **{name: str(value) for name, value in nasty.NUMBERS.items() if isinstance(value, float)},
    **{name: str(value) for name, value in nasty.NUMBERS.items() if isinstance(value, int) and abs(value) < 10**30},
}  # fmt: skip
PLAUSIBLE = {"store": "Harbor", "to": "+12125550123", "platform": "shopify", "domain": "harbor.myshopify.com"}
many = settings(
    # More of them: NASTY_EXAMPLES=1000 pytest --timeout 900 ...
    max_examples=int(os.environ.get("NASTY_EXAMPLES", "20")),
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
TEXTS = {name: value for name, value in nasty.ALL.items() if isinstance(value, str) and len(value) < 30_000}


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


ALIVE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eEve\r\x7f"
SHOWN = [
    *(
        "stores list",
        "status",
        "status --json",
        "metrics",
        "incidents list --all",
        "incidents show 1",
        "webhooks list",
    ),
    *(
        "customers show Harbor 7",
        "customers changes",
        "customers changes --json",
        "customers requests",
        "stock list",
    ),
    *("people show 1", "people decisions", "people report", "texts list", "texts replies", "cleaning status"),
]


def test_nothing_that_strangers_wrote_is_alive_in_a_terminal(machine: Database, cipher: Cipher) -> None:
    [row] = query(machine, "SELECT id FROM stores")
    plant(machine, cipher, row["id"], Person(ALIVE, 7, "12345678"))
    query(machine, "UPDATE stores SET name = name || %s", ALIVE)
    query(
        machine,
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message) "
        "VALUES ('store:1', true, 'query_rejected', 'high', 'shopify', %s, %s)",
        *(ALIVE, ALIVE),
    )
    [shop] = query(machine, "SELECT name FROM stores")
    seen = ""
    for command in SHOWN:
        result = type_in(*(shop["name"] if word == "Harbor" else word for word in command.split()))
        assert is_harmless(result), command
        seen += result.output
    assert seen.count(visible(ALIVE)) > 5, "it is shown, and as what it is"


def test_an_error_is_harmless_wherever_it_goes() -> None:
    error = IntegrationError(f"Shopify says {ALIVE}", details={ALIVE: [ALIVE]})
    assert visible(str(error.as_dict())) == str(error.as_dict())
    facts = Facts("high", f"store {ALIVE}", "query_rejected", ALIVE, True, datetime(2026, 11, 29, tzinfo=UTC))
    assert all(visible(text) == text for text in compose("opened", facts))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(
    machine: Database, cipher: Cipher, encoding: str
) -> None:
    [row] = query(machine, "SELECT id FROM stores")
    plant(machine, cipher, row["id"], Person("Zoë 日本", 7, "12345678"))
    done = subprocess.run(
        [sys.executable, "-m", "bg_pipelines.cli", "customers", "show", "Harbor", "7"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Zoë 日本".encode(encoding, "backslashreplace") in done.stdout


def test_while_all_connections_are_taken_every_command_says_so(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "narrow"
    query(database, f"DROP ROLE IF EXISTS {role}")
    query(database, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    url = sa.make_url(database_url).set(username=role).render_as_string(hide_password=False)
    for name in ("BG_DATABASE_URL", "BG_DAGSTER_DATABASE_URL"):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    try:
        typed = 0
        for path, command in COMMANDS.items():
            if any(parameter.required for parameter in command.params):
                continue
            result = type_in(*path)
            if result.exit_code == 2:
                continue  # it wants one of several options
            typed += 1
            assert isinstance(result.exception, IntegrationError), (path, result.output)
            if "is not set" in result.exception.message:
                continue  # it did not come so far
            assert "too many connections" in result.exception.message
        assert typed > 8
        assert "too many connections" in type_in("check").output
    finally:
        query(database, f"DROP ROLE {role}")
