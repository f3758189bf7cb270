"""Stock at Shopify: its levels, page by page, and our corrections of them.

Levels are nested in their location: one call shows the first few of every location, and each that has more is drained by
itself. Corrections go many in a call, which is applied as a whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome, batch_key, batches
from bg_pipelines.platforms.rejects import NONSENSE
from bg_pipelines.platforms.shopify.client import ShopifyClient
from bg_pipelines.platforms.shopify.failures import SOURCE, malformed
from bg_pipelines.platforms.shopify.pages import (
    PAGE_INFO,
    Converted,
    Node,
    PageReader,
    cursors_from,
    key,
    nested_rows,
    rows_of,
)
from bg_pipelines.platforms.shopify.unanswered import Unanswered
from bg_pipelines.platforms.vendor_text import said
from bg_pipelines.records import InventoryLevel, Page

ATTEMPTS = 3
"""Of one call: a key whose call failed at Shopify is of no more use, so the next has another."""

LEVEL = 'id isActive updatedAt item { id } quantities(names: ["available", "on_hand", "committed", "incoming"]) { name quantity }'

INVENTORY_LEVELS = f"""
query InventoryLevels($first: Int!, $after: String, $levels: Int!, $query: String) {{
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {{
    nodes {{ id inventoryLevels(first: $levels, query: $query, includeInactive: true) {{ nodes {{ {LEVEL} }} {PAGE_INFO} }} }}
    {PAGE_INFO}
  }}
}}"""

LOCATION_INVENTORY_LEVELS = f"""
query LocationInventoryLevels($location: ID!, $first: Int!, $after: String, $query: String) {{
  location(id: $location) {{
    rows: inventoryLevels(first: $first, after: $after, query: $query, includeInactive: true) {{
      nodes {{ {LEVEL} }} {PAGE_INFO}
    }}
  }}
}}"""

INVENTORY_LEVELS_BY_IDS = f"""
query InventoryLevelsByIds($ids: [ID!]!) {{
  rows: nodes(ids: $ids) {{ ... on InventoryLevel {{ location {{ id }} {LEVEL} }} }}
}}"""

AVAILABLE = """
query Available($location: ID!, $ids: [ID!]!) {
  rows: nodes(ids: $ids) {
    ... on InventoryItem {
      id inventoryLevel(locationId: $location) { quantities(names: ["available"]) { name quantity } }
    }
  }
}"""

SET_QUANTITIES = """
mutation SetQuantities($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) { userErrors { code field message } }
}"""

LOCATION_IDS = """
query LocationIds($first: Int!, $after: String) {
  rows: locations(first: $first, after: $after, sortKey: ID, includeInactive: true) {
    nodes { id } pageInfo { hasNextPage endCursor }
  }
}"""
LEVEL_IDS = """
query LevelIds($location: ID!, $first: Int!, $after: String, $query: String) {
  location(id: $location) {
    rows: inventoryLevels(first: $first, after: $after, query: $query, includeInactive: true) {
      nodes { id } pageInfo { hasNextPage endCursor }
    }
  }
}"""

DOCUMENTS = (
    LOCATION_IDS,
    LEVEL_IDS,
    INVENTORY_LEVELS,
    LOCATION_INVENTORY_LEVELS,
    INVENTORY_LEVELS_BY_IDS,
    AVAILABLE,
    SET_QUANTITIES,
)

_STALE = {"CHANGE_FROM_QUANTITY_STALE", "COMPARE_QUANTITY_STALE"}
_IN_PROGRESS = "IDEMPOTENCY_CONCURRENT_REQUEST"
_KEY_OF_NO_USE = "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"


class Stock:
    """A shop's stock levels."""

    def __init__(self, client: ShopifyClient, reader: PageReader) -> None:
        self._client = client
        self._reader = reader
        self._sizes = reader.sizes

    def by_ids(self, external_ids: Sequence[str]) -> Page:
        def convert(page: Converted, node: Node) -> InventoryLevel | str:
            return _level(node["location"]["id"], page, node)

        return self._reader.by_ids(INVENTORY_LEVELS_BY_IDS, {}, external_ids, convert)

    def pages(self, query: str | None, resume: str | None) -> Iterator[Page]:
        """Levels, location by location: the first few of a page of locations, then each that has more.

        The token names the page of locations and, where the first few are kept, the location and the page in it
        that come next. So each page that is kept brings a pass nearer to its end, however often it is stopped.
        """
        at: dict[str, str | None] = json.loads(resume) if resume else {}
        locations_after = at.get("locations_after")
        cursors = cursors_from(locations_after)
        while True:
            variables = {"levels": self._sizes.levels, "query": query}
            answer = self._reader.page(
                INVENTORY_LEVELS, variables, locations_after, self._sizes.locations, ids=LOCATION_IDS
            )
            rows = rows_of(answer.data.get("rows"))
            cursors.note(rows.next_cursor, is_empty=not rows.nodes)
            first = Converted()
            to_drain: list[tuple[str, str | None]] = []
            for location in rows.nodes:
                if type(location) is Unanswered:
                    to_drain.append((location["id"], None))  # all by itself
                    continue
                try:
                    place, levels = _text(location["id"]), nested_rows(location, "inventoryLevels")
                except NONSENSE as error:
                    first.add([location], partial(_refuse, error))
                    continue
                first.add(levels.nodes, partial(_level, place))
                if levels.next_cursor is not None:
                    to_drain.append((place, levels.next_cursor))
            # Where each part of this page of locations goes on: behind the last, with the next page of them.
            parts: list[str | None] = [
                _token(locations_after, location, after) for location, after in to_drain
            ]
            parts.append(_token(rows.next_cursor) if rows.next_cursor is not None else None)
            started = [i for i, (location, _) in enumerate(to_drain) if location == at.get("location")]
            begin = started[0] if started else 0
            if started:
                to_drain[begin] = (to_drain[begin][0], at["after"] or to_drain[begin][1])
            else:
                yield first.page(answer.vendor_time, resume=parts[0])
            for i, (location, after) in enumerate(to_drain[begin:], begin):
                yield from self._drain_location(location, after, query, locations_after, parts[i + 1])
            at = {}
            if rows.next_cursor is None:
                return
            locations_after = rows.next_cursor

    def _drain_location(
        self,
        location: str,
        after: str | None,
        query: str | None,
        locations_after: str | None,
        behind: str | None,
    ) -> Iterator[Page]:
        """The other pages of a location's levels; `behind` is the token of what follows them."""
        pages = self._reader.connection(
            LOCATION_INVENTORY_LEVELS,
            {"location": location, "query": query},
            after,
            partial(_level, location),
            within="location",
            ids=LEVEL_IDS,
        )
        for page in pages:
            page.resume = behind if page.resume is None else _token(locations_after, location, page.resume)
            yield page

    # Corrections

    def correct(self, corrections: Sequence[Correction]) -> list[CorrectionOutcome]:
        outcomes: list[CorrectionOutcome] = []
        for batch in batches(corrections, self._sizes.quantities):
            outcomes += self._set(batch)
        return outcomes

    def _set(self, batch: list[Correction]) -> list[CorrectionOutcome]:
        """One call, and where Shopify does not take it as it is, further ones without what it does not take.

        After a crash the same corrections go the same way under the same keys, and Shopify answers what it answered. Should it
        look at a refused one anew, those that were applied since are stale to it: they have the quantity that was asked for.
        """
        try:
            faults = self._ask(batch)
        except IntegrationError as error:
            if error.error_type is ErrorType.QUERY_TOO_COSTLY and len(batch) > 1:
                return self._halves(batch)
            if error.error_type is not ErrorType.QUERY_REJECTED:
                raise
            return (
                self._halves(batch)
                if len(batch) > 1
                else [CorrectionOutcome("rejected", reason=_refusal(error))]
            )
        refused: dict[int, list[Node]] = {}
        for fault in faults:
            index = _index_of(fault, batch)
            if index is None and len(batch) > 1:
                return self._halves(batch)
            refused.setdefault(index or 0, []).append(fault)
        outcomes: dict[int, CorrectionOutcome] = {}
        stale = [batch[index] for index, found in refused.items() if _STALE.intersection(_codes(found))]
        available = self._available(stale)
        for index, found in refused.items():
            correction = batch[index]
            if correction in stale:
                quantity = available.get(correction.level)
                status = "applied" if quantity == correction.quantity else "stale"
                outcomes[index] = CorrectionOutcome(status, found_quantity=quantity)
            else:
                reasons = [said(fault["code"] or fault.get("message")) for fault in found]
                outcomes[index] = CorrectionOutcome("rejected", reason=", ".join(reasons))
        others = [index for index in range(len(batch)) if index not in refused]
        if refused and others:
            outcomes |= zip(others, self._set([batch[index] for index in others]), strict=True)
        else:
            outcomes |= {index: CorrectionOutcome("applied", batch[index].quantity) for index in others}
        return [outcomes[index] for index in range(len(batch))]

    def _halves(self, batch: list[Correction]) -> list[CorrectionOutcome]:
        """Where Shopify does not say whose the fault is, it is narrowed down."""
        middle = len(batch) // 2
        return self._set(batch[:middle]) + self._set(batch[middle:])

    def _ask(self, batch: list[Correction]) -> list[Node]:
        """Shopify's `userErrors`: of any, nothing was applied."""
        quantities = [
            {
                "inventoryItemId": correction.inventory_item_external_id,
                "locationId": correction.location_external_id,
                "quantity": correction.quantity,
                "changeFromQuantity": correction.change_from_quantity,
            }
            for correction in batch
        ]
        content = {"name": "available", "reason": batch[0].reason, "quantities": quantities}
        for attempt in range(1, ATTEMPTS + 1):
            variables = {"key": batch_key(batch, attempt), "input": content}
            answer = self._client.execute(SET_QUANTITIES, variables)
            try:
                faults: list[Node] = answer.data["inventorySetQuantities"]["userErrors"]
                codes = _codes(faults)
            except (KeyError, TypeError):
                # The key makes it safe to ask again: what was applied is then answered, not applied once more.
                raise malformed("Shopify's answer to a stock correction lacks its outcome") from None
            if _KEY_OF_NO_USE not in codes:
                break
        if {_IN_PROGRESS, _KEY_OF_NO_USE}.intersection(codes):
            does = "is still at work on" if _IN_PROGRESS in codes else "fails at"
            message = f"Shopify {does} stock corrections; retried automatically"
            raise IntegrationError.of(ErrorType.SERVER_ERROR, message, source=SOURCE)
        return faults

    def _available(self, corrections: Sequence[Correction]) -> dict[tuple[str, str], int]:
        """What is there of these levels; of one that cannot be read, nothing."""
        found: dict[tuple[str, str], int] = {}
        for location in dict.fromkeys(correction.location_external_id for correction in corrections):
            items = [
                one.inventory_item_external_id for one in corrections if one.location_external_id == location
            ]
            for _, _, nodes in self._reader.answers_by_ids(AVAILABLE, {"location": location}, items):
                for node in nodes:
                    with suppress(KeyError, TypeError, ValueError):
                        quantities = {
                            one["name"]: one["quantity"] for one in node["inventoryLevel"]["quantities"]
                        }
                        found[node["id"], location] = int(quantities["available"])
        return found


