"""What happened within one change of a shop or merchant, so that each row is told of once."""

from __future__ import annotations

from typing import Any

MAKING = frozenset({"connect", "create", "created"})
CHANGING = ("update", "updated")
ENDING = frozenset({"delete", "deleted", "disconnect"})


class Changes:
    """Rows by the topic that tells of them. A topic is a kind and an action, joined by `joint`: orders/create, order.created.

    A row that is made or ends within a change is not told to be updated as well.
    """

    def __init__(self, joint: str) -> None:
        self.joint = joint
        self._rows: dict[tuple[str, str], Any] = {}
        self._made: set[tuple[str, str]] = set()

    def note(self, topic: str, row_id: str, row: Any) -> None:
        kind, _, action = topic.rpartition(self.joint)
        if action in CHANGING and (kind, row_id) in self._made:
            return
        if action in MAKING:
            self._made.add((kind, row_id))
        if action in MAKING or action in ENDING:
            for update in CHANGING:
                self._rows.pop((f"{kind}{self.joint}{update}", row_id), None)
        self._rows[topic, row_id] = row

    def take(self) -> list[tuple[str, str, Any]]:
        """The topic, the row's id and the row of each, in the order in which they happened; then there are none."""
        if not self._rows:
            return []
        taken = [(topic, row_id, row) for (topic, row_id), row in self._rows.items()]
        self._rows.clear()
        self._made.clear()
        return taken
