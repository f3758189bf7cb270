"""The platforms that stores live on, by the name a store row has for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Platform, StoreAccess

__all__ = ["PLATFORMS", "PlatformKind", "StoreAccess", "connect"]

_TOKEN = ("token",)


class PlatformKind(NamedTuple):
    """A platform: how its stores are added (`operations/stores.py`), and the module with its `connect`.

    `module` is a module of this package, imported only where a store needs it. A store's `domain` must match `domain`;
    `domain_hint` is the error otherwise; `secrets` are the sets of secrets, one of which is required.
    """

    module: str
    domain: re.Pattern[str]
    domain_hint: str
    secrets: tuple[tuple[str, ...], ...] = (_TOKEN,)


# The name of a host.
_HOST = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{1,59})")
# Where the token tells whose store it is, any name that no other store there has.
_ANY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
PLATFORMS: dict[str, PlatformKind] = {
    "shopify": PlatformKind(
        "shopify.platform",
        _HOST,
        "is not a domain; give it like harbor.myshopify.com, without https://",
        (_TOKEN, ("client_id", "client_secret")),
    ),
    "square": PlatformKind(
        "square.platform",
        _ANY_NAME,
        "is not a name of letters, digits, dots and hyphens; the merchant's id will do",
    ),
}


def connect(access: StoreAccess, *, api_version: str, sleep: Callable[[float], object]) -> Platform:
    """The store on its platform; connects to nothing yet. `sleep` waits, in seconds, and may raise to stop.

    Raises IntegrationError (configuration) for a platform that does not exist.
    """
    if access.platform not in PLATFORMS:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"store {access.name} is on platform {access.platform!r}; there are: {', '.join(PLATFORMS)}",
            source="settings",
        )
    # Only who has a store there pays for its import.
    module = import_module(f"{__name__}.{PLATFORMS[access.platform].module}")
    platform: Platform = module.connect(access, api_version=api_version, sleep=sleep)
    return platform
