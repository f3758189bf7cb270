"""The tables. Migrations (`database/migrations`) make them; a test holds the two together.

A synced row has `store_id`, `external_id` (the vendor's id as text), `source_updated_at`, `synced_at` (last
written), `deleted_at`; its key is (`store_id`, `external_id`). Synced rows carry
no foreign keys to one another: pages arrive in the vendor's order, and a level may come before its variant.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bg_pipelines.queues import Unit

Timestamp = sa.DateTime(timezone=True)
Money = sa.Numeric(19, 4)
Quantity = sa.Numeric(19, 5)
"""Pieces, or what is weighed and measured: Square has five decimals."""
_REFERENCE = sa.text("substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 1, 10)")
"""Of a text message: unique over all installations that may share an account."""


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime: Timestamp,
        str: sa.Text,
        dict[str, Any]: JSONB,
        list[str]: ARRAY(sa.Text),
        bytes: sa.LargeBinary,
        Decimal: Money,
        timedelta: sa.Interval,
    }
    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        }
    )


class Store(Base):
    """A shop on a platform: who it is, how to reach it, how often it is due."""

    __tablename__ = "stores"
    __table_args__ = (
        sa.UniqueConstraint("platform", "domain"),
        sa.CheckConstraint("tier BETWEEN 1 AND 3", name="tier"),
        sa.CheckConstraint(
            "interval_minutes BETWEEN 5 AND 1440 AND interval_minutes % 5 = 0", name="interval_minutes"
        ),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    platform: Mapped[str]
    domain: Mapped[str]
    api_url: Mapped[str | None] = mapped_column(comment="base URL of the API; null: https://DOMAIN")
    tier: Mapped[int] = mapped_column(sa.SmallInteger, server_default="2")
    interval_minutes: Mapped[int | None] = mapped_column(
        sa.SmallInteger, comment="this store's own; null: its tier's"
    )
    credentials: Mapped[bytes] = mapped_column(comment="encrypted JSON, see database/secrets.py")
    paused_at: Mapped[datetime | None]
    uninstalled_at: Mapped[datetime | None] = mapped_column(
        comment="when the shop removed the app: paused, its credentials dropped"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    # What the platform says of it:
    external_id: Mapped[str | None]
    shop_name: Mapped[str | None]
    currency: Mapped[str | None]
    timezone: Mapped[str | None]
    plan: Mapped[str | None]
    source_updated_at: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None] = mapped_column(
        comment="when all of it was erased: this row alone is left, and nothing runs for it"
    )


class Synced:
    """The columns that every synced table begins with."""

    store_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, sort_order=-5, doc="whose it is")
    external_id: Mapped[str] = mapped_column(
        primary_key=True, sort_order=-4, doc="the vendor's id, for Shopify the gid"
    )
    source_updated_at: Mapped[datetime] = mapped_column(sort_order=-3, doc="when it changed at the source")
    synced_at: Mapped[datetime] = mapped_column(
        server_default=sa.func.now(), sort_order=-2, doc="when this row was last written"
    )
    deleted_at: Mapped[datetime | None] = mapped_column(
        sort_order=-1, doc="when it was found to be deleted at the source"
    )


class Claimed:
    """The columns of claimed work: when a row is due, which claim has it, how often it failed and what was decided.

    `work/queue.py` reads and writes them; every table that has them is a queue, with the same claims, retries,
    incidents and figures. A row that is finished, or parked under an incident, is not due at any time. Where the
    table has a `status`, only `pending` rows are work. `label` is the SQL of a row's name for people; the table is
    `t`.
    """

    label: ClassVar[str]
    carrier: ClassVar[Unit | None] = None
    """The unit of its store whose visits work on the row; None: it is claimed by itself."""

    next_due_at: Mapped[datetime | None] = mapped_column(
        server_default=sa.func.now(), comment="null: parked under incident_id, or finished"
    )
    lease_owner: Mapped[str | None] = mapped_column(comment="one claim of one run")
    lease_expires_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(
        server_default="0", comment="failures since the last success or progress"
    )
    last_error: Mapped[dict[str, Any] | None] = mapped_column(
        comment="the last failure, without personal data"
    )
    retry_strategy: Mapped[str | None] = mapped_column(comment="what was decided about the last failure")
    retry_reason: Mapped[str | None] = mapped_column(comment="and why")
    incident_id: Mapped[int | None] = mapped_column(sa.ForeignKey("incidents.id"))


def _claimed() -> tuple[sa.schema.SchemaItem, ...]:
    """The constraint and the index that a table of claimed work has."""
    return (
        sa.CheckConstraint(
            "retry_strategy IN ('exponential_backoff', 'scheduled_retry', 'manual_intervention')",
            name="retry_strategy",
        ),
        sa.Index(None, "incident_id", postgresql_where=sa.text("incident_id IS NOT NULL")),
    )


def _deleted() -> sa.Index:
    """What retention finds deleted rows of a synced table by."""
    return sa.Index(None, "deleted_at", postgresql_where=sa.text("deleted_at IS NOT NULL"))


class Location(Synced, Base):
    """A place of a store that holds stock or sells."""

    __tablename__ = "locations"
    __table_args__ = (_deleted(),)

    name: Mapped[str]
    active: Mapped[bool]
    fulfills_online_orders: Mapped[bool]
    address: Mapped[str | None]
    city: Mapped[str | None]
    province_code: Mapped[str | None]
    country_code: Mapped[str | None]
    postal_code: Mapped[str | None]


class Product(Synced, Base):
    """A product of a store."""

    __tablename__ = "products"
    __table_args__ = (_deleted(),)

    title: Mapped[str]
    handle: Mapped[str]
    status: Mapped[str]
    vendor: Mapped[str]
    product_type: Mapped[str]
    tags: Mapped[list[str]]
    source_created_at: Mapped[datetime]


class ProductVariant(Synced, Base):
    """What is sold: a product in one size, colour or the like, with its price."""

    __tablename__ = "product_variants"
    __table_args__ = (
        _deleted(),
        sa.Index(None, "store_id", "product_external_id"),
        sa.Index(None, "store_id", "inventory_item_external_id"),
        # PostgreSQL's numeric takes 'NaN', and a NaN passes every comparison but this.
        sa.CheckConstraint("price >= 0 AND price <> 'NaN'", name="price"),
        sa.CheckConstraint("compare_at_price >= 0 AND compare_at_price <> 'NaN'", name="compare_at_price"),
    )

    product_external_id: Mapped[str]
    inventory_item_external_id: Mapped[str]
    title: Mapped[str]
    sku: Mapped[str | None]
    barcode: Mapped[str | None]
    position: Mapped[int]
    price: Mapped[Decimal | None] = mapped_column(comment="null: typed at the till")
    compare_at_price: Mapped[Decimal | None]
    currency: Mapped[str] = mapped_column(comment="ISO 4217 code of both prices")


class InventoryLevel(Synced, Base):
    """Stock of one item at one location. Deleted: the item is no longer stocked there."""

    __tablename__ = "inventory_levels"
    __table_args__ = (sa.Index(None, "store_id", "inventory_item_external_id"), _deleted())

    inventory_item_external_id: Mapped[str]
    location_external_id: Mapped[str]
    available: Mapped[int]
    on_hand: Mapped[int]
    committed: Mapped[int]
    incoming: Mapped[int]


class Customer(Synced, Base):
    """A customer of a store as its platform has them. Personal: never in a log, a run's config or an error.

    A trigger (migration 0003) empties the row of one who is deleted.
    """

    __tablename__ = "customers"
    __table_args__ = (
        _deleted(),
        sa.Index(
            "ix_customers_email", sa.text("lower(email)"), postgresql_where=sa.text("email IS NOT NULL")
        ),
        sa.Index("ix_customers_phone", "phone", postgresql_where=sa.text("phone IS NOT NULL")),
        sa.Index(None, "store_id", "synced_at"),
        sa.CheckConstraint("total_spent <> 'NaN'", name="total_spent"),
    )

    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    company: Mapped[str | None]
    email: Mapped[str | None]
    email_verified: Mapped[bool]
    phone: Mapped[str | None] = mapped_column(comment="E.164")
    phone_given: Mapped[str | None] = mapped_column(
        comment="as the platform has it, where that is not `phone`"
    )
    addresses: Mapped[list[Any]] = mapped_column(
        JSONB, comment="objects with the fields of `records.ADDRESS`"
    )
    tags: Mapped[list[str]]
    locale: Mapped[str | None]
    note: Mapped[str | None]
    email_consent: Mapped[str | None] = mapped_column(
        comment="subscribed, unsubscribed, not_subscribed, pending, invalid or redacted; null: the platform does not tell"
    )
    email_consent_at: Mapped[datetime | None]
    email_consent_source: Mapped[str | None]
    sms_consent: Mapped[str | None]
    sms_consent_at: Mapped[datetime | None]
    sms_consent_source: Mapped[str | None]
    orders_count: Mapped[int | None] = mapped_column(comment="the platform's own count")
    total_spent: Mapped[Decimal | None] = mapped_column(comment="the platform's own total")
    currency: Mapped[str | None] = mapped_column(comment="ISO 4217 code of total_spent")
    source_created_at: Mapped[datetime]


class Order(Synced, Base):
    """A sale, or a return that the platform records as an order of its own. Amounts are in the shop's currency."""

    __tablename__ = "orders"
    __table_args__ = (
        _deleted(),
        sa.Index(None, "store_id", "customer_external_id"),
        sa.Index(None, "store_id", "ordered_at"),
        # Whose an order without a customer is shows in its e-mail or phone alone.
        sa.Index(
            "ix_orders_email",
            "store_id",
            sa.text("lower(email)"),
            postgresql_where=sa.text("customer_external_id IS NULL AND email IS NOT NULL"),
        ),
        sa.Index(
            "ix_orders_phone",
            "store_id",
            "phone",
            postgresql_where=sa.text("customer_external_id IS NULL AND phone IS NOT NULL"),
        ),
        sa.CheckConstraint(
            "total <> 'NaN' AND coalesce(subtotal, 0) <> 'NaN' AND coalesce(discount, 0) <> 'NaN' "
            "AND coalesce(tax, 0) <> 'NaN'",
            name="amounts",
        ),
        sa.CheckConstraint("current_total <> 'NaN'", name="current_total"),
    )

    name: Mapped[str] = mapped_column(comment="as people call it, such as #1001")
    customer_external_id: Mapped[str | None]
    location_external_id: Mapped[str | None] = mapped_column(comment="where it was sold in person")
    channel: Mapped[str | None] = mapped_column(comment="the platform's word: web, pos, ...")
    status: Mapped[str] = mapped_column(comment="open, closed or cancelled")
    financial_status: Mapped[str | None]
    fulfillment_status: Mapped[str | None]
    is_return: Mapped[bool] = mapped_column(comment="nothing was sold: its refunds name the sale")
    is_test: Mapped[bool]
    currency: Mapped[str]
    subtotal: Mapped[Decimal | None]
    discount: Mapped[Decimal | None]
    tax: Mapped[Decimal | None]
    total: Mapped[Decimal] = mapped_column(comment="as sold; what was paid back is in `refunds`")
    current_total: Mapped[Decimal | None] = mapped_column(
        comment="what is still sold of it, after edits and returns, paid back or not; null: the platform does not tell"
    )
    email: Mapped[str | None]
    phone: Mapped[str | None]
    note: Mapped[str | None]
    tags: Mapped[list[str]]
    ordered_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    closed_at: Mapped[datetime | None]
    source_created_at: Mapped[datetime]


