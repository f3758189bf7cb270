"""What is read by id at Square, and what is written there: customers' edits, stock corrections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome
from bg_pipelines.platforms.square import writes
from bg_pipelines.platforms.square.client import Answer
from bg_pipelines.platforms.square.platform import PageSizes
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Fault, Merchant, Sandbox, World, edit
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Reply, ScriptedServer
from bg_pipelines_tests.platforms.square.conftest import TABLES, Connect, Node, assert_accounted, read
from bg_pipelines_tests.support import HandClock


@pytest.fixture
def shelf(clock: HandClock) -> Iterator[Merchant]:
    """A merchant of this test's own."""
    world = World(
        shops=1,
        variants=0,
        clock=clock,
        merchants=1,
        square_variants=20,
        square_customers=20,
        square_orders=20,
    )
    with Sandbox(world, port=0) as running:
        [merchant] = running.world.square_merchants.values()
        yield merchant


# Single rows


@pytest.mark.parametrize("resource", TABLES)
def test_rows_are_as_the_pages_have_them_and_what_is_not_there_is_gone(
    merchant: Merchant, connect: Connect, resource: Resource
) -> None:
    platform = connect(merchant)
    pages = read(platform, resource)
    records = [record for page in pages for record in page.records]
    wanted = {record.external_id: record for record in records[:7]}
    page = platform.rows(resource, [*wanted, "nothing@there"])
    assert_accounted([page])
    assert {record.external_id: record for record in page.records} == wanted
    assert page.gone == ["nothing@there"]
    parts = {(table, part) for page in pages for table, rows in page.parts.items() for part in rows}
    assert {(table, part) for table, rows in page.parts.items() for part in rows} == {
        (table, part) for table, part in parts if part.order_external_id in wanted
    }


def test_a_count_at_another_place_is_not_among_the_rows(merchant: Merchant, connect: Connect) -> None:
    platform = connect(merchant)
    records = [record for page in read(platform, Resource.INVENTORY_LEVELS) for record in page.records]
    first = records[0]
    other = next(
        one
        for one in records
        if one.location_external_id != first.location_external_id
        and one.inventory_item_external_id != first.inventory_item_external_id
    )
    page = platform.rows(Resource.INVENTORY_LEVELS, [first.external_id, other.external_id])
    assert sorted(row.external_id for row in page.records) == sorted([first.external_id, other.external_id])


def test_a_deleted_object_is_gone(shelf: Merchant, connect: Connect) -> None:
    row = next(row for row in shelf.export()["objects"] if row["type"] == "ITEM")
    edit(shelf, "delete_item", id=row["id"])
    assert connect(shelf).rows(Resource.PRODUCTS, [row["id"]]).gone == [row["id"]]


# Customers


def test_an_edit_is_written_and_the_row_comes_back_as_it_is_now(shelf: Merchant, connect: Connect) -> None:
    row = edit(shelf, "add_customer", fields={"given_name": "Ann", "company_name": "Old", "note": None})
    values = {"first_name": "Anna", "company": None, "email": "anna@example.com", "note": "new"}
    outcome = connect(shelf).update_customer(row["id"], {**values, "phone": "+12125550199"})
    assert (outcome.status, outcome.reason) == ("applied", None)
    assert outcome.page is not None
    [held] = outcome.page.records
    assert (held.first_name, held.company, held.email, held.note) == tuple(values.values())
    assert (held.phone, held.phone_given) == ("+12125550199", None)
    now = shelf.store.customers[row["id"]]
    assert held.source_updated_at == now["updated_at"]
    assert "company_name" not in now


def test_an_edit_that_is_there_already_is_not_written_again(shelf: Merchant, connect: Connect) -> None:
    row = shelf.export()["customers"][0]
    platform = connect(shelf)
    platform.update_customer(row["id"], {"note": "once"})
    assert platform.update_customer(row["id"], {"note": "once"}).status == "applied"
    assert shelf.applied == 1


