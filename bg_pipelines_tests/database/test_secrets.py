"""Tokens at rest: readable with the one key, and a key that is missing or wrong says what to do."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base
from bg_pipelines.database.secrets import ENCRYPTED, KEY_FILE, Cipher, cipher, verify_key
from bg_pipelines.errors import IntegrationError
from bg_pipelines.settings import Settings
from bg_pipelines_tests.support import PATIENCE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEY, OTHER = (Fernet.generate_key().decode() for _ in range(2))


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
            IntegrationError, match=r"BG_ENCRYPTION_KEY is not the key .*Add the earlier key"
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


def test_of_several_keys_the_first_encrypts_and_any_decrypts() -> None:
    old, new = Cipher(KEY), Cipher(OTHER)
    both = Cipher(f"{OTHER}, {KEY}")
    assert (
        both.decrypt(old.encrypt("x"))
        == both.decrypt(new.encrypt("x"))
        == new.decrypt(both.encrypt("x"))
        == "x"
    )
    with pytest.raises(IntegrationError):
        old.decrypt(both.encrypt("x"))


@pytest.mark.parametrize(
    "keys", [f"{KEY},short", f"{KEY},{OTHER}x,", f"{KEY};{OTHER}"], ids=["short", "long", "semicolon"]
)
def test_a_list_with_what_is_no_key_is_refused_by_its_position(keys: str) -> None:
    with pytest.raises(IntegrationError, match="BG_ENCRYPTION_KEY is not a Fernet key") as raised:
        Cipher(keys)
    assert ("number 2 of the " in raised.value.message) == ("," in keys)
    assert KEY not in raised.value.message


# Which key is the right one


def stores(database: Database, *ciphers: Cipher) -> None:
    """A store for each of these, its credentials encrypted with it."""
    with database.transaction() as connection:
        for number, cipher in enumerate(ciphers):
            connection.execute(
                "INSERT INTO stores (name, platform, domain, credentials) VALUES (%s, 'shopify', %s, %s)",
                (f"store {number}", f"store-{number}.myshopify.com", cipher.encrypt({"access_token": "x"})),
            )


def verify(database: Database, keys: str) -> str | None:
    """What is said of these keys; None if they are right."""
    try:
        with database.transaction() as connection:
            verify_key(connection, Cipher(keys))
    except IntegrationError as error:
        return f"{error.error_type}: {error.message}"
    return None


def test_the_first_key_that_is_used_is_the_key(database: Database) -> None:
    assert verify(database, KEY) is None
    stores(database, Cipher(KEY))
    assert verify(database, KEY) is None
    assert (verify(database, OTHER) or "").startswith("configuration: BG_ENCRYPTION_KEY is not the key")


def test_a_wrong_key_is_known_by_a_value_kept_for_that_and_not_by_some_stores_credentials(
    database: Database,
) -> None:
    stores(database, Cipher(KEY))
    assert verify(database, KEY) is None
    stores_with_others = [Cipher(OTHER)] * 5
    with database.transaction() as connection:
        connection.execute("UPDATE stores SET name = 'first', domain = 'first.myshopify.com'")
    stores(database, *stores_with_others)
    assert verify(database, KEY) is None, "five stores' credentials are five stores' fault"
    assert (verify(database, OTHER) or "").startswith("configuration: BG_ENCRYPTION_KEY is not the key")


@pytest.mark.parametrize(("readable", "right"), [(0, False), (1, True), (6, True)])
def test_before_there_is_such_a_value_the_key_is_one_that_reads_any_store_s_credentials(
    database: Database, readable: int, right: bool
) -> None:
    stores(database, *[Cipher(KEY)] * readable, *[Cipher(OTHER)] * (6 - readable))
    assert (verify(database, KEY) is None) == right


def test_where_the_key_is_lost_another_takes_its_place_once_every_store_at_work_has_its_token_again(
    database: Database,
) -> None:
    stores(database, Cipher(KEY), Cipher(KEY), Cipher(KEY))
    assert verify(database, KEY) is None
    for number, right in ((0, False), (1, True)):
        with database.transaction() as connection:
            connection.execute("UPDATE stores SET paused_at = now() WHERE name = 'store 2'")
            connection.execute(
                "UPDATE stores SET credentials = %s WHERE name = %s",
                (Cipher(OTHER).encrypt({}), f"store {number}"),
            )
        assert (verify(database, OTHER) is None) == right
    assert verify(database, KEY) is not None


def test_a_key_is_rotated_by_naming_the_new_one_first_and_the_old_one_may_go_then(database: Database) -> None:
    stores(database, Cipher(KEY), Cipher(OTHER), Cipher(Fernet.generate_key().decode()))
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
            "SELECT min(id), 'products', '1', 'bad', %s FROM stores",
            (Cipher(KEY).encrypt({"title": "x"}),),
        )
        connection.execute(
            "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri, signature_key) "
            "SELECT min(id), 'wbhk', now(), '{}', 'u', %s FROM stores",
            (Cipher(KEY).encrypt("signs"),),
        )
    assert verify(database, KEY) is None
    assert verify(database, f"{KEY},{OTHER}") is None
    assert verify(database, OTHER) is not None, "nothing is encrypted anew before the new key is the first"
    assert verify(database, f"{OTHER},{KEY}") is None
    assert verify(database, OTHER) is None
    new = Cipher(OTHER)
    with database.transaction() as connection:
        held = [row[0] for row in connection.execute("SELECT credentials FROM stores ORDER BY id")]
        [payload] = connection.execute("SELECT payload FROM rejected_rows").fetchone() or ()
        [key] = connection.execute("SELECT signature_key FROM webhook_subscriptions").fetchone() or ()
    assert [new.can_decrypt(credentials) for credentials in held] == [True, True, False]
    assert new.decrypt(held[0]) == {"access_token": "x"}
    assert new.decrypt(payload) == {"title": "x"}
    assert new.decrypt(key) == "signs"


def test_every_column_of_bytes_is_encrypted_anew_but_for_digests_and_the_known_value() -> None:
    binary = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.LargeBinary)
    }
    digests = {
        ("person_customers", "email_key"),
        ("person_customers", "phone_key"),
        ("board_sessions", "digest"),
    }
    assert binary - digests - {("encryption_check", "token")} == set(ENCRYPTED)


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
