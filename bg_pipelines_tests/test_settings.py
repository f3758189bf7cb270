"""Settings: what is wrong is named, and nothing secret is repeated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging.twilio import from_settings
from bg_pipelines.settings import Settings, driver_url, load_settings
from bg_pipelines_tests.support import PROJECT

PASSWORD = "hunter2-hunter2"


def test_with_nothing_set_everything_is_on_this_machine(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.home == tmp_path / ".bg"
    assert settings.shopify_api_version == "2026-10"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BG_DATABASE_URL", f"mysql://bg:{PASSWORD}@db/bg"),
        ("BG_DATABASE_URL", PASSWORD),
        ("BG_DAGSTER_DATABASE_URL", f"sqlite:///{PASSWORD}"),
        ("BG_SHOPIFY_API_VERSION", f"2026-05-{PASSWORD}"),
        ("BG_RETRY_POLICIES", PASSWORD),
        ("BG_ALERT_PHONES", f"+12125550123,{PASSWORD}"),
        ("BG_ALERT_URLS", PASSWORD),
        ("BG_ALERT_URLS", f"json://{PASSWORD}/x {PASSWORD}"),
        ("BG_TWILIO_ACCOUNT_SID", PASSWORD),
        ("BG_TWILIO_AUTH_TOKEN", f"{PASSWORD}…"),
        ("BG_TWILIO_FROM", PASSWORD),
        ("BG_TWILIO_MESSAGING_SERVICE_SID", PASSWORD),
        ("BG_TWILIO_API_URL", f"https://user:{PASSWORD}@api.twilio.com"),
    ],
)
def test_a_wrong_value_names_its_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(IntegrationError, match=name) as raised:
        load_settings()
    assert (raised.value.error_type, raised.value.source) == ("configuration", "settings")
    assert PASSWORD not in str(raised.value.as_dict())


@pytest.mark.parametrize("version", ["2026-05", "2026-7", "latest", "2026-07 ", "2026-07-01"])
def test_a_version_that_is_no_quarter_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", version)
    with pytest.raises(IntegrationError, match="quarterly, like 2026-10"):
        load_settings()


@pytest.mark.parametrize("version", ["2026-04", "2026-07", "2026-10", "2027-01", "unstable"])
def test_quarters_and_unstable_are_versions(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", version)
    assert load_settings().shopify_api_version == version


@pytest.mark.parametrize("version", ["2026-01", "2025-10", "2019-04"])
def test_a_version_below_what_the_documents_need_is_refused_with_the_lowest_that_works(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", version)
    with pytest.raises(IntegrationError, match=r"BG_SHOPIFY_API_VERSION: .*2026-04 or a later one"):
        load_settings()


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", "x")
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", "x")
    with pytest.raises(IntegrationError, match=r"BG_DATABASE_URL: .*; BG_SHOPIFY_API_VERSION: "):
        load_settings()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"BG_{name.upper()}", "")
    assert load_settings() == Settings()
    assert load_settings().embedded


def test_a_dotenv_file_is_read_and_the_environment_goes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "# ours\nBG_DATABASE_URL=postgresql://from-file/bg\nBG_HOME_DIR='/srv/bg ü'\nOTHER=1\n",
        encoding="utf-8",
    )
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://from-file/bg"
    assert settings.home == Path("/srv/bg ü")
    monkeypatch.setenv("BG_DATABASE_URL", "postgresql://from-environment/bg")
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://from-environment/bg"


def test_secrets_are_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", f"postgresql://bg:{PASSWORD}@db/bg")
    monkeypatch.setenv("BG_ENCRYPTION_KEY", PASSWORD)
    monkeypatch.setenv("BG_ALERT_URLS", f"slack://{PASSWORD}/b/c")
    monkeypatch.setenv("BG_ALERT_PHONES", "+12125550123")
    monkeypatch.setenv("BG_TWILIO_AUTH_TOKEN", PASSWORD)
    for shown in (repr(load_settings()), load_settings().model_dump_json()):
        assert PASSWORD not in shown
        assert "2125550123" not in shown


def test_the_home_directory_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BG_HOME_DIR", "~/bg")
    assert load_settings().home == tmp_path / "bg"


@pytest.mark.parametrize("url", ["postgres://db/bg", "postgresql://db/bg", "postgresql+asyncpg://db/bg"])
def test_the_driver_is_ours_whatever_the_address_names(url: str) -> None:
    assert driver_url(url, "psycopg") == "postgresql+psycopg://db/bg"


def test_every_setting_stands_in_the_example_for_copying() -> None:
    example = (Path(__file__).parent.parent / ".env.example").read_text()
    missing = [name for name in Settings.model_fields if f"BG_{name.upper()}=" not in example]
    assert missing == []


# Retries


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            '{"store_sink.timeout": {"max_attempts": 5}}',
            "store_sink.timeout: no such job; did you mean 'store_sync'?",
        ),
        ('{"timeot": {"max_attempts": 5}}', "timeot: no such error type; did you mean 'timeout'?"),
        ('{"timeout": {"max_attempt": 5}}', "timeout.max_attempt: "),
        ('{"timeout": {"max_attempt": 5}}', "did you mean 'max_attempts'?"),
        ('{"store_sync.timeout": {"delay_seconds": 0}}', "store_sync.timeout.delay_seconds: "),
        ('{"timeout": {"strategy": "hope"}}', "timeout.strategy: "),
        ('{"timeout": 5}', "timeout: "),
        ("{", "is not JSON"),
        ("[]", "dictionary"),
    ],
)
def test_a_wrong_policy_is_named_by_its_key(monkeypatch: pytest.MonkeyPatch, value: str, fault: str) -> None:
    monkeypatch.setenv("BG_RETRY_POLICIES", value)
    with pytest.raises(IntegrationError) as raised:
        load_settings()
    assert raised.value.message.startswith("settings are wrong: BG_RETRY_POLICIES: ")
    assert fault in raised.value.message


def test_the_example_of_policies_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (".env.example", "docs/errors-and-retries.md"):
        [example] = re.findall(r"BG_RETRY_POLICIES=(.+)", (PROJECT / page).read_text())
        monkeypatch.setenv("BG_RETRY_POLICIES", example)
        assert load_settings().retry_policies


# Alerts


def test_phones_and_addresses_are_lists_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_ALERT_PHONES", " +12125550123,+442079460123 , +12125550123,")
    monkeypatch.setenv(
        "BG_ALERT_URLS", "slack://a/b/c, json://h/x?a=1,2,,mailto://u:p@h?to=a@b,c@d\tjson://h/x?a=1,2"
    )
    settings = load_settings()
    assert [number.get_secret_value() for number in settings.alert_phones] == [
        "+12125550123",
        "+442079460123",
    ]
    assert [url.get_secret_value() for url in settings.alert_urls] == [
        "slack://a/b/c",
        "json://h/x?a=1,2",
        "mailto://u:p@h?to=a@b,c@d",
    ]


def test_those_that_are_wrong_are_named_by_their_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_ALERT_PHONES", "2125550123,+12125550123,+0123")
    with pytest.raises(IntegrationError, match="BG_ALERT_PHONES: number 1 and 3 of 3 in the list is not"):
        load_settings()


@pytest.mark.parametrize("sender", ["+12125550123", "12345", "Harbor Shop"])
def test_a_sender_is_a_number_or_a_name(monkeypatch: pytest.MonkeyPatch, sender: str) -> None:
    monkeypatch.setenv("BG_TWILIO_FROM", sender)
    assert load_settings().twilio_from == sender


@pytest.mark.parametrize("name", ["BG_PUBLIC_URL", "BG_TWILIO_API_URL"])
@pytest.mark.parametrize("end", ["\r", "\n", " ", "\u200b", "/ x", "\x1b[2J", "\u2019"])
def test_an_address_of_characters_that_nobody_sees_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    monkeypatch.setenv(name, f"https://hooks.example.com{end}")
    with pytest.raises(IntegrationError, match=f"{name}: must be an address"):
        load_settings()


def test_the_token_of_text_messages_goes_unencrypted_to_no_other_machine_unless_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BG_TWILIO_ACCOUNT_SID", f"AC{'0' * 32}")
    monkeypatch.setenv("BG_TWILIO_AUTH_TOKEN", PASSWORD)
    monkeypatch.setenv("BG_TWILIO_FROM", "+12125550100")
    monkeypatch.setenv("BG_TWILIO_API_URL", "http://twilio.example")
    with pytest.raises(IntegrationError, match="BG_INSECURE=true") as raised:
        from_settings(load_settings())
    assert PASSWORD not in raised.value.message
    monkeypatch.setenv("BG_INSECURE", "true")
    from_settings(load_settings()).close()
    monkeypatch.delenv("BG_INSECURE")
    monkeypatch.setenv("BG_TWILIO_API_URL", "http://127.0.0.1:4010/twilio")
    from_settings(load_settings()).close()


@pytest.mark.parametrize(
    "password", ["p@ss", "p/ss", "p#ss", "p?ss", "p ss", "p%ss", "a/b@c", "hunter@2/x?y=z"]
)
@pytest.mark.parametrize("name", ["BG_DATABASE_URL", "BG_DAGSTER_DATABASE_URL", "BG_BROKER_URL"])
def test_a_password_that_is_not_encoded_is_named_as_the_fault_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    scheme = "redis" if "BROKER" in name else "postgresql"
    monkeypatch.setenv(name, f"{scheme}://bg:{password}@db.internal:5432/bg")
    with pytest.raises(IntegrationError) as raised:
        load_settings()
    assert name in raised.value.message
    assert "percent-encoded" in raised.value.message or password == "p ss"  # not even an address
    assert password not in raised.value.message
    assert "ss@" not in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bg:p%40ss%2F%3F@db.internal:5432/bg",
        "postgresql://bg@db/bg?application_name=a%40b/c",
        "postgresql:///bg?host=/run/postgresql",
        "postgresql+psycopg://postgres:@:5432/x?host=/dev/shm/a",
    ],
)
def test_an_encoded_password_and_options_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", url)
    assert load_settings().database_url is not None
