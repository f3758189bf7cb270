"""Cleaning: carts, sessions, history and the database itself, in batches that the shop does not feel."""
