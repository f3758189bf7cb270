"""Customers, orders, people, audits"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PROFILE = (
    "first_name", "last_name", "company", "email", "phone", "phone_given", "addresses", "tags", "locale", "note",
    "email_consent", "sms_consent",
)  # fmt: skip
"""What of a customer is recorded when it changes."""

_WAS, _IS = (", ".join(f"{row}.{field}" for field in PROFILE) for row in ("OLD", "NEW"))
_VALUES = ", ".join(f"('{field}', to_jsonb(OLD.{field}), to_jsonb(NEW.{field}))" for field in PROFILE)

# Who is somebody is said here, once: matching, edits and what is forgotten go by it.
#
# Whatever writes `customers` goes by its triggers. Their conditions are checked first: most rows that are written have
# a new order count or were only confirmed, and cost next to nothing; inserts, and COPY, cost nothing at all.
#
# A change is not recorded if it is an edit of ours: one that is settled in this very transaction (now() is its time),
# or a pending one with this value, whose answer was lost. Nor are the emptying of a row that is deleted, and its
# filling when it lives again, which is a first load.
#
# Who is nobody any more is forgotten whenever something of them is written, not only the first time: a redaction may
# come in several steps. A row that could not be loaded stays known as one, without what it held: otherwise a full pass
# would take its order for gone. Orders are emptied once, when their customer is redacted: what comes with them later
# is what the platform keeps, as of those of who is merely deleted.
CUSTOMER_CHANGED = f"""
CREATE FUNCTION somebody(c customers) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT c.deleted_at IS NULL AND c.email_consent IS DISTINCT FROM 'redacted'
        AND c.sms_consent IS DISTINCT FROM 'redacted' AND (c.addresses <> '[]'
            OR concat(c.first_name, c.last_name, c.company, c.email, c.phone, c.phone_given) <> '')
$$;
CREATE FUNCTION forget_customer(c customers) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    UPDATE customer_changes SET status = 'rejected', settled_at = now(), error = jsonb_build_object('reason',
        CASE WHEN c.deleted_at IS NULL THEN 'the customer was redacted' ELSE 'the customer was deleted' END)
    WHERE store_id = c.store_id AND customer_external_id = c.external_id AND status = 'pending';
    UPDATE customer_changes SET from_value = NULL, to_value = NULL, found_value = NULL, erased_at = now()
    WHERE store_id = c.store_id AND customer_external_id = c.external_id AND erased_at IS NULL
    AND field NOT IN ('locale', 'email_consent', 'sms_consent');
    DELETE FROM rejected_rows
    WHERE store_id = c.store_id AND resource = 'customers' AND external_id = c.external_id;
    UPDATE rejected_rows r SET payload = '' WHERE r.store_id = c.store_id AND (
        (r.resource = 'orders' AND r.external_id IN (SELECT o.external_id FROM orders o
            WHERE o.store_id = c.store_id AND o.customer_external_id = c.external_id))
        OR (r.resource = 'order_lines' AND r.external_id IN (SELECT l.external_id FROM orders o
            JOIN order_lines l ON l.store_id = o.store_id AND l.order_external_id = o.external_id
            WHERE o.store_id = c.store_id AND o.customer_external_id = c.external_id))
        OR (r.resource = 'refunds' AND r.external_id IN (SELECT f.external_id FROM orders o
            JOIN refunds f ON f.store_id = o.store_id AND f.order_external_id = o.external_id
            WHERE o.store_id = c.store_id AND o.customer_external_id = c.external_id)));
