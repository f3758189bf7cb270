"""A Shopify store as records: every row once, changes alone, on from any page, and stock written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest

from bg_pipelines.errors import ErrorType, Severity
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.pages import PAGE_SIZES, PageSizes
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.records import (
    InventoryLevel,
    Location,
    Page,
    Product,
    ProductVariant,
    Record,
    Resource,
    StoreProfile,
)
from bg_pipelines.sandbox import Fault, Sandbox, Shop, World, edit
from bg_pipelines_tests.platforms.conftest import expected_customer, expected_order, failure_of
from bg_pipelines_tests.platforms.scripted import Asked, Reply, ScriptedServer
from bg_pipelines_tests.support import HandClock

TABLES = tuple(Resource)
FOR_EVER = 1000  # pages; who has read so many in these small shops does not come to an end

every_table = pytest.mark.parametrize("resource", TABLES)


@pytest.fixture(scope="module")
def large_shop() -> Iterator[Shop]:
    """A shop of 2,500 variants, and of several thousand levels in two locations; read only."""
    with Sandbox(World(shops=1, variants=2500, seed=4), port=0) as sandbox:
        shop = next(iter(sandbox.world.shops.values()))
        edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
        yield shop


@pytest.fixture
def platform(
    shop: Shop, connect: Callable[..., ShopifyClient], request: pytest.FixtureRequest
) -> ShopifyPlatform:
    """Of small pages, where a test asks for `small_pages`."""
    small = "small_pages" in request.fixturenames
    sizes = request.getfixturevalue("small_pages") if small else PAGE_SIZES
    return ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), sizes)


@pytest.fixture
def small_pages(shop: Shop) -> PageSizes:
    """Pages so small that every resource of the shop has several, nested ones too."""
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    return PageSizes(rows=9, locations=2, levels=4, addresses=1, lines=8)


def read(platform: ShopifyPlatform, resource: Resource, **options: Any) -> list[Page]:
    pages = list(islice(platform.pages(resource, **{"since": None, "resume": None, **options}), FOR_EVER))
    assert len(pages) < FOR_EVER, "the pages have no end"
    assert pages, "at least one page is always given"
    for page in pages:
        assert page.read == len(page.records) + len(page.gone) + len(page.rejects)
    return pages


def records(pages: Iterable[Page]) -> list[Record]:
    return [record for page in pages for record in page.records]


def gone(pages: Iterable[Page]) -> list[str]:
    return [external_id for page in pages for external_id in page.gone]


def exported(shop: Shop, resource: Resource) -> set[Any]:
    """The shop's rows as the records that they should become, by a way of its own."""
    export = shop.export(["shop", resource.value])
    currency = export["shop"]["currencyCode"]
    make: dict[Resource, Callable[[Any], Record]] = {
        Resource.LOCATIONS: lambda row: Location(
            external_id=row["id"],
            source_updated_at=row["updatedAt"],
            name=row["name"],
            active=row["isActive"],
            fulfills_online_orders=row["fulfillsOnlineOrders"],
            address=row["address"]["address1"],
            city=row["address"]["city"],
            province_code=row["address"]["provinceCode"],
            country_code=row["address"]["countryCode"],
            postal_code=row["address"]["zip"],
        ),
        Resource.PRODUCTS: lambda row: Product(
            external_id=row["id"],
            source_updated_at=row["updatedAt"],
            title=row["title"],
            handle=row["handle"],
            status=row["status"],
            vendor=row["vendor"],
            product_type=row["productType"],
            tags=row["tags"],
            source_created_at=row["createdAt"],
        ),
        Resource.PRODUCT_VARIANTS: lambda row: ProductVariant(
            external_id=row["id"],
            source_updated_at=row["updatedAt"],
            product_external_id=row["product"]["id"],
            inventory_item_external_id=row["inventoryItem"]["id"],
            title=row["title"],
            sku=row["sku"],
            barcode=row["barcode"],
            position=row["position"],
            price=row["price"],
            compare_at_price=row["compareAtPrice"],
            currency=currency,
        ),
        Resource.INVENTORY_LEVELS: lambda row: InventoryLevel(
            external_id=row["id"],
            source_updated_at=row["updatedAt"],
            inventory_item_external_id=row["item"]["id"],
            location_external_id=row["location"]["id"],
            **{quantity["name"]: quantity["quantity"] for quantity in row["quantities"]},
        ),
        Resource.CUSTOMERS: expected_customer,
        Resource.ORDERS: expected_order,
    }
    active = [
        row for row in export[resource.value] if resource is Resource.LOCATIONS or row.get("isActive", True)
    ]
    return hashable(make[resource](row) for row in active)


def hashable(rows: Iterable[Record]) -> set[Any]:
    return {tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in rows}


def inactive_levels(shop: Shop) -> set[str]:
    return {row["id"] for row in shop.export(["inventory_levels"])["inventory_levels"] if not row["isActive"]}


def levels_of(shop: Shop, count: int) -> list[dict[str, Any]]:
    """Active levels of the shop, as they are exported, each with its available quantity."""
    rows = [row for row in shop.export(["inventory_levels"])["inventory_levels"] if row["isActive"]]
    levels = []
    for row in rows[:count]:
        quantities = {one["name"]: one["quantity"] for one in row["quantities"]}
        places = {"item": row["item"]["id"], "location": row["location"]["id"]}
        levels.append({**row, "available": quantities["available"], **places})
    return levels


def level_of(shop: Shop, place: int = 0) -> dict[str, Any]:
    return levels_of(shop, place + 1)[place]


# All of it


def test_the_profile_is_what_the_shop_says_of_itself(shop: Shop, platform: ShopifyPlatform) -> None:
    row = shop.export(["shop"])["shop"]
    assert platform.profile() == StoreProfile(
        external_id=row["id"],
        shop_name=row["name"],
        currency=row["currencyCode"],
        timezone=row["ianaTimezone"],
        plan=row["plan"]["publicDisplayName"],
        source_updated_at=row["updatedAt"],
    )


