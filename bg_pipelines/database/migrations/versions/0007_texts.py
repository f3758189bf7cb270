"""Text messages: the outbox, consent, replies, and subscriptions to alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The latest event of a kind decides; at the same moment the one that stops. Whoever writes or checks takes the number's
# lock first: a message is either recorded as begun before a revocation commits, or never begun.
CONSENT = """
    CREATE FUNCTION lock_text_number(number text) RETURNS void LANGUAGE sql AS $$
        SELECT pg_advisory_xact_lock(hashtextextended('texts:' || number, 0))
    $$;
    CREATE FUNCTION apply_sms_consent() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
        of_kind text;
        latest sms_consents;
    BEGIN
        PERFORM lock_text_number(NEW.phone);
        FOREACH of_kind IN ARRAY CASE NEW.kind WHEN 'all' THEN ARRAY['product_share', 'customer_alert']
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
    CREATE FUNCTION keep_sms_consent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'sms_consents is a ledger: add an event, change and delete none';
    END $$;
    CREATE FUNCTION lock_opted_out_number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM lock_text_number(NEW.phone);
        RETURN NEW;
    END $$;
    CREATE TRIGGER sms_consents_added AFTER INSERT ON sms_consents FOR EACH ROW EXECUTE FUNCTION apply_sms_consent();
    CREATE TRIGGER sms_consents_kept BEFORE UPDATE OR DELETE ON sms_consents
        FOR EACH ROW EXECUTE FUNCTION keep_sms_consent();
    CREATE TRIGGER sms_opt_outs_added BEFORE INSERT ON sms_opt_outs
        FOR EACH ROW EXECUTE FUNCTION lock_opted_out_number();
"""
NO_CONSENT = """
    DROP TRIGGER sms_opt_outs_added ON sms_opt_outs;
    DROP TRIGGER sms_consents_kept ON sms_consents;
    DROP TRIGGER sms_consents_added ON sms_consents;
    DROP FUNCTION lock_opted_out_number();
    DROP FUNCTION keep_sms_consent();
    DROP FUNCTION apply_sms_consent();
    DROP FUNCTION lock_text_number(text);
