"""Managing stores: add, change, list, pause, resume (from a file: stores_csv; removing one: store_removal).

Adding a known store updates it; equal values change nothing. Tokens are encrypted before they reach the database and
are never shown again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import DataRequest, Store, SyncState
from bg_pipelines.database.secrets import Cipher, verify_key
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.csv_files import CsvFault, bad_data
from bg_pipelines.platforms import PLATFORMS
from bg_pipelines.platforms.network import is_in_clear
from bg_pipelines.privacy.requests import ERASURES
from bg_pipelines.queues import OWN_INTERVALS, TICK, TIERS, Unit, next_turn
from bg_pipelines.wording import command, did_you_mean, unseen

DEFAULT_TIER = 2
TICK_MINUTES = int(TICK.total_seconds() // 60)
MOST_MINUTES = 24 * 60
SECRETS = ("token", "client_id", "client_secret")
REQUIRED_COLUMNS = ("name", "platform", "domain")
COLUMNS = (*REQUIRED_COLUMNS, "tier", "every", "api_url", *SECRETS)


@dataclass(frozen=True)
class NewStore:
    """A store as a person gives it: a token, or a client id and secret. `every` is in minutes; none: its tier's.

    With `insecure` its API may be at an http:// address of another machine, to which the token then goes unencrypted.
    """

    name: str
    platform: str
    domain: str
    tier: int = DEFAULT_TIER
    api_url: str | None = None
    token: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    every: int | None = None
    insecure: bool = False

    def credentials(self) -> dict[str, str]:
        if self.token:
            return {"access_token": self.token}
        return {"client_id": self.client_id or "", "client_secret": self.client_secret or ""}


class Given(NamedTuple):
    """What is to change of a store; what is None stays. An interval of 0 is its tier's, an address of '' the platform's."""

    name: str | None = None
    tier: int | None = None
    every: int | None = None
    api_url: str | None = None
    token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    insecure: bool = False


class Changes(NamedTuple):
    added: int
    updated: int
    unchanged: int


def check_store(store: NewStore, line: int | None = None, *, secrets: bool = True) -> list[CsvFault]:
    """Everything that is wrong with a store's values. Secrets are never repeated; without `secrets` none are needed."""
    faults = []

    def fault(column: str, message: str) -> None:
        faults.append(CsvFault(line, column, message))

    if not store.name or len(store.name) > 100:
        fault("name", "give a name of 1 to 100 characters")
    elif character := unseen(store.name):
        fault("name", f"holds a character that cannot be seen or typed ({character}); type it again")
    elif store.name.startswith("-"):
        fault("name", "begins with a dash, as an option does; begin it with a letter")
    if store.platform not in PLATFORMS:
        fault(
            "platform",
            f"{_shown(store.platform)} is not one of: {', '.join(PLATFORMS)}{did_you_mean(store.platform, PLATFORMS)}",
        )
    kind = PLATFORMS.get(store.platform, PLATFORMS["shopify"])
    if not kind.domain.fullmatch(store.domain):
        fault("domain", f"{_shown(store.domain)} {kind.domain_hint}")
    if store.tier not in TIERS:
        fault("tier", f"{store.tier} is not one of: {', '.join(map(str, TIERS))}")
    if store.every is not None and not (
        TICK_MINUTES <= store.every <= MOST_MINUTES and store.every % TICK_MINUTES == 0
    ):
        fault(
            "every",
            f"give minutes, a multiple of {TICK_MINUTES} from {TICK_MINUTES} to {MOST_MINUTES}, or none for the tier's",
        )
    if store.api_url is not None and not _is_url(store.api_url):
        fault(
            "api_url",
            f"{_shown(store.api_url)} is not an address like https://harbor.myshopify.com, without a user or a query",
        )
    elif store.api_url is not None and not store.insecure and is_in_clear(store.api_url):
        fault(
            "api_url",
            f"{store.api_url} is not https://: the store's token would go over the network unencrypted; "
            "--insecure allows it",
        )
    return faults + (_secret_faults(store, line) if secrets else [])


