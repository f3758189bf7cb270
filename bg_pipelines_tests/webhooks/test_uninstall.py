"""A shop that removed the app is paused without credentials, until it is given new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.store_figures import find_stores
from bg_pipelines.operations.stores import NewStore, save_stores, set_paused
from bg_pipelines.platforms.protocol import Platform, StoreAccess
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.webhooks.uninstall import is_removed, uninstall
from bg_pipelines_tests.support import as_store, connect_by, query


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def shop(make_sandbox: Callable[..., Sandbox]) -> Shop:
    [shop] = make_sandbox(shops=1, variants=0).world.shops.values()
    return shop


@pytest.fixture
def platform(shop: Shop) -> Iterator[Platform]:
    access = StoreAccess("harbor", "shopify", shop.domain, shop.api_url, {"access_token": shop.token})
    platform = connect_by()(access, lambda _: None)
    yield platform
    platform.close()


@pytest.fixture
def harbor(database: Database, cipher: Cipher, shop: Shop) -> NewStore:
    store = as_store(shop, name="harbor")
    save_stores(database, cipher, [store])
    query(
        database,
        "INSERT INTO webhook_subscriptions (store_id, external_id, source_updated_at, topics, uri) "
        "SELECT id, 'gid', now(), '{orders/create}', 'https://hooks.example.com' FROM stores",
    )
    return store


def test_the_store_is_paused_without_credentials_and_without_subscriptions(
    harbor: NewStore, database: Database, cipher: Cipher
) -> None:
    [before] = query(database, "SELECT id FROM stores")
    with database.transaction() as connection:
        assert uninstall(connection, before["id"], cipher)
        assert not uninstall(connection, before["id"], cipher), "the event comes twice"
    [store] = query(database, "SELECT * FROM stores")
    assert cipher.decrypt(store["credentials"]) == {}
    assert store["paused_at"] is not None
    assert store["uninstalled_at"] is not None
    assert query(database, "SELECT 1 FROM webhook_subscriptions WHERE deleted_at IS NULL") == []
    assert [row.state for row in find_stores(database).stores] == ["uninstalled"]


def test_only_new_credentials_resume_it(harbor: NewStore, database: Database, cipher: Cipher) -> None:
    query(
        database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour', last_succeeded_at = now()"
    )
    with database.transaction() as connection:
        [(store_id,)] = connection.execute("SELECT id FROM stores").fetchall()
        uninstall(connection, store_id, cipher)
    with pytest.raises(IntegrationError, match="harbor removed the app"):
        set_paused(database, ["harbor"], False)
    assert save_stores(database, cipher, [replace(harbor, token="shpat_new")]).updated == 1
    assert [row.state for row in find_stores(database).stores] == ["ok"]
    [store] = query(database, "SELECT * FROM stores")
    assert (store["paused_at"], store["uninstalled_at"]) == (None, None)
    assert cipher.decrypt(store["credentials"]) == {"access_token": "shpat_new"}
    assert query(database, "SELECT 1 FROM sync_states WHERE next_due_at > now()") == [], "all of it is due"


def test_the_same_token_given_again_resumes_it_too(
    harbor: NewStore, database: Database, cipher: Cipher
) -> None:
    with database.transaction() as connection:
        [(store_id,)] = connection.execute("SELECT id FROM stores").fetchall()
        uninstall(connection, store_id, cipher)
    assert save_stores(database, cipher, [harbor]).updated == 1
    assert [row.state for row in find_stores(database).stores] == ["new"]


def test_whether_it_was_removed_the_platform_says(shop: Shop, platform: Platform) -> None:
    assert not is_removed(platform), "an event that came late: it is installed again"
    edit(shop, "uninstall")
    assert is_removed(platform)


def test_a_platform_that_does_not_answer_says_nothing(shop: Shop, platform: Platform) -> None:
    shop.faults.append(Fault("server_error"))
    with pytest.raises(IntegrationError) as raised:
        is_removed(platform)
    assert raised.value.error_type is ErrorType.SERVER_ERROR
