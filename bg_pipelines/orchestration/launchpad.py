"""A job's config: what the Launchpad shows of it before anything is typed, and what a value that cannot be is answered with."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import ValidationError

from bg_pipelines.orchestration.failures import as_failure, wrong_config


class RunConfig(dg.Config):
    """Config of a job. Types, unknown names and enums are refused by the Launchpad; Dagster looks at ranges only in the run,
    which then fails at once with the name of what is wrong."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            raise as_failure(
                wrong_config(".".join(map(str, wrong["loc"])), f"{wrong['input']!r}: {wrong['msg'].lower()}")
            ) from None


def shown(op: str, config: dg.Config) -> dict[str, Any]:
    """The `config` of a job whose op of this name takes it: what a run has that is given none."""
    return {"ops": {op: {"config": config.model_dump()}}}
