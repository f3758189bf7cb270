"""Attempts at work are found by their unit while they run: every other visit no longer reads a unit's whole history."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX ix_sync_attempts_running ON sync_attempts (store_id, resource) WHERE status = 'running'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX ix_sync_attempts_running")
