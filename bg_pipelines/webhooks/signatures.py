"""Whether a delivery is from whom it says: signatures of Shopify, Square and Twilio, compared in constant time.

Nothing here knows where a secret comes from, and every secret is tried, whichever matches.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping, Sequence


def is_from_shopify(body: bytes, signature: str, secrets: Iterable[bytes]) -> bool:
    """Base64 HMAC-SHA256 of the raw body with the app's client secret; classic webhooks and Events alike.

    Topic and shop are not signed: a body can be repeated with others.
    https://shopify.dev/docs/apps/build/webhooks/verify-deliveries
    """
    return _matches(signature, [hmac.digest(secret, body, "sha256") for secret in secrets])


def is_from_square(address: str, body: bytes, signature: str, keys: Iterable[bytes]) -> bool:
    """Base64 HMAC-SHA256 of the subscription's address and the raw body with the subscription's key.

    https://developer.squareup.com/docs/webhooks/step3validate
    """
    signed = address.encode() + body
    return _matches(signature, [hmac.digest(key, signed, "sha256") for key in keys])


def is_from_twilio(address: str, form: Mapping[str, Sequence[str]], signature: str, token: bytes) -> bool:
    """Base64 HMAC-SHA1 of the address with its query, then each name and value of the form in the names' order.

    Twilio names the port 443 in some of its products and not in others, so both will do.
    https://www.twilio.com/docs/usage/security#validating-requests
    """
    values = "".join(name + value for name in sorted(form) for value in sorted(set(form[name])))
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    signed = [address]
    if ":" not in host and scheme == "https":
        signed.append(f"{scheme}://{host}:443{slash}{path}")
    return _matches(
        signature,
        [hmac.digest(token, (url + values).encode("utf-8", "surrogatepass"), "sha1") for url in signed],
    )


def _matches(signature: str, digests: Sequence[bytes]) -> bool:
    given = signature.encode("utf-8", "replace")
    # A list, not a generator: the time tells nothing of which one it was.
    return any([hmac.compare_digest(base64.b64encode(digest), given) for digest in digests])  # noqa: C419