class OrderLine(Synced, Base):
    """A line of an order; `source_updated_at` is the order's."""

    __tablename__ = "order_lines"
    __table_args__ = (
        _deleted(),
        sa.Index(None, "store_id", "order_external_id"),
        sa.CheckConstraint("unit_price <> 'NaN' AND discount <> 'NaN' AND total <> 'NaN'", name="amounts"),
        sa.CheckConstraint("quantity <> 'NaN' AND current_quantity <> 'NaN'", name="quantities"),
    )

    order_external_id: Mapped[str]
    product_external_id: Mapped[str | None]
    variant_external_id: Mapped[str | None]
    title: Mapped[str]
    variant_title: Mapped[str | None]
    sku: Mapped[str | None]
    quantity: Mapped[Decimal] = mapped_column(Quantity)
    current_quantity: Mapped[Decimal] = mapped_column(
        Quantity, comment="less what was taken off or came back"
    )
    unit_price: Mapped[Decimal]
    discount: Mapped[Decimal]
    total: Mapped[Decimal] = mapped_column(comment="of the line, discounts taken off")
    currency: Mapped[str]


class Refund(Synced, Base):
    """Money paid back; `source_updated_at` is that of the order which records it."""

    __tablename__ = "refunds"
    __table_args__ = (
        _deleted(),
        sa.Index(None, "store_id", "order_external_id"),
        sa.Index(None, "store_id", "sale_external_id"),
        sa.CheckConstraint("amount <> 'NaN'", name="amount"),
    )

    order_external_id: Mapped[str] = mapped_column(comment="the order that records it")
    sale_external_id: Mapped[str | None] = mapped_column(
        comment="the order whose goods were paid back, often the same; null: a return without one"
    )
    amount: Mapped[Decimal]
    currency: Mapped[str]
    note: Mapped[str | None]
    refunded_at: Mapped[datetime]


