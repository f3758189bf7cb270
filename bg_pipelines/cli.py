"""`bg-pipelines`: what a person types. Each command is thin; what it does lives in the rooms below."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations import checks, status, stores
from bg_pipelines.settings import load_settings


class Group(typer.core.TyperGroup):
    """Commands whose wrong options are answered like their wrong names: did you mean?"""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer keeps its own copy of click's NoSuchOption private; this attribute is what marks it.
            if close := getattr(error, "possibilities", None):
                error.message = f"{error.message}. Did you mean {' or '.join(close)}?"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A retailer's back-office jobs on Dagster.",
)
stores_app = typer.Typer(cls=Group, no_args_is_help=True, help="The stores that are synced.")
app.add_typer(stores_app, name="stores")
console = Console(markup=False, highlight=False)
errors = Console(stderr=True)


def main() -> None:
    """The console script: faults as one clear text on standard error, exit 1; Ctrl-C and SIGTERM as exit 130."""
    # Both stop everything in order, children ended and leases given back, also where a shell started us in the
    # background, which hands SIGINT down ignored.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        app()
    except IntegrationError as error:
        errors.print(f"error: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("stopped", style="yellow")
        sys.exit(130)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the summary instead of serving the UI.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    sandbox_port: Annotated[int, typer.Option(help="Port of the sandbox.")] = 4010,
) -> None:
    """Everything on this machine: database, sandbox, stores, every job once, then the Dagster UI until Ctrl-C."""
    from bg_pipelines.demo import run_demo

    sys.exit(run_demo(Console(), once=once, port=port, sandbox_port=sandbox_port))


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 4010,
    shops: Annotated[int, typer.Option(help="How many shops.")] = 12,
    variants: Annotated[int, typer.Option(help="Product variants in all shops together.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same shops.")] = 7,
    change_every: Annotated[float, typer.Option(help="Seconds between random edits; 0: none.")] = 0.0,
    search_lag: Annotated[float, typer.Option(help="Seconds by which updated_at searches lag.")] = 0.0,
) -> None:
    """Speak the Shopify Admin API on loopback for many shops (docs/sandbox.md)."""
    from bg_pipelines.sandbox import RejectedError, serve

    try:
        sys.exit(
            serve(
                port=port,
                shops=shops,
                variants=variants,
                seed=seed,
                change_every=change_every,
                search_lag=search_lag,
            )
        )
    except RejectedError as error:
        raise typer.BadParameter(f"--{error}") from None


@app.command()
def migrate() -> None:
    """Bring the application's tables to the newest revision."""
    database = open_database(load_settings())
    before, now = database.migrate()
    database.close()
    console.print(
        f"the database is at revision {now}" + ("" if before == now else f", it was at {before or 'none'}")
    )


@app.command()
def check() -> None:
    """Settings, key, databases, migrations, each store's credentials and scopes: every fault in one list."""
    faults = checks.find_faults()
    for fault in faults:
        console.print(f"- {fault}", soft_wrap=True)
    console.print(f"{len(faults)} fault{'s' * (len(faults) != 1)}" if faults else "all is well")
    sys.exit(1 if faults else 0)


