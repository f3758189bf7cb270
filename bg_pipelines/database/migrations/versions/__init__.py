"""Revisions: each file is one step, from the revision before it."""