class CustomerChange(Claimed, Base):
    """A change of one field of a customer: an edit of ours to be sent to the platform, or one that came from there.

    `pending` -> `applied` | `superseded` (the platform has a newer value, `found_value`; or a later edit of ours took
    its place) | `rejected` (the platform rejects it, or the customer was deleted: `error`). `recorded` came from the
    platform; a trigger of `customers` (migration 0003) writes these. Values are personal, as the customer is: the same
    trigger erases them when the customer is redacted or deleted.
    """

    __tablename__ = "customer_changes"
    label = "'edit ' || t.id || ' of ' || t.field"
    carrier = Unit.CUSTOMERS
    __table_args__ = (
        sa.Index(None, "changed_at"),
        *_claimed(),
        sa.CheckConstraint(
            "status IN ('pending', 'applied', 'superseded', 'rejected', 'recorded')", name="status"
        ),
        sa.Index(None, "store_id", "customer_external_id", "id"),
        sa.Index(
            "ix_customer_changes_pending", "store_id", "id", postgresql_where=sa.text("status = 'pending'")
        ),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    customer_external_id: Mapped[str]
    field: Mapped[str] = mapped_column(comment="a column of `customers`")
    from_value: Mapped[Any | None] = mapped_column(JSONB)
    to_value: Mapped[Any | None] = mapped_column(JSONB)
    changed_by: Mapped[str] = mapped_column(comment="a person of ours, or the platform's name")
    changed_at: Mapped[datetime] = mapped_column(
        server_default=sa.func.now(), comment="of the platform's: its row's source_updated_at"
    )
    status: Mapped[str] = mapped_column(server_default="pending")
    settled_at: Mapped[datetime | None]
    found_value: Mapped[Any | None] = mapped_column(
        JSONB, comment="what the platform had, where that was neither from_value nor to_value"
    )
    error: Mapped[dict[str, Any] | None] = mapped_column(comment="`reason`, without any value")
    erased_at: Mapped[datetime | None] = mapped_column(comment="when its values were, with the customer's")


class Person(Base):
    """One person, whichever stores they are a customer of. Views of their orders: `person_orders`, `person_totals`."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class PersonCustomer(Base):
    """Which person a customer is, and why. Names customers, never their data: keys are digests."""

    __tablename__ = "person_customers"
    __table_args__ = (
        sa.CheckConstraint("matched_by IN ('first', 'email', 'phone', 'decision')", name="matched_by"),
        sa.Index(None, "person_id"),
        sa.Index(
            "ix_person_customers_email_key", "email_key", postgresql_where=sa.text("email_key IS NOT NULL")
        ),
        sa.Index(
            "ix_person_customers_phone_key", "phone_key", postgresql_where=sa.text("phone_key IS NOT NULL")
        ),
    )

    store_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    customer_external_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(
        sa.BigInteger, comment="given when it was first seen; the lowest of a person is the person's id"
    )
    person_id: Mapped[int] = mapped_column(sa.BigInteger)
    matched_by: Mapped[str] = mapped_column(
        server_default="first",
        comment="what it has in common with the customer `with_...`; first: none before it",
    )
    with_store_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    with_customer_external_id: Mapped[str | None]
    email_key: Mapped[bytes | None] = mapped_column(
        comment="digest of a verified e-mail; null: none that could match"
    )
    email_shared: Mapped[bool] = mapped_column(
        server_default=sa.false(), comment="its e-mail is several people's, and matches nobody"
    )
    phone_key: Mapped[bytes | None] = mapped_column(
        comment="digest of the phone; null: none that could match"
    )
    phone_shared: Mapped[bool] = mapped_column(
        server_default=sa.false(), comment="its phone is several people's, and matches nobody"
    )
    linked_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    matched_at: Mapped[datetime] = mapped_column(server_default=sa.func.now(), comment="to this person, so")


class PersonDecision(Base):
    """A decision: two customers are one person (`together`), or never are (`apart`)."""

    __tablename__ = "person_decisions"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('together', 'apart')", name="kind"),
        sa.Index(
            "uq_person_decisions_pair",
            "store_id",
            "customer_external_id",
            "other_store_id",
            "other_customer_external_id",
            unique=True,
            postgresql_where=sa.text("undone_at IS NULL"),
        ),
        sa.Index(None, "other_store_id", "other_customer_external_id"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    kind: Mapped[str]
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    customer_external_id: Mapped[str]
    other_store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    other_customer_external_id: Mapped[str] = mapped_column(comment="where apart: the one who leaves")
    decided_by: Mapped[str]
    decided_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    undone_by: Mapped[str | None]
    undone_at: Mapped[datetime | None]


class PeopleQueue(Base):
    """Customers to be matched again. Triggers fill it in the transaction of the change, so none is missed."""

    __tablename__ = "people_queue"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.BigInteger)
    customer_external_id: Mapped[str | None] = mapped_column(comment="null: the store's domain has changed")


class Audit(Base):
    """What one audit found in a sample of a store's rows: how they differ from the source, and what was repaired."""

    __tablename__ = "audits"
    __table_args__ = (sa.Index(None, "store_id", "resource", "audited_at"), sa.Index(None, "audited_at"))

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    resource: Mapped[str]
    run_id: Mapped[str]
    audited_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    sampled: Mapped[int]
    different: Mapped[int] = mapped_column(comment="rows of which a field differs")
    missing: Mapped[int] = mapped_column(comment="rows that are not held")
    ahead: Mapped[int] = mapped_column(comment="rows held with a later time than the source has")
    gone: Mapped[int] = mapped_column(comment="rows that the source has no more")
    lag: Mapped[int] = mapped_column(comment="rows not synced yet: no drift")
    short: Mapped[int] = mapped_column(comment="so many more rows the source has, where that outlasts a pass")
    repaired: Mapped[int]
    fields: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="rows in which each column differs"
    )
    external_ids: Mapped[list[str]] = mapped_column(
        server_default="{}", comment="of the first rows that drifted"
    )


