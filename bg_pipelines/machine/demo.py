"""The demo: everything on one machine, with sandbox stores, every job run once through Dagster.

It is also the smoke test: at the end the database is compared with the sandbox.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bg_pipelines.board import session, users
from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.folders import private_folder
from bg_pipelines.incidents import handling, reading
from bg_pipelines.machine import code_server, demo_texts
from bg_pipelines.machine.demo_carts import freed, make_old_carts
from bg_pipelines.machine.demo_summary import held_there, show_summary
from bg_pipelines.machine.processes import (
    any_free_port,
    child,
    configuration_error,
    is_free,
    require_free,
    tell_to_end,
)
from bg_pipelines.machine.sandbox_http import sandbox_http
from bg_pipelines.machine.watchdog import LOOK_SECONDS, Watchdog
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted

JOBS: dict[str, dict[str, Any]] = {
    "store_sync": {},
    "inventory_sync": {},
    "customer_sync": {},
    "create_shopify_webhook": {},
}
AUDIT = {"sample": 5}
"""A look: each row that is asked for by its id costs the store's budget."""
WARM_SECONDS = 1
CHANGE_SECONDS = 30
USER = "demo"
# Beside the sandbox's usual shops.
SQUARE = ("--merchants", "2", "--square-variants", "120", "--square-customers", "150")

Runs = subprocess.Popen[str]
"""The process of demo_runs."""


def run_demo(
    console: Console, *, once: bool, port: int, board_port: int, sandbox_port: int, webhook_port: int
) -> int:
    """Run it; returns the exit code: 0 if every job succeeded and the database equals the sandbox."""
    project = Path.cwd()
    if not (project / "dagster.yaml").exists():
        raise configuration_error("run the demo in the project's folder, where dagster.yaml is")
    settings = load_settings()
    # For every process that is started from here, wherever it runs.
    os.environ["BG_HOME_DIR"] = str(settings.home)
    os.environ["DAGSTER_HOME"] = str(project)
    os.environ["BG_DAGSTER_URL"] = f"http://127.0.0.1:{port}"
    os.environ["BG_BOARD_URL"] = f"http://127.0.0.1:{board_port}"
    if not once:
        require_free(port)
        require_free(board_port)
    with ExitStack() as stack:
        stack.enter_context(_alone(settings.home))
        with console.status("starting PostgreSQL"):
            database = open_database(settings)
            stack.callback(database.close)
            database.migrate()
        with console.status("starting the sandbox"):
            url = stack.enter_context(_sandbox(sandbox_port))
        # The demo's alerts go to the sandbox, not to anybody's phone.
        os.environ["BG_ALERT_URLS"] = f"{url.replace('http://', 'json://')}/hooks/demo"
        os.environ["BG_ALERT_PHONES"] = ""
        shops = sandbox_http().get(f"{url}/sandbox/shops", timeout=10).json()
        demo_texts.use_sandbox(url)
        with console.status("starting the receiver of webhooks"):
            stack.enter_context(_receiver(webhook_port, shops))
        runs = stack.enter_context(_runs())
        merchants = sandbox_http().get(f"{url}/sandbox/merchants", timeout=10).json()
        stores = [_store("shopify", shop, shop["domain"]) for shop in shops]
        stores += [_store("square", merchant, merchant["id"].lower()) for merchant in merchants]
        _require_none_but(database, {store.domain for store in stores})
        changes = save_stores(database, cipher(settings), stores)
        _forget_subscriptions(database)
        console.print(
            f"[bold]{len(shops)} Shopify and {len(merchants)} Square stores[/] of the sandbox at {url}: "
            f"{changes.added} added, {changes.updated} updated, {changes.unchanged} unchanged"
        )
        names = [store.name for store in stores]
        ran = [_run_job(console, database, runs, job, names, config) for job, config in JOBS.items()]
        ran.append(_show_a_change(console, database, runs, url, shops[0]))
        ran += demo_texts.show_text_messages(console, database, url, shops[0], lambda job: _run(runs, job))
        ran.append(_run_job(console, database, runs, "drift_audit", names, AUDIT))
        ran += _show_a_fault(console, database, runs, url, shops[-1])
        ran += _show_cleaning(console, database, runs)
        equal = show_summary(console, database, held_there(url, shops, merchants), ran)
        if once:
            return 0 if equal and all(run["success"] for run in ran) else 1
        _serve(console, stack, database, settings.home, port, board_port)
    return 0


