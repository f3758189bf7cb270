"""`bg-pipelines texts`: text messages, consent and replies (docs/text-messages.md)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bg_pipelines.cli.printing import AsJson, By, console, logged_in, new_table, open_migrated, print_json
from bg_pipelines.database.engine import Database
from bg_pipelines.messaging import consent, desk, handling
from bg_pipelines.messaging.numbers import any_number, masked
from bg_pipelines.messaging.templates import ALERTS
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted, minute, plain

app = typer.Typer()

Store = Annotated[str, typer.Option("--store", metavar="NAME", help="Store name.")]
To = Annotated[str, typer.Option("--to", metavar="PHONE", help="The recipient's number, like +12125550123.")]
Number = Annotated[str, typer.Argument(metavar="NUMBER", help="A phone number, like +12125550123.")]
Numbers = Annotated[
    bool, typer.Option("--numbers", help="Show whole phone numbers, which are personal data.")
]
Kind = Annotated[str, typer.Option("--kind", help=f"One of {', '.join(consent.SCOPES)}.")]


def share_product(
    store: str, product: str, to: str, variant: str | None, by: str | None, key: str | None, dry_run: bool
) -> None:
    """What `bg-pipelines share` does."""
    rules = desk.rules_of(load_settings())
    with open_migrated() as database:
        shared = desk.share(
            database,
            rules,
            store,
            product,
            to,
            variant=variant,
            by=by or logged_in(),
            key=key,
            dry_run=dry_run,
        )
    if shared.text is not None:
        console.print(shared.text.body, soft_wrap=True)
        console.print(str(shared.text), soft_wrap=True)
    if shared.in_the_way is not None:
        console.print(f"now: {shared.in_the_way}", soft_wrap=True)
    if dry_run:
        console.print("nothing was put in the outbox")
    elif shared.is_new:
        console.print(f"text message {shared.id} to {masked(shared.phone)} is in the outbox")
    else:
        console.print(f"text message {shared.id} has this key already; nothing was added")


@app.command("list")
def list_texts(
    store: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this store.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help=f"Only those that are {', '.join(handling.STATUSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the latest.")] = handling.LATEST,
    numbers: Numbers = False,
    as_json: AsJson = False,
) -> None:
    """List text messages, the newest first: their state, and why one was refused, is held or failed. Times are UTC."""
    with open_migrated() as database:
        rows = handling.list_texts(database, store=store, status=status, limit=limit)
    shown = [row if numbers else row._replace(phone=masked(row.phone)) for row in rows]
    if as_json:
        print_json({"text_messages": plain(shown)})
        return
    table = new_table("id", "made", "store", "template", "to", "status", "why", "next", "segments", "by")
    for row in shown:
        waits = row.status == "pending"
        due = minute(row.next_due_at) if row.next_due_at else f"incident {row.incident_id}"
        table.add_row(
            str(row.id),
            minute(row.created_at),
            row.store,
            row.template,
            row.phone,
            row.status,
            row.reason or "",
            due if waits else "",
            str(row.segments or ""),
            row.created_by or "",
        )
    console.print(table if rows else "no text messages", crop=console.is_terminal)


@app.command("subscribe")
def subscribe(
    store: Store,
    to: To,
    alert: Annotated[str, typer.Option("--alert", help=f"One of {', '.join(ALERTS)}.")],
    product: Annotated[
        str | None,
        typer.Option(metavar="PRODUCT", help="Its id, handle or title; enough if it has one variant."),
    ] = None,
    variant: Annotated[str | None, typer.Option(metavar="VARIANT", help="Its id or SKU.")] = None,
    order: Annotated[str | None, typer.Option(metavar="ORDER", help="Its id or name, like #1001.")] = None,
    by: By = None,
) -> None:
    """Have a number told when a variant is back in stock or cheaper, or an order is ready. Needs its consent as well."""
    with open_migrated() as database:
        made = desk.subscribe(
            database,
            desk.rules_of(load_settings()),
            store,
            alert,
            to,
            product=product,
            variant=variant,
            order=order,
            by=by or logged_in(),
        )
    console.print(
        f"subscription {made.id}"
        + (": it is so already, and its message is in the outbox" if made.is_told else "")
    )


@app.command("consent")
def show_consent(
    number: Number,
    grant: Annotated[
        str | None, typer.Option("--grant", metavar="KIND", help="Record consent to messages of this kind.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="NAME", help="With --grant: for whom.")
    ] = None,
    source: Annotated[str, typer.Option(help="With --grant: where it was given.")] = "staff",
    channel: Annotated[str, typer.Option(help="With --grant: by what means.")] = "in person",
    wording: Annotated[
        str | None, typer.Option(help="With --grant: the words that the person was shown, or said.")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that is known of a number's consent, as evidence; or record consent. Prints personal data."""
    settings = load_settings()
    rules = desk.rules_of(settings)
    phone = any_number(number)
    with open_migrated() as database:
        if grant is not None:
            if store is None or wording is None:
                raise typer.BadParameter("--grant needs --store and --wording")
            desk.grant(
                database,
                rules,
                store,
                phone,
                grant,
                source=source,
                channel=channel,
                wording=wording,
                by=by or logged_in(),
            )
        evidence = _evidence(database, phone, settings.text_double_opt_in)
    if as_json:
        print_json(evidence)
        return
    table = new_table("when", "kind", "event", "source", "channel", "wording", "evidence", "store", "by")
    for entry in evidence["events"]:
        table.add_row(
            entry["occurred_at"][:16].replace("T", " "),
            entry["kind"],
            entry["event"],
            entry["source"],
            entry["channel"],
            entry["wording"] or "",
            entry["evidence"] or "",
            entry["store"] or "",
            entry["recorded_by"] or "",
        )
    console.print(table if evidence["events"] else "nothing is recorded", crop=console.is_terminal)
    for kind, why_not in evidence["now"].items():
        console.print(f"{kind}: {why_not or 'may be sent'}", soft_wrap=True)


