"""`bg-pipelines stock`: stock corrections and their outcomes (docs/jobs.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bg_pipelines.cli.printing import By, console, logged_in, new_table, open_migrated
from bg_pipelines.operations import stock
from bg_pipelines.operations.csv_files import CsvFault
from bg_pipelines.wording import counted, minute

SHOWN = 20
"""Corrections of a file that are printed one by one."""

app = typer.Typer()


@app.command("correct")
def correct_stock(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help=f"CSV with the columns {', '.join(stock.COLUMNS)}; or one correction by options.",
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="NAME", help="Store name.")] = None,
    item: Annotated[
        str | None,
        typer.Option(
            metavar="SKU", help="SKU or inventory item id; the number at the end of a gid:// is enough."
        ),
    ] = None,
    location: Annotated[str | None, typer.Option(metavar="NAME", help="Name or id of the location.")] = None,
    from_: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="QUANTITY",
            help="The quantity when it was counted.",
            show_default="the quantity held now",
        ),
    ] = None,
    to: Annotated[int | None, typer.Option(metavar="QUANTITY", help="The correct quantity.")] = None,
    reason: Annotated[
        str, typer.Option(help=f"One of {', '.join(stock.REASONS)}; with FILE, for lines without one.")
    ] = stock.REASONS[0],
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and change nothing.")] = False,
) -> None:
    """Correct the stock of one item or of every line of a file; if any line is wrong, change nothing and list every fault.

    The store's next inventory_sync, made due now, sends it. It is not applied if the platform's quantity has changed
    since the count.
    """
    one = {"--store": store, "--item": item, "--location": location, "--to": to}
    faults: list[CsvFault] = []
    if file is not None:
        if from_ is not None or any(value is not None for value in one.values()):
            raise typer.BadParameter(f"give FILE, or {', '.join(one)}; not both")
        corrections, faults = stock.read_csv(file, reason=reason)
    elif store is None or item is None or location is None or to is None:
        missing = [name for name, value in one.items() if value is None]
        raise typer.BadParameter(f"give {', '.join(missing)}, or a FILE")
    else:
        corrections = [stock.NewCorrection(store, item, location, to, from_, reason)]
    with open_migrated() as database:
        done = stock.correct(database, corrections, by=by or logged_in(), faults=faults, dry_run=dry_run)
    for made in done.corrections[:SHOWN]:
        number = "" if made.id is None else f"{made.id}  "
        console.print(
            f"{number}{made.store}  {made.item} at {made.location}: {made.from_quantity} -> {made.to_quantity}",
            soft_wrap=True,
        )
    if len(done.corrections) > SHOWN:
        console.print(f"and {len(done.corrections) - SHOWN:,} more")
    count = counted(len(done.corrections), "correction")
    result = f"{count} to make, nothing was changed" if dry_run else f"{count} pending"
    if done.unchanged:
        result += f", {counted(done.unchanged, 'quantity', 'quantities')} already as counted"
    console.print(f"{result}; `bg-pipelines stock list` shows their outcome", soft_wrap=True)
    for name in done.paused:
        console.print(f"store {name} is paused: its corrections are sent when it is resumed", soft_wrap=True)


@app.command("list")
def list_corrections(
    store: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this store.")] = None,
    of_status: Annotated[
        str | None, typer.Option("--status", help=f"Only those that are {', '.join(stock.STATUSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the latest.")] = stock.LATEST,
) -> None:
    """List corrections, the newest first, and why one was not applied. Times are UTC."""
    with open_migrated() as database:
        rows = stock.list_corrections(database, store=store, status=of_status, limit=limit)
    table = new_table("id", "made", "store", "item", "location", "from", "to", "status", "note", "by")
    for row in rows:
        table.add_row(
            str(row.id),
            minute(row.created_at),
            row.store,
            row.sku or row.item,
            row.location,
            str(row.from_quantity),
            str(row.to_quantity),
            row.status,
            row.note or "",
            row.created_by or "",
        )
    console.print(table if rows else "no corrections", crop=console.is_terminal)
