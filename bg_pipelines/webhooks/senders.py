"""Who may send: stores by the name that their platform's deliveries have for them, and what signs these.

Read again every few seconds while deliveries come, and at once for a name that is not known, though not more than once
a second: a new store's deliveries are taken within a second, and a flood of names costs the database nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bg_pipelines.database.link import Link
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError

FRESH_SECONDS = 5.0
UNKNOWN_SECONDS = 1.0
APPLICATION_KEYS = 20
"""Keys of Square's subscriptions that are tried whosever they are; each store's own are tried in any case."""

_READ = """
SELECT s.id, s.platform, lower(s.domain), lower(s.external_id), s.credentials,
    (SELECT array_agg(w.signature_key ORDER BY w.external_id) FROM webhook_subscriptions w
     WHERE w.store_id = s.id AND w.signature_key IS NOT NULL AND w.deleted_at IS NULL)
FROM stores s
"""


class Sender:
    """A store, and what signs its deliveries: of Shopify its own app's secret, if it has one, which signs for no other;
    of Square its subscriptions' keys. Decrypted when they are first needed."""

    __slots__ = ("_cipher", "_encrypted", "_secrets", "platform", "store_id")

    def __init__(
        self, store_id: int, platform: str, encrypted: tuple[bytes, list[bytes] | None], cipher: Cipher
    ) -> None:
        self.store_id = store_id
        self.platform = platform
        self._encrypted = encrypted
        self._cipher = cipher
        self._secrets: tuple[bytes, ...] | None = None

    def is_made_of(self, encrypted: tuple[bytes, list[bytes] | None]) -> bool:
        return self._encrypted == encrypted

    @property
    def secrets(self) -> tuple[bytes, ...]:
        if self._secrets is None:
            self._secrets = tuple(secret.encode() for secret in self._decrypted())
        return self._secrets

    def _decrypted(self) -> list[str]:
        credentials, keys = self._encrypted
        found: list[Any] = []
        with suppress(IntegrationError):  # of a lost key: `check` says so, and only what is common signs
            if self.platform == "shopify":
                found = [self._cipher.decrypt(credentials).get("client_secret")]
            else:
                found = [self._cipher.decrypt(key) for key in keys or ()]
        return [secret for secret in found if isinstance(secret, str) and secret]


class Senders:
    """The stores, as they were when they were last read. `clock` is in seconds."""

    def __init__(self, link: Link, cipher: Cipher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._cipher = cipher
        self._clock = clock
        self._known: dict[tuple[str, str], Sender] = {}
        self._application_keys: tuple[bytes, ...] | None = None
        self._asked_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._failure: IntegrationError | None = None

    async def find(self, platform: str, name: str) -> Sender | None:
        """The store by its domain, or by its id at the platform.

        Raises IntegrationError (database) for a name that is not known and cannot be looked up.
        """
        key = (platform, name.lower())
        sender = self._known.get(key)
        if self._is_older_than(UNKNOWN_SECONDS if sender is None else FRESH_SECONDS):
            self._read_again()
        if sender is None:
            if self._reading is not None:
                await asyncio.wait({self._reading})
            sender = self._known.get(key)
            if sender is None and self._failure is not None:
                raise self._failure
        return sender

    def application_keys(self) -> tuple[bytes, ...]:
        """Of Square's subscriptions, whosever token made them: one belongs to an application and is told of all its
        merchants."""
        if self._application_keys is None:
            square = {id(one): one for (platform, _), one in self._known.items() if platform == "square"}
            keys = dict.fromkeys(key for sender in square.values() for key in sender.secrets)
            self._application_keys = tuple(keys)[:APPLICATION_KEYS]
        return self._application_keys

    async def have_secrets(self) -> bool:
        await self._read()
        return any(sender.secrets for sender in self._known.values())

    def _is_older_than(self, seconds: float) -> bool:
        return self._asked_at is None or self._clock() - self._asked_at >= seconds

    def _read_again(self) -> None:
        """One at a time, whoever asks."""
        if self._reading is None or self._reading.done():
            self._asked_at = self._clock()
            self._reading = asyncio.create_task(self._try_to_read())

    async def _try_to_read(self) -> None:
        try:
            await self._read()
        except IntegrationError as error:
            self._failure = error
        else:
            self._failure = None

    async def _read(self) -> None:
        rows = (await self._link.execute(_READ)).rows
        before, self._known = self._known, {}
        self._application_keys = None
        for store_id, platform, domain, _, credentials, keys in rows:
            sender = before.get((platform, domain))
            encrypted = (credentials, keys)
            if sender is None or sender.store_id != store_id or not sender.is_made_of(encrypted):
                sender = Sender(store_id, platform, encrypted, self._cipher)
            self._known[platform, domain] = sender
        for _, platform, domain, external_id, _, _ in rows:
            if external_id:
                self._known[platform, external_id] = self._known[platform, domain]
