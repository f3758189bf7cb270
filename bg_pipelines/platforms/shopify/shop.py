"""The shop itself: its profile and its locations, as fields of a document and as records."""

from __future__ import annotations

from bg_pipelines.platforms.shopify.failures import malformed
from bg_pipelines.platforms.shopify.pages import Converted, Node, key
from bg_pipelines.records import Location, StoreProfile

PROFILE = "shop { id name currencyCode ianaTimezone updatedAt plan { publicDisplayName } }"
LOCATION = (
    "id name isActive fulfillsOnlineOrders updatedAt address { address1 city provinceCode countryCode zip }"
)


def profile(data: Node) -> StoreProfile:
    """The shop of an answer's data. Raises IntegrationError (malformed_response)."""
    try:
        shop = data["shop"]
        return StoreProfile(
            external_id=shop["id"],
            shop_name=shop["name"],
            currency=shop["currencyCode"],
            timezone=shop["ianaTimezone"],
            plan=shop["plan"]["publicDisplayName"],
            source_updated_at=shop["updatedAt"],
        )
    except (KeyError, TypeError):
        raise malformed("Shopify's answer lacks the shop") from None


def location(_: Converted, node: Node) -> Location:
    address = node["address"]
    return Location(
        *key(node),
        node["name"],
        node["isActive"],
        node["fulfillsOnlineOrders"],
        address["address1"],
        address["city"],
        address["provinceCode"],
        address["countryCode"],
        address["zip"],
    )
