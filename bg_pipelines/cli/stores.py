"""`bg-pipelines stores`: the stores that are synced."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bg_pipelines.cli.printing import (
    By,
    StoreName,
    Yes,
    console,
    in_home,
    new_table,
    one_line,
    open_migrated,
    typed_secret,
    typist,
)
from bg_pipelines.database.secrets import cipher
from bg_pipelines.operations import actions, activity, stores
from bg_pipelines.operations.backfills import expected_backfill
from bg_pipelines.operations.store_figures import find_stores, read_store
from bg_pipelines.operations.store_removal import Plan, plan_removal, remove_store
from bg_pipelines.operations.stores_csv import read_csv
from bg_pipelines.platforms import PLATFORMS
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import ADD_A_STORE, counted, flat, span, visible

app = typer.Typer()
Every = Annotated[
    int | None,
    typer.Option(metavar="MINUTES", help="An interval of its own, a multiple of 5; 0: its tier's."),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="BG_INSECURE",
        help="Allow an http:// API on another machine: the token goes there unencrypted.",
    ),
]


@app.command("add")
def add_store(
    name: Annotated[str, typer.Argument(help="The store's name in this program.")],
    domain: Annotated[str, typer.Option(help="Like harbor.myshopify.com; for Square any unique name.")],
    platform: Annotated[
        str, typer.Option(help=f"The store's platform: {' or '.join(PLATFORMS)}.")
    ] = "shopify",
    token: Annotated[str | None, typer.Option(help="Access token.", envvar="BG_STORE_TOKEN")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client id, where tokens last 24 hours.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(help="Client secret.", envvar="BG_STORE_CLIENT_SECRET")
    ] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Base URL of the API, if not the platform's own; '' clears it.")
    ] = None,
    tier: Annotated[
        int | None,
        typer.Option(
            help="Synced every 5 (1), 15 (2) or 60 (3) minutes.", show_default=str(stores.DEFAULT_TIER)
        ),
    ] = None,
    every: Every = None,
    insecure: Insecure = False,
) -> None:
    """Add a store, or update the one with this domain; what is not given stays as it is.

    Pass `-` as a secret to type it without echo.
    """
    token, client_secret = _secret(token, "token"), _secret(client_secret, "client secret")
    with open_migrated(make=True) as database:
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
        insecure or api_url is None,
    )
    changes = _save_stores([new])
    _print_changes(changes)
    if changes.added:
        settings = load_settings()
        with open_migrated() as database:
            for line in expected_backfill(database, cipher(settings), settings, new.name):
                console.print(visible(line), highlight=False, soft_wrap=True)


@app.command("set")
def set_store(
    store: StoreName,
    name: Annotated[str | None, typer.Option(help="Its new name in this program.")] = None,
    token: Annotated[str | None, typer.Option(help="New access token.")] = None,
    client_id: Annotated[str | None, typer.Option(help="New client id.")] = None,
    client_secret: Annotated[str | None, typer.Option(help="New client secret.")] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Base URL of the API; '' for the platform's own.")
    ] = None,
    tier: Annotated[int | None, typer.Option(help="Synced every 5 (1), 15 (2) or 60 (3) minutes.")] = None,
    every: Every = None,
    insecure: Insecure = False,
) -> None:
    """Change what is named of a store, and nothing else. With new credentials, what was parked of it is due at once.

    Pass `-` as a secret to type it without echo. Platform and domain say which shop it is, and stay. How long its carts
    are kept is set with `bg-pipelines cleaning carts`.
    """
    named = (name, token, client_id, client_secret, api_url, tier, every)
    if all(value is None for value in named):
        raise typer.BadParameter("name what is to change, like --tier 1; --help lists what can")
    token, client_secret = _secret(token, "token"), _secret(client_secret, "client secret")
    given = stores.Given(name, tier, every, api_url, token, client_id, client_secret, insecure)
    with open_migrated() as database:
        changed = stores.set_store(database, cipher(load_settings()), store, given)
        activity.note(database, typist(), "set a store", store, ", ".join(changed) or "nothing changed")
    console.print(f"{store}: {', '.join(changed) or 'nothing changed, it is so already'}", soft_wrap=True)


@app.command("import")
def import_stores(
    file: Annotated[Path, typer.Argument(help=f"CSV with the columns {', '.join(stores.COLUMNS)}.")],
    insecure: Insecure = False,
) -> None:
    """Add or update all stores of a CSV file; if any line is wrong, change nothing and list every fault."""
    _print_changes(_save_stores(read_csv(file, insecure=insecure)))


@app.command("list")
def list_stores() -> None:
    """List all stores and their state."""
    with open_migrated() as database:
        rows = find_stores(database).stores
    table = new_table("name", "platform", "domain", "tier", "every", "state", "last synced")
    for row in rows:
        synced = row.last_synced_at.strftime("%Y-%m-%d %H:%M") if row.last_synced_at else ""
        table.add_row(
            row.name, row.platform, row.domain, str(row.tier), f"{row.every} min", row.state, synced
        )
    console.print(table if table.row_count else f"no stores yet{in_home()}; add one with {ADD_A_STORE}")


@app.command("show")
def show_store(store: StoreName) -> None:
    """How old what is known of one store is, resource by resource, and what is wrong with it."""
    with open_migrated() as database:
        found = read_store(database, store)

    def ago(moment: datetime | None) -> str:
        return span((found.at - moment).total_seconds()) if moment else "never"

    console.print(
        one_line(
            f"{found.name}: {found.state}, {found.platform} {found.domain}, tier {found.tier}, every {found.every} min"
        )
    )
    table = new_table("resource", "age", "last change", "reached us in", "full pass", "state")
    for unit in found.units:
        lag = span(unit.last_change_lag.total_seconds()) if unit.last_change_lag is not None else ""
        changed = f"{ago(unit.last_change_at)} ago" if unit.last_change_at else ""
        state = (
            f"incident {unit.incident_id}"
            if unit.incident_id
            else unit.error_type or ("at work" if unit.running else "")
        )
        if unit.rejected:
            state = f"{state}, " * bool(state) + f"{unit.rejected:,} rejected"
        full = f"{ago(unit.last_full_at)} ago" if unit.last_full_at else ""
        table.add_row(unit.resource, ago(unit.last_succeeded_at), changed, lag, full, state)
    console.print(table)
    for incident in found.incidents:
        console.print(
            one_line(
                f"incident {incident.id}, {incident.severity}: {incident.error_type}: {flat(incident.message)}"
            )
        )


@app.command("pause")
def pause_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Stop syncing stores until they are resumed; work in progress is finished."""
    _set_paused(names, True)