def test_an_edit_whose_answer_was_lost_is_made_once(shelf: Merchant, connect: Connect) -> None:
    row = shelf.export()["customers"][0]
    platform = connect(shelf)
    shelf.faults.append(Fault("apply_then_cut", times=1, operation="UpdateCustomer"))
    edit = {"last_name": "Twice"}
    assert failure_of(lambda: platform.update_customer(row["id"], edit)).error_type is ErrorType.CONNECTION
    assert platform.update_customer(row["id"], edit).status == "applied"
    assert shelf.applied == 1


def test_an_edit_over_a_version_that_has_moved_is_made_over_the_new_one(
    shelf: Merchant, connect: Connect
) -> None:
    row = shelf.export()["customers"][0]
    # What was read is a version behind, once.
    shelf.faults.append(Fault("bad_value", field="version", value=-1, times=1, operation="RetrieveCustomer"))
    assert connect(shelf).update_customer(row["id"], {"note": "mine"}).status == "applied"
    assert [request.status for request in shelf.requests if request.operation == "UpdateCustomer"] == [
        409,
        200,
    ]
    shelf.faults.append(Fault("bad_value", field="version", value=-1, operation="RetrieveCustomer"))
    failure = failure_of(lambda: connect(shelf).update_customer(row["id"], {"note": "yours"}))
    assert (failure.error_type, failure.recoverable) == (ErrorType.SERVER_ERROR, True)


@pytest.mark.parametrize(
    ("theirs", "outcome", "note"),
    [
        ({"company_name": "Theirs"}, "applied", "ours"),
        ({"note": "ours"}, "applied", "ours"),
        ({"note": "staff, just now"}, "retried automatically", "staff, just now"),
    ],
)
def test_an_edit_that_staff_were_quicker_than_is_made_only_over_other_fields(
    shelf: Merchant,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    theirs: Node,
    outcome: str,
    note: str,
) -> None:
    row = shelf.export()["customers"][0]
    platform = connect(shelf)
    update = platform._client.put

    def after_staff(*given: Any, **values: Any) -> Answer:
        monkeypatch.undo()
        edit(shelf, "update_customer", id=row["id"], fields=theirs)
        return update(*given, **values)

    monkeypatch.setattr(platform._client, "put", after_staff)
    if outcome == "applied":
        assert platform.update_customer(row["id"], {"note": "ours"}).status == "applied"
    else:
        failure = failure_of(lambda: platform.update_customer(row["id"], {"note": "ours"}))
        assert (failure.error_type, failure.recoverable) == (ErrorType.SERVER_ERROR, True)
    assert shelf.store.customers[row["id"]]["note"] == note


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"email": "nobody at home"}, "INVALID_EMAIL_ADDRESS: email_address"),
        ({"phone": "12"}, "INVALID_PHONE_NUMBER: phone_number"),
    ],
)
def test_an_edit_that_square_refuses_is_rejected_without_its_value(
    shelf: Merchant, connect: Connect, values: Node, reason: str
) -> None:
    row = shelf.export()["customers"][0]
    outcome = connect(shelf).update_customer(row["id"], values)
    assert (outcome.status, outcome.reason, outcome.page) == ("rejected", reason, None)


def test_an_edit_of_who_is_not_there_is_rejected(shelf: Merchant, connect: Connect) -> None:
    outcome = connect(shelf).update_customer("nobody", {"note": "x"})
    assert (outcome.status, outcome.reason) == ("rejected", "NOT_FOUND: customer_id")


def test_consent_is_no_edit_that_square_takes(shelf: Merchant, connect: Connect) -> None:
    assert connect(shelf).editable == {"first_name", "last_name", "company", "email", "phone", "note"}


# Stock


