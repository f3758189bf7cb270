"""Removing a store: nothing runs for it any more, its webhook subscriptions end, and what is held of it is deleted.

    plan = plan_removal(database, "harbor")
    remove_store(database, settings, plan, by="jane")

It can be stopped anywhere, and the same again goes on where it was: the store is paused first and keeps its name until
the last of its rows is gone. What is deleted, and what stays as proof, stands in `privacy`.
"""

from __future__ import annotations

from typing import NamedTuple

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Store
from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.store_platform import store_platform
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.privacy import erasure, requests
from bg_pipelines.settings import Settings
from bg_pipelines.webhooks.declared import address
from bg_pipelines.webhooks.subscriptions import end_subscriptions
from bg_pipelines.wording import command, did_you_mean


class Plan(NamedTuple):
    """What removing a store deletes: rows by table. `is_bare`: it has no access any more, for its removal has begun or, with
    orders kept, was done; `has_begun`: it was interrupted, and goes on."""

    store_id: int
    name: str
    keep_orders: bool
    rows: dict[str, int]
    is_bare: bool
    has_begun: bool


class Removed(NamedTuple):
    """What was removed. `subscriptions` are those that ended at the platform; None where it could not be asked, `why`."""

    request_id: int
    rows: dict[str, int]
    subscriptions: int | None
    why: str
    files_elsewhere: list[str]


def plan_removal(database: Database, name: str, *, keep_orders: bool = False) -> Plan:
    """Count what would be deleted; a removal that has begun keeps orders if it did so then.

    Raises IntegrationError (bad_data) for an unknown store, and where the orders to be kept are being deleted already.
    """
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT id, deleted_at IS NOT NULL, ARRAY(SELECT kind FROM data_requests r WHERE r.store_id = s.id "
            "AND r.status = 'open' AND r.kind = ANY(%s)) FROM stores s WHERE name = %s",
            (list(requests.ERASURES), name),
        ).fetchone()
        if row is None:
            known = [known for (known,) in connection.execute("SELECT name FROM stores")]
            raise _bad_data(
                f"no store is named {name!r}{did_you_mean(name, known)}; removed ones have no name"
            )
    store_id, is_bare, kinds = row
    if keep_orders and requests.ERASE_STORE in kinds:
        raise _bad_data(
            f"the removal of {name} has begun without --keep-orders: {command('stores', 'remove', name)} ends it"
        )
    keep_orders = keep_orders or requests.ERASE_BUT_ORDERS in kinds
    rows = erasure.count_rows(database, store_id, keep_orders=keep_orders)
    return Plan(store_id, name, keep_orders, rows, is_bare, bool(kinds))


def remove_store(database: Database, settings: Settings, plan: Plan, *, by: str) -> Removed:
    """Do it, in transactions of a fraction of a second. A run that is at work on the store loses its claim, and stops.

    Raises IntegrationError (database, configuration): what was done until then is, and the same again goes on.
    """
    key = cipher(settings)
    ended: int | None = 0
    why = ""
    if not plan.is_bare:
        set_paused(database, [plan.name], True)
        try:
            ended = _unsubscribe(database, settings, plan)
        except IntegrationError as error:  # it may be long gone, and is no reason to keep it
            ended, why = None, error.of_store(plan.name).message
    erased = erasure.erase_store(
        database, key, settings.home, plan.store_id, by=by, keep_orders=plan.keep_orders
    )
    return Removed(erased.request_id, erased.rows, ended, why, erased.files_elsewhere)


def _unsubscribe(database: Database, settings: Settings, plan: Plan) -> int:
    with database.session() as session:
        store = session.get_one(Store, plan.store_id)
        session.expunge(store)
    key = cipher(settings)
    if not key.decrypt(store.credentials):  # the shop removed the app, and with it its subscriptions
        return 0
    with store_platform(store, key, settings) as platform:
        if platform.webhooks is None:
            return 0
        uri = None if settings.public_url is None else address(settings.public_url, store.platform)
        return end_subscriptions(database, plan.store_id, platform.webhooks, uri)


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="stores")
