"""Shopify: its Admin GraphQL API as a platform."""
