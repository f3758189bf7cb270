"""Invented customers: names in several scripts, phones as people type them, e-mails that are missing or shared."""

from __future__ import annotations

from random import Random

from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.square.values import DAY_MS, opaque_id, show_time

# Given and family names that go together; weighted so that most are plain.
NAMES: tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        60,
        ("Ada", "Ben", "Carla", "Dev", "Emma", "Finn", "Grace", "Hugo", "Iris", "Jon", "Kim", "Lena"),
        ("Adams", "Baker", "Clark", "Diaz", "Evans", "Fox", "Gupta", "Hill", "Khan", "Lopez", "Moore"),
    ),
    (
        15,
        ("Jürgen", "Zoë", "Åsa", "François", "Łucja", "Siobhán"),
        ("Müller", "Øverland", "O'Brien", "Nuñez", "Smith-Jones", "Šimůnek"),
    ),
    (6, ("太郎", "花子", "さくら"), ("山田", "佐藤", "鈴木")),
    (5, ("محمد", "فاطمة", "ليلى"), ("الأحمد", "حداد", "السيد")),
    (4, ("נועה", "דוד"), ("כהן", "לוי")),
    (5, ("Олена", "Дмитро"), ("Шевченко", "Коваленко")),
    (2, ("Mia 🌸", "Ace 🚀"), ("O’Neil 😀", "Ng")),
)
COMPANIES = ("Harbor Café", "Nordlicht GmbH", "株式会社つばめ", "Kobo & Sons", "Brightwater Ltd")
NOTES = ("prefers mornings", "allergic to nuts\nask first", "VIP ⭐", "ring twice")
SOURCES = ("DIRECTORY", "ONLINE_STORE", "INSTANT_PROFILE", "THIRD_PARTY", "IMPORT", "TERMINAL")
# Country code, national prefix and digits of a number that exists there, spelled as people spell it.
PHONES: dict[str, tuple[str, ...]] = {
    "US": ("+1212555{0:04d}", "(212) 555-{0:04d}", "212-555-{0:04d}", "1.212.555.{0:04d}", "212555{0:04d}"),
    "CA": ("+1416555{0:04d}", "(416) 555-{0:04d}", "416 555 {0:04d}"),
    "GB": ("+44207946{0:04d}", "020 7946 {0:04d}", "+44 20 7946 {0:04d}", "(020) 7946-{0:04d}"),
    "DE": ("+4930 2312{0:04d}", "030 / 2312{0:04d}", "0049 30 2312{0:04d}", "+49 (0)30 2312{0:04d}"),
    "JP": ("+8139876{0:04d}", "03-9876-{0:04d}", "03 9876 {0:04d}"),
    "BH": ("+9731700{0:04d}", "1700 {0:04d}", "00973 1700 {0:04d}"),
    "AU": ("+6127010{0:04d}", "(02) 7010 {0:04d}", "02 7010 {0:04d}"),
}
SHARED_PHONE_LINE = 1


def person(random: Random, number: int, country: str, cities: tuple[str, ...]) -> Node:
    """The fields of one customer; what is missing is not there. One in thirty shares an e-mail or a phone."""
    roll = random.random
    [(_, given, family)] = random.choices(NAMES, [weight for weight, _, _ in NAMES])
    fields: Node = {}
    if roll() < 0.94:
        fields["given_name"] = random.choice(given)
    if roll() < 0.92:
        fields["family_name"] = random.choice(family)
    if roll() < 0.06:
        fields["company_name"] = random.choice(COMPANIES)
    if roll() < 0.03:
        fields["nickname"] = "Bibi"
    kind = roll()
    if kind < 0.03:
        fields["email_address"] = "family@example.com"
    elif kind < 0.10:
        # People type capitals, and blanks slip in from imports.
        fields["email_address"] = f"Person.{number}@Example.COM"
    elif kind < 0.82:
        fields["email_address"] = f"person.{number}@example.com"
    kind = roll()
    if kind < 0.03:
        fields["phone_number"] = PHONES[country][0].format(SHARED_PHONE_LINE)
    elif kind < 0.72:
        fields["phone_number"] = random.choice(PHONES[country]).format(number % 9_998 + 2)
    if roll() < 0.5:
        fields["address"] = {
            "address_line_1": f"{random.randint(1, 200)} Main Street",
            "locality": random.choice(cities),
            "postal_code": f"{random.randint(10000, 99999)}",
            "country": country,
        }
    if roll() < 0.1:
        # Without a year the vendor writes the year 0000.
        year = f"{random.randint(1940, 2005)}" if roll() < 0.7 else "0000"
        fields["birthday"] = f"{year}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"
    if roll() < 0.08:
        fields["note"] = random.choice(NOTES)
    if roll() < 0.2:
        fields["reference_id"] = f"crm-{number}"
    if not fields.keys() & {"given_name", "family_name", "company_name", "email_address", "phone_number"}:
        fields["given_name"] = random.choice(given)
    return fields


def customer_row(
    fields: Node, *, row_id: str, created: int, updated: int, version: int, source: str, unsubscribed: bool
) -> Node:
    return {
        "id": row_id,
        "_created": created,
        "_updated": updated,
        "created_at": show_time(created),
        "updated_at": show_time(updated),
        **fields,
        "preferences": {"email_unsubscribed": unsubscribed},
        "creation_source": source,
        "version": version,
    }


def invent(
    random: Random,
    number: int,
    *,
    merchant_id: str,
    region: tuple[str, tuple[str, ...]],
    at: int | None = None,
    before: int = 0,
) -> Node:
    """A customer made at `at`, or at some time in the two years before `before`."""
    created = before - random.randint(0, 2 * 365 * DAY_MS) if at is None else at
    changes = random.choice((0, 0, 1, 2, 5)) if at is None else 0
    return customer_row(
        person(random, number, *region),
        row_id=opaque_id(26, merchant_id, "customer", number),
        created=created,
        updated=random.randint(created, before) if changes else created,
        version=changes,
        source=random.choice(SOURCES) if at is None else "DIRECTORY",
        unsubscribed=random.random() < 0.2,
    )
