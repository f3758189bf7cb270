"""What is still sold of an order, beside its total as sold: the spend of a person goes by it.

And names that read the same are the same from now on: whoever may have another key for it is matched again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

VIEW = """
    CREATE OR REPLACE VIEW person_orders AS
    SELECT p.person_id, o.store_id, s.name AS store, o.external_id AS order_external_id, o.name, o.channel,
        o.ordered_at, o.status, o.is_return, o.currency, o.total,
        -- Nothing was bought by a return, nor by what was cancelled.
        CASE WHEN counts.sale THEN o.total ELSE 0 END AS spent,
        r.refunded,
        -- What staff took off an order before it was paid, or what came back on account, was never paid back.
        CASE WHEN counts.sale THEN least(o.total - r.refunded, o.current_total)
            WHEN counts.money THEN -r.refunded ELSE 0 END AS net,
        counts.sale AS is_visit
    FROM person_customers p
    JOIN orders o ON o.store_id = p.store_id AND o.customer_external_id = p.customer_external_id
    JOIN stores s ON s.id = o.store_id
    CROSS JOIN LATERAL (SELECT
        NOT o.is_return AND o.status <> 'cancelled' AND o.cancelled_at IS NULL AS sale,
        -- What was paid back of a cancelled order was never counted as spent.
        o.is_return OR (o.status <> 'cancelled' AND o.cancelled_at IS NULL) AS money) counts
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0)::numeric(19, 4) AS refunded FROM (
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.sale_external_id = o.external_id AND f.deleted_at IS NULL
            UNION ALL
            -- A refund whose sale is unknown to us stands with the order that records it.
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.order_external_id = o.external_id AND f.deleted_at IS NULL
            AND f.sale_external_id IS DISTINCT FROM o.external_id
            AND NOT EXISTS (SELECT FROM orders sale WHERE sale.store_id = f.store_id
                AND sale.external_id = f.sale_external_id AND sale.deleted_at IS NULL)
        ) AS paid_back) r
    WHERE o.deleted_at IS NULL AND NOT o.is_test;
"""
BEFORE = """
    CREATE OR REPLACE VIEW person_orders AS
    SELECT p.person_id, o.store_id, s.name AS store, o.external_id AS order_external_id, o.name, o.channel,
        o.ordered_at, o.status, o.is_return, o.currency, o.total,
        -- Nothing was bought by a return, nor by what was cancelled.
        CASE WHEN counts.sale THEN o.total ELSE 0 END AS spent,
        r.refunded,
        CASE WHEN counts.money THEN CASE WHEN counts.sale THEN o.total ELSE 0 END - r.refunded ELSE 0 END AS net,
        counts.sale AS is_visit
    FROM person_customers p
    JOIN orders o ON o.store_id = p.store_id AND o.customer_external_id = p.customer_external_id
    JOIN stores s ON s.id = o.store_id
    CROSS JOIN LATERAL (SELECT
        NOT o.is_return AND o.status <> 'cancelled' AND o.cancelled_at IS NULL AS sale,
        -- What was paid back of a cancelled order was never counted as spent.
        o.is_return OR (o.status <> 'cancelled' AND o.cancelled_at IS NULL) AS money) counts
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0)::numeric(19, 4) AS refunded FROM (
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.sale_external_id = o.external_id AND f.deleted_at IS NULL
            UNION ALL
            -- A refund whose sale is unknown to us stands with the order that records it.
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.order_external_id = o.external_id AND f.deleted_at IS NULL
            AND f.sale_external_id IS DISTINCT FROM o.external_id
            AND NOT EXISTS (SELECT FROM orders sale WHERE sale.store_id = f.store_id
                AND sale.external_id = f.sale_external_id AND sale.deleted_at IS NULL)
        ) AS paid_back) r
    WHERE o.deleted_at IS NULL AND NOT o.is_test;
"""


def upgrade() -> None:
    op.add_column(
        "orders",
        sa.Column(
            "current_total",
            sa.Numeric(19, 4),
            nullable=True,
            comment="what is still sold of it, after edits and returns, paid back or not; null: the platform does not tell",
        ),
    )
    op.create_check_constraint(op.f("ck_orders_current_total"), "orders", "current_total <> 'NaN'")
    op.execute(VIEW)
    op.execute(
        "INSERT INTO people_queue (store_id, customer_external_id) SELECT store_id, external_id FROM customers "
        "WHERE deleted_at IS NULL AND (concat(first_name, last_name, company, email) ~ '[^[:ascii:]]' "
        "OR position('`' IN concat(first_name, last_name, company)) > 0)"
    )


def downgrade() -> None:
    op.execute(BEFORE)
    op.drop_constraint(op.f("ck_orders_current_total"), "orders", type_="check")
    op.drop_column("orders", "current_total")