@every_table
def test_all_rows_of_a_large_shop_are_read_once(
    large_shop: Shop, connect: Callable[..., ShopifyClient], resource: Resource
) -> None:
    platform = ShopifyPlatform(connect(large_shop.api_url, StaticToken(large_shop.token)))
    pages = read(platform, resource)
    rows = records(pages)
    assert len(rows) == len({row.external_id for row in rows})
    assert hashable(rows) == exported(large_shop, resource)
    assert [reject for page in pages for reject in page.rejects] == []
    assert all(page.vendor_time is not None for page in pages)


def test_the_large_shop_has_what_breaks_naive_readers(large_shop: Shop) -> None:
    export = large_shop.export(["locations", "product_variants", "inventory_levels"])
    of_product: dict[str, int] = {}
    for variant in export["product_variants"]:
        of_product[variant["product"]["id"]] = of_product.get(variant["product"]["id"], 0) + 1
    at_location: dict[str, int] = {}
    for level in export["inventory_levels"]:
        at_location[level["location"]["id"]] = at_location.get(level["location"]["id"], 0) + 1
    assert max(of_product.values()) == 300
    assert sorted(at_location.values())[-2] >= 2500
    assert any(not location["isActive"] for location in export["locations"])
    assert inactive_levels(large_shop)
    assert any(variant["sku"] is None for variant in export["product_variants"])


@every_table
def test_small_pages_hold_the_same_rows(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes, resource: Resource
) -> None:
    pages = read(platform, resource)
    assert len(pages) > 2 or resource is Resource.LOCATIONS
    assert hashable(records(pages)) == exported(shop, resource)


def test_an_inactive_location_is_a_row_like_any_other(shop: Shop, platform: ShopifyPlatform) -> None:
    rows = [row for row in records(read(platform, Resource.LOCATIONS)) if isinstance(row, Location)]
    assert [row.name for row in rows if not row.active] == ["Old warehouse"]


def test_an_inactive_level_is_gone(shop: Shop, platform: ShopifyPlatform) -> None:
    level = level_of(shop)
    edit(shop, "deactivate_level", inventory_item_id=level["item"], location_id=level["location"])
    pages = read(platform, Resource.INVENTORY_LEVELS)
    assert level["id"] in gone(pages)
    assert set(gone(pages)) == inactive_levels(shop)
    assert hashable(records(pages)) == exported(shop, Resource.INVENTORY_LEVELS)


def test_products_and_variants_tell_how_many_there_are(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    export = shop.export()
    for resource, counted in zip(TABLES, (None, len(export["products"]), 60, None, 20, 60), strict=True):
        for since in (None, clock.now()):
            assert read(platform, resource, since=since)[0].source_count == counted


def test_a_shop_without_products_has_one_empty_page(connect: Callable[..., ShopifyClient]) -> None:
    with Sandbox(World(shops=1, variants=0), port=0) as sandbox:
        shop = next(iter(sandbox.world.shops.values()))
        platform = ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)))
        for resource in (Resource.PRODUCTS, Resource.PRODUCT_VARIANTS, Resource.INVENTORY_LEVELS):
            (page,) = read(platform, resource)
            assert (page.read, page.source_count or 0) == (0, 0)


def test_products_come_with_the_variants_that_they_have_now(
    large_shop: Shop, connect: Callable[..., ShopifyClient]
) -> None:
    platform = ShopifyPlatform(connect(large_shop.api_url, StaticToken(large_shop.token)))
    export = large_shop.export(["products", "product_variants"])
    ids = [row["id"] for row in export["products"]][:40]
    missing = "gid://shopify/Product/1"
    found = platform.products_with_variants([*ids, missing])
    assert [product.external_id for product in found.products.records] == ids
    assert found.products.gone == [missing]
    of_product: dict[str, set[str]] = {}
    for row in export["product_variants"]:
        of_product.setdefault(row["product"]["id"], set()).add(row["id"])
    assert found.cut == [product for product in ids if len(of_product.get(product, ())) > PAGE_SIZES.rows]
    assert found.cut, "one has more than are listed"
    whole = {
        row for row in exported(large_shop, Resource.PRODUCT_VARIANTS) if row[2] in {*ids} - {*found.cut}
    }
    assert {row for row in hashable(found.variants.records) if row[2] not in found.cut} == whole
    assert found.variants.read == len(found.variants.records)


# What has changed


def changed_one_of_each(shop: Shop) -> dict[Resource, set[str]]:
    """Change a row of each resource; returns what is newer by that."""
    export = shop.export()
    product, variant, level = export["products"][3], export["product_variants"][-1], level_of(shop, 17)
    edit(shop, "update_product", id=product["id"], fields={"title": "Čajník"})
    edit(shop, "update_variant", id=variant["id"], fields={"price": "17.00"})
    edit(shop, "set_quantity", inventory_item_id=level["item"], location_id=level["location"], quantity=4711)
    return {
        Resource.PRODUCTS: {product["id"], variant["product"]["id"]},
        Resource.PRODUCT_VARIANTS: {variant["id"]},
        Resource.INVENTORY_LEVELS: {level["id"]},
    }


