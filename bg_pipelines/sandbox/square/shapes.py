"""The requests' fields as the vendor describes them: what the sandbox honours, and what it refuses to be asked.

A test compares them with the vendor's own description. A field that is documented but not honoured is refused
rather than ignored, so that nobody takes an unfiltered answer for a filtered one.
"""

from __future__ import annotations

from typing import Any

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.refusals import RefusalError, bad_request
from bg_pipelines.sandbox.square.values import read_time

# By the names of the vendor's schemas. `time` is a text to the vendor; [x] is a list of x.
SHAPES: dict[str, dict[str, str]] = {
    "SearchCustomersRequest": {
        "cursor": "string",
        "limit": "integer",
        "query": "CustomerQuery",
        "count": "boolean",
    },
    "CustomerQuery": {"filter": "CustomerFilter", "sort": "CustomerSort"},
    "CustomerFilter": {
        "creation_source": "CustomerCreationSourceFilter",
        "created_at": "TimeRange",
        "updated_at": "TimeRange",
        "email_address": "CustomerTextFilter",
        "phone_number": "CustomerTextFilter",
        "reference_id": "CustomerTextFilter",
    },
    "CustomerCreationSourceFilter": {
        "values": "[CustomerCreationSource]",
        "rule": "CustomerInclusionExclusion",
    },
    "CustomerTextFilter": {"exact": "string"},
    "CustomerSort": {"field": "CustomerSortField", "order": "SortOrder"},
    "TimeRange": {"start_at": "time", "end_at": "time"},
    "BulkRetrieveCustomersRequest": {"customer_ids": "[string]"},
    "CreateCustomerRequest": {
        "idempotency_key": "string",
        "given_name": "string",
        "family_name": "string",
        "company_name": "string",
        "nickname": "string",
        "email_address": "string",
        "address": "Address",
        "phone_number": "string",
        "reference_id": "string",
        "note": "string",
        "birthday": "string",
    },
    "UpdateCustomerRequest": {
        "given_name": "string",
        "family_name": "string",
        "company_name": "string",
        "nickname": "string",
        "email_address": "string",
        "address": "Address",
        "phone_number": "string",
        "reference_id": "string",
        "note": "string",
        "birthday": "string",
        "version": "integer",
    },
    "Address": {
        "address_line_1": "string",
        "address_line_2": "string",
        "address_line_3": "string",
        "locality": "string",
        "sublocality": "string",
        "sublocality_2": "string",
        "sublocality_3": "string",
        "administrative_district_level_1": "string",
        "administrative_district_level_2": "string",
        "administrative_district_level_3": "string",
        "postal_code": "string",
        "country": "Country",
        "first_name": "string",
        "last_name": "string",
    },
    "SearchOrdersRequest": {
        "location_ids": "[string]",
        "cursor": "string",
        "query": "SearchOrdersQuery",
        "limit": "integer",
        "return_entries": "boolean",
    },
    "SearchOrdersQuery": {"filter": "SearchOrdersFilter", "sort": "SearchOrdersSort"},
    "SearchOrdersFilter": {
        "state_filter": "SearchOrdersStateFilter",
        "date_time_filter": "SearchOrdersDateTimeFilter",
        "source_filter": "SearchOrdersSourceFilter",
        "customer_filter": "SearchOrdersCustomerFilter",
    },
    "SearchOrdersStateFilter": {"states": "[OrderState]"},
    "SearchOrdersDateTimeFilter": {
        "created_at": "TimeRange",
        "updated_at": "TimeRange",
        "closed_at": "TimeRange",
    },
    "SearchOrdersSourceFilter": {"source_names": "[string]"},
    "SearchOrdersCustomerFilter": {"customer_ids": "[string]"},
    "SearchOrdersSort": {"sort_field": "SearchOrdersSortField", "sort_order": "SortOrder"},
    "BatchRetrieveOrdersRequest": {"location_id": "string", "order_ids": "[string]"},
    "SearchCatalogObjectsRequest": {
        "cursor": "string",
        "object_types": "[CatalogObjectType]",
        "include_deleted_objects": "boolean",
        "include_related_objects": "boolean",
        "begin_time": "time",
        "limit": "integer",
        "include_category_path_to_root": "boolean",
    },
    "BatchRetrieveCatalogObjectsRequest": {
        "object_ids": "[string]",
        "include_related_objects": "boolean",
        "include_deleted_objects": "boolean",
        "include_category_path_to_root": "boolean",
    },
    "BatchRetrieveInventoryCountsRequest": {
        "catalog_object_ids": "[string]",
        "location_ids": "[string]",
        "updated_after": "time",
        "cursor": "string",
        "states": "[InventoryState]",
        "limit": "integer",
    },
    "BatchRetrieveInventoryChangesRequest": {
        "catalog_object_ids": "[string]",
        "location_ids": "[string]",
        "types": "[InventoryChangeType]",
        "states": "[InventoryState]",
        "updated_after": "time",
        "updated_before": "time",
        "cursor": "string",
        "limit": "integer",
    },
    "BatchChangeInventoryRequest": {
        "idempotency_key": "string",
        "changes": "[InventoryChange]",
        "ignore_unchanged_counts": "boolean",
    },
    "CreateWebhookSubscriptionRequest": {
        "idempotency_key": "string",
        "subscription": "WebhookSubscription",
    },
    "UpdateWebhookSubscriptionRequest": {"subscription": "WebhookSubscription"},
    "UpdateWebhookSubscriptionSignatureKeyRequest": {"idempotency_key": "string"},
    "WebhookSubscription": {
        "name": "string",
        "enabled": "boolean",
        "event_types": "[string]",
        "notification_url": "string",
        "api_version": "string",
    },
    "InventoryChange": {
        "type": "InventoryChangeType",
        "physical_count": "InventoryPhysicalCount",
        "adjustment": "InventoryAdjustment",
    },
    "InventoryPhysicalCount": {
        "reference_id": "string",
        "catalog_object_id": "string",
        "catalog_object_type": "string",
        "state": "InventoryState",
        "location_id": "string",
        "quantity": "string",
        "employee_id": "string",
        "team_member_id": "string",
        "occurred_at": "time",
    },
    "InventoryAdjustment": {
        "reference_id": "string",
        "from_state": "InventoryState",
        "to_state": "InventoryState",
        "location_id": "string",
        "catalog_object_id": "string",
        "catalog_object_type": "string",
        "quantity": "string",
        "employee_id": "string",
        "team_member_id": "string",
        "occurred_at": "time",
    },
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "BulkRetrieveCustomersRequest": ("customer_ids",),
    "SearchOrdersStateFilter": ("states",),
    "SearchOrdersSort": ("sort_field",),
    "BatchRetrieveOrdersRequest": ("order_ids",),
    "BatchRetrieveCatalogObjectsRequest": ("object_ids",),
    "BatchChangeInventoryRequest": ("idempotency_key",),
    "CreateWebhookSubscriptionRequest": ("subscription",),
}
# Documented, and refused here.
NOT_HONOURED: dict[str, tuple[str, ...]] = {
    "CustomerFilter": ("group_ids", "custom_attribute", "segment_ids"),
    "CustomerTextFilter": ("fuzzy",),
    "CreateCustomerRequest": ("tax_ids",),
    "UpdateCustomerRequest": ("tax_ids",),
    "SearchOrdersFilter": ("fulfillment_filter",),
    "SearchCatalogObjectsRequest": ("query",),
    "BatchRetrieveCatalogObjectsRequest": ("catalog_version",),
    "WebhookSubscription": ("id", "signature_key", "created_at", "updated_at"),
    "InventoryChange": ("transfer", "measurement_unit", "measurement_unit_id"),
    "InventoryPhysicalCount": ("id", "source", "created_at"),
    "InventoryAdjustment": (
        "id",
        "total_price_money",
        "created_at",
        "source",
        "transaction_id",
        "refund_id",
        "purchase_order_id",
        "goods_receipt_id",
        "adjustment_group",
    ),
}
ENUMS: dict[str, tuple[str, ...]] = {
    "CatalogObjectType": (
        "ITEM",
        "IMAGE",
        "CATEGORY",
        "ITEM_VARIATION",
        "TAX",
        "DISCOUNT",
        "MODIFIER_LIST",
        "MODIFIER",
        "PRICING_RULE",
        "PRODUCT_SET",
        "TIME_PERIOD",
        "MEASUREMENT_UNIT",
        "SUBSCRIPTION_PLAN_VARIATION",
        "ITEM_OPTION",
        "ITEM_OPTION_VAL",
        "CUSTOM_ATTRIBUTE_DEFINITION",
        "QUICK_AMOUNTS_SETTINGS",
        "SUBSCRIPTION_PLAN",
        "AVAILABILITY_PERIOD",
    ),
    "CustomerCreationSource": (
        "OTHER",
        "APPOINTMENTS",
        "COUPON",
        "DELETION_RECOVERY",
        "DIRECTORY",
        "EGIFTING",
        "EMAIL_COLLECTION",
        "FEEDBACK",
        "IMPORT",
        "INVOICES",
        "LOYALTY",
        "MARKETING",
        "MERGE",
        "ONLINE_STORE",
        "INSTANT_PROFILE",
        "TERMINAL",
        "THIRD_PARTY",
        "THIRD_PARTY_IMPORT",
        "UNMERGE_RECOVERY",
    ),
    "CustomerInclusionExclusion": ("INCLUDE", "EXCLUDE"),
    "CustomerSortField": ("DEFAULT", "CREATED_AT"),
    "InventoryChangeType": ("PHYSICAL_COUNT", "ADJUSTMENT", "TRANSFER"),
    "InventoryState": (
        "CUSTOM",
        "IN_STOCK",
        "SOLD",
        "RETURNED_BY_CUSTOMER",
        "RESERVED_FOR_SALE",
        "SOLD_ONLINE",
        "ORDERED_FROM_VENDOR",
        "RECEIVED_FROM_VENDOR",
        "IN_TRANSIT_TO",
        "NONE",
        "WASTE",
        "UNLINKED_RETURN",
        "COMPOSED",
        "DECOMPOSED",
        "SUPPORTED_BY_NEWER_VERSION",
        "IN_TRANSIT",
    ),
    "OrderState": ("OPEN", "COMPLETED", "CANCELED", "DRAFT"),
    "SearchOrdersSortField": ("CREATED_AT", "UPDATED_AT", "CLOSED_AT"),
    "SortOrder": ("DESC", "ASC"),
}
TYPES: dict[str, tuple[type, str]] = {
    "string": (str, "EXPECTED_STRING"),
    "time": (str, "EXPECTED_STRING"),
    "integer": (int, "EXPECTED_INTEGER"),
    "boolean": (bool, "EXPECTED_BOOLEAN"),
}


