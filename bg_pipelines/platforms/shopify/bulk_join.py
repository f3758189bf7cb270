"""The lines of a bulk operation's file, joined: each row with what is nested in it, wherever in the file that stands.

Shopify writes rows and what is nested in them in any order (grouping is slower there, and likelier to fail), so nothing of
a row is known to be whole before the file has ended. The lines are kept in a private file of SQLite's until then, not in
memory; it is gone with the process, however that ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.shopify.bulk_file import Line, Node, parse
from bg_pipelines.platforms.shopify.failures import SOURCE

CACHE_KIB = 8 * 1024
KEPT_TOGETHER = 1_000
ORPHANS_SHOWN = 100
"""Rows that are missing although something of theirs is there: of more than so many the file is not the whole."""


class JoinedLines:
    """Lines of a file, and its rows with what is nested in each. Raises IntegrationError (configuration) where the disk has
    no room for them."""

    def __init__(self) -> None:
        # Without a name: SQLite removes the file as soon as it is open. One thread at a time has it.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (
            f"cache_size = -{CACHE_KIB}",
            "journal_mode = OFF",
            "synchronous = OFF",
            "temp_store = FILE",
        ):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, line BLOB)")
        self._db.execute("CREATE TABLE nested (parent TEXT, line BLOB)")
        self._db.execute("BEGIN")
        self.lines = 0
        self.rows = 0

    def close(self) -> None:
        self._db.close()

    def add(self, lines: Iterable[Line]) -> Iterator[int]:
        """Keep lines; tells now and then the byte behind the last one that is kept."""
        rows: list[tuple[object, bytes]] = []
        nested: list[tuple[object, bytes]] = []

        def keep() -> None:
            with _room():
                self._db.executemany("INSERT INTO rows (id, line) VALUES (?, ?)", rows)
                self._db.executemany("INSERT INTO nested VALUES (?, ?)", nested)
            self.lines += len(rows) + len(nested)
            self.rows += len(rows)
            rows.clear()
            nested.clear()

        for offset, text, node in lines:
            parent = node.get("__parentId")
            if parent is None:
                identity = node.get("id")
                rows.append((identity if type(identity) is str else None, text))
            else:
                nested.append((str(parent), text))
            if len(rows) + len(nested) >= KEPT_TOGETHER:
                keep()
                yield offset + len(text) + 1
        keep()

    def end(self) -> None:
        """All lines are there."""
        with _room():
            self._db.execute("CREATE INDEX of_parent ON nested (parent)")

    def rows_from(self, number: int) -> Iterator[Node]:
        """The rows behind the first `number` ones, in the order of the file, each with its lines as `nested`."""
        for identity, line in self._db.execute(
            "SELECT id, line FROM rows WHERE number > ? ORDER BY number", (number,)
        ):
            yield {**parse(line), "nested": self._of(identity)}

    def orphans(self) -> list[tuple[str, list[Node]]]:
        """Ids of rows that are not there although others say that they are nested in them; one more than are shown."""
        with _room():
            self._db.execute("CREATE INDEX of_row ON rows (id)")
            missing = self._db.execute(
                "SELECT DISTINCT parent FROM nested WHERE NOT EXISTS (SELECT 1 FROM rows WHERE id = parent) LIMIT ?",
                (ORPHANS_SHOWN + 1,),
            ).fetchall()
        return [(parent, self._of(parent)) for (parent,) in missing]

    def _of(self, parent: str | None) -> list[Node]:
        lines = self._db.execute("SELECT line FROM nested WHERE parent = ? ORDER BY rowid", (parent,))
        return [parse(line) for (line,) in lines]


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            "a bulk operation's file cannot be kept on the disk while it is read: make room in the folder for temporary "
            f"files (TMPDIR), as much again as the store's export has ({error.sqlite_errorname})",
            source=SOURCE,
        ) from None