def test_an_incremental_pass_reads_the_changed_rows_alone(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    since = clock.now()
    clock.seconds += 90
    changed = changed_one_of_each(shop)
    for resource, external_ids in changed.items():
        rows = records(read(platform, resource, since=since))
        assert {row.external_id for row in rows} == external_ids
        assert hashable(rows) <= exported(shop, resource)


@pytest.mark.parametrize(("earlier", "found"), [(timedelta(0), 1), (timedelta(seconds=-1), 0)])
def test_since_includes_its_own_second(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, earlier: timedelta, found: int
) -> None:
    changed_one_of_each(shop)
    since = clock.now() - earlier
    assert len(records(read(platform, Resource.PRODUCT_VARIANTS, since=since))) == found
    half_a_second_later = clock.now() + timedelta(seconds=0.5) - earlier
    assert len(records(read(platform, Resource.PRODUCT_VARIANTS, since=half_a_second_later))) == found


def test_locations_are_always_read_whole_with_what_changed(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    location = shop.export(["locations"])["locations"][0]["id"]
    edit(shop, "rename_location", id=location, name="Lighthouse")
    rows = records(read(platform, Resource.LOCATIONS, since=clock.now()))
    assert hashable(rows) == exported(shop, Resource.LOCATIONS)
    assert "Lighthouse" in {row.name for row in rows if isinstance(row, Location)}


def test_an_incremental_pass_hears_of_a_level_that_was_closed(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    level = level_of(shop)
    clock.seconds += 90
    edit(shop, "deactivate_level", inventory_item_id=level["item"], location_id=level["location"])
    (page,) = read(platform, Resource.INVENTORY_LEVELS, since=clock.now())
    assert (page.gone, page.records) == ([level["id"]], [])


def test_more_changes_than_a_page_holds_are_all_read(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, small_pages: PageSizes
) -> None:
    clock.seconds += 90
    levels = [row for row in shop.export(["inventory_levels"])["inventory_levels"] if row["isActive"]]
    for level in levels[::2]:
        places = {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}
        edit(shop, "set_quantity", **places, quantity=4711)
    rows = records(read(platform, Resource.INVENTORY_LEVELS, since=clock.now()))
    assert {row.external_id for row in rows} == {level["id"] for level in levels[::2]}


@every_table
def test_a_pass_in_which_nothing_changed_costs_one_request(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, resource: Resource
) -> None:
    clock.seconds += 90
    (page,) = read(platform, resource, since=clock.now())
    assert len(shop.requests) == 1
    assert page.read == (
        len(shop.export(["locations"])["locations"]) if resource is Resource.LOCATIONS else 0
    )
    # Orders have the most to ask for; what they did not cost is given back.
    assert shop.requests[0].requested_cost < {Resource.ORDERS: 950}.get(resource, 200)


# Going on


@every_table
def test_a_pass_that_was_stopped_after_any_page_goes_on_from_its_token(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes, resource: Resource
) -> None:
    whole = read(platform, resource)
    for kept in range(1, len(whole)):
        before = whole[:kept]
        token = before[-1].resume
        assert token is not None, "there is more, and the token does not say where"
        rows = records(before) + records(read(platform, resource, resume=token))
        assert hashable(rows) == exported(shop, resource)
        if resource is not Resource.INVENTORY_LEVELS:
            assert len(rows) == len(hashable(rows)), "nothing is read twice"


@every_table
@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_a_pass_that_is_stopped_again_and_again_comes_to_its_end(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes, resource: Resource, at_a_time: int
) -> None:
    whole = len(read(platform, resource))
    rows: list[Record] = []
    resume = None
    for _ in range(3 * whole):
        session = platform.pages(resource, since=None, resume=resume)
        pages = list(islice(session, at_a_time))
        rows += records(pages)
        resume = pages[-1].resume
        if len(pages) < at_a_time or resume is None:
            break
    else:
        pytest.fail(f"{whole} pages, {at_a_time} at a time, are not read after {3 * whole} sessions")
    assert hashable(rows) == exported(shop, resource)


def test_an_incremental_pass_goes_on_from_its_token_too(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, small_pages: PageSizes
) -> None:
    clock.seconds += 90
    for product in shop.export(["products"])["products"]:
        edit(shop, "update_product", id=product["id"], fields={"vendor": "Öland"})
    first = next(iter(platform.pages(Resource.PRODUCTS, since=clock.now(), resume=None)))
    rest = read(platform, Resource.PRODUCTS, since=clock.now(), resume=first.resume)
    assert hashable(records([first, *rest])) == exported(shop, Resource.PRODUCTS)


def test_the_levels_of_a_location_go_on_behind_what_was_read(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes
) -> None:
    pages = read(platform, Resource.INVENTORY_LEVELS)
    shop.requests.clear()
    rest = read(platform, Resource.INVENTORY_LEVELS, resume=pages[4].resume)
    assert len(rest) < len(pages) - 2


def test_a_location_that_is_gone_when_the_pass_goes_on_costs_no_row(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes
) -> None:
    before = list(islice(platform.pages(Resource.INVENTORY_LEVELS, since=None, resume=None), 4))
    token = str(before[-1].resume).replace("gid://shopify/Location/", "gid://shopify/Location/9")
    rows = records(read(platform, Resource.INVENTORY_LEVELS, resume=token))
    assert hashable(rows) == exported(shop, Resource.INVENTORY_LEVELS)


def test_a_location_that_goes_while_its_levels_are_read_ends_them(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes
) -> None:
    token = read(platform, Resource.INVENTORY_LEVELS)[1].resume
    shop.faults.append(Fault("null_field", field="location", operation="query LocationInventoryLevels("))
    for resume in (None, token):
        assert read(platform, Resource.INVENTORY_LEVELS, resume=resume)[-1].rejects == []


@every_table
def test_a_row_that_changes_while_it_is_paged_is_not_lost(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock, small_pages: PageSizes, resource: Resource
) -> None:
    pages = platform.pages(resource, since=None, resume=None)
    first = next(iter(pages))
    before = {row.external_id for row in first.records}
    clock.seconds += 90
    export = shop.export()
    for row in export["products"]:
        edit(shop, "update_product", id=row["id"], fields={"title": "Newer"})
    for row in export["product_variants"]:
        edit(shop, "update_variant", id=row["id"], fields={"title": "Newer"})
    for row in export["customers"]:
        edit(shop, "update_customer", id=row["id"], fields={"note": "Newer"})
    for row in export["orders"]:
        edit(shop, "update_order", id=row["id"], fields={"note": "Newer"})
    with shop.lock:
        for location in shop.store.locations:
            shop.store.rename_location(location, "Newer")
    for row in export["inventory_levels"]:
        if row["isActive"]:
            places = {"inventory_item_id": row["item"]["id"], "location_id": row["location"]["id"]}
            edit(shop, "set_quantity", **places, quantity=4711)
    after = [row for page in pages for row in page.records]

    now = exported(shop, resource)
    assert {row.external_id for row in after} | before == {row[0] for row in now}
    assert hashable(after) <= now
    # What was read before it changed is found from the vendor's clock of the first page on.
    newer = hashable(records(read(platform, resource, since=first.vendor_time)))
    assert hashable(after) | newer == now


def test_a_row_that_is_deleted_while_it_is_paged_takes_no_other_with_it(
    shop: Shop, platform: ShopifyPlatform, small_pages: PageSizes
) -> None:
    products = [row["id"] for row in shop.export(["products"])["products"]]
    pages = platform.pages(Resource.PRODUCTS, since=None, resume=None)
    rows = list(next(iter(pages)).records)
    # Among them the one that the cursor stands on.
    for product in (products[0], products[8], products[10]):
        edit(shop, "delete_product", id=product)
    added = edit(shop, "add_product", variants=1)["id"]
    rows += [row for page in pages for row in page.records]
    assert [row.external_id for row in rows] == [one for one in products if one != products[10]] + [added]


# Answers that make no sense


@pytest.mark.parametrize(
    ("resource", "operation"),
    [
        (Resource.LOCATIONS, "query Locations("),
        (Resource.PRODUCTS, "query Products("),
        (Resource.PRODUCT_VARIANTS, "query ProductVariants("),
        (Resource.INVENTORY_LEVELS, "query InventoryLevels("),
        (Resource.INVENTORY_LEVELS, "query LocationInventoryLevels("),
    ],
)
@pytest.mark.parametrize("kind", ["repeat_cursor", "missing_page_info"])
def test_pages_that_lead_nowhere_are_malformed(
    shop: Shop,
    connect: Callable[..., ShopifyClient],
    small_pages: PageSizes,
    resource: Resource,
    operation: str,
    kind: str,
) -> None:
    platform = ShopifyPlatform(connect(shop.api_url, StaticToken(shop.token)), small_pages._replace(rows=2))
    shop.faults.append(Fault(kind, operation=operation, after=1))
    error = failure_of(lambda: read(platform, resource))
    assert error.error_type is ErrorType.MALFORMED_RESPONSE
    assert "retried automatically" in error.message
    assert len(shop.requests) < 100


def test_cursors_that_go_round_in_a_circle_are_malformed(
    serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    def page(cursor: str) -> Reply:
        page_info = {"hasNextPage": True, "endCursor": cursor}
        return Reply.of({"data": {"rows": {"nodes": [], "pageInfo": page_info}}})

    server = serve(*[page(cursor) for cursor in ("c1", "c2") * 20], Reply(500))
    error = failure_of(lambda: read(ShopifyPlatform(connect(server.url)), Resource.PRODUCTS))
    assert error.error_type is ErrorType.MALFORMED_RESPONSE
    assert len(server.asked) < 10


@pytest.mark.parametrize(
    ("resource", "field", "reason"),
    [
        (Resource.LOCATIONS, "address", "is null"),
        (Resource.PRODUCTS, "updatedAt", "updatedAt: must be a text and is not"),
        (Resource.PRODUCTS, "id", "id: must be a text and is not"),
        (Resource.PRODUCT_VARIANTS, "product", "is null"),
        (Resource.PRODUCT_VARIANTS, "inventoryItem", "is null"),
        (Resource.INVENTORY_LEVELS, "item", "is null"),
        (Resource.INVENTORY_LEVELS, "quantities", "is null"),
    ],
)
def test_a_null_where_fields_belong_rejects_its_row_and_no_other(
    shop: Shop, platform: ShopifyPlatform, resource: Resource, field: str, reason: str
) -> None:
    shop.faults.append(Fault("null_field", field=field, row=1, times=1))
    pages = read(platform, resource)
    (reject,) = [reject for page in pages for reject in page.rejects]
    assert reason in reject.reason
    assert "correct it at the source" in reject.reason
    assert reject.payload[field] is None
    rejected = {reject.external_id} - {None}
    assert len(exported(shop, resource)) - len(records(pages)) == 1
    if field != "id":
        assert rejected == {row[0] for row in exported(shop, resource) - hashable(records(pages))}


@pytest.mark.parametrize(
    ("resource", "field", "place"),
    [
        (Resource.PRODUCTS, "title", 2),
        (Resource.PRODUCT_VARIANTS, "price", 8),
        (Resource.LOCATIONS, "name", 2),
    ],
)
def test_a_null_where_a_text_belongs_is_delivered_for_the_database_to_reject(
    shop: Shop, platform: ShopifyPlatform, resource: Resource, field: str, place: int
) -> None:
    shop.faults.append(Fault("null_field", field=field, row=1, times=1))
    rows = records(read(platform, resource))
    assert [row[place] for row in rows].count(None) == 1
    assert len(rows) == len(exported(shop, resource))


def test_a_quantity_that_is_missing_rejects_its_level_by_name(shop: Shop, platform: ShopifyPlatform) -> None:
    shop.faults.append(Fault("bad_value", field="quantities", row=0, value=[], times=1))
    (reject,) = [one for page in read(platform, Resource.INVENTORY_LEVELS) for one in page.rejects]
    assert reject.reason.startswith("available: missing from the answer")


@pytest.mark.parametrize("value", [17, ["x"], {}, True])
def test_an_id_that_is_no_text_is_rejected_without_one(
    shop: Shop, platform: ShopifyPlatform, value: Any
) -> None:
    shop.faults.append(Fault("bad_value", field="id", row=0, value=value, times=1))
    (reject,) = [one for page in read(platform, Resource.PRODUCTS) for one in page.rejects]
    assert reject.external_id is None
    assert reject.payload["id"] == value


@pytest.mark.parametrize("value", [None, "text", 17, [1]])
def test_a_row_that_is_none_is_rejected_and_the_rest_is_read(
    serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient], value: Any
) -> None:
    end = {"hasNextPage": False, "endCursor": None}
    server = serve(Reply.of({"data": {"rows": {"nodes": [value], "pageInfo": end}}}))
    (page,) = read(ShopifyPlatform(connect(server.url)), Resource.PRODUCTS)
    assert [reject.payload for reject in page.rejects] == [value]


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        (Resource.PRODUCTS, "rows"),
        (Resource.PRODUCTS, "rows.nodes"),
        (Resource.PRODUCTS, "rows.pageInfo"),
        (Resource.PRODUCT_VARIANTS, "shop"),
        (Resource.INVENTORY_LEVELS, "rows"),
    ],
)
def test_a_page_that_lacks_what_all_its_rows_need_is_malformed(
    shop: Shop, platform: ShopifyPlatform, resource: Resource, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field))
    assert failure_of(lambda: read(platform, resource)).error_type is ErrorType.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        (Resource.INVENTORY_LEVELS, "inventoryLevels"),
        (Resource.INVENTORY_LEVELS, "inventoryLevels.nodes"),
        (Resource.INVENTORY_LEVELS, "inventoryLevels.pageInfo"),
        (Resource.CUSTOMERS, "addressesV2"),
        (Resource.ORDERS, "lineItems.pageInfo"),
    ],
)
def test_a_row_that_lacks_what_is_nested_in_it_is_one_row(
    shop: Shop, platform: ShopifyPlatform, resource: Resource, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field, times=1))
    rejects = [reject for page in read(platform, resource) for reject in page.rejects]
    assert [reject.reason.partition(":")[0] for reject in rejects] == [field.partition(".")[0]]


