"""`bg-pipelines cleaning`, as a person types it."""

from __future__ import annotations

import json
from datetime import timedelta

from bg_pipelines.cleaning.retention import RULES
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.cleaning import test_carts
from bg_pipelines_tests.cleaning.test_database import clean
from bg_pipelines_tests.support import query
from bg_pipelines_tests.typed import Run, ok, refused, words

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_commands_show_pause_and_preview(database: Database, run: Run) -> None:
    assert "no cleaning job has run yet" in ok(run("cleaning", "status"))
    clean(database, [rule for rule in RULES if rule.table == "audits"])
    assert "audits" in ok(run("cleaning", "status"))
    assert "paused: audits" in ok(run("cleaning", "pause", "audits", "--by", "jane"))
    assert '"state": "paused by jane"' in ok(run("cleaning", "status", "--json"))
    assert "did you mean 'audits'" in refused(run("cleaning", "pause", "audit"))
    assert "resumed: audits" in ok(run("cleaning", "resume"))
    query(database, "INSERT INTO cart_events (store_id, cart_external_id, kind, happened_at) "
          "VALUES (1, 'c', 'cart.abandoned', now() - interval '91 days')")  # fmt: skip
    assert "1 row to delete, nothing was deleted" in ok(run("cleaning", "preview"))
    assert "no row is set aside" in ok(run("cleaning", "set-aside"))


def test_a_stores_own_times_of_carts_are_set_by_command_and_what_is_not_named_stays(
    database: Database, run: Run
) -> None:
    for name in ("harbor", "mill"):
        query(database, "INSERT INTO stores (name, platform, domain, credentials) VALUES (%s, 'shopify', %s, '')", name, name)  # fmt: skip
    assert "2 hours" in ok(run("cleaning", "carts"))
    ok(run("cleaning", "carts", "harbor", "--anonymous", "14 days", "--archive", "52 weeks"))
    shown = words(ok(run("cleaning", "carts", "harbor", "--abandon", "36 hours")))
    assert "harbor 36 hours 2 weeks" in shown
    assert "52 weeks" in shown
    assert "harbor" not in ok(run("cleaning", "carts", "mill"))
    message = refused(run("cleaning", "carts", "harbor", "--empty", "soon", "--abandon", "1 day"))
    assert (
        message
        == "times of carts: empty must be a span like '90 days' (hours, days or weeks); '' is as for all stores"
    )
    assert "did you mean 'harbor'" in refused(run("cleaning", "carts", "harbour"))
    assert run("cleaning", "carts", "--empty", "1 day").exit_code == 2, "a time without a store is no store's"
    [rules] = query(database, "SELECT abandon, anonymous, empty, archive FROM cart_rules")
    assert rules == {"abandon": 36 * HOUR, "anonymous": 14 * DAY, "empty": None, "archive": 364 * DAY}
    ok(run("cleaning", "carts", "harbor", "--abandon", "", "--anonymous", ""))
    assert query(database, "SELECT abandon, anonymous FROM cart_rules") == [
        {"abandon": None, "anonymous": None}
    ]


def test_archived_rows_are_read_by_command(database: Database, run: Run) -> None:
    assert "archived is: nothing" in refused(run("cleaning", "archive", "carts"))
    query(database, "INSERT INTO cart_rules (store_id, archive) VALUES (1, '1 year')")
    test_carts.add_cart(database, "old", idle=31 * DAY, items=2, total=7)
    test_carts.clean(database)
    [line] = ok(run("cleaning", "archive", "carts")).splitlines()
    row = json.loads(line)
    assert (row["external_id"], row["total"], len(row["cart_items"])) == ("old", 7, 2)
    assert ok(run("cleaning", "archive", "carts", "--since", "2999-01-01")) == ""
    assert "did you mean 'carts'" in refused(run("cleaning", "archive", "cart"))
