"""Visits that find nothing new, and full passes that confirm what is held, write next to nothing."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A visit no longer reads the whole history of a unit.
    op.execute(
        "CREATE INDEX ix_sync_attempts_running ON sync_attempts (store_id, resource) WHERE status = 'running'"
    )
    op.execute("""
        CREATE UNLOGGED TABLE confirmed_rows (
            store_id bigint NOT NULL,
            resource text NOT NULL,
            external_id text NOT NULL,
            confirmed_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_confirmed_rows PRIMARY KEY (store_id, resource, external_id)
        )""")


def downgrade() -> None:
    op.execute("DROP TABLE confirmed_rows")
    op.execute("DROP INDEX ix_sync_attempts_running")
