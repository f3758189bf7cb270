"""From a change in a shop to its row, through real processes, while what stands between them is killed or goes away.

The suite runs a small size. `BG_TEST_FULL=1 pytest -s bg_pipelines_tests/webhooks/test_real_processes.py` runs the sizes of
`FULL`, some minutes long, prints what it measured and holds it to its limits.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from sqlalchemy.engine import make_url

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.database.sqlstates import is_outage
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sandbox.shopify.cost import Bucket
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.events import QUEUE, is_due
from bg_pipelines.webhooks.handling import LOOK_SECONDS, RESERVE, Batch, HandlingRequest, HandlingRun
from bg_pipelines.webhooks.subscriptions import keep_subscriptions
from bg_pipelines.webhooks.topics import TOPICS
from bg_pipelines.work.runner import Warmth
from bg_pipelines_tests.machine.test_serving import serving, workers
from bg_pipelines_tests.support import (
    CATALOGUE,
    PATIENCE,
    SALES,
    assert_equal_to_source,
    assert_sales_equal_to_source,
    connect_by,
    query,
    wait_for,
)
from bg_pipelines_tests.webhooks.conftest import SECRET


class Size(NamedTuple):
    """`hour_seconds` is how long an hour of Shopify's retries takes: a delivery is given up after four of them."""

    deliveries: int
    away_seconds: float
    away_hour_seconds: float
    sale_orders: int
    sale_seconds: float
    quiet_shops: int
    gap_edits: int


SUITE = Size(500, 2, 3, 150, 2, 8, 20)
FULL = Size(10_000, 60, 40, 2_000, 60, 50, 500)
# Here, for a test finds no setting in its environment.
IS_FULL = os.environ.get("BG_TEST_FULL") == "1"
SIZE = FULL if IS_FULL else SUITE

KILLS = 5 if IS_FULL else 3
KILL_HOUR_SECONDS = 20 if IS_FULL else 5
QUIET_SECONDS = 5.0
EVERYTHING = (*CATALOGUE, *SALES)
BY_API = {topic.name for topic in TOPICS["shopify"].values() if topic.by_api}

Sync = Callable[..., Summary]


def report(**figures: Any) -> None:
    if IS_FULL:
        print(json.dumps(figures))


def name(shop: Shop) -> str:
    return shop.domain.split(".")[0]


def equal(database: Database, sandbox: Sandbox) -> None:
    assert_equal_to_source(database, sandbox)
    assert_sales_equal_to_source(database, sandbox)


@pytest.fixture
def make_world(
    make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]], sync: Sync
) -> Callable[..., list[Shop]]:
    """Shops of one app that have just been synced: `make_world(shops=3)`."""

    def make(shops: int, hour_seconds: float) -> tuple[Sandbox, list[Shop]]:
        sandbox = make_sandbox(
            shops=shops,
            variants=8 * shops,
            customers=4 * shops,
            orders_per_customer=2,
            webhook_hour=hour_seconds,
        )
        add_shops(sandbox)
        assert sync(units=EVERYTHING).failures == []
        made = list(sandbox.world.shops.values())
        for shop in made:
            edit(shop, "rotate_webhook_secret", secret=SECRET, seconds=0)
        return sandbox, made

    return make


@pytest.fixture
def subscribe(sync: Sync, database: Database) -> Callable[[str], None]:
    """The unit of `create_shopify_webhook`, at its hour, for all stores."""
    runs = itertools.count(1)

    def run(url: str) -> None:
        query(database, "UPDATE sync_states SET next_due_at = now() WHERE resource = %s", Unit.WEBHOOKS.value)
        work = partial(keep_subscriptions, public_url=url)
        summary = sync(
            units=(Unit.WEBHOOKS,), processes={Unit.WEBHOOKS: work}, run_id=f"webhooks-{next(runs)}"
        )
        assert summary.failures == []

    return run


