"""Orders, spend and last visit of a person, and reports over all. They come from views and are never stale.

`person_orders` and `person_totals` (migration 0003) say what counts; docs/people.md explains it. Amounts are
decimals and never added up over currencies; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from bg_pipelines.database.engine import Database

if TYPE_CHECKING:
    import pandas as pd

ORDER_COLUMNS = (
    "ordered_at", "store", "order_external_id", "name", "channel", "status", "is_return", "currency", "total", "spent",
    "refunded", "net", "is_visit",
)  # fmt: skip
TOTAL_COLUMNS = (
    "person_id", "currency", "orders", "spent", "refunded", "net", "first_order_at", "last_order_at", "stores",
    "last_visit_at",
)  # fmt: skip


class Total(NamedTuple):
    """What a person bought in one currency. `orders` are sales, not cancelled; `net` is spent less refunded."""

    currency: str
    orders: int
    spent: Decimal
    refunded: Decimal
    net: Decimal
    first_order_at: datetime | None
    last_order_at: datetime | None
    stores: int


def totals(database: Database, person_id: int) -> list[Total]:
    """A person's totals, one for each currency, what they spent most in first. The last visit is the newest of them."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT currency, orders, spent, refunded, net, first_order_at, last_order_at, stores "
            "FROM person_totals WHERE person_id = %s ORDER BY orders DESC, currency",
            (person_id,),
        ).fetchall()
    return [Total(*row) for row in rows]


def history(database: Database, person_id: int, *, newest: int | None = None) -> pd.DataFrame:
    """Every order of a person (or the `newest` ones), the newest first: `ORDER_COLUMNS` of `person_orders`."""
    return _frame(
        database,
        ORDER_COLUMNS,
        f"SELECT {', '.join(ORDER_COLUMNS)} FROM person_orders WHERE person_id = %(person)s "  # noqa: S608
        "ORDER BY ordered_at DESC, store_id, order_external_id LIMIT %(newest)s",
        {"person": person_id, "newest": newest},
    )


def report(
    database: Database,
    *,
    currency: str | None = None,
    top: int | None = None,
    lapsed_days: int | None = None,
    as_of: datetime | None = None,
) -> pd.DataFrame:
    """Who spent most, by currency: `TOTAL_COLUMNS`, average order, days since the last visit, and rank by net.

    `top`: only so many of each currency. `lapsed_days`: only those whose last visit, in whatever currency and store,
    was longer ago, seen from `as_of` (now). Persons who never bought anything are not in it.
    """
    # Only what is shown leaves PostgreSQL: the other persons may be many.
    frame = _frame(
        database,
        (*TOTAL_COLUMNS, "as_of", "rank"),
        f"SELECT {', '.join(TOTAL_COLUMNS)}, as_of, rank FROM ("  # noqa: S608
        "  SELECT *, row_number() OVER (PARTITION BY currency ORDER BY net DESC, person_id) AS rank FROM ("
        "    SELECT *, max(last_order_at) OVER (PARTITION BY person_id) AS last_visit_at, "
        "    coalesce(%(as_of)s::timestamptz, now()) AS as_of FROM person_totals) AS visited "
        "  WHERE last_visit_at IS NOT NULL AND (%(currency)s::text IS NULL OR currency = %(currency)s) "
        "  AND (%(lapsed)s::bigint IS NULL OR extract(epoch FROM as_of - last_visit_at) >= %(lapsed)s * 86400.0)"
        ") AS ranked "
        "WHERE %(top)s::bigint IS NULL OR rank <= %(top)s ORDER BY currency, rank",
        {"currency": currency, "as_of": as_of, "lapsed": lapsed_days, "top": top},
    )
    frame["average"] = [
        round(spent / orders, 2) if orders else None
        for spent, orders in zip(frame["spent"], frame["orders"], strict=True)
    ]
    frame["days_since"] = (frame.pop("as_of") - frame["last_visit_at"]).dt.days
    frame["rank"] = frame.pop("rank")
    return frame


def _frame(
    database: Database, columns: tuple[str, ...], statement: str, parameters: dict[str, Any]
) -> pd.DataFrame:
    import pandas as pd  # here: half a second and 40 MB that no job has a use for

    with database.transaction() as connection:
        rows = connection.execute(statement, parameters).fetchall()
    frame = pd.DataFrame(rows, columns=list(columns))
    for column in columns:
        # An empty frame has the same types as a full one.
        if column.endswith("_at") or column == "as_of":
            frame[column] = pd.to_datetime(frame[column], utc=True).dt.as_unit("us")
    return frame
