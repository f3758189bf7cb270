"""`bg-pipelines board`: the page for the person on call, and who may log in to it."""

from __future__ import annotations

from typing import Annotated

import typer

from bg_pipelines.board import session, users
from bg_pipelines.cli.printing import console, new_table, open_migrated, typed_secret, typist
from bg_pipelines.machine.board import HOST, PORT, serve_board
from bg_pipelines.operations import activity
from bg_pipelines.wording import minute

app = typer.Typer(invoke_without_command=True)
of_users = typer.Typer(no_args_is_help=True)
app.add_typer(of_users, name="users", help="Who may log in to the board.")
UserName = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]


@app.callback()
def serve(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen at; a proxy with TLS stands before any but this machine's.")
    ] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = PORT,
) -> None:
    """Serve the board until Ctrl-C: the page for the person on call (docs/board.md)."""
    if context.invoked_subcommand is None:
        serve_board(console.print, host=host, port=port)


@of_users.command("add")
def add_user(
    name: UserName,
    role: Annotated[
        str, typer.Option(help="admin: may act; viewer: may look.", metavar="ROLE")
    ] = users.VIEWER,
    generate: Annotated[
        bool, typer.Option("--generate", help="Make a password and print it, once, instead of asking.")
    ] = False,
) -> None:
    """Add a user, or give one a new password and role; whoever is logged in by this name is logged out."""
    password = users.new_password() if generate else typed_secret("password", again=True)
    with open_migrated() as database:
        is_new = users.add(database, name, role, password)
        session.forget_tries(database, name)
        what = f"{'added' if is_new else 'changed'}, {role}"
        activity.note(database, typist(), "save a user of the board", name, what)
    console.print(f"user {name} {what}" + (f", password {password}" if generate else ""))


@of_users.command("list")
def list_users() -> None:
    """List the users of the board."""
    with open_migrated() as database:
        rows = users.list_users(database)
    table = new_table("name", "role", "added", "last login", "sessions")
    for row in rows:
        seen = minute(row.seen_at) if row.seen_at else "never"
        table.add_row(row.name, row.role, minute(row.created_at), seen, str(row.sessions))
    console.print(table if rows else "no users yet; add one with `bg-pipelines board users add NAME`")


@of_users.command("remove")
def remove_user(name: UserName) -> None:
    """Remove a user of the board, and end their sessions."""
    with open_migrated() as database:
        users.remove(database, name)
        activity.note(database, typist(), "remove a user of the board", name, "removed")
    console.print(f"user {name} removed")