class Handling:
    """Runs that drain the inbox, each warm until it is stopped, started as the sensor starts them: when something is due
    and none is at work. `turns` has which store was worked on when; `outages` are the runs that the database ended."""

    def __init__(self, url: str, cipher: Cipher, home: Path) -> None:
        self.database = Database(url)
        self.cipher = cipher
        self.home = home
        self.turns: list[tuple[float, Batch]] = []
        self.outages = 0
        self.rows_asked = 0
        self.failure: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Handling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(PATIENCE)
        self.database.close()
        if self.failure is not None:
            raise self.failure

    def _watch(self) -> None:
        dead: list[str] = []
        try:
            for number in itertools.count(1):
                if self._done.wait(LOOK_SECONDS):
                    return
                try:
                    with self.database.transaction() as connection:
                        # What a run held that the database ended, as `take_over` frees it for the run's next try.
                        QUEUE.release_runs(connection, dead)
                        due = is_due(connection)
                    dead.clear()
                    if due:
                        self._run(number)
                except IntegrationError as error:
                    if not is_outage(error):
                        raise
                    self.outages += 1
                    dead.append(f"handling-{number}")
        except BaseException as error:  # noqa: BLE001 (raised where the test waits)
            self.failure = error

    def _run(self, number: int) -> None:
        turns = self.turns

        class Watched(HandlingRun):
            def work_on(self, batch: Batch) -> None:
                turns.append((time.time(), batch))
                super().work_on(batch)

        run = Watched(
            self.database,
            self.cipher,
            HandlingRequest(warm_seconds=3600),
            run_id=f"handling-{number}",
            home=self.home,
            connect=connect_by(),
            log=lambda _: None,
            warmth=Warmth(3600, LOOK_SECONDS, self._done.is_set),
        )
        try:
            run.run()
        finally:
            self.rows_asked += run.summary.asked

    def drained(self) -> bool:
        assert self.failure is None
        return not query(self.database, "SELECT 1 FROM webhook_events WHERE status = 'pending' LIMIT 1")


