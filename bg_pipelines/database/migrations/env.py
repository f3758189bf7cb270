"""Alembic's entry: runs the migrations on the connection that `Database.migrate` hands over."""

from alembic import context

from bg_pipelines.database.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True
)
with context.begin_transaction():
    context.run_migrations()
