"""`bg-pipelines people`: one person across stores (docs/people.md)."""

from __future__ import annotations

import csv as csv_
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bg_pipelines import people
from bg_pipelines.cli.printing import By, CustomerId, StoreName, console, logged_in, new_table, open_migrated
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import counted, minute, money

app = typer.Typer()
OtherStore = Annotated[str, typer.Argument(metavar="OTHER_STORE", help="The other customer's store.")]
OtherCustomer = Annotated[str, typer.Argument(metavar="OTHER_CUSTOMER", help="The other customer's id.")]


@app.command("show")
def show_person(
    person: Annotated[int | None, typer.Argument(metavar="PERSON", help="Person number.")] = None,
    customer: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="STORE ID", help="The person behind this customer."),
    ] = None,
    orders: Annotated[int, typer.Option(min=0, help="How many orders to show, the newest.")] = 20,
) -> None:
    """Show a person's customers and why they match, what was spent, and the newest orders. Times are UTC."""
    if (person is None) == (customer is None):
        raise typer.BadParameter("give a person number, or --customer STORE ID")
    with open_migrated() as database:
        if person is None:
            assert customer is not None
            person = people.find_person(database, *customer)
        links = people.customers_of(database, person)
        totals = people.totals(database, person)
        history = people.orders_of(database, person, newest=orders)
    console.print(f"person {person}")
    table = new_table("store", "customer", "why")
    for link in links:
        table.add_row(link.store, link.customer, link.reason)
    console.print(table)
    table = new_table("currency", "orders", "spent", "refunded", "net", "first order", "last visit", "stores")
    for t in totals:
        times = [minute(at) if at else "" for at in (t.first_order_at, t.last_order_at)]
        amounts = [money(amount, t.currency) for amount in (t.spent, t.refunded, t.net)]
        table.add_row(t.currency, str(t.orders), *amounts, *times, str(t.stores))
    console.print("", table if totals else "no orders", sep="\n")
    if history:
        table = new_table("when", "store", "order", "channel", "status", "total", "refunded", "net")
        for order in history:
            amounts = [money(amount, order.currency) for amount in (order.total, order.refunded, order.net)]
            table.add_row(
                minute(order.ordered_at),
                order.store,
                order.name,
                order.channel or "",
                "return" if order.is_return else order.status,
                *amounts[:2],
                f"{amounts[2]} {order.currency}",
            )
        console.print("", table, sep="\n")


@app.command("why")
def show_why(store: StoreName, customer: CustomerId) -> None:
    """Explain step by step why a customer belongs to a person, and why an e-mail or phone matches nobody."""
    with open_migrated() as database:
        for line in people.why(database, store, customer):
            console.print(line, soft_wrap=True)


@app.command("join")
def join_people(
    store: StoreName, customer: CustomerId, other_store: OtherStore, other: OtherCustomer, by: By = None
) -> None:
    """Join two customers, and everybody matched with either, into one person; `undo` reverts it."""
    with open_migrated() as database:
        made = people.join(database, (store, customer), (other_store, other), by=by or logged_in())
    if made.person_id == made.other_person_id:
        console.print(f"decision {made.id}: they are person {made.person_id}")
    else:
        console.print(
            f"decision {made.id}: recorded, but an earlier split takes precedence: they remain {_persons(made)}",
            soft_wrap=True,
        )


@app.command("split")
def split_people(
    store: StoreName, customer: CustomerId, other_store: OtherStore, other: OtherCustomer, by: By = None
) -> None:
    """Keep two customers apart for good: the other one leaves the person; `undo` reverts it."""
    with open_migrated() as database:
        made = people.split(database, (store, customer), (other_store, other), by=by or logged_in())
    console.print(f"decision {made.id}: they are {_persons(made)}")


@app.command("undo")
def undo_decision(
    decision: Annotated[int, typer.Argument(metavar="DECISION", help="Decision number.")],
    by: By = None,
) -> None:
    """Revert a join or a split."""
    with open_migrated() as database:
        undone = people.undo(database, decision, by=by or logged_in())
    console.print(f"decision {decision} is undone: they are {_persons(undone)}")


@app.command("decisions")
def list_decisions() -> None:
    """List the joins and splits in force, the newest first."""
    with open_migrated() as database:
        rows = people.list_decisions(database)
    table = new_table("decision", "what", "customer", "and", "by", "when")
    for row in rows:
        done = "joined" if row.kind == "together" else "split"
        table.add_row(
            str(row.id),
            done,
            f"{row.store} {row.customer}",
            f"{row.other_store} {row.other}",
            row.decided_by,
            minute(row.decided_at),
        )
    console.print(table if rows else "no decisions in force")


@app.command("report")
def report_people(
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all columns to this CSV file.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Only this currency.")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many persons of each currency.", show_default="20; all with --csv"),
    ] = None,
    lapsed: Annotated[
        int | None,
        typer.Option(metavar="DAYS", min=0, help="Only those whose last visit is at least this long ago."),
    ] = None,
) -> None:
    """Report who spent most, by currency: orders, spend, refunds, net, last visit."""
    with open_migrated() as database:
        ranking = people.ranking(
            database,
            currency=currency and currency.upper(),
            top=top or (None if csv else 20),
            lapsed_days=lapsed,
        )
        if csv is not None:
            console.print(f"{counted(_write(csv, ranking), 'row')} written to {csv}")
            return
        rows = list(ranking)
    table = new_table("rank", "person", "orders", "stores", "spent", "refunded", "net", "last visit", "days")
    for row in rows:
        table.add_row(
            str(row.rank), str(row.person_id), str(row.orders), str(row.stores), money(row.spent, row.currency),
            money(row.refunded, row.currency), f"{money(row.net, row.currency)} {row.currency}", f"{row.last_visit_at:%Y-%m-%d}", str(row.days_since),
        )  # fmt: skip
    console.print(table if rows else "no known customers with orders")


def _write(path: Path, ranking: Iterable[people.Ranked]) -> int:
    """Row by row, so that no more of them are in memory than are on their way; returns how many."""
    count = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv_.writer(file, lineterminator="\n")
            writer.writerow(people.Ranked._fields)
            for row in ranking:
                writer.writerow(row)
                count += 1
    except OSError as error:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION, f"--csv {path}: {error.strerror or error}", source="settings"
        ) from None
    return count


def _persons(decision: people.Decision) -> str:
    ids = (decision.person_id, decision.other_person_id)
    if ids[0] == ids[1] and ids[0] is not None:
        return f"person {ids[0]}"
    return " and ".join("nobody" if person is None else f"person {person}" for person in ids)
