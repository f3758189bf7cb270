"""A large store's rows as one file: the same as its pages, started once, on from any place, and never a part for the whole."""

from __future__ import annotations

import json
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from random import Random
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.platforms.shopify import bulk
from bg_pipelines.platforms.shopify.bulk import ExportLimits, export_pages
from bg_pipelines.platforms.shopify.bulk_join import JoinedLines
from bg_pipelines.platforms.shopify.bulk_operation import Place
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PageSizes
from bg_pipelines.platforms.shopify.platform import EXPORTS, ShopifyPlatform
from bg_pipelines.records import PARTS, Page, Resource
from bg_pipelines.sandbox import Fault, Sandbox, Shop, World, edit
from bg_pipelines.sandbox.shopify.bulk_operations import BulkFile
from bg_pipelines_tests.platforms.conftest import failure_of
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer
from bg_pipelines_tests.support import HandClock

EXPORTED = (Resource.CUSTOMERS, Resource.ORDERS, Resource.PRODUCT_VARIANTS, Resource.INVENTORY_LEVELS)
DAY = 86_400
LIMITS = ExportLimits(page_rows=12)
each_resource = pytest.mark.parametrize("resource", EXPORTED)


@pytest.fixture
def shop(clock: HandClock) -> Iterator[Shop]:
    """A shop of 60 customers, 120 orders, 70 variants and 204 stock levels, whose time is the hand clock's."""
    with Sandbox(World(shops=1, variants=70, customers=60, orders_per_customer=2, clock=clock)) as sandbox:
        yield next(iter(sandbox.world.shops.values()))


@pytest.fixture
def platform(shop: Shop, connect: Callable[..., ShopifyClient]) -> ShopifyPlatform:
    return ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), exports=LIMITS)


def pages(
    platform: ShopifyPlatform, resource: Resource = Resource.ORDERS, resume: str | None = None
) -> Iterator[Page]:
    return platform.pages(resource, since=None, resume=resume, bulk=True)


def rows(read: list[Page]) -> list[Any]:
    return [record for page in read for record in page.records]


def parts(read: list[Page], resource: Resource) -> dict[str, list[Any]]:
    return {
        table: [part for page in read for part in page.parts.get(table, ())]
        for table in PARTS.get(resource, ())
    }


def operations(shop: Shop) -> list[str]:
    return list(shop.bulk.all)


def started(platform: ShopifyPlatform, resource: Resource = Resource.ORDERS) -> str:
    """The token of an export that Shopify was asked for."""
    _, second = islice(pages(platform, resource), 2)
    assert second.resume is not None
    return second.resume


def failed(platform: ShopifyPlatform, token: str | None) -> IntegrationError:
    error = failure_of(lambda: list(pages(platform, resume=token)))
    # Whoever has the file's address may read it.
    assert "jsonl" not in json.dumps(error.as_dict())
    return error


def spoil(shop: Shop, kind: str, **settings: Any) -> None:
    shop.faults.append(Fault(kind, times=1, **settings))


@each_resource
def test_an_export_gives_what_the_pages_give(platform: ShopifyPlatform, resource: Resource) -> None:
    listed = list(platform.pages(resource, since=None, resume=None, bulk=False))
    exported = list(pages(platform, resource))
    assert len(exported) > 5
    assert all(page.read == len(page.records) + len(page.gone) <= 12 for page in exported)
    assert not any(page.rejects for page in exported)
    assert sorted(rows(exported)) == sorted(rows(listed))
    assert parts(exported, resource) == parts(listed, resource)
    counted = None if resource is Resource.INVENTORY_LEVELS else len(rows(listed))
    assert exported[0].source_count == exported[-1].source_count == counted
    assert [page.resume is None for page in exported] == [False] * (len(exported) - 1) + [True]


def test_a_page_ends_after_so_many_lines_too(
    shop: Shop, platform: ShopifyPlatform, connect: Callable[..., ShopifyClient]
) -> None:
    whole = list(pages(platform))
    limits = LIMITS._replace(page_lines=8)
    of_lines = ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), exports=limits)
    assert len(cut := list(pages(of_lines))) > 2 * len(whole)
    assert (rows(cut), parts(cut, Resource.ORDERS)) == (rows(whole), parts(whole, Resource.ORDERS))


# Which way


