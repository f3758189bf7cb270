"""One store's claimed resources, one after the other, each settled by itself."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database import leases
from bg_pipelines.database.engine import is_conflict
from bg_pipelines.database.leases import Work
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.base import Platform, Resource
from bg_pipelines.queues import TIERS
from bg_pipelines.sync.resource import ResourceSync
from bg_pipelines.sync.summary import Failure

if TYPE_CHECKING:
    from bg_pipelines.sync.run import SyncRun

OUT_OF_REACH = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.THROTTLED,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.CONFIGURATION,
}
"""A store out of reach for one resource is so for the next; anything else is the one resource's own."""


class Stopped(Exception):  # noqa: N818 (not an error: the work was asked to stop)
    """The run is being stopped; what is unfinished is given back."""


class StoreSync:
    """The claimed resources of one store, one after the other, each settled by itself."""

    def __init__(self, run: SyncRun, works: Sequence[Work]) -> None:
        self.run_ = run
        self.database = run.database
        self.works = works
        self.store_id = works[0].store_id

    def run(self) -> None:
        row = self._row()
        self.name = row["name"]
        platform: Platform | None = None
        failure: Failure | None = None
        complete = True
        try:
            for work in self.works:
                self.run_.check_stopped()
                attempt = self._begin(work)
                if failure is not None and failure.error.error_type in OUT_OF_REACH:
                    self._settle_failed(work, attempt, failure)
                    continue
                try:
                    if platform is None:
                        platform = self._connect(row)
                    ResourceSync(self, platform, work, attempt).run()
                    self.run_.note_synced(Resource(work.resource))
                    continue
                except IntegrationError as error:
                    failure = Failure(self.name, [], error)
                except Stopped:
                    raise
                except Exception as error:  # noqa: BLE001 (one store's surprise must not stop the others)
                    failure = Failure(self.name, [], _unexpected(error))
                complete = False
                self._settle_failed(work, attempt, failure)
        finally:
            if platform is not None:
                platform.close()
        self.run_.note_store(complete)

    def _connect(self, row: dict[str, Any]) -> Platform:
        self.held = row["credentials"]
        credentials = self.run_.cipher.decrypt(self.held)
        access = StoreAccess(**{**row, "credentials": credentials}, save_credentials=self._save_credentials)
        return self.run_.connect(access, self.run_.sleep)

    def _row(self) -> dict[str, Any]:
        with self.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "SELECT name, platform, domain, api_url, credentials FROM stores WHERE id = %s",
                (self.store_id,),
            )
            row = cursor.fetchone()
        assert row is not None
        return row

    def _save_credentials(self, credentials: Any) -> None:
        renewed = self.run_.cipher.encrypt(credentials)
        with self.database.transaction() as connection:
            # Only over what was read: a person, or another run, may have given others meanwhile.
            kept = connection.execute(
                "UPDATE stores SET credentials = %s WHERE id = %s AND credentials = %s",
                (renewed, self.store_id, self.held),
            ).rowcount
        if kept:
            self.held = renewed

    def _begin(self, work: Work) -> int:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'abandoned', finished_at = clock_timestamp() "
                "WHERE store_id = %s AND resource = %s AND status = 'running'",
                (work.store_id, work.resource),
            )
            with connection.cursor(row_factory=scalar_row) as cursor:
                cursor.execute(
                    "INSERT INTO sync_attempts (run_id, store_id, resource) VALUES (%s, %s, %s) RETURNING id",
                    (self.run_.run_id, work.store_id, work.resource),
                )
                return int(cursor.fetchone() or 0)

    def _settle_failed(self, work: Work, attempt: int, failure: Failure) -> None:
        error = failure.error
        if error.error_type is ErrorType.DATABASE and not is_conflict(error):
            raise error  # nothing can be settled, for any store: the run itself cannot work
        self.run_.check_stopped()
        self.run_.note_failed(Resource(work.resource), failure)
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'failed', finished_at = clock_timestamp(), error = %s WHERE id = %s",
                (Jsonb(error.as_dict()), attempt),
            )
        if error.error_type is ErrorType.LEASE_LOST:
            return  # whoever has the row now settles it
        try:
            with self.database.transaction() as connection:
                due = leases.clock(connection) + TIERS[work.tier]
                leases.settle_failed(connection, work, error, next_due_at=due)
        except IntegrationError as lost:
            if lost.error_type is not ErrorType.LEASE_LOST:
                raise


def _unexpected(error: Exception) -> IntegrationError:
    """A bug, as an error of the store it showed up in; its text is left out: it may quote anybody's data."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
    place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return IntegrationError.of(
        ErrorType.UNKNOWN,
        f"unexpected {type(error).__name__} at {place}: please report it",
        source="bg-pipelines",
    )
