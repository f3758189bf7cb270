"""The platforms that stores live on, by the name a store row has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.base import Platform
from bg_pipelines.platforms.shopify import ShopifyPlatform
from bg_pipelines.platforms.shopify_api import ClientCredentials, Credentials, ShopifyClient, StaticToken


@dataclass(frozen=True)
class StoreAccess:
    """How to reach a store. `credentials` are decrypted; `save_credentials` keeps them when they were renewed."""

    name: str
    platform: str
    domain: str
    api_url: str | None
    credentials: Mapping[str, Any] = field(repr=False)
    save_credentials: Callable[[Mapping[str, Any]], None] = field(repr=False, default=lambda _: None)

    @property
    def base_url(self) -> str:
        return self.api_url or f"https://{self.domain}"


def _shopify(access: StoreAccess, *, api_version: str, sleep: Callable[[float], object]) -> Platform:
    def keep(renewed: ClientCredentials) -> None:
        expires_at = renewed.expires_at.isoformat() if renewed.expires_at else None
        access.save_credentials({**renewed._asdict(), "expires_at": expires_at})

    client = ShopifyClient(
        access.base_url,
        _shopify_credentials(access.credentials),
        api_version=api_version,
        on_token=keep,
        sleep=sleep,
    )
    return ShopifyPlatform(client)


def _shopify_credentials(stored: Mapping[str, Any]) -> Credentials:
    try:
        if "client_secret" not in stored:
            return StaticToken(stored["access_token"])
        expires_at = stored.get("expires_at")
        return ClientCredentials(
            stored["client_id"],
            stored["client_secret"],
            stored.get("access_token"),
            datetime.fromisoformat(expires_at) if expires_at else None,
        )
    except KeyError as error:
        raise IntegrationError.of(
            ErrorType.CREDENTIALS,
            f"the store's credentials lack {error.args[0]}: give them again with `bg-pipelines stores add`",
            source="shopify",
        ) from None


PLATFORMS: dict[str, Callable[..., Platform]] = {
    "shopify": _shopify,
}


def connect(access: StoreAccess, *, api_version: str, sleep: Callable[[float], object]) -> Platform:
    """The store on its platform; connects to nothing yet. `sleep` waits, in seconds, and may raise to stop.

    Raises IntegrationError (configuration) for a platform that does not exist.
    """
    try:
        make = PLATFORMS[access.platform]
    except KeyError:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"store {access.name} is on platform {access.platform!r}; there are: {', '.join(PLATFORMS)}",
            source="settings",
        ) from None
    return make(access, api_version=api_version, sleep=sleep)