"""
# Subscribers are told in the transaction of the change, whatever path wrote it. A row trigger with a condition costs a
# load nothing where nobody comes back into stock; the statement triggers are for rows that are new here.
# A subscription that is made meanwhile waits for the row's lock, and is told at once if it is true already.
ALERTS = """
    CREATE FUNCTION put_text_alert(subscription text_subscriptions, key text, product text, given jsonb) RETURNS void
    LANGUAGE sql AS $$
        INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, customer_external_id,
            product_external_id, variant_external_id, order_external_id, fields, created_by)
        VALUES (key, 'customer_alert', subscription.alert, subscription.store_id, subscription.phone,
            subscription.customer_external_id, product, subscription.variant_external_id,
            subscription.order_external_id, given, 'subscription ' || subscription.id)
        ON CONFLICT (idempotency_key) DO NOTHING
    $$;
    CREATE FUNCTION text_back_in_stock(of_store bigint, item text) RETURNS void LANGUAGE plpgsql AS $$ DECLARE
        subscription text_subscriptions;
        variant product_variants;
    BEGIN
        FOR variant IN SELECT * FROM product_variants
            WHERE store_id = of_store AND inventory_item_external_id = item AND deleted_at IS NULL LOOP
            FOR subscription IN UPDATE text_subscriptions SET ended_at = clock_timestamp()
                WHERE store_id = of_store AND alert = 'back_in_stock' AND ended_at IS NULL
                AND coalesce(variant_external_id, order_external_id) = variant.external_id RETURNING * LOOP
                PERFORM put_text_alert(subscription, 'back_in_stock/' || subscription.id,
                    variant.product_external_id, '{}');
            END LOOP;
        END LOOP;
    END $$;
    CREATE FUNCTION text_order_ready(of_store bigint, order_id text) RETURNS void LANGUAGE plpgsql AS $$ DECLARE
        subscription text_subscriptions;
    BEGIN
        FOR subscription IN UPDATE text_subscriptions SET ended_at = clock_timestamp()
            WHERE store_id = of_store AND alert = 'order_ready' AND ended_at IS NULL
            AND coalesce(variant_external_id, order_external_id) = order_id RETURNING * LOOP
            PERFORM put_text_alert(subscription, 'order_ready/' || subscription.id, NULL, '{}');
        END LOOP;
    END $$;
    CREATE FUNCTION is_order_ready(status text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(status IN ('prepared', 'fulfilled'), false)
    $$;

    CREATE FUNCTION level_is_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM text_back_in_stock(NEW.store_id, NEW.inventory_item_external_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION levels_are_new() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM text_subscriptions WHERE alert = 'back_in_stock' AND ended_at IS NULL) THEN
            PERFORM text_back_in_stock(store_id, inventory_item_external_id) FROM new_levels
            WHERE available > 0 AND deleted_at IS NULL AND EXISTS (SELECT FROM text_subscriptions s
                WHERE s.store_id = new_levels.store_id AND s.alert = 'back_in_stock' AND s.ended_at IS NULL);
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION price_is_lower() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
        subscription text_subscriptions;
    BEGIN
        FOR subscription IN SELECT * FROM text_subscriptions WHERE store_id = NEW.store_id AND alert = 'price_drop'
            AND ended_at IS NULL AND coalesce(variant_external_id, order_external_id) = NEW.external_id
            AND (price IS NULL OR price > NEW.price) FOR UPDATE LOOP
            UPDATE text_subscriptions SET price = NEW.price WHERE id = subscription.id;
            PERFORM put_text_alert(subscription, 'price_drop/' || subscription.id || '/' || NEW.price,
                NEW.product_external_id, jsonb_build_object('was', coalesce(subscription.price, OLD.price)::text));
        END LOOP;
        RETURN NULL;
    END $$;
    CREATE FUNCTION order_is_ready() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM text_order_ready(NEW.store_id, NEW.external_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION orders_are_new() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM text_subscriptions WHERE alert = 'order_ready' AND ended_at IS NULL) THEN
            PERFORM text_order_ready(store_id, external_id) FROM new_orders
            WHERE is_order_ready(fulfillment_status) AND cancelled_at IS NULL AND deleted_at IS NULL;
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION subscription_is_new() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
        item text;
        known_price numeric;
        status text;
    BEGIN
        IF NEW.alert = 'order_ready' THEN
            SELECT fulfillment_status INTO status FROM orders WHERE store_id = NEW.store_id
                AND external_id = NEW.order_external_id AND cancelled_at IS NULL AND deleted_at IS NULL FOR SHARE;
            IF is_order_ready(status) THEN
                PERFORM text_order_ready(NEW.store_id, NEW.order_external_id);
            END IF;
            RETURN NULL;
        END IF;
        SELECT v.inventory_item_external_id, v.price INTO item, known_price FROM product_variants v
            WHERE v.store_id = NEW.store_id AND v.external_id = NEW.variant_external_id FOR SHARE;
        IF NEW.alert = 'price_drop' THEN
            UPDATE text_subscriptions s SET price = coalesce(s.price, known_price) WHERE s.id = NEW.id;
        ELSE
            PERFORM FROM inventory_levels WHERE store_id = NEW.store_id AND inventory_item_external_id = item
                ORDER BY external_id FOR SHARE;
            PERFORM text_back_in_stock(NEW.store_id, item) WHERE EXISTS (SELECT FROM inventory_levels
                WHERE store_id = NEW.store_id AND inventory_item_external_id = item AND available > 0
                AND deleted_at IS NULL);
        END IF;
        RETURN NULL;
    END $$;

    CREATE TRIGGER level_back AFTER UPDATE OF available, deleted_at ON inventory_levels FOR EACH ROW
        WHEN (NEW.available > 0 AND NEW.deleted_at IS NULL AND (OLD.available <= 0 OR OLD.deleted_at IS NOT NULL))
        EXECUTE FUNCTION level_is_back();
    CREATE TRIGGER levels_new AFTER INSERT ON inventory_levels REFERENCING NEW TABLE AS new_levels
        FOR EACH STATEMENT EXECUTE FUNCTION levels_are_new();
    CREATE TRIGGER price_lower AFTER UPDATE OF price ON product_variants FOR EACH ROW
        WHEN (NEW.price < OLD.price AND NEW.deleted_at IS NULL) EXECUTE FUNCTION price_is_lower();
    CREATE TRIGGER order_ready AFTER UPDATE OF fulfillment_status ON orders FOR EACH ROW
        WHEN (NEW.fulfillment_status IS DISTINCT FROM OLD.fulfillment_status
            AND NEW.fulfillment_status IN ('prepared', 'fulfilled') AND NEW.cancelled_at IS NULL
            AND NEW.deleted_at IS NULL)
        EXECUTE FUNCTION order_is_ready();
    CREATE TRIGGER orders_new AFTER INSERT ON orders REFERENCING NEW TABLE AS new_orders
        FOR EACH STATEMENT EXECUTE FUNCTION orders_are_new();
    CREATE TRIGGER text_subscriptions_new AFTER INSERT ON text_subscriptions FOR EACH ROW
        EXECUTE FUNCTION subscription_is_new();
"""
NO_ALERTS = """
    DROP TRIGGER text_subscriptions_new ON text_subscriptions;
    DROP TRIGGER orders_new ON orders;
    DROP TRIGGER order_ready ON orders;
    DROP TRIGGER price_lower ON product_variants;
    DROP TRIGGER levels_new ON inventory_levels;
    DROP TRIGGER level_back ON inventory_levels;
    DROP FUNCTION subscription_is_new();
    DROP FUNCTION orders_are_new();
    DROP FUNCTION order_is_ready();
    DROP FUNCTION price_is_lower();
    DROP FUNCTION levels_are_new();
    DROP FUNCTION level_is_back();
    DROP FUNCTION is_order_ready(text);
    DROP FUNCTION text_order_ready(bigint, text);
    DROP FUNCTION text_back_in_stock(bigint, text);
    DROP FUNCTION put_text_alert(text_subscriptions, text, text, jsonb);
"""


def upgrade() -> None:
    op.create_table(
        "sms_opt_outs",
        sa.Column("phone", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("kind", sa.Text(), server_default="all", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("how", sa.Text(), server_default="recorded by the application", nullable=False),
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'all')", name=op.f("ck_sms_opt_outs_kind")
        ),
        sa.PrimaryKeyConstraint("phone", "kind", name=op.f("pk_sms_opt_outs")),
    )
    op.create_table(
        "sms_consents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column(
            "source",
            sa.Text(),
            nullable=False,
            comment="web form, checkout, reply, staff, shopify, twilio, ...",
        ),
        sa.Column("channel", sa.Text(), nullable=False, comment="web, sms, phone, e-mail, in person, ..."),
        sa.Column("wording", sa.Text(), nullable=True, comment="what the person was shown, or said"),
        sa.Column(
            "evidence",
            sa.Text(),
            nullable=True,
            comment="where it is kept: Twilio's id of a reply, a form's number",
        ),
        sa.Column("store_id", sa.BigInteger(), nullable=True),
        sa.Column("recorded_by", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "event IN ('granted', 'confirmed', 'revoked', 'asked', 'requested', 'unreachable')",
            name=op.f("ck_sms_consents_event"),
        ),
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'all')", name=op.f("ck_sms_consents_kind")
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_sms_consents_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sms_consents")),
    )
    op.create_index(
        op.f("ix_sms_consents_event_recorded_at"), "sms_consents", ["event", "recorded_at"], unique=False
    )
    op.create_index(
        op.f("ix_sms_consents_phone_occurred_at"), "sms_consents", ["phone", "occurred_at"], unique=False
    )
    op.create_table(
        "text_subscriptions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("customer_external_id", sa.Text(), nullable=True),
        sa.Column("alert", sa.Text(), nullable=False),
        sa.Column("variant_external_id", sa.Text(), nullable=True),
        sa.Column("order_external_id", sa.Text(), nullable=True),
        sa.Column(
            "price",
            sa.Numeric(precision=19, scale=4),
            nullable=True,
            comment="price_drop: the lowest that is known or was told",
        ),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(alert = 'order_ready') = (order_external_id IS NOT NULL) AND (alert = 'order_ready') = (variant_external_id IS NULL)",
            name=op.f("ck_text_subscriptions_object"),
        ),
        sa.CheckConstraint(
            "alert IN ('back_in_stock', 'price_drop', 'order_ready')",
            name=op.f("ck_text_subscriptions_alert"),
        ),
        sa.ForeignKeyConstraint(
            ["store_id"], ["stores.id"], name=op.f("fk_text_subscriptions_store_id_stores")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text_subscriptions")),
    )
    op.create_index(op.f("ix_text_subscriptions_phone"), "text_subscriptions", ["phone"], unique=False)
    op.create_index(
        op.f("ix_text_subscriptions_store_id_customer_external_id"),
        "text_subscriptions",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_index(
        "uq_text_subscriptions_open",
        "text_subscriptions",
        ["store_id", "alert", sa.literal_column("coalesce(variant_external_id, order_external_id)"), "phone"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "text_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="what consent is for; service: an answer to an opt-in or opt-out",
        ),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("customer_external_id", sa.Text(), nullable=True),
        sa.Column("product_external_id", sa.Text(), nullable=True),
        sa.Column("variant_external_id", sa.Text(), nullable=True),
        sa.Column("order_external_id", sa.Text(), nullable=True),
        sa.Column(
            "link", sa.Text(), nullable=True, comment="null: the product's page in the store's own shop"
        ),
        sa.Column(
            "fields",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="what else the template names",
        ),
        sa.Column(
            "requested_by",
            sa.Text(),
            nullable=True,
            comment="who says that the recipient asked for this one message; null: needs consent for its kind",
        ),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "expires_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("(now() + interval '2 days')"),
            nullable=False,
            comment="refused if it is not sent by then",
        ),
        sa.Column(
            "reference",
            sa.Text(),
            server_default=sa.text("substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 1, 10)"),
            nullable=False,
            comment="stands in its text: no other message on the account has it",
        ),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="why it was refused or failed, without personal data"
        ),
        sa.Column("body", sa.Text(), nullable=True, comment="the whole text, kept from its first call on"),
        sa.Column("segments", sa.Integer(), nullable=True),
        sa.Column(
            "calls",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="how often sending it was begun",
        ),
        sa.Column(
            "called_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a call began whose outcome is not known; null: none",
        ),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True, comment="when Twilio had it"),
        sa.Column("sid", sa.Text(), nullable=True, comment="Twilio's id of it"),
        sa.Column("error_code", sa.Integer(), nullable=True, comment="Twilio's"),
        sa.Column(
            "status_at", sa.DateTime(timezone=True), nullable=True, comment="when Twilio last told its state"
        ),
        sa.Column(
            "next_due_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="null: parked under incident_id, or finished",
        ),
        sa.Column("lease_owner", sa.Text(), nullable=True, comment="one claim of one run"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="failures since the last success or progress",
        ),
        sa.Column(
            "last_error",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="the last failure, without personal data",
        ),
        sa.Column(
            "retry_strategy", sa.Text(), nullable=True, comment="what was decided about the last failure"
        ),
        sa.Column("retry_reason", sa.Text(), nullable=True, comment="and why"),
        sa.Column("incident_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'service')", name=op.f("ck_text_messages_kind")
        ),
        sa.CheckConstraint(
            "retry_strategy IN ('exponential_backoff', 'scheduled_retry', 'manual_intervention')",
            name=op.f("ck_text_messages_retry_strategy"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'refused', 'queued', 'sending', 'sent', 'delivered', 'undelivered', 'failed', 'canceled')",
            name=op.f("ck_text_messages_status"),
        ),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("fk_text_messages_incident_id_incidents")
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_text_messages_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text_messages")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_text_messages_idempotency_key")),
        sa.UniqueConstraint("reference", name=op.f("uq_text_messages_reference")),
        sa.UniqueConstraint("sid", name=op.f("uq_text_messages_sid")),
    )
    op.create_index(
        "ix_text_messages_due",
        "text_messages",
        ["next_due_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_text_messages_error_code",
        "text_messages",
        ["status_at"],
        unique=False,
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_text_messages_incident_id"),
        "text_messages",
        ["incident_id"],
        unique=False,
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_text_messages_phone_sent_at"), "text_messages", ["phone", "sent_at"], unique=False
    )
    op.create_index(op.f("ix_text_messages_sent_at"), "text_messages", ["sent_at"], unique=False)
    op.create_index(
        op.f("ix_text_messages_store_id_customer_external_id"),
        "text_messages",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_table(
        "text_replies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sid", sa.Text(), nullable=False, comment="Twilio's id of it"),
        sa.Column("phone", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("reading", sa.Text(), nullable=False),
        sa.Column(
            "message_id",
            sa.BigInteger(),
            nullable=True,
            comment="the last message that was sent to this number",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "reading IN ('stop', 'start', 'help', 'yes', 'refusal', 'other')",
            name=op.f("ck_text_replies_reading"),
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["text_messages.id"], name=op.f("fk_text_replies_message_id_text_messages")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text_replies")),
        sa.UniqueConstraint("sid", name=op.f("uq_text_replies_sid")),
    )
    op.create_index(
        "ix_text_replies_open",
        "text_replies",
        ["id"],
        unique=False,
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(op.f("ix_text_replies_message_id"), "text_replies", ["message_id"], unique=False)
    op.create_index(op.f("ix_text_replies_phone"), "text_replies", ["phone"], unique=False)
    op.execute(CONSENT)
    op.execute(ALERTS)


def downgrade() -> None:
    op.execute(NO_ALERTS)
    op.execute(NO_CONSENT)
    op.drop_index(op.f("ix_text_replies_message_id"), table_name="text_replies")
    op.drop_index(op.f("ix_text_replies_phone"), table_name="text_replies")
    op.drop_index(
        "ix_text_replies_open", table_name="text_replies", postgresql_where=sa.text("settled_at IS NULL")
    )
    op.drop_table("text_replies")
    op.drop_index(op.f("ix_text_messages_store_id_customer_external_id"), table_name="text_messages")
    op.drop_index(op.f("ix_text_messages_sent_at"), table_name="text_messages")
    op.drop_index(op.f("ix_text_messages_phone_sent_at"), table_name="text_messages")
    op.drop_index(
        op.f("ix_text_messages_incident_id"),
        table_name="text_messages",
        postgresql_where=sa.text("incident_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_text_messages_error_code",
        table_name="text_messages",
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )
    op.drop_index(
        "ix_text_messages_due", table_name="text_messages", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_table("text_messages")
    op.drop_index(
        "uq_text_subscriptions_open",
        table_name="text_subscriptions",
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_text_subscriptions_store_id_customer_external_id"), table_name="text_subscriptions"
    )
    op.drop_index(op.f("ix_text_subscriptions_phone"), table_name="text_subscriptions")
    op.drop_table("text_subscriptions")
    op.drop_index(op.f("ix_sms_consents_phone_occurred_at"), table_name="sms_consents")
    op.drop_index(op.f("ix_sms_consents_event_recorded_at"), table_name="sms_consents")
    op.drop_table("sms_consents")
    op.drop_table("sms_opt_outs")
