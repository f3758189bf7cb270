"""The demo's text messages: a share and a back-in-stock alert are sent, their states arrive, and a STOP ends the next one.

They go to the sandbox's Twilio, to a number of a place where it is day.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from bg_pipelines.database.engine import Database
from bg_pipelines.machine.sandbox_http import sandbox_http
from bg_pipelines.messaging import desk
from bg_pipelines.messaging.numbers import masked
from bg_pipelines.messaging.quiet_hours import is_allowed, places_of
from bg_pipelines.settings import load_settings

SECONDS = 30
"""How long anything is waited for."""
PLACES = {"US": "+1212555", "GB": "+4474000", "IN": "+919812", "JP": "+819012", "NZ": "+6421123"}
"""Beginnings of numbers in places where, whatever time it is, it is day somewhere."""
DIGITS = {"US": 4, "GB": 5, "IN": 6, "JP": 6, "NZ": 4}
BY = "the demo"

Run = Callable[[str], dict[str, Any]]
"""Runs a job to its end."""


def use_sandbox(url: str) -> None:
    """The settings of every process that is started from here: the sandbox's Twilio, and nobody else's."""
    account = sandbox_http().get(f"{url}/sandbox/twilio", timeout=10).json()
    os.environ |= {
        "BG_TWILIO_API_URL": account["api_url"],
        "BG_TWILIO_ACCOUNT_SID": account["account_sid"],
        "BG_TWILIO_AUTH_TOKEN": account["auth_token"],
        "BG_TWILIO_FROM": account["from"],
        "BG_TWILIO_MESSAGING_SERVICE_SID": "",
        "BG_TEXT_COUNTRIES": ",".join(PLACES),
        "BG_TEXT_SEGMENTS_A_SECOND": "10",
        "BG_TEXT_TEMPLATES": "",
    }


def show_text_messages(
    console: Console, database: Database, url: str, shop: dict[str, Any], run: Run
) -> list[dict[str, Any]]:
    """Everything, with the runs that did it; one of them has not succeeded if anything is otherwise than it should be."""
    twilio = f"{url}/sandbox/twilio/edits"
    public = os.environ["BG_PUBLIC_URL"]
    _edit(twilio, edit="set_inbound_url", url=f"{public}/webhooks/twilio/inbound")
    _edit(twilio, edit="set_delays", sent=0.1, delivered=0.2)
    rules = desk.rules_of(load_settings())
    store, phone = shop["name"], number_at_daytime()
    product, variant, levels = _a_product(database, store)
    console.print(f"[bold]text messages[/] to {masked(phone)}")

    edits = f"{url}/sandbox/shops/{shop['domain']}/edits"
    for item, location in levels:
        _edit(edits, edit="set_quantity", inventory_item_id=item, location_id=location, quantity=0)
    _settle(url)
    ran = [run("handle_webhooks")]
    desk.grant(
        database,
        rules,
        store,
        phone,
        "customer_alert",
        source="demo",
        channel="web",
        wording="Text me when it is back in stock",
        by=BY,
    )
    desk.subscribe(database, rules, store, "back_in_stock", phone, variant=variant, by=BY)
    item, location = levels[0]
    _edit(edits, edit="set_quantity", inventory_item_id=item, location_id=location, quantity=7)
    _settle(url)
    ran.append(run("handle_webhooks"))
    desk.share(database, rules, store, product, phone, by=BY)
    ran.append(run("share_product_text_message"))
    _settle(url)
    desk.share(database, rules, store, product, phone, by=BY)
    _edit(twilio, edit="reply", number=phone, body="STOP")
    _settle(url)
    ran.append(run("handle_webhooks"))
    ran.append(run("share_product_text_message"))
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT template, status, reason, body FROM text_messages WHERE phone = %s ORDER BY id", (phone,)
        ).fetchall()
    for template, status, reason, body in rows:
        console.print(
            f"  {template}: {status}{f', {reason}' if reason else ''}", highlight=False, markup=False
        )
        if body:
            console.print(f"    {body}", highlight=False, markup=False, soft_wrap=True, style="dim")
    as_it_should = [(row[0], row[1]) for row in rows] == [
        ("back_in_stock", "delivered"),
        ("product_share", "delivered"),
        ("product_share", "refused"),
    ]
    ran[-1]["success"] = ran[-1]["success"] and as_it_should
    return ran


def _a_product(database: Database, store: str) -> tuple[str, str, list[tuple[str, str]]]:
    """A published product of the store, one of its variants, and the levels of that variant: item and location."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT p.external_id, v.external_id, v.inventory_item_external_id, "
            "array_agg(l.location_external_id ORDER BY l.external_id) FROM products p "
            "JOIN stores s ON s.id = p.store_id JOIN product_variants v ON v.store_id = p.store_id "
            "AND v.product_external_id = p.external_id AND v.deleted_at IS NULL AND v.price IS NOT NULL "
            "JOIN inventory_levels l ON l.store_id = v.store_id AND l.deleted_at IS NULL "
            "AND l.inventory_item_external_id = v.inventory_item_external_id "
            "WHERE s.name = %s AND p.status = 'ACTIVE' AND p.deleted_at IS NULL GROUP BY 1, 2, 3 ORDER BY 1, 2 LIMIT 1",
            (store,),
        ).fetchone()
    assert row is not None, "the sandbox has no product to tell of"
    return row[0], row[1], [(row[2], location) for location in row[3]]


def number_at_daytime() -> str:
    """A number that no earlier demo has opted out."""
    now = datetime.now(UTC)
    for country, beginning in PLACES.items():
        number = f"{beginning}{random.randrange(10 ** DIGITS[country]):0{DIGITS[country]}}"  # noqa: S311
        if all(is_allowed(at, places_of(number)) for at in (now, now + timedelta(minutes=5))):
            return number
    raise AssertionError("it is night everywhere")


def _edit(address: str, **edit: Any) -> None:
    sandbox_http().post(address, json=edit, timeout=10).raise_for_status()


def _settle(url: str) -> None:
    """Until everything that the sandbox posts has arrived."""
    sandbox_http().get(f"{url}/sandbox/deliveries?wait={SECONDS}", timeout=SECONDS + 10).raise_for_status()
