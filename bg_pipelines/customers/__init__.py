"""Customers' profiles: edits of ours, on their way to the platform."""
