"""Tokens at rest: readable with the one key, and a key that is missing or wrong says what to do."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from bg_pipelines.database.secrets import KEY_FILE, Cipher, cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.settings import Settings
from bg_pipelines_tests.support import PATIENCE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEY = Fernet.generate_key().decode()


@settings(max_examples=30, deadline=None)
@given(value=JSON)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert Cipher(KEY).decrypt(Cipher(KEY).encrypt(value)) == value


def test_what_is_encrypted_shows_nothing_and_never_looks_the_same_twice() -> None:
    once, again = Cipher(KEY).encrypt("shpat_token"), Cipher(KEY).encrypt("shpat_token")
    assert b"shpat" not in once
    assert once != again


def test_bytes_of_any_kind_are_decrypted() -> None:
    assert Cipher(KEY).decrypt(memoryview(Cipher(KEY).encrypt([1]))) == [1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-8], lambda _: b"", lambda _: b"plain text", lambda t: t[::-1]]
)
def test_another_key_or_a_damaged_text_says_what_to_do(damage: Any) -> None:
    token = Cipher(KEY).encrypt("shpat_token")
    for key, text in ((Fernet.generate_key().decode(), token), (KEY, damage(token))):
        with pytest.raises(
            IntegrationError, match=r"BG_ENCRYPTION_KEY is not the key .*set the earlier key"
        ) as raised:
            Cipher(key).decrypt(text)
        assert raised.value.error_type == "configuration"
        assert key not in raised.value.message


@pytest.mark.parametrize(
    "key",
    ["", "short", "ключ" * 11, "!" * 44, KEY[:-1], "a" * 43 + "\n"],
    ids=["empty", "short", "not ASCII", "not base64", "cut", "a line's end"],
)
def test_a_key_that_is_none_says_how_to_make_one_and_does_not_repeat_it(key: str) -> None:
    with pytest.raises(
        IntegrationError, match=r"BG_ENCRYPTION_KEY is not a Fernet key.*generate_key"
    ) as raised:
        Cipher(key)
    assert raised.value.error_type == "configuration"
    assert not key or key not in raised.value.message


def test_with_a_database_of_ones_own_a_missing_key_is_an_error(tmp_path: Path) -> None:
    shared = Settings(home_dir=tmp_path, database_url=SecretStr("postgresql://db/bg"))
    with pytest.raises(IntegrationError, match="BG_ENCRYPTION_KEY is not set") as raised:
        cipher(shared)
    assert raised.value.error_type == "configuration"
    assert not (tmp_path / KEY_FILE).exists()


def test_a_key_that_is_set_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    made = cipher(Settings(home_dir=tmp_path, encryption_key=SecretStr(KEY)))
    assert Cipher(KEY).decrypt(made.encrypt("x")) == "x"
    assert not (tmp_path / KEY_FILE).exists()


def test_on_the_embedded_default_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "not" / "there yet"
    token = cipher(Settings(home_dir=home)).encrypt("x")
    assert cipher(Settings(home_dir=home)).decrypt(token) == "x"
    assert (home / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.iterdir()] == [KEY_FILE]


MAKE = """
import sys
from pathlib import Path
from bg_pipelines.database.secrets import cipher
from bg_pipelines.settings import Settings
print(flush=True)
input()
print(cipher(Settings(home_dir=Path(sys.argv[1]))).encrypt("x").decode())
"""


def test_processes_that_make_the_key_at_once_agree_on_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None
        maker.stdout.readline()
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    tokens = [maker.communicate(timeout=PATIENCE)[0].strip() for maker in makers]
    key = cipher(Settings(home_dir=home))
    assert [key.decrypt(token.encode()) for token in tokens] == ["x"] * 4
    assert [path.name for path in home.iterdir()] == [KEY_FILE]
    assert (home / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_threads_that_make_the_key_at_once_agree_on_one(tmp_path: Path) -> None:
    for attempt in range(20):
        home = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as pool:
            ciphers = list(pool.map(lambda _: cipher(Settings(home_dir=home)), range(8)))  # noqa: B023
        token = ciphers[0].encrypt("x")
        assert [key.decrypt(token) for key in ciphers] == ["x"] * 8