@app.command("resume")
def resume_stores(names: Annotated[list[str], typer.Argument(help="Store names.")]) -> None:
    """Sync paused stores again, the most overdue first."""
    _set_paused(names, False)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(metavar="STORE", help="Store name.")],
    keep_orders: Annotated[
        bool,
        typer.Option("--keep-orders", help="Keep its orders, their lines and refunds, without who bought."),
    ] = False,
    yes: Yes = False,
    by: By = None,
) -> None:
    """Delete everything that is held of a store, and end its webhook subscriptions; says what, and asks before.

    It can be stopped: the same again goes on. A bare row with its domain is kept as proof (docs/privacy.md).
    """
    settings = load_settings()
    with open_migrated() as database:
        plan = plan_removal(database, name, keep_orders=keep_orders)
        _print_plan(plan)
        if not yes:
            typer.confirm(visible(f"Remove store {name}?"), abort=True)
        actor = typist(by)
        with activity.recorded(database, actor, "remove a store", name) as done:
            removed = remove_store(database, settings, plan, by=actor.name)
            done.outcome = f"{sum(removed.rows.values()):,} rows deleted"
    console.print(
        f"{name} removed: {counted(sum(removed.rows.values()), 'row')} deleted (request {removed.request_id})"
    )
    if removed.subscriptions:
        console.print(f"{counted(removed.subscriptions, 'webhook subscription')} ended at the platform")
    elif removed.subscriptions is None:
        console.print(
            f"its webhook subscriptions could not be ended: {removed.why}. Remove the app in the shop's admin",
            soft_wrap=True,
        )
    for file in removed.files_elsewhere:
        console.print(f"an export lies on another machine: delete {file} there", soft_wrap=True)


def _print_plan(plan: Plan) -> None:
    most_first = sorted(plan.rows.items(), key=lambda held: -held[1])
    rows = ", ".join(f"{rows:,} {table}" for table, rows in most_first) or "no rows"
    kept = "; orders, their lines and refunds are kept, without who bought" if plan.keep_orders else ""
    begun = "its removal has begun before and goes on; " if plan.has_begun else ""
    console.print(f"{begun}deleted with {plan.name}: {rows}{kept}", soft_wrap=True)


def _secret(given: str | None, name: str) -> str | None:
    """What was given, or what is typed now where that is `-`."""
    return typed_secret(name) if given == "-" else given


def _set_paused(names: list[str], paused: bool) -> None:
    act = actions.pause_stores if paused else actions.resume_stores
    with open_migrated() as database:
        console.print(act(database, names, typist()).outcome)


def _save_stores(new: list[stores.NewStore]) -> stores.Changes:
    with open_migrated(make=True) as database:
        changes = stores.save_stores(database, cipher(load_settings()), new)
        # Not before: what stands in the wrong column of a file may be a token.
        outcome = f"{changes.added} added, {changes.updated} updated, {changes.unchanged} unchanged"
        activity.note(database, typist(), "save stores", ", ".join(store.name for store in new), outcome)
        return changes


def _print_changes(changes: stores.Changes) -> None:
    console.print(f"{changes.added} added, {changes.updated} updated, {changes.unchanged} unchanged")
