"""One queue: the columns of claimed work on every table that has it, and plain names for what people are told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

QUEUES = ("alert_deliveries", "customer_changes", "inventory_corrections")
STRATEGIES = "retry_strategy IN ('exponential_backoff', 'scheduled_retry', 'manual_intervention')"
RENAMED = (
    ("needs_person", "needs_attention"),
    ("met_by", "affected_runs"),
    ("told", "notified"),
    ("told_at", "notified_at"),
    ("told_needs_person", "notified_needs_attention"),
)
COMMENTS = {
    "next_due_at": "null: parked under incident_id, or finished",
    "lease_owner": "one claim of one run",
    "attempts": "failures since the last success or progress",
    "last_error": "the last failure, without personal data",
    "retry_strategy": "what was decided about the last failure",
    "retry_reason": "and why",
}


def upgrade() -> None:
    for old, new in RENAMED:
        op.alter_column("incidents", old, new_column_name=new)
    op.alter_column("incidents", "needs_attention", comment="false: it is retried automatically")
    op.execute("ALTER TABLE incidents RENAME CONSTRAINT ck_incidents_told TO ck_incidents_notified")
    op.execute("ALTER INDEX ix_incidents_untold RENAME TO ix_incidents_to_notify")
    op.execute(
        "UPDATE incidents SET affected_runs = array_replace_suffix.runs FROM (SELECT id, "
        "ARRAY(SELECT regexp_replace(run, '/by hand$', '/manual') FROM unnest(affected_runs) run) AS runs "
        "FROM incidents WHERE affected_runs <> '{}') array_replace_suffix WHERE incidents.id = array_replace_suffix.id"
    )
    op.add_column(
        "incidents",
        sa.Column(
            "merged_into",
            sa.BigInteger(),
            nullable=True,
            comment="the incident of the platform or the installation that took its place",
        ),
    )
    op.create_foreign_key(
        op.f("fk_incidents_merged_into_incidents"), "incidents", "incidents", ["merged_into"], ["id"]
    )
    op.create_index(
        op.f("ix_incidents_merged_into"),
        "incidents",
        ["merged_into"],
        postgresql_where=sa.text("merged_into IS NOT NULL"),
    )
    op.execute(
        "UPDATE incidents SET fingerprint = 'installation:' || substr(fingerprint, length('house:') + 1) "
        "WHERE starts_with(fingerprint, 'house:')"
    )
    op.add_column(
        "incidents",
        sa.Column(
            "kind",
            sa.Text(),
            sa.Computed("split_part(fingerprint, ':', 1)", persisted=True),
            nullable=False,
            comment="see incidents/fingerprints.py",
        ),
    )
    op.create_index(
        op.f("ix_incidents_kind_platform_error_type"),
        "incidents",
        ["kind", "platform", "error_type"],
        postgresql_where=sa.text("status = 'open'"),
    )

    # A delivery that was being sent is one whose lease has ended: it is taken over.
    op.execute("ALTER TABLE alert_deliveries DROP CONSTRAINT ck_alert_deliveries_status")
    op.drop_index(op.f("ix_alert_deliveries_next_try_at"), table_name="alert_deliveries")
    op.execute("UPDATE alert_deliveries SET status = 'pending' WHERE status = 'sending'")
    op.create_check_constraint(
        op.f("ck_alert_deliveries_status"), "alert_deliveries", "status IN ('pending', 'sent', 'refused')"
    )
    op.alter_column(
        "alert_deliveries",
        "next_try_at",
        new_column_name="next_due_at",
        nullable=True,
        comment=COMMENTS["next_due_at"],
    )
    op.alter_column("alert_deliveries", "attempts", comment=COMMENTS["attempts"])
    op.add_column("alert_deliveries", sa.Column("calls", sa.Integer(), server_default="0", nullable=False))
    for table in QUEUES:
        if table != "alert_deliveries":
            op.add_column(
                table,
                sa.Column(
                    "next_due_at",
                    sa.DateTime(timezone=True),
                    server_default=sa.func.now(),
                    nullable=True,
                    comment=COMMENTS["next_due_at"],
                ),
            )
            op.add_column(
                table,
                sa.Column(
                    "attempts", sa.Integer(), server_default="0", nullable=False, comment=COMMENTS["attempts"]
                ),
            )
        for name, kind in (
            ("lease_owner", sa.Text()),
            ("lease_expires_at", sa.DateTime(timezone=True)),
            ("last_error", postgresql.JSONB()),
            ("retry_strategy", sa.Text()),
            ("retry_reason", sa.Text()),
            ("incident_id", sa.BigInteger()),
        ):
            op.add_column(table, sa.Column(name, kind, nullable=True, comment=COMMENTS.get(name)))
        op.create_check_constraint(op.f(f"ck_{table}_retry_strategy"), table, STRATEGIES)
        op.create_foreign_key(
            op.f(f"fk_{table}_incident_id_incidents"), table, "incidents", ["incident_id"], ["id"]
        )
        op.create_index(
            op.f(f"ix_{table}_incident_id"),
            table,
            ["incident_id"],
            postgresql_where=sa.text("incident_id IS NOT NULL"),
        )
    op.execute(
        "UPDATE alert_deliveries SET calls = attempts, next_due_at = CASE WHEN status = 'pending' THEN next_due_at END, "
        "last_error = CASE WHEN error IS NOT NULL THEN jsonb_build_object('message', error) END"
    )
    op.drop_column("alert_deliveries", "error")
    for table in ("customer_changes", "inventory_corrections"):
        op.execute(f"UPDATE {table} SET next_due_at = NULL WHERE status <> 'pending'")  # noqa: S608
    op.create_index(
        op.f("ix_alert_deliveries_next_due_at"),
        "alert_deliveries",
        ["next_due_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )

    for name in ("next_due_at", "attempts", "last_error"):
        op.alter_column("sync_states", name, comment=COMMENTS[name])
    op.alter_column("sync_states", "cursor", comment="see sync/state.py")
    op.alter_column("customers", "addresses", comment="objects with the fields of `records.ADDRESS`")
    op.add_column(
        "sync_states",
        sa.Column(
            "full_pass_wanted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a person asked for a full pass; null once one that began later has succeeded",
        ),
    )
    op.add_column(
        "sync_states",
        sa.Column(
            "backfill", sa.Text(), nullable=True, comment="how that person wants it read: bulk or pages"
        ),
    )

    op.create_table(
        "encryption_check",
        sa.Column("id", sa.SmallInteger(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_encryption_check_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encryption_check")),
    )


def downgrade() -> None:
    op.drop_table("encryption_check")
    op.drop_column("sync_states", "backfill")
    op.drop_column("sync_states", "full_pass_wanted_at")
    op.alter_column("customers", "addresses", comment="objects with the fields of `platforms.base.ADDRESS`")
    op.alter_column("sync_states", "cursor", comment=None)
    op.alter_column("sync_states", "next_due_at", comment="null: parked, it waits for a person (incident_id)")
    op.alter_column(
        "sync_states", "attempts", comment="failures since the last success, or the last page that was kept"
    )
    op.alter_column("sync_states", "last_error", comment=None)
    op.drop_index(op.f("ix_alert_deliveries_next_due_at"), table_name="alert_deliveries")
    op.add_column("alert_deliveries", sa.Column("error", sa.Text(), nullable=True))
    op.execute("UPDATE alert_deliveries SET error = last_error ->> 'message'")
    for table in QUEUES:
        names = [
            "lease_owner",
            "lease_expires_at",
            "last_error",
            "retry_strategy",
            "retry_reason",
            "incident_id",
        ]
        if table != "alert_deliveries":
            names += ["next_due_at", "attempts"]
        for name in names:
            op.drop_column(table, name)
    op.drop_column("alert_deliveries", "calls")
    op.alter_column("alert_deliveries", "attempts", comment=None)
    op.execute("UPDATE alert_deliveries SET next_due_at = now() WHERE next_due_at IS NULL")
    op.alter_column(
        "alert_deliveries", "next_due_at", new_column_name="next_try_at", nullable=False, comment=None
    )
    op.execute("ALTER TABLE alert_deliveries DROP CONSTRAINT ck_alert_deliveries_status")
    op.create_check_constraint(
        op.f("ck_alert_deliveries_status"),
        "alert_deliveries",
        "status IN ('pending', 'sending', 'sent', 'refused')",
    )
    op.create_index(
        op.f("ix_alert_deliveries_next_try_at"),
        "alert_deliveries",
        ["next_try_at"],
        postgresql_where=sa.text("status IN ('pending', 'sending')"),
    )
    op.drop_column("incidents", "kind")
    op.execute(
        "UPDATE incidents SET fingerprint = 'house:' || substr(fingerprint, length('installation:') + 1) "
        "WHERE starts_with(fingerprint, 'installation:')"
    )
    op.drop_column("incidents", "merged_into")
    op.execute("ALTER INDEX ix_incidents_to_notify RENAME TO ix_incidents_untold")
    op.execute("ALTER TABLE incidents RENAME CONSTRAINT ck_incidents_notified TO ck_incidents_told")
    op.alter_column("incidents", "needs_attention", comment="false: it is tried again by itself")
    for old, new in reversed(RENAMED):
        op.alter_column("incidents", new, new_column_name=old)
