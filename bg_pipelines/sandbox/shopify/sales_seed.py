"""A shop's customers and orders made from the seed, when they are first asked for.

They depend on the seed, the shop's place and its size alone, though its catalogue may have been edited before.
Among them are the ones that break naive code: names in several scripts, customers without a name, an address or
a phone, one phone for many of them, the same person in several shops, orders without a customer, one order with
more lines than fit a page, a second currency.
"""

from __future__ import annotations

from random import Random
from typing import Any

from bg_pipelines.sandbox.clock import Clock, stamp
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import DAY_SECONDS, SEEDED_AT, dice
from bg_pipelines.sandbox.shopify.ledger import KINDS, NUMBERS_PER_KIND, Good, Ledger, Line
from bg_pipelines.sandbox.shopify.money import units_of
from bg_pipelines.sandbox.shopify.store import Store

FIRST_NUMBER = 30_000_000_000_000
YEARS_SECONDS = 900 * DAY_SECONDS
# A sync right after the start finds no news.
NEWEST_SECONDS = 2 * 3600
MOST_GOODS = 1000
LONG_ORDER_FROM = 40
LONG_ORDER_LINES = 300
REGULARS = 500
FIRST_NAMES = (
    "Ana",
    "Ben",
    "Chloé",
    "Dmitri",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ingrid",
    "João",
    "Kenji",
    "Lena",
)
LAST_NAMES = (
    "Okafor",
    "Müller",
    "García",
    "Smith",
    "O’Neill",
    "Nguyễn",
    "Rossi",
    "Kowalski",
    "Van den Berg",
    "Öz",
)
ODD_NAMES: tuple[tuple[str | None, str | None], ...] = (
    ("さくら", "高橋"),
    ("محمد", "الأحمد"),
    ("נועה", "לוי"),
    ("Анна", "Максимова"),
    ("小明", "王"),
    ("ศิริพร", "ใจดี"),
    ("Zoë 🌻", "Ångström"),
    ("👩‍👩‍👧 Family", "Silva"),
    ("Prince", None),
    (None, "Unknown"),
    (" Max ", "Mustermann "),
    ("Robert'); DROP TABLE customers;--", "Tables"),
    ("Maria del Carmen Guadalupe Esperanza de los Ángeles", "Fernández-Castellanos y Ruiz de la Torre"),
)
# By country: how its mobile numbers begin, how many digits follow, its name, the locale, its sales tax.
COUNTRIES: dict[str, tuple[tuple[str, ...], int, str, str, int]] = {
    "US": (("+1212555", "+1518555", "+1716555", "+1619555", "+1510555"), 4, "United States", "en", 8),
    "CA": (("+1416555", "+1613555", "+1905555"), 4, "Canada", "fr", 13),
    "DE": (("+49151", "+49170"), 8, "Germany", "de", 19),
    "JP": (("+8180", "+8190"), 8, "Japan", "ja", 10),
    "BH": (("+97333", "+97336"), 6, "Bahrain", "ar", 10),
    "GB": (("+44791", "+44770"), 7, "United Kingdom", "en", 20),
    "AU": (("+6141", "+6142"), 7, "Australia", "en", 10),
}
TAGS = ("VIP", "wholesale", "newsletter", "été", "staff", "loyalty-gold")
NOTES = ("Rings twice.\nLeave at the back door 🚪", "Prefers e-mail", "اتصل قبل التسليم")
ORDER_TAGS = ("gift", "rush", "phone order", "préparé")
REASONS = ("CUSTOMER", "INVENTORY", "FRAUD", "DECLINED", "STAFF", "OTHER")


def goods_of(store: Store) -> list[Good]:
    """What the shop sells; taken when it is made, so that later edits of the catalogue change no old order."""
    currency = store.shop["currencyCode"]
    goods = []
    for variant in store.variants:
        product = variant["product"]
        goods.append(
            Good(
                product["id"],
                variant["id"],
                product["title"],
                None if variant["title"] == "Default Title" else variant["title"],
                variant["sku"],
                product["vendor"],
                units_of(variant["price"], currency),
            )
        )
        if len(goods) == MOST_GOODS:
            break
    return goods


