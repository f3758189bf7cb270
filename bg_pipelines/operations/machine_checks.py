"""The broker; and what around the jobs could be better: who may enter the home, the database's log, a version of an API that ends."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.settings import Settings

_LOGGED = """
SELECT current_user, current_setting('log_min_messages') NOT IN ('log', 'fatal', 'panic'),
    current_setting('log_parameter_max_length') <> '0' AND (current_setting('log_statement') <> 'none'
        OR '-1' NOT IN (current_setting('log_min_duration_statement'), current_setting('log_min_duration_sample')))
"""

API_SUPPORT = timedelta(days=365)
"""For how long Shopify answers a version: https://shopify.dev/docs/api/usage/versioning."""
API_WARNING = timedelta(days=90)


GONE_TAGS = frozenset({"hurry", "job", "lower_tier"})
"""Of earlier versions' runs: a limit in dagster.yaml that goes by one limits nothing any more."""


def broker_faults(url: str) -> list[str]:
    """Whether the Valkey or Redis at BG_BROKER_URL answers."""
    try:
        import redis
    except ModuleNotFoundError:
        return ["BG_BROKER_URL is set, and the package redis is missing: pip install 'bg-pipelines[celery]'"]
    client = redis.Redis.from_url(
        url.replace("redis+socket://", "unix://"), socket_timeout=5, socket_connect_timeout=5
    )
    try:
        client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        # Its text may quote the address.
        return [
            f"the broker at BG_BROKER_URL does not answer ({type(error).__name__}): no run is started. Start it, or correct its "
            "address, or its password"
        ]
    finally:
        client.close()
    return []


def hints(settings: Settings, today: date) -> Iterator[str]:
    yield from _of_the_version(settings.shopify_api_version, today)
    if settings.home.is_dir() and settings.home.stat().st_mode & 0o007:
        yield f"{settings.home} can be entered by every user of this machine: chmod o-rwx {settings.home}"
    yield from _of_the_queue()
    if settings.database_url is not None:
        try:
            yield from _of_the_log(settings.database_url.get_secret_value())
        except IntegrationError:
            return  # a fault, which is listed


def _of_the_queue() -> Iterator[str]:
    config = Path(os.environ.get("DAGSTER_HOME", ""), "dagster.yaml")
    if not config.is_absolute() or not config.is_file():
        return
    keys = re.findall(r"\bkey:\s*[\"']?(\w+)", config.read_text(errors="replace"))
    if gone := sorted(GONE_TAGS.intersection(keys)):
        yield (
            f"{config} limits runs by {', '.join(gone)}: tags of an earlier version, which no run has. Replace its `concurrency` "
            "by that of this version's dagster.yaml (docs/upgrade.md)"
        )


def _of_the_version(version: str, today: date) -> Iterator[str]:
    if version == "unstable":
        yield "BG_SHOPIFY_API_VERSION: unstable changes without notice"
        return
    ends = date.fromisoformat(f"{version}-01") + API_SUPPORT
    if today > ends - API_WARNING:
        yield f"BG_SHOPIFY_API_VERSION: Shopify answers {version} until {ends}: set a later version"


def _of_the_log(url: str) -> Iterator[str]:
    """Connections keep values out of the server's log themselves where they may."""
    database = Database(url)
    try:
        with database.transaction() as connection:
            row = connection.execute(_LOGGED).fetchone()
    finally:
        database.close()
    if row and (row[1] or row[2]):
        yield (
            "PostgreSQL writes customers' data into its log with each statement that fails: as a superuser, "
            f'GRANT SET ON PARAMETER log_min_messages, log_parameter_max_length TO "{row[0]}" (docs/privacy.md)'
        )