class InventoryCorrection(Claimed, Base):
    """A stock count made on our side, to be written to the platform once: recorded before it is sent.

    `pending` -> `applied` | `stale` (the platform's quantity was not `change_from_quantity`; it stands in
    `found_quantity`; never forced) | `rejected` (the platform refuses it: `error`). Insert a row to correct stock.
    """

    __tablename__ = "inventory_corrections"
    label = "'stock correction ' || t.id"
    carrier = Unit.INVENTORY_LEVELS
    __table_args__ = (
        sa.Index(None, "created_at"),
        *_claimed(),
        sa.CheckConstraint("status IN ('pending', 'applied', 'stale', 'rejected')", name="status"),
        sa.CheckConstraint("quantity >= 0", name="quantity"),
        sa.Index(None, "store_id", "id", postgresql_where=sa.text("status = 'pending'")),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    inventory_item_external_id: Mapped[str]
    location_external_id: Mapped[str]
    change_from_quantity: Mapped[int] = mapped_column(comment="what `available` was when it was counted")
    quantity: Mapped[int] = mapped_column(comment="what `available` is to be")
    reason: Mapped[str] = mapped_column(server_default="correction")
    idempotency_key: Mapped[str] = mapped_column(
        unique=True, server_default=sa.text("(gen_random_uuid())::text")
    )
    status: Mapped[str] = mapped_column(server_default="pending")
    found_quantity: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    settled_at: Mapped[datetime | None]


class Cart(Synced, Base):
    """A cart of a store: from webhooks, which are the only source of it, or written by the application itself.

    Personal: never in a log, a run's config or an error.
    """

    __tablename__ = "carts"
    __table_args__ = (
        sa.Index(None, "store_id", "customer_external_id"),
        sa.Index(
            "ix_carts_checkout",
            "store_id",
            "checkout_external_id",
            postgresql_where=sa.text("checkout_external_id IS NOT NULL"),
        ),
        sa.Index(
            "ix_carts_email",
            "store_id",
            sa.text("lower(email)"),
            postgresql_where=sa.text("customer_external_id IS NULL AND email IS NOT NULL"),
        ),
        sa.Index(
            "ix_carts_phone",
            "store_id",
            "phone",
            postgresql_where=sa.text("customer_external_id IS NULL AND phone IS NOT NULL"),
        ),
        sa.CheckConstraint("total <> 'NaN'", name="total"),
        sa.CheckConstraint(
            "payment_state IN ('none', 'pending', 'authorised', 'paid', 'settled')", name="payment_state"
        ),
        sa.Index(
            "ix_carts_money",
            "store_id",
            "source_updated_at",
            postgresql_where=sa.text("payment_state IN ('pending', 'authorised', 'paid')"),
        ),
        _deleted(),
    )

    customer_external_id: Mapped[str | None] = mapped_column(comment="null: anonymous")
    checkout_external_id: Mapped[str | None] = mapped_column(comment="the token of the checkout it went into")
    order_external_id: Mapped[str | None] = mapped_column(comment="the order it became")
    currency: Mapped[str | None]
    total: Mapped[Decimal | None]
    email: Mapped[str | None]
    phone: Mapped[str | None] = mapped_column(comment="E.164")
    completed_at: Mapped[datetime | None] = mapped_column(comment="when its checkout was completed")
    source_created_at: Mapped[datetime]
    # A cart and its checkout are told of apart, each in its own order; `source_updated_at` is the later of both.
    cart_updated_at: Mapped[datetime | None] = mapped_column(
        comment="when what it holds last changed; null: only its checkout is known"
    )
    checkout_updated_at: Mapped[datetime | None] = mapped_column(comment="when its checkout last changed")
    payment_state: Mapped[str] = mapped_column(
        server_default="none",
        comment="pending, authorised and paid: money is in it, and it is never deleted; settled: an order has it",
    )
    abandoned_at: Mapped[datetime | None] = mapped_column(
        comment="when clean_active_carts found it abandoned; of no account once source_updated_at is later"
    )


class CartItem(Synced, Base):
    """A line of a cart; `source_updated_at` is the cart's."""

    __tablename__ = "cart_items"
    __table_args__ = (
        _deleted(),
        sa.Index(None, "store_id", "cart_external_id"),
        sa.CheckConstraint("unit_price <> 'NaN' AND total <> 'NaN'", name="amounts"),
        sa.CheckConstraint("quantity <> 'NaN'", name="quantity"),
    )

    cart_external_id: Mapped[str]
    product_external_id: Mapped[str | None]
    variant_external_id: Mapped[str | None]
    title: Mapped[str]
    sku: Mapped[str | None]
    quantity: Mapped[Decimal] = mapped_column(Quantity)
    unit_price: Mapped[Decimal | None]
    total: Mapped[Decimal | None]
    currency: Mapped[str | None]


class InventoryReservation(Base):
    """Stock that a cart holds back. It is given back by deleting the row; see the view `sellable_stock`."""

    __tablename__ = "inventory_reservations"
    __table_args__ = (
        sa.Index(None, "store_id", "cart_external_id"),
        sa.Index(
            "ix_inventory_reservations_item",
            "store_id",
            "inventory_item_external_id",
            "location_external_id",
        ),
        sa.CheckConstraint("quantity > 0 AND quantity <> 'NaN'", name="quantity"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.BigInteger)
    cart_external_id: Mapped[str]
    inventory_item_external_id: Mapped[str]
    location_external_id: Mapped[str]
    quantity: Mapped[Decimal] = mapped_column(Quantity)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class ShopSession(Base):
    """A visitor's session in the application's shop. Personal: never in a log, a run's config or an error."""

    __tablename__ = "sessions"
    __table_args__ = (sa.Index(None, "store_id", "customer_external_id"),)

    id: Mapped[str] = mapped_column(primary_key=True, comment="a digest of the token, better than the token")
    store_id: Mapped[int] = mapped_column(sa.BigInteger)
    customer_external_id: Mapped[str | None] = mapped_column(comment="null: nobody is logged in")
    cart_external_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now(), comment="its last activity")
    expires_at: Mapped[datetime]


class CartEvent(Base):
    """What happened to a cart, for whoever acts on it: `cart.abandoned`."""

    __tablename__ = "cart_events"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('cart.abandoned')", name="kind"),
        sa.Index(None, "store_id", "cart_external_id"),
        sa.Index(None, "happened_at"),
        sa.Index(
            "ix_cart_events_new", "happened_at", "id", postgresql_where=sa.text("considered_at IS NULL")
        ),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.BigInteger)
    cart_external_id: Mapped[str]
    kind: Mapped[str]
    happened_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    considered_at: Mapped[datetime | None] = mapped_column(
        comment="when it was looked at for a reminder by text message (messaging/reminders.py)"
    )


class CartRules(Base):
    """What one store has otherwise than `cleaning.carts.CartKeep`; null: as there."""

    __tablename__ = "cart_rules"

    store_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    abandon: Mapped[timedelta | None] = mapped_column(comment="without activity for so long: abandoned")
    anonymous: Mapped[timedelta | None] = mapped_column(comment="without activity for so long: deleted")
    customer: Mapped[timedelta | None]
    empty: Mapped[timedelta | None]
    bought: Mapped[timedelta | None]
    archive: Mapped[timedelta | None] = mapped_column(comment="how long deleted carts are kept archived")


class CleaningTask(Claimed, Base):
    """One thing that a cleaning job does, such as a sweep through a table: when it is due, which run has it, where
    it has got to."""

    __tablename__ = "cleaning_tasks"
    label = "'cleaning ' || t.name"
    __table_args__ = (*_claimed(), sa.Index(None, "job"))

    name: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str]
    place: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB, comment="of an unfinished pass: see cleaning/batches.py"
    )
    paused_at: Mapped[datetime | None] = mapped_column(comment="null: it is not paused")
    paused_by: Mapped[str | None]
    completed_at: Mapped[datetime | None] = mapped_column(comment="the end of its last whole pass")


class CleaningResult(Base):
    """What a run freed by one task, and what held it up."""

    __tablename__ = "cleaning_results"
    __table_args__ = (sa.Index(None, "finished_at"), sa.Index(None, "task", "finished_at"))

    run_id: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    completed: Mapped[bool] = mapped_column(comment="false: the rest is the next run's")
    rows_freed: Mapped[int] = mapped_column(sa.BigInteger, server_default="0", comment="of all its tables")
    bytes_freed: Mapped[int] = mapped_column(
        sa.BigInteger, server_default="0", comment="of those rows, without their index entries"
    )
    batches: Mapped[int] = mapped_column(server_default="0")
    set_aside: Mapped[int] = mapped_column(server_default="0", comment="rows that could not be deleted")
    figures: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="rows and bytes by table")
    pauses: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="seconds by reason")
    advice: Mapped[list[Any]] = mapped_column(
        JSONB, server_default="[]", comment="what a person may want to do"
    )


