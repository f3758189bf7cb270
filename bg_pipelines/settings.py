"""Every environment variable (prefix `BG_`), typed, in one place. `.env.example` lists them for copying.

Loading settings reads only the environment and `.env` and starts nothing; the embedded server and the key file are
created by the code that needs them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.retries import Policies
from bg_pipelines.wording import did_you_mean

SHOPIFY_API_VERSION = "2026-10"
LOWEST_SHOPIFY_API_VERSION = "2026-04"
"""Since then `inventorySetQuantities` has the compare-and-swap that stock corrections stand on."""
TWILIO_API_URL = "https://api.twilio.com"


def _api_version(value: str) -> str:
    if not re.fullmatch(r"\d{4}-(01|04|07|10)|unstable", value):
        raise ValueError("versions are quarterly, like 2026-10")
    if value < LOWEST_SHOPIFY_API_VERSION:
        raise ValueError(f"lacks what is asked for: give {LOWEST_SHOPIFY_API_VERSION} or a later one")
    return value


def _postgres_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.match(r"postgres(ql)?(\+\w+)?://", value.get_secret_value()):
        raise ValueError("must be a PostgreSQL URL, like postgresql://user:password@host/database")
    return _encoded(value)


def _encoded(value: SecretStr | None) -> SecretStr | None:
    """Refuse a password as it is where a URL wants it encoded: a part of it would be taken for a host, and shown."""
    if value is None:
        return value
    of_user = value.get_secret_value().partition("://")[2].rpartition("@")[0]
    if re.search(r"[/?#@\s]|%(?![0-9A-Fa-f]{2})", of_user):
        raise ValueError(
            "its user or password has a character that must be percent-encoded in a URL: %40 for @, %3A for :, %2F for /, "
            "%23 for #, %3F for ?, %25 for %"
        )
    return value


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f'is not JSON like {{"timeout": {{"max_attempts": 5}}}}: {error}') from None


def _retry_policies(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    Policies(value, jobs=tuple(JOBS))
    return value


# Of visible characters: the end of a line, or a space of no width, would be seen by nobody.
_ADDRESS = r"(?=[!-~]+\Z)https?://[^\s/@?#]+(/[^\s@?#]*)?"


def _api_url(value: str) -> str:
    if not re.fullmatch(_ADDRESS, value):
        raise ValueError("must be an address like https://api.twilio.com, without a user or a query")
    return value.rstrip("/")


def _shaped(pattern: str, must: str) -> AfterValidator:
    """A check that never repeats what it refuses."""

    def check(value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not re.fullmatch(pattern, text):
            raise ValueError(must)
        return value

    return AfterValidator(check)


def _listed(separator: str, pattern: str, what: str) -> BeforeValidator:
    """A text as a list of secrets, each once. One that is wrong is named by its position."""

    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip(" ,") for part in re.split(separator, value) if part.strip(" ,")]
        wrong = [str(place) for place, part in enumerate(parts, start=1) if not re.fullmatch(pattern, part)]
        if wrong:
            raise ValueError(f"number {' and '.join(wrong)} of {len(parts)} in the list is not {what}")
        return tuple(dict.fromkeys(parts))

    return BeforeValidator(split)


PostgresUrl = Annotated[SecretStr | None, AfterValidator(_postgres_url)]
Phones = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    _listed(",", r"\+[1-9][0-9]{6,14}", "a phone number in its international form, like +12125550123"),
]
# A comma may be part of an address (mailto:// with two recipients): only one before an address divides.
Urls = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    _listed(
        r"\s+|,(?=\s*[A-Za-z][A-Za-z0-9]*://)",
        r"[A-Za-z][A-Za-z0-9]*://\S+",
        "an apprise URL, which begins like slack:// or mailto://",
    ),
]


Secrets = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    _listed(",", r"[!-~]+", "a secret: it has a space or a character that none has"),
]


Countries = Annotated[
    tuple[str, ...],
    NoDecode,
    _listed(r"[,\s]+", r"[A-Z]{2}", "a country's code of two capital letters, like US"),
]
Languages = Annotated[tuple[str, ...], NoDecode, _listed(r"[,\s]+", r"en|es|fr|de", "one of en, es, fr, de")]


class Settings(BaseSettings):
    """The environment, typed. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix="BG_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    home_dir: Path = Field(
        default=Path(".bg"),
        description="where the embedded database, the key file and [exports of customers' data](privacy.md#requests) live",
    )
    database_url: PostgresUrl = Field(
        default=None,
        description="your own PostgreSQL (15 to 19) for the application's tables; unset: the embedded server",
    )
    dagster_database_url: PostgresUrl = Field(
        default=None,
        description="the same for Dagster's runs and events; unset: the embedded server. Both connect with TCP keepalives that detect a cut network within a minute; parameters in the URL (`?keepalives_idle=10`) override them",
    )
    broker_url: Annotated[
        SecretStr | None,
        _shaped(
            r"rediss?://[!-~]+|redis\+socket:///[!-~]+",
            "must be the address of a Valkey or Redis, like redis://:PASSWORD@broker.internal:6379/0",
        ),
        AfterValidator(_encoded),
    ] = Field(
        default=None,
        description="a Valkey or Redis, `redis://` or `rediss://`: runs start in warm [workers](deploy.md#workers), on this machine and others; unset: a process each, on the daemon's machine",
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description="encrypts vendor tokens; unset: made once in `BG_HOME_DIR/encryption.key`. Must be set, and the same on every machine, with `BG_DATABASE_URL`; several, separated by commas, while [one is being rotated](running.md#another-encryption-key)",
    )
    retry_policies: Annotated[
        dict[str, dict[str, Any]], NoDecode, BeforeValidator(_from_json), AfterValidator(_retry_policies)
    ] = Field(
        default={}, description="changes to the [retry policies](errors-and-retries.md#policies), as JSON"
    )
    shopify_api_version: Annotated[str, AfterValidator(_api_version)] = Field(
        default=SHOPIFY_API_VERSION,
        description="at least `2026-04`; `bg-pipelines check` says when a version ends within 90 days, and when a shop answers with another",
    )
    shopify_webhook_secret: Secrets = Field(
        default=(),
        description="signs the webhooks of a Shopify app whose stores have only a token; `NEW,OLD` while it is being rotated",
    )
    square_webhook_key: Secrets = Field(
        default=(), description="signs the webhooks of Square subscriptions that were not made by us"
    )
    public_url: Annotated[
        str | None, _shaped(_ADDRESS, "must be an address like https://hooks.example.com")
    ] = Field(
        default=None,
        description="where vendors reach the [webhook receiver](webhooks.md#receiving): `https://hooks.example.com`",
    )
    board_url: Annotated[
        str | None,
        _shaped(
            r"(?=[!-~]+\Z)https?://[^\s/@?#]+/?",
            "must be an address like https://board.example.com, without a path",
        ),
    ] = Field(
        default=None,
        description="where people open [the board](board.md) behind a proxy: `https://board.example.com`; unset: it is for its own machine",
    )
    dagster_url: Annotated[
        str | None, _shaped(_ADDRESS, "must be an address like https://dagster.example.com")
    ] = Field(
        default=None,
        description="where people open the Dagster UI, for the board's links; unset: where `up` serves it",
    )
    retention_file: Path | None = Field(
        default=None,
        description="a TOML file with [retention rules](cleaning.md#rules-of-your-own) of your own, and changes of ours",
    )
    repack: bool = Field(
        default=False,
        description="on PostgreSQL 19, [rewrite tables](cleaning.md#clean_database) that are mostly empty space; read there first when not to",
    )
    alert_phones: Phones = Field(
        default=(),
        description="who gets [alerts](alerts.md) by SMS: numbers like `+12125550123`, separated by commas",
    )
    alert_urls: Urls = Field(
        default=(),
        description="other alert targets: [apprise](https://appriseit.com/services/) URLs (Slack, e-mail, PagerDuty, ...), separated by commas or spaces",
    )
    heartbeat_url: Annotated[
        SecretStr | None, _shaped(r"https?://[!-~]+", "must be an http:// or https:// address")
    ] = Field(
        default=None,
        description="called (GET) once a minute by the [watchdog](monitoring.md#watchdog) while all is well: a monitor there tells when it stops",
    )
    twilio_account_sid: Annotated[
        str | None,
        _shaped(r"AC[0-9A-Za-z]{32}", "must be AC and 32 letters and digits, from Twilio's console"),
    ] = Field(default=None, description="the Twilio account that text messages go through")
    twilio_auth_token: Annotated[
        SecretStr | None, _shaped(r"[!-~]+", "has characters that no token has: copy it whole")
    ] = Field(default=None, description="its token")
    twilio_from: Annotated[
        str | None,
        _shaped(
            r"\+[1-9][0-9]{6,14}|[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}",
            "must be a number of the Twilio account like +12125550123, or a sender's name of up to 11 letters",
        ),
    ] = Field(
        default=None,
        description="the messages' sender: a number of that account, or a name; or set `BG_TWILIO_MESSAGING_SERVICE_SID`",
    )
    twilio_messaging_service_sid: Annotated[
        str | None,
        _shaped(r"MG[0-9A-Za-z]{32}", "must be MG and 32 letters and digits, from Twilio's console"),
    ] = Field(default=None, description="a Messaging Service of that account, in place of `BG_TWILIO_FROM`")
    twilio_api_url: Annotated[str, AfterValidator(_api_url)] = Field(
        default=TWILIO_API_URL,
        description="another address that speaks the same API, such as the [sandbox](sandbox.md)",
    )
    insecure: bool = Field(
        default=False,
        description="tokens may go unencrypted to APIs at `http://` addresses of other machines (this machine's own always may): for tests in a network of your own; one command has `--insecure`",
    )
    text_countries: Countries = Field(
        default=("US", "CA"),
        description="countries that [text messages](text-messages.md) may go to, by their ISO 3166 codes",
    )
    text_daily_segments: int = Field(
        default=2_000,
        ge=0,
        description="the spend limit: segments sent to all within 24 hours",
    )
    text_daily_messages: int = Field(
        default=3, ge=1, description="the most that one number gets within 24 hours"
    )
    text_segments_a_second: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="the sender's rate; unset: what its kind of number is good for",
    )
    text_stop_scope: Literal["all", "kind"] = Field(
        default="all", description="what STOP ends: `all` messages, or those of the `kind` that it answers"
    )
    text_double_opt_in: bool = Field(
        default=False, description="consent counts once its number has answered YES to a question sent to it"
    )
    text_cart_reminders: bool = Field(
        default=False,
        description="[remind people of carts that they left](text-messages.md#reminders-of-carts): marketing, and only for those who answered YES",
    )
    text_languages: Languages = Field(
        default=("en", "es", "fr"),
        description="whose words for STOP, START and HELP are understood; also `de`",
    )
    text_templates: Path | None = Field(
        default=None, description="a TOML file with your own texts, in place of ours of the same name"
    )

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
            f"BG_{str(e['loc'][0]).upper()}: {_below(e['loc'])}{e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False)
        ]
        raise IntegrationError.of(
            ErrorType.CONFIGURATION, "settings are wrong: " + "; ".join(faults), source="settings"
        ) from None


