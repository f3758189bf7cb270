"""One shop of the sandbox: its store, its access, its budget, its faults and the log of what was asked of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.deliveries import Courier, Delivery, Outbox
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import dice, tier_of
from bg_pipelines.sandbox.shopify import views
from bg_pipelines.sandbox.shopify.access import Access
from bg_pipelines.sandbox.shopify.baskets import Baskets, show_basket
from bg_pipelines.sandbox.shopify.bulk_operations import BulkOperations
from bg_pipelines.sandbox.shopify.cost import MAX_QUERY_COST, Bucket
from bg_pipelines.sandbox.shopify.ledger import Ledger
from bg_pipelines.sandbox.shopify.notifier import Notifier
from bg_pipelines.sandbox.shopify.rest import Rest
from bg_pipelines.sandbox.shopify.sales_seed import SalesSeed
from bg_pipelines.sandbox.shopify.seed import make_store
from bg_pipelines.sandbox.shopify.subscriptions import Subscriptions

BUDGET = 2000.0
RESTORE_PER_SECOND = 100.0
REQUESTS_KEPT = 10_000


@dataclass
class Request:
    """One request of the product. `status` is None when the connection was cut instead of an answer."""

    number: int
    at: str
    domain: str
    operation: str
    status: int | None
    fault: str | None
    requested_cost: int
    nodes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Shop:
    """Everything that happens to a shop holds its `lock`, so that a mutation is applied whole or not at all."""

    def __init__(
        self,
        index: int,
        variants: int,
        seed: int,
        clock: Clock,
        courier: Courier,
        *,
        customers: int = 0,
        orders: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.index = index
        self.tier = tier_of(index)
        self.store = make_store(index, variants, seed, clock)
        self.sales_seed = SalesSeed(index, self.store, seed, clock, customers=customers, orders=orders)
        self._ledger: Ledger | None = None
        self.domain: str = self.store.shop["myshopifyDomain"]
        self.name: str = self.store.shop["name"]
        self.access = Access(seed, self.domain, clock)
        self.bucket = Bucket(BUDGET, RESTORE_PER_SECOND, clock.seconds())
        self.faults: list[Fault] = []
        self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self.max_query_cost = MAX_QUERY_COST
        self.search_lag_seconds = 0.0
        self.random = dice(seed, "changes", index)
        # What inventorySetQuantities was given and what it answered, by idempotency key.
        self.idempotent: dict[str, tuple[bytes, Node, float]] = {}
        self.applied = 0
        self.bulk = BulkOperations(self.lock)
        self.subscriptions = Subscriptions(index, clock)
        self.outbox = Outbox(courier, self.faults, dice(seed, "deliveries", index))
        rest = Rest(self.store, lambda: self.ledger)
        self.notifier = Notifier(rest, self.access, self.subscriptions, self.outbox, clock, self.lock)
        self.baskets = Baskets(index, self.domain, clock)
        self.store.tell = self.baskets.tell = self.notifier.tell
        self.data_requests = 0
        self.base_url = ""

    @property
    def ledger(self) -> Ledger:
        """The customers and orders. They are made when they are first asked for: some 12,000 rows a second."""
        if self._ledger is None:
            with self.lock:
                if self._ledger is None:
                    made = self.sales_seed.make()
                    made.tell = self.notifier.tell
                    self._ledger = made
        return self._ledger

    @property
    def has_sales(self) -> bool:
        """Whether the shop was made with any customers or orders."""
        return bool(self.sales_seed.customers or self.sales_seed.orders)

    @property
    def deliveries(self) -> deque[Delivery]:
        """What was sent of webhooks, oldest first: the last 20,000."""
        return self.outbox.sent

    @property
    def token(self) -> str:
        return self.access.token

    @property
    def api_url(self) -> str:
        """What the product is given in place of https://SHOP: it adds /admin/api/VERSION/graphql.json."""
        return f"{self.base_url}/{self.domain}"

    def export(self, only: Collection[str] | None = None) -> dict[str, Any]:
        """Every row as the API would show it; `only` names the tables that are wanted."""
        with self.lock:
            tables: dict[str, Callable[[], Any]] = {
                **views.catalogue_tables(self.store),
                "customers": lambda: views.show_customers(self.ledger),
                "orders": lambda: views.show_orders(self.ledger),
                "carts": lambda: [show_basket(row) for row in self.baskets.carts.ordered("ID")[1]],
                "checkouts": lambda: [show_basket(row) for row in self.baskets.checkouts.ordered("ID")[1]],
            }
            for name in only or ():
                if name not in tables:
                    raise RejectedError("only", f"{name!r} is none of {', '.join(tables)}")
            return {name: rows() for name, rows in tables.items() if only is None or name in only}

    def to_json(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "name": self.name,
            "domain": self.domain,
            "tier": self.tier,
            "token": self.token,
            "client_id": self.access.client_id,
            "client_secret": self.access.client_secret,
            "old_client_secret": self.access.old_client_secret,
            "subscriptions": len(self.subscriptions.table),
            "api_url": self.api_url,
            "products": len(self.store.products),
            "variants": len(self.store.variants),
            "customers": self.sales_seed.customers if ledger is None else len(ledger.customers),
            "orders": self.sales_seed.orders if ledger is None else len(ledger.orders),
            "applied": self.applied,
        }
