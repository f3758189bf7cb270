"""The database: connections, tables and migrations, bulk load, encryption, and an embedded server."""