def test_a_full_pass_is_an_export_from_so_many_rows_on_or_as_it_is_told(
    shop: Shop, connect: Callable[..., ShopifyClient], clock: HandClock
) -> None:
    def export_from(rows: int) -> ShopifyPlatform:
        limits, client = LIMITS._replace(from_rows=rows), connect(shop.api_url, StaticToken(shop.token))
        return ShopifyPlatform(client, PageSizes(rows=100), exports=limits)

    def exports(platform: ShopifyPlatform, **options: Any) -> bool:
        before = len(operations(shop))
        list(platform.pages(Resource.ORDERS, **{"since": None, "resume": None, **options}))
        return len(operations(shop)) > before

    usual, platform = export_from(LIMITS.from_rows), export_from(120)
    assert not exports(usual)
    assert exports(usual, bulk=True)
    assert exports(platform)
    assert not exports(platform, bulk=False)
    assert not exports(platform, bulk=True, since=clock.now())
    assert not exports(export_from(121))
    assert not exports(ShopifyPlatform(platform._client, exports=LIMITS._replace(from_rows=1))), (
        "one page has it all"
    )
    assert not any(
        shop.requests[-1].operation == "StartExport"
        for _ in platform.pages(Resource.PRODUCTS, since=None, resume=None, bulk=True)
    )


def test_stock_is_exported_where_there_may_be_so_many_levels(
    shop: Shop, connect: Callable[..., ShopifyClient]
) -> None:
    """Shopify does not count them: there is at most one for each variant and place."""
    places, variants = len(shop.export(["locations"])["locations"]), 70
    for most, exported in ((places * variants, True), (places * variants + 1, False)):
        limits = LIMITS._replace(from_rows=most)
        client = connect(shop.api_url, StaticToken(shop.token))
        platform = ShopifyPlatform(client, PageSizes(levels=10), exports=limits)
        shop.requests.clear()
        assert list(platform.pages(Resource.INVENTORY_LEVELS, since=None, resume=None))
        asked = [request.operation for request in shop.requests]
        assert asked[:2] == ["InventoryLevels", "LevelsAtMost"]
        assert ("StartExport" in asked) == exported
    shop.requests.clear()
    platform = ShopifyPlatform(client, exports=limits._replace(from_rows=1))
    list(platform.pages(Resource.INVENTORY_LEVELS, since=None, resume=None))
    assert [request.operation for request in shop.requests] == ["InventoryLevels"], "one page has it all"


def test_five_exports_of_a_shop_are_under_way_at_once(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock
) -> None:
    edit(shop, "set_bulk_seconds", seconds=600)
    tokens = {resource: started(platform, resource) for resource in EXPORTED}
    clock.seconds += 300
    assert shop.bulk.under_way(clock.seconds) == len(EXPORTED) <= 5
    clock.seconds += 400
    for resource, token in tokens.items():
        assert rows(list(pages(platform, resource, token)))


# The start


def test_what_is_wanted_is_told_before_shopify_is_asked(platform: ShopifyPlatform, shop: Shop) -> None:
    reading = pages(platform)
    wanted = next(reading)
    assert (wanted.read, wanted.source_count) == (0, 120)
    assert wanted.resume is not None
    assert operations(shop) == []
    assert next(reading).read == 0
    assert len(operations(shop)) == 1


def test_a_start_whose_answer_is_lost_is_found_again_and_not_made_twice(
    platform: ShopifyPlatform, shop: Shop
) -> None:
    other = started(platform)  # by the same query, but not this export
    spoil(shop, "apply_then_cut", operation="StartExport")
    reading = pages(platform)
    token = next(reading).resume
    assert failure_of(lambda: next(reading)).error_type is ErrorType.CONNECTION
    assert len(operations(shop)) == 2
    found = list(pages(platform, resume=token))
    assert Place.of(found[0].resume or "").operation == operations(shop)[1] != Place.of(other).operation
    assert len(rows(found)) == 120
    assert len(operations(shop)) == 2


def test_a_start_that_never_reached_shopify_is_made(platform: ShopifyPlatform, shop: Shop) -> None:
    token = next(pages(platform)).resume
    assert len(rows(list(pages(platform, resume=token)))) == 120
    assert len(operations(shop)) == 1


def test_no_room_for_another_operation_is_waited_for(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock
) -> None:
    edit(shop, "set_bulk_seconds", seconds=600)
    for _ in range(5):
        started(platform)
    token = next(pages(platform)).resume
    error = failed(platform, token)
    assert (error.error_type, error.details["code"]) == (ErrorType.OPERATION_RUNNING, "LIMIT_REACHED")
    clock.seconds += 700
    assert len(operations(shop)) == 5
    edit(shop, "set_bulk_seconds", seconds=0)
    assert len(rows(list(pages(platform, resume=token)))) == 120