@pytest.mark.parametrize("value", [None, "many", {}, 1.5])
def test_a_count_that_is_none_is_no_count(shop: Shop, platform: ShopifyPlatform, value: Any) -> None:
    shop.faults.append(Fault("bad_value", field="count.count", value=value))
    pages = read(platform, Resource.PRODUCTS)
    assert pages[0].source_count is None
    assert hashable(records(pages)) == exported(shop, Resource.PRODUCTS)


@pytest.mark.parametrize("field", ["shop", "plan"])
def test_a_profile_without_its_parts_is_malformed(shop: Shop, platform: ShopifyPlatform, field: str) -> None:
    shop.faults.append(Fault("null_field", field=field))
    assert failure_of(platform.profile).error_type is ErrorType.MALFORMED_RESPONSE


# Pages that cost too much


@every_table
def test_pages_shrink_to_the_cost_limit_and_everything_is_read(
    shop: Shop, platform: ShopifyPlatform, resource: Resource
) -> None:
    # A few rows with what may be nested in them.
    few = {Resource.ORDERS: 200, Resource.CUSTOMERS: 49, Resource.INVENTORY_LEVELS: 70}
    limit = shop.max_query_cost = few.get(resource, 12)
    assert hashable(records(read(platform, resource))) == exported(shop, resource)
    answered = [request.requested_cost for request in shop.requests if request.nodes]
    assert max(answered) <= limit
    # The size that fits is remembered.
    too_costly = sum(request.requested_cost > limit for request in shop.requests)
    shop.requests.clear()
    read(platform, resource)
    assert too_costly > 0
    assert all(request.requested_cost <= limit for request in shop.requests)


