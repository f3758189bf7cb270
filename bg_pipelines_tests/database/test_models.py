"""The tables that migrations make are the tables that the models describe."""

from __future__ import annotations

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from bg_pipelines.database import migrations
from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base

# Autogenerate leaves out checks, identities and a good part of defaults; the catalogue has them all.
# Whether a column may be null stands with the column: PostgreSQL 18 lists it as a constraint as well.
CATALOGUE = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text,
        pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL, NULL
    FROM pg_constraint WHERE contype <> 'n' AND connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL, NULL
    FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"""


def catalogue(database: Database) -> set[tuple[object, ...]]:
    with database.session() as session:
        return {tuple(row) for row in session.execute(sa.text(CATALOGUE))}


def drop_everything(database: Database) -> None:
    with database.session() as session:
        session.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))


def move(database: Database, revision: str, *, up: bool = False) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        (alembic.command.upgrade if up else alembic.command.downgrade)(config, revision)


def test_autogenerate_finds_nothing_to_migrate(database: Database) -> None:
    options = {"compare_type": True, "compare_server_default": True}
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_and_models_make_the_same_tables_to_the_last_check(database: Database) -> None:
    migrated = catalogue(database)
    drop_everything(database)
    Base.metadata.create_all(database.engine)
    assert migrated == catalogue(database)
    assert len(migrated) > 100


def test_an_empty_database_is_migrated_down_to_nothing_and_up_again(database: Database) -> None:
    migrated = catalogue(database)
    move(database, "base")
    assert catalogue(database) == set()
    before, _ = database.migrate()
    assert before is None
    assert catalogue(database) == migrated


def test_every_synced_table_begins_with_the_same_columns() -> None:
    for name in ("locations", "products", "product_variants", "inventory_levels"):
        columns = [column.name for column in Base.metadata.tables[name].columns]
        assert columns[:5] == ["store_id", "external_id", "source_updated_at", "synced_at", "deleted_at"]
        assert [column.name for column in Base.metadata.tables[name].primary_key] == columns[:2]


EARLIER = """
    INSERT INTO stores (name, platform, domain, credentials) VALUES ('harbor', 'shopify', 'harbor.example', '');
    INSERT INTO incidents (fingerprint, needs_person, error_type, severity, source, subject, message, met_by, told)
        VALUES ('house:database', true, 'database', 'high', 's', 's', 'm', '{store_sync/by hand,store_sync/1}', 'open');
    INSERT INTO alerts (incident_id, kind, severity, title, body) SELECT id, 'opened', 'high', 't', 'b' FROM incidents;
    INSERT INTO alert_deliveries (alert_id, target, status, attempts, error) SELECT id, target, status, 2, error
        FROM alerts, (VALUES ('a', 'sending', 'slow'), ('b', 'sent', NULL)) given (target, status, error);
    INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, change_from_quantity,
        quantity, status) SELECT id, 'i', 'l', 1, 2, unnest(ARRAY['pending', 'applied']) FROM stores"""


def test_what_was_under_way_in_the_tables_of_0003_is_claimed_work_in_those_of_0004(
    database: Database,
) -> None:
    drop_everything(database)
    move(database, "0003", up=True)
    with database.session() as session:
        session.execute(sa.text(EARLIER))
    database.migrate()

    def rows(statement: str) -> list[tuple[object, ...]]:
        with database.session() as session:
            return [tuple(row) for row in session.execute(sa.text(statement))]

    deliveries = "SELECT status, calls, next_due_at IS NOT NULL, last_error ->> 'message' FROM alert_deliveries ORDER BY target"
    assert rows(deliveries) == [("pending", 2, True, "slow"), ("sent", 2, False, None)]
    corrections = "SELECT status, next_due_at IS NOT NULL FROM inventory_corrections ORDER BY id"
    assert rows(corrections) == [("pending", True), ("applied", False)]
    incidents = "SELECT fingerprint, kind, affected_runs, notified, needs_attention FROM incidents"
    assert rows(incidents) == [
        ("installation:database", "installation", ["store_sync/manual", "store_sync/1"], "open", True)
    ]
