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
    # Behind what most visits write: of a row, PostgreSQL logs all between the first and the last byte that have changed.
    op.execute("ALTER TABLE sync_states ADD COLUMN moved jsonb NOT NULL DEFAULT '{}'")
    op.execute("UPDATE sync_states SET moved = cursor")
    op.execute("ALTER TABLE sync_states DROP COLUMN cursor")
    op.execute("ALTER TABLE sync_states RENAME COLUMN moved TO cursor")
    op.execute("COMMENT ON COLUMN sync_states.cursor IS 'see sync/state.py'")
    # Room on each page for the next version of a row, which most visits write: then no index knows of it.
    op.execute("ALTER TABLE sync_states SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)")
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
    op.execute("ALTER TABLE sync_states RESET (fillfactor, autovacuum_vacuum_scale_factor)")
    op.execute("DROP INDEX ix_sync_attempts_running")
