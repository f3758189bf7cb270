"""Stores, stock, sync states"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "inventory_levels",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("inventory_item_external_id", sa.Text(), nullable=False),
        sa.Column("location_external_id", sa.Text(), nullable=False),
        sa.Column("available", sa.Integer(), nullable=False),
        sa.Column("on_hand", sa.Integer(), nullable=False),
        sa.Column("committed", sa.Integer(), nullable=False),
        sa.Column("incoming", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_inventory_levels")),
    )
    op.create_index(
        op.f("ix_inventory_levels_store_id_inventory_item_external_id"),
        "inventory_levels",
        ["store_id", "inventory_item_external_id"],
        unique=False,
    )
    op.create_table(
        "locations",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("fulfills_online_orders", sa.Boolean(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("city", sa.Text(), nullable=True),
        sa.Column("province_code", sa.Text(), nullable=True),
        sa.Column("country_code", sa.Text(), nullable=True),
        sa.Column("postal_code", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_locations")),
    )
    op.create_table(
        "product_variants",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("product_external_id", sa.Text(), nullable=False),
        sa.Column("inventory_item_external_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=True),
        sa.Column("barcode", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("price", sa.Numeric(precision=19, scale=4), nullable=False),
        sa.Column("compare_at_price", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False, comment="ISO 4217 code of both prices"),
        sa.CheckConstraint(
            "compare_at_price >= 0 AND compare_at_price <> 'NaN'",
            name=op.f("ck_product_variants_compare_at_price"),
        ),
        sa.CheckConstraint("price >= 0 AND price <> 'NaN'", name=op.f("ck_product_variants_price")),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_product_variants")),
    )
    op.create_index(
        op.f("ix_product_variants_store_id_inventory_item_external_id"),
        "product_variants",
        ["store_id", "inventory_item_external_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_product_variants_store_id_product_external_id"),
        "product_variants",
        ["store_id", "product_external_id"],
        unique=False,
    )
    op.create_table(
        "products",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("product_type", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("source_created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_products")),
    )
    op.create_table(
        "stores",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("api_url", sa.Text(), nullable=True, comment="base URL of the API; null: https://DOMAIN"),
        sa.Column("tier", sa.SmallInteger(), server_default="2", nullable=False),
        sa.Column(
            "credentials", sa.LargeBinary(), nullable=False, comment="encrypted JSON, see database/secrets.py"
        ),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("shop_name", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("tier BETWEEN 1 AND 3", name=op.f("ck_stores_tier")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stores")),
        sa.UniqueConstraint("name", name=op.f("uq_stores_name")),
        sa.UniqueConstraint("platform", "domain", name=op.f("uq_stores_platform_domain")),
    )
    op.create_table(
        "inventory_corrections",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("inventory_item_external_id", sa.Text(), nullable=False),
        sa.Column("location_external_id", sa.Text(), nullable=False),
        sa.Column(
            "change_from_quantity",
            sa.Integer(),
            nullable=False,
            comment="what `available` was when it was counted",
        ),
        sa.Column("quantity", sa.Integer(), nullable=False, comment="what `available` is to be"),
        sa.Column("reason", sa.Text(), server_default="correction", nullable=False),
        sa.Column(
            "idempotency_key", sa.Text(), server_default=sa.text("gen_random_uuid()::text"), nullable=False
        ),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("found_quantity", sa.Integer(), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'applied', 'stale', 'rejected')",
            name=op.f("ck_inventory_corrections_status"),
        ),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_inventory_corrections_quantity")),
        sa.ForeignKeyConstraint(
            ["store_id"], ["stores.id"], name=op.f("fk_inventory_corrections_store_id_stores")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inventory_corrections")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_inventory_corrections_idempotency_key")),
    )
    op.create_index(
        op.f("ix_inventory_corrections_store_id_id"),
        "inventory_corrections",
        ["store_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "rejected_rows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column(
            "external_id",
            sa.Text(),
            nullable=False,
            comment="the vendor's id; a digest of the row where it has none",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "payload",
            sa.LargeBinary(),
            nullable=False,
            comment="the source row, encrypted: it may hold personal data",
        ),
        sa.Column("times_seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_rejected_rows_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejected_rows")),
        sa.UniqueConstraint(
            "store_id", "resource", "external_id", name=op.f("uq_rejected_rows_store_id_resource_external_id")
        ),
    )
    op.create_table(
        "sync_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("full_pass", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pages", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rows_read", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("inserted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unchanged", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("deleted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'released', 'abandoned')",
            name=op.f("ck_sync_attempts_status"),
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_sync_attempts_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_attempts")),
    )
    op.create_index(op.f("ix_sync_attempts_run_id"), "sync_attempts", ["run_id"], unique=False)
    op.create_index(op.f("ix_sync_attempts_started_at"), "sync_attempts", ["started_at"], unique=False)
    op.create_index(
        op.f("ix_sync_attempts_store_id_resource_started_at"),
        "sync_attempts",
        ["store_id", "resource", "started_at"],
        unique=False,
    )
    op.create_table(
        "sync_states",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True, comment="one claim of one run"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="failures since the last success",
        ),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("last_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("last_succeeded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_full_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_sync_states_store_id_stores")),
        sa.PrimaryKeyConstraint("store_id", "resource", name=op.f("pk_sync_states")),
    )
    op.create_index(
        op.f("ix_sync_states_next_due_at_store_id"), "sync_states", ["next_due_at", "store_id"], unique=False
    )


def downgrade() -> None:

    op.drop_index(op.f("ix_sync_states_next_due_at_store_id"), table_name="sync_states")
    op.drop_table("sync_states")
    op.drop_index(op.f("ix_sync_attempts_store_id_resource_started_at"), table_name="sync_attempts")
    op.drop_index(op.f("ix_sync_attempts_started_at"), table_name="sync_attempts")
    op.drop_index(op.f("ix_sync_attempts_run_id"), table_name="sync_attempts")
    op.drop_table("sync_attempts")
    op.drop_table("rejected_rows")
    op.drop_index(
        op.f("ix_inventory_corrections_store_id_id"),
        table_name="inventory_corrections",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_table("inventory_corrections")
    op.drop_table("stores")
    op.drop_table("products")
    op.drop_index(op.f("ix_product_variants_store_id_product_external_id"), table_name="product_variants")
    op.drop_index(
        op.f("ix_product_variants_store_id_inventory_item_external_id"), table_name="product_variants"
    )
    op.drop_table("product_variants")
    op.drop_table("locations")
    op.drop_index(
        op.f("ix_inventory_levels_store_id_inventory_item_external_id"), table_name="inventory_levels"
    )
    op.drop_table("inventory_levels")
