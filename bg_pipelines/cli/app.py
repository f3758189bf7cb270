"""`bg-pipelines`: what a person types. Each command is thin; what it does lives in the rooms below."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bg_pipelines import people
from bg_pipelines.customers import editing
from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import handling
from bg_pipelines.operations import checks, metrics, status, stores
from bg_pipelines.platforms import PLATFORMS
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
incidents_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="What failed, and what a person does about it (docs/on-call.md)."
)
app.add_typer(incidents_app, name="incidents")
customers_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Customers of a store, and edits of their profiles (docs/jobs.md)."
)
app.add_typer(customers_app, name="customers")
people_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="One person across stores: who is matched, why, and what they bought (docs/people.md).",
)
app.add_typer(people_app, name="people")
PIPE_COLUMNS = 400
console = Console(markup=False, highlight=False)
errors = Console(stderr=True)


def main() -> None:
    """The console script: faults as one clear text on standard error, exit 1; Ctrl-C and SIGTERM as exit 130."""
    # Both stop everything in order, children ended and leases given back, also where a shell started us in the
    # background, which hands SIGINT down ignored.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS  # whoever reads it from a pipe looks for ids, and none is to be cut
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
    from bg_pipelines.machine.demo import run_demo

    sys.exit(run_demo(Console(), once=once, port=port, sandbox_port=sandbox_port))


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Speak the APIs of many Shopify shops, Square merchants and Twilio on loopback (docs/sandbox.md).",
)
def sandbox(context: typer.Context) -> None:
    """The sandbox, which is a program of its own, with its own options."""
    from bg_pipelines.sandbox.__main__ import main

    sys.exit(main(context.args, program="bg-pipelines sandbox"))


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
    """Is anything wrong, what is it, and does it wait for a person? Times are UTC."""
    with _open_database() as database:
        if as_json:
            sys.stdout.write(json.dumps(status.read_status(database).as_dict(), indent=2) + "\n")
        elif watch:
            shown = _status_tables(status.read_status(database))
            with Live(shown, console=console, screen=True) as live:
                while True:
                    time.sleep(2)
                    try:
                        shown = _status_tables(status.read_status(database))
                    except IntegrationError as error:
                        # Just then it is looked at: what was last known stays, and it is asked again.
                        live.update(Lines(_line((error.message, "bold red")), "", shown))
                    else:
                        live.update(shown)
        else:
            # Not cropped: what is piped into a file or a grep is told in full.
            console.print(_status_tables(status.read_status(database)), crop=console.is_terminal)


@app.command(name="metrics")
def show_metrics(
    per_store: Annotated[
        bool, typer.Option("--per-store/--no-per-store", help="With the figures of each store.")
    ] = True,
) -> None:
    """The figures of `status` as Prometheus text (docs/monitoring.md)."""
    with _open_database() as database:
        sys.stdout.write(metrics.prometheus_text(metrics.read_metrics(database), stores=per_store))


@app.command()
def audit(
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    sample: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many rows of each resource are compared.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare rows of a store with its platform, repair what has drifted, and show what full passes proved.

    Exit 1 if drift is left that could not be repaired, or if the store could not be audited (docs/audit.md).
    """
    from bg_pipelines.operations.audits import audit_store

    with _open_database() as database:
        report = audit_store(database, store, sample=sample)
    if as_json:
        _print_json(report.as_dict())
    else:
        console.print("\n".join(report.lines()), soft_wrap=True)
    sys.exit(0 if report.is_well else 1)


