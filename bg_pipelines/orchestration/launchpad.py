"""What the Launchpad shows of a job before anything is typed: its config with all defaults, each documented by its field."""

from __future__ import annotations

from typing import Any

import dagster as dg


def shown(op: str, config: dg.Config) -> dict[str, Any]:
    """The `config` of a job whose op of this name takes it: what a run has that is given none."""
    return {"ops": {op: {"config": config.model_dump()}}}