class SetAsideRow(Base):
    """A row that cleaning could not delete, because a foreign key or a trigger refuses it; tried again after a day."""

    __tablename__ = "cleaning_set_aside"

    task: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True, comment="the row's key, as text")
    reason: Mapped[str] = mapped_column(comment="without personal data")
    first_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    last_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class ArchivedRows(Base):
    """Deleted rows of one batch, kept for a while: JSON lines, compressed and encrypted."""

    __tablename__ = "archived_rows"
    __table_args__ = (sa.Index(None, "expires_at"), sa.Index(None, "task", "archived_at"))

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    task: Mapped[str]
    archived_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    expires_at: Mapped[datetime]
    row_count: Mapped[int]
    content: Mapped[bytes]


class WebhookSubscription(Synced, Base):
    """A subscription of ours at a store's platform, as it was when it was last looked at (the unit `webhooks`).

    `deleted_at`: it was found missing there, or removed by us.
    """

    __tablename__ = "webhook_subscriptions"
    __table_args__ = (_deleted(),)

    topics: Mapped[list[str]] = mapped_column(comment="as the platform's deliveries name them")
    uri: Mapped[str]
    include_fields: Mapped[list[str] | None] = mapped_column(comment="null: whole payloads")
    filter: Mapped[str | None]
    signature_key: Mapped[bytes | None] = mapped_column(
        comment="encrypted: what signs its deliveries, where that is its own"
    )


class WebhookEvent(Claimed, Base):
    """The inbox: a delivery that was received. Stored before its sender is answered, handled by `handle_webhooks`.

    `pending` -> `handled` | `passed_on` (to the next pass of its table, which finds the change by itself) | `ignored`
    (`reason` says why). `not_understood`: kept for a day, never handled. One that changes or deletes a row holds its
    id and no personal data; `payload` is only kept where it is the sole source, or a command.
    """

    __tablename__ = "webhook_events"
    label = "t.topic || ' ' || t.id"
    __table_args__ = (
        *_claimed(),
        sa.CheckConstraint(
            "status IN ('pending', 'handled', 'passed_on', 'ignored', 'not_understood')", name="status"
        ),
        # The vendor's key for duplicates; without a store (an unknown one) its deliveries are told apart as well.
        sa.UniqueConstraint("store_id", "topic", "webhook_id", postgresql_nulls_not_distinct=True),
        sa.Index(
            "ix_webhook_events_pending",
            "store_id",
            "next_due_at",
            "id",
            postgresql_where=sa.text("status = 'pending'"),
        ),
        sa.Index(
            "ix_webhook_events_not_understood",
            "received_at",
            postgresql_where=sa.text("status = 'not_understood'"),
        ),
        sa.Index(None, "store_id", "resource", "object_id"),
        sa.Index(None, "received_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int | None] = mapped_column(
        sa.BigInteger, comment="null: its sender names no store of ours"
    )
    source: Mapped[str] = mapped_column(comment="shopify, square or twilio")
    topic: Mapped[str]
    webhook_id: Mapped[str] = mapped_column(
        comment="the sender's id of the delivery, the same when it is repeated; #2 for its second row"
    )
    event_id: Mapped[str | None] = mapped_column(comment="the sender's id of what happened, where it has one")
    resource: Mapped[str | None] = mapped_column(comment="what it is about: a table")
    object_id: Mapped[str | None] = mapped_column(comment="which row: its external_id")
    source_updated_at: Mapped[datetime | None] = mapped_column(comment="the row's, as the payload has it")
    triggered_at: Mapped[datetime | None] = mapped_column(comment="when the sender says that it happened")
    received_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    payload: Mapped[bytes | None] = mapped_column(comment="encrypted: it may hold personal data")
    status: Mapped[str] = mapped_column(server_default="pending")
    reason: Mapped[str | None] = mapped_column(comment="why it was not handled; without personal data")
    settled_at: Mapped[datetime | None]


class WebhookCoverage(Base):
    """Of the rows of a store's table that changed within an hour: how many events told of, and how many only a pass
    found."""

    __tablename__ = "webhook_coverage"
    __table_args__ = (sa.Index(None, "hour"),)

    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True, comment="its beginning, UTC")
    told: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    untold: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")


class DataRequest(Base):
    """What a store's platform or a person asks for: an export of a customer's data, or that it or a store's is erased; proof.

    Without personal data: the customer is named by their id at the platform. What else they are recognised by is kept,
    encrypted, until the request is done.
    """

    __tablename__ = "data_requests"
    __table_args__ = (
        sa.CheckConstraint(
            "kind IN ('export', 'erase_customer', 'erase_store', 'erase_store_but_orders')", name="kind"
        ),
        sa.CheckConstraint("status IN ('open', 'done')", name="status"),
        sa.Index(None, "status", "due_at"),
        sa.Index(None, "store_id", "customer_external_id"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    kind: Mapped[str]
    customer_external_id: Mapped[str | None]
    external_id: Mapped[str | None] = mapped_column(
        comment="the platform's id of the request, where it has one"
    )
    received_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    due_at: Mapped[datetime] = mapped_column(comment="by when the law wants it done")
    status: Mapped[str] = mapped_column(server_default="open")
    done_at: Mapped[datetime | None]
    done_by: Mapped[str | None]
    result: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="rows by table that were exported or erased"
    )
    file: Mapped[str | None] = mapped_column(comment="where the export lies: machine:path")
    subject: Mapped[bytes | None] = mapped_column(
        comment="encrypted: by what the customer is recognised; null once it is done"
    )


class ErasedRow(Base):
    """A row whose personal data was erased here: whatever is loaded of it later is loaded without. Ids alone.

    Of a customer their orders and carts are covered with them.
    """

    __tablename__ = "erased_rows"

    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True, comment="its table")
    external_id: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class TextMessage(Claimed, Base):
    """The outbox: a text message to be sent once. Insert a row to have one sent (docs/text-messages.md).

    `pending` -> `refused` (not sent: `reason`) | `queued` (Twilio has it) -> `sending` -> `sent` -> `delivered`,
    `undelivered`, `failed` or `canceled`. A state never goes back. `called_at` is written before each call and emptied
    when its outcome is known: a row that has it is looked up at Twilio before anything else is done. Personal: `phone`,
    `body` and `fields` never reach a log.
    """

    __tablename__ = "text_messages"
    label = "'text message ' || t.id"
    __table_args__ = (
        *_claimed(),
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'cart_reminder', 'service')", name="kind"
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'refused', 'queued', 'sending', 'sent', 'delivered', 'undelivered', 'failed', "
            "'canceled')",
            name="status",
        ),
        sa.Index("ix_text_messages_due", "next_due_at", "id", postgresql_where=sa.text("status = 'pending'")),
        sa.Index(None, "phone", "sent_at"),
        sa.Index(None, "sent_at"),
        sa.Index(None, "created_at"),
        sa.Index(None, "store_id", "customer_external_id"),
        sa.Index(
            "ix_text_messages_error_code", "status_at", postgresql_where=sa.text("error_code IS NOT NULL")
        ),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(
        comment="what consent is for; service: an answer to an opt-in or opt-out"
    )
    template: Mapped[str]
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    phone: Mapped[str] = mapped_column(comment="E.164")
    customer_external_id: Mapped[str | None]
    product_external_id: Mapped[str | None]
    variant_external_id: Mapped[str | None]
    order_external_id: Mapped[str | None]
    cart_external_id: Mapped[str | None]
    link: Mapped[str | None] = mapped_column(
        comment="null: the page of the product, or of the cart, in the store's own shop"
    )
    fields: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="what else the template names"
    )
    requested_by: Mapped[str | None] = mapped_column(
        comment="who says that the recipient asked for this one message; null: needs consent for its kind"
    )
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    expires_at: Mapped[datetime] = mapped_column(
        server_default=sa.text("(now() + interval '2 days')"), comment="refused if it is not sent by then"
    )
    reference: Mapped[str] = mapped_column(
        unique=True,
        server_default=_REFERENCE,
        comment="stands in its text: no other message on the account has it",
    )
    status: Mapped[str] = mapped_column(server_default="pending")
    reason: Mapped[str | None] = mapped_column(comment="why it was refused or failed, without personal data")
    body: Mapped[str | None] = mapped_column(comment="the whole text, kept from its first call on")
    segments: Mapped[int | None]
    calls: Mapped[int] = mapped_column(server_default="0", comment="how often sending it was begun")
    called_at: Mapped[datetime | None] = mapped_column(
        comment="when a call began whose outcome is not known; null: none"
    )
    sent_at: Mapped[datetime | None] = mapped_column(comment="when Twilio had it")
    sid: Mapped[str | None] = mapped_column(unique=True, comment="Twilio's id of it")
    error_code: Mapped[int | None] = mapped_column(comment="Twilio's")
    status_at: Mapped[datetime | None] = mapped_column(comment="when Twilio last told its state")


