"""Shopify's Admin GraphQL API, for many shops."""