END $$;
CREATE FUNCTION customer_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.deleted_at IS NULL AND NEW.deleted_at IS NULL THEN
        INSERT INTO customer_changes
            (store_id, customer_external_id, field, from_value, to_value, changed_by, changed_at, status)
        SELECT NEW.store_id, NEW.external_id, f.field, f.was, f.value, s.platform, NEW.source_updated_at, 'recorded'
        FROM (VALUES {_VALUES}) AS f (field, was, value) JOIN stores s ON s.id = NEW.store_id
        WHERE f.was IS DISTINCT FROM f.value AND NOT EXISTS (
            SELECT FROM customer_changes c
            WHERE c.store_id = NEW.store_id AND c.customer_external_id = NEW.external_id AND c.field = f.field
            AND ((c.status = 'pending' AND c.to_value IS NOT DISTINCT FROM f.value)
                OR (c.status = 'applied' AND c.settled_at = now())));
    END IF;
    IF NOT somebody(NEW) THEN
        PERFORM forget_customer(NEW);
    END IF;
    IF NEW.deleted_at IS NULL AND NOT somebody(NEW) AND (OLD.deleted_at IS NOT NULL OR somebody(OLD)) THEN
        UPDATE orders SET email = NULL, phone = NULL, note = NULL
        WHERE store_id = NEW.store_id AND customer_external_id = NEW.external_id
        AND coalesce(email, phone, note) IS NOT NULL;
        UPDATE refunds f SET note = NULL FROM orders o
        WHERE o.store_id = NEW.store_id AND o.customer_external_id = NEW.external_id
        AND f.store_id = o.store_id AND f.order_external_id = o.external_id AND f.note IS NOT NULL;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION empty_customer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.first_name := NULL; NEW.last_name := NULL; NEW.company := NULL; NEW.email := NULL;
    NEW.email_verified := false; NEW.phone := NULL; NEW.phone_given := NULL; NEW.note := NULL;
    NEW.addresses := '[]'; NEW.tags := '{{}}';
    RETURN NEW;
END $$;
CREATE TRIGGER customer_deleted BEFORE UPDATE ON customers FOR EACH ROW
WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION empty_customer();
CREATE TRIGGER customer_changed AFTER UPDATE OF {", ".join(PROFILE)}, deleted_at ON customers FOR EACH ROW
WHEN (({_WAS}) IS DISTINCT FROM ({_IS}) OR (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL))
EXECUTE FUNCTION customer_changed()
"""  # noqa: S608 (names from above)
FORGET_NOBODY = """
    DROP TRIGGER customer_changed ON customers;
    DROP TRIGGER customer_deleted ON customers;
    DROP FUNCTION empty_customer();
    DROP FUNCTION customer_changed();
    DROP FUNCTION forget_customer(customers);
    DROP FUNCTION somebody(customers);