def test_a_query_that_shopify_does_not_take_is_rejected(platform: ShopifyPlatform) -> None:
    wrong = EXPORTS[Resource.ORDERS]._replace(query="{ orders { edges { node { nonsense } } } }")
    error = failure_of(lambda: list(export_pages(platform._client, wrong, None)))
    assert (error.error_type, error.recoverable, error.details["code"]) == (
        "query_rejected",
        False,
        "INVALID",
    )


# While it is at work


def test_a_small_export_is_waited_for_a_moment(platform: ShopifyPlatform, clock: HandClock) -> None:
    list(pages(platform))
    assert sum(clock.slept) <= 3


def test_a_large_one_is_given_back_and_is_the_same_the_next_time(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock
) -> None:
    edit(shop, "set_bulk_seconds", seconds=600)
    reading = pages(platform)
    next(reading)
    token = next(reading).resume
    error = failure_of(lambda: next(reading))
    assert (error.error_type, error.recoverable) == (ErrorType.OPERATION_RUNNING, True)
    assert error.details["operation"] == operations(shop)[0]
    slept = list(clock.slept)
    for _ in range(3):
        assert failed(platform, token).error_type is ErrorType.OPERATION_RUNNING
    assert clock.slept == slept, "whoever comes again looks once, and sleeps not at all"
    clock.seconds += 600
    assert len(rows(list(pages(platform, resume=token)))) == 120
    assert len(operations(shop)) == 1


@pytest.mark.parametrize(
    ("kind", "value", "error_type"),
    [
        ("bulk_failed", None, "operation_failed"),
        ("bulk_failed", "TIMEOUT", "operation_failed"),
        ("bulk_failed", "ACCESS_DENIED", "scopes"),
        ("bulk_canceled", None, "operation_failed"),
    ],
)
def test_an_operation_that_comes_to_nothing_gives_no_row(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock, kind: str, value: str | None, error_type: str
) -> None:
    spoil(shop, kind, value=value)
    reading, read = pages(platform), []
    error = failure_of(lambda: read.extend(reading))
    assert (error.error_type, error.recoverable) == (error_type, error_type == "operation_failed")
    assert sum(page.read for page in read) == 0, (
        "what a failed operation has of a file is a part, never the whole"
    )


def test_what_has_expired_or_is_unknown_or_is_of_another_release_begins_anew(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock
) -> None:
    token = started(platform)
    clock.seconds += 60
    middle = next(pages(platform, resume=token)).resume
    clock.seconds += 8 * DAY
    assert failed(platform, middle).error_type is ErrorType.OPERATION_FAILED
    for change in ({"operation": "gid://shopify/BulkOperation/1"}, {"digest": "another"}):
        other = Place(**{**vars(Place.of(token)), **change}).token()
        assert failed(platform, other).error_type is ErrorType.OPERATION_FAILED


def test_a_shop_without_rows_has_no_file_and_one_page(
    connect: Callable[..., ShopifyClient], clock: HandClock
) -> None:
    with Sandbox(World(shops=1, variants=3, customers=0, clock=clock)) as sandbox:
        [empty] = sandbox.world.shops.values()
        platform = ShopifyPlatform(connect(empty.api_url, StaticToken(empty.token)), exports=LIMITS)
        read = list(pages(platform))
    assert [(page.read, page.source_count) for page in (read[0], read[-1])] == [(0, 0), (0, 0)]
    assert read[-1].resume is None


def test_of_orders_that_the_app_may_not_see_nothing_is_said(
    platform: ShopifyPlatform, shop: Shop, clock: HandClock
) -> None:
    scopes = ["read_customers", "read_orders", "read_products"]
    edit(shop, "set_scopes", scopes=scopes)
    for _ in range(35):  # all others are older than 60 days
        edit(shop, "add_order", lines=1)
        clock.seconds += 60
    listed = list(platform.pages(Resource.ORDERS, since=None, resume=None, bulk=False))
    exported = list(pages(platform))
    assert len(rows(exported)) == 35
    assert rows(exported) == rows(listed)
    assert {page.source_count for page in exported} == {None}
    told = [page.listed_since for page in exported if page.listed_since]
    assert min(told) == listed[0].listed_since


