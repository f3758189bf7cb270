"""Incidents: one fault is one incident, which people read, retry or resolve."""
