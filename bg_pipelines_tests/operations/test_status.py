"""What a person on call sees: who is current, who is due, who is failing and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from bg_pipelines.database import leases
from bg_pipelines.database.engine import Database
from bg_pipelines.operations.status import ResourceStatus, Status, read_status
from bg_pipelines.operations.stores import set_paused
from bg_pipelines.platforms.base import Resource
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary

Sync = Callable[..., Summary]


def of(database: Database, resource: Resource) -> ResourceStatus:
    return next(row for row in read_status(database).resources if row.resource == resource)


def change(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(statement)


@pytest.fixture
def shops(make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]]) -> Sandbox:
    sandbox = make_sandbox(shops=3, variants=30)
    add_shops(sandbox)
    return sandbox


def test_with_no_stores_there_is_nothing_to_tell(database: Database) -> None:
    assert read_status(database) == Status([], [], [], {})


def test_new_stores_are_due(database: Database, shops: Sandbox) -> None:
    rows = read_status(database).resources
    assert [row.resource for row in rows] == sorted(Resource)
    assert {(r.stores, r.current, r.due, r.running, r.failing, r.rejected_rows) for r in rows} == {
        (3, 0, 3, 0, 0, 0)
    }


def test_after_a_sync_a_store_is_current_and_a_fault_stands_with_its_store(
    database: Database, shops: Sandbox, sync: Sync
) -> None:
    revoked, unscoped, well = shops.world.shops.values()
    revoked.access.expire_all()
    unscoped.access.scopes.remove("read_locations")
    sync(resources=(Resource.STORE, Resource.LOCATIONS))
    assert of(database, Resource.STORE)[1:6] == (3, 2, 0, 0, 1)
    assert of(database, Resource.LOCATIONS)[1:6] == (3, 1, 0, 0, 2)
    assert of(database, Resource.PRODUCTS)[1:6] == (3, 0, 3, 0, 0)
    failing = read_status(database).failing
    assert [(f.store, f.resources, f.failures, f.error_type, f.recoverable) for f in failing] == sorted(
        [
            (revoked.domain.split(".")[0], ["locations", "store"], 1, "credentials", False),
            (unscoped.domain.split(".")[0], ["locations"], 1, "scopes", False),
        ]
    )
    assert well.domain.split(".")[0] not in {f.store for f in failing}
    assert not any(shop.token in f.message for shop in shops.world.shops.values() for f in failing)


def test_claimed_rows_are_running_and_not_due_until_their_lease_ends(
    database: Database, shops: Sandbox
) -> None:
    with database.transaction() as connection:
        now = leases.clock(connection)
        leases.claim(
            connection, [Resource.PRODUCTS], owner="me", limit=2, lease=timedelta(minutes=2), due_before=now
        )
    assert of(database, Resource.PRODUCTS)[1:6] == (3, 0, 1, 2, 0)
    change(
        database,
        "UPDATE sync_states SET lease_expires_at = now() - interval '1 second' WHERE lease_owner = 'me'",
    )
    assert of(database, Resource.PRODUCTS)[1:6] == (3, 0, 3, 0, 0)


def test_minutes_behind_is_the_longest_that_any_store_is_overdue(database: Database, shops: Sandbox) -> None:
    change(database, "UPDATE sync_states SET next_due_at = now() + interval '5 minutes'")
    assert of(database, Resource.PRODUCTS).minutes_behind == 0
    change(
        database,
        "UPDATE sync_states SET next_due_at = now() - interval '90 minutes' "
        "WHERE resource = 'products' AND store_id = (SELECT min(id) FROM stores)",
    )
    assert of(database, Resource.PRODUCTS).minutes_behind == pytest.approx(90, abs=0.2)


def test_paused_stores_are_named_and_left_out_of_the_counts(database: Database, shops: Sandbox) -> None:
    name = next(iter(shops.world.shops)).split(".")[0]
    set_paused(database, [name], True)
    assert read_status(database).paused == [name]
    assert of(database, Resource.STORE).stores == 2


def test_corrections_and_rejected_rows_are_counted(database: Database, shops: Sandbox) -> None:
    change(
        database,
        "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
        "change_from_quantity, quantity, status) SELECT id, 'i', 'l', 1, 2, status "
        "FROM stores, unnest(ARRAY['pending', 'stale']) status",
    )
    change(
        database,
        "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
        "SELECT id, 'products', 'x', 'why', '' FROM stores",
    )
    assert read_status(database).corrections == {"pending": 3, "stale": 3}
    assert (of(database, Resource.PRODUCTS).rejected_rows, of(database, Resource.STORE).rejected_rows) == (
        3,
        0,
    )


def test_status_is_json_ready(database: Database, shops: Sandbox) -> None:
    change(
        database,
        "UPDATE sync_states SET attempts = 1, next_due_at = '2026-11-23T12:00:00Z', last_error = "
        '\'{"error_type": "timeout", "severity": "medium", "recoverable": true, "message": "no answer"}\' '
        "WHERE resource = 'products' AND store_id = (SELECT min(id) FROM stores)",
    )
    kept = json.loads(json.dumps(read_status(database).as_dict()))
    assert set(kept) == {"resources", "failing", "paused", "corrections"}
    assert kept["failing"] == [
        {
            "store": next(iter(shops.world.shops)).split(".")[0],
            "resources": ["products"],
            "failures": 1,
            "error_type": "timeout",
            "severity": "medium",
            "recoverable": True,
            "message": "no answer",
            "next_try_at": "2026-11-23T12:00:00+00:00",
        }
    ]