"""
# Whoever may be matched differently is queued by the transaction that changes them, so that no change is missed,
# however late it commits. A statement trigger for inserts: a first load brings many rows. A row trigger for updates,
# with columns: confirming that rows are still there (`synced_at`) costs nothing.
QUEUE = """
    CREATE FUNCTION queue_new_customers() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO people_queue (store_id, customer_external_id)
        SELECT store_id, external_id FROM new_customers WHERE deleted_at IS NULL;
        RETURN NULL;
    END $$;
    CREATE FUNCTION queue_customer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO people_queue (store_id, customer_external_id) VALUES (OLD.store_id, OLD.external_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION queue_decision() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
        decision person_decisions := coalesce(NEW, OLD);
    BEGIN
        INSERT INTO people_queue (store_id, customer_external_id)
        VALUES (decision.store_id, decision.customer_external_id),
            (decision.other_store_id, decision.other_customer_external_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION queue_store() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO people_queue (store_id) VALUES (coalesce(NEW.id, OLD.id));
        RETURN NULL;
    END $$;
    CREATE TRIGGER customers_new AFTER INSERT ON customers REFERENCING NEW TABLE AS new_customers
        FOR EACH STATEMENT EXECUTE FUNCTION queue_new_customers();
    CREATE TRIGGER customers_changed AFTER UPDATE OF first_name, last_name, company, email, email_verified, phone,
        phone_given, addresses, email_consent, sms_consent, deleted_at ON customers FOR EACH ROW
        WHEN ((OLD.first_name, OLD.last_name, OLD.company, OLD.email, OLD.email_verified, OLD.phone, OLD.phone_given,
            somebody(OLD)) IS DISTINCT FROM (NEW.first_name, NEW.last_name, NEW.company, NEW.email,
            NEW.email_verified, NEW.phone, NEW.phone_given, somebody(NEW)))
        EXECUTE FUNCTION queue_customer();
    CREATE TRIGGER customers_gone AFTER DELETE ON customers FOR EACH ROW EXECUTE FUNCTION queue_customer();
    CREATE TRIGGER person_decisions_changed AFTER INSERT OR UPDATE OR DELETE ON person_decisions
        FOR EACH ROW EXECUTE FUNCTION queue_decision();
    CREATE TRIGGER stores_changed AFTER INSERT OR DELETE OR UPDATE OF domain ON stores
        FOR EACH ROW EXECUTE FUNCTION queue_store();
"""
UNQUEUE = """
    DROP TRIGGER stores_changed ON stores;
    DROP TRIGGER person_decisions_changed ON person_decisions;
    DROP TRIGGER customers_gone ON customers;
    DROP TRIGGER customers_changed ON customers;
    DROP TRIGGER customers_new ON customers;
    DROP FUNCTION queue_store();
    DROP FUNCTION queue_decision();
    DROP FUNCTION queue_customer();
    DROP FUNCTION queue_new_customers();
"""
VIEWS = """
    CREATE VIEW person_orders AS
    SELECT p.person_id, o.store_id, s.name AS store, o.external_id AS order_external_id, o.name, o.channel,
        o.ordered_at, o.status, o.is_return, o.currency, o.total,
        -- Nothing was bought by a return, nor by what was cancelled.
        CASE WHEN counts.sale THEN o.total ELSE 0 END AS spent,
        r.refunded,
        CASE WHEN counts.money THEN CASE WHEN counts.sale THEN o.total ELSE 0 END - r.refunded ELSE 0 END AS net,
        counts.sale AS is_visit
    FROM person_customers p
    JOIN orders o ON o.store_id = p.store_id AND o.customer_external_id = p.customer_external_id
    JOIN stores s ON s.id = o.store_id
    CROSS JOIN LATERAL (SELECT
        NOT o.is_return AND o.status <> 'cancelled' AND o.cancelled_at IS NULL AS sale,
        -- What was paid back of a cancelled order was never counted as spent.
        o.is_return OR (o.status <> 'cancelled' AND o.cancelled_at IS NULL) AS money) counts
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0)::numeric(19, 4) AS refunded FROM (
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.sale_external_id = o.external_id AND f.deleted_at IS NULL
            UNION ALL
            -- A refund whose sale is unknown to us stands with the order that records it.
            SELECT f.amount FROM refunds f
            WHERE f.store_id = o.store_id AND f.order_external_id = o.external_id AND f.deleted_at IS NULL
            AND f.sale_external_id IS DISTINCT FROM o.external_id
            AND NOT EXISTS (SELECT FROM orders sale WHERE sale.store_id = f.store_id
                AND sale.external_id = f.sale_external_id AND sale.deleted_at IS NULL)
        ) AS paid_back) r
    WHERE o.deleted_at IS NULL AND NOT o.is_test;

    CREATE VIEW person_totals AS
    SELECT person_id, currency, count(*) FILTER (WHERE is_visit) AS orders, sum(spent) AS spent,
        sum(spent - net) AS refunded, sum(net) AS net,
        min(ordered_at) FILTER (WHERE is_visit) AS first_order_at,
        max(ordered_at) FILTER (WHERE is_visit) AS last_order_at,
        count(DISTINCT store_id) FILTER (WHERE is_visit) AS stores
    FROM person_orders GROUP BY person_id, currency;
