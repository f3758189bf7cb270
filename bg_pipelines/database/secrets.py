"""Vendor tokens at rest: encrypted with `BG_ENCRYPTION_KEY` (Fernet: AES-128-CBC with HMAC-SHA256)."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import Settings

KEY_FILE = "encryption.key"


class Cipher:
    """Encrypts JSON values for the database. Raises IntegrationError (configuration) for a wrong key."""

    def __init__(self, key: str) -> None:
        try:
            self._fernet = Fernet(key)
        except (ValueError, TypeError):
            raise _configuration(
                "BG_ENCRYPTION_KEY is not a Fernet key (32 bytes in url-safe base64). Make one with: "
                'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
            ) from None

    def encrypt(self, value: Any) -> bytes:
        return self._fernet.encrypt(json.dumps(value).encode())

    def decrypt(self, token: bytes) -> Any:
        try:
            return json.loads(self._fernet.decrypt(bytes(token)))
        except InvalidToken:
            raise _configuration(
                "BG_ENCRYPTION_KEY is not the key this was encrypted with: set the earlier key, or give the "
                "stores their tokens again with `bg-pipelines stores add`"
            ) from None


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
    path.parent.mkdir(parents=True, exist_ok=True)
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
