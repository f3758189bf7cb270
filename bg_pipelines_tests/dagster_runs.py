"""Running jobs in tests: a Dagster instance, its storage, and a job run to its end."""

from __future__ import annotations

from typing import Any

import dagster as dg

from bg_pipelines.definitions import defs


def execute(
    job: str, instance: dg.DagsterInstance | None = None, tier: str | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    """Run a job with this config; with a `tier` as a tick starts it, without as a person does."""
    definition = defs.resolve_job_def(job)
    op = next(iter(definition.graph.node_dict))
    loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
    return definition.execute_in_process(
        run_config={"ops": {op: {"config": config}}, "loggers": loggers},
        raise_on_error=False,
        instance=instance,
        tags={} if tier is None else {"tier": tier},
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the job's first op shows of its outcome."""
    event = next(e for e in result.all_node_events if e.event_type_value == "STEP_OUTPUT")
    return {key: value.value for key, value in event.step_output_data.metadata.items()}
