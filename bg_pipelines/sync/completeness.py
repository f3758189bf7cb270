"""A full pass as a whole: whether it was all, what it did not meet, and the proof that what it read is held.

Its own part of the cursor is `pass`; `gap` and `missing` outlive it:

    gap      how many rows the platform counts and does not list, as two full passes have shown
    missing  how many rows should be held by the next pass, where fewer are: those the platform's search does not
             show yet
    even     how many rows the source counted when as many as expected were held
    sought   how many rows a full pass is made for, which were counted and not held
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.load import unmet
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.records import PARTS, Part, Record, Resource
from bg_pipelines.sync import proof
from bg_pipelines.sync.prefetch import LOAD_ROWS
from bg_pipelines.sync.proof import Sum
from bg_pipelines.work.queue import clock

if TYPE_CHECKING:
    from bg_pipelines.sync.table_sync import ResourceSync

ASKED_ANYWAY = 1_000
"""Up to so many rows that a full pass did not meet are asked for by their ids, even where the source's count agrees."""
ASKED_TOGETHER = 100
EDGE = timedelta(minutes=10)
"""What changed later than so long before a pass is not summed up: the platform's search may still show what it was."""
PAUSE = timedelta(hours=1)
"""A large resource is not read whole more often because counts differ: what is gone can wait for so long."""


class PutBack(Exception):  # noqa: N818 (not an error: others wait)
    """The store has had its turn; what it has left waits for the next."""


