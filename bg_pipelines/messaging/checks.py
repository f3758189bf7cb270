"""What is checked before a message is sent, last in the transaction that records the attempt.

    facts = read_facts(connection, claim)
    decide(claim, facts, rules)      Send, Hold (until when) or Refuse (why)

Order: expired, number, opt-out, consent, product, frequency, spending, quiet hours. What will pass is held, what will not
is refused; each with a reason that names nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents.fingerprints import TextsStopped
from bg_pipelines.messaging import consent, quiet_hours, templates
from bg_pipelines.messaging.consent import Said
from bg_pipelines.messaging.numbers import read_number
from bg_pipelines.messaging.outbox import TextClaim
from bg_pipelines.messaging.quiet_hours import Address, Place
from bg_pipelines.messaging.templates import TEMPLATES, Text
from bg_pipelines.wording import counted

Connection = psycopg.Connection[Any]

DAY = timedelta(hours=24)
PAUSED_WAIT = timedelta(minutes=15)
STOPPED_WAIT = timedelta(seconds=30)
"""Nothing is claimed while sending is stopped, so one that was claimed before may be due again soon."""
VALID = (5, 4 * 3600)
"""Seconds that a message may wait at Twilio, at least and at most."""
PUBLISHED = "ACTIVE"


@dataclass(frozen=True)
class Rules:
    """What a house allows; `home` is the calling code of its own country, `templates` are those of its messages."""

    countries: Collection[str] = ("US", "CA")
    home: str = "1"
    daily_messages: int = 3
    daily_segments: int = 2_000
    double_opt_in: bool = False
    cart_reminders: bool = False
    templates: Mapping[str, str] = field(default_factory=lambda: TEMPLATES)


class Send(NamedTuple):
    """`valid_seconds` is how long it may wait at Twilio: no longer than it may be sent to the recipient."""

    text: Text
    relies_on: Said | None
    valid_seconds: int


class Hold(NamedTuple):
    until: datetime
    reason: str


class Refuse(NamedTuple):
    reason: str


Decision = Send | Hold | Refuse


class Facts(NamedTuple):
    """What the database holds about a message at `now`.

    `recent` are the times at which the number was sent to within a day, the oldest first. `stock` is what is available of
    the product or variant, None where its stock is not kept. `cart_is_open`: there is one, without an order or money in it;
    `cart_is_left`: nothing has happened to it since it was found abandoned; `in_cart` are the titles of what it holds.
    """

    now: datetime
    opt_outs: list[list[str]]
    events: list[list[str]]
    platform_events: list[list[str]]
    addresses: list[list[str | None]]
    recent: list[datetime]
    stopped: list[str]
    store: str
    platform: str
    domain: str
    link: str | None
    handle: str | None
    title: str | None
    product_status: str | None
    price: Decimal | None
    currency: str | None
    stock: int | None
    order_name: str | None
    order_is_open: bool | None
    cart_is_open: bool | None
    cart_is_left: bool | None
    in_cart: list[str | None]
    requested_by: str | None
    needs_product: bool
    needs_order: bool
    needs_cart: bool


_FACTS = """
SELECT clock_timestamp() AS now,
    ARRAY(SELECT ARRAY[o.kind, o.how] FROM sms_opt_outs o WHERE o.phone = t.phone) AS opt_outs,
    ARRAY(SELECT ARRAY[e.kind, e.event, e.occurred_at::text] FROM sms_consents e WHERE e.phone = t.phone) AS events,
    ARRAY(SELECT ARRAY[CASE c.sms_consent WHEN 'subscribed' THEN 'granted' ELSE 'revoked' END,
        least(coalesce(c.sms_consent_at, c.source_updated_at), c.synced_at)::text, c.store_id::text, c.external_id,
        coalesce(c.sms_consent_source, '')] FROM customers c
        WHERE c.phone = t.phone AND c.deleted_at IS NULL AND c.sms_consent IN ('subscribed', 'unsubscribed'))
        AS platform_events,
    ARRAY(SELECT DISTINCT ARRAY[a ->> 'country_code', a ->> 'province_code'] FROM customers c,
        jsonb_array_elements(c.addresses) a WHERE c.deleted_at IS NULL AND (c.phone = t.phone
        OR c.store_id = t.store_id AND c.external_id = t.customer_external_id)) AS addresses,
    ARRAY(SELECT coalesce(r.sent_at, r.called_at) FROM text_messages r WHERE r.phone = t.phone AND r.id <> t.id
        AND r.kind <> 'service' AND coalesce(r.sent_at, r.called_at) > clock_timestamp() - interval '24 hours'
        ORDER BY 1) AS recent,
    ARRAY(SELECT i.fingerprint FROM incidents i WHERE i.status = 'open' AND i.kind = 'texts_stopped') AS stopped,
    coalesce(s.shop_name, s.name) AS store, s.platform, s.domain, t.link, p.handle, p.title,
    p.status AS product_status, v.price, v.currency, l.stock::int AS stock,
    o.name AS order_name, o.cancelled_at IS NULL AND o.deleted_at IS NULL AS order_is_open,
    k.completed_at IS NULL AND k.payment_state IN ('none', 'settled') AND k.external_id IS NOT NULL AS cart_is_open,
    k.abandoned_at >= k.source_updated_at AS cart_is_left,
    ARRAY(SELECT to_jsonb(i) ->> 'title' FROM cart_items i WHERE i.store_id = t.store_id
        AND i.cart_external_id::text = t.cart_external_id AND i.deleted_at IS NULL ORDER BY i.external_id) AS in_cart,
    t.requested_by,
    t.template IN ('product_share', 'back_in_stock', 'price_drop') AS needs_product,
    t.template = 'order_ready' AS needs_order, t.template = 'cart_reminder' AS needs_cart
