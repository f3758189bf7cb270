"""Templates: the text of a message, how many segments it takes, and which character makes it dear.

A segment is what is paid for: 160 characters of the GSM-7 alphabet, or 70 as soon as one character is not in it
(https://www.twilio.com/docs/glossary/what-sms-character-limit). Typographic quotes, dashes and spaces become plain
ones; a letter is never changed.

Every text holds its message's reference, in its link or by itself: by it a message is found again at Twilio.
"""

from __future__ import annotations

import math
import re
import string
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from bg_pipelines import wording
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean

MOST_CHARACTERS = 1600
"""Twilio refuses more."""
TITLE_CHARACTERS = 60
GSM_7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_7_TWICE = frozenset("^{}\\[~]|€")
"""Of GSM-7, but each counts as two."""
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´ʼ", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\t", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),
        "…": "...",
        "•": "*",
        "×": "x",
    }
)

TEMPLATES: Mapping[str, str] = {
    "product_share": "{store}: {title}, {price}. {link} Reply STOP to opt out",
    "back_in_stock": "{store}: {title} is back in stock, {price}. {link} Reply STOP to opt out",
    "price_drop": "{store}: {title} is now {price}, was {was}. {link} Reply STOP to opt out",
    "order_ready": "{store}: your order {order} is ready. Ref {reference}. Reply STOP to opt out",
    "cart_reminder": "{store}: you left {title} in your cart. {link} Reply STOP to opt out",
    "opt_out": "{store}: you are opted out and get no more messages. Reply START to opt in again. Ref {reference}",
    "opt_in": "{store}: reply YES to get {about} by text message. Message and data rates may apply. "
    "Reply HELP for help, STOP to opt out. Ref {reference}",
}
ALERTS = ("back_in_stock", "price_drop", "order_ready")
FIELDS = {"store", "title", "price", "was", "link", "order", "reference", "about"}
KINDS: Mapping[str, str] = {
    "product_share": "product_share",
    **dict.fromkeys(ALERTS, "customer_alert"),
    "cart_reminder": "cart_reminder",
    "opt_out": "service",
    "opt_in": "service",
}
"""The kind of message that each template makes: what its recipient has consented to."""
_SYMBOLS = {"USD": "$", "CAD": "$", "GBP": "£"}


class Text(NamedTuple):
    """A message as it is sent. `costly` are the characters that are not in GSM-7, each of which makes all of it UCS-2."""

    body: str
    segments: int
    costly: str

    @property
    def encoding(self) -> str:
        return "UCS-2" if self.costly else "GSM-7"

    def __str__(self) -> str:
        size = f"{len(self.body)} characters of {self.encoding}, {self.segments} segment" + "s" * (
            self.segments != 1
        )
        if not self.costly:
            return size
        plain = segments("".join("?" if character in self.costly else character for character in self.body))
        return f"{size} instead of {plain}, because of {' '.join(self.costly)}"


def render(template: str, fields: Mapping[str, Any], templates: Mapping[str, str] = TEMPLATES) -> Text:
    """The text of a message. Raises IntegrationError (bad_data) for a field that is missing, or too long a text."""
    given = {name: plain(str(value)) for name, value in fields.items() if value is not None}
    if "title" in given:
        given["title"] = cut(given["title"], TITLE_CHARACTERS)
    missing = sorted(_named(templates[template]) - given.keys())
    if missing:
        raise _bad_data(f"template {template}: nothing is known for {', '.join(missing)}")
    body = " ".join(plain(templates[template]).format_map(given).split())
    if len(body) > MOST_CHARACTERS:
        raise _bad_data(
            f"template {template}: the text has {len(body)} characters, {MOST_CHARACTERS} are possible"
        )
    costly = "".join(sorted({c for c in body if c not in GSM_7 and c not in GSM_7_TWICE}))
    return Text(body, segments(body), costly)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def segments(body: str) -> int:
    """How many segments a text takes: one of 160 or 70 characters, several of 153 or 67."""
    if all(character in GSM_7 or character in GSM_7_TWICE for character in body):
        length, one, several = sum(1 + (character in GSM_7_TWICE) for character in body), 160, 153
    else:
        length, one, several = len(body.encode("utf-16-le")) // 2, 70, 67
    return 1 if length <= one else math.ceil(length / several)


def plain(text: str) -> str:
    """The text with plain quotes, dashes and spaces, which Twilio's own "smart encoding" then leaves as they are."""
    return text.translate(_PLAIN)


def money(amount: Decimal, currency: str) -> str:
    written = wording.money(amount, currency)
    symbol = _SYMBOLS.get(currency)
    return f"{symbol}{written}" if symbol else f"{written} {currency}"


@lru_cache(maxsize=8)
def load_templates(path: Path | None) -> Mapping[str, str]:
    """Ours, with those of a TOML file (`product_share = "…"`) in their place.

    Raises IntegrationError (configuration) for a template or a field that there is not, and for one without a
    reference: such a message could not be found again.
    """
    if path is None:
        return TEMPLATES
    try:
        own = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # also of numbers and nesting without end
        raise _wrong(f"cannot be read ({type(error).__name__})") from None
    for name, text in own.items():
        if name not in TEMPLATES:
            raise _wrong(f"{name}: there is no such template{did_you_mean(name, TEMPLATES)}")
        try:
            named = _named(text) if isinstance(text, str) else None
        except ValueError:
            named = None
        if named is None:
            raise _wrong(f"{name}: must be a text with fields in braces, like {{title}}")
        if unknown := sorted(named - FIELDS):
            raise _wrong(f"{name}: there is no field {', '.join(unknown)}{did_you_mean(unknown[0], FIELDS)}")
        if not named & {"link", "reference"}:
            raise _wrong(
                f"{name}: must hold {{link}} or {{reference}}, by which a message is found again at Twilio"
            )
    return {**TEMPLATES, **own}


def tagged_link(link: str, reference: str) -> str:
    """The link with the message's reference in its query."""
    address, sign, fragment = link.partition("#")
    return f"{address}{'&' if '?' in address else '?'}m={reference}{sign}{fragment}"


def _named(template: str) -> set[str]:
    return {
        re.split(r"[.\[]", name)[0]
        for _, name, _, _ in string.Formatter().parse(template)
        if name is not None
    }


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="texts")


def _wrong(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.CONFIGURATION, f"BG_TEXT_TEMPLATES: {message}", source="settings")