@every_table
def test_a_limit_that_falls_while_pages_are_read_loses_nothing(
    shop: Shop,
    platform: ShopifyPlatform,
    small_pages: PageSizes,
    resource: Resource,
) -> None:
    pages = platform.pages(resource, since=None, resume=None)
    before = next(iter(pages))
    # One order alone costs 59.
    shop.max_query_cost = {Resource.ORDERS: 60, Resource.CUSTOMERS: 16}.get(resource, 12)
    rows = records([before, *pages])
    assert hashable(rows) == exported(shop, resource)
    assert len(rows) == len(hashable(rows))


def test_pages_shrink_to_a_bucket_that_can_never_hold_them(
    shop: Shop, platform: ShopifyPlatform, clock: HandClock
) -> None:
    edit(shop, "set_budget", maximum=20, restore=5)
    rows = records(read(platform, Resource.PRODUCT_VARIANTS))
    assert hashable(rows) == exported(shop, Resource.PRODUCT_VARIANTS)
    assert clock.slept, "the bucket is small, so it was waited for"


def test_a_single_row_that_costs_too_much_is_given_up(shop: Shop, platform: ShopifyPlatform) -> None:
    shop.max_query_cost = 1
    error = failure_of(lambda: read(platform, Resource.PRODUCTS))
    assert (error.error_type, error.severity, error.recoverable) == (
        ErrorType.QUERY_TOO_COSTLY,
        Severity.HIGH,
        False,
    )
    assert len(shop.requests) == 8, "250, 125, 62, 31, 15, 7, 3, 1"


# Stock corrections


def correction_of(level: dict[str, Any], **changes: Any) -> Correction:
    values = {
        "inventory_item_external_id": level["item"],
        "location_external_id": level["location"],
        "change_from_quantity": level["available"],
        "quantity": level["available"] + 5,
        "reason": "correction",
        "idempotency_key": "correction-1",
    }
    return Correction(**{**values, **changes})


