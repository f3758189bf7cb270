"""The Catalog API: list, search and read items and their variations."""

from __future__ import annotations

from collections.abc import Iterable

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square import shapes
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.refusals import RefusalError, bad_request
from bg_pipelines.sandbox.square.values import read_time, show_time

LIST_PAGE = 100
SEARCH_PAGE, LARGEST_PAGE = 100, 1000
MOST_IDS = 1000
# Of the types that the vendor returns unasked, the only one that there is.
TOP_LEVEL = ("ITEM",)


def list_catalog(call: Call) -> Node:
    if call.query.get("catalog_version"):
        raise bad_request("The sandbox keeps no old versions.", "catalog_version")
    types = [one.strip().upper() for one in call.query.get("types", "").split(",") if one.strip()]
    known = shapes.read_value("[CatalogObjectType]", types, "types") or TOP_LEVEL
    query = {"types": sorted(known), "cursor": call.query.get("cursor")}
    body, _ = call.page(
        "objects",
        call.store.objects.ordered("ID"),
        query,
        call.store.show_object,
        limit=LIST_PAGE,
        matches=lambda row: row["type"] in known and not row["is_deleted"],
    )
    return body


def search_catalog_objects(call: Call) -> Node:
    query = call.content("SearchCatalogObjectsRequest")
    limit = query.get("limit", SEARCH_PAGE)
    # A limit out of its range is ignored, as the vendor documents.
    limit = limit if 0 < limit <= LARGEST_PAGE else SEARCH_PAGE
    deleted = query.get("include_deleted_objects", False)
    if deleted and query.get("include_category_path_to_root"):
        raise RefusalError(
            "CONFLICTING_PARAMETERS",
            "include_deleted_objects and include_category_path_to_root cannot both be true.",
        )
    types = query.get("object_types") or TOP_LEVEL
    begin = read_time(query["begin_time"]) if "begin_time" in query else float("-inf")
    body, rows = call.page(
        "objects",
        call.store.objects.ordered("ID"),
        query,
        call.store.show_object,
        limit=limit,
        matches=lambda row: (
            row["type"] in types and row["_updated"] > begin and (deleted or not row["is_deleted"])
        ),
    )
    if query.get("include_related_objects"):
        body |= related(call, rows)
    return body | {"latest_time": show_time(call.store.latest_change)}


def batch_retrieve_catalog_objects(call: Call) -> Node:
    query = call.content("BatchRetrieveCatalogObjectsRequest")
    ids = shapes.at_most(query, "object_ids", MOST_IDS)
    deleted = query.get("include_deleted_objects", False)
    found = [row for one in dict.fromkeys(ids) if (row := call.store.objects.get(one)) is not None]
    rows = [row for row in found if deleted or not row["is_deleted"]]
    body: Node = {"objects": [call.store.show_object(row) for row in rows]} if rows else {}
    return body | related(call, rows) if query.get("include_related_objects") else body


def related(call: Call, rows: Iterable[Node]) -> Node:
    """The items of variations; there is nothing else here that an object refers to."""
    items = dict.fromkeys(
        row["item_variation_data"]["item_id"] for row in rows if row["type"] == "ITEM_VARIATION"
    )
    shown = [call.store.show_object(call.store.objects[one]) for one in items]
    return {"related_objects": shown} if shown else {}