_READ_ELSEWHERE = ("BG_STORE_TOKEN", "BG_STORE_CLIENT_SECRET", "BG_VENDOR_SPECS", "BG_TEST_FULL")
"""Variables that are no settings: `stores add` reads the first two, tests the others."""


def unknown_variables() -> list[str]:
    """A sentence for each variable of the environment or of `.env` that looks like a setting and is none."""
    known = [f"BG_{name.upper()}" for name in Settings.model_fields]
    faults = []
    given: dict[str, Mapping[str, str | None]] = {"": os.environ, ", in .env": dotenv_values(".env")}
    for where, variables in given.items():
        for name in sorted(variables):
            ours = name.upper().startswith("BG_")
            if ours and name.upper() not in (*known, *_READ_ELSEWHERE):
                faults.append(f"{name}{where}: no such setting{did_you_mean(name.upper(), known)}")
            elif where and not ours and f"BG_{name.upper()}" in known:
                faults.append(f"{name}{where}: no such setting; did you mean 'BG_{name.upper()}'?")
    return faults


def right_settings() -> Settings:
    """The environment without its invalid settings: only for alerting people of them."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = {str(e["loc"][0]) for e in error.errors(include_input=False)}
        return Settings(**{name: Settings.model_fields[name].get_default() for name in wrong})


def _below(place: tuple[int | str, ...]) -> str:
    """Where in a variable that has parts."""
    return f"{'.'.join(map(str, place[1:]))}: " if place[1:] else ""


def driver_url(url: str, driver: str) -> str:
    """The same PostgreSQL URL with SQLAlchemy's driver named, whatever driver it named before."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", f"postgresql+{driver}://", url)