def _secret_faults(store: NewStore, line: int | None) -> list[CsvFault]:
    kind = PLATFORMS.get(store.platform, PLATFORMS["shopify"])
    faults = []
    given = [name for name in SECRETS if getattr(store, name)]
    if tuple(given) not in kind.secrets:
        wanted = ", or ".join(" and ".join(names) for names in kind.secrets)
        either = "either " if len(kind.secrets) > 1 else ""
        faults.append(CsvFault(line, "token", f"give {either}{wanted}; given: {', '.join(given) or 'none'}"))
    faults += [
        CsvFault(
            line,
            name,
            "holds a character that none has (white space, a typographic quote, one that cannot be seen); paste it again",
        )
        for name in given
        if not re.fullmatch(r"[!-~]+", getattr(store, name))
    ]
    return faults


def save_stores(database: Database, cipher: Cipher, stores: Sequence[NewStore]) -> Changes:
    """Add or update stores, all or none. A store is known by its platform and domain.

    A new store is due at once, and so is one whose access has changed, with what was parked of it. Raises
    IntegrationError (bad_data) with every fault, and (configuration) if this is not the key of the other stores.
    """
    faults = [fault for store in stores for fault in check_store(store)]
    with database.session() as session:
        faults += [CsvFault(None, "name", message) for message in _taken_names(session, stores)]
        faults += [CsvFault(None, "domain", message) for message in _being_removed(session, stores)]
        if faults:
            raise bad_data(faults, "stores")
        outcomes = [_save(session, cipher, store) for store in stores]
        session.flush()
        # Afterwards: stores that are all given their tokens again are the way out where the key is lost.
        verify_key(cast("psycopg.Connection[Any]", session.connection().connection.driver_connection), cipher)
    return Changes(outcomes.count("added"), outcomes.count("updated"), outcomes.count("unchanged"))


def set_paused(database: Database, names: Sequence[str], paused: bool) -> int:
    """Pause or resume stores by name; returns how many that changed. Raises IntegrationError (bad_data)."""
    with database.session() as session:
        known = _known(session)
        if unknown := [_unknown(name, known) for name in names if name not in known]:
            raise bad_data(unknown, "stores")
        if not paused:
            _require_installed(session, names)
        condition = Store.paused_at.is_(None) if paused else Store.paused_at.is_not(None)
        result = session.execute(
            sa.update(Store)
            .where(Store.name.in_(names), condition)
            .values(paused_at=sa.func.clock_timestamp() if paused else None)
            .returning(Store.id)
        )
        return len(result.all())


def _known(session: Session) -> set[str]:
    return set(session.scalars(sa.select(Store.name).where(Store.deleted_at.is_(None))))


def _unknown(name: str, known: Iterable[str]) -> CsvFault:
    return CsvFault(None, name, f"no such store{did_you_mean(name, known)}")


def _require_installed(session: Session, names: Sequence[str]) -> None:
    """Raises IntegrationError (bad_data) naming each store that has no credentials, because its shop removed the app."""
    removed = session.scalars(
        sa.select(Store.name)
        .where(Store.name.in_(names), Store.uninstalled_at.is_not(None))
        .order_by(Store.name)
    )
    faults = [
        CsvFault(
            None,
            "name",
            f"the shop of {name} removed the app: {command('stores', 'set', name, '--token', '-')} with a new token resumes it",
        )
        for name in removed
    ]
    if faults:
        raise bad_data(faults, "stores")


def held_values(database: Database, platform: str, domain: str) -> tuple[int, int | None, str | None]:
    """Tier, interval and API address of a store as it stands, or as a new one has them: what isn't given stays."""
    with database.session() as session:
        held = session.execute(
            sa.select(Store.tier, Store.interval_minutes, Store.api_url).where(
                Store.platform == platform, Store.domain == domain
            )
        ).one_or_none()
    return (DEFAULT_TIER, None, None) if held is None else (held[0], held[1], held[2])


