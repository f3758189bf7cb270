"""Changes of a customer's profile, written to Shopify.

Names, e-mail, phone, note, tags and locale are one mutation, and each consent is one of its own. Shopify says in
`userErrors` what it does not take. Their messages may quote what was given, so only phrases known to be free of it
are passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import UpdateOutcome
from bg_pipelines.platforms.shopify.client import Answer, ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import Converted, Node
from bg_pipelines.platforms.shopify.sales import CUSTOMER_NODE, Sales
from bg_pipelines.records import Customer, Page

UPDATE_CUSTOMER = f"""
mutation UpdateCustomer($input: CustomerInput!, $addresses: Int!) {{
  outcome: customerUpdate(input: $input) {{ customer {{ {CUSTOMER_NODE} }} userErrors {{ field message }} }}
}}"""

UPDATE_EMAIL_CONSENT = f"""
mutation UpdateEmailConsent($input: CustomerEmailMarketingConsentUpdateInput!, $addresses: Int!) {{
  outcome: customerEmailMarketingConsentUpdate(input: $input) {{
    customer {{ {CUSTOMER_NODE} }} userErrors {{ field message code }}
  }}
}}"""

UPDATE_SMS_CONSENT = f"""
mutation UpdateSmsConsent($input: CustomerSmsMarketingConsentUpdateInput!, $addresses: Int!) {{
  outcome: customerSmsMarketingConsentUpdate(input: $input) {{
    customer {{ {CUSTOMER_NODE} }} userErrors {{ field message code }}
  }}
}}"""

DOCUMENTS = (UPDATE_CUSTOMER, UPDATE_EMAIL_CONSENT, UPDATE_SMS_CONSENT)

_PROFILE = {
    "first_name": "firstName",
    "last_name": "lastName",
    "email": "email",
    "phone": "phone",
    "note": "note",
    "tags": "tags",
    "locale": "locale",
}
_CONSENTS = {
    "email_consent": (UPDATE_EMAIL_CONSENT, "emailMarketingConsent"),
    "sms_consent": (UPDATE_SMS_CONSENT, "smsMarketingConsent"),
}
EDITABLE = frozenset({*_PROFILE, *_CONSENTS})

AT_ONCE_SECONDS = 2.0
"""So long at most what was read waits to be overwritten."""

# What says that there is none; the other texts may be null.
_NONE: dict[str, Any] = {"email": "", "phone": "", "tags": []}
_ALWAYS_THERE = ("locale", *_CONSENTS)
_SAFE_PHRASES = (
    "has already been taken",
    "is invalid",
    "is too long",
    "can't be blank",
    "must be present",
    "does not exist",
    "not found",
    "could not be found",
    "must have an email address",
    "must have a phone number",
    "cannot be set",
)
_COLUMNS = {name: column for column, name in _PROFILE.items()} | {
    "id": "id",
    "customerId": "id",
    "emailMarketingConsent": "email_consent",
    "smsMarketingConsent": "sms_consent",
}


class _RefusedError(Exception):
    """Shopify does not take a change; the text says why, without values."""


class CustomerEdits:
    """Writes to a shop's customers."""

    def __init__(self, client: ShopifyClient, sales: Sales) -> None:
        self._client = client
        self._sales = sales

    def update(
        self, external_id: str, values: Mapping[str, Any], if_still: Callable[[Any], bool] | None = None
    ) -> UpdateOutcome:
        """See `Platform`. The profile is all or nothing and comes first; where a consent is refused after that, the
        outcome is `rejected` and its page shows what was done.

        Shopify has no compare-and-swap for customers: each is read again right before it is written, and once more
        where the rate limit makes us wait in between.
        """
        may_wait = self._client.throttle_wait_seconds
        while if_still is not None:
            try:
                return self._update(external_id, values, if_still)
            except IntegrationError as error:
                seconds = float(error.details.get("retry_after_seconds", 0))
                if error.error_type is not ErrorType.THROTTLED or not 0 < seconds <= may_wait:
                    raise
                may_wait -= seconds
                self._client.sleep(seconds)
        return self._update(external_id, values, None)

    def _update(
        self, external_id: str, values: Mapping[str, Any], if_still: Callable[[Any], bool] | None
    ) -> UpdateOutcome:
        page: Page | None = None
        try:
            _require_possible(values)
            if if_still is not None:
                page = self._read(external_id)
                if not if_still(_only(page)):
                    return UpdateOutcome("changed", page)
            profile = {
                name: _NONE.get(column) if values[column] is None else values[column]
                for column, name in _PROFILE.items()
                if column in values
            }
            if profile:
                page = self._apply(
                    UPDATE_CUSTOMER, {"id": external_id, **profile}, at_once=if_still is not None
                )
            for column, (document, field) in _CONSENTS.items():
                if column not in values:
                    continue
                page = page or self._read(external_id)
                # A consent that is as it shall be keeps the time at which it was given.
                if getattr(_only(page), column) != values[column]:
                    state = {"marketingState": str(values[column]).upper()}
                    page = self._apply(
                        document, {"customerId": external_id, field: state}, at_once=if_still is not None
                    )
            return UpdateOutcome("applied", page or self._read(external_id))
        except _RefusedError as refused:
            return UpdateOutcome("rejected", page, str(refused))

    def _read(self, external_id: str) -> Page:
        page = self._sales.customers_by_ids([external_id])
        if page.gone:
            raise _RefusedError("id: does not exist")
        return page

    def _apply(self, document: str, change: Node, *, at_once: bool) -> Page:
        """Write one change; returns the customer as they are now."""
        try:
            answer = self._client.execute(
                document,
                {"input": change, **self._sales.addresses},
                may_wait_seconds=AT_ONCE_SECONDS if at_once else None,
            )
        except IntegrationError as error:
            if error.error_type is not ErrorType.QUERY_REJECTED:
                raise
            if error.details.get("code") == "INVALID_VARIABLE":
                raise _RefusedError(
                    "INVALID_VARIABLE: a value is not of the kind that Shopify takes"
                ) from None
            # What Shopify says of a query may quote its variables.
            raise IntegrationError.of(
                ErrorType.QUERY_REJECTED,
                "Shopify rejects the change of a customer",
                source=SOURCE,
                details=error.details,
            ) from None
        return self._outcome(answer)

    def _outcome(self, answer: Answer) -> Page:
        try:
            faults, node = answer.data["outcome"]["userErrors"], answer.data["outcome"]["customer"]
            if any(fault.get("code") == "INTERNAL_ERROR" for fault in faults):
                raise IntegrationError.of(
                    ErrorType.SERVER_ERROR, "Shopify is failing at a customer's consent", source=SOURCE
                )
            if faults:
                raise _RefusedError(", ".join(_reason(fault) for fault in faults))
        except (KeyError, TypeError, AttributeError):
            # It may be asked again: what was applied is then applied once more, to the same effect.
            raise malformed("Shopify's answer to a change of a customer lacks its outcome") from None
        converted = Converted(answer.data)
        converted.add([node], self._sales.customer)
        return converted.page(answer.vendor_time, resume=None)


def _only(page: Page) -> Customer:
    if len(page.records) != 1 or not isinstance(page.records[0], Customer):
        raise malformed("Shopify's answer holds a customer that makes no sense")
    return page.records[0]


def _require_possible(values: Mapping[str, Any]) -> None:
    if unknown := sorted(values.keys() - EDITABLE):
        raise _RefusedError(f"{', '.join(unknown)}: cannot be changed at Shopify from here")
    if kept := [column for column in _ALWAYS_THERE if column in values and values[column] is None]:
        raise _RefusedError(f"{', '.join(kept)}: cannot be taken away")


def _reason(fault: Node) -> str:
    """A userError as our column and a phrase that holds no value."""
    path, message = fault["field"] or [], str(fault["message"]).lower()
    column = next((_COLUMNS[name] for name in reversed(path) if name in _COLUMNS), "customer")
    said = next((phrase for phrase in _SAFE_PHRASES if phrase in message), None)
    return f"{column}: {said or fault.get('code') or 'refused by Shopify'}"