@app.command("opt-out")
def opt_out(
    number: Number,
    how: Annotated[
        str,
        typer.Option(
            "--how", metavar="TEXT", help="How it was asked for: a call, an e-mail, in the shop, ..."
        ),
    ],
    kind: Kind = consent.ALL,
    by: By = None,
) -> None:
    """Stop messages to a number at once, for a person who asked for it in whatever way."""
    phone = any_number(number)
    with open_migrated() as database, database.transaction() as connection:
        consent.opt_out(
            connection, phone, kind, source="staff", channel="staff", wording=how, by=by or logged_in()
        )
    console.print(f"{masked(phone)} gets no more messages ({kind})")


@app.command("replies")
def show_replies(
    done: Annotated[
        int | None, typer.Option("--done", metavar="ID", help="This one was answered or dealt with.")
    ] = None,
    numbers: Numbers = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Show replies in people's own words that wait for a person, the oldest first. Prints personal data."""
    with open_migrated() as database:
        if done is not None:
            left = handling.settle_reply(database, done, by=by or logged_in())
            console.print(f"{counted(left, 'reply', 'replies')} left")
            return
        rows = handling.open_replies(database)
    shown = [row if numbers else row._replace(phone=masked(row.phone)) for row in rows]
    if as_json:
        print_json({"replies": plain(shown)})
        return
    for row in shown:
        stopped = "; messages were stopped" if row.reading == "refusal" else ""
        console.print(f"{row.id}  {minute(row.received_at)}  {row.phone}{stopped}", soft_wrap=True)
        console.print(f"    {row.body or '(erased)'}", soft_wrap=True)
        if row.answers:
            console.print(f"    to: {row.answers}", soft_wrap=True, style="dim")
    if not rows:
        console.print("no replies wait")


@app.command("settle")
def settle(
    message: Annotated[int, typer.Argument(metavar="ID", help="Number of the text message.")],
    how: Annotated[
        str,
        typer.Option(
            "--as",
            help="sent: Twilio's console has it; again: it has not; dropped: it is not to be sent any more.",
        ),
    ],
    by: By = None,
) -> None:
    """Say what became of a parked message, after a look at Twilio's console."""
    with open_migrated() as database:
        handling.settle_unclear(database, message, how, by=by or logged_in())
    console.print(f"text message {message}: {how}")


def _evidence(database: Database, phone: str, double_opt_in: bool) -> dict[str, Any]:
    with database.transaction() as connection:
        entries = consent.history(connection, phone)
        opted_out = {kind: how for kind, _, how in consent.opted_out_of(connection, phone)}
    now = {}
    for kind in consent.KINDS:
        how = opted_out.get(kind) or opted_out.get(consent.ALL)
        verdict = consent.verdict(kind, consent.said(entries), double_opt_in=double_opt_in)
        now[kind] = f"opted out: {how}" if how else verdict.why_not
    return {"number": phone, "events": [plain(entry) for entry in entries], "now": now}
