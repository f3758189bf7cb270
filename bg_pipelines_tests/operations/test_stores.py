"""Stores as a person manages them: a file is taken whole or not at all, and every fault says where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.store_figures import FoundStore, find_stores
from bg_pipelines.operations.stores import (
    Changes,
    NewStore,
    check_store,
    held_values,
    save_stores,
    set_paused,
)
from bg_pipelines.operations.stores_csv import read_csv
from bg_pipelines.queues import OWN_INTERVALS, Unit
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines_tests import nasty
from bg_pipelines_tests.support import claim_due

TOKEN = "shpat_0123456789abcdef0123456789abcdef"
HEADER = "name,platform,domain,tier,api_url,token,client_id,client_secret\n"
GOOD = (
    HEADER
    + f"Harbor,shopify,harbor.myshopify.com,1,,{TOKEN},,\nMarket,shopify,market.myshopify.com,,,,id,{TOKEN}x\n"
)

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A CSV file of this content."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "stores.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def store(name: str = "Harbor", **values: Any) -> NewStore:
    defaults = {"platform": "shopify", "domain": f"{name.lower()}.myshopify.com", "token": TOKEN}
    return NewStore(name, **{**defaults, **values})


def faults_of(act: Callable[[], object]) -> list[str]:
    """The faults that this raises, one text each."""
    with pytest.raises(IntegrationError) as raised:
        act()
    assert (raised.value.error_type, raised.value.source) == ("bad_data", "stores")
    assert TOKEN not in str(raised.value.as_dict())
    head, *faults = raised.value.message.split("\n")
    assert head == f"{len(faults)} fault{'s' * (len(faults) != 1)}, nothing was changed:"
    return [fault.strip() for fault in faults]


def all_rows(database: Database) -> list[Any]:
    """Everything in the tables, with the number of the transaction that wrote it."""
    with database.transaction() as connection:
        stores = connection.execute("SELECT xmin::text, s.* FROM stores s ORDER BY id").fetchall()
        return stores + connection.execute("SELECT xmin::text, s.* FROM sync_states s").fetchall()


def make_all_later(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("UPDATE sync_states SET next_due_at = now() + interval '1 hour'")


def change(database: Database, statement: str) -> list[Any]:
    with database.transaction() as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def count_due(database: Database) -> int:
    with database.transaction() as connection:
        return store_units.count_due(connection, list(Unit), database_clock(connection), None)[0]


# Files


def test_a_file_is_imported_and_a_second_time_changes_nothing(
    write: Write, database: Database, cipher: Cipher
) -> None:
    stores = read_csv(write(GOOD))
    assert [(s.name, s.platform, s.domain, s.tier) for s in stores] == [
        ("Harbor", "shopify", "harbor.myshopify.com", 1),
        ("Market", "shopify", "market.myshopify.com", 2),
    ]
    assert save_stores(database, cipher, stores) == Changes(2, 0, 0)
    rows = all_rows(database)
    assert save_stores(database, cipher, read_csv(write(GOOD))) == Changes(0, 0, 2)
    assert all_rows(database) == rows


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("name,platform", " Name , PLATFORM").encode(),
        GOOD.replace("Harbor,shopify,harbor.my", " Harbor , Shopify,HARBOR.my").encode(),
        GOOD.replace("\n", "\n\n").encode() + b",,,,,,,\n",
        b'"name"' + GOOD.encode().removeprefix(b"name"),
        b"\xef\xbb\xbf" + b'"name"' + GOOD.encode().removeprefix(b"name"),
    ],
)
def test_what_a_spreadsheet_adds_makes_no_difference(write: Write, content: bytes) -> None:
    assert read_csv(write(content)) == read_csv(write(GOOD))


def test_quoted_commas_and_values_that_look_like_numbers_or_nothing_are_texts(write: Write) -> None:
    lines = 'name,platform,domain,token\n"Harbor, ""East""",shopify,a.com,0070\nNA,shopify,b.com,nan\n'
    stores = read_csv(write(lines))
    assert [(s.name, s.token) for s in stores] == [('Harbor, "East"', "0070"), ("NA", "nan")]