# Its file


@each_resource
@pytest.mark.parametrize("ranges", [True, False])
def test_the_file_is_read_on_from_every_page(
    platform: ShopifyPlatform,
    shop: Shop,
    resource: Resource,
    ranges: bool,
) -> None:
    shop.bulk.ranges = ranges
    whole = list(pages(platform, resource))
    for number, page in list(enumerate(whole[:-1], 1))[:: 1 if len(whole) < 12 else 3]:
        behind = list(pages(platform, resource, page.resume))
        assert rows(behind) == rows(whole[number:])
        assert parts(behind, resource) == parts(whole[number:], resource)
    assert len(operations(shop)) == 1


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [
        (Fault("half_page"), "connection"),
        (Fault("cut"), "connection"),
        (Fault("half_json"), "malformed_response"),
        (Fault("server_error"), "server_error"),
        (Fault("service_unavailable"), "server_error"),
        (Fault("too_many_requests"), "throttled"),
        (Fault("html"), "malformed_response"),
        (Fault("not_found"), "operation_failed"),
        (Fault("forbidden"), "operation_failed"),
        (Fault("bulk_expired_url"), "operation_failed"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_file_that_does_not_come_whole_is_a_failure_and_is_read_on_from_the_last_page(
    platform: ShopifyPlatform, shop: Shop, fault: Fault, error_type: str
) -> None:
    whole = list(pages(platform))
    fault.operation, fault.times = "bulk_file", 1
    shop.faults.append(fault)
    token, read = whole[3].resume, []
    error = failure_of(lambda: read.extend(pages(platform, resume=token)))
    assert (error.error_type, error.recoverable) == (error_type, True)
    assert "jsonl" not in json.dumps(error.as_dict())
    assert all(page.resume for page in read), "no page of it was the last"
    token = read[-1].resume if read else token
    assert rows(read + list(pages(platform, resume=token))) == rows(whole[4:])


def test_a_file_that_lacks_lines_at_its_end_is_not_the_whole(platform: ShopifyPlatform, shop: Shop) -> None:
    spoil(shop, "bulk_short_file")
    read: list[Page] = []
    error = failure_of(lambda: read.extend(pages(platform)))
    assert (error.error_type, error.recoverable) == (ErrorType.COUNT_MISMATCH, True)
    assert all(page.resume for page in read)


CUSTOMER = json.dumps(
    {
        "id": "gid://shopify/Customer/%d",
        "updatedAt": "2026-11-01T00:00:00Z",
        "createdAt": "2026-11-01T00:00:00Z",
    }
    | {
        "firstName": "Ada",
        "lastName": "x" * 300,
        "verifiedEmail": True,
        "tags": [],
        "locale": "en",
        "note": None,
    }
    | {"numberOfOrders": "0", "amountSpent": {"amount": "0.0", "currencyCode": "USD"}, "defaultAddress": None}
    | {"defaultEmailAddress": None, "defaultPhoneNumber": None}
)


class Files:
    """A server of one operation, which has ended, and of its file, as a test wants it to be."""

    def __init__(self, serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]) -> None:
        self.server = serve(self.answer)
        self.client = connect(self.server.url)
        self.counts = ("0", "0")
        self.url: str | None = None
        self.file = Reply()
        self.first: list[Reply] = []
        self.limits = LIMITS

    def answer(self, asked: Asked) -> Reply:
        if not asked.body:
            return self.first.pop(0) if self.first else self.file
        if "ount: customersCount" in asked.body["query"]:
            return Reply.of({"data": {"count": {"count": int(self.counts[1]), "precision": "EXACT"}}})
        operation = {
            "id": "1",
            "status": "COMPLETED",
            "errorCode": None,
            "url": self.url or f"{self.server.url}/secret.jsonl",
        }
        counted = {"objectCount": self.counts[0], "rootObjectCount": self.counts[1]}
        return Reply.of({"data": {"bulkOperation": operation | counted}})

    def read(self, *lines: str, lines_told: int | None = None, **reply: Any) -> list[Page]:
        if lines:
            text = "".join(f"{line}\n" for line in lines).encode()
            self.counts = (
                str(lines_told or len(lines)),
                str(sum("__parentId" not in line for line in lines)),
            )
            self.file = Reply(pieces=(text,), **reply)
        return list(self.pages())

    def pages(self) -> Iterator[Page]:
        export = EXPORTS[Resource.CUSTOMERS]
        token = Place("tag", export.digest, True, "1").token()
        return export_pages(self.client, export, token, self.limits)


@pytest.fixture
def files(serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]) -> Files:
    return Files(serve, connect)


