"""Audits: a sample of a store's rows compared with its platform, field by field."""