def read(name: str, given: Any, at: str = "") -> Node:
    """Check a request's body against the shape of this name; what is null counts as not given, but in Update*."""
    if not isinstance(given, dict):
        raise RefusalError("EXPECTED_OBJECT", "Expected an object.", field=at or None)
    shape, kept = SHAPES[name], {}
    for field, value in given.items():
        place = f"{at}.{field}" if at else field
        if field in NOT_HONOURED.get(name, ()):
            raise bad_request(f"The sandbox does not know {name}.{field}.", place)
        if field not in shape:
            raise RefusalError("UNKNOWN_BODY_PARAMETER", f"Unrecognized field `{place}`.", field=place)
        if value is not None:
            kept[field] = read_value(shape[field], value, place)
        elif name.startswith("Update"):
            kept[field] = None
    for field in REQUIRED.get(name, ()):
        if field not in kept:
            place = f"{at}.{field}" if at else field
            raise missing(place)
    return kept


def read_value(kind: str, value: Any, at: str) -> Any:
    if kind.startswith("["):
        if not isinstance(value, list):
            raise RefusalError("EXPECTED_ARRAY", "Expected an array.", field=at)
        return [read_value(kind[1:-1], one, f"{at}[{place}]") for place, one in enumerate(value)]
    if kind in SHAPES:
        return read(kind, value, at)
    wanted, code = TYPES.get(kind, TYPES["string"])
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise RefusalError(code, f"Expected {kind if kind in TYPES else 'string'} for `{at}`.", field=at)
    if kind in ENUMS and value not in ENUMS[kind]:
        raise RefusalError("INVALID_ENUM_VALUE", f"`{value}` is not a valid enum value for `{at}`.", field=at)
    if kind == "time":
        try:
            read_time(str(value))
        except ValueError:
            raise RefusalError("INVALID_TIME", f"`{value}` is not an RFC 3339 time.", field=at) from None
    return value


def missing(field: str) -> RefusalError:
    return RefusalError("MISSING_REQUIRED_PARAMETER", f"Missing required parameter `{field}`.", field=field)


def page_size(query: Node, default: int, most: int) -> int:
    limit: int = query.get("limit", default)
    if limit < 1:
        raise RefusalError("VALUE_TOO_LOW", "`limit` must not be less than 1.", field="limit")
    if limit > most:
        raise RefusalError("VALUE_TOO_HIGH", f"`limit` must not be greater than {most}.", field="limit")
    return limit


def at_most(query: Node, field: str, most: int, at: str = "") -> list[Any]:
    """A list of the request, refused if it is longer than the vendor takes."""
    values: list[Any] = query.get(field, [])
    if len(values) > most:
        place = f"{at}.{field}" if at else field
        raise RefusalError(
            "ARRAY_LENGTH_TOO_LONG", f"`{place}` must not hold more than {most} values.", field=place
        )
    return values
