"""Commands of Shopify by law: `customers/data_request`, `customers/redact` and `shop/redact`, carried out.

    carry_out(database, store_id, topic, payload, cipher=cipher, home=settings.home)

The same command twice, or after it was interrupted, does what is left. A delivery's signature covers its body and
neither its topic nor its shop, so a body that is not this topic's, or another shop's, is refused.

Payloads: https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.privacy.erasure import erase_customer, erase_store
from bg_pipelines.privacy.export import export_customer
from bg_pipelines.privacy.tables import COMMANDS

DATA_REQUEST, CUSTOMER_REDACT, SHOP_REDACT = COMMANDS
_OWN = {
    DATA_REQUEST: {"customer", "data_request"},
    CUSTOMER_REDACT: {"customer", "orders_to_redact"},
    SHOP_REDACT: set[str](),
}
"""What a payload of each topic has beside the shop, and those of the others have not."""
_ANY = {"customer", "data_request", "orders_requested", "orders_to_redact"}


def carry_out(
    database: Database,
    store_id: int,
    topic: str,
    payload: Mapping[str, Any],
    *,
    by: str = "shopify",
    cipher: Cipher,
    home: Path,
) -> int:
    """Do what a command asks for; returns the number of its request, which says what was done.

    Raises IntegrationError: (bad_data) for a payload that is not this topic's or not this shop's, and for the erasure of
    a shop that is at work, which a person has to confirm by pausing it; (database), (configuration) as what it does.
    """
    with database.transaction() as connection:
        _check(connection, store_id, topic, payload)
    if topic == SHOP_REDACT:
        return erase_store(database, cipher, home, store_id, by=by).request_id
    customer = _object(payload, "customer")
    who: dict[str, Any] = {
        "customer": _gid("Customer", customer, "id") if customer.get("id") is not None else None,
        "email": _text(customer, "email"),
        "phone": _text(customer, "phone"),
    }
    if topic == CUSTOMER_REDACT:
        orders = _orders(payload, "orders_to_redact")
        return erase_customer(database, cipher, home, store_id, **who, orders=orders, by=by).request_id
    request = str(_number(_object(payload, "data_request"), "id"))
    orders = _orders(payload, "orders_requested")
    return export_customer(
        database, cipher, home, store_id, **who, orders=orders, external_id=request, to_be_sent=True
    ).request_id


def _check(
    connection: psycopg.Connection[Any], store_id: int, topic: str, payload: Mapping[str, Any]
) -> None:
    if topic not in _OWN:
        raise _bad_data(f"{topic}: not a command by law; there are {', '.join(_OWN)}")
    # Of a data request `orders_requested` are its own as well.
    strange = (
        _ANY.intersection(payload) - _OWN[topic] - ({"orders_requested"} if topic == DATA_REQUEST else set())
    )
    if strange or not _OWN[topic] <= set(payload) or "shop_domain" not in payload:
        raise _bad_data(f"{topic}: its payload is not that of this topic; nothing was done")
    row = connection.execute("SELECT lower(domain) FROM stores WHERE id = %s", (store_id,)).fetchone()
    if row is None or str(payload["shop_domain"]).strip().lower() != row[0]:
        raise _bad_data(
            f"{topic}: its payload is of another shop than {row[0] if row else 'any'}; nothing was done"
        )


def _object(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = payload[name]
    if not isinstance(value, Mapping):
        raise _bad_data(f"{name}: must be an object and is not")
    return value


def _orders(payload: Mapping[str, Any], name: str) -> list[str]:
    value = payload.get(name, [])
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _bad_data(f"{name}: must be a list and is not")
    return [_gid("Order", {name: order}, name) for order in value]


def _gid(kind: str, holder: Mapping[str, Any], name: str) -> str:
    return f"gid://shopify/{kind}/{_number(holder, name)}"


def _number(holder: Mapping[str, Any], name: str) -> int:
    value = holder.get(name)
    if type(value) is not int or value < 0:
        raise _bad_data(f"{name}: must be a whole number and is not")
    return value


def _text(holder: Mapping[str, Any], name: str) -> str | None:
    value = holder.get(name)
    if value is not None and not isinstance(value, str):
        raise _bad_data(f"{name}: must be a text and is not")
    return value


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="shopify")
