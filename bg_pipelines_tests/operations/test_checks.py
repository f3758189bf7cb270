"""`check`: every fault in one list before anything runs, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.checks import find_faults
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines_tests.orchestration.daemons import Broker
from bg_pipelines_tests.support import KEY, query

PASSWORD = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("BG_ALERT_URLS", f"json://bg:{PASSWORD}@127.0.0.1/hooks/ops")


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Sandbox:
    sandbox = make_sandbox(shops=3, variants=3)
    add_shops(sandbox)
    return sandbox


def test_where_all_is_well_there_are_no_faults(shops: Sandbox) -> None:
    assert find_faults() == []


def test_a_broker_that_does_not_answer_is_a_fault(shops: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    monkeypatch.setenv("BG_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    [fault] = find_faults()
    assert fault.startswith("the broker at BG_BROKER_URL does not answer (ConnectionError)")
    assert "secret" not in fault
    broker.start()
    monkeypatch.setenv("BG_BROKER_URL", broker.url)
    assert find_faults() == []
    broker.kill()


def test_each_store_is_asked_for_its_access(shops: Sandbox) -> None:
    revoked, unscoped, _ = shops.world.shops.values()
    revoked.access.expire_all()
    unscoped.access.scopes.remove("read_locations")
    faults = find_faults()
    names = [shop.domain.split(".")[0] for shop in (revoked, unscoped)]
    of_revoked = [fault for fault in faults if fault.startswith(f"store {names[0]}: ")]
    of_unscoped = [fault for fault in faults if fault.startswith(f"store {names[1]}: ")]
    assert sorted(of_revoked + of_unscoped) == sorted(faults)
    assert len(of_revoked) == 1
    assert "does not accept the access token (401)" in of_revoked[0]
    assert [fault.split("scope ")[1].split(":")[0] for fault in of_unscoped] == ["read_locations"]
    assert not any(shop.token in fault for shop in shops.world.shops.values() for fault in faults)


def test_a_shop_that_answers_with_another_version_is_a_fault(
    shops: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", "2026-04")
    faults = find_faults()
    assert len(faults) == 1
    assert all("answers with API 2026-07, not 2026-04" in fault for fault in faults)


def test_a_store_that_cannot_be_reached_is_a_fault_of_its_own(shops: Sandbox, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "UPDATE stores SET api_url = 'http://127.0.0.1:9' WHERE id = (SELECT min(id) FROM stores)"
        )
    [fault] = find_faults()
    assert fault.startswith("store ")


def test_two_stores_that_are_one_and_the_same_at_their_platform_are_a_fault(
    shops: Sandbox, database: Database
) -> None:
    query(database, "UPDATE stores SET external_id = 'M1'")
    [fault] = find_faults()
    names = [row["name"] for row in query(database, "SELECT name FROM stores ORDER BY name")]
    assert fault == f"stores {', '.join(names)} are the same store at shopify; pause all but one"
    query(database, "UPDATE stores SET paused_at = now() WHERE name <> %s", names[0])
    assert find_faults() == []


def test_paused_stores_are_not_asked(shops: Sandbox, database: Database) -> None:
    revoked = next(iter(shops.world.shops.values()))
    revoked.access.expire_all()
    set_paused(database, [revoked.domain.split(".")[0]], True)
    assert find_faults() == []
    assert shops.world.requests(revoked.domain) == []


def test_a_wrong_setting_is_the_only_fault_that_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", f"mysql://bg:{PASSWORD}@db/bg")
    [fault] = find_faults()
    assert "BG_DATABASE_URL" in fault
    assert PASSWORD not in fault


def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DATABSE_URL", f"postgresql://bg:{PASSWORD}@db/bg")
    assert find_faults() == ["BG_DATABSE_URL: no such setting; did you mean 'BG_DATABASE_URL'?"]


@pytest.mark.parametrize("name", ["BG_STORE_TOKEN", "BG_STORE_CLIENT_SECRET"])
def test_what_stores_add_reads_from_the_environment_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "shpat_x")
    assert find_faults() == []


def test_a_key_that_is_missing_or_wrong_is_a_fault(monkeypatch: pytest.MonkeyPatch, shops: Sandbox) -> None:
    monkeypatch.setenv("BG_ENCRYPTION_KEY", "x")
    [fault] = find_faults()
    assert "BG_ENCRYPTION_KEY is not a Fernet key" in fault
    monkeypatch.delenv("BG_ENCRYPTION_KEY")
    [fault] = find_faults()
    assert "BG_ENCRYPTION_KEY is not set" in fault
    monkeypatch.setenv("BG_ENCRYPTION_KEY", "1" * 42 + "E=")
    [fault] = find_faults()
    assert fault.startswith("BG_ENCRYPTION_KEY is not the key")
    assert find_faults()


def test_databases_that_are_away_are_faults_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BG_DATABASE_URL", "BG_DAGSTER_DATABASE_URL"):
        monkeypatch.setenv(name, f"postgresql://bg:{PASSWORD}@127.0.0.1:9/bg")
    faults = find_faults()
    assert [fault.split(": ")[0] for fault in faults] == ["database", "Dagster's storage"]
    assert not any(PASSWORD in fault for fault in faults)


@pytest.mark.parametrize("name", ["BG_DATABASE_URL", "BG_DAGSTER_DATABASE_URL"])
def test_an_address_that_is_none_is_a_fault_without_the_password(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f"postgresql://bg:{PASSWORD}@db:port/bg")
    faults = find_faults()
    assert faults
    assert not any(PASSWORD in fault for fault in faults)


def test_a_database_that_is_not_migrated_is_a_fault_that_names_the_command(database: Database) -> None:
    with database.transaction() as connection:
        held = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    faults = find_faults()
    with database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", held)
    [fault] = faults
    assert fault.startswith("database: ")
    assert "bg-pipelines migrate" in fault


# Alerts


@pytest.fixture
def twilio(shops: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox whose Twilio account the settings name."""
    account = shops.world.twilio
    monkeypatch.setenv("BG_ALERT_PHONES", "+442079460123")
    monkeypatch.setenv("BG_TWILIO_ACCOUNT_SID", account.account_sid)
    monkeypatch.setenv("BG_TWILIO_AUTH_TOKEN", account.auth_token)
    monkeypatch.setenv("BG_TWILIO_FROM", account.numbers[0])
    monkeypatch.setenv("BG_TWILIO_API_URL", shops.url)
    return shops


