"""How much of the vendor's rate limit a pass had used up at its end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sync_attempts",
        sa.Column(
            "budget_used",
            sa.REAL(),
            comment="share of the vendor's rate limit used up at its end; null: not told",
        ),
    )


def downgrade() -> None:
    op.drop_column("sync_attempts", "budget_used")
