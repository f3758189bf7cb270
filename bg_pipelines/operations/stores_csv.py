"""Stores from a CSV file: all of them, or none and a list of every fault by line and column."""

from __future__ import annotations

from pathlib import Path

from bg_pipelines.operations.csv_files import CsvFault, bad_data, read_rows
from bg_pipelines.operations.stores import COLUMNS, DEFAULT_TIER, REQUIRED_COLUMNS, NewStore, check_store


def read_csv(path: Path, *, insecure: bool = False) -> list[NewStore]:
    """Stores from a CSV file with a header; `insecure` is each one's.

    Raises IntegrationError (bad_data) listing every fault by line and column.
    """
    rows, faults = read_rows(path, columns=COLUMNS, required=REQUIRED_COLUMNS, source="stores")
    stores = {line: _from_row(row, insecure) for line, row in rows.items()}
    if not stores and not faults:
        faults.append(CsvFault(2, "name", "the file has no stores"))
    faults += [fault for line, store in stores.items() for fault in check_store(store, line)]
    first: dict[tuple[str, ...], int] = {}
    for line, store in stores.items():
        for key in (("name", store.name), ("domain", store.platform, store.domain)):
            if first.setdefault(key, line) != line:
                faults.append(CsvFault(line, key[0], f"is already on line {first[key]}"))
    if faults:
        raise bad_data(faults, "stores")
    return list(stores.values())


def _from_row(row: dict[str, str], insecure: bool) -> NewStore:
    tier, every = row.get("tier") or str(DEFAULT_TIER), row.get("every")
    return NewStore(
        name=row["name"],
        platform=row["platform"].lower(),
        domain=row["domain"].lower(),
        tier=_number(tier),
        every=_number(every) if every else None,
        api_url=row.get("api_url") or None,
        token=row.get("token") or None,
        client_id=row.get("client_id") or None,
        client_secret=row.get("client_secret") or None,
        insecure=insecure,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
