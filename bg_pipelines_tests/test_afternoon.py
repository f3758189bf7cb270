"""An afternoon with all that goes wrong in one, minute by minute by a clock that the test turns: of 60 stores, with
`BG_TEST_FULL=1` of 200."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines import alerts
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.incidents import handling, reading
from bg_pipelines.operations import status
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import JOB_UNITS, TICK, TIERS
from bg_pipelines.sandbox import SCENARIOS, Sandbox, edit
from bg_pipelines.settings import load_settings
from bg_pipelines.sync import Summary
from bg_pipelines.work import store_units
from bg_pipelines_tests.support import DatabaseClock, as_store, assert_equal_to_source, query

MINUTES = 125
STORES = 200 if os.environ.get("BG_TEST_FULL") == "1" else 60
PHONE = "+4915112345678"


@pytest.mark.timeout(300)
def test_an_afternoon_of_troubles_ends_with_every_store_current_and_one_message_for_each_fault(
    clock: DatabaseClock,
    database: Database,
    cipher: Cipher,
    make_sandbox: Callable[..., Sandbox],
    sync: Callable[..., Summary],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = SCENARIOS["afternoon"](shops=STORES, variants=5 * STORES)
    begin = clock.now
    sandbox = make_sandbox(shops=STORES, variants=5 * STORES, clock=lambda: clock.now.timestamp())
    world = sandbox.world
    edit(world.twilio, "set_delays", sent=0, delivered=0)
    for shop in world.shops.values():
        # Of a budget nothing comes back while the clock stands: it is not what this afternoon is about.
        edit(shop, "set_budget", maximum=1_000_000, restore=10_000)
    stores = [as_store(shop, tier=tier_of(shop.index)) for shop in world.shops.values()]
    save_stores(database, cipher, stores)
    names = {store.domain: store.name for store in stores}
    monkeypatch.setenv("BG_ALERT_PHONES", PHONE)
    monkeypatch.setenv("BG_ALERT_URLS", f"json://127.0.0.1:{sandbox.port}/hooks/ops")
    monkeypatch.setenv("BG_TWILIO_ACCOUNT_SID", world.twilio.account_sid)
    monkeypatch.setenv("BG_TWILIO_AUTH_TOKEN", world.twilio.auth_token)
    monkeypatch.setenv("BG_TWILIO_FROM", world.twilio.numbers[0])
    monkeypatch.setenv("BG_TWILIO_API_URL", sandbox.url)
    settings = load_settings()
    runs: Counter[str] = Counter()

    def is_due(job: str, **what: Any) -> bool:
        with database.transaction() as connection:
            return store_units.is_due(connection, JOB_UNITS[job], **what)

    def work() -> None:
        """What the daemon does in a minute: the schedules' ticks, the sensors, the messages."""
        for job, units in JOB_UNITS.items():
            if job == "create_shopify_webhook":  # there is no public URL
                with database.transaction() as connection:
                    store_units.pass_over(connection, units)
                continue
            if (clock.now - begin) % TICK == TICK * 0:
                for tier in TIERS:
                    if is_due(job, tiers=[tier]):
                        runs["tick"] += 1
                        sync(units=units, job=job, tiers=(tier,), run_id=f"run {runs.total()}")
            if is_due(job, retries=True):
                runs["retries"] += 1
                sync(units=units, job=job, run_id=f"run {runs.total()}")
        alerts.tell(database, settings)

    def pass_minutes(minutes: int) -> None:
        for _ in range(minutes):
            clock.advance(minutes=1)
            scenario.advance(world, (clock.now - begin).total_seconds())
            work()

    work()
    assert_equal_to_source(database, sandbox)
    pass_minutes(MINUTES)

    # Every store is current but those that wait for a person.
    waiting = query(
        database,
        "SELECT DISTINCT domain FROM stores JOIN sync_states ON store_id = id WHERE next_due_at IS NULL",
    )
    assert {row["domain"] for row in waiting} == set(scenario.revoked)
    overdue = query(
        database,
        "SELECT 1 FROM sync_states WHERE next_due_at < clock_timestamp() - %s OR (next_due_at IS NOT NULL AND attempts > 1)",
        TICK,
    )
    assert overdue == []
    troubled = {*scenario.revoked, *scenario.malformed}
    whole = [domain for domain in world.shops if domain not in troubled]
    sync(
        stores=tuple(names[domain] for domain in whole)
    )  # the last edits are newer than some stores' last turn
    assert_equal_to_source(database, sandbox, *whole)
    rejected = query(database, "SELECT external_id FROM rejected_rows")
    assert [row["external_id"] for row in rejected] == list(scenario.malformed_rows.values())

    # One message for each fault, one for each that is over, to each target.
    told = [(row["fingerprint"], row["kind"]) for row in messages(database)]
    assert len(told) == len(set(told)) == 5 + 2
    assert Counter(kind for _, kind in told) == {"opened": 5, "all_clear": 2}
    over = {fingerprint for fingerprint, kind in told if kind == "all_clear"}
    throttled = store_id(database, scenario.throttled[0])
    assert over == {"circuit:platform:shopify", f"circuit:store:{throttled}"}
    assert len(world.twilio.messages) == len(world.hooks["ops"].received) == 7

    # One look names each fault in a line.
    text = render(status.read_status(database))
    for name in (domain.split(".")[0] for domain in troubled):
        assert len([line for line in text.splitlines() if f"store {name}" in line]) == 1, text
    assert scenario.throttled[0].split(".")[0] not in text

    # A person puts the tokens right.
    for domain, token in scenario.mend_tokens(world).items():
        save_stores(database, cipher, [as_store(world.shops[domain], tier=3, token=token)])
    for domain in scenario.malformed:
        world.shops[domain].faults.clear()
    open_ones = [row.id for row in reading.list_incidents(database)]
    assert len(open_ones) == 3
    handling.retry(database, open_ones, by="ana")
    pass_minutes(2)
    assert_equal_to_source(database, sandbox)
    assert query(database, "SELECT 1 FROM sync_states WHERE next_due_at IS NULL OR attempts > 0") == []
    assert reading.list_incidents(database) == []
    assert query(database, "SELECT 1 FROM rejected_rows") == []
    assert Counter(row["kind"] for row in messages(database)) == {"opened": 5, "all_clear": 5}
    assert len(world.twilio.messages) == len(world.hooks["ops"].received) == 10
    assert query(database, "SELECT 1 FROM alert_deliveries WHERE status <> 'sent'") == []
    # A handful of runs, however many stores: at most one a tick, tier and job, and those for retries.
    assert runs["tick"] <= (MINUTES // 5 + 2) * len(TIERS) * len(JOB_UNITS)
    assert runs["retries"] < 120


def tier_of(index: int) -> int:
    """Of twenty stores one of the first tier, three of the second."""
    return {0: 1, 5: 2, 10: 2, 15: 2}.get(index % 20, 3)


def messages(database: Database) -> list[dict[str, Any]]:
    return query(
        database,
        "SELECT fingerprint, alerts.kind FROM alerts JOIN incidents ON incidents.id = incident_id ORDER BY alerts.id",
    )


def store_id(database: Database, domain: str) -> int:
    [row] = query(database, "SELECT id FROM stores WHERE domain = %s", domain)
    return int(row["id"])


def render(state: status.Status) -> str:
    from io import StringIO

    from rich.console import Console

    from bg_pipelines.cli.status_page import status_page

    text = StringIO()
    page = Console(file=text, width=160)
    page.print(status_page(state, {}, page))
    return text.getvalue()
