"""`bg-pipelines customers`: a store's customers, edits of their profiles (docs/jobs.md), export and erasure of their
data (docs/privacy.md)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from bg_pipelines.cli.printing import (
    By,
    CustomerId,
    Group,
    StoreName,
    Yes,
    console,
    logged_in,
    new_table,
    open_migrated,
)
from bg_pipelines.customers import editing
from bg_pipelines.database.secrets import cipher
from bg_pipelines.privacy import requests
from bg_pipelines.privacy.erasure import erase_customer
from bg_pipelines.privacy.export import export_customer
from bg_pipelines.privacy.subjects import find_known
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted, minute, visible

app = typer.Typer()
requests_app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    help="List requests for an export or an erasure, with their deadlines; `done` says that an export was sent.",
)
app.add_typer(requests_app, name="requests")


@app.command("show")
def show_customer(store: StoreName, customer: CustomerId) -> None:
    """Show a customer as the platform has them, and their latest changes. Prints personal data."""
    with open_migrated() as database:
        details = editing.show(database, store, customer)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in details.values.items():
        if name != "store_id":
            facts.add_row(name, _value(value))
    console.print(facts)
    table = new_table("changed", "field", "from", "to", "by", "status")
    for row in details.changes:
        erased = "erased" if row.erased_at else None
        state = f"{row.status}: {row.reason}" if row.reason else row.status
        if row.found_value is not None:
            state += f"; the platform had {_value(row.found_value)}"
        table.add_row(
            minute(row.changed_at),
            row.field,
            _value(erased or row.from_value),
            _value(erased or row.to_value),
            row.changed_by,
            state,
        )
    console.print(table if table.row_count else "no changes")


@app.command("edit")
def edit_customer(
    store: StoreName,
    customer: CustomerId,
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help=f"May be repeated. Fields: {', '.join(editing.FIELDS)}. An empty value clears the field; "
            "commas separate tags.",
        ),
    ],
    by: By = None,
) -> None:
    """Edit a profile; the store's next sync, made due now, sends it to the platform."""
    with open_migrated() as database:
        added = editing.edit(database, store, customer, editing.parse(assignments), by=by or logged_in())
    for change in added:
        console.print(
            f"{change.id}  {change.field}: {_value(change.from_value)} -> {_value(change.to_value)}"
        )
    console.print(
        f"{counted(len(added), 'change')} pending; `bg-pipelines customers changes {store}` shows their outcome"
        if added
        else "nothing to change: the profile has these values already",
        soft_wrap=True,
    )


@app.command("changes")
def list_changes(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Store name; all stores if left out.")
    ] = None,
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Only those of this customer.")
    ] = None,
    of_status: Annotated[
        str | None, typer.Option("--status", help=f"Only those that are {', '.join(editing.STATUSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the latest.")] = editing.LATEST,
) -> None:
    """List who changed which field of whom, and when; `customers show` has the values."""
    with open_migrated() as database:
        rows = editing.list_changes(database, store, customer, status=of_status, limit=limit)
    table = new_table("id", "changed", "store", "customer", "field", "by", "status", "reason")
    for row in rows:
        table.add_row(
            str(row.id),
            minute(row.changed_at),
            row.store,
            row.customer_external_id,
            row.field,
            row.changed_by,
            row.status,
            row.reason or "",
        )
    console.print(table if rows else "no changes", crop=console.is_terminal)


@app.command("export")
def export(store: StoreName, customer: CustomerId) -> None:
    """Write everything that is held of a customer into a file for you to send. It holds personal data.

    The request stays open, and you are reminded of it, until `customers requests done`.
    """
    settings = load_settings()
    with open_migrated() as database:
        with database.transaction() as connection:
            store_id, customer = find_known(connection, store, customer)
        exported = export_customer(database, cipher(settings), settings.home, store_id, customer)
    console.print(str(exported.path), soft_wrap=True)
    console.print(
        f"request {exported.request_id}: {_rows(exported.rows)}; once it is sent: "
        f"`bg-pipelines customers requests done {exported.request_id}`, which deletes the file",
        soft_wrap=True,
    )


@app.command("erase")
def erase(store: StoreName, customer: CustomerId, yes: Yes = False, by: By = None) -> None:
    """Erase everything personal of a customer of a store, for good; it is not loaded again, whatever the platform has.

    The platform is not asked to erase them: do that there.
    """
    settings = load_settings()
    with open_migrated() as database:
        with database.transaction() as connection:
            store_id, customer = find_known(connection, store, customer)
        if not yes:
            typer.confirm(
                visible(f"Erase all personal data of customer {customer} of store {store}?"), abort=True
            )
        erased = erase_customer(
            database, cipher(settings), settings.home, store_id, customer, by=by or logged_in()
        )
    console.print(f"request {erased.request_id}: erased in {_rows(erased.rows)}", soft_wrap=True)
    for file in erased.files_elsewhere:
        console.print(
            f"an export lies on another machine: delete {file} there, then "
            f"`bg-pipelines customers requests done {erased.request_id}`",
            soft_wrap=True,
        )


@requests_app.callback()
def list_requests(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those that are done, too.")] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    with open_migrated() as database:
        rows = requests.list_requests(database, done=every)
    table = new_table("id", "received", "due", "store", "customer", "what", "status", "rows", "file")
    for row in rows:
        table.add_row(
            str(row.id),
            minute(row.received_at),
            f"{row.due_at:%Y-%m-%d}",
            row.store,
            row.customer or "",
            row.kind,
            f"done {minute(row.done_at)} by {row.done_by}" if row.done_at else row.status,
            _rows(row.result) if row.result else "",
            row.file or "",
        )
    console.print(table if rows else "no open requests", crop=console.is_terminal)


@requests_app.command("done")
def mark_done(
    request: Annotated[int, typer.Argument(metavar="REQUEST", help="Request number.")], by: By = None
) -> None:
    """Say that an export was sent; its file is deleted."""
    with open_migrated() as database:
        left = requests.mark_done(database, load_settings().home, request, by=by or logged_in())
    console.print(f"request {request} is done")
    for file in left:
        console.print(f"its file lies on another machine: delete {file} there", soft_wrap=True)


def _rows(counts: dict[str, int]) -> str:
    held = {table: rows for table, rows in counts.items() if rows}
    return ", ".join(f"{rows:,} {table}" for table, rows in held.items()) or "no rows"


def _value(value: Any) -> str:
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, datetime):
        return minute(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