def _save(session: Session, cipher: Cipher, new: NewStore) -> str:
    store = session.scalar(sa.select(Store).where(Store.platform == new.platform, Store.domain == new.domain))
    if store is None:
        store = Store(
            name=new.name,
            platform=new.platform,
            domain=new.domain,
            tier=new.tier,
            interval_minutes=new.every,
            api_url=new.api_url,
            credentials=cipher.encrypt(new.credentials()),
        )
        session.add(store)
        session.flush()
        _make_due(session, store.id)
        return "added"
    if store.deleted_at is not None:  # all of it was erased: it begins anew
        store.deleted_at = store.paused_at = store.uninstalled_at = None
    renewed = None if _same_credentials(cipher, store.credentials, new) else cipher.encrypt(new.credentials())
    return "updated" if _change(session, store, new, renewed) else "unchanged"


def set_store(database: Database, cipher: Cipher, name: str, given: Given) -> list[str]:
    """Change what is given of one store and nothing else; returns what changed, in words.

    Raises IntegrationError (bad_data) with every fault, also for an unknown store, and (configuration) if a part of its
    credentials is given and the rest cannot be read.
    """
    with database.session() as session:
        store = session.scalar(
            sa.select(Store).where(Store.name == name, Store.deleted_at.is_(None)).with_for_update()
        )
        if store is None:
            raise bad_data([_unknown(name, _known(session))], "stores")
        secrets = given.token is not None or given.client_id is not None or given.client_secret is not None
        new = NewStore(
            store.name if given.name is None else given.name,
            store.platform,
            store.domain,
            store.tier if given.tier is None else given.tier,
            store.api_url if given.api_url is None else given.api_url or None,
            every=store.interval_minutes if given.every is None else given.every or None,
            insecure=given.insecure or given.api_url is None,
        )
        if secrets:
            new = _with_secrets(cipher, store.credentials, new, given)
        faults = check_store(new, secrets=secrets)
        faults += [CsvFault(None, "name", message) for message in _taken_names(session, [new])]
        if faults:
            raise bad_data(faults, "stores")
        renewed = None
        if secrets and not _same_credentials(cipher, store.credentials, new):
            renewed = cipher.encrypt(new.credentials())
        minutes = _minutes(store.tier, store.interval_minutes), _minutes(new.tier, new.every)
        said = [
            f"{what}: {before} → {now}"
            for what, before, now in (
                ("name", store.name, new.name),
                ("tier", store.tier, new.tier),
                ("minutes between syncs", *minutes),
                ("API address", store.api_url or "the platform's own", new.api_url or "the platform's own"),
            )
            if before != now
        ]
        if renewed:
            said.append("credentials: replaced")
        _change(session, store, new, renewed)
        session.flush()
        verify_key(cast("psycopg.Connection[Any]", session.connection().connection.driver_connection), cipher)
    return said


def _with_secrets(cipher: Cipher, held: bytes, new: NewStore, given: Given) -> NewStore:
    """The store with the secrets that are given: of a client's id and secret the one that is not stays."""
    one_of_two = given.token is None and None in (given.client_id, given.client_secret)
    kept = cipher.decrypt(held) if one_of_two else {}
    return replace(
        new,
        token=given.token,
        client_id=given.client_id or kept.get("client_id"),
        client_secret=given.client_secret or kept.get("client_secret"),
    )


def _change(session: Session, store: Store, new: NewStore, credentials: bytes | None) -> bool:
    """Have a store be as given, with new encrypted credentials if there are any; returns whether anything changed."""
    access_changed = store.api_url != new.api_url or credentials is not None
    before = _minutes(store.tier, store.interval_minutes)
    if not access_changed and (store.name, store.tier, store.interval_minutes) == (
        new.name,
        new.tier,
        new.every,
    ):
        return False
    store.name, store.tier, store.interval_minutes = new.name, new.tier, new.every
    store.api_url = new.api_url
    if _minutes(new.tier, new.every) < before:
        _come_sooner(session, store.id, timedelta(minutes=_minutes(new.tier, new.every)))
    if access_changed:
        store.credentials = credentials or store.credentials
        if store.uninstalled_at is not None and credentials is not None:
            store.uninstalled_at = store.paused_at = None
        _make_due(session, store.id)
    return True


