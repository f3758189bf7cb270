"""`bg-pipelines`: the command itself, its topics (a file each beside this one), and the commands that belong to none."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from bg_pipelines.cli.printing import (
    PIPE_COLUMNS,
    AsJson,
    By,
    Group,
    HarmlessConsole,
    console,
    errors,
    open_migrated,
    print_json,
    unbreakable_output,
)
from bg_pipelines.errors import IntegrationError
from bg_pipelines.machine.processes import stop_on_signals

TOPICS = {
    "stores": "Stores that are synced.",
    "incidents": "What failed, and what to do about it (docs/on-call.md).",
    "stock": "Stock corrections and their outcomes (docs/jobs.md).",
    "customers": "A store's customers, edits of their profiles (docs/jobs.md), export and erasure (docs/privacy.md).",
    "webhooks": "What platforms tell of changes (docs/webhooks.md).",
    "texts": "Text messages, consent and replies (docs/text-messages.md).",
    "people": "One person across stores: who is matched, why, and what they bought (docs/people.md).",
    "board": "Serve the board: the page for the person on call (docs/board.md).",
    "cleaning": "What is deleted, how far it is, and pausing it (docs/cleaning.md).",
}


class Topic(Group):
    """The commands of one file beside this one, imported when one of them is typed and not for the help of all."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        group = typer.main.get_group(import_module(f"bg_pipelines.cli.{self.name}").app)
        self.commands = group.commands
        if group.invoke_without_command:  # the topic is a command itself
            self.callback, self.params = group.callback, group.params
            self.invoke_without_command, self.no_args_is_help = True, False
        return super().make_context(*args, **options)


class Commands(Group):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, purpose in TOPICS.items():
            self.add_command(Topic(name=name, help=purpose, no_args_is_help=True))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A retailer's back-office jobs on Dagster.",
)


def main() -> None:
    """The console script: faults as one clear text on standard error, exit 1; Ctrl-C and SIGTERM as exit 130."""
    stop_on_signals()
    unbreakable_output()
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS  # whoever reads it from a pipe looks for ids, and none is to be cut
    try:
        app()
    except IntegrationError as error:
        errors.print(f"error: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:  # a full disk, a file or a folder that is not what it should be
        where = f": {error.filename}" if error.filename else ""
        errors.print(
            f"error: {error.strerror or type(error).__name__}{where}",
            style="red",
            markup=False,
            highlight=False,
        )
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
    board_port: Annotated[int, typer.Option(help="Port of the board.")] = 3001,
    sandbox_port: Annotated[int, typer.Option(help="Port of the sandbox.")] = 4010,
    webhook_port: Annotated[int, typer.Option(help="Port of the receiver of webhooks.")] = 8088,
) -> None:
    """Start a database, a sandbox and stores on this machine, run every job once, then serve the Dagster UI and the board until Ctrl-C."""
    from bg_pipelines.machine.demo import run_demo

    sys.exit(
        run_demo(
            HarmlessConsole(),
            once=once,
            port=port,
            board_port=board_port,
            sandbox_port=sandbox_port,
            webhook_port=webhook_port,
        )
    )


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Serve the APIs of many Shopify shops, Square merchants and Twilio on loopback (docs/sandbox.md).",
)
def sandbox(context: typer.Context) -> None:
    """The sandbox, which is a program of its own, with its own options."""
    from bg_pipelines.sandbox.__main__ import main

    sys.exit(main(context.args, program="bg-pipelines sandbox"))


@app.command(name="serve-webhooks")
def serve_webhooks(
    host: Annotated[
        str, typer.Option(help="Address to listen at; a proxy with TLS stands before it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 8088,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that receive.")] = 1,
) -> None:
    """Receive webhooks of Shopify, Square and Twilio and store them, until Ctrl-C (docs/webhooks.md)."""
    from bg_pipelines.machine.serving import serve

    serve(console.print, host=host, port=port, workers=workers)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI, on 127.0.0.1.")] = 3000,
    webhook_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the receiver.")] = 8088,
    webhooks: Annotated[
        bool, typer.Option("--webhooks/--no-webhooks", help="Receive webhooks, where BG_PUBLIC_URL is set.")
    ] = True,
    board_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the board, on 127.0.0.1.")
    ] = 3001,
    board: Annotated[bool, typer.Option("--board/--no-board", help="Serve the board.")] = True,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=64, help="Runs at once in warm processes of a Celery worker; 0: a new process a run."
        ),
    ] = 0,
) -> None:
    """Run the Dagster UI and daemon, the receiver and the board on this machine, watched, until Ctrl-C (docs/start.md)."""
    from bg_pipelines.machine.up import up as run

    run(
        console.print,
        port=port,
        webhook_port=webhook_port if webhooks else None,
        board_port=board_port if board else None,
        workers=workers,
    )


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def daemon(context: typer.Context) -> None:
    """Run Dagster's daemon with the arguments of `dagster-daemon run`, unless one is at work on this instance already."""
    from bg_pipelines.machine.daemon import run_daemon

    run_daemon(context.args)


