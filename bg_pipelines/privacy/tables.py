"""What erasure does to each table: of one customer of a store, and of a whole store.

Every table of `database/models.py` has its answer here, or says why it holds no personal data of customers; a test fails
for one without, and for a column of text, JSON or bytes of which is not said what becomes of it. They are erased in this
order: orders before their customer, whose trigger (migration 0003) would empty all of them at once, and after the
customer what that trigger writes.

Conditions are SQL on the table `t`, with the parameters of `subjects.Subject`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

COMMANDS = ("customers/data_request", "customers/redact", "shop/redact")
"""Topics of events that ask for an export or an erasure: while pending they are what is being carried out."""

OF_STORE = "t.store_id = %(store)s"


class Answer(NamedTuple):
    """What one table holds of a customer, and what erasure does to it.

    `holds` says what is personal in it, or why nothing is. `of_customer` finds a customer's rows, for the export, too;
    `emptied` are the columns that are erased in them, with the value that they then have, in SQL and in a record alike.
    `searched` is an encrypted column whose rows are found by what is in it, and emptied. `otherwise` says what
    happens where neither is all. `kept` are the other columns of text, JSON or bytes of a table that holds something
    personal: not personal themselves.

    `of_store` finds the rows of a store, which are deleted with it; None: they stay, and `stays` says how.
    """

    holds: str
    of_customer: str | None = None
    emptied: Mapping[str, Any] = {}
    searched: str | None = None
    otherwise: str = ""
    kept: tuple[str, ...] = ()
    of_store: str | None = OF_STORE
    stays: str = ""


_CUSTOMER = f"{OF_STORE} AND t.external_id = %(customer)s"
_CHANGES = f"{OF_STORE} AND t.customer_external_id = %(customer)s"
# One that is known to be somebody else's is theirs, whatever phone they share.
_ANONYMOUS = (
    "(t.customer_external_id IS NULL AND lower(t.email) = ANY(%(emails)s)) "
    "OR (t.customer_external_id IS NULL AND t.phone = ANY(%(phones)s))"
)
_ORDERS = f"{OF_STORE} AND (t.customer_external_id = %(customer)s OR t.external_id = ANY(%(orders)s) OR {_ANONYMOUS})"
_CARTS = f"{OF_STORE} AND (t.customer_external_id = %(customer)s OR {_ANONYMOUS})"

_NUMBERS = "t.phone = ANY(%(phones)s)"


def _part_of(column: str, table: str, condition: str) -> str:
    whole = condition.replace("t.", "w.")
    return f"{OF_STORE} AND t.{column} IN (SELECT w.external_id FROM {table} w WHERE {whole})"  # noqa: S608 (of constants)


_OF_INCIDENTS = "SELECT i.id FROM incidents i WHERE i.store_id = %(store)s"

NO_CUSTOMER = "nothing: it is about the shop and not about its customers"

ANSWERS: Mapping[str, Answer] = {
    "sync_states": Answer("nothing: times, counts and the vendor's page tokens; errors are without personal data"),
    "sync_attempts": Answer("nothing: times and counts; errors are without personal data"),
    "confirmed_rows": Answer("nothing: the vendor's ids of rows, while a full pass compares them"),
    "visited_units": Answer("nothing: which run is at a store at this moment"),
    "circuits": Answer("nothing: a store's failures, counted"),
    "webhook_subscriptions": Answer("nothing: topics, and where they are delivered to"),
    "webhook_coverage": Answer("nothing: counts of events"),
    "webhook_events": Answer(
        "payloads of carts, of requests like these, and of what was not understood; encrypted",
        of_customer=f"({OF_STORE} OR t.store_id IS NULL)",
        searched="payload",
        otherwise="A pending one is ignored; a text message that came, maybe a STOP, is left until it is handled",
        kept=("source", "topic", "webhook_id", "event_id", "resource", "object_id", "status", "reason"),
        # The request itself is settled by whoever carries it out.
        of_store=f"{OF_STORE} AND NOT (t.status = 'pending' AND t.topic = 'shop/redact')",
    ),
    "rejected_rows": Answer(
        "source rows that could not be loaded, encrypted",
        of_customer=OF_STORE,
        searched="payload",
        kept=("resource", "reason"),
    ),
    "text_replies": Answer(
        "what somebody answered to a text message",
        of_customer=f"{_NUMBERS} AND (t.message_id IS NULL OR EXISTS (SELECT FROM text_messages m WHERE m.id = t.message_id "
        "AND m.store_id = %(store)s))",
        emptied={"phone": "", "body": None},
        otherwise="One that waits for a person waits no more",
        kept=("sid", "reading", "settled_by"),
        of_store="t.message_id IN (SELECT m.id FROM text_messages m WHERE m.store_id = %(store)s)",
    ),
    "text_messages": Answer(
        "text messages: to which number, and what they say",
        of_customer=f"{OF_STORE} AND (t.customer_external_id = %(customer)s OR t.customer_external_id IS NULL AND {_NUMBERS})",
        emptied={"customer_external_id": None, "phone": "", "link": None, "fields": "{}", "body": None},
        otherwise="Pending ones are refused",
        kept=(
            "idempotency_key", "kind", "template", "requested_by", "created_by", "reference", "status", "reason", "sid",
        ),
    ),
    "text_subscriptions": Answer(
        "which number wants to be told of what",
        of_customer=f"{OF_STORE} AND (t.customer_external_id = %(customer)s OR t.customer_external_id IS NULL AND {_NUMBERS})",
        emptied={"customer_external_id": None, "phone": ""},
        otherwise="Open ones end",
        kept=("alert", "created_by"),
    ),
    "sms_consents": Answer(
        "who consented to text messages or revoked it, with what words; exported, and kept: it is the evidence that "
        "messages were sent with consent, and by law a revocation counts for years",
        of_customer=_NUMBERS,
        otherwise="Nothing: kept as evidence",
        kept=("phone", "kind", "event", "source", "channel", "wording", "evidence", "recorded_by"),
        of_store=None,
        stays="kept as evidence",
    ),
    "sms_opt_outs": Answer(
        "numbers that get no text messages; exported, and kept so that they get none",
        of_customer=_NUMBERS,
        otherwise="Nothing: kept so that they stay opted out",
        kept=("phone", "kind", "how"),
        of_store=None,
        stays="kept, so that who opted out stays so",
    ),
    "inventory_corrections": Answer(NO_CUSTOMER),
    "audits": Answer("nothing: ids, and in which columns rows differed"),
    "refunds": Answer(
        "notes on refunds",
        of_customer=_part_of("order_external_id", "orders", _ORDERS),
        emptied={"note": None},
        kept=("currency",),
    ),
    "order_lines": Answer(
        "what was bought; exported, and not erased: it names nobody",
        of_customer=_part_of("order_external_id", "orders", _ORDERS),
        kept=("title", "variant_title", "sku", "currency"),
    ),
    "orders": Answer(
        "e-mail, phone, note and tags of an order; its number, amounts and times name nobody",
        of_customer=_ORDERS,
        emptied={"email": None, "phone": None, "note": None, "tags": []},
        kept=("name", "channel", "status", "financial_status", "fulfillment_status", "currency", "cancel_reason"),
    ),
    "cart_items": Answer(
        "what is in a cart; exported, and not erased: it names nobody",
        of_customer=_part_of("cart_external_id", "carts", _CARTS),
        kept=("title", "sku", "currency"),
    ),
    "carts": Answer(
        "whose a cart is, their e-mail and phone; also of one that only these say is theirs",
        of_customer=_CARTS,
        emptied={"customer_external_id": None, "email": None, "phone": None},
        kept=("currency", "payment_state"),
    ),
    "cart_events": Answer("nothing: which cart was abandoned, and when"),
    "cart_rules": Answer("nothing: how long the store keeps carts"),
    "inventory_reservations": Answer("nothing: which cart holds what stock"),
    "sessions": Answer(
        "whose a session is; it ends with its erasure",
        of_customer=_CHANGES,
        emptied={"customer_external_id": None},
        kept=("id",),
    ),
    "customers": Answer(
        "the profile: names, company, e-mail, phone, addresses, tags, locale, note, consents",
        of_customer=_CUSTOMER,
        emptied={
            "first_name": None,
            "last_name": None,
            "company": None,
            "email": None,
            "email_verified": False,
            "phone": None,
            "phone_given": None,
            "addresses": "[]",
            "tags": [],
            "locale": None,
            "note": None,
            # Whoever is redacted is nobody: not matched, not edited (migration 0003).
            "email_consent": "redacted",
            "email_consent_at": None,
            "email_consent_source": None,
            "sms_consent": "redacted",
            "sms_consent_at": None,
            "sms_consent_source": None,
        },
        kept=("currency",),
    ),
    "customer_changes": Answer(
        "what was edited or changed in a profile, from what to what",
        of_customer=_CHANGES,
        emptied={"from_value": None, "to_value": None, "found_value": None},
        otherwise="Pending ones are rejected",
        kept=("field", "changed_by", "status", "error"),
    ),
    "person_decisions": Answer(
        "nothing: ids, and who of ours decided",
        of_store=f"({OF_STORE} OR t.other_store_id = %(store)s)",
    ),
    "person_customers": Answer(
        "digests of e-mail and phone, and whom the customer was matched with",
        of_customer=_CHANGES,
        otherwise="The row is deleted by a match of this customer alone",
        kept=("matched_by", "email_key", "phone_key"),
        of_store=None,
        stays="deleted by a match of the store's customers, who are gone",
    ),
    "people": Answer(
        "nothing: numbers", of_store=None, stays="whoever is a customer of no store any more is deleted by that match"
    ),
    "people_queue": Answer("nothing: ids", of_store=None, stays="emptied by that match"),
    "locations": Answer(NO_CUSTOMER),
    "inventory_levels": Answer(NO_CUSTOMER),
    "product_variants": Answer(NO_CUSTOMER),
    "products": Answer(NO_CUSTOMER),
    "alert_deliveries": Answer(
        "nothing: to whom of ours an alert went, as a digest",
        of_store=f"t.alert_id IN (SELECT a.id FROM alerts a WHERE a.incident_id IN ({_OF_INCIDENTS}))",  # noqa: S608
    ),
    "alerts": Answer(
        "nothing: an alert says no more than its incident", of_store=f"t.incident_id IN ({_OF_INCIDENTS})"
    ),
    "incidents": Answer(
        "nothing: errors are classified where they enter, without personal data",
        of_store=None,
        stays="resolved and emptied of messages, details and names",
    ),
    "data_requests": Answer(
        "by what the customer is recognised, encrypted, until the request is done; and the file of an export",
        of_customer=_CHANGES,
        otherwise="Files of exports are deleted",
        kept=("kind", "external_id", "status", "done_by", "result", "file", "subject"),
        of_store=None,
        stays="kept as proof, with ids and counts; files of exports are deleted",
    ),
    "erased_rows": Answer(
        "nothing: ids of what was erased",
        of_store=None,
        stays="kept, so that who was erased stays so if the shop comes back",
    ),
    "stores": Answer(
        NO_CUSTOMER,
        of_store=None,
        stays="the row is kept with its id, platform and domain, as proof and to know a shop that comes back; its name "
        "becomes `erased-ID`, credentials and all else are emptied",
    ),
    "archived_rows": Answer(
        "nothing of carts, which are archived without e-mail, phone and customer. A rule of your own archives whole rows, which "
        "erasure does not reach",
        of_store=None,
        stays="until they expire",
    ),
    "cleaning_tasks": Answer("nothing: times, places and counts", of_store=None, stays="of no store"),
    "cleaning_results": Answer("nothing: counts", of_store=None, stays="of no store"),
    "cleaning_set_aside": Answer("nothing: a row's key, and who refuses to let it go", of_store=None, stays="of no store"),
    "sync_rollups": Answer("nothing: counts and times of all stores together", of_store=None, stays="of no store"),
    "figure_samples": Answer("nothing: figures of all stores together", of_store=None, stays="of no store"),
    "activity": Answer("nothing: what people of ours did, on which incidents and stores", of_store=None, stays="of no store"),
    "board_users": Answer("nothing: names of ours, and digests of passwords", of_store=None, stays="of no store"),
    "board_sessions": Answer("nothing: who of ours is logged in", of_store=None, stays="of no store"),
    "board_login_failures": Answer("nothing: digests and times", of_store=None, stays="of no store"),
    "job_runs": Answer("nothing: times and counts of runs of all stores", of_store=None, stays="of no store"),
    "encryption_check": Answer("nothing: a known text", of_store=None, stays="of no store"),
}  # fmt: skip
"""By table."""

EMPTIED: Mapping[str, Mapping[str, Any]] = {name: of.emptied for name, of in ANSWERS.items() if of.emptied}