class Whole:
    """A pass of a resource, seen as a whole. Its state is in the sync's cursor, so that it survives a crash."""

    def __init__(self, sync: ResourceSync) -> None:
        self.sync = sync
        self.resource = sync.resource
        self.table = sync.resource.value
        self.parts = PARTS.get(sync.resource, ())
        self.store_id = sync.work.store_id

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.sync.cursor["pass"]
        return state

    @property
    def listed_since(self) -> datetime | None:
        kept = self.state["listed_since"]
        return datetime.fromisoformat(kept) if kept else None

    @property
    def began_at(self) -> datetime:
        return datetime.fromisoformat(self.state["began_at"])

    @property
    def edge(self) -> datetime:
        return datetime.fromisoformat(self.state["vendor_began_at"]).replace(microsecond=0) - EDGE

    # What was read

    def add(self, table: str, rows: Sequence[Record] | Sequence[Part]) -> None:
        """Sum up rows that a full pass has read and that were not refused."""
        of = proof.of_records if table == self.table else proof.of_parts
        self.state["sums"][table] = list(Sum(*self.state["sums"][table]) + of(rows, self.edge))

    def take_back(self, connection: psycopg.Connection[Any], records: Sequence[Record]) -> None:
        """Before rows are loaded: of those that this pass has read before, in an older version, take that off."""
        ids = proof.fresh_ids(records, self.edge)
        if not ids:
            return
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT external_id FROM {self.table} WHERE store_id = %s AND external_id = ANY(%s) "  # noqa: S608
                "AND synced_at >= %s AND deleted_at IS NULL",
                (self.store_id, ids, self.began_at),
            )
            again = cursor.fetchall()
        if again:
            for table, summed in self._held(connection, again).items():
                self.state["sums"][table] = list(Sum(*self.state["sums"][table]) - summed)

    def _held(self, connection: psycopg.Connection[Any], only: Sequence[str] | None = None) -> dict[str, Sum]:
        since, edge = self.listed_since, self.edge
        met = self.began_at
        held = proof.held(
            connection, self.table, self.store_id, created_since=since, met_since=met, edge=edge, only=only
        )
        return {self.table: held} | {
            part: proof.held_parts(
                connection,
                part,
                self.store_id,
                self.table,
                created_since=since,
                met_since=met,
                edge=edge,
                only=only,
            )
            for part in self.parts
        }

    # What is gone

    def require(self, connection: psycopg.Connection[Any]) -> None:
        """Before anything is taken for gone: the pages must have held about what the source says it has.

        Where it does not say, they must have held something, unless the store has nothing to sell any more.
        Raises IntegrationError (count_mismatch).
        """
        expected, read = self._source_count(), self.state["read"]
        if expected is not None:
            expected -= max(0, self.sync.cursor.get("gap", 0))
            if read >= expected - max(5, expected // 100) and (read or expected <= 0):
                return
        elif read or not self._expects_rows(connection):
            return
        raise IntegrationError(
            f"the platform's pages held {read} {self.table}, and it has "
            f"{'some' if expected is None else expected}: nothing was marked deleted, everything is read again at the next try",
            error_type=ErrorType.COUNT_MISMATCH,
            severity="high",
            source=self.table,
            details={"source_count": expected, "read": read},
        )

    def _source_count(self) -> int | None:
        """How many rows the source has had all the while; what came meanwhile may not be listed yet."""
        counts = [self.state[name] for name in ("source_count", "last_count") if self.state[name] is not None]
        return min(counts, default=None)

    def _expects_rows(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether it would be odd if the source had no rows of this resource, which does not tell how many it has."""
        witness = (
            "product_variants" if self.resource is Resource.INVENTORY_LEVELS else self.table
        )  # a store without either sells nothing any more
        created = "AND source_created_at >= %(since)s" if self.listed_since else ""
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT EXISTS (SELECT FROM {self.table} WHERE store_id = %(store)s AND deleted_at IS NULL {created}) "  # noqa: S608
                f"AND EXISTS (SELECT FROM {witness} WHERE store_id = %(store)s AND deleted_at IS NULL)",
                {"store": self.store_id, "since": self.listed_since},
            )
            return bool(cursor.fetchone())

    def ask_for_unmet(self) -> None:
        """Ask by their ids for the rows that a full pass did not meet.

        Only what the source does not have any more is then marked deleted; a row that its list has left out is loaded.
        Many are not asked for where the list held all that the source counts: somebody has cleared out. Raises PutBack.
        """
        sync = self.sync
        with sync.database.transaction() as connection:
            self.require(connection)
            first = self._unmet(connection, "", ASKED_ANYWAY + 1)
        count = self._source_count()
        if len(first) > ASKED_ANYWAY and count is not None and self.state["read"] >= count:
            return
        ids = first[:ASKED_TOGETHER]
        while ids:
            sync.run_.check_stopped()
            if sync.store.turn_is_over():
                raise PutBack
            sync.keep([sync.platform.rows(self.resource, ids)])
            with sync.database.transaction() as connection:
                ids = self._unmet(connection, ids[-1], ASKED_TOGETHER)

    def _unmet(self, connection: psycopg.Connection[Any], after: str, limit: int) -> list[str]:
        return unmet(
            connection, self.table, self.store_id, self.began_at, self.listed_since, after=after, limit=limit
        )

    # The proof

    def prove(self, connection: psycopg.Connection[Any]) -> None:
        """Compare what this full pass read with what is held now, and keep the outcome.

        What did not change at the source since shortly before the pass must be the same, row by row and part by part;
        of the rest as many must be held as were read. Where rows were written by another way meanwhile (an edit of ours,
        a repair), as many may differ as there are of these. Raises IntegrationError (count_mismatch) where they do not:
        then nothing of the last pages is kept, and everything is read again at the next try.
        """
        held = self._held(connection)
        read = {name: Sum(*summed) for name, summed in self.state["sums"].items()}
        gone = self._gone_meanwhile(connection)
        otherwise = held[self.table].fresh - read[self.table].fresh + gone
        for name in held:
            missing = read[name] - held[name]
            same = missing[:2] == (0, 0)
            if name == self.table:
                fits = otherwise >= 0 and (same or 0 < missing.rows <= otherwise)
            else:
                # Of a row that was written another way, its newer parts are held, and its older ones are gone.
                most = max(0, -missing.fresh) + self._parts_gone(connection, name)
                fits = (same and missing.fresh <= 0) or (
                    max(otherwise, gone) > 0 and 0 <= missing.rows <= most
                )
            if fits:
                continue
            raise IntegrationError(
                f"after everything was read, {held[name].rows} {name} are held and {read[name].rows} were read, or they "
                "are not the same: nothing of the last pages was kept, everything is read again at the next try",
                error_type=ErrorType.COUNT_MISMATCH,
                severity="high",
                source=name,
                details={"held": held[name]._asdict(), "read": read[name]._asdict()},
            )
        self._keep_proof(connection, held, max(0, otherwise))

    def _keep_proof(
        self, connection: psycopg.Connection[Any], held: Mapping[str, Sum], otherwise: int
    ) -> None:
        rejected = connection.execute(
            "SELECT count(*) FROM rejected_rows WHERE store_id = %s AND resource = ANY(%s)",
            (self.store_id, list(held)),
        ).fetchone()
        kept = {
            "at": clock(connection).isoformat(),
            "source_count": self.state["source_count"],
            "rejected": rejected[0] if rejected else 0,
            "changed_meanwhile": otherwise,
            "tables": {
                name: {"rows": of.rows + of.fresh, "checksum": f"{of.checksum:x}"}
                for name, of in held.items()
            },
        }
        connection.execute(
            "UPDATE sync_states SET proof = %s WHERE store_id = %s AND resource = %s",
            (Jsonb(kept), self.store_id, self.table),
        )

    def _gone_meanwhile(self, connection: psycopg.Connection[Any]) -> int:
        """How many rows others than this pass have found gone (`mark_deleted`) since it began."""
        row = connection.execute(
            f"SELECT count(*) FROM {self.table} WHERE store_id = %s "  # noqa: S608 (an enum's value)
            "AND deleted_at >= %s AND deleted_at = synced_at",
            (self.store_id, self.began_at),
        ).fetchone()
        return (int(row[0]) if row else 0) - int(self.state["gone"])

    def _parts_gone(self, connection: psycopg.Connection[Any], part: str) -> int:
        row = connection.execute(
            f"SELECT count(*) FROM {part} WHERE store_id = %s AND deleted_at >= %s",  # noqa: S608 (one of PARTS)
            (self.store_id, self.began_at),
        ).fetchone()
        return int(row[0]) if row else 0

    # Counts

    def gap(self, connection: psycopg.Connection[Any]) -> bool:
        """Compare how many rows the source has with how many are held; returns whether a full pass is needed.

        Fewer there than here means that something was deleted. More there than here may be rows that its search
        does not show yet: if some are still not held at the next pass, all is read. What two full passes in a row do
        not find is `gap`, and expected from then on: a platform may count what it does not list.
        """
        state, cursor = self.state, self.sync.cursor
        if state["last_count"] is None:
            return False
        if not state["full"] and not state["moved"] and cursor.get("even") == state["last_count"]:
            return False  # nothing came or went on either side: not worth counting what may be millions
        cursor.pop("even", None)
        held = self.count_held(connection)
        known = cursor.get("gap", 0)
        waited_for = cursor.pop("missing", None)
        if state["full"]:
            # Where rows came or went while all was read, the difference that stands lies between these.
            counts = [self._source_count() or 0, max(state["source_count"] or 0, state["last_count"])]
            least, most = (count - held for count in counts)
            sought = cursor.pop("sought", 0)
            if least > known and waited_for is None:
                cursor["missing"] = held + least - known
                return False
            cursor["gap"] = min(most, max(known, least, sought))
            if cursor["gap"] > known:
                self.sync.run_.note_message(
                    f"{self.sync.store.name}: {cursor['gap']} {self.table} are counted by the platform and not listed, also "
                    "when everything was read once more; that is taken as it is"
                )
            return False
        there = state["last_count"] - known
        if there == held:
            cursor["even"] = state["last_count"]
            return False
        if there > held and (waited_for is None or held >= min(waited_for, there)):
            cursor["missing"] = there
            return False
        if there > held:
            cursor["missing"] = waited_for
            cursor["sought"] = state["last_count"] - held
        last = self.sync.work.last_full_at
        waits = held > LOAD_ROWS and last is not None and self.sync.work.claimed_at - last < PAUSE
        return not waits

    def count_held(self, connection: psycopg.Connection[Any]) -> int:
        """How many of the source's rows are accounted for: held, or kept as one that could not be loaded."""
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT (SELECT count(*) FROM {self.table} "  # noqa: S608 (an enum's value)
                "WHERE store_id = %(store)s AND deleted_at IS NULL) "
                "+ (SELECT count(*) FROM rejected_rows r WHERE store_id = %(store)s AND resource = %(resource)s "
                f"AND NOT EXISTS (SELECT FROM {self.table} t WHERE t.store_id = r.store_id "
                "AND t.external_id = r.external_id AND t.deleted_at IS NULL))",
                {"store": self.store_id, "resource": self.table},
            )
            return int(cursor.fetchone() or 0)