class SmsConsent(Base):
    """The ledger of consent: one row an event, never changed and never deleted. Evidence, and so kept when all else of a
    person is erased.

    A trigger keeps `sms_opt_outs` in line with it. `granted`, `confirmed` (double opt-in) and `revoked` decide about a
    kind, the latest of them; `asked` is a question sent (double opt-in), `requested` one message asked for,
    `unreachable` a number that can never be reached.
    """

    __tablename__ = "sms_consents"
    __table_args__ = (
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'cart_reminder', 'all')", name="kind"
        ),
        sa.CheckConstraint(
            "event IN ('granted', 'confirmed', 'revoked', 'asked', 'requested', 'unreachable')", name="event"
        ),
        sa.Index(None, "phone", "occurred_at"),
        sa.Index(None, "event", "recorded_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    phone: Mapped[str] = mapped_column(comment="E.164")
    kind: Mapped[str]
    event: Mapped[str]
    source: Mapped[str] = mapped_column(comment="web form, checkout, reply, staff, shopify, twilio, ...")
    channel: Mapped[str] = mapped_column(comment="web, sms, phone, e-mail, in person, ...")
    wording: Mapped[str | None] = mapped_column(comment="what the person was shown, or said")
    evidence: Mapped[str | None] = mapped_column(
        comment="where it is kept: Twilio's id of a reply, a form's number"
    )
    store_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stores.id"))
    recorded_by: Mapped[str | None]
    occurred_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    recorded_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class SmsOptOut(Base):
    """Who gets no text messages, of one kind or of all. Kept by a trigger of `sms_consents`; a row that is inserted here
    counts as well."""

    __tablename__ = "sms_opt_outs"
    __table_args__ = (
        sa.CheckConstraint(
            "kind IN ('product_share', 'customer_alert', 'cart_reminder', 'all')", name="kind"
        ),
    )

    phone: Mapped[str] = mapped_column(primary_key=True, comment="E.164")
    kind: Mapped[str] = mapped_column(primary_key=True, server_default="all")
    since: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    how: Mapped[str] = mapped_column(server_default="recorded by the application")


class TextReply(Base):
    """What somebody answered, and how it was read. A person settles those that are no keyword."""

    __tablename__ = "text_replies"
    __table_args__ = (
        sa.CheckConstraint("reading IN ('stop', 'start', 'help', 'yes', 'refusal', 'other')", name="reading"),
        sa.Index("ix_text_replies_open", "id", postgresql_where=sa.text("settled_at IS NULL")),
        sa.Index(None, "message_id"),
        sa.Index(None, "phone"),
        sa.Index(None, "received_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    sid: Mapped[str] = mapped_column(unique=True, comment="Twilio's id of it")
    phone: Mapped[str] = mapped_column(comment="E.164")
    body: Mapped[str | None]
    reading: Mapped[str]
    message_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("text_messages.id"), comment="the last message that was sent to this number"
    )
    received_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    settled_at: Mapped[datetime | None]
    settled_by: Mapped[str | None]


class TextSubscription(Base):
    """Somebody who wants an alert: back in stock, price drop, order ready.

    Triggers of `inventory_levels`, `product_variants` and `orders` put the message in the outbox, in the transaction of
    the change. Back in stock and order ready end with it; a price drop is told at each price that is lower than the last.
    """

    __tablename__ = "text_subscriptions"
    __table_args__ = (
        sa.CheckConstraint("alert IN ('back_in_stock', 'price_drop', 'order_ready')", name="alert"),
        sa.CheckConstraint(
            "(alert = 'order_ready') = (order_external_id IS NOT NULL) "
            "AND (alert = 'order_ready') = (variant_external_id IS NULL)",
            name="object",
        ),
        sa.Index(
            "uq_text_subscriptions_open",
            "store_id",
            "alert",
            sa.text("coalesce(variant_external_id, order_external_id)"),
            "phone",
            unique=True,
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        sa.Index(None, "phone"),
        sa.Index(None, "ended_at"),
        sa.Index(None, "store_id", "customer_external_id"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    phone: Mapped[str] = mapped_column(comment="E.164")
    customer_external_id: Mapped[str | None]
    alert: Mapped[str]
    variant_external_id: Mapped[str | None]
    order_external_id: Mapped[str | None]
    price: Mapped[Decimal | None] = mapped_column(comment="price_drop: the lowest that is known or was told")
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    ended_at: Mapped[datetime | None]


class SyncState(Claimed, Base):
    """A unit of a store's work, `resource` by name (`queues.Unit`): when it is due, which claim has it, and where its
    last pass ended."""

    __tablename__ = "sync_states"
    label = "t.resource"
    __table_args__ = (*_claimed(), sa.Index(None, "next_due_at", "store_id"))

    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="see sync/state.py")
    last_succeeded_at: Mapped[datetime | None]
    last_full_at: Mapped[datetime | None]
    full_pass_wanted_at: Mapped[datetime | None] = mapped_column(
        comment="when a person asked for a full pass; null once one that began later has succeeded"
    )
    backfill: Mapped[str | None] = mapped_column(comment="how that person wants it read: bulk or pages")
    hinted_at: Mapped[datetime | None] = mapped_column(
        comment="when webhook events were left to the next pass; null once one that was claimed later has succeeded"
    )
    proof: Mapped[dict[str, Any] | None] = mapped_column(
        comment="of the last full pass: counts and checksums, of what was read and of what is held"
    )
    last_change_at: Mapped[datetime | None] = mapped_column(
        comment="when the newest change that was loaded happened at the source"
    )
    last_change_lag: Mapped[timedelta | None] = mapped_column(comment="from then to our commit")


class SyncAttempt(Base):
    """One attempt at one unit of work, kept as history. Counts grow while it runs."""

    __tablename__ = "sync_attempts"
    __table_args__ = (
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'released', 'abandoned')", name="status"
        ),
        sa.Index(None, "store_id", "resource", "started_at"),
        sa.Index(
            "ix_sync_attempts_running", "store_id", "resource", postgresql_where=sa.text("status = 'running'")
        ),
        sa.Index(None, "started_at"),
        sa.Index(None, "run_id"),
        sa.Index(None, "finished_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    run_id: Mapped[str]
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    resource: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    full_pass: Mapped[bool] = mapped_column(server_default=sa.false())
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    finished_at: Mapped[datetime | None]
    pages: Mapped[int] = mapped_column(server_default="0")
    rows_read: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    inserted: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    updated: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    unchanged: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    deleted: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    rejected: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    error: Mapped[dict[str, Any] | None]
    lags: Mapped[list[int] | None] = mapped_column(
        ARRAY(sa.BigInteger), comment="changed rows by how late they were, by `work.rollups.LAGS`"
    )
    lag_seconds: Mapped[float | None] = mapped_column(sa.Double, comment="of these together")
    budget_used: Mapped[float | None] = mapped_column(
        sa.REAL, comment="share of the vendor's rate limit used up at its end; null: not told"
    )


class SyncRollup(Base):
    """What visits came to in an hour, and how late changes were: see `work/rollups.py`."""

    __tablename__ = "sync_rollups"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    tier: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    succeeded: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    failed: Mapped[int] = mapped_column(
        sa.BigInteger, server_default="0", comment="those that a dead worker abandoned as well"
    )
    idle: Mapped[int] = mapped_column(
        sa.BigInteger,
        server_default="0",
        comment="visits that found nothing new, of which there is no attempt",
    )
    rows_written: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    durations: Mapped[list[int]] = mapped_column(
        ARRAY(sa.BigInteger),
        server_default="{}",
        comment="of those that succeeded, by `work.rollups.DURATIONS`",
    )
    lags: Mapped[list[int]] = mapped_column(
        ARRAY(sa.BigInteger),
        server_default="{}",
        comment="changed rows by the time from their change to our commit, by `work.rollups.LAGS`",
    )
    lag_seconds: Mapped[float] = mapped_column(sa.Double, server_default="0", comment="of these together")
    until: Mapped[datetime | None] = mapped_column(comment="attempts that ended before are in it")


class ConfirmedRow(Base):
    """A row that the full pass under way has listed and that is held as it was listed, so that nothing was written to it.

    Unlogged: PostgreSQL empties the table when it recovers from a crash, and a copy of the server has none of it. The row
    whose id is empty marks a pass, with the time at which it began: where it is missing, the pass begins again.
    """

    __tablename__ = "confirmed_rows"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    store_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    resource: Mapped[str] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    confirmed_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class VisitedUnit(Base):
    """A unit of a store that a run is at: others leave it out until the visit ends, or its lease; see `work/visits.py`.

    Unlogged: a visit is worth nothing after a crash.
    """

    __tablename__ = "visited_units"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    store_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    resource: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(comment="one batch of one run")
    expires_at: Mapped[datetime]


class RejectedRow(Base):
    """A source row that could not be loaded, kept with its reason until it loads or is deleted at the source.

    Of an order whose customer was redacted or deleted `payload` is empty.
    """

    __tablename__ = "rejected_rows"
    __table_args__ = (
        sa.UniqueConstraint("store_id", "resource", "external_id"),
        sa.Index(None, "last_seen_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("stores.id"))
    resource: Mapped[str]
    external_id: Mapped[str] = mapped_column(comment="the vendor's id; a digest of the row where it has none")
    reason: Mapped[str]
    payload: Mapped[bytes] = mapped_column(comment="the source row, encrypted: it may hold personal data")
    times_seen: Mapped[int] = mapped_column(server_default="1")
    first_seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Incident(Base):
    """A fault that people should know of, open until it is over. A repeat is counted on it.

    `notified` is what people were last notified of; alerts bring it in line with `status`.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        sa.Index(None, "resolved_at", postgresql_where=sa.text("resolved_at IS NOT NULL")),
        sa.CheckConstraint("status IN ('open', 'resolved')", name="status"),
        sa.CheckConstraint("notified IN ('nothing', 'open', 'escalated', 'resolved')", name="notified"),
        sa.Index(
            "uq_incidents_open_fingerprint",
            "fingerprint",
            unique=True,
            postgresql_where=sa.text("status = 'open'"),
        ),
        # What is not announced yet; other queries use it as well.
        sa.Index(None, "status", "opened_at"),
        sa.Index(None, "fingerprint", "resolved_at"),
        sa.Index(None, "store_id", postgresql_where=sa.text("status = 'open'")),
        sa.Index(None, "kind", "platform", "error_type", postgresql_where=sa.text("status = 'open'")),
        sa.Index(None, "merged_into", postgresql_where=sa.text("merged_into IS NOT NULL")),
        sa.Index("ix_incidents_to_notify", "notified", postgresql_where=sa.text("notified <> 'resolved'")),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(comment="one fault, whatever it hits and however often")
    kind: Mapped[str] = mapped_column(
        sa.Computed("split_part(fingerprint, ':', 1)", persisted=True),
        comment="see incidents/fingerprints.py",
    )
    status: Mapped[str] = mapped_column(server_default="open")
    needs_attention: Mapped[bool] = mapped_column(comment="false: it is retried automatically")
    error_type: Mapped[str]
    severity: Mapped[str]
    source: Mapped[str]
    subject: Mapped[str] = mapped_column(comment="what is affected: a store, a vendor, a job")
    message: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    job: Mapped[str | None]
    platform: Mapped[str | None]
    store_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stores.id"))
    resources: Mapped[list[str]] = mapped_column(server_default="{}")
    payload: Mapped[str | None] = mapped_column(comment="where what failed is kept: a table and its keys")
    occurrences: Mapped[int] = mapped_column(server_default="1")
    affected_runs: Mapped[list[str]] = mapped_column(
        server_default="{}", comment="job/tier of the runs it keeps from working: over when each of them has"
    )
    last_occurrence: Mapped[str | None] = mapped_column(comment="the same again is not counted twice")
    opened_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    owner: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    resolution: Mapped[str | None]
    merged_into: Mapped[int | None] = mapped_column(
        sa.ForeignKey("incidents.id"),
        comment="the incident of the platform or the installation that took its place",
    )
    notified: Mapped[str] = mapped_column(server_default="nothing")
    notified_at: Mapped[datetime | None]
    notified_needs_attention: Mapped[bool] = mapped_column(server_default=sa.false())


class Circuit(Base):
    """The circuit breaker of a store or a vendor: while open, its work is claimed only as one probe at a time."""

    __tablename__ = "circuits"
    __table_args__ = (
        sa.CheckConstraint("(platform IS NULL) <> (store_id IS NULL)", name="subject"),
        sa.Index(None, "opened_at", postgresql_where=sa.text("opened_at IS NOT NULL")),
    )

    key: Mapped[str] = mapped_column(primary_key=True, comment="platform:NAME or store:ID")
    platform: Mapped[str | None]
    store_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stores.id"))
    failures: Mapped[int] = mapped_column(server_default="0", comment="in a row, failed probes among them")
    failing_stores: Mapped[list[int]] = mapped_column(
        ARRAY(sa.BigInteger), server_default="{}", comment="of a platform: who failed since anyone succeeded"
    )
    opened_at: Mapped[datetime | None]
    probe_at: Mapped[datetime | None] = mapped_column(comment="when the next probe may go")
    probe_owner: Mapped[str | None] = mapped_column(comment="the claim that has the probe now")


class Alert(Base):
    """One message about an incident: it began, it needs more attention, it is over."""

    __tablename__ = "alerts"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('opened', 'escalated', 'all_clear')", name="kind"),
        sa.Index(None, "incident_id"),
        sa.Index(None, "created_at"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    incident_id: Mapped[int] = mapped_column(sa.ForeignKey("incidents.id"))
    kind: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    reference: Mapped[str] = mapped_column(
        unique=True,
        server_default=_REFERENCE,
        comment="ends its text message: by it a message is found again, and no other on the account has it",
    )
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class AlertDelivery(Claimed, Base):
    """An alert to one target: recorded before it is sent, retried until it is sent or permanently refused.

    `calls` counts how often sending it was begun: from the second time on the vendor is asked first whether it has it.
    """

    __tablename__ = "alert_deliveries"
    label = "'alert ' || t.alert_id || ' to ' || t.target"
    __table_args__ = (
        *_claimed(),
        sa.CheckConstraint("status IN ('pending', 'sent', 'refused')", name="status"),
        sa.Index(None, "next_due_at", postgresql_where=sa.text("status = 'pending'")),
    )

    alert_id: Mapped[int] = mapped_column(sa.ForeignKey("alerts.id"), primary_key=True)
    target: Mapped[str] = mapped_column(
        primary_key=True, comment="kind and digest: an address may hold a secret"
    )
    status: Mapped[str] = mapped_column(server_default="pending")
    calls: Mapped[int] = mapped_column(server_default="0")
    sent_at: Mapped[datetime | None]
    reference: Mapped[str | None] = mapped_column(comment="the vendor's id of the message")


class JobRun(Base):
    """A run of a job, as recorded by itself: updated while it runs, so one that died is detected."""

    __tablename__ = "job_runs"
    __table_args__ = (
        sa.CheckConstraint("status IN ('running', 'succeeded', 'failed', 'stopped')", name="status"),
        sa.Index(None, "job", "started_at"),
        sa.Index(None, "started_at"),
    )

    run_id: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str]
    queue: Mapped[str]
    host: Mapped[str | None] = mapped_column(comment="the machine, or the container, that carries it out")
    status: Mapped[str] = mapped_column(server_default="running")
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(
        server_default=sa.func.now(), comment="alive until here at least"
    )
    finished_at: Mapped[datetime | None]
    stores: Mapped[int] = mapped_column(server_default="0")
    stores_failed: Mapped[int] = mapped_column(server_default="0")
    peak_rss_mb: Mapped[float | None]
    connections_in_use: Mapped[int | None] = mapped_column(comment="the most at any time it was looked at")
    connections_size: Mapped[int | None] = mapped_column(comment="how many its pool may open")


class FigureSample(Base):
    """Figures as they were, for trends: one row a minute, and one for each quarter of an hour (operations/trends.py)."""

    __tablename__ = "figure_samples"
    __table_args__ = (sa.Index(None, "at"),)

    minutes: Mapped[int] = mapped_column(
        sa.SmallInteger, primary_key=True, autoincrement=False, comment="how long a time it is of"
    )
    at: Mapped[datetime] = mapped_column(primary_key=True, comment="when that time began")
    figures: Mapped[dict[str, Any]] = mapped_column(comment="by name, the highest that was seen in that time")


class Activity(Base):
    """What a person did on the board or by a command, and when which version of the program was first seen."""

    __tablename__ = "activity"
    __table_args__ = (
        sa.CheckConstraint("via IN ('board', 'command', 'deploy')", name="via"),
        sa.Index(None, "at"),
        sa.Index("uq_activity_deploy", "subject", unique=True, postgresql_where=sa.text("via = 'deploy'")),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    who: Mapped[str] = mapped_column(comment="a user of the board, or of the machine")
    via: Mapped[str]
    action: Mapped[str] = mapped_column(comment="such as `retry incidents`")
    subject: Mapped[str] = mapped_column(comment="on what: numbers of incidents, names of stores")
    succeeded: Mapped[bool | None] = mapped_column(comment="null: begun, and never ended")
    outcome: Mapped[str | None]


class BoardUser(Base):
    """Who may log in to the board, and whether they may change anything there."""

    __tablename__ = "board_users"
    __table_args__ = (sa.CheckConstraint("role IN ('admin', 'viewer')", name="role"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    password: Mapped[str] = mapped_column(comment="scrypt: see board/users.py")
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime | None] = mapped_column(comment="when the user last logged in")


class BoardSession(Base):
    """Somebody who is logged in to the board, or may be once, by a link. The token itself is nowhere but with them."""

    __tablename__ = "board_sessions"
    __table_args__ = (sa.Index(None, "expires_at"), sa.Index(None, "user_name"))

    digest: Mapped[bytes] = mapped_column(primary_key=True, comment="of the cookie, or of the link's token")
    user_name: Mapped[str] = mapped_column(sa.ForeignKey("board_users.name", ondelete="CASCADE"))
    is_link: Mapped[bool] = mapped_column(comment="a link to log in with, once")
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    expires_at: Mapped[datetime]


class BoardLoginFailure(Base):
    """A login to the board that failed, for the limit of such; gone after a quarter of an hour."""

    __tablename__ = "board_login_failures"
    __table_args__ = (sa.Index(None, "failed_at"),)

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    digest: Mapped[int] = mapped_column(sa.Integer, comment="32 bits of a digest of the name, known or not")
    failed_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class EncryptionCheck(Base):
    """A known text, encrypted: it shows whether a key is right without any store's credentials."""

    __tablename__ = "encryption_check"
    __table_args__ = (sa.CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(
        sa.SmallInteger, primary_key=True, server_default="1", autoincrement=False
    )
    token: Mapped[bytes]