def _run_job(
    console: Console,
    database: Database,
    runs: Runs,
    name: str,
    stores: list[str],
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    run_id = str(uuid.uuid4())
    done = threading.Event()
    with _progress(console) as progress:
        watcher = threading.Thread(
            target=_watch, args=(database, run_id, progress, name, len(stores), done), daemon=True
        )
        watcher.start()
        try:
            # Stores are named, so that a second demo syncs them too, although nothing is due yet.
            _start(runs, name, run_id, {"stores": stores, **(config or {})})
            return _ended(runs, name, run_id)
        finally:
            done.set()
            watcher.join()


def _show_cleaning(console: Console, database: Database, runs: Runs) -> list[dict[str, Any]]:
    """Carts and history of long ago are made, and cleaned; returns the runs."""
    console.print("[bold]cleaning[/]: 500 carts and other rows of long ago are made for it")
    make_old_carts(database)
    with console.status("cleaning"):
        ran = [_run(runs, name) for name in ("clean_active_carts", "clean_database")]
    for line in freed(database, [run["run_id"] for run in ran]):
        console.print(f"  {line}", soft_wrap=True)
    return ran


def _run(runs: Runs, name: str) -> dict[str, Any]:
    """Run a job that is of no stores, with no config."""
    run_id = str(uuid.uuid4())
    _start(runs, name, run_id, {})
    return _ended(runs, name, run_id)


def _start(runs: Runs, name: str, run_id: str, config: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps({"job": name, "run_id": run_id, "config": config}), file=runs.stdin, flush=True)


def _ended(runs: Runs, name: str, run_id: str) -> dict[str, Any]:
    assert runs.stdout is not None
    answer = runs.stdout.readline()
    if not answer:
        raise configuration_error(
            "the process of the demo's runs ended unexpectedly; "
            f"`dagster job execute -m bg_pipelines.definitions -j {name}` shows why"
        )
    return {"job": name, "run_id": run_id, "success": json.loads(answer)["success"]}


def _show_a_change(
    console: Console, database: Database, runs: Runs, url: str, shop: dict[str, Any]
) -> dict[str, Any]:
    """A shop counts its stock: how long until its webhook has made that our row; returns the run that handled it."""
    place = f"{url}/sandbox/shops/{shop['domain']}"
    levels = (
        sandbox_http().get(f"{place}/export?only=inventory_levels", timeout=30).json()["inventory_levels"]
    )
    level = next(level for level in levels if level["isActive"])
    with database.transaction() as connection:
        held = connection.execute(
            "SELECT available FROM inventory_levels WHERE external_id = %s", (level["id"],)
        ).fetchone()
    # Another number than what we hold, also where an earlier demo has counted.
    pieces = (held[0] if held else 0) + 1
    run_id = str(uuid.uuid4())
    _start(runs, "handle_webhooks", run_id, {"warm_seconds": WARM_SECONDS})
    _wait_for(database, "SELECT FROM job_runs WHERE run_id = %s", (run_id,))
    changed = {
        "edit": "set_quantity",
        "inventory_item_id": level["item"]["id"],
        "location_id": level["location"]["id"],
        "quantity": pieces,
    }
    began = time.monotonic()
    sandbox_http().post(f"{place}/edits", json=changed, timeout=10).raise_for_status()
    row = "SELECT FROM inventory_levels WHERE external_id = %s AND available = %s"
    arrived = _wait_for(database, row, (level["id"], pieces))
    milliseconds = (time.monotonic() - began) * 1000
    console.print(
        f"[bold]a change[/]: {shop['name']} counts {counted(pieces, 'piece')} of an item; "
        + (
            f"told by its webhook, that is a row in `inventory_levels` {milliseconds:.0f} ms later"
            if arrived
            else f"[red]no webhook has told of it in {CHANGE_SECONDS} s[/]"
        ),
        soft_wrap=True,
    )
    run = _ended(runs, "handle_webhooks", run_id)
    return {**run, "success": run["success"] and arrived}


def _wait_for(database: Database, query: LiteralString, parameters: tuple[Any, ...]) -> bool:
    """Whether the query had a row before `CHANGE_SECONDS` were over."""
    end = time.monotonic() + CHANGE_SECONDS
    while time.monotonic() < end:
        with database.transaction() as connection:
            if connection.execute(query, parameters).rowcount:
                return True
        time.sleep(0.02)
    return False


def _forget_subscriptions(database: Database) -> None:
    """This sandbox is a new one: it knows nothing of the subscriptions that an earlier demo made."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM webhook_subscriptions")


def _show_a_fault(
    console: Console, database: Database, runs: Runs, url: str, shop: dict[str, Any]
) -> list[dict[str, Any]]:
    """One store's token is revoked and restored: the incident and its alerts; returns the runs."""
    edits = f"{url}/sandbox/shops/{shop['domain']}/edits"
    console.print(f"[bold]a fault[/]: the token of {shop['name']} is revoked")
    sandbox_http().post(edits, json={"edit": "expire_tokens"}, timeout=10).raise_for_status()
    # At once again, for a refusal is believed at the second time.
    ran = [_run_job(console, database, runs, "store_sync", [shop["name"]]) for _ in range(2)]
    for incident in reading.list_incidents(database, store=shop["name"]):
        console.print(
            f"  incident {incident.id}, {incident.subject}: {incident.error_type}; {incident.parked} of its resources are "
            "parked until a person decides, all other stores continue",
            soft_wrap=True,
        )
    console.print("  the token is given back, then `bg-pipelines incidents retry --all`")
    mended = {"edit": "set_token", "token": shop["token"]}
    sandbox_http().post(edits, json=mended, timeout=10).raise_for_status()
    waiting = [incident.id for incident in reading.list_incidents(database, store=shop["name"])]
    handling.retry(database, waiting, by="the demo")
    ran.append(_run_job(console, database, runs, "store_sync", [shop["name"]]))
    notices = sandbox_http().get(f"{url}/sandbox/hooks/demo", timeout=10).json()
    for notice in notices:
        console.print(f"  alert: {notice['body']['title']}", markup=False)
    if not notices:
        console.print("  no alert: the same fault was announced less than half an hour ago")
    return ran


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("stores, {task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=console,
    )


def _watch(
    database: Database, run_id: str, progress: Progress, job: str, total: int, done: threading.Event
) -> None:
    """Draw the run's progress, from `sync_attempts`."""
    task = progress.add_task(job, total=total, rows=0)
    last = False
    while not last:
        last = done.wait(0.2)
        with suppress(IntegrationError), database.transaction() as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM (SELECT 1 FROM sync_attempts WHERE run_id = %(run)s GROUP BY store_id "
                "HAVING bool_and(status <> 'running')) finished), "
                "(SELECT coalesce(sum(rows_read), 0) FROM sync_attempts WHERE run_id = %(run)s)",
                {"run": run_id},
            ).fetchone()
            if row:
                progress.update(task, completed=row[0], rows=int(row[1]))


def _store(platform: str, account: dict[str, Any], domain: str) -> NewStore:
    return NewStore(
        name=account["name"],
        platform=platform,
        domain=domain,
        tier=account["tier"],
        api_url=account["api_url"],
        token=account["token"],
    )


@contextmanager
def _sandbox(port: int) -> Iterator[str]:
    """A sandbox in a process of its own, on `port` or, where that is taken, any other; yields its URL."""
    command = [
        sys.executable,
        "-m",
        "bg_pipelines.sandbox",
        "--port",
        str(port if is_free(port) else 0),
        *SQUARE,
    ]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise configuration_error("the sandbox did not start; run `bg-pipelines sandbox` to see why")
        yield next(word for word in line.split() if word.startswith("http"))


@contextmanager
def _receiver(port: int, shops: list[dict[str, Any]]) -> Iterator[None]:
    """The receiver, on `port` or, where that is taken, any other; every process started later knows its address."""
    os.environ["BG_SHOPIFY_WEBHOOK_SECRET"] = ",".join(shop["client_secret"] for shop in shops)
    port = port if is_free(port) else any_free_port()
    # Twilio signs the address that it calls: the receiver has to know its own.
    os.environ["BG_PUBLIC_URL"] = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "bg_pipelines.cli", "serve-webhooks", "--port", str(port)]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise configuration_error(
                "the receiver did not start; run `bg-pipelines serve-webhooks` to see why"
            )
        yield


