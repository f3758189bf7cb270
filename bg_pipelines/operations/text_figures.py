"""Text messages by state: what waits, and what became of those of the last day."""

from __future__ import annotations

from typing import Any

from bg_pipelines.database.engine import Database

_STATES = (
    "pending", "queued", "sending", "sent", "delivered", "undelivered", "failed", "refused", "canceled",
)  # fmt: skip


def read_texts(database: Database) -> dict[str, int]:
    """Of each state how many: pending ones whenever they were made, the others of the last 24 hours. In their order, without
    those of which there is none. Raises IntegrationError (database)."""
    with database.transaction() as connection:
        held: dict[str, Any] = dict(
            connection.execute(
                "SELECT status, count(*) FROM text_messages WHERE created_at > clock_timestamp() - interval '1 day' "
                "AND status <> 'pending' GROUP BY status UNION ALL "
                "SELECT 'pending', count(*) FROM text_messages WHERE status = 'pending'"
            ).fetchall()
        )
    return {state: held[state] for state in _STATES if held.get(state)}
