"""`bg-pipelines stores`: the stores that are synced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bg_pipelines.cli.printing import console, new_table, open_migrated
from bg_pipelines.database.secrets import cipher
from bg_pipelines.operations import stores
from bg_pipelines.operations.stores_csv import read_csv
from bg_pipelines.platforms import PLATFORMS
from bg_pipelines.settings import load_settings

app = typer.Typer()


@app.command("add")
def add_store(
    name: Annotated[str, typer.Argument(help="How people call it.")],
    domain: Annotated[str, typer.Option(help="Like harbor.myshopify.com; of Square any name.")],
    platform: Annotated[str, typer.Option(help=f"Where it lives: {' or '.join(PLATFORMS)}.")] = "shopify",
    token: Annotated[str | None, typer.Option(help="Access token.", envvar="BG_STORE_TOKEN")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client id, for 24-hour tokens.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(help="Client secret.", envvar="BG_STORE_CLIENT_SECRET")
    ] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Base URL of the API, where it is not the platform's own; '': none.")
    ] = None,
    tier: Annotated[
        int | None,
        typer.Option(
            help="1: due every 5 minutes, 2: every 15, 3: every 60.", show_default=str(stores.DEFAULT_TIER)
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(metavar="MINUTES", help="Its own interval, a multiple of 5; 0: its tier's."),
    ] = None,
) -> None:
    """Add a store, or update it if its domain is known: its tier, interval and URL stay unless they are given.

    Pass `-` as a secret to type it unseen.
    """
    if token == "-":  # noqa: S105 (a sign, not a secret)
        token = _secret("token")
    if client_secret == "-":  # noqa: S105
        client_secret = _secret("client secret")
    with open_migrated() as database:
        held = stores.held_values(database, platform.lower(), domain.lower())
    new = stores.NewStore(
        name,
        platform.lower(),
        domain.lower(),
        held[0] if tier is None else tier,
        held[2] if api_url is None else api_url or None,
        token,
        client_id,
        client_secret,
        held[1] if every is None else every or None,
    )
    _print_changes(_save_stores([new]))


def _secret(name: str) -> str:
    """Typed unseen; from a pipe, its next line."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True))
    return sys.stdin.readline().strip()


@app.command("import")
def import_stores(
    file: Annotated[Path, typer.Argument(help=f"CSV with the columns {', '.join(stores.COLUMNS)}.")],
) -> None:
    """Add or update the stores of a CSV file: all of them, or none and a list of every fault."""
    _print_changes(_save_stores(read_csv(file)))


@app.command("list")
def list_stores() -> None:
    """All stores and how they are."""
    with open_migrated() as database:
        rows = stores.list_stores(database)
    table = new_table("name", "platform", "domain", "tier", "every", "state", "last synced")
    for row in rows:
        synced = row.last_synced_at.strftime("%Y-%m-%d %H:%M") if row.last_synced_at else ""
        table.add_row(
            row.name, row.platform, row.domain, str(row.tier), f"{row.every} min", row.state, synced
        )
    console.print(table if table.row_count else "no stores yet: add one with `bg-pipelines stores add`")


@app.command("pause")
def pause_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Leave stores alone until they are resumed. Work that is under way is finished."""
    _set_paused(names, True)


@app.command("resume")
def resume_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Sync paused stores again, what is overdue first."""
    _set_paused(names, False)


def _set_paused(names: list[str], paused: bool) -> None:
    with open_migrated() as database:
        changed = stores.set_paused(database, names, paused)
    console.print(
        f"{changed} {'paused' if paused else 'resumed'}, {len(set(names)) - changed} were so before"
    )


def _save_stores(new: list[stores.NewStore]) -> stores.Changes:
    with open_migrated() as database:
        return stores.save_stores(database, cipher(load_settings()), new)


def _print_changes(changes: stores.Changes) -> None:
    console.print(f"{changes.added} added, {changes.updated} updated, {changes.unchanged} unchanged")