def _same_credentials(cipher: Cipher, stored: bytes, new: NewStore) -> bool:
    try:
        held: dict[str, Any] = cipher.decrypt(stored)
    except IntegrationError:
        return False  # encrypted with a key that is lost: giving the token again is the remedy
    given = new.credentials()
    # A renewed access token stands beside the client's id and secret.
    return {key: held.get(key) for key in given} == given and ("client_secret" in held) == (
        "client_secret" in given
    )


def _make_due(session: Session, store_id: int) -> None:
    now = sa.func.clock_timestamp()
    rows = [{"store_id": store_id, "resource": unit.value, "next_due_at": now} for unit in Unit]
    statement = insert(SyncState).values(rows)
    # least() passes over null: what was parked is due as well, with all its tries.
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["store_id", "resource"],
            set_={
                "next_due_at": sa.func.least(SyncState.next_due_at, now),
                "attempts": sa.case((SyncState.next_due_at.is_(None), 0), else_=SyncState.attempts),
            },
        )
    )


def _come_sooner(session: Session, store_id: int, interval: timedelta) -> None:
    """A shorter interval applies at once: a store that was due daily does not wait a day. Failed work keeps its delay,
    and what has an interval of its own (the daily audit) its turn.

    On a tick of its own, like any turn: many stores that change at once are not all due at once.
    """
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    session.execute(
        sa.update(SyncState)
        .where(SyncState.store_id == store_id, SyncState.attempts == 0, SyncState.next_due_at.is_not(None))
        .where(SyncState.resource.not_in([unit.value for unit in OWN_INTERVALS]))
        .values(next_due_at=sa.func.least(SyncState.next_due_at, next_turn(now, interval, store_id)))
    )


def _minutes(tier: int, every: int | None) -> int:
    return every or int(TIERS[tier].total_seconds() // 60)


def _taken_names(session: Session, stores: Sequence[NewStore]) -> list[str]:
    by_name = {store.name: store for store in stores}
    held = session.execute(
        sa.select(Store.name, Store.platform, Store.domain).where(Store.name.in_(by_name))
    ).all()
    return [
        f"{name!r} is the name of {domain} already; choose another"
        for name, platform, domain in held
        if (by_name[name].platform, by_name[name].domain) != (platform, domain)
    ]


def _being_removed(session: Session, stores: Sequence[NewStore]) -> list[str]:
    """What the rest of its removal would delete again."""
    held = session.execute(
        sa.select(Store.name, Store.platform, Store.domain)
        .where(Store.domain.in_([store.domain for store in stores]), Store.deleted_at.is_not(None))
        .where(
            sa.exists()
            .where(DataRequest.store_id == Store.id, DataRequest.status == "open")
            .where(DataRequest.kind.in_(ERASURES))
        )
    ).all()
    given = {(store.platform, store.domain) for store in stores}
    return [
        f"{domain} is being removed: {command('stores', 'remove', name)} ends that, then add it"
        for name, platform, domain in held
        if (platform, domain) in given
    ]


def _is_url(text: str) -> bool:
    # A space, or the end of a line of a file from elsewhere, is seen by nobody.
    if not re.fullmatch(r"[!-~]+", text):
        return False
    try:
        parts = urlsplit(text)
        # Kept in clear and shown: no user or password in it.
        plain = "@" not in parts.netloc and not parts.query
        return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and parts.port != 0
    except ValueError:
        return False


def _shown(value: str) -> str:
    """The value, unless it may be a token that stands in the wrong column."""
    return "what is given" if len(value) > 100 or re.search(r"[0-9A-Za-z_-]{24}|@", value) else repr(value)
