"""One merchant of the sandbox: its rows, its token, its faults and the log of what was asked of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.deliveries import Courier, Delivery, Outbox
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import dice, digest, shares, tier_of
from bg_pipelines.sandbox.square.notifier import Notifier
from bg_pipelines.sandbox.square.seed import make_store, merchant_id_of, name_of
from bg_pipelines.sandbox.square.store import Store
from bg_pipelines.sandbox.square.subscriptions import Subscriptions

ORDERS_PER_CUSTOMER = 3
REQUESTS_KEPT = 10_000
SCOPES = (
    "CUSTOMERS_READ",
    "CUSTOMERS_WRITE",
    "INVENTORY_READ",
    "INVENTORY_WRITE",
    "ITEMS_READ",
    "MERCHANT_PROFILE_READ",
    "ORDERS_READ",
)


@dataclass
class SquareRequest:
    """One request of the product. `status` is None when the connection was cut instead of an answer; `rows` is how
    many rows the answer holds."""

    number: int
    at: str
    merchant_id: str
    operation: str
    status: int | None
    fault: str | None
    rows: int

    def to_json(self) -> Node:
        return asdict(self)


class Merchant:
    """Everything that happens to a merchant holds its `lock`. Its rows are made when somebody first asks for them."""

    def __init__(
        self,
        seed: int,
        index: int,
        clock: Clock,
        sizes: Sequence[int],
        owners: dict[str, Merchant],
        courier: Courier,
    ):
        self.lock = threading.RLock()
        self.clock = clock
        self.index = index
        self.tier = tier_of(index)
        self.id = merchant_id_of(seed, index)
        self.name = name_of(index)
        self.token = f"sandbox-square-{digest(seed, self.id, 'token')}"
        self.scopes = list(SCOPES)
        # Tokens that are good no more, with the code that says so.
        self.void: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.requests: deque[SquareRequest] = deque(maxlen=REQUESTS_KEPT)
        self.search_lag_seconds = 0.0
        self.random = dice(seed, "square changes", index)
        # What was given and what was answered, by idempotency key.
        self.idempotent: dict[str, tuple[bytes, Node]] = {}
        self.applied = 0
        self.base_url = ""
        self.subscriptions = Subscriptions(self.id, clock)
        self.outbox = Outbox(courier, self.faults, dice(seed, "square deliveries", index))
        self.notifier = Notifier(
            self.id, self.subscriptions, self.outbox, clock, lambda scope: scope in self.scopes
        )
        self._seed = seed
        self._sizes = sizes
        self._owners = owners
        owners[self.token] = self

    @cached_property
    def store(self) -> Store:
        variants, customers, orders = self._sizes
        with self.lock:
            made = make_store(
                self._seed, self.index, self.clock, variants=variants, customers=customers, orders=orders
            )
            made.tell = self.notifier.tell
            return made

    @property
    def deliveries(self) -> deque[Delivery]:
        """What was sent of webhooks, oldest first: the last 20,000."""
        return self.outbox.sent

    @property
    def api_url(self) -> str:
        """What a client is given in place of https://connect.squareup.com; the token identifies the merchant."""
        return self.base_url

    def set_token(self, token: str) -> None:
        """The token that was good until now is revoked."""
        if self._owners.get(token, self) is not self:
            raise RejectedError("token", "is another merchant's")
        self.void[self.token] = "ACCESS_TOKEN_REVOKED"
        self.void.pop(token, None)
        self.token = token
        self._owners[token] = self

    def export(self) -> dict[str, Any]:
        with self.lock:
            return self.store.export()

    def to_json(self) -> Node:
        """What an operator needs to add it as a store; nothing that would make its rows."""
        return {
            "name": self.name,
            "id": self.id,
            "tier": self.tier,
            "token": self.token,
            "api_url": self.api_url,
            "applied": self.applied,
            "subscriptions": len(self.subscriptions.shelf),
        }


class Merchants(dict[str, Merchant]):
    """Merchants by their id. The numbers are totals, dealt out by tier as the shops' are."""

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        clock: Clock,
        variants: int,
        customers: int,
        orders: int | None,
        courier: Courier,
    ) -> None:
        super().__init__()
        orders = customers * ORDERS_PER_CUSTOMER if orders is None else orders
        sizes = {"merchants": count, "square_variants": variants, "square_customers": customers}
        for name, size in (sizes | {"square_orders": orders}).items():
            if size < 0:
                raise RejectedError(name, "must be 0 or more")
        self.owners: dict[str, Merchant] = {}
        if not count:
            return
        dealt = zip(*(shares(count, total) for total in (variants, customers, orders)), strict=True)
        for index, share in enumerate(dealt):
            merchant = Merchant(seed, index, clock, share, self.owners, courier)
            self[merchant.id] = merchant
