"""CSV files that people hand over: read whole, with every fault named by its line and column."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import counted, did_you_mean, grouped, listed, unseen


class CsvFault(NamedTuple):
    """What is wrong with one value: its line in the file (None outside a file), its column, and the remedy."""

    line: int | None
    column: str
    message: str


def read_rows(
    path: Path, *, columns: Sequence[str], required: Sequence[str], source: str
) -> tuple[dict[int, dict[str, str]], list[CsvFault]]:
    """The rows by line, each a text by column, and what is wrong with the lines that are left out.

    Names of columns are read in any case and order. Raises IntegrationError (bad_data) if nothing can be read.
    """
    (_, header), *rows = _lines(path, source)
    names = [name.lower() for name in header]
    # Before a column is named in a fault: a first line that is no header may hold a token.
    if not set(names) & set(columns):
        if any(separator in header[0] for separator in ";\t|"):
            raise bad_data(
                [CsvFault(1, "header", "the values are not separated by commas; save it as CSV with commas")],
                source,
            )
        raise bad_data(
            [
                CsvFault(
                    1,
                    "header",
                    f"is missing: the first line names the columns; there are: {', '.join(columns)}",
                )
            ],
            source,
        )
    # Their values are shifted into columns they don't belong to: they are not looked at.
    shifted = {line for line, values in rows if any(values[len(names) :])}
    too_many = [
        CsvFault(
            line,
            "line",
            f"has {len(values)} values, there are {len(names)} columns; put a value that holds a comma in quotes",
        )
        for line, values in rows
        if line in shifted
    ]
    faults = [
        CsvFault(1, name, f"no such column; there are: {', '.join(columns)}{did_you_mean(name, columns)}")
        for name in dict.fromkeys(names)
        if name not in columns
    ]
    faults += [CsvFault(1, column, "this column is missing") for column in required if column not in names]
    faults += [
        CsvFault(1, name, "this column is there twice")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if faults:
        raise bad_data(faults + too_many, source)
    read = {
        line: dict(zip_longest(names, values[: len(names)], fillvalue=""))
        for line, values in rows
        if line not in shifted
    }
    unseen_in = [
        CsvFault(line, name, f"holds a character that cannot be seen or typed ({character}); type it again")
        for line, row in read.items()
        for name, value in row.items()
        if (character := unseen(value))
    ]
    spoiled = {fault.line for fault in unseen_in}
    return {line: row for line, row in read.items() if line not in spoiled}, too_many + unseen_in


def _lines(path: Path, source: str) -> list[tuple[int, list[str]]]:
    """Line and values of each row that is not empty, the header first. Raises IntegrationError (bad_data)."""

    def fault(message: str) -> IntegrationError:
        return bad_data([CsvFault(None, str(path), message)], source)

    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            for row in reader:
                values = [value.strip() for value in row]
                if any(values):
                    rows.append((line, values))
                line = reader.line_num + 1
    except FileNotFoundError:
        raise fault("there is no such file") from None
    except OSError as error:
        raise fault(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise fault("is not UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise fault(f"is not CSV: {error}") from None
    if not rows:
        raise fault("is empty")
    return rows


def bad_data(faults: Sequence[CsvFault], source: str) -> IntegrationError:
    """All that is wrong as one error, in the order of the lines; many lines with the same fault share one."""
    ordered = sorted(faults, key=lambda fault: fault.line or 0)
    lines = "\n".join(
        f"  line{'s' * (len(places) > 1)} {listed(places)}, {what}" if places[0] else f"  {what}"
        for places, what in grouped(
            (str(fault.line or ""), f"{fault.column}: {fault.message}") for fault in ordered
        )
    )
    return IntegrationError.of(
        ErrorType.BAD_DATA, f"{counted(len(faults), 'fault')}, nothing was changed:\n{lines}", source=source
    )
