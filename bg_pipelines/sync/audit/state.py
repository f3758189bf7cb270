"""The state of a store's audit, kept as JSON in its unit's cursor.

short     by table: since when the source has had more rows than are stored
audited   of the current audit, the tables that are done: a later attempt continues after them
alarming  whether any of these had drift
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditState:
    """See the module."""

    short: Mapping[str, datetime] = field(default_factory=dict)
    audited: tuple[str, ...] = ()
    alarming: bool = False

    @classmethod
    def parse(cls, kept: Mapping[str, Any]) -> AuditState:
        return cls(
            short={table: datetime.fromisoformat(since) for table, since in kept.get("short", {}).items()},
            audited=tuple(kept.get("audited", ())),
            alarming=kept.get("alarming", False),
        )

    def dump(self) -> dict[str, Any]:
        return {
            "short": {table: since.isoformat() for table, since in self.short.items()},
            "audited": list(self.audited),
            "alarming": self.alarming,
        }

    def behind(self, table: str, short_since: datetime | None, alarming: bool) -> AuditState:
        """The state behind one more table."""
        short = {other: since for other, since in self.short.items() if other != table}
        if short_since is not None:
            short[table] = short_since
        return AuditState(short, (*self.audited, table), self.alarming or alarming)

    def ended(self) -> AuditState:
        """The state once every table is done."""
        return AuditState(self.short)
