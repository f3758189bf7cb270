"""`bg-pipelines incidents`: what failed, and what to do about it (docs/on-call.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bg_pipelines.cli.printing import (
    SEVERITY_STYLES,
    AsJson,
    By,
    alike,
    console,
    open_migrated,
    print_json,
    typist,
)
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reading
from bg_pipelines.operations import actions
from bg_pipelines.wording import counted, listed, minute, times
from bg_pipelines.work.parked import Held

app = typer.Typer()
StoreFilter = Annotated[str | None, typer.Option("--store", help="Only those of this store.")]
TypeFilter = Annotated[
    str | None, typer.Option("--type", metavar="ERROR_TYPE", help="Only those of this error type.")
]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Incident numbers.")]
All = Annotated[bool, typer.Option("--all", help="All open ones, or all of --store and --type.")]


@app.command("list")
def list_incidents(
    all_statuses: Annotated[bool, typer.Option("--all-statuses", help="Include resolved ones.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="Only resolved ones.")] = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    owner: Annotated[str | None, typer.Option(help="Only those assigned to this person.")] = None,
    as_json: AsJson = False,
) -> None:
    """List open incidents, the most severe first, then the oldest."""
    if all_statuses and resolved:
        raise typer.BadParameter("give --all-statuses or --resolved, not both")
    which = None if all_statuses else "resolved" if resolved else "open"
    with open_migrated() as database:
        rows = reading.list_incidents(database, status=which, store=store, error_type=error_type, owner=owner)
    if as_json:
        print_json({"incidents": [row.as_dict() for row in rows]})
        return
    if not rows:
        console.print(f"no {which + ' ' if which else ''}incidents{_filtered(store, error_type, owner)}")
        return
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(justify="right", no_wrap=True)
    lines.add_column(overflow="fold")
    # Who asks for some of them is shown each.
    each = error_type is not None or store is not None
    for same in [[row] for row in rows] if each else alike(rows):
        row = same[0]
        if len(same) > 1:
            ids = listed([str(one.id) for one in same])
            lines.add_row(
                f"{len(same)} alike",
                Text.assemble(
                    _incident_line(row),
                    f"\nof {listed([one.subject for one in same])}: incidents {ids}; --type {row.error_type} shows each",
                ),
            )
            continue
        lines.add_row(str(row.id), _incident_line(row))
    console.print(lines)
    opened = [row for row in rows if row.status == "open"]
    waiting = sum(row.needs_attention for row in opened)
    console.print(
        f"{len(rows)} shown" + (f", {waiting} of them need{'s' * (waiting == 1)} attention" if opened else "")
    )


@app.command("show")
def show_incident(
    incident_id: Annotated[int, typer.Argument(metavar="ID", help="Incident number.")],
    as_json: AsJson = False,
) -> None:
    """Show everything about one incident and what to do about it."""
    with open_migrated() as database:
        details = reading.show(database, incident_id)
    if as_json:
        print_json(details.as_dict())
    else:
        console.print(incident_page(details))


@app.command("assign")
def assign_incidents(
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="Incident numbers.")],
    to: Annotated[str, typer.Option(metavar="NAME", help="The new owner; '' for nobody.")],
    by: By = None,
) -> None:
    """Assign incidents to an owner."""
    with open_migrated() as database:
        done = actions.assign_incidents(database, ids, typist(by), to=to)
    console.print(done.outcome)


@app.command("retry")
def retry_incidents(
    ids: Ids = None,
    every: All = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    by: By = None,
) -> None:
    """Retry the work under incidents now; an incident closes automatically once it succeeds."""
    with open_migrated() as database:
        chosen = _chosen(database, ids, every, store, error_type, "retry")
        done = actions.retry_incidents(database, chosen, typist(by))
    console.print(done.outcome, soft_wrap=True)
    if not done.count:
        sys.exit(1)


@app.command("resolve")
def resolve_incidents(
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why they are resolved.")],
    ids: Ids = None,
    every: All = False,
    store: StoreFilter = None,
    error_type: TypeFilter = None,
    by: By = None,
) -> None:
    """Close incidents and put their work back on schedule; a fault that persists opens a new one."""
    with open_migrated() as database:
        chosen = _chosen(database, ids, every, store, error_type, "resolve")
        done = actions.resolve_incidents(database, chosen, typist(by), note=note)
    console.print(done.outcome, soft_wrap=True)


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
        raise typer.BadParameter("give incident numbers, or --all, --store and --type; not both")
    if ids:
        return ids
    if not wide:
        raise typer.BadParameter("give incident numbers, --all, --store or --type")
    chosen = [row.id for row in reading.list_incidents(database, store=store, error_type=error_type)]
    if not chosen:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"no open incidents{_filtered(store, error_type)}: nothing to {verb}",
            source="incidents",
        )
    return chosen


def _filtered(store: str | None, error_type: str | None, owner: str | None = None) -> str:
    of = [
        f"{name} {value}"
        for name, value in (("store", store), ("type", error_type), ("owner", owner))
        if value is not None
    ]
    return f" of {', '.join(of)}" if of else ""


def _incident_line(row: reading.IncidentRow) -> Text:
    facts = [f"since {minute(row.opened_at)}, {times(row.occurrences)}"]
    if row.parked:
        facts.append(f"{row.parked} parked")
    if row.status == "resolved" and row.resolved_at is not None:
        facts.append(f"resolved {minute(row.resolved_at)} by {row.resolved_by}")
    elif not row.needs_attention:
        facts.append("retried automatically")
    if row.owner:
        facts.append(f"owner {row.owner}")
    style = "dim" if row.status == "resolved" else SEVERITY_STYLES.get(row.severity, "")
    return Text.assemble(
        (row.severity, style),
        "  ",
        (row.subject, "bold"),
        "  ",
        (row.error_type, style),
        f"  {', '.join(facts)}\n{row.message}",
    )


def incident_page(details: reading.IncidentDetails) -> Table:
    row = details.incident
    page = Table.grid(padding=(0, 1, 0, 0))
    page.add_column(no_wrap=True, style="bold")
    page.add_column(overflow="fold")

    def add(name: str, *lines: str | Text) -> None:
        if lines:
            page.add_row(
                name, Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)
            )

    style = SEVERITY_STYLES.get(row.severity, "")
    add("incident", Text.assemble(f"{row.id}, {row.status}, ", (row.severity, style)))
    add("what", Text.assemble((row.subject, "bold"), ": ", (row.error_type, style), f" ({details.source})"))
    add("", row.message)
    add("what to do", Text(details.runbook, style="green") if row.status == "open" else details.runbook)
    add("since", f"{minute(row.opened_at)} UTC, last {minute(row.last_seen_at)}, {times(row.occurrences)}")
    add("owner", row.owner or "nobody")
    if row.resolved_at is not None:
        add("resolved", f"{minute(row.resolved_at)} UTC by {row.resolved_by}: {row.resolution}")
    elif not row.needs_attention:
        add("next", "retried automatically")
    add("affects", *([", ".join(row.resources)] if row.resources else []))
    add("affected runs", *([", ".join(details.affected_runs)] if details.affected_runs else []))
    waiting = _together((_held_line(held), held.store or "", held.label) for held in details.held)
    if details.held_total > len(details.held):
        more = details.held_total - len(details.held)
        waiting.append(f"and {more:,} more, of {counted(details.stores_total, 'store')} in all")
    add("parked", *waiting)
    for circuit in details.circuits:
        probe = f"next probe {circuit.probe_at:%H:%M:%S} UTC" if circuit.probe_at else "no probe yet"
        add(
            "circuit",
            f"{circuit.key} open since {minute(circuit.opened_at)}, failed {circuit.failures}, {probe}",
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
    add("runs", *(f"{minute(run.started_at)} {run.status} {run.run_id}" for run in details.runs))
    add("alerts", *(_alert_line(alert) for alert in details.alerts))
    return page


def _together(facts: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines of (what, store, unit): the units of a store of which the same is to be said share one."""
    lines: dict[tuple[str, str], list[str]] = {}
    for what, store, unit in facts:
        lines.setdefault((what, store), []).append(unit)
    return [
        f"{what}: {' '.join(filter(None, (store, ', '.join(units))))}"
        for (what, store), units in lines.items()
    ]


def _held_line(held: Held) -> str:
    if held.in_hand:
        when = "a run is working on it"
    elif held.next_due_at is None:
        when = "needs attention"
    else:
        when = f"due {minute(held.next_due_at)}"
    return when + (f" ({held.retry_strategy}, {held.retry_reason})" if held.retry_strategy else "")


def _attempt_line(attempt: reading.Attempt) -> str:
    error = f" ({attempt.error_type})" if attempt.error_type else ""
    return f"{minute(attempt.started_at)} {attempt.status}{error}"


def _attempted(attempt: reading.Attempt) -> str:
    return attempt.resource + (f" ({counted(attempt.rows_read, 'row')})" if attempt.rows_read else "")


def _alert_line(alert: reading.SentAlert) -> str:
    to = f": {alert.target} {alert.status}" if alert.target else ": no recipients"
    return f"{minute(alert.created_at)} {alert.kind}{to}" + (f" ({alert.error})" if alert.error else "")
