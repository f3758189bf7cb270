"""Cleaning: states of carts, reservations, sessions, what cleaning does and has done, and indexes that retention uses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SELLABLE_STOCK = """
    CREATE VIEW sellable_stock AS
    SELECT l.store_id, l.inventory_item_external_id, l.location_external_id, l.available, coalesce(held.reserved, 0) AS reserved,
        l.available - coalesce(held.reserved, 0) AS sellable
    FROM inventory_levels l
    LEFT JOIN LATERAL (SELECT sum(r.quantity) AS reserved FROM inventory_reservations r WHERE r.store_id = l.store_id
        AND r.inventory_item_external_id = l.inventory_item_external_id
        AND r.location_external_id = l.location_external_id) held ON true
    WHERE l.deleted_at IS NULL
"""


def upgrade() -> None:
    op.create_table(
        "archived_rows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archived_rows")),
    )
    op.create_index(op.f("ix_archived_rows_expires_at"), "archived_rows", ["expires_at"], unique=False)
    op.create_index(
        op.f("ix_archived_rows_task_archived_at"), "archived_rows", ["task", "archived_at"], unique=False
    )
    op.create_table(
        "cart_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("cart_external_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("happened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('cart.abandoned')", name=op.f("ck_cart_events_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cart_events")),
    )
    op.create_index(op.f("ix_cart_events_happened_at"), "cart_events", ["happened_at"], unique=False)
    op.create_index(
        op.f("ix_cart_events_store_id_cart_external_id"),
        "cart_events",
        ["store_id", "cart_external_id"],
        unique=False,
    )
    op.create_table(
        "cart_rules",
        sa.Column("store_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("abandon", sa.Interval(), nullable=True, comment="without activity for so long: abandoned"),
        sa.Column("anonymous", sa.Interval(), nullable=True, comment="without activity for so long: deleted"),
        sa.Column("customer", sa.Interval(), nullable=True),
        sa.Column("empty", sa.Interval(), nullable=True),
        sa.Column("bought", sa.Interval(), nullable=True),
        sa.Column(
            "archive", sa.Interval(), nullable=True, comment="how long deleted carts are kept archived"
        ),
        sa.PrimaryKeyConstraint("store_id", name=op.f("pk_cart_rules")),
    )
    op.create_table(
        "cleaning_results",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed", sa.Boolean(), nullable=False, comment="false: the rest is the next run's"),
        sa.Column(
            "rows_freed", sa.BigInteger(), server_default="0", nullable=False, comment="of all its tables"
        ),
        sa.Column(
            "bytes_freed",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="of those rows, without their index entries",
        ),
        sa.Column("batches", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "set_aside",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="rows that could not be deleted",
        ),
        sa.Column(
            "figures",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="rows and bytes by table",
        ),
        sa.Column(
            "pauses",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="seconds by reason",
        ),
        sa.Column(
            "advice",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="what a person may want to do",
        ),
        sa.PrimaryKeyConstraint("run_id", "task", name=op.f("pk_cleaning_results")),
    )
    op.create_index(
        op.f("ix_cleaning_results_finished_at"), "cleaning_results", ["finished_at"], unique=False
    )
    op.create_index(
        op.f("ix_cleaning_results_task_finished_at"),
        "cleaning_results",
        ["task", "finished_at"],
        unique=False,
    )
    op.create_table(
        "cleaning_set_aside",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="the row's key, as text"),
        sa.Column("reason", sa.Text(), nullable=False, comment="without personal data"),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("task", "key", name=op.f("pk_cleaning_set_aside")),
    )
    op.create_table(
        "inventory_reservations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("cart_external_id", sa.Text(), nullable=False),
        sa.Column("inventory_item_external_id", sa.Text(), nullable=False),
        sa.Column("location_external_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(precision=19, scale=5), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "quantity > 0 AND quantity <> 'NaN'", name=op.f("ck_inventory_reservations_quantity")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inventory_reservations")),
    )
    op.create_index(
        op.f("ix_inventory_reservations_store_id_cart_external_id"),
        "inventory_reservations",
        ["store_id", "cart_external_id"],
        unique=False,
    )
    op.create_index(
        "ix_inventory_reservations_item",
        "inventory_reservations",
        ["store_id", "inventory_item_external_id", "location_external_id"],
        unique=False,
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False, comment="a digest of the token, better than the token"),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_external_id", sa.Text(), nullable=True, comment="null: nobody is logged in"),
        sa.Column("cart_external_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="its last activity",
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index(
        op.f("ix_sessions_store_id_customer_external_id"),
        "sessions",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_table(
        "cleaning_tasks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column(
            "place",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="of an unfinished pass: see cleaning/batches.py",
        ),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True, comment="null: it is not paused"),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the end of its last whole pass",
        ),
        sa.Column(
            "next_due_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="null: parked under incident_id, or finished",
        ),
        sa.Column("lease_owner", sa.Text(), nullable=True, comment="one claim of one run"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="failures since the last success or progress",
        ),
        sa.Column(
            "last_error",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="the last failure, without personal data",
        ),
        sa.Column(
            "retry_strategy", sa.Text(), nullable=True, comment="what was decided about the last failure"
        ),
        sa.Column("retry_reason", sa.Text(), nullable=True, comment="and why"),
        sa.Column("incident_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "retry_strategy IN ('exponential_backoff', 'scheduled_retry', 'manual_intervention')",
            name=op.f("ck_cleaning_tasks_retry_strategy"),
        ),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("fk_cleaning_tasks_incident_id_incidents")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cleaning_tasks")),
    )
    op.create_index(
        op.f("ix_cleaning_tasks_incident_id"),
        "cleaning_tasks",
        ["incident_id"],
        unique=False,
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.create_index(op.f("ix_cleaning_tasks_job"), "cleaning_tasks", ["job"], unique=False)
    op.create_index(
        op.f("ix_cart_items_deleted_at"),
        "cart_items",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.add_column(
        "carts",
        sa.Column(
            "payment_state",
            sa.Text(),
            server_default="none",
            nullable=False,
            comment="pending, authorised and paid: money is in it, and it is never deleted; settled: an order has it",
        ),
    )
    op.add_column(
        "carts",
        sa.Column(
            "abandoned_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when clean_active_carts found it abandoned; of no account once source_updated_at is later",
        ),
    )
    op.create_index(
        op.f("ix_carts_deleted_at"),
        "carts",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_customer_changes_changed_at"), "customer_changes", ["changed_at"], unique=False)
    op.create_index(
        op.f("ix_customers_deleted_at"),
        "customers",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_incidents_resolved_at"),
        "incidents",
        ["resolved_at"],
        unique=False,
        postgresql_where=sa.text("resolved_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_inventory_corrections_created_at"), "inventory_corrections", ["created_at"], unique=False
    )
    op.create_index(
        op.f("ix_inventory_levels_deleted_at"),
        "inventory_levels",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_locations_deleted_at"),
        "locations",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_order_lines_deleted_at"),
        "order_lines",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_orders_deleted_at"),
        "orders",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_product_variants_deleted_at"),
        "product_variants",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_products_deleted_at"),
        "products",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_refunds_deleted_at"),
        "refunds",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_rejected_rows_last_seen_at"), "rejected_rows", ["last_seen_at"], unique=False)
    op.create_index(op.f("ix_webhook_coverage_hour"), "webhook_coverage", ["hour"], unique=False)
    op.create_index(
        op.f("ix_webhook_subscriptions_deleted_at"),
        "webhook_subscriptions",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_check_constraint(
        op.f("ck_carts_payment_state"),
        "carts",
        "payment_state IN ('none', 'pending', 'authorised', 'paid', 'settled')",
    )
    op.create_index(
        "ix_carts_money",
        "carts",
        ["store_id", "source_updated_at"],
        unique=False,
        postgresql_where=sa.text("payment_state IN ('pending', 'authorised', 'paid')"),
    )
    op.execute(SELLABLE_STOCK)


def downgrade() -> None:
    op.execute("DROP VIEW sellable_stock")
    op.drop_index("ix_carts_money", table_name="carts")
    op.drop_constraint(op.f("ck_carts_payment_state"), "carts", type_="check")
    op.drop_index(
        op.f("ix_webhook_subscriptions_deleted_at"),
        table_name="webhook_subscriptions",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(op.f("ix_webhook_coverage_hour"), table_name="webhook_coverage")
    op.drop_index(op.f("ix_rejected_rows_last_seen_at"), table_name="rejected_rows")
    op.drop_index(
        op.f("ix_refunds_deleted_at"),
        table_name="refunds",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_products_deleted_at"),
        table_name="products",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_product_variants_deleted_at"),
        table_name="product_variants",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_orders_deleted_at"), table_name="orders", postgresql_where=sa.text("deleted_at IS NOT NULL")
    )
    op.drop_index(
        op.f("ix_order_lines_deleted_at"),
        table_name="order_lines",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_locations_deleted_at"),
        table_name="locations",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_inventory_levels_deleted_at"),
        table_name="inventory_levels",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(op.f("ix_inventory_corrections_created_at"), table_name="inventory_corrections")
    op.drop_index(
        op.f("ix_incidents_resolved_at"),
        table_name="incidents",
        postgresql_where=sa.text("resolved_at IS NOT NULL"),
    )
    op.drop_index(
        op.f("ix_customers_deleted_at"),
        table_name="customers",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(op.f("ix_customer_changes_changed_at"), table_name="customer_changes")
    op.drop_index(
        op.f("ix_carts_deleted_at"), table_name="carts", postgresql_where=sa.text("deleted_at IS NOT NULL")
    )
    op.drop_column("carts", "abandoned_at")
    op.drop_column("carts", "payment_state")
    op.drop_index(
        op.f("ix_cart_items_deleted_at"),
        table_name="cart_items",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index(op.f("ix_cleaning_tasks_job"), table_name="cleaning_tasks")
    op.drop_index(
        op.f("ix_cleaning_tasks_incident_id"),
        table_name="cleaning_tasks",
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.drop_table("cleaning_tasks")
    op.drop_index(op.f("ix_sessions_store_id_customer_external_id"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_index(
        "ix_inventory_reservations_item",
        table_name="inventory_reservations",
    )
    op.drop_index(
        op.f("ix_inventory_reservations_store_id_cart_external_id"), table_name="inventory_reservations"
    )
    op.drop_table("inventory_reservations")
    op.drop_table("cleaning_set_aside")
    op.drop_index(op.f("ix_cleaning_results_task_finished_at"), table_name="cleaning_results")
    op.drop_index(op.f("ix_cleaning_results_finished_at"), table_name="cleaning_results")
    op.drop_table("cleaning_results")
    op.drop_table("cart_rules")
    op.drop_index(op.f("ix_cart_events_store_id_cart_external_id"), table_name="cart_events")
    op.drop_index(op.f("ix_cart_events_happened_at"), table_name="cart_events")
    op.drop_table("cart_events")
    op.drop_index(op.f("ix_archived_rows_task_archived_at"), table_name="archived_rows")
    op.drop_index(op.f("ix_archived_rows_expires_at"), table_name="archived_rows")
    op.drop_table("archived_rows")
