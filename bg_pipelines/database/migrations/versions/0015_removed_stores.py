"""Stores that are removed with all but their orders: a kind of request of its own."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

NAME = op.f("ck_data_requests_kind")


def upgrade() -> None:
    _allow("export", "erase_customer", "erase_store", "erase_store_but_orders")


def downgrade() -> None:
    op.execute("UPDATE data_requests SET kind = 'erase_store' WHERE kind = 'erase_store_but_orders'")
    _allow("export", "erase_customer", "erase_store")


def _allow(*kinds: str) -> None:
    op.drop_constraint(NAME, "data_requests", type_="check")
    op.create_check_constraint(NAME, "data_requests", f"kind IN {kinds}")
