"""A shop's access tokens, how they are granted and expire, and its app's scopes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.seed import digest
from bg_pipelines.sandbox.shopify.cost import Part

TOKEN_SECONDS = 86399
SCOPES = (
    "read_all_orders",
    "read_customers",
    "read_inventory",
    "read_locations",
    "read_orders",
    "read_products",
    "write_customers",
    "write_inventory",
)
# The scope that a root field needs; the vendor documents it with each field.
REQUIRED_SCOPES = {
    "customer": "read_customers",
    "customerEmailMarketingConsentUpdate": "write_customers",
    "customerSmsMarketingConsentUpdate": "write_customers",
    "customerUpdate": "write_customers",
    "customers": "read_customers",
    "customersCount": "read_customers",
    "inventoryItem": "read_inventory",
    "inventoryItems": "read_inventory",
    "inventoryLevel": "read_inventory",
    "inventorySetQuantities": "write_inventory",
    "location": "read_locations",
    "locations": "read_locations",
    "locationsCount": "read_locations",
    "order": "read_orders",
    "orders": "read_orders",
    "ordersCount": "read_orders",
    "product": "read_products",
    "productVariant": "read_products",
    "productVariants": "read_products",
    "productVariantsCount": "read_products",
    "products": "read_products",
    "productsCount": "read_products",
}
# Protected customer data and orders need their scope wherever they appear.
PROTECTED = {
    "customer": "read_customers",
    "lastOrder": "read_orders",
    "order": "read_orders",
    "orders": "read_orders",
}


class Access:
    """`token` is the shop's lasting token, as older custom apps have; the others come from the client-credentials
    grant and live a day."""

    def __init__(self, seed: int, domain: str, clock: Clock) -> None:
        self.clock = clock
        self.scopes = list(SCOPES)
        self.client_id = f"sandbox-client-{digest(seed, domain, 'id')}"
        self.client_secret = f"sandbox-secret-{digest(seed, domain, 'secret')}"
        # The secret before the last rotation, and until when it still signs webhooks.
        self.old_client_secret: str | None = None
        self._old_until = 0.0
        self.installed = True
        self.token = f"sandbox-token-{digest(seed, domain, 'token')}"
        self._domain = domain
        self._seed = seed
        self._granted = 0
        self._rotated = 0
        self._valid_until: dict[str, float] = {self.token: float("inf")}

    def allows(self, token: str | None) -> bool:
        return token is not None and self._valid_until.get(token, 0.0) > self.clock.seconds()

    def missing_scope(self, root_field: str) -> str | None:
        scope = REQUIRED_SCOPES.get(root_field)
        return scope if scope is not None and scope not in self.scopes else None

    def denied(self, parts: list[Part]) -> tuple[str, str] | None:
        """The first field of a query that is denied, with the scope that it needs."""
        for part in parts:
            scope = self.missing_scope(part.name)
            if scope is not None:
                return part.name, scope
        return self.denied_below([below for part in parts for below in part.parts])

    def denied_names(self, root: str, names: Iterable[str]) -> bool:
        """Whether a bulk query with this root field and these fields is denied."""
        scopes = {REQUIRED_SCOPES.get(root), *(PROTECTED.get(name) for name in names)} - {None}
        return not scopes <= set(self.scopes)

    def denied_below(self, parts: list[Part]) -> tuple[str, str] | None:
        for part in parts:
            scope = PROTECTED.get(part.name)
            if scope is not None and scope not in self.scopes:
                return part.name, scope
            found = self.denied_below(part.parts)
            if found is not None:
                return found
        return None

    def rotate_secret(self, secret: str | None, seconds: float) -> None:
        """Webhooks are signed with the old secret for so many seconds more; a None makes a new one up."""
        self._rotated += 1
        made = f"sandbox-secret-{digest(self._seed, self._domain, 'secret', self._rotated)}"
        self.old_client_secret, self.client_secret = self.client_secret, secret or made
        self._old_until = self.clock.seconds() + seconds

    def signing_secret(self) -> str:
        old = self.old_client_secret
        return old if old is not None and self.clock.seconds() < self._old_until else self.client_secret

    def uninstall(self) -> None:
        """The app is gone: every token is void and none is granted until `set_token` installs it again."""
        self.expire_all()
        self.installed = False

    def set_token(self, token: str) -> None:
        self.installed = True
        self._valid_until.pop(self.token, None)
        self.token = token
        self._valid_until[token] = float("inf")

    def expire_all(self) -> int:
        """Make every token void, the lasting one too: `set_token` or a new grant brings one back."""
        count = len(self._valid_until)
        self._valid_until.clear()
        return count

    def grant(self, form: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer the client-credentials grant: the HTTP status and the body."""
        if form.get("grant_type") != "client_credentials":
            return 400, refusal("unsupported_grant_type", "The grant type is not supported.")
        if form.get("client_id") != self.client_id or form.get("client_secret") != self.client_secret:
            return 400, refusal("invalid_client", "Client authentication failed.")
        if not self.installed:
            return 400, refusal("app_not_installed", "The app is not installed on this shop.")
        self._granted += 1
        token = f"sandbox-token-{digest(self._seed, self._domain, 'grant', self._granted)}"
        self._valid_until[token] = self.clock.seconds() + TOKEN_SECONDS
        return 200, {"access_token": token, "scope": ",".join(self.scopes), "expires_in": TOKEN_SECONDS}


def refusal(error: str, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": description}