@app.command()
def worker(
    slots: Annotated[int, typer.Option(min=1, max=64, help="Runs at once, each in a warm process.")] = 2,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only runs of this queue; may be repeated. Default: all, in order."
        ),
    ] = None,
) -> None:
    """Carry out runs in warm processes, on this machine or another, for the broker at BG_BROKER_URL (docs/deploy.md)."""
    from bg_pipelines.machine import worker

    worker.work(slots=slots, queues=tuple(queue) if queue else worker.NAMES)


@app.command()
def watch() -> None:
    """Tell people of a full disk, a database or a Dagster daemon that is away, until Ctrl-C; `up` does so too."""
    from bg_pipelines.machine.watchdog import Watchdog
    from bg_pipelines.settings import load_settings

    watchdog = Watchdog(load_settings())
    try:
        watchdog.watch()
    finally:
        watchdog.close()


@app.command()
def share(
    store: Annotated[str, typer.Option(metavar="NAME", help="Store name.")],
    product: Annotated[str, typer.Option(metavar="PRODUCT", help="The product's id, handle or title.")],
    to: Annotated[str, typer.Option(metavar="PHONE", help="The recipient's number, like +12125550123.")],
    variant: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="Only this one, by id or SKU.")
    ] = None,
    by: By = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Idempotency key: shared twice with the same, sent once."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the text and its segments, send nothing.")
    ] = False,
) -> None:
    """Put one text message about a product in the outbox, for a recipient who asked you for it (docs/text-messages.md)."""
    from bg_pipelines.cli import texts

    texts.share_product(store, product, to, variant, by, key, dry_run)


@app.command()
def migrate() -> None:
    """Bring the application's tables to this program's revision; newer tables stay as they are."""
    from bg_pipelines.database import revisions
    from bg_pipelines.database.engine import open_database
    from bg_pipelines.operations import activity
    from bg_pipelines.settings import load_settings

    database = open_database(load_settings())
    before, now = database.migrate()
    activity.note_deploy(database)
    database.close()
    console.print(
        f"the database is at revision {now}"
        + ("" if before == now else f", it was at {before or 'none'}")
        + (
            f", newer than this program's {revisions.newest()}: nothing to do"
            if now > revisions.newest()
            else ""
        )
    )


@app.command()
def check() -> None:
    """Check settings, key, databases, migrations, webhooks, and each store's credentials and scopes; list every fault."""
    from datetime import UTC, datetime

    from bg_pipelines.operations import checks
    from bg_pipelines.wording import counted

    faults = checks.find_faults()
    for fault in faults:
        console.print(f"- {fault}", soft_wrap=True)
    for hint in checks.find_hints(datetime.now(UTC).date()):
        console.print(f"hint: {hint}", soft_wrap=True)
    console.print(counted(len(faults), "fault") if faults else "no faults found")
    sys.exit(1 if faults else 0)


@app.command(name="status")
def show_status(
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Refresh every two seconds; keys retry, pause and open what fails, q quits."
        ),
    ] = False,
    as_json: AsJson = False,
    all_stores: Annotated[
        bool,
        typer.Option("--stores", help="With --json: every store, not only those where something is wrong."),
    ] = False,
) -> None:
    """Is anything wrong, what is it, and does it need attention? Times are UTC."""
    from bg_pipelines.cli import status

    status.show_status(watch=watch, as_json=as_json, all_stores=all_stores)


@app.command(name="metrics")
def show_metrics(
    per_store: Annotated[
        bool, typer.Option("--per-store/--no-per-store", help="Include the figures of each store.")
    ] = True,
) -> None:
    """Print the figures of `status` as Prometheus text (docs/monitoring.md)."""
    from bg_pipelines.cli import status

    status.show_metrics(per_store=per_store)


@app.command()
def audit(
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    sample: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many rows of each resource to compare.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """Compare rows of a store with its platform, repair drift, and show what full passes have proved.

    Exits 1 if drift could not be repaired or the store could not be audited (docs/audit.md).
    """
    from bg_pipelines.operations.audits import audit_store

    with open_migrated() as database:
        report = audit_store(database, store, sample=sample)
    if as_json:
        print_json(report.as_dict())
    else:
        console.print("\n".join(report.lines()), soft_wrap=True)
    sys.exit(0 if report.is_well else 1)