def _codes(faults: Sequence[Node]) -> set[str | None]:
    return {fault["code"] for fault in faults}


def _index_of(fault: Node, batch: Sequence[Correction]) -> int | None:
    """Which correction a fault is of: `field` is like ["input", "quantities", "3", "locationId"]."""
    match fault.get("field"):
        case [_, "quantities", str(index), *_] if index.isdecimal() and int(index) < len(batch):
            return int(index)
    return None


def _refusal(error: IntegrationError) -> str:
    code = error.details.get("code")
    if code == "INVALID_VARIABLE":
        return "INVALID_VARIABLE: an id is not one of Shopify's"
    return str(code or f"status {error.details.get('status')}")


def _token(locations_after: str | None, location: str | None = None, after: str | None = None) -> str:
    return json.dumps({"locations_after": locations_after, "location": location, "after": after})


def _refuse(error: Exception, _: Converted, __: Node) -> InventoryLevel:
    """A location that does not tell its stock stands for it: what is held of it is asked for by id."""
    raise error


def _text(value: Any) -> str:
    if type(value) is not str or not value:
        raise ValueError("id: must be a text and is not")
    return value


def level_of_parent(page: Converted, node: Node) -> InventoryLevel | str:
    """A level that is told beneath its location."""
    return _level(_text(node["__parentId"]), page, node)


def _level(location: str, _: Converted, node: Node) -> InventoryLevel | str:
    external_id, updated_at = key(node)
    if node["isActive"] is False:
        return external_id  # no longer stocked there
    if node["isActive"] is not True:
        raise ValueError("isActive: must be true or false and is not")
    quantities = {q["name"]: q["quantity"] for q in node["quantities"]}
    return InventoryLevel(
        external_id,
        updated_at,
        node["item"]["id"],
        location,
        quantities["available"],
        quantities["on_hand"],
        quantities["committed"],
        quantities["incoming"],
    )
