"""Whether webhooks would arrive: is the receiver reached at BG_PUBLIC_URL, and is there a secret for every store?

Without BG_PUBLIC_URL there are none, which is no fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import psycopg

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.http import Answer, Timeouts, Transport
from bg_pipelines.platforms.network import is_in_clear
from bg_pipelines.settings import Settings
from bg_pipelines.webhooks.declared import address
from bg_pipelines.wording import counted

TIMEOUTS = Timeouts(5.0, 5.0, 10.0)
"""A platform waits five seconds for an answer."""
_NAMED = 5


def address_faults(public_url: str, *, timeouts: Timeouts = TIMEOUTS) -> list[str]:
    """What keeps deliveries from being stored, as far as it can be told from this machine."""
    base, fault = public_url.rstrip("/"), "BG_PUBLIC_URL: "
    if is_in_clear(base):
        return [f"{fault}platforms deliver webhooks to https:// only"]
    transport = Transport("receiver", "what answers there", address_of="BG_PUBLIC_URL", timeouts=timeouts)
    try:
        answer = transport.request("GET", f"{base}/healthz")
        state = _state(answer)
        if state is None:
            # A proxy in front may keep /healthz to itself; an unsigned delivery is refused by the receiver alone.
            answer = transport.request("POST", address(base, "shopify"), body=b"")
            state = "ok" if answer.status == 401 and b"signature" in answer.content else None
    except IntegrationError as error:
        return [
            f"{fault}the receiver is not reached from this machine: {error.message}. Is `bg-pipelines serve-webhooks` "
            "running, and does its proxy pass /webhooks/ on?"
        ]
    finally:
        transport.close()
    if state is None:
        return [f"{fault}another program answers there ({answer.status}), not `bg-pipelines serve-webhooks`"]
    if state != "ok":
        return [f"{fault}the receiver cannot store deliveries: its database does not take them"]
    return []


def secret_faults(connection: psycopg.Connection[Any], key: Cipher, settings: Settings) -> list[str]:
    """Whose deliveries could not be verified: Shopify's, of stores that have a token and no client secret."""
    if settings.shopify_webhook_secret:
        return []
    rows = connection.execute(
        "SELECT name, credentials FROM stores WHERE platform = 'shopify' AND paused_at IS NULL AND deleted_at IS NULL "
        "ORDER BY name"
    ).fetchall()
    without = [
        name for name, credentials in rows if key.can_decrypt(credentials) and _lacks(key, credentials)
    ]
    if not without:
        return []
    more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
    return [
        f"BG_SHOPIFY_WEBHOOK_SECRET is not set: webhooks of {counted(len(without), 'store')} that have only a token "
        f"cannot be verified ({', '.join(without[:_NAMED])}{more}). It is the app's client secret"
    ]


def hints(settings: Settings) -> Sequence[str]:
    """What is well, and could be better."""
    if settings.public_url is None:
        return ["webhooks are off, because BG_PUBLIC_URL is not set (docs/webhooks.md)"]
    return []


def _state(answer: Answer) -> str | None:
    """What the receiver says of itself; None where it is not the receiver."""
    try:
        state = orjson.loads(answer.content).get("status")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    expected = {200: "ok", 503: "unavailable"}.get(answer.status)
    return state if isinstance(state, str) and state == expected else None


def _lacks(key: Cipher, credentials: bytes) -> bool:
    held = key.decrypt(credentials)
    return not (isinstance(held, dict) and held.get("client_secret"))
