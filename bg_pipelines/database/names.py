"""Stores, customers, products and variants by the names that people type. For an unknown name the error suggests the closest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean


def find_store(connection: psycopg.Connection[Any], name: str) -> int:
    """The number of the store of this name. Raises IntegrationError (bad_data)."""
    row = connection.execute("SELECT id FROM stores WHERE name = %s", (name,)).fetchone()
    if row is None:
        names = [known for (known,) in connection.execute("SELECT name FROM stores")]
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"no store is named {name!r}{did_you_mean(name, names)} (`bg-pipelines stores list` shows all)",
            source="stores",
        )
    return int(row[0])


def find_customer(connection: psycopg.Connection[Any], store: str, customer_id: str) -> tuple[int, str]:
    """The store's number, and the whole id of its customer who has this id or whose id ends in `/` and this.

    Raises IntegrationError (bad_data).
    """
    store_id = find_store(connection, store)
    for condition in ("external_id = %s", "right(external_id, length(%s) + 1) = '/' || %s"):
        parameters = (store_id, *[customer_id] * condition.count("%s"))
        found = connection.execute(
            f"SELECT external_id FROM customers WHERE store_id = %s AND {condition} LIMIT 2",  # noqa: S608
            parameters,
        ).fetchall()
        if len(found) == 1:
            return store_id, found[0][0]
    raise IntegrationError.of(
        ErrorType.BAD_DATA,
        f"customer {customer_id!r}: store {store} has none with this id, or more than one; give the id as the platform "
        "writes it, for Shopify like gid://shopify/Customer/1234",
        source="customers",
    )


def find_product(connection: psycopg.Connection[Any], store: str, product: str) -> tuple[int, str]:
    """The store's number, and the whole id of its product that has this id, its number, this handle or this title.

    Raises IntegrationError (bad_data).
    """
    store_id = find_store(connection, store)
    conditions = (
        "external_id = %(text)s",
        "right(external_id, length(%(text)s) + 1) = '/' || %(text)s",
        "handle = %(text)s",
        "lower(title) = lower(%(text)s)",
    )
    found = _first(connection, "products", conditions, {"store": store_id, "text": product})
    if found is None:
        titles = [
            title
            for (title,) in connection.execute(
                "SELECT title FROM products WHERE store_id = %s AND deleted_at IS NULL ORDER BY title LIMIT 1000",
                (store_id,),
            )
        ]
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"product {product!r}: store {store} has none with this id, handle or title, or more than one"
            f"{did_you_mean(product, titles)}",
            source="products",
        )
    return store_id, found


def find_variant(
    connection: psycopg.Connection[Any], store: str, product: str | None, variant: str | None
) -> tuple[int, str, str]:
    """The store's number, the product's id and its variant's: by id, its number or its SKU, or the product's only one.

    Raises IntegrationError (bad_data).
    """
    if product is not None:
        store_id, product_id = find_product(connection, store, product)
    else:
        store_id, product_id = find_store(connection, store), None
    parameters = {"store": store_id, "text": variant or "", "product": product_id}
    of = "(%(product)s::text IS NULL OR product_external_id = %(product)s)"
    conditions = (
        f"{of} AND external_id = %(text)s",
        f"{of} AND right(external_id, length(%(text)s) + 1) = '/' || %(text)s",
        f"{of} AND sku = %(text)s",
    )
    only = (f"{of} AND %(product)s::text IS NOT NULL",)
    found = _first(connection, "product_variants", only if variant is None else conditions, parameters)
    if found is None:
        what = f"variant {variant!r}" if variant is not None else f"product {product!r}"
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"{what}: store {store} has none, or several; name one variant by its id or its SKU",
            source="products",
        )
    row = connection.execute(
        "SELECT product_external_id FROM product_variants WHERE store_id = %s AND external_id = %s",
        (store_id, found),
    ).fetchone()
    assert row is not None
    return store_id, row[0], found


def _first(
    connection: psycopg.Connection[Any], table: str, conditions: Sequence[str], parameters: dict[str, Any]
) -> str | None:
    """The only row that is not deleted of the first condition that finds any."""
    for condition in conditions:
        found = connection.execute(
            f"SELECT external_id FROM {table} WHERE store_id = %(store)s AND deleted_at IS NULL AND {condition} LIMIT 2",  # noqa: S608
            parameters,
        ).fetchall()
        if found:
            return found[0][0] if len(found) == 1 else None
    return None
