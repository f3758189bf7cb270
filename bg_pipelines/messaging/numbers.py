"""Phone numbers that text messages may go to: read, refused with a reason before anything is put in the outbox, and
shown without giving them away.

No reason names the number itself: reasons go into tables and logs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError

_NO_TEXTS = {
    "FIXED_LINE": "it is a landline",
    "TOLL_FREE": "it is a toll-free number",
    "PREMIUM_RATE": "it is a premium-rate number",
    "SHARED_COST": "it is a shared-cost number",
    "UAN": "it is a company's service number",
    "VOICEMAIL": "it is a voice mailbox",
    "PAGER": "it is a pager",
}
"""By the name of their kind in `phonenumbers.PhoneNumberType`."""


class Number(NamedTuple):
    """A number that may be sent to: `phone` in E.164, `country` by its ISO 3166 code."""

    phone: str
    country: str


def read_number(text: str, countries: Collection[str], *, region: str | None = None) -> Number:
    """The number that a text is; national ones are read as numbers of `region`.

    Raises IntegrationError (bad_data) with the reason for what is no number, can take no text messages, or is of a
    country that is not among `countries`.
    """
    # Here, for it takes 40 ms that a start has no use for.
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        raise _refused("it cannot be read; give it like +12125550123") from None
    if not phonenumbers.is_valid_number(number):
        raise _refused("there is no such number: digits are missing, too many or wrong")
    # In North America mobile and landline numbers look alike; there only Twilio can tell, when it is sent.
    kind = phonenumbers.PhoneNumberType.to_string(phonenumbers.number_type(number))
    if reason := _NO_TEXTS.get(kind):
        raise _refused(f"{reason}, which takes no text messages")
    country = phonenumbers.region_code_for_number(number) or ""
    if country not in countries:
        raise _refused(
            f"its country, {country or 'unknown'}, is not in BG_TEXT_COUNTRIES ({', '.join(sorted(countries))})"
        )
    return Number(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164), country)


def any_number(text: str) -> str:
    """The number that a text is in E.164, whether or not it may be sent to: for what is known of it, and for stopping.

    Raises IntegrationError (bad_data) for what is no number.
    """
    import phonenumbers

    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException:
        raise _refused("it cannot be read; give it like +12125550123") from None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def calling_code(country: str) -> str:
    """The digits that numbers of a country begin with: 1 for the USA."""
    import phonenumbers

    return str(phonenumbers.country_code_for_region(country))


def masked(phone: str) -> str:
    """The number as it is shown: enough to be recognised by whoever knows it."""
    return f"{phone[:3]}…{phone[-3:]}" if len(phone) > 7 else "…"


def _refused(why: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, f"the recipient's number: {why}", source="texts")
