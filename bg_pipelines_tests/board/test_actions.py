"""What the buttons do: the same as the commands, and each leaves its trail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.operations import activity
from bg_pipelines.operations.actions import pause_stores
from bg_pipelines.operations.activity import COMMAND, Actor, list_activity, note_deploy, recorded
from bg_pipelines.queues import JOB_UNITS
from bg_pipelines.work import store_units
from bg_pipelines_tests.board.conftest import Board, Person
from bg_pipelines_tests.board.test_pages import page
from bg_pipelines_tests.support import query, wait_for
from bg_pipelines_tests.typed import ok


@pytest.fixture
def database_url(board: Board) -> str:
    return board.database.engine.url.render_as_string(hide_password=False)


def trail(board: Board) -> list[tuple[Any, ...]]:
    return [
        (e.who, e.via, e.action, e.subject, e.succeeded, e.outcome)
        for e in list_activity(board.database, limit=9)
    ]


def is_due(board: Board, job: str) -> bool:
    """Whether the sensor that looks between the ticks would start a run."""
    with board.database.transaction() as connection:
        return store_units.is_due(connection, JOB_UNITS[job], retries=True)


def test_an_incident_is_retried_assigned_and_resolved_and_each_is_told(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    number = add_incident(add_store("harbor"))
    back = ada.act("/incidents/retry", only=number, id=[number, 99], page="/")
    assert back.status_code == 303
    shown = page(ada, back.headers["location"])
    assert "retry incidents 1 1 incident retried, 1 unit of work due now" in shown.words
    assert is_due(board, "store_sync")
    [state] = query(board.database, "SELECT attempts, retry_reason FROM sync_states WHERE resource = 'store'")
    assert state == {"attempts": 0, "retry_reason": "retried by ada"}

    back = ada.act("/incidents/assign", id=number, to="  Eve ", page="/incident")
    assert back.headers["location"].startswith(f"/incident?id={number}&")
    assert "OwnerEve" in page(ada, back.headers["location"]).words

    back = ada.act("/incidents/resolve", id=number, note="the token was renewed", page="/incidents")
    assert "1 incident resolved" in page(ada, back.headers["location"]).words
    [incident] = query(board.database, "SELECT status, resolved_by, resolution FROM incidents")
    assert incident == {"status": "resolved", "resolved_by": "ada", "resolution": "the token was renewed"}
    assert trail(board) == [
        ("ada", "board", "resolve incidents", "1", True, "1 incident resolved, 1 unit of work due now"),
        ("ada", "board", "assign incidents", "1", True, "1 incident assigned to Eve"),
        ("ada", "board", "retry incidents", "1", True, "1 incident retried, 1 unit of work due now"),
    ]


def test_many_incidents_are_retried_at_once(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    numbers = [add_incident(add_store(f"shop {n}")) for n in range(3)]
    ada.act("/incidents/retry", id=numbers[:2])
    assert query(board.database, "SELECT store_id FROM sync_states WHERE next_due_at IS NULL") == [
        {"store_id": 3}
    ]


def test_what_cannot_be_done_is_said_and_told(
    board: Board, add_store: Callable[..., int], add_incident: Callable[..., int], ada: Person
) -> None:
    number = add_incident(add_store("harbor"))
    for path, given, words in (
        ("/incidents/retry", {}, "No incident is ticked"),
        ("/incidents/retry", {"id": "99"}, "no such incident: 99"),
        ("/incidents/retry", {"id": "9" * 15}, "no such incident"),
        ("/incidents/resolve", {"id": number, "note": " "}, "say in a note why it is over"),
        ("/store/pause", {"store": "harbour"}, "no such store; did you mean"),
        ("/store/sync", {"store": "\0\ud800"}, "no store is named"),
    ):
        answer = ada.act(
            path,
            **{
                key: value.encode(errors="replace") if isinstance(value, str) else value
                for key, value in given.items()
            },
        )
        assert answer.status_code == 409
        assert words in answer.text.replace("&#39;", "'")
    failed = [entry for entry in list_activity(board.database, limit=9) if entry.succeeded is False]
    assert len(failed) == 5
    [incident] = query(board.database, "SELECT status FROM incidents")
    assert incident["status"] == "open"


def test_a_store_is_paused_resumed_synced_and_read_whole(
    board: Board, add_store: Callable[..., int], ada: Person
) -> None:
    add_store("harbor")
    add_store("pier")
    of_harbor = {"store": "harbor", "name": "harbor", "page": "/store"}
    assert not is_due(board, "store_sync")
    back = ada.act("/store/sync", **of_harbor)
    assert back.headers["location"].startswith("/store?name=harbor&done=")
    assert "7 units due now" in page(ada, back.headers["location"]).words
    assert is_due(board, "store_sync")
    assert is_due(board, "customer_sync")
    due = query(board.database, "SELECT DISTINCT store_id FROM sync_states WHERE next_due_at <= now()")
    assert due == [{"store_id": 1}]
    ada.act("/store/read-whole", **of_harbor)
    whole = query(board.database, "SELECT resource FROM sync_states WHERE full_pass_wanted_at IS NOT NULL")
    assert len(whole) == 7
    assert "harbor paused" in page(ada, ada.act("/store/pause", **of_harbor).headers["location"]).words
    assert ada.act("/store/sync", **of_harbor).status_code == 409
    ada.act("/store/resume", **of_harbor)
    assert query(board.database, "SELECT FROM stores WHERE paused_at IS NOT NULL") == []


def test_commands_leave_the_same_trail(
    board: Board,
    add_store: Callable[..., int],
    add_incident: Callable[..., int],
    run: Callable[..., Any],
    ada: Person,
) -> None:
    number = add_incident(add_store("harbor"))
    ok(run("incidents", "retry", str(number), "--by", "bob"))
    ok(run("incidents", "assign", str(number), "--to", "eve", "--by", "bob"))
    ok(run("incidents", "resolve", str(number), "--note", "over", "--by", "bob"))
    ok(run("stores", "pause", "harbor"))
    added = ok(run("board", "users", "add", "max", "--generate", "--role", "admin"))
    password = added.split()[-1]
    listed = ok(run("board", "users", "list"))
    assert "max" in listed
    assert password not in listed
    ok(run("board", "users", "remove", "max"))
    kept = trail(board)
    assert [entry[2] for entry in reversed(kept)] == [
        "retry incidents", "assign incidents", "resolve incidents", "pause stores", "save a user of the board",
        "remove a user of the board",
    ]  # fmt: skip
    assert [entry[0] for entry in kept[3:]] == ["bob"] * 3
    assert {entry[1] for entry in kept} == {"command"}
    assert password not in str(kept)
    assert "pause stores harbor" in page(ada, "/").words


def test_a_password_is_typed_and_not_an_argument(board: Board, run: Callable[..., Any]) -> None:
    ok(run("board", "users", "add", "max", typed="correct horse battery staple\n"))
    assert board.person().log_in("max", "correct horse battery staple").status_code == 303
    assert run("board", "users", "add", "max", typed="short\n").exit_code == 1
    ok(run("board", "users", "remove", "max"))


def test_what_was_begun_and_never_ended_shows_as_that(board: Board, ada: Person) -> None:
    class Killed(BaseException):
        pass

    with pytest.raises(Killed), recorded(board.database, Actor("bob", COMMAND), "retry incidents", "1"):
        raise Killed
    [entry] = list_activity(board.database, limit=9)
    assert entry.succeeded is None
    assert "begun, and not ended" in page(ada, "/changes").words


def test_a_deploy_is_told_once(board: Board) -> None:
    note_deploy(board.database)
    note_deploy(board.database)
    [entry] = list_activity(board.database, limit=9)
    assert (entry.via, entry.action) == ("deploy", "deploy")
    assert "tables 00" in entry.subject


def test_what_is_done_is_shown_at_once_and_not_what_was_a_moment_ago(
    board: Board, add_store: Callable[..., int], ada: Person
) -> None:
    add_store("harbor")
    ada.act("/incidents/retry")
    assert "the one store up to date" in page(ada, "/").words
    pause_stores(board.database, ["harbor"], Actor("bob", COMMAND))
    assert "the one store up to date" in page(ada, "/").words, "figures of a moment ago are good enough"
    ada.act("/store/sync", store="harbor")
    wait_for(lambda: "every store is paused" in page(ada, "/").words)


def test_the_trail_of_a_database_that_is_away_is_an_error_and_nothing_is_done(database: Database) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    with pytest.raises(Exception, match="not available"):
        pause_stores(away, ["harbor"], Actor("bob", COMMAND))
    away.close()
    assert activity.list_activity(database, limit=1) == []