class SalesSeed:
    """What a shop's customers and orders will be made of, told before anything of the shop can change."""

    def __init__(
        self, index: int, store: Store, seed: int, clock: Clock, *, customers: int, orders: int
    ) -> None:
        self.index = index
        self.seed = seed
        self.clock = clock
        self.store = store
        self.customers = customers
        self.orders = orders
        self.now = min(clock.seconds(), SEEDED_AT)
        self.goods = goods_of(store) if customers or orders else []
        self.places = [location for location in store.locations if location["isActive"]]
        self.country: str = self.places[0]["address"]["countryCode"]

    def make(self) -> Ledger:
        random = dice(self.seed, "sales", self.index)
        ledger = Ledger(self.store, self.clock, FIRST_NUMBER + self.index * len(KINDS) * NUMBERS_PER_KIND)
        joined = self.times(random, self.customers)
        for at in joined:
            self.add_customer(ledger, random, at=at)
        customers = list(ledger.customers)
        known = 0
        for place, at in enumerate(self.times(random, self.orders)):
            while known < len(joined) and joined[known] <= at:
                known += 1
            # Of those who are there by then the first ones come again and again.
            buyer = customers[int(known * random.random() ** 2)] if known and random.random() > 0.03 else None
            long = place == self.orders // 2 and self.orders >= LONG_ORDER_FROM
            self.add_order(ledger, random, buyer, at=at, lines=LONG_ORDER_LINES if long else None)
        for customer in customers:
            ledger.recount(customer)
        return ledger

    def times(self, random: Random, count: int) -> list[float]:
        return sorted(self.now - random.randint(NEWEST_SECONDS, YEARS_SECONDS) for _ in range(count))

    def later(self, random: Random, at: float) -> str:
        return stamp(random.uniform(at, self.now - NEWEST_SECONDS))

    def add_customer(self, ledger: Ledger, random: Random, *, at: float) -> Node:
        fields = self.customer_fields(random, len(ledger.customers), at)
        customer = ledger.add_customer(fields, at=stamp(at))
        for _ in range(random.choices((0, 1, 2, 4), (15, 70, 12, 3))[0]):
            ledger.add_address(customer, self.address(random, customer))
        if random.random() < 0.4:
            customer["updatedAt"] = self.later(random, at)
        return customer

    def customer_fields(self, random: Random, place: int, at: float) -> dict[str, Any]:
        roll = random.random()
        regular = None
        if roll < 0.05:
            # The same person, known to several shops of the house by the same address.
            regular = random.randrange(REGULARS)
            first, last = FIRST_NAMES[regular % len(FIRST_NAMES)], LAST_NAMES[regular % len(LAST_NAMES)]
            email: str | None = f"regular.{regular}@example.com"
        elif roll < 0.17:
            first, last = random.choice(ODD_NAMES)  # type: ignore[assignment]
            email = f"c{place}@{self.store.shop['myshopifyDomain']}"
        else:
            first, last = random.choice(FIRST_NAMES), random.choice(LAST_NAMES)
            email = f"{'.'.join(ascii_only(name) for name in (first, last))}{place}@example.{random.choice(('com', 'org'))}"
        if roll > 0.93:
            email = None
        elif roll > 0.90:
            # Entered at a till that wants one.
            email = f"noemail+{place}@{self.store.shop['myshopifyDomain']}"
        elif random.random() < 0.02:
            email = email and email.upper()
        if random.random() < 0.03:
            first = last = None  # type: ignore[assignment]
        return {
            "firstName": first,
            "lastName": last,
            "email": email and self.email(random, email, at),
            "phone": self.phone(random, at, regular),
            "tags": sorted(random.sample(TAGS, random.choices((0, 1, 3), (6, 3, 1))[0])),
            "note": random.choice(NOTES) if random.random() < 0.05 else None,
            "locale": COUNTRIES[self.country][3],
            "state": random.choices(("DISABLED", "ENABLED", "INVITED", "DECLINED"), (70, 24, 5, 1))[0],
            "taxExempt": random.random() < 0.03,
            "verifiedEmail": email is not None and random.random() < 0.8,
        }

    def email(self, random: Random, address: str, at: float) -> Node:
        state = random.choices(
            ("NOT_SUBSCRIBED", "SUBSCRIBED", "UNSUBSCRIBED", "PENDING", "INVALID"), (45, 40, 12, 2, 1)
        )[0]
        asked = state != "NOT_SUBSCRIBED"
        return {
            "emailAddress": address,
            "marketingState": state,
            "marketingOptInLevel": random.choice(("SINGLE_OPT_IN", "CONFIRMED_OPT_IN")) if asked else None,
            "marketingUpdatedAt": self.later(random, at) if asked else None,
            "sourceLocation": None,
            "validFormat": True,
        }

    def phone(self, random: Random, at: float, regular: int | None) -> Node | None:
        beginnings, digits = COUNTRIES[self.country][:2]
        roll = random.random()
        if roll < 0.3:
            return None
        if roll < 0.33:
            # The shop's own, for customers who gave none.
            number = beginnings[0] + f"{self.index:0{digits}d}"[-digits:]
        elif regular is not None:
            number = f"+1646555{regular:04d}"
        else:
            number = random.choice(beginnings) + "".join(random.choices("0123456789", k=digits))
        state = random.choices(("NOT_SUBSCRIBED", "SUBSCRIBED", "UNSUBSCRIBED", "PENDING"), (60, 30, 8, 2))[0]
        asked = state != "NOT_SUBSCRIBED"
        return {
            "phoneNumber": number,
            "marketingState": state,
            "marketingOptInLevel": "SINGLE_OPT_IN" if asked else None,
            "marketingUpdatedAt": self.later(random, at) if asked else None,
            "marketingCollectedFrom": "SHOPIFY" if asked else None,
            "sourceLocation": None,
        }

    def address(self, random: Random, customer: Node) -> Node:
        home = random.choice(self.places)["address"]
        phone = customer.get("defaultPhoneNumber")
        return {
            "firstName": customer.get("firstName"),
            "lastName": customer.get("lastName"),
            "name": customer["displayName"] or None,
            "company": "Acme ĿȚĐ" if random.random() < 0.05 else None,
            "address1": f"{random.randint(1, 300)} {random.choice(('High Street', 'Ringstraße', '中央通り', 'Long Lane'))}",
            "address2": f"Flat {random.randint(1, 40)}" if random.random() < 0.2 else None,
            "city": home["city"],
            "province": home["provinceCode"],
            "provinceCode": home["provinceCode"],
            "country": COUNTRIES[self.country][2],
            "countryCodeV2": self.country,
            "zip": f"{random.randint(10000, 99999)}",
            "phone": phone["phoneNumber"] if phone else None,
        }

    def new_order(self, ledger: Ledger, random: Random, buyer: Node | None, given: Node, lines: int) -> Node:
        """An order placed now; `given` is what is told of it."""
        fields = order_fields(random, buyer, self.places, ledger.money.currency) | given
        sold = order_lines(random, self.goods, lines)
        tax = COUNTRIES[self.country][4]
        return ledger.add_order(fields, sold, at=self.clock.stamp(), tax_percent=tax)

    def add_order(
        self, ledger: Ledger, random: Random, buyer: Node | None, *, at: float, lines: int | None
    ) -> Node:
        fields = order_fields(random, buyer, self.places, ledger.money.currency)
        sold = order_lines(random, self.goods, lines)
        order = ledger.add_order(
            fields, sold, at=stamp(at), tax_percent=COUNTRIES[self.country][4], recount=False
        )
        roll = random.random()
        later = self.later(random, at)
        if roll < 0.03:
            ledger.cancel_order(order, random.choice(REASONS), at=later, recount=False)
        elif roll < 0.09 and order["displayFinancialStatus"] == "PAID":
            ledger.refund_order(order, some_pieces(random, ledger, order), at=later, recount=False)
        elif roll < 0.7:
            done = {"displayFulfillmentStatus": "FULFILLED", "closedAt": later}
            order.update(done, updatedAt=later)
        return order


