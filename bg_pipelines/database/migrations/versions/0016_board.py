"""The board: its users and their sessions; and what people and deploys did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "activity",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("who", sa.Text(), nullable=False, comment="a user of the board, or of the machine"),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="such as `retry incidents`"),
        sa.Column(
            "subject", sa.Text(), nullable=False, comment="on what: numbers of incidents, names of stores"
        ),
        sa.Column("succeeded", sa.Boolean(), comment="null: begun, and never ended"),
        sa.Column("outcome", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activity")),
        sa.CheckConstraint("via IN ('board', 'command', 'deploy')", name=op.f("ck_activity_via")),
    )
    op.create_index(op.f("ix_activity_at"), "activity", ["at"])
    op.create_index(
        "uq_activity_deploy", "activity", ["subject"], unique=True, postgresql_where=sa.text("via = 'deploy'")
    )
    op.create_table(
        "board_users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=False, comment="scrypt: see board/users.py"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), comment="when the user last logged in"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_board_users")),
        sa.CheckConstraint("role IN ('admin', 'viewer')", name=op.f("ck_board_users_role")),
    )
    op.create_table(
        "board_sessions",
        sa.Column(
            "digest", sa.LargeBinary(), nullable=False, comment="of the cookie, or of the link's token"
        ),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("is_link", sa.Boolean(), nullable=False, comment="a link to log in with, once"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_board_sessions")),
        sa.ForeignKeyConstraint(
            ["user_name"],
            ["board_users.name"],
            name=op.f("fk_board_sessions_user_name_board_users"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_board_sessions_expires_at"), "board_sessions", ["expires_at"])
    op.create_index(op.f("ix_board_sessions_user_name"), "board_sessions", ["user_name"])
    op.create_table(
        "board_login_failures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "digest", sa.Integer(), nullable=False, comment="32 bits of a digest of the name, known or not"
        ),
        sa.Column("failed_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_board_login_failures")),
    )
    op.create_index(op.f("ix_board_login_failures_failed_at"), "board_login_failures", ["failed_at"])


def downgrade() -> None:
    for table in ("board_login_failures", "board_sessions", "board_users", "activity"):
        op.drop_table(table)