ADDRESS = '{"__parentId": "gid://shopify/Customer/%d"}'


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.googleapis.com/secret.jsonl",
        "https://files.example/secret.jsonl",
        "https://storage.googleapis.com.files.example/secret.jsonl",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("way", ["told", "redirected"])
def test_a_file_is_fetched_from_the_vendor_alone(files: Files, url: str, way: str) -> None:
    if way == "told":
        files.url = url
    with pytest.raises(IntegrationError) as raised:
        files.read(
            CUSTOMER % 1, **({"status": 302, "headers": {"Location": url}} if way == "redirected" else {})
        )
    assert raised.value.error_type in (ErrorType.MALFORMED_RESPONSE, ErrorType.CONFIGURATION)
    assert "secret" not in raised.value.message


def test_the_files_server_never_sees_the_shops_token(files: Files) -> None:
    assert len(rows(files.read(CUSTOMER % 1, CUSTOMER % 2))) == 2
    asked = [(one.path, one.token is not None) for one in files.server.asked]
    assert ("/secret.jsonl", False) in asked
    assert all(path.endswith("graphql.json") == has_token for path, has_token in asked)


def test_what_is_nested_in_a_row_may_be_anywhere_in_the_file(platform: ShopifyPlatform, shop: Shop) -> None:
    whole = list(pages(platform))
    operation = shop.bulk.all[operations(shop)[0]]
    text = b"".join(BulkFile(operation, operation.ends[-1]).chunks()).splitlines()
    random = Random(7)
    roots = [line for line in text if b'"__parentId"' not in line]
    for _ in range(3):
        shuffled = list(text)
        random.shuffle(shuffled)
        order = [line for line in shuffled if b'"__parentId"' not in line]
        operation.file.seek(0)
        operation.file.write(b"".join(line + b"\n" for line in shuffled))
        operation.ends[:] = array("Q", accumulate(len(line) + 1 for line in shuffled))
        again = list(pages(platform, resume=Place.of(whole[1].resume or "").token()))
        assert order != roots
        assert sorted(rows(again)) == sorted(rows(whole))
        for table, found in parts(again, Resource.ORDERS).items():
            assert sorted(found) == sorted(parts(whole, Resource.ORDERS)[table])


@pytest.mark.parametrize(
    "lines",
    [(ADDRESS % 1,), (CUSTOMER % 2, ADDRESS % 1), (ADDRESS % 1, CUSTOMER % 2, ADDRESS % 1)],
    ids=["of no other row", "behind another row", "around another row"],
)
def test_a_row_that_is_missing_although_something_is_nested_in_it_is_rejected_and_the_others_load(
    files: Files, lines: tuple[str, ...]
) -> None:
    [page] = files.read(*lines)
    assert [record.external_id for record in page.records] == ["gid://shopify/Customer/2"] * (len(lines) > 1)
    [reject] = page.rejects
    assert (reject.external_id, page.read) == ("gid://shopify/Customer/1", len(page.records) + 1)
    assert "not the row itself" in reject.reason
    assert len(reject.payload["nested"]) == sum("__parentId" in line for line in lines)


def test_a_file_that_lacks_many_rows_is_not_the_whole(files: Files) -> None:
    error = failure_of(lambda: files.read(*(ADDRESS % number for number in range(101))))
    assert (error.error_type, error.recoverable) == (ErrorType.COUNT_MISMATCH, True)
    [page] = files.read(*(ADDRESS % number for number in range(100)))
    assert len(page.rejects) == 100


