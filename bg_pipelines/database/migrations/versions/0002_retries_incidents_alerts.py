"""Retries, incidents, alerts, circuits, runs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="alive until here at least",
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stores", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stores_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("peak_rss_mb", sa.Double(), nullable=True),
        sa.Column(
            "connections_in_use", sa.Integer(), nullable=True, comment="the most at any time it was looked at"
        ),
        sa.Column("connections_size", sa.Integer(), nullable=True, comment="how many its pool may open"),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'stopped')", name=op.f("ck_job_runs_status")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_job_runs")),
    )
    op.create_index(op.f("ix_job_runs_job_started_at"), "job_runs", ["job", "started_at"], unique=False)
    op.create_index(op.f("ix_job_runs_started_at"), "job_runs", ["started_at"], unique=False)
    op.create_table(
        "circuits",
        sa.Column("key", sa.Text(), nullable=False, comment="platform:NAME or store:ID"),
        sa.Column("platform", sa.Text(), nullable=True),
        sa.Column("store_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="in a row, failed probes among them",
        ),
        sa.Column(
            "failing_stores",
            postgresql.ARRAY(sa.BigInteger()),
            server_default="{}",
            nullable=False,
            comment="of a platform: who failed since anyone succeeded",
        ),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "probe_at", sa.DateTime(timezone=True), nullable=True, comment="when the next probe may go"
        ),
        sa.Column("probe_owner", sa.Text(), nullable=True, comment="the claim that has the probe now"),
        sa.CheckConstraint("(platform IS NULL) <> (store_id IS NULL)", name=op.f("ck_circuits_subject")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_circuits_store_id_stores")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_circuits")),
    )
    op.create_index(
        op.f("ix_circuits_opened_at"),
        "circuits",
        ["opened_at"],
        unique=False,
        postgresql_where=sa.text("opened_at IS NOT NULL"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="one fault, whatever it hits and however often"
        ),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("needs_person", sa.Boolean(), nullable=False, comment="false: it is tried again by itself"),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="what is affected: a store, a vendor, a job"),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("platform", sa.Text(), nullable=True),
        sa.Column("store_id", sa.BigInteger(), nullable=True),
        sa.Column("resources", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column(
            "payload", sa.Text(), nullable=True, comment="where what failed is kept: a table and its keys"
        ),
        sa.Column("occurrences", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "met_by",
            postgresql.ARRAY(sa.Text()),
            server_default="{}",
            nullable=False,
            comment="job/tier of the runs it keeps from working: over when each of them has",
        ),
        sa.Column("last_occurrence", sa.Text(), nullable=True, comment="the same again is not counted twice"),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("told", sa.Text(), server_default="nothing", nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_needs_person", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("status IN ('open', 'resolved')", name=op.f("ck_incidents_status")),
        sa.CheckConstraint(
            "told IN ('nothing', 'open', 'escalated', 'resolved')", name=op.f("ck_incidents_told")
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_incidents_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index(
        op.f("ix_incidents_fingerprint_resolved_at"),
        "incidents",
        ["fingerprint", "resolved_at"],
        unique=False,
    )
    op.create_index(op.f("ix_incidents_status_opened_at"), "incidents", ["status", "opened_at"], unique=False)
    op.create_index(
        op.f("ix_incidents_store_id"),
        "incidents",
        ["store_id"],
        unique=False,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index(
        "ix_incidents_untold",
        "incidents",
        ["told"],
        unique=False,
        postgresql_where=sa.text("told <> 'resolved'"),
    )
    op.create_index(
        "uq_incidents_open_fingerprint",
        "incidents",
        ["fingerprint"],
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('opened', 'escalated', 'all_clear')", name=op.f("ck_alerts_kind")),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("fk_alerts_incident_id_incidents")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(op.f("ix_alerts_created_at"), "alerts", ["created_at"], unique=False)
    op.create_index(op.f("ix_alerts_incident_id"), "alerts", ["incident_id"], unique=False)
    op.create_table(
        "alert_deliveries",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "target", sa.Text(), nullable=False, comment="kind and digest: an address may hold a secret"
        ),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True, comment="the vendor's id of the message"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'sending', 'sent', 'refused')", name=op.f("ck_alert_deliveries_status")
        ),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_alert_deliveries_alert_id_alerts")
        ),
        sa.PrimaryKeyConstraint("alert_id", "target", name=op.f("pk_alert_deliveries")),
    )
    op.create_index(
        op.f("ix_alert_deliveries_next_try_at"),
        "alert_deliveries",
        ["next_try_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'sending')"),
    )
    op.add_column(
        "stores",
        sa.Column(
            "interval_minutes", sa.SmallInteger(), nullable=True, comment="this store's own; null: its tier's"
        ),
    )
    op.add_column(
        "sync_states",
        sa.Column(
            "retry_strategy", sa.Text(), nullable=True, comment="what was decided about the last failure"
        ),
    )
    op.add_column("sync_states", sa.Column("retry_reason", sa.Text(), nullable=True, comment="and why"))
    op.add_column("sync_states", sa.Column("incident_id", sa.BigInteger(), nullable=True))
    op.alter_column(
        "sync_states",
        "next_due_at",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        nullable=True,
        comment="null: parked, it waits for a person (incident_id)",
        existing_server_default=sa.text("now()"),
    )
    op.alter_column(
        "sync_states",
        "attempts",
        existing_type=sa.INTEGER(),
        comment="failures since the last success, or the last page that was kept",
        existing_comment="failures since the last success",
        existing_nullable=False,
        existing_server_default=sa.text("0"),
    )
    op.create_index(
        op.f("ix_sync_states_incident_id"),
        "sync_states",
        ["incident_id"],
        unique=False,
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_sync_states_incident_id_incidents"), "sync_states", "incidents", ["incident_id"], ["id"]
    )
    op.create_check_constraint(
        op.f("ck_stores_interval_minutes"),
        "stores",
        "interval_minutes BETWEEN 5 AND 1440 AND interval_minutes % 5 = 0",
    )
    op.create_check_constraint(
        op.f("ck_sync_states_retry_strategy"),
        "sync_states",
        "retry_strategy IN ('exponential_backoff', 'scheduled_retry', 'manual_intervention')",
    )


def downgrade() -> None:
    # What waits for a person cannot say so any more: it is due again.
    op.execute("UPDATE sync_states SET next_due_at = now() WHERE next_due_at IS NULL")
    op.drop_constraint(op.f("fk_sync_states_incident_id_incidents"), "sync_states", type_="foreignkey")
    op.drop_index(
        op.f("ix_sync_states_incident_id"),
        table_name="sync_states",
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.alter_column(
        "sync_states",
        "attempts",
        existing_type=sa.INTEGER(),
        comment="failures since the last success",
        existing_comment="failures since the last success, or the last page that was kept",
        existing_nullable=False,
        existing_server_default=sa.text("0"),
    )
    op.alter_column(
        "sync_states",
        "next_due_at",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        nullable=False,
        comment=None,
        existing_comment="null: parked, it waits for a person (incident_id)",
        existing_server_default=sa.text("now()"),
    )
    op.drop_column("sync_states", "incident_id")
    op.drop_column("sync_states", "retry_reason")
    op.drop_column("sync_states", "retry_strategy")
    op.drop_column("stores", "interval_minutes")
    op.drop_index(
        op.f("ix_alert_deliveries_next_try_at"),
        table_name="alert_deliveries",
        postgresql_where=sa.text("status IN ('pending', 'sending')"),
    )
    op.drop_table("alert_deliveries")
    op.drop_index(op.f("ix_alerts_incident_id"), table_name="alerts")
    op.drop_index(op.f("ix_alerts_created_at"), table_name="alerts")
    op.drop_table("alerts")
    op.drop_index(
        "uq_incidents_open_fingerprint", table_name="incidents", postgresql_where=sa.text("status = 'open'")
    )
    op.drop_index(
        "ix_incidents_untold", table_name="incidents", postgresql_where=sa.text("told <> 'resolved'")
    )
    op.drop_index(op.f("ix_incidents_status_opened_at"), table_name="incidents")
    op.drop_index(op.f("ix_incidents_fingerprint_resolved_at"), table_name="incidents")
    op.drop_table("incidents")
    op.drop_index(
        op.f("ix_circuits_opened_at"),
        table_name="circuits",
        postgresql_where=sa.text("opened_at IS NOT NULL"),
    )
    op.drop_table("circuits")
    op.drop_index(op.f("ix_job_runs_started_at"), table_name="job_runs")
    op.drop_index(op.f("ix_job_runs_job_started_at"), table_name="job_runs")
    op.drop_table("job_runs")