def counted(merchant: Merchant, quantity: int = 5) -> Node:
    """A variation that is in stock so often at a location."""
    row = next(row for row in merchant.export()["counts"] if row["state"] == "IN_STOCK")
    place = {name: row[name] for name in ("catalog_object_id", "location_id")}
    edit(merchant, "set_count", **place, quantity=quantity)
    return place


def correction(place: Node, change_from: int, quantity: int, key: str = "key-1") -> Correction:
    item, location = place["catalog_object_id"], place["location_id"]
    return Correction(item, location, change_from, quantity, "correction", key)


def in_stock(merchant: Merchant, place: Node, state: str = "IN_STOCK") -> str | None:
    row = merchant.store.count(place["catalog_object_id"], place["location_id"], state)
    return None if row is None else str(row["quantity"])


@pytest.mark.parametrize(("quantity", "wasted"), [(8, None), (3, "2"), (5, None), (0, "5")])
def test_a_correction_moves_stock_by_the_difference(
    shelf: Merchant, connect: Connect, quantity: int, wasted: str | None
) -> None:
    place = counted(shelf)
    before = in_stock(shelf, place, "WASTE")
    outcome = connect(shelf).correct_stock([correction(place, 5, quantity)])[0]
    assert (outcome.status, outcome.found_quantity) == ("applied", quantity)
    assert in_stock(shelf, place) == str(quantity)
    assert in_stock(shelf, place, "WASTE") == (wasted if before is None else before)
    assert shelf.applied == (quantity != 5)


def test_a_correction_of_stock_that_has_moved_is_stale_and_tells_what_is_there(
    shelf: Merchant, connect: Connect
) -> None:
    place = counted(shelf, 9)
    outcome = connect(shelf).correct_stock([correction(place, 5, 8)])[0]
    assert (outcome.status, outcome.found_quantity) == ("stale", 9)
    # And so it is where it happens to be what it was to become: nobody of ours made it so.
    assert connect(shelf).correct_stock([correction(place, 5, 9)])[0].status == "stale"
    assert (in_stock(shelf, place), shelf.applied) == ("9", 0)


@pytest.mark.parametrize(
    "since_then", [None, 7, 5, 0], ids=["as it was left", "one sold", "back where it was", "none"]
)
def test_a_correction_whose_answer_was_lost_is_applied_once_whatever_is_there_by_now(
    shelf: Merchant, connect: Connect, clock: HandClock, since_then: int | None
) -> None:
    place = counted(shelf)
    platform = connect(shelf)
    shelf.faults.append(Fault("apply_then_cut", times=1, operation="BatchChangeInventory"))
    lost = failure_of(lambda: platform.correct_stock([correction(place, 5, 8)])[0])
    assert lost.error_type is ErrorType.CONNECTION
    clock.seconds += 3600
    if since_then is not None:
        edit(shelf, "set_count", **place, quantity=since_then)
    for _ in range(2):
        assert platform.correct_stock([correction(place, 5, 8)])[0].status == "applied"
    assert shelf.applied == 1
    assert in_stock(shelf, place) == str(8 if since_then is None else since_then)


