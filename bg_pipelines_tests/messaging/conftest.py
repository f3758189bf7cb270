"""A sandbox that speaks Twilio and takes notifications, a shop with a product, and an outbox that is sent from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.messaging.outbox import NewText, put
from bg_pipelines.messaging.pace import Pace
from bg_pipelines.messaging.sending import Sender, Sending, Sent
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.support import DatabaseClock, query

ANN = "+12125550123"
"""In New York."""
BEN = "+13105550124"
"""In Los Angeles."""


NOON = datetime(2026, 11, 23, 17, tzinfo=UTC)
"""Of a Monday, in New York."""
EMPTIED = (
    "stores, products, product_variants, inventory_levels, orders, customers, customer_changes, incidents, webhook_events, "
    "job_runs, carts, cart_items, cart_events, cleaning_tasks, text_messages, text_replies, text_subscriptions, sms_consents, sms_opt_outs"
)


@pytest.fixture(scope="module")
def clock(own_database: Database) -> Iterator[DatabaseClock]:
    clock = DatabaseClock(own_database.engine.url.render_as_string(hide_password=False), NOON)
    own_database.engine.dispose()  # for connections whose clock is this one
    yield clock
    clock.connection.close()


@pytest.fixture
def database(own_database: Database, clock: DatabaseClock) -> Database:
    """The file's database, emptied, at noon."""
    clock.set(NOON)
    query(own_database, f"TRUNCATE {EMPTIED} RESTART IDENTITY CASCADE")
    return own_database


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(shops=1, variants=1)


def client_of(sandbox: Sandbox, **changes: Any) -> TextMessages:
    account = sandbox.world.twilio
    options: dict[str, Any] = {
        "sender": account.numbers[0],
        "api_url": sandbox.url,
        "timeouts": Timeouts(1, 1, 1),
        **changes,
    }
    return TextMessages(account.account_sid, account.auth_token, **options)


SHOP = """
    INSERT INTO stores (name, platform, domain, credentials, shop_name, currency)
        VALUES ('harbor', 'shopify', 'harbor.example', '', 'Harbor', 'USD');
    INSERT INTO products (store_id, external_id, source_updated_at, title, handle, status, vendor, product_type, tags,
        source_created_at) SELECT id, 'p1', now(), 'Linen Shirt', 'linen-shirt', 'ACTIVE', '', '', '{}', now() FROM stores;
    INSERT INTO product_variants (store_id, external_id, source_updated_at, product_external_id,
        inventory_item_external_id, title, sku, position, price, currency)
        SELECT id, 'v1', now(), 'p1', 'i1', 'S', 'LINEN-S', 1, 49, 'USD' FROM stores;
    INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id,
        location_external_id, available, on_hand, committed, incoming)
        SELECT id, 'l1', now(), 'i1', 'loc', 5, 5, 0, 0 FROM stores;
    INSERT INTO orders (store_id, external_id, source_updated_at, name, status, fulfillment_status, is_return, is_test,
        currency, total, tags, ordered_at, source_created_at)
        SELECT id, 'o1', now(), '#1001', 'open', 'unfulfilled', false, false, 'USD', 49, '{}', now(), now() FROM stores"""


@dataclass
class Outbox:
    """A shop and its outbox; `send()` is one run of the job's work."""

    database: Database
    sandbox: Sandbox
    sender: Sender
    rules: Rules = field(default_factory=Rules)
    runs: int = 0

    def put(self, phone: str = ANN, template: str = "product_share", **values: Any) -> int:
        """One that was asked for, unless `requested_by` is None."""
        new = {"requested_by": "jane", "product": "p1", **values}
        with self.database.transaction() as connection:
            return put(connection, NewText(template, 1, phone, **new), self.rules.countries)[0]

    def send(self, sender: Sender | None = None, **options: Any) -> Sent:
        self.runs += 1
        values: dict[str, Any] = {
            "log": lambda _: None,
            "unclear_wait": timedelta(seconds=60),
            "workers": 4,
            **options,
        }
        pace = values.pop("pace", None) or Pace(10_000)
        return Sending(
            self.database,
            sender or self.sender,
            values.pop("rules", self.rules),
            pace,
            run_id=f"run-{self.runs}",
            **values,
        ).run()

    def row(self, id_: int) -> dict[str, Any]:
        [row] = query(self.database, "SELECT * FROM text_messages WHERE id = %s", id_)
        return row

    def at_twilio(self) -> list[str]:
        """The texts that Twilio has, the oldest first."""
        return [message["body"] for message in self.sandbox.world.twilio.export()]

    def due_now(self) -> None:
        query(self.database, "UPDATE text_messages SET next_due_at = now() WHERE next_due_at IS NOT NULL")

    def incidents(self) -> list[tuple[str, str]]:
        rows = query(self.database, "SELECT fingerprint, status FROM incidents ORDER BY id")
        return [(row["fingerprint"], row["status"]) for row in rows]


@pytest.fixture
def shop(database: Database) -> Database:
    query(database, SHOP)
    return database


@pytest.fixture
def outbox(shop: Database, sandbox: Sandbox) -> Outbox:
    return Outbox(shop, sandbox, client_of(sandbox))