def test_every_fault_of_a_file_is_told_by_line_and_column(write: Write) -> None:
    path = write(
        HEADER
        + f",shopify,a.com,,,{TOKEN},,\n"
        + f"B,shopfy,b.com,,,{TOKEN},,\n"
        + f"C,shopify,https://c.com,,,{TOKEN},,\n"
        + "\n"
        + f"D,shopify,d.com,4,,{TOKEN},,\n"
        + f"E,shopify,e.com,one,,{TOKEN},,\n"
        + f"F,shopify,f.com,,ftp://f,{TOKEN},,\n"
        + f"G,shopify,g.com,,,{TOKEN},id,{TOKEN}\n"
        + "H,shopify,h.com,,,,,\n"
        + "I,shopify,i.com,,,,id,\n"
        + f"J,shopify,j.com,,,{TOKEN[:9]} {TOKEN},,\n"
        + f"J,shopify,k.com,,,{TOKEN},,\n"
        + f"L,shopify,j.com,,,{TOKEN},,\n"
    )
    faults = faults_of(lambda: read_csv(path))
    assert [fault.split(": ")[0] for fault in faults] == [
        "line 2, name",
        "line 3, platform",
        "line 4, domain",
        "line 6, tier",
        "line 7, tier",
        "line 8, api_url",
        "line 9, token",
        "line 10, token",
        "line 11, token",
        "line 12, token",
        "line 13, name",
        "line 14, domain",
    ]
    assert "did you mean 'shopify'?" in faults[1]
    assert "give it like harbor.myshopify.com, without https://" in faults[2]
    assert "is not one of: 1, 2, 3" in faults[3]
    assert faults[6].endswith("given: token, client_id, client_secret")
    assert faults[7].endswith("given: none")
    assert faults[10:] == [
        "line 13, name: is already on line 12",
        "line 14, domain: is already on line 12",
    ]


def test_one_domain_in_two_spellings_is_there_twice(write: Write) -> None:
    path = write(HEADER + f"A,shopify,a.com,,,{TOKEN},,\nB,Shopify,A.com,,,{TOKEN},,\n")
    assert faults_of(lambda: read_csv(path)) == ["line 3, domain: is already on line 2"]


def test_wrong_columns_are_named(write: Write) -> None:
    faults = faults_of(lambda: read_csv(write("nme,platform,token,token\n")))
    assert "line 1, nme: no such column" in faults[0]
    assert faults[0].endswith("did you mean 'name'?")
    assert "line 1, name: this column is missing" in faults
    assert "line 1, domain: this column is missing" in faults


