"""Commands: events that ask for something to be done, each for one store and once; done again, it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.privacy import commands as privacy
from bg_pipelines.privacy.tables import COMMANDS as BY_LAW
from bg_pipelines.queues import Unit
from bg_pipelines.sync.stores import Store
from bg_pipelines.webhooks.events import HANDLED, IGNORED
from bg_pipelines.webhooks.uninstall import is_removed, uninstall
from bg_pipelines.work import store_units


class Order(NamedTuple):
    """A command, and what it is carried out with. `ask` calls a function with the store's platform."""

    topic: str
    payload: Mapping[str, Any]
    store: Store
    database: Database
    cipher: Cipher
    home: Path
    ask: Callable[[Callable[[Platform], Any]], Any]


class Done(NamedTuple):
    """How the event is settled, and why, where that says more."""

    status: str = HANDLED
    reason: str | None = None


Command = Callable[[Order], Done]


def carry_out(source: str, order: Order) -> Done | None:
    """Do what is asked for; None where no such command is known. Raises IntegrationError."""
    command = COMMANDS.get((source, order.topic))
    return None if command is None else command(order)


def _read_profile(order: Order) -> Done:
    if order.store.is_paused or order.store.is_deleted:
        return Done(IGNORED, "its store is paused: the pass that follows finds the change")
    with order.database.transaction() as connection:
        store_units.hint(connection, [(order.store.id, Unit.STORE)])
    return Done()


def _fetch_exports(order: Order) -> Done:
    """What waits for an export of this store is looked at now, not at the end of its wait."""
    with order.database.transaction() as connection:
        due = connection.execute(
            "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE (store_id, resource) IN ("
            "SELECT store_id, resource FROM sync_states WHERE store_id = %s AND next_due_at > clock_timestamp() "
            "AND last_error ->> 'error_type' = %s AND retry_strategy IS NOT NULL "
            "AND coalesce(lease_expires_at, '-infinity') <= clock_timestamp() ORDER BY resource FOR NO KEY UPDATE)",
            (order.store.id, ErrorType.OPERATION_RUNNING.value),
        ).rowcount
    return Done(HANDLED, None if due else "nothing waited for it")


def _uninstall(order: Order) -> Done:
    """The store is paused and its credentials dropped, unless the app has been installed again meanwhile."""
    if order.store.is_uninstalled or order.store.is_deleted:
        return Done(HANDLED, "it was done before")
    if not order.ask(is_removed):
        return Done(IGNORED, "the app is installed")
    with order.database.transaction() as connection:
        uninstall(connection, order.store.id, order.cipher)
    return Done()


def _obey_the_law(order: Order) -> Done:
    request = privacy.carry_out(
        order.database, order.store.id, order.topic, order.payload, cipher=order.cipher, home=order.home
    )
    return Done(HANDLED, f"request {request}")


COMMANDS: Mapping[tuple[str, str], Command] = {
    **{("shopify", topic): _obey_the_law for topic in BY_LAW},
    ("shopify", "app/uninstalled"): _uninstall,
    ("shopify", "shop/update"): _read_profile,
    ("shopify", "bulk_operations/finish"): _fetch_exports,
}
"""By source and topic."""