@contextmanager
def editing(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Work of the shops' staff beside the test, finished at the end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def trade(shop: Shop, dice: random.Random) -> None:
    """One edit, of the kinds that a shop's day is made of."""
    orders, customers = list(shop.ledger.orders), list(shop.ledger.customers)
    kind = dice.randrange(7)
    if kind == 0:
        edit(shop, "add_order", customer_id=dice.choice(customers)["id"], lines=2)
    elif kind == 1:
        edit(shop, "update_order", id=dice.choice(orders)["id"], fields={"note": str(dice.random())})
    elif kind == 2:
        edit(shop, "update_customer", id=dice.choice(customers)["id"], fields={"note": str(dice.random())})
    elif kind == 3:
        level = dice.choice([level for level in shop.store.levels if level["isActive"]])
        ends = {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}
        edit(shop, "set_quantity", **ends, quantity=dice.randrange(1000))
    elif kind == 4:
        product = dice.choice(list(shop.store.products))
        edit(shop, "update_product", id=product["id"], fields={"title": str(dice.random())})
    elif kind == 5:
        edit(shop, "add_product", variants=2)
    elif len(shop.store.products) > 3:
        edit(shop, "delete_product", id=dice.choice(list(shop.store.products))["id"])


def told(shops: Sequence[Shop]) -> Counter[str]:
    """What the shops had to tell, by the delivery's id, and how often they sent it on purpose."""
    return Counter(delivery.id for shop in shops for delivery in shop.deliveries)


def assert_stored_once(database: Database, shops: Sequence[Shop]) -> None:
    assert {delivery.status for shop in shops for delivery in shop.deliveries} == {"delivered"}
    rows = Counter(row["webhook_id"] for row in query(database, "SELECT webhook_id FROM webhook_events"))
    assert rows.keys() == told(shops).keys(), "none lost"
    assert set(rows.values()) == {1}, "none doubled"


def settled(sandbox: Sandbox, handling: Handling) -> None:
    """All is delivered and handled."""
    assert sandbox.world.deliveries_settled(PATIENCE + 4 * SIZE.away_hour_seconds)
    wait_for(handling.drained)


def events(database: Database) -> dict[str, int]:
    rows = query(database, "SELECT status, count(*)::int AS number FROM webhook_events GROUP BY status")
    return {row["status"]: row["number"] for row in rows}


def test_a_receiver_that_is_killed_again_and_again_stores_every_event_once(
    make_world: Callable[..., tuple[Sandbox, list[Shop]]],
    subscribe: Callable[[str], None],
    sync: Sync,
    database: Database,
    database_url: str,
    cipher: Cipher,
    tmp_path: Path,
) -> None:
    sandbox, shops = make_world(3, KILL_HOUR_SECONDS)
    began = time.monotonic()
    for shop in shops:
        for kind in ("webhook_twice", "webhook_shuffled"):
            shop.faults.append(Fault(kind, operation="orders/", seconds=1))
    dice = random.Random(1)

    def work() -> None:
        for shop in itertools.cycle(shops):
            trade(shop, dice)
            if sum(len(shop.deliveries) for shop in shops) >= SIZE.deliveries:
                return

    def stored() -> int:
        [row] = query(database, "SELECT count(*)::int AS number FROM webhook_events")
        return int(row["number"])

    with ExitStack() as stack:
        receiver, vendors = stack.enter_context(serving(database_url, "--workers", "2"))
        subscribe(vendors.url)
        handling = stack.enter_context(Handling(database_url, cipher, tmp_path))
        stack.enter_context(editing(work))
        for kill in range(1, KILLS + 1):
            wanted = SIZE.deliveries * kill // (2 * KILLS + 2)
            wait_for(lambda wanted=wanted: stored() >= wanted)  # type: ignore[misc]
            before = workers(receiver)
            if kill == 3:
                # All of it, and somebody starts it again.
                receiver.kill()
                psutil.wait_procs(before, timeout=PATIENCE)
                receiver, _ = stack.enter_context(
                    serving(database_url, "--workers", "2", "--port", str(vendors.port))
                )
                continue
            for worker in before:
                worker.kill()
            wait_for(
                lambda before=before, receiver=receiver: len(workers(receiver) - before) == 2  # type: ignore[misc]
            )
        settled(sandbox, handling)
    assert_stored_once(database, shops)
    failed = [d for shop in shops for d in shop.deliveries if d.tries > 1]
    assert failed, "the kills were felt"
    handled = events(database)
    assert sync(units=EVERYTHING, run_id="due").failures == []
    equal(database, sandbox)
    report(
        test="killed five times",
        deliveries=sum(len(shop.deliveries) for shop in shops),
        events=sum(handled.values()),
        **handled,
        rows_asked=handling.rows_asked,
        retried=len(failed),
        most_tries=max(d.tries for d in failed),
        answers={str(answer): n for answer, n in Counter(a for d in failed for a in d.answers).items()},
        seconds=round(time.monotonic() - began, 1),
    )


class Line:
    """The network between programs and their database: `cut` refuses every connection, `silence` takes them and answers
    nothing, `mend` is what it was before."""

    def __init__(self, url: str) -> None:
        where = make_url(url)
        self._server = f"{where.query['host']}/.s.PGSQL.{where.port or 5432}"
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        rest = {key: value for key, value in where.query.items() if key != "host"}
        through = where.set(host="127.0.0.1", port=self._port, query=rest)
        self.url = through.render_as_string(hide_password=False)
        self._open: set[socket.socket] = set()
        self._is_silent = False
        self._start(self._accept, self._listener)

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        self.cut()
        self._is_silent = True
        self._listen()

    def mend(self) -> None:
        self.cut()
        self._is_silent = False
        self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._start(self._accept, self._listener)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._open.add(client)
                if self._is_silent:
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open.add(server)
                self._start(self._pass_on, client, server)
                self._start(self._pass_on, server, client)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()
        self._open.discard(source)


@pytest.fixture
def line(database_url: str) -> Iterator[Line]:
    line = Line(database_url)
    yield line
    line.cut()


def test_events_that_arrive_while_the_database_is_away_are_stored_and_handled_once_it_is_back(
    make_world: Callable[..., tuple[Sandbox, list[Shop]]],
    subscribe: Callable[[str], None],
    sync: Sync,
    database: Database,
    line: Line,
    cipher: Cipher,
    tmp_path: Path,
) -> None:
    sandbox, shops = make_world(2, SIZE.away_hour_seconds)
    dice = random.Random(2)
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.02):
            trade(dice.choice(shops), dice)

    with (
        serving(line.url) as (receiver, vendors),
        Handling(line.url, cipher, tmp_path) as handling,
    ):
        subscribe(vendors.url)
        process = workers(receiver)
        with editing(work):
            try:
                wait_for(lambda: bool(events(database).get("handled")))
                went_at = time.monotonic()
                line.cut()
                over.wait(SIZE.away_seconds / 2)
                line.silence()
                over.wait(SIZE.away_seconds / 2)
                known = sum(events(database).values())
                line.mend()
                back_at = time.monotonic()
                wait_for(lambda: sum(events(database).values()) > known)
                stored_after = time.monotonic() - back_at
                before = events(database).get("handled", 0)
                wait_for(lambda: events(database).get("handled", 0) > before)
                handled_after = time.monotonic() - back_at
            finally:
                over.set()
        settled(sandbox, handling)
        assert workers(receiver) == process, "the receiver lived through it"
    assert handling.outages
    assert_stored_once(database, shops)
    answers = Counter(a for shop in shops for d in shop.deliveries for a in d.answers)
    assert answers[503]
    assert set(answers) <= {200, 503}, "whoever could not be stored was told so in time"
    assert query(database, "SELECT 1 FROM incidents WHERE status = 'open'") == []
    assert sync(units=EVERYTHING, run_id="due").failures == []
    equal(database, sandbox)
    report(
        test="database away",
        deliveries=sum(len(shop.deliveries) for shop in shops),
        answers={str(answer): number for answer, number in answers.items()},
        **events(database),
        runs_ended_by_it=handling.outages,
        away_seconds=round(back_at - went_at, 1),
        stored_again_after_seconds=round(stored_after, 2),
        handled_again_after_seconds=round(handled_after, 2),
        all_settled_after_seconds=round(time.monotonic() - back_at, 1),
    )