def test_a_correction_is_applied(shop: Shop, platform: ShopifyPlatform) -> None:
    level = level_of(shop)
    correction = correction_of(level)
    assert platform.correct_stock([correction])[0] == CorrectionOutcome("applied", correction.quantity)
    assert level_of(shop)["available"] == correction.quantity
    assert shop.applied == 1
    assert len(shop.requests) == 1


def test_a_correction_of_a_quantity_that_has_moved_is_stale_and_tells_what_is_there(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    level = level_of(shop)
    edit(shop, "set_quantity", inventory_item_id=level["item"], location_id=level["location"], quantity=77)
    assert platform.correct_stock([correction_of(level)])[0] == CorrectionOutcome("stale", found_quantity=77)
    assert level_of(shop)["available"] == 77
    assert shop.applied == 0


def test_a_stale_correction_whose_level_cannot_be_read_is_stale_all_the_same(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    shop.faults.append(Fault("null_field", field="inventoryLevel", operation="Available"))
    correction = correction_of(level_of(shop), change_from_quantity=-1)
    assert platform.correct_stock([correction])[0] == CorrectionOutcome("stale", found_quantity=None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"inventory_item_external_id": "gid://shopify/InventoryItem/1"}, "INVALID_INVENTORY_ITEM"),
        ({"location_external_id": "gid://shopify/Location/1"}, "INVALID_LOCATION"),
        ({"quantity": -1}, "INVALID_QUANTITY_NEGATIVE"),
        ({"quantity": 1_000_000_001}, "INVALID_QUANTITY_TOO_HIGH"),
        ({"reason": "because"}, "INVALID_REASON"),
    ],
)
def test_a_correction_that_makes_no_sense_is_rejected_with_shopifys_code(
    shop: Shop, platform: ShopifyPlatform, changes: dict[str, Any], code: str
) -> None:
    outcome = platform.correct_stock([correction_of(level_of(shop), **changes)])[0]
    assert outcome == CorrectionOutcome("rejected", reason=code)
    assert shop.applied == 0


