"""An index by which retention finds text subscriptions that have ended."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_text_subscriptions_ended_at"), "text_subscriptions", ["ended_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_text_subscriptions_ended_at"), table_name="text_subscriptions")
