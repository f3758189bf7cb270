"""What a vendor says in its own words, for an error or an incident: short, on one line, and without what may be personal.

A sentence like `email "ada@example.com" is taken` quotes what was sent, or what is stored there.
"""

from __future__ import annotations

import re
from typing import Any

LONGEST = 200
_REPLACED = (
    # Ids of rows stay: they are how a row is named where nothing personal may be.
    (re.compile(r"(gid://shopify/\w+/\d+)|\S*@\S+"), lambda found: found[1] or "(an address)"),
    (
        re.compile(r"(gid://shopify/\w+/\d+)|\b(?=[\w.~+/=-]*\d)(?=[\w.~+/=-]*[A-Za-z])[\w.~+/=-]{16,}"),
        lambda found: found[1] or "(a token)",
    ),
    (
        re.compile(r"(gid://shopify/\w+/\d+)|\+?\d(?:[\s().\-/]*\d){5,}"),
        lambda found: found[1] or "(a number)",
    ),
)
# Names of fields and types are between quotes, too: `firstName`, `sms_consent`, `CustomerInput`.
_QUOTED = re.compile(r"""(?<!\w)(["'`“‘])(.*?)(["'`”’])(?!\w)""")
_IDENTIFIER = re.compile(
    r"[a-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*[!]?|[A-Z][a-z0-9]+([A-Z][a-z0-9]*)+[!]?|[A-Z]+(_[A-Z]+)+"
)


def said(text: Any) -> str:
    """A vendor's text without addresses, numbers, tokens and quoted values; at most 200 characters."""
    # Cut before it is looked at: a page of HTML is no sentence. What is cut within a word may be half of an address.
    words = " ".join(str(text)[: 4 * LONGEST].split())
    for pattern, instead in _REPLACED:
        words = pattern.sub(instead, words)
    words = _QUOTED.sub(
        lambda found: found[0] if _IDENTIFIER.fullmatch(found[2]) else f"{found[1]}…{found[3]}", words
    )
    return words if len(words) <= LONGEST else words[:LONGEST].rpartition(" ")[0] + " …"
