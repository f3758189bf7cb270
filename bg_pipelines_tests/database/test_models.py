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


def downgrade(database: Database) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "base")


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
    downgrade(database)
    assert catalogue(database) == set()
    before, _ = database.migrate()
    assert before is None
    assert catalogue(database) == migrated


def test_every_synced_table_begins_with_the_same_columns() -> None:
    for name in ("locations", "products", "product_variants", "inventory_levels"):
        columns = [column.name for column in Base.metadata.tables[name].columns]
        assert columns[:5] == ["store_id", "external_id", "source_updated_at", "synced_at", "deleted_at"]
        assert [column.name for column in Base.metadata.tables[name].primary_key] == columns[:2]
