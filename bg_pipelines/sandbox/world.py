"""A world, all that one sandbox holds, made from a seed: the shops, the merchants, the Twilio account, the hooks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.deliveries import HOUR_SECONDS, Courier
from bg_pipelines.sandbox.edits import change
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.hooks import Hooks
from bg_pipelines.sandbox.seed import shares
from bg_pipelines.sandbox.shopify.shop import Request, Shop
from bg_pipelines.sandbox.square.merchant import Merchant, Merchants
from bg_pipelines.sandbox.twilio.account import TwilioAccount

MOST_ORDERS_PER_CUSTOMER = 1000


class World:
    """Shops by their domain, Square's merchants by their id, one Twilio account, hooks by their name.

    `variants` is the total over all shops; `customers` is their total too (a third of the variants if it is not told),
    with `orders_per_customer` on average. The `square_` numbers are totals over all merchants (`square_orders`: three a
    customer); a merchant's rows are made when somebody first asks for them. `clock` gives seconds since 1970 and is
    what the rows' times, the budgets and the tokens go by. Two worlds of the same seed, size and clock are equal.
    `webhook_hour` is how many seconds an hour takes between the tries of a webhook's delivery.
    """

    def __init__(
        self,
        shops: int = 12,
        variants: int = 3000,
        seed: int = 7,
        clock: Callable[[], float] = time.time,
        search_lag: float = 0.0,
        customers: int | None = None,
        orders_per_customer: float = 3.0,
        merchants: int = 0,
        square_variants: int = 1000,
        square_customers: int = 1000,
        square_orders: int | None = None,
        webhook_hour: float = HOUR_SECONDS,
    ) -> None:
        if shops < 1:
            raise RejectedError("shops", "must be 1 or more")
        if variants < 0:
            raise RejectedError("variants", "must be 0 or more")
        if customers is None:
            customers = variants // 3
        if customers < 0:
            raise RejectedError("customers", "must be 0 or more")
        if not 0 <= orders_per_customer <= MOST_ORDERS_PER_CUSTOMER:
            raise RejectedError("orders_per_customer", f"must be from 0 to {MOST_ORDERS_PER_CUSTOMER}")
        if not webhook_hour >= 0:
            raise RejectedError("webhook_hour", "must be 0 or more")
        self.clock = Clock(clock)
        self.courier = Courier(self.clock)
        self.twilio = TwilioAccount(seed, self.clock, self.courier)
        self.hooks = Hooks(self.clock)
        self.shops: dict[str, Shop] = {}
        people = shares(shops, customers)
        for index, share in enumerate(shares(shops, variants)):
            orders = round(people[index] * orders_per_customer)
            shop = Shop(index, share, seed, self.clock, self.courier, customers=people[index], orders=orders)
            shop.outbox.hour_seconds = webhook_hour
            shop.search_lag_seconds = search_lag
            self.shops[shop.domain] = shop
        self.square_merchants = Merchants(
            merchants,
            seed=seed,
            clock=self.clock,
            variants=square_variants,
            customers=square_customers,
            orders=square_orders,
            courier=self.courier,
        )
        for merchant in self.square_merchants.values():
            merchant.search_lag_seconds = search_lag
            merchant.outbox.hour_seconds = webhook_hour
        self._numbers = itertools.count(1)
        self._places: list[Shop | Merchant] = [*self.shops.values(), *self.square_merchants.values()]
        self._turn = itertools.cycle(self._places)

    def next_number(self) -> int:
        return next(self._numbers)

    def requests(self, domain: str | None = None) -> list[Request]:
        """The log, oldest first."""
        logs = [list(shop.requests) for shop in self.shops.values() if domain in {None, shop.domain}]
        return sorted(itertools.chain.from_iterable(logs), key=lambda request: request.number)

    def forget_requests(self, domain: str | None = None) -> None:
        for shop in self.shops.values():
            if domain in {None, shop.domain}:
                shop.requests.clear()

    def deliveries_settled(self, timeout: float) -> bool:
        """Wait until every webhook was delivered or given up, retries and late ones included; False if it takes longer."""
        for place in self._places:
            with place.lock:
                place.notifier.flush()
        return self.courier.settled(timeout)

    def change_one(self) -> None:
        """One random edit in the shop or at the merchant whose turn it is."""
        change(next(self._turn), 1)
