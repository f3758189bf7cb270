"""Every environment variable (prefix `BG_`), typed, in one place. `.env.example` lists them for copying.

Loading settings starts nothing and reads nothing but the environment and `.env`; what a setting leads to
(the embedded server, the key file) is made by the code that needs it.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bg_pipelines.errors import ErrorType, IntegrationError

SHOPIFY_API_VERSION = "2026-07"


def _api_version(value: str) -> str:
    if not re.fullmatch(r"\d{4}-(01|04|07|10)|unstable", value):
        raise ValueError("versions are quarterly, like 2026-07")
    return value


def _postgres_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.match(r"postgres(ql)?(\+\w+)?://", value.get_secret_value()):
        raise ValueError("must be a PostgreSQL URL, like postgresql://user:password@host/database")
    return value


PostgresUrl = Annotated[SecretStr | None, AfterValidator(_postgres_url)]


class Settings(BaseSettings):
    """The environment, typed. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix="BG_", env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore"
    )

    home_dir: Path = Field(
        default=Path(".bg"), description="where the embedded database and the key file live"
    )
    database_url: PostgresUrl = Field(default=None, description="the application's database; unset: embedded")
    dagster_database_url: PostgresUrl = Field(default=None, description="Dagster's storage; unset: embedded")
    encryption_key: SecretStr | None = Field(default=None, description="Fernet key for vendor tokens at rest")
    shopify_api_version: Annotated[str, AfterValidator(_api_version)] = SHOPIFY_API_VERSION

    @cached_property
    def home(self) -> Path:
        """The home directory as an absolute path."""
        return self.home_dir.expanduser().absolute()

    @property
    def embedded(self) -> bool:
        """Whether the application's tables live in the embedded server."""
        return self.database_url is None


def load_settings() -> Settings:
    """Read the environment; raises IntegrationError (configuration) naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        # pydantic's own text repeats the value, which may be a password.
        faults = [
            f"BG_{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False)
        ]
        raise IntegrationError.of(
            ErrorType.CONFIGURATION, "settings are wrong: " + "; ".join(faults), source="settings"
        ) from None


def driver_url(url: str, driver: str) -> str:
    """The same PostgreSQL URL with SQLAlchemy's driver named, whatever driver it named before."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", f"postgresql+{driver}://", url)
