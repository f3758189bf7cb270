"""A shop that has removed our app: its store is paused, its credentials dropped, its subscriptions gone with the app.

Its data stays until the platform asks for its removal. Giving the store a token again (`operations/stores.py`) undoes
this.
"""

from __future__ import annotations

from typing import Any

import psycopg

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Platform

_REMOVED = (ErrorType.CREDENTIALS, ErrorType.SHOP_GONE)


def is_removed(platform: Platform) -> bool:
    """Whether the platform refuses the store's credentials, as it does once the app is removed.

    Asked before `uninstall`, for an event may come late, when the app has long been installed again. Raises
    IntegrationError where the platform does not answer.
    """
    try:
        platform.profile()
    except IntegrationError as error:
        if error.error_type in _REMOVED:
            return True
        raise
    return False


def uninstall(connection: psycopg.Connection[Any], store_id: int, cipher: Cipher) -> bool:
    """Pause a store and drop its credentials; returns False where that was done before."""
    changed = connection.execute(
        "UPDATE stores SET uninstalled_at = clock_timestamp(), paused_at = coalesce(paused_at, clock_timestamp()), "
        "credentials = %s WHERE id = %s AND uninstalled_at IS NULL",
        (cipher.encrypt({}), store_id),
    ).rowcount
    connection.execute(
        "UPDATE webhook_subscriptions SET deleted_at = clock_timestamp(), synced_at = clock_timestamp() "
        "WHERE store_id = %s AND deleted_at IS NULL",
        (store_id,),
    )
    return bool(changed)
