"""Webhooks: subscriptions, the inbox, what events told of, carts, and what platforms ask for by law."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cart_items",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cart_external_id", sa.Text(), nullable=False),
        sa.Column("product_external_id", sa.Text(), nullable=True),
        sa.Column("variant_external_id", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=True),
        sa.Column("quantity", sa.Numeric(precision=19, scale=5), nullable=False),
        sa.Column("unit_price", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("total", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.CheckConstraint("quantity <> 'NaN'", name=op.f("ck_cart_items_quantity")),
        sa.CheckConstraint("unit_price <> 'NaN' AND total <> 'NaN'", name=op.f("ck_cart_items_amounts")),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_cart_items")),
    )
    op.create_index(
        op.f("ix_cart_items_store_id_cart_external_id"),
        "cart_items",
        ["store_id", "cart_external_id"],
        unique=False,
    )
    op.create_table(
        "carts",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("customer_external_id", sa.Text(), nullable=True, comment="null: anonymous"),
        sa.Column(
            "checkout_external_id", sa.Text(), nullable=True, comment="the token of the checkout it went into"
        ),
        sa.Column("order_external_id", sa.Text(), nullable=True, comment="the order it became"),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("total", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True, comment="E.164"),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when its checkout was completed",
        ),
        sa.Column("source_created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "cart_updated_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when what it holds last changed; null: only its checkout is known",
        ),
        sa.Column(
            "checkout_updated_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when its checkout last changed",
        ),
        sa.CheckConstraint("total <> 'NaN'", name=op.f("ck_carts_total")),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_carts")),
    )
    op.create_index(
        "ix_carts_checkout",
        "carts",
        ["store_id", "checkout_external_id"],
        unique=False,
        postgresql_where=sa.text("checkout_external_id IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_carts_store_id_customer_external_id"),
        "carts",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_index(
        "ix_orders_email",
        "orders",
        ["store_id", sa.literal_column("lower(email)")],
        unique=False,
        postgresql_where=sa.text("customer_external_id IS NULL AND email IS NOT NULL"),
    )
    op.create_index(
        "ix_orders_phone",
        "orders",
        ["store_id", "phone"],
        unique=False,
        postgresql_where=sa.text("customer_external_id IS NULL AND phone IS NOT NULL"),
    )
    op.create_index(
        "ix_carts_email",
        "carts",
        ["store_id", sa.literal_column("lower(email)")],
        unique=False,
        postgresql_where=sa.text("customer_external_id IS NULL AND email IS NOT NULL"),
    )
    op.create_index(
        "ix_carts_phone",
        "carts",
        ["store_id", "phone"],
        unique=False,
        postgresql_where=sa.text("customer_external_id IS NULL AND phone IS NOT NULL"),
    )
    op.create_table(
        "webhook_subscriptions",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "topics",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="as the platform's deliveries name them",
        ),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column(
            "include_fields", postgresql.ARRAY(sa.Text()), nullable=True, comment="null: whole payloads"
        ),
        sa.Column("filter", sa.Text(), nullable=True),
        sa.Column(
            "signature_key",
            sa.LargeBinary(),
            nullable=True,
            comment="encrypted: what signs its deliveries, where that is its own",
        ),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_webhook_subscriptions")),
    )
    op.create_table(
        "data_requests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("customer_external_id", sa.Text(), nullable=True),
        sa.Column(
            "external_id",
            sa.Text(),
            nullable=True,
            comment="the platform's id of the request, where it has one",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), nullable=False, comment="by when the law wants it done"
        ),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_by", sa.Text(), nullable=True),
        sa.Column(
            "result",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="rows by table that were exported or erased",
        ),
        sa.Column("file", sa.Text(), nullable=True, comment="where the export lies: machine:path"),
        sa.Column(
            "subject",
            sa.LargeBinary(),
            nullable=True,
            comment="encrypted: by what the customer is recognised; null once it is done",
        ),
        sa.CheckConstraint(
            "kind IN ('export', 'erase_customer', 'erase_store')", name=op.f("ck_data_requests_kind")
        ),
        sa.CheckConstraint("status IN ('open', 'done')", name=op.f("ck_data_requests_status")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_data_requests_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_requests")),
    )
    op.create_index(
        op.f("ix_data_requests_status_due_at"), "data_requests", ["status", "due_at"], unique=False
    )
    op.create_index(
        op.f("ix_data_requests_store_id_customer_external_id"),
        "data_requests",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_table(
        "erased_rows",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False, comment="its table"),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_erased_rows_store_id_stores")),
        sa.PrimaryKeyConstraint("store_id", "resource", "external_id", name=op.f("pk_erased_rows")),
    )
    op.create_table(
        "webhook_coverage",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False, comment="its beginning, UTC"),
        sa.Column("told", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("untold", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["store_id"], ["stores.id"], name=op.f("fk_webhook_coverage_store_id_stores")
        ),
        sa.PrimaryKeyConstraint("store_id", "resource", "hour", name=op.f("pk_webhook_coverage")),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "store_id", sa.BigInteger(), nullable=True, comment="null: its sender names no store of ours"
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="shopify, square or twilio"),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column(
            "webhook_id",
            sa.Text(),
            nullable=False,
            comment="the sender's id of the delivery, the same when it is repeated; #2 for its second row",
        ),
        sa.Column(
            "event_id", sa.Text(), nullable=True, comment="the sender's id of what happened, where it has one"
        ),
        sa.Column("resource", sa.Text(), nullable=True, comment="what it is about: a table"),
        sa.Column("object_id", sa.Text(), nullable=True, comment="which row: its external_id"),
        sa.Column(
            "source_updated_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the row's, as the payload has it",
        ),
        sa.Column(
            "triggered_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the sender says that it happened",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True, comment="encrypted: it may hold personal data"),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="why it was not handled; without personal data"
        ),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
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
            name=op.f("ck_webhook_events_retry_strategy"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'handled', 'passed_on', 'ignored', 'not_understood')",
            name=op.f("ck_webhook_events_status"),
        ),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("fk_webhook_events_incident_id_incidents")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
        sa.UniqueConstraint(
            "store_id",
            "topic",
            "webhook_id",
            name=op.f("uq_webhook_events_store_id_topic_webhook_id"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        op.f("ix_webhook_events_incident_id"),
        "webhook_events",
        ["incident_id"],
        unique=False,
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.create_index(
        "ix_webhook_events_not_understood",
        "webhook_events",
        ["received_at"],
        unique=False,
        postgresql_where=sa.text("status = 'not_understood'"),
    )
    op.create_index(
        "ix_webhook_events_pending",
        "webhook_events",
        ["store_id", "next_due_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(op.f("ix_webhook_events_received_at"), "webhook_events", ["received_at"], unique=False)
    op.create_index(
        op.f("ix_webhook_events_store_id_resource_object_id"),
        "webhook_events",
        ["store_id", "resource", "object_id"],
        unique=False,
    )
    op.add_column(
        "stores",
        sa.Column(
            "uninstalled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the shop removed the app: paused, its credentials dropped",
        ),
    )
    op.add_column(
        "sync_states",
        sa.Column(
            "hinted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when webhook events were left to the next pass; null once one that was claimed later has succeeded",
        ),
    )
    op.alter_column(
        "stores",
        "deleted_at",
        comment="when all of it was erased: this row alone is left, and nothing runs for it",
    )
    op.execute("INSERT INTO sync_states (store_id, resource) SELECT id, 'webhooks' FROM stores")


def downgrade() -> None:
    op.execute("DELETE FROM sync_states WHERE resource = 'webhooks'")
    op.alter_column("stores", "deleted_at", comment=None)
    op.drop_column("sync_states", "hinted_at")
    op.drop_column("stores", "uninstalled_at")
    op.drop_index(op.f("ix_webhook_events_store_id_resource_object_id"), table_name="webhook_events")
    op.drop_index(op.f("ix_webhook_events_received_at"), table_name="webhook_events")
    op.drop_index(
        "ix_webhook_events_not_understood",
        table_name="webhook_events",
        postgresql_where=sa.text("status = 'not_understood'"),
    )
    op.drop_index(
        "ix_webhook_events_pending",
        table_name="webhook_events",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_index(
        op.f("ix_webhook_events_incident_id"),
        table_name="webhook_events",
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.drop_table("webhook_events")
    op.drop_table("webhook_coverage")
    op.drop_table("erased_rows")
    op.drop_index(op.f("ix_data_requests_store_id_customer_external_id"), table_name="data_requests")
    op.drop_index(op.f("ix_data_requests_status_due_at"), table_name="data_requests")
    op.drop_table("data_requests")
    op.drop_table("webhook_subscriptions")
    op.drop_index(op.f("ix_carts_store_id_customer_external_id"), table_name="carts")
    op.drop_index("ix_carts_phone", table_name="carts")
    op.drop_index("ix_orders_phone", table_name="orders")
    op.drop_index("ix_carts_email", table_name="carts")
    op.drop_index("ix_orders_email", table_name="orders")
    op.drop_index(
        "ix_carts_checkout", table_name="carts", postgresql_where=sa.text("checkout_external_id IS NOT NULL")
    )
    op.drop_table("carts")
    op.drop_index(op.f("ix_cart_items_store_id_cart_external_id"), table_name="cart_items")
    op.drop_table("cart_items")
