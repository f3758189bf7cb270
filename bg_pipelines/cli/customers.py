"""`bg-pipelines customers`: a store's customers and edits of their profiles (docs/jobs.md)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from bg_pipelines.cli.printing import By, CustomerId, StoreName, console, logged_in, new_table, open_migrated
from bg_pipelines.customers import editing
from bg_pipelines.wording import counted, minute

app = typer.Typer()


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


def _value(value: Any) -> str:
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, datetime):
        return minute(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
