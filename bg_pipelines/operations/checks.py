"""`bg-pipelines check`: everything that would stop the jobs, in one list, before they run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import sqlalchemy as sa

from bg_pipelines.alerts.recipients import addresses
from bg_pipelines.cleaning import retention
from bg_pipelines.database.engine import Database, open_database, require_home
from bg_pipelines.database.models import Store
from bg_pipelines.database.secrets import Cipher, cipher, verify_key
from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging import twilio
from bg_pipelines.operations import machine_checks, webhook_checks
from bg_pipelines.operations.daemon_figures import daemon_reader
from bg_pipelines.operations.store_platform import store_platform
from bg_pipelines.settings import Settings, load_settings, unknown_variables
from bg_pipelines.wording import filled, grouped, listed

_STORES_AT_ONCE = 16


def find_faults() -> list[str]:
    """A sentence for each fault of settings, key, databases, migrations, alerts, webhooks and each store's access."""
    try:
        settings = load_settings()
    except IntegrationError as error:
        return [error.message]
    faults = unknown_variables()
    try:
        require_home(settings)
    except IntegrationError as error:
        return [*faults, error.message]
    key: Cipher | None = None
    database: Database | None = None
    try:
        key = cipher(settings)
    except IntegrationError as error:
        faults.append(error.message)
    try:
        database = open_database(settings)
        database.require_migrated()
    except IntegrationError as error:
        faults.append(f"database: {error.message}")
    with daemon_reader(settings) as read:
        daemon = read()
    if daemon.error is not None:
        faults.append(f"Dagster's storage: {daemon.error}")
    elif daemon.trouble and not daemon.has_never_run:  # then it is being set up
        faults.insert(0, daemon.trouble)
    if settings.broker_url is not None:
        faults += machine_checks.broker_faults(settings.broker_url.get_secret_value())
    faults += _retention_faults(settings, database)
    faults += _alert_faults(settings)
    if settings.public_url is not None:
        faults += webhook_checks.address_faults(settings.public_url)
    if key is not None and database is not None and not any(f.startswith("database:") for f in faults):
        try:
            with database.transaction() as connection:
                verify_key(connection, key)
        except IntegrationError as error:
            faults.append(error.message)
        else:
            faults += _store_faults(database, key, settings)
            if settings.public_url is not None:
                with database.transaction() as connection:
                    faults += webhook_checks.secret_faults(connection, key, settings)
    if database is not None:
        database.close()
    return faults


def find_hints(today: date) -> list[str]:
    """What is no fault, and may not be what is wanted."""
    try:
        settings = load_settings()
        return [*webhook_checks.hints(settings), *machine_checks.hints(settings, today)]
    except IntegrationError:
        return []  # a fault, which is listed


def _retention_faults(settings: Settings, database: Database | None) -> list[str]:
    """Of rules in a file of the user's own, and of ours that it changes: ours are held to the tables by a test."""
    try:
        rules = retention.load_rules(settings.retention_file)
        own = [rule for rule in rules if rule not in retention.RULES]
        if not own or database is None:
            return []
        with database.transaction() as connection:
            return retention.find_faults(connection, own)
    except IntegrationError as error:
        return [error.message]


def _alert_faults(settings: Settings) -> list[str]:
    faults = []
    if not settings.alert_phones and not settings.alert_urls:
        faults.append("alerts: nobody is alerted of failures; set BG_ALERT_PHONES or BG_ALERT_URLS")
    given = (
        settings.twilio_account_sid,
        settings.twilio_auth_token,
        settings.twilio_from,
        settings.twilio_messaging_service_sid,
    )
    if settings.alert_phones or any(given):
        try:
            messages = twilio.from_settings(settings)
            try:
                messages.check()
            finally:
                messages.close()
        except IntegrationError as error:
            faults.append(f"Twilio: {error.message.removeprefix('Twilio: ')}")
    for address in addresses(settings):
        try:
            address.check()
        except IntegrationError as error:
            faults.append(f"alerts: {error.message}")
    return faults


def _store_faults(database: Database, key: Cipher, settings: Settings) -> list[str]:
    with database.session() as session:
        stores = session.scalars(
            sa.select(Store).where(Store.paused_at.is_(None), Store.deleted_at.is_(None)).order_by(Store.name)
        ).all()
        session.expunge_all()

    def check(store: Store) -> list[tuple[str, str]]:
        try:
            with store_platform(store, key, settings) as platform:
                return [(store.name, fault) for fault in platform.faults()]
        except IntegrationError as error:
            return [(store.name, error.message)]

    with ThreadPoolExecutor(_STORES_AT_ONCE) as pool:
        found = grouped(fault for faults in pool.map(check, stores) for fault in faults)
    return _doubles(stores) + [
        f"store {names[0]}: {filled(fault, STORE=names[0])}"
        if len(names) == 1
        else f"{len(names):,} stores ({listed(names)}): {fault}"
        for names, fault in found
    ]


def _doubles(stores: Sequence[Store]) -> list[str]:
    """Stores that are one and the same there: what it sells would count twice, and corrections be made twice."""
    names: dict[tuple[str, str], list[str]] = {}
    for store in stores:
        if store.external_id:  # known since its first sync
            names.setdefault((store.platform, store.external_id), []).append(store.name)
    return [
        f"stores {', '.join(held)} are the same store at {platform}; pause all but one"
        for (platform, _), held in names.items()
        if len(held) > 1
    ]
