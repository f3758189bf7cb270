"""When a store's token ends: the one thing of its credentials that a page shows."""

from __future__ import annotations

from datetime import datetime

from bg_pipelines.database.secrets import cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.settings import Settings


def describe(settings: Settings, credentials: bytes) -> str:
    """In words, without anything secret."""
    if not credentials:
        return "none: the shop removed the app, or all of the store was erased"
    try:
        held = cipher(settings).decrypt(credentials)
    except IntegrationError:
        return "not readable with this BG_ENCRYPTION_KEY"
    if "client_secret" not in held:
        return "no end: it is valid until the shop revokes it"
    expires_at = held.get("expires_at")
    if not expires_at:
        return "made anew at the next visit"
    return f"ends {datetime.fromisoformat(expires_at):%Y-%m-%d %H:%M} UTC; renewed automatically before"