"""


def upgrade() -> None:
    op.create_table(
        "customers",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_name", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("company", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("email_verified", sa.Boolean(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=True, comment="E.164"),
        sa.Column(
            "phone_given",
            sa.Text(),
            nullable=True,
            comment="as the platform has it, where that is not `phone`",
        ),
        sa.Column(
            "addresses",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="objects with the fields of `platforms.base.ADDRESS`",
        ),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column(
            "email_consent",
            sa.Text(),
            nullable=True,
            comment="subscribed, unsubscribed, not_subscribed, pending, invalid or redacted; null: the platform does not tell",
        ),
        sa.Column("email_consent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("email_consent_source", sa.Text(), nullable=True),
        sa.Column("sms_consent", sa.Text(), nullable=True),
        sa.Column("sms_consent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sms_consent_source", sa.Text(), nullable=True),
        sa.Column("orders_count", sa.Integer(), nullable=True, comment="the platform's own count"),
        sa.Column(
            "total_spent",
            sa.Numeric(precision=19, scale=4),
            nullable=True,
            comment="the platform's own total",
        ),
        sa.Column("currency", sa.Text(), nullable=True, comment="ISO 4217 code of total_spent"),
        sa.Column("source_created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("total_spent <> 'NaN'", name=op.f("ck_customers_total_spent")),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_customers")),
    )
    op.create_index(
        "ix_customers_email",
        "customers",
        [sa.literal_column("lower(email)")],
        unique=False,
        postgresql_where=sa.text("email IS NOT NULL"),
    )
    op.create_index(
        "ix_customers_phone",
        "customers",
        ["phone"],
        unique=False,
        postgresql_where=sa.text("phone IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_customers_store_id_synced_at"), "customers", ["store_id", "synced_at"], unique=False
    )
    op.create_table(
        "order_lines",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("order_external_id", sa.Text(), nullable=False),
        sa.Column("product_external_id", sa.Text(), nullable=True),
        sa.Column("variant_external_id", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("variant_title", sa.Text(), nullable=True),
        sa.Column("sku", sa.Text(), nullable=True),
        sa.Column("quantity", sa.Numeric(precision=19, scale=5), nullable=False),
        sa.Column(
            "current_quantity",
            sa.Numeric(precision=19, scale=5),
            nullable=False,
            comment="less what was taken off or came back",
        ),
        sa.Column("unit_price", sa.Numeric(precision=19, scale=4), nullable=False),
        sa.Column("discount", sa.Numeric(precision=19, scale=4), nullable=False),
        sa.Column(
            "total",
            sa.Numeric(precision=19, scale=4),
            nullable=False,
            comment="of the line, discounts taken off",
        ),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "quantity <> 'NaN' AND current_quantity <> 'NaN'", name=op.f("ck_order_lines_quantities")
        ),
        sa.CheckConstraint(
            "unit_price <> 'NaN' AND discount <> 'NaN' AND total <> 'NaN'",
            name=op.f("ck_order_lines_amounts"),
        ),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_order_lines")),
    )
    op.create_index(
        op.f("ix_order_lines_store_id_order_external_id"),
        "order_lines",
        ["store_id", "order_external_id"],
        unique=False,
    )
    op.create_table(
        "orders",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("name", sa.Text(), nullable=False, comment="as people call it, such as #1001"),
        sa.Column("customer_external_id", sa.Text(), nullable=True),
        sa.Column("location_external_id", sa.Text(), nullable=True, comment="where it was sold in person"),
        sa.Column("channel", sa.Text(), nullable=True, comment="the platform's word: web, pos, ..."),
        sa.Column("status", sa.Text(), nullable=False, comment="open, closed or cancelled"),
        sa.Column("financial_status", sa.Text(), nullable=True),
        sa.Column("fulfillment_status", sa.Text(), nullable=True),
        sa.Column(
            "is_return", sa.Boolean(), nullable=False, comment="nothing was sold: its refunds name the sale"
        ),
        sa.Column("is_test", sa.Boolean(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("subtotal", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("discount", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column("tax", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.Column(
            "total",
            sa.Numeric(precision=19, scale=4),
            nullable=False,
            comment="as sold; what was paid back is in `refunds`",
        ),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source_created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "total <> 'NaN' AND coalesce(subtotal, 0) <> 'NaN' AND coalesce(discount, 0) <> 'NaN' AND coalesce(tax, 0) <> 'NaN'",
            name=op.f("ck_orders_amounts"),
        ),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_orders")),
    )
    op.create_index(
        op.f("ix_orders_store_id_customer_external_id"),
        "orders",
        ["store_id", "customer_external_id"],
        unique=False,
    )
    op.create_index(op.f("ix_orders_store_id_ordered_at"), "orders", ["store_id", "ordered_at"], unique=False)
    op.create_table(
        "people",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people")),
    )
    op.create_table(
        "refunds",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("order_external_id", sa.Text(), nullable=False, comment="the order that records it"),
        sa.Column(
            "sale_external_id",
            sa.Text(),
            nullable=True,
            comment="the order whose goods were paid back, often the same; null: a return without one",
        ),
        sa.Column("amount", sa.Numeric(precision=19, scale=4), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("refunded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount <> 'NaN'", name=op.f("ck_refunds_amount")),
        sa.PrimaryKeyConstraint("store_id", "external_id", name=op.f("pk_refunds")),
    )
    op.create_index(
        op.f("ix_refunds_store_id_order_external_id"),
        "refunds",
        ["store_id", "order_external_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_refunds_store_id_sale_external_id"),
        "refunds",
        ["store_id", "sale_external_id"],
        unique=False,
    )
    op.create_table(
        "audits",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("audited_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sampled", sa.Integer(), nullable=False),
        sa.Column("different", sa.Integer(), nullable=False, comment="rows of which a field differs"),
        sa.Column("missing", sa.Integer(), nullable=False, comment="rows that are not held"),
        sa.Column(
            "ahead", sa.Integer(), nullable=False, comment="rows held with a later time than the source has"
        ),
        sa.Column("gone", sa.Integer(), nullable=False, comment="rows that the source has no more"),
        sa.Column("lag", sa.Integer(), nullable=False, comment="rows not synced yet: no drift"),
        sa.Column(
            "short",
            sa.Integer(),
            nullable=False,
            comment="so many more rows the source has, where that outlasts a pass",
        ),
        sa.Column("repaired", sa.Integer(), nullable=False),
        sa.Column(
            "fields",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="rows in which each column differs",
        ),
        sa.Column(
            "external_ids",
            postgresql.ARRAY(sa.Text()),
            server_default="{}",
            nullable=False,
            comment="of the first rows that drifted",
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_audits_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_index(op.f("ix_audits_audited_at"), "audits", ["audited_at"], unique=False)
    op.create_index(
        op.f("ix_audits_store_id_resource_audited_at"),
        "audits",
        ["store_id", "resource", "audited_at"],
        unique=False,
    )
    op.create_table(
        "customer_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_external_id", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False, comment="a column of `customers`"),
        sa.Column("from_value", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("to_value", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "changed_by", sa.Text(), nullable=False, comment="a person of ours, or the platform's name"
        ),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="of the platform's: its row's source_updated_at",
        ),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "found_value",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the platform had, where that was neither from_value nor to_value",
        ),
        sa.Column(
            "error",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="`reason`, without any value",
        ),
        sa.Column(
            "erased_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when its values were, with the customer's",
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'applied', 'superseded', 'rejected', 'recorded')",
            name=op.f("ck_customer_changes_status"),
        ),
        sa.ForeignKeyConstraint(
            ["store_id"], ["stores.id"], name=op.f("fk_customer_changes_store_id_stores")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customer_changes")),
    )
    op.create_index(
        "ix_customer_changes_pending",
        "customer_changes",
        ["store_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        op.f("ix_customer_changes_store_id_customer_external_id_id"),
        "customer_changes",
        ["store_id", "customer_external_id", "id"],
        unique=False,
    )
    op.create_table(
        "people_queue",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "customer_external_id", sa.Text(), nullable=True, comment="null: the store's domain has changed"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people_queue")),
    )
    op.create_table(
        "person_customers",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_external_id", sa.Text(), nullable=False),
        sa.Column(
            "number",
            sa.BigInteger(),
            nullable=False,
            comment="given when it was first seen; the lowest of a person is the person's id",
        ),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "matched_by",
            sa.Text(),
            server_default="first",
            nullable=False,
            comment="what it has in common with the customer `with_...`; first: none before it",
        ),
        sa.Column("with_store_id", sa.BigInteger(), nullable=True),
        sa.Column("with_customer_external_id", sa.Text(), nullable=True),
        sa.Column(
            "email_key",
            sa.LargeBinary(),
            nullable=True,
            comment="digest of a verified e-mail; null: none that could match",
        ),
        sa.Column(
            "email_shared",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="its e-mail is several people's, and matches nobody",
        ),
        sa.Column(
            "phone_key",
            sa.LargeBinary(),
            nullable=True,
            comment="digest of the phone; null: none that could match",
        ),
        sa.Column(
            "phone_shared",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="its phone is several people's, and matches nobody",
        ),
        sa.Column("linked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "matched_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="to this person, so",
        ),
        sa.CheckConstraint(
            "matched_by IN ('first', 'email', 'phone', 'decision')",
            name=op.f("ck_person_customers_matched_by"),
        ),
        sa.PrimaryKeyConstraint("store_id", "customer_external_id", name=op.f("pk_person_customers")),
    )
    op.create_index(
        "ix_person_customers_email_key",
        "person_customers",
        ["email_key"],
        unique=False,
        postgresql_where=sa.text("email_key IS NOT NULL"),
    )
    op.create_index(op.f("ix_person_customers_person_id"), "person_customers", ["person_id"], unique=False)
    op.create_index(
        "ix_person_customers_phone_key",
        "person_customers",
        ["phone_key"],
        unique=False,
        postgresql_where=sa.text("phone_key IS NOT NULL"),
    )
    op.create_table(
        "person_decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_external_id", sa.Text(), nullable=False),
        sa.Column("other_store_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "other_customer_external_id", sa.Text(), nullable=False, comment="where apart: the one who leaves"
        ),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("undone_by", sa.Text(), nullable=True),
        sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('together', 'apart')", name=op.f("ck_person_decisions_kind")),
        sa.ForeignKeyConstraint(
            ["other_store_id"], ["stores.id"], name=op.f("fk_person_decisions_other_store_id_stores")
        ),
        sa.ForeignKeyConstraint(
            ["store_id"], ["stores.id"], name=op.f("fk_person_decisions_store_id_stores")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_decisions")),
    )
    op.create_index(
        op.f("ix_person_decisions_other_store_id_other_customer_external_id"),
        "person_decisions",
        ["other_store_id", "other_customer_external_id"],
        unique=False,
    )
    op.create_index(
        "uq_person_decisions_pair",
        "person_decisions",
        ["store_id", "customer_external_id", "other_store_id", "other_customer_external_id"],
        unique=True,
        postgresql_where=sa.text("undone_at IS NULL"),
    )
    op.alter_column(
        "product_variants",
        "price",
        existing_type=sa.NUMERIC(precision=19, scale=4),
        nullable=True,
        comment="null: typed at the till",
    )
    op.add_column(
        "sync_states",
        sa.Column(
            "proof",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="of the last full pass: counts and checksums, of what was read and of what is held",
        ),
    )
    op.execute(
        "INSERT INTO sync_states (store_id, resource) SELECT id, resource FROM stores, "
        "unnest(ARRAY['customers', 'orders', 'audit']) AS resource"
    )
    op.execute(CUSTOMER_CHANGED)
    op.execute(QUEUE)
    op.execute(VIEWS)


def downgrade() -> None:
    op.execute("DELETE FROM sync_attempts WHERE resource IN ('customers', 'orders', 'audit')")
    op.execute("DELETE FROM sync_states WHERE resource IN ('customers', 'orders', 'audit')")
    op.drop_column("sync_states", "proof")
    op.alter_column(
        "product_variants",
        "price",
        existing_type=sa.NUMERIC(precision=19, scale=4),
        nullable=False,
        comment=None,
        existing_comment="null: typed at the till",
    )
    op.execute(UNQUEUE)
    op.execute("DROP VIEW person_totals; DROP VIEW person_orders")
    op.drop_index(
        "uq_person_decisions_pair",
        table_name="person_decisions",
        postgresql_where=sa.text("undone_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_person_decisions_other_store_id_other_customer_external_id"), table_name="person_decisions"
    )
    op.drop_table("person_decisions")
    op.drop_index(
        "ix_person_customers_phone_key",
        table_name="person_customers",
        postgresql_where=sa.text("phone_key IS NOT NULL"),
    )
    op.drop_index(op.f("ix_person_customers_person_id"), table_name="person_customers")
    op.drop_index(
        "ix_person_customers_email_key",
        table_name="person_customers",
        postgresql_where=sa.text("email_key IS NOT NULL"),
    )
    op.drop_table("person_customers")
    op.drop_table("people_queue")
    op.drop_index(op.f("ix_customer_changes_store_id_customer_external_id_id"), table_name="customer_changes")
    op.drop_index(
        "ix_customer_changes_pending",
        table_name="customer_changes",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_table("customer_changes")
    op.drop_index(op.f("ix_audits_store_id_resource_audited_at"), table_name="audits")
    op.drop_index(op.f("ix_audits_audited_at"), table_name="audits")
    op.drop_table("audits")
    op.drop_index(op.f("ix_refunds_store_id_sale_external_id"), table_name="refunds")
    op.drop_index(op.f("ix_refunds_store_id_order_external_id"), table_name="refunds")
    op.drop_table("refunds")
    op.drop_table("people")
    op.drop_index(op.f("ix_orders_store_id_ordered_at"), table_name="orders")
    op.drop_index(op.f("ix_orders_store_id_customer_external_id"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_order_lines_store_id_order_external_id"), table_name="order_lines")
    op.drop_table("order_lines")
    op.drop_index(op.f("ix_customers_store_id_synced_at"), table_name="customers")
    op.drop_index("ix_customers_phone", table_name="customers", postgresql_where=sa.text("phone IS NOT NULL"))
    op.drop_index("ix_customers_email", table_name="customers", postgresql_where=sa.text("email IS NOT NULL"))
    op.execute(FORGET_NOBODY)
    op.drop_table("customers")
