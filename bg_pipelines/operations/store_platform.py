"""A store's platform for a command, connected with the credentials that are kept, and closed when the command is done with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bg_pipelines import platforms
from bg_pipelines.database.models import Store
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.settings import Settings


@contextmanager
def store_platform(store: Store, key: Cipher, settings: Settings) -> Iterator[Platform]:
    """Raises IntegrationError (configuration, credentials) where it cannot be connected."""
    access = platforms.StoreAccess(
        store.name, store.platform, store.domain, store.api_url, key.decrypt(store.credentials)
    )
    platform = platforms.connect(access, api_version=settings.shopify_api_version, sleep=time.sleep)
    try:
        yield platform
    finally:
        platform.close()
