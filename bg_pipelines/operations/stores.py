"""Managing stores: add, list, pause, resume (from a file: stores_csv).

Adding a known store updates it; equal values change nothing. Tokens are encrypted before they reach the database and
are never shown again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Store, SyncState
from bg_pipelines.database.secrets import Cipher, verify_key
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.csv_files import CsvFault, bad_data
from bg_pipelines.operations.store_figures import EVERY, STATE
from bg_pipelines.platforms import PLATFORMS
from bg_pipelines.platforms.network import is_in_clear
from bg_pipelines.queues import OWN_INTERVALS, TICK, TIERS, Unit, next_turn
from bg_pipelines.wording import did_you_mean, unseen

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


class Changes(NamedTuple):
    added: int
    updated: int
    unchanged: int


def check_store(store: NewStore, line: int | None = None) -> list[CsvFault]:
    """Everything that is wrong with a store's values. Secrets are never repeated."""
    faults = []

    def fault(column: str, message: str) -> None:
        faults.append(CsvFault(line, column, message))

    if not store.name or len(store.name) > 100:
        fault("name", "give a name of 1 to 100 characters")
    elif character := unseen(store.name):
        fault("name", f"holds a character that cannot be seen or typed ({character}); type it again")
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
    given = [name for name in SECRETS if getattr(store, name)]
    if tuple(given) not in kind.secrets:
        wanted = ", or ".join(" and ".join(names) for names in kind.secrets)
        either = "either " if len(kind.secrets) > 1 else ""
        fault("token", f"give {either}{wanted}; given: {', '.join(given) or 'none'}")
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
        if faults:
            raise bad_data(faults, "stores")
        outcomes = [_save(session, cipher, store) for store in stores]
        session.flush()
        # Afterwards: stores that are all given their tokens again are the way out where the key is lost.
        verify_key(cast("psycopg.Connection[Any]", session.connection().connection.driver_connection), cipher)
    return Changes(outcomes.count("added"), outcomes.count("updated"), outcomes.count("unchanged"))


class StoreRow(NamedTuple):
    """A store as `stores list` shows it. It is due `every` so many minutes."""

    name: str
    platform: str
    domain: str
    tier: int
    every: int
    state: str
    last_synced_at: datetime | None


def list_stores(database: Database) -> list[StoreRow]:
    """All stores by name, with the oldest of their units' last successes."""
    query = sa.text(
        f"SELECT s.name, s.platform, s.domain, s.tier, {EVERY}, {STATE}, min(y.last_succeeded_at) "  # noqa: S608 (made of constants)
        "FROM stores s LEFT JOIN sync_states y ON y.store_id = s.id GROUP BY s.id ORDER BY s.name"
    )
    with database.session() as session:
        return [StoreRow(*row) for row in session.execute(query)]


def set_paused(database: Database, names: Sequence[str], paused: bool) -> int:
    """Pause or resume stores by name; returns how many that changed. Raises IntegrationError (bad_data)."""
    with database.session() as session:
        known = set(session.scalars(sa.select(Store.name)))
        unknown = [
            CsvFault(None, name, f"no such store{did_you_mean(name, known)}")
            for name in names
            if name not in known
        ]
        if unknown:
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
            f"the shop of {name} removed the app: `bg-pipelines stores add` with a new token resumes it",
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
    access_changed = store.api_url != new.api_url or not _same_credentials(cipher, store.credentials, new)
    before = _minutes(store.tier, store.interval_minutes)
    if not access_changed and (store.name, store.tier, store.interval_minutes) == (
        new.name,
        new.tier,
        new.every,
    ):
        return "unchanged"
    store.name, store.tier, store.interval_minutes = new.name, new.tier, new.every
    store.api_url = new.api_url
    if _minutes(new.tier, new.every) < before:
        _come_sooner(session, store.id, timedelta(minutes=_minutes(new.tier, new.every)))
    if access_changed:
        store.credentials = cipher.encrypt(new.credentials())
        if store.uninstalled_at is not None:
            store.uninstalled_at = store.paused_at = None
        _make_due(session, store.id)
    return "updated"


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
