"""Samples of figures, from which trends are drawn, and the host of each run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "figure_samples",
        sa.Column(
            "minutes",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="how long a time it is of",
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="when that time began"),
        sa.Column(
            "figures", JSONB(), nullable=False, comment="by name, the highest that was seen in that time"
        ),
        sa.PrimaryKeyConstraint("minutes", "at", name=op.f("pk_figure_samples")),
    )
    op.create_index(op.f("ix_figure_samples_at"), "figure_samples", ["at"])
    op.add_column(
        "job_runs", sa.Column("host", sa.Text(), comment="the machine, or the container, that carries it out")
    )


def downgrade() -> None:
    op.drop_column("job_runs", "host")
    op.drop_table("figure_samples")