class WatchedBucket(Bucket):
    """Remembers how low it was and how often it refused."""

    def __init__(self, like: Bucket) -> None:
        super().__init__(like.maximum, like.restore, like.at)
        self.lowest = self.maximum
        self.refused = 0

    def take(self, points: float, now: float) -> bool:
        taken = super().take(points, now)
        self.refused += not taken
        self.lowest = min(self.lowest, self.available)
        return taken


def test_a_flash_sale_of_one_shop_neither_holds_up_the_others_nor_uses_up_its_rate_limit(
    make_world: Callable[..., tuple[Sandbox, list[Shop]]],
    subscribe: Callable[[str], None],
    sync: Sync,
    database: Database,
    database_url: str,
    cipher: Cipher,
    tmp_path: Path,
) -> None:
    sandbox, shops = make_world(1 + SIZE.quiet_shops, KILL_HOUR_SECONDS)
    sale, *quiet = shops
    spread = SIZE.sale_seconds / 12
    sale.faults.append(Fault("webhook_shuffled", seconds=spread))
    dice = random.Random(3)

    def pace(steps: int) -> Iterator[int]:
        began = time.monotonic()
        for step in range(steps):
            time.sleep(max(0.0, began + step * SIZE.sale_seconds / steps - time.monotonic()))
            yield step

    def sell() -> None:
        for _ in pace(SIZE.sale_orders):
            order = edit(sale, "add_order")
            for change in range(3):
                edit(sale, "update_order", id=order["id"], fields={"note": str(change)})

    def change_a_little() -> None:
        changes = 3 if IS_FULL else 1
        order = [shop for shop in quiet for _ in range(changes)]
        dice.shuffle(order)
        for step in pace(len(order)):
            trade_quietly(order[step], dice)

    with serving(database_url) as (_, vendors), Handling(database_url, cipher, tmp_path) as handling:
        subscribe(vendors.url)
        sale.bucket = bucket = WatchedBucket(sale.bucket)
        sale.requests.clear()
        with editing(sell), editing(change_a_little):
            pass
        settled(sandbox, handling)
        asked = Counter(request.operation for request in sale.requests)
        assert len(sale.deliveries) == 4 * SIZE.sale_orders
        assert bucket.refused == 0, "no answer of the shop was THROTTLED"
        lowest = bucket.lowest
        assert lowest >= RESERVE * bucket.maximum
    assert_stored_once(database, shops)
    ids = {row["domain"]: row["id"] for row in query(database, "SELECT id, domain FROM stores")}
    began_of_sale = sorted(at for at, batch in handling.turns if batch.store_id == ids[sale.domain])
    received = {
        row["id"]: row["received_at"].timestamp()
        for row in query(
            database, "SELECT id, received_at FROM webhook_events WHERE store_id <> %s", ids[sale.domain]
        )
    }
    behind = [
        sum(received[event.id] < other < at for other in began_of_sale)
        for at, batch in handling.turns
        if batch.store_id != ids[sale.domain]
        for event in batch.events
    ]
    assert max(behind) <= 1, "no event of a quiet shop waits behind more than one batch of the sale's"
    # The quiet ones are rows by what told of them; the sale may need its due pass.
    for shop in quiet:
        assert_equal_to_source(database, sandbox, shop.domain)
        assert_sales_equal_to_source(database, sandbox, shop.domain)
    ages = sorted(
        row["seconds"]
        for row in query(
            database,
            "SELECT extract(epoch FROM settled_at - triggered_at)::float8 AS seconds FROM webhook_events "
            "WHERE store_id <> %s",
            ids[sale.domain],
        )
    )
    p50, p99 = (ages[min(len(ages) - 1, int(share * len(ages)))] for share in (0.5, 0.99))
    of_sale = query(
        database,
        "SELECT status, count(*)::int AS n FROM webhook_events WHERE store_id = %s GROUP BY 1",
        ids[sale.domain],
    )
    began = time.monotonic()
    assert sync(units=EVERYTHING, run_id="due").failures == []
    report(
        test="flash sale",
        quiet_events=len(ages),
        quiet_p50_seconds=round(p50, 3),
        quiet_p99_seconds=round(p99, 3),
        sale_events={row["status"]: row["n"] for row in of_sale},
        sale_batches=len(began_of_sale),
        sale_asked=dict(asked),
        bucket_lowest=round(lowest),
        bucket_maximum=bucket.maximum,
        due_pass_seconds=round(time.monotonic() - began, 1),
    )
    equal(database, sandbox)
    if IS_FULL:
        assert p99 <= QUIET_SECONDS


