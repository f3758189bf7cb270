"""Migrations of the application's tables: each step is a file of `versions`, and only adds (docs/upgrade.md)."""