def test_a_sale_between_our_reading_and_our_writing_stays_sold(
    shelf: Merchant, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = counted(shelf)
    platform = connect(shelf)
    read_count = writes._in_stock

    def read_then_sell(*about: Any) -> Any:
        found = read_count(*about)
        edit(shelf, "set_count", **place, quantity=4)
        return found

    monkeypatch.setattr(writes, "_in_stock", read_then_sell)
    assert platform.correct_stock([correction(place, 5, 8)])[0].status == "applied"
    assert in_stock(shelf, place) == "7"


def test_a_correction_of_what_is_not_there_is_stale_or_rejected(shelf: Merchant, connect: Connect) -> None:
    place = counted(shelf)
    outcome = connect(shelf).correct_stock([correction({**place, "catalog_object_id": "NONE"}, 5, 8)])[0]
    assert (outcome.status, outcome.found_quantity) == ("stale", None)
    shelf.faults.append(Fault("not_found", times=1, value="NOT_FOUND", operation="BatchChangeInventory"))
    outcome = connect(shelf).correct_stock([correction(place, 5, 8)])[0]
    assert (outcome.status, outcome.reason) == ("rejected", "NOT_FOUND")


def test_a_correction_without_the_permission_to_write_is_told_so(shelf: Merchant, connect: Connect) -> None:
    place = counted(shelf)
    edit(shelf, "set_scopes", scopes=["INVENTORY_READ"])
    failure = failure_of(lambda: connect(shelf).correct_stock([correction(place, 5, 8)])[0])
    assert failure.error_type is ErrorType.SCOPES


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": "many"},
        {"quantity": "NaN"},
        {"quantity": None},
        {"calculated_at": "today"},
        {"calculated_at": 5},
    ],
)
def test_a_count_that_makes_no_sense_is_malformed_and_nothing_is_written(
    serve: Callable[..., ScriptedServer], connect: Connect, changes: Node
) -> None:
    count = {"quantity": "5", "calculated_at": "2026-01-02T03:04:05Z", "state": "IN_STOCK", **changes}
    server = serve(Reply.of({"counts": [count]}))
    platform = connect(token="EAAA", base_url=server.url)
    failure = failure_of(lambda: platform.correct_stock([Correction("V", "L", 5, 8, "correction", "key")])[0])
    assert failure.error_type is ErrorType.MALFORMED_RESPONSE
    assert [asked.path for asked in server.asked] == ["/v2/inventory/counts/batch-retrieve"]


# Many stock corrections


def shelves(merchant: Merchant, count: int) -> list[Node]:
    """Variations in stock at a location, five of each."""
    rows = [row for row in merchant.export()["counts"] if row["state"] == "IN_STOCK"]
    places = [{name: row[name] for name in ("catalog_object_id", "location_id")} for row in rows[:count]]
    for place in places:
        edit(merchant, "set_count", **place, quantity=5)
    merchant.requests.clear()
    return places


def corrections_of(places: list[Node], quantity: int = 8) -> list[Correction]:
    return [correction(place, 5, quantity, f"key-{number}") for number, place in enumerate(places)]


