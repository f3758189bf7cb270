"""The Merchants and Locations APIs: who the merchant is and where its locations are."""

from __future__ import annotations

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.call import Call
from bg_pipelines.sandbox.square.refusals import not_found


def list_locations(call: Call) -> Node:
    return {"locations": list(call.store.locations.values())}


def retrieve_location(call: Call) -> Node:
    store = call.store
    wanted = store.merchant["main_location_id"] if call.id == "main" else call.id
    location = store.locations.get(wanted)
    if location is None:
        raise not_found("Location", call.id)
    return {"location": location}


def retrieve_merchant(call: Call) -> Node:
    if call.id not in {"me", call.merchant.id}:
        raise not_found("Merchant", call.id)
    return {"merchant": call.store.merchant}