@contextmanager
def _runs() -> Iterator[Runs]:
    command = [sys.executable, "-m", "bg_pipelines.machine.demo_runs"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with child(command, text=True, **pipes) as process:
        assert process.stdin is not None
        with process.stdin:  # its end is the end of the process, once the run at work is interrupted
            yield process


def _serve(
    console: Console, stack: ExitStack, database: Database, home: Path, port: int, board_port: int
) -> None:
    """The Dagster web UI and daemon, with one code server for both, the board and the watchdog, until Ctrl-C. What they say
    is in a file."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-demo-")))
    code, workspace = folder / "code.sock", folder / "workspace.yaml"
    workspace.write_text(code_server.workspace(code))
    python = [sys.executable, "-m"]
    commands = [
        [*python, code_server.__name__, str(code)],
        [*python, "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace)],
        [*python, "bg_pipelines.cli", "board", "--port", str(board_port)],
        [*python, "bg_pipelines.cli", "daemon", "-w", str(workspace)],
    ]
    log = home / "demo.log"
    output = stack.enter_context(log.open("w"))
    processes: list[subprocess.Popen[Any]] = []
    with console.status("starting the Dagster UI and the board"):
        for command in commands:
            processes.append(stack.enter_context(child(command, stdout=output, stderr=output)))
            stack.callback(lambda: tell_to_end(processes))
            while not code.exists() and processes[0].poll() is None:
                time.sleep(0.1)
        while (is_free(port) or is_free(board_port)) and all(one.poll() is None for one in processes):
            time.sleep(0.2)
    users.add(database, USER, users.ADMIN, users.new_password())
    login = f"http://127.0.0.1:{board_port}/login/link?token={session.make_link(database, USER)}"
    console.print(f"the board, logged in as {USER}: [bold]{login}[/]", soft_wrap=True)
    console.print(
        f"the Dagster UI with these runs: [bold]http://127.0.0.1:{port}/runs[/]  (Ctrl-C ends everything; its log: {log})",
        soft_wrap=True,
    )
    watchdog = Watchdog(load_settings())
    stack.callback(watchdog.close)
    look_at = time.monotonic()
    while all(process.poll() is None for process in processes):
        if time.monotonic() >= look_at:
            watchdog.look()
            look_at = time.monotonic() + LOOK_SECONDS
        time.sleep(0.3)
    raise configuration_error(f"a process ended unexpectedly; {log} says why")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One demo a home: a second would point the first one's stores at its own sandbox."""
    private_folder(home)
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise configuration_error(f"a demo is already running in {home}") from None
        yield


def _require_none_but(database: Database, domains: set[str]) -> None:
    """The demo runs every job over all stores, and retries: not over somebody's own."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT min(name), count(*) FROM stores WHERE deleted_at IS NULL AND NOT domain = ANY(%s)",
            (list(domains),),
        ).fetchone()
    if row and row[1]:
        raise configuration_error(
            f"there are stores of your own in this database ({row[0]}{', …' * (row[1] > 1)}): give the demo another home, "
            "BG_HOME_DIR=.bg-demo bg-pipelines demo, without BG_DATABASE_URL"
        )
