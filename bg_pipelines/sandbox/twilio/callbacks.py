"""What Twilio posts: a form, signed as the vendor signs."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from urllib.parse import urlencode

from bg_pipelines.sandbox.deliveries import Delivery


def posted(topic: str, id_: str, uri: str, fields: Mapping[str, str], *, token: str, at: str) -> Delivery:
    """The post of these fields to an address; `at` is when it was made."""
    return Delivery(
        topic=topic,
        id=id_,
        event_id=id_,
        object_id=fields["MessageSid"],
        subscription_id=None,
        uri=uri,
        created_at=at,
        headers={
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "X-Twilio-Signature": signature(token, uri, fields),
        },
        body=urlencode(fields).encode(),
    )


def signature(token: str, uri: str, fields: Mapping[str, str]) -> str:
    """https://www.twilio.com/docs/usage/security#validating-requests"""
    signed = uri + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), "sha1")).decode()
