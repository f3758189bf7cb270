"""Resolvers of the shop itself and of the app that asks."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLResolveInfo

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify.store import gid


def shop(_root: object, info: GraphQLResolveInfo) -> Node:
    return info.context.store.shop  # type: ignore[no-any-return]


def current_app_installation(_root: object, info: GraphQLResolveInfo) -> Node:
    scopes = [
        {"handle": scope, "description": scope.replace("_", " ")} for scope in info.context.access.scopes
    ]
    return {"id": gid("AppInstallation", 600_000_000_000 + info.context.index), "accessScopes": scopes}


RESOLVERS: dict[str, Any] = {
    "QueryRoot.shop": shop,
    "QueryRoot.currentAppInstallation": current_app_installation,
}
