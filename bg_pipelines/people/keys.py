"""What may tell that two customers are one person: the documented list, and the same in SQL (docs/people.md).

A key is a verified e-mail or an E.164 phone, kept as a digest. What identifies nobody by its own look is no key at
all; what does so by who holds it (`MOST`, shared within a store) is marked as shared, see `matching`.
"""

from __future__ import annotations

MOST = 100
"""A key of more customers than this belongs to no one; nor do phones alone make a person of more customers."""

PLACEHOLDER_NAMES = (
    # No address at all:
    "noemail", "nomail", "noaddress", "none", "no", "na", "nil", "null", "nan", "undefined", "unknown", "unavailable",
    "notavailable", "notgiven", "notprovided", "refused", "declined", "anonymous", "anon", "nobody", "noone",
    "noreply", "donotreply", "test", "testing", "tester", "dummy", "fake", "example", "sample", "placeholder",
    "temp", "tbd", "asdf", "x", "xx", "xxx",
    # Not a person but whoever stands at the till, or reads the shop's mail:
    "guest", "customer", "client", "walkin", "cash", "cashcustomer", "pos", "till", "retail", "shop", "store", "staff",
    "info", "sales", "office", "contact", "hello", "mail", "email", "support", "help", "service", "admin", "team",
    "order", "orders", "billing", "accounts", "reception", "webmaster", "postmaster",
)  # fmt: skip
"""Local parts of an e-mail that identify nobody; compared by their letters alone, without a +suffix: No-Email+3@ too."""

PLACEHOLDER_WORDS = (
    # No name at all:
    "", "na", "n", "a", "nil", "null", "none", "no", "name", "noname", "unknown", "unnamed", "undefined", "unspecified",
    "anonymous", "anon", "nobody", "noone", "tbd", "blank", "empty", "default", "x", "xx", "xxx", "test", "testing",
    "tester", "dummy", "fake", "sample", "example", "temp", "asdf", "first", "last", "firstname", "lastname",
    # Whoever stands at the till:
    "walk", "in", "walkin", "walkins", "guest", "customer", "client", "buyer", "shopper", "visitor", "consumer",
    "cash", "sale", "sales", "pos", "till", "counter", "register", "store", "shop", "instore", "retail", "online", "web",
    "general", "generic", "valued", "new", "user", "account", "walkincustomer", "guestcustomer", "cashcustomer",
    "cashsale", "poscustomer", "storecustomer", "shopcustomer", "retailcustomer", "unknowncustomer", "testcustomer",
    "newcustomer", "laufkundschaft", "laufkunde", "barverkauf",
)  # fmt: skip
"""A name of such words alone is none: Walk-in Customer, Cash Sale 2, N/A, -. Compared in lower case by their letters."""

PLACEHOLDER_DOMAINS = ("noemail.com", "no-email.com", "nomail.com", "none.com", "noreply.com", "test.com")
"""Domains that identify nobody, as do all that end in `.invalid` and every store's own."""

EMAIL = "normalize(lower(btrim(c.email, E' \\t\\r\\n\\u00a0\\u200b\\ufeff')), NFC)"
"""Trimmed, in lower case, in one form of Unicode. Dots and +tags stay: whether they matter is for the address's own
server to say."""

_DIGEST = "substr(sha256(convert_to({}, 'UTF8')), 1, 16)"
_LETTERS = "translate(split_part(split_part(e.email, '@', 1), '+', 1), '0123456789.-_/', '')"
_DOMAIN = "split_part(e.email, '@', 2)"

# Of `e.email`, which is EMAIL, worked out once a row.
EMAIL_KEY = f"""CASE WHEN c.email_verified AND e.email LIKE '_%%@_%%._%%' AND e.email NOT LIKE '%%@%%@%%'
    AND e.email !~ '[[:space:]]' AND {_LETTERS} <> ALL (%(placeholder_names)s)
    AND {_DOMAIN} <> ALL (%(placeholder_domains)s) AND e.email NOT LIKE '%%.invalid'
    AND {_DOMAIN} NOT IN (SELECT domain FROM stores) THEN {_DIGEST.format("e.email")} END"""  # noqa: S608 (of constants)

PHONE_KEY = f"""CASE WHEN c.phone ~ '^[+][1-9][0-9]{{6,14}}$' AND right(c.phone, 7) <> repeat(right(c.phone, 1), 7)
    AND right(c.phone, 7) NOT IN ('1234567', '2345678', '3456789', '4567890') AND c.phone NOT LIKE '+1555%%'
    AND coalesce(c.phone_given, '') !~ '[[:alpha:]#;~,][^0-9]*[0-9]{{1,9}}[^0-9]*$'
    THEN {_DIGEST.format("c.phone")} END"""
"""Made up: seven times one digit, or counted up, at the end; or the area code 555, which nobody has. What ends in an
extension (x34, ext. 12, #5) is a switchboard's: `phone` is without it, so what was given is looked at."""

KNOWN = "somebody(c)"
"""Whether a customer is somebody: there, and not redacted. Migration 0003 says how that is seen."""

_APOSTROPHES = r"\u2019\u2018\u02bc\u0060\u00b4\u2032\uff07"
_HYPHENS = r"\u2010\u2011\u2012\u2013\u2212"
_INVISIBLE = r"\u200b\ufeff\u00ad\u2060"
_NAME = f"""normalize(translate(
    coalesce(nullif(btrim(concat_ws(' ', c.first_name, c.last_name)), ''), c.company, ''),
    E'{_APOSTROPHES}{_HYPHENS}{_INVISIBLE}', E'\\'\\'\\'\\'\\'\\'\\'-----'), NFKC)"""
"""As it is read: typed on a Mac, a phone or a till, one name comes in several forms of Unicode, with one apostrophe or
another."""
NAME = f"""CASE WHEN NOT regexp_split_to_array(lower({_NAME}), '[[:space:][:punct:][:digit:]]+')
    <@ %(placeholder_words)s::text[] THEN lower(regexp_replace(btrim({_NAME}), '[[:space:]]+', ' ', 'g')) END"""
"""What two customers of one store with one key must have in common, lest the key be shared; null: no name."""

PARAMETERS = {
    "placeholder_names": list(PLACEHOLDER_NAMES),
    "placeholder_words": list(PLACEHOLDER_WORDS),
    "placeholder_domains": list(PLACEHOLDER_DOMAINS),
    "most": MOST,
}