def test_where_nobody_would_hear_of_a_failure_that_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BG_ALERT_URLS")
    [fault] = find_faults()
    assert "BG_ALERT_PHONES or BG_ALERT_URLS" in fault


def test_twilio_is_asked_for_the_account_and_sends_nothing(twilio: Sandbox) -> None:
    assert find_faults() == []
    assert [request.operation for request in twilio.world.twilio.requests] == ["FetchAccount"]


def test_wrong_credentials_of_twilio_are_a_fault_without_them(twilio: Sandbox) -> None:
    token = twilio.world.twilio.auth_token
    edit(twilio.world.twilio, "set_token", token="another")
    [fault] = find_faults()
    assert fault.startswith("Twilio: ")
    assert "BG_TWILIO_AUTH_TOKEN" in fault
    assert token not in fault


def test_a_twilio_that_cannot_be_reached_is_a_fault(twilio: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_TWILIO_API_URL", "http://127.0.0.1:9")
    assert find_faults() == ["Twilio: 127.0.0.1:9: cannot be reached (ConnectionRefusedError)"]


def test_phones_without_twilio_are_a_fault_that_lists_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BG_ALERT_PHONES", "+442079460123")
    monkeypatch.setenv("BG_TWILIO_FROM", "+12125550123")
    assert find_faults() == [
        "Twilio: text messages cannot be sent: set BG_TWILIO_ACCOUNT_SID, BG_TWILIO_AUTH_TOKEN"
    ]


def test_an_address_that_apprise_does_not_understand_is_named_by_its_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BG_ALERT_URLS", f"json://127.0.0.1/x nosuch://{PASSWORD}/x")
    [fault] = find_faults()
    assert "number 2 of 2 in BG_ALERT_URLS" in fault
    assert PASSWORD not in fault


def test_many_equal_faults_are_one_line_and_no_name_is_lost_of_a_few(
    shops: Sandbox, database: Database
) -> None:
    for shop in shops.world.shops.values():
        shop.access.expire_all()
    [line] = find_faults()
    assert line.startswith(
        "3 stores (cedar-books-02, harbor-tools-01, summit-outdoor-03): Shopify does not accept"
    )


def test_typos_in_the_environment_and_in_env_are_told_with_what_was_meant(
    shops: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_ALERT_URL", "x")
    (tmp_path / ".env").write_text(
        "BG_PUBLIC_ULR=https://hooks.example.com\nTWILIO_FROM=+12125550100\nOTHER=1\nbg_insecure=\n"
    )
    assert sorted(find_faults()) == [
        "BG_ALERT_URL: no such setting; did you mean 'BG_ALERT_URLS'?",
        "BG_PUBLIC_ULR, in .env: no such setting; did you mean 'BG_PUBLIC_URL'?",
        "TWILIO_FROM, in .env: no such setting; did you mean 'BG_TWILIO_FROM'?",
    ]