@app.command(name="status")
def show_status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Per resource how many stores are current, due and failing, and why."""
    with _open_database() as database:
        if as_json:
            sys.stdout.write(json.dumps(status.read_status(database).as_dict(), indent=2) + "\n")
        elif watch:
            with Live(_status_tables(status.read_status(database)), console=console, screen=True) as live:
                while True:
                    time.sleep(2)
                    live.update(_status_tables(status.read_status(database)))
        else:
            console.print(_status_tables(status.read_status(database)))


@stores_app.command("add")
def add_store(
    name: Annotated[str, typer.Argument(help="How people call it.")],
    domain: Annotated[str, typer.Option(help="Like harbor.myshopify.com.")],
    platform: Annotated[str, typer.Option(help="Where it lives.")] = "shopify",
    token: Annotated[str | None, typer.Option(help="Access token.", envvar="BG_STORE_TOKEN")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client id, for 24-hour tokens.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(help="Client secret.", envvar="BG_STORE_CLIENT_SECRET")
    ] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Base URL of the API, where it is not https://DOMAIN.")
    ] = None,
    tier: Annotated[
        int, typer.Option(help="1: due every 5 minutes, 2: every 15, 3: every 60.")
    ] = stores.DEFAULT_TIER,
) -> None:
    """Add a store, or update it if its domain is known. Pass `-` as a secret to type it unseen."""
    if token == "-":  # noqa: S105 (a sign, not a secret)
        token = typer.prompt("token", hide_input=True)
    if client_secret == "-":  # noqa: S105
        client_secret = typer.prompt("client secret", hide_input=True)
    new = stores.NewStore(
        name, platform.lower(), domain.lower(), tier, api_url, token, client_id, client_secret
    )
    _print_changes(_save_stores([new]))


@stores_app.command("import")
def import_stores(
    file: Annotated[Path, typer.Argument(help=f"CSV with the columns {', '.join(stores.COLUMNS)}.")],
) -> None:
    """Add or update the stores of a CSV file: all of them, or none and a list of every fault."""
    _print_changes(_save_stores(stores.read_csv(file)))


@stores_app.command("list")
def list_stores() -> None:
    """All stores and how they are."""
    with _open_database() as database:
        rows = stores.list_stores(database)
    table = _table("name", "platform", "domain", "tier", "state", "last synced")
    for row in rows:
        synced = row.last_synced_at.strftime("%Y-%m-%d %H:%M") if row.last_synced_at else ""
        table.add_row(row.name, row.platform, row.domain, str(row.tier), row.state, synced)
    console.print(table if table.row_count else "no stores yet: add one with `bg-pipelines stores add`")


@stores_app.command("pause")
def pause_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Leave stores alone until they are resumed. Work that is under way is finished."""
    _set_paused(names, True)


@stores_app.command("resume")
def resume_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Sync paused stores again, what is overdue first."""
    _set_paused(names, False)


def _set_paused(names: list[str], paused: bool) -> None:
    with _open_database() as database:
        changed = stores.set_paused(database, names, paused)
    console.print(
        f"{changed} {'paused' if paused else 'resumed'}, {len(set(names)) - changed} were so before"
    )


def _save_stores(new: list[stores.NewStore]) -> stores.Changes:
    with _open_database() as database:
        return stores.save_stores(database, cipher(load_settings()), new)


@contextmanager
def _open_database() -> Iterator[Database]:
    """The application's database, at the newest revision. Raises IntegrationError."""
    database = open_database(load_settings())
    try:
        database.require_migrated()
        yield database
    finally:
        database.close()


def _print_changes(changes: stores.Changes) -> None:
    console.print(f"{changes.added} added, {changes.updated} updated, {changes.unchanged} unchanged")


def _table(*columns: str, **options: Any) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, **options)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def _status_tables(state: status.Status) -> Table:
    page = Table.grid(padding=(0, 0, 1, 0))
    resources = _table("resource", "stores", "current", "due", "running", "failing", "min behind", "rejected")
    for row in state.resources:
        resources.add_row(*map(str, row), style="red" if row.failing else None)
    if state.resources:
        page.add_row(resources)
    elif not state.paused:
        page.add_row("no stores yet: add one with `bg-pipelines stores add`")
    for fault in state.failing:
        times = "once" if fault.failures == 1 else f"{fault.failures} times"
        line = Text.assemble(
            (fault.store, "bold"),
            "  ",
            (fault.error_type, "red"),
            f"  {', '.join(fault.resources)} failed {times}, severity {fault.severity}, "
            f"next try {fault.next_try_at:%H:%M:%S} UTC\n",
            Text(f"  {fault.message}"),
        )
        page.add_row(line)
    if state.paused:
        page.add_row(f"paused: {', '.join(state.paused)}")
    if state.corrections:
        page.add_row(
            "stock corrections: " + ", ".join(f"{n} {name}" for name, n in state.corrections.items())
        )
    return page


if __name__ == "__main__":
    main()