def trade_quietly(shop: Shop, dice: random.Random) -> None:
    """One edit that deletes nothing."""
    kind = dice.randrange(3)
    if kind == 0:
        edit(shop, "add_order", lines=2)
    elif kind == 1:
        product = dice.choice(list(shop.store.products))
        edit(shop, "update_product", id=product["id"], fields={"title": str(dice.random())})
    else:
        customer = dice.choice(list(shop.ledger.customers))
        edit(shop, "update_customer", id=customer["id"], fields={"note": str(dice.random())})


def test_subscriptions_that_were_deleted_behind_our_back_are_back_and_the_gap_is_filled(
    make_world: Callable[..., tuple[Sandbox, list[Shop]]],
    subscribe: Callable[[str], None],
    sync: Sync,
    database: Database,
    database_url: str,
    cipher: Cipher,
    tmp_path: Path,
) -> None:
    sandbox, [shop] = make_world(1, KILL_HOUR_SECONDS)
    dice = random.Random(4)

    def wait_until_told() -> None:
        trade_quietly(shop, dice)
        settled(sandbox, handling)

    with serving(database_url) as (_, vendors), Handling(database_url, cipher, tmp_path) as handling:
        subscribe(vendors.url)
        wait_until_told()
        equal(database, sandbox)
        began = time.monotonic()
        known, lost = len(shop.deliveries), edit(shop, "drop_subscriptions")["dropped"]
        assert lost == len(BY_API)

        def work() -> None:
            for _ in range(SIZE.gap_edits):
                trade(shop, dice)

        with editing(work):
            pass
        assert len(shop.deliveries) == known, "nobody was told"
        with pytest.raises(AssertionError):
            equal(database, sandbox)
        subscribe(vendors.url)
        assert shop.subscriptions.of.keys() == BY_API
        [incident] = query(database, "SELECT * FROM incidents WHERE status = 'open'")
        assert incident["kind"] == "missing_subscriptions"
        assert incident["message"].startswith(f"{lost} webhook subscriptions disappeared (")
        assert "are made again; what changed meanwhile is read" in incident["message"]
        assert set(incident["details"]["topics"]) == BY_API
        assert sync(units=EVERYTHING, run_id="due").failures == []
        equal(database, sandbox)
        healed = time.monotonic() - began
        wait_until_told()
        assert len(shop.deliveries) > known
        equal(database, sandbox)
        report(test="deleted behind our back", edits=SIZE.gap_edits, healed_seconds=round(healed, 1))