def statuses(outcomes: list[CorrectionOutcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def operations(merchant: Merchant) -> list[str]:
    return [request.operation for request in merchant.requests]


def test_many_corrections_are_three_calls(shelf: Merchant, connect: Connect) -> None:
    corrections = corrections_of(shelves(shelf, 12))
    corrections[3] = corrections[3]._replace(quantity=2)
    outcomes = connect(shelf).correct_stock(corrections)
    assert outcomes == [CorrectionOutcome("applied", one.quantity) for one in corrections]
    calls = ["BatchRetrieveInventoryCounts", "BatchRetrieveInventoryChanges", "BatchChangeInventory"]
    assert (operations(shelf), shelf.applied) == (calls, 1)
    # The same ones again are found, not written.
    assert connect(shelf).correct_stock(corrections) == outcomes
    assert shelf.applied == 1
    assert connect(shelf).correct_stock([]) == []


def test_a_stale_one_among_many_is_told_and_the_others_are_written(shelf: Merchant, connect: Connect) -> None:
    places = shelves(shelf, 12)
    edit(shelf, "set_count", **places[4], quantity=71)
    outcomes = connect(shelf).correct_stock(corrections_of(places))
    assert outcomes[4] == CorrectionOutcome("stale", found_quantity=71)
    assert statuses(outcomes).count("applied") == 11
    assert [in_stock(shelf, place) for place in places] == ["8"] * 4 + ["71"] + ["8"] * 7


@pytest.mark.parametrize("tells_whose_it_is", [True, False])
def test_one_that_square_refuses_is_rejected_alone(
    shelf: Merchant, connect: Connect, monkeypatch: pytest.MonkeyPatch, tells_whose_it_is: bool
) -> None:
    corrections = corrections_of(shelves(shelf, 12))
    # More digits than Square takes.
    corrections[7] = corrections[7]._replace(quantity=10**30)
    if not tells_whose_it_is:
        monkeypatch.setattr(writes, "_index_of", lambda *_: None)
    outcomes = connect(shelf).correct_stock(corrections)
    assert outcomes[7].status == "rejected"
    assert outcomes[7].reason is not None
    assert outcomes[7].reason.startswith("INVALID_VALUE: changes[")
    assert statuses(outcomes).count("applied") == 11


def test_corrections_of_one_level_follow_each_other(shelf: Merchant, connect: Connect) -> None:
    [place] = shelves(shelf, 1)
    two = [correction(place, 5, 8, "first"), correction(place, 8, 6, "then")]
    assert statuses(connect(shelf).correct_stock(two)) == ["applied", "applied"]
    assert in_stock(shelf, place) == "6"


@pytest.mark.parametrize("company", ["the same", "more", "less"])
@pytest.mark.parametrize("since_then", [None, 7, 5])
def test_corrections_whose_answer_was_lost_are_written_once_whatever_they_are_sent_with_again(
    shelf: Merchant, connect: Connect, clock: HandClock, company: str, since_then: int | None
) -> None:
    places = shelves(shelf, 12)
    corrections = corrections_of(places)
    edit(shelf, "set_count", **places[2], quantity=71)
    platform = connect(shelf)
    shelf.faults.append(Fault("apply_then_cut", times=1, operation="BatchChangeInventory"))
    assert failure_of(lambda: platform.correct_stock(corrections[:9])).error_type is ErrorType.CONNECTION
    clock.seconds += 3600
    if since_then is not None:
        edit(shelf, "set_count", **places[5], quantity=since_then)
    again = {"the same": corrections[:9], "more": corrections, "less": corrections[4:9]}[company]
    outcomes = platform.correct_stock(again)
    assert [one.status for one in outcomes if one.found_quantity != 71] == ["applied"] * (
        len(again) - (company != "less")
    )
    assert in_stock(shelf, places[5]) == str(8 if since_then is None else since_then)
    assert shelf.applied == 1 + (company == "more")


def test_more_than_a_call_takes_are_several(shelf: Merchant, connect: Connect) -> None:
    platform = connect(shelf, sizes=PageSizes(changes=5))
    assert statuses(platform.correct_stock(corrections_of(shelves(shelf, 12)))) == ["applied"] * 12
    assert (shelf.applied, platform.corrections_a_call) == (3, 5)


@pytest.mark.parametrize("refusals", [1, 3])
def test_what_staff_write_while_the_rate_limit_makes_us_wait_is_not_replaced(
    shelf: Merchant, connect: Connect, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    row = shelf.export()["customers"][0]
    platform = connect(shelf)

    def staff(_: float) -> None:
        edit(shelf, "update_customer", id=row["id"], fields={"note": "theirs"})

    monkeypatch.setattr(platform._client, "sleep", staff)
    shelf.faults.append(Fault("too_many_requests", times=refusals, operation="UpdateCustomer"))
    outcome = platform.update_customer(row["id"], {"note": "ours"}, lambda held: held.note == row.get("note"))
    assert outcome.status == "changed"
    assert shelf.store.customers[row["id"]]["note"] == "theirs"


def test_a_count_that_moves_while_the_rate_limit_makes_us_wait_is_read_again(
    shelf: Merchant, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = counted(shelf)
    platform = connect(shelf)
    monkeypatch.setattr(platform._client, "sleep", lambda _: edit(shelf, "set_count", **place, quantity=7))
    shelf.faults.append(Fault("too_many_requests", times=3, operation="BatchChangeInventory"))
    [outcome] = platform.correct_stock([correction(place, 5, 8)])
    assert (outcome.status, outcome.found_quantity) == ("stale", 7)
    assert in_stock(shelf, place) == "7"