@stores_app.command("add")
def add_store(
    name: Annotated[str, typer.Argument(help="How people call it.")],
    domain: Annotated[str, typer.Option(help="Like harbor.myshopify.com; of Square any name.")],
    platform: Annotated[str, typer.Option(help=f"Where it lives: {' or '.join(PLATFORMS)}.")] = "shopify",
    token: Annotated[str | None, typer.Option(help="Access token.", envvar="BG_STORE_TOKEN")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client id, for 24-hour tokens.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(help="Client secret.", envvar="BG_STORE_CLIENT_SECRET")
    ] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Base URL of the API, where it is not the platform's own; '': none.")
    ] = None,
    tier: Annotated[
        int | None,
        typer.Option(
            help="1: due every 5 minutes, 2: every 15, 3: every 60.", show_default=str(stores.DEFAULT_TIER)
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(metavar="MINUTES", help="Its own interval, a multiple of 5; 0: its tier's."),
    ] = None,
) -> None:
    """Add a store, or update it if its domain is known: its tier, interval and URL stay unless they are given.

    Pass `-` as a secret to type it unseen.
    """
    if token == "-":  # noqa: S105 (a sign, not a secret)
        token = _secret("token")
    if client_secret == "-":  # noqa: S105
        client_secret = _secret("client secret")
    with _open_database() as database:
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
    )
    _print_changes(_save_stores([new]))


