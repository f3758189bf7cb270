"""`bg-pipelines cleaning`: what is cleaned, how far it is, and pausing it (docs/cleaning.md)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer

from bg_pipelines.cleaning import archive, cart_rules, jobs, retention, tasks
from bg_pipelines.cleaning.carts import TABLES, CartKeep
from bg_pipelines.cleaning.spans import write_span
from bg_pipelines.cli.printing import AsJson, By, console, logged_in, new_table, open_migrated, print_json
from bg_pipelines.database.names import find_store
from bg_pipelines.database.secrets import cipher
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted, minute, plain, span

app = typer.Typer()

Tasks = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK]...", help="Names of tasks.", show_default="all")
]


@app.command("status")
def show_status(as_json: AsJson = False) -> None:
    """Show every task: its state, how much of its pass is done, how long the rest takes, what its last run freed."""
    with open_migrated() as database, database.transaction() as connection:
        found = tasks.list_tasks(connection)
    if as_json:
        print_json({"tasks": plain(found)})
        return
    table = new_table("task", "state", "pass", "left", "due", "rows freed", "MB freed", "set aside")
    for task in found:
        table.add_row(
            task.name,
            task.state,
            "" if task.share is None else f"{task.share:.0%}",
            span(task.seconds_left),
            minute(task.next_due_at) if task.next_due_at else "",
            f"{task.rows_freed:,}",
            f"{task.bytes_freed / 1e6:,.1f}",
            str(task.set_aside or ""),
        )
    console.print(table if found else "no cleaning job has run yet", crop=console.is_terminal)


@app.command("pause")
def pause(names: Tasks = None, by: By = None) -> None:
    """Pause tasks; a run that is at work on one yields within seconds, at the place reached."""
    with open_migrated() as database, database.transaction() as connection:
        changed = tasks.set_paused(connection, names or [], by or logged_in())
    console.print(f"paused: {', '.join(changed)}" if changed else "all of them were paused already")


@app.command("resume")
def resume(names: Tasks = None) -> None:
    """Resume paused tasks: they continue at the place reached when their job runs next."""
    with open_migrated() as database, database.transaction() as connection:
        changed = tasks.set_paused(connection, names or [], None)
    console.print(f"resumed: {', '.join(changed)}" if changed else "none of them was paused")


@app.command("preview")
def preview(names: Tasks = None) -> None:
    """Count exactly what would be deleted now, and delete nothing. Reads whole tables."""
    settings = load_settings()
    rules = retention.load_rules(settings.retention_file)
    chosen = names or [*TABLES, *(rule.task for rule in rules)]
    of_carts = [name for name in chosen if name in TABLES]
    of_rules = [name for name in chosen if name not in TABLES]
    with open_migrated() as database:
        previews = jobs.preview_carts(database, CartKeep(), cipher(settings), of_carts)
        if of_rules:
            previews += jobs.preview_database(database, rules, cipher(settings), of_rules)
    table = new_table("task", "rows", "MB", "what")
    for one in previews:
        if one.rows or names:
            table.add_row(one.task, f"{one.rows:,}", f"{one.bytes / 1e6:,.1f}", one.what)
    console.print(table, crop=console.is_terminal)
    console.print(f"{counted(sum(one.rows for one in previews), 'row')} to delete, nothing was deleted")


@app.command("set-aside")
def show_set_aside() -> None:
    """List rows that cannot be deleted, and who refuses to let them go."""
    with open_migrated() as database, database.transaction() as connection:
        rows = connection.execute(
            "SELECT task, key, reason, last_at FROM cleaning_set_aside ORDER BY task, key LIMIT 200"
        ).fetchall()
    table = new_table("task", "key", "refused by", "last tried")
    for task, key, reason, last_at in rows:
        table.add_row(task, key, reason, minute(last_at))
    console.print(table if rows else "no row is set aside", crop=console.is_terminal)


Span = Annotated[
    str | None, typer.Option(metavar="SPAN", help="Like '14 days'; '' is as for all stores again.")
]


@app.command("carts")
def set_cart_rules(
    store: Annotated[str | None, typer.Argument(metavar="[STORE]", help="Store name.")] = None,
    abandon: Span = None,
    anonymous: Span = None,
    customer: Span = None,
    empty: Span = None,
    bought: Span = None,
    archive: Span = None,
) -> None:
    """Show how long carts are kept without activity, or change it for one store; what is not given stays as it is."""
    given = {
        "abandon": abandon,
        "anonymous": anonymous,
        "customer": customer,
        "empty": empty,
        "bought": bought,
        "archive": archive,
    }
    changed = any(text is not None for text in given.values())
    if changed and store is None:
        raise typer.BadParameter("name the store whose times these are")
    with open_migrated() as database, database.transaction() as connection:
        if store is not None:
            store_id = find_store(connection, store)
            if changed:
                cart_rules.set_rules(connection, store_id, given)
        found = cart_rules.list_rules(connection)
    table = new_table("store", *cart_rules.NAMES)
    table.add_row("(all)", *(write_span(span) for span in asdict(CartKeep()).values()))
    for rules in found:
        if store in (None, rules.store):
            table.add_row(rules.store, *(write_span(rules.spans.get(name)) for name in cart_rules.NAMES))
    console.print(table, crop=console.is_terminal)


@app.command("archive")
def read_archive(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task that deleted them, such as carts.")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only what was deleted since this day, UTC.")
    ] = None,
) -> None:
    """Print deleted rows that were archived, one JSON object a line, the oldest first."""
    settings = load_settings()
    with open_migrated() as database, database.transaction() as connection:
        day = since.replace(tzinfo=UTC) if since else None
        for row in archive.read(connection, cipher(settings), task, day):
            # In ASCII: a terminal may read more than JSON escapes as its own.
            sys.stdout.write(json.dumps(orjson.loads(orjson.dumps(row))) + "\n")