def test_a_column_that_is_there_twice_is_told_as_such(write: Write) -> None:
    faults = faults_of(lambda: read_csv(write(HEADER.replace("tier", "token") + "\n")))
    assert faults == ["line 1, token: this column is there twice"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty|No columns"),
        (b"\n\n", "is empty|No columns"),
        (HEADER.encode(), "the file has no stores"),
        (HEADER.encode() + b",,,,,,,\n\n", "the file has no stores"),
        ((HEADER + "Zürich,").encode("latin-1"), "is not UTF-8; save it as CSV UTF-8"),
        (GOOD.encode("utf-16"), "is not UTF-8; save it as CSV UTF-8"),
        (HEADER.encode() + b'"Harbor,shopify\n', "is not CSV|quote"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", "is not (UTF-8|CSV)"),
    ],
)
def test_a_file_that_has_no_stores_or_is_no_csv_says_so(write: Write, content: bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(IntegrationError, match=message):
        read_csv(path)


def test_a_file_or_folder_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    [fault] = faults_of(lambda: read_csv(tmp_path / "nowhere.csv"))
    assert fault.endswith("nowhere.csv: there is no such file")
    [fault] = faults_of(lambda: read_csv(tmp_path))
    assert str(tmp_path) in fault


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_than_the_comma_is_recognised(write: Write, separator: str) -> None:
    [fault] = faults_of(lambda: read_csv(write(GOOD.replace(",", separator))))
    assert "comma" in fault


@pytest.mark.parametrize("more", ["Harbor, Inc", "Harbor, Inc, East"])
def test_a_comma_that_is_not_quoted_shifts_no_value_into_the_next_column(write: Write, more: str) -> None:
    lines = "name,platform,domain,token\n" + f"{more},shopify,a.com,{TOKEN}\n" * 1
    faults = faults_of(lambda: read_csv(write(lines)))
    assert any("line 2" in fault for fault in faults)


def test_a_line_with_too_many_values_hides_no_fault_of_another(write: Write) -> None:
    lines = (
        "name,platform,domain,token\n"
        f"Harbor, Inc,shopify,a.com,{TOKEN}\n"
        f"Market,shopfy,b.com,{TOKEN}\n"
        f"Market,shopify,c.com,{TOKEN}\n"
    )
    faults = faults_of(lambda: read_csv(write(lines)))
    assert [fault.split(": ")[0] for fault in faults] == ["line 2, line", "line 3, platform", "line 4, name"]
    faults = faults_of(lambda: read_csv(write(lines.replace("token", "tken", 1))))
    assert [fault.split(": ")[0] for fault in faults] == ["line 1, tken", "line 2, line"]
    alone = "".join(lines.splitlines(keepends=True)[:2])
    assert [fault.split(": ")[0] for fault in faults_of(lambda: read_csv(write(alone)))] == ["line 2, line"]


def test_a_file_may_give_a_store_its_own_interval(write: Write) -> None:
    lines = f"name,platform,domain,token,every\nA,shopify,a.com,{TOKEN},240\nB,shopify,b.com,{TOKEN},\n"
    assert [found.every for found in read_csv(write(lines))] == [240, None]
    faults = faults_of(lambda: read_csv(write(lines.replace("240", "hourly"))))
    assert [fault.split(": ")[0] for fault in faults] == ["line 2, every"]


def test_a_comma_too_many_at_the_end_of_lines_is_harmless_or_told(write: Write) -> None:
    lines = f"name,platform,domain,token\nHarbor,shopify,a.com,{TOKEN},\n"
    try:
        [found] = read_csv(write(lines))
    except IntegrationError as error:
        assert "line 2" in error.message  # noqa: PT017
    else:
        assert (found.name, found.domain, found.token) == ("Harbor", "a.com", TOKEN)


def test_missing_values_at_the_end_of_a_line_are_empty(write: Write) -> None:
    lines = f"name,platform,domain,token,tier,api_url\nHarbor,shopify,a.com,{TOKEN}\nMarket,shopify,b.com\n"
    assert faults_of(lambda: read_csv(write(lines))) == [
        "line 3, token: give either token, or client_id and client_secret; given: none"
    ]


def test_a_file_without_a_header_says_so_without_a_token(write: Write) -> None:
    faults = faults_of(lambda: read_csv(write(GOOD.removeprefix(HEADER))))
    assert any("header" in fault or "column is missing" in fault for fault in faults)


@pytest.mark.parametrize("column", ["platform", "domain", "api_url"])
def test_a_token_in_the_wrong_column_is_not_repeated(column: str) -> None:
    value: Any = TOKEN
    faults = check_store(store(**{column: value}))
    assert faults
    assert not any(TOKEN in str(fault) for fault in faults)


# Single stores


@pytest.mark.parametrize(
    "domain",
    [
        "harbor",
        "https://a.com",
        "a.com/",
        "a_b.com",
        "-a.com",
        "a..com",
        "",
        "a.com:443",
        "a.c",
        "å.com",
        "a.com\n",
        f"{'a' * 64}.com",
        "127.0.0.1",
    ],
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    assert [fault.column for fault in check_store(store(domain=domain))] == ["domain"]


@pytest.mark.parametrize(
    "domain",
    [
        "a.co",
        "harbor.myshopify.com",
        "a-b.c-d.example",
        f"{'a' * 63}.com",
        "xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g",
        "1.example",
    ],
)
def test_what_is_a_domain_is_taken(domain: str) -> None:
    assert check_store(store(domain=domain)) == []


@pytest.mark.parametrize(
    "url",
    [
        *("harbor", "ftp://a", "https://", "http://a:99999", "http://a:b", "http://[", "https://a?x=1", ""),
        *(
            "https://a.example\r",
            "https://a.example ",
            "https://a .example",
            "https://a.example/\u200b",
            "https://\ta",
        ),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert [fault.column for fault in check_store(store(api_url=url))] == ["api_url"]


@pytest.mark.parametrize(
    "url", ["http://shop.example", "http://10.0.0.7:4010", "http://localhost.evil.example"]
)
def test_a_token_goes_unencrypted_to_no_other_machine_unless_that_is_said(url: str) -> None:
    [fault] = check_store(store(api_url=url))
    assert fault.column == "api_url"
    assert "--insecure" in fault.message
    assert check_store(store(api_url=url, insecure=True)) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4010/x", "http://localhost:4010", "http://[::1]:4010", "https://a"]
)
def test_this_machine_and_tls_are_safe(url: str) -> None:
    assert check_store(store(api_url=url)) == []


@pytest.mark.parametrize("kind", ["an escape sequence", "a bell", "two lines", "line separators", "zero width", "NUL",
                                  "right to left", "tabs", "half a surrogate"])  # fmt: skip
def test_a_name_that_cannot_be_seen_or_typed_is_refused_by_a_character(kind: str) -> None:
    [fault] = check_store(store(name=nasty.TEXTS[kind], domain="a.example"))
    assert re.search(r"cannot be seen or typed \(U\+[0-9A-F]{4,5}\)", fault.message)


@pytest.mark.parametrize("name", ["Zoë's Büro", "دکان می‌شود", "日本", "👨‍🍳 Pizza"])
def test_a_name_in_any_script_is_taken(name: str) -> None:
    assert check_store(store(name=name, domain="a.example")) == []


@pytest.mark.parametrize("token", ["“tok1”", "tok\u200b1", "tok 1", "tok1\r", "tok\x1b1", "tök1", "tok1…"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token: str) -> None:
    [fault] = check_store(store(token=token))
    assert fault.column == "token"
    assert "paste it again" in fault.message
    assert token not in fault.message


def test_secrets_are_not_shown_with_a_store() -> None:
    assert TOKEN not in repr(store(client_secret=TOKEN))


def test_faults_change_nothing_at_all(database: Database, cipher: Cipher) -> None:
    faults = faults_of(lambda: save_stores(database, cipher, [store("Harbor"), store("Market", tier=9)]))
    assert faults == ["tier: 9 is not one of: 1, 2, 3"]
    assert all_rows(database) == []


def test_a_new_store_is_due_at_once_with_all_it_has(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [store()])
    with database.transaction() as connection:
        claimed = claim_due(
            connection,
            list(Unit),
            owner="me",
            limit=1,
            lease=timedelta(1),
            due_before=database_clock(connection),
        )
    assert {work.unit for work in claimed} == set(Unit)


def test_tokens_are_encrypted_in_the_table(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [store(), store("Market", token=None, client_id="id", client_secret=TOKEN)])
    with database.transaction() as connection:
        rows = connection.execute("SELECT s::text, credentials FROM stores s ORDER BY id").fetchall()
    assert not any(TOKEN in text or TOKEN.encode() in bytes(credentials) for text, credentials in rows)
    assert [cipher.decrypt(credentials) for _, credentials in rows] == [
        {"access_token": TOKEN},
        {"client_id": "id", "client_secret": TOKEN},
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "new"},
        {"api_url": "http://127.0.0.1:4010"},
        {"token": None, "client_id": "id", "client_secret": "secret"},
    ],
)
def test_a_store_whose_access_changed_is_due_now(
    database: Database, cipher: Cipher, changes: dict[str, Any]
) -> None:
    save_stores(database, cipher, [store(), store("Market")])
    make_all_later(database)
    assert save_stores(database, cipher, [store(**changes)]) == Changes(0, 1, 0)
    assert count_due(database) == 1


@pytest.mark.parametrize("changes", [{"name": "Port"}, {"tier": 3}, {"every": 240}])
def test_another_name_or_tier_makes_nothing_due(
    database: Database, cipher: Cipher, changes: dict[str, Any]
) -> None:
    save_stores(database, cipher, [store()])
    make_all_later(database)
    new = store(**{"name": "Harbor", "domain": "harbor.myshopify.com", **changes})
    assert save_stores(database, cipher, [new]) == Changes(0, 1, 0)
    assert count_due(database) == 0
    [row] = find_stores(database).stores
    assert (row.name, row.tier, row.every) == (new.name, new.tier, new.every or {2: 15, 3: 60}[new.tier])


def test_a_store_with_a_shorter_interval_comes_that_much_sooner_but_for_what_failed(
    database: Database, cipher: Cipher
) -> None:
    save_stores(database, cipher, [store(every=1440)])
    change(database, "UPDATE sync_states SET next_due_at = clock_timestamp() + interval '1 day'")
    change(database, "UPDATE sync_states SET attempts = 1 WHERE resource = 'products'")
    change(database, "UPDATE sync_states SET next_due_at = NULL WHERE resource = 'store'")
    assert save_stores(database, cipher, [store(every=10)]) == Changes(0, 1, 0)
    due = dict(
        change(
            database,
            "SELECT resource, extract(epoch FROM next_due_at - clock_timestamp())::float / 60 FROM sync_states",
        )
    )
    assert due.pop("store") is None
    assert due.pop("products") == pytest.approx(1440, abs=0.5), "failed: it keeps its delay"
    for unit in OWN_INTERVALS:
        assert due.pop(unit) == pytest.approx(1440, abs=0.5), "it has an interval of its own"
    assert all(2 <= minutes <= 13 for minutes in due.values()), due
    assert save_stores(database, cipher, [store(every=10)]) == Changes(0, 0, 1)
    assert save_stores(database, cipher, [store()]) == Changes(0, 1, 0)
    assert find_stores(database).stores[0].every == 15


def test_stores_that_get_a_shorter_interval_together_are_not_due_together(
    database: Database, cipher: Cipher
) -> None:
    names = [f"store-{n}" for n in range(60)]
    slow, fast = (
        [store(name=name, domain=f"{name}.myshopify.com", every=every) for name in names]
        for every in (1440, 60)
    )
    save_stores(database, cipher, slow)
    change(database, "UPDATE sync_states SET next_due_at = clock_timestamp() + interval '1 day'")
    save_stores(database, cipher, fast)
    stock = "SELECT count(*) FROM sync_states WHERE resource = 'inventory_levels' GROUP BY next_due_at"
    assert len(change(database, stock)) >= 8, "of twelve ticks of an hour"


@pytest.mark.parametrize("every", [0, 4, 7, -5, 1445])
def test_an_interval_that_is_no_multiple_of_five_minutes_of_a_day_is_refused(every: int) -> None:
    assert [fault.column for fault in check_store(store(every=every))] == ["every"]


def test_new_credentials_start_what_waits_for_a_person_and_leave_other_failures_their_count(
    database: Database, cipher: Cipher
) -> None:
    save_stores(database, cipher, [store()])
    change(
        database,
        "UPDATE sync_states SET attempts = 3, next_due_at = CASE WHEN resource <> 'products' THEN NULL "
        "ELSE clock_timestamp() + interval '1 hour' END",
    )
    assert [row.state for row in find_stores(database).stores] == ["needs attention"]
    assert save_stores(database, cipher, [store(token=f"{TOKEN}new")]) == Changes(0, 1, 0)
    rows = change(
        database, "SELECT resource = 'products', attempts, next_due_at <= clock_timestamp() FROM sync_states"
    )
    assert set(rows) == {(True, 3, True), (False, 0, True)}


def test_what_is_not_given_of_a_store_is_what_it_has_or_a_new_one_has(
    database: Database, cipher: Cipher
) -> None:
    assert held_values(database, "shopify", "harbor.myshopify.com") == (2, None, None)
    save_stores(database, cipher, [store(tier=1, every=30, api_url="http://127.0.0.1:4010")])
    assert held_values(database, "shopify", "harbor.myshopify.com") == (1, 30, "http://127.0.0.1:4010")


def test_a_renewed_token_beside_a_client_id_is_no_change(database: Database, cipher: Cipher) -> None:
    new = store(token=None, client_id="id", client_secret="secret")
    save_stores(database, cipher, [new])
    renewed = cipher.encrypt({**new.credentials(), "access_token": "made of them", "expires_at": None})
    with database.transaction() as connection:
        connection.execute("UPDATE stores SET credentials = %s", (renewed,))
    assert save_stores(database, cipher, [new]) == Changes(0, 0, 1)


def test_a_token_given_again_replaces_one_whose_key_is_lost(database: Database, cipher: Cipher) -> None:
    save_stores(database, Cipher("1" * 42 + "E="), [store()])
    assert save_stores(database, cipher, [store()]) == Changes(0, 1, 0)
    assert save_stores(database, cipher, [store()]) == Changes(0, 0, 1)


def test_under_a_key_that_is_not_the_other_stores_nothing_is_saved(
    database: Database, cipher: Cipher
) -> None:
    other = Cipher("1" * 42 + "E=")
    second = store(name="second", domain="second.myshopify.com")
    save_stores(database, cipher, [store()])
    with pytest.raises(IntegrationError, match="BG_ENCRYPTION_KEY is not the key that the stores'"):
        save_stores(database, other, [second])
    assert [row.name for row in find_stores(database).stores] == [store().name]
    assert save_stores(database, other, [second, store()]) == (1, 1, 0), "the way out where the key is lost"


def test_a_name_that_another_store_has_is_refused(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [store()])
    rows = all_rows(database)
    faults = faults_of(
        lambda: save_stores(database, cipher, [store("Harbor", domain="other.com"), store("Market")])
    )
    assert faults == ["name: 'Harbor' is the name of harbor.myshopify.com already; choose another"]
    assert all_rows(database) == rows


def test_stores_are_listed_by_name_with_how_they_are(database: Database, cipher: Cipher) -> None:
    assert find_stores(database).stores == []
    save_stores(database, cipher, [store(name) for name in ("New", "Paused", "Ok", "Failing", "Waiting")])
    set_paused(database, ["Paused"], True)
    with database.transaction() as connection:
        connection.execute(
            "UPDATE sync_states SET last_succeeded_at = clock_timestamp(), attempts = (name = 'Failing')::int, "
            "last_error = CASE WHEN name = 'Failing' THEN '{\"message\": \"no answer\"}'::jsonb END "
            "FROM stores WHERE id = store_id AND name IN ('Ok', 'Failing', 'Waiting')"
        )
        connection.execute(
            "UPDATE sync_states SET next_due_at = NULL FROM stores WHERE id = store_id AND resource = 'locations' "
            "AND name IN ('Paused', 'Waiting')"
        )
    rows = find_stores(database).stores
    assert [(row.name, row.state) for row in rows] == [
        ("Failing", "failing"),
        ("New", "new"),
        ("Ok", "ok"),
        ("Paused", "paused"),
        ("Waiting", "needs attention"),
    ]
    assert isinstance(rows[0], FoundStore)
    assert rows[2].last_synced_at is not None
    late = "UPDATE sync_states SET last_succeeded_at = '2026-11-23T12:00:00Z' WHERE resource = 'orders'"
    change(database, late)
    rows = find_stores(database).stores
    assert [row.state for row in rows][2:3] == ["late"]
    assert rows[2].last_synced_at is not None
    assert rows[2].last_synced_at.isoformat() == "2026-11-23T12:00:00+00:00"


# Pausing


def test_stores_are_paused_and_resumed_by_name(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [store(), store("Market")])
    assert set_paused(database, ["Harbor", "Harbor"], True) == 1
    assert set_paused(database, ["Harbor", "Market"], True) == 1
    assert count_due(database) == 0
    assert set_paused(database, ["Harbor"], False) == 1
    assert set_paused(database, ["Harbor"], False) == 0
    assert count_due(database) == 1


def test_an_unknown_name_is_answered_with_the_nearest_and_nothing_is_paused(
    database: Database, cipher: Cipher
) -> None:
    save_stores(database, cipher, [store(), store("Market")])
    faults = faults_of(lambda: set_paused(database, ["Market", "Habor", "zzz"], True))
    assert faults == ["Habor: no such store; did you mean 'Harbor'?", "zzz: no such store"]
    assert [row.state for row in find_stores(database).stores] == ["new", "new"]


def test_the_last_sync_of_a_store_is_none_of_its_audits(database: Database, cipher: Cipher) -> None:
    save_stores(database, cipher, [store()])
    change(database, "UPDATE sync_states SET last_succeeded_at = '2026-11-23 12:00Z'")
    change(
        database, "UPDATE sync_states SET last_succeeded_at = '2026-11-22 03:00Z' WHERE resource = 'audit'"
    )
    change(database, "UPDATE sync_states SET last_succeeded_at = NULL WHERE resource = 'webhooks'")
    [row] = find_stores(database).stores
    assert f"{row.last_synced_at:%d %H:%M}" == "23 12:00"


def test_many_lines_with_the_same_fault_are_one(write: Write) -> None:
    lines = "".join(f"S{n},shopify,s{n}.com,9,,{TOKEN},,\n" for n in range(300))
    with pytest.raises(IntegrationError) as raised:
        read_csv(write(HEADER + lines))
    assert raised.value.message == (
        "300 faults, nothing was changed:\n  lines 2, 3, 4 and 297 others, tier: 9 is not one of: 1, 2, 3"
    )
