"""Drift audit: a sample of a store's rows is requested by id, compared field by field, repaired and reported.

Every full pass proves that what it read is what is stored (`sync/proof.py`). The audit is for what no pass would
notice: a row that another program changed here, one that a pass never listed, a field that was converted wrongly. Half
of a sample are rows that changed at the source recently, half are drawn from all stored rows.
"""

from __future__ import annotations

from datetime import timedelta

from psycopg.rows import dict_row

from bg_pipelines.queues import AUDIT_EVERY, next_turn
from bg_pipelines.records import Resource
from bg_pipelines.sync.audit.state import AuditState
from bg_pipelines.sync.audit.table_audit import TableAudit
from bg_pipelines.sync.context import Context
from bg_pipelines.sync.state import CursorState

LOOK_AGAIN = timedelta(hours=1)
"""How soon a store is audited again that had drift, or has nothing synced yet."""


class StoreAudit:
    """The audit of one store: each of its tables that was ever synced, one after the other."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.claim = context.claim
        self.state = AuditState.parse(context.claim.cursor)

    def run(self) -> None:
        """Raises IntegrationError, classified, where the platform or the database fails.

        The next attempt continues with the table that failed; attempts without progress count as repeated failures.
        """
        with self.context.database.transaction() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(
                "SELECT resource, cursor, last_succeeded_at FROM sync_states WHERE store_id = %s",
                (self.claim.store_id,),
            )
            states = {row["resource"]: row for row in cursor.fetchall()}
        synced = [r for r in Resource if states.get(r, {}).get("last_succeeded_at") is not None]
        for resource in synced:
            if resource in self.state.audited:
                continue
            self.context.check_stopped()
            row = states[resource]
            state = CursorState.parse(row["cursor"])
            self.state = TableAudit(self.context, resource, state, row["last_succeeded_at"], self.state).run()
        if not synced:
            self.context.say(f"{self.context.store_name}: not audited, nothing of it was ever synced")
        # Otherwise it is audited again soon: after its first syncs, or to see whether the drift is gone.
        is_well = synced and not self.state.alarming and not self.state.short
        every = AUDIT_EVERY if is_well else LOOK_AGAIN
        with self.context.database.transaction() as connection:
            self.context.complete(
                connection,
                self.state.ended().dump(),
                next_due_at=next_turn(self.claim.claimed_at, every, self.claim.store_id),
                full_pass_since=self.claim.claimed_at,
            )
