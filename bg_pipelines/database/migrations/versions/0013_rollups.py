"""Rollups of attempts and of how late changes were, by hour: what is shown is added up from them, however many attempts there are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COUNTS = ARRAY(sa.BigInteger)


def upgrade() -> None:
    op.create_table(
        "sync_rollups",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "failed",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="those that a dead worker abandoned as well",
        ),
        sa.Column(
            "idle",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="visits that found nothing new, of which there is no attempt",
        ),
        sa.Column("rows_written", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "durations",
            COUNTS,
            server_default="{}",
            nullable=False,
            comment="of those that succeeded, by `work.rollups.DURATIONS`",
        ),
        sa.Column(
            "lags",
            COUNTS,
            server_default="{}",
            nullable=False,
            comment="changed rows by the time from their change to our commit, by `work.rollups.LAGS`",
        ),
        sa.Column(
            "lag_seconds", sa.Double(), server_default="0", nullable=False, comment="of these together"
        ),
        sa.Column("until", sa.DateTime(timezone=True), comment="attempts that ended before are in it"),
        sa.PrimaryKeyConstraint("hour", "job", "resource", "tier", name=op.f("pk_sync_rollups")),
    )
    op.add_column(
        "sync_attempts",
        sa.Column("lags", COUNTS, comment="changed rows by how late they were, by `work.rollups.LAGS`"),
    )
    op.add_column("sync_attempts", sa.Column("lag_seconds", sa.Double(), comment="of these together"))
    op.create_index(op.f("ix_sync_attempts_finished_at"), "sync_attempts", ["finished_at"])
    op.add_column(
        "sync_states",
        sa.Column(
            "last_change_at",
            sa.DateTime(timezone=True),
            comment="when the newest change that was loaded happened at the source",
        ),
    )
    op.add_column(
        "sync_states", sa.Column("last_change_lag", sa.Interval(), comment="from then to our commit")
    )


def downgrade() -> None:
    op.drop_column("sync_states", "last_change_lag")
    op.drop_column("sync_states", "last_change_at")
    op.drop_index(op.f("ix_sync_attempts_finished_at"), table_name="sync_attempts")
    op.drop_column("sync_attempts", "lag_seconds")
    op.drop_column("sync_attempts", "lags")
    op.drop_table("sync_rollups")
