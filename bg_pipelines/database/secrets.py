"""Vendor tokens at rest: encrypted with `BG_ENCRYPTION_KEY` (Fernet: AES-128-CBC with HMAC-SHA256).

While a key is being rotated the setting lists several: the first encrypts, any decrypts. `encryption_check`, a known
value, shows whether the key is right: unreadable credentials of one store are that store's fault alone.
"""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import psycopg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from psycopg import sql

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.folders import private_folder
from bg_pipelines.settings import Settings

KEY_FILE = "encryption.key"
KNOWN_VALUE = "bg-pipelines"
ENCRYPTED = (
    ("stores", "credentials"),
    ("rejected_rows", "payload"),
    ("webhook_events", "payload"),
    ("webhook_subscriptions", "signature_key"),
    ("data_requests", "subject"),
    ("archived_rows", "content"),
)
_KEYS = {"webhook_subscriptions": ("store_id", "external_id")}
"""The keys of those tables whose key is not `id`."""


class Cipher:
    """Encrypts JSON values for the database. `keys` are Fernet keys, separated by commas: the first encrypts, any decrypts.

    Raises IntegrationError (configuration) for what is no key, and for what none of them can read.
    """

    def __init__(self, keys: str) -> None:
        parts = [part.strip(" ") for part in keys.split(",") if part.strip(" ")] or [""]
        fernets = []
        for number, part in enumerate(parts, start=1):
            if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", part):
                which = f": number {number} of the {len(parts)} keys in it" if len(parts) > 1 else ""
                raise _configuration(
                    f"BG_ENCRYPTION_KEY is not a Fernet key (32 bytes in url-safe base64){which}. Make one with: "
                    'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
                )
            fernets.append(Fernet(part))
        self._first, self._all = fernets[0], MultiFernet(fernets)

    def encrypt(self, value: Any) -> bytes:
        return self._first.encrypt(json.dumps(value).encode())

    def decrypt(self, token: bytes) -> Any:
        return json.loads(self.decrypt_bytes(token))

    def decrypt_bytes(self, token: bytes) -> bytes:
        """What was encrypted, whether it is JSON or not."""
        try:
            return self._all.decrypt(bytes(token))
        except InvalidToken:
            raise _configuration(
                "BG_ENCRYPTION_KEY is not the key that this was encrypted with. Add the earlier key to it, behind a "
                "comma, or give the store its token again with `bg-pipelines stores set STORE --token -`."
            ) from None

    def can_decrypt(self, token: bytes) -> bool:
        try:
            self._all.decrypt(bytes(token))
        except InvalidToken:
            return False
        return True

    def reencrypted(self, token: bytes) -> bytes | None:
        """What one of the later keys encrypted, encrypted with the first; None for what needs or allows no such thing."""
        try:
            self._first.decrypt(bytes(token))
        except InvalidToken:
            return self._all.rotate(bytes(token)) if self.can_decrypt(token) else None
        return None


def verify_key(connection: psycopg.Connection[Any], cipher: Cipher) -> None:
    """Whether this is the key of this database. Raises IntegrationError (configuration) where it is not.

    Where nothing is known of it yet, it is the key unless there are stores and it reads none of their credentials. It
    takes the place of a key that was lost once it reads the credentials of every store that is at work. What a later
    key of a rotation encrypted is encrypted with the first.
    """
    row = connection.execute("SELECT token FROM encryption_check").fetchone()
    if row is not None and cipher.can_decrypt(row[0]):
        if cipher.reencrypted(row[0]) is not None:
            _reencrypt(connection, cipher)
            _keep_known_value(connection, cipher)
        return
    stores = connection.execute(
        "SELECT credentials FROM stores WHERE %s OR (paused_at IS NULL AND deleted_at IS NULL)",
        (row is None,),
    ).fetchall()
    read = sum(cipher.can_decrypt(credentials) for (credentials,) in stores)
    if read < (len(stores) if row is not None else min(len(stores), 1)):
        raise _configuration(
            "BG_ENCRYPTION_KEY is not the key that the stores' credentials are encrypted with. No store can be synced "
            "or changed. Set the earlier key; if it is lost, give every store its token again with one "
            "`bg-pipelines stores import FILE`."
        )
    _keep_known_value(connection, cipher)


def _keep_known_value(connection: psycopg.Connection[Any], cipher: Cipher) -> None:
    connection.execute(
        "INSERT INTO encryption_check (token) VALUES (%s) ON CONFLICT (id) DO UPDATE SET token = excluded.token",
        (cipher.encrypt(KNOWN_VALUE),),
    )


def _reencrypt(connection: psycopg.Connection[Any], cipher: Cipher) -> None:
    for table, column in ENCRYPTED:
        key = _KEYS.get(table, ("id",))
        names = {
            "table": sql.Identifier(table),
            "column": sql.Identifier(column),
            "key": sql.SQL(", ").join(map(sql.Identifier, key)),
            "same": sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in key),
        }
        update = sql.SQL("UPDATE {table} SET {column} = %s WHERE {same} AND {column} = %s").format(**names)
        with connection.cursor(name="encrypted") as held:  # rows by the thousand, not all at once
            held.execute(
                sql.SQL("SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL").format(**names)
            )
            for *row, value in held:
                renewed = cipher.reencrypted(value)
                if renewed is not None:
                    connection.execute(update, (renewed, *row, value))


def cipher(settings: Settings) -> Cipher:
    """The cipher of these settings.

    On the embedded default a key is made once, in `BG_HOME_DIR/encryption.key`, mode 0600. Elsewhere a missing
    key is an error: a key made on one machine would make the tokens unreadable on the next.
    """
    if settings.encryption_key is not None:
        return Cipher(settings.encryption_key.get_secret_value())
    if not settings.embedded:
        raise _configuration(
            "BG_ENCRYPTION_KEY is not set, and BG_DATABASE_URL names a shared database: every machine needs the same key"
        )
    return Cipher(_key_file(settings.home / KEY_FILE))


def _key_file(path: Path) -> str:
    private_folder(path.parent)
    if not path.exists():
        # Written aside and linked into place: of two processes doing this at once one wins, whole.
        aside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        aside.touch(mode=0o600)
        aside.write_bytes(Fernet.generate_key())
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_text().strip()


def _configuration(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.CONFIGURATION, message, source="settings")
