"""Reminders of abandoned carts, a kind of text message with a consent of its own; and references of alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# As in 0007, with the kinds that `all` stands for.
CONSENT = """
    CREATE OR REPLACE FUNCTION apply_sms_consent() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
        of_kind text;
        latest sms_consents;
    BEGIN
        PERFORM lock_text_number(NEW.phone);
        FOREACH of_kind IN ARRAY CASE NEW.kind WHEN 'all' THEN ARRAY[{kinds}]
            ELSE ARRAY[NEW.kind] END LOOP
            SELECT * INTO latest FROM sms_consents WHERE phone = NEW.phone AND kind IN (of_kind, 'all')
                AND event IN ('granted', 'confirmed', 'revoked', 'unreachable')
                ORDER BY occurred_at DESC, event IN ('revoked', 'unreachable') DESC, id DESC LIMIT 1;
            IF latest.event IN ('revoked', 'unreachable') THEN
                INSERT INTO sms_opt_outs (phone, kind, since, how) VALUES (NEW.phone, of_kind, latest.occurred_at,
                    CASE latest.event WHEN 'unreachable' THEN 'unreachable' ELSE latest.source END)
                ON CONFLICT (phone, kind) DO UPDATE SET since = excluded.since, how = excluded.how;
            ELSIF latest.id IS NOT NULL THEN
                DELETE FROM sms_opt_outs WHERE phone = NEW.phone AND since < latest.occurred_at
                    AND (kind = of_kind OR (kind = 'all' AND latest.kind = 'all'));
            END IF;
        END LOOP;
        RETURN NULL;
    END $$;
"""
KINDS = ("product_share", "customer_alert")
CHECKED = {"text_messages": "service", "sms_consents": "all", "sms_opt_outs": "all"}
REFERENCE = "substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 1, 10)"


def upgrade() -> None:
    _set_kinds((*KINDS, "cart_reminder"))
    # Whoever has opted out of everything has opted out of these as well.
    op.execute(
        "INSERT INTO sms_opt_outs (phone, kind, since, how) SELECT a.phone, 'cart_reminder', a.since, a.how "
        "FROM sms_opt_outs a JOIN sms_opt_outs b ON b.phone = a.phone AND b.kind = 'product_share' "
        "WHERE a.kind = 'customer_alert' ON CONFLICT DO NOTHING"
    )
    op.add_column("text_messages", sa.Column("cart_external_id", sa.Text(), nullable=True))
    op.alter_column(
        "text_messages",
        "link",
        comment="null: the page of the product, or of the cart, in the store's own shop",
        existing_comment="null: the product's page in the store's own shop",
    )
    op.add_column(
        "cart_events",
        sa.Column(
            "considered_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was looked at for a reminder by text message (messaging/reminders.py)",
        ),
    )
    op.create_index(
        "ix_cart_events_new",
        "cart_events",
        ["happened_at", "id"],
        unique=False,
        postgresql_where=sa.text("considered_at IS NULL"),
    )
    op.add_column(
        "alerts",
        sa.Column(
            "reference",
            sa.Text(),
            server_default=sa.text(REFERENCE),
            nullable=False,
            comment="ends its text message: by it a message is found again, and no other on the account has it",
        ),
    )
    # What was tried already went out with this one.
    op.execute("UPDATE alerts SET reference = incident_id || '.' || id")
    op.create_unique_constraint(op.f("uq_alerts_reference"), "alerts", ["reference"])


def downgrade() -> None:
    op.drop_constraint(op.f("uq_alerts_reference"), "alerts")
    op.drop_column("alerts", "reference")
    op.drop_index("ix_cart_events_new", table_name="cart_events")
    op.drop_column("cart_events", "considered_at")
    op.alter_column(
        "text_messages",
        "link",
        comment="null: the product's page in the store's own shop",
        existing_comment="null: the page of the product, or of the cart, in the store's own shop",
    )
    op.drop_column("text_messages", "cart_external_id")
    op.execute(
        "UPDATE text_replies SET message_id = NULL "
        "WHERE message_id IN (SELECT id FROM text_messages WHERE kind = 'cart_reminder')"
    )
    op.execute("DELETE FROM text_messages WHERE kind = 'cart_reminder'")
    op.execute("DELETE FROM sms_opt_outs WHERE kind = 'cart_reminder'")
    # The ledger is kept from everybody else.
    op.execute("ALTER TABLE sms_consents DISABLE TRIGGER sms_consents_kept")
    op.execute("DELETE FROM sms_consents WHERE kind = 'cart_reminder'")
    op.execute("ALTER TABLE sms_consents ENABLE TRIGGER sms_consents_kept")
    _set_kinds(KINDS)


def _set_kinds(kinds: tuple[str, ...]) -> None:
    for table, more in CHECKED.items():
        constraint = op.f(f"ck_{table}_kind")
        op.drop_constraint(constraint, table)
        listed = ", ".join(f"'{kind}'" for kind in (*kinds, more))
        op.create_check_constraint(constraint, table, f"kind IN ({listed})")
    op.execute(CONSENT.replace("{kinds}", ", ".join(f"'{kind}'" for kind in kinds)))
