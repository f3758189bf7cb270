"""Settings: what is wrong is named, and nothing secret is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.settings import Settings, driver_url, load_settings

PASSWORD = "hunter2-hunter2"


def test_with_nothing_set_everything_is_on_this_machine(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.home == tmp_path / ".bg"
    assert settings.shopify_api_version == "2026-07"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BG_DATABASE_URL", f"mysql://bg:{PASSWORD}@db/bg"),
        ("BG_DATABASE_URL", PASSWORD),
        ("BG_DAGSTER_DATABASE_URL", f"sqlite:///{PASSWORD}"),
        ("BG_SHOPIFY_API_VERSION", f"2026-05-{PASSWORD}"),
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
    with pytest.raises(IntegrationError, match="quarterly, like 2026-07"):
        load_settings()


@pytest.mark.parametrize("version", ["2026-01", "2026-04", "2026-07", "2026-10", "unstable"])
def test_quarters_and_unstable_are_versions(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("BG_SHOPIFY_API_VERSION", version)
    assert load_settings().shopify_api_version == version


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
    assert PASSWORD not in repr(load_settings())
    assert PASSWORD not in load_settings().model_dump_json()


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