def _secret(name: str) -> str:
    """Typed unseen; from a pipe, its next line."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True))
    return sys.stdin.readline().strip()


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
    table = _table("name", "platform", "domain", "tier", "every", "state", "last synced")
    for row in rows:
        synced = row.last_synced_at.strftime("%Y-%m-%d %H:%M") if row.last_synced_at else ""
        table.add_row(
            row.name, row.platform, row.domain, str(row.tier), f"{row.every} min", row.state, synced
        )
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


StoreFilter = Annotated[str | None, typer.Option("--store", help="Those of this store.")]
TypeFilter = Annotated[
    str | None, typer.Option("--type", metavar="ERROR_TYPE", help="Those of this error type.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Numbers of incidents.")]
All = Annotated[bool, typer.Option("--all", help="All that are open, or all of --store and --type.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who does it.", show_default="who is logged in")]


@incidents_app.command("list")
def list_incidents(
    all_statuses: Annotated[bool, typer.Option("--all-statuses", help="The resolved ones as well.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="The resolved ones instead.")] = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    owner: Annotated[str | None, typer.Option(help="Those that this person looks after.")] = None,
    as_json: AsJson = False,
) -> None:
    """Incidents, the most severe and oldest first."""
    if all_statuses and resolved:
        raise typer.BadParameter("give --all-statuses or --resolved, not both")
    which = None if all_statuses else "resolved" if resolved else "open"
    with _open_database() as database:
        rows = handling.list_incidents(
            database, status=which, store=store, error_type=error_type, owner=owner
        )
    if as_json:
        _print_json({"incidents": [row.as_dict() for row in rows]})
        return
    if not rows:
        console.print(f"no {which + ' ' if which else ''}incidents{_filtered(store, error_type, owner)}")
        return
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(justify="right", no_wrap=True)
    lines.add_column(overflow="fold")
    for row in rows:
        lines.add_row(str(row.id), _incident_line(row))
    console.print(lines)
    opened = [row for row in rows if row.status == "open"]
    waiting = sum(row.needs_attention for row in opened)
    console.print(f"{len(rows)} shown" + (f", {waiting} of them need a person" if opened else ""))


@incidents_app.command("show")
def show_incident(
    incident_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the incident.")],
    as_json: AsJson = False,
) -> None:
    """Everything about one incident, and what to do about it."""
    with _open_database() as database:
        details = handling.show(database, incident_id)
    if as_json:
        _print_json(details.as_dict())
    else:
        console.print(_incident_page(details))


@incidents_app.command("assign")
def assign_incidents(
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="Numbers of incidents.")],
    to: Annotated[str, typer.Option(metavar="NAME", help="Who looks after them; '': nobody.")],
) -> None:
    """Say who looks after incidents."""
    with _open_database() as database:
        count = handling.assign(database, ids, to)
    console.print(f"{_counted(count, 'incident')} assigned to {to.strip() or 'nobody'}")


@incidents_app.command("retry")
def retry_incidents(
    ids: Ids = None,
    every: All = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    by: By = None,
) -> None:
    """Start what waits under incidents now; they close by themselves when it succeeds."""
    with _open_database() as database:
        chosen = _chosen(database, ids, every, store, error_type, "retry")
        done = handling.retry(database, chosen, by=by or _person())
    started = f"{_counted(done.incidents, 'incident')} retried, {_counted(done.rows, 'resource')} due now"
    console.print("\n".join([started, *done.notes]), soft_wrap=True)
    if not done.incidents:
        sys.exit(1)


@incidents_app.command("resolve")
def resolve_incidents(
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why it is over.")],
    ids: Ids = None,
    every: All = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    by: By = None,
) -> None:
    """Close incidents. What waits under them goes back to its schedule, so a fault that is left opens one again."""
    with _open_database() as database:
        chosen = _chosen(database, ids, every, store, error_type, "resolve")
        done = handling.resolve(database, chosen, by=by or _person(), note=note)
    closed = f"{_counted(done.incidents, 'incident')} resolved, {_counted(done.rows, 'resource')} due now"
    console.print("\n".join([closed, *done.notes]), soft_wrap=True)


StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Store name.")]
CustomerId = Annotated[
    str, typer.Argument(metavar="CUSTOMER", help="The customer's id there; of a gid:// its number will do.")
]
OtherStore = Annotated[str, typer.Argument(metavar="OTHER_STORE", help="The other's store.")]
OtherCustomer = Annotated[str, typer.Argument(metavar="OTHER_CUSTOMER", help="The other's id there.")]


@people_app.command("show")
def show_person(
    person: Annotated[int | None, typer.Argument(metavar="PERSON", help="Number of the person.")] = None,
    customer: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="STORE ID", help="The person that this customer of this store is."),
    ] = None,
    orders: Annotated[int, typer.Option(min=0, help="How many of the newest orders.")] = 20,
) -> None:
    """The customers that are one person and why, what they spent, and their newest orders. Times are UTC."""
    if (person is None) == (customer is None):
        raise typer.BadParameter("give the number of a person, or --customer STORE ID")
    with _open_database() as database:
        if person is None:
            assert customer is not None
            person = people.find_person(database, *customer)
        links = people.customers_of(database, person)
        totals = people.totals(database, person)
        history = people.history(database, person, newest=orders)
    console.print(f"person {person}")
    table = _table("store", "customer", "why")
    for link in links:
        table.add_row(link.store, link.customer, link.reason)
    console.print(table)
    table = _table("currency", "orders", "spent", "refunded", "net", "first order", "last visit", "stores")
    for t in totals:
        times = [_minute(at) if at else "" for at in (t.first_order_at, t.last_order_at)]
        money = [f"{amount:,.2f}" for amount in (t.spent, t.refunded, t.net)]
        table.add_row(t.currency, str(t.orders), *money, *times, str(t.stores))
    console.print("", table if totals else "no orders", sep="\n")
    if not history.empty:
        table = _table("when", "store", "order", "channel", "status", "total", "refunded", "net")
        rows: Any = history.itertuples()
        for row in rows:
            status_ = "return" if row.is_return else row.status
            money = [f"{amount:,.2f}" for amount in (row.total, row.refunded, row.net)]
            table.add_row(
                _minute(row.ordered_at),
                row.store,
                row.name,
                row.channel if isinstance(row.channel, str) else "",
                status_,
                *money[:2],
                f"{money[2]} {row.currency}",
            )
        console.print("", table, sep="\n")


@people_app.command("why")
def show_why(store: StoreName, customer: CustomerId) -> None:
    """Why a customer is the person it is, step by step, and why its e-mail or phone matches nobody."""
    with _open_database() as database:
        for line in people.why(database, store, customer):
            console.print(line, soft_wrap=True)


@people_app.command("join")
def join_people(
    store: StoreName, customer: CustomerId, other_store: OtherStore, other: OtherCustomer, by: By = None
) -> None:
    """Make two customers one person, with all who are matched with either; `undo` takes it back."""
    with _open_database() as database:
        made = people.join(database, (store, customer), (other_store, other), by=by or _person())
    if made.person_id == made.other_person_id:
        console.print(f"decision {made.id}: they are person {made.person_id}")
    else:
        console.print(
            f"decision {made.id}: kept, but a split comes before it: they stay {_persons(made)}",
            soft_wrap=True,
        )


@people_app.command("split")
def split_people(
    store: StoreName, customer: CustomerId, other_store: OtherStore, other: OtherCustomer, by: By = None
) -> None:
    """Keep two customers from ever being one person: the other one leaves; `undo` takes it back."""
    with _open_database() as database:
        made = people.split(database, (store, customer), (other_store, other), by=by or _person())
    console.print(f"decision {made.id}: they are {_persons(made)}")


@people_app.command("undo")
def undo_decision(
    decision: Annotated[int, typer.Argument(metavar="DECISION", help="Number of the decision.")],
    by: By = None,
) -> None:
    """Take a join or a split back."""
    with _open_database() as database:
        undone = people.undo(database, decision, by=by or _person())
    console.print(f"decision {decision} is undone: they are {_persons(undone)}")


@people_app.command("decisions")
def list_decisions() -> None:
    """The joins and splits in force, the newest first."""
    with _open_database() as database:
        rows = people.list_decisions(database)
    table = _table("decision", "what", "customer", "and", "by", "when")
    for row in rows:
        done = "joined" if row.kind == "together" else "split"
        table.add_row(
            str(row.id),
            done,
            f"{row.store} {row.customer}",
            f"{row.other_store} {row.other}",
            row.decided_by,
            _minute(row.decided_at),
        )
    console.print(table if rows else "no decisions in force")


@people_app.command("report")
def report_people(
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all columns there, as CSV.")] = None,
    currency: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="So many of each currency.", show_default="20; all with --csv")
    ] = None,
    lapsed: Annotated[
        int | None, typer.Option(metavar="DAYS", min=0, help="Those who have not been there for so long.")
    ] = None,
) -> None:
    """Who spent most, by currency: orders, spend, refunds, net, last visit."""
    with _open_database() as database:
        frame = people.report(
            database,
            currency=currency and currency.upper(),
            top=top or (None if csv else 20),
            lapsed_days=lapsed,
        )
    if csv is not None:
        try:
            frame.to_csv(csv, index=False)
        except OSError as error:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION, f"--csv {csv}: {error.strerror or error}", source="settings"
            ) from None
        console.print(f"{_counted(len(frame), 'row')} written to {csv}")
        return
    table = _table("rank", "person", "orders", "stores", "spent", "refunded", "net", "last visit", "days")
    rows: Any = frame.itertuples()
    for row in rows:
        money = [f"{amount:,.2f}" for amount in (row.spent, row.refunded)]
        table.add_row(
            str(row.rank), str(row.person_id), str(row.orders), str(row.stores), *money, f"{row.net:,.2f} {row.currency}",
            f"{row.last_visit_at:%Y-%m-%d}", str(row.days_since),
        )  # fmt: skip
    console.print(table if len(frame) else "nobody, of known customers with orders")


def _persons(decision: people.Decision) -> str:
    ids = (decision.person_id, decision.other_person_id)
    if ids[0] == ids[1] and ids[0] is not None:
        return f"person {ids[0]}"
    return " and ".join("nobody" if person is None else f"person {person}" for person in ids)


def _chosen(
    database: Database,
    ids: list[int] | None,
    every: bool,
    store: str | None,
    error_type: str | None,
    verb: str,
) -> list[int]:
    """The incidents meant: by number, or all that are open and of these. Raises IntegrationError if there are none."""
    wide = every or store is not None or error_type is not None
    if ids and wide:
        raise typer.BadParameter("give numbers, or --all, --store and --type; not both")
    if ids:
        return ids
    if not wide:
        raise typer.BadParameter("give numbers of incidents, --all, --store or --type")
    chosen = [row.id for row in handling.list_incidents(database, store=store, error_type=error_type)]
    if not chosen:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"no open incidents{_filtered(store, error_type)}: nothing to {verb}",
            source="incidents",
        )
    return chosen


def _person() -> str:
    """Who is logged in, as the operating system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _filtered(store: str | None, error_type: str | None, owner: str | None = None) -> str:
    of = [
        f"{name} {value}"
        for name, value in (("store", store), ("type", error_type), ("owner", owner))
        if value is not None
    ]
    return f" of {', '.join(of)}" if of else ""


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


_SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


def _incident_line(row: handling.IncidentRow) -> Text:
    since = (
        f"since {_minute(row.opened_at)}, {'once' if row.occurrences == 1 else f'{row.occurrences} times'}"
    )
    facts = [since]
    if row.parked:
        facts.append(f"{row.parked} parked")
    if row.status == "resolved" and row.resolved_at is not None:
        facts.append(f"resolved {_minute(row.resolved_at)} by {row.resolved_by}")
    elif not row.needs_attention:
        facts.append("tried again by itself")
    if row.owner:
        facts.append(f"owner {row.owner}")
    style = "dim" if row.status == "resolved" else _SEVERITY_STYLES.get(row.severity, "")
    return Text.assemble(
        (row.severity, style),
        "  ",
        (row.subject, "bold"),
        "  ",
        (row.error_type, style),
        f"  {', '.join(facts)}\n{row.message}",
    )


def _incident_page(details: handling.IncidentDetails) -> Table:
    row = details.incident
    page = Table.grid(padding=(0, 1, 0, 0))
    page.add_column(no_wrap=True, style="bold")
    page.add_column(overflow="fold")

    def add(name: str, *lines: str | Text) -> None:
        if lines:
            page.add_row(
                name, Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)
            )

    style = _SEVERITY_STYLES.get(row.severity, "")
    add("incident", Text.assemble(f"{row.id}, {row.status}, ", (row.severity, style)))
    add("what", Text.assemble((row.subject, "bold"), ": ", (row.error_type, style), f" ({details.source})"))
    add("", row.message)
    add("do this", Text(details.runbook, style="green") if row.status == "open" else details.runbook)
    times = "once" if row.occurrences == 1 else f"{row.occurrences} times"
    add("since", f"{_minute(row.opened_at)} UTC, last {_minute(row.last_seen_at)}, {times}")
    add("owner", row.owner or "nobody")
    if row.resolved_at is not None:
        add("resolved", f"{_minute(row.resolved_at)} UTC by {row.resolved_by}: {row.resolution}")
    elif not row.needs_attention:
        add("by itself", "it is tried again without a person")
    add("affects", *([", ".join(row.resources)] if row.resources else []))
    add("met by", *([", ".join(details.affected_runs)] if details.affected_runs else []))
    add("parked", *_together((_held_line(held), held.store, held.resource) for held in details.held))
    for circuit in details.circuits:
        probe = f"next probe {circuit.probe_at:%H:%M:%S} UTC" if circuit.probe_at else "no probe yet"
        add(
            "circuit",
            f"{circuit.key} open since {_minute(circuit.opened_at)}, failed {circuit.failures}, {probe}",
        )
    add("details", *(f"{name}: {value}" for name, value in details.details.items()))
    add("payload", *([details.payload] if details.payload else []))
    rejects = [f"{r.external_id}: {r.reason}" for r in details.rejects]
    if details.rejects_total > len(rejects):
        rejects.append(f"and {details.rejects_total - len(rejects):,} more")
    add("rejected", *rejects)
    add(
        "attempts",
        *_together((_attempt_line(tried), tried.store, _attempted(tried)) for tried in details.attempts),
    )
    add("runs", *(f"{_minute(run.started_at)} {run.status} {run.run_id}" for run in details.runs))
    add("alerts", *(_alert_line(alert) for alert in details.alerts))
    return page


