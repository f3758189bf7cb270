"""`bg-pipelines webhooks`: events of the inbox, listed and replayed, and what an app's TOML file needs."""

from __future__ import annotations

from typing import Annotated

import typer

from bg_pipelines.cli.printing import (
    AsJson,
    By,
    console,
    logged_in,
    new_table,
    one_line,
    open_migrated,
    print_json,
)
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations import inbox
from bg_pipelines.operations.inbox import Choice, EventRow
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted, span

app = typer.Typer()
Store = Annotated[str | None, typer.Option("--store", metavar="NAME", help="Only those of this store.")]
TopicName = Annotated[
    str | None,
    typer.Option("--topic", metavar="TOPIC", help="Only those of this topic, like orders/updated."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only those received since then: 30m, 2h, 3d or a time, in UTC."
    ),
]
Status = Annotated[
    str | None, typer.Option("--status", help=f"Only those that are {', '.join(inbox.STATUSES)}.")
]
Incident = Annotated[
    int | None, typer.Option("--incident", metavar="N", help="Only those under this incident.")
]


@app.callback()
def webhooks() -> None:
    """What platforms tell of changes."""


@app.command("toml")
def print_toml(
    events: Annotated[
        bool, typer.Option("--events", help="Also Shopify's Events (API 2026-10, Shopify CLI 3.92).")
    ] = False,
) -> None:
    """Print the section of shopify.app.toml for what Shopify takes there only: compliance topics, Events.

    `shopify app deploy` then makes these subscriptions for every shop of the app. All other topics are subscribed to by
    the job create_shopify_webhook.
    """
    from bg_pipelines.webhooks.app_toml import app_toml

    settings = load_settings()
    if settings.public_url is None:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            "BG_PUBLIC_URL is not set: it is where Shopify delivers to, like https://hooks.example.com",
            source="settings",
        )
    typer.echo(app_toml(settings.public_url, settings.shopify_api_version, events=events), nl=False)


@app.command("list")
def list_events(
    store: Store = None,
    topic: TopicName = None,
    status: Status = None,
    since: Since = None,
    incident: Incident = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", metavar="ID", help="Only these; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the latest.")] = inbox.LATEST,
    as_json: AsJson = False,
) -> None:
    """List received events, the newest first, and what became of them. Times are UTC."""
    with open_migrated() as database:
        choice = _choice(database, ids, store, topic, status, since, incident)
        rows = inbox.list_events(database, choice, limit=limit)
    if as_json:
        print_json({"events": [row.as_dict() for row in rows]})
        return
    table = new_table("id", "received", "store", "topic", "about", "status", "after", "note")
    for row in rows:
        table.add_row(
            str(row.id),
            f"{row.received_at:%Y-%m-%d %H:%M:%S}",
            row.store or "",
            row.topic,
            row.object_id or "",
            row.status,
            span(row.seconds),
            _note(row),
        )
    console.print(table if rows else "no events", crop=console.is_terminal)


@app.command("replay")
def replay_events(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="Event numbers.", show_default=False)
    ] = None,
    store: Store = None,
    topic: TopicName = None,
    status: Status = None,
    since: Since = None,
    incident: Incident = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Handle events once more, whatever became of them: by number, store, topic, status, time or incident.

    They are due at once; what they name is fetched as it is now, carts and commands are applied again.
    """
    with open_migrated() as database:
        choice = _choice(database, ids, store, topic, status, since, incident)
        done = inbox.replay(database, choice, by=by or logged_in())
    if as_json:
        print_json({"replayed": done.topics, "left": done.left})
        return
    for name, number in done.topics.items():
        console.print(f"{number:,}  {name}")
    due = "is" if done.events == 1 else "are"
    console.print(
        f"{counted(done.events, 'event')} {due} due once more" if done.events else "no event is due once more"
    )
    for why, number in done.left.items():
        console.print(one_line(f"{counted(number, 'event')} left: {why}"))


def _choice(
    database: Database,
    ids: list[int] | None,
    store: str | None,
    topic: str | None,
    status: str | None,
    since: str | None,
    incident: int | None,
) -> Choice:
    moment = None if since is None else inbox.moment(since, inbox.now(database))
    return Choice(tuple(ids or ()), store, topic, status, moment, incident)


def _note(row: EventRow) -> str:
    parts = [f"incident {row.incident_id}"] if row.incident_id is not None else []
    if row.status == "pending" and row.attempts and row.next_due_at is not None:
        parts.append(f"attempt {row.attempts} failed, next at {row.next_due_at:%H:%M:%S}")
    return ": ".join([*parts, *([row.note] if row.note else [])])