def order_fields(random: Random, buyer: Node | None, places: list[Node], currency: str) -> Node:
    email, phone = (buyer or {}).get("defaultEmailAddress"), (buyer or {}).get("defaultPhoneNumber")
    retail = random.random() < 0.25
    fields: Node = {
        "customer": buyer,
        "email": email["emailAddress"] if email else None,
        "phone": phone["phoneNumber"] if phone and random.random() < 0.5 else None,
        "sourceName": "pos" if retail else random.choices(("web", "shopify_draft_order"), (9, 1))[0],
        "retailLocation": random.choice(places) if retail else None,
        "tags": sorted(random.sample(ORDER_TAGS, random.choices((0, 1, 2), (8, 2, 1))[0])),
        "test": random.random() < 0.005,
        "displayFinancialStatus": random.choices(("PAID", "PENDING", "AUTHORIZED"), (92, 6, 2))[0],
        "note": "Bitte klingeln 🔔" if random.random() < 0.02 else None,
    }
    if not retail and random.random() < 0.05:
        fields["presentmentCurrencyCode"] = "EUR" if currency != "EUR" else "SEK"
    return fields


def order_lines(random: Random, goods: list[Good], count: int | None = None) -> list[Line]:
    if not goods:
        return []
    if count is None:
        count = random.choices((1, 2, 3, 4, 7, 12), (30, 30, 20, 12, 6, 2))[0]
    return [
        Line(
            good := random.choice(goods),
            random.choices((1, 2, 5), (80, 15, 5))[0],
            good.units // 10 if random.random() < 0.1 else 0,
        )
        for _ in range(count)
    ]


def some_pieces(random: Random, ledger: Ledger, order: Node) -> dict[int, int]:
    """All of an order as often as a single piece of it."""
    left = ledger.refundable(order)
    if not left or random.random() < 0.5:
        return left
    return {random.choice(list(left)): 1}


def ascii_only(name: str | None) -> str:
    return "".join(letter for letter in (name or "").lower() if letter.isascii() and letter.isalnum()) or "x"
