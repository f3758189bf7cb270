"""What people have sent: share a product, subscribe a number to alerts, record consent and ask for it.

Numbers that are returned are whole: whoever shows them masks them (`numbers.masked`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.names import find_product, find_store, find_variant
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.messaging import checks, consent
from bg_pipelines.messaging.answers import AnswerRules
from bg_pipelines.messaging.checks import Hold, Refuse, Rules
from bg_pipelines.messaging.numbers import calling_code, read_number
from bg_pipelines.messaging.outbox import NewText, TextClaim, put
from bg_pipelines.messaging.templates import ALERTS, Text, load_templates
from bg_pipelines.settings import Settings
from bg_pipelines.wording import did_you_mean

Connection = psycopg.Connection[Any]

ABOUT = {
    "product_share": "news of products",
    "customer_alert": "alerts about your orders and wishes",
    "cart_reminder": "shopping cart reminders",
    "all": "news of products and orders",
}
"""What a number is asked for."""


class Shared(NamedTuple):
    """A share: its number in the outbox (None: only tried), its text, and what would keep it from being sent now."""

    id: int | None
    is_new: bool
    text: Text | None
    phone: str
    in_the_way: str | None


class Subscribed(NamedTuple):
    """A subscription; `is_told`: what it waits for is true already, and its message is in the outbox."""

    id: int
    is_told: bool


def rules_of(settings: Settings) -> Rules:
    """The settings of a house. Raises IntegrationError (configuration) for templates that are wrong."""
    return Rules(
        countries=frozenset(settings.text_countries),
        home=calling_code(settings.text_countries[0]) if settings.text_countries else "",
        daily_messages=settings.text_daily_messages,
        daily_segments=settings.text_daily_segments,
        double_opt_in=settings.text_double_opt_in,
        cart_reminders=settings.text_cart_reminders,
        templates=load_templates(settings.text_templates),
    )


def answer_rules_of(settings: Settings) -> AnswerRules:
    return AnswerRules(settings.text_stop_scope, settings.text_languages, frozenset(settings.text_countries))


def share(
    database: Database,
    rules: Rules,
    store: str,
    product: str,
    phone: str,
    *,
    variant: str | None = None,
    by: str,
    key: str | None = None,
    dry_run: bool = False,
) -> Shared:
    """Put one message about a product in the outbox, for a recipient who asked `by` for it; with `dry_run` only see it.

    Raises IntegrationError (bad_data) for a product, a variant or a number that cannot be.
    """
    with database.transaction() as connection:
        if variant is None:
            store_id, product_id = find_product(connection, store, product)
            variant_id = None
        else:
            store_id, product_id, variant_id = find_variant(connection, store, product, variant)
        new = NewText(
            "product_share",
            store_id,
            phone,
            key=key,
            product=product_id,
            variant=variant_id,
            requested_by=by,
            created_by=by,
        )
        id_, is_new = put(connection, new, rules.countries)
        shared = _as_it_stands(connection, id_, is_new, rules)
        if dry_run:
            connection.rollback()
            return shared._replace(id=None)
        return shared


def subscribe(
    database: Database,
    rules: Rules,
    store: str,
    alert: str,
    phone: str,
    *,
    product: str | None = None,
    variant: str | None = None,
    order: str | None = None,
    customer: str | None = None,
    by: str,
) -> Subscribed:
    """Have a number told once when a variant is back in stock, at each lower price of it, or when an order is ready.

    Subscribed twice, it is told once. Consent to messages is another matter. Raises IntegrationError (bad_data).
    """
    if alert not in ALERTS:
        raise _bad_data(f"alert is none of {', '.join(ALERTS)}{did_you_mean(alert, ALERTS)}")
    number = read_number(phone, rules.countries)
    with database.transaction() as connection:
        variant_id = order_id = None
        if alert == "order_ready":
            store_id, order_id = _find_order(connection, store, order)
        else:
            store_id, _, variant_id = find_variant(connection, store, product, variant)
        row = connection.execute(
            "INSERT INTO text_subscriptions (store_id, phone, customer_external_id, alert, variant_external_id, "
            "order_external_id, created_by) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING id",
            (store_id, number.phone, customer, alert, variant_id, order_id, by),
        ).fetchone()
        if row is None:
            row = connection.execute(
                "SELECT id FROM text_subscriptions WHERE store_id = %s AND alert = %s AND phone = %s "
                "AND coalesce(variant_external_id, order_external_id) = %s AND ended_at IS NULL",
                (store_id, alert, number.phone, variant_id or order_id),
            ).fetchone()
        assert row is not None
        ended = connection.execute("SELECT ended_at FROM text_subscriptions WHERE id = %s", row).fetchone()
        return Subscribed(int(row[0]), bool(ended and ended[0]))


def grant(
    database: Database,
    rules: Rules,
    store: str,
    phone: str,
    kind: str,
    *,
    source: str,
    channel: str,
    wording: str,
    by: str,
    occurred_at: datetime | None = None,
) -> None:
    """Record that a number consented to messages of a kind; with double opt-in, and for reminders of carts, it is asked to
    answer YES.

    Raises IntegrationError (bad_data).
    """
    number = read_number(phone, rules.countries)
    with database.transaction() as connection:
        store_id = find_store(connection, store)
        granted = consent.Event(
            number.phone,
            kind,
            "granted",
            source,
            channel,
            wording,
            store_id=store_id,
            recorded_by=by,
            occurred_at=occurred_at,
        )
        if rules.double_opt_in or kind in consent.CONFIRMED_BY_NAME:
            consent.record(connection, granted)
            ask(connection, store_id, number.phone, kind, rules, by=by)
        else:
            consent.opt_in(connection, granted)


def ask(connection: Connection, store_id: int, phone: str, kind: str, rules: Rules, *, by: str) -> None:
    """Ask a number to confirm its consent by answering YES (double opt-in)."""
    text = NewText("opt_in", store_id, phone, fields={"about": ABOUT[kind], "kind": kind}, created_by=by)
    id_, _ = put(connection, text, rules.countries)
    consent.record(
        connection,
        consent.Event(
            phone,
            kind,
            "asked",
            "staff",
            "sms",
            evidence=f"text message {id_}",
            store_id=store_id,
            recorded_by=by,
        ),
    )


def _as_it_stands(connection: Connection, id_: int, is_new: bool, rules: Rules) -> Shared:
    """What would be done with a message if it were sent now."""
    with connection.cursor(row_factory=class_row(TextClaim)) as cursor:
        cursor.execute(
            "SELECT id, '' AS owner, attempts, kind, template, store_id, phone, reference, body, calls, called_at, "
            "expires_at, incident_id, fields FROM text_messages WHERE id = %s",
            (id_,),
        )
        claim = cursor.fetchone()
    assert claim is not None
    facts = checks.read_facts(connection, claim)
    decision = checks.decide(claim, facts, rules, rules.daily_segments)
    text = None
    try:
        text = checks.text_of(claim, facts, rules)
    except IntegrationError as error:
        return Shared(id_, is_new, None, claim.phone, error.message)
    in_the_way = None
    if isinstance(decision, Hold):
        in_the_way = f"{decision.reason}; it is sent from {decision.until:%Y-%m-%d %H:%M} UTC on"
    elif isinstance(decision, Refuse):
        in_the_way = f"{decision.reason}; it would be refused"
    return Shared(id_, is_new, text, claim.phone, in_the_way)


def _find_order(connection: Connection, store: str, order: str | None) -> tuple[int, str]:
    if order is None:
        raise _bad_data("--order: say which, by its id or as people call it, like #1001")
    store_id = find_store(connection, store)
    found = connection.execute(
        "SELECT external_id FROM orders WHERE store_id = %(store)s AND (external_id = %(order)s OR name = %(order)s "
        "OR right(external_id, length(%(order)s) + 1) = '/' || %(order)s) AND deleted_at IS NULL LIMIT 2",
        {"store": store_id, "order": order},
    ).fetchall()
    if len(found) != 1:
        raise _bad_data(f"order {order!r}: store {store} has none with this id or name, or more than one")
    return store_id, found[0][0]


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="texts")
