"""An inbox that tests fill themselves, and runs that drain it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.webhooks.handling import HandlingRequest, HandlingRun, HandlingSummary
from bg_pipelines.webhooks.topics import TOPICS, Kind, subjects
from bg_pipelines_tests.support import Connect, query

Handle = Callable[..., HandlingSummary]
Tell = Callable[..., None]


@pytest.fixture
def handle(database: Database, cipher: Cipher, connect_stores: Connect) -> Handle:
    """Drain the inbox once: `handle(max_workers=1)`."""
    runs = itertools.count(1)

    def run(*, log: Any = None, connect: Connect | None = None, **options: Any) -> HandlingSummary:
        request = {
            name: options.pop(name)
            for name in ("max_workers", "max_minutes", "warm_seconds")
            if name in options
        }
        return HandlingRun(
            database,
            cipher,
            HandlingRequest(**request),
            run_id=f"handling-{next(runs)}",
            connect=connect or connect_stores,
            log=log or (lambda _: None),
            rng=random.Random(1),
            **options,
        ).run()

    return run


@pytest.fixture
def tell(database: Database, cipher: Cipher) -> Tell:
    """Put a delivery into the inbox, as the receiver does: `tell("harbor", "orders/updated", {"id": 1})`."""
    numbers = itertools.count(1)

    def put(
        store: str,
        topic: str,
        payload: dict[str, Any],
        *,
        triggered_at: datetime | None = None,
        source: str = "shopify",
    ) -> None:
        declared = TOPICS[source][topic]
        kept = None
        if declared.kind in (Kind.DOCUMENT, Kind.COMMAND):
            kept = cipher.encrypt(payload)
        for subject in list(subjects(source, declared, payload)) or [None]:
            query(
                database,
                "INSERT INTO webhook_events (store_id, source, topic, webhook_id, resource, object_id, source_updated_at, "
                "triggered_at, payload) SELECT id, %s, %s, %s, %s, %s, %s, %s, %s FROM stores WHERE name = %s",
                source,
                topic,
                f"delivery-{next(numbers)}",
                declared.table if subject else None,
                subject.external_id if subject else None,
                subject.source_updated_at if subject else None,
                triggered_at,
                kept,
                store,
            )

    return put


def outcomes(database: Database) -> dict[str, int]:
    """How many events of the inbox there are, by status."""
    rows = query(database, "SELECT status, count(*)::int AS number FROM webhook_events GROUP BY status")
    return {row["status"]: row["number"] for row in rows}


def reasons(database: Database) -> set[str]:
    return {row["reason"] for row in query(database, "SELECT DISTINCT reason FROM webhook_events")}
