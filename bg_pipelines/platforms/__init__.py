"""The platforms that stores live on, by the name a store row has for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

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


def _square(access: StoreAccess, *, api_version: str, sleep: Callable[[float], object]) -> Platform:  # noqa: ARG001
    # Square's own client takes half a second to import: only who has a store there pays for it.
    from bg_pipelines.platforms.square import SquarePlatform
    from bg_pipelines.platforms.square_api import SquareClient

    token = str(access.credentials.get("access_token") or "")
    return SquarePlatform(SquareClient(token, access.api_url, sleep=sleep))


_TOKEN = ("token",)


class Kind(NamedTuple):
    """A platform: what connects a store there, and how a store of it is given (`operations/stores.py`).

    A store's `domain` must match `domain`, or people are told `domain_hint`; `secrets` are the sets of secrets of
    which one has to be given.
    """

    make: Callable[..., Platform]
    domain: re.Pattern[str]
    domain_hint: str
    secrets: tuple[tuple[str, ...], ...] = (_TOKEN,)


# The name of a host.
_HOST = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{1,59})")
# Where the token tells whose store it is, any name that no other store there has.
_ANY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
PLATFORMS: dict[str, Kind] = {
    "shopify": Kind(
        _shopify,
        _HOST,
        "is not a domain; give it like harbor.myshopify.com, without https://",
        (_TOKEN, ("client_id", "client_secret")),
    ),
    "square": Kind(
        _square, _ANY_NAME, "is not a name of letters, digits, dots and hyphens; the merchant's id will do"
    ),
}


def connect(access: StoreAccess, *, api_version: str, sleep: Callable[[float], object]) -> Platform:
    """The store on its platform; connects to nothing yet. `sleep` waits, in seconds, and may raise to stop.

    Raises IntegrationError (configuration) for a platform that does not exist.
    """
    try:
        make = PLATFORMS[access.platform].make
    except KeyError:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"store {access.name} is on platform {access.platform!r}; there are: {', '.join(PLATFORMS)}",
            source="settings",
        ) from None
    return make(access, api_version=api_version, sleep=sleep)
