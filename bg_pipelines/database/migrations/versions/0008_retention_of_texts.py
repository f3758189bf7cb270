"""Indexes by which retention finds old text messages and replies."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_text_messages_created_at"), "text_messages", ["created_at"], unique=False)
    op.create_index(op.f("ix_text_replies_received_at"), "text_replies", ["received_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_text_replies_received_at"), table_name="text_replies")
    op.drop_index(op.f("ix_text_messages_created_at"), table_name="text_messages")
