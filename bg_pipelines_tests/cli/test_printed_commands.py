"""Every command that a message, a runbook or a page prints can be typed as it stands there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from bg_pipelines.cli.app import app
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.fingerprints import StoreUnit
from bg_pipelines.incidents.reading import show
from bg_pipelines.incidents.reporting import Fault, report_fault
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines_tests.support import PROJECT, as_store, query
from bg_pipelines_tests.typed import Run, ok, refused

UsageError: Any = typer.BadParameter.__bases__[0]  # typer keeps its own copies of click's classes private
COMMANDS: Any = typer.main.get_command(app)
PLACEHOLDERS = {"N": "1", "ID": "1", "…": "1"}


def parse(words: list[str]) -> None:
    """As the command line takes it, and carry out nothing. Raises what a mistyped command raises."""
    command: Any = COMMANDS
    name, parent = "bg-pipelines", None
    while True:
        context = command.make_context(name, list(words), parent=parent)
        if not hasattr(command, "resolve_command"):
            return
        left = [*context._protected_args, *context.args]
        if not left:
            return
        name, command, words = command.resolve_command(context, left)
        parent = context


def printed_in(tree: ast.AST) -> Iterator[str]:
    """The texts of a file, what is filled in as a word."""
    of_files = {id(node.body[0].value) for node in ast.walk(tree) if is_documented(node)}
    inside = of_files | {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(filled_in, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value
        elif isinstance(node, ast.Call):
            yield filled_in(node)


def is_documented(node: ast.AST) -> bool:
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    return isinstance(node, kinds) and bool(node.body) and isinstance(node.body[0], ast.Expr)


def filled_in(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue):
        return filled_in(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
        return f"`bg-pipelines {' '.join(map(filled_in, node.args))}`"
    return "1"


def of_the_code() -> set[tuple[str, str]]:
    found = set()
    for path in sorted((PROJECT / "bg_pipelines").rglob("*.py")):
        for text in printed_in(ast.parse(path.read_text())):
            for typed in re.findall(r"`bg-pipelines ([a-z][^`]*)`", text):
                found.add((str(path.relative_to(PROJECT)), " ".join(typed.split())))
    return found


def of_the_docs() -> set[tuple[str, str]]:
    found = set()
    for path in (*sorted((PROJECT / "docs").glob("*.md")), PROJECT / "README.md"):
        for line in path.read_text().splitlines():
            for typed in re.findall(r"^\$ bg-pipelines (.*)|`bg-pipelines ([^`]*)`", line):
                found.add((path.name, re.split(r"\s+#\s|\s[|>&]", typed[0] or typed[1])[0].strip()))
    return found


@pytest.mark.parametrize("place", ["code", "docs"])
def test_every_printed_command_can_be_typed_as_it_stands(place: str) -> None:
    printed = of_the_code() if place == "code" else of_the_docs()
    assert len(printed) > 40
    faults = []
    for where, typed in sorted(printed):
        try:
            parse([PLACEHOLDERS.get(word, word) for word in shlex.split(typed)])
        except UsageError as error:
            message = error.format_message()
            named = not message or (place == "docs" and "Missing" in message)  # in a sentence
            if not named:
                faults.append(f"{where}: bg-pipelines {typed}: {message}")
    assert not faults, "\n".join(faults)


NAMES = {"shopify": 'Harbor "Tools" & Söhne\'s', "square": "dash -$HOME; till"}


@pytest.fixture
def failed(
    run: Run, database: Database, cipher: Cipher, make_sandbox: Callable[..., Sandbox]
) -> Callable[[str, ErrorType], int]:
    """Have a store of this platform fail with an error of this type, and park what failed; returns its incident."""
    sandbox = make_sandbox(shops=1, variants=1, merchants=1, square_variants=1, square_customers=1)
    [shop], [merchant] = sandbox.world.shops.values(), sandbox.world.square_merchants.values()
    stores = [
        as_store(shop, name=NAMES["shopify"]),
        NewStore(NAMES["square"], "square", "till", token=merchant.token, api_url=merchant.api_url),
    ]
    save_stores(database, cipher, stores)

    def fail(platform: str, error_type: ErrorType) -> int:
        [row] = query(database, "SELECT id FROM stores WHERE platform = %s", platform)
        with database.transaction() as connection:
            connection.execute("UPDATE stores SET paused_at = NULL")
            error = IntegrationError.of(error_type, "it failed", source=platform)
            fingerprint = StoreUnit(row["id"], "products", error_type)
            fault = Fault(
                fingerprint, f"store {NAMES[platform]}", error, True, "store_sync", platform, row["id"]
            )
            incident = report_fault(connection, fault)
            connection.execute(
                "UPDATE sync_states SET incident_id = %s, next_due_at = NULL, attempts = 3 "
                "WHERE store_id = %s AND resource = 'products'",
                (incident, row["id"]),
            )
        return incident

    return fail


@pytest.mark.parametrize("platform", ["shopify", "square"])
def test_every_command_of_an_incident_s_page_works_in_the_state_in_which_it_is_printed(
    run: Run, database: Database, failed: Callable[[str, ErrorType], int], platform: str
) -> None:
    tried = set()
    for error_type in ErrorType:
        page = show(database, failed(platform, error_type)).runbook
        for typed in re.findall(r"`bg-pipelines ([^`]*)`", page):
            number = failed(platform, error_type)  # as it is when it is printed
            words = shlex.split(typed)
            if {"ID", "STORE"} & set(words):
                continue  # to be chosen by who reads it
            if words == ["check"] and "check" in tried:
                continue  # the same in every state
            assert str(number) in words or NAMES[platform] in words or len(words) <= 2, typed
            result = run(*words, typed="shpat_0123456789\n" if "-" in words else "n\n")
            tried.add(" ".join(words[:2]))
            # Who is asked before anything is deleted says no here; `check` and `audit` find what is wrong.
            may_fail = words[:2] == ["stores", "remove"] or words[0] in ("check", "audit")
            assert result.exit_code in ((0, 1) if may_fail else (0,)), (error_type, typed, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert tried >= {"check", "status", "stores set", "stores pause", "stores remove", "incidents retry"}


@pytest.mark.parametrize("platform", ["shopify", "square"])
def test_what_a_vendor_s_refusal_of_the_token_says_to_type_mends_it(
    run: Run, database: Database, failed: Callable[[str, ErrorType], int], platform: str
) -> None:
    ok(run("stores", "set", NAMES[platform], "--token", "revoked"))
    told = run("check").output
    [typed] = re.findall(r"`bg-pipelines (stores set [^`]*)`", told)
    assert NAMES[platform] in shlex.split(typed)
    assert "credentials: replaced" in ok(run(*shlex.split(typed), typed="shpat_0123456789\n"))


def test_what_a_run_met_names_the_store_wherever_it_is_told(
    run: Run,
    database: Database,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Summary],
) -> None:
    sandbox = make_sandbox(shops=1, variants=1)
    [name] = add_shops(sandbox)
    next(iter(sandbox.world.shops.values())).access.expire_all()
    summary = sync()
    told = {failure.error.message for failure in summary.failures}
    told |= {row["message"] for row in query(database, "SELECT message FROM incidents")}
    told |= {
        row["m"]
        for row in query(database, "SELECT last_error ->> 'message' AS m FROM sync_states WHERE attempts > 0")
    }
    told |= {row["m"] for row in query(database, "SELECT error ->> 'message' AS m FROM sync_attempts")}
    assert {re.findall(r"`bg-pipelines ([^`]*)`", one)[0] for one in told} == {f"stores set {name} --token -"}


def test_an_audit_of_a_store_that_is_unknown_or_paused_says_so(run: Run, failed: Any) -> None:
    failed("square", ErrorType.TIMEOUT)
    assert "did you mean" in refused(run("audit", NAMES["square"][:-1]))
    ok(run("stores", "pause", NAMES["square"]))
    message = refused(run("audit", NAMES["square"]))
    [typed] = re.findall(r"`bg-pipelines (stores resume [^`]*)`", message)
    ok(run(*shlex.split(typed)))
