"""Completeness: whether a full pass has read everything, what it did not list, and the proof that it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.records import PARTS, Part, Record, Resource
from bg_pipelines.sync import confirmed, proof
from bg_pipelines.sync.deletions import not_listed
from bg_pipelines.sync.proof import NOTHING, Sum
from bg_pipelines.sync.state import PassState
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]


def count_held(connection: Connection, table: str, store_id: int) -> int:
    """How many of the source's rows are accounted for: stored, or rejected."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute(
            f"SELECT (SELECT count(*) FROM {table} "  # noqa: S608 (an enum's value)
            "WHERE store_id = %(store)s AND deleted_at IS NULL) "
            "+ (SELECT count(*) FROM rejected_rows r WHERE store_id = %(store)s AND resource = %(resource)s "
            f"AND NOT EXISTS (SELECT FROM {table} t WHERE t.store_id = r.store_id "
            "AND t.external_id = r.external_id AND t.deleted_at IS NULL))",
            {"store": store_id, "resource": table},
        )
        return int(cursor.fetchone() or 0)


class Completeness:
    """The full pass of one resource of one store, as a whole. `state` is how far it is; this changes none of it."""

    def __init__(self, resource: Resource, store_id: int, state: PassState) -> None:
        self.resource = resource
        self.table = resource.value
        self.parts = PARTS.get(resource, ())
        self.store_id = store_id
        self.state = state

    # What was read

    def summed(
        self, sums: Mapping[str, Sum], table: str, rows: Sequence[Record] | Sequence[Part]
    ) -> dict[str, Sum]:
        """The sums with those of rows that were read and not refused."""
        of = proof.of_records if table == self.table else proof.of_parts
        return {**sums, table: sums.get(table, NOTHING) + of(rows, self.state.cutoff)}

    def without_earlier_versions(
        self, connection: Connection, records: Sequence[Record]
    ) -> tuple[dict[str, Sum], set[str]]:
        """The sums without what this pass has read before of these rows, in an older version, and which these are.

        Before they are loaded.
        """
        ids = proof.volatile_ids(records, self.state.cutoff)
        again = self._met_before(connection, ids, "synced_at >= %s", self.state.began_at) if ids else []
        return self._without(connection, self.state.sums, again), set(again)

    def without_listed_twice(
        self, connection: Connection, sums: Mapping[str, Sum], ids: Sequence[str]
    ) -> dict[str, Sum]:
        """The sums without those of these rows that this pass has read before, and holds as it has read them.

        Its own commits tell them from what others have written since it began. After they are loaded, whether they could
        be or not.
        """
        own = self.state.commits
        again = self._met_before(connection, ids, "synced_at = ANY(%s)", list(own)) if ids and own else []
        return self._without(connection, sums, again)

    def _met_before(self, connection: Connection, ids: Sequence[str], written: str, value: Any) -> list[str]:
        """Which of these rows the pass has confirmed in an earlier transaction, or were `written` so."""
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT external_id FROM {self.table} t WHERE store_id = %s AND external_id = ANY(%s) "  # noqa: S608
                f"AND ({written} OR {confirmed.WAS_CONFIRMED.format('t', '%s')}) AND deleted_at IS NULL",
                (self.store_id, list(ids), value, self.table),
            )
            return cursor.fetchall()

    def _without(
        self, connection: Connection, sums: Mapping[str, Sum], again: Sequence[str]
    ) -> dict[str, Sum]:
        left = dict(sums)
        if again:
            for table, summed in self._held(connection, again).items():
                left[table] = left.get(table, NOTHING) - summed
        return left

    def _held(self, connection: Connection, only: Sequence[str] | None = None) -> dict[str, Sum]:
        created, began, cutoff = self.state.listed_since, self.state.began_at, self.state.cutoff
        held = proof.held(
            connection,
            self.table,
            self.store_id,
            created_since=created,
            listed_since=began,
            cutoff=cutoff,
            only=only,
            rejected_too=only is not None,
        )
        return {self.table: held} | {
            part: proof.held_parts(
                connection,
                part,
                self.store_id,
                self.table,
                created_since=created,
                listed_since=began,
                cutoff=cutoff,
                only=only,
                rejected_too=only is not None,
            )
            for part in self.parts
        }

    # What is gone

    def require(self, connection: Connection, unlisted: int) -> None:
        """Before anything is marked deleted: the pages must have held about as many rows as the source counts.

        `unlisted` rows are counted and never listed. Where the source does not say how many it has, the pages must have
        held something, unless the store has nothing to sell any more. And what they held must still be known. Raises
        IntegrationError (count_mismatch).
        """
        if not self.state.into_empty:  # all that is there was written since the pass began
            confirmed.require(connection, self.store_id, self.table, self.state.began_at)
        expected, read = self.state.least_count, self.state.read
        if expected is not None:
            expected -= max(0, unlisted)
            if read >= expected - max(5, expected // 100) and (read or expected <= 0):
                return
        elif read or not self._expects_rows(connection):
            return
        raise IntegrationError(
            f"the platform's pages held {read} {self.table}, and it has "
            f"{'some' if expected is None else expected}. Nothing was marked deleted; the next attempt reads everything again",
            error_type=ErrorType.COUNT_MISMATCH,
            severity="high",
            source=self.table,
            details={"source_count": expected, "read": read},
        )

    def _expects_rows(self, connection: Connection) -> bool:
        """Whether it would be odd if the source had no rows of this resource, where it does not tell how many it has."""
        # A store without either sells nothing any more.
        witness = "product_variants" if self.resource is Resource.INVENTORY_LEVELS else self.table
        created = "AND source_created_at >= %(since)s" if self.state.listed_since else ""
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(
                f"SELECT EXISTS (SELECT FROM {self.table} WHERE store_id = %(store)s AND deleted_at IS NULL {created}) "  # noqa: S608
                f"AND EXISTS (SELECT FROM {witness} WHERE store_id = %(store)s AND deleted_at IS NULL)",
                {"store": self.store_id, "since": self.state.listed_since},
            )
            return bool(cursor.fetchone())

    def not_listed(self, connection: Connection, after: str, limit: int) -> list[str]:
        """The ids behind `after`, up to `limit`, of rows that this pass did not list."""
        return not_listed(
            connection,
            self.table,
            self.store_id,
            self.state.began_at,
            self.state.listed_since,
            after=after,
            limit=limit,
        )

    # The proof

    def prove(self, connection: Connection) -> None:
        """Compare what this full pass read with what is stored now, and keep the outcome.

        Rows and parts that did not change at the source since the cutoff must be the same; of the volatile ones the
        number must match. As many may differ as were written another way meanwhile (an edit of ours, a repair).
        Otherwise raises IntegrationError (count_mismatch): the last pages are rolled back, and everything is read
        again at the next attempt.
        """
        held = self._held(connection)
        read = {name: self.state.sums.get(name, NOTHING) for name in held}
        gone = self._gone_meanwhile(connection)
        otherwise = held[self.table].volatile - read[self.table].volatile + gone
        for name in held:
            missing = read[name] - held[name]
            same = missing[:2] == (0, 0)
            if name == self.table:
                fits = otherwise >= 0 and (same or 0 < missing.rows <= otherwise)
            else:
                # Of a row that was written another way, its newer parts are held, and its older ones are gone.
                most = max(0, -missing.volatile) + self._parts_gone(connection, name)
                fits = (same and missing.volatile <= 0) or (
                    max(otherwise, gone) > 0 and 0 <= missing.rows <= most
                )
            if fits:
                continue
            raise IntegrationError(
                f"{read[name].rows} {name} were read and {held[name].rows} are held, or they are not the same. The last "
                "pages were not kept; the next attempt reads everything again",
                error_type=ErrorType.COUNT_MISMATCH,
                severity="high",
                source=name,
                details={"held": held[name]._asdict(), "read": read[name]._asdict()},
            )
        self._keep_proof(connection, held, max(0, otherwise))

    def _keep_proof(self, connection: Connection, held: Mapping[str, Sum], otherwise: int) -> None:
        rejected = connection.execute(
            "SELECT count(*) FROM rejected_rows WHERE store_id = %s AND resource = ANY(%s)",
            (self.store_id, list(held)),
        ).fetchone()
        kept = {
            "at": clock(connection).isoformat(),
            "source_count": self.state.source_count,
            "rejected": rejected[0] if rejected else 0,
            "changed_meanwhile": otherwise,
            "tables": {
                name: {"rows": of.rows + of.volatile, "checksum": f"{of.checksum:x}"}
                for name, of in held.items()
            },
        }
        connection.execute(
            "UPDATE sync_states SET proof = %s WHERE store_id = %s AND resource = %s",
            (Jsonb(kept), self.store_id, self.table),
        )

    def _gone_meanwhile(self, connection: Connection) -> int:
        """How many rows were marked deleted (`mark_deleted`) by others than this pass since it began."""
        row = connection.execute(
            f"SELECT count(*) FROM {self.table} WHERE store_id = %s "  # noqa: S608 (an enum's value)
            "AND deleted_at >= %s AND deleted_at = synced_at",
            (self.store_id, self.state.began_at),
        ).fetchone()
        return (int(row[0]) if row else 0) - self.state.gone

    def _parts_gone(self, connection: Connection, part: str) -> int:
        row = connection.execute(
            f"SELECT count(*) FROM {part} WHERE store_id = %s AND deleted_at >= %s",  # noqa: S608 (one of PARTS)
            (self.store_id, self.state.began_at),
        ).fetchone()
        return int(row[0]) if row else 0