def test_a_correction_of_an_item_that_is_not_stocked_there_is_rejected(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    level = level_of(shop)
    edit(shop, "deactivate_level", inventory_item_id=level["item"], location_id=level["location"])
    outcome = platform.correct_stock([correction_of(level)])[0]
    assert outcome == CorrectionOutcome("rejected", reason="ITEM_NOT_STOCKED_AT_LOCATION")


@pytest.mark.parametrize("kind", ["apply_then_cut", "half_page", "half_json"])
def test_a_correction_whose_answer_was_lost_is_asked_again_and_applied_once(
    shop: Shop, platform: ShopifyPlatform, kind: str
) -> None:
    level = level_of(shop)
    correction = correction_of(level)
    shop.faults.append(Fault(kind, operation="SetQuantities", times=1))
    assert failure_of(lambda: platform.correct_stock([correction])[0]).recoverable
    assert len(shop.requests) == 1, "only who has the key on record may ask again"
    # Meanwhile somebody buys one: that must not be undone.
    sold = correction.quantity - 1
    edit(shop, "set_quantity", inventory_item_id=level["item"], location_id=level["location"], quantity=sold)
    assert platform.correct_stock([correction])[0].status == "applied"
    assert shop.applied == 1
    assert level_of(shop)["available"] == sold


def test_a_key_that_was_used_for_something_else_is_rejected(shop: Shop, platform: ShopifyPlatform) -> None:
    level = level_of(shop)
    assert platform.correct_stock([correction_of(level)])[0].status == "applied"
    outcome = platform.correct_stock([correction_of(level, quantity=level["available"] + 9)])[0]
    assert outcome == CorrectionOutcome("rejected", reason="IDEMPOTENCY_KEY_PARAMETER_MISMATCH")


def answer_to_a_correction(*errors: dict[str, Any]) -> Reply:
    return Reply.of({"data": {"inventorySetQuantities": {"userErrors": list(errors)}}})


def test_a_correction_that_shopify_is_still_at_work_on_is_to_be_tried_again(
    shop: Shop, serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    busy = {"code": "IDEMPOTENCY_CONCURRENT_REQUEST", "field": None, "message": "busy"}
    platform = ShopifyPlatform(connect(serve(answer_to_a_correction(busy)).url))
    error = failure_of(lambda: platform.correct_stock([correction_of(level_of(shop))])[0])
    assert (error.error_type, error.recoverable) == (ErrorType.SERVER_ERROR, True)


def test_a_rejection_without_a_code_is_told_by_its_message(
    shop: Shop, serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    # `code` may be null by the vendor's schema, `message` may not.
    nameless = {"code": None, "field": None, "message": "The item is locked."}
    platform = ShopifyPlatform(connect(serve(answer_to_a_correction(nameless)).url))
    outcome = platform.correct_stock([correction_of(level_of(shop))])[0]
    assert outcome == CorrectionOutcome("rejected", reason="The item is locked.")


@pytest.mark.parametrize("field", ["inventorySetQuantities", "userErrors"])
def test_a_correction_without_an_outcome_is_malformed_and_never_taken_for_applied(
    shop: Shop, platform: ShopifyPlatform, field: str
) -> None:
    shop.faults.append(Fault("null_field", field=field))
    error = failure_of(lambda: platform.correct_stock([correction_of(level_of(shop))])[0])
    assert error.error_type is ErrorType.MALFORMED_RESPONSE


def test_a_correction_without_its_scope_is_told_so(shop: Shop, platform: ShopifyPlatform) -> None:
    edit(shop, "set_scopes", scopes=["read_inventory", "read_locations", "read_products"])
    error = failure_of(lambda: platform.correct_stock([correction_of(level_of(shop))])[0])
    assert error.error_type is ErrorType.SCOPES
    assert "write_inventory" in error.message


# Many stock corrections


def corrections_of(levels: list[dict[str, Any]], **changes: Any) -> list[Correction]:
    return [
        correction_of(level, idempotency_key=f"key-{number}", **changes)
        for number, level in enumerate(levels)
    ]


def move(shop: Shop, level: dict[str, Any], quantity: int) -> None:
    edit(
        shop,
        "set_quantity",
        inventory_item_id=level["item"],
        location_id=level["location"],
        quantity=quantity,
    )


def operations(shop: Shop) -> list[str]:
    return [request.operation for request in shop.requests]


def statuses(outcomes: list[CorrectionOutcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_many_corrections_are_one_call(shop: Shop, platform: ShopifyPlatform) -> None:
    corrections = corrections_of(levels_of(shop, 50))
    outcomes = platform.correct_stock(corrections)
    assert outcomes == [CorrectionOutcome("applied", one.quantity) for one in corrections]
    assert [level["available"] for level in levels_of(shop, 50)] == [one.quantity for one in corrections]
    assert (operations(shop), shop.applied) == (["SetQuantities"], 1)
    # The same ones again are answered, not written.
    assert platform.correct_stock(corrections) == outcomes
    assert shop.applied == 1
    assert platform.correct_stock([]) == []


def test_more_than_a_call_takes_are_several(shop: Shop, connect: Callable[..., ShopifyClient]) -> None:
    client = connect(shop.api_url, StaticToken(shop.token))
    platform = ShopifyPlatform(client, PageSizes(quantities=20))
    outcomes = platform.correct_stock(corrections_of(levels_of(shop, 50)))
    assert statuses(outcomes) == ["applied"] * 50
    assert (operations(shop), shop.applied) == (["SetQuantities"] * 3, 3)
    assert (platform.corrections_a_call, ShopifyPlatform(client).corrections_a_call) == (20, 250)


def test_a_stale_one_among_many_is_told_and_the_others_are_written(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    levels = levels_of(shop, 30)
    for number, quantity in ((3, 7001), (17, 7002)):
        move(shop, levels[number], quantity)
    outcomes = platform.correct_stock(corrections_of(levels))
    assert outcomes[3] == CorrectionOutcome("stale", found_quantity=7001)
    assert outcomes[17] == CorrectionOutcome("stale", found_quantity=7002)
    assert statuses(outcomes).count("applied") == 28
    now = [level["available"] for level in levels_of(shop, 30)]
    assert now == [
        {3: 7001, 17: 7002}.get(number, level["available"] + 5) for number, level in enumerate(levels)
    ]
    assert operations(shop).count("SetQuantities") == 2


WRONG = {
    "INVALID_INVENTORY_ITEM": {"inventory_item_external_id": "gid://shopify/InventoryItem/1"},
    "INVALID_LOCATION": {"location_external_id": "gid://shopify/Location/1"},
    "INVALID_QUANTITY_NEGATIVE": {"quantity": -1},
    "INVALID_REASON": {"reason": "because"},
}


@pytest.mark.parametrize(("reason", "changes"), WRONG.items())
def test_one_that_shopify_refuses_is_rejected_alone(
    shop: Shop, platform: ShopifyPlatform, reason: str, changes: dict[str, Any]
) -> None:
    corrections = corrections_of(levels_of(shop, 30))
    corrections[11] = corrections[11]._replace(**changes)
    outcomes = platform.correct_stock(corrections)
    assert outcomes[11] == CorrectionOutcome("rejected", reason=reason)
    assert statuses(outcomes).count("applied") == 29
    assert operations(shop).count("SetQuantities") < 12


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Reply.of({"errors": "bad request"}, 400), "status 400"),
        (
            Reply.of({"errors": [{"message": "no", "extensions": {"code": "INVALID_VARIABLE"}}]}),
            "INVALID_VARIABLE: an id is not one of Shopify's",
        ),
        (Reply.of({"errors": [{"message": "no", "extensions": {"code": "NEW"}}]}), "NEW"),
    ],
    ids=["400", "a variable", "a code of tomorrow"],
)
def test_one_that_makes_shopify_refuse_the_whole_call_is_rejected_alone(
    shop: Shop,
    serve: Callable[..., ScriptedServer],
    connect: Callable[..., ShopifyClient],
    refusal: Reply,
    reason: str,
) -> None:
    corrections = corrections_of(levels_of(shop, 10))
    poison = corrections[6].inventory_item_external_id

    def refuse(asked: Asked) -> Reply:
        quantities = asked.body["variables"]["input"]["quantities"]
        if any(one["inventoryItemId"] == poison for one in quantities):
            return refusal
        return answer_to_a_correction()

    platform = ShopifyPlatform(connect(serve(refuse).url))
    outcomes = platform.correct_stock(corrections)
    assert outcomes[6] == CorrectionOutcome("rejected", reason=reason)
    assert statuses(outcomes).count("applied") == 9


@pytest.mark.parametrize(
    "path", [None, [], ["input"], ["input", "quantities", "99", "quantity"], ["input", "reason"]]
)
def test_a_fault_that_does_not_say_whose_it_is_is_narrowed_down(
    shop: Shop, serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient], path: Any
) -> None:
    corrections = corrections_of(levels_of(shop, 9))
    poison = corrections[2].inventory_item_external_id

    def refuse(asked: Asked) -> Reply:
        quantities = asked.body["variables"]["input"]["quantities"]
        if any(one["inventoryItemId"] == poison for one in quantities):
            return answer_to_a_correction(
                {"code": "NON_MUTABLE_INVENTORY_ITEM", "field": path, "message": "no"}
            )
        return answer_to_a_correction()

    outcomes = ShopifyPlatform(connect(serve(refuse).url)).correct_stock(corrections)
    assert outcomes[2] == CorrectionOutcome("rejected", reason="NON_MUTABLE_INVENTORY_ITEM")
    assert statuses(outcomes).count("applied") == 8


def test_corrections_of_one_level_follow_each_other(shop: Shop, platform: ShopifyPlatform) -> None:
    level = level_of(shop)
    had = level["available"]
    first = correction_of(level, quantity=had + 5, idempotency_key="first")
    then = correction_of(level, change_from_quantity=had + 5, quantity=had + 2, idempotency_key="then")
    outcomes = platform.correct_stock([first, then])
    assert outcomes == [CorrectionOutcome("applied", had + 5), CorrectionOutcome("applied", had + 2)]
    assert level_of(shop)["available"] == had + 2


def test_a_reason_is_that_of_its_corrections(shop: Shop, platform: ShopifyPlatform) -> None:
    corrections = corrections_of(levels_of(shop, 4))
    corrections[2:] = [one._replace(reason="shrinkage") for one in corrections[2:]]
    assert statuses(platform.correct_stock(corrections)) == ["applied"] * 4
    assert shop.applied == 2


@pytest.mark.parametrize("kind", ["apply_then_cut", "half_page", "half_json"])
@pytest.mark.parametrize("call", [0, 1], ids=["first", "without the stale one"])
def test_corrections_whose_answer_was_lost_are_asked_again_and_applied_once(
    shop: Shop, platform: ShopifyPlatform, kind: str, call: int
) -> None:
    levels = levels_of(shop, 20)
    move(shop, levels[4], 7001)
    corrections = corrections_of(levels)
    shop.faults.append(Fault(kind, operation="SetQuantities", after=call, times=1))
    assert failure_of(lambda: platform.correct_stock(corrections)).recoverable
    assert shop.applied == call
    # Meanwhile somebody buys one: that must not be undone.
    sold = levels[8]["available"] + 4
    if call:
        move(shop, levels[8], sold)
    outcomes = platform.correct_stock(corrections)
    assert outcomes[4] == CorrectionOutcome("stale", found_quantity=7001)
    assert statuses(outcomes).count("applied") == 19
    assert shop.applied == 1
    assert levels_of(shop, 20)[8]["available"] == (sold if call else levels[8]["available"] + 5)


def test_corrections_that_are_sent_in_other_company_after_a_crash_are_not_written_twice(
    shop: Shop, platform: ShopifyPlatform
) -> None:
    corrections = corrections_of(levels_of(shop, 20))
    shop.faults.append(Fault("apply_then_cut", operation="SetQuantities", times=1))
    assert failure_of(lambda: platform.correct_stock(corrections[:12])).recoverable
    outcomes = platform.correct_stock(corrections)
    assert outcomes == [CorrectionOutcome("applied", one.quantity) for one in corrections]
    assert shop.applied == 2


def test_a_key_whose_call_failed_at_shopify_is_followed_by_another(
    shop: Shop, serve: Callable[..., ScriptedServer], connect: Callable[..., ShopifyClient]
) -> None:
    failed = {"code": "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED", "field": None, "message": "failed"}
    server = serve(answer_to_a_correction(failed), answer_to_a_correction())
    [outcome] = ShopifyPlatform(connect(server.url)).correct_stock([correction_of(level_of(shop))])
    assert outcome.status == "applied"
    keys = [asked.body["variables"]["key"] for asked in server.asked]
    assert keys[0] == "correction-1" != keys[1]
    always = ShopifyPlatform(connect(serve(answer_to_a_correction(failed)).url))
    error = failure_of(lambda: always.correct_stock([correction_of(level_of(shop))]))
    assert error.error_type is ErrorType.SERVER_ERROR


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [
        (Fault("unauthorized"), ErrorType.CREDENTIALS),
        (Fault("access_denied"), ErrorType.SCOPES),
        (Fault("server_error"), ErrorType.SERVER_ERROR),
        (Fault("locked"), ErrorType.SHOP_LOCKED),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_what_is_wrong_with_the_store_is_no_corrections_fault(
    shop: Shop, platform: ShopifyPlatform, fault: Fault, error_type: ErrorType
) -> None:
    shop.faults.append(fault)
    error = failure_of(lambda: platform.correct_stock(corrections_of(levels_of(shop, 8))))
    assert error.error_type is error_type
    assert len(shop.requests) == 1


# Faults of a store


def test_a_store_that_can_be_synced_has_no_faults(platform: ShopifyPlatform) -> None:
    assert platform.faults() == []


def test_each_missing_scope_is_named(shop: Shop, platform: ShopifyPlatform) -> None:
    edit(shop, "set_scopes", scopes=["read_products", "write_customers"])
    assert platform.faults() == [
        "the app lacks the scope read_locations: grant it in the app's settings",
        "the app lacks the scope read_orders: grant it in the app's settings",
        "the app lacks the scope write_inventory: grant it in the app's settings",
        "the app lacks the scope read_all_orders: orders of more than 60 days ago are not read, and those that grow so "
        "old are not followed any more; ask Shopify for it in the app's settings",
    ]


WRITE = [f"write_{what}" for what in ("customers", "inventory", "locations", "orders", "products")]


def test_the_right_to_write_includes_the_right_to_read(shop: Shop, platform: ShopifyPlatform) -> None:
    edit(shop, "set_scopes", scopes=[*WRITE, "read_all_orders"])
    assert platform.faults() == []


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault("unauthorized"), "give it with `bg-pipelines stores set STORE --token -`"),
        (Fault("not_found"), "check the store's domain"),
        (Fault("cut"), "the connection was cut"),
        (Fault("null_field", field="currentAppInstallation"), "lacks the app's scopes"),
        (Fault("null_field", field="accessScopes"), "lacks the app's scopes"),
    ],
    ids=lambda value: value.field or value.kind if isinstance(value, Fault) else "",
)
def test_whatever_else_keeps_a_store_from_being_asked_is_its_fault(
    shop: Shop, platform: ShopifyPlatform, fault: Fault, advice: str
) -> None:
    shop.faults.append(fault)
    (sentence,) = platform.faults()
    assert advice in sentence
