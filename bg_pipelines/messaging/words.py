"""What a reply says: a keyword of the configured languages, a refusal in free words, or something for a person to read.

    reading("Please stop texting me", ("en",))      Reading.REFUSAL

Consent may be revoked by any reasonable means (47 CFR 64.1200(a)(10)), so what reads like a refusal counts as one. It is
taken too often rather than too seldom: a person sees each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple


class Reading(StrEnum):
    STOP = "stop"
    START = "start"
    HELP = "help"
    YES = "yes"
    REFUSAL = "refusal"
    OTHER = "other"


class _Words(NamedTuple):
    """Keywords are the whole reply; of `refusals` one that is found in it suffices (regular expressions)."""

    stop: str
    start: str
    help: str
    yes: str
    refusals: Sequence[str]


TWILIO_STOPS = frozenset(
    {"stop", "stopall", "unsubscribe", "end", "quit", "cancel", "revoke", "optout", "opt out"}
)
"""Twilio blocks the number itself and confirms it: https://www.twilio.com/docs/messaging/features/advanced-opt-out"""
TWILIO_HELPS = frozenset({"help", "info"})
"""Twilio answers these itself, and those of no other language."""

LANGUAGES: Mapping[str, _Words] = {
    "en": _Words(
        "stop|stop all|stopall|unsubscribe|end|quit|cancel|revoke|opt out|optout|remove me|no more",
        "start|unstop|resume|opt in|optin|subscribe",
        "help|info",
        "yes|y|ok|yes please",
        (
            r"\b(stop|quit|cease)\b.*\b(text|texts|texting|messag\w*|sms|contact\w*|this|it|send\w*)\b",
            r"\bplease stop\b|\bstop (please|now|already)\b|\bjust stop\b",
            r"\b(do not|don'?t|dont|never|no more|quit) (ever )?(text|message|contact|send|sms)",
            r"\bno more (texts?|messages?|sms|of th)",
            r"\b(take|remove|delete) (me|my (phone|number|name))\b",
            r"\b(un ?subscribe|opt(ing)? (me )?out|leave me alone|wrong (number|person)|not interested)\b",
            r"\b(lose|delete) (my|this) number\b|\bwho is this\b.*\bstop\b|\bi (never|didn'?t) (sign|agree|consent|ask)",
            r"\b(revoke|withdraw)\b.*\b(consent|permission)\b|\b(fuck|f\*+k|piss) off\b|\bspam\b",
        ),
    ),
    "es": _Words(
        "alto|parar|basta|cancelar|salir|baja|darse de baja|no mas",
        "empezar|iniciar|alta|reanudar",
        "ayuda",
        "si|si por favor",
        (
            r"\b(no (me )?(envie\w*|manden?|mandes|escriban?|escribas|molest\w*)|dej(a|e|en) de)\b",
            r"\bno (quiero|mas|me interesa)\b|\b(denme|dame) de baja\b|\bnumero equivocado\b|\bborr\w+ mi numero\b",
        ),
    ),
    "fr": _Words(
        "arret|arreter|stop|fin|desabonner|desinscrire",
        "debut|commencer|reprendre",
        "aide",
        "oui",
        (
            r"\b(arret\w+|cess\w+)\b.*\b(messages?|sms|textos?|envo\w+|ecrire)\b|\bne (m'?)?(envoy\w+|ecri\w+)",
            r"\bdesabonn\w+|\bdesinscri\w+|\bplus de (messages?|sms)\b|\bpas interesse|\bmauvais numero\b",
        ),
    ),
    "de": _Words(
        "stopp|stop|ende|abmelden|abbestellen|austragen|kündigen",
        "start|anmelden|weiter",
        "hilfe",
        "ja|ja bitte",
        (
            r"\bkeine? (weiteren? )?(sms|nachricht\w*|werbung)\b|\bh(o|oe)r\w* auf\b|\bnicht mehr (schreiben|senden)\b",
            r"\bl(o|oe)sch\w* (mich|meine nummer)\b|\bfalsche nummer\b|\bkein interesse\b|\babmelden\b|\babbestell",
        ),
    ),
}


def reading(text: str, languages: Sequence[str]) -> Reading:
    """What a reply says, in any of these languages."""
    said = _flat(text)
    of = [LANGUAGES[language] for language in languages]
    # One that stops wins over one that starts, whatever languages share a word.
    for meaning in (Reading.STOP, Reading.HELP, Reading.START, Reading.YES):
        if any(said in {_flat(word) for word in getattr(words, meaning.value).split("|")} for words in of):
            return meaning
    if any(re.search(pattern, said) for words in of for pattern in words.refusals):
        return Reading.REFUSAL
    return Reading.OTHER


def is_twilios(text: str) -> bool:
    """Whether Twilio itself answers the reply: as a STOP, for which it blocks the number as well, or a HELP."""
    return _flat(text) in TWILIO_STOPS | TWILIO_HELPS


def _flat(text: str) -> str:
    """Small letters without accents, signs and repeated blanks: people type "STOP!" and "¡Alto!"."""
    letters = unicodedata.normalize("NFKD", text.casefold().replace("’", "'"))
    kept = "".join(c for c in letters if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w'* ]+", " ", kept).split())
