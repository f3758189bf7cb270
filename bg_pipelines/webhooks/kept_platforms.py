"""Platforms that stay connected between a store's batches: no TLS handshake, and the rate limit's state is known."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.sync.stores import Store

MOST = 64
"""Stores; the one that was used the longest ago is disconnected first."""


class KeptPlatforms:
    """The platforms of one run. `connect` makes one for a store. Thread-safe; a store has one worker at a time."""

    def __init__(self, connect: Callable[[Store], Platform], most: int = MOST) -> None:
        self._connect = connect
        self._most = most
        self._kept: OrderedDict[int, tuple[Store, Platform]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, store: Store) -> tuple[Store, Platform]:
        """The store's platform, connected anew if its address or credentials have changed; it is given back with the
        row it was connected by. Raises IntegrationError (configuration, credentials)."""
        with self._lock:
            kept = self._kept.pop(store.id, None)
        if kept is not None:
            if _address(kept[0]) == _address(store):
                return kept
            kept[1].close()
        row = replace(store)
        return row, self._connect(row)

    def give_back(self, row: Store, platform: Platform) -> None:
        with self._lock:
            self._kept[row.id] = row, platform
            over = self._kept.popitem(last=False)[1] if len(self._kept) > self._most else None
        if over is not None:
            over[1].close()

    def close(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, OrderedDict()
        for _, platform in kept.values():
            platform.close()


def _address(store: Store) -> tuple[str, str, str | None, bytes]:
    # What was renewed meanwhile is in the row it was connected by.
    return store.platform, store.domain, store.api_url, bytes(store.credentials)