FROM text_messages t JOIN stores s ON s.id = t.store_id
LEFT JOIN products p ON p.store_id = t.store_id AND p.external_id = t.product_external_id AND p.deleted_at IS NULL
LEFT JOIN LATERAL (SELECT min(v.price) AS price, min(v.currency) AS currency,
    array_agg(v.inventory_item_external_id) AS items FROM product_variants v WHERE v.store_id = t.store_id
    AND v.product_external_id = t.product_external_id AND v.deleted_at IS NULL
    AND (t.variant_external_id IS NULL OR v.external_id = t.variant_external_id)) v ON true
LEFT JOIN LATERAL (SELECT sum(greatest(l.available, 0)) AS stock FROM inventory_levels l
    WHERE l.store_id = t.store_id AND l.inventory_item_external_id = ANY(v.items) AND l.deleted_at IS NULL) l ON true
LEFT JOIN orders o ON o.store_id = t.store_id AND o.external_id = t.order_external_id
LEFT JOIN carts k ON k.store_id = t.store_id AND k.external_id::text = t.cart_external_id AND k.deleted_at IS NULL
WHERE t.id = %s"""


def read_facts(connection: Connection, claim: TextClaim) -> Facts:
    """Lock the number until the transaction ends, then read: what is seen stays true until the attempt is recorded."""
    consent.lock(connection, claim.phone)
    with connection.cursor(row_factory=class_row(Facts)) as cursor:
        cursor.execute(_FACTS, (claim.id,))
        facts = cursor.fetchone()
    assert facts is not None
    return facts


def decide(claim: TextClaim, facts: Facts, rules: Rules, segments_left: int) -> Decision:
    """What is done with a message now. `segments_left` is how many more may be sent today, to whomever."""
    now = facts.now
    if claim.expires_at <= now:
        return Refuse("expired before it could be sent")
    relies_on: Said | None = None
    # The confirmation of an opt-out answers somebody who has just written, whatever they are opted out of.
    is_confirmation = claim.template == "opt_out"
    if not is_confirmation:
        try:
            read_number(claim.phone, rules.countries)
        except IntegrationError as error:
            return Refuse(error.message)
        about = claim.fields.get("kind") if claim.template == "opt_in" else claim.kind
        for kind, how in facts.opt_outs:
            if consent.ALL in (kind, about) or kind == about:
                return Refuse(
                    "the number can never be reached" if how == "unreachable" else f"opted out: {how}"
                )
    if claim.kind != "service":
        if facts.requested_by is None:
            verdict = consent.verdict(claim.kind, said_of(facts), double_opt_in=rules.double_opt_in)
            if verdict.why_not is not None:
                return Refuse(verdict.why_not)
            relies_on = verdict.relies_on
        if refused := _refused_for_its_object(facts):
            return refused
    try:
        text = text_of(claim, facts, rules)
    except IntegrationError as error:
        return Refuse(error.message)
    stopped = [name for name in facts.stopped if not _prefix_of(name)]
    if stopped and claim.incident_id is None:
        return Hold(now + STOPPED_WAIT, "sending is stopped")
    if is_confirmation:
        return Send(text, None, VALID[0] * 60)
    places = quiet_hours.places_of(
        claim.phone, [Address(country, state) for country, state in facts.addresses if country]
    )
    held = _held(claim, facts, rules, text, segments_left, places)
    if held is None:
        until = quiet_hours.allowed_until(now, places)
        seconds = int((until - now).total_seconds()) if until else VALID[1]
        return Send(text, relies_on, min(max(seconds, VALID[0]), VALID[1]))
    if held.until >= claim.expires_at:
        return Refuse(f"expires before it could be sent ({held.reason})")
    return held


def said_of(facts: Facts) -> list[Said]:
    events = [Said(kind, event, datetime.fromisoformat(at)) for kind, event, at in facts.events]
    return events + [
        Said(consent.ALL, event, datetime.fromisoformat(at)) for event, at, *_ in facts.platform_events
    ]


def keep_evidence(connection: Connection, claim: TextClaim, facts: Facts, relies_on: Said) -> None:
    """Copy what a platform says into the ledger when a message relies on it: the platform may forget it."""
    known = {(event, datetime.fromisoformat(at)) for _, event, at in facts.events}
    if ("granted", relies_on.occurred_at) in known:
        return
    for event, at, store_id, customer, source in facts.platform_events:
        if event == relies_on.event and datetime.fromisoformat(at) == relies_on.occurred_at:
            consent.record(
                connection,
                consent.Event(
                    claim.phone,
                    consent.ALL,
                    event,
                    source="platform",
                    channel=source or "platform",
                    evidence=customer,
                    store_id=int(store_id),
                    occurred_at=relies_on.occurred_at,
                ),
            )
            return


def _refused_for_its_object(facts: Facts) -> Refuse | None:
    if facts.needs_product:
        if facts.title is None:
            return Refuse("the product does not exist any more")
        if facts.product_status != PUBLISHED:
            return Refuse("the product is not published")
        if facts.stock is not None and facts.stock <= 0:
            return Refuse("the product is sold out")
    if facts.needs_order and not facts.order_is_open:
        return Refuse("the order was cancelled or deleted")
    if facts.needs_cart:
        if not facts.cart_is_open:
            return Refuse("the cart was bought, or is not there any more")
        if not facts.cart_is_left:
            return Refuse("the cart was touched since it was found abandoned")
        if not facts.in_cart:
            return Refuse("nothing is left in the cart")
    return None


def _held(
    claim: TextClaim,
    facts: Facts,
    rules: Rules,
    text: Text,
    segments_left: int,
    places: Collection[Place],
) -> Hold | None:
    now, later = facts.now, []
    for name in facts.stopped:
        prefix = _prefix_of(name)
        if prefix and claim.phone[1:].startswith(prefix):
            later.append(Hold(now + PAUSED_WAIT, "sending to its prefix is paused"))
    if len(facts.recent) >= rules.daily_messages:
        oldest = facts.recent[-rules.daily_messages]
        later.append(
            Hold(oldest + DAY, f"the number had {counted(rules.daily_messages, 'message')} within 24 hours")
        )
    if text.segments > segments_left:
        later.append(Hold(now + PAUSED_WAIT, "the daily limit of segments is reached"))
    at = max((hold.until for hold in later), default=now)
    allowed = quiet_hours.next_allowed(at, places)
    if allowed is None:
        return Hold(claim.expires_at, "no hour suits both the number's area and the customer's address")
    if allowed > at:
        later.append(Hold(allowed, "quiet hours at the recipient"))
    return max(later, key=lambda hold: hold.until, default=None)


def _prefix_of(fingerprint: str) -> str | None:
    """The digits that an open incident stops; None: it stops everything."""
    prefix = fingerprint.removeprefix(f"{TextsStopped.kind}:prefix-")
    return prefix if prefix != fingerprint else None


def text_of(claim: TextClaim, facts: Facts, rules: Rules) -> Text:
    """The message as it is sent: as it was at its first call, if it had one."""
    if claim.body is not None:
        return Text(claim.body, templates.segments(claim.body), "")
    return render(claim.template, claim.reference, facts, claim.fields, rules.templates)


def render(
    template: str,
    reference: str,
    facts: Facts,
    given: Mapping[str, Any],
    texts: Mapping[str, str] = TEMPLATES,
) -> Text:
    link = facts.link or own_link(facts)
    currency = facts.currency or ""
    fields: dict[str, Any] = {
        "store": facts.store,
        "title": cart_title(facts.in_cart) if facts.needs_cart else facts.title,
        "price": templates.money(facts.price, currency) if facts.price is not None else None,
        "order": facts.order_name,
        **given,
        # By these a message is found again, so that nothing may take their place. Without a page of its own it has the
        # reference itself.
        "link": templates.tagged_link(link, reference) if link else f"Ref {reference}.",
        "reference": reference,
    }
    if isinstance(given.get("was"), str):
        fields["was"] = templates.money(Decimal(given["was"]), currency)
    return templates.render(template, fields, texts)


def own_link(facts: Facts) -> str | None:
    """The page of the product, or of the visitor's cart, in the store's own shop, where its platform has one."""
    if facts.platform != "shopify":
        return None
    if facts.needs_cart:
        return f"https://{facts.domain}/cart"
    return f"https://{facts.domain}/products/{facts.handle}" if facts.handle else None


def cart_title(titles: Sequence[str | None]) -> str:
    """What a cart holds, in a few words."""
    first = templates.cut((titles[0] if titles else None) or "something", templates.TITLE_CHARACTERS - 15)
    return f"{first} and {len(titles) - 1} more" if len(titles) > 1 else first
