"""What a person types, and what they are told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Sandbox, Shop
from bg_pipelines_tests.support import KEY, PATIENCE, query
from bg_pipelines_tests.typed import Run, ok, refused, type_in, words

TOKEN = "shpat_0123456789abcdef"
HARBOR = ("stores", "add", "Harbor", "--domain", "harbor.myshopify.com", "--token", TOKEN)


# Mistyped


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["statsu"], "Did you mean 'status'?"),
        (["stores", "lst"], "Did you mean 'list'"),
        (["status", "--jsn"], "Did you mean --json?"),
        (["stores", "add", "Harbor", "--domian", "harbor.myshopify.com"], "Did you mean --domain?"),
        (["demo", "--onec"], "Did you mean --once?"),
        (["incidents", "resove"], "Did you mean 'resolve'?"),
        (["incidents", "list", "--stroe", "Harbor"], "Did you mean --store or"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(typed: list[str], meant: str) -> None:
    result = type_in(*typed)
    assert result.exit_code == 2
    assert meant in words(result.output)


def test_a_word_that_is_like_no_other_is_refused_without_a_guess() -> None:
    for typed in (["zzzzzz"], ["status", "--zzzzzz"]):
        result = type_in(*typed)
        assert result.exit_code == 2
        assert "Did you mean" not in result.output


@pytest.mark.parametrize("typed", [[], ["stores"], ["incidents"]])
def test_nothing_typed_shows_what_there_is(typed: list[str]) -> None:
    assert "Usage:" in type_in(*typed).output


def test_every_command_explains_itself() -> None:
    assert "usage: bg-pipelines sandbox" in ok(type_in("sandbox", "--help"))
    for command in ("demo", "migrate", "check", "status", "audit"):
        assert "Usage:" in ok(type_in(command, "--help"))
    for command in ("add", "set", "import", "list", "pause", "resume", "remove"):
        assert "Usage:" in ok(type_in("stores", command, "--help"))
    for command in ("list", "show", "assign", "retry", "resolve"):
        assert "Usage:" in ok(type_in("incidents", command, "--help"))


def test_the_sandbox_takes_its_own_options_whoever_starts_it() -> None:
    help_text = ok(type_in("sandbox", "--help"))
    itself = [sys.executable, "-m", "bg_pipelines.sandbox"]
    done = subprocess.run([*itself, "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert set(re.findall(r"--[a-z-]+", done.stdout)) == set(re.findall(r"--[a-z-]+", help_text))
    result = type_in("sandbox", "--scenario", "evening")
    assert (result.exit_code, "'evening' is none of afternoon" in result.output) == (2, True)


# Without a home


READING = [
    ["status"],
    ["status", "--json"],
    ["stores", "list"],
    ["check"],
    ["incidents", "list"],
    ["incidents", "show", "1"],
    ["metrics"],
    ["webhooks", "list"],
    ["texts", "list"],
    ["cleaning", "status"],
    ["customers", "requests"],
    ["stock", "list"],
    ["audit", "harbor"],
    ["stores", "pause", "harbor"],
    ["incidents", "retry", "1"],
    ["stores", "set", "harbor", "--tier", "1"],
]


@pytest.mark.parametrize("typed", READING, ids=" ".join)
def test_where_nothing_was_set_up_a_command_names_the_place_and_makes_nothing(
    typed: list[str], tmp_path: Path
) -> None:
    result = type_in(*typed)
    assert result.exit_code == 1
    told = result.output if result.exception is None or typed == ["check"] else refused(result)
    assert f"nothing was ever set up in {tmp_path / '.bg'}" in told
    assert list(tmp_path.iterdir()) == []


# Stores


def test_a_store_is_added_once(run: Run) -> None:
    first, told = ok(run(*HARBOR)).splitlines()
    assert first == "1 added, 0 updated, 0 unchanged"
    assert told.startswith("how long its first sync takes is not known: ")
    assert ok(run(*HARBOR)) == "0 added, 0 updated, 1 unchanged\n"
    assert ok(run(*HARBOR, "--tier", "1")) == "0 added, 1 updated, 0 unchanged\n"


def test_a_token_may_come_from_the_environment_or_be_typed_unseen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = run(*HARBOR[:-1], "-", typed=f"{TOKEN}\n")
    assert "1 added" in ok(typed)
    assert TOKEN not in typed.output
    monkeypatch.setenv("BG_STORE_TOKEN", TOKEN)
    assert "1 unchanged" in ok(run(*HARBOR[:-2]))


def test_a_store_with_faults_is_refused_with_all_of_them_and_no_token(run: Run) -> None:
    message = refused(
        run("stores", "add", "Harbor", "--domain", "harbor", "--platform", "shopfy", "--token", f"{TOKEN} ")
    )
    assert "3 faults, nothing was changed" in message
    assert "did you mean 'shopify'?" in message
    assert TOKEN not in message
    assert "no stores yet" in ok(run("stores", "list"))


def test_stores_come_from_a_file_all_or_none(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "stores.csv"
    file.write_text(
        f"name,platform,domain,token\nHarbor,shopify,harbor.com,{TOKEN}\nMarket,shopify,market,{TOKEN}\n"
    )
    assert "line 3, domain" in refused(run("stores", "import", str(file)))
    assert "no stores yet" in ok(run("stores", "list"))
    file.write_text(file.read_text().replace("market,", "market.com,"))
    assert ok(run("stores", "import", str(file))) == "2 added, 0 updated, 0 unchanged\n"
    listed = ok(run("stores", "list"))
    assert all(word in listed for word in ("Harbor", "harbor.com", "Market", "market.com", "new"))
    assert TOKEN not in listed
    assert "there is no such file" in refused(run("stores", "import", "nowhere.csv"))


def test_what_is_not_given_of_a_known_store_stays_as_it_is(run: Run) -> None:
    ok(run(*HARBOR, "--tier", "1", "--every", "240", "--api-url", "http://127.0.0.1:4010"))
    assert "240 min" in ok(run("stores", "list"))
    assert ok(run(*HARBOR)) == "0 added, 0 updated, 1 unchanged\n"
    assert ok(run(*HARBOR, "--every", "0")) == "0 added, 1 updated, 0 unchanged\n"
    assert "5 min" in ok(run("stores", "list"))
    assert ok(run(*HARBOR, "--api-url", "")) == "0 added, 1 updated, 0 unchanged\n"
    assert "every: give minutes, a multiple of 5" in refused(run(*HARBOR, "--every", "7"))


def test_of_one_store_it_is_shown_how_old_each_of_its_resources_is_and_what_is_wrong(
    run: Run, database: Database
) -> None:
    ok(run(*HARBOR))
    query(
        database,
        "UPDATE sync_states SET last_succeeded_at = now() - interval '40 s', last_change_at = now() - interval '3 h', "
        "last_change_lag = interval '20 s' WHERE resource = 'inventory_levels'",
    )
    query(
        database,
        "UPDATE sync_states SET attempts = 1, last_error = '{\"error_type\": \"timeout\"}' WHERE resource = 'orders'",
    )
    shown = words(ok(run("stores", "show", "Harbor")))
    assert "Harbor: failing, shopify harbor.myshopify.com, tier" in shown
    assert re.search(r" inventory_levels 4[01]s 3h ago 20s ", shown), shown
    assert re.search(r" orders never .*timeout", shown), shown
    assert "did you mean 'Harbor'?" in refused(run("stores", "show", "Habor"))


def test_stores_are_paused_and_resumed_by_name(run: Run) -> None:
    ok(run(*HARBOR))
    assert ok(run("stores", "pause", "Harbor")) == "1 paused, 0 already were\n"
    assert ok(run("stores", "pause", "Harbor")) == "0 paused, 1 already were\n"
    assert "paused" in ok(run("stores", "list"))
    assert ok(run("stores", "resume", "Harbor")) == "1 resumed, 0 already were\n"
    assert "did you mean 'Harbor'?" in refused(run("stores", "resume", "Habor"))


# Incidents


@pytest.fixture
def revoked(
    run: Run,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Any],
) -> tuple[Shop, str]:
    """A shop whose token is revoked, parked under incident 1, and its name; another one is well."""
    sandbox = make_sandbox(shops=2, variants=4)
    [name, _] = add_shops(sandbox)
    shop = next(iter(sandbox.world.shops.values()))
    shop.access.expire_all()
    sync()
    return shop, name


def test_incidents_are_listed_shown_assigned_retried_and_resolved(
    run: Run, revoked: tuple[Shop, str], sync: Callable[..., Any]
) -> None:
    shop, name = revoked
    listed = ok(run("incidents", "list"))
    assert re.match(
        rf"1 high store {name} credentials since \d{{4}}-\d\d-\d\d \d\d:\d\d, once, 5 parked", words(listed)
    )
    assert words(listed).endswith("1 shown, 1 of them needs attention")
    assert ok(run("incidents", "assign", "1", "--to", "jane")) == "1 incident assigned to jane\n"
    assert "owner jane" in words(ok(run("incidents", "list", "--owner", "jane")))
    shown = words(ok(run("incidents", "show", "1")))
    assert f"bg-pipelines stores set {name} --token -" in shown
    assert "needs attention (manual_intervention, credentials is not retried automatically)" in shown
    assert ok(run("incidents", "retry", "1")) == "1 incident retried, 5 units of work due now\n"
    sync()
    assert "2 times, 5 parked, owner jane" in words(ok(run("incidents", "list")))
    assert ok(run("incidents", "resolve", "--all", "--note", "closed", "--by", "joe")) == (
        "1 incident resolved, 5 units of work due now\n"
    )
    assert ok(run("incidents", "list")) == "no open incidents\n"
    assert "by joe" in words(ok(run("incidents", "list", "--resolved")))
    assert "by joe: closed" in words(ok(run("incidents", "show", "1")))
    assert shop.token not in listed + shown


def test_many_are_chosen_by_store_or_type(run: Run, revoked: tuple[Shop, str]) -> None:
    _, name = revoked
    assert "1 incident retried" in ok(run("incidents", "retry", "--store", name))
    assert "1 incident retried" in ok(run("incidents", "retry", "--type", "credentials"))
    assert "1 incident retried" in ok(run("incidents", "retry", "--all", "--store", name))
    assert refused(run("incidents", "retry", "--type", "timeout")) == (
        "no open incidents of type timeout: nothing to retry"
    )
    assert "did you mean 'credentials'?" in refused(run("incidents", "retry", "--type", "credntials"))
    assert f"did you mean {name!r}?" in refused(
        run("incidents", "resolve", "--store", f"{name}x", "--note", "x")
    )


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["retry"], "give incident numbers, --all, --store or --type"),
        (["retry", "1", "--all"], "not both"),
        (["resolve", "1"], "--note"),
        (["list", "--resolved", "--all-statuses"], "not both"),
        (["retry", "one"], "should be a valid integer"),
    ],
)
def test_what_is_not_said_clearly_is_asked_for(run: Run, typed: list[str], told: str) -> None:
    result = run("incidents", *typed)
    assert result.exit_code == 2
    assert told in words(result.output)


def test_retrying_or_resolving_nothing_is_an_error(run: Run) -> None:
    assert refused(run("incidents", "retry", "--all")) == "no open incidents: nothing to retry"
    assert (
        refused(run("incidents", "resolve", "--all", "--note", "x"))
        == "no open incidents: nothing to resolve"
    )
    assert refused(run("incidents", "show", "7")).startswith("no such incident: 7")


def test_a_retry_that_has_nothing_to_start_says_why_and_exits_1(run: Run, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, job) "
            "VALUES ('job:store_sync:database', true, 'database', 'critical', 'database', 'job store_sync', 'x', 'store_sync')"
        )
    result = run("incidents", "retry", "1")
    assert result.exit_code == 1
    assert result.output.startswith(
        "0 incidents retried, 0 units of work due now\n1: nothing to start: store_sync"
    )


def test_incidents_are_json_for_a_program(run: Run, revoked: tuple[Shop, str]) -> None:
    shop, name = revoked
    [listed] = json.loads(ok(run("incidents", "list", "--json")))["incidents"]
    assert (listed["id"], listed["store"], listed["parked"]) == (1, name, 5)
    shown = json.loads(ok(run("incidents", "show", "1", "--json")))
    assert listed.items() <= shown.items()
    assert len(shown["attempts"]) == len(shown["held"]) == 5
    assert shop.token not in json.dumps(shown)
    assert json.loads(ok(run("incidents", "list", "--resolved", "--json"))) == {"incidents": []}


def test_an_incident_can_be_read_on_a_phone(
    run: Run, revoked: tuple[Shop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for typed in (["list"], ["show", "1"]):
        shown = ok(run("incidents", *typed))
        assert max(map(len, shown.splitlines())) <= 40


# Status


def test_status_with_no_stores_says_how_to_add_one(run: Run) -> None:
    assert "bg-pipelines stores add" in words(ok(run("status")))


def test_status_is_a_table_or_one_json_object(run: Run) -> None:
    ok(run(*HARBOR))
    assert "store_sync" in ok(run("status"))
    state = json.loads(ok(run("status", "--json")))
    assert [row["due"] for row in state["metrics"]["resources"]] == [1] * len(Unit)
    assert state["failing"] == []


def test_in_a_pipe_no_id_is_cut(run: Run, database_url: str, database: Database) -> None:
    ok(run(*HARBOR))
    query(
        database,
        "INSERT INTO customer_changes (store_id, customer_external_id, field, changed_by, changed_at) "
        "SELECT id, 'gid://shopify/Customer/30000000000032', 'first_name', 'jane.of.the.back.office@example.com', now() "
        "FROM stores",
    )
    environment = {**os.environ, "BG_DATABASE_URL": database_url, "BG_ENCRYPTION_KEY": KEY}
    command = [sys.executable, "-m", "bg_pipelines.cli", "customers", "changes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "gid://shopify/Customer/30000000000032" in done.stdout


def test_status_fits_a_terminal_of_eighty_columns(run: Run) -> None:
    ok(run(*HARBOR))
    shown = ok(run("status"))
    assert "inventory_sync" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_status_where_every_store_is_paused_does_not_say_that_there_are_none(run: Run) -> None:
    ok(run(*HARBOR))
    ok(run("stores", "pause", "Harbor"))
    shown = words(ok(run("status")))
    assert "paused: Harbor" in shown
    assert "no stores yet" not in shown


def test_names_are_shown_as_they_are_whatever_rich_makes_of_brackets(run: Run) -> None:
    name = "Harbor [red]"
    ok(run("stores", "add", name, *HARBOR[3:]))
    assert name in ok(run("stores", "list"))
    ok(run("stores", "pause", name))
    assert f"paused: {name}" in ok(run("status"))


# Check and migrate


def test_check_says_that_all_is_well_or_lists_the_faults_and_exits_1(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
) -> None:
    monkeypatch.setenv("BG_ALERT_URLS", "jsons://alerts.example.com/bg")
    sandbox = make_sandbox(shops=1, variants=1)
    [name] = add_shops(sandbox)
    hint, verdict = ok(run("check")).splitlines()
    assert (hint[:6], verdict) == ("hint: ", "no faults found")
    [shop] = sandbox.world.shops.values()
    shop.access.scopes.remove("read_products")
    result = run("check")
    assert result.exit_code == 1
    assert result.output.startswith(f"- store {name}: the app lacks the scope read_products")
    assert result.output.endswith("\n1 fault\n")


def test_migrate_tells_where_the_database_was_and_is(run: Run, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    assert "bg-pipelines migrate" in refused(run(*HARBOR))
    assert "it was at none" in ok(run("migrate"))
    assert "it was at" not in ok(run("migrate"))
    ok(run(*HARBOR))
    with database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    assert "the database is at revision 0099, newer than this program's 00" in ok(run("migrate"))
    ok(run("stores", "list"))


# The program itself


def test_a_fault_is_one_clear_text_on_standard_error_and_exit_1(run: Run) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bg_pipelines.cli.app import main; main()",
            "stores",
            "pause",
            "Harbor [red]",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: 1 fault, nothing was changed:\n  Harbor [red]: no such store\n"


INTERRUPTED_IN_A_DESTRUCTOR = """
import os, signal, time
from bg_pipelines.cli.app import app, main

class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

@app.command()
def work():
    Interrupted()
    time.sleep(60)

main()
"""


def test_an_interrupt_that_meets_a_destructor_is_neither_lost_nor_printed() -> None:
    command = [sys.executable, "-c", INTERRUPTED_IN_A_DESTRUCTOR, "work"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("command", [["stores", "list"], ["status"], ["migrate"], ["stores", "pause", "x"]])
def test_a_database_that_is_not_there_is_a_clear_text(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://bg:hunter2@127.0.0.1:9/bg")
    message = refused(type_in(*command))
    assert message.startswith("PostgreSQL is not available")
    assert "hunter2" not in message