def test_a_disk_without_room_is_said_with_what_to_do(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom(JoinedLines):
        def __init__(self) -> None:
            super().__init__()
            self._db.execute("PRAGMA max_page_count = 100")

    monkeypatch.setattr(bulk, "JoinedLines", NoRoom)
    error = failure_of(lambda: files.read(*(CUSTOMER % number for number in range(2_000))))
    assert (error.error_type, error.recoverable) == (ErrorType.CONFIGURATION, False)
    assert "make room in the folder for temporary files (TMPDIR)" in error.message


def test_more_lines_than_shopify_wrote_are_as_wrong_as_fewer(files: Files) -> None:
    lines = [CUSTOMER % number for number in range(5)]
    assert len(rows(files.read(*lines))) == 5
    for told in (4, 6):
        error = failure_of(lambda told=told: files.read(*lines, lines_told=told))
        assert error.error_type is ErrorType.COUNT_MISMATCH


def test_a_row_that_makes_no_sense_is_set_aside_with_what_is_nested_in_it(files: Files) -> None:
    [page] = files.read(CUSTOMER % 1, '{"id": "gid://shopify/Customer/2"}', ADDRESS % 2, CUSTOMER % 3)
    assert (page.read, len(page.records), len(page.rejects)) == (3, 2, 1)
    assert page.rejects[0].external_id == "gid://shopify/Customer/2"
    assert page.rejects[0].payload["nested"] == [{"__parentId": "gid://shopify/Customer/2"}]


def test_a_last_line_needs_no_end_of_line_but_must_be_whole(files: Files) -> None:
    whole = f"{CUSTOMER % 1}\n{CUSTOMER % 2}".encode()
    files.counts, files.file = ("2", "2"), Reply(pieces=(whole,))
    assert len(rows(files.read())) == 2
    files.file = Reply(pieces=(whole[:-9],))
    assert failure_of(files.read).error_type is ErrorType.MALFORMED_RESPONSE


def test_less_than_was_declared_is_cut_short_even_where_lines_end(files: Files) -> None:
    error = failure_of(lambda: files.read(CUSTOMER % 1, CUSTOMER % 2, headers={"Content-Length": "99999"}))
    assert error.error_type is ErrorType.CONNECTION


def test_a_download_that_breaks_off_goes_on_where_it_was(files: Files) -> None:
    lines = [CUSTOMER % number for number in range(3_000)]
    text = "".join(f"{line}\n" for line in lines).encode()
    files.counts = (str(len(lines)),) * 2
    files.file = Reply(pieces=(text,))

    def cut(share: float) -> Reply:
        return Reply(pieces=(text[: int(len(text) * share)],), headers={"Content-Length": str(len(text))})

    files.first = [cut(0.75)]
    assert len(rows(files.read())) == 3_000
    # The second brings nothing new, so the work is given back.
    files.first = [cut(0.75), cut(0.1)]
    assert failure_of(files.read).error_type is ErrorType.CONNECTION
    assert files.first == []


def test_a_file_that_drips_is_given_up(
    files: Files, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., ShopifyClient]
) -> None:
    clock = iter(range(0, 10**6, 30))
    files.client = connect(files.server.url, clock=lambda: next(clock), timeouts=Timeouts(2.0, 5.0, 10**6))
    pieces = tuple((CUSTOMER % 1).encode()[at : at + 9] for at in range(0, 90, 9))
    files.counts, files.file = ("1", "1"), Reply(pieces=pieces, pause_seconds=0.02)
    error = failure_of(files.read)
    assert (error.error_type, "brought" in error.message) == (ErrorType.TIMEOUT, True)
    assert "secret" not in json.dumps(error.as_dict())


def test_an_address_that_does_not_answer_is_not_told(files: Files) -> None:
    files.server.url = "http://127.0.0.1:9"
    files.counts = ("1", "1")
    error = failure_of(files.read)
    assert error.error_type is ErrorType.CONNECTION
    assert "secret" not in json.dumps(error.as_dict())


def test_a_line_without_an_end_is_not_held(files: Files) -> None:
    files.limits = ExportLimits(line_bytes=100_000)
    files.counts, files.file = ("1", "1"), Reply(pieces=(b"x" * 1_000_000,))
    assert failure_of(files.read).error_type is ErrorType.MALFORMED_RESPONSE


def test_memory_does_not_grow_with_the_file(files: Files) -> None:
    def peak(customers: int) -> int:
        text = "".join(f"{CUSTOMER % number}\n" for number in range(customers)).encode()
        pieces = tuple(text[at : at + 65_536] for at in range(0, len(text), 65_536))
        files.counts, files.file = (str(customers),) * 2, Reply(pieces=pieces)
        reading = files.pages()
        tracemalloc.start()
        read = sum(page.read for page in reading)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read == customers
        return most

    peak(100)
    small, large = peak(1_000), peak(8_000)  # 0.8 and 6 MB
    print(f"peak {small / 1024:.0f} kB for 1,000 rows, {large / 1024:.0f} kB for 8,000")
    assert large < small + 300_000
    assert large < 2_000_000