def _together(facts: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines of (what, store, resource): the resources of a store of which the same is to be said share one."""
    lines: dict[tuple[str, str], list[str]] = {}
    for what, store, resource in facts:
        lines.setdefault((what, store), []).append(resource)
    return [f"{what}: {store} {', '.join(resources)}" for (what, store), resources in lines.items()]


def _held_line(held: handling.HeldRow) -> str:
    if held.in_hand:
        when = "a run is at work on it"
    elif held.next_due_at is None:
        when = "waits for a person"
    else:
        when = f"due {_minute(held.next_due_at)}"
    return when + (f" ({held.retry_strategy}, {held.retry_reason})" if held.retry_strategy else "")


def _attempt_line(attempt: handling.Attempt) -> str:
    error = f" ({attempt.error_type})" if attempt.error_type else ""
    return f"{_minute(attempt.started_at)} {attempt.status}{error}"


def _attempted(attempt: handling.Attempt) -> str:
    return attempt.resource + (f" ({_counted(attempt.rows_read, 'row')})" if attempt.rows_read else "")


def _alert_line(alert: handling.SentAlert) -> str:
    to = f": {alert.target} {alert.status}" if alert.target else ": to nobody"
    return f"{_minute(alert.created_at)} {alert.kind}{to}" + (f" ({alert.error})" if alert.error else "")


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


@customers_app.command("show")
def show_customer(store: StoreName, customer: CustomerId) -> None:
    """A customer as the platform has them, and their latest changes with their values: personal data."""
    with _open_database() as database:
        details = editing.show(database, store, customer)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in details.values.items():
        if name != "store_id":
            facts.add_row(name, _value(value))
    console.print(facts)
    table = _table("changed", "field", "from", "to", "by", "status")
    for row in details.changes:
        erased = "erased" if row.erased_at else None
        state = f"{row.status}: {row.reason}" if row.reason else row.status
        if row.found_value is not None:
            state += f"; the platform had {_value(row.found_value)}"
        table.add_row(
            _minute(row.changed_at),
            row.field,
            _value(erased or row.from_value),
            _value(erased or row.to_value),
            row.changed_by,
            state,
        )
    console.print(table if table.row_count else "no changes")


@customers_app.command("edit")
def edit_customer(
    store: StoreName,
    customer: CustomerId,
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help=f"Again for each field: {', '.join(editing.FIELDS)}. Nothing behind the sign takes the value away; "
            "commas part tags.",
        ),
    ],
    by: By = None,
) -> None:
    """Edit a profile: the next sync of the store, which is due now, sends it to the platform."""
    with _open_database() as database:
        added = editing.edit(database, store, customer, editing.parse(assignments), by=by or _person())
    for change in added:
        console.print(
            f"{change.id}  {change.field}: {_value(change.from_value)} -> {_value(change.to_value)}"
        )
    console.print(
        f"{_counted(len(added), 'change')} pending; `bg-pipelines customers changes {store}` shows what becomes of them"
        if added
        else "nothing to change: these are the values already",
        soft_wrap=True,
    )


@customers_app.command("changes")
def list_changes(
    store: Annotated[str | None, typer.Argument(metavar="STORE", help="Name of a store; none: all.")] = None,
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Those of this customer alone.")
    ] = None,
    of_status: Annotated[
        str | None, typer.Option("--status", help=f"Those that are {', '.join(editing.STATUSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest.")] = editing.LATEST,
) -> None:
    """Who changed which field of whom, and when; the values are in `customers show`."""
    with _open_database() as database:
        rows = editing.list_changes(database, store, customer, status=of_status, limit=limit)
    table = _table("id", "changed", "store", "customer", "field", "by", "status", "reason")
    for row in rows:
        table.add_row(
            str(row.id),
            _minute(row.changed_at),
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
        return _minute(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


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


_LONG = 20
"""Lines of one kind that `status` shows; `--json` has all."""
_WORST = 5
"""Of those that are late: how far behind each store is stands in `--json`."""


def _status_tables(state: status.Status) -> Lines:
    page: list[RenderableType] = []
    now = state.metrics.at
    waits = any(incident.needs_attention for incident in state.incidents)
    well = not state.incidents and state.metrics.stores_current == state.metrics.stores_total
    verdict = _line((state.verdict, "bold red" if waits else "bold green" if well else "bold yellow"))
    verdict.no_wrap = not console.is_terminal  # the one line that is never cut
    page.append(verdict)

    def block(lines: list[Text], more: str = "") -> None:
        if not lines:
            return
        page.extend(["", *(lines[:_LONG] if more else lines)])
        if more and len(lines) > _LONG:
            page.append(_line(f"and {len(lines) - _LONG} more {more}"))

    block([_fault_line(incident, now) for incident in state.incidents])
    if any(job.stores for job in state.metrics.jobs):
        page.append("")
        page.append(_jobs_table(state.metrics, narrow=console.width < 100))
    late = sorted(
        (line for line in state.metrics.stores if not line.current and line.behind_seconds >= 60),
        key=lambda line: -line.behind_seconds,
    )
    block(
        [
            _line(
                ("late  ", "yellow"),
                f"{line.store}  {line.job}  {line.behind_seconds / 60:.0f} minutes behind",
            )
            for line in late[:_WORST]
        ]
        + ([_line(f"and {len(late) - _WORST} more are late")] if len(late) > _WORST else [])
    )
    block(
        [
            _line(
                ("circuit open  ", "yellow"),
                f"{circuit.subject} since {_clock(circuit.opened_at, now)}, {_times(circuit.failures)} failed, ",
                f"next probe {circuit.next_probe_at:%H:%M:%S}" if circuit.next_probe_at else "no probe yet",
            )
            for circuit in state.circuits
        ],
        "circuits",
    )
    block([_retry_line(failing) for failing in state.retrying], "that are tried again")
    block([_run_line(run, now) for run in state.runs], "runs")
    block([_alerts_line(alerts, now) for alerts in state.alerts], "targets of alerts")
    pool = state.metrics.connections
    of_runs = f"{pool.in_use} of {pool.size} in runs, " if pool.size else ""
    others = f" and {len(state.paused) - _LONG} more" if len(state.paused) > _LONG else ""
    memory = [
        f"{run.job} {run.peak_memory_bytes / 2**20:.0f} MB"
        for run in state.metrics.runs
        if run.peak_memory_bytes
    ]
    facts = {
        "rows that could not be loaded": _listed(state.metrics.rejected_rows),
        "stock corrections": _listed(state.metrics.corrections),
        "paused": ", ".join(state.paused[:_LONG]) + others,
        "connections": f"{of_runs}{pool.server_in_use} of {pool.server_size} in the server",
        "most memory of a run": ", ".join(memory),
    }
    block([_line(f"{name}: {fact}") for name, fact in facts.items() if fact])
    return Lines(*page)


def _jobs_table(figures: metrics.Metrics, *, narrow: bool) -> Table:
    """A line for each queue that has work, and for each of its jobs."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("queue, job", no_wrap=True)
    names = "stores current due oldest running retries parked faults p50 p95 success behind"
    if narrow:
        names = "stores current due run retry parked p50/p95 success behind"
    for name in names.split():
        table.add_column(name, justify="right", no_wrap=True)

    def add(
        title: str, counts: list[int], work: metrics.QueueMetrics | metrics.JobMetrics, style: str
    ) -> None:
        spans = [_span(work.p50_seconds), _span(work.p95_seconds)]
        cells = [title, *(map(str, counts) if counts else ("", "")), str(work.size)]
        cells += [] if narrow else [_span(work.oldest_seconds) if work.size else ""]
        cells += map(str, (work.running, work.retries_waiting, work.parked))
        cells += [] if narrow else [str(work.open_incidents)]
        cells += ["/".join(filter(None, spans))] if narrow else spans
        cells += ["" if work.success_rate is None else f"{work.success_rate * 100:.3g}%"]
        table.add_row(*cells, _span(work.behind_seconds), style=style)

    for queue in figures.queues:
        jobs = [job for job in figures.jobs if job.queue == queue.queue and job.stores]
        if jobs:
            add(queue.queue, [], queue, "bold")
        for job in jobs:
            style = "red" if job.parked else "yellow" if job.current < job.stores else ""
            add(f"  {job.job}", [job.stores, job.current], job, style)
    return table


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line, whatever its length: cut where a terminal ends, told in full elsewhere."""
    text = Text.assemble(*parts)
    text.no_wrap, text.overflow = True, "ellipsis" if console.is_terminal else "ignore"
    return text


def _fault_line(incident: status.OpenIncident, now: datetime) -> Text:
    style = _SEVERITY_STYLES.get(incident.severity, "")
    return _line(
        f"#{incident.id} ",
        (incident.severity, style),
        "  ",
        (incident.subject, "bold"),
        "  ",
        (incident.error_type, style),
        f"  since {_clock(incident.opened_at, now)}, {_times(incident.occurrences)}, ",
        "waits for a person" if incident.needs_attention else "tried again by itself",
        f" ({incident.owner})" if incident.owner else "",
        f"  {_some(incident.resources)}{_flat(incident.message)}",
    )


def _retry_line(failing: status.FailingStore) -> Text:
    again = "tried now" if failing.running else f"next try {failing.next_try_at:%H:%M:%S}"
    return _line(
        (failing.store, "bold"),
        "  ",
        (failing.error_type, "yellow"),
        f"  attempt {failing.failures} failed, {again}  {_some(failing.resources)}{_flat(failing.message)}",
    )


def _some(resources: list[str]) -> str:
    """What a message is about, where that is not the whole store."""
    return f"{', '.join(resources)}: " if len(resources) in (1, 2) else ""


def _run_line(run: status.RunStatus, now: datetime) -> Text:
    state = "" if run.alive else f", died: not heard of since {_clock(run.seen_at, now)}"
    memory = f", {run.peak_rss_mb:.0f} MB" if run.peak_rss_mb else ""
    pool = f", {run.connections_in_use} of {run.connections_size} connections" if run.connections_size else ""
    return _line(
        ("run  ", "" if run.alive else "red"),
        f"{run.run_id[:8]}  {run.job} since {_clock(run.started_at, now)}{state}, {run.stores} stores done, ",
        f"{run.stores_failed} failed{memory}{pool}",
    )


def _alerts_line(alerts: status.UndeliveredAlerts, now: datetime) -> Text:
    pending = f"{alerts.pending} not delivered yet, " if alerts.pending else ""
    refused = f"{alerts.refused} refused, " if alerts.refused else ""
    since = f"since {_clock(alerts.oldest_at, now)}"
    return _line(
        ("alerts  ", "red"),
        f"{alerts.target}: {pending}{refused}{since}" + (f": {_flat(alerts.error)}" if alerts.error else ""),
    )


def _flat(text: str) -> str:
    return " ".join(text.split())


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M}" if now - moment < timedelta(hours=20) else f"{moment:%Y-%m-%d %H:%M}"


def _span(seconds: float | None) -> str:
    """A duration in about four letters; nothing where there is none."""
    if seconds is None:
        return ""
    if not seconds:
        return "0"
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, length in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 120 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


if __name__ == "__main__":
    main()
