"""`bg-pipelines cleaning`: what is cleaned, how far it is, and pausing it (docs/cleaning.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from bg_pipelines.cleaning import jobs, retention, tasks
from bg_pipelines.cleaning.carts import TABLES, CartKeep
from bg_pipelines.cli.printing import AsJson, By, console, logged_in, new_table, open_migrated, print_json
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
